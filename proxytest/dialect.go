package proxytest

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
)

// A Dialect is a server that resembles OpenAI's, with the shapes in which its
// answers differ, as its documentation, its source or reports of its answers
// have them. What a server does not do differently, and any name not listed
// here, answers as the API itself.
type Dialect string

const (
	// Azure is Azure OpenAI. Streams begin with an event that has no choices
	// but prompt_filter_results, and every choice has content_filter_results.
	// Failure(400) is the refusal of the content filter, with innererror and a
	// null type; in others the code is the status as a text.
	Azure Dialect = "Azure"
	// Ollama repeats the role in every delta. Errors have the API's envelope, the
	// code always null (openai/openai.go of ollama).
	Ollama Dialect = "Ollama"
	// VLLM has whole numbers for the codes of errors, inside a stream too.
	VLLM Dialect = "vLLM"
	// LlamaCpp is the server of llama.cpp in builds of 2025 up to September: codes
	// are numbers, 503 says "Loading model" while it starts, streams tell the usage
	// beside the finish_reason, and an error inside a stream is a field "error:" of
	// its own, not data: readers of server-sent events do not see it (issues 15443
	// and 16104 of llama.cpp).
	LlamaCpp Dialect = "llama.cpp"
	// OpenRouter fills waiting with comments, ": OPENROUTER PROCESSING". Codes are
	// numbers, beside metadata; inside a stream the error stands beside choices
	// whose finish_reason is "error".
	OpenRouter Dialect = "OpenRouter"
	// DeepSeek fills waiting with blank lines before the JSON of a plain answer and
	// with comments, ": keep-alive", in streams.
	DeepSeek Dialect = "DeepSeek"
	// Mistral has {"object":"error","message":{"detail":[...]}} for 422, its answer
	// to parameters that it does not know; {"detail":"..."} for 401; else
	// {"message":"...","request_id":"..."}.
	Mistral Dialect = "Mistral"
	// Gemini is the compatible face of the Gemini API: errors are a list with one
	// element, in Google's form. It knows its parameters as strictly as Mistral.
	Gemini Dialect = "Gemini"
)

// Chat answers with a whole chat.completion, as the function [Chat] does.
func (d Dialect) Chat(content string) Answer {
	switch d {
	case Azure:
		return Answer{plan: func(req *Request) reply {
			return jsonReply(http.StatusOK, encode(filtered{
				completion: completion{chatHead: newChatHead(req, "chat.completion"), Usage: chatUsage()},
				Prompt:     json.RawMessage(azureFinding),
				Choices: []filteredChoice{{
					choice:  choice{Message: &message{Role: "assistant", Content: &content}, FinishReason: new("stop")},
					Results: json.RawMessage(azureVerdict),
				}},
			}))
		}}
	case DeepSeek:
		return Answer{plan: func(req *Request) reply {
			whole := Chat(content).plan(req)
			whole.steps = []Step{Text("\n"), Text("\n"), Text(whole.body)}
			whole.body, whole.stream = "", true
			return whole
		}}
	case OpenRouter:
		return Chat(content).WithHeader("X-Generation-Id", "gen-proxytest")
	}
	return Chat(content)
}

// ChatStream answers with a stream, as the function [ChatStream] does.
func (d Dialect) ChatStream(deltas ...string) Answer {
	return d.stream(func(req *Request) []Step { return append(d.deltas(req, deltas), d.stop(req)...) })
}

// StreamFailure answers with a stream that fails after its deltas, in the way in
// which the server says so. The transport stays whole, and [DONE] follows.
func (d Dialect) StreamFailure(message string, deltas ...string) Answer {
	return d.stream(func(req *Request) []Step {
		return append(d.deltas(req, deltas), d.failed(req, message), eventStep("", "[DONE]"))
	})
}

// Failure answers with an error status, in the server's shape.
func (d Dialect) Failure(status int, message string) Answer {
	return Answer{plan: func(req *Request) reply { return jsonReply(status, d.fault(req.id, status, message)) }}
}

// stream makes an answer of steps, behind what the server sends while it waits.
func (d Dialect) stream(steps func(*Request) []Step) Answer {
	a := Answer{plan: func(req *Request) reply { return streamReply(append(d.waiting(), steps(req)...)) }}
	if d == OpenRouter {
		a = a.WithHeader("X-Generation-Id", "gen-proxytest")
	}
	return a
}

// waiting is what comes before the first chunk.
func (d Dialect) waiting() []Step {
	switch d {
	case Azure:
		return []Step{eventStep("", encode(filtered{Prompt: json.RawMessage(azureFinding), Choices: []filteredChoice{}}))}
	case OpenRouter:
		return []Step{Text(": OPENROUTER PROCESSING\n\n"), Text(": OPENROUTER PROCESSING\n\n")}
	case DeepSeek:
		return []Step{Text(": keep-alive\n\n"), Text(": keep-alive\n\n")}
	}
	return nil
}

