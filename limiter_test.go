package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// meter is a Limiter that keeps what it was asked and told.
type meter struct {
	inner  proxy.Limiter // nil: there is room for everything
	before func(ctx context.Context, call proxy.Call)

	mu             sync.Mutex
	room           []*room
	asked          int
	underWay, peak int
}

// room is one reservation.
type room struct {
	call        proxy.Call
	most, taken proxy.Amount
	settled     int
	ctx         context.Context // of settle
	over        error           // whether it was over then
}

func (m *meter) Reserve(ctx context.Context, call proxy.Call, most proxy.Amount) (func(context.Context, proxy.Amount), error) {
	m.mu.Lock()
	m.asked++
	m.mu.Unlock()
	if m.before != nil {
		m.before(ctx, call)
	}
	settle := func(context.Context, proxy.Amount) {}
	if m.inner != nil {
		var err error
		if settle, err = m.inner.Reserve(ctx, call, most); err != nil || settle == nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &room{call: call, most: most}
	m.room = append(m.room, r)
	m.underWay++
	m.peak = max(m.peak, m.underWay)
	return func(ctx context.Context, taken proxy.Amount) {
		m.mu.Lock()
		r.settled++
		r.taken, r.ctx, r.over = taken, ctx, ctx.Err()
		m.underWay--
		m.mu.Unlock()
		settle(ctx, taken)
	}, nil
}

// all returns the reservations, each of which must have been settled once.
func (m *meter) all(t testing.TB) []*room {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.room {
		if r.settled != 1 {
			t.Errorf("a reservation of %v was settled %d times, want once", r.call, r.settled)
		}
	}
	return m.room
}

// only returns the one reservation there must be.
func (m *meter) only(t testing.TB) *room {
	t.Helper()
	all := m.all(t)
	if len(all) != 1 {
		t.Fatalf("%d reservations, want 1", len(all))
	}
	return all[0]
}

// tokensOf is the estimate that WithLimiter's documentation gives for a prompt.
func tokensOf(body string) int64 { return int64(len(body)/4 + 1) }

// settleRow says what is to be settled for an answer.
type settleRow struct {
	name, body string
	answer     proxytest.Answer
	options    []proxy.Option
	want       func(prompt, most int64) int64
}

func settledExactly(n int64) func(int64, int64) int64 { return func(int64, int64) int64 { return n } }

func settledPromptAnd(n int64) func(int64, int64) int64 {
	return func(prompt, _ int64) int64 { return prompt + n }
}

func settledMost(_, most int64) int64 { return most }

const limitChunk = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n"

func settleRows() []settleRow {
	text, stream, wait := proxytest.Text, proxytest.Stream, []proxy.Option{proxy.WithLimits(proxy.Limits{HeaderTime: time.Minute, StreamIdle: time.Minute})}
	const usage = `"usage":{"prompt_tokens":7,"completion_tokens":11,"total_tokens":18}`
	plain := http.Header{"Content-Type": {"application/json"}}
	nothing, some := settledExactly(0), settledPromptAnd(1)
	refusedDial := proxy.WithTransport(&http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}})
	panics := proxy.WithTransport(brokenTransport(func(*http.Request) (*http.Response, error) { panic("wire") }))
	rows := []settleRow{
		{"an answer with usage", askHello, proxytest.JSON(200, `{`+usage+`}`), nil, settledExactly(18)},
		{"usage beyond what was reserved", askHello, proxytest.JSON(200, `{"usage":{"prompt_tokens":7,"completion_tokens":9999999}}`), nil, settledExactly(10000006)},
		{"an answer without usage", askHello, proxytest.JSON(200, `{}`), nil, some},
		{"a long answer without usage", askHello, proxytest.JSON(200, `{"x":"`+strings.Repeat("x", 392)+`"}`), nil, settledPromptAnd(101)},
		{"an answer with null for usage", askHello, proxytest.JSON(200, `{"usage":null}`), nil, settledPromptAnd(4)},
		{"an answer that is no JSON", askHello, proxytest.JSON(200, `<html>`), nil, settledPromptAnd(2)},
		{"an answer that is labelled HTML", askHello, proxytest.JSON(200, `<html>`).WithHeader("Content-Type", "text/html"), nil, settledMost},
		{"a plain answer that breaks", askHello, proxytest.Respond(200, plain, text(`{"a":`), proxytest.Cut()), nil, settledMost},
		{"a plain answer that falls silent", askHello, proxytest.Respond(200, plain, text(`{"a":`), proxytest.Silence()), wait, settledMost},
		{"no headers in time", askHello, proxytest.Hang(), wait, settledMost},
		{"the transport panics", askHello, proxytest.Answer{}, []proxy.Option{panics}, settledMost},
		{"the upstream hangs up", askHello, proxytest.Raw(""), nil, settledPromptAnd(0)},
		{"a stream with usage", askHelloStream, stream(text(limitChunk), text(`data: {"choices":[],`+usage+"}\n\ndata: [DONE]\n\n")), nil, settledExactly(18)},
		{"a stream without usage", askHelloStream, stream(text(limitChunk), text(limitChunk), text("data: [DONE]\n\n")), nil, settledPromptAnd(2)},
		{"a stream without usage or end", askHelloStream, stream(text(limitChunk)), nil, some},
		{"a stream that is cut", askHelloStream, stream(text(limitChunk), proxytest.Cut()), nil, some},
		{"a stream that is cut at once", askHelloStream, stream(proxytest.Cut()), nil, settledPromptAnd(0)},
		{"a stream that falls silent", askHelloStream, stream(text(limitChunk), proxytest.Silence()), wait, some},
		{"a redirect", askHello, proxytest.JSON(307, "").WithHeader("Location", "/"), nil, nothing},
		{"a refused dial", askHello, proxytest.Answer{}, []proxy.Option{refusedDial}, nothing},
		{"no key", askHello, proxytest.Answer{}, []proxy.Option{proxy.WithKeySource(proxy.FirstKey())}, nothing},
		{
			"the key source panics", askHello,
			proxytest.Answer{},
			[]proxy.Option{proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) { panic("vault") }))},
			nothing,
		},
	}
	for _, status := range []int{400, 401, 403, 404, 429, 500, 503, 529} {
		name := fmt.Sprint("the upstream refuses with ", status)
		rows = append(rows, settleRow{name, askHello, proxytest.Failure(status, "t", "c", "no"), nil, nothing})
		rows = append(rows, settleRow{name + " to a stream", askHelloStream, proxytest.Failure(status, "t", "c", "no"), nil, nothing})
	}
	return rows
}

