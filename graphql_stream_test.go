package proxy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

const (
	gqlSubscription = `subscription S($input: ChatInput!) { aiResponse(input: $input) { content done finishReason usage { totalTokens } message { content } } }`
	gqlSSE          = "text/event-stream"
	gqlMultipart    = "multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/graphql-response+json,application/json;q=0.9"
	gqlPart         = "\r\ncontent-type: application/json\r\n\r\n{}\r\n--graphql" // a ping
	gqlUrql         = "application/graphql-response+json, application/graphql+json, application/json, text/event-stream, multipart/mixed"
)

// gqlStream is an answer of /graphql that is read while it comes.
type gqlStream struct {
	t      testing.TB
	res    *http.Response
	in     *bufio.Reader
	cancel context.CancelFunc
}

// gqlOpen sends an operation and returns once the head of the answer is there.
func gqlOpen(t testing.TB, f *fixture, query string, variables any, accept string) *gqlStream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+"/graphql", strings.NewReader(gqlRequest(query, variables)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", accept)
	res, err := f.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return &gqlStream{t: t, res: res, in: bufio.NewReaderSize(res.Body, 16), cancel: cancel}
}

// frame reads to the end of the next frame: a blank line, or in a multipart
// answer the boundary.
func (s *gqlStream) frame() string {
	s.t.Helper()
	mark := "\n\n"
	if strings.HasPrefix(s.res.Header.Get("Content-Type"), "multipart/") {
		mark = "\r\n--graphql"
	}
	var got strings.Builder
	for !strings.HasSuffix(got.String(), mark) {
		b, err := s.in.ReadByte()
		if err != nil {
			s.t.Fatalf("waiting for a frame: %v, so far %q", err, got.String())
		}
		got.WriteByte(b)
	}
	return got.String()
}

// next reads one result; pings are skipped.
func (s *gqlStream) next() gqlAnswer {
	s.t.Helper()
	frame := s.frame()
	for slices.Contains([]string{":\n\n", "\r\n--graphql", gqlPart}, frame) {
		frame = s.frame()
	}
	data, ok := strings.CutPrefix(frame, "event: next\ndata: ")
	if part, isPart := strings.CutPrefix(frame, "\r\ncontent-type: application/json\r\n\r\n"); isPart {
		var payload struct{ Payload json.RawMessage }
		gqlDecode(s.t, strings.TrimSuffix(part, "\r\n--graphql"), &payload)
		data, ok = string(payload.Payload), true
	}
	if !ok {
		s.t.Fatalf("frame %q is no result", frame)
	}
	return gqlRead(s.t, s.res, strings.TrimSpace(data))
}

// delta reads one result without errors and returns its event.
func (s *gqlStream) delta() gqlMap {
	s.t.Helper()
	a := s.next()
	if len(a.Errors) > 0 {
		s.t.Fatalf("an event with errors: %s", a.text)
	}
	return a.field(s.t, "aiResponse")
}

// until reads events up to the one that is done, which it returns with the text
// of the others.
func (s *gqlStream) until() (last gqlMap, text string) {
	s.t.Helper()
	for {
		d := s.delta()
		if d["done"] == true {
			return d, text
		}
		part, _ := d["content"].(string)
		text += part
	}
}

// completes checks that nothing but the end is left.
func (s *gqlStream) completes() {
	s.t.Helper()
	want := "event: complete\ndata: \n\n"
	if strings.HasPrefix(s.res.Header.Get("Content-Type"), "multipart/") {
		want = "--\r\n"
	}
	rest, err := io.ReadAll(s.in)
	if err != nil || string(rest) != want {
		s.t.Errorf("the stream ends with %q, %v, want %q", rest, err, want)
	}
}

// fails checks that the stream holds one failure and its end.
func (s *gqlStream) fails(code string) gqlError {
	s.t.Helper()
	a := s.next()
	e := a.refused(s.t, code)
	if _, ok := a.Data["aiResponse"]; !ok || a.field(s.t, "aiResponse") != nil {
		s.t.Errorf("data is not null beside the error: %s", a.text)
	}
	s.completes()
	return e
}

// chunk is an event of the upstream with this delta of choice 0.
func gqlChunk(delta string) string {
	return `data: {"id":"chatcmpl-1","model":"m-1","system_fingerprint":"fp","choices":[{"index":0,"delta":` + delta + `,"finish_reason":null}]}` + "\n\n"
}

func gqlText(s string) proxytest.Step {
	raw, _ := json.Marshal(s)
	return proxytest.Text(gqlChunk(`{"content":` + string(raw) + `}`))
}

