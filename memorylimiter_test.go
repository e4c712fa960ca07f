package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// take reserves, and fails the test if there is no room.
func take(t testing.TB, m *proxy.MemoryLimiter, caller string, tokens int64) (settle func(tokens int64)) {
	t.Helper()
	done, err := m.Reserve(t.Context(), proxy.Call{Caller: caller}, proxy.Amount{Tokens: tokens})
	if err != nil {
		t.Fatalf("no room for %d tokens of %q: %v", tokens, caller, err)
	}
	return func(n int64) { done(context.Background(), proxy.Amount{Tokens: n}) }
}

// full reserves, fails the test if there is room, and returns how long to wait.
func full(t testing.TB, m *proxy.MemoryLimiter, caller string, tokens int64) time.Duration {
	t.Helper()
	settle, err := m.Reserve(t.Context(), proxy.Call{Caller: caller}, proxy.Amount{Tokens: tokens})
	var e *proxy.Error
	if !errors.As(err, &e) || settle != nil || e.Status != http.StatusTooManyRequests || e.Code != proxy.CodeRateLimited || e.RetryAfter <= 0 {
		t.Fatalf("%d tokens of %q: %v, want a 429 with RetryAfter", tokens, caller, err)
	}
	return e.RetryAfter
}

// crowdAnswer is the head of what one of a crowd got.
type crowdAnswer struct {
	status int
	header http.Header
	body   string
}

// crowd sends n requests at once and holds the upstream's answers back until all
// who are refused were told.
func crowd(t *testing.T, f *fixture, n, admitted int, path, body string) (refused []crowdAnswer) {
	t.Helper()
	open := make(chan struct{})
	for range n {
		f.up.Queue(proxytest.Chat("hi").After(proxytest.Gate(open)))
	}
	answers := make(chan crowdAnswer, n)
	for range n {
		go func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+path, strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			res, err := f.Client().Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			text, _ := io.ReadAll(res.Body)
			answers <- crowdAnswer{res.StatusCode, res.Header, string(text)}
		}()
	}
	late := time.After(20 * time.Second)
	for i := range n {
		if i == n-admitted {
			close(open)
		}
		select {
		case a := <-answers:
			if refused = append(refused, a); i < n-admitted != (a.status == http.StatusTooManyRequests) {
				t.Errorf("answer %d is %d %s", i+1, a.status, a.body)
			}
		case <-late:
			close(open)
			t.Fatalf("%d answers within 20 s while the upstream waits, want %d", i, n-admitted)
		}
	}
	return refused[:n-admitted]
}

func TestT1Of200CallsOnABudgetOf10Exactly10AreAdmitted(t *testing.T) {
	t.Parallel()
	const body = `{"model":"gpt-x","messages":[{"role":"user","content":"hi"}],"max_tokens":100}`
	each := tokensOf(body) + 100
	for name, row := range map[string]struct {
		limiter *proxy.MemoryLimiter
		unit    string // of the headers
		limit   int64
		again   bool // there is room when the calls are over
	}{
		"calls of one caller":  {&proxy.MemoryLimiter{Concurrent: 10}, "", 0, true},
		"calls of all callers": {&proxy.MemoryLimiter{InFlight: 10}, "", 0, true},
		"tokens":               {&proxy.MemoryLimiter{Tokens: 10 * each}, "Tokens", 10 * each, true},
		"money":                {&proxy.MemoryLimiter{Cost: proxy.Money(10 * 3 * each)}, "", 0, true},
		"requests":             {&proxy.MemoryLimiter{Requests: 10, Every: time.Hour}, "Requests", 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, proxy.WithLimiter(row.limiter), proxy.WithPrices(map[string]proxy.Price{"*": {Prompt: 3, Completion: 3}}))
			for _, a := range crowd(t, f, 200, 10, chatPath, body) {
				if a.header.Get("Retry-After") == "" || !strings.Contains(a.body, `"code":"rate_limited"`) {
					t.Errorf("refused with %v %s", a.header, a.body)
				}
				for _, unit := range []string{"Requests", "Tokens"} {
					want := []string{"", ""}
					if unit == row.unit {
						want = []string{fmt.Sprint(row.limit), "0"}
					}
					got := []string{a.header.Get("X-Ratelimit-Limit-" + unit), a.header.Get("X-Ratelimit-Remaining-" + unit)}
					_, err := time.ParseDuration(a.header.Get("X-Ratelimit-Reset-" + unit))
					if got[0] != want[0] || got[1] != want[1] || (err == nil) != (unit == row.unit) {
						t.Fatalf("limit and remaining %s are %q, want %q: %v", unit, got, want, a.header)
					}
				}
			}
			f.wantCalls(t, 10)
			res, text := f.post(t, chatPath, body)
			if again := res.StatusCode == http.StatusOK; again != row.again {
				t.Errorf("the next call got %d %s", res.StatusCode, text)
			}
		})
	}
}