func TestReservationIsSettledWithWhatWasTaken(t *testing.T) {
	t.Parallel()
	for _, row := range settleRows() {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, book := &meter{}, newDoneBook()
				prices := proxy.WithPrices(map[string]proxy.Price{"*": {Prompt: 2, Completion: 2}})
				f := inMemory(append([]proxy.Option{proxy.WithLimiter(m), prices, proxy.WithHooks(proxy.Hooks{Done: book.done})}, row.options...)...).start(t)
				f.up.Queue(row.answer)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+chatPath, strings.NewReader(row.body))
				if err != nil {
					t.Fatal(err)
				}
				if res, err := f.Client().Do(req); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				out := book.only(t, f).out
				r, prompt := m.only(t), tokensOf(row.body)
				if r.most.Tokens != prompt+4096 || r.most.Cost != proxy.Money(2*r.most.Tokens) {
					t.Errorf("reserved %+v, want %d tokens", r.most, prompt+4096)
				}
				want := row.want(prompt, r.most.Tokens)
				if r.taken.Tokens != want || r.taken.Cost != proxy.Money(2*want) {
					t.Errorf("settled %+v, want %d tokens", r.taken, want)
				}
				if u := out.Usage; u.PromptTokens+u.CompletionTokens != want || out.Cost != r.taken.Cost || want > 0 && u.Reported == u.Estimated {
					t.Errorf("Done was told %+v and %v, want %d tokens", u, out.Cost, want)
				}
				if r.over != nil {
					t.Errorf("the context of settle is over: %v", r.over)
				}
			})
		})
	}
}

