package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// These tests run docs/moving-from-the-worker.md: its requests and answers, its
// commands, its options.

// section returns what stands below a heading of the guide.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(readGuide(t), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("the guide has no section %q", heading)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

// rows returns the cells of every table row in text, but for the heads.
func rows(text string) (out [][]string) {
	inTable := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
			inTable = false
		case strings.HasPrefix(line, "|---"):
			inTable = true
		case inTable:
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			out = append(out, cells)
		}
	}
	return out
}

// spans returns the code spans of a cell.
func spans(cell string) (out []string) {
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		out = append(out, m[1])
	}
	return out
}

// example is a request of the guide.
type example struct{ method, path, body, remark string }

func parseExample(t *testing.T, request, body string) example {
	t.Helper()
	targets := spans(request)
	method, path, ok := strings.Cut(strings.Join(targets, ""), " ")
	if len(targets) != 1 || !ok {
		t.Fatalf("%q is no request", request)
	}
	_, remark, _ := strings.Cut(request, "` ")
	if remark == "" {
		_, remark, _ = strings.Cut(request, "`, ")
	}
	return example{method, path, strings.Join(spans(body), ""), remark}
}

func TestGuideTellsWhatGoesUpstream(t *testing.T) {
	t.Parallel()
	srv, up := start(t, proxy.WithKey("sk-test"))
	table := rows(section(t, "What goes upstream"))
	if len(table) < 10 {
		t.Fatalf("%d rows found", len(table))
	}
	for _, row := range table {
		e := parseExample(t, row[0], row[1])
		if res, body := send(t, srv, e.method, e.path, e.body); res.StatusCode != http.StatusOK {
			t.Errorf("%s %s: %d %s", e.path, e.body, res.StatusCode, body)
			continue
		}
		if got, want := string(up.Next().Body), strings.Join(spans(row[2]), ""); got != want {
			t.Errorf("%s %s:\nbecomes    %s\nthe guide: %s", e.path, e.body, got, want)
		}
	}
}

func TestGuideTellsWhatComesBack(t *testing.T) {
	t.Parallel()
	up := proxytest.NewUpstream(t)
	serve := func(key proxy.KeySource) *proxytest.Server {
		handler, err := newHandler(proxy.WithUpstream(up.URL()), proxy.WithKeySource(key))
		if err != nil {
			t.Fatal(err)
		}
		return proxytest.Serve(t, handler)
	}
	withKey := serve(proxy.StaticKey("sk-test"))
	withoutKey := serve(proxy.KeyFunc(func(*http.Request) (string, error) { return "", nil }))
	table := rows(section(t, "What comes back"))
	if len(table) < 15 {
		t.Fatalf("%d rows found", len(table))
	}
	for _, row := range table {
		e := parseExample(t, row[0], row[1])
		srv, header := withKey, []string(nil)
		switch e.remark {
		case "":
		case "no key":
			srv = withoutKey
		case "upstream says 429":
			up.Queue(proxytest.RateLimited(time.Second))
		case "upstream says 401":
			up.Queue(proxytest.Failure(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-te***st"))
		case "as text/plain":
			header = []string{"Content-Type", "text/plain"}
		default:
			t.Fatalf("%q: nobody knows how to run this", row[0])
		}
		res, body := send(t, srv, e.method, e.path, e.body, header...)
		want := spans(row[3])
		if len(want) != 2 {
			t.Fatalf("%q: a status and a body are needed", row[3])
		}
		if strconv.Itoa(res.StatusCode) != want[0] {
			t.Errorf("%s %s: status %d, the guide says %s", row[0], e.body, res.StatusCode, want[0])
		}
		if err := matches([]byte(want[1]), []byte(body)); err != nil {
			t.Errorf("%s %s: %v\nanswer     %s\nthe guide: %s", row[0], e.body, err, body, want[1])
		}
	}
}

// matches compares an answer with the guide's pattern, in which a text that
// ends in "..." stands for every text that begins so, and a key "..." for
// further keys.
func matches(pattern, answer []byte) error {
	var want, got any
	if err := json.Unmarshal(pattern, &want); err != nil {
		return fmt.Errorf("pattern: %w", err)
	}
	if err := json.Unmarshal(answer, &got); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return matchValue("", want, got)
}

func matchValue(at string, want, got any) error {
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is no object", at)
		}
		for key, value := range want {
			if key == "..." {
				continue
			}
			if _, ok := object[key]; !ok {
				return fmt.Errorf("%s.%s is missing", at, key)
			}
			if err := matchValue(at+"."+key, value, object[key]); err != nil {
				return err
			}
		}
		_, more := want["..."]
		for key := range object {
			if _, ok := want[key]; !ok && !more {
				return fmt.Errorf("%s.%s is not in the guide", at, key)
			}
		}
		return nil
	case []any:
		list, ok := got.([]any)
		if !ok || len(list) != len(want) {
			return fmt.Errorf("%s has other elements", at)
		}
		for i := range want {
			if err := matchValue(fmt.Sprintf("%s[%d]", at, i), want[i], list[i]); err != nil {
				return err
			}
		}
		return nil
	case string:
		text, ok := got.(string)
		if start, open := strings.CutSuffix(want, "..."); ok && open && strings.HasPrefix(text, start) {
			return nil
		}
	}
	if want != got {
		return fmt.Errorf("%s is %v, not %v", at, got, want)
	}
	return nil
}

