package proxy_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	openai "github.com/sashabaranov/go-openai"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

const (
	tkSecret = "0123456789abcdef0123456789abcdef" // 32 bytes, the least
	tkOther  = "fedcba9876543210fedcba9876543210-and-more"
	tkHead   = `{"alg":"HS256","typ":"openai-proxy+jwt"}`
	tkPage   = "https://app.example.com"
)

func newTokens(t testing.TB, secrets ...string) *proxy.Tokens {
	t.Helper()
	tokens, err := proxy.NewTokens(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func mint(t testing.TB, tokens *proxy.Tokens, token proxy.Token) string {
	t.Helper()
	minted, err := tokens.Mint(token)
	if err != nil {
		t.Fatal(err)
	}
	return minted
}

// tkSign makes a token by the book, whatever is in it.
func tkSign(algorithm func() hash.Hash, secret, head, claims string) string {
	signed := tkPart(head) + "." + tkPart(claims)
	mac := hmac.New(algorithm, []byte(secret))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func tkPart(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// tkClaims are good claims, with more that may stand in their place.
func tkClaims(more string) string {
	now, claims := time.Now().Unix(), "{"
	for key, value := range map[string]string{"sub": `"ann"`, "iat": strconv.FormatInt(now, 10), "exp": strconv.FormatInt(now+600, 10)} {
		if !strings.Contains(more, `"`+key+`"`) {
			claims += `"` + key + `":` + value + ","
		}
	}
	return strings.TrimSuffix(claims+strings.TrimPrefix(more, ","), ",") + "}"
}

// tkRead asks tokens about a request with this Authorization.
func tkRead(t testing.TB, tokens *proxy.Tokens, authorization ...string) (proxy.Caller, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://proxy.example"+chatPath, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header["Authorization"] = authorization
	return tokens.Caller(r)
}

func tkRefused(err error) bool {
	e, ok := errors.AsType[*proxy.Error](err)
	return ok && e.Status == http.StatusUnauthorized && e.Code == proxy.CodeUnauthorized
}

func TestTokenIsAJSONWebTokenThatOthersCanMint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tokens := newTokens(t, tkSecret)
		now := time.Now().Unix()
		for _, row := range []struct {
			token  proxy.Token
			claims string
		}{
			{proxy.Token{Subject: "ann"}, fmt.Sprintf(`{"sub":"ann","iat":%d,"exp":%d}`, now, now+600)},
			{
				proxy.Token{Subject: "ann <b&c>", Lifetime: 24 * time.Hour, Origin: "HTTPS://App.Example.com:443", Models: []string{"gpt-*"}, MaxTokens: 50},
				fmt.Sprintf(`{"sub":"ann <b&c>","iat":%d,"exp":%d,"origin":%q,"models":["gpt-*"],"max_tokens":50}`, now, now+86400, tkPage),
			},
		} {
			minted := mint(t, tokens, row.token)
			parts := strings.Split(minted, ".")
			claims, err := base64.RawURLEncoding.DecodeString(parts[1])
			if err != nil || strings.TrimSpace(string(claims)) != row.claims {
				t.Errorf("the claims are %s, %v; want %s", claims, err, row.claims)
			}
			head, _ := base64.RawURLEncoding.DecodeString(parts[0])
			if minted != tkSign(sha256.New, tkSecret, string(head), string(claims)) || strings.TrimSpace(string(head)) != tkHead {
				t.Errorf("%s is not signed by the book, or begins with %s", minted, head)
			}
		}
		caller, err := tkRead(t, tokens, "Bearer "+tkSign(sha256.New, tkSecret, tkHead, tkClaims(`,"models":["m"],"max_tokens":7,"aud":["x"],"jti":"1"`)))
		if err != nil || caller.ID != "ann" || !slices.Equal(caller.Policy.Models, []string{"m"}) || caller.Policy.MaxTokens != 7 {
			t.Errorf("a token of another server: %q, %v", caller.ID, err)
		}
	})
}

// tkBad are values of Authorization that must not pass: forged, garbled, for
// something else, or of another time.
func tkBad(t testing.TB) map[string]string {
	t.Helper()
	good := mint(t, newTokens(t, tkSecret), proxy.Token{Subject: "ann"})
	parts := strings.Split(good, ".")
	signed := func(head, claims string) string { return tkSign(sha256.New, tkSecret, head, claims) }
	claims, now := tkClaims(""), time.Now().Unix()
	bad := map[string]string{
		"another secret": tkSign(sha256.New, tkOther, tkHead, claims), "the secret and more": tkSign(sha256.New, tkSecret+"0", tkHead, claims),
		"an empty secret":  tkSign(sha256.New, "", tkHead, claims),
		"alg none":         tkPart(`{"alg":"none","typ":"openai-proxy+jwt"}`) + "." + tkPart(claims) + ".",
		"alg none, signed": signed(`{"alg":"none","typ":"openai-proxy+jwt"}`, claims), "no alg": signed(`{"typ":"openai-proxy+jwt"}`, claims),
		"alg in small letters":       signed(`{"alg":"hs256","typ":"openai-proxy+jwt"}`, claims),
		"HS384":                      tkSign(sha512.New384, tkSecret, `{"alg":"HS384","typ":"openai-proxy+jwt"}`, claims),
		"HS384, HS256 in the header": tkSign(sha512.New384, tkSecret, tkHead, claims),
		"HS384 in the header":        signed(`{"alg":"HS384","typ":"openai-proxy+jwt"}`, claims),
		"RS256 in the header":        signed(`{"alg":"RS256","typ":"openai-proxy+jwt"}`, claims), "typ JWT": signed(`{"alg":"HS256","typ":"JWT"}`, claims),
		"alg in a list": signed(`{"alg":["HS256"],"typ":"openai-proxy+jwt"}`, claims),
		"no typ":        signed(`{"alg":"HS256"}`, claims), "typ at+jwt": signed(`{"alg":"HS256","typ":"at+jwt"}`, claims),
		"crit": signed(`{"alg":"HS256","typ":"openai-proxy+jwt","crit":["exp"]}`, claims), "crit, empty": signed(`{"alg":"HS256","typ":"openai-proxy+jwt","crit":[]}`, claims),
		"a header that is none": signed(`HS256`, claims), "claims that are none": signed(tkHead, `"ann"`), "claims that are null": signed(tkHead, `null`),
		"a claim twice": signed(tkHead, tkClaims(`,"sub":"ann","sub":"ann"`)), "a claim twice, once with an escape": signed(tkHead, tkClaims(`,"s\u0075b":"eve"`)),
		"two claims": signed(tkHead, claims+claims), "no subject": signed(tkHead, tkClaims(`,"sub":""`)), "a subject that is a number": signed(tkHead, tkClaims(`,"sub":7`)),
		"no exp": signed(tkHead, fmt.Sprintf(`{"sub":"ann","iat":%d}`, now)), "no iat": signed(tkHead, fmt.Sprintf(`{"sub":"ann","exp":%d}`, now+60)),
		"exp 0": signed(tkHead, tkClaims(`,"exp":0`)), "exp as a text": signed(tkHead, tkClaims(fmt.Sprintf(`,"exp":"%d"`, now+60))),
		"exp below 0": signed(tkHead, tkClaims(`,"exp":-1`)), "exp beyond int64": signed(tkHead, tkClaims(`,"exp":1e30`)),
		"exp at the end of time": signed(tkHead, tkClaims(`,"exp":9223372036854775807`)), "iat at its beginning": signed(tkHead, tkClaims(`,"iat":-9223372036854775808`)),
		"25 hours":       signed(tkHead, tkClaims(fmt.Sprintf(`,"exp":%d`, now+25*3600))),
		"24 h, 1 s":      signed(tkHead, tkClaims(fmt.Sprintf(`,"exp":%d`, now+24*3600+1))),
		"nbf in an hour": signed(tkHead, tkClaims(fmt.Sprintf(`,"nbf":%d`, now+3600))), "nbf at the end of time": signed(tkHead, tkClaims(`,"nbf":9223372036854775807`)),
		"no model": signed(tkHead, tkClaims(`,"models":[""]`)), "a bad pattern": signed(tkHead, tkClaims(`,"models":["*-*"]`)),
		"models in a text": signed(tkHead, tkClaims(`,"models":"gpt-x"`)), "max_tokens below 0": signed(tkHead, tkClaims(`,"max_tokens":-1`)),
		"longer than 4 KiB": signed(tkHead, tkClaims(`,"x":"`+strings.Repeat("x", 4<<10)+`"`)),
		"two parts":         parts[0] + "." + parts[1], "no signature": parts[0] + "." + parts[1] + ".", "one part": parts[0], "dots": "..", "a dot": ".", "four dots": "....",
		"four parts": good + "." + parts[2], "a part in front": parts[0] + "." + good, "twice": good + good, "parts in another order": parts[1] + "." + parts[0] + "." + parts[2],
		"padded": good + "=", "a blank inside": parts[0] + "." + parts[1] + ". " + parts[2], "a comma behind": good + ",",
		"the claims of another": parts[0] + "." + tkPart(tkClaims(`,"sub":"eve"`)) + "." + parts[2], "garbage": "sk-" + strings.Repeat("x", 48),
	}
	for name, token := range bad {
		bad[name] = "Bearer " + token
	}
	bad["no token"], bad["a blank token"], bad["another scheme"], bad["no scheme"] = "", "Bearer  ", "Basic "+good, good
	return bad
}

func TestTokenThatIsNotGoodIsRefused(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, tkSecret)
	f := start(t, proxy.WithCaller(tokens.Caller))
	for name, authorization := range tkBad(t) {
		t.Run(name, func(t *testing.T) {
			if caller, err := tkRead(t, tokens, authorization); !tkRefused(err) || caller.ID != "" {
				t.Fatalf("%q, %v; want 401", caller.ID, err)
			}
			for path, body := range map[string]string{"/": askHello, chatPath: askHelloStream, "/v1/images/edits": askImage, "/graphql": gqlRequest(gqlGetAIResponse, gqlChat())} {
				res, text := f.post(t, path, body, "Authorization", authorization, "Content-Type", "application/json")
				if res.StatusCode != http.StatusUnauthorized || res.Header.Get("WWW-Authenticate") != "Bearer" || !strings.Contains(strings.ToLower(text), `"code":"unauthorized"`) {
					t.Errorf("%s: status %d, %s; want 401", path, res.StatusCode, text)
				}
				token := strings.TrimSpace(strings.TrimPrefix(authorization, "Bearer "))
				if len(token) > 10 && strings.Contains(f.logs.String()+text, token) {
					t.Errorf("%s: the token is shown: %s\n%s", path, text, f.logs)
				}
			}
		})
	}
	f.wantCalls(t, 0)
}

