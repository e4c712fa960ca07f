package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// ended is what Done was told.
type ended struct {
	ctx  context.Context
	call proxy.Call
	out  proxy.Outcome
}

// doneBook keeps what Done was told.
type doneBook struct {
	mu    sync.Mutex
	calls []ended
	news  chan struct{}
}

func newDoneBook() *doneBook { return &doneBook{news: make(chan struct{}, 100)} }

func (b *doneBook) done(ctx context.Context, call proxy.Call, out proxy.Outcome) {
	b.mu.Lock()
	b.calls = append(b.calls, ended{ctx, call, out})
	b.mu.Unlock()
	b.news <- struct{}{}
}

func (b *doneBook) all() []ended {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]ended(nil), b.calls...)
}

// only waits for a Done, lets every handler of f end, and returns the call if
// it is the only one.
func (b *doneBook) only(t *testing.T, f *fixture) ended {
	t.Helper()
	select {
	case <-b.news:
	case <-time.After(10 * time.Second):
		t.Fatal("Done was not called within 10 seconds")
	}
	f.Close()
	calls := b.all()
	if len(calls) != 1 {
		t.Fatalf("Done was called %d times, want once: %v", len(calls), calls)
	}
	return calls[0]
}

// none lets every handler of f end and checks that Done was not called.
func (b *doneBook) none(t *testing.T, f *fixture) {
	t.Helper()
	f.Close()
	if calls := b.all(); len(calls) != 0 {
		t.Errorf("Done was called %d times for calls that were never admitted: %v", len(calls), calls)
	}
}

func TestAdmitRefuses(t *testing.T) {
	t.Parallel()
	own := &proxy.Error{
		Status: 402, Type: "billing", Code: "no_money", Message: "Your month is used up.", Param: "model",
		RetryAfter: 1500 * time.Millisecond, Err: errors.New("ledger 7 at 10.1.2.3"),
	}
	for _, row := range []struct {
		name        string
		err         error
		status      int
		retryAfter  string
		openAI      string // the whole body
		worker      string // what the body contains
		shouldRetry string
	}{
		{
			name: "an Error, as it stands", err: own, status: 402, retryAfter: "2",
			openAI: `{"error":{"message":"Your month is used up.","type":"billing","param":"model","code":"no_money"},"message":"Your month is used up.","status":402}`,
			worker: `"message":"Your month is used up."`,
		},
		{
			name: "an Error inside another", err: fmt.Errorf("quota: %w", own), status: 402, retryAfter: "2",
			openAI: `{"error":{"message":"Your month is used up.","type":"billing","param":"model","code":"no_money"},"message":"Your month is used up.","status":402}`,
			worker: `"code":"no_money"`,
		},
		{
			name: "rate limited", err: &proxy.Error{Status: 429, RetryAfter: time.Minute}, status: 429, retryAfter: "60",
			openAI: `{"error":{"message":"Too Many Requests","type":"rate_limit_error","param":null,"code":"rate_limited"},"message":"Too Many Requests","status":429}`,
			worker: `"error":"Too Many Requests"`,
		},
		{
			name: "unauthorized", err: &proxy.Error{Status: 401, Message: "Who are you?"}, status: 401,
			openAI: `{"error":{"message":"Who are you?","type":"invalid_request_error","param":null,"code":"unauthorized"},"message":"Who are you?","status":401}`,
			worker: `"error":"Unauthorized"`,
		},
		{
			name: "an empty Error", err: &proxy.Error{}, status: 500,
			openAI: `{"error":{"message":"Internal Server Error","type":"server_error","param":null,"code":"internal_error"},"message":"Internal Server Error","status":500}`,
			worker: `"error":"Internal Server Error"`,
		},
		{
			name: "an Error with a status that is none", err: &proxy.Error{Status: 200, Message: "fine"}, status: 500,
			openAI: `{"error":{"message":"fine","type":"server_error","param":null,"code":"internal_error"},"message":"fine","status":500}`,
			worker: `"message":"fine"`,
		},
		{
			name: "any other error", err: errors.New("ledger 7 at 10.1.2.3 says no"), status: 403,
			openAI: `{"error":{"message":"This request is not allowed.","type":"invalid_request_error","param":null,"code":"forbidden"},"message":"This request is not allowed.","status":403}`,
			worker: `"error":"Forbidden"`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			book := newDoneBook()
			f := start(t, proxy.WithHooks(proxy.Hooks{
				Admit: func(context.Context, proxy.Call) error { return row.err },
				Rewrite: func(_ context.Context, _ proxy.Call, body []byte) ([]byte, error) {
					t.Error("Rewrite ran")
					return body, nil
				},
				Done: book.done,
			}))
			for _, path := range []string{chatPath, "/"} {
				for _, body := range []string{askHello, askHelloStream} {
					res, got := f.post(t, path, body)
					if res.StatusCode != row.status || res.Header.Get("Retry-After") != row.retryAfter {
						t.Errorf("%s: status %d, Retry-After %q; want %d, %q", path, res.StatusCode, res.Header.Get("Retry-After"), row.status, row.retryAfter)
					}
					if path == "/" && !strings.Contains(got, row.worker) || path != "/" && strings.TrimSpace(got) != row.openAI {
						t.Errorf("%s: %s; want %s or %s", path, got, row.openAI, row.worker)
					}
					if strings.Contains(got, "ledger") {
						t.Errorf("%s: the cause is shown: %s", path, got)
					}
				}
			}
			if strings.Contains(row.err.Error(), "ledger") && !strings.Contains(f.logs.String(), "ledger 7") {
				t.Errorf("the cause is not logged:\n%s", f.logs)
			}
			f.wantCalls(t, 0)
			book.none(t, f)
		})
	}
}

