package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// chatRequest is a chat that GraphQL asks for: the body for the upstream, and
// what to remember of it.
type chatRequest struct {
	sessionID string
	body      map[string]any
	turns     []Message // to store before the reply
}

// chatRequest reads a ChatInput.
func (g *graphQL) chatRequest(ctx context.Context, args map[string]any) (*chatRequest, error) {
	input, _ := args["input"].(map[string]any)
	body, err := requestBody(input, "sessionId", "stream", "stream_options")
	if err != nil {
		return nil, err
	}
	req := &chatRequest{body: body}
	req.sessionID, _ = input["sessionId"].(string)
	sent, wire, err := g.messages(input["messages"])
	if err != nil {
		return nil, err
	}
	if input["messages"] != nil {
		body["messages"] = wire
	} else {
		delete(body, "messages")
	}
	if req.sessionID == "" {
		return req, nil
	}
	if !sessionID.MatchString(req.sessionID) {
		_, err := writeRefused(errSessionID)
		return nil, err
	}
	s, stored, err := g.chats.load(ctx, req.sessionID)
	if err != nil {
		return nil, err
	}
	if s.ID == "" && g.chats.strict {
		_, err := writeRefused(errSessionUnknown)
		return nil, err
	}
	if len(sent) > 0 {
		req.turns = newTurns(stored, sent)
		return req, nil
	}
	delete(body, "messages")
	if len(stored) > 0 { // the stored turns are the context
		context := make([]json.RawMessage, len(stored))
		for i, m := range stored {
			context[i] = m.Body
		}
		body["messages"] = context
	}
	return req, nil
}

// requestBody turns an input object into an upstream body. Every key that is
// present goes in, also as null; extra brings what the schema does not name.
func requestBody(input map[string]any, without ...string) (map[string]any, error) {
	body := maps.Clone(input)
	if body == nil {
		body = map[string]any{}
	}
	for _, key := range without {
		delete(body, key)
	}
	raw, ok := body["extra"]
	delete(body, "extra")
	if !ok || raw == nil {
		return body, nil
	}
	extra, ok := raw.(map[string]any)
	if !ok {
		return nil, badInput("extra", "extra must be an object")
	}
	for key, value := range extra {
		if isInputKey(strings.ToLower(key)) {
			return nil, badInput("extra", "extra must not hold "+key+", which the schema or this server decides")
		}
		body[key] = value
	}
	return body, nil
}

// isInputKey reports whether a key of extra would stand for something that is
// decided elsewhere: a field of the inputs, or a key that decides the route, in
// any case.
func isInputKey(key string) bool {
	switch key {
	case "sessionid", "extra", "model", "messages", "prompt", "action", "stream", "stream_options",
		"temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "seed", "stop",
		"presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "tools",
		"tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "verbosity",
		"service_tier", "store", "metadata", "prediction", "user", "safety_identifier",
		"size", "quality", "style", "background", "moderation", "output_format", "output_compression":
		return true
	}
	return false
}

// messageFrame is what the JSON of a message takes beside its text, if that is all.
const messageFrame = 40

// messages turns ChatMessageInputs into turns and their wire form.
func (g *graphQL) messages(list any) (turns []Message, wire []json.RawMessage, err error) {
	items, _ := list.([]any)
	wire = []json.RawMessage{}
	for _, item := range items {
		in, _ := item.(map[string]any)
		m := maps.Clone(in)
		parts, hasParts := m["parts"]
		delete(m, "parts")
		if hasParts && parts != nil {
			if m["content"] != nil {
				return nil, nil, badInput("messages", "a message has either content or parts")
			}
			m["content"] = parts
		}
		role, _ := m["role"].(string)
		content, _ := m["content"].(string)
		raw := json.RawMessage(jsonobj.Append(make([]byte, 0, len(content)+messageFrame), m))
		wire = append(wire, raw)
		turns = append(turns, Message{
			ID: "msg_" + g.digits() + "_" + role, Role: role, Content: content, Time: time.Now(), Body: raw,
		})
	}
	return turns, wire, nil
}

// open makes a call through the same path as REST.
func (g *graphQL) open(x *exchange, route Route, body map[string]any) (*reply, error) {
	size := min(max(0, x.r.ContentLength), firstRead) // as the request's is, if it is no large one
	o, err := x.parseBody(jsonobj.Append(make([]byte, 0, size), body))
	if err != nil {
		return nil, err
	}
	c, err := x.prepare(route, o, true)
	if err != nil {
		return nil, err
	}
	return c.do()
}

// ask makes a call and has its whole answer read.
func (g *graphQL) ask(x *exchange, route Route, body map[string]any, read func(c *call, answer []byte) error) error {
	rep, err := g.open(x, route, body)
	if err != nil {
		return err
	}
	defer rep.close()
	c := rep.call
	if err := rep.read(read); err != nil {
		c.failed(err)
		return err
	}
	c.out.Status, c.out.Ending = rep.status, EndingComplete
	return nil
}

func (rep *reply) read(read func(c *call, answer []byte) error) error {
	if rep.stream {
		return errBadResponse(errors.New("the upstream sent a stream that was not asked for"))
	}
	raw, err := rep.whole(nil)
	if err != nil {
		return err
	}
	if rep.call.h.cfg.accounts() {
		rep.call.out.Usage = bodyUsage(raw)
	}
	rep.call.wrote(len(raw))
	return read(rep.call, raw)
}

func (g *graphQL) getAIResponse(ctx context.Context, p gqldoc.Params) (any, error) {
	req, err := g.chatRequest(ctx, p.Args)
	if err != nil {
		return nil, err
	}
	var reply chatReply
	err = g.ask(exchangeOf(ctx), RouteChat, req.body, func(c *call, answer []byte) error {
		if reply, err = readReply(answer, "message"); err != nil || len(reply.Choices) == 0 {
			return answerFault(reply, err, c.key)
		}
		return nil
	})
	if err != nil {
		return nil, fieldFailed(err)
	}
	return g.finish(ctx, req, reply), nil
}

// answerFault is for an answer of status 200 that holds no answer.
func answerFault(reply chatReply, cause error, key string) *Error {
	if len(reply.Error) > 0 && !isNull(reply.Error) {
		said := parseErrorBody(redactJSON(encodeJSON(map[string]any{"error": reply.Error}), key))
		e := errBadResponse(errors.New("the upstream sent an error with status 200"))
		e.Message = said.message
		return e
	}
	if cause == nil {
		cause = errors.New("the upstream's answer has no choices")
	}
	return errBadResponse(cause)
}

// finish remembers a finished turn and shows it.
func (g *graphQL) finish(ctx context.Context, req *chatRequest, reply chatReply) map[string]any {
	m, shown := g.replyMessage(reply)
	fields := turnFields(req.sessionID, m, shown)
	if req.sessionID == "" {
		return fields
	}
	said := reply.Choices[0].Message
	m.Body = encodeJSON(replyMessage{Role: roleAssistant, Content: said.Content, Refusal: said.Refusal, ToolCalls: said.ToolCalls})
	m.Reply = encodeJSON(shown)
	if err := g.chats.append(ctx, req.sessionID, append(slices.Clip(req.turns), m)...); err != nil {
		// The answer is paid for and there; only the memory of it is missing.
		outcome, failure := writeRefused(err)
		if failure != nil {
			outcome = "The conversation could not be stored."
			exchangeOf(ctx).logFailure(asError(failure))
		}
		fields["error"] = outcome
	}
	return fields
}