// deltas are the chunks with the role and the text.
func (d Dialect) deltas(req *Request, texts []string) []Step {
	if d == Azure {
		steps := []Step{filteredStep(req, &message{Role: "assistant", Content: new("")}, nil)}
		for _, text := range texts {
			steps = append(steps, filteredStep(req, &message{Content: &text}, nil))
		}
		return steps
	}
	c, role := newChunks(req), ""
	c.withUsage = c.withUsage && d != LlamaCpp
	if d == Ollama {
		role = "assistant"
	} else {
		c.add(&message{Role: "assistant", Content: new("")}, nil)
	}
	for _, text := range texts {
		c.add(&message{Role: role, Content: &text}, nil)
	}
	return c.steps
}

// stop ends a stream well.
func (d Dialect) stop(req *Request) []Step {
	c := newChunks(req)
	usual := c.end("stop")
	switch d {
	case Azure:
		usual[0] = filteredStep(req, &message{}, new("stop"))
	case LlamaCpp:
		last := completion{chatHead: c.head, Choices: []choice{{Delta: &message{}, FinishReason: new("stop")}}, Usage: chatUsage()}
		return []Step{eventStep("", encode(last)), eventStep("", "[DONE]")}
	}
	return usual
}

// failed tells inside a stream that it failed.
func (d Dialect) failed(req *Request, text string) Step {
	switch d {
	case VLLM:
		return eventStep("", d.fault(req.id, http.StatusInternalServerError, text))
	case LlamaCpp:
		return Text(`error: {"code":500,"message":` + encode(text) + `,"type":"server_error"}` + "\n\n")
	case OpenRouter:
		return eventStep("", encode(struct {
			completion
			Error json.RawMessage `json:"error"`
		}{
			completion{
				chatHead: newChatHead(req, "chat.completion.chunk"),
				Choices:  []choice{{Delta: &message{Content: new("")}, FinishReason: new("error")}},
			},
			json.RawMessage(`{"code":502,"message":` + encode(text) + `,"metadata":{"provider_name":"proxytest"}}`),
		}))
	}
	return eventStep("", envelope("server_error", "", text))
}

// fault is the body of an error. The shapes stand here as they are on the wire.
func (d Dialect) fault(id string, status int, message string) string {
	text, number := encode(message), strconv.Itoa(status)
	kind := func(other string, kinds map[int]string) string { return cmp.Or(kinds[status], other) }
	switch d {
	case Azure:
		if status == http.StatusBadRequest {
			return `{"error":{"message":` + text + `,"type":null,"param":"prompt","code":"content_filter","status":400,` +
				`"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":` + azureVerdict + `}}}`
		}
		return `{"error":{"code":"` + number + `","message":` + text + `}}`
	case Ollama:
		return envelope(kind("api_error", map[int]string{400: "invalid_request_error", 404: "not_found_error"}), "", message)
	case VLLM:
		return `{"error":{"message":` + text + `,"type":"` + kind("InternalServerError",
			map[int]string{400: "BadRequestError", 401: "Unauthorized", 404: "NotFoundError"}) + `","param":null,"code":` + number + `}}`
	case LlamaCpp:
		return `{"error":{"code":` + number + `,"message":` + text + `,"type":"` + kind("server_error", map[int]string{
			400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 503: "unavailable_error",
		}) + `"}}`
	case OpenRouter:
		return `{"error":{"message":` + text + `,"code":` + number + `,"metadata":{"provider_name":"proxytest"}},"user_id":"user_proxytest"}`
	case Mistral:
		switch status {
		case http.StatusUnauthorized:
			return `{"detail":` + text + `}`
		case http.StatusUnprocessableEntity:
			return `{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body"],"msg":` + text +
				`}]},"type":"invalid_request_error","param":null,"code":null}`
		}
		return `{"message":` + text + `,"request_id":"` + id + `"}`
	case Gemini:
		return `[{"error":{"code":` + number + `,"message":` + text + `,"status":"` + kind("UNKNOWN", map[int]string{
			400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
			429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
		}) + `"}}]` + "\n"
	}
	if status >= http.StatusInternalServerError {
		return envelope("server_error", "", message)
	}
	return envelope("invalid_request_error", "", message)
}

// filtered is a completion, or a chunk, with the findings of Azure's filter.
type filtered struct {
	completion
	Choices []filteredChoice `json:"choices"` // in place of those of the completion
	Prompt  json.RawMessage  `json:"prompt_filter_results,omitempty"`
}

type filteredChoice struct {
	choice
	Results json.RawMessage `json:"content_filter_results"`
}

const (
	azureVerdict = `{"hate":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}}`
	azureFinding = `[{"prompt_index":0,"content_filter_results":` + azureVerdict + `}]`
)

// filteredStep sends one chunk.
func filteredStep(req *Request, delta *message, finish *string) Step {
	c := newChunks(req)
	chunk := filtered{
		completion: completion{chatHead: c.head},
		Choices:    []filteredChoice{{choice{Delta: delta, FinishReason: finish}, json.RawMessage(azureVerdict)}},
	}
	if c.withUsage {
		chunk.Usage = json.RawMessage("null")
	}
	return eventStep("", encode(chunk))
}
