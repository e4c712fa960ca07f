package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"image/png"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

const chat = `{"messages":[{"role":"user","content":"one two"}]}`

// program is a running server.
type program struct {
	url    string
	stop   context.CancelFunc
	status chan int
	out    *buffer // both outputs
}

// start runs the program on a free port and waits for its address.
func start(t *testing.T, env map[string]string, args ...string) *program {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	p := &program{stop: stop, status: make(chan int, 1), out: &buffer{}}
	stdout, w := io.Pipe()
	args = append([]string{"-listen", "127.0.0.1:0"}, args...)
	go func() {
		p.status <- run(ctx, args, func(name string) string { return env[name] }, w, p.out)
		w.Close()
	}()
	lines := bufio.NewReader(stdout)
	first, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("no address: %v\n%s", err, p.out)
	}
	p.url = strings.TrimSpace(strings.TrimPrefix(first, "Listening on "))
	drained := make(chan struct{})
	go func() {
		_, _ = io.Copy(p.out, lines)
		close(drained)
	}()
	t.Cleanup(func() {
		stop()
		if status := <-p.status; status != 0 {
			t.Errorf("exit status %d\n%s", status, p.out)
		}
		<-drained
	})
	return p
}

// send makes a request; header holds names and values in turn, "Host" too.
func (p *program) send(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	req.Host = req.Header.Get("Host")
	res, err := http.DefaultClient.Do(req)
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

// want fails the test unless an answer has this status and text.
func want(t *testing.T, res *http.Response, body string, status int, text string) {
	t.Helper()
	if res.StatusCode != status || !strings.Contains(body, text) {
		t.Errorf("%d %s, want %d with %s", res.StatusCode, body, status, text)
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	// What the environment has for real calls must not matter to a demo.
	p := start(t, map[string]string{"OPENAI_API_KEY_FILE": "/nowhere", "OPENAI_BASE_URL": "nonsense"}, "-demo")

	res, body := p.send(t, "POST", "/", chat)
	want(t, res, body, 200, "You said: one two")

	res, body = p.send(t, "POST", "/", `{"stream":true,`+chat[1:])
	events, err := proxytest.ReadEvents(strings.NewReader(body))
	if err != nil || len(events) < 5 || events[len(events)-1].Data != "[DONE]" {
		t.Errorf("%d events, %v: %s", len(events), err, body)
	}
	if got := res.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
		t.Errorf("Content-Type %q", got)
	}

	res, body = p.send(t, "POST", "/v1/images/generations", `{"prompt":"a lighthouse"}`)
	want(t, res, body, 200, "b64_json")
	var answer struct {
		Data []struct {
			Image []byte `json:"b64_json"`
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || len(answer.Data) != 1 {
		t.Fatal(err, body)
	}
	if _, err := png.Decode(bytes.NewReader(answer.Data[0].Image)); err != nil {
		t.Error(err)
	}

	res, body = p.send(t, "OPTIONS", "/", "", "Origin", "https://app.example", "Access-Control-Request-Method", "POST")
	want(t, res, body, 204, "")
	if got := res.Header.Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("a page of another origin may call: %q", got)
	}
	res, body = p.send(t, "GET", "/healthz", "")
	want(t, res, body, 200, "ok\n")
	res, body = p.send(t, "DELETE", "/", "")
	want(t, res, body, 405, "Method Not Allowed")
}

// The curl line that the demo prints is one that works.
func TestDemoPrintsWhatToTry(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "-demo")
	line := regexp.MustCompile(`curl -N (\S+) -d '(.+)'`)
	var found []string
	for deadline := time.Now().Add(5 * time.Second); found == nil && time.Now().Before(deadline); {
		found = line.FindStringSubmatch(p.out.String())
		time.Sleep(time.Millisecond)
	}
	if found == nil || found[1] != p.url+"/" {
		t.Fatalf("no curl line for %s:\n%s", p.url, p.out)
	}
	res, body := p.send(t, "POST", "/", found[2], "Content-Type", "application/x-www-form-urlencoded")
	want(t, res, body, 200, "data: [DONE]")
}

func TestDemoPage(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "-demo")
	res, page := p.send(t, "GET", "/", "")
	want(t, res, page, 200, "<!doctype html>")
	if got := res.Header.Get("Content-Type"); got != "text/html; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	if regexp.MustCompile(`https?:|//[a-z]`).MatchString(regexp.MustCompile(`(?m)^\s*//.*$|\s// .*$`).ReplaceAllString(page, "")) {
		t.Error("the page names another server")
	}
	if regexp.MustCompile(`\sstyle=|\son[a-z]+="|<(script|style) `).MatchString(page) {
		t.Error("the page has something inline that its policy forbids")
	}
	if found := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function`).FindString(page); found != "" {
		t.Errorf("the page makes markup or code of text: %s", found)
	}
	if regexp.MustCompile(`(fetch|post)\("/|(href|src|action)="/`).MatchString(page) {
		t.Error("the page works at the root only")
	}
	if len(page) > 32<<10 || strings.Count(page, "\n") > 600 {
		t.Errorf("the page has %d bytes in %d lines", len(page), strings.Count(page, "\n"))
	}
	policy := res.Header.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "script-src 'sha256-", "style-src 'sha256-"} {
		if !strings.Contains(policy, part) {
			t.Errorf("Content-Security-Policy lacks %s: %s", part, policy)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, hashOf("nothing")) {
		t.Errorf("Content-Security-Policy %s", policy)
	}
	// What the page sends, as a browser does from either name of the host.
	for _, host := range []string{strings.TrimPrefix(p.url, "http://"), strings.Replace(p.url, "http://127.0.0.1", "localhost", 1)} {
		res, body := p.send(t, "POST", "/v1/chat/completions", chat,
			"Host", host, "Origin", "http://"+host, "Sec-Fetch-Site", "same-origin", "Content-Type", "application/json")
		want(t, res, body, 200, "You said")
	}
}

func TestNoPageWithoutDemo(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "-dev")
	res, body := p.send(t, "GET", "/", "")
	want(t, res, body, 405, "Method Not Allowed")
	if got := res.Header.Get("Allow"); got != "POST, OPTIONS" {
		t.Errorf("Allow %q", got)
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	local := start(t, nil, "-demo")
	named := start(t, nil, "-demo", "-hosts", "app.example")
	for _, c := range []struct {
		name   string
		p      *program
		host   string
		status int
	}{
		{"a foreign name on loopback", local, "evil.example", 421},
		{"a name that begins like ours", local, "localhost.evil.example", 421},
		{"localhost", local, "localhost:8787", 200},
		{"IPv6", local, "[::1]:8787", 200},
		{"the listed name", named, "app.example", 200},
		{"a name that the list leaves out", named, "localhost", 421},
	} {
		res, body := c.p.send(t, "POST", "/", chat, "Host", c.host)
		if res.StatusCode != c.status {
			t.Errorf("%s: %d %s", c.name, res.StatusCode, body)
		}
	}
	for listen, hosts := range map[string][]string{
		"127.0.0.1:1": {"localhost", "127.0.0.1", "[::1]"},
		"localhost:1": {"localhost", "127.0.0.1", "[::1]"},
		"[::1]:1":     {"localhost", "127.0.0.1", "[::1]"},
		":1":          nil,
		"0.0.0.0:1":   nil,
	} {
		if got := (config{listen: listen}).allowedHosts(); !reflect.DeepEqual(got, hosts) {
			t.Errorf("%s: hosts %v, want %v", listen, got, hosts)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"LISTEN": "127.0.0.1:1", "OPENAI_BASE_URL": "https://env.example/v1",
		"ALLOWED_ORIGINS": "https://env.example, https://*.env.example ,", "ALLOWED_HOSTS": "env.example",
		"CHAT_MODEL": "env-chat", "IMAGE_MODEL": "env-image", "PROXY_DEV": "true", "PROXY_DEMO": "1",
		"OPENAI_API_KEY": " sk-test\n", "OPENAI_API_KEY_FILE": "/run/secrets/key",
	}
	fromEnv := config{
		listen: "127.0.0.1:1", upstream: "https://env.example/v1",
		origins: []string{"https://env.example", "https://*.env.example"}, hosts: []string{"env.example"},
		chatModel: "env-chat", imageModel: "env-image", dev: true, demo: true,
		envKey: true, keyFile: "/run/secrets/key", grace: 8 * time.Second,
	}
	standard := config{listen: "127.0.0.1:8787", upstream: proxy.DefaultUpstream, grace: 8 * time.Second}
	change := func(c config, f func(*config)) config { f(&c); return c }
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		want config
	}{
		{"nothing", nil, nil, standard},
		{"environment", env, nil, fromEnv},
		{"-listen", env, []string{"-listen", ":2"}, change(fromEnv, func(c *config) { c.listen = ":2" })},
		{"-upstream", env, []string{"-upstream=http://flag/v1"}, change(fromEnv, func(c *config) { c.upstream = "http://flag/v1" })},
		{"-origins", env, []string{"-origins", "*"}, change(fromEnv, func(c *config) { c.origins = []string{"*"} })},
		{"-hosts", env, []string{"-hosts", "a,b"}, change(fromEnv, func(c *config) { c.hosts = []string{"a", "b"} })},
		{"-chat-model", env, []string{"-chat-model", "flag"}, change(fromEnv, func(c *config) { c.chatModel = "flag" })},
		{"-image-model", env, []string{"-image-model", "flag"}, change(fromEnv, func(c *config) { c.imageModel = "flag" })},
		{"-dev", env, []string{"-dev=false"}, change(fromEnv, func(c *config) { c.dev = false })},
		{"-demo", env, []string{"-demo=false"}, change(fromEnv, func(c *config) { c.demo = false })},
		{"switches", nil, []string{"-dev", "-demo"}, change(standard, func(c *config) { c.dev, c.demo = true, true })},
		{"an empty flag", env, []string{"-listen="}, change(fromEnv, func(c *config) { c.listen = standard.listen })},
	} {
		got, err := parseConfig(c.args, func(name string) string { return c.env[name] })
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\ngot  %+v, %v\nwant %+v", c.name, got, err, c.want)
		}
	}
}

// Every setting in the usage text is one that the program knows, and the other
// way round.
func TestUsage(t *testing.T) {
	t.Parallel()
	asked := map[string]bool{}
	if _, err := parseConfig(nil, func(name string) string { asked[name] = true; return "" }); err != nil {
		t.Fatal(err)
	}
	for name := range asked {
		if !strings.Contains(usage, name) {
			t.Errorf("the usage text lacks %s", name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^  (-\S+) +([A-Z_]+) `).FindAllStringSubmatch(usage, -1) {
		if _, err := parseConfig([]string{m[1] + "=true"}, os.Getenv); err != nil || !asked[m[2]] {
			t.Errorf("%s, %s: %v", m[1], m[2], err)
		}
	}
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), []string{"-h"}, os.Getenv, &stdout, &stderr); status != 0 || !strings.Contains(stdout.String(), usage) {
		t.Errorf("-h: status %d, %s%s", status, stdout.String(), stderr.String())
	}
}