// The comparison above must be able to fail.
func TestMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, answer string
		ok              bool
	}{
		{`{"a":"x","...":0}`, `{"a":"x","b":1}`, true},
		{`{"a":["x..."]}`, `{"a":["xy"]}`, true},
		{`{"a":"x"}`, `{"a":"x","b":1}`, false},
		{`{"a":"x","...":0}`, `{"b":1}`, false},
		{`{"a":"x..."}`, `{"a":"y"}`, false},
		{`{"a":"..."}`, `{"a":1}`, false},
		{`{"a":[]}`, `{"a":[1]}`, false},
		{`{"a":1}`, `{"a":2}`, false},
		{`{"a":null}`, `{"a":null}`, true},
		{`{}`, `{`, false},
	} {
		if err := matches([]byte(c.pattern), []byte(c.answer)); (err == nil) != c.ok {
			t.Errorf("%s and %s: %v", c.pattern, c.answer, err)
		}
	}
}

// The routes that the guide lists are there, and the others are not.
func TestGuideTellsTheRoutes(t *testing.T) {
	t.Parallel()
	srv, up := start(t, proxy.WithKey("sk-test"))
	listed := 0
	for _, row := range rows(section(t, "Routes")) {
		want := http.StatusOK
		if status := spans(row[2]); len(status) > 0 {
			if n, err := strconv.Atoi(status[0]); err == nil {
				want = n
			}
		}
		for _, span := range spans(row[0]) {
			listed++
			method, path, _ := strings.Cut(span, " ")
			body := `{"prompt":"a cat","messages":[]}`
			if path == "/graphql" {
				body = `{"query":"{ chatHistory { id } }"}`
			}
			res, text := send(t, srv, method, path, body, "Origin", "https://any.example",
				"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-anything")
			if res.StatusCode != want {
				t.Errorf("%s: %d %s, the guide says %d", span, res.StatusCode, text, want)
			}
			if want == http.StatusMethodNotAllowed && res.Header.Get("Allow") == "" {
				t.Errorf("%s: no Allow", span)
			}
			if method == "OPTIONS" && res.Header.Get("Access-Control-Allow-Headers") != "x-anything" {
				t.Errorf("%s: %v", span, res.Header)
			}
		}
	}
	if listed < 9 || len(up.Requests()) != 5 {
		t.Errorf("%d requests, %d calls upstream", listed, len(up.Requests()))
	}
}

// The commands of the guide work: the program takes its flags, and curl's
// requests are answered.
func TestGuideCommands(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-test")
	up := proxytest.NewUpstream(t)
	programs, requests := 0, 0
	var url string
	for line := range strings.Lines(section(t, "Run it as it was")) {
		command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ ")
		if !ok {
			continue
		}
		if _, args, ok := strings.Cut(command, "go run ./examples/worker"); ok {
			programs++
			var stop func()
			url, stop = startProgram(t, append(strings.Fields(args), "-upstream", up.URL())...)
			defer stop()
			continue
		}
		path, body, graphQL := parseCurl(t, command)
		requests++
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if req.Header.Set("Content-Type", "application/x-www-form-urlencoded"); graphQL { // as curl -d does
			req.Header.Set("Content-Type", "application/json")
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", command, res.StatusCode)
		}
	}
	if programs != 1 || requests != 3 {
		t.Errorf("%d programs, %d requests", programs, requests)
	}
}

