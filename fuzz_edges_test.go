package proxy_test

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// The headers that may go up and come down, by a second list.
var (
	headersUp   = []string{"Accept", "Accept-Encoding", "Authorization", "Content-Type", "Openai-Beta", "User-Agent", "X-Client-Request-Id"}
	headersDown = []string{
		"Cache-Control", "Connection", "Content-Length", "Content-Type", "Openai-Processing-Ms", "Openai-Version", "Retry-After",
		"Retry-After-Ms", "X-Accel-Buffering", "X-Content-Type-Options", "X-Request-Id", "X-Should-Retry", "Vary", "Allow",
	}
)

// FuzzHeaders sends any header each way, beside those that every message has.
func FuzzHeaders(f *testing.F) {
	for _, name := range slices.Concat(headersUp, headersDown, []string{
		"X-Stainless-Lang", "X-Ratelimit-Limit-Requests", "Cookie", "Set-Cookie", "Origin", "X-Forwarded-For", "Api-Key",
		"Idempotency-Key", "Openai-Organization", "Access-Control-Allow-Origin", "Trailer", "Location", "Content-Encoding",
	}) {
		f.Add(name, "a", name, "sk-proj-0123456789abcdef "+canary)
	}
	f.Fuzz(func(t *testing.T, up, upValue, down, downValue string) {
		up, down = http.CanonicalHeaderKey(up), http.CanonicalHeaderKey(down)
		var sent http.Header
		h, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithLogger(slog.New(slog.DiscardHandler)),
			proxy.WithTransport(brokenTransport(func(r *http.Request) (*http.Response, error) {
				sent = r.Header
				header := http.Header{"Content-Type": {"application/json"}}
				header.Add(down, downValue)
				return &http.Response{StatusCode: 200, Header: header, Body: io.NopCloser(strings.NewReader(`{"ok":true}`)), Request: r}, nil
			})))
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, streamPath, strings.NewReader(plainRequest))
		r.Header[up] = []string{upValue}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		for name := range sent {
			if !slices.Contains(headersUp, name) && !strings.HasPrefix(name, "X-Stainless-") {
				t.Errorf("%q went up", name)
			}
		}
		if sent != nil && sent.Get("Authorization") != "Bearer "+canary {
			t.Errorf("the key became %q", sent.Get("Authorization"))
		}
		for name, values := range w.Header() {
			if !slices.Contains(headersDown, name) && !strings.HasPrefix(name, "X-Ratelimit-") {
				t.Errorf("%q came down", name)
			}
			if strings.Contains(strings.Join(values, " "), canary) {
				t.Errorf("%q tells the key: %q", name, values)
			}
		}
		if w.Code >= 500 && w.Code != http.StatusBadGateway {
			t.Errorf("status %d", w.Code)
		}
	})
}

// FuzzOptions configures a handler with anything: it works, or says what is wrong
// without the key.
func FuzzOptions(f *testing.F) {
	f.Add("https://api.openai.com/v1", "https://app.example.com", "localhost", "api-key", "sk-test", int64(1), "gpt-*")
	f.Add("http://[::1]:1/v1?api-version=1", "https://*.example.com:8443", "[::1]", "", "a b", int64(-1), "*")
	f.Add("ftp://x", "null", "", "Host", "", int64(1)<<62, "a**")
	f.Fuzz(func(t *testing.T, upstream, origin, host, header, key string, limit int64, model string) {
		h, err := proxy.NewHandler(
			proxy.WithUpstream(upstream), proxy.WithAllowedOrigins(origin), proxy.WithAllowedHosts(host), proxy.WithAuthHeader(header),
			proxy.WithKey(key), proxy.WithTransport(fzUpstream{}), proxy.WithLogger(slog.New(slog.DiscardHandler)),
			proxy.WithLimits(proxy.Limits{RequestBytes: limit, KeyTime: time.Duration(limit), StreamIdle: time.Duration(limit)}),
			proxy.WithPolicy(proxy.Policy{Models: []string{model}, MaxTokens: limit}), proxy.WithTrustedProxies(host),
			proxy.WithPrices(map[string]proxy.Price{model: {Prompt: float64(limit)}}), proxy.WithDefaultModels(model, model))
		if err != nil {
			if len(key) >= 8 && !strings.Contains(upstream+origin+host+header+model, key) && strings.Contains(err.Error(), key) {
				t.Errorf("the problem tells the key: %v", err)
			}
			return
		}
		w, _ := fzServe(t, h, http.MethodPost, streamPath, "application/json", []byte(plainRequest))
		if w.Code == 0 || w.Code == http.StatusInternalServerError {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	})
}

// oneConn is a listener with one connection.
type oneConn struct {
	conns chan net.Conn
	once  sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	if conn, ok := <-l.conns; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { l.once.Do(func() { close(l.conns) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// FuzzWire writes anything to a connection: whatever reaches the upstream is a
// request of ours.
func FuzzWire(f *testing.F) {
	for _, framing := range framings() {
		f.Add([]byte(framing.wire))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var mu sync.Mutex
		var calls []string
		h, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithUpstream(fzRoot), proxy.WithLogger(slog.New(slog.DiscardHandler)),
			proxy.WithTransport(brokenTransport(func(r *http.Request) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				calls = append(calls, r.Method+" "+r.URL.String())
				return &http.Response{
					StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}},
					Body: io.NopCloser(strings.NewReader(`{"ok":true}`)), Request: r,
				}, nil
			})))
		if err != nil {
			t.Fatal(err)
		}
		l := &oneConn{conns: make(chan net.Conn, 1)}
		client, server := net.Pipe()
		l.conns <- server
		srv := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), ReadTimeout: 20 * time.Millisecond}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		go func() { _, _ = client.Write(wire) }()
		_ = client.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		_, _ = io.Copy(io.Discard, client)
		_ = client.Close()
		_ = srv.Close()
		<-served
		mu.Lock()
		defer mu.Unlock()
		for _, call := range calls {
			switch call {
			case "POST " + fzRoot + "/chat/completions", "POST " + fzRoot + "/images/generations", "POST " + fzRoot + "/images/edits":
			default:
				t.Errorf("the upstream got %s", call)
			}
		}
	})
}