const (
	gqlFinish = `data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	gqlUsage  = `data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}` + "\n\n"
	gqlDone   = "data: [DONE]\n\n"
)

func TestSubscriptionStreamsInBothProtocols(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ accept, contentType, first string }{
		"graphql-sse":                {gqlSSE, "text/event-stream; charset=utf-8", ":\n\n"},
		"urql":                       {"text/event-stream, multipart/mixed", "text/event-stream; charset=utf-8", ":\n\n"},
		"every type that urql names": {gqlUrql, "text/event-stream; charset=utf-8", ":\n\n"},
		"anything":                   {"*/*", "text/event-stream; charset=utf-8", ":\n\n"},
		"Apollo":                     {gqlMultipart, `multipart/mixed;boundary="graphql";subscriptionSpec=1.0`, "\r\n--graphql"},
		"multipart is preferred":     {"text/event-stream;q=0.5, multipart/mixed", `multipart/mixed;boundary="graphql";subscriptionSpec=1.0`, "\r\n--graphql"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			f.up.Queue(proxytest.ChatStream("Hel", "lo"))
			s := gqlOpen(t, f, gqlSubscription, gqlChat("model", "m"), tt.accept)
			h := s.res.Header
			if s.res.StatusCode != 200 || h.Get("Content-Type") != tt.contentType {
				t.Errorf("status %d, Content-Type %q, want %q", s.res.StatusCode, h.Get("Content-Type"), tt.contentType)
			}
			if h.Get("Cache-Control") != "no-cache, no-transform" || h.Get("X-Accel-Buffering") != "no" || h.Get("Content-Length") != "" ||
				!slices.Contains(h.Values("Vary"), "Accept") {
				t.Errorf("headers %v", h)
			}
			if first := s.frame(); first != tt.first {
				t.Errorf("the stream begins with %q, want %q", first, tt.first)
			}
			last, text := s.until()
			if text != "Hello" {
				t.Errorf("the deltas are %q", text)
			}
			wantSame(t, "last event", any(last), `{"content":null,"done":true,"finishReason":null,"usage":{"totalTokens":21},"message":{"content":"Hello"}}`)
			s.completes()
			wantSame(t, "sent", any(gqlSent(t, f)), `{"model":"m","messages":[{"role":"user","content":"hello"}],"stream":true,"stream_options":{"include_usage":true}}`)
		})
	}
}

func TestSubscriptionSendsWhatGetAIResponseSends(t *testing.T) {
	t.Parallel()
	f := start(t)
	var input gqlMap
	gqlDecode(t, gqlEveryChatKey, &input)
	input["messages"] = []any{}
	input["stream"], input["stream_options"], input["extra"] = false, gqlMap{"include_usage": false}, gqlMap{"top_k": 0}
	f.up.Queue(proxytest.ChatStream("a"))
	s := gqlOpen(t, f, gqlSubscription, gqlMap{"input": input}, gqlSSE)
	s.until()
	s.completes()
	want := strings.TrimSuffix(strings.TrimSpace(gqlEveryChatKey), "}") + `,"messages":[],"top_k":0,"stream":true,"stream_options":{"include_usage":true}}`
	wantSame(t, "sent", any(gqlSent(t, f)), want)
}

func TestSubscriptionShowsTheWholeTurnAtItsEnd(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.Stream(
		proxytest.Text(gqlChunk(`{"role":"assistant","content":"","reasoning_content":"h"}`)),
		proxytest.Text(gqlChunk(`{"reasoning_content":"m"}`)), gqlText("你"), gqlText("好 😀"),
		proxytest.Text(gqlChunk(`{"refusal":"n"}`)), proxytest.Text(gqlChunk(`{"refusal":"o"}`)),
		proxytest.Text(gqlFinish+gqlUsage+gqlDone)))
	s := gqlOpen(t, f, `subscription S($input: ChatInput!) { aiResponse(input: $input) { id sessionId index role content refusal reasoning finishReason done
		usage { promptTokens completionTokens totalTokens }
		message { id sessionId role isUser content refusal reasoning finishReason choices { index } model usage { totalTokens } systemFingerprint success error } } }`, gqlChat("sessionId", "s-1"), gqlSSE)
	for _, want := range []string{
		`{"role":"assistant","content":"","reasoning":"h","refusal":null,"finishReason":null}`,
		`{"role":null,"content":null,"reasoning":"m","refusal":null,"finishReason":null}`,
		`{"role":null,"content":"你","reasoning":null,"refusal":null,"finishReason":null}`,
		`{"role":null,"content":"好 😀","reasoning":null,"refusal":null,"finishReason":null}`,
		`{"role":null,"content":null,"reasoning":null,"refusal":"n","finishReason":null}`,
		`{"role":null,"content":null,"reasoning":null,"refusal":"o","finishReason":null}`,
		`{"role":null,"content":null,"reasoning":null,"refusal":null,"finishReason":"stop"}`,
	} {
		d := s.delta()
		if d["id"] != "chatcmpl-1" || d["sessionId"] != "s-1" || d["index"] != json.Number("0") || d["done"] != false || d["message"] != nil || d["usage"] != nil {
			t.Errorf("delta %v", d)
		}
		for _, key := range []string{"id", "sessionId", "index", "done", "message", "usage"} {
			delete(d, key)
		}
		wantSame(t, "delta", any(d), want)
	}
	wantSame(t, "last event", any(s.delta()), `{"id":"chatcmpl-1","sessionId":"s-1","index":null,"role":null,"content":null,"refusal":null,"reasoning":null,"finishReason":null,"done":true,
		"usage":{"promptTokens":9,"completionTokens":12,"totalTokens":21},
		"message":{"id":"chatcmpl-1","sessionId":"s-1","role":"assistant","isUser":false,"content":"你好 😀","refusal":"no","reasoning":"hm","finishReason":"stop","choices":null,
		"model":"m-1","usage":{"totalTokens":21},"systemFingerprint":"fp","success":true,"error":null}}`)
	s.completes()
}

func TestSubscriptionJoinsToolCalls(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.Stream(
		proxytest.Text(gqlChunk(`{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_a","type":"function","function":{"name":"weather","arguments":""}}]}`)),
		proxytest.Text(gqlChunk(`{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\":"}}]}`)),
		proxytest.Text(gqlChunk(`{"tool_calls":[{"index":1,"id":"call_b","type":"custom","custom":{"name":"shell","input":"ls"}}]}`)),
		proxytest.Text(gqlChunk(`{"tool_calls":[{"index":0,"function":{"arguments":"\"Oslo\"}"}},{"index":1,"custom":{"input":" -l"}}]}`)),
		proxytest.Text(`data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}`+"\n\n"+gqlDone)))
	s := gqlOpen(t, f, `subscription S($input: ChatInput!) { aiResponse(input: $input) { done finishReason toolCalls { index id type name arguments }
		message { content finishReason toolCalls { id type name arguments } } } }`, gqlChat(), gqlSSE)
	for _, want := range []string{
		`[{"index":0,"id":"call_a","type":"function","name":"weather","arguments":""}]`,
		`[{"index":0,"id":null,"type":null,"name":null,"arguments":"{\"city\":"}]`,
		`[{"index":1,"id":"call_b","type":"custom","name":"shell","arguments":"ls"}]`,
		`[{"index":0,"id":null,"type":null,"name":null,"arguments":"\"Oslo\"}"},{"index":1,"id":null,"type":null,"name":null,"arguments":" -l"}]`,
		`null`,
	} {
		wantSame(t, "tool calls of a delta", s.delta()["toolCalls"], want)
	}
	wantSame(t, "message", s.delta()["message"], `{"content":null,"finishReason":"tool_calls","toolCalls":[
		{"id":"call_a","type":"function","name":"weather","arguments":"{\"city\":\"Oslo\"}"},
		{"id":"call_b","type":"custom","name":"shell","arguments":"ls -l"}]}`)
	s.completes()
}