func TestRefusalOfALimitHasTheShapeOfItsRoute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := inMemory(proxy.WithLimiter(&proxy.MemoryLimiter{Requests: 1, Every: time.Hour})).start(t)
		f.post(t, chatPath, askHello)
		for _, row := range []struct{ path, body, want string }{
			{chatPath, askHello, `{"error":{"message":"Too many requests.","type":"rate_limit_error","param":null,"code":"rate_limited"},"message":"Too many requests.","status":429}`},
			{chatPath, askHelloStream, `{"error":{"message":"Too many requests.","type":"rate_limit_error","param":null,"code":"rate_limited"},"message":"Too many requests.","status":429}`},
			{"/v1/images/generations", askImage, `{"error":{"message":"Too many requests.","type":"rate_limit_error","param":null,"code":"rate_limited"},"message":"Too many requests.","status":429}`},
			{"/", askHello, `{"error":"Too Many Requests","message":"Too many requests.","type":"rate_limit_error","code":"rate_limited"}`},
			{"/generate-image", askImage, `{"error":"Too Many Requests","message":"Too many requests.","type":"rate_limit_error","code":"rate_limited"}`},
		} {
			res, text := f.post(t, row.path, row.body)
			h := res.Header
			got := []string{h.Get("Retry-After"), h.Get("X-Ratelimit-Limit-Requests"), h.Get("X-Ratelimit-Remaining-Requests"), h.Get("X-Ratelimit-Reset-Requests"), h.Get("Content-Type")}
			if res.StatusCode != 429 || fmt.Sprint(got) != "[3600 1 0 1h0m0s application/json]" || strings.TrimSpace(text) != row.want {
				t.Errorf("%s: %d %q %s; want 429 and %s", row.path, res.StatusCode, got, text, row.want)
			}
		}
		a := gqlAsk(t, f, gqlGetAIResponse, gqlChat())
		if e := a.refused(t, "RATE_LIMITED"); e.Message != "Too many requests." || strings.Contains(a.text, "upstream") {
			t.Errorf("/graphql: %s", a.text)
		}
		const query = `subscription S($input: ChatInput!) { aiResponse(input: $input) { content } }`
		gqlOpen(t, f, query, gqlChat(), gqlSSE).fails("RATE_LIMITED")
		f.wantCalls(t, 1)
		time.Sleep(time.Hour)
		if res, text := f.post(t, chatPath, askHello); res.StatusCode != http.StatusOK {
			t.Errorf("an hour later: %d %s", res.StatusCode, text)
		}
	})
}