// An upstream that sends a usage object with nothing in it has told nothing.
func TestT2UsageThatTellsNothingIsEstimated(t *testing.T) {
	t.Parallel()
	for _, usage := range []string{`{}`, `{"prompt_tokens":"7","completion_tokens":null}`, `{"total_tokens":18}`} {
		for body, answer := range map[string]proxytest.Answer{
			askHello:       proxytest.JSON(200, `{"usage":`+usage+`}`),
			askHelloStream: proxytest.Stream(proxytest.Text(limitChunk + `data: {"choices":[],"usage":` + usage + "}\n\ndata: [DONE]\n\n")),
		} {
			m := &meter{}
			f := start(t, proxy.WithLimiter(m))
			f.up.Queue(answer)
			f.post(t, chatPath, body)
			f.Close()
			if r := m.only(t); r.taken.Tokens <= 0 {
				t.Errorf("usage %s of %s settled %d tokens", usage, body, r.taken.Tokens)
			}
		}
	}
}

func TestImagesReserveAndSettleByTheirNumber(t *testing.T) {
	t.Parallel()
	m := &meter{}
	prices := map[string]proxy.Price{"*": {Image: 0.5}}
	f := start(t, proxy.WithLimiter(m), proxy.WithPrices(prices))
	const three = `{"model":"img-x","prompt":"a cat","n":3}`
	f.up.Queue(proxytest.JSON(200, `{"data":[]}`))
	f.post(t, "/v1/images/generations", three)
	f.post(t, "/v1/images/generations", three)
	f.Close()
	all := m.all(t)
	if len(all) != 2 {
		t.Fatalf("%d reservations, want 2", len(all))
	}
	worst := proxy.Amount{Tokens: tokensOf(three) + 3*6300, Cost: 1_500_000}
	if all[0].most != worst || all[0].taken != worst {
		t.Errorf("without usage: reserved %+v, settled %+v; want %+v", all[0].most, all[0].taken, worst)
	}
	if want := (proxy.Amount{Tokens: 30, Cost: 1_500_000}); all[1].most != worst || all[1].taken != want {
		t.Errorf("with usage: reserved %+v, settled %+v; want %+v, %+v", all[1].most, all[1].taken, worst, want)
	}
}

func TestClientThatLeavesSettlesAnEstimate(t *testing.T) {
	t.Parallel()
	reached := make(chan struct{}, 10)
	blockKey := proxy.WithKeySource(proxy.KeyFunc(func(r *http.Request) (string, error) {
		reached <- struct{}{}
		<-r.Context().Done()
		return "", r.Context().Err()
	}))
	waitKey := func(*fixture, *leaver) { <-reached }
	waitUpstream := func(f *fixture, _ *leaver) { f.up.Next() }
	waitByte := func(_ *fixture, l *leaver) { <-l.body }
	plain := http.Header{"Content-Type": {"application/json"}}
	for _, row := range []struct {
		settleRow
		wait func(*fixture, *leaver)
	}{
		{settleRow{"while the key is looked for", askHello, proxytest.Answer{}, []proxy.Option{blockKey}, settledExactly(0)}, waitKey},
		{settleRow{"before the headers", askHello, proxytest.Hang(), nil, settledMost}, waitUpstream},
		{settleRow{"before the headers of a stream", askHelloStream, proxytest.Hang(), nil, settledMost}, waitUpstream},
		{settleRow{"in a plain answer", askHello, proxytest.Respond(200, plain, proxytest.Text(`{"a":`), proxytest.Silence()), nil, settledMost}, waitUpstream},
		{settleRow{"behind the headers of a stream", askHelloStream, proxytest.Stream(proxytest.Silence()), nil, settledPromptAnd(0)}, func(_ *fixture, l *leaver) { <-l.answered }},
		{settleRow{"in a stream", askHelloStream, proxytest.Stream(proxytest.Text(limitChunk), proxytest.Silence()), nil, settledPromptAnd(1)}, waitByte},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			m := &meter{}
			f := start(t, append(row.options, proxy.WithLimiter(m))...)
			f.up.Queue(row.answer)
			l := sendLeaver(t, f, row.body)
			row.wait(f, l)
			l.leave()
			f.Close()
			r := m.only(t)
			if want := row.want(tokensOf(row.body), r.most.Tokens); r.taken.Tokens != want || r.over != nil {
				t.Errorf("settled %+v with a context that says %v; want %d tokens", r.taken, r.over, want)
			}
		})
	}
}

