package proxy_test

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	openai "github.com/sashabaranov/go-openai"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// goOpenAI is the go-openai client, with the proxy in the place of OpenAI.
func goOpenAI(f *fixture) *openai.Client {
	config := openai.DefaultConfig("any text")
	config.BaseURL = f.URL + "/v1"
	config.HTTPClient = f.Client()
	return openai.NewClientWithConfig(config)
}

var sdkChat = openai.ChatCompletionRequest{
	Model:    openai.GPT4o,
	Messages: []openai.ChatCompletionMessage{{Role: openai.ChatMessageRoleUser, Content: "hello there"}},
}

func TestGoOpenAIClientGetsChatAndImages(t *testing.T) {
	t.Parallel()
	client := goOpenAI(start(t))
	chat, err := client.CreateChatCompletion(t.Context(), sdkChat)
	if err != nil || chat.Choices[0].Message.Content != "You said: hello there" || chat.Usage.TotalTokens != 21 {
		t.Errorf("chat: %+v, %v", chat, err)
	}
	image, err := client.CreateImage(t.Context(), openai.ImageRequest{Model: openai.CreateImageModelGptImage2, Prompt: "a cat"})
	if err != nil || len(image.Data) != 1 || image.Data[0].B64JSON == "" {
		t.Errorf("image: %+v, %v", image, err)
	}
}

func TestGoOpenAIClientReadsStreams(t *testing.T) {
	t.Parallel()
	f := start(t)
	text, err := sdkStream(t, goOpenAI(f))
	if text != "You said: hello there" || !errors.Is(err, io.EOF) {
		t.Errorf("%q, %v", text, err)
	}
	f.up.Queue(proxytest.Stream(
		proxytest.Text(`data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}`+"\n\n"), proxytest.Cut()))
	text, err = sdkStream(t, goOpenAI(f))
	failed, ok := errors.AsType[*openai.APIError](err)
	if text != "Hel" || !ok || failed.Code != "upstream_disconnected" {
		t.Errorf("a broken stream reads as %q, %v", text, err)
	}
}

// sdkStream reads a stream to its end and returns its text and its last error.
func sdkStream(t *testing.T, client *openai.Client) (text string, err error) {
	t.Helper()
	request := sdkChat
	request.Stream = true
	stream, err := client.CreateChatCompletionStream(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for {
		chunk, err := stream.Recv()
		if err != nil {
			return text, err
		}
		if len(chunk.Choices) > 0 {
			text += chunk.Choices[0].Delta.Content
		}
	}
}

func TestGoOpenAIClientUnderstandsErrors(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.RateLimited(time.Second))
	_, err := goOpenAI(f).CreateChatCompletion(t.Context(), sdkChat)
	failed, ok := errors.AsType[*openai.APIError](err)
	if !ok || failed.HTTPStatusCode != http.StatusTooManyRequests || failed.Code != "rate_limit_exceeded" {
		t.Errorf("the upstream's 429 is %#v", err)
	}
	f.up.Queue(proxytest.Raw("no HTTP at all"))
	_, err = goOpenAI(f).CreateChatCompletion(t.Context(), sdkChat)
	failed, ok = errors.AsType[*openai.APIError](err)
	if !ok || failed.HTTPStatusCode != http.StatusBadGateway || failed.Type != "upstream_error" {
		t.Errorf("a broken upstream is %#v", err)
	}
}
