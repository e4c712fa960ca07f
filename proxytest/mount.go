package proxytest

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// CheckMount tells whether what a host puts around the proxy lets it work:
// middlewares and routers that buffer, compress, cut or hide the end of streams
// do so silently, and only in production.
//
// mount gets a proxy over a fake upstream and returns the handler as the host's
// server would serve it, with all that stands before it but the login; it is
// called once for each protocol. path is where that handler has the proxy's
// /v1/chat/completions, such as "/api/v1/chat/completions".
//
// Over HTTP/1.1 and over HTTP/2 CheckMount makes a few calls on loopback and
// fails the test with one sentence for each fault: the route is not found, an
// answer is changed or compressed, an event arrives only with the next one, Flush
// or deadlines are hidden, requests have a deadline, a broken stream looks whole,
// a client that leaves is not noticed, or a second CORS header is added. A fault
// that shows only in what does not come takes 5 seconds to find.
func CheckMount(tb testing.TB, mount func(http.Handler) http.Handler, path string) {
	tb.Helper()
	for _, protocol := range []struct {
		name    string
		options []ServerOption
	}{{"HTTP/1.1", nil}, {"HTTP/2", []ServerOption{HTTP2()}}} {
		m := &mountCheck{tb: tb, protocol: protocol.name, up: NewUpstream(tb)}
		h, err := proxy.NewHandler(
			proxy.WithKey("sk-check-mount"), proxy.WithUpstream(m.up.URL()), proxy.WithTransport(m.up.Transport()),
			proxy.WithAllowedOrigins(mountOrigin), proxy.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			tb.Fatalf("proxytest: %v", err)
		}
		srv := Serve(tb, mount(m.watch(h)), protocol.options...)
		m.client, m.url = srv.Client(), srv.URL+"/"+strings.TrimPrefix(path, "/")
		m.run()
		srv.Close()
		m.up.Close()
	}
}

const mountOrigin = "https://app.example.com"

// mountPatience is how long CheckMount waits for what should come at once.
const mountPatience = 5 * time.Second

// mountCheck is one mount over one protocol.
type mountCheck struct {
	tb       testing.TB
	protocol string
	up       *Upstream
	client   *http.Client
	url      string

	mu        sync.Mutex
	deadline  time.Duration // that requests have; 0: none
	fixedTime bool          // write deadlines cannot be set
}

func (m *mountCheck) fault(format string, args ...any) {
	m.tb.Helper()
	m.tb.Errorf("proxytest: over "+m.protocol+" "+format, args...)
}

// watch stands between the host's middlewares and the proxy.
func (m *mountCheck) watch(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		if end, ok := r.Context().Deadline(); ok {
			m.deadline = roughly(time.Until(end))
		}
		if http.NewResponseController(w).SetWriteDeadline(time.Time{}) != nil {
			m.fixedTime = true
		}
		m.mu.Unlock()
		h.ServeHTTP(w, r)
	})
}

// roughly rounds what is left of a deadline to what it was, more or less.
func roughly(left time.Duration) time.Duration {
	if left < 10*time.Second {
		return max(left.Round(10*time.Millisecond), 10*time.Millisecond)
	}
	return left.Round(time.Second)
}