func TestTokenMayBeSentOnceOnly(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, tkSecret)
	good := "Bearer " + mint(t, tokens, proxy.Token{Subject: "ann"})
	for _, values := range [][]string{nil, {good, good}, {good, ""}, {"", good}, {good, "Bearer x"}} {
		if _, err := tkRead(t, tokens, values...); !tkRefused(err) {
			t.Errorf("%d values of Authorization: %v, want 401", len(values), err)
		}
	}
}

func TestTokenWithAnyByteChangedIsRefused(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, tkSecret)
	good := mint(t, tokens, proxy.Token{Subject: "ann", Origin: tkPage, Models: []string{"gpt-x"}, MaxTokens: 1})
	check := func(what string, at int, changed string) {
		if _, err := tkRead(t, tokens, "Bearer "+changed); !tkRefused(err) {
			t.Errorf("%s at %d of %d: %q passes with %v", what, at, len(good), changed, err)
		}
	}
	for i := range len(good) {
		for b := range 256 {
			if byte(b) != good[i] {
				check("another byte", i, good[:i]+string([]byte{byte(b)})+good[i+1:])
			}
		}
		check("a byte less", i, good[:i]+good[i+1:])
		check("cut off", i, good[:i])
		for _, b := range []string{"A", ".", "=", "\n", "\r", " ", "\x00", "-", "é"} {
			// White space around a token is the header's, not the token's.
			if i > 0 || strings.TrimSpace(b) != "" {
				check("a byte more", i, good[:i]+b+good[i:])
			}
		}
	}
	if _, err := tkRead(t, tokens, "Bearer "+good+"\n"); !tkRefused(err) {
		t.Errorf("a line end behind it: %v", err)
	}
}

