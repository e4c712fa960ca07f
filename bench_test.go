//go:build unix

package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// The benchmarks of this file leave the sockets out: a transport that answers
// from memory, and a writer that forgets. So they show what the handler itself
// costs, beside httputil.ReverseProxy with the same transport; "ratio" takes both
// in turn and reports the CPU of the one over that of the other. bench/ measures
// the same with processes and connections.

// BenchmarkHandler relays the kinds of calls that there are.
func BenchmarkHandler(b *testing.B) {
	small := `{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("hello ", 330) + `"}],"temperature":0.5}`
	large := `{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("hello ", 1<<20/6) + `"}]}`
	image := `{"created":1,"data":[{"b64_json":"` + strings.Repeat("QUJD", 5<<20/4) + `"}]}`
	for _, work := range []struct {
		name, path, request string
		answer              cannedAnswer
	}{
		{"chat=2KiB", "/v1/chat/completions", small, cannedJSON(benchCompletion)},
		{"chat=1MiB", "/v1/chat/completions", large, cannedJSON(benchCompletion)},
		{"defaults", "/", strings.Replace(small, `"m"`, `"gpt-4o"`, 1), cannedJSON(benchCompletion)},
		{"image=5MiB", "/v1/images/generations", `{"model":"m","prompt":"a cat"}`, cannedJSON(image)},
		{"stream=1000", "/v1/chat/completions", `{"model":"m","messages":[],"stream":true}`, cannedStream(1000)},
	} {
		b.Run(work.name, func(b *testing.B) {
			benchBeside(b, work.path, work.request, newBenchHandler(b, work.answer), reverseProxy(work.answer))
		})
	}
}

// benchBeside measures a handler, the baseline, and their ratio.
func benchBeside(b *testing.B, path, body string, ours, baseline http.Handler) {
	b.Helper()
	for name, h := range map[string]http.Handler{"proxy": ours, "ReverseProxy": baseline} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				serveOnce(b, h, path, body)
			}
		})
	}
	b.Run("ratio", func(b *testing.B) {
		var cpu [2]time.Duration
		for b.Loop() {
			for i, h := range []http.Handler{ours, baseline} {
				began := cpuTime()
				for range 16 {
					serveOnce(b, h, path, body)
				}
				cpu[i] += cpuTime() - began
			}
		}
		b.ReportMetric(float64(cpu[0])/float64(cpu[1]), "ratio-cpu")
	})
}

// BenchmarkPreflight answers a preflight of the official SDK.
func BenchmarkPreflight(b *testing.B) {
	h := newBenchHandler(b, cannedJSON("{}"), proxy.WithAllowedOrigins("https://app.example.com"))
	r := benchRequest(b, http.MethodOptions, "/v1/chat/completions", "")
	r.Header.Set("Origin", "https://app.example.com")
	r.Header.Set("Access-Control-Request-Method", "POST")
	r.Header.Set("Access-Control-Request-Headers",
		"authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-package-version,"+
			"x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version")
	w := &forgetful{}
	b.ReportAllocs()
	for b.Loop() {
		w.reset()
		h.ServeHTTP(w, r)
	}
	if w.status != http.StatusNoContent || w.header.Get("Access-Control-Allow-Headers") == "" {
		b.Fatal(w.status, w.header)
	}
}

// BenchmarkOrigin matches an origin against lists that grow; the last one is a
// refusal.
func BenchmarkOrigin(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		var patterns []string
		for i := range n {
			patterns = append(patterns, fmt.Sprintf("https://app%d.example.com", i), fmt.Sprintf("https://*.tenant%d.example.org", i))
		}
		h := newBenchHandler(b, cannedJSON("{}"), proxy.WithAllowedOrigins(patterns...))
		for _, origin := range []string{"https://app0.example.com", "https://a.b.tenant0.example.org", "https://evil.example.net"} {
			b.Run(fmt.Sprintf("patterns=%d/%s", 2*n, origin), func(b *testing.B) {
				r := benchRequest(b, http.MethodOptions, "/", "")
				r.Header.Set("Origin", origin)
				r.Header.Set("Access-Control-Request-Method", "POST")
				w := &forgetful{}
				b.ReportAllocs()
				for b.Loop() {
					w.reset()
					h.ServeHTTP(w, r)
				}
			})
		}
	}
}

