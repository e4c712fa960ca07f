package proxy

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// chatReply is what is read of a chat completion, or of a chunk of one.
type chatReply struct {
	ID, Model, Fingerprint string
	Choices                []replyChoice
	Usage, Error           json.RawMessage
}

type replyChoice struct {
	Index        int             `json:"index"`
	Message      replyMessage    `json:"message"`
	FinishReason string          `json:"finish_reason"`
	Logprobs     json.RawMessage `json:"logprobs,omitempty"`
}

type replyMessage struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content"`
	Refusal   *string    `json:"refusal,omitempty"`
	Reasoning *string    `json:"-"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

// readReply reads a completion, whose choices have a message, or a chunk, whose
// choices have a delta.
func readReply(raw []byte, part string) (reply chatReply, err error) {
	o, err := jsonobj.Parse(raw)
	if err != nil {
		return reply, err
	}
	reply.ID, _ = o.String("id")
	reply.Model, _ = o.String("model")
	reply.Fingerprint, _ = o.String("system_fingerprint")
	reply.Usage, _ = o.Get("usage")
	reply.Error, _ = o.Get("error")
	choices, _ := o.Get("choices")
	list, ok := jsonobj.Elements(choices)
	if !ok && len(choices) > 0 && !isNull(choices) {
		return reply, errors.New("choices is not an array")
	}
	for _, raw := range list {
		c, err := readChoice(raw, part)
		if err != nil {
			return reply, err
		}
		reply.Choices = append(reply.Choices, c)
	}
	return reply, nil
}

func readChoice(raw []byte, part string) (c replyChoice, err error) {
	o, err := jsonobj.Parse(raw)
	if err != nil {
		return c, err
	}
	index, _ := o.Get("index")
	c.Index, _ = strconv.Atoi(string(index)) // some servers leave it out
	c.FinishReason, _ = o.String("finish_reason")
	c.Logprobs, _ = o.Get("logprobs")
	message, ok := o.Get(part)
	if !ok || isNull(message) {
		return c, nil
	}
	m, err := jsonobj.Parse(message)
	if err != nil {
		return c, err
	}
	c.Message.Role, _ = m.String("role")
	c.Message.Content = textIn(m, "content")
	c.Message.Refusal = textIn(m, "refusal")
	if c.Message.Reasoning = textIn(m, "reasoning"); c.Message.Reasoning == nil {
		c.Message.Reasoning = textIn(m, "reasoning_content")
	}
	if calls, ok := m.Get("tool_calls"); ok {
		err = json.Unmarshal(calls, &c.Message.ToolCalls)
	}
	return c, err
}

// textIn returns a text, or nil for null and anything else.
func textIn(o jsonobj.Object, key string) *string {
	s, ok := o.String(key)
	if !ok {
		return nil
	}
	return &s
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
		Refusal: said.Refusal, Reasoning: said.Reasoning, NoContent: said.Content == nil,
		ToolCalls: said.ToolCalls, FinishReason: first.FinishReason,
		Model: reply.Model, Fingerprint: reply.Fingerprint, Usage: reply.Usage,
	}
	if len(reply.Choices) > 1 {
		stored.Choices = reply.Choices
	}
	m := Message{ID: reply.ID, Role: roleAssistant, Time: time.Now()}
	if m.ID == "" {
		m.ID = "msg_" + g.digits() + "_ai"
	}
	if said.Content != nil {
		m.Content = *said.Content
	}
	return m, stored
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
	fields := make(map[string]any, 16)
	fields["id"], fields["role"], fields["isUser"], fields["content"] = m.ID, m.Role, m.Role == roleUser, m.Content
	fields["timestamp"], fields["success"] = timestamp(m.Time), true
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