func TestTokenIsGoodFromItsStartToItsEndAndHalfAMinuteMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tokens := newTokens(t, tkSecret)
		f := inMemory(proxy.WithCaller(tokens.Caller)).start(t)
		token := mint(t, tokens, proxy.Token{Subject: "ann", Lifetime: time.Minute})
		status := func(token string) int {
			res, _ := f.post(t, chatPath, askHello, "Authorization", "Bearer "+token)
			return res.StatusCode
		}
		begin := time.Now()
		for _, row := range []struct {
			after  time.Duration
			status int
		}{{0, 200}, {time.Minute, 200}, {time.Minute + time.Second, 200}, {90 * time.Second, 200}, {90*time.Second + 1, 401}, {91 * time.Second, 401}, {24 * time.Hour, 401}} {
			time.Sleep(row.after - time.Since(begin))
			if got := status(token); got != row.status {
				t.Errorf("after %v: status %d, want %d", row.after, got, row.status)
			}
		}
		if _, body := f.post(t, chatPath, askHello, "Authorization", "Bearer "+token); !strings.Contains(body, "The token has expired.") {
			t.Errorf("the caller is not told why: %s", body)
		}
		now := time.Now().Unix()
		for _, claim := range []string{"iat", "nbf"} {
			for ahead, want := range map[int64]int{30: 200, 31: 401, 3600: 401} {
				future := tkSign(sha256.New, tkSecret, tkHead, tkClaims(fmt.Sprintf(`,"exp":%d,%q:%d`, now+7200, claim, now+ahead)))
				if got := status(future); got != want {
					t.Errorf("%s %d s ahead: status %d, want %d", claim, ahead, got, want)
				}
			}
		}
		if got := status(tkSign(sha256.New, tkSecret, tkHead, tkClaims(fmt.Sprintf(`,"exp":%d`, now+24*3600)))); got != 200 {
			t.Errorf("a token of 24 h: status %d, want 200", got)
		}
		f.wantCalls(t, 4+2+1)
	})
}

