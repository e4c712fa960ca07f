package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
	"github.com/openai-proxy-go/proxy/internal/sse"
)

// eventPing is how often a silent subscription shows that it lives. Its clients
// are not the OpenAI SDKs, and take comments with a blank line behind them.
const eventPing = 12 * time.Second

// events writes results as server-sent events, in the distinct connections mode
// of the graphql-sse protocol, or as parts of a multipart answer, as Apollo
// reads them.
type events struct {
	*streamWriter
	multipart bool
}

// startEvents sends the head of a stream of results and a first sign of life.
func (x *exchange) startEvents(m media) (*events, error) {
	if !canFlush(x.w) {
		return nil, errCannotStream()
	}
	x.media = m
	header := &x.header
	header.set("Content-Type", m.contentType())
	header.set("Cache-Control", "no-cache, no-transform")
	header.set("X-Accel-Buffering", "no")
	out := &events{
		streamWriter: x.streamWriter(":\n\n"),
		multipart:    m == mediaMultipart,
	}
	out.framed = true
	first := ":\n\n"
	if out.multipart {
		// The boundary that ends a part goes out with the part: clients wait
		// for it.
		first = "\r\n--graphql"
		out.comment = "\r\ncontent-type: application/json\r\n\r\n{}\r\n--graphql"
	}
	x.writeHeader(http.StatusOK)
	_, _ = out.write([]byte(first)) // a client that is gone is noticed with its first result
	return out, nil
}

// next writes one result.
func (e *events) next(result *gqldoc.Result) error {
	var frame []byte
	if e.multipart {
		frame = append(frame, "\r\ncontent-type: application/json\r\n\r\n{\"payload\":"...)
		frame = append(result.AppendJSON(frame), "}\r\n--graphql"...)
	} else {
		frame = append(frame, "event: next\ndata: "...)
		frame = append(result.AppendJSON(frame), "\n\n"...)
	}
	_, err := e.write(frame)
	return err
}

// complete ends the stream as the protocols want it. The empty data line is
// there because EventSource drops events without one.
func (e *events) complete() {
	defer e.close() // no ping behind it
	last := "event: complete\ndata: \n\n"
	if e.multipart {
		last = "--\r\n"
	}
	_, _ = e.write([]byte(last)) // the last word; nobody to tell if it is not heard
}

// subscribe serves aiResponse: a chat completion, delta by delta.
func (x *exchange) subscribe(ctx context.Context, run execution, m media) error {
	if m == mediaNone {
		return &Error{
			Status: http.StatusNotAcceptable, Message: "A subscription needs Accept: text/event-stream.", graphQL: "NOT_ACCEPTABLE",
		}
	}
	root, errs := run.op.Root(run.vars)
	if len(errs) > 0 {
		return x.answerGraphQL(accepted{stream: m}, gqldoc.Refused(errs))
	}
	out, err := x.startEvents(m)
	if err != nil {
		return err
	}
	defer out.close()
	live, cancel := context.WithCancelCause(x.r.Context())
	defer cancel(nil)
	x.r = x.r.WithContext(live) // what the upstream call hangs on
	out.startPings(eventPing, cancel)
	g := x.h.graphql
	chat, err := g.openChatSafely(ctx, x, root.Args)
	if err != nil {
		x.lastEvent(ctx, out, run, err)
		return nil
	}
	defer func() {
		out.close()
		chat.limit.Stop()
		x.finish(chat.rep)
	}()
	err = chat.each(ctx, func(delta map[string]any) error {
		result := run.op.Execute(ctx, run.vars, delta)
		x.logFields(result)
		return out.next(result)
	})
	switch {
	case errors.Is(err, errClientWrite):
		x.broken = true
	case err != nil:
		x.lastEvent(ctx, out, run, err)
	default:
		out.complete()
	}
	return nil
}

// lastEvent tells a failure as a result, and ends the stream.
func (x *exchange) lastEvent(ctx context.Context, out *events, run execution, err error) {
	result := run.op.Execute(ctx, run.vars, fieldFailed(err))
	x.logFields(result)
	if out.next(result) == nil {
		out.complete()
	}
}

