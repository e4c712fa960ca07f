package proxy_test

import (
	"bytes"
	"io"
	"log"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// canary is the server's key in every test that has no reason to use another.
// Whatever a client received or a logger wrote is searched for it at the end.
const canary = "sk-canary-5f0c9d1e7a3b4862d4e8f1a6c07b92e35d6a18fb"

// fixture is a proxy between a client and a fake upstream, each at the end of a
// real connection.
type fixture struct {
	*proxytest.Server
	up      *proxytest.Upstream
	handler *proxy.Handler
	logs    *buffer
	seen    *buffer // all that clients received
	client  *http.Client
}

// setup says how a fixture differs from the usual one.
type setup struct {
	client   []proxytest.ServerOption // towards the client
	upstream []proxytest.ServerOption // towards the upstream
	wrap     func(http.Handler) http.Handler
	options  []proxy.Option
}

// start makes a fixture over HTTP/1.1 on loopback.
func start(t testing.TB, options ...proxy.Option) *fixture {
	t.Helper()
	return setup{options: options}.start(t)
}

func (s setup) start(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{logs: &buffer{}, seen: &buffer{}, up: proxytest.NewUpstream(t, s.upstream...)}
	usual := []proxy.Option{
		proxy.WithKey(canary),
		proxy.WithUpstream(f.up.URL()),
		proxy.WithTransport(f.up.Transport()),
		proxy.WithLogger(slog.New(slog.NewTextHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))),
	}
	handler, err := proxy.NewHandler(append(usual, s.options...)...)
	if err != nil {
		t.Fatal(err)
	}
	f.handler = handler
	var served http.Handler = handler
	if s.wrap != nil {
		served = s.wrap(handler)
	}
	errorLog := proxytest.Configure(func(srv *http.Server) { srv.ErrorLog = log.New(f.logs, "", 0) })
	f.Server = proxytest.Serve(t, served, append([]proxytest.ServerOption{errorLog}, s.client...)...)
	client := *f.Server.Client()
	client.Transport = recorder{client.Transport, f.seen}
	f.client = &client
	t.Cleanup(func() {
		for name, b := range map[string]*buffer{"a log": f.logs, "a response": f.seen} {
			if strings.Contains(b.String(), canary) {
				t.Errorf("the server's key is in %s:\n%s", name, b)
			}
		}
	})
	return f
}

// Client returns the client whose answers are searched for the key.
func (f *fixture) Client() *http.Client { return f.client }

// post sends a JSON body and returns the answer with its body read whole.
func (f *fixture) post(t testing.TB, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	return f.do(t, http.MethodPost, path, body, header...)
}

// do sends a request; header holds names and values in turn, "Host" among them.
func (f *fixture) do(t testing.TB, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, f.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Add(header[i], header[i+1])
	}
	res, err := f.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading the answer: %v (so far %q)", err, text)
	}
	return res, string(text)
}

// wantCalls checks how many calls reached the upstream.
func (f *fixture) wantCalls(t testing.TB, n int) {
	t.Helper()
	if got := len(f.up.Requests()); got != n {
		t.Errorf("%d upstream calls, want %d", got, n)
	}
}

// told is what the upstream itself said of a call's usage; an estimate in its
// place must be there.
func told(u proxy.Usage) proxy.Usage {
	if !u.Estimated || u.PromptTokens == 0 {
		return u
	}
	return proxy.Usage{}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// recorder keeps a copy of all answers.
type recorder struct {
	http.RoundTripper
	seen *buffer
}

func (rt recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := rt.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	_ = res.Header.Write(rt.seen)
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(res.Body, rt.seen), res.Body}
	return res, nil
}
