package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// askAs sends a chat with one more header and prints the answer's status and
// error, if it is one.
func askAs(h http.Handler, model, name, value string) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"model":"`+model+`","messages":[{"role":"user","content":"Hello"}]}`))
	r.Header.Set(name, value)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code == http.StatusOK {
		fmt.Println(w.Code)
		return
	}
	fmt.Print(w.Code, " ", w.Body)
}

// Who calls is known to the host, here by the cookie of its own login. Users
// that pay little may ask for small models only; others are refused before
// anything is sent to OpenAI.
func ExampleWithCaller() {
	openai := httptest.NewServer(new(proxytest.Upstream))
	defer openai.Close()

	plans := map[string]string{"ann": "free", "bob": "team"} // by session cookie
	h := proxy.New(
		proxy.WithKey("sk-of-the-server"),
		proxy.WithUpstream(openai.URL+"/v1"),
		proxy.WithLogger(slog.New(slog.DiscardHandler)),
		proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) {
			cookie, err := r.Cookie("session")
			if err != nil {
				return proxy.Caller{}, err // 401; the text goes to the log
			}
			switch plans[cookie.Value] {
			case "team":
				return proxy.Caller{ID: cookie.Value}, nil
			case "free":
				return proxy.Caller{ID: cookie.Value, Policy: proxy.Policy{Models: []string{"*-mini"}}}, nil
			}
			return proxy.Caller{}, &proxy.Error{Status: http.StatusForbidden, Message: "Your plan has ended."}
		}),
		proxy.WithHooks(proxy.Hooks{Done: func(_ context.Context, call proxy.Call, out proxy.Outcome) {
			fmt.Printf("%s used %d tokens of %s\n", call.Caller, out.Usage.TotalTokens, call.Model)
		}}),
	)
	askAs(h, "gpt-4o", "Cookie", "session=bob")
	askAs(h, "gpt-4o-mini", "Cookie", "session=ann")
	askAs(h, "gpt-4o", "Cookie", "session=ann")
	askAs(h, "gpt-4o", "Cookie", "session=eve")
	askAs(h, "gpt-4o", "X-Nothing", "")
	// Output:
	// bob used 21 tokens of gpt-4o
	// 200
	// ann used 21 tokens of gpt-4o-mini
	// 200
	// 403 {"error":"Forbidden","message":"This model may not be used here.","type":"invalid_request_error","param":"model","code":"forbidden"}
	// 403 {"error":"Forbidden","message":"Your plan has ended.","type":"invalid_request_error","code":"forbidden"}
	// 401 {"error":"Unauthorized","message":"The caller is not known.","type":"invalid_request_error","code":"unauthorized"}
}

// The server gives a page a token of ten minutes, and the page sends it where
// the SDKs send their key: new OpenAI({ apiKey: token, baseURL: "/v1" }).
func ExampleTokens() {
	openai := httptest.NewServer(new(proxytest.Upstream))
	defer openai.Close()

	tokens, err := proxy.NewTokens("of 32 bytes at least, and random") // from the environment
	if err != nil {
		fmt.Println(err)
		return
	}
	h := proxy.New(
		proxy.WithKey("sk-of-the-server"),
		proxy.WithUpstream(openai.URL+"/v1"),
		proxy.WithLogger(slog.New(slog.DiscardHandler)),
		proxy.WithCaller(tokens.Caller),
	)
	token, err := tokens.Mint(proxy.Token{Subject: "user-7", Models: []string{"gpt-4o*"}, MaxTokens: 500})
	if err != nil {
		fmt.Println(err)
		return
	}
	askAs(h, "gpt-4o", "Authorization", "Bearer "+token)
	askAs(h, "gpt-5", "Authorization", "Bearer "+token)
	askAs(h, "gpt-4o", "Authorization", "Bearer "+token+"x")
	fmt.Println(tokens)
	// Output:
	// 200
	// 403 {"error":"Forbidden","message":"This model may not be used here.","type":"invalid_request_error","param":"model","code":"forbidden"}
	// 401 {"error":"Unauthorized","message":"The token is not valid.","type":"invalid_request_error","code":"unauthorized"}
	// ***
}

// To change a secret, put the new one in front. Once the last token of the old
// one has expired, drop it.
func ExampleNewTokens() {
	const old, fresh = "the secret of the year 2026, 32 bytes", "the secret of the year 2027, 32 bytes"
	before, _ := proxy.NewTokens(old)
	token, _ := before.Mint(proxy.Token{Subject: "user-7"})

	r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
	r.Header.Set("Authorization", "Bearer "+token)
	for _, secrets := range [][]string{{fresh, old}, {fresh}, {"short"}} {
		tokens, err := proxy.NewTokens(secrets...)
		if err != nil {
			fmt.Println(err)
			continue
		}
		caller, err := tokens.Caller(r)
		fmt.Printf("%q %v\n", caller.ID, err)
	}
	// Output:
	// "user-7" <nil>
	// "" unauthorized (401): The token is not valid.: the signature is not ours
	// proxy: NewTokens: a secret has fewer than 32 bytes
}

// What a token may say is checked where it is made.
func ExampleTokens_Mint() {
	tokens, err := proxy.NewTokens("of 32 bytes at least, and random")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, token := range []proxy.Token{
		{Subject: "user-7", Lifetime: time.Hour, Origin: "https://app.example.com"},
		{Lifetime: time.Hour},
		{Subject: "user-7", Lifetime: 30 * 24 * time.Hour},
		{Subject: "user-7", Origin: "*"},
	} {
		minted, err := tokens.Mint(token)
		fmt.Println(strings.Count(minted, "."), err)
	}
	// Output:
	// 2 <nil>
	// 0 proxy: a token needs a subject
	// 0 proxy: a token lives between 1 s and 24 h, not 720h0m0s
	// 0 proxy: invalid origin "*": one exact origin is required
}

// Behind a reverse proxy every connection comes from the proxy. Its word about
// the client is believed, the client's own word on its left is not.
func ExampleWithTrustedProxies() {
	h := proxy.New(
		proxy.WithKey("sk-of-the-server"),
		proxy.WithLogger(slog.New(slog.DiscardHandler)),
		proxy.WithTrustedProxies("10.0.0.0/8", "2001:db8:ffff::/48"),
		proxy.WithHooks(proxy.Hooks{Admit: func(_ context.Context, call proxy.Call) error {
			fmt.Println(call.Address)
			return errors.New("no more in this example")
		}}),
	)
	for _, hop := range []struct{ from, forwarded string }{
		{"10.0.0.1:50000", "127.0.0.1, 198.51.100.7"},
		{"10.0.0.1:50000", "198.51.100.7, 10.0.0.2"},
		{"10.0.0.1:50000", "2001:db8:1:2:aaaa:bbbb:cccc:dddd"},
		{"203.0.113.9:50000", "127.0.0.1"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"messages":[]}`))
		r.RemoteAddr = hop.from
		r.Header.Set("X-Forwarded-For", hop.forwarded)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	// Output:
	// 198.51.100.7
	// 198.51.100.7
	// 2001:db8:1:2::/64
	// 203.0.113.9
}