func TestRefusalOfTheUpstreamKeepsItsHeaders(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithLimiter(&proxy.MemoryLimiter{Requests: 9, Tokens: 1e6}))
	f.up.Queue(proxytest.RateLimited(7 * time.Second))
	res, text := f.post(t, chatPath, askHello)
	h := res.Header
	got := []string{h.Get("Retry-After"), h.Get("X-Ratelimit-Limit-Requests"), h.Get("X-Ratelimit-Remaining-Requests"), h.Get("X-Ratelimit-Reset-Requests"), h.Get("X-Ratelimit-Limit-Tokens")}
	if res.StatusCode != 429 || fmt.Sprint(got) != "[7 500 0 7s 30000]" || !strings.Contains(text, `"rate_limit_exceeded"`) {
		t.Errorf("%d %q %s, want what the upstream said", res.StatusCode, got, text)
	}
}

func TestEveryWayInCountsForOneLimit(t *testing.T) {
	t.Parallel()
	mount := func(h http.Handler) http.Handler {
		proxied, ok := h.(*proxy.Handler)
		if !ok {
			t.Fatal("the fixture has changed")
		}
		mux := http.NewServeMux()
		mux.Handle("/own/chat", proxied.Chat())
		mux.Handle("/own/images", proxied.Images())
		mux.Handle("/own/graphql", proxied.GraphQL())
		mux.Handle("/ai/", http.StripPrefix("/ai", h))
		mux.Handle("/", h)
		return mux
	}
	limiter := proxy.WithLimiter(&proxy.MemoryLimiter{Requests: 4, Every: time.Hour})
	f := setup{wrap: mount, options: []proxy.Option{limiter}}.start(t)
	ask := gqlRequest(gqlGetAIResponse, gqlChat())
	ways := []struct{ path, body string }{
		{"/", askHello},
		{"/chat/completions", askHello},
		{chatPath, askHelloStream},
		{"/own/chat", askHello},
		{"/ai/v1/chat/completions", askHello},
		{"/own/images", askImage},
		{"/v1/images/edits", askImage},
		{"/generate-image", askImage},
		{"/graphql", ask},
		{"/own/graphql", ask},
	}
	rand.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
	for i, way := range ways {
		header := []string{"Content-Type", "application/json", "X-Forwarded-For", fmt.Sprint("203.0.113.", i), "X-Request-Id", fmt.Sprint("id-", i), "X-Real-Ip", "198.51.100.7"}
		if _, text := f.post(t, way.path, way.body, header...); strings.Contains(strings.ToLower(text), "rate_limited") != (i >= 4) {
			t.Errorf("request %d, on %s: %s", i+1, way.path, text)
		}
	}
	f.wantCalls(t, 4)
}

func TestGraphQLAliasesCannotPassALimit(t *testing.T) {
	t.Parallel()
	var query strings.Builder
	query.WriteString("mutation M($input: ChatInput!) {")
	for i := range 10 {
		fmt.Fprintf(&query, " a%d: getAIResponse(input: $input) { content }", i)
	}
	query.WriteString("}")
	m := &meter{inner: &proxy.MemoryLimiter{Requests: 4, Every: time.Hour}}
	f := start(t, gqlOptions(proxy.GraphQLOptions{MaxUpstreamCalls: 20}), proxy.WithLimiter(m))
	a := gqlAsk(t, f, query.String(), gqlChat())
	if len(a.Errors) != 6 {
		t.Errorf("%d errors, want 6: %s", len(a.Errors), a.text)
	}
	for _, e := range a.Errors {
		if e.Extensions["code"] != "RATE_LIMITED" {
			t.Errorf("an error of another kind: %v", e)
		}
	}
	if f.wantCalls(t, 4); m.asked != 10 {
		t.Errorf("the limiter was asked %d times, want 10", m.asked)
	}
}

