package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// panicky are options whose functions panic where X-Test names them. Their number
// is counted.
func panicky(count *atomic.Int64) []proxy.Option {
	at := func(h http.Header, where string) {
		if h.Get("X-Test") == where {
			count.Add(1)
			panic("in " + where + " with " + canary)
		}
	}
	return []proxy.Option{
		proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) {
			at(r.Header, "the caller's name")
			return proxy.Caller{ID: r.Header.Get("X-User")}, nil
		}),
		proxy.WithKeySource(proxy.KeyFunc(func(r *http.Request) (string, error) {
			at(r.Header, "the key source")
			return canary, nil
		})),
		proxy.WithHooks(proxy.Hooks{
			Admit: func(_ context.Context, call proxy.Call) error { at(call.Header, "Admit"); return nil },
			Rewrite: func(_ context.Context, call proxy.Call, body []byte) ([]byte, error) {
				at(call.Header, "Rewrite")
				return body, nil
			},
			Done: func(_ context.Context, call proxy.Call, _ proxy.Outcome) { at(call.Header, "Done") },
		}),
	}
}

// A hundred streams are under way while functions of the host panic for other
// requests, on the same connection over HTTP/2: every one comes whole.
func TestF32OtherStreamsStayWholeWhileHooksPanic(t *testing.T) {
	t.Parallel()
	eachWire(t, everyWire(), func(t *testing.T, w wire) {
		const streams = 100
		var panics atomic.Int64
		f := w.start(t, nil, panicky(&panics)...)
		half, more := make(chan struct{}), make(chan struct{})
		for range streams {
			f.up.Queue(proxytest.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				nonce := strings.Split(string(body), `"`)[3] // the model
				w.Header().Set("Content-Type", "text/event-stream")
				for i := range 20 {
					if i == 10 {
						<-more
					}
					_, _ = fmt.Fprintf(w, "data: %d of %s\n\n", i, nonce)
					_ = http.NewResponseController(w).Flush()
				}
			}))
		}
		var all, begun sync.WaitGroup
		begun.Add(streams)
		for i := range streams {
			all.Go(func() {
				nonce, want := fmt.Sprint("model-", i), &strings.Builder{}
				for j := range 20 {
					fmt.Fprintf(want, "data: %d of %s\n\n", j, nonce)
				}
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+streamPath,
					strings.NewReader(`{"model":"`+nonce+`","messages":[],"stream":true}`))
				res, err := f.Server.Client().Do(req)
				if err != nil {
					t.Error(err)
					begun.Done()
					return
				}
				defer res.Body.Close()
				got := make([]byte, strings.Index(want.String(), "data: 10 "))
				_, err = io.ReadFull(res.Body, got)
				begun.Done()
				<-half
				rest, rerr := io.ReadAll(res.Body)
				if err != nil || rerr != nil || string(got)+string(rest) != want.String() {
					t.Errorf("stream %d: %v, %v, %s", i, err, rerr, brief(string(got)+string(rest)))
				}
			})
		}
		begun.Wait()
		close(half)
		for where, status := range map[string]int{
			"the caller's name": 500, "the key source": 500, "Admit": 500, "Rewrite": 500, "Done": 200,
		} {
			for _, request := range []string{plainRequest, streamRequest} {
				for range 3 {
					res, body := f.post(t, streamPath, request, "X-Test", where)
					if res.StatusCode != status || status == 500 && !strings.Contains(body, `"internal_error"`) || strings.Contains(body, "in "+where) {
						t.Errorf("panic in %s: %d %s, want %d", where, res.StatusCode, body, status)
					}
				}
			}
		}
		close(more)
		all.Wait()
		if n := panics.Load(); n != 5*2*3 {
			t.Errorf("%d panics, want %d", n, 5*2*3)
		}
	})
}

// What panics within a started stream ends it as a break does, and in a plain
// answer is an error; a middleware that recovers hides neither.
func TestF32PanicWithinAnAnswerIsToldAndCut(t *testing.T) {
	t.Parallel()
	for host, wrap := range breakingHosts() {
		t.Run(host, func(t *testing.T) {
			eachWire(t, clientWires(), func(t *testing.T, w wire) {
				for _, tail := range tails {
					if tail.name != "at a boundary" && tail.name != "within a line" && tail.name != "nothing" {
						continue // see TestF1F2BrokenStreamEndsWithAnErrorEventAndACut
					}
					var told outcomes
					f := w.start(t, wrap, told.hook(), proxy.WithTransport(brokenTransport(func(*http.Request) (*http.Response, error) {
						return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: &panicBody{tail.text}}, nil
					})))
					res := open(within(t), t, f, streamPath, streamRequest)
					wantNext(t, res.Body, tail.text)
					wantBroken(t, w, res.Body, tail.missing, proxy.CodeInternalError)
					f.Close()
					if out := told.only(t); out.Ending == proxy.EndingComplete || out.Err == nil {
						t.Errorf("%s: Done was told %+v", tail.name, out)
					}
				}
				f := w.start(t, wrap, proxy.WithTransport(brokenTransport(func(*http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: &panicBody{`{"a":`}}, nil
				})))
				res, body := f.post(t, streamPath, streamRequest)
				wantFailure(t, res, body, http.StatusInternalServerError, proxy.CodeInternalError)
			})
		})
	}
}
