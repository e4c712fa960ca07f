package proxy_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// askSilent makes a call to an upstream that never answers, whose client waits for
// patience, and returns how long it took.
func askSilent(t *testing.T, h http.Handler, patience time.Duration) (took time.Duration, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, chatPath, strings.NewReader(plainRequest)))
	return time.Since(began), w.Code
}

type silentTransport struct{}

func (silentTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// One timer watches all calls of a handler. It must not be one whose clock has
// stopped: a test of the host may use a handler in several bubbles, and out of them.
func TestTimeLimitsHoldInEveryBubble(t *testing.T) {
	const limit = 300 * time.Millisecond
	h := proxy.New(proxy.WithKey(canary), proxy.WithTransport(silentTransport{}), proxy.WithLimits(proxy.Limits{HeaderTime: limit}))
	inBubble := func(patience time.Duration) (took time.Duration) {
		t.Run("bubble", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { took, _ = askSilent(t, h, patience) })
		})
		return took
	}
	for range 2 {
		if took := inBubble(limit / 3); took != limit/3 { // the client leaves before the timer fires
			t.Errorf("a client that left was kept for %v", took)
		}
		if took := inBubble(time.Hour); took != limit {
			t.Errorf("in a bubble the limit of %v took %v", limit, took)
		}
		if took := inBubble(limit / 3); took != limit/3 {
			t.Errorf("a client that left was kept for %v", took)
		}
		if took, status := askSilent(t, h, time.Minute); took < limit || took > 10*limit || status != http.StatusGatewayTimeout {
			t.Errorf("out of bubbles the limit of %v took %v, status %d", limit, took, status)
		}
	}
}

// Calls that begin at different times end at different times, each after its own.
func TestTimeLimitsOfManyCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := proxy.New(proxy.WithKey(canary), proxy.WithTransport(silentTransport{}))
		const calls = 50
		done := make(chan time.Duration, calls)
		for range calls {
			go func() {
				took, _ := askSilent(t, h, time.Hour)
				done <- took
			}()
			time.Sleep(time.Second)
		}
		for range calls {
			if took := <-done; took != 10*time.Minute {
				t.Errorf("a call ended after %v", took)
			}
		}
	})
}

// A handler that a host replaces must not be kept by the time limits of its calls.
func TestHandlerCanBeCollected(t *testing.T) {
	gone := make(chan struct{})
	func() {
		h, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithTransport(silentTransport{}))
		if err != nil {
			t.Fatal(err)
		}
		runtime.AddCleanup(h, func(c chan struct{}) { close(c) }, gone)
		askSilent(t, h, 10*time.Millisecond)
	}()
	for range 100 {
		runtime.GC()
		select {
		case <-gone:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Error("the handler is still there")
}

// keepingWriter fails as HTTP/2 does when the client resets the stream: Write returns
// while the frame may still be in the making.
type keepingWriter struct {
	*httptest.ResponseRecorder
	kept []byte
	want string
}

func (w *keepingWriter) Write(p []byte) (int, error) {
	w.kept, w.want = p, string(p)
	return 0, errors.New("the stream is closed")
}

// Memory that goes back is wiped in these tests (see TestMain).
func TestMemoryOfAFailedWriteIsNotUsedAgain(t *testing.T) {
	events := strings.Repeat("data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n", 1000)
	for name, tt := range map[string]struct{ path, body, media, answer string }{
		"small":   {chatPath, plainRequest, "application/json", `{"choices":[]}`},
		"large":   {chatPath, plainRequest, "application/json", largeAnswer("0123456789abcdef")},
		"stream":  {chatPath, streamRequest, "text/event-stream", events},
		"GraphQL": {"/graphql", `{"query":"{ __typename }"}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := proxy.New(proxy.WithKey(canary), proxy.WithStreamUsage(true), proxy.WithTransport(answering(tt.media, tt.answer)))
			w := &keepingWriter{ResponseRecorder: httptest.NewRecorder()}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, tt.path, strings.NewReader(tt.body))
			r.Header.Set("Content-Type", "application/json")
			h.ServeHTTP(w, r)
			if w.want == "" || string(w.kept) != w.want {
				t.Errorf("what was written is now %q, it was %q", brief(string(w.kept)), brief(w.want))
			}
		})
	}
}

// answering is a transport with one answer.
func answering(media, body string) http.RoundTripper {
	return brokenTransport(func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {media}},
			Body: io.NopCloser(strings.NewReader(body)), Request: r,
		}, nil
	})
}
