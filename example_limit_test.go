package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// sayHello sends a chat in the name of a user, and prints what comes back.
func sayHello(url, user string) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url+"/v1/chat/completions",
		strings.NewReader(`{"model":"gpt-6-luna","max_completion_tokens":100,"messages":[{"role":"user","content":"Hello"}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	req.Header.Set("X-User", user)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = res.Body.Close()
	fmt.Println(user, res.Status)
}

// callerOfHeader stands for what knows your users: a session, a token.
func callerOfHeader(r *http.Request) (proxy.Caller, error) {
	return proxy.Caller{ID: r.Header.Get("X-User")}, nil
}

// Every user may ask twice an hour, and spend 50 cents a day; all together may
// have a hundred calls under way.
func ExampleWithLimiter() {
	openai := httptest.NewServer(new(proxytest.Upstream))
	defer openai.Close()
	server := httptest.NewServer(proxy.New(
		proxy.WithKey("sk-of-the-server"),
		proxy.WithUpstream(openai.URL+"/v1"),
		proxy.WithCaller(callerOfHeader),
		proxy.WithPrices(map[string]proxy.Price{"gpt-6-luna": {Prompt: 1.25, Completion: 10}}),
		proxy.WithLimiter(&proxy.MemoryLimiter{
			Requests: 2, Every: time.Hour,
			Cost:     500_000, // millionths of the currency of the prices
			InFlight: 100,
		}),
	))
	defer server.Close()

	sayHello(server.URL, "ann")
	sayHello(server.URL, "ann")
	sayHello(server.URL, "ann")
	sayHello(server.URL, "bob")
	// Output:
	// ann 200 OK
	// ann 200 OK
	// ann 429 Too Many Requests
	// bob 200 OK
}

// plan is a Limiter of the host's own: so many tokens for each user, for ever. A
// shared store in place of the map would count for several servers.
type plan struct {
	mu   sync.Mutex
	left map[string]int64
}

func (p *plan) Reserve(_ context.Context, call proxy.Call, most proxy.Amount) (func(context.Context, proxy.Amount), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left[call.Caller] < most.Tokens {
		return nil, &proxy.Error{
			Status: http.StatusTooManyRequests, Code: "plan_used_up", Message: "Your plan is used up.", RetryAfter: time.Hour,
		}
	}
	p.left[call.Caller] -= most.Tokens
	return func(_ context.Context, taken proxy.Amount) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.left[call.Caller] += most.Tokens - taken.Tokens
	}, nil
}

// A Limiter takes the most that a call can cost, and gives back what it did not
// take.
func ExampleLimiter() {
	openai := httptest.NewServer(new(proxytest.Upstream))
	defer openai.Close()
	plans := &plan{left: map[string]int64{"ann": 150}}
	server := httptest.NewServer(proxy.New(
		proxy.WithKey("sk-of-the-server"),
		proxy.WithUpstream(openai.URL+"/v1"),
		proxy.WithCaller(callerOfHeader),
		proxy.WithLimiter(plans),
	))
	defer server.Close()

	sayHello(server.URL, "ann") // takes 21 of at most 127
	sayHello(server.URL, "ann")
	sayHello(server.URL, "bob")
	server.Close() // waits for the handlers
	fmt.Println("left:", plans.left["ann"])
	// Output:
	// ann 200 OK
	// ann 200 OK
	// bob 429 Too Many Requests
	// left: 108
}

// Two keys take turns. One that is used up rests for as long as the upstream
// says; with Limits.Retries the caller does not even notice.
func ExampleKeyPool() {
	api := new(proxytest.Upstream)
	openai := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Header.Get("Authorization"))
		api.ServeHTTP(w, r)
	}))
	defer openai.Close()
	server := httptest.NewServer(proxy.New(
		proxy.WithKeySource(proxy.KeyPool(proxy.StaticKey("sk-one"), proxy.StaticKey("sk-two"))),
		proxy.WithUpstream(openai.URL+"/v1"),
		proxy.WithLimits(proxy.Limits{Retries: 1}),
	))
	defer server.Close()

	sayHello(server.URL, "ann")
	api.Queue(proxytest.RateLimited(time.Minute))
	sayHello(server.URL, "bob")
	sayHello(server.URL, "cid")
	// Output:
	// Bearer sk-one
	// ann 200 OK
	// Bearer sk-two
	// Bearer sk-one
	// bob 200 OK
	// Bearer sk-one
	// cid 200 OK
}