// BenchmarkRefused shows what bodies cost that are not sent on.
func BenchmarkRefused(b *testing.B) {
	h := newBenchHandler(b, cannedJSON("{}"))
	for name, body := range map[string]string{
		"no JSON":       strings.Repeat("[", 64<<10),
		"key twice":     `{"messages":[],"model":"a","model":"b"}`,
		"many members":  `{"messages":[]` + strings.Repeat(`,"a":1`, 10_000) + `,"n":1,"n":2}`,
		"deeply nested": `{"messages":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := &forgetful{}
				h.ServeHTTP(w, benchRequest(b, http.MethodPost, "/v1/chat/completions", body))
				if w.status != http.StatusBadRequest {
					b.Fatal(w.status)
				}
			}
		})
	}
}

func newBenchHandler(b *testing.B, answer cannedAnswer, options ...proxy.Option) http.Handler {
	b.Helper()
	usual := []proxy.Option{proxy.WithKey(canary), proxy.WithTransport(answer)}
	h, err := proxy.NewHandler(append(usual, options...)...)
	if err != nil {
		b.Fatal(err)
	}
	return h
}

func reverseProxy(answer cannedAnswer) http.Handler {
	target := &url.URL{Scheme: "https", Host: "api.openai.com"}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set("Authorization", "Bearer "+canary)
		},
		Transport: answer, FlushInterval: -1, BufferPool: benchBuffers{},
	}
}

func benchRequest(b *testing.B, method, path, body string) *http.Request {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), method, "http://proxy.example"+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	r.RemoteAddr = "192.0.2.1:1234"
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "bench")
	return r
}

func serveOnce(b *testing.B, h http.Handler, path, body string) {
	w := &forgetful{}
	h.ServeHTTP(w, benchRequest(b, http.MethodPost, path, body))
	if w.status != http.StatusOK || w.bytes == 0 {
		b.Fatal(w.status, w.bytes)
	}
}

// forgetful is a writer that counts.
type forgetful struct {
	header        http.Header
	status, bytes int
}

func (w *forgetful) reset() {
	clear(w.header)
	w.status, w.bytes = 0, 0
}

func (w *forgetful) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

func (w *forgetful) WriteHeader(status int) { w.status = status }

func (w *forgetful) Write(p []byte) (int, error) {
	w.bytes += len(p)
	return len(p), nil
}

func (w *forgetful) Flush() {}

func (w *forgetful) SetReadDeadline(time.Time) error { return nil }

func (w *forgetful) SetWriteDeadline(time.Time) error { return nil }

// benchBuffers never keeps a buffer: those of one size come cheap here.
type benchBuffers struct{}

var benchBuffer = make(chan []byte, 1)

func (benchBuffers) Get() []byte {
	select {
	case p := <-benchBuffer:
		return p
	default:
		return make([]byte, 32<<10)
	}
}

func (benchBuffers) Put(p []byte) {
	select {
	case benchBuffer <- p:
	default:
	}
}

// cannedAnswer is a transport that answers every request alike.
type cannedAnswer struct {
	contentType string
	body        []byte
	event       int // length of what one Read returns; 0: as much as fits
}

func cannedJSON(body string) cannedAnswer {
	return cannedAnswer{contentType: "application/json", body: []byte(body)}
}

func cannedStream(events int) cannedAnswer {
	event := `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":"fp",` +
		`"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"obfuscation":"abcdefgh"}` + "\n\n"
	return cannedAnswer{contentType: "text/event-stream", body: bytes.Repeat([]byte(event), events), event: len(event)}
}

// RoundTrip implements [http.RoundTripper].
func (a cannedAnswer) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return nil, err
	}
	_ = r.Body.Close()
	header := http.Header{"Content-Type": {a.contentType}}
	length := int64(-1)
	if a.event == 0 {
		length = int64(len(a.body))
		header.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Header: header, Request: r,
		ContentLength: length, Body: &cannedBody{rest: a.body, event: a.event},
	}, nil
}

type cannedBody struct {
	rest  []byte
	event int
}

func (c *cannedBody) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	if c.event > 0 {
		p = p[:min(len(p), c.event)]
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *cannedBody) Close() error { return nil }