func TestInvalidSettings(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		want []string
	}{
		{
			"every problem is told",
			map[string]string{"OPENAI_API_KEY": "sk-test", "OPENAI_API_KEY_FILE": empty},
			[]string{"-listen", "nowhere", "-upstream", "ftp://x", "-origins", "null,a.example", "-hosts", "a/b"},
			[]string{"-listen", "both set", "empty is empty", "WithUpstream", `"null"`, `"a.example"`, "WithAllowedHosts"},
		},
		{"switches", map[string]string{"PROXY_DEV": "maybe", "PROXY_DEMO": "yep"}, nil, []string{"PROXY_DEV", "PROXY_DEMO"}},
		{"an unknown flag and a switch", map[string]string{"PROXY_DEV": "maybe"}, []string{"-nonsense"}, []string{"-nonsense", "PROXY_DEV"}},
		{"an argument", nil, []string{"demo"}, []string{`"demo"`}},
		{"no such file", map[string]string{"OPENAI_API_KEY_FILE": empty + "-not"}, nil, []string{"OPENAI_API_KEY_FILE"}},
	} {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), c.args, func(name string) string { return c.env[name] }, &stdout, &stderr)
		if status != 2 || stdout.Len() > 0 {
			t.Errorf("%s: status %d, output %q", c.name, status, stdout.String())
		}
		for _, text := range c.want {
			if !strings.Contains(stderr.String(), text) {
				t.Errorf("%s: %s is not told:\n%s", c.name, text, stderr.String())
			}
		}
		if strings.Contains(stderr.String(), "sk-test") {
			t.Errorf("%s: the key is told:\n%s", c.name, stderr.String())
		}
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "-demo")
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), []string{"-demo", "-listen", strings.TrimPrefix(p.url, "http://")}, os.Getenv, &stdout, &stderr)
	if status != 1 || !strings.Contains(stderr.String(), "address already in use") {
		t.Errorf("status %d: %s", status, stderr.String())
	}
}