func (m *mountCheck) run() {
	m.tb.Helper()
	if !m.plain() {
		return
	}
	if m.events() {
		m.broken()
		m.leaving()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deadline > 0 {
		m.fault("a middleware gives each request %v: streams that take longer are cut. Leave these routes out, or give them more than the longest answer takes.", m.deadline)
	}
	if m.fixedTime {
		m.fault("a middleware hides SetWriteDeadline: the server's WriteTimeout cuts streams, and one that breaks may look whole. Its ResponseWriter needs an Unwrap method (see http.ResponseController).")
	}
}

const (
	mountPlain  = `{"model":"m","messages":[{"role":"user","content":"hello"}]}`
	mountStream = `{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}`
)

// ask sends a request as a browser would.
func (m *mountCheck) ask(ctx context.Context, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Origin", mountOrigin)
	req.Header.Set("Accept-Encoding", "gzip, deflate, br")
	return m.client.Do(req)
}

// plain looks at an answer that is no stream; false: nothing else need be tried.
func (m *mountCheck) plain() bool {
	m.tb.Helper()
	const answer = `{"id":"chatcmpl-1","choices":[{"message":{"role":"assistant","content":"<b>&\u00e9</b> 12345678901234567890"}}]}` + "\n"
	m.up.Queue(JSON(http.StatusOK, answer))
	ctx, cancel := context.WithTimeout(context.Background(), mountPatience)
	defer cancel()
	res, err := m.ask(ctx, mountPlain)
	if err != nil {
		m.fault("a request gets no answer: %v", err)
		return false
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body) //nolint:forbidigo // of our own upstream
	switch {
	case res.StatusCode == http.StatusNotFound:
		m.fault("there is nothing at %s: check the path, and that the mount's prefix is stripped (http.StripPrefix).", m.url)
		return false
	case res.StatusCode != http.StatusOK:
		m.fault("a request is answered with status %d: %.200s", res.StatusCode, got)
		return false
	case err != nil:
		m.fault("an answer breaks off: %v", err)
	case res.Header.Get("Content-Encoding") != "":
		m.compressed(res)
	case string(got) != answer:
		m.fault("an answer is changed: %.200q became %.200q", answer, got)
	}
	if n := len(res.Header.Values("Access-Control-Allow-Origin")); n != 1 {
		m.fault("an answer has %d Access-Control-Allow-Origin headers: leave CORS to the proxy (WithAllowedOrigins), or browsers refuse it.", n)
	}
	return true
}

func (m *mountCheck) compressed(res *http.Response) {
	m.tb.Helper()
	m.fault("a middleware compresses %s (Content-Encoding: %s): leave these routes out, or streams wait for its buffer.",
		res.Header.Get("Content-Type"), res.Header.Get("Content-Encoding"))
}

// events sends two events, the second when the first has arrived; false: streams
// do not work at all.
func (m *mountCheck) events() bool {
	m.tb.Helper()
	const first, second = "data: {\"n\":1}\n\n", "data: {\"n\":2}\n\ndata: [DONE]\n\n"
	more := make(chan struct{})
	m.up.Queue(Stream(Text(first), Gate(more), Text(second)))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	late := time.AfterFunc(mountPatience, func() { close(more) })
	res, err := m.ask(ctx, mountStream)
	if err != nil {
		m.fault("a stream gets no answer: %v", err)
		return false
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		late.Stop()
		text, _ := io.ReadAll(io.LimitReader(res.Body, 4096)) //nolint:forbidigo // of our own upstream
		if strings.Contains(string(text), string(proxy.CodeStreamingUnsupported)) {
			m.fault("a middleware hides Flush: nothing can be streamed. Its ResponseWriter needs an Unwrap method (see http.ResponseController); http.TimeoutHandler must go.")
		} else {
			m.fault("a stream is answered with status %d: %.200s", res.StatusCode, text)
		}
		return false
	}
	if res.Header.Get("Content-Encoding") != "" {
		late.Stop()
		m.compressed(res)
		return false
	}
	begin := make([]byte, len(first))
	_, err = io.ReadFull(res.Body, begin)
	released := late.Stop()
	if released {
		close(more)
	} else {
		m.fault("an event arrives only with the next one, or with the end: something buffers the answer.")
	}
	rest, restErr := io.ReadAll(res.Body) //nolint:forbidigo // of our own upstream
	switch got := string(begin) + string(rest); {
	case err != nil || restErr != nil:
		m.fault("a stream breaks off after %q", got)
	case got != first+second:
		m.fault("a stream is changed: %q became %q", first+second, got)
	}
	return released
}

// broken has the upstream cut a stream.
func (m *mountCheck) broken() {
	m.tb.Helper()
	m.up.Queue(Stream(Text("data: {\"n\":1}\n\n"), Cut()))
	ctx, cancel := context.WithTimeout(context.Background(), mountPatience)
	defer cancel()
	res, err := m.ask(ctx, mountStream)
	if err != nil {
		m.fault("a stream gets no answer: %v", err)
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body) //nolint:forbidigo // of our own upstream
	if !strings.Contains(string(got), string(proxy.CodeUpstreamDisconnected)) {
		m.fault("a stream that breaks loses its error event: %q", got)
	}
	if err == nil {
		m.fault("a stream that breaks ends as if it were whole: clients take that for success.")
	}
}

// leaving has the client go.
func (m *mountCheck) leaving() {
	m.tb.Helper()
	m.up.Queue(Stream(Text("data: {\"n\":1}\n\n"), Silence()))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	before := len(m.up.Requests())
	res, err := m.ask(ctx, mountStream)
	if err != nil {
		m.fault("a stream gets no answer: %v", err)
		return
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, 4)); err != nil {
		m.fault("a stream breaks off: %v", err)
		return
	}
	req := m.up.Requests()[before]
	cancel()
	timer := time.NewTimer(mountPatience)
	defer timer.Stop()
	select {
	case <-req.Canceled():
	case <-timer.C:
		m.fault("a client that leaves is not noticed: the upstream goes on, and is paid. A middleware replaces the request's context.")
	}
}
