package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
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
		raw := json.RawMessage(bytes.TrimSpace(encodeJSON(m)))
		turn := g.textMessage(role, "")
		turn.Content, turn.Body = content, raw
		turns, wire = append(turns, turn), append(wire, raw)
	}
	return turns, wire, nil
}

// open makes a call through the same path as REST.
func (g *graphQL) open(x *exchange, route Route, body map[string]any) (*reply, error) {
	o, err := g.h.parseBody(encodeJSON(body))
	if err != nil {
		return nil, err
	}
	c, p, err := x.prepare(route, o, true)
	if err != nil {
		return nil, err
	}
	return g.h.do(x, c, p)
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
	raw, err := rep.whole()
	if err != nil {
		return err
	}
	if rep.call.h.cfg.hooks.Done != nil {
		rep.call.out.Usage = bodyUsage(raw)
	}
	rep.call.wrote(len(raw))
	return read(rep.call, raw)
}

// chatReply is what is read of a chat completion, or of a chunk of one.
type chatReply struct {
	ID          string          `json:"id"`
	Model       string          `json:"model"`
	Fingerprint string          `json:"system_fingerprint"`
	Choices     []replyChoice   `json:"choices"`
	Usage       json.RawMessage `json:"usage"`
	Error       json.RawMessage `json:"error"`
}

type replyChoice struct {
	Index        int             `json:"index"`
	Message      replyMessage    `json:"message"`
	Delta        replyMessage    `json:"delta"`
	FinishReason string          `json:"finish_reason"`
	Logprobs     json.RawMessage `json:"logprobs"`
}

type replyMessage struct {
	Role             string     `json:"role,omitempty"`
	Content          *string    `json:"content"`
	Refusal          *string    `json:"refusal,omitempty"`
	Reasoning        *string    `json:"reasoning,omitempty"`
	ReasoningContent *string    `json:"reasoning_content,omitempty"`
	ToolCalls        []toolCall `json:"tool_calls,omitempty"`
}

// toolCall is a call of a function or of a custom tool, whole or as a delta.
// (go-openai's drops empty arguments and custom tools.)
type toolCall struct {
	Index    *int          `json:"index,omitempty"`
	ID       string        `json:"id,omitempty"`
	Type     string        `json:"type,omitempty"`
	Function *toolFunction `json:"function,omitempty"`
	Custom   *toolCustom   `json:"custom,omitempty"`
}

type toolFunction struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

type toolCustom struct {
	Name  string `json:"name,omitempty"`
	Input string `json:"input"`
}

