package proxy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// The keys of the pools in these tests.
const (
	poolA = "sk-pool-a-5f0c9d1e7a3b4862d4e8f1a6c07b92e3"
	poolB = "sk-pool-b-5f0c9d1e7a3b4862d4e8f1a6c07b92e3"
	poolC = "sk-pool-c-5f0c9d1e7a3b4862d4e8f1a6c07b92e3"
)

// poolOf is an option with a pool of static keys.
func poolOf(keys ...string) proxy.Option {
	var sources []proxy.KeySource
	for _, key := range keys {
		sources = append(sources, proxy.StaticKey(key))
	}
	return proxy.WithKeySource(proxy.KeyPool(sources...))
}

// keysUsed returns the letters of the keys that the upstream has seen.
func keysUsed(f *fixture) string {
	letters := map[string]string{poolA: "a", poolB: "b", poolC: "c"}
	var used strings.Builder
	for _, req := range f.up.Requests() {
		letter, ok := letters[strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")]
		if !ok {
			letter = "?"
		}
		used.WriteString(letter)
	}
	return used.String()
}

func wantKeys(t testing.TB, f *fixture, want string) {
	t.Helper()
	if got := keysUsed(f); got != want {
		t.Errorf("the upstream saw the keys %s, want %s", got, want)
	}
}

func TestKeyPoolTakesTurns(t *testing.T) {
	t.Parallel()
	f := start(t, poolOf(poolA, poolB, poolC))
	for range 2 {
		f.post(t, chatPath, askHello)
		f.post(t, "/v1/images/generations", askImage)
		gqlAsk(t, f, gqlGetAIResponse, gqlChat()).ok(t, "getAIResponse")
	}
	wantKeys(t, f, "abcabc")
}

func TestKeyPoolSetsAKeyAside(t *testing.T) {
	t.Parallel()
	limited := proxytest.Failure(429, "requests", "rate_limit_exceeded", "slow down")
	denied := proxytest.Failure(401, "t", "invalid_api_key", "no")
	for name, row := range map[string]struct {
		answer proxytest.Answer
		rest   time.Duration
	}{
		"401":                                 {denied, time.Minute},
		"429":                                 {limited, time.Second},
		"429 with Retry-After":                {limited.WithHeader("Retry-After", "7"), 7 * time.Second},
		"429 with a fraction of seconds":      {limited.WithHeader("Retry-After", "0.5"), 500 * time.Millisecond},
		"429 with retry-after-ms":             {limited.WithHeader("Retry-After-Ms", "1500").WithHeader("Retry-After", "2"), 1500 * time.Millisecond},
		"429 with a date":                     {limited.WithHeader("Retry-After", "Sat, 01 Jan 2000 00:00:42 GMT"), 42 * time.Second},
		"429 with something else":             {limited.WithHeader("Retry-After", "soon"), time.Second},
		"429 with a negative time":            {limited.WithHeader("Retry-After", "-5"), time.Second},
		"429 with no number":                  {limited.WithHeader("Retry-After", "NaN"), time.Second},
		"429 for ever":                        {limited.WithHeader("Retry-After", "Inf"), 24 * time.Hour},
		"429 for years":                       {limited.WithHeader("Retry-After", "9223372036854775807"), 24 * time.Hour},
		"429 till the day after next":         {limited.WithHeader("Retry-After", "Mon, 03 Jan 2000 00:00:00 GMT"), 24 * time.Hour},
		"429 on a stream":                     {limited.WithHeader("Retry-After", "7").WithHeader("Content-Type", "text/event-stream"), 7 * time.Second},
		"429 to which we could return":        {limited.WithHeader("Retry-After", "0"), 0},
		"429 until a moment in the past":      {limited.WithHeader("Retry-After", "Fri, 31 Dec 1999 00:00:00 GMT"), 0},
		"500":                                 {proxytest.Failure(500, "t", "c", "no").WithHeader("Retry-After", "7"), 0},
		"503":                                 {proxytest.Failure(503, "t", "c", "no").WithHeader("Retry-After", "7"), 0},
		"403, which is about the model":       {proxytest.Failure(403, "t", "c", "no").WithHeader("Retry-After", "7"), 0},
		"400":                                 {proxytest.Failure(400, "t", "c", "no"), 0},
		"an answer that looks like a refusal": {proxytest.JSON(200, `{"error":{"code":"rate_limit_exceeded"}}`).WithHeader("Retry-After", "7"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := inMemory(poolOf(poolA, poolB)).start(t)
				f.up.Queue(row.answer)
				f.post(t, chatPath, askHello)
				want := "aba" // the turns go on
				if row.rest > 0 {
					time.Sleep(row.rest - 1)
					want = "abb"
				}
				f.post(t, chatPath, askHello)
				f.post(t, chatPath, askHello)
				wantKeys(t, f, want)
				time.Sleep(time.Nanosecond)
				f.post(t, chatPath, askHello)
				f.post(t, chatPath, askHello)
				if got := keysUsed(f)[3:]; got != "ba" && got != "ab" {
					t.Errorf("after %v the upstream saw %s, want both keys", row.rest, got)
				}
			})
		})
	}
}