func TestClientThatLeavesWhileTheLimiterIsAsked(t *testing.T) {
	t.Parallel()
	type valueKey struct{}
	reached := make(chan struct{})
	m := &meter{before: func(ctx context.Context, _ proxy.Call) {
		close(reached)
		<-ctx.Done()
	}}
	f := setup{
		options: []proxy.Option{proxy.WithLimiter(m)},
		wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), valueKey{}, "of the host")))
			})
		},
	}.start(t)
	l := sendLeaver(t, f, askHello)
	<-reached
	l.leave()
	<-l.answered
	for range l.body { // until the client is gone
	}
	f.Close()
	r := m.only(t)
	if r.taken != (proxy.Amount{}) || r.over != nil || r.ctx.Value(valueKey{}) != "of the host" {
		t.Errorf("settled %+v with a context that says %v and %v; want nothing, and the host's", r.taken, r.over, r.ctx.Value(valueKey{}))
	}
	f.wantCalls(t, 0)
	if strings.Contains(f.logs.String(), "level=ERROR") {
		t.Errorf("a caller who leaves is logged as our failure:\n%s", f.logs)
	}
}

func TestDrainedStreamSettlesExactly(t *testing.T) {
	t.Parallel()
	m := &meter{}
	more := make(chan struct{})
	f := start(t, proxy.WithLimiter(m), proxy.WithLimits(proxy.Limits{DrainTime: time.Minute}))
	f.up.Queue(proxytest.Stream(proxytest.Text(limitChunk), proxytest.Gate(more),
		proxytest.Text(`data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":11}}`+"\n\ndata: [DONE]\n\n")))
	l := sendLeaver(t, f, askHelloStream)
	<-l.body
	l.leave()
	for range l.body { // until the client is gone
	}
	close(more)
	<-f.up.Next().Done()
	f.Close()
	if r := m.only(t); r.taken.Tokens != 18 {
		t.Errorf("settled %+v, want 18 tokens", r.taken)
	}
}

func TestLimiterThatFailsRefuses(t *testing.T) {
	t.Parallel()
	own := &proxy.Error{Status: http.StatusTooManyRequests, Code: "plan_used_up", Message: "Upgrade.", RetryAfter: 90 * time.Second}
	settled := func(context.Context, proxy.Amount) {}
	for _, row := range []struct {
		name       string
		reserve    limiterFunc
		status     int
		body       string
		retryAfter string
	}{
		{"an Error, as it stands", func(context.Context) (func(context.Context, proxy.Amount), error) { return nil, own }, 429, `"plan_used_up"`, "90"},
		{"an Error inside another", func(context.Context) (func(context.Context, proxy.Amount), error) {
			return nil, fmt.Errorf("redis 7: %w", own)
		}, 429, `"Upgrade."`, "90"},
		{"any other error", func(context.Context) (func(context.Context, proxy.Amount), error) {
			return nil, errors.New("redis 7 is down")
		}, 503, `"internal_error"`, ""},
		{"a nil Error", func(context.Context) (func(context.Context, proxy.Amount), error) {
			var none *proxy.Error
			return nil, none
		}, 503, `"internal_error"`, ""},
		{"neither room nor an error", func(context.Context) (func(context.Context, proxy.Amount), error) { return nil, nil }, 503, `"internal_error"`, ""},
		{"a panic", func(context.Context) (func(context.Context, proxy.Amount), error) { panic("redis 7") }, 500, `"internal_error"`, ""},
		{"too slow", func(ctx context.Context) (func(context.Context, proxy.Amount), error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, 503, `"internal_error"`, ""},
		{"too slow, and finds room all the same", func(context.Context) (func(context.Context, proxy.Amount), error) {
			time.Sleep(time.Minute)
			return settled, nil
		}, 503, `"internal_error"`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &meter{inner: row.reserve}
				noKey := proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) { t.Error("a key was asked for"); return canary, nil }))
				f := inMemory(proxy.WithLimiter(m), noKey).start(t)
				for _, body := range []string{askHello, askHelloStream} {
					res, text := f.post(t, chatPath, body)
					if res.StatusCode != row.status || !strings.Contains(text, row.body) || res.Header.Get("Retry-After") != row.retryAfter {
						t.Errorf("%d, Retry-After %q, %s; want %d, %q, %s", res.StatusCode, res.Header.Get("Retry-After"), text, row.status, row.retryAfter, row.body)
					}
					if strings.Contains(text, "redis") {
						t.Errorf("the cause is shown: %s", text)
					}
				}
				f.wantCalls(t, 0)
				f.Close()
				for _, r := range m.all(t) {
					if r.taken != (proxy.Amount{}) {
						t.Errorf("settled %+v, want nothing", r.taken)
					}
				}
			})
		})
	}
}

