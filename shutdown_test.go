package proxy_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// endedContext is a context that has ended already.
func endedContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestShutdownOfAnIdleHandler(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		f.post(t, streamPath, `{"messages":[{"role":"user","content":"hi"}]}`)
		for range 3 {
			if err := f.handler.Shutdown(t.Context()); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		}
		for path, shape := range map[string]string{
			"/":                      `{"error":"Service Unavailable","message":"`,
			"/generate-image":        `{"error":"Service Unavailable","message":"`,
			streamPath:               `{"error":{"message":"`,
			"/v1/images/generations": `{"error":{"message":"`,
		} {
			for _, request := range []string{`{"messages":[],"prompt":"a cat"}`, `{"messages":[],"prompt":"a cat","stream":true}`} {
				res, body := f.post(t, path, request)
				wantFailure(t, res, body, http.StatusServiceUnavailable, proxy.CodeShuttingDown)
				if !strings.HasPrefix(body, shape) {
					t.Errorf("%s: %s is not in the shape of the route", path, body)
				}
				if got := res.Header.Get("Retry-After"); got != "1" {
					t.Errorf("%s: Retry-After %q", path, got)
				}
				if got := res.Header.Get("X-Should-Retry"); got == "false" {
					t.Errorf("%s: X-Should-Retry %q", path, got)
				}
			}
		}
		f.wantCalls(t, 1)
		if res, _ := f.do(t, http.MethodGet, streamPath, ""); res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("another method got %d", res.StatusCode)
		}
		if res, _ := f.do(t, http.MethodPost, "/nowhere", ""); res.StatusCode != http.StatusNotFound {
			t.Errorf("another path got %d", res.StatusCode)
		}
	})
}

func TestShutdownLetsCallsFinish(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil)
		think := proxytest.Pause(20 * time.Second)
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), think, proxytest.Text("data: [DONE]\n\n")))
		stream := open(t.Context(), t, f, streamPath, streamRequest)
		f.up.Queue(proxytest.JSON(http.StatusOK, `{"id":"x"}`).After(proxytest.Pause(10 * time.Second)))
		var calls sync.WaitGroup
		calls.Go(func() {
			if res, body := f.post(t, streamPath, plainRequest); res.StatusCode != http.StatusOK || body != `{"id":"x"}` {
				t.Errorf("%d %s", res.StatusCode, body)
			}
		})
		calls.Go(func() { wantRest(t, stream.Body, "data: a\n\ndata: [DONE]\n\n") })
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := f.handler.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		wantTook(t, began, 20*time.Second)
		calls.Wait()
	})
}

func TestF31ShutdownRefusesNewCallsWhileOldOnesRun(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil)
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Pause(20*time.Second)))
		stream := open(t.Context(), t, f, streamPath, streamRequest)
		closing := make(chan error, 1)
		go func() { closing <- f.handler.Shutdown(t.Context()) }()
		synctest.Wait()
		res, body := f.post(t, streamPath, plainRequest)
		wantFailure(t, res, body, http.StatusServiceUnavailable, proxy.CodeShuttingDown)
		wantRest(t, stream.Body, "data: a\n\n")
		if err := <-closing; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		f.wantCalls(t, 1)
	})
}

// A request whose body was still on its way when the handler closed makes no
// call.
func TestShutdownWhileABodyIsRead(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil)
		body, more := io.Pipe()
		go func() {
			_, _ = io.WriteString(more, plainRequest[:5])
			synctest.Wait()
			if err := f.handler.Shutdown(t.Context()); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			_, _ = io.WriteString(more, plainRequest[5:])
			_ = more.Close()
		}()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+streamPath, body)
		res, err := f.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		wantFailure(t, res, string(text), http.StatusServiceUnavailable, proxy.CodeShuttingDown)
		f.wantCalls(t, 0)
	})
}

