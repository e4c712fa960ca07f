package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// again is an upstream's refusal that says when to come back.
func again(status int, after string) proxytest.Answer {
	return proxytest.Failure(status, "t", "c", "later").WithHeader("Retry-After", after)
}

func retries(n int) proxy.Option { return proxy.WithLimits(proxy.Limits{Retries: n}) }

// retryRow is a call in a bubble: what the upstream answers, and what becomes
// of it.
type retryRow struct {
	name    string
	limits  proxy.Limits
	answers []proxytest.Answer
	status  int
	calls   int
	took    time.Duration
}

func (row retryRow) run(t *testing.T, path, body string) {
	t.Run(row.name+" on "+path, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			book := newDoneBook()
			f := inMemory(proxy.WithLimits(row.limits), proxy.WithHooks(proxy.Hooks{Done: book.done})).start(t)
			f.up.Queue(row.answers...)
			begun := time.Now()
			res, text := f.post(t, path, body, "Content-Type", "application/json")
			took := time.Since(begun)
			if path != "/graphql" && res.StatusCode != row.status {
				t.Errorf("%d %s, want %d", res.StatusCode, text, row.status)
			}
			if took != row.took {
				t.Errorf("took %v, want %v", took, row.took)
			}
			f.wantCalls(t, row.calls)
			sent := f.up.Requests()
			for _, req := range sent {
				if !bytes.Equal(req.Body, sent[0].Body) || req.Header.Get("Authorization") != "Bearer "+canary {
					t.Errorf("a repetition sent %s, the first %s", req.Body, sent[0].Body)
				}
			}
			if out := book.only(t, f).out; out.Attempts != row.calls || out.Status != row.status || out.Duration != row.took {
				t.Errorf("Done was told %+v, want %d attempts", out, row.calls)
			}
		})
	})
}

func TestRequestsAreRepeatedAsTheUpstreamAsks(t *testing.T) {
	t.Parallel()
	two := proxy.Limits{Retries: 2}
	rows := []retryRow{
		{"429", two, []proxytest.Answer{again(429, "2")}, 200, 2, 2 * time.Second},
		{"503", two, []proxytest.Answer{again(503, "2")}, 200, 2, 2 * time.Second},
		{"at once", two, []proxytest.Answer{again(503, "0")}, 200, 2, 0},
		{"in milliseconds", two, []proxytest.Answer{again(429, "9").WithHeader("Retry-After-Ms", "250")}, 200, 2, 250 * time.Millisecond},
		{"at a date", two, []proxytest.Answer{again(503, "Sat, 01 Jan 2000 00:00:11 GMT")}, 200, 2, 11 * time.Second},
		{"at a date in the past", two, []proxytest.Answer{again(503, "Sat, 01 Jan 1994 00:00:11 GMT")}, 200, 2, 0},
		{"twice", two, []proxytest.Answer{again(429, "2"), again(503, "3")}, 200, 3, 5 * time.Second},
		{"no more than that", two, []proxytest.Answer{again(429, "2"), again(429, "2"), again(429, "2")}, 429, 3, 4 * time.Second},
		{"all the time there is", two, []proxytest.Answer{again(429, "30")}, 200, 2, 30 * time.Second},
		{"more time", proxy.Limits{Retries: 1, RetryTime: time.Hour}, []proxytest.Answer{again(429, "3600")}, 200, 2, time.Hour},
		{"any time", proxy.Limits{Retries: 1, RetryTime: -1}, []proxytest.Answer{again(429, "7200")}, 200, 2, 2 * time.Hour},
		{"then a failure of another kind", two, []proxytest.Answer{again(429, "1"), proxytest.Failure(500, "t", "c", "no")}, 500, 2, time.Second},
		{"then a break", two, []proxytest.Answer{again(429, "1"), proxytest.Raw("")}, 502, 2, time.Second},
		{"x-should-retry: true", two, []proxytest.Answer{again(429, "1").WithHeader("X-Should-Retry", "true")}, 200, 2, time.Second},
	}
	for _, row := range rows {
		row.run(t, chatPath, askHello)
		row.run(t, "/", askHelloStream)
		row.run(t, "/graphql", gqlRequest(gqlGetAIResponse, gqlChat()))
	}
}