func TestSubscriptionOfSeveralChoices(t *testing.T) {
	t.Parallel()
	f := start(t)
	choice := func(index int, delta, finish string) proxytest.Step {
		return proxytest.Text(fmt.Sprintf(`data: {"id":"c","choices":[{"index":%d,"delta":%s,"finish_reason":%s}]}`+"\n\n", index, delta, finish))
	}
	f.up.Queue(proxytest.Stream(
		choice(1, `{"content":"B"}`, "null"), choice(0, `{"content":"A"}`, "null"), choice(1, `{"content":"b"}`, `"length"`),
		proxytest.Text(`data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"}},{"index":2,"delta":{"content":"C"}}]}`+"\n\n"),
		choice(0, "{}", `"stop"`), choice(2, "{}", `"stop"`), choice(100_000, `{"content":"far"}`, "null"), choice(-1, `{"content":"off"}`, "null"), proxytest.Text(gqlDone)))
	s := gqlOpen(t, f, `subscription S($input: ChatInput!) { aiResponse(input: $input) { done index content message { content choices { index content finishReason } } } }`,
		gqlChat("n", 3), gqlSSE)
	got := map[string]string{}
	for {
		d := s.delta()
		if d["done"] == true {
			wantSame(t, "message", d["message"], `{"content":"Aa","choices":[{"index":0,"content":"Aa","finishReason":"stop"},{"index":1,"content":"Bb","finishReason":"length"},{"index":2,"content":"C","finishReason":"stop"}]}`)
			break
		}
		part, _ := d["content"].(string)
		got[fmt.Sprint(d["index"])] += part
	}
	if want := map[string]string{"0": "Aa", "1": "Bb", "2": "C"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("deltas %v, want %v", got, want)
	}
	s.completes()
}

func TestSubscriptionDeltasArriveWhileTheUpstreamStillSends(t *testing.T) {
	t.Parallel()
	for name, accept := range map[string]string{"SSE": gqlSSE, "multipart": gqlMultipart} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			gates := []chan struct{}{make(chan struct{}), make(chan struct{}), make(chan struct{})}
			f.up.Queue(proxytest.Stream(
				proxytest.Gate(gates[0]), gqlText("one"), proxytest.Gate(gates[1]), gqlText("two"), proxytest.Gate(gates[2]),
				proxytest.Text(gqlFinish+gqlDone)))
			s := gqlOpen(t, f, gqlSubscription, gqlChat(), accept)
			if first := s.frame(); strings.Contains(first, "next") {
				t.Errorf("the first frame is %q, want a sign of life", first)
			}
			for i, want := range []string{"one", "two"} {
				close(gates[i])
				if got := s.delta()["content"]; got != want {
					t.Errorf("delta %v, want %q", got, want)
				}
			}
			close(gates[2])
			if last, _ := s.until(); last["message"] == nil {
				t.Error("no message at the end")
			}
			s.completes()
		})
	}
}

