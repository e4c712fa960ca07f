//go:build unix

package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// BenchmarkGetAIResponse measures one chat completion through /graphql, its
// document cached, beside the same one over REST. Client, proxy and upstream
// run in this process and talk over loopback, so that the figures are those of
// the whole exchange, with the client and the fake upstream. "ratio" takes both in
// turn and reports how much more CPU GraphQL takes as ratio-cpu; the aim is at most
// 1.5. It does so for an upstream as OpenAI's, over HTTP/2 with TLS, and for one over
// cleartext HTTP/1.1, where everything else costs less. "handler" leaves the sockets
// out.
func BenchmarkGetAIResponse(b *testing.B) {
	rest := benchCall{"/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"hello"}],"temperature":0.5}`}
	graphQL := benchCall{"/graphql", gqlRequest(gqlGetAIResponse, gqlChat("model", "m", "temperature", 0.5))}
	for name, tls := range map[string]bool{"upstream=h2": true, "upstream=h1": false} {
		srv := benchServer(b, tls)
		for name2, call := range map[string]benchCall{"REST": rest, "GraphQL": graphQL} {
			b.Run(name+"/"+name2, func(b *testing.B) {
				b.ReportAllocs()
				began, n := cpuTime(), 0
				for b.Loop() {
					call.over(b, srv)
					n++
				}
				b.ReportMetric(float64((cpuTime()-began).Nanoseconds())/float64(n), "cpu-ns/op")
			})
		}
		for _, connections := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/ratio/connections=%d", name, connections), func(b *testing.B) {
				benchRatio(b, srv, connections, rest, graphQL)
			})
		}
	}
	alone, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithTransport(stubUpstream{}), proxy.WithLogger(quietGraphQLLogger()))
	if err != nil {
		b.Fatal(err)
	}
	for name, call := range map[string]benchCall{"REST": rest, "GraphQL": graphQL} {
		b.Run("handler/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, call.path, strings.NewReader(call.body))
				r.Header.Set("Content-Type", "application/json")
				alone.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
}

// benchServer serves a handler over a fake upstream.
func benchServer(b *testing.B, tls bool) *httptest.Server {
	b.Helper()
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, benchCompletion)
	}))
	if tls {
		up.EnableHTTP2 = true
		up.StartTLS()
	} else {
		up.Start()
	}
	b.Cleanup(up.Close)
	handler, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithUpstream(up.URL+"/v1"),
		proxy.WithTransport(up.Client().Transport), proxy.WithLogger(quietGraphQLLogger()))
	if err != nil {
		b.Fatal(err)
	}
	up.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	srv := httptest.NewServer(handler)
	b.Cleanup(srv.Close)
	srv.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 32
	return srv
}

func benchRatio(b *testing.B, srv *httptest.Server, connections int, rest, graphQL benchCall) {
	b.Helper()
	const each = 64
	var cpu [2]time.Duration
	for b.Loop() {
		for i, call := range []benchCall{rest, graphQL} {
			began := cpuTime()
			var wg sync.WaitGroup
			for range connections {
				wg.Go(func() {
					for range each / connections {
						call.over(b, srv)
					}
				})
			}
			wg.Wait()
			cpu[i] += cpuTime() - began
		}
	}
	b.ReportMetric(float64(cpu[1])/float64(cpu[0]), "ratio-cpu")
}

const benchCompletion = `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you today?","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21},"system_fingerprint":"fp"}`

type benchCall struct{ path, body string }

func (c benchCall) over(b *testing.B, srv *httptest.Server) {
	res, err := srv.Client().Post(srv.URL+c.path, "application/json", strings.NewReader(c.body))
	if err != nil {
		b.Fatal(err)
	}
	_, err = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if err != nil || res.StatusCode != http.StatusOK {
		b.Fatal(res.Status, err)
	}
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