// chatStream is a chat completion that arrives piece by piece.
type chatStream struct {
	g     *graphQL
	req   *chatRequest
	rep   *reply
	limit *time.Timer
	sum   chatReply // the answer so far, but for its choices

	choices []*choiceSum
	ended   bool // a finish_reason or [DONE] was seen
}

// maxChunk bounds one event of a chat stream.
const maxChunk = 4 << 20

// openChatSafely turns the panic of a hook into an error: the stream has begun,
// and can tell.
func (g *graphQL) openChatSafely(ctx context.Context, x *exchange, args map[string]any) (_ *chatStream, err error) {
	defer func() {
		if v := recover(); v != nil {
			x.logPanic(v)
			err = &Error{Status: http.StatusInternalServerError, Code: CodeInternalError}
		}
	}()
	return g.openChat(ctx, x, args)
}

func (g *graphQL) openChat(ctx context.Context, x *exchange, args map[string]any) (*chatStream, error) {
	req, err := g.chatRequest(ctx, args)
	if err != nil {
		return nil, err
	}
	req.body["stream"] = true
	req.body["stream_options"] = map[string]any{"include_usage": true}
	rep, err := g.open(x, RouteChat, req.body)
	if err != nil {
		return nil, err
	}
	if !rep.stream {
		err = errBadResponse(errors.New("the upstream did not stream"))
		rep.call.failed(err)
		rep.close()
		return nil, err
	}
	c := rep.call
	c.out.Status = rep.status
	limit := time.AfterFunc(c.h.cfg.limits.StreamMax, func() { c.cancel(errStreamMax) })
	return &chatStream{g: g, req: req, rep: rep, limit: limit}, nil
}

// each hands every delta on, and the finished turn at the end.
func (s *chatStream) each(ctx context.Context, emit func(map[string]any) error) error {
	c := s.rep.call
	err := s.deltas(emit)
	c.out.Usage, _ = readUsage(s.sum.Usage)
	switch {
	case errors.Is(err, errClientWrite):
		c.streamEnded(ErrClientGone, EndingClientGone)
		return err
	case err != nil:
		ending := EndingUpstreamCut
		if errors.Is(err, ErrClientGone) {
			ending = EndingClientGone
		}
		c.streamEnded(err, ending)
		return err
	}
	c.out.Ending = EndingComplete
	for i, sum := range s.choices {
		s.sum.Choices = append(s.sum.Choices, sum.choice(i))
	}
	message := s.g.finish(ctx, s.req, s.sum)
	last := map[string]any{"id": message["id"], "done": true, "usage": message["usage"], "message": message}
	if s.req.sessionID != "" {
		last["sessionId"] = s.req.sessionID
	}
	if emit(last) != nil {
		c.streamEnded(ErrClientGone, EndingClientGone)
		return errClientWrite
	}
	return nil
}

// scannedBody lets a scan see all that is read, also what the reader of events still
// holds when its client leaves.
type scannedBody struct {
	io.Reader
	scan *usageScan
}

func (b scannedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.scan.feed(p[:n])
	return n, err
}

// deltas reads the upstream's events to their end.
func (s *chatStream) deltas(emit func(map[string]any) error) error {
	c := s.rep.call
	c.scan = &usageScan{}
	in := sse.NewReader(scannedBody{s.rep.body, c.scan}, maxChunk)
	for {
		data, err := in.Next()
		switch {
		case errors.Is(err, io.EOF) && s.ended && len(s.choices) > 0:
			return nil
		case errors.Is(err, io.EOF):
			return &Error{
				Status: http.StatusBadGateway, Code: CodeUpstreamDisconnected,
				Message: "The upstream broke off the stream.", Err: io.ErrUnexpectedEOF,
			}
		case err != nil:
			return c.streamFault(err)
		}
		if string(data) == "[DONE]" {
			s.ended = true
			continue
		}
		chunk, err := readReply(data, "delta")
		if err != nil {
			return errBadResponse(err)
		}
		if len(chunk.Error) > 0 && !isNull(chunk.Error) {
			return answerFault(chunk, nil, c.key)
		}
		c.wrote(len(data))
		for _, delta := range s.add(chunk) {
			if emit(delta) != nil {
				return errClientWrite
			}
		}
	}
}

