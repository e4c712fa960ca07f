package proxy_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// The tests of this file run in bubbles: they name real limits and take no time.

func wantTook(t testing.TB, began time.Time, want time.Duration) {
	t.Helper()
	if took := time.Since(began); took != want {
		t.Errorf("it took %v, want %v", took, want)
	}
}

func wantFailure(t testing.TB, res *http.Response, body string, status int, code proxy.ErrorCode) {
	t.Helper()
	if res.StatusCode != status || !strings.Contains(body, `"code":"`+string(code)+`"`) {
		t.Errorf("%d %s, want %d %s", res.StatusCode, brief(body), status, code)
	}
}

func TestF7HeaderTimeAnswers504(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		for limit, want := range map[time.Duration]time.Duration{0: 10 * time.Minute, 2 * time.Second: 2 * time.Second} {
			f := w.start(t, nil, proxy.WithLimits(proxy.Limits{HeaderTime: limit}))
			for _, request := range []string{streamRequest, plainRequest} {
				f.up.Queue(proxytest.Hang())
				began := time.Now()
				res, body := f.post(t, streamPath, request)
				wantFailure(t, res, body, http.StatusGatewayTimeout, proxy.CodeUpstreamTimeout)
				wantTook(t, began, want)
				wantCanceled(t, f.up.Next())
			}
		}
	})
}

func TestHeaderTimeEndsWithTheHeaders(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithLimits(proxy.Limits{HeaderTime: 2 * time.Second}))
		for _, request := range []string{streamRequest, plainRequest} {
			f.up.Queue(proxytest.Stream(proxytest.Pause(5*time.Second), proxytest.Text("data: a\n\n")),
				proxytest.Respond(http.StatusOK, http.Header{"Content-Type": {"application/json"}},
					proxytest.Text("{"), proxytest.Pause(5*time.Second), proxytest.Text("}")))
			for _, want := range []string{"data: a\n\n", "{}"} {
				if res, body := f.post(t, streamPath, request); res.StatusCode != http.StatusOK || body != want {
					t.Errorf("%d %q, want %q", res.StatusCode, body, want)
				}
			}
		}
	})
}

// stuckTransport knows no limit but the context of its request.
type stuckTransport struct{}

func (stuckTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, context.Cause(req.Context())
}

func TestHeaderTimeHoldsWithAnyTransport(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithLimits(proxy.Limits{HeaderTime: 2 * time.Second}), proxy.WithTransport(stuckTransport{}))
		began := time.Now()
		res, body := f.post(t, streamPath, plainRequest)
		wantFailure(t, res, body, http.StatusGatewayTimeout, proxy.CodeUpstreamTimeout)
		wantTook(t, began, 2*time.Second)
	})
}

func TestF38HeaderTimeHoldsWhileTheUpstreamTakesNoBody(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithLimits(proxy.Limits{HeaderTime: 2 * time.Second}))
		f.up.Queue(proxytest.Hang().Early())
		began := time.Now()
		res, body := f.post(t, streamPath, `{"messages":["`+strings.Repeat("x", 2<<20)+`"]}`)
		wantFailure(t, res, body, http.StatusGatewayTimeout, proxy.CodeUpstreamTimeout)
		wantTook(t, began, 2*time.Second)
	})
}

func TestStreamIdleCountsFromTheLastByte(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithLimits(proxy.Limits{StreamIdle: 2 * time.Second}))
		var steps []proxytest.Step
		for range 20 {
			steps = append(steps, proxytest.Pause(1900*time.Millisecond), proxytest.Text("data: a\n\n"))
		}
		f.up.Queue(proxytest.Stream(append(steps, proxytest.Silence())...))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		began := time.Now()
		wantNext(t, res.Body, strings.Repeat("data: a\n\n", 20))
		wantBroken(t, w, res.Body, "", proxy.CodeUpstreamTimeout)
		wantTook(t, began, 20*1900*time.Millisecond+2*time.Second+lastWords)
		wantCanceled(t, f.up.Next())
	})
}

func TestStreamIdleIsTenMinutesByDefault(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil)
		f.up.Queue(proxytest.Stream(proxytest.Pause(10*time.Minute-time.Second), proxytest.Text("data: a\n\n"), proxytest.Silence()))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		began := time.Now()
		wantNext(t, res.Body, "data: a\n\n")
		wantBroken(t, w, res.Body, "", proxy.CodeUpstreamTimeout)
		wantTook(t, began, 20*time.Minute-time.Second+lastWords)
	})
}