func TestSubscriptionReadsEveryFormOfEvents(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long ", 200_000)
	for name, steps := range map[string][]proxytest.Step{
		"CRLF":                  {proxytest.Text(strings.ReplaceAll(gqlChunk(`{"content":"ok"}`)+gqlFinish+gqlDone, "\n", "\r\n"))},
		"CR":                    {proxytest.Text(strings.ReplaceAll(gqlChunk(`{"content":"ok"}`)+gqlFinish+gqlDone, "\n", "\r"))},
		"torn within a rune":    {proxytest.Text(`data: {"choices":[{"index":0,"delta":{"content":"o` + "k\xc3"), proxytest.Text("\xb6\"}}]}\n\n" + gqlFinish + gqlDone)},
		"torn within a CRLF":    {proxytest.Text("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ok\"}}]}\r"), proxytest.Text("\n\r"), proxytest.Text("\n" + gqlFinish + gqlDone)},
		"comments and names":    {proxytest.Text(": hello\n\nevent: chunk\nid: 7\nretry: 9\n" + gqlChunk(`{"content":"ok"}`) + ":\n" + gqlFinish + ": bye\n\n" + gqlDone)},
		"several data lines":    {proxytest.Text("data: {\"choices\":[{\"index\":0,\ndata: \"delta\":{\"content\":\"ok\"}}]}\n\n" + gqlFinish + gqlDone)},
		"no [DONE]":             {gqlText("ok"), proxytest.Text(gqlFinish)},
		"no finish_reason":      {gqlText("ok"), proxytest.Text(gqlDone)},
		"no blank line at last": {gqlText("ok"), proxytest.Text(strings.TrimRight(gqlFinish, "\n"))},
		"no space":              {proxytest.Text(`data:{"choices":[{"index":0,"delta":{"content":"ok"}}]}` + "\n\n" + gqlFinish + gqlDone)},
		"a long event":          {gqlText("ok" + long), proxytest.Text(gqlFinish + gqlDone)},
		"choices in parts":      {proxytest.Text(`data: {"choices":[],"prompt_filter_results":[]}` + "\n\n"), gqlText("ok"), proxytest.Text(gqlFinish + gqlUsage + gqlDone)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			f.up.Queue(proxytest.Stream(steps...))
			s := gqlOpen(t, f, gqlSubscription, gqlChat(), gqlSSE)
			last, text := s.until()
			message, _ := last["message"].(gqlMap)
			if !strings.HasPrefix(text, "ok") || message["content"] != text {
				t.Errorf("deltas %.40q, message %.60v", text, message)
			}
			s.completes()
		})
	}
}

func TestSubscriptionThatFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		answer  proxytest.Answer
		options []proxy.Option
		input   gqlMap
		deltas  int // before the failure
		code    string
		message string // what the error must hold
	}{
		{name: "upstream 429", answer: proxytest.Failure(429, "requests", "rate_limit_exceeded", "Slow down"), code: "UPSTREAM_RATE_LIMITED", message: "OpenAI API returned 429: Slow down"},
		{name: "upstream refuses the server's key", answer: proxytest.Failure(401, "", "invalid_api_key", "billing-7"), code: "UPSTREAM_AUTH", message: "The upstream does not accept this server's credentials."},
		{name: "upstream 500", answer: proxytest.Failure(500, "server_error", "", "broken"), code: "UPSTREAM_ERROR", message: "OpenAI API returned 500: broken"},
		{name: "upstream hangs up", answer: proxytest.Raw(""), code: "UPSTREAM_UNREACHABLE"},
		{name: "upstream does not stream", answer: proxytest.Chat("whole"), code: "UPSTREAM_ERROR"},
		{name: "no key", options: []proxy.Option{proxy.WithKeySource(proxy.FirstKey())}, code: "CONFIGURATION_ERROR", message: "OpenAI API key is not configured"},
		{name: "a caller that is not admitted", options: []proxy.Option{proxy.WithHooks(proxy.Hooks{Admit: func(context.Context, proxy.Call) error {
			return &proxy.Error{Status: 429, Message: "Your budget is used up."}
		}})}, code: "RATE_LIMITED", message: "Your budget is used up."},
		{name: "no messages", input: gqlMap{"input": gqlMap{}}, code: "BAD_REQUEST", message: "messages field is required and must be an array"},
		{name: "extra that collides", input: gqlChat("extra", gqlMap{"model": "x"}), code: "BAD_USER_INPUT"},
		{name: "a session id that is none", input: gqlChat("sessionId", "a b"), code: "BAD_USER_INPUT"},
		{name: "an error event", answer: proxytest.Stream(gqlText("a"), proxytest.Text(`data: {"error":{"message":"The engine is overloaded","type":"server_error","param":null,"code":null}}`+"\n\n"), proxytest.Text(gqlDone)), deltas: 1, code: "UPSTREAM_ERROR", message: "The engine is overloaded"},
		{name: "an error event alone", answer: proxytest.Stream(proxytest.Text(`data: {"error":{"message":"No luck"}}` + "\n\n")), code: "UPSTREAM_ERROR", message: "No luck"},
		{name: "a cut", answer: proxytest.Stream(gqlText("a"), gqlText("b"), proxytest.Cut()), deltas: 2, code: "UPSTREAM_ERROR"},
		{name: "a reset", answer: proxytest.Stream(gqlText("a"), proxytest.Reset()), deltas: 1, code: "UPSTREAM_ERROR"},
		{name: "an end without finish_reason", answer: proxytest.Stream(gqlText("a")), deltas: 1, code: "UPSTREAM_ERROR"},
		{name: "an end without anything", answer: proxytest.Stream(), code: "UPSTREAM_ERROR"},
		{name: "[DONE] without anything", answer: proxytest.Stream(proxytest.Text(gqlDone)), code: "UPSTREAM_ERROR"},
		{name: "no JSON", answer: proxytest.Stream(gqlText("a"), proxytest.Text("data: {oops\n\n")), deltas: 1, code: "UPSTREAM_ERROR"},
		{name: "a stream that lasts too long", answer: proxytest.Stream(gqlText("a"), proxytest.Silence()), options: []proxy.Option{proxy.WithLimits(proxy.Limits{StreamMax: 100 * time.Millisecond})}, deltas: 1, code: "UPSTREAM_ERROR", message: "The stream took longer than this server allows."},
		{name: "an upstream that falls silent", answer: proxytest.Stream(gqlText("a"), proxytest.Silence()), options: []proxy.Option{proxy.WithLimits(proxy.Limits{StreamIdle: 100 * time.Millisecond})}, deltas: 1, code: "TIMEOUT", message: "The upstream was silent for too long."},
		{name: "an upstream that never answers", answer: proxytest.Hang(), options: []proxy.Option{proxy.WithLimits(proxy.Limits{HeaderTime: 100 * time.Millisecond})}, code: "TIMEOUT"},
		{name: "an endless event", answer: proxytest.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, gqlChunk(`{"content":"a"}`)+"data: ")
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat("x", 64<<10)); err != nil {
					return
				}
			}
		}), deltas: 1, code: "UPSTREAM_ERROR"},
	}
	for _, tt := range tests {
		for name, accept := range map[string]string{"SSE": gqlSSE, "multipart": gqlMultipart} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				f := start(t, tt.options...)
				f.up.Queue(tt.answer)
				input := tt.input
				if input == nil {
					input = gqlChat("model", "m")
				}
				s := gqlOpen(t, f, gqlSubscription, input, accept)
				if s.res.StatusCode != 200 {
					t.Errorf("status %d", s.res.StatusCode)
				}
				for range tt.deltas {
					s.delta()
				}
				e := s.fails(tt.code)
				if !strings.Contains(e.Message, tt.message) {
					t.Errorf("message %q, want %q in it", e.Message, tt.message)
				}
				wantSame(t, "path", any(e.Path), `["aiResponse"]`)
				for _, text := range []string{"billing-7", "EOF", "dial", "127.0.0.1", "connection reset", "invalid character"} {
					if strings.Contains(e.Message, text) {
						t.Errorf("the message tells %q: %q", text, e.Message)
					}
				}
			})
		}
	}
}