// add takes a chunk into the sum and returns what it shows.
func (s *chatStream) add(chunk chatReply) []map[string]any {
	if s.sum.ID == "" {
		s.sum.ID = chunk.ID
	}
	if chunk.Model != "" {
		s.sum.Model = chunk.Model
	}
	if chunk.Fingerprint != "" {
		s.sum.Fingerprint = chunk.Fingerprint
	}
	if len(chunk.Usage) > 0 && !isNull(chunk.Usage) {
		s.sum.Usage = bytes.Clone(chunk.Usage) // the reader uses its buffer again
	}
	var out []map[string]any
	for _, c := range chunk.Choices {
		if c.Index < 0 || c.Index > maxChoices {
			continue
		}
		for len(s.choices) <= c.Index {
			s.choices = append(s.choices, &choiceSum{})
		}
		s.choices[c.Index].add(c.Message)
		if c.FinishReason != "" {
			s.choices[c.Index].finish = c.FinishReason
			s.ended = true
		}
		delta := map[string]any{
			"id": orNull(s.sum.ID), "index": c.Index, "done": false, "role": orNull(c.Message.Role),
			"content": text(c.Message.Content), "refusal": text(c.Message.Refusal), "reasoning": text(c.Message.Reasoning),
			"toolCalls": toolCallFields(c.Message.ToolCalls), "finishReason": orNull(c.FinishReason),
		}
		if s.req.sessionID != "" {
			delta["sessionId"] = s.req.sessionID
		}
		out = append(out, delta)
	}
	return out
}

// The most choices, and tool calls of one, that OpenAI's API knows.
const maxChoices = 127

// choiceSum is one choice put together from its deltas.
type choiceSum struct {
	content, refusal, reasoning textSum
	calls                       []*callSum // builders must not be copied
	finish                      string
}

// callSum is one tool call put together; index is of the stream only.
type callSum struct {
	id, kind, name string
	custom         bool
	input          strings.Builder
}

// textSum is a text put together, or none if no delta had one.
type textSum struct {
	b   strings.Builder
	set bool
}

func (t *textSum) add(s *string) {
	if s != nil {
		t.set = true
		t.b.WriteString(*s)
	}
}

func (t *textSum) text() *string {
	if !t.set {
		return nil
	}
	s := t.b.String()
	return &s
}

func (s *choiceSum) add(d replyMessage) {
	s.content.add(d.Content)
	s.refusal.add(d.Refusal)
	s.reasoning.add(d.Reasoning)
	for _, call := range d.ToolCalls {
		at := len(s.calls)
		if call.Index != nil {
			at = *call.Index
		}
		if at < 0 || at > maxChoices {
			continue
		}
		for len(s.calls) <= at {
			s.calls = append(s.calls, &callSum{})
		}
		s.calls[at].add(call)
	}
}

func (s *callSum) add(d toolCall) {
	if d.ID != "" {
		s.id = d.ID
	}
	if d.Type != "" {
		s.kind = d.Type
	}
	if f := d.Function; f != nil {
		s.name += f.Name
		s.input.WriteString(f.Arguments)
	}
	if f := d.Custom; f != nil {
		s.custom = true
		s.name += f.Name
		s.input.WriteString(f.Input)
	}
}

func (s *choiceSum) choice(index int) replyChoice {
	c := replyChoice{Index: index, FinishReason: s.finish, Message: replyMessage{
		Content: s.content.text(), Refusal: s.refusal.text(), Reasoning: s.reasoning.text(),
	}}
	for _, sum := range s.calls {
		call := toolCall{ID: sum.id, Type: sum.kind}
		if sum.custom {
			call.Custom = &toolCustom{sum.name, sum.input.String()}
		} else {
			call.Function = &toolFunction{sum.name, sum.input.String()}
		}
		c.Message.ToolCalls = append(c.Message.ToolCalls, call)
	}
	return c
}