func TestKeyPoolWithAllKeysAside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &meter{}
		f := inMemory(poolOf(poolA, poolB, poolC), proxy.WithLimiter(m)).start(t)
		f.up.Queue(proxytest.RateLimited(20*time.Second), proxytest.RateLimited(9*time.Second), proxytest.Failure(401, "t", "c", "no"))
		for range 3 {
			f.post(t, chatPath, askHello)
		}
		time.Sleep(2500 * time.Millisecond)
		for path, body := range map[string]string{chatPath: askHello, "/": askHelloStream, "/v1/images/generations": askImage} {
			res, text := f.post(t, path, body)
			if res.StatusCode != 503 || res.Header.Get("Retry-After") != "7" || !strings.Contains(text, `"key_unavailable"`) || strings.Contains(text, "sk-pool") {
				t.Errorf("%s: %d, Retry-After %q, %s; want 503, 7, key_unavailable", path, res.StatusCode, res.Header.Get("Retry-After"), text)
			}
		}
		if e := gqlAsk(t, f, gqlGetAIResponse, gqlChat()).Errors; len(e) != 1 {
			t.Errorf("/graphql: %v", e)
		}
		wantKeys(t, f, "abc")
		time.Sleep(6500 * time.Millisecond)
		f.post(t, chatPath, askHello)
		f.post(t, chatPath, askHello)
		wantKeys(t, f, "abcbb")
		f.Close()
		for i, r := range m.all(t) {
			if refused := i < 7; refused != (r.taken.Tokens == 0) {
				t.Errorf("call %d settled %+v", i+1, r.taken)
			}
		}
	})
}

func TestKeyPoolFollowsARotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var current atomic.Value
		current.Store(poolA)
		rotated := proxy.KeyFunc(func(*http.Request) (string, error) { return current.Load().(string), nil })
		f := inMemory(proxy.WithKeySource(proxy.KeyPool(rotated))).start(t)
		f.up.Queue(proxytest.Failure(401, "t", "c", "no"))
		f.post(t, chatPath, askHello)
		if res, _ := f.post(t, chatPath, askHello); res.StatusCode != 503 {
			t.Errorf("a denied key: %d, want 503", res.StatusCode)
		}
		current.Store(poolB)
		if res, _ := f.post(t, chatPath, askHello); res.StatusCode != 200 {
			t.Errorf("a new key: %d, want 200", res.StatusCode)
		}
		wantKeys(t, f, "ab")
	})
}

// A slow answer to the old key comes when the new one is in use already.
func TestKeyPoolBlamesTheKeyThatWasUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var current atomic.Value
		current.Store(poolA)
		rotated := proxy.KeyFunc(func(*http.Request) (string, error) { return current.Load().(string), nil })
		f := inMemory(proxy.WithKeySource(proxy.KeyPool(rotated))).start(t)
		f.up.Queue(proxytest.RateLimited(time.Hour).After(proxytest.Pause(time.Minute)))
		var wg sync.WaitGroup
		wg.Go(func() { f.post(t, chatPath, askHello) })
		synctest.Wait()
		current.Store(poolB)
		f.post(t, chatPath, askHello)
		wg.Wait()
		if res, _ := f.post(t, chatPath, askHello); res.StatusCode != 200 {
			t.Errorf("the new key: %d, want 200", res.StatusCode)
		}
		wantKeys(t, f, "abb")
	})
}