func TestTokenOfAPageIsGoodForThatPageOnly(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, tkSecret)
	bound := mint(t, tokens, proxy.Token{Subject: "ann", Origin: tkPage + ":443"})
	free := mint(t, tokens, proxy.Token{Subject: "ann"})
	query := "/graphql?query={__typename}"
	same := []string{"Host", "app.example.com", "Sec-Fetch-Site", "same-origin"}
	for _, row := range []struct {
		name, method, path, token string
		header                    []string
		status                    int
		says                      string
	}{
		{"its page", "POST", chatPath, bound, []string{"Origin", tkPage}, 200, ""},
		{"another allowed page", "POST", chatPath, bound, []string{"Origin", "https://other.example.com"}, 403, "another page"},
		{"its page over http", "POST", chatPath, bound, []string{"Origin", "http://app.example.com"}, 403, "another page"},
		{"no page", "POST", chatPath, bound, nil, 403, "another page"},
		{"a page that hides", "POST", chatPath, bound, []string{"Origin", "null", "Sec-Fetch-Site", "same-origin"}, 403, "another page"},
		{"a page that is not allowed", "POST", chatPath, bound, []string{"Origin", "https://evil.example"}, 403, "origin_not_allowed"},
		{"its page twice", "POST", chatPath, bound, []string{"Origin", tkPage, "Origin", tkPage, "Sec-Fetch-Site", "same-origin"}, 403, "another page"},
		{"GET of its own page, which sends no Origin", "GET", query, bound, same, 200, ""},
		{"GET of the own page of another host", "GET", query, bound, []string{"Host", "other.example.com", "Sec-Fetch-Site", "same-origin"}, 403, "another page"},
		{"GET from the address bar", "GET", query, bound, []string{"Host", "app.example.com", "Sec-Fetch-Site", "none"}, 403, "another page"},
		{"GET of no browser", "GET", query, bound, []string{"Host", "app.example.com"}, 403, "another page"},
		{"POST of no page", "POST", chatPath, bound, same, 403, "another page"},
		{"a token without a page", "POST", chatPath, free, []string{"Origin", "https://other.example.com"}, 200, ""},
		{"a token without a page, no page", "POST", chatPath, free, nil, 200, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, proxy.WithCaller(tokens.Caller), proxy.WithAllowedOrigins(tkPage, "https://other.example.com", "http://app.example.com"))
			body := map[string]string{"POST": askHello}[row.method]
			res, text := f.do(t, row.method, row.path, body, append(row.header, "Authorization", "Bearer "+row.token)...)
			if res.StatusCode != row.status || !strings.Contains(text, row.says) {
				t.Errorf("status %d, %s; want %d %s", res.StatusCode, text, row.status, row.says)
			}
			if row.status != 200 {
				f.wantCalls(t, 0)
			}
		})
	}
}