func TestAdmitSeesTheCall(t *testing.T) {
	t.Parallel()
	var form bytes.Buffer
	parts := multipart.NewWriter(&form)
	_ = parts.WriteField("model", "form-model")
	_ = parts.WriteField("prompt", "a hat")
	_ = parts.Close()
	calls := make(chan proxy.Call, 1)
	f := start(t, proxy.WithDefaultModels("chat-default", "image-default"),
		proxy.WithHooks(proxy.Hooks{Admit: func(_ context.Context, call proxy.Call) error { calls <- call; return nil }}))
	for _, row := range []struct {
		name, path, body, contentType string
		want                          proxy.Call
	}{
		{"chat", chatPath, askHello, "", proxy.Call{Route: proxy.RouteChat, Model: "gpt-x"}},
		{"chat on the root", "/", askHello, "", proxy.Call{Route: proxy.RouteChat, Model: "gpt-x"}},
		{"stream", "/chat/completions", askHelloStream, "", proxy.Call{Route: proxy.RouteChat, Model: "gpt-x", Stream: true}},
		{"stream that is no true", "/chat/completions", `{"messages":[],"model":"m","stream":"true"}`, "", proxy.Call{Route: proxy.RouteChat, Model: "m"}},
		{"no model", chatPath, `{"messages":[]}`, "", proxy.Call{Route: proxy.RouteChat, Model: "chat-default"}},
		{"model with escapes", chatPath, `{"messages":[],"mode\u006c":"gp\u0074-x"}`, "", proxy.Call{Route: proxy.RouteChat, Model: "gpt-x"}},
		{"model that is no text", chatPath, `{"messages":[],"model":7}`, "", proxy.Call{Route: proxy.RouteChat}},
		{"image on the root", "/", askImage, "", proxy.Call{Route: proxy.RouteImages, Model: "img-x"}},
		{"image without a model", "/generate-image", `{"prompt":"x"}`, "", proxy.Call{Route: proxy.RouteImages, Model: "image-default"}},
		{"image stream", "/v1/images/generations", `{"prompt":"x","model":"m","stream":true}`, "", proxy.Call{Route: proxy.RouteImages, Model: "m", Stream: true}},
		{"edit as JSON", "/v1/images/edits", askImage, "", proxy.Call{Route: proxy.RouteImageEdits, Model: "img-x"}},
		{"edit as a form", "/v1/images/edits", form.String(), parts.FormDataContentType(), proxy.Call{Route: proxy.RouteImageEdits, Model: "form-model"}},
	} {
		header := []string{"X-Request-Id", "my-id-1", "X-Tenant", "red"}
		if row.contentType != "" {
			header = append(header, "Content-Type", row.contentType)
		}
		res, body := f.post(t, row.path, row.body, header...)
		var got proxy.Call
		select {
		case got = <-calls:
		default:
			t.Errorf("%s: not asked; status %d, %s", row.name, res.StatusCode, body)
			continue
		}
		if got.Route != row.want.Route || got.Model != row.want.Model || got.Stream != row.want.Stream || got.Method != "POST" ||
			got.Path != row.path || got.RequestID != "my-id-1" || got.Header.Get("X-Tenant") != "red" {
			t.Errorf("%s: Admit saw %v, want %v", row.name, got, row.want)
		}
	}
	f.post(t, chatPath, askHello)
	if made := (<-calls).RequestID; made == "" || made == "my-id-1" {
		t.Errorf("a request without an id has %q", made)
	}
}

func TestRequestsThatAreNoCallsPassNoHook(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithHooks(proxy.Hooks{
		Admit: func(_ context.Context, call proxy.Call) error { t.Errorf("Admit was asked about %v", call); return nil },
		Done:  func(_ context.Context, call proxy.Call, _ proxy.Outcome) { t.Errorf("Done was told of %v", call) },
	}))
	f.do(t, http.MethodGet, chatPath, "")
	f.do(t, http.MethodOptions, chatPath, "")
	f.post(t, "/nothing", askHello)
	f.post(t, chatPath, "{")
	f.post(t, chatPath, `{"messages":7}`)
	f.post(t, chatPath, askHello, "Origin", "https://evil.example")
	f.post(t, chatPath, askHello, "Content-Encoding", "gzip")
	preflight(t, f, chatPath, "https://app.example.com")
	f.wantCalls(t, 0)
}

