package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// A proxy beside the other routes of a server. In these examples a fake
// upstream stands in for OpenAI; leave WithUpstream out to reach the real one,
// and set OPENAI_API_KEY instead of WithKey.
func ExampleNew() {
	openai := httptest.NewServer(new(proxytest.Upstream))
	defer openai.Close()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("/ai/", http.StripPrefix("/ai", proxy.New(
		proxy.WithKey("sk-of-the-server"),
		proxy.WithUpstream(openai.URL+"/v1"),
	)))
	server := httptest.NewServer(mux)
	defer server.Close()

	res, err := http.Post(server.URL+"/ai/v1/chat/completions", "application/json",
		strings.NewReader(`{"model":"gpt-6-luna","messages":[{"role":"user","content":"Hello"}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	var answer struct {
		Choices []struct{ Message struct{ Content string } }
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(res.Status)
	fmt.Println(answer.Choices[0].Message.Content)
	// Output:
	// 200 OK
	// You said: Hello
}

// New never fails. With an option that cannot be meant it logs what is wrong,
// and every request is answered with 500 until somebody reads the log.
func ExampleNew_misconfigured() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{} // or the output would differ each time
			}
			return a
		},
	}))
	server := httptest.NewServer(proxy.New(
		proxy.WithUpstream("api.openai.com/v1"), // the scheme is missing
		proxy.WithLogger(logger),
	))
	defer server.Close()

	res, err := http.Post(server.URL+"/v1/chat/completions", "application/json", strings.NewReader(`{"messages":[]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	fmt.Println(res.Status)
	fmt.Print(string(body))
	// Output:
	// level=ERROR msg="proxy is misconfigured" error="proxy: WithUpstream: invalid URL: the scheme must be https or http"
	// 500 Internal Server Error
	// {"error":{"message":"The proxy is not configured correctly.","type":"server_error","param":null,"code":"misconfigured"},"message":"The proxy is not configured correctly.","status":500}
}

// NewHandler is for servers that would rather not start: it returns every
// problem at once.
func ExampleNewHandler() {
	_, err := proxy.NewHandler(
		proxy.WithKey("sk-with a blank"),
		proxy.WithAllowedOrigins("*"),
		proxy.WithCredentials(true),
	)
	fmt.Println(err)

	var problem *proxy.OptionError
	fmt.Println(errors.As(err, &problem), problem.Option)
	// Output:
	// proxy: WithKeySource: the key must be 1 to 8,192 visible ASCII characters
	// proxy: WithCredentials: credentials cannot be allowed for every origin ("*")
	// true WithKeySource
}

// A stream, read event by event as it arrives. An error from Next that is not
// io.EOF means that the stream broke: its text so far is not the whole answer.
func ExampleHandler_stream() {
	openai := new(proxytest.Upstream)
	openai.Queue(proxytest.ChatStream("Once ", "upon ", "a time."))
	upstream := httptest.NewServer(openai)
	defer upstream.Close()
	server := httptest.NewServer(proxy.New(
		proxy.WithKey("sk-of-the-server"),
		proxy.WithUpstream(upstream.URL+"/v1"),
	))
	defer server.Close()

	res, err := http.Post(server.URL+"/v1/chat/completions", "application/json",
		strings.NewReader(`{"model":"gpt-6-luna","stream":true,"messages":[{"role":"user","content":"A story!"}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()

	events := proxytest.NewEventReader(res.Body)
	for {
		event, err := events.Next()
		if errors.Is(err, io.EOF) || event.Data == "[DONE]" {
			break
		}
		if err != nil {
			fmt.Println("the stream broke:", err)
			return
		}
		var chunk struct {
			Choices []struct{ Delta struct{ Content string } }
		}
		if err := json.Unmarshal([]byte(event.Data), &chunk); err != nil {
			fmt.Println(err)
			return
		}
		for _, choice := range chunk.Choices {
			fmt.Print(choice.Delta.Content)
		}
	}
	fmt.Println()
	// Output:
	// Once upon a time.
}

// Every tenant pays with a key of its own. The function sees the request, so it
// can use what a middleware before it has found out about the caller. A tenant
// without a key gets 500 and costs nothing; to refuse strangers, use
// Hooks.Admit.
func ExampleWithKeySource_tenants() {
	openai := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("the upstream sees", r.Header.Get("Authorization"))
		new(proxytest.Upstream).ServeHTTP(w, r)
	}))
	defer openai.Close()

	keys := map[string]string{"red": "sk-red", "green": "sk-green"}
	server := httptest.NewServer(proxy.New(
		proxy.WithUpstream(openai.URL+"/v1"),
		proxy.WithLogger(slog.New(slog.DiscardHandler)),
		proxy.WithKeySource(proxy.KeyFunc(func(r *http.Request) (string, error) {
			return keys[r.Header.Get("X-Tenant")], nil
		})),
	))
	defer server.Close()

	for _, tenant := range []string{"red", "green", "blue"} {
		req, err := http.NewRequest(http.MethodPost, server.URL+"/v1/chat/completions",
			strings.NewReader(`{"model":"gpt-6-luna","messages":[{"role":"user","content":"Hello"}]}`))
		if err != nil {
			fmt.Println(err)
			return
		}
		req.Header.Set("X-Tenant", tenant)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		_ = res.Body.Close()
		fmt.Println(tenant, res.StatusCode)
	}
	// Output:
	// the upstream sees Bearer sk-red
	// red 200
	// the upstream sees Bearer sk-green
	// green 200
	// blue 500
}

// During development a caller may bring a key in a header; without one the
// environment's is used.
func ExampleFirstKey() {
	source := proxy.FirstKey(proxy.HeaderKey("x-openai-key"), proxy.StaticKey("sk-of-the-server"))
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	key, err := source.Key(r)
	fmt.Println(key, err)

	r.Header.Set("x-openai-key", "sk-of-the-caller")
	key, err = source.Key(r)
	fmt.Println(key, err)

	fmt.Printf("no verb prints it: %v %+v %#v\n", source, source, source)
	// Output:
	// sk-of-the-server <nil>
	// sk-of-the-caller <nil>
	// no verb prints it: *** *** ***
}

// An origin is what the browser sends: scheme, host and port. The classic
// mistakes are a slash at the end and a missing scheme; both are found when the
// handler is made, and not by the first user.
func ExampleWithAllowedOrigins() {
	_, err := proxy.NewHandler(proxy.WithKey("sk-of-the-server"),
		proxy.WithAllowedOrigins("https://app.example.com/", "app.example.com"))
	fmt.Println(err)

	openai := httptest.NewServer(new(proxytest.Upstream))
	defer openai.Close()
	server := httptest.NewServer(proxy.New(
		proxy.WithKey("sk-of-the-server"),
		proxy.WithUpstream(openai.URL+"/v1"),
		proxy.WithAllowedOrigins("https://app.example.com", "https://*.preview.example.com"),
	))
	defer server.Close()

	for _, origin := range []string{
		"https://app.example.com",
		"https://pr-7.preview.example.com",
		"https://app.example.com.evil.example",
		"http://app.example.com",
	} {
		req, err := http.NewRequest(http.MethodPost, server.URL+"/v1/chat/completions",
			strings.NewReader(`{"model":"gpt-6-luna","messages":[{"role":"user","content":"Hello"}]}`))
		if err != nil {
			fmt.Println(err)
			return
		}
		req.Header.Set("Origin", origin)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		_ = res.Body.Close()
		fmt.Println(res.StatusCode, origin)
	}
	// Output:
	// proxy: WithAllowedOrigins: invalid origin "https://app.example.com/": it must be scheme, host and port only
	// proxy: WithAllowedOrigins: invalid origin "app.example.com": a scheme is required, as in "https://example.com"
	// 200 https://app.example.com
	// 200 https://pr-7.preview.example.com
	// 403 https://app.example.com.evil.example
	// 403 http://app.example.com
}

// A quota of tokens, with Admit and Done. What a call will cost is not known
// beforehand, so Admit reserves the most it may cost and Done gives back what
// was not used: checking before and adding after would let parallel calls
// through together.
func ExampleWithHooks_quota() {
	const most = 50 // tokens that one call may cost
	var left atomic.Int64
	left.Store(100)

	openai := httptest.NewServer(new(proxytest.Upstream)) // 21 tokens each time
	defer openai.Close()
	server := httptest.NewServer(proxy.New(
		proxy.WithKey("sk-of-the-server"),
		proxy.WithUpstream(openai.URL+"/v1"),
		proxy.WithLogger(slog.New(slog.DiscardHandler)),
		proxy.WithHooks(proxy.Hooks{
			Admit: func(context.Context, proxy.Call) error {
				if left.Add(-most) < 0 {
					left.Add(most)
					return &proxy.Error{Status: http.StatusTooManyRequests, Message: "Your tokens are used up."}
				}
				return nil
			},
			Done: func(_ context.Context, call proxy.Call, outcome proxy.Outcome) {
				left.Add(most - outcome.Usage.TotalTokens)
				fmt.Println(call.Model, outcome.Ending, outcome.Usage.TotalTokens)
			},
		}),
	))
	defer server.Close()

	for range 4 {
		res, err := http.Post(server.URL+"/v1/chat/completions", "application/json",
			strings.NewReader(`{"model":"gpt-6-luna","messages":[{"role":"user","content":"Hello"}]}`))
		if err != nil {
			fmt.Println(err)
			return
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		fmt.Println(res.StatusCode, "left:", left.Load())
	}
	// Output:
	// gpt-6-luna complete 21
	// 200 left: 79
	// gpt-6-luna complete 21
	// 200 left: 58
	// gpt-6-luna complete 21
	// 200 left: 37
	// 429 left: 37
}

// Rewrite changes the body on its way: here it forces a model and puts a system
// message first, which no page can leave out.
func ExampleWithHooks_systemMessage() {
	rewrite := func(_ context.Context, call proxy.Call, body []byte) ([]byte, error) {
		if call.Route != proxy.RouteChat {
			return body, nil
		}
		var fields map[string]json.RawMessage // keeps what it does not know, as it is
		if err := json.Unmarshal(body, &fields); err != nil {
			return nil, err
		}
		var messages []json.RawMessage
		if err := json.Unmarshal(fields["messages"], &messages); err != nil {
			return nil, err
		}
		system := json.RawMessage(`{"role":"system","content":"Answer in rhymes."}`)
		fields["messages"], _ = json.Marshal(append([]json.RawMessage{system}, messages...))
		fields["model"] = json.RawMessage(`"gpt-6-luna"`)
		return json.Marshal(fields)
	}

	openai := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Println(string(body))
		r.Body = io.NopCloser(bytes.NewReader(body))
		new(proxytest.Upstream).ServeHTTP(w, r)
	}))
	defer openai.Close()
	server := httptest.NewServer(proxy.New(
		proxy.WithKey("sk-of-the-server"),
		proxy.WithUpstream(openai.URL+"/v1"),
		proxy.WithHooks(proxy.Hooks{Rewrite: rewrite}),
	))
	defer server.Close()

	res, err := http.Post(server.URL+"/v1/chat/completions", "application/json",
		strings.NewReader(`{"model":"the-dearest","messages":[{"role":"user","content":"Hello"}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = res.Body.Close()
	// Output:
	// {"messages":[{"role":"system","content":"Answer in rhymes."},{"role":"user","content":"Hello"}],"model":"gpt-6-luna"}
}

// Mounted by a pattern with a method, the handler never sees OPTIONS: the mux
// answers the browser's preflight itself, with 405 and without any CORS header,
// and every page of another origin is locked out. Leave the method out; the
// handler answers wrong ones with 405 of its own.
func ExampleHandler_Chat_pattern() {
	h, err := proxy.NewHandler(proxy.WithKey("sk-of-the-server"), proxy.WithAllowedOrigins("https://app.example.com"))
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	mux.Handle("POST /wrong", h.Chat())
	mux.Handle("/right", h.Chat())

	for _, path := range []string{"/wrong", "/right"} {
		preflight := httptest.NewRequest(http.MethodOptions, path, nil)
		preflight.Header.Set("Origin", "https://app.example.com")
		preflight.Header.Set("Access-Control-Request-Method", http.MethodPost)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, preflight)
		fmt.Printf("%s: %d %q\n", path, w.Code, w.Header().Get("Access-Control-Allow-Origin"))
	}
	// Output:
	// /wrong: 405 ""
	// /right: 204 "https://app.example.com"
}

// The routes one by one, on paths of the host's own.
func ExampleHandler_Images() {
	openai := httptest.NewServer(new(proxytest.Upstream))
	defer openai.Close()
	h, err := proxy.NewHandler(proxy.WithKey("sk-of-the-server"), proxy.WithUpstream(openai.URL+"/v1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	mux.Handle("/api/ask", h.Chat())
	mux.Handle("/api/draw", h.Images())
	server := httptest.NewServer(mux)
	defer server.Close()

	res, err := http.Post(server.URL+"/api/draw", "application/json", strings.NewReader(`{"prompt":"a red square"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	var images struct {
		Data []struct {
			PNG []byte `json:"b64_json"`
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&images); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d image, %q\n", len(images.Data), images.Data[0].PNG[1:4])
	// Output:
	// 1 image, "PNG"
}

// Shutdown lets calls under way come to their end and takes no new ones. Call
// it beside http.Server.Shutdown, which would wait for a stream for ever.
func ExampleHandler_Shutdown() {
	h, err := proxy.NewHandler(proxy.WithKey("sk-of-the-server"), proxy.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.Shutdown(context.Background()))

	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"messages":[]}`)))
	fmt.Println(w.Code, "Retry-After:", w.Header().Get("Retry-After"))
	// Output:
	// <nil>
	// 503 Retry-After: 1
}

// testRetryHint is a test of your own server, with a fake in place of OpenAI:
// no key, no network, no bill. In a real test it is TestRetryHint(t *testing.T)
// and compares instead of printing.
func testRetryHint(t testing.TB) {
	up := proxytest.NewUpstream(t)
	srv := proxytest.Serve(t, proxy.New(
		proxy.WithKey("sk-test"),
		proxy.WithUpstream(up.URL()),
		proxy.WithTransport(up.Transport()),
	))
	// The first answer is a refusal; with nothing left in the queue the
	// second is made up from the request.
	up.Queue(proxytest.RateLimited(20 * time.Second))
	for range 2 {
		res, err := srv.Client().Post(srv.URL+"/v1/chat/completions", "application/json",
			strings.NewReader(`{"model":"gpt-6-luna","messages":[{"role":"user","content":"Hello"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		fmt.Printf("%d %q\n", res.StatusCode, res.Header.Get("Retry-After"))
	}
	sent := up.Next() // what arrived at the upstream, in order
	fmt.Println(sent.Method, sent.Target, sent.Header.Get("Authorization"))
}

// The package proxytest plays OpenAI in tests of code that mounts a proxy.
func Example_testing() {
	t := &exampleTB{} // a test has its own
	defer t.close()
	testRetryHint(t)
	// Output:
	// 429 "20"
	// 200 ""
	// POST /v1/chat/completions Bearer sk-test
}

// exampleTB is the part of a testing.T that an example has to stand in for.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (t *exampleTB) Helper()          {}
func (t *exampleTB) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

func (t *exampleTB) close() {
	for len(t.cleanups) > 0 {
		last := t.cleanups[len(t.cleanups)-1]
		t.cleanups = t.cleanups[:len(t.cleanups)-1]
		last()
	}
}