func parseCurl(t *testing.T, command string) (path, body string, isJSON bool) {
	t.Helper()
	m := regexp.MustCompile(`^curl http://127\.0\.0\.1:8787(/\S*)( -H 'Content-Type: application/json')? -d '([^']*)'$`).FindStringSubmatch(command)
	if m == nil {
		t.Fatalf("nobody knows how to run %q", command)
	}
	return m[1], m[3], m[2] != ""
}

// closed has the options with which the guide closes the worker.
func closed(tokens *proxy.Tokens) []proxy.Option {
	return []proxy.Option{
		proxy.WithAllowedOrigins("https://app.example.com"),
		proxy.WithKeySource(proxy.EnvKey("OPENAI_API_KEY")),
		proxy.WithDefaultModels("gpt-6-luna", "gpt-image-2"),
		proxy.WithGraphQL(proxy.GraphQLOptions{DataURLs: true}),
		proxy.WithCaller(tokens.Caller), // see NewTokens; examples/login has cookies
		proxy.WithPolicy(proxy.Policy{Models: []string{"gpt-6-luna", "gpt-image-2"}, MaxTokens: 2000, MaxN: 1}),
		proxy.WithLimiter(&proxy.MemoryLimiter{Requests: 20, Concurrent: 3, Tokens: 200_000}),
	}
}

func TestGuideHasTheOptionsThatAreTested(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("guide_test.go")
	if err != nil {
		t.Fatal(err)
	}
	options := func(text string) (out []string) {
		for line := range strings.Lines(text) {
			out = append(out, strings.TrimSpace(line))
		}
		return out
	}
	_, body, _ := strings.Cut(string(source), "return []proxy.Option{\n")
	body, _, _ = strings.Cut(body, "\t}\n")
	_, snippet, _ := strings.Cut(section(t, "Close it"), "```go\n")
	snippet, _, _ = strings.Cut(snippet, "```")
	if got, want := options(snippet), options(body); len(want) < 7 || !slices.Equal(got, want) {
		t.Errorf("the guide has\n%s\nthe test\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestClosedWorker(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-of-the-server")
	tokens, err := proxy.NewTokens(strings.Repeat("secret", 6))
	if err != nil {
		t.Fatal(err)
	}
	token, err := tokens.Mint(proxy.Token{Subject: "u1"})
	if err != nil {
		t.Fatal(err)
	}
	srv, up := start(t, closed(tokens)...)
	auth := []string{"Authorization", "Bearer " + token, "X-Openai-Key", "sk-of-the-page", "Origin", "https://app.example.com"}
	for _, c := range []struct {
		name, path, body string
		header           []string
		status           int
		text             string
	}{
		{"another page", "/", chat, append(slices.Clone(auth), "Origin", "https://any.example"), 403, "origin_not_allowed"},
		{"no token", "/", chat, []string{"Origin", "https://app.example.com"}, 401, `"error":"Unauthorized"`},
		{"another model", "/", `{"model":"gpt-6-astra",` + chat[1:], auth, 403, `"param":"model"`},
		{"too many tokens", "/", `{"max_completion_tokens":2001,` + chat[1:], auth, 403, "max_completion_tokens"},
		{"two images", "/", `{"prompt":"a cat","n":2}`, auth, 403, `"param":"n"`},
	} {
		res, body := send(t, srv, "POST", c.path, c.body, c.header...)
		if res.StatusCode != c.status || !strings.Contains(body, c.text) {
			t.Errorf("%s: %d %s", c.name, res.StatusCode, body)
		}
	}
	if n := len(up.Requests()); n != 0 {
		t.Fatalf("%d refused calls reached the upstream", n)
	}

	res, body := send(t, srv, "POST", "/", chat, auth...)
	got := up.Next()
	want := `{"model":"gpt-6-luna","max_completion_tokens":2000,` + chat[1:]
	if res.StatusCode != http.StatusOK || got.Header.Get("Authorization") != "Bearer sk-of-the-server" ||
		!reflect.DeepEqual(object(t, string(got.Body)), object(t, want)) {
		t.Errorf("%d %s: upstream got %v %s, want %s", res.StatusCode, body, got.Header, got.Body, want)
	}
	_, body = send(t, srv, "POST", "/graphql", graphQL(`generateImage(input: {prompt: "a cat"}) { images { url } success }`), auth...)
	if !strings.Contains(body, `"url":"data:image/png;base64,`) || !strings.Contains(body, `"success":true`) {
		t.Error(body)
	}
	for range 60 { // a 21st request passes only if 3 s went by before it, and so on
		if res, _ = send(t, srv, "POST", "/", chat, auth...); res.StatusCode != http.StatusOK {
			break
		}
	}
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}
