package proxy_test

import (
	"context"
	"errors"
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

const tick = 4 * time.Second

// timedReader notes when bytes come, rounded by nothing: in a bubble they come
// at the very moment.
func readTimed(t testing.TB, r io.Reader) (pieces []string, at []time.Duration, err error) {
	t.Helper()
	began := time.Now()
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			pieces = append(pieces, string(buf[:n]))
			at = append(at, time.Since(began))
		}
		if errors.Is(err, io.EOF) {
			return pieces, at, nil
		}
		if err != nil {
			return pieces, at, err
		}
	}
}

func TestF8Heartbeat(t *testing.T) {
	t.Parallel()
	const a, b = "data: a\n\n", "data: b\n\n"
	text, pause := proxytest.Text, func(s int) proxytest.Step { return proxytest.Pause(time.Duration(s) * time.Second) }
	tests := []struct {
		name  string
		steps []proxytest.Step
		want  string
	}{
		{"in a silence", []proxytest.Step{text(a), pause(10), text(b)}, a + ":\n:\n" + b},
		{"before the first event", []proxytest.Step{pause(5), text(a)}, ":\n" + a},
		{"not between events that come in time", []proxytest.Step{text(a), pause(3), text(b), pause(3), text(a), pause(3), text(b)}, a + b + a + b},
		{"counted from the last event", []proxytest.Step{text(a), pause(3), text(b), pause(5), text(a)}, a + b + ":\n" + a},
		{"not within a line", []proxytest.Step{text("data: a"), pause(61), text("\n\n"), pause(5), text(b)}, "data: a\n\n:\n" + b},
		{"not behind a line", []proxytest.Step{text("data: a\n"), pause(61), text("data: b\n\n")}, "data: a\ndata: b\n\n"},
		{"not within a CRLF", []proxytest.Step{text("data: a\r"), pause(61), text("\n\r\n")}, "data: a\r\n\r\n"},
		{"not behind a comment of the upstream", []proxytest.Step{text(": a\n"), pause(61), text("\n")}, ": a\n\n"},
		{"not within a character", []proxytest.Step{text("data: \xf0\x9f"), pause(61), text("\x99\x82\n\n")}, "data: \xf0\x9f\x99\x82\n\n"},
		{"behind CRLF", []proxytest.Step{text("data: a\r\n\r\n"), pause(5), text(b)}, "data: a\r\n\r\n:\n" + b},
		{"behind CR", []proxytest.Step{text("data: a\r\r"), pause(5), text(b)}, "data: a\r\r:\n" + b},
		{"behind torn line ends", []proxytest.Step{text("data: a\n"), text("\n"), pause(5), text(b)}, "data: a\n\n:\n" + b},
		{"behind [DONE]", []proxytest.Step{text("data: [DONE]\n\n"), pause(5)}, "data: [DONE]\n\n:\n"},
		{"many", []proxytest.Step{text(a), pause(401), text(b)}, a + strings.Repeat(":\n", 100) + b},
		{"not at the end", []proxytest.Step{text(a)}, a},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			eachBubble(t, func(t *testing.T, w wire) {
				f := w.start(t, nil, proxy.WithHeartbeat(tick))
				f.up.Queue(proxytest.Stream(tt.steps...))
				res := open(t.Context(), t, f, streamPath, streamRequest)
				wantRest(t, res.Body, tt.want)
			})
		})
	}
}

// An SDK reads over twenty heartbeats as if there were none.
func TestF8GoOpenAIClientReadsOverHeartbeats(t *testing.T) {
	t.Parallel()
	const first, second = `data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}` + "\n\n", `data: {"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}` + "\n\n"
	answer := proxytest.Stream(proxytest.Text(first), proxytest.Pause(20500*time.Millisecond),
		proxytest.Text(second), proxytest.Pause(20500*time.Millisecond), proxytest.Text("data: [DONE]\n\n"))
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithHeartbeat(time.Second))
		f.up.Queue(answer)
		text, err := sdkStream(t, goOpenAI(f))
		if text != "Hello" || !errors.Is(err, io.EOF) {
			t.Errorf("the client read %q, %v, want Hello and io.EOF", text, err)
		}
		beats := strings.Repeat(":\n", 20)
		if got := f.seen.String(); !strings.HasSuffix(got, first+beats+second+beats+"data: [DONE]\n\n") {
			t.Errorf("the client received %s", brief(got))
		}
	})
}

