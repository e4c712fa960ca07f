package proxy_test

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// Signed, but by somebody who meant something else.
func TestTokenClaimsThatCouldMeanMore(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, tkSecret)
	for _, origin := range []string{`""`} {
		if c, err := tkRead(t, tokens, "Bearer "+tkSign(sha256.New, tkSecret, tkHead, tkClaims(`,"origin":`+origin))); err == nil {
			t.Errorf("origin %s accepted for %q", origin, c.ID)
		}
	}
	r, _ := http.NewRequest(http.MethodPost, "http://proxy.example"+chatPath, http.NoBody)
	r.Header.Set("Origin", "null")
	r.Header.Set("Authorization", "Bearer "+tkSign(sha256.New, tkSecret, tkHead, tkClaims(`,"origin":"null"`)))
	if _, err := tokens.Caller(r); err == nil {
		t.Errorf("origin null accepted")
	}
	if _, err := tkRead(t, tokens, "Bearer "+tkSign(sha256.New, tkSecret, `{"alg":"HS256","typ":"openai-proxy+jwt","crit":null}`, tkClaims(""))); err == nil {
		t.Errorf("crit null accepted")
	}
	if _, err := tkRead(t, tokens, "Bearer "+tkSign(sha256.New, tkSecret, `{"alg":"none","ALG":"HS256","typ":"openai-proxy+jwt"}`, tkClaims(""))); err == nil {
		t.Errorf("alg none + ALG HS256 accepted")
	}
}

// A null that one policy has replaced is ours to the next.
func TestNullUnderTwoPolicies(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithPolicy(proxy.Policy{MaxTokens: 100}), proxy.WithCaller(func(*http.Request) (proxy.Caller, error) {
		return proxy.Caller{ID: "a", Policy: proxy.Policy{MaxTokens: 10}}, nil
	}))
	bdSent(t, f, streamPath, `{"model":"m","max_completion_tokens":null,"messages":[]}`, `{"model":"m","max_completion_tokens":10,"messages":[]}`)
}

type enabledPanics struct{ slog.Handler }

func (enabledPanics) Enabled(context.Context, slog.Level) bool { panic("level server is down") }

func TestF32LoggerThatCannotTellItsLevel(t *testing.T) {
	t.Parallel()
	book := newDoneBook()
	m := &meter{}
	f := start(t, proxy.WithLogger(slog.New(enabledPanics{slog.DiscardHandler})), proxy.WithLimiter(m), proxy.WithHooks(proxy.Hooks{Done: book.done}))
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+chatPath, strings.NewReader(askHello))
	res, err := f.Client().Do(req)
	if err != nil {
		t.Errorf("answer: %v", err)
	} else {
		t.Log(res.StatusCode)
		res.Body.Close()
	}
	f.Close()
	if n := len(book.all()); n != 1 {
		t.Errorf("Done called %d times", n)
	}
}

func TestWindowForEver(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithLimiter(&proxy.MemoryLimiter{Tokens: 1, Window: math.MaxInt64}))
	res, _ := f.post(t, chatPath, askHello)
	if ra := res.Header.Get("Retry-After"); strings.HasPrefix(ra, "-") {
		t.Errorf("Retry-After %q", ra)
	}
}

func TestDeniedKeyRestsAMinuteAtLeast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := inMemory(poolOf(poolA, poolB)).start(t)
		f.up.Queue(proxytest.Failure(401, "t", "c", "no").WithHeader("Retry-After", "0"))
		for range 3 {
			f.post(t, chatPath, askHello)
		}
		wantKeys(t, f, "abb")
	})
}

// A reader of another school must not find another form.
func TestFormsThatOthersReadOnAreRefused(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithPolicy(proxy.Policy{Models: []string{"cheap"}, MaxN: 1}))
	const part = "Content-Disposition: form-data; name="
	for name, body := range map[string]string{
		"another form behind the end, for readers of CRLF": "--b\n" + part + "\"model\"\n\ncheap\n--b--\n\r\n--b\r\n" + part +
			"\"model\"\r\n\r\ndear\r\n--b\r\n" + part + "\"n\"\r\n\r\n10\r\n--b--\r\n",
		"parts behind the end": "--b\r\n" + part + "\"model\"\r\n\r\ncheap\r\n--b--\r\n--b\r\n" + part + "\"model\"\r\n\r\ndear\r\n--b--\r\n",
		"a name in an escaped name": "--b\r\nContent-Disposition: form-data; filename=\"\\\";name=n;x=\\\"\"; name=\"x\"\r\n\r\n10\r\n--b\r\n" + part +
			"\"model\"\r\n\r\ncheap\r\n--b--\r\n",
		"a preamble": "x\r\n--b\r\n" + part + "\"model\"\r\n\r\ncheap\r\n--b--\r\n",
	} {
		res, text := f.post(t, plEdits, body, "Content-Type", "multipart/form-data; boundary=b")
		if res.StatusCode != http.StatusBadRequest || len(f.up.Requests()) != 0 {
			t.Errorf("%s: %d %s, %d calls", name, res.StatusCode, text, len(f.up.Requests()))
		}
	}
}