func TestF14RequestsAreNotRepeatedOtherwise(t *testing.T) {
	t.Parallel()
	two := proxy.Limits{Retries: 2}
	denied := http.StatusBadGateway
	for _, row := range []retryRow{
		{"by default", proxy.Limits{}, []proxytest.Answer{again(429, "1")}, 429, 1, 0},
		{"with a negative number", proxy.Limits{Retries: -1}, []proxytest.Answer{again(503, "1")}, 503, 1, 0},
		{"429 without Retry-After", two, []proxytest.Answer{proxytest.Failure(429, "t", "insufficient_quota", "pay")}, 429, 1, 0},
		{"503 without Retry-After", two, []proxytest.Answer{proxytest.Failure(503, "t", "c", "no")}, 503, 1, 0},
		{"Retry-After that is no time", two, []proxytest.Answer{again(429, "soon")}, 429, 1, 0},
		{"a negative Retry-After", two, []proxytest.Answer{again(429, "-1")}, 429, 1, 0},
		{"408", two, []proxytest.Answer{again(408, "1")}, 408, 1, 0},
		{"409", two, []proxytest.Answer{again(409, "1")}, 409, 1, 0},
		{"500", two, []proxytest.Answer{again(500, "1")}, 500, 1, 0},
		{"502", two, []proxytest.Answer{again(502, "1")}, 502, 1, 0},
		{"504", two, []proxytest.Answer{again(504, "1")}, 504, 1, 0},
		{"529", two, []proxytest.Answer{again(529, "1")}, 529, 1, 0},
		{"400", two, []proxytest.Answer{again(400, "1")}, 400, 1, 0},
		{"401", two, []proxytest.Answer{again(401, "1")}, denied, 1, 0},
		{"403", two, []proxytest.Answer{again(403, "1")}, denied, 1, 0},
		{"a redirect", two, []proxytest.Answer{again(307, "1")}, 502, 1, 0},
		{"a success with Retry-After", two, []proxytest.Answer{proxytest.Chat("hi").WithHeader("Retry-After", "1")}, 200, 1, 0},
		{"an answer that is not usable", two, []proxytest.Answer{proxytest.JSON(200, "<html>").WithHeader("Retry-After", "1")}, 502, 1, 0},
		{"no answer", two, []proxytest.Answer{proxytest.Raw("")}, 502, 1, 0},
		{"a wait that is too long", two, []proxytest.Answer{again(429, "31")}, 429, 1, 0},
		{"waits that are too long together", two, []proxytest.Answer{again(429, "20"), again(429, "20")}, 429, 2, 20 * time.Second},
		{"x-should-retry: false", two, []proxytest.Answer{again(429, "1").WithHeader("X-Should-Retry", "false")}, 429, 1, 0},
	} {
		row.run(t, chatPath, askHello)
		row.run(t, "/", askHello)
	}
}

func TestStreamThatHasBegunIsNotRepeated(t *testing.T) {
	t.Parallel()
	for _, step := range []proxytest.Step{proxytest.Cut(), proxytest.Text(`data: {"error":{"code":"rate_limit_exceeded"}}` + "\n\n")} {
		f := start(t, retries(2))
		f.up.Queue(proxytest.Stream(proxytest.Text(limitChunk), step).WithHeader("Retry-After", "0"))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+chatPath, strings.NewReader(askHelloStream))
		if err != nil {
			t.Fatal(err)
		}
		res, err := f.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		f.wantCalls(t, 1)
	}
}

func TestLastRefusalIsPassedOnAsItStands(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := inMemory(retries(1)).start(t)
		f.up.Queue(again(429, "3"), proxytest.RateLimited(5*time.Second))
		res, text := f.post(t, chatPath, askHello)
		if res.StatusCode != 429 || res.Header.Get("Retry-After") != "5" || res.Header.Get("X-Ratelimit-Remaining-Requests") != "0" || !strings.Contains(text, `"rate_limit_exceeded"`) {
			t.Errorf("%d %v %s; want the second answer", res.StatusCode, res.Header, text)
		}
	})
}

// closeCount counts the bodies that are open.
type closeCount struct {
	http.RoundTripper
	open atomic.Int64
}

type countedBody struct {
	io.ReadCloser
	close func()
}

func (b countedBody) Close() error {
	b.close()
	return b.ReadCloser.Close()
}

func (c *closeCount) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.open.Load() != 0 {
		return nil, errors.New("an earlier answer is still open")
	}
	res, err := c.RoundTripper.RoundTrip(r)
	if err == nil {
		c.open.Add(1)
		res.Body = countedBody{res.Body, sync.OnceFunc(func() { c.open.Add(-1) })}
	}
	return res, err
}

func TestAnswersThatAreRepeatedAreClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		up := proxytest.NewUpstream(t, proxytest.InMemory())
		counted := &closeCount{RoundTripper: up.Transport()}
		f := inMemory(retries(3), proxy.WithUpstream(up.URL()), proxy.WithTransport(counted)).start(t)
		big := proxytest.Respond(503, http.Header{"Retry-After": {"1"}, "Content-Type": {"text/plain"}},
			proxytest.Text(strings.Repeat("x", 200<<10)), proxytest.Text("more"))
		up.Queue(again(429, "1"), big, again(503, "1"))
		if res, text := f.post(t, chatPath, askHello); res.StatusCode != 200 {
			t.Errorf("%d %s, want 200", res.StatusCode, text)
		}
		f.Close()
		if open := counted.open.Load(); open != 0 || len(up.Requests()) != 4 {
			t.Errorf("%d answers are still open, of %d", open, len(up.Requests()))
		}
	})
}

func TestWaitForARepetitionEnds(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		end    func(f *fixture, l *leaver)
		ending proxy.Ending
		status int
	}{
		"when the client leaves": {func(_ *fixture, l *leaver) { l.leave() }, proxy.EndingClientGone, 499},
		"with the shutdown": {func(f *fixture, _ *leaver) {
			now, cancel := context.WithCancel(context.Background())
			cancel()
			_ = f.handler.Shutdown(now)
		}, proxy.EndingError, 503},
	} {
		for _, drain := range []time.Duration{0, time.Hour} {
			t.Run(fmt.Sprint(name, ", drained for ", drain), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					m, book := &meter{}, newDoneBook()
					limits := proxy.WithLimits(proxy.Limits{Retries: 2, DrainTime: drain})
					f := inMemory(limits, proxy.WithLimiter(m), proxy.WithHooks(proxy.Hooks{Done: book.done})).start(t)
					f.up.Queue(again(429, "20"))
					begun := time.Now()
					l := sendLeaver(t, f, askHelloStream)
					time.Sleep(time.Second)
					row.end(f, l)
					<-book.news
					took := time.Since(begun)
					time.Sleep(time.Minute)
					f.wantCalls(t, 1)
					book.news <- struct{}{}
					out := book.only(t, f).out
					if drain == 0 && took != time.Second || out.Ending != row.ending || out.Status != row.status || out.Attempts != 1 {
						t.Errorf("after %v Done was told %+v, want %s", took, out, row.ending)
					}
					if r := m.only(t); r.taken != (proxy.Amount{}) {
						t.Errorf("settled %+v, want nothing", r.taken)
					}
				})
			})
		}
	}
}

func TestF14RepetitionsAreATenthOfTheTraffic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := inMemory(retries(5)).start(t)
		f.up.Queue(func() (down []proxytest.Answer) {
			for range 2000 {
				down = append(down, again(503, "1"))
			}
			return down
		}()...)
		const calls = 300
		for range calls {
			f.post(t, chatPath, askHello)
		}
		if extra := len(f.up.Requests()) - calls; extra < calls/10 || extra > 10+calls/10 {
			t.Errorf("%d repetitions of %d calls, want 10 and a tenth", extra, calls)
		}
	})
}

func TestEachRepetitionPassesTheLimiter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &meter{inner: &proxy.MemoryLimiter{Requests: 3, Every: time.Hour, Concurrent: 1, Tokens: tokensOf(askHello) + 4096}}
		var rewritten atomic.Int64
		f := inMemory(retries(9), proxy.WithLimiter(m), proxy.WithHooks(proxy.Hooks{
			Rewrite: func(_ context.Context, _ proxy.Call, body []byte) ([]byte, error) {
				rewritten.Add(1)
				return body, nil
			},
		})).start(t)
		f.up.Queue(again(503, "1"), again(503, "1"), again(503, "1").WithHeader("X-Ratelimit-Remaining-Requests", "42"), again(503, "1"))
		res, text := f.post(t, chatPath, askHello)
		if res.StatusCode != 503 || res.Header.Get("X-Ratelimit-Remaining-Requests") != "42" || !strings.Contains(text, `"later"`) {
			t.Errorf("%d %v %s; want the upstream's last words", res.StatusCode, res.Header, text)
		}
		if f.wantCalls(t, 3); m.asked != 4 || rewritten.Load() != 1 {
			t.Errorf("the limiter was asked %d times, Rewrite %d times; want 4 and 1", m.asked, rewritten.Load())
		}
		f.Close()
		for _, r := range m.all(t) {
			if r.taken != (proxy.Amount{}) {
				t.Errorf("settled %+v, want nothing", r.taken)
			}
		}
	})
}

