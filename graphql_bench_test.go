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
// the whole exchange. "ratio" takes both in turn and reports how much more CPU
// GraphQL takes as ratio-cpu; the aim is at most 1.5. "handler" leaves the
// sockets out.
func BenchmarkGetAIResponse(b *testing.B) {
	rest := benchCall{"/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"hello"}],"temperature":0.5}`}
	graphQL := benchCall{"/graphql", gqlRequest(gqlGetAIResponse, gqlChat("model", "m", "temperature", 0.5))}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, benchCompletion)
	}))
	b.Cleanup(up.Close)
	handler, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithUpstream(up.URL+"/v1"), proxy.WithLogger(quietGraphQLLogger()))
	if err != nil {
		b.Fatal(err)
	}
	srv := httptest.NewServer(handler)
	b.Cleanup(srv.Close)
	alone, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithTransport(stubUpstream{}), proxy.WithLogger(quietGraphQLLogger()))
	if err != nil {
		b.Fatal(err)
	}
	for name, call := range map[string]benchCall{"REST": rest, "GraphQL": graphQL} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			began, n := cpuTime(), 0
			for b.Loop() {
				call.over(b, srv)
				n++
			}
			b.ReportMetric(float64((cpuTime()-began).Nanoseconds())/float64(n), "cpu-ns/op")
		})
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
	client := srv.Client().Transport.(*http.Transport)
	client.MaxIdleConnsPerHost = 32
	for _, connections := range []int{1, 32} {
		b.Run(fmt.Sprintf("ratio/connections=%d", connections), func(b *testing.B) {
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
		})
	}
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
