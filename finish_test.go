package proxy_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// The end of an answer is written last, long after the deadline of the write
// before it may have passed.

// slowDone is a Done that takes d; told keeps what it was told.
func slowDone(d time.Duration, told *outcomes) proxy.Option {
	return proxy.WithHooks(proxy.Hooks{Done: func(_ context.Context, _ proxy.Call, out proxy.Outcome) {
		time.Sleep(d) // of the bubble
		told.mu.Lock()
		defer told.mu.Unlock()
		told.all = append(told.all, out)
	}})
}

func TestSilenceBeforeACleanEndKeepsItClean(t *testing.T) {
	t.Parallel()
	const events = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
	eachBubble(t, func(t *testing.T, w wire) {
		var told outcomes
		f := w.start(t, nil, proxy.WithLimits(proxy.Limits{WriteStall: 3 * time.Second}), told.hook())
		f.up.Queue(proxytest.Stream(proxytest.Text(events), proxytest.Pause(20*time.Second)))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		began := time.Now()
		wantRest(t, res.Body, events)
		wantTook(t, began, 20*time.Second)
		if out := told.only(t); out.Ending != proxy.EndingComplete || out.Err != nil {
			t.Errorf("ending %s, %v, want complete", out.Ending, out.Err)
		}
	})
}

func TestSlowDoneDoesNotBreakTheAnswer(t *testing.T) {
	t.Parallel()
	const events = "data: a\n\ndata: [DONE]\n\n"
	big := `{"x":"` + strings.Repeat("x", 1<<20) + `"}`
	for name, tt := range map[string]struct {
		request, want string
		status        int
		answer        proxytest.Answer
	}{
		"plain":  {plainRequest, `{"id":"x"}`, http.StatusOK, proxytest.JSON(http.StatusOK, `{"id":"x"}`)},
		"large":  {plainRequest, big, http.StatusOK, proxytest.JSON(http.StatusOK, big)},
		"stream": {streamRequest, events, http.StatusOK, proxytest.Stream(proxytest.Text(events))},
		"error":  {plainRequest, "", http.StatusTooManyRequests, proxytest.RateLimited(time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachBubble(t, func(t *testing.T, w wire) {
				var told outcomes
				f := w.start(t, nil, proxy.WithLimits(proxy.Limits{WriteStall: 3 * time.Second}), slowDone(20*time.Second, &told))
				f.up.Queue(tt.answer)
				began := time.Now()
				res, body := f.post(t, streamPath, tt.request)
				wantTook(t, began, 20*time.Second)
				if res.StatusCode != tt.status || tt.want != "" && body != tt.want {
					t.Errorf("%d %s, want %d %s", res.StatusCode, brief(body), tt.status, brief(tt.want))
				}
				want := proxy.EndingComplete
				if tt.status != http.StatusOK {
					want = proxy.EndingError
				}
				if out := told.only(t); out.Ending != want {
					t.Errorf("ending %s, want %s", out.Ending, want)
				}
			})
		})
	}
}

func TestShutdownWaitsForDone(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{"plain": plainRequest, "stream": streamRequest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachBubble(t, func(t *testing.T, w wire) {
				var told atomic.Bool
				f := w.start(t, nil, proxy.WithHooks(proxy.Hooks{Done: func(context.Context, proxy.Call, proxy.Outcome) {
					time.Sleep(5 * time.Second) // of the bubble
					told.Store(true)
				}}))
				think := proxytest.Pause(2 * time.Second)
				f.up.Queue(map[string]proxytest.Answer{
					"plain": proxytest.JSON(http.StatusOK, `{"id":"x"}`).After(think), "stream": proxytest.ChatStream("x").After(think),
				}[name])
				answered := make(chan int, 1)
				go func() {
					res, _ := f.post(t, streamPath, request)
					answered <- res.StatusCode
				}()
				synctest.Wait()
				began := time.Now()
				if err := f.handler.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
				if !told.Load() {
					t.Error("Shutdown returned before Done had run")
				}
				wantTook(t, began, 7*time.Second)
				if status := <-answered; status != http.StatusOK {
					t.Errorf("the call under way got %d", status)
				}
			})
		})
	}
}

func TestNoPingBehindTheEndOfASubscription(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ accept, end string }{
		"SSE":       {gqlSSE, "event: complete\ndata: \n\n"},
		"multipart": {gqlMultipart, "--graphql--\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachBubble(t, func(t *testing.T, w wire) {
				var told outcomes
				f := w.start(t, nil, proxy.WithLimits(proxy.Limits{WriteStall: 3 * time.Second}), slowDone(time.Minute, &told))
				f.up.Queue(proxytest.Stream(gqlText("a"), proxytest.Text(gqlFinish+gqlDone)))
				s := gqlOpen(t, f, gqlSubscription, gqlChat(), tt.accept)
				began := time.Now()
				rest, err := io.ReadAll(s.in)
				if err != nil || !strings.HasSuffix(string(rest), tt.end) {
					t.Errorf("the stream is %s, %v, want one that ends with %q", brief(string(rest)), err, tt.end)
				}
				wantTook(t, began, time.Minute)
				told.only(t)
			})
		})
	}
}
