package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

const chat = `{"messages":[{"role":"user","content":"one two"}]}`

// start serves the worker over a fake upstream. Options come last and win.
func start(t *testing.T, options ...proxy.Option) (*proxytest.Server, *proxytest.Upstream) {
	t.Helper()
	up := proxytest.NewUpstream(t)
	handler, err := newHandler(append([]proxy.Option{proxy.WithUpstream(up.URL())}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	return proxytest.Serve(t, handler), up
}

// send makes a request; header holds names and values in turn.
func send(t *testing.T, srv *proxytest.Server, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if path == "/graphql" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

// What every bare request gets upstream, and nothing more.
const (
	chatDefaults  = `{"model":"gpt-3.5-turbo","temperature":0.7,"max_tokens":1000}`
	imageDefaults = `{"model":"dall-e-3","n":1,"size":"1024x1024","quality":"standard","style":"vivid","response_format":"url"}`
)

// graphQL is the body of a request for one field.
func graphQL(field string) string {
	body, _ := json.Marshal(map[string]string{"query": "mutation { " + field + " }"})
	return string(body)
}

func TestBareRequestsGetTheWorkersDefaults(t *testing.T) {
	t.Parallel()
	srv, up := start(t, proxy.WithKey("sk-test"))
	for _, c := range []struct{ path, body, target, own, defaults string }{
		{"/", chat, "/v1/chat/completions", chat, chatDefaults},
		{
			"/graphql", graphQL(`getAIResponse(input: {messages: [{role: "user", content: "one two"}]}) { content }`),
			"/v1/chat/completions", chat, chatDefaults,
		},
		{"/", `{"prompt":"a cat"}`, "/v1/images/generations", `{"prompt":"a cat"}`, imageDefaults},
		{"/", `{"prompt":"a cat","messages":null}`, "/v1/images/generations", `{"prompt":"a cat","messages":null}`, imageDefaults},
		{"/", `{"action":"generate-image","prompt":"a cat"}`, "/v1/images/generations", `{"prompt":"a cat"}`, imageDefaults},
		{"/images/generations", `{"prompt":"a cat"}`, "/v1/images/generations", `{"prompt":"a cat"}`, imageDefaults},
		{"/generate-image", `{"prompt":"a cat"}`, "/v1/images/generations", `{"prompt":"a cat"}`, imageDefaults},
		{
			"/graphql", graphQL(`generateImage(input: {prompt: "a cat"}) { id }`),
			"/v1/images/generations", `{"prompt":"a cat"}`, imageDefaults,
		},
	} {
		if res, body := send(t, srv, "POST", c.path, c.body); res.StatusCode != http.StatusOK {
			t.Errorf("%s %s: %d %s", c.path, c.body, res.StatusCode, body)
			continue
		}
		want := object(t, c.own)
		maps.Copy(want, object(t, c.defaults))
		got := up.Next()
		if got.Target != c.target || !reflect.DeepEqual(object(t, string(got.Body)), want) {
			t.Errorf("%s %s became %s %s", c.path, c.body, got.Target, got.Body)
		}
	}
}

// A key that the client wrote is sent as it stands, whatever its value, and the
// others are still filled in.
func TestWhatTheClientWroteWins(t *testing.T) {
	t.Parallel()
	srv, up := start(t, proxy.WithKey("sk-test"))
	for _, c := range []struct {
		path, body, defaults string
		values               map[string][]string // JSON texts, by key
	}{
		{"/", chat, chatDefaults, map[string][]string{
			"model": {`"gpt-4o"`}, "temperature": {"0", "1.50", "null"}, "max_tokens": {"0", "5", "null"},
		}},
		{"/generate-image", `{"prompt":"a cat"}`, imageDefaults, map[string][]string{
			"n": {"0", "2", "null"}, "size": {`"1792x1024"`, `""`}, "quality": {`"hd"`}, "style": {`"natural"`, "null"},
			"response_format": {`"b64_json"`},
		}},
	} {
		for key, texts := range c.values {
			for _, text := range texts {
				own := `{"` + key + `":` + text + "," + c.body[1:]
				if res, body := send(t, srv, "POST", c.path, own); res.StatusCode != http.StatusOK {
					t.Errorf("%s: %d %s", own, res.StatusCode, body)
					continue
				}
				want := object(t, c.defaults)
				maps.Copy(want, object(t, own))
				if got := up.Next(); !reflect.DeepEqual(object(t, string(got.Body)), want) {
					t.Errorf("%s became %s", own, got.Body)
				}
			}
		}
	}
}

// object is a JSON object with its values as they are written.
func object(t *testing.T, text string) map[string]string {
	t.Helper()
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	values := map[string]string{}
	for key, value := range raw {
		values[key] = string(value)
	}
	if messages, ok := raw["messages"]; ok { // GraphQL writes them in an order of its own
		var v any
		if err := json.Unmarshal(messages, &v); err != nil {
			t.Fatal(err)
		}
		values["messages"] = fmt.Sprint(v)
	}
	return values
}

func TestHeaderKeyBeatsTheEnvironment(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-of-the-server")
	srv, up := start(t)
	for _, c := range []struct{ path, body string }{
		{"/", chat},
		{"/generate-image", `{"prompt":"a cat"}`},
		{"/graphql", graphQL(`generateImage(input: {prompt: "a cat"}) { id }`)},
	} {
		for _, key := range []struct{ header, want string }{
			{"sk-of-the-page", "sk-of-the-page"},
			{"", "sk-of-the-server"},
		} {
			res, body := send(t, srv, "POST", c.path, c.body, "x-openai-key", key.header)
			if res.StatusCode != http.StatusOK {
				t.Fatalf("%s: %d %s", c.path, res.StatusCode, body)
			}
			got := up.Next()
			if got.Header.Get("Authorization") != "Bearer "+key.want || got.Header.Get("X-Openai-Key") != "" {
				t.Errorf("%s with header %q: upstream got %v", c.path, key.header, got.Header)
			}
		}
	}
}

func TestEveryPageMayCall(t *testing.T) {
	t.Parallel()
	srv, up := start(t, proxy.WithKey("sk-test"))
	for _, path := range []string{"/", "/images/generations", "/generate-image", "/graphql"} {
		res, body := send(t, srv, "OPTIONS", path, "", "Origin", "https://any.example",
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type,x-openai-key")
		if res.StatusCode != http.StatusNoContent || res.Header.Get("Access-Control-Allow-Origin") != "*" ||
			res.Header.Get("Access-Control-Allow-Headers") != "content-type,x-openai-key" {
			t.Errorf("%s: %d %v %s", path, res.StatusCode, res.Header, body)
		}
	}
	res, body := send(t, srv, "POST", "/", chat, "Origin", "https://any.example", "Sec-Fetch-Site", "cross-site")
	if res.StatusCode != http.StatusOK || res.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%d %v %s", res.StatusCode, res.Header, body)
	}
	if n := len(up.Requests()); n != 1 {
		t.Errorf("%d calls reached the upstream, want 1", n)
	}
}

// The worker's shape stands on OpenAI's routes too, where it answered as
// everywhere.
func TestErrorShape(t *testing.T) {
	t.Parallel()
	srv, up := start(t, proxy.WithKey("sk-test"))
	for _, path := range []string{"/", "/chat/completions", "/v1/chat/completions"} {
		res, body := send(t, srv, "POST", path, `{`)
		got := object(t, body)
		if res.StatusCode != http.StatusBadRequest || got["error"] != `"Invalid JSON"` || got["message"] != `"Request body is not valid JSON"` {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	up.Queue(proxytest.RateLimited(2 * time.Second))
	res, body := send(t, srv, "POST", "/v1/images/generations", `{"prompt":"a cat"}`)
	got := object(t, body)
	if res.StatusCode != http.StatusTooManyRequests || got["error"] != `"OpenAI Image API Error"` || got["status"] != "429" ||
		res.Header.Get("Retry-After") != "2" {
		t.Errorf("%d %v %s", res.StatusCode, res.Header, body)
	}
}

func TestGraphQLConversation(t *testing.T) {
	t.Parallel()
	srv, up := start(t, proxy.WithKey("sk-test"))
	_, body := send(t, srv, "POST", "/graphql", graphQL(`createSession { sessionId success }`))
	id := regexp.MustCompile(`"session_\w+"`).FindString(body)
	if id == "" || !strings.Contains(body, `"success":true`) {
		t.Fatal(body)
	}
	_, body = send(t, srv, "POST", "/graphql", graphQL(`sendMessage(input: {sessionId: `+id+`, content: "hello"}) { content isUser success }`))
	if want := `{"data":{"sendMessage":{"content":"hello","isUser":true,"success":true}}}`; strings.TrimSpace(body) != want {
		t.Error(body)
	}
	if n := len(up.Requests()); n != 0 {
		t.Errorf("%d calls reached the upstream", n)
	}
	_, body = send(t, srv, "POST", "/graphql", graphQL(`getAIResponse(input: {sessionId: `+id+`}) { content isUser success error }`))
	if want := `{"data":{"getAIResponse":{"content":"You said: hello","isUser":false,"success":true,"error":null}}}`; strings.TrimSpace(body) != want {
		t.Error(body)
	}
	query, _ := json.Marshal(map[string]string{"query": `{ chatHistory(sessionId: ` + id + `) { content isUser } }`})
	_, body = send(t, srv, "POST", "/graphql", string(query))
	if want := `{"data":{"chatHistory":[{"content":"hello","isUser":true},{"content":"You said: hello","isUser":false}]}}`; strings.TrimSpace(body) != want {
		t.Error(body)
	}
}

func TestStreamsPass(t *testing.T) {
	t.Parallel()
	srv, up := start(t, proxy.WithKey("sk-test"))
	res, body := send(t, srv, "POST", "/", `{"stream":true,`+chat[1:])
	events, err := proxytest.ReadEvents(strings.NewReader(body))
	if err != nil || len(events) < 5 || events[len(events)-1].Data != "[DONE]" || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		t.Errorf("%d events, %v, %v: %s", len(events), err, res.Header, body)
	}
	if got := object(t, string(up.Next().Body)); got["stream"] != "true" || got["max_tokens"] != "1000" {
		t.Errorf("upstream got %v", got)
	}
}

// startProgram runs the program on a free port and returns its address. The
// function stops it and checks its exit status.
func startProgram(t *testing.T, args ...string) (url string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stdout, w := io.Pipe()
	status := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		status <- run(ctx, append(args, "-listen", "127.0.0.1:0"), w, &stderr)
		w.Close()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "Listening on ")
	if err != nil || !ok {
		cancel()
		t.Fatal(line, err, <-status, stderr.String())
	}
	return url, func() {
		cancel()
		if got := <-status; got != 0 {
			t.Errorf("exit status %d: %s", got, stderr.String())
		}
	}
}

func TestRun(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-test")
	up := proxytest.NewUpstream(t)
	url, stop := startProgram(t, "-upstream", up.URL(), "-chat-model", "gpt-6-luna", "-image-model", "gpt-image-2")
	defer stop()
	for body, want := range map[string]string{
		chat:               `{"model":"gpt-6-luna",` + chat[1:],
		`{"prompt":"cat"}`: `{"model":"gpt-image-2","prompt":"cat"}`,
	} {
		res, err := http.Post(url+"/", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := up.Next(); string(got.Body) != want || got.Header.Get("Authorization") != "Bearer sk-test" {
			t.Errorf("%s became %s under %v", body, got.Body, got.Header)
		}
	}
	var stderr bytes.Buffer
	if got := run(t.Context(), []string{"-upstream", "nonsense"}, io.Discard, &stderr); got != 1 {
		t.Errorf("exit status %d with an invalid upstream", got)
	}
	if got := run(t.Context(), []string{"-nonsense"}, io.Discard, &stderr); got != 2 {
		t.Errorf("exit status %d with an unknown flag", got)
	}
}

func readGuide(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/moving-from-the-worker.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