func TestRewriteChangesWhatIsSent(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 1)
	rewrite := func(_ context.Context, call proxy.Call, body []byte) ([]byte, error) {
		seen <- string(body)
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(body, &fields); err != nil {
			return nil, err
		}
		fields["model"] = json.RawMessage(`"forced"`)
		if call.Route == proxy.RouteChat {
			var messages []json.RawMessage
			if err := json.Unmarshal(fields["messages"], &messages); err != nil {
				return nil, err
			}
			messages = append([]json.RawMessage{json.RawMessage(`{"role":"system","content":"Be kind."}`)}, messages...)
			fields["messages"], _ = json.Marshal(messages)
		}
		return json.Marshal(fields)
	}
	book := newDoneBook()
	f := start(t, proxy.WithHooks(proxy.Hooks{Rewrite: rewrite, Done: book.done}), proxy.WithDefaultModels("gpt-4o", "dall-e-2"))
	for _, row := range []struct{ name, path, body, saw, sent string }{
		{
			"a system prompt and a model", chatPath, askHello, askHello,
			`{"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"hi"}],"model":"forced"}`,
		},
		{
			"after the default model", chatPath, `{"messages":[]}`, `{"model":"gpt-4o","messages":[]}`,
			`{"messages":[{"role":"system","content":"Be kind."}],"model":"forced"}`,
		},
		{
			"after the defaults of the worker's face", "/", `{"messages":[]}`, `{"model":"gpt-4o","temperature":0.7,"max_tokens":1000,"messages":[]}`,
			`{"max_tokens":1000,"messages":[{"role":"system","content":"Be kind."}],"model":"forced","temperature":0.7}`,
		},
		{
			"an image", "/generate-image", `{"prompt":"x"}`, `{"model":"dall-e-2","n":1,"size":"1024x1024","response_format":"url","prompt":"x"}`,
			`{"model":"forced","n":1,"prompt":"x","response_format":"url","size":"1024x1024"}`,
		},
		{"an edit as JSON", "/v1/images/edits", askImage, askImage, `{"model":"forced","prompt":"a cat"}`},
	} {
		f.post(t, row.path, row.body)
		if got := <-seen; got != row.saw {
			t.Errorf("%s: Rewrite saw %s, want %s", row.name, got, row.saw)
		}
		if got := string(f.up.Next().Body); got != row.sent {
			t.Errorf("%s: sent %s, want %s", row.name, got, row.sent)
		}
		<-book.news
	}
	for _, end := range book.all() {
		if end.call.Model != "forced" {
			t.Errorf("Done was told of the model %q, want the one that was sent", end.call.Model)
		}
	}
}

func TestRewriteDecidesAboutTheStream(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		asked, rewritten string
		stream           bool
	}{
		{askHello, askHelloStream, true},
		{askHelloStream, askHello, false},
	} {
		book := newDoneBook()
		f := start(t, proxy.WithHooks(proxy.Hooks{
			Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) { return []byte(row.rewritten), nil },
			Done:    book.done,
		}))
		res, _ := f.post(t, chatPath, row.asked)
		if got := strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream"); got != row.stream {
			t.Errorf("answered with %q, stream want %v", res.Header.Get("Content-Type"), row.stream)
		}
		if end := book.only(t, f); end.call.Stream != row.stream || end.out.Ending != proxy.EndingComplete {
			t.Errorf("Done was told %v, %v", end.call, end.out)
		}
	}
}

// A stream that only Rewrite asks for meets a writer that cannot flush before
// the upstream is called, as any other stream does.
func TestRewriteToAStreamOnAWriterThatCannotFlush(t *testing.T) {
	t.Parallel()
	f := setup{
		wrap: func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Minute, "too slow") },
		options: []proxy.Option{proxy.WithHooks(proxy.Hooks{
			Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) { return []byte(askHelloStream), nil },
		})},
	}.start(t)
	res, body := f.post(t, chatPath, askHello)
	if res.StatusCode != http.StatusInternalServerError || !strings.Contains(body, `"streaming_unsupported_by_host"`) {
		t.Errorf("status %d, %s; want 500 streaming_unsupported_by_host", res.StatusCode, body)
	}
	f.wantCalls(t, 0)
}

func TestRewriteResultIsCheckedLikeAClientsBody(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, path, ask, result string }{
		{"nothing", chatPath, askHello, ""},
		{"no JSON", chatPath, askHello, "{"},
		{"an array", chatPath, askHello, "[]"},
		{"null", chatPath, askHello, "null"},
		{"two values", chatPath, askHello, askHello + askHello},
		{"no messages", chatPath, askHello, `{"model":"m"}`},
		{"messages that are no array", chatPath, askHello, `{"model":"m","messages":{}}`},
		{"a guarded key twice", chatPath, askHello, `{"model":"m","messages":[],"model":"n"}`},
		{"a guarded key twice by escapes", chatPath, askHello, `{"model":"m","messages":[],"\u006dodel":"n"}`},
		{"an image without a prompt", "/v1/images/generations", askImage, `{"model":"m"}`},
		{"an image with an empty prompt", "/v1/images/generations", askImage, `{"model":"m","prompt":""}`},
		{"invalid UTF-8", chatPath, askHello, "{\"messages\":[],\"x\":\"\xff\"}"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			book := newDoneBook()
			f := start(t, proxy.WithHooks(proxy.Hooks{
				Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) { return []byte(row.result), nil },
				Done:    book.done,
			}))
			res, body := f.post(t, row.path, row.ask)
			if res.StatusCode != http.StatusInternalServerError || !strings.Contains(body, `"internal_error"`) || !strings.Contains(body, `"Internal Server Error"`) {
				t.Errorf("status %d, %s; want 500 internal_error with no more than the status text", res.StatusCode, body)
			}
			f.wantCalls(t, 0)
			if end := book.only(t, f); end.out.Status != 500 || end.out.Ending != proxy.EndingError || end.out.Attempts != 0 || end.out.Err == nil {
				t.Errorf("Done was told %+v", end.out)
			}
		})
	}
}

