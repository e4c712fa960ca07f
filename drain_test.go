package proxy_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// draining lets the upstream finish for a minute.
func draining(book *doneBook, limits proxy.Limits) []proxy.Option {
	return []proxy.Option{proxy.WithHooks(proxy.Hooks{Done: book.done}), proxy.WithLimits(limits)}
}

// leaveAfter opens a stream, reads a text, and leaves.
func leaveAfter(t *testing.T, f *fixture, path, body, text string, header ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	res := open(ctx, t, f, path, body, header...)
	if _, err := io.ReadFull(res.Body, make([]byte, len(text))); err != nil {
		t.Error(err)
	}
}

// inBubble runs a test over one wire in memory, in time that waits.
func inBubble(t *testing.T, w wire, f func(*testing.T, wire)) {
	t.Helper()
	t.Run(w.name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { f(t, w.inMemory()) })
	})
}

// TestF25dStreamIsReadOnWhenItsClientLeaves: its usage is then known exactly (F25d).
func TestF25dStreamIsReadOnWhenItsClientLeaves(t *testing.T) {
	t.Parallel()
	for _, w := range everyWire() {
		inBubble(t, w, func(t *testing.T, w wire) {
			book, more := newDoneBook(), make(chan struct{})
			f := w.start(t, nil, draining(book, proxy.Limits{DrainTime: time.Minute})...)
			f.up.Queue(proxytest.Stream(proxytest.Text(rcChunk), proxytest.Gate(more), proxytest.Text(strings.Repeat(rcChunk, 100)+rcEnd)))
			leaveAfter(t, f, streamPath, streamRequest, rcChunk)
			synctest.Wait() // until it is known that the client has left
			close(more)
			out := book.only(t, f).out
			if out.Ending != proxy.EndingClientGone || !out.Usage.Reported || out.Usage.TotalTokens != 14 || out.Err == nil {
				t.Errorf("outcome %+v", out)
			}
			if log := f.logs.String(); strings.Count(log, `msg="proxy call"`) != 1 || !strings.Contains(log, "ending=client_gone") {
				t.Errorf("there is not one record of it:\n%s", log)
			}
		})
	}
}

func TestPlainAnswerIsAwaitedWhenItsClientLeaves(t *testing.T) {
	t.Parallel()
	for _, w := range clientWires() {
		inBubble(t, w, func(t *testing.T, w wire) {
			book, more := newDoneBook(), make(chan struct{})
			f := w.start(t, nil, draining(book, proxy.Limits{DrainTime: time.Minute})...)
			f.up.Queue(proxytest.JSON(200, rcUsage).After(proxytest.Gate(more)))
			l := sendLeaver(t, f, plainRequest)
			f.up.Next()
			l.leave()
			<-l.answered
			synctest.Wait()
			close(more)
			out := book.only(t, f).out
			if out.Ending != proxy.EndingClientGone || out.Bytes != 0 || !out.Usage.Reported || out.Usage.TotalTokens != 14 {
				t.Errorf("outcome %+v", out)
			}
		})
	}
}

// TestDrainEndsAtItsBounds: then the upstream is cancelled, and an estimate
// stands for the usage.
func TestDrainEndsAtItsBounds(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		limits proxy.Limits
		answer proxytest.Answer
		after  time.Duration
	}{
		"time, silent":  {proxy.Limits{DrainTime: 30 * time.Second}, proxytest.Stream(proxytest.Text(rcChunk), proxytest.Silence()), 30 * time.Second},
		"time, talking": {proxy.Limits{DrainTime: 30 * time.Second}, ticking(), 30 * time.Second},
		"bytes": {
			proxy.Limits{DrainTime: time.Hour, DrainBytes: 1000},
			proxytest.Stream(proxytest.Text(rcChunk), proxytest.Pause(time.Second), proxytest.Text(strings.Repeat("x", 1000)), proxytest.Silence()),
			time.Second,
		},
		"a stream that is silent for too long": {
			proxy.Limits{DrainTime: time.Hour, StreamIdle: time.Minute},
			proxytest.Stream(proxytest.Text(rcChunk), proxytest.Silence()), time.Minute,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				book := newDoneBook()
				f := inMemory(draining(book, tt.limits)...).start(t)
				f.up.Queue(tt.answer)
				began := time.Now()
				leaveAfter(t, f, streamPath, streamRequest, rcChunk)
				<-f.up.Next().Canceled()
				if took := time.Since(began); took < tt.after || took > tt.after+2*time.Second {
					t.Errorf("the upstream was cancelled after %v, want %v", took, tt.after)
				}
				out := book.only(t, f).out
				if out.Ending != proxy.EndingClientGone || !out.Usage.Estimated || out.Usage.PromptTokens == 0 {
					t.Errorf("outcome %+v", out)
				}
			})
		})
	}
}