func TestTokenLimitsWhatMayBeAskedFor(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, tkSecret)
	token := mint(t, tokens, proxy.Token{Subject: "ann", Models: []string{"gpt-x", "gpt-4o*", "img-x"}, MaxTokens: 50})
	gql := func(more ...any) string { return gqlRequest(gqlGetAIResponse, gqlChat(more...)) }
	const hi = `"messages":[{"role":"user","content":"hi"}]`
	for _, row := range []struct {
		name, path, body string
		status           int
		says             string // the refusal, or what is sent
	}{
		{"its model", chatPath, askHello, 200, `"max_completion_tokens":50`},
		{"its model as a stream", chatPath, askHelloStream, 200, `"max_completion_tokens":50`},
		{"an old model", chatPath, `{"model":"gpt-4o-mini",` + hi + `}`, 200, `"max_tokens":50`},
		{"on the root the default gives way", "/", `{"model":"gpt-4o-mini",` + hi + `}`, 200, `"max_tokens":50`},
		{"fewer tokens", chatPath, `{"model":"gpt-x","max_tokens":49,` + hi + `}`, 200, `"max_tokens":49`},
		{"null is absent", chatPath, `{"model":"gpt-x","max_tokens":null,` + hi + `}`, 200, `"max_completion_tokens":50`},
		{"more tokens", chatPath, `{"model":"gpt-x","max_tokens":51,` + hi + `}`, 403, "max_tokens"},
		{"more tokens, by the new name", chatPath, `{"model":"gpt-x","max_completion_tokens":51,` + hi + `}`, 403, "max_completion_tokens"},
		{"more tokens behind fewer", chatPath, `{"model":"gpt-x","max_tokens":1,"max_completion_tokens":1000000,` + hi + `}`, 403, "max_completion_tokens"},
		{"tokens as a fraction", chatPath, `{"model":"gpt-x","max_tokens":5e9,` + hi + `}`, 400, "max_tokens"},
		{"tokens twice", chatPath, `{"model":"gpt-x","max_tokens":1,"max_tokens":1000,` + hi + `}`, 400, "duplicate_key"},
		{"another model", chatPath, `{"model":"gpt-5",` + hi + `}`, 403, "model"},
		{"another model in capitals beside", chatPath, `{"model":"gpt-x","MODEL":"gpt-5",` + hi + `}`, 400, "duplicate_key"},
		{"no model, so the default", chatPath, `{` + hi + `}`, 403, "model"},
		{"another model of images", "/v1/images/generations", `{"model":"dall-e-3","prompt":"x"}`, 403, "model"},
		{"its model of images", "/v1/images/edits", askImage, 200, `"img-x"`},
		{"GraphQL with its model", "/graphql", gql("model", "gpt-x"), 200, `"max_completion_tokens":50`},
		{"GraphQL with another model", "/graphql", gql("model", "gpt-5"), 403, "FORBIDDEN"},
		{"GraphQL with more tokens", "/graphql", gql("model", "gpt-x", "max_tokens", 51), 403, "FORBIDDEN"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, proxy.WithCaller(tokens.Caller))
			res, text := f.post(t, row.path, row.body, "Authorization", "Bearer "+token, "Content-Type", "application/json")
			if res.StatusCode != row.status {
				t.Fatalf("status %d, %s; want %d", res.StatusCode, text, row.status)
			}
			if row.status != 200 {
				f.wantCalls(t, 0)
			} else {
				text = string(f.up.Next().Body)
			}
			if !strings.Contains(text, row.says) {
				t.Errorf("%s, want %s", text, row.says)
			}
		})
	}
}