// The stall limit is for a client that takes no byte; here there is none to take.
func TestSilenceOfTheUpstreamIsNoStallOfTheClient(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithLimits(proxy.Limits{WriteStall: 3 * time.Second}))
		f.up.Queue(proxytest.Stream(proxytest.Pause(20*time.Second), proxytest.Text("data: a\n\n"),
			proxytest.Pause(20*time.Second), proxytest.Text("data: b\n\n")))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		wantRest(t, res.Body, "data: a\n\ndata: b\n\n")
	})
}

func TestStreamIdleOfAPlainAnswerIs504(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithLimits(proxy.Limits{StreamIdle: 2 * time.Second}))
		for _, status := range []int{http.StatusOK, http.StatusInternalServerError} {
			for _, text := range []string{"", `{"id":`} {
				f.up.Queue(proxytest.Respond(status, http.Header{"Content-Type": {"application/json"}},
					proxytest.Text(text), proxytest.Silence()))
				began := time.Now()
				res, body := f.post(t, streamPath, plainRequest)
				wantFailure(t, res, body, http.StatusGatewayTimeout, proxy.CodeUpstreamTimeout)
				wantTook(t, began, 2*time.Second)
				wantCanceled(t, f.up.Next())
			}
		}
	})
}

func TestStreamHasNoEndByDefault(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil)
		var steps []proxytest.Step
		for range 26 * 60 * 3 { // more than a day
			steps = append(steps, proxytest.Pause(20*time.Second), proxytest.Text("data: a\n\n"))
		}
		f.up.Queue(proxytest.Stream(steps...))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		wantRest(t, res.Body, strings.Repeat("data: a\n\n", len(steps)/2))
	})
}

func TestNegativeLimitsAreNone(t *testing.T) {
	t.Parallel()
	none := proxy.Limits{
		RequestBytes: -1, ResponseBytes: -1, BodyIdle: -1, BodyTime: -1, HeaderTime: -1, StreamIdle: -1,
		StreamMax: -1, WriteStall: -1, KeyTime: -1,
	}
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithLimits(none), proxy.WithKeySource(proxy.KeyFunc(
			func(r *http.Request) (string, error) {
				select {
				case <-time.After(time.Hour):
					return canary, nil
				case <-r.Context().Done():
					return "", r.Context().Err()
				}
			})))
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Pause(24*time.Hour), proxytest.Text("data: b\n\n")).
			After(proxytest.Pause(24 * time.Hour)))
		body, more := io.Pipe()
		go func() {
			for _, part := range []string{streamRequest[:7], streamRequest[7:]} {
				time.Sleep(24 * time.Hour)
				_, _ = io.WriteString(more, part)
			}
			_ = more.Close()
		}()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+streamPath, body)
		res, err := f.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		wantNext(t, res.Body, "data: a\n\n")
		time.Sleep(24 * time.Hour) // of the bubble: the client does not read
		wantRest(t, res.Body, "data: b\n\n")
	})
}

// slowBody posts a body that does not end, one byte a second, and returns the
// answer and how long it took.
func slowBody(t testing.TB, f *fixture, pieces int) (*http.Response, string, time.Duration) {
	t.Helper()
	body, more := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for range pieces {
			if _, err := io.WriteString(more, " "); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
		<-ctx.Done()
	}()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+streamPath, body)
	req.ContentLength = 1 << 20
	began := time.Now()
	res, err := f.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%v, so far %q", err, text)
	}
	_ = res.Body.Close()
	cancel()
	_ = body.CloseWithError(errors.New("the test is over"))
	<-finished
	return res, string(text), took
}

func TestF27SlowBodyIs408(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		limits proxy.Limits
		pieces int
		want   time.Duration
	}{
		{"idle at once", proxy.Limits{BodyIdle: 2 * time.Second}, 0, 2 * time.Second},
		{"idle behind some bytes", proxy.Limits{BodyIdle: 2 * time.Second}, 5, 4*time.Second + 2*time.Second},
		{"in all", proxy.Limits{BodyIdle: 2 * time.Second, BodyTime: 7500 * time.Millisecond}, 100, 7500 * time.Millisecond},
		{"in all without idle", proxy.Limits{BodyIdle: -1, BodyTime: 3 * time.Second}, 0, 3 * time.Second},
		{"idle without in all", proxy.Limits{BodyIdle: 2 * time.Second, BodyTime: -1}, 1000, 999*time.Second + 2*time.Second},
		{"idle by default", proxy.Limits{}, 0, 30 * time.Second},
		{"in all by default", proxy.Limits{}, 10_000, 10 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			eachBubble(t, func(t *testing.T, w wire) {
				f := w.start(t, nil, proxy.WithLimits(tt.limits))
				res, body, took := slowBody(t, f, tt.pieces)
				wantFailure(t, res, body, http.StatusRequestTimeout, proxy.CodeBodyTimeout)
				if took != tt.want {
					t.Errorf("it took %v, want %v", took, tt.want)
				}
				f.wantCalls(t, 0)
				if res, _ := f.post(t, streamPath, `{"messages":[{"role":"user","content":"hi"}]}`); res.StatusCode != http.StatusOK {
					t.Errorf("the next request got %d", res.StatusCode)
				}
			})
		})
	}
}