func TestRewriteErrors(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		err    error
		status int
		body   string
	}{
		{"an Error, as it stands", &proxy.Error{Status: 422, Code: "too_rude", Message: "Be kind.", RetryAfter: time.Second}, 422, `"too_rude"`},
		{"an Error inside another", fmt.Errorf("x: %w", &proxy.Error{Status: 422, Code: "too_rude", Message: "Be kind."}), 422, `"Be kind."`},
		{"any other error", errors.New("template at /srv/prompts is broken"), 500, `"internal_error"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			book := newDoneBook()
			f := start(t, proxy.WithHooks(proxy.Hooks{
				Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) { return nil, row.err },
				Done:    book.done,
			}))
			res, body := f.post(t, chatPath, askHello)
			if res.StatusCode != row.status || !strings.Contains(body, row.body) || strings.Contains(body, "/srv") {
				t.Errorf("status %d, %s; want %d %s", res.StatusCode, body, row.status, row.body)
			}
			f.wantCalls(t, 0)
			end := book.only(t, f)
			var e *proxy.Error
			if end.out.Status != row.status || end.out.Ending != proxy.EndingError || !errors.As(end.out.Err, &e) || e.Status != row.status {
				t.Errorf("Done was told %+v", end.out)
			}
		})
	}
}

func TestFormsAreNeverRewritten(t *testing.T) {
	t.Parallel()
	var form bytes.Buffer
	parts := multipart.NewWriter(&form)
	_ = parts.WriteField("prompt", "a hat")
	_ = parts.Close()
	book := newDoneBook()
	f := start(t, proxy.WithHooks(proxy.Hooks{
		Rewrite: func(_ context.Context, _ proxy.Call, body []byte) ([]byte, error) {
			t.Error("Rewrite ran")
			return body, nil
		},
		Done: book.done,
	}))
	f.post(t, "/v1/images/edits", form.String(), "Content-Type", parts.FormDataContentType())
	if got := string(f.up.Next().Body); got != form.String() {
		t.Errorf("sent %q, want the form as it was", got)
	}
	book.only(t, f)
}

func TestDoneIsToldOnceOnEveryWayOut(t *testing.T) {
	t.Parallel()
	type want struct {
		status   int
		ending   proxy.Ending
		attempts int
		code     proxy.ErrorCode // of Outcome.Err; "" for none
	}
	for _, row := range []struct {
		name   string
		body   string
		answer *proxytest.Answer
		hooks  proxy.Hooks
		more   []proxy.Option
		want   want
	}{
		{name: "answer", body: askHello, want: want{200, proxy.EndingComplete, 1, ""}},
		{name: "stream", body: askHelloStream, want: want{200, proxy.EndingComplete, 1, ""}},
		{
			name: "stream without a mark of its end", body: askHelloStream,
			answer: new(proxytest.Stream(proxytest.Text("data: {\"choices\":[]}\n\n"))), want: want{200, proxy.EndingIncomplete, 1, ""},
		},
		{
			name: "stream with a finish_reason only", body: askHelloStream,
			answer: new(proxytest.Stream(proxytest.Text("data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n"))), want: want{200, proxy.EndingComplete, 1, ""},
		},
		{
			name: "no key", body: askHello, more: []proxy.Option{proxy.WithKeySource(proxy.FirstKey())},
			want: want{500, proxy.EndingError, 0, proxy.CodeMissingAPIKey},
		},
		{
			name: "key source fails", body: askHello,
			more: []proxy.Option{proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) { return "", io.ErrUnexpectedEOF }))},
			want: want{503, proxy.EndingError, 0, proxy.CodeKeyUnavailable},
		},
		{
			name: "key source panics", body: askHello,
			more: []proxy.Option{proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) { panic("vault") }))},
			want: want{500, proxy.EndingError, 0, proxy.CodeInternalError},
		},
		{
			name: "Rewrite fails", body: askHello,
			hooks: proxy.Hooks{Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) { return nil, io.ErrUnexpectedEOF }},
			want:  want{500, proxy.EndingError, 0, proxy.CodeInternalError},
		},
		{
			name: "Rewrite panics", body: askHello,
			hooks: proxy.Hooks{Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) { panic("template") }},
			want:  want{500, proxy.EndingError, 0, proxy.CodeInternalError},
		},
		{
			name: "transport panics", body: askHello,
			more: []proxy.Option{proxy.WithTransport(brokenTransport(func(*http.Request) (*http.Response, error) { panic("wire") }))},
			want: want{500, proxy.EndingError, 1, proxy.CodeInternalError},
		},
		{
			name: "upstream says 400", body: askHello, answer: new(proxytest.Failure(400, "invalid_request_error", "bad", "no")),
			want: want{400, proxy.EndingError, 1, "bad"},
		},
		{name: "upstream says 429 to a stream", body: askHelloStream, answer: new(proxytest.RateLimited(time.Second)), want: want{429, proxy.EndingError, 1, ""}},
		{
			name: "upstream refuses our key", body: askHello, answer: new(proxytest.Failure(401, "t", "c", "no")),
			want: want{502, proxy.EndingError, 1, proxy.CodeUpstreamAuth},
		},
		{
			name: "upstream redirects", body: askHello, answer: new(proxytest.JSON(307, "").WithHeader("Location", "/")),
			want: want{502, proxy.EndingError, 1, proxy.CodeUpstreamRedirect},
		},
		{name: "upstream hangs up", body: askHello, answer: new(proxytest.Raw("")), want: want{502, proxy.EndingError, 1, proxy.CodeUpstreamUnreachable}},
		{name: "upstream breaks a plain answer", body: askHello, answer: new(proxytest.Respond(200, http.Header{
			"Content-Type": {"application/json"},
		}, proxytest.Text(`{"id":`), proxytest.Cut())), want: want{502, proxy.EndingError, 1, proxy.CodeUpstreamBadResponse}},
		{name: "upstream sends no JSON", body: askHello, answer: new(proxytest.JSON(200, "<html>")), want: want{502, proxy.EndingError, 1, proxy.CodeUpstreamBadResponse}},
		{
			name: "upstream breaks a stream", body: askHelloStream, answer: new(proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Cut())),
			want: want{200, proxy.EndingUpstreamCut, 1, proxy.CodeUpstreamDisconnected},
		},
		{
			name: "upstream is silent in a stream", body: askHelloStream, answer: new(proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Silence())),
			more: []proxy.Option{proxy.WithLimits(proxy.Limits{StreamIdle: time.Minute})},
			want: want{200, proxy.EndingUpstreamCut, 1, proxy.CodeUpstreamTimeout},
		},
		{
			name: "stream takes too long", body: askHelloStream, answer: new(proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Silence())),
			more: []proxy.Option{proxy.WithLimits(proxy.Limits{StreamMax: time.Minute})},
			want: want{200, proxy.EndingUpstreamCut, 1, proxy.CodeStreamLimit},
		},
		{
			name: "no headers in time", body: askHello, answer: new(proxytest.Hang()),
			more: []proxy.Option{proxy.WithLimits(proxy.Limits{HeaderTime: time.Minute})},
			want: want{504, proxy.EndingError, 1, proxy.CodeUpstreamTimeout},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				book := newDoneBook()
				hooks := row.hooks
				hooks.Admit = func(context.Context, proxy.Call) error { return nil }
				hooks.Done = book.done
				s := inMemory(append([]proxy.Option{proxy.WithHooks(hooks)}, row.more...)...)
				f := s.start(t)
				if row.answer != nil {
					f.up.Queue(*row.answer)
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+chatPath, strings.NewReader(row.body))
				if err != nil {
					t.Fatal(err)
				}
				res, err := f.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				read, _ := io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				end := book.only(t, f)
				out := end.out
				if res.StatusCode != row.want.status || out.Status != row.want.status || out.Ending != row.want.ending || out.Attempts != row.want.attempts {
					t.Errorf("the client got %d, Done was told %+v; want %+v", res.StatusCode, out, row.want)
				}
				if clean := out.Ending == proxy.EndingComplete || out.Ending == proxy.EndingIncomplete; clean != (out.Err == nil) {
					t.Errorf("ending %s with the error %v", out.Ending, out.Err)
				} else if clean && out.Bytes != read {
					t.Errorf("Done was told of %d bytes, the client has read %d", out.Bytes, read)
				}
				if row.want.code != "" {
					var e *proxy.Error
					if !errors.As(out.Err, &e) && row.want.code != proxy.CodeInternalError {
						t.Errorf("the error is %T %v, want an *Error", out.Err, out.Err)
					} else if e != nil && e.Code != row.want.code && row.want.code != proxy.CodeInternalError {
						t.Errorf("the error's code is %q, want %q", e.Code, row.want.code)
					}
				}
				if end.ctx.Err() != nil {
					t.Errorf("the context of Done is over: %v", end.ctx.Err())
				}
			})
		})
	}
}

func TestErrNoKeyIsFoundInTheOutcome(t *testing.T) {
	t.Parallel()
	book := newDoneBook()
	f := start(t, proxy.WithKeySource(proxy.FirstKey()), proxy.WithHooks(proxy.Hooks{Done: book.done}))
	f.post(t, "/", askHello)
	if end := book.only(t, f); !errors.Is(end.out.Err, proxy.ErrNoKey) {
		t.Errorf("the outcome's error is %v", end.out.Err)
	}
}

// With a clock of its own a test can tell times exactly.
func TestOutcomeFields(t *testing.T) {
	t.Parallel()
	plain := `{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":11,"total_tokens":18,` +
		`"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":5}}}`
	stream := []string{"data: {\"choices\":[]}\n\n", "data: " + plain + "\n\n", "data: [DONE]\n\n"}
	usage := proxy.Usage{Reported: true, PromptTokens: 7, CompletionTokens: 11, TotalTokens: 18, CachedTokens: 3, ReasoningTokens: 5}
	for _, row := range []struct {
		name, path, body string
		answer           proxytest.Answer
		bytes            int
		first, all       time.Duration
		usage            proxy.Usage
	}{
		{"answer", chatPath, askHello, proxytest.JSON(200, plain).After(proxytest.Pause(2 * time.Second)), len(plain), 2 * time.Second, 2 * time.Second, usage},
		{
			"stream", chatPath, askHelloStream,
			proxytest.Stream(proxytest.Text(stream[0]), proxytest.Pause(3*time.Second), proxytest.Text(stream[1]), proxytest.Text(stream[2])).After(proxytest.Pause(2 * time.Second)),
			len(stream[0] + stream[1] + stream[2]), 2 * time.Second, 5 * time.Second, usage,
		},
		{"answer without usage", chatPath, askHello, proxytest.JSON(200, `{}`), 2, 0, 0, proxy.Usage{}},
		{
			"image", "/v1/images/generations", askImage, proxytest.JSON(200, `{"data":[],"usage":{"input_tokens":10,"output_tokens":20,"total_tokens":30}}`), 76, 0, 0,
			proxy.Usage{Reported: true, PromptTokens: 10, CompletionTokens: 20, TotalTokens: 30, Images: 1},
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			book := newDoneBook()
			f := inMemory(proxy.WithHooks(proxy.Hooks{Done: book.done})).start(t)
			f.up.Queue(row.answer)
			f.post(t, row.path, row.body)
			out := book.only(t, f).out
			if out.Status != 200 || out.Ending != proxy.EndingComplete || out.Err != nil || out.Attempts != 1 {
				t.Errorf("%s: %+v", row.name, out)
			}
			if out.Bytes != int64(row.bytes) || out.FirstByte != row.first || out.Duration != row.all {
				t.Errorf("%s: %d bytes, first after %v, end after %v; want %d, %v, %v",
					row.name, out.Bytes, out.FirstByte, out.Duration, row.bytes, row.first, row.all)
			}
			if told(out.Usage) != row.usage {
				t.Errorf("%s: usage %+v, want %+v", row.name, out.Usage, row.usage)
			}
		})
	}
}

// leaver sends a request and leaves when told to.
type leaver struct {
	leave    context.CancelFunc
	answered chan error // nil when a response came
	body     chan []byte
}

func sendLeaver(t *testing.T, f *fixture, body string) *leaver {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &leaver{leave: cancel, answered: make(chan error, 1), body: make(chan []byte, 100)}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+chatPath, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(l.body)
		res, err := f.Client().Do(req)
		l.answered <- err
		if err != nil {
			return
		}
		defer res.Body.Close()
		for {
			p := make([]byte, 1<<10)
			n, err := res.Body.Read(p)
			if n > 0 {
				l.body <- p[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	return l
}

func TestF25ClientLeavesAtEveryMoment(t *testing.T) {
	t.Parallel()
	type valueKey struct{}
	type moment struct {
		name   string
		body   string
		build  func(reached chan<- struct{}) ([]proxy.Option, *proxy.Hooks, *proxytest.Answer)
		stands func(t *testing.T, f *fixture, l *leaver, reached <-chan struct{})
		calls  int
		status int
	}
	waitHook := func(t *testing.T, _ *fixture, _ *leaver, reached <-chan struct{}) { <-reached }
	waitUpstream := func(_ *testing.T, f *fixture, _ *leaver, _ <-chan struct{}) { f.up.Next() }
	waitByte := func(_ *testing.T, _ *fixture, l *leaver, _ <-chan struct{}) { <-l.body }
	answered := func(a proxytest.Answer) func(chan<- struct{}) ([]proxy.Option, *proxy.Hooks, *proxytest.Answer) {
		return func(chan<- struct{}) ([]proxy.Option, *proxy.Hooks, *proxytest.Answer) {
			return nil, &proxy.Hooks{}, &a
		}
	}
	for _, m := range []moment{
		{
			name: "Rewrite blocks", body: askHello, status: 499, stands: waitHook,
			build: func(reached chan<- struct{}) ([]proxy.Option, *proxy.Hooks, *proxytest.Answer) {
				return nil, &proxy.Hooks{Rewrite: func(ctx context.Context, _ proxy.Call, _ []byte) ([]byte, error) {
					close(reached)
					<-ctx.Done()
					return nil, ctx.Err()
				}}, nil
			},
		},
		{
			name: "Rewrite blocks and goes on all the same", body: askHello, status: 499, stands: waitHook,
			build: func(reached chan<- struct{}) ([]proxy.Option, *proxy.Hooks, *proxytest.Answer) {
				return nil, &proxy.Hooks{Rewrite: func(ctx context.Context, _ proxy.Call, body []byte) ([]byte, error) {
					close(reached)
					<-ctx.Done()
					return body, nil
				}}, nil
			},
		},
		{
			name: "Admit blocks and lets the call pass", body: askHello, status: 499, stands: waitHook,
			build: func(reached chan<- struct{}) ([]proxy.Option, *proxy.Hooks, *proxytest.Answer) {
				return nil, &proxy.Hooks{Admit: func(ctx context.Context, _ proxy.Call) error {
					close(reached)
					<-ctx.Done()
					return nil
				}}, nil
			},
		},
		{
			name: "the key source blocks", body: askHello, status: 499, stands: waitHook,
			build: func(reached chan<- struct{}) ([]proxy.Option, *proxy.Hooks, *proxytest.Answer) {
				return []proxy.Option{proxy.WithKeySource(proxy.KeyFunc(func(r *http.Request) (string, error) {
					close(reached)
					<-r.Context().Done()
					return "", r.Context().Err()
				}))}, &proxy.Hooks{}, nil
			},
		},
		{name: "before the headers", body: askHello, status: 499, calls: 1, stands: waitUpstream, build: answered(proxytest.Hang())},
		{name: "before the headers of a stream", body: askHelloStream, status: 499, calls: 1, stands: waitUpstream, build: answered(proxytest.Hang())},
		{
			name: "in the middle of a plain answer", body: askHello, status: 499, calls: 1, stands: waitUpstream,
			build: answered(proxytest.Respond(200, http.Header{"Content-Type": {"application/json"}}, proxytest.Text(`{"a":`), proxytest.Silence())),
		},
		{
			name: "in the middle of an error answer", body: askHello, status: 499, calls: 1, stands: waitUpstream,
			build: answered(proxytest.Respond(500, http.Header{"Content-Type": {"application/json"}}, proxytest.Text(`{"a":`), proxytest.Silence())),
		},
		{
			name: "behind the headers of a stream", body: askHelloStream, status: 200, calls: 1,
			stands: func(_ *testing.T, _ *fixture, l *leaver, _ <-chan struct{}) { l.answered <- <-l.answered },
			build:  answered(proxytest.Stream(proxytest.Silence())),
		},
		{
			name: "in the middle of a stream", body: askHelloStream, status: 200, calls: 1, stands: waitByte,
			build: answered(proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Silence())),
		},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			reached := make(chan struct{})
			book := newDoneBook()
			options, hooks, answer := m.build(reached)
			hooks.Done = book.done
			f := setup{
				options: append(options, proxy.WithHooks(*hooks)),
				wrap: func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), valueKey{}, "of the host")))
					})
				},
			}.start(t)
			if answer != nil {
				f.up.Queue(*answer)
			}
			l := sendLeaver(t, f, m.body)
			m.stands(t, f, l, reached)
			l.leave()
			end := book.only(t, f)
			if end.out.Ending != proxy.EndingClientGone || end.out.Status != m.status || !errors.Is(end.out.Err, proxy.ErrClientGone) {
				t.Errorf("Done was told %+v; want %s, %d, ErrClientGone", end.out, proxy.EndingClientGone, m.status)
			}
			if end.ctx.Err() != nil || end.ctx.Value(valueKey{}) != "of the host" {
				t.Errorf("the context of Done: error %v, value %v; want none, and the host's", end.ctx.Err(), end.ctx.Value(valueKey{}))
			}
			f.wantCalls(t, m.calls)
		})
	}
}