func TestClientsThatRepeatCannotPassALimit(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithLimiter(&proxy.MemoryLimiter{Requests: 3, Every: time.Hour}))
	for range 30 {
		f.post(t, chatPath, askHello, "X-Stainless-Retry-Count", "2", "Idempotency-Key", "one")
	}
	f.wantCalls(t, 3)
}

func TestRepetitionsReserveAndSettleEach(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &meter{}
		f := inMemory(retries(2), proxy.WithLimiter(m)).start(t)
		f.up.Queue(again(503, "1"), again(503, "1"))
		f.post(t, chatPath, askHello)
		f.Close()
		var taken []int64
		for _, r := range m.all(t) {
			taken = append(taken, r.taken.Tokens)
		}
		if fmt.Sprint(taken) != "[0 0 21]" || m.peak != 1 {
			t.Errorf("settled %v with %d at once, want [0 0 21] one by one", taken, m.peak)
		}
	})
}

func TestRepetitionTakesAnotherKeyWithoutWaiting(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		keys    []string
		answers []proxytest.Answer
		used    string
		took    time.Duration
		status  int
	}{
		"another key":                 {[]string{poolA, poolB}, []proxytest.Answer{again(429, "20")}, "ab", 0, 200},
		"beyond RetryTime":            {[]string{poolA, poolB}, []proxytest.Answer{again(429, "3600")}, "ab", 0, 200},
		"two others":                  {[]string{poolA, poolB, poolC}, []proxytest.Answer{again(429, "20"), again(429, "20")}, "abc", 0, 200},
		"none is left":                {[]string{poolA, poolB}, []proxytest.Answer{again(429, "7"), again(429, "5")}, "abb", 5 * time.Second, 200},
		"one key only":                {[]string{poolA}, []proxytest.Answer{again(429, "20")}, "aa", 20 * time.Second, 200},
		"503 is not about the key":    {[]string{poolA, poolB}, []proxytest.Answer{again(503, "20")}, "ab", 20 * time.Second, 200},
		"429 that does not say until": {[]string{poolA, poolB}, []proxytest.Answer{proxytest.Failure(429, "t", "c", "no")}, "a", 0, 429},
		"401 is not repeated":         {[]string{poolA, poolB}, []proxytest.Answer{again(401, "1")}, "a", 0, 502},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := inMemory(retries(2), poolOf(row.keys...)).start(t)
				f.up.Queue(row.answers...)
				begun := time.Now()
				res, text := f.post(t, chatPath, askHello)
				if took := time.Since(begun); res.StatusCode != row.status || took != row.took {
					t.Errorf("%d after %v, want %d after %v: %s", res.StatusCode, took, row.status, row.took, text)
				}
				wantKeys(t, f, row.used)
			})
		})
	}
}

// A pool beside the key that was refused is no reason to come back early with
// the same key.
func TestRepetitionWithTheSameKeyWaits(t *testing.T) {
	t.Parallel()
	unset := proxy.KeyFunc(func(*http.Request) (string, error) { return "", nil })
	for name, row := range map[string]struct {
		source proxy.KeySource
		header []string
		used   string
	}{
		"a client's own key":                 {proxy.FirstKey(proxy.HeaderKey("X-Key"), proxy.KeyPool(proxy.StaticKey(poolA), proxy.StaticKey(poolB))), []string{"X-Key", poolC}, "cccc"},
		"a pool with a source that is empty": {proxy.KeyPool(proxy.StaticKey(poolA), unset), nil, "aaaa"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := inMemory(retries(2), proxy.WithKeySource(row.source)).start(t)
				for range 2 { // so that every source was asked once
					f.post(t, chatPath, askHello, row.header...)
				}
				f.up.Queue(again(429, "20"))
				begun := time.Now()
				res, text := f.post(t, chatPath, askHello, row.header...)
				if took := time.Since(begun); res.StatusCode != 200 || took != 20*time.Second {
					t.Errorf("%d after %v, want 200 after 20 s: %s", res.StatusCode, took, text)
				}
				wantKeys(t, f, row.used)
			})
		})
	}
}