func TestSlowBodyWithinItsLimitsPasses(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil)
		body, more := io.Pipe()
		go func() {
			for _, part := range []string{`{"messages":`, `[]`, `}`} {
				time.Sleep(29 * time.Second)
				_, _ = io.WriteString(more, part)
			}
			_ = more.Close()
		}()
		f.up.Queue(proxytest.Chat("hi").After(proxytest.Pause(9 * time.Minute))) // past every body limit
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+streamPath, body)
		res, err := f.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if _, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%d, %v", res.StatusCode, err)
		}
	})
}

// endless answers with more than any buffer takes, and counts what was taken.
func endless(accepted *atomic.Int64) proxytest.Answer {
	return proxytest.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		event := "data: " + strings.Repeat("x", 32<<10) + "\n\n"
		for r.Context().Err() == nil {
			n, err := io.WriteString(w, event)
			if accepted.Add(int64(n)); err != nil {
				return
			}
		}
	})
}

func TestF28WriteStallCutsTheConnectionAndCancelsTheUpstream(t *testing.T) {
	t.Parallel()
	big := `{"x":"` + strings.Repeat("x", 8<<20) + `"}` // more than the window of HTTP/2
	answers := map[string]func() proxytest.Answer{
		"stream": func() proxytest.Answer { return endless(new(atomic.Int64)) },
		"plain":  func() proxytest.Answer { return proxytest.JSON(http.StatusOK, big) },
	}
	for limit, want := range map[time.Duration]time.Duration{0: 30 * time.Second, 3 * time.Second: 3 * time.Second} {
		for kind, answer := range answers {
			t.Run(kind+" "+want.String(), func(t *testing.T) {
				eachBubble(t, func(t *testing.T, w wire) {
					var told outcomes
					returned := make(chan struct{})
					f := w.start(t, returning(returned), proxy.WithLimits(proxy.Limits{WriteStall: limit}), told.hook())
					f.up.Queue(answer())
					res := open(t.Context(), t, f, streamPath, streamRequest)
					req := f.up.Next()
					began := time.Now()
					<-returned
					wantTook(t, began, want)
					if out := told.only(t); out.Ending != proxy.EndingClientGone || !errors.Is(out.Err, proxy.ErrClientGone) {
						t.Errorf("ending %s, %v", out.Ending, out.Err)
					}
					if kind == "stream" {
						wantCanceled(t, req)
					}
					if _, err := io.Copy(io.Discard, res.Body); err == nil {
						t.Error("the client took the rest for a clean end")
					}
				})
			})
		}
	}
}

func TestWriteStallSparesASlowReader(t *testing.T) {
	t.Parallel()
	const size = 64 << 10
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithLimits(proxy.Limits{WriteStall: 3 * time.Second}))
		f.up.Queue(proxytest.Stream(proxytest.Text(strings.Repeat("x", size))))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		for range size / 1024 { // eight seconds for all, and two for as much as is written at once
			time.Sleep(time.Second / 8)
			if _, err := io.CopyN(io.Discard, res.Body, 1024); err != nil {
				t.Fatal(err)
			}
		}
		wantRest(t, res.Body, "")
	})
}