func TestClientLeavesWhileAdmitBlocks(t *testing.T) {
	t.Parallel()
	reached, returned := make(chan struct{}), make(chan struct{})
	book := newDoneBook()
	f := start(t, proxy.WithHooks(proxy.Hooks{
		Admit: func(ctx context.Context, _ proxy.Call) error {
			close(reached)
			defer close(returned)
			<-ctx.Done()
			return ctx.Err()
		},
		Done: book.done,
	}))
	l := sendLeaver(t, f, askHello)
	<-reached
	l.leave()
	<-returned
	book.none(t, f)
	f.wantCalls(t, 0)
	if logs := f.logs.String(); strings.Contains(logs, "level=ERROR") {
		t.Errorf("a caller who leaves is logged as our failure:\n%s", logs)
	}
}

func TestLeavingCallerIsNotLoggedAsAFailure(t *testing.T) {
	t.Parallel()
	reached := make(chan struct{})
	book := newDoneBook()
	f := start(t, proxy.WithHooks(proxy.Hooks{
		Rewrite: func(ctx context.Context, _ proxy.Call, _ []byte) ([]byte, error) {
			close(reached)
			<-ctx.Done()
			return nil, ctx.Err()
		},
		Done: book.done,
	}))
	l := sendLeaver(t, f, askHello)
	<-reached
	l.leave()
	book.only(t, f)
	if logs := f.logs.String(); strings.Contains(logs, "level=ERROR") {
		t.Errorf("a caller who leaves is logged as our failure:\n%s", logs)
	}
}