func TestTokenOfAnOldSecretIsGoodWhileTheSecretIsListed(t *testing.T) {
	t.Parallel()
	before, rotated, after := newTokens(t, tkSecret), newTokens(t, tkOther, tkSecret), newTokens(t, tkOther)
	old, fresh := mint(t, before, proxy.Token{Subject: "ann"}), mint(t, rotated, proxy.Token{Subject: "ann"})
	for _, row := range []struct {
		name   string
		tokens *proxy.Tokens
		token  string
		status int
	}{
		{"an old token before", before, old, 200},
		{"a new token before", before, fresh, 401},
		{"an old token in between", rotated, old, 200},
		{"a new token in between", rotated, fresh, 200},
		{"an old token after", after, old, 401},
		{"a new token after", after, fresh, 200},
	} {
		f := start(t, proxy.WithCaller(row.tokens.Caller))
		if res, body := f.post(t, chatPath, askHello, "Authorization", "bearer "+row.token); res.StatusCode != row.status {
			t.Errorf("%s: status %d, want %d: %s", row.name, res.StatusCode, row.status, body)
		}
		f.wantCalls(t, map[int]int{200: 1}[row.status])
	}
}

func TestTokensNeedGoodSecrets(t *testing.T) {
	t.Parallel()
	short := tkSecret[:31]
	for name, secrets := range map[string][]string{
		"none": nil, "an empty one": {""}, "31 bytes": {short}, "a short one behind": {tkSecret, short}, "an empty one behind": {tkSecret, ""},
	} {
		tokens, err := proxy.NewTokens(secrets...)
		problem, ok := errors.AsType[*proxy.OptionError](err)
		if tokens != nil || !ok || problem.Option != "NewTokens" || strings.Contains(err.Error(), short) {
			t.Errorf("%s: %v, want an OptionError of NewTokens without the secret", name, err)
		}
	}
	var zero proxy.Tokens
	for name, tokens := range map[string]*proxy.Tokens{"zero": &zero, "nil": nil} {
		if _, err := tokens.Mint(proxy.Token{Subject: "ann"}); err == nil {
			t.Errorf("%s: mints", name)
		}
		f := start(t, proxy.WithCaller(tokens.Caller))
		for _, token := range []string{"x.y.", tkSign(sha256.New, "", tkHead, tkClaims(""))} {
			res, body := f.post(t, chatPath, askHello, "Authorization", "Bearer "+token)
			// A nil pointer is the host's mistake, and may be told as one.
			if res.StatusCode != http.StatusUnauthorized && (tokens != nil || res.StatusCode != http.StatusInternalServerError) {
				t.Errorf("%s: status %d, want 401: %s", name, res.StatusCode, body)
			}
		}
		f.wantCalls(t, 0)
	}
}