// limiterFunc is a Limiter that does not look at what it is asked.
type limiterFunc func(context.Context) (func(context.Context, proxy.Amount), error)

func (f limiterFunc) Reserve(ctx context.Context, _ proxy.Call, _ proxy.Amount) (func(context.Context, proxy.Amount), error) {
	return f(ctx)
}

func TestSettleThatPanicsHarmsNothing(t *testing.T) {
	t.Parallel()
	book := newDoneBook()
	var limiter limiterFunc = func(context.Context) (func(context.Context, proxy.Amount), error) {
		return func(context.Context, proxy.Amount) { panic("settle fell over " + canary) }, nil
	}
	f := start(t, proxy.WithLimiter(limiter), proxy.WithHooks(proxy.Hooks{Done: book.done}))
	for _, body := range []string{askHello, askHelloStream, askHello} {
		if res, text := f.post(t, chatPath, body); res.StatusCode != http.StatusOK || !strings.Contains(text, "said") {
			t.Errorf("%d %s, want the whole answer", res.StatusCode, text)
		}
	}
	f.up.Queue(proxytest.Failure(400, "t", "bad", "no"))
	if res, text := f.post(t, chatPath, askHello); res.StatusCode != 400 {
		t.Errorf("%d %s, want the upstream's 400", res.StatusCode, text)
	}
	f.Close()
	if got := len(book.all()); got != 4 || strings.Count(f.logs.String(), "settle fell over") != 4 {
		t.Errorf("Done was called %d times, want 4; the log:\n%s", got, f.logs)
	}
}

func TestLimiterIsAskedForWhatIsReallySent(t *testing.T) {
	t.Parallel()
	m := &meter{}
	const long = `{"model":"forced","messages":[{"role":"system","content":"Be kind, and as brief as you can."}],"max_tokens":50,"n":4}`
	f := start(t, proxy.WithLimiter(m), proxy.WithPolicy(proxy.Policy{Refuse: []string{"store"}}), proxy.WithHooks(proxy.Hooks{
		Admit: func(_ context.Context, call proxy.Call) error {
			if call.Header.Get("X-Test") == "refuse" {
				return errors.New("no")
			}
			return nil
		},
		Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) { return []byte(long), nil },
	}))
	f.post(t, chatPath, askHello, "X-Test", "refuse")
	f.post(t, chatPath, `{"model":"m","messages":[],"store":true}`)
	f.post(t, chatPath, `{"model":7`)
	if m.asked != 0 {
		t.Errorf("asked %d times about requests that were refused before", m.asked)
	}
	f.post(t, chatPath, askHello)
	f.Close()
	if r := m.only(t); r.call.Model != "forced" || r.most.Tokens != tokensOf(long)+200 || r.call.Address != "127.0.0.1" {
		t.Errorf("asked about %v for %+v", r.call, r.most)
	}
}

// What a body may say of its size must not make a reservation small or negative.
func TestReservationOfOddNumbers(t *testing.T) {
	t.Parallel()
	const fits = 1 << 40 // far beyond any model
	for value, least := range map[string]int64{
		"0": 4096, "1": 1, "100": 100, "1e3": 1000, "1000.0": 1000, "-5": 4096, "-9223372036854775808": 4096, "null": 4096, "2.5": 1,
		`"7"`: 7, "true": 1, "[]": 1, "{}": 1, "9007199254740993": fits, "9223372036854775807": fits, "9223372036854775808": fits,
		"99999999999999999999999999": fits, "1e15": fits, "1e18": fits, "1e30": fits, "1e400": fits, "-1e400": 1, "100000000000000000000.0": fits,
	} {
		for _, key := range []string{"max_tokens", "max_completion_tokens", "n"} {
			m := &meter{}
			f := start(t, proxy.WithLimiter(m))
			f.post(t, chatPath, `{"model":"m","messages":[],"`+key+`":`+value+`}`)
			f.Close()
			if got := m.only(t).most.Tokens; got < least {
				t.Errorf("%s %s reserves %d tokens, want %d at least", key, value, got, least)
			}
		}
	}
}