func TestSubscriptionErrorEventHoldsNoKey(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithKey(opaqueKey))
	f.up.Queue(proxytest.Stream(gqlText("a"), proxytest.Text(`data: {"error":{"message":"Quota of `+opaqueKey+` is used up"}}`+"\n\n")))
	s := gqlOpen(t, f, gqlSubscription, gqlChat(), gqlSSE)
	s.delta()
	s.fails("UPSTREAM_ERROR")
	if strings.Contains(f.seen.String(), opaqueKey) || strings.Contains(f.logs.String(), opaqueKey) {
		t.Error("the key is in the answer or in the log")
	}
}

func TestSubscriptionIsChosenByTheOperationAndItsAccept(t *testing.T) {
	t.Parallel()
	f := start(t)
	t.Run("a query from a client that names streams too", func(t *testing.T) {
		a := gqlAsk(t, f, gqlChatHistory, nil, "Accept", gqlUrql).wantStatus(t, 200)
		if got := a.header.Get("Content-Type"); got != "application/graphql-response+json; charset=utf-8" {
			t.Errorf("Content-Type %q", got)
		}
	})
	t.Run("a mutation with a field called subscription", func(t *testing.T) {
		a := gqlAsk(t, f, `mutation { subscription: createSession { success } } # text/event-stream`, nil, "Accept", gqlUrql)
		a.ok(t, "subscription")
	})
	t.Run("a subscription for JSON", func(t *testing.T) {
		for _, accept := range []string{gqlJSON, gqlOwn, "application/*", "application/json, text/event-stream;q=0"} {
			a := gqlAsk(t, f, gqlSubscription, gqlChat(), "Accept", accept).wantStatus(t, http.StatusNotAcceptable)
			if e := a.refused(t, "NOT_ACCEPTABLE"); e.Message != "A subscription needs Accept: text/event-stream." {
				t.Errorf("message %q", e.Message)
			}
		}
	})
	t.Run("by name among several operations", func(t *testing.T) {
		query := gqlChatHistory + " " + gqlSubscription
		body, _ := json.Marshal(gqlMap{"query": query, "operationName": "ChatHistory", "variables": gqlChat()})
		gqlPost(t, f, string(body), "Accept", gqlUrql).wantStatus(t, 200)
	})
	t.Run("a query on a stream", func(t *testing.T) {
		for _, accept := range []string{gqlSSE, "multipart/mixed;subscriptionSpec=1.0"} {
			s := gqlOpen(t, f, gqlChatHistory, nil, accept)
			wantSame(t, "data", any(s.next().Data), `{"chatHistory":[]}`)
			s.completes()
		}
	})
	t.Run("errors of the request on a stream", func(t *testing.T) {
		for _, query := range []string{"{", "{ nothing }", gqlSubscription, `subscription { a: aiResponse(input: {}) { done } b: aiResponse(input: {}) { done } }`} {
			s := gqlOpen(t, f, query, nil, gqlSSE)
			a := s.next().wantStatus(t, 200)
			if len(a.Errors) == 0 || a.hasData() {
				t.Errorf("%s: %s", query, a.text)
			}
			s.completes()
		}
	})
	f.wantCalls(t, 0)
}