func TestMintRefusesWhatNoTokenMaySay(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, tkSecret)
	for name, token := range map[string]proxy.Token{
		"no subject": {}, "a lifetime below 0": {Subject: "a", Lifetime: -time.Minute}, "under a second": {Subject: "a", Lifetime: time.Second - 1},
		"over a day": {Subject: "a", Lifetime: 24*time.Hour + 1}, "every page": {Subject: "a", Origin: "*"}, "many pages": {Subject: "a", Origin: "https://*.example.com"},
		"a page with a path": {Subject: "a", Origin: tkPage + "/"}, "a page without a scheme": {Subject: "a", Origin: "app.example.com"}, "null": {Subject: "a", Origin: "null"},
		"an empty model": {Subject: "a", Models: []string{"m", ""}}, "two stars": {Subject: "a", Models: []string{"*x*"}}, "a bound below 0": {Subject: "a", MaxTokens: -1},
		"longer than 4 KiB": {Subject: strings.Repeat("a", 4<<10)}, "a thousand models": {Subject: "a", Models: slices.Repeat([]string{"gpt-x"}, 1000)},
	} {
		minted, err := tokens.Mint(token)
		if minted != "" || err == nil || !strings.HasPrefix(err.Error(), "proxy: ") || strings.Contains(err.Error(), tkSecret) {
			t.Errorf("%s: %q, %v", name, minted, err)
		}
	}
	longest := proxy.Token{Subject: strings.Repeat("a", 2900), Lifetime: time.Second}
	if caller, err := tkRead(t, tokens, "Bearer "+mint(t, tokens, longest)); err != nil || caller.ID != longest.Subject {
		t.Errorf("a token that was minted is refused: %v", err)
	}
}

func TestTokensPrintNothing(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, tkSecret, tkOther)
	option := proxy.WithCaller(tokens.Caller)
	handler, err := proxy.NewHandler(proxy.WithKey(canary), option, proxy.WithLogger(quietLogger()))
	if err != nil {
		t.Fatal(err)
	}

	for name, v := range map[string]any{"Tokens": tokens, "Tokens by value": *tokens, "WithCaller": option, "Handler": handler} {
		for _, way := range showsSecret(v, tkSecret, tkOther) {
			t.Errorf("%s shows a secret by %s", name, way)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v %s %x", tokens, tokens, tokens, tokens, tokens); text != "*** *** *** *** ***" {
		t.Errorf("Tokens prints as %s", text)
	}
}

func TestTokenIsNeitherLoggedNorSentOn(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, tkSecret)
	f := start(t, proxy.WithCaller(tokens.Caller), proxy.WithHooks(proxy.Hooks{Rewrite: func(_ context.Context, call proxy.Call, body []byte) ([]byte, error) {
		if call.Header.Get("X-Test") == "panic" {
			panic(call)
		}
		return body, nil
	}}))
	token := mint(t, tokens, proxy.Token{Subject: "ann", Models: []string{"gpt-x"}})
	f.up.Queue(proxytest.Chat("Hi"), proxytest.ChatStream("Hi"), proxytest.Failure(401, "x", "y", "no"), proxytest.Raw("no HTTP"), proxytest.Chat("Hi"))
	for _, body := range []string{askHello, askHelloStream, askHello, askHello, gqlRequest(gqlGetAIResponse, gqlChat("model", "gpt-x")), askImage, "{"} {
		path := map[bool]string{true: "/graphql", false: chatPath}[strings.Contains(body, "getAIResponse")]
		f.post(t, path, body, "Authorization", "Bearer "+token, "Content-Type", "application/json")
	}
	f.post(t, chatPath, askHello, "Authorization", "Bearer "+token, "X-Test", "panic")
	f.wantCalls(t, 5)
	var sent strings.Builder
	for _, r := range f.up.Requests() {
		_ = r.Header.Write(&sent)
		sent.WriteString(r.Target + string(r.Body))
		if got := r.Header.Values("Authorization"); !slices.Equal(got, []string{"Bearer " + canary}) {
			t.Errorf("sent %q, want the server's key", got)
		}
	}
	for _, part := range strings.Split(token, ".")[1:] { // the first is the same of all
		for where, text := range map[string]string{"a log": f.logs.String(), "a response": f.seen.String(), "what is sent": sent.String()} {
			if strings.Contains(text, part) {
				t.Errorf("%s of the token is in %s:\n%s", part, where, text)
			}
		}
	}
}

