package proxy_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// bareWriter hides all but the three methods of a ResponseWriter.
type bareWriter struct{ inner http.ResponseWriter }

func (w bareWriter) Header() http.Header         { return w.inner.Header() }
func (w bareWriter) Write(p []byte) (int, error) { return w.inner.Write(p) }
func (w bareWriter) WriteHeader(status int)      { w.inner.WriteHeader(status) }

// flusher has Flush and no way to a deadline.
type flusher struct{ bareWriter }

func (w flusher) Flush() { w.inner.(http.Flusher).Flush() }

// errorFlusher has FlushError and no way to a deadline.
type errorFlusher struct{ bareWriter }

func (w errorFlusher) FlushError() error { return http.NewResponseController(w.inner).Flush() }

// liar says that it flushes, and does not.
type liar struct{ bareWriter }

func (liar) Flush() {}

// lyingError says that it cannot flush although it has the method.
type lyingError struct{ bareWriter }

func (lyingError) FlushError() error { return http.ErrNotSupported }

// wrapWriter mounts a handler behind a writer of another kind.
func wrapWriter(with func(http.ResponseWriter) http.ResponseWriter) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(with(w), r) })
	}
}

func timeoutHandler(next http.Handler) http.Handler {
	return http.TimeoutHandler(next, time.Minute, "the host has no time")
}

// streamingHosts let a stream through.
func streamingHosts() map[string]func(http.Handler) http.Handler {
	return map[string]func(http.Handler) http.Handler{
		"Unwrap only": unwrapping,
		"Unwrap three times": func(h http.Handler) http.Handler {
			return unwrapping(unwrapping(unwrapping(h)))
		},
		"Flush only":          wrapWriter(func(w http.ResponseWriter) http.ResponseWriter { return flusher{bareWriter{w}} }),
		"FlushError only":     wrapWriter(func(w http.ResponseWriter) http.ResponseWriter { return errorFlusher{bareWriter{w}} }),
		"Unwrap to Flush":     wrapWriter(func(w http.ResponseWriter) http.ResponseWriter { return unwrapOnly{flusher{bareWriter{w}}} }),
		"embedded controller": wrapWriter(func(w http.ResponseWriter) http.ResponseWriter { return &failingWriter{w, 1 << 30, 1 << 30} }),
		"MaxBytesHandler":     func(h http.Handler) http.Handler { return http.MaxBytesHandler(h, 1<<20) },
		"StripPrefix":         func(h http.Handler) http.Handler { return http.StripPrefix("", h) },
	}
}

// mutingHosts cannot stream.
func mutingHosts() map[string]func(http.Handler) http.Handler {
	return map[string]func(http.Handler) http.Handler{
		"http.TimeoutHandler": timeoutHandler,
		"a writer without Flush and Unwrap": wrapWriter(func(w http.ResponseWriter) http.ResponseWriter {
			return bareWriter{w}
		}),
		"Unwrap to a writer without Flush": wrapWriter(func(w http.ResponseWriter) http.ResponseWriter {
			return unwrapOnly{unwrapOnly{bareWriter{w}}}
		}),
		"Unwrap around http.TimeoutHandler": func(h http.Handler) http.Handler { return timeoutHandler(unwrapping(h)) },
	}
}

func TestF30StreamGoesThroughTheHost(t *testing.T) {
	t.Parallel()
	for name, wrap := range streamingHosts() {
		t.Run(name, func(t *testing.T) {
			eachWire(t, clientWires(), func(t *testing.T, w wire) {
				f := w.start(t, wrap)
				gate, next := gates(2)
				f.up.Queue(proxytest.Stream(proxytest.Gate(gate[0]), proxytest.Text("data: a\n\n"),
					proxytest.Gate(gate[1]), proxytest.Text("data: [DONE]\n\n")))
				res := open(within(t), t, f, streamPath, streamRequest)
				next()
				wantNext(t, res.Body, "data: a\n\n")
				next()
				wantRest(t, res.Body, "data: [DONE]\n\n")
			})
		})
	}
}