// By event nothing of a torn event is on its way, so that a heartbeat can come
// before it.
func TestHeartbeatOfAStreamByEvent(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithHeartbeat(tick), proxy.WithStreamUsage(true))
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\ndata:"), proxytest.Pause(5*time.Second), proxytest.Text(" b\n"),
			proxytest.Pause(5*time.Second), proxytest.Text("\ndata: c\n\n"), proxytest.Pause(5*time.Second)))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		wantRest(t, res.Body, "data: a\n\n:\n:\ndata: b\n\ndata: c\n\n:\n")
	})
}

func TestHeartbeatComesOnTime(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithHeartbeat(tick))
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Pause(10*time.Second), proxytest.Text("data: b\n\n"),
			proxytest.Pause(5*time.Second)))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		pieces, at, err := readTimed(t, res.Body)
		want := []time.Duration{0, 4 * time.Second, 8 * time.Second, 10 * time.Second, 14 * time.Second}
		if err != nil || len(pieces) != len(want) {
			t.Fatalf("%q at %v, %v", pieces, at, err)
		}
		for i := range want {
			if at[i] != want[i] {
				t.Errorf("%q came at %v, want %v", pieces[i], at[i], want[i])
			}
		}
	})
}

func TestHeartbeatIsOffByDefault(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil)
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Pause(9*time.Minute), proxytest.Text("data: b\n\n")))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		wantRest(t, res.Body, "data: a\n\ndata: b\n\n")
	})
}

func TestHeartbeatNeverComesBeforeTheHeaders(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithHeartbeat(tick))
		think := proxytest.Pause(time.Minute)
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n")).After(think),
			proxytest.JSON(http.StatusOK, `{"id":"x"}`).After(think),
			proxytest.Respond(http.StatusOK, http.Header{"Content-Type": {"application/json"}},
				proxytest.Text("{"), think, proxytest.Text("}")),
			proxytest.Failure(http.StatusBadRequest, "invalid_request_error", "x", "y").After(think))
		for _, want := range []struct {
			status int
			body   string
		}{{200, "data: a\n\n"}, {200, `{"id":"x"}`}, {200, "{}"}, {400, ""}} {
			res, body := f.post(t, streamPath, streamRequest)
			if res.StatusCode != want.status || want.body != "" && body != want.body || strings.HasPrefix(body, ":") {
				t.Errorf("%d %q, want %d %q", res.StatusCode, body, want.status, want.body)
			}
		}
	})
}

func TestHeartbeatBeforeAnErrorEvent(t *testing.T) {
	t.Parallel()
	for _, tail := range tails {
		t.Run(tail.name, func(t *testing.T) {
			eachBubble(t, func(t *testing.T, w wire) {
				beats := ":\n:\n"
				if tail.missing != "" {
					beats = "" // no place for one
				}
				f := w.start(t, nil, proxy.WithHeartbeat(tick), proxy.WithLimits(proxy.Limits{StreamIdle: 11 * time.Second}))
				for _, how := range []struct {
					step proxytest.Step
					code proxy.ErrorCode
				}{{proxytest.Cut(), proxy.CodeUpstreamDisconnected}, {proxytest.Silence(), proxy.CodeUpstreamTimeout}} {
					f.up.Queue(proxytest.Stream(proxytest.Text(tail.text), proxytest.Pause(10*time.Second), how.step))
					res := open(t.Context(), t, f, streamPath, streamRequest)
					wantNext(t, res.Body, tail.text+beats)
					wantBroken(t, w, res.Body, tail.missing, how.code)
				}
			})
		})
	}
}

// watchedWriter counts what is written after its handler has returned.
type watchedWriter struct {
	http.ResponseWriter
	over  *atomic.Bool
	after *atomic.Int64
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	if w.over.Load() {
		w.after.Add(1)
	}
	return w.ResponseWriter.Write(p)
}

