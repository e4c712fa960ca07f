package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

const chat = `{"messages":[{"role":"user","content":"one two"}]}`

// site is the proxy over a fake upstream, and its numbers.
type site struct {
	public, private *proxytest.Server
	up              *proxytest.Upstream
}

func start(t *testing.T, options ...proxytest.ServerOption) site {
	t.Helper()
	up := proxytest.NewUpstream(t, options...)
	m := newMetrics()
	handler, err := newHandler(m, proxy.WithUpstream(up.URL()), proxy.WithTransport(up.Transport()), proxy.WithKey("sk-test"))
	if err != nil {
		t.Fatal(err)
	}
	return site{proxytest.Serve(t, handler, options...), proxytest.Serve(t, m, options...), up}
}

func send(t *testing.T, srv *proxytest.Server, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	req.Host = req.Header.Get("Host")
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body) // a broken stream has an error, and a text
	return res, string(text)
}

// numbers is the form of what is served.
type numbers struct {
	Calls     map[string]int64              `json:"calls"`
	Usage     map[string]int64              `json:"usage"`
	Tokens    map[string]int64              `json:"tokens"`
	Cost      int64                         `json:"cost_millionths"`
	FirstByte map[string]map[string]float64 `json:"first_byte_seconds"`
}

func (s site) numbers(t *testing.T) numbers {
	t.Helper()
	res, body := send(t, s.private, "GET", "/debug/vars", "")
	dec := json.NewDecoder(strings.NewReader(body))
	dec.DisallowUnknownFields()
	var n numbers
	if err := dec.Decode(&n); err != nil || res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%v: %d %v %s", err, res.StatusCode, res.Header, body)
	}
	return n
}

func TestCalls(t *testing.T) {
	t.Parallel()
	s := start(t)
	plain := func() { send(t, s.public, "POST", "/", chat) }
	stream := func() { send(t, s.public, "POST", "/v1/chat/completions", `{"stream":true,`+chat[1:]) }
	for _, c := range []struct {
		name   string
		answer proxytest.Answer
		call   func()
		calls  string
	}{
		{"plain", proxytest.Answer{}, plain, "chat complete 2xx"},
		{"stream", proxytest.Answer{}, stream, "chat complete 2xx"},
		{"GraphQL", proxytest.Answer{}, func() {
			send(t, s.public, "POST", "/graphql",
				`{"query":"mutation { getAIResponse(input: {messages: [{role: \"user\", content: \"hi\"}]}) { content } }"}`,
				"Content-Type", "application/json")
		}, "chat complete 2xx"},
		{"image", proxytest.Answer{}, func() { send(t, s.public, "POST", "/generate-image", `{"prompt":"a cat"}`) }, "images complete 2xx"},
		{"edit", proxytest.Answer{}, func() {
			send(t, s.public, "POST", "/v1/images/edits", `{"prompt":"a cat","images":[{"file_id":"f"}]}`)
		}, "image_edits complete 2xx"},
		{"limited", proxytest.RateLimited(time.Second), plain, "chat error 4xx"},
		{"broken", proxytest.Raw(""), plain, "chat error 5xx"},
		{"cut", proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Cut()), stream, "chat upstream_cut 2xx"},
		{"no end", proxytest.Stream(proxytest.Text("data: {}\n\n")), stream, "chat incomplete 2xx"},
	} {
		before := s.numbers(t).Calls
		s.up.Queue(c.answer)
		c.call()
		after := s.numbers(t).Calls
		if after[c.calls] != before[c.calls]+1 {
			t.Errorf("%s: %v became %v, want one more of %q", c.name, before, after, c.calls)
		}
	}
	want := map[string]int64{
		"chat complete 2xx": 3, "images complete 2xx": 1, "image_edits complete 2xx": 1, "chat error 4xx": 1,
		"chat error 5xx": 1, "chat upstream_cut 2xx": 1, "chat incomplete 2xx": 1,
	}
	if got := s.numbers(t).Calls; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestClientThatLeavesIsCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, proxytest.InMemory())
		s.up.Queue(proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Silence()))
		ctx, leave := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.public.URL+"/", strings.NewReader(`{"stream":true,`+chat[1:]))
		if err != nil {
			t.Fatal(err)
		}
		res, err := s.public.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if _, err := proxytest.NewEventReader(res.Body).Next(); err != nil {
			t.Fatal(err)
		}
		leave()
		synctest.Wait()
		if got := s.numbers(t).Calls; !reflect.DeepEqual(got, map[string]int64{"chat client_gone 2xx": 1}) {
			t.Errorf("%v", got)
		}
	})
}