func TestSubscriptionWithAliasesFragmentsAndDirectives(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.ChatStream("x"))
	s := gqlOpen(t, f, `query Other { chatHistory { id } }`+"\n"+`subscription S($input: ChatInput!, $no: Boolean!) { answer: aiResponse(input: $input) { ...D end: done id @include(if: $no) } } fragment D on ChatDelta { text: content }`,
		gqlMap{"input": gqlChat()["input"], "no": false}, gqlSSE)
	// several operations and no operationName
	a := s.next()
	a.refused(t, "OPERATION_RESOLUTION_FAILURE")
	s.completes()

	s = gqlOpen(t, f, `subscription S($input: ChatInput!, $no: Boolean!) { answer: aiResponse(input: $input) { ...D end: done id @include(if: $no) } } fragment D on ChatDelta { text: content }`,
		gqlMap{"input": gqlChat()["input"], "no": false}, gqlSSE)
	for _, want := range []string{`{"text":"","end":false}`, `{"text":"x","end":false}`, `{"text":null,"end":false}`, `{"text":null,"end":true}`} {
		if got := s.next(); got.text != `{"data":{"answer":`+want+`}}` {
			t.Errorf("event %s, want %s", got.text, want)
		}
	}
	s.completes()
}

// subscriptionInMemory is a fixture for bubbles.
func subscriptionInMemory(options ...proxy.Option) setup {
	in := []proxytest.ServerOption{proxytest.InMemory()}
	return setup{client: in, upstream: in, options: options}
}

func TestSubscriptionPings(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ accept, first, ping string }{
		"SSE":       {gqlSSE, ":\n\n", ":\n\n"},
		"multipart": {gqlMultipart, "\r\n--graphql", gqlPart},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := subscriptionInMemory().start(t)
				f.up.Queue(proxytest.Stream(
					proxytest.Pause(25*time.Second), gqlText("one"), proxytest.Pause(15*time.Second), gqlText("two"), proxytest.Text(gqlFinish+gqlDone),
				).After(proxytest.Pause(25 * time.Second)))
				began := time.Now()
				s := gqlOpen(t, f, gqlSubscription, gqlChat(), tt.accept)
				if first := s.frame(); first != tt.first || time.Since(began) != 0 {
					t.Errorf("after %v the first frame is %q, want %q at once", time.Since(began), first, tt.first)
				}
				wantPing := func(after time.Duration) {
					t.Helper()
					if frame := s.frame(); frame != tt.ping || time.Since(began) != after {
						t.Fatalf("after %v there is %q, want a ping after %v", time.Since(began), frame, after)
					}
				}
				wantDelta := func(text string, after time.Duration) {
					t.Helper()
					if got := s.delta()["content"]; got != text || time.Since(began) != after {
						t.Fatalf("after %v the delta %v, want %q after %v", time.Since(began), got, text, after)
					}
				}
				for at := 12 * time.Second; at < 50*time.Second; at += 12 * time.Second { // before and behind the headers of the upstream
					wantPing(at)
				}
				wantDelta("one", 50*time.Second)
				wantPing(62 * time.Second)
				wantDelta("two", 65*time.Second)
				s.until()
				s.completes()
			})
		})
	}
}

func TestSubscriptionWhoseClientLeavesIsCancelled(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]proxytest.Answer{
		"before the headers":         proxytest.Hang(),
		"before the first delta":     proxytest.Stream(proxytest.Silence()),
		"between deltas":             proxytest.Stream(gqlText("a"), proxytest.Silence()),
		"within an event":            proxytest.Stream(gqlText("a"), proxytest.Text("data: {"), proxytest.Silence()),
		"while the upstream talks":   proxytest.HandlerFunc(gqlTalk),
		"within the body of a fault": proxytest.Respond(500, http.Header{"Content-Type": {"application/json"}}, proxytest.Text("{"), proxytest.Silence()),
	} {
		for protocol, accept := range map[string]string{"SSE": gqlSSE, "multipart": gqlMultipart} {
			t.Run(name+"/"+protocol, func(t *testing.T) {
				t.Parallel()
				var book gqlBook
				returned := make(chan struct{})
				f := setup{wrap: gqlReturning(returned), options: []proxy.Option{book.hooks()}}.start(t)
				f.up.Queue(answer)
				s := gqlOpen(t, f, gqlSubscription, gqlChat("model", "m"), accept)
				req := f.up.Next()
				s.frame()
				if name != "before the headers" && name != "before the first delta" && name != "within the body of a fault" {
					s.delta()
				}
				left := time.Now()
				s.cancel()
				gqlWait(t, "the cancellation", req.Canceled())
				if took := time.Since(left); took > time.Second {
					t.Errorf("the upstream was cancelled after %v", took)
				}
				gqlWait(t, "the return of the handler", returned)
				outs := book.outcomes()
				if len(outs) != 1 || outs[0].Ending != proxy.EndingClientGone || !errors.Is(outs[0].Err, proxy.ErrClientGone) {
					t.Errorf("hooks were told %q", book.list())
				}
			})
		}
	}
}

// gqlTalk streams deltas until its caller leaves.
func gqlTalk(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for r.Context().Err() == nil {
		if _, err := io.WriteString(w, gqlChunk(`{"content":"`+strings.Repeat("talk ", 200)+`"}`)); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
	}
}