func TestF31ShutdownEndsCallsAtItsDeadline(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		var told outcomes
		f := w.start(t, nil, told.hook())
		f.up.Queue(proxytest.Stream(proxytest.Text("data: on"), proxytest.Silence()))
		stream := open(t.Context(), t, f, streamPath, streamRequest)
		wantNext(t, stream.Body, "data: on")
		f.up.Queue(proxytest.Hang(), proxytest.Respond(http.StatusOK, http.Header{"Content-Type": {"application/json"}},
			proxytest.Text("{"), proxytest.Silence()))
		var calls sync.WaitGroup
		for range 2 {
			calls.Go(func() {
				res, body := f.post(t, streamPath, plainRequest)
				wantFailure(t, res, body, http.StatusServiceUnavailable, proxy.CodeShuttingDown)
				if got := res.Header.Get("Retry-After"); got != "1" {
					t.Errorf("Retry-After %q", got)
				}
			})
		}
		calls.Go(func() { wantBroken(t, w, stream.Body, "\n\n", proxy.CodeShuttingDown) })
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := f.handler.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		wantTook(t, began, 5*time.Second+lastWords)
		calls.Wait()
		for range 3 {
			wantCanceled(t, f.up.Next())
		}
		synctest.Wait()
		told.mu.Lock()
		defer told.mu.Unlock()
		if len(told.all) != 3 {
			t.Errorf("Done was called %d times, want 3", len(told.all))
		}
		for _, out := range told.all {
			var e *proxy.Error
			if !errors.As(out.Err, &e) || e.Code != proxy.CodeShuttingDown {
				t.Errorf("outcome %+v", out)
			}
		}
	})
}

func TestShutdownWithAContextThatHasEnded(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		var streams []*http.Response
		for range 20 {
			f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Silence()))
			res := open(within(t), t, f, streamPath, streamRequest)
			wantNext(t, res.Body, "data: a\n\n")
			streams = append(streams, res)
		}
		var both sync.WaitGroup
		for range 2 { // at the same time
			both.Go(func() {
				if err := f.handler.Shutdown(endedContext()); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
			})
		}
		both.Wait()
		for _, res := range streams {
			wantBroken(t, w, res.Body, "", proxy.CodeShuttingDown)
		}
		if err := f.handler.Shutdown(endedContext()); err != nil {
			t.Errorf("once more: %v", err)
		}
	})
}

// A source that ignores its context holds its call; Shutdown says so.
func TestShutdownTellsWhatItCouldNotEnd(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) {
			time.Sleep(time.Hour)
			return canary, nil
		})))
		var call sync.WaitGroup
		call.Go(func() {
			res, body := f.post(t, streamPath, plainRequest)
			wantFailure(t, res, body, http.StatusServiceUnavailable, proxy.CodeShuttingDown)
		})
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := f.handler.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		if took := time.Since(began); took > 7*time.Second {
			t.Errorf("it took %v", took)
		}
		if err := f.handler.Shutdown(t.Context()); err != nil { // waits for the end
			t.Errorf("Shutdown: %v", err)
		}
		call.Wait()
		f.wantCalls(t, 0)
	})
}

func TestShutdownBesideThatOfTheServer(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		var server *http.Server
		w.client = append(w.client, proxytest.Configure(func(s *http.Server) { server = s }))
		f := w.start(t, nil)
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Silence()))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		wantNext(t, res.Body, "data: a\n\n")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var both sync.WaitGroup
		both.Go(func() {
			if err := f.handler.Shutdown(ctx); err != nil {
				t.Errorf("the handler's: %v", err)
			}
		})
		both.Go(func() { wantBroken(t, w, res.Body, "", proxy.CodeShuttingDown) })
		long, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		if err := server.Shutdown(long); err != nil {
			t.Errorf("the server's: %v", err)
		}
		both.Wait()
	})
}

func TestShutdownOfTheZeroHandler(t *testing.T) {
	t.Parallel()
	var h proxy.Handler
	if err := h.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}