// ticking streams a chunk each second, for ever.
func ticking() proxytest.Answer {
	return proxytest.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, rcChunk)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
			}
		}
	})
}

// TestNobodyIsAwaitedBeforeTheCall: a client that leaves while the host decides
// costs nothing.
func TestNobodyIsAwaitedBeforeTheCall(t *testing.T) {
	t.Parallel()
	book, asked := newDoneBook(), make(chan struct{})
	f := start(t, proxy.WithLimits(proxy.Limits{DrainTime: time.Hour}), proxy.WithHooks(proxy.Hooks{
		Done: book.done,
		Rewrite: func(ctx context.Context, _ proxy.Call, body []byte) ([]byte, error) {
			close(asked)
			<-ctx.Done()
			return body, nil
		},
	}))
	l := sendLeaver(t, f, plainRequest)
	<-asked
	l.leave()
	out := book.only(t, f).out
	if out.Ending != proxy.EndingClientGone || out.Attempts != 0 || out.Usage != (proxy.Usage{}) {
		t.Errorf("outcome %+v", out)
	}
	f.wantCalls(t, 0)
}

// TestDeadlineOfTheHostEndsADrainableCall: it is no client that left.
func TestDeadlineOfTheHostEndsADrainableCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		book := newDoneBook()
		s := inMemory(draining(book, proxy.Limits{DrainTime: time.Hour})...)
		s.wrap = func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
				defer cancel()
				h.ServeHTTP(w, r.WithContext(ctx))
			})
		}
		f := s.start(t)
		f.up.Queue(proxytest.Hang())
		began := time.Now()
		res, text := f.post(t, streamPath, plainRequest)
		if took := time.Since(began); res.StatusCode != http.StatusGatewayTimeout || took != 5*time.Second {
			t.Errorf("%d after %v: %s", res.StatusCode, took, text)
		}
		book.only(t, f)
	})
}

func TestShutdownEndsADrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		book := newDoneBook()
		f := inMemory(draining(book, proxy.Limits{DrainTime: time.Hour})...).start(t)
		f.up.Queue(proxytest.Stream(proxytest.Text(rcChunk), proxytest.Silence()))
		leaveAfter(t, f, streamPath, streamRequest, rcChunk)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.handler.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if out := book.only(t, f).out; !out.Usage.Estimated {
			t.Errorf("outcome %+v", out)
		}
	})
}

// TestSubscriptionIsReadOnWhenItsClientLeaves: GraphQL's streams are drained as
// others are.
func TestSubscriptionIsReadOnWhenItsClientLeaves(t *testing.T) {
	t.Parallel()
	for _, w := range clientWires() {
		inBubble(t, w, func(t *testing.T, w wire) {
			book, more := newDoneBook(), make(chan struct{})
			f := w.start(t, nil, draining(book, proxy.Limits{DrainTime: time.Minute})...)
			f.up.Queue(proxytest.Stream(proxytest.Text(rcChunk), proxytest.Gate(more), proxytest.Text(strings.Repeat(rcChunk, 100)),
				proxytest.Text(rcEnd)))
			leaveAfter(t, f, "/graphql", gqlRequest(gqlSubscription, gqlChat("model", "m")), ":\n\nevent: next",
				"Content-Type", "application/json", "Accept", "text/event-stream")
			synctest.Wait() // until it is known that the client has left
			close(more)
			out := book.only(t, f).out
			if out.Ending != proxy.EndingClientGone || !out.Usage.Reported || out.Usage.TotalTokens != 14 {
				t.Errorf("outcome %+v", out)
			}
		})
	}
}