// Not parallel: it counts goroutines.
func TestCallersThatLeaveLeaveNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		query, accept string
		answer        proxytest.Answer
		read          int // frames that are read before leaving
	}{
		"mid-call":                {gqlGetAIResponse, gqlAny, proxytest.Hang(), 0},
		"mid-answer":              {gqlGetAIResponse, gqlAny, proxytest.Respond(200, http.Header{"Content-Type": {"application/json"}}, proxytest.Text("{"), proxytest.Silence()), 0},
		"mid-subscription":        {gqlSubscription, gqlSSE, proxytest.Stream(gqlText("a"), proxytest.Silence()), 2},
		"mid-subscription, parts": {gqlSubscription, gqlMultipart, proxytest.Stream(gqlText("a"), proxytest.Silence()), 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const callers = 40
				var running atomic.Int64
				s := subscriptionInMemory()
				s.wrap = func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						running.Add(1)
						defer running.Add(-1)
						next.ServeHTTP(w, r)
					})
				}
				f := s.start(t)
				ctx, leave := context.WithCancel(t.Context())
				for range callers {
					f.up.Queue(tt.answer)
					go func() {
						req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+"/graphql", strings.NewReader(gqlRequest(tt.query, gqlChat())))
						req.Header.Set("Content-Type", "application/json")
						req.Header.Set("Accept", tt.accept)
						res, err := f.Client().Do(req)
						if err != nil {
							return
						}
						_, _ = io.Copy(io.Discard, res.Body)
						_ = res.Body.Close()
					}()
				}
				synctest.Wait()
				if got := running.Load(); got != callers {
					t.Errorf("%d requests are under way, want %d", got, callers)
				}
				leave()
				synctest.Wait()
				if got := running.Load(); got != 0 {
					t.Errorf("%d handlers still run", got)
				}
				f.wantCalls(t, callers)
				for i, req := range f.up.Requests() {
					select {
					case <-req.Canceled():
					default:
						t.Errorf("upstream call %d is not cancelled", i)
					}
				}
				// That no goroutine is left behind is what the end of the bubble
				// proves: it waits for all of them, and fails if one is stuck.
			})
		})
	}
}

func TestSubscriptionOutlivesTheWriteTimeoutOfTheHost(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		opts   []proxytest.ServerOption
		accept string
	}{
		"SSE":           {nil, gqlSSE},
		"multipart":     {nil, gqlMultipart},
		"SSE on HTTP/2": {[]proxytest.ServerOption{proxytest.HTTP2()}, gqlSSE},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := subscriptionInMemory()
				s.client = append(s.client, proxytest.Configure(func(srv *http.Server) {
					srv.WriteTimeout, srv.ReadTimeout = 2*time.Second, 2*time.Second
				}))
				s.client = append(s.client, tt.opts...)
				f := s.start(t)
				f.up.Queue(proxytest.Stream(
					proxytest.Pause(50*time.Second), gqlText("late"), proxytest.Pause(20*time.Second), gqlText("later"), proxytest.Text(gqlFinish+gqlDone),
				).After(proxytest.Pause(50 * time.Second)))
				st := gqlOpen(t, f, gqlSubscription, gqlChat(), tt.accept)
				if _, text := st.until(); text != "latelater" {
					t.Errorf("deltas %q", text)
				}
				st.completes()
			})
		})
	}
}

func TestCallOutlivesTheWriteTimeoutOfTheHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := subscriptionInMemory()
		s.client = append(s.client, proxytest.Configure(func(srv *http.Server) {
			srv.WriteTimeout, srv.ReadTimeout = 2*time.Second, 2*time.Second
		}))
		f := s.start(t)
		f.up.Queue(proxytest.Chat("late").After(proxytest.Pause(5 * time.Minute)))
		if got := gqlAsk(t, f, gqlGetAIResponse, gqlChat()).ok(t, "getAIResponse")["content"]; got != "late" {
			t.Error(got)
		}
	})
}