func TestF39RapidResetsCannotPassALimit(t *testing.T) {
	t.Parallel()
	for name, limiter := range map[string]*proxy.MemoryLimiter{
		"requests": {InFlight: 10, Requests: 20, Every: time.Hour},
		"tokens":   {InFlight: 10, Tokens: 20 * (tokensOf(askHello) + 4096)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var begun atomic.Int64
			first := make(chan struct{})
			never := brokenTransport(func(r *http.Request) (*http.Response, error) {
				if begun.Add(1) == 1 {
					close(first)
				}
				<-r.Context().Done()
				return nil, r.Context().Err()
			})
			m := &meter{inner: limiter}
			f := setup{client: []proxytest.ServerOption{proxytest.HTTP2()}, options: []proxy.Option{proxy.WithLimiter(m), proxy.WithTransport(never)}}.start(t)
			ctx, reset := context.WithCancel(t.Context())
			go func() { // one that lives until it has come through
				defer reset()
				<-first
			}()
			if req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+chatPath, strings.NewReader(askHello)); err != nil {
				t.Error(err)
			} else if _, err := f.Client().Do(req); err == nil {
				t.Error("the first call was answered")
			}
			rapidResets(t, f, 1000)
			f.Close()
			m.all(t)
			if n := begun.Load(); n == 0 || n > 20 || m.peak > 10 {
				t.Errorf("%d upstream calls were begun, %d at once; want some, but 20 and 10 at most", n, m.peak)
			}
			take(t, limiter, "somebody else", 1)
		})
	}
}

// rapidResets sends n requests and resets each soon after.
func rapidResets(t *testing.T, f *fixture, n int) {
	t.Helper()
	var wg sync.WaitGroup
	turns := make(chan struct{}, 50)
	for range n {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			ctx, reset := context.WithTimeout(t.Context(), rand.N(10*time.Millisecond))
			defer reset()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+chatPath, strings.NewReader(askHello))
			if err != nil {
				t.Error(err)
				return
			}
			if res, err := f.Client().Do(req); err == nil {
				_ = res.Body.Close()
			}
		})
	}
	wg.Wait()
}

func TestTwoCallersNeverShareALimit(t *testing.T) {
	t.Parallel()
	byHeader := proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) { return proxy.Caller{ID: r.Header.Get("X-User")}, nil })
	f := start(t, byHeader, proxy.WithLimiter(&proxy.MemoryLimiter{Requests: 2, Every: time.Hour}))
	for _, user := range []string{"ann", "Ann", "bob", "", "127.0.0.1", "caller", "address127.0.0.1"} {
		for i := range 3 {
			if res, text := f.post(t, chatPath, askHello, "X-User", user); (res.StatusCode == 429) != (i == 2) {
				t.Errorf("request %d of %q: %d %s", i+1, user, res.StatusCode, text)
			}
		}
	}
}

func TestS26IdentitiesNeverCollide(t *testing.T) {
	t.Parallel()
	m := &proxy.MemoryLimiter{Concurrent: 1}
	text := func() string {
		b := make([]byte, 1+rand.N(4))
		for i := range b {
			b[i] = "ab\x00\x07callerdress:/127."[rand.N(19)]
		}
		return string(b)
	}
	calls := []proxy.Call{{Caller: "x"}, {Address: "x"}, {Caller: "caller"}, {Address: "caller"}, {Caller: "addressx"}, {Caller: strings.Repeat("x", 1<<20)}, {}}
	known := map[string]bool{"caller/x": true, "address/x": true, "caller/caller": true, "address/caller": true, "caller/addressx": true}
	for range 5000 {
		id := text()
		if !known["caller/"+id] {
			calls, known["caller/"+id] = append(calls, proxy.Call{Caller: id, Address: "127.0.0.1"}), true
		}
		if !known["address/"+id] {
			calls, known["address/"+id] = append(calls, proxy.Call{Address: id}), true
		}
	}
	for round, call := range append(calls, calls...) {
		if _, err := m.Reserve(t.Context(), call, proxy.Amount{}); (err == nil) != (round < len(calls)) {
			t.Fatalf("call %d, %v: %v", round, call, err)
		}
	}
}