func TestShutdownEndsCallsWithDone(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, body string
		answer     *proxytest.Answer
		hooks      func(reached chan struct{}) proxy.Hooks
		status     int // of the client's answer
		ending     proxy.Ending
	}{
		{
			name: "stream", body: askHelloStream, answer: new(proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Silence())),
			status: 200, ending: proxy.EndingUpstreamCut,
		},
		{name: "before the headers", body: askHello, answer: new(proxytest.Hang()), status: 503, ending: proxy.EndingError},
		{
			name: "Rewrite", body: askHello, status: 503, ending: proxy.EndingError,
			hooks: func(reached chan struct{}) proxy.Hooks {
				return proxy.Hooks{Rewrite: func(ctx context.Context, _ proxy.Call, _ []byte) ([]byte, error) {
					close(reached)
					<-ctx.Done()
					return nil, ctx.Err()
				}}
			},
		},
		{
			name: "Admit", body: askHello, status: 503,
			hooks: func(reached chan struct{}) proxy.Hooks {
				return proxy.Hooks{Admit: func(ctx context.Context, _ proxy.Call) error {
					close(reached)
					<-ctx.Done()
					return ctx.Err()
				}}
			},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			book, reached := newDoneBook(), make(chan struct{})
			var hooks proxy.Hooks
			if row.hooks != nil {
				hooks = row.hooks(reached)
			}
			hooks.Done = book.done
			f := start(t, proxy.WithHooks(hooks))
			if row.answer != nil {
				f.up.Queue(*row.answer)
			}
			type result struct {
				status int
				body   string
			}
			results := make(chan result, 1)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+chatPath, strings.NewReader(row.body))
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				res, err := f.Client().Do(req)
				if err != nil {
					results <- result{body: err.Error()}
					return
				}
				defer res.Body.Close()
				body, _ := io.ReadAll(res.Body)
				results <- result{res.StatusCode, string(body)}
			}()
			if row.answer != nil {
				f.up.Next()
			} else {
				<-reached
			}
			now, cancel := context.WithCancel(t.Context())
			cancel()
			if err := f.handler.Shutdown(now); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			got := <-results
			// A stream may be ended before its headers are out.
			if got.status != row.status && (row.name != "stream" || got.status != 503) || !strings.Contains(got.body, `"shutting_down"`) {
				t.Errorf("the client got %d %s, want %d with shutting_down", got.status, got.body, row.status)
			}
			if row.ending == "" {
				book.none(t, f)
				return
			}
			if end := book.only(t, f); end.out.Status != got.status || end.out.Ending != row.ending && got.status == row.status {
				t.Errorf("Done was told %+v; want %s", end.out, row.ending)
			}
			if status, retry := afterShutdown(t, f); status != http.StatusServiceUnavailable || retry == "" {
				t.Errorf("a request after Shutdown got %d, Retry-After %q", status, retry)
			}
		})
	}
}