func TestF30HostThatCannotStreamGetsAClearError(t *testing.T) {
	t.Parallel()
	for name, wrap := range mutingHosts() {
		t.Run(name, func(t *testing.T) {
			eachWire(t, clientWires(), func(t *testing.T, w wire) {
				f := w.start(t, wrap)
				for path, shape := range map[string]string{
					"/":                       `{"error":"Internal Server Error","message":"`,
					"/chat/completions":       `{"error":{"message":"`,
					streamPath:                `{"error":{"message":"`,
					"/generate-image":         `{"error":"Internal Server Error","message":"`,
					"/v1/images/generations":  `{"error":{"message":"`,
					"/images/generations?x=1": `{"error":"Internal Server Error","message":"`,
				} {
					res, body := f.post(t, path, `{"model":"m","messages":[],"prompt":"a cat","stream":true}`)
					wantFailure(t, res, body, http.StatusInternalServerError, proxy.CodeStreamingUnsupported)
					if !strings.HasPrefix(body, shape) {
						t.Errorf("%s: %s is not in the shape of the route", path, body)
					}
					if got := res.Header.Get("X-Should-Retry"); got != "false" {
						t.Errorf("%s: X-Should-Retry %q", path, got)
					}
					if got := res.Header.Get("Content-Type"); got != "application/json" {
						t.Errorf("%s: Content-Type %q", path, got)
					}
				}
				f.wantCalls(t, 0)
				f.up.Queue(proxytest.JSON(http.StatusOK, `{"id":"x"}`))
				if res, body := f.post(t, streamPath, plainRequest); res.StatusCode != http.StatusOK || body != `{"id":"x"}` {
					t.Errorf("a plain request got %d %s", res.StatusCode, body)
				}
			})
		})
	}
}

func TestHostThatCannotStreamWhenAHookAsksForOne(t *testing.T) {
	t.Parallel()
	f := setup{wrap: timeoutHandler, options: []proxy.Option{proxy.WithHooks(proxy.Hooks{
		Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) { return []byte(streamRequest), nil },
	})}}.start(t)
	res, body := f.post(t, streamPath, plainRequest)
	wantFailure(t, res, body, http.StatusInternalServerError, proxy.CodeStreamingUnsupported)
	f.wantCalls(t, 0)
}

func TestHostThatCannotStreamPassesPlainErrors(t *testing.T) {
	t.Parallel()
	f := setup{wrap: timeoutHandler}.start(t)
	f.up.Queue(proxytest.RateLimited(time.Second))
	res, body := f.post(t, streamPath, plainRequest)
	wantFailure(t, res, body, http.StatusTooManyRequests, "rate_limit_exceeded")
	res, body = f.post(t, streamPath, `{}`)
	wantFailure(t, res, body, http.StatusBadRequest, proxy.CodeInvalidRequest)
}

// The answer alone decides how it is relayed.
func TestHostThatCannotStreamStillDeliversOne(t *testing.T) {
	t.Parallel()
	f := setup{wrap: timeoutHandler}.start(t)
	f.up.Queue(proxytest.Stream(texts("data: a\n\n", "data: [DONE]\n\n")...))
	res, body := f.post(t, streamPath, plainRequest)
	if res.StatusCode != http.StatusOK || body != "data: a\n\ndata: [DONE]\n\n" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

func TestWriterWhoseFlushLies(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"does nothing": wrapWriter(func(w http.ResponseWriter) http.ResponseWriter { return liar{bareWriter{w}} }),
		"is refused":   wrapWriter(func(w http.ResponseWriter) http.ResponseWriter { return lyingError{bareWriter{w}} }),
	} {
		t.Run(name, func(t *testing.T) {
			eachWire(t, clientWires(), func(t *testing.T, w wire) {
				f := w.start(t, wrap)
				f.up.Queue(proxytest.Stream(texts("data: a\n\n", "data: [DONE]\n\n")...))
				res := open(within(t), t, f, streamPath, streamRequest)
				wantRest(t, res.Body, "data: a\n\ndata: [DONE]\n\n") // late, and whole
			})
		})
	}
}

