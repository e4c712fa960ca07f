// Command go runs the Go SDKs against UPSTREAM_URL and against PROXY_URL, and
// compares what they see.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	goopenai "github.com/sashabaranov/go-openai"
)

// outcome is what a program sees of a case, as JSON would say it.
type outcome map[string]any

type testCase struct {
	name string
	run  func(ctx context.Context, root string) outcome
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	straight, through := os.Getenv("UPSTREAM_URL")+"/v1", os.Getenv("PROXY_URL")+"/v1"
	var equal, meant int
	all := append(official(), community()...)
	for _, c := range all {
		a, b := c.run(ctx, straight), c.run(ctx, through)
		if strings.HasSuffix(c.name, "401") || strings.HasSuffix(c.name, "cut") {
			meant++ // the server's key is the server's fault; a cut shows as an error
			if b["status"] == 502 || b["code"] == "upstream_disconnected" {
				equal++
				continue
			}
		}
		if reflect.DeepEqual(a, b) {
			equal++
			continue
		}
		fmt.Printf("%s:\n  straight: %s\n  proxy:    %s\n", c.name, text(a), text(b))
	}
	fmt.Printf("Go: %d cases; straight %d, through the proxy %d; %d as they should be, %d of them different on purpose\n",
		len(all), len(all), len(all), equal, meant)
	if equal != len(all) {
		os.Exit(1)
	}
}

func text(o outcome) string {
	raw, _ := json.Marshal(o)
	return string(raw[:min(len(raw), 1500)])
}

// official are the cases of OpenAI's own SDK.
func official() []testCase {
	client := func(root string) openai.Client {
		return openai.NewClient(option.WithBaseURL(root), option.WithAPIKey("sk-of-the-page"), option.WithMaxRetries(0))
	}
	ask := func(content string) openai.ChatCompletionNewParams {
		return openai.ChatCompletionNewParams{Model: "gpt-4o-mini", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(content)}}
	}
	failure := func(err error) outcome {
		var e *openai.Error
		if errors.As(err, &e) {
			return outcome{"status": e.StatusCode, "code": e.Code, "type": e.Type, "param": e.Param, "message": e.Message}
		}
		code := ""
		if err != nil && strings.Contains(err.Error(), "upstream_disconnected") {
			code = "upstream_disconnected"
		}
		return outcome{"error": fmt.Sprint(err), "code": code}
	}
	chat := func(prompt string) func(context.Context, string) outcome {
		return func(ctx context.Context, root string) outcome {
			c := client(root)
			answer, err := c.Chat.Completions.New(ctx, ask(prompt))
			if err != nil {
				return failure(err)
			}
			choice := answer.Choices[0]
			return outcome{"text": choice.Message.Content, "finish": choice.FinishReason, "usage": answer.Usage.TotalTokens, "model": answer.Model}
		}
	}
	stream := func(prompt string) func(context.Context, string) outcome {
		return func(ctx context.Context, root string) outcome {
			c := client(root)
			s := c.Chat.Completions.NewStreaming(ctx, ask(prompt))
			defer s.Close()
			var pieces []string
			for s.Next() {
				if chunk := s.Current(); len(chunk.Choices) > 0 {
					pieces = append(pieces, chunk.Choices[0].Delta.Content)
				}
			}
			if err := s.Err(); err != nil {
				o := failure(err)
				o["pieces"] = pieces
				return o
			}
			return outcome{"pieces": pieces}
		}
	}
	image := func(ctx context.Context, root string) outcome {
		c := client(root)
		answer, err := c.Images.Generate(ctx, openai.ImageGenerateParams{Model: "gpt-image-1", Prompt: "a hut"})
		if err != nil {
			return failure(err)
		}
		return outcome{"bytes": len(answer.Data[0].B64JSON)}
	}
	edit := func(ctx context.Context, root string) outcome {
		c := client(root)
		file := openai.File(bytes.NewReader(make([]byte, 70_000)), "in.png", "image/png")
		answer, err := c.Images.Edit(ctx, openai.ImageEditParams{Model: "gpt-image-1", Prompt: "a hut", Image: openai.ImageEditParamsImageUnion{OfFile: file}})
		if err != nil {
			return failure(err)
		}
		return outcome{"images": len(answer.Data)}
	}
	cases := []testCase{
		{"openai-go: chat", chat("hello")},
		{"openai-go: stream", stream("hello")},
		{"openai-go: long stream", stream("long")},
		{"openai-go: stream that is cut", stream("cut")},
		{"openai-go: image", image},
		{"openai-go: edit", edit},
	}
	for _, status := range []string{"400", "401", "404", "422", "429", "500", "503"} {
		cases = append(cases, testCase{"openai-go: " + status, chat("fail " + status)}, testCase{"openai-go: stream, " + status, stream("fail " + status)})
	}
	return cases
}

// community are the cases of go-openai.
func community() []testCase {
	client := func(root string) *goopenai.Client {
		config := goopenai.DefaultConfig("sk-of-the-page")
		config.BaseURL = root
		return goopenai.NewClientWithConfig(config)
	}
	ask := func(content string) goopenai.ChatCompletionRequest {
		return goopenai.ChatCompletionRequest{Model: "gpt-4o-mini", Messages: []goopenai.ChatCompletionMessage{{Role: "user", Content: content}}}
	}
	failure := func(err error) outcome {
		var e *goopenai.APIError
		if errors.As(err, &e) {
			return outcome{"status": e.HTTPStatusCode, "code": e.Code, "type": e.Type, "message": e.Message}
		}
		return outcome{"error": err.Error()}
	}
	chat := func(prompt string) func(context.Context, string) outcome {
		return func(ctx context.Context, root string) outcome {
			answer, err := client(root).CreateChatCompletion(ctx, ask(prompt))
			if err != nil {
				return failure(err)
			}
			return outcome{"text": answer.Choices[0].Message.Content, "usage": answer.Usage.TotalTokens}
		}
	}
	stream := func(prompt string) func(context.Context, string) outcome {
		return func(ctx context.Context, root string) outcome {
			s, err := client(root).CreateChatCompletionStream(ctx, ask(prompt))
			if err != nil {
				return failure(err)
			}
			defer s.Close()
			var pieces []string
			for {
				chunk, err := s.Recv()
				if errors.Is(err, io.EOF) {
					return outcome{"pieces": pieces}
				}
				if err != nil {
					o := failure(err)
					o["pieces"] = pieces
					return o
				}
				if len(chunk.Choices) > 0 {
					pieces = append(pieces, chunk.Choices[0].Delta.Content)
				}
			}
		}
	}
	image := func(ctx context.Context, root string) outcome {
		answer, err := client(root).CreateImage(ctx, goopenai.ImageRequest{Model: "dall-e-3", Prompt: "a link", ResponseFormat: "url"})
		if err != nil {
			return failure(err)
		}
		return outcome{"url": answer.Data[0].URL, "revised": answer.Data[0].RevisedPrompt}
	}
	cases := []testCase{
		{"go-openai: chat", chat("hello")},
		{"go-openai: stream", stream("hello")},
		{"go-openai: long stream", stream("long")},
		{"go-openai: stream that is cut", stream("cut")},
		{"go-openai: image", image},
	}
	for _, status := range []string{"400", "401", "404", "422", "429", "500", "503"} {
		cases = append(cases, testCase{"go-openai: " + status, chat("fail " + status)}, testCase{"go-openai: stream, " + status, stream("fail " + status)})
	}
	return cases
}
