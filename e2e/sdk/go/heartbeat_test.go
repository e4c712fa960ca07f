package main

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// The official SDK reads over twenty heartbeats between two events, and over as many
// in front of the end, as if there were none.
func TestF8OpenAIGoReadsOverHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := proxytest.NewUpstream(t, proxytest.InMemory())
		pause := proxytest.Pause(20500 * time.Millisecond)
		up.Queue(proxytest.Stream(
			proxytest.Text(`data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}`+"\n\n"), pause,
			proxytest.Text(`data: {"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}`+"\n\n"), pause,
			proxytest.Text("data: [DONE]\n\n")))
		h, err := proxy.NewHandler(proxy.WithKey("sk-e2e"), proxy.WithUpstream(up.URL()), proxy.WithTransport(up.Transport()),
			proxy.WithHeartbeat(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		beats := 0
		counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(&beatCounter{w, &beats}, r) })
		srv := proxytest.Serve(t, counted, proxytest.InMemory())
		client := openai.NewClient(option.WithBaseURL(srv.URL+"/v1"), option.WithAPIKey("sk-of-the-page"),
			option.WithHTTPClient(srv.Client()), option.WithMaxRetries(0))
		stream := client.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{
			Model: "gpt-4o-mini", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hello")},
		})
		defer stream.Close()
		said := ""
		for stream.Next() {
			if chunk := stream.Current(); len(chunk.Choices) > 0 {
				said += chunk.Choices[0].Delta.Content
			}
		}
		if err := stream.Err(); err != nil || said != "Hello" {
			t.Errorf("the client read %q, %v, want Hello", said, err)
		}
		srv.Close()
		if beats != 40 {
			t.Errorf("%d heartbeats, want 40", beats)
		}
	})
}

// beatCounter counts the heartbeats that are written.
type beatCounter struct {
	http.ResponseWriter
	beats *int
}

func (w *beatCounter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *beatCounter) Write(p []byte) (int, error) {
	if string(p) == ":\n" {
		*w.beats++
	}
	return w.ResponseWriter.Write(p)
}