func (w *watchedWriter) FlushError() error {
	if w.over.Load() {
		w.after.Add(1)
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *watchedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestHeartbeatStopsWithTheHandler(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		var after atomic.Int64
		f := w.start(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var over atomic.Bool
				next.ServeHTTP(&watchedWriter{w, &over, &after}, r)
				over.Store(true)
			})
		}, proxy.WithHeartbeat(time.Second))
		ends := map[string][]proxytest.Step{
			"clean":                  {proxytest.Text("data: a\n\n")},
			"clean at a heartbeat":   {proxytest.Text("data: a\n\n"), proxytest.Pause(5 * time.Second)},
			"broken":                 {proxytest.Text("data: a\n\n"), proxytest.Cut()},
			"broken at a heartbeat":  {proxytest.Text("data: a\n\n"), proxytest.Pause(5 * time.Second), proxytest.Cut()},
			"the client leaves":      {proxytest.Text("data: a\n\n"), proxytest.Silence()},
			"the client leaves late": {proxytest.Text("data: a\n\n"), proxytest.Pause(5 * time.Second), proxytest.Silence()},
		}
		for name, steps := range ends {
			f.up.Queue(proxytest.Stream(steps...))
			ctx, cancel := context.WithCancel(t.Context())
			res := open(ctx, t, f, streamPath, streamRequest)
			if strings.HasPrefix(name, "the client leaves") {
				time.AfterFunc(7500*time.Millisecond, cancel)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			time.Sleep(time.Hour)
			synctest.Wait()
			if n := after.Swap(0); n != 0 {
				t.Errorf("%s: %d writes after the handler had returned", name, n)
			}
			cancel()
		}
	})
}

// A stream that only heartbeats keep from being silent is silent.
func TestHeartbeatDoesNotHoldAStreamOpen(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithHeartbeat(tick), proxy.WithLimits(proxy.Limits{StreamIdle: 30 * time.Second}))
		f.up.Queue(proxytest.Stream(proxytest.Silence()))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		began := time.Now()
		wantNext(t, res.Body, strings.Repeat(":\n", 7))
		wantBroken(t, w, res.Body, "", proxy.CodeUpstreamTimeout)
		wantTook(t, began, 30*time.Second+lastWords)
	})
}

func TestHeartbeatsAndEventsDoNotMix(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithHeartbeat(time.Second))
		var steps []proxytest.Step
		for range 500 { // an event at the very moment of a heartbeat
			steps = append(steps, proxytest.Text("data: a\n\n"), proxytest.Pause(time.Second))
		}
		f.up.Queue(proxytest.Stream(steps...))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		got, err := io.ReadAll(res.Body)
		if rest := strings.ReplaceAll(strings.ReplaceAll(string(got), "data: a\n\n", ""), ":\n", ""); err != nil || rest != "" {
			t.Errorf("%v, left over %q", err, rest)
		}
		if n := strings.Count(string(got), "data: a\n\n"); n != 500 {
			t.Errorf("%d events, want 500", n)
		}
	})
}

func TestHeartbeatIsNoByteOfTheAnswer(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		var told outcomes
		f := w.start(t, nil, proxy.WithHeartbeat(tick), told.hook())
		f.up.Queue(proxytest.Stream(proxytest.Pause(10*time.Second), proxytest.Text("data: [DONE]\n\n")))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		wantRest(t, res.Body, ":\n:\ndata: [DONE]\n\n")
		f.Close()
		if out := told.only(t); out.Bytes != int64(len("data: [DONE]\n\n")) || out.FirstByte != 10*time.Second {
			t.Errorf("%d bytes, the first after %v", out.Bytes, out.FirstByte)
		}
	})
}

func TestHeartbeatBelowASecondIsAConfigurationError(t *testing.T) {
	t.Parallel()
	for interval, ok := range map[time.Duration]bool{
		0: true, time.Second: true, time.Hour: true,
		-1: false, 1: false, 999 * time.Millisecond: false, -time.Second: false,
	} {
		_, err := proxy.NewHandler(proxy.WithHeartbeat(interval))
		var option *proxy.OptionError
		if ok != (err == nil) || !ok && (!errors.As(err, &option) || option.Option != "WithHeartbeat") {
			t.Errorf("%v: %v", interval, err)
		}
	}
}