// Where no deadline can be reached the event alone must do.
func TestF40BrokenStreamWithoutDeadlines(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Flush only", "FlushError only", "Unwrap to Flush"} {
		t.Run(name, func(t *testing.T) {
			eachWire(t, clientWires(), func(t *testing.T, w wire) {
				f := w.start(t, streamingHosts()[name])
				for _, tail := range tails {
					f.up.Queue(proxytest.Stream(proxytest.Text(tail.text), proxytest.Cut()))
					res := open(within(t), t, f, streamPath, streamRequest)
					got, err := io.ReadAll(res.Body)
					if err != nil {
						t.Errorf("%s: %v", tail.name, err)
					}
					event, ok := strings.CutPrefix(string(got), tail.text+tail.missing)
					if !ok {
						t.Errorf("%s: read %q", tail.name, got)
					}
					wantErrorEvent(t, event, proxy.CodeUpstreamDisconnected)
				}
			})
		})
	}
}

// earlyFlush notes a Flush before the header: it would send 200.
type earlyFlush struct {
	bareWriter
	wrote bool
	early *atomic.Int64
}

func (w *earlyFlush) WriteHeader(status int) {
	w.wrote = true
	w.bareWriter.WriteHeader(status)
}

func (w *earlyFlush) Flush() {
	if !w.wrote {
		w.early.Add(1)
	}
	w.inner.(http.Flusher).Flush()
}

func TestFlushIsNeverCalledToFindOut(t *testing.T) {
	t.Parallel()
	var early atomic.Int64
	f := setup{wrap: wrapWriter(func(w http.ResponseWriter) http.ResponseWriter {
		return &earlyFlush{bareWriter: bareWriter{w}, early: &early}
	})}.start(t)
	answers := map[int]proxytest.Answer{
		http.StatusTooManyRequests: proxytest.RateLimited(time.Second),
		http.StatusBadGateway:      proxytest.JSON(http.StatusOK, "{}").After(proxytest.Cut()),
		http.StatusOK:              proxytest.Stream(texts("data: a\n\n")...),
		http.StatusCreated:         proxytest.JSON(http.StatusCreated, "{}"),
	}
	for want, answer := range answers {
		f.up.Queue(answer)
		if res, body := f.post(t, streamPath, streamRequest); res.StatusCode != want {
			t.Errorf("%d %s, want %d", res.StatusCode, body, want)
		}
	}
	if n := early.Load(); n != 0 {
		t.Errorf("Flush was called %d times before the header", n)
	}
}

func recorded(t testing.TB, f *fixture, request string) *httptest.ResponseRecorder {
	t.Helper()
	rec := httptest.NewRecorder()
	f.handler.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, streamPath, strings.NewReader(request)))
	return rec
}

func TestRecorder(t *testing.T) {
	t.Parallel()
	f := start(t)
	t.Run("stream", func(t *testing.T) {
		f.up.Queue(proxytest.Stream(texts("data: a\n\n", "data: [DONE]\n\n")...))
		rec := recorded(t, f, streamRequest)
		if rec.Code != http.StatusOK || rec.Body.String() != "data: a\n\ndata: [DONE]\n\n" || !rec.Flushed {
			t.Errorf("%d %q, flushed %t", rec.Code, rec.Body, rec.Flushed)
		}
	})
	t.Run("plain", func(t *testing.T) {
		f.up.Queue(proxytest.JSON(http.StatusOK, `{"id":"x"}`))
		rec := recorded(t, f, plainRequest)
		if rec.Code != http.StatusOK || rec.Body.String() != `{"id":"x"}` || rec.Flushed {
			t.Errorf("%d %q, flushed %t", rec.Code, rec.Body, rec.Flushed)
		}
	})
	t.Run("broken stream", func(t *testing.T) {
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a"), proxytest.Cut()))
		rec := recorded(t, f, streamRequest)
		event, ok := strings.CutPrefix(rec.Body.String(), "data: a\n\n")
		if !ok {
			t.Errorf("%q", rec.Body)
		}
		wantErrorEvent(t, event, proxy.CodeUpstreamDisconnected)
	})
}