// Upstream, models, origins and the development header reach the proxy.
func TestSettingsAtWork(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", " sk-from-environment\n")
	up := proxytest.NewUpstream(t)
	p := start(t, map[string]string{"OPENAI_API_KEY": "set", "OPENAI_BASE_URL": up.URL()},
		"-dev", "-chat-model", "chat-x", "-image-model", "image-x", "-origins", "https://app.example")

	res, body := p.send(t, "POST", "/v1/chat/completions", chat, "Origin", "https://app.example")
	want(t, res, body, 200, "You said")
	if got := res.Header.Get("Access-Control-Allow-Origin"); got != "https://app.example" {
		t.Errorf("Access-Control-Allow-Origin %q", got)
	}
	req := up.Next()
	if got := req.Header.Get("Authorization"); got != "Bearer sk-from-environment" || !strings.Contains(string(req.Body), `"chat-x"`) {
		t.Errorf("upstream got %q, %s", got, req.Body)
	}
	p.send(t, "POST", "/v1/images/generations", `{"prompt":"x"}`, "X-OpenAI-Key", "sk-of-the-client")
	req = up.Next()
	if got := req.Header.Get("Authorization"); got != "Bearer sk-of-the-client" || !strings.Contains(string(req.Body), `"image-x"`) {
		t.Errorf("upstream got %q, %s", got, req.Body)
	}
	res, body = p.send(t, "POST", "/", chat, "Origin", "https://other.example")
	want(t, res, body, 403, "origin_not_allowed")
	if log := p.out.String(); strings.Contains(log, "sk-") || strings.Contains(log, "one two") {
		t.Errorf("the log holds a key or a prompt:\n%s", log)
	}
}