// cancelledRuns plays n clients that leave at random moments, among hosts and
// upstreams that fail at random.
func cancelledRuns(t *testing.T, f *fixture, n int) {
	t.Helper()
	for range n {
		f.up.Queue(randomAnswer())
	}
	var wg sync.WaitGroup
	turns := make(chan struct{}, 16)
	for range n {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if rand.N(4) > 0 {
				time.AfterFunc(rand.N(6*time.Millisecond), cancel)
			}
			body, path := askHello, chatPath
			if rand.N(2) == 0 {
				body = askHelloStream
			}
			if rand.N(5) == 0 {
				body, path = gqlRequest(gqlGetAIResponse, gqlChat()), "/graphql"
			}
			var src io.Reader = strings.NewReader(body)
			if rand.N(4) == 0 {
				src = io.MultiReader(strings.NewReader(body[:5]), napping{}, strings.NewReader(body[5:]))
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+path, src)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/json")
			if res, err := f.Client().Do(req); err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		})
	}
	wg.Wait()
}

// napping is a piece of a body that comes late and empty.
type napping struct{}

func (napping) Read([]byte) (int, error) {
	time.Sleep(2 * time.Millisecond)
	return 0, io.EOF
}

func randomAnswer() proxytest.Answer {
	pause := func() proxytest.Step { return proxytest.Pause(rand.N(3 * time.Millisecond)) }
	answers := []proxytest.Answer{
		proxytest.Chat("hi"), proxytest.ChatStream("a", "b"), proxytest.JSON(200, `{}`), proxytest.Failure(500, "t", "c", "no"),
		proxytest.RateLimited(time.Millisecond), proxytest.Raw(""), proxytest.JSON(302, ""),
		proxytest.Stream(proxytest.Text(limitChunk), pause(), proxytest.Text(limitChunk), pause(), proxytest.Text(limitChunk)),
		proxytest.Stream(proxytest.Text(limitChunk), pause(), proxytest.Cut()),
	}
	return answers[rand.N(len(answers))].After(pause())
}

func TestT1NothingStaysReservedHoweverCallsEnd(t *testing.T) {
	t.Parallel()
	const budget, concurrent = int64(1) << 40, 8
	nap := func() { time.Sleep(rand.N(time.Millisecond)) }
	upset := func() {
		if nap(); rand.N(20) == 0 {
			panic("by chance")
		}
	}
	memory := &proxy.MemoryLimiter{Tokens: budget, Concurrent: concurrent, InFlight: concurrent}
	m := &meter{inner: memory, before: func(context.Context, proxy.Call) { upset() }}
	f := start(t, proxy.WithLimiter(m), proxy.WithLimits(proxy.Limits{Retries: 1, DrainTime: 5 * time.Millisecond}),
		proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) { upset(); return canary, nil })),
		proxy.WithHooks(proxy.Hooks{
			Admit:   func(context.Context, proxy.Call) error { upset(); return nil },
			Rewrite: func(_ context.Context, _ proxy.Call, body []byte) ([]byte, error) { upset(); return body, nil },
			Done:    func(context.Context, proxy.Call, proxy.Outcome) { upset() },
		}))
	cancelledRuns(t, f, 1000)
	f.Close()
	var spent int64
	for _, r := range m.all(t) {
		spent += r.taken.Tokens
	}
	if m.underWay != 0 || m.peak > concurrent || len(m.room) < 100 {
		t.Errorf("%d still under way, at most %d at once of %d", m.underWay, m.peak, len(m.room))
	}
	here := proxy.Call{Address: "127.0.0.1"}
	for i := range concurrent {
		if _, err := memory.Reserve(t.Context(), here, proxy.Amount{Tokens: (budget - spent) / concurrent}); err != nil {
			t.Fatalf("call %d of %d afterwards: %v", i+1, concurrent, err)
		}
	}
	if _, err := memory.Reserve(t.Context(), here, proxy.Amount{}); err == nil {
		t.Errorf("more than %d calls under way were admitted", concurrent)
	}
}