func TestRecordShortensWhatClientsMakeUp(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.JSON(200, `{}`))
	f.post(t, chatPath, `{"model":"sk-proj-abcdefghijklmnop`+strings.Repeat("x", 1<<20)+`","messages":[]}`)
	f.Close()
	log := f.logs.String()
	if len(log) > 64<<10 || strings.Contains(log, "sk-proj-abcdefgh") {
		t.Errorf("the log has %d bytes, key-like %v", len(log), strings.Contains(log, "sk-proj-abcdefgh"))
	}
}

func TestRefusedCallsEarnNoRepetitions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var open atomic.Bool
		var lim limiterFunc = func(context.Context) (func(context.Context, proxy.Amount), error) {
			if !open.Load() {
				return nil, &proxy.Error{Status: 429}
			}
			return func(context.Context, proxy.Amount) {}, nil
		}
		f := inMemory(retries(1), proxy.WithLimiter(lim)).start(t)
		for range 1000 {
			f.up.Queue(again(503, "0"))
		}
		const rounds = 30
		for range rounds {
			open.Store(true)
			f.post(t, chatPath, askHello)
			open.Store(false)
			for range 10 {
				f.post(t, chatPath, askHello)
			}
		}
		if extra := len(f.up.Requests()) - rounds; extra > 10+rounds/10 {
			t.Errorf("%d repetitions of %d requests upstream", extra, rounds)
		}
	})
}

func TestOneKeyTwiceInAPoolRestsInBoth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := inMemory(retries(1), poolOf(poolA, poolA)).start(t)
		f.up.Queue(again(429, "20"))
		for range 2 {
			if res, text := f.post(t, chatPath, askHello); res.StatusCode < 400 || len(f.up.Requests()) != 1 {
				t.Errorf("%d requests with a key that rests, the last was answered with %d %s", len(f.up.Requests()), res.StatusCode, text)
			}
		}
	})
}

func TestPoolInAFirstKeyInAPool(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := inMemory(proxy.WithKeySource(proxy.KeyPool(proxy.FirstKey(proxy.KeyPool(proxy.StaticKey(poolA))), proxy.StaticKey(poolB)))).start(t)
		f.up.Queue(proxytest.RateLimited(time.Minute))
		for i := range 5 {
			if res, text := f.post(t, chatPath, askHello); i > 0 && res.StatusCode != 200 {
				t.Errorf("request %d: %d %s", i+1, res.StatusCode, text)
			}
		}
	})
}

func TestPolicyOfACallerThatCannotBeMeant(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithCaller(func(*http.Request) (proxy.Caller, error) {
		return proxy.Caller{ID: "a", Policy: proxy.Policy{MaxTokens: -1}}, nil
	}))
	if res, _ := f.post(t, chatPath, askHello); res.StatusCode != http.StatusInternalServerError || len(f.up.Requests()) != 0 {
		t.Errorf("%d, %d calls", res.StatusCode, len(f.up.Requests()))
	}
}

// A limiter's store that hangs does not hold what is paid.
func TestF33SettleThatHangsEndsAfterKeyTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var hanging limiterFunc = func(context.Context) (func(context.Context, proxy.Amount), error) {
			return func(ctx context.Context, _ proxy.Amount) { <-ctx.Done() }, nil
		}
		f := inMemory(proxy.WithLimiter(hanging), proxy.WithLimits(proxy.Limits{KeyTime: time.Second})).start(t)
		began := time.Now()
		if res, text := f.post(t, chatPath, askHello); res.StatusCode != http.StatusOK || time.Since(began) > time.Second {
			t.Errorf("%d after %v: %s", res.StatusCode, time.Since(began), text)
		}
	})
}
