//go:build unix

package proxy_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// BenchmarkGuards measures what callers, limits, policies, prices, Done and the
// record add to a call: the same call with none and with all of them, in turn,
// over loopback, whole process. The aim is a ratio of at most 1.1. "handler"
// leaves the sockets out, where the parts show most.
func BenchmarkGuards(b *testing.B) {
	tokens, err := proxy.NewTokens(strings.Repeat("s", 32))
	if err != nil {
		b.Fatal(err)
	}
	token, err := tokens.Mint(proxy.Token{Subject: "user", Models: []string{"m"}, MaxTokens: 1000})
	if err != nil {
		b.Fatal(err)
	}
	body := `{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"` + strings.Repeat("hello ", 330) + `"}]}`
	streamed := strings.Replace(body, `"model"`, `"stream":true,"model"`, 1)
	for name, work := range map[string]struct {
		body   string
		answer cannedAnswer
	}{"chat": {body, cannedJSON(benchCompletion)}, "stream=100": {streamed, cannedStream(100)}} {
		b.Run("connections/"+name, func(b *testing.B) {
			benchGuardsOver(b, work.answer, work.body, token, guardOptions(tokens))
		})
		for kind, options := range map[string][]proxy.Option{"none": nil, "all": guardOptions(tokens)} {
			h := newBenchHandler(b, work.answer, options...)
			b.Run("handler/"+name+"/"+kind, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					r := benchRequest(b, http.MethodPost, "/v1/chat/completions", work.body)
					r.Header.Set("Authorization", "Bearer "+token)
					h.ServeHTTP(&forgetful{}, r)
				}
			})
		}
		b.Run("handler/"+name+"/ratio", func(b *testing.B) {
			none, all := newBenchHandler(b, work.answer), newBenchHandler(b, work.answer, guardOptions(tokens)...)
			var cpu [2]time.Duration
			for b.Loop() {
				for i, h := range []http.Handler{none, all} {
					began := cpuTime()
					for range 32 {
						r := benchRequest(b, http.MethodPost, "/v1/chat/completions", work.body)
						r.Header.Set("Authorization", "Bearer "+token)
						h.ServeHTTP(&forgetful{}, r)
					}
					cpu[i] += cpuTime() - began
				}
			}
			b.ReportMetric(float64(cpu[1])/float64(cpu[0]), "ratio-cpu")
		})
	}
}

// guardOptions are all parts that decide about a call, or tell of it.
func guardOptions(tokens *proxy.Tokens) []proxy.Option {
	return []proxy.Option{
		proxy.WithCaller(tokens.Caller),
		proxy.WithPolicy(proxy.Policy{Models: []string{"m", "gpt-6*"}, MaxTokens: 2000, MaxN: 2, Refuse: []string{"store", "service_tier"}}),
		proxy.WithLimiter(&proxy.MemoryLimiter{Requests: 1 << 30, Every: time.Second, Concurrent: 1 << 20, Tokens: 1 << 60, Cost: 1 << 60}),
		proxy.WithPrices(map[string]proxy.Price{"m": {Prompt: 1, Completion: 2}, "*": {Prompt: 5, Completion: 20}}),
		proxy.WithHooks(proxy.Hooks{Done: func(context.Context, proxy.Call, proxy.Outcome) {}}),
		proxy.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
	}
}

func benchGuardsOver(b *testing.B, answer cannedAnswer, body, token string, guards []proxy.Option) {
	b.Helper()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		res, err := answer.RoundTrip(r)
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", answer.contentType)
		buf := make([]byte, 32<<10)
		for {
			n, err := res.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			if answer.event > 0 {
				_ = http.NewResponseController(w).Flush()
			}
			if err != nil {
				return
			}
		}
	}))
	b.Cleanup(up.Close)
	var servers [2]*httptest.Server
	for i, options := range [][]proxy.Option{{proxy.WithLogger(nil)}, guards} {
		usual := []proxy.Option{proxy.WithKey(canary), proxy.WithUpstream(up.URL)}
		h, err := proxy.NewHandler(append(usual, options...)...)
		if err != nil {
			b.Fatal(err)
		}
		servers[i] = httptest.NewServer(h)
		b.Cleanup(servers[i].Close)
	}
	var cpu [2]time.Duration
	for b.Loop() {
		for i, srv := range servers {
			began := cpuTime()
			for range 16 {
				askWithToken(b, srv, body, token)
			}
			cpu[i] += cpuTime() - began
		}
	}
	b.ReportMetric(float64(cpu[1])/float64(cpu[0]), "ratio-cpu")
}

func askWithToken(b *testing.B, srv *httptest.Server, body, token string) {
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, srv.URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := srv.Client().Do(r)
	if err != nil {
		b.Fatal(err)
	}
	_, err = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if err != nil || res.StatusCode != http.StatusOK {
		b.Fatal(res.Status, err)
	}
}