// What is refused before it is a call is none.
func TestRefusedRequestsAreNoCalls(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, c := range []struct {
		method, path, body string
		header             []string
	}{
		{"GET", "/", "", nil},
		{"POST", "/nothing", chat, nil},
		{"POST", "/", `{`, nil},
		{"POST", "/", chat, []string{"Origin", "https://evil.example"}},
	} {
		if res, body := send(t, s.public, c.method, c.path, c.body, c.header...); res.StatusCode < 400 {
			t.Errorf("%s %s: %d %s", c.method, c.path, res.StatusCode, body)
		}
	}
	if got := s.numbers(t); len(got.Calls) != 0 || len(got.Usage) != 0 || len(s.up.Requests()) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestTokensAndCost(t *testing.T) {
	t.Parallel()
	s := start(t)
	tokens := func(prompt, completion int64) map[string]int64 {
		return map[string]int64{"prompt": prompt, "prompt_cached": 0, "completion": completion, "completion_reasoning": 0}
	}
	// Of the fake upstream a chat takes 9 + 12 tokens, an image 10 + 20.
	send(t, s.public, "POST", "/", chat)
	_, body := send(t, s.public, "POST", "/", `{"stream":true,`+chat[1:])
	if strings.Contains(body, `"choices":[],"usage"`) {
		t.Errorf("the page sees the usage that it did not ask for: %s", body)
	}
	got := s.numbers(t)
	if !reflect.DeepEqual(got.Tokens, tokens(18, 24)) || !reflect.DeepEqual(got.Usage, map[string]int64{"reported": 2}) {
		t.Errorf("%+v", got)
	}
	const one = 9*0.25 + 12*2 // in millionths
	if float64(got.Cost) < 2*one-2 || float64(got.Cost) > 2*one+2 {
		t.Errorf("cost %d, want about %v", got.Cost, 2*one)
	}
	send(t, s.public, "POST", "/generate-image", `{"prompt":"a cat"}`)
	if image := s.numbers(t); !reflect.DeepEqual(image.Tokens, tokens(28, 44)) || image.Cost <= got.Cost {
		t.Errorf("%+v", image)
	}
	s.up.Queue(proxytest.RateLimited(time.Second), proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Cut()))
	send(t, s.public, "POST", "/", chat)
	send(t, s.public, "POST", "/", `{"stream":true,`+chat[1:])
	if got := s.numbers(t).Usage; !reflect.DeepEqual(got, map[string]int64{"reported": 3, "none": 1, "estimated": 1}) {
		t.Errorf("%v", got)
	}
}

// The time is that until the first byte, not until the last.
func TestTimeToFirstByte(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t, proxytest.InMemory())
		s.up.Queue(
			proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Pause(time.Minute), proxytest.Text("data: [DONE]\n\n")).
				After(proxytest.Pause(300*time.Millisecond)),
			proxytest.Chat("hello").After(proxytest.Pause(7*time.Second)),
			proxytest.Chat("hello").After(proxytest.Pause(400*time.Second)),
		)
		send(t, s.public, "POST", "/", `{"stream":true,`+chat[1:])
		send(t, s.public, "POST", "/", chat)
		send(t, s.public, "POST", "/", chat)
		got := s.numbers(t).FirstByte
		if len(got) != 6 {
			t.Errorf("%d kinds of calls", len(got))
		}
		want := map[string]float64{
			"le 0.1": 0, "le 0.25": 0, "le 0.5": 1, "le 1": 1, "le 2.5": 1, "le 5": 1, "le 10": 1, "le 30": 1,
			"le 60": 1, "le 120": 1, "le 300": 1, "le +Inf": 1, "sum": 0.3,
		}
		if !reflect.DeepEqual(got["chat stream"], want) {
			t.Errorf("streams: %v", got["chat stream"])
		}
		plain := got["chat"]
		if plain["le 5"] != 0 || plain["le 10"] != 1 || plain["le 300"] != 1 || plain["le +Inf"] != 2 || plain["sum"] != 407 {
			t.Errorf("plain answers: %v", plain)
		}
		if images := got["images"]; images["le +Inf"] != 0 || len(images) != len(want) {
			t.Errorf("images: %v", images)
		}
	})
}