func TestSubscriptionEndsWithTheShutdown(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string][]proxytest.Step{
		"before a delta": {proxytest.Silence()},
		"behind a delta": {gqlText("a"), proxytest.Silence()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var book gqlBook
			f := start(t, book.hooks())
			f.up.Queue(proxytest.Stream(steps...))
			s := gqlOpen(t, f, gqlSubscription, gqlChat(), gqlSSE)
			req := f.up.Next()
			s.frame()
			if len(steps) > 1 {
				s.delta()
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := f.handler.Shutdown(ctx); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			s.fails("SHUTTING_DOWN")
			gqlWait(t, "the cancellation", req.Canceled())
			outs := book.outcomes()
			if len(outs) != 1 || outs[0].Err == nil {
				t.Fatalf("hooks were told %q", book.list())
			}
			// Before a delta nobody can tell whether the upstream's headers had come.
			if len(steps) > 1 && outs[0].Ending != proxy.EndingUpstreamCut {
				t.Errorf("the call ended %s", outs[0].Ending)
			}
		})
	}
	t.Run("a graceful one waits", func(t *testing.T) {
		t.Parallel()
		f := start(t)
		gate := make(chan struct{})
		f.up.Queue(proxytest.Stream(gqlText("a"), proxytest.Gate(gate), gqlText("b"), proxytest.Text(gqlFinish+gqlDone)))
		s := gqlOpen(t, f, gqlSubscription, gqlChat(), gqlSSE)
		s.delta()
		down := make(chan error, 1)
		go func() { down <- f.handler.Shutdown(t.Context()) }()
		close(gate)
		if _, text := s.until(); text != "b" {
			t.Errorf("deltas %q", text)
		}
		s.completes()
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}

func TestSubscriptionOutcomes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer proxytest.Answer
		status int
		ending proxy.Ending
		usage  int64
	}{
		"complete":       {proxytest.ChatStream("a", "b"), 200, proxy.EndingComplete, 21},
		"refused":        {proxytest.RateLimited(time.Second), 429, proxy.EndingError, 0},
		"not a stream":   {proxytest.Chat("a"), 502, proxy.EndingError, 0},
		"cut":            {proxytest.Stream(gqlText("a"), proxytest.Cut()), 200, proxy.EndingUpstreamCut, 0},
		"an error event": {proxytest.Stream(gqlText("a"), proxytest.Text(gqlUsage+`data: {"error":{"message":"x"}}`+"\n\n")), 200, proxy.EndingUpstreamCut, 21},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var book gqlBook
			f := start(t, book.hooks())
			f.up.Queue(tt.answer)
			s := gqlOpen(t, f, gqlSubscription, gqlChat("model", "m"), gqlSSE)
			_, _ = io.Copy(io.Discard, s.in)
			outs := book.outcomes()
			if len(outs) != 1 {
				t.Fatalf("hooks were told %q", book.list())
			}
			out := outs[0]
			if out.Status != tt.status || out.Ending != tt.ending || told(out.Usage).TotalTokens != tt.usage || out.Attempts != 1 {
				t.Errorf("outcome %+v, want status %d, %s, %d tokens", out, tt.status, tt.ending, tt.usage)
			}
			if (out.Err == nil) != (tt.ending == proxy.EndingComplete) {
				t.Errorf("error %v with ending %s", out.Err, out.Ending)
			}
			if got := book.list()[0]; got != "admit chat /graphql m true" {
				t.Errorf("Admit was told %q", got)
			}
		})
	}
}

func TestSubscriptionWhoseHookPanicsEnds(t *testing.T) {
	t.Parallel()
	const secret = "secret stack 42"
	for name, hooks := range map[string]proxy.Hooks{
		"Admit":   {Admit: func(context.Context, proxy.Call) error { panic(secret) }},
		"Rewrite": {Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) { panic(secret) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, proxy.WithHooks(hooks))
			s := gqlOpen(t, f, gqlSubscription, gqlChat(), gqlSSE)
			e := s.fails("INTERNAL_SERVER_ERROR")
			if strings.Contains(e.Message, secret) || !strings.Contains(f.logs.String(), secret) {
				t.Errorf("the panic belongs in the log, not in %q", e.Message)
			}
		})
	}
}

// A client that does not read holds the upstream back: what may be on its way
// is what sockets buffer.
func TestSubscriptionOfAClientThatDoesNotReadHoldsTheUpstreamBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		f := subscriptionInMemory(proxy.WithLimits(proxy.Limits{WriteStall: 5 * time.Second})).start(t)
		f.up.Queue(proxytest.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			event := gqlChunk(`{"content":"` + strings.Repeat("x", 32<<10) + `"}`)
			for r.Context().Err() == nil {
				n, err := io.WriteString(w, event)
				sent.Add(int64(n))
				if err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
			}
		}))
		s := gqlOpen(t, f, gqlSubscription, gqlChat(), gqlSSE)
		req := f.up.Next()
		s.frame()
		synctest.Wait() // everything waits for the client
		before := sent.Load()
		if before > 1<<20 {
			t.Errorf("the upstream could send %d bytes to a client that does not read", before)
		}
		s.delta()
		s.delta()
		synctest.Wait()
		if after := sent.Load(); after <= before || after > before+1<<20 {
			t.Errorf("after two deltas were read %d bytes were sent, %d before", after, before)
		}
		// It never reads again: WriteStall ends it.
		time.Sleep(6 * time.Second)
		synctest.Wait()
		select {
		case <-req.Canceled():
		default:
			t.Error("the upstream was not cancelled when the client had not read for 5 s")
		}
	})
}

func TestSubscriptionOnAWriterThatCannotFlushIsRefused(t *testing.T) {
	t.Parallel()
	f := setup{wrap: func(next http.Handler) http.Handler { return http.TimeoutHandler(next, time.Minute, "") }}.start(t)
	gqlAsk(t, f, gqlSubscription, gqlChat(), "Accept", gqlSSE).wantStatus(t, 500).refused(t, "STREAMING_UNSUPPORTED_BY_HOST")
	gqlAsk(t, f, gqlGetAIResponse, gqlChat()).ok(t, "getAIResponse")
	f.wantCalls(t, 1)
}

func TestSubscriptionWithStreamUsage(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithStreamUsage(true), proxy.WithHeartbeat(time.Second))
	f.up.Queue(proxytest.ChatStream("a"))
	s := gqlOpen(t, f, gqlSubscription, gqlChat(), gqlSSE)
	last, _ := s.until()
	wantSame(t, "usage", last["usage"], `{"totalTokens":21}`)
	s.completes()
}

func TestSubscriptionThatRewriteTurnsIntoAPlainCallFails(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithHooks(proxy.Hooks{Rewrite: func(_ context.Context, _ proxy.Call, body []byte) ([]byte, error) {
		return []byte(strings.Replace(string(body), `"stream":true`, `"stream":false`, 1)), nil
	}}))
	s := gqlOpen(t, f, gqlSubscription, gqlChat(), gqlSSE)
	s.fails("UPSTREAM_ERROR")
}