func TestDevHeaderNeedsDev(t *testing.T) {
	t.Parallel()
	up := proxytest.NewUpstream(t)
	p := start(t, nil, "-upstream", up.URL())
	res, body := p.send(t, "POST", "/", chat, "X-OpenAI-Key", "sk-of-the-client")
	want(t, res, body, 500, "OpenAI API key is not configured")
	if !strings.Contains(p.out.String(), "no key is set") {
		t.Errorf("no warning:\n%s", p.out)
	}
}

func TestKeyFileRotation(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("sk-old\n")
	up := proxytest.NewUpstream(t)
	p := start(t, map[string]string{"OPENAI_API_KEY_FILE": file}, "-upstream", up.URL())
	for _, key := range []string{"sk-old", "sk-new"} {
		write("\t" + key + " \r\n")
		res, body := p.send(t, "POST", "/", chat)
		want(t, res, body, 200, "You said")
		if got := up.Next().Header.Get("Authorization"); got != "Bearer "+key {
			t.Errorf("upstream got %q, want %s", got, key)
		}
	}
	write(" \n")
	res, body := p.send(t, "POST", "/", chat)
	want(t, res, body, 503, "key_unavailable")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	res, body = p.send(t, "POST", "/v1/chat/completions", chat)
	want(t, res, body, 503, "key_unavailable")
	if strings.Contains(body, file) {
		t.Errorf("the answer tells the path: %s", body)
	}
}

// A stream that outlives the grace is told so and cut; the program ends well.
func TestShutdownEndsStreams(t *testing.T) {
	t.Parallel()
	up := proxytest.NewUpstream(t)
	up.Queue(proxytest.Stream(proxytest.Text("data: {\"choices\":[]}\n\n"), proxytest.Silence()))
	cfg, err := parseConfig([]string{"-listen", "127.0.0.1:0", "-upstream", up.URL(), "-dev"}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	cfg.grace = 50 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stdout, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, cfg, slog.New(slog.DiscardHandler), log.New(w, "", 0)) }()
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	url := strings.TrimSpace(strings.TrimPrefix(line, "Listening on "))

	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/", strings.NewReader(`{"stream":true,`+chat[1:]))
	req.Header.Set("X-OpenAI-Key", "sk-of-the-client")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	events := proxytest.NewEventReader(res.Body)
	if _, err := events.Next(); err != nil {
		t.Fatal(err)
	}
	stop()
	last, err := events.Next()
	if err != nil || !strings.HasPrefix(last.Data, `{"error":`) || !strings.Contains(last.Data, "shutting_down") {
		t.Errorf("last event %q, %v", last.Data, err)
	}
	if _, err := events.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the stream ended with %v", err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the server does not stop")
	}
}

// A stream that ends within the grace is whole, and new calls are not taken.
func TestShutdownLetsStreamsEnd(t *testing.T) {
	t.Parallel()
	up := proxytest.NewUpstream(t)
	more := make(chan struct{})
	up.Queue(proxytest.Stream(proxytest.Text("data: 1\n\n"), proxytest.Gate(more), proxytest.Text("data: [DONE]\n\n")))
	p := start(t, nil, "-upstream", up.URL(), "-dev")
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/", strings.NewReader(`{"stream":true,`+chat[1:]))
	req.Header.Set("X-OpenAI-Key", "sk-of-the-client")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	p.stop()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		again, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/", strings.NewReader(chat))
		late, err := http.DefaultClient.Do(again)
		if err != nil {
			break // the listener is closed
		}
		late.Body.Close()
		if late.StatusCode == http.StatusServiceUnavailable {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("new calls are still taken")
		}
	}
	close(more)
	events, err := proxytest.ReadEvents(res.Body)
	if err != nil || len(events) != 2 || events[1].Data != "[DONE]" {
		t.Errorf("%v, %v", events, err)
	}
}

func TestHashes(t *testing.T) {
	t.Parallel()
	for _, element := range []string{"script", "style"} {
		if n := bytes.Count(pageHTML, []byte("<"+element+">")); n != 1 {
			t.Errorf("%d %s elements", n, element)
		}
		sum := strings.TrimSuffix(strings.TrimPrefix(hashOf(element), "'sha256-"), "'")
		if raw, err := base64.StdEncoding.DecodeString(sum); err != nil || len(raw) != 32 {
			t.Errorf("%s: %s, %v", element, sum, err)
		}
	}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