// afterShutdown asks the handler on a new server: the old one is closed by now.
func afterShutdown(t *testing.T, f *fixture) (status int, retryAfter string) {
	t.Helper()
	srv := proxytest.Serve(t, f.handler)
	res, err := srv.Client().Post(srv.URL, "application/json", strings.NewReader(askHello))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode, res.Header.Get("Retry-After")
}

func TestF32HooksThatPanicFailTheirOwnRequestOnly(t *testing.T) {
	t.Parallel()
	panics := func(h http.Header, where string) {
		if h.Get("X-Test") == where {
			panic("in " + where + " with " + canary)
		}
	}
	done := make(chan proxy.Outcome, 100)
	f := start(t, proxy.WithHooks(proxy.Hooks{
		Admit: func(_ context.Context, call proxy.Call) error { panics(call.Header, "Admit"); return nil },
		Rewrite: func(_ context.Context, call proxy.Call, body []byte) ([]byte, error) {
			panics(call.Header, "Rewrite")
			return body, nil
		},
		Done: func(_ context.Context, call proxy.Call, out proxy.Outcome) {
			done <- out
			panics(call.Header, "Done")
		},
	}))
	// Another stream is open all the while.
	more := make(chan struct{})
	f.up.Queue(proxytest.Stream(proxytest.Text("data: 1\n\n"), proxytest.Gate(more), proxytest.Text("data: 2\n\n")))
	open := sendLeaver(t, f, askHelloStream)
	first := <-open.body
	for _, row := range []struct {
		where, body string
		status      int
		dones       int
		calls       int
	}{
		{"Admit", askHello, 500, 0, 0},
		{"Admit", askHelloStream, 500, 0, 0},
		{"Rewrite", askHello, 500, 1, 0},
		{"Rewrite", askHelloStream, 500, 1, 0},
		{"Done", askHello, 200, 1, 1},
		{"Done", askHelloStream, 200, 1, 1},
		{"none", askHello, 200, 1, 1},
	} {
		before := len(f.up.Requests())
		res, body := f.post(t, chatPath, row.body, "X-Test", row.where)
		if res.StatusCode != row.status {
			t.Errorf("panic in %s: status %d, want %d: %s", row.where, res.StatusCode, row.status, body)
		}
		if row.status == 500 && (!strings.Contains(body, `"internal_error"`) || strings.Contains(body, "in "+row.where)) {
			t.Errorf("panic in %s: %s; want internal_error and not a word of the panic", row.where, body)
		}
		if calls := len(f.up.Requests()) - before; calls != row.calls {
			t.Errorf("panic in %s: %d upstream calls, want %d", row.where, calls, row.calls)
		}
		for range row.dones {
			if out := <-done; row.status == 500 && (out.Ending != proxy.EndingError || out.Status != 500 || out.Err == nil) {
				t.Errorf("panic in %s: Done was told %+v", row.where, out)
			}
		}
		if len(done) != 0 {
			t.Errorf("panic in %s: Done was called more than once", row.where)
		}
	}
	close(more)
	rest := first
	for p := range open.body {
		rest = append(rest, p...)
	}
	if string(rest) != "data: 1\n\ndata: 2\n\n" {
		t.Errorf("the other stream got %q", rest)
	}
	if logs := f.logs.String(); !strings.Contains(logs, "in Admit") || !strings.Contains(logs, "in Rewrite") || !strings.Contains(logs, "in Done") {
		t.Errorf("a panic is not in the log:\n%s", logs)
	}
}

