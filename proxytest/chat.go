package proxytest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"
)

// Chat answers with a whole chat.completion: one choice with this content, the
// model of the request, usage.
func Chat(content string) Answer {
	return Answer{plan: func(req *Request) reply {
		return jsonReply(http.StatusOK, encode(completion{
			chatHead: newChatHead(req, "chat.completion"),
			Choices: []choice{{
				Message:      &message{Role: "assistant", Content: &content},
				FinishReason: new("stop"),
			}},
			Usage: chatUsage(),
		}))
	}}
}

// ChatStream answers with chat.completion.chunk events: the role, one event per
// delta, finish_reason "stop", [DONE]. When the request asks for
// stream_options.include_usage, an event with usage and no choices comes before
// [DONE] and the others say "usage":null.
func ChatStream(deltas ...string) Answer {
	return Answer{plan: func(req *Request) reply {
		return streamReply(chatSteps(req, 0, deltas))
	}}
}

// ToolCallStream answers with a stream in which the assistant calls one
// function: its name first, then its arguments piece by piece, finish_reason
// "tool_calls", [DONE]; usage as in [ChatStream].
func ToolCallStream(name string, argumentPieces ...string) Answer {
	return Answer{plan: func(req *Request) reply {
		c := newChunks(req)
		c.add(&message{Role: "assistant", ToolCalls: []toolCall{{
			ID: "call_" + req.id, Type: "function", Function: toolFunction{Name: name},
		}}}, nil)
		for _, piece := range argumentPieces {
			c.add(&message{ToolCalls: []toolCall{{Function: toolFunction{Arguments: piece}}}}, nil)
		}
		return streamReply(c.end("tool_calls"))
	}}
}

// chatSteps returns the steps of a ChatStream, with a pause before each delta.
func chatSteps(req *Request, pace time.Duration, deltas []string) []Step {
	c := newChunks(req)
	c.add(&message{Role: "assistant", Content: new("")}, nil)
	for _, delta := range deltas {
		if pace > 0 {
			c.steps = append(c.steps, Pause(pace))
		}
		c.add(&message{Content: &delta}, nil)
	}
	return c.end("stop")
}

// chunks builds the events of one stream.
type chunks struct {
	head      chatHead
	withUsage bool
	steps     []Step
}

func newChunks(req *Request) *chunks {
	var asked chatRequest
	_ = json.Unmarshal(req.Body, &asked) // a scripted stream answers anything
	return &chunks{
		head:      newChatHead(req, "chat.completion.chunk"),
		withUsage: asked.StreamOptions.IncludeUsage,
	}
}

func (c *chunks) add(delta *message, finish *string) {
	chunk := completion{chatHead: c.head, Choices: []choice{{Delta: delta, FinishReason: finish}}}
	if c.withUsage {
		chunk.Usage = json.RawMessage("null")
	}
	c.steps = append(c.steps, eventStep("", encode(chunk)))
}

func (c *chunks) end(reason string) []Step {
	c.add(&message{}, &reason)
	if c.withUsage {
		last := completion{chatHead: c.head, Choices: []choice{}, Usage: chatUsage()}
		c.steps = append(c.steps, eventStep("", encode(last)))
	}
	return append(c.steps, eventStep("", "[DONE]"))
}

// eventStep sends one event, named unless the name is empty.
func eventStep(name, data string) Step {
	if name != "" {
		name = "event: " + name + "\n"
	}
	return Text(name + "data: " + data + "\n\n")
}

// chatRequest is what answers look at in a chat request.
type chatRequest struct {
	Model    string `json:"model"`
	Messages []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	} `json:"messages"`
	Stream        bool `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// chatHead begins a completion and every chunk of a stream.
type chatHead struct {
	ID                string `json:"id"`
	Object            string `json:"object"`
	Created           int64  `json:"created"`
	Model             string `json:"model"`
	ServiceTier       string `json:"service_tier"`
	SystemFingerprint string `json:"system_fingerprint"`
}

func newChatHead(req *Request, object string) chatHead {
	var asked struct{ Model string }
	_ = json.Unmarshal(req.Body, &asked) // a scripted answer answers anything
	if asked.Model == "" {
		asked.Model = "gpt-proxytest"
	}
	return chatHead{
		ID: "chatcmpl-" + req.id, Object: object, Created: time.Now().Unix(), Model: asked.Model,
		ServiceTier: "default", SystemFingerprint: "fp_proxytest",
	}
}

// completion is a chat.completion or a chat.completion.chunk.
type completion struct {
	chatHead
	Choices []choice        `json:"choices"`
	Usage   json.RawMessage `json:"usage,omitempty"`
}

type choice struct {
	Index        int      `json:"index"`
	Message      *message `json:"message,omitempty"`
	Delta        *message `json:"delta,omitempty"`
	Logprobs     *string  `json:"logprobs"`
	FinishReason *string  `json:"finish_reason"`
}

type message struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type toolCall struct {
	Index    int          `json:"index"`
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"`
	Function toolFunction `json:"function"`
}

type toolFunction struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

func chatUsage() json.RawMessage {
	return json.RawMessage(`{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,` +
		`"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},` +
		`"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,` +
		`"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`)
}

// envelope is the error body of the API.
func envelope(typ, code, message string) string {
	var fault struct {
		Error struct {
			Message string  `json:"message"`
			Type    string  `json:"type"`
			Param   *string `json:"param"`
			Code    *string `json:"code"`
		} `json:"error"`
	}
	fault.Error.Message, fault.Error.Type = message, typ
	if code != "" {
		fault.Error.Code = &code
	}
	return encode(fault)
}

// encode is json.Marshal without escapes for HTML.
func encode(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "{}" // not reached: every type encoded here is plain data
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}