func (g *graphQL) getAIResponse(ctx context.Context, p gqldoc.Params) (any, error) {
	req, err := g.chatRequest(ctx, p.Args)
	if err != nil {
		return nil, err
	}
	var reply chatReply
	err = g.ask(exchangeOf(ctx), RouteChat, req.body, func(c *call, answer []byte) error {
		if err := json.Unmarshal(answer, &reply); err != nil || len(reply.Choices) == 0 {
			return answerFault(reply, err, c.key)
		}
		return nil
	})
	if err != nil {
		return nil, fieldFailed(err)
	}
	return g.finish(ctx, req, reply)
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
func (g *graphQL) finish(ctx context.Context, req *chatRequest, reply chatReply) (_ map[string]any, err error) {
	m, shown := g.replyMessage(reply)
	fields := turnFields(req.sessionID, m, shown)
	if req.sessionID == "" {
		return fields, nil
	}
	if m.Reply, err = json.Marshal(shown); err != nil {
		return nil, err
	}
	if err := g.chats.append(ctx, req.sessionID, append(slices.Clip(req.turns), m)...); err != nil {
		// The answer is paid for and there; only the memory of it is missing.
		outcome, failure := writeRefused(err)
		if failure != nil {
			outcome = "The conversation could not be stored."
			exchangeOf(ctx).logFailure(asError(failure))
		}
		fields["error"] = outcome
	}
	return fields, nil
}

// storedReply is what a turn of the assistant shows beside its text.
type storedReply struct {
	Refusal      *string         `json:"refusal,omitempty"`
	Reasoning    *string         `json:"reasoning,omitempty"`
	NoContent    bool            `json:"noContent,omitempty"`
	ToolCalls    []toolCall      `json:"toolCalls,omitempty"`
	FinishReason string          `json:"finishReason,omitempty"`
	Choices      []replyChoice   `json:"choices,omitempty"`
	Model        string          `json:"model,omitempty"`
	Fingerprint  string          `json:"fingerprint,omitempty"`
	Usage        json.RawMessage `json:"usage,omitempty"`
}

// replyMessage makes a turn of an answer; it is its first choice.
func (g *graphQL) replyMessage(reply chatReply) (Message, *storedReply) {
	first := reply.Choices[0]
	said := first.Message
	stored := &storedReply{
		Refusal: said.Refusal, Reasoning: said.reasoning(), NoContent: said.Content == nil,
		ToolCalls: said.ToolCalls, FinishReason: first.FinishReason,
		Model: reply.Model, Fingerprint: reply.Fingerprint, Usage: reply.Usage,
	}
	if len(reply.Choices) > 1 {
		stored.Choices = reply.Choices
	}
	wire := replyMessage{Role: roleAssistant, Content: said.Content, Refusal: said.Refusal, ToolCalls: said.ToolCalls}
	m := Message{ID: reply.ID, Role: roleAssistant, Time: time.Now(), Body: encodeJSON(wire)}
	if m.ID == "" {
		m.ID = "msg_" + g.digits() + "_ai"
	}
	if said.Content != nil {
		m.Content = *said.Content
	}
	return m, stored
}

func (m replyMessage) reasoning() *string {
	if m.Reasoning != nil {
		return m.Reasoning
	}
	return m.ReasoningContent
}

// messageFields shows a stored turn as a ChatMessage.
func messageFields(sessionID string, m Message) map[string]any {
	var r storedReply
	if len(m.Reply) == 0 || json.Unmarshal(m.Reply, &r) != nil {
		return turnFields(sessionID, m, nil)
	}
	return turnFields(sessionID, m, &r)
}

// turnFields shows a turn; r is nil for one that is not the assistant's.
func turnFields(sessionID string, m Message, r *storedReply) map[string]any {
	fields := map[string]any{
		"id": m.ID, "role": m.Role, "isUser": m.Role == roleUser, "content": m.Content,
		"timestamp": timestamp(m.Time), "success": true,
	}
	if sessionID != "" {
		fields["sessionId"] = sessionID
	}
	if r == nil {
		return fields
	}
	if r.NoContent {
		fields["content"] = nil
	}
	fields["refusal"], fields["reasoning"] = text(r.Refusal), text(r.Reasoning)
	fields["toolCalls"] = toolCallFields(r.ToolCalls)
	fields["finishReason"], fields["model"] = orNull(r.FinishReason), orNull(r.Model)
	fields["systemFingerprint"], fields["usage"] = orNull(r.Fingerprint), usageFields(r.Usage)
	if len(r.Choices) > 0 {
		fields["choices"] = choiceFields(r.Choices)
	}
	return fields
}

func choiceFields(choices []replyChoice) []any {
	out := make([]any, len(choices))
	for i, c := range choices {
		fields := map[string]any{
			"index": c.Index, "content": text(c.Message.Content), "refusal": text(c.Message.Refusal),
			"finishReason": orNull(c.FinishReason), "toolCalls": toolCallFields(c.Message.ToolCalls),
		}
		if len(c.Logprobs) > 0 && !isNull(c.Logprobs) {
			fields["logprobs"] = c.Logprobs
		}
		out[i] = fields
	}
	return out
}

func toolCallFields(calls []toolCall) any {
	if len(calls) == 0 {
		return nil
	}
	out := make([]any, len(calls))
	for i, c := range calls {
		fields := map[string]any{"id": orNull(c.ID), "type": orNull(c.Type)}
		if f := c.Function; f != nil {
			fields["name"], fields["arguments"] = orNull(f.Name), f.Arguments
		}
		if f := c.Custom; f != nil {
			fields["name"], fields["arguments"] = orNull(f.Name), f.Input
		}
		if c.Index != nil {
			fields["index"] = *c.Index
		}
		out[i] = fields
	}
	return out
}

func usageFields(raw json.RawMessage) any {
	u, ok := readUsage(raw)
	if !ok {
		return nil
	}
	return map[string]any{
		"promptTokens": int(u.PromptTokens), "completionTokens": int(u.CompletionTokens), "totalTokens": int(u.TotalTokens),
		"cachedTokens": int(u.CachedTokens), "reasoningTokens": int(u.ReasoningTokens),
	}
}

// text is a nullable text as GraphQL takes it.
func text(s *string) any {
	if s == nil {
		return nil
	}
	return *s
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