func TestClientsOwnKeyDoesNotTouchThePool(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]proxytest.Answer{
		"401": proxytest.Failure(401, "t", "c", "no"),
		"429": proxytest.RateLimited(time.Hour),
	} {
		own := proxy.FirstKey(proxy.HeaderKey("X-Key"), proxy.KeyPool(proxy.StaticKey(poolA)))
		f := start(t, proxy.WithKeySource(own))
		f.up.Queue(answer, answer)
		f.post(t, chatPath, askHello, "X-Key", poolB)
		f.post(t, chatPath, askHello, "X-Key", poolC)
		for range 2 {
			if res, text := f.post(t, chatPath, askHello); res.StatusCode != 200 {
				t.Errorf("%s: the pool is used: %d %s", name, res.StatusCode, text)
			}
		}
		f.up.Queue(answer)
		f.post(t, chatPath, askHello)
		if res, _ := f.post(t, chatPath, askHello); res.StatusCode != 503 {
			t.Errorf("%s: the pool in FirstKey has not learnt: %d", name, res.StatusCode)
		}
		if res, _ := f.post(t, chatPath, askHello, "X-Key", poolB); res.StatusCode != 200 {
			t.Errorf("%s: the client's own key: %d, want 200", name, res.StatusCode)
		}
		wantKeys(t, f, "bcaaab")
	}
}

func TestKeyPoolOfSourcesThatFail(t *testing.T) {
	t.Parallel()
	none, broken := proxy.StaticKey(poolA), errors.New("vault 7 is sealed")
	source := func(key string, err error) proxy.KeySource {
		return proxy.KeyFunc(func(*http.Request) (string, error) { return key, err })
	}
	for name, row := range map[string]struct {
		pool   proxy.KeySource
		status int
		code   string
	}{
		"one without a key is skipped": {proxy.KeyPool(source("", nil), none, nil), 200, "chat.completion"},
		"none has a key":               {proxy.KeyPool(source("", nil), source("", nil)), 500, "missing_api_key"},
		"an error":                     {proxy.KeyPool(source("", broken)), 503, "key_unavailable"},
		"an Error":                     {proxy.KeyPool(source("", &proxy.Error{Status: 402, Code: "pay"})), 402, "pay"},
		"a value that is no key":       {proxy.KeyPool(source("no key", nil)), 503, "key_unavailable"},
	} {
		f := start(t, proxy.WithKeySource(row.pool))
		for range 3 {
			if res, text := f.post(t, chatPath, askHello); res.StatusCode != row.status || !strings.Contains(text, row.code) || strings.Contains(text, "vault") {
				t.Errorf("%s: %d %s; want %d %s", name, res.StatusCode, text, row.status, row.code)
			}
		}
	}
}

func TestKeyPoolInAPool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inner := proxy.KeyPool(proxy.StaticKey(poolA))
		f := inMemory(proxy.WithKeySource(proxy.KeyPool(inner, proxy.StaticKey(poolB)))).start(t)
		f.up.Queue(proxytest.RateLimited(time.Minute))
		for i := range 5 {
			res, text := f.post(t, chatPath, askHello)
			if want := 200; i > 0 && res.StatusCode != want {
				t.Errorf("request %d: %d %s; want the other pool's key", i+1, res.StatusCode, text)
			}
		}
		wantKeys(t, f, "abbbb")
	})
}

func TestOneKeyInTwoPlacesIsSetAsideInBoth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := inMemory(poolOf(poolA, poolA, poolB)).start(t)
		f.post(t, chatPath, askHello)
		f.up.Queue(proxytest.RateLimited(time.Minute))
		for range 4 {
			f.post(t, chatPath, askHello)
		}
		wantKeys(t, f, "aabbb")
	})
}

func TestKeyPoolThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]proxy.KeySource{
		"empty":           proxy.KeyPool(),
		"nothing but nil": proxy.KeyPool(nil, nil),
		"a bad key":       proxy.KeyPool(proxy.StaticKey(poolA), proxy.StaticKey("sk with blanks")),
		"an empty key":    proxy.KeyPool(proxy.StaticKey("")),
		"a nil function":  proxy.KeyPool(proxy.KeyFunc(nil)),
		"in another":      proxy.KeyPool(proxy.StaticKey(poolA), proxy.KeyPool()),
		"in a FirstKey":   proxy.FirstKey(proxy.HeaderKey("X-Key"), proxy.KeyPool()),
	} {
		_, err := proxy.NewHandler(proxy.WithKeySource(source))
		var problem *proxy.OptionError
		if !errors.As(err, &problem) || problem.Option != "WithKeySource" || strings.Contains(err.Error(), "blanks") {
			t.Errorf("%s: %v, want an OptionError of WithKeySource", name, err)
		}
	}
	if _, err := proxy.NewHandler(proxy.WithKeySource(proxy.KeyPool(nil, proxy.StaticKey(poolA)))); err != nil {
		t.Errorf("a nil source beside a key: %v", err)
	}
}

func TestKeyPoolKeepsItsOwnList(t *testing.T) {
	t.Parallel()
	list := []proxy.KeySource{proxy.StaticKey(poolA), proxy.StaticKey(poolB)}
	f := start(t, proxy.WithKeySource(proxy.KeyPool(list...)))
	list[0], list[1] = nil, proxy.StaticKey(poolC)
	f.post(t, chatPath, askHello)
	f.post(t, chatPath, askHello)
	wantKeys(t, f, "ab")
}

func TestKeyPoolShowsNothing(t *testing.T) {
	t.Parallel()
	pool := proxy.KeyPool(proxy.StaticKey(poolA), proxy.KeyFunc(func(*http.Request) (string, error) { return poolB, nil }))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 { // so that the pool has seen its keys
		if _, err := pool.Key(r); err != nil {
			t.Fatal(err)
		}
	}
	var out buffer
	for _, v := range []any{
		pool, proxy.FirstKey(pool), proxy.KeyPool(pool),
		[]proxy.KeySource{pool},
		map[string]any{"k": pool},
		struct{ Keys proxy.KeySource }{pool},
		&struct{ Keys, hidden proxy.KeySource }{pool, pool},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T", "%p"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		text, _ := json.Marshal(v)
		_, _ = out.Write(text)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "keys", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "keys", v)
	}
	for line := range strings.Lines(out.String()) {
		for _, bad := range []string{"pool-a", "pool-b", fmt.Sprintf("%x", "pool-a"), fmt.Sprintf("%X", "pool-a")} {
			if strings.Contains(line, bad) {
				t.Errorf("a key is shown: %s", line)
			}
		}
	}
}

func TestKeyPoolUnderLoad(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithKeySource(proxy.FirstKey(proxy.HeaderKey("X-Key"), proxy.KeyPool(
		proxy.StaticKey(poolA), proxy.KeyPool(proxy.StaticKey(poolB), proxy.KeyFunc(func(*http.Request) (string, error) {
			return fmt.Sprint(poolC, rand.N(5)), nil
		}))))), proxy.WithLimits(proxy.Limits{Retries: 1}))
	answers := []proxytest.Answer{
		{},
		proxytest.ChatStream("a"), proxytest.RateLimited(time.Millisecond), proxytest.RateLimited(0),
		proxytest.Failure(401, "t", "c", "no").WithHeader("Retry-After", "0.001"),
	}
	for range 500 {
		f.up.Queue(answers[rand.N(len(answers))])
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			var header []string
			if i == 0 {
				header = []string{"X-Key", "sk-of-a-client"}
			}
			for range 20 {
				if res, text := f.post(t, chatPath, askHello, header...); !slices.Contains([]int{200, 401, 429, 502, 503}, res.StatusCode) || strings.Contains(text, "sk-pool") {
					t.Errorf("%d %s", res.StatusCode, text)
				}
			}
		})
	}
	wg.Wait()
	for _, key := range []string{poolA, poolB, poolC} {
		if strings.Contains(f.logs.String(), key) || strings.Contains(f.seen.String(), key) {
			t.Errorf("a key is shown")
		}
	}
}