func TestKeyTime(t *testing.T) {
	t.Parallel()
	obeying := func(r *http.Request) (string, error) {
		<-r.Context().Done()
		return "", r.Context().Err()
	}
	careless := func(*http.Request) (string, error) {
		time.Sleep(time.Minute)
		return canary, nil
	}
	tests := []struct {
		name   string
		source proxy.KeyFunc
		limit  time.Duration
		want   time.Duration
	}{
		{"a source that obeys", obeying, 200 * time.Millisecond, 200 * time.Millisecond},
		{"by default", obeying, 0, 5 * time.Second},
		{"a source that does not look", careless, 200 * time.Millisecond, time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			eachBubble(t, func(t *testing.T, w wire) {
				f := w.start(t, nil, proxy.WithLimits(proxy.Limits{KeyTime: tt.limit}), proxy.WithKeySource(tt.source))
				for _, request := range []string{plainRequest, streamRequest} {
					began := time.Now()
					res, body := f.post(t, streamPath, request)
					wantFailure(t, res, body, http.StatusServiceUnavailable, proxy.CodeKeyUnavailable)
					wantTook(t, began, tt.want)
				}
				f.wantCalls(t, 0)
			})
		})
	}
}

// hostTimeouts are the timeouts a host may have set, each on its own.
var hostTimeouts = map[string]func(*http.Server){
	"WriteTimeout":      func(s *http.Server) { s.WriteTimeout = 2 * time.Second },
	"ReadTimeout":       func(s *http.Server) { s.ReadTimeout = 2 * time.Second },
	"ReadHeaderTimeout": func(s *http.Server) { s.ReadHeaderTimeout = 2 * time.Second },
	"IdleTimeout":       func(s *http.Server) { s.IdleTimeout = 2 * time.Second },
	"all of them": func(s *http.Server) {
		s.WriteTimeout, s.ReadTimeout, s.ReadHeaderTimeout, s.IdleTimeout = 2*time.Second, 2*time.Second, 2*time.Second, 2*time.Second
	},
}

// eachHostTimeout runs a bubble per timeout of the host and protocol.
func eachHostTimeout(t *testing.T, f func(*testing.T, wire)) {
	t.Helper()
	for name, set := range hostTimeouts {
		t.Run(name, func(t *testing.T) {
			eachBubble(t, func(t *testing.T, w wire) {
				w.client = append(w.client, proxytest.Configure(set))
				f(t, w)
			})
		})
	}
}

func TestF29StreamOutlivesTheTimeoutsOfTheHost(t *testing.T) {
	t.Parallel()
	eachHostTimeout(t, func(t *testing.T, w wire) {
		for name, wrap := range breakingHosts() {
			f := w.start(t, wrap)
			var steps []proxytest.Step
			for range 201 {
				steps = append(steps, proxytest.Text("data: tick\n\n"), proxytest.Pause(100*time.Millisecond))
			}
			f.up.Queue(proxytest.Stream(steps...))
			res := open(t.Context(), t, f, streamPath, streamRequest)
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != strings.Repeat("data: tick\n\n", 201) {
				t.Errorf("%s: %d of 201 events, %v", name, strings.Count(string(got), "data: tick\n\n"), err)
			}
		}
	})
}

func TestSparseStreamOutlivesTheTimeoutsOfTheHost(t *testing.T) {
	t.Parallel()
	eachHostTimeout(t, func(t *testing.T, w wire) {
		f := w.start(t, nil)
		f.up.Queue(proxytest.Stream(proxytest.Pause(10*time.Second), proxytest.Text("data: a\n\n"),
			proxytest.Pause(10*time.Second), proxytest.Text("data: b\n\n")))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		wantRest(t, res.Body, "data: a\n\ndata: b\n\n")
	})
}

// A model thinks for longer than a careful host lets a handler write.
func TestSlowAnswerOutlivesTheTimeoutsOfTheHost(t *testing.T) {
	t.Parallel()
	eachHostTimeout(t, func(t *testing.T, w wire) {
		f := w.start(t, nil)
		think := proxytest.Pause(20 * time.Second)
		for want, answer := range map[string]proxytest.Answer{
			`{"id":"x"}`:  proxytest.JSON(http.StatusOK, `{"id":"x"}`),
			"data: a\n\n": proxytest.Stream(proxytest.Text("data: a\n\n")),
		} {
			f.up.Queue(answer.After(think))
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+streamPath, strings.NewReader(streamRequest))
			res, err := f.Client().Do(req)
			if err != nil {
				t.Errorf("no answer: %v", err)
				continue
			}
			wantRest(t, res.Body, want)
			_ = res.Body.Close()
		}
	})
}

