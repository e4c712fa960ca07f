package proxytest_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// dialects are all of them, and a name that is none.
var dialects = []proxytest.Dialect{
	proxytest.Azure, proxytest.Ollama, proxytest.VLLM, proxytest.LlamaCpp, proxytest.OpenRouter,
	proxytest.DeepSeek, proxytest.Mistral, proxytest.Gemini, "another",
}

// deltaText joins the text of all chunks that have a choice, and returns the
// last reason to finish.
func deltaText(t *testing.T, events []proxytest.Event) (text, finish string) {
	t.Helper()
	for _, event := range events {
		if event.Data == "[DONE]" {
			continue
		}
		if choices, _ := value(t, event.Data, "choices").([]any); len(choices) == 0 {
			continue
		}
		piece, _ := value(t, event.Data, "choices", 0, "delta", "content").(string)
		text += piece
		if reason, ok := value(t, event.Data, "choices", 0, "finish_reason").(string); ok {
			finish = reason
		}
	}
	return text, finish
}

// What every client of the API reads is there in every dialect.
func TestDialectsKeepToTheAPI(t *testing.T) {
	for _, d := range dialects {
		t.Run(string(d), func(t *testing.T) {
			eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
				up := proxytest.NewUpstream(t, opts...)
				up.Queue(d.Chat("<hi>"))
				text := readAll(t, post(t, up, "/chat/completions", `{"model":"m"}`))
				if value(t, text, "choices", 0, "message", "content") != "<hi>" || value(t, text, "model") != "m" ||
					value(t, text, "usage", "total_tokens") != 21.0 || value(t, text, "choices", 0, "finish_reason") != "stop" {
					t.Error(text)
				}
				up.Queue(d.ChatStream("a", "b "))
				resp := post(t, up, "/chat/completions", ask(`,"stream":true`))
				events := readEvents(t, resp)
				got, finish := deltaText(t, events)
				if got != "ab " || finish != "stop" || events[len(events)-1].Data != "[DONE]" ||
					!strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
					t.Errorf("%q, finished by %q: %q", got, finish, events)
				}
				for _, status := range []int{400, 401, 404, 422, 429, 500, 503} {
					up.Queue(d.Failure(status, `say "no"`))
					resp := post(t, up, "/chat/completions", "{}")
					if text := readAll(t, resp); resp.StatusCode != status || !json.Valid([]byte(text)) || !strings.Contains(text, `say \"no\"`) {
						t.Errorf("status %d, want %d: %s", resp.StatusCode, status, text)
					}
				}
			})
		})
	}
}

// The shapes are those that the servers send.
func TestDialectFailures(t *testing.T) {
	const m = "text"
	for _, tc := range []struct {
		dialect proxytest.Dialect
		status  int
		want    string
	}{
		{proxytest.Azure, 401, `{"error":{"code":"401","message":"text"}}`},
		{proxytest.Ollama, 404, `{"error":{"message":"text","type":"not_found_error","param":null,"code":null}}`},
		{proxytest.Ollama, 500, `{"error":{"message":"text","type":"api_error","param":null,"code":null}}`},
		{proxytest.VLLM, 404, `{"error":{"message":"text","type":"NotFoundError","param":null,"code":404}}`},
		{proxytest.LlamaCpp, 503, `{"error":{"code":503,"message":"text","type":"unavailable_error"}}`},
		{proxytest.OpenRouter, 402, `{"error":{"message":"text","code":402,"metadata":{"provider_name":"proxytest"}},"user_id":"user_proxytest"}`},
		{proxytest.DeepSeek, 402, `{"error":{"message":"text","type":"invalid_request_error","param":null,"code":null}}`},
		{proxytest.DeepSeek, 503, `{"error":{"message":"text","type":"server_error","param":null,"code":null}}`},
		{proxytest.Mistral, 401, `{"detail":"text"}`},
		{proxytest.Mistral, 422, `{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body"],"msg":"text"}]},"type":"invalid_request_error","param":null,"code":null}`},
		{proxytest.Mistral, 429, `{"message":"text","request_id":"00000000000000000000000000000001"}`},
		{proxytest.Gemini, 400, `[{"error":{"code":400,"message":"text","status":"INVALID_ARGUMENT"}}]` + "\n"},
		{proxytest.Gemini, 418, `[{"error":{"code":418,"message":"text","status":"UNKNOWN"}}]` + "\n"},
	} {
		up := proxytest.NewUpstream(t)
		up.Queue(tc.dialect.Failure(tc.status, m))
		if got := readAll(t, post(t, up, "/x", "{}")); got != tc.want {
			t.Errorf("%s, %d: %s\nwant %s", tc.dialect, tc.status, got, tc.want)
		}
	}
	up := proxytest.NewUpstream(t)
	up.Queue(proxytest.Azure.Failure(400, m))
	got := readAll(t, post(t, up, "/x", "{}"))
	if value(t, got, "error", "code") != "content_filter" || value(t, got, "error", "type") != nil ||
		value(t, got, "error", "innererror", "content_filter_result", "hate", "filtered") != false {
		t.Error(got)
	}
}