// It is not parallel, because it weighs the heap.
func TestT12AMillionAddressesTakeBoundedMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	weigh := func() int64 {
		runtime.GC()
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	before := weigh()
	m := &proxy.MemoryLimiter{Requests: 1, Every: 1000 * time.Hour, Concurrent: 1, Tokens: 1000, InFlight: 100}
	take(t, m, "early", 1000)
	for i := range 1_000_000 {
		address := proxy.Call{Address: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)}
		settle, err := m.Reserve(t.Context(), address, proxy.Amount{Tokens: 10})
		if err != nil {
			t.Fatalf("address %d: %v", i, err)
		}
		settle(t.Context(), proxy.Amount{Tokens: 10})
		if i%1000 == 0 {
			if _, err := m.Reserve(t.Context(), address, proxy.Amount{}); err == nil {
				t.Fatalf("address %d was let in twice", i)
			}
		}
	}
	if grown := weigh() - before; grown > 32<<20 {
		t.Errorf("the heap has grown by %d MiB, want 32 at most", grown>>20)
	}
	full(t, m, "early", 0)
	runtime.KeepAlive(m)
}

func TestCallerWithACallUnderWayIsNeverForgotten(t *testing.T) {
	t.Parallel()
	m := &proxy.MemoryLimiter{Tokens: 100, MaxCallers: 3}
	a := take(t, m, "a", 60)
	for i := range 1000 {
		take(t, m, fmt.Sprint("passing ", i), 100)(100)
	}
	full(t, m, "a", 41)
	b, c := take(t, m, "b", 100), take(t, m, "c", 100)
	for i := range 10 {
		full(t, m, fmt.Sprint("new ", i), 1)
	}
	full(t, m, "b", 1)
	take(t, m, "a", 40)(0)
	b(100)
	take(t, m, "d", 100)
	full(t, m, "b", 1) // forgotten, and there is no room to make it anew
	c(0)
	take(t, m, "b", 100)
	full(t, m, "a", 41)
	a(60)
}