func TestGoOpenAIClientTakesATokenForItsKey(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t, tkSecret)
	f := start(t, proxy.WithCaller(tokens.Caller))
	client := func(token string) *openai.Client {
		config := openai.DefaultConfig(token)
		config.BaseURL, config.HTTPClient = f.URL+"/v1", f.Client()
		return openai.NewClientWithConfig(config)
	}
	good := client(mint(t, tokens, proxy.Token{Subject: "ann", Models: []string{openai.GPT4o}, MaxTokens: 50}))
	chat, err := good.CreateChatCompletion(t.Context(), sdkChat)
	if err != nil || chat.Choices[0].Message.Content != "You said: hello there" {
		t.Errorf("chat: %+v, %v", chat, err)
	}
	if text, err := sdkStream(t, good); text != "You said: hello there" || !errors.Is(err, io.EOF) {
		t.Errorf("stream: %q, %v", text, err)
	}
	f.wantCalls(t, 2)
	_, err = good.CreateImage(t.Context(), openai.ImageRequest{Model: "dall-e-3", Prompt: "a cat"})
	if failed, ok := errors.AsType[*openai.APIError](err); !ok || failed.HTTPStatusCode != 403 || failed.Code != "forbidden" || *failed.Param != "model" {
		t.Errorf("another model is %#v", err)
	}
	_, err = client("sk-of-somebody-else").CreateChatCompletion(t.Context(), sdkChat)
	if failed, ok := errors.AsType[*openai.APIError](err); !ok || failed.HTTPStatusCode != 401 || failed.Code != "unauthorized" {
		t.Errorf("no token is %#v", err)
	}
	f.wantCalls(t, 2)
}

// tkIsSigned reports whether what stands in Authorization is, to the byte, what
// tkSign makes of its own parts.
func tkIsSigned(authorization string) bool {
	_, token, _ := strings.Cut(authorization, " ")
	token = strings.Trim(token, " \t")
	parts := append(strings.Split(token, "."), "", "")
	head, _ := base64.RawURLEncoding.DecodeString(parts[0])
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	return token == tkSign(sha256.New, tkSecret, string(head), string(claims))
}

// FuzzToken: whatever stands in Authorization, nothing panics, and nothing
// passes but what was signed, to the byte; and whatever a token that is signed
// says, what passes keeps the rules.
func FuzzToken(f *testing.F) {
	tokens := newTokens(f, tkSecret)
	good := mint(f, tokens, proxy.Token{Subject: "ann", Models: []string{"m"}})
	f.Add("Bearer "+good, tkHead, tkClaims(""))
	f.Add("bearer \t"+good+" ", tkHead, tkClaims(`,"exp":9e18,"nbf":-1`))
	for _, authorization := range tkBad(f) {
		f.Add(authorization, `{"alg":"none","typ":"openai-proxy+jwt"}`, tkClaims(`,"sub":null`))
		if raw, err := base64.RawURLEncoding.DecodeString(strings.Split(authorization+"..", ".")[1]); err == nil {
			f.Add("", tkHead, string(raw))
		}
	}
	f.Fuzz(func(t *testing.T, authorization, head, claims string) {
		caller, err := tkRead(t, tokens, authorization)
		if err == nil && (caller.ID == "" || !tkIsSigned(authorization)) || err != nil && !tkRefused(err) {
			t.Fatalf("%q passes for %q with %v", authorization, caller.ID, err)
		}
		caller, err = tkRead(t, tokens, "Bearer "+tkSign(sha256.New, tkSecret, head, claims))
		if err != nil {
			if !tkRefused(err) || caller.ID != "" {
				t.Fatalf("%q, %q: %q, %v", head, claims, caller.ID, err)
			}
			return
		}
		var said map[string]any // of which no key matches in another case
		if json.Unmarshal([]byte(claims), &said) != nil {
			t.Fatalf("%q, %q passes for %q", head, claims, caller.ID)
		}
		now := float64(time.Now().Unix())
		iat, _ := said["iat"].(float64)
		nbf, _ := said["nbf"].(float64)
		exp, _ := said["exp"].(float64)
		if caller.ID == "" || caller.ID != said["sub"] || caller.Policy.MaxTokens < 0 ||
			exp < now-32 || exp-iat > 86400 || max(iat, nbf) > now+30 {
			t.Fatalf("%q, %q passes for %q", head, claims, caller.ID)
		}
	})
}