// A panic of a hook while the host wants to abort a response goes on to the
// server, which knows it.
func TestAbortHandlerPassesThroughHooks(t *testing.T) {
	t.Parallel()
	book := newDoneBook()
	f := start(t, proxy.WithHooks(proxy.Hooks{
		Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) { panic(http.ErrAbortHandler) },
		Done:    book.done,
	}))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+chatPath, strings.NewReader(askHello))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := f.Client().Do(req); err == nil {
		_ = res.Body.Close()
		t.Errorf("answered with %d, want the connection to be cut", res.StatusCode)
	}
	if end := book.only(t, f); end.out.Ending != proxy.EndingError {
		t.Errorf("Done was told %+v", end.out)
	}
}

func TestDoneIsCalledBeforeTheHandlerReturns(t *testing.T) {
	t.Parallel()
	book := newDoneBook()
	counts := make(chan int, 1)
	f := setup{
		options: []proxy.Option{proxy.WithHooks(proxy.Hooks{Done: book.done})},
		wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r)
				counts <- len(book.all())
			})
		},
	}.start(t)
	for i, body := range []string{askHello, askHelloStream, `{"messages":[],"model":"m","stream":true}`} {
		f.post(t, chatPath, body)
		if got := <-counts; got != i+1 {
			t.Errorf("request %d: Done had been called %d times when the handler returned", i+1, got)
		}
	}
}

func TestManyCallsArePairedWithDone(t *testing.T) {
	t.Parallel()
	const n = 60
	book := newDoneBook()
	book.news = make(chan struct{}, 2*n)
	var mu sync.Mutex
	admitted := map[string]int{}
	f := start(t, proxy.WithHooks(proxy.Hooks{
		Admit: func(_ context.Context, call proxy.Call) error {
			if strings.HasSuffix(call.RequestID, "0") {
				return &proxy.Error{Status: http.StatusTooManyRequests}
			}
			mu.Lock()
			defer mu.Unlock()
			admitted[call.RequestID]++
			return nil
		},
		Done: book.done,
	}))
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			body := askHello
			if i%2 == 0 {
				body = askHelloStream
			}
			f.post(t, chatPath, body, "X-Request-Id", fmt.Sprint("call-", i))
		})
	}
	wg.Wait()
	f.Close()
	told := map[string]int{}
	for _, end := range book.all() {
		told[end.call.RequestID]++
	}
	if len(admitted) != n-n/10 || len(told) != len(admitted) {
		t.Errorf("%d admitted, %d told, of %d", len(admitted), len(told), n)
	}
	for id, times := range admitted {
		if times != 1 || told[id] != 1 {
			t.Errorf("%s: admitted %d times, Done told %d times", id, times, told[id])
		}
	}
}