// The numbers stand on their own listener, for callers on this machine.
func TestNumbersAreNotPublic(t *testing.T) {
	t.Parallel()
	s := start(t)
	if res, body := send(t, s.public, "GET", "/debug/vars", ""); res.StatusCode != http.StatusNotFound {
		t.Errorf("the public handler has them: %d %s", res.StatusCode, body)
	}
	for _, c := range []struct {
		method, path, host string
		status             int
	}{
		{"GET", "/debug/vars", "localhost", 200},
		{"GET", "/debug/vars", "localhost:8792", 200},
		{"GET", "/debug/vars", "127.0.0.1:8792", 200},
		{"GET", "/debug/vars", "[::1]:8792", 200},
		{"GET", "/debug/vars", "evil.example:8792", 421},
		{"GET", "/debug/vars", "localhost.evil.example", 421},
		{"GET", "/debug/vars", "192.0.2.1", 421},
		{"GET", "/", "localhost", 404},
		{"POST", "/debug/vars", "localhost", 405},
	} {
		res, body := send(t, s.private, c.method, c.path, "", "Host", c.host)
		if res.StatusCode != c.status || c.status != 200 && strings.Contains(body, "calls") {
			t.Errorf("%s %s of %s: %d %s", c.method, c.path, c.host, res.StatusCode, body)
		}
	}
	_, body := send(t, s.private, "GET", "/debug/vars", "")
	if strings.Contains(body, "cmdline") || strings.Contains(body, "memstats") {
		t.Errorf("more than the counts: %s", body)
	}
}

func TestRun(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-test")
	up := proxytest.NewUpstream(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stdout, w := io.Pipe()
	status := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		status <- run(ctx, []string{"-listen", "127.0.0.1:0", "-metrics", "127.0.0.1:0", "-upstream", up.URL()}, w, &stderr)
		w.Close()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	urls := regexp.MustCompile(`http://[^\s,]+`).FindAllString(line, -1)
	if err != nil || len(urls) != 2 {
		t.Fatal(line, err, stderr.String())
	}
	res, err := http.Post(urls[0]+"/", "application/json", strings.NewReader(chat))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res, err = http.Get(urls[1]); err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || !strings.Contains(string(body), `"calls": {"chat complete 2xx": 1}`) {
		t.Errorf("%v: %s", err, body)
	}
	stop()
	if got := <-status; got != 0 {
		t.Errorf("exit status %d: %s", got, stderr.String())
	}
	for _, c := range []struct {
		args   []string
		status int
		text   string
	}{
		{[]string{"-upstream", "nonsense"}, 1, "WithUpstream"},
		{[]string{"-metrics", "0.0.0.0:0", "-listen", "127.0.0.1:0"}, 1, "not on loopback"},
		{[]string{"-metrics", ":0", "-listen", "127.0.0.1:0"}, 1, "not on loopback"},
		{[]string{"-nonsense"}, 2, "nonsense"},
	} {
		var stderr bytes.Buffer
		if got := run(t.Context(), c.args, io.Discard, &stderr); got != c.status || !strings.Contains(stderr.String(), c.text) {
			t.Errorf("%q: exit status %d: %s", c.args, got, stderr.String())
		}
	}
}