func TestLateErrorOutlivesTheTimeoutsOfTheHost(t *testing.T) {
	t.Parallel()
	eachHostTimeout(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithLimits(proxy.Limits{HeaderTime: 20 * time.Second}))
		for want, answer := range map[int]proxytest.Answer{
			http.StatusGatewayTimeout:  proxytest.Hang(),
			http.StatusTooManyRequests: proxytest.RateLimited(time.Second).After(proxytest.Pause(10 * time.Second)),
			http.StatusBadGateway:      proxytest.JSON(http.StatusOK, "{}").After(proxytest.Pause(10*time.Second), proxytest.Cut()),
		} {
			f.up.Queue(answer)
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+streamPath, strings.NewReader(plainRequest))
			res, err := f.Client().Do(req)
			if err != nil {
				t.Errorf("no answer where %d is due: %v", want, err)
				continue
			}
			if _, err := io.ReadAll(res.Body); err != nil || res.StatusCode != want {
				t.Errorf("%d, %v, want %d", res.StatusCode, err, want)
			}
			_ = res.Body.Close()
		}
	})
}

func TestSlowKeyOutlivesTheTimeoutsOfTheHost(t *testing.T) {
	t.Parallel()
	eachHostTimeout(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) {
			time.Sleep(4 * time.Second)
			return canary, nil
		})))
		f.up.Queue(proxytest.JSON(http.StatusOK, `{"id":"x"}`))
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+streamPath, strings.NewReader(plainRequest))
		res, err := f.Client().Do(req)
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		defer res.Body.Close()
		wantRest(t, res.Body, `{"id":"x"}`)
	})
}

// A request that follows on the same connection must find none of the deadlines
// that the one before it needed.
func TestNoDeadlineIsLeftOnTheConnection(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, func(next http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/", next)
			mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { // of the host, without limits
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Errorf("reading the body: %v", err)
				}
				time.Sleep(2 * time.Hour)
				if err := r.Context().Err(); err != nil {
					t.Errorf("the request was cancelled: %v", err)
				}
				_, _ = w.Write(body)
			})
			return mux
		})
		answers := map[string]proxytest.Answer{
			"plain":  proxytest.JSON(http.StatusOK, `{"id":"x"}`),
			"stream": proxytest.Stream(proxytest.Text("data: a\n\n")),
			"error":  proxytest.RateLimited(time.Second),
		}
		for name, answer := range answers {
			f.up.Queue(answer)
			f.post(t, streamPath, streamRequest)
			time.Sleep(time.Hour) // idle
			body, more := io.Pipe()
			go func() {
				for range 3 {
					time.Sleep(time.Hour)
					_, _ = io.WriteString(more, "x")
				}
				_ = more.Close()
			}()
			reused := false
			trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
			req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodPost, f.URL+"/slow", body)
			res, err := f.Client().Do(req)
			if err != nil {
				t.Fatalf("behind a %s answer: %v", name, err)
			}
			wantRest(t, res.Body, "xxx")
			_ = res.Body.Close()
			if !reused {
				t.Errorf("behind a %s answer the connection was not used again", name)
			}
		}
	})
}

// Nothing fires early or late for a clock that stands still and then leaps.
func TestF24LimitsHoldOverALongPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := everyWire()[0].inMemory().start(t, nil)
		for range 3 {
			f.up.Queue(proxytest.Chat("hi"))
			if res, _ := f.post(t, streamPath, plainRequest); res.StatusCode != http.StatusOK {
				t.Errorf("%d", res.StatusCode)
			}
			time.Sleep(1000 * time.Hour)
		}
	})
}

// Over a real connection, with real time, as a check of the bubbles.
func TestStreamOutlivesAWriteTimeoutOnLoopback(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		w.client = append(w.client, proxytest.Configure(func(s *http.Server) { s.WriteTimeout = 200 * time.Millisecond }))
		f := w.start(t, nil)
		var steps []proxytest.Step
		for range 41 {
			steps = append(steps, proxytest.Text("data: tick\n\n"), proxytest.Pause(25*time.Millisecond))
		}
		f.up.Queue(proxytest.Stream(steps...))
		res := open(within(t), t, f, streamPath, streamRequest)
		wantRest(t, res.Body, strings.Repeat("data: tick\n\n", 41))
	})
}

// A half-open TCP connection on loopback: the client takes no byte for good.
func TestWriteStallOnLoopback(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithLimits(proxy.Limits{WriteStall: 200 * time.Millisecond}))
	f.up.Queue(endless(new(atomic.Int64)))
	conn := dial(t, f)
	if err := conn.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, rawRequest(streamPath, streamRequest, len(streamRequest))); err != nil {
		t.Fatal(err)
	}
	req := f.up.Next()
	select {
	case <-req.Canceled():
	case <-time.After(10 * time.Second): // the buffers of the kernel are large
		t.Error("the upstream was not cancelled")
	}
}