// What a reader of streams stumbles over, in the bytes themselves.
func TestDialectStreams(t *testing.T) {
	stream := func(answer proxytest.Answer) (*http.Response, string) {
		up := proxytest.NewUpstream(t)
		up.Queue(answer)
		resp := post(t, up, "/x", ask(`,"stream":true,"stream_options":{"include_usage":true}`))
		return resp, readAll(t, resp)
	}
	_, azure := stream(proxytest.Azure.ChatStream("a"))
	events, _ := proxytest.ReadEvents(strings.NewReader(azure))
	if !strings.Contains(events[0].Data, `"choices":[]`) || value(t, events[0].Data, "prompt_filter_results", 0, "prompt_index") != 0.0 ||
		value(t, events[2].Data, "choices", 0, "content_filter_results", "hate", "severity") != "safe" ||
		!strings.Contains(events[2].Data, `"usage":null`) || value(t, events[len(events)-2].Data, "usage", "total_tokens") != 21.0 {
		t.Error(azure)
	}
	_, ollama := stream(proxytest.Ollama.ChatStream("a", "b"))
	if strings.Count(ollama, `"delta":{"role":"assistant"`) != 2 {
		t.Error(ollama)
	}
	_, llama := stream(proxytest.LlamaCpp.ChatStream("a"))
	events, _ = proxytest.ReadEvents(strings.NewReader(llama))
	last := events[len(events)-2].Data
	if value(t, last, "choices", 0, "finish_reason") != "stop" || value(t, last, "usage", "total_tokens") != 21.0 || strings.Contains(llama, `"usage":null`) {
		t.Error(llama)
	}
	resp, router := stream(proxytest.OpenRouter.ChatStream("a"))
	if !strings.HasPrefix(router, ": OPENROUTER PROCESSING\n\n") || resp.Header.Get("X-Generation-Id") == "" {
		t.Error(router)
	}
	if _, deepSeek := stream(proxytest.DeepSeek.ChatStream("a")); !strings.HasPrefix(deepSeek, ": keep-alive\n\n") {
		t.Error(deepSeek)
	}
	if _, body := stream(proxytest.DeepSeek.Chat("a")); !strings.HasPrefix(body, "\n\n{") {
		t.Error(body)
	}
}

func TestDialectStreamFailures(t *testing.T) {
	for d, want := range map[proxytest.Dialect]string{
		proxytest.VLLM:     "data: " + `{"error":{"message":"text","type":"InternalServerError","param":null,"code":500}}` + "\n\ndata: [DONE]\n\n",
		proxytest.LlamaCpp: "error: " + `{"code":500,"message":"text","type":"server_error"}` + "\n\ndata: [DONE]\n\n",
		proxytest.OpenRouter: `"choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"error"}],` +
			`"error":{"code":502,"message":"text","metadata":{"provider_name":"proxytest"}}}` + "\n\ndata: [DONE]\n\n",
		"another": "data: " + `{"error":{"message":"text","type":"server_error","param":null,"code":null}}` + "\n\ndata: [DONE]\n\n",
	} {
		up := proxytest.NewUpstream(t)
		up.Queue(d.StreamFailure("text", "a", "b"))
		got := readAll(t, post(t, up, "/x", ask(`,"stream":true`)))
		if !strings.HasSuffix(got, want) || !strings.Contains(got, `"content":"b"`) {
			t.Errorf("%s: %s\nwant at its end %s", d, got, want)
		}
	}
}