// saturated adds what is not negative as the ledger should: up to the largest
// number, and not beyond.
func saturated(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// randomCount is a number as a hostile body or a broken upstream may bring it.
func randomCount(rnd *rand.Rand, budget int64) int64 {
	switch rnd.IntN(8) {
	case 0:
		return math.MaxInt64 - rnd.Int64N(3)
	case 1:
		return math.MinInt64 + rnd.Int64N(3)
	case 2:
		return -rnd.Int64N(budget)
	case 3:
		return rnd.Int64()
	case 4:
		return rnd.Int64N(3)
	}
	return rnd.Int64N(budget/10 + 2)
}

// ledger is what a MemoryLimiter should know, in the plainest way.
type ledger struct {
	budget, spent proxy.Amount
	under         []proxy.Amount
	settle        []func(context.Context, proxy.Amount)
}

func (l *ledger) holds(most proxy.Amount) bool {
	tokens, cost := saturated(l.spent.Tokens, most.Tokens), saturated(int64(l.spent.Cost), int64(most.Cost))
	for _, r := range l.under {
		tokens, cost = saturated(tokens, r.Tokens), saturated(cost, int64(r.Cost))
	}
	return tokens <= l.budget.Tokens && cost <= int64(l.budget.Cost)
}

// end settles one call at random.
func (l *ledger) end(ctx context.Context, rnd *rand.Rand) {
	i := rnd.IntN(len(l.under))
	taken := proxy.Amount{Tokens: randomCount(rnd, l.budget.Tokens), Cost: proxy.Money(randomCount(rnd, int64(l.budget.Cost)))}
	l.settle[i](ctx, taken)
	l.spent.Tokens = saturated(l.spent.Tokens, max(0, taken.Tokens))
	l.spent.Cost = proxy.Money(saturated(int64(l.spent.Cost), max(0, int64(taken.Cost))))
	last := len(l.under) - 1
	l.under[i], l.settle[i] = l.under[last], l.settle[last]
	l.under, l.settle = l.under[:last], l.settle[:last]
}

// Spent never decreases and never wraps: the limiter decides as a ledger that
// only adds.
func TestS27BudgetArithmeticOfRandomAmounts(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	budgets := []int64{1, 10, 1000, 1 << 40, math.MaxInt64 / 2, math.MaxInt64 - 1}
	ctx, operations, admitted := t.Context(), 0, 0
	for round := range 12_000 { // of 40 operations and more
		l := ledger{budget: proxy.Amount{Tokens: budgets[rnd.IntN(len(budgets))], Cost: proxy.Money(budgets[rnd.IntN(len(budgets))])}}
		m := &proxy.MemoryLimiter{Tokens: l.budget.Tokens, Cost: l.budget.Cost}
		for range 40 {
			if len(l.under) > 0 && rnd.IntN(3) == 0 {
				operations++
				l.end(ctx, rnd)
			}
			operations++
			most := proxy.Amount{Tokens: max(0, randomCount(rnd, l.budget.Tokens)), Cost: max(0, proxy.Money(randomCount(rnd, int64(l.budget.Cost))))}
			settle, err := m.Reserve(ctx, proxy.Call{Caller: "x"}, most)
			if want := l.holds(most); (err == nil) != want {
				t.Fatalf("seed %d, round %d: %+v on %+v, with %+v spent and %+v under way: %v; want room %v", seed, round, most, l.budget, l.spent, l.under, err, want)
			}
			if err == nil {
				admitted++
				l.under, l.settle = append(l.under, most), append(l.settle, settle)
			}
		}
	}
	if operations < 500_000 || admitted < operations/20 {
		t.Errorf("%d of %d operations were admissions: the test looks at too little", admitted, operations)
	}
}

// No package of the host's can make room by reserving less than nothing.
func TestNegativeReservationMakesNoRoom(t *testing.T) {
	t.Parallel()
	for _, less := range []int64{-1, -1000, math.MinInt64} {
		for _, money := range []bool{false, true} {
			amount := func(n int64) proxy.Amount {
				if money {
					return proxy.Amount{Cost: proxy.Money(n)}
				}
				return proxy.Amount{Tokens: n}
			}
			m := &proxy.MemoryLimiter{Tokens: 100, Cost: 100}
			call := proxy.Call{Caller: "x"}
			if _, err := m.Reserve(t.Context(), call, amount(60)); err != nil {
				t.Fatal(err)
			}
			if settle, err := m.Reserve(t.Context(), call, amount(less)); err == nil {
				settle(t.Context(), amount(less))
			}
			if _, err := m.Reserve(t.Context(), call, amount(41)); err == nil {
				t.Errorf("room for 101 of 100 after %d", less)
			}
			if _, err := m.Reserve(t.Context(), call, amount(40)); err != nil {
				t.Errorf("no room for 100 of 100 after %d: %v", less, err)
			}
		}
	}
}

func TestBudgetIsOfItsWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &proxy.MemoryLimiter{Tokens: 100, Window: time.Hour}
		first := take(t, m, "x", 90)
		if wait := full(t, m, "x", 11); wait != time.Second {
			t.Errorf("a call under way is in the way: wait %v, want 1 s", wait)
		}
		time.Sleep(20 * time.Minute)
		first(60)
		if wait := full(t, m, "x", 41); wait != 40*time.Minute {
			t.Errorf("the budget is spent: wait %v, want the rest of the window", wait)
		}
		take(t, m, "x", 40)(0)
		time.Sleep(40*time.Minute - 1)
		full(t, m, "x", 41)
		time.Sleep(time.Nanosecond)
		take(t, m, "x", 100)(0)
	})
}

func TestCallAcrossTheEdgeOfAWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &proxy.MemoryLimiter{Tokens: 100, Window: time.Hour}
		take(t, m, "x", 40)(40)
		long := take(t, m, "x", 60)
		time.Sleep(time.Hour)
		full(t, m, "x", 41) // the long call keeps its room
		take(t, m, "x", 40)(10)
		long(30) // in the window that is open now
		full(t, m, "x", 61)
		take(t, m, "x", 60)(0)
		time.Sleep(time.Hour)
		take(t, m, "x", 100)(0)
	})
}

func TestSettlingCorrectsWhatWasReserved(t *testing.T) {
	t.Parallel()
	m := &proxy.MemoryLimiter{Tokens: 100}
	take(t, m, "x", 80)(10)
	take(t, m, "x", 90)(50) // 60 are spent
	a, b := take(t, m, "x", 20), take(t, m, "x", 20)
	full(t, m, "x", 1)
	a(0)
	b(35) // more than was reserved
	full(t, m, "x", 6)
	take(t, m, "x", 5)(math.MaxInt64)
	full(t, m, "x", 0)
	full(t, m, "x", 1)
}

func TestRequestsComeBackWithTime(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		limiter       *proxy.MemoryLimiter
		burst         int
		wait, between time.Duration
	}{
		"by the minute":  {&proxy.MemoryLimiter{Requests: 60}, 60, time.Second, time.Second},
		"one at a time":  {&proxy.MemoryLimiter{Requests: 60, Burst: 1}, 1, time.Second, time.Second},
		"by the hour":    {&proxy.MemoryLimiter{Requests: 6, Every: time.Hour, Burst: 2}, 2, 10 * time.Minute, 10 * time.Minute},
		"a larger burst": {&proxy.MemoryLimiter{Requests: 1, Every: time.Second, Burst: 5}, 5, time.Second, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			for range row.burst {
				take(t, row.limiter, "x", 0)(0)
			}
			for range 3 { // asking in vain takes nothing
				if wait := full(t, row.limiter, "x", 0); wait != row.wait {
					t.Errorf("%s: wait %v, want %v", name, wait, row.wait)
				}
			}
			for range 5 {
				time.Sleep(row.between)
				take(t, row.limiter, "x", 0)(0)
				full(t, row.limiter, "x", 0)
			}
		})
	}
}

func TestLimitersThatCannotBeMeantAreRefused(t *testing.T) {
	t.Parallel()
	var none *proxy.MemoryLimiter
	prices := proxy.WithPrices(map[string]proxy.Price{"*": {Prompt: 1}})
	for name, limiter := range map[string]*proxy.MemoryLimiter{
		"a typed nil": none, "Requests": {Requests: -1}, "Every": {Requests: 1, Every: -1}, "Burst": {Requests: 1, Burst: -1},
		"Concurrent": {Concurrent: -1}, "InFlight": {InFlight: -1}, "Tokens": {Tokens: -1}, "Cost": {Cost: -1},
		"Window": {Tokens: 1, Window: -1}, "MaxCallers": {MaxCallers: -1}, "a burst of nothing": {Burst: 1},
	} {
		_, err := proxy.NewHandler(proxy.WithKey(canary), prices, proxy.WithLimiter(limiter))
		var problem *proxy.OptionError
		if !errors.As(err, &problem) || problem.Option != "WithLimiter" {
			t.Errorf("%s: %v, want an OptionError of WithLimiter", name, err)
		}
	}
	costly := proxy.WithLimiter(&proxy.MemoryLimiter{Cost: 1})
	if _, err := proxy.NewHandler(proxy.WithKey(canary), costly); err == nil || !strings.Contains(err.Error(), "WithPrices") {
		t.Errorf("Cost without prices: %v", err)
	}
	for _, options := range [][]proxy.Option{{prices, costly}, {costly, prices}, {proxy.WithLimiter(none), proxy.WithLimiter(nil)}, {proxy.WithLimiter(&proxy.MemoryLimiter{})}} {
		if _, err := proxy.NewHandler(append(options, proxy.WithKey(canary))...); err != nil {
			t.Errorf("refused: %v", err)
		}
	}
}
