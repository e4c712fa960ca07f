package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// optionProblems takes apart what NewHandler returns.
func optionProblems(t testing.TB, err error) (problems []*proxy.OptionError) {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T %v is not joined", err, err)
	}
	for _, one := range joined.Unwrap() {
		problem, ok := one.(*proxy.OptionError) //nolint:errorlint // not wrapped once more
		if !ok {
			t.Fatalf("%T %v is no *OptionError", one, one)
		}
		problems = append(problems, problem)
	}
	return problems
}

// invalidOptions are values that cannot be meant, with what the error says of
// each: the value, unless it may be secret, and the rule.
var invalidOptions = []struct {
	name, option string
	value        proxy.Option
	says         []string
}{
	{"empty key", "WithKeySource", proxy.WithKey(""), []string{"key"}},
	{"key with a line end", "WithKeySource", proxy.WithKey(canary + "\n"), []string{"visible ASCII"}},
	{"key with a carriage return", "WithKeySource", proxy.WithKey("\r" + canary), []string{"visible ASCII"}},
	{"key with a blank", "WithKeySource", proxy.WithKey(canary + " x"), []string{"visible ASCII"}},
	{"key with a blank behind", "WithKeySource", proxy.WithKey(canary + " "), []string{"visible ASCII"}},
	{"key beyond ASCII", "WithKeySource", proxy.WithKey(canary + "ä"), []string{"visible ASCII"}},
	{"key with NUL", "WithKeySource", proxy.WithKey(canary + "\x00"), []string{"visible ASCII"}},
	{"key that is too long", "WithKeySource", proxy.WithKey(strings.Repeat(canary, 200)), []string{"8,192"}},
	{"bad key in a list", "WithKeySource", proxy.WithKeySource(proxy.FirstKey(proxy.HeaderKey("x"), proxy.StaticKey(""))), []string{"key"}},
	{"bad key in a nested list", "WithKeySource", proxy.WithKeySource(proxy.FirstKey(proxy.FirstKey(proxy.StaticKey(canary + "\n")))), []string{"key"}},
	{"no source", "WithKeySource", proxy.WithKeySource(nil), []string{"nil"}},
	{"source that is a nil function", "WithKeySource", proxy.WithKeySource(proxy.KeyFunc(nil)), []string{"nil"}},

	{"empty upstream", "WithUpstream", proxy.WithUpstream(""), []string{"scheme"}},
	{"upstream without a scheme", "WithUpstream", proxy.WithUpstream("api.openai.com/v1"), []string{"scheme"}},
	{"upstream with another scheme", "WithUpstream", proxy.WithUpstream("ftp://api.openai.com"), []string{"https", "http"}},
	{"upstream without a host", "WithUpstream", proxy.WithUpstream("https:///v1"), []string{"host"}},
	{"upstream with a port only", "WithUpstream", proxy.WithUpstream("https://:443/v1"), []string{"host"}},
	{"upstream with a key", "WithUpstream", proxy.WithUpstream("https://user:" + canary + "@api.openai.com/v1"), []string{"credentials"}},
	{"upstream with a fragment", "WithUpstream", proxy.WithUpstream("https://api.openai.com/v1#x"), []string{"fragment"}},
	{"upstream that is no URL", "WithUpstream", proxy.WithUpstream("https://api openai com:" + canary), []string{"URL"}},
	{"upstream with a control character", "WithUpstream", proxy.WithUpstream("https://api.openai.com/\n"), []string{"URL"}},
	{"upstream that is a key", "WithUpstream", proxy.WithUpstream(canary), []string{"URL"}},

	{"auth header with a blank", "WithAuthHeader", proxy.WithAuthHeader("api key"), []string{`"api key"`}},
	{"auth header with a colon", "WithAuthHeader", proxy.WithAuthHeader("api-key:"), []string{`"api-key:"`}},
	{"auth header with a line end", "WithAuthHeader", proxy.WithAuthHeader("a\r\nb"), []string{`"a\r\nb"`}},
	{"auth header that is a value", "WithAuthHeader", proxy.WithAuthHeader("Bearer " + canary), []string{"header name"}},

	{"origin without a scheme", "WithAllowedOrigins", proxy.WithAllowedOrigins("app.example.com"), []string{`"app.example.com"`, "scheme"}},
	{"origin with a path", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://app.example.com/x"), []string{`"https://app.example.com/x"`}},
	{"origin with a slash", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://app.example.com/"), []string{`"https://app.example.com/"`}},
	{"origin with a query", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://app.example.com?x"), []string{"?x"}},
	{"origin with a fragment", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://app.example.com#x"), []string{"#x"}},
	{"origin with userinfo", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://me@app.example.com"), []string{"me@"}},
	{"origin null", "WithAllowedOrigins", proxy.WithAllowedOrigins("null"), []string{`"null"`}},
	{"empty origin", "WithAllowedOrigins", proxy.WithAllowedOrigins(""), []string{`""`}},
	{"origin with a blank before", "WithAllowedOrigins", proxy.WithAllowedOrigins(" https://app.example.com"), []string{`" https`}},
	{"origin with a blank behind", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://app.example.com "), []string{`.com "`}},
	{"two origins in one", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://a.example,https://b.example"), []string{"https://a.example,"}},
	{"origin without a host", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://"), []string{"host"}},
	{"file", "WithAllowedOrigins", proxy.WithAllowedOrigins("file://"), []string{"host"}},
	{"origin beyond ASCII", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://bücher.example"), []string{"punycode"}},
	{"origin with an empty port", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://app.example.com:"), []string{"port"}},
	{"origin with port 0", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://app.example.com:0"), []string{"port"}},
	{"origin with port 65536", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://app.example.com:65536"), []string{"port"}},
	{"origin with a port by name", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://app.example.com:https"), []string{":https"}},
	{"IPv6 without brackets", "WithAllowedOrigins", proxy.WithAllowedOrigins("http://::1:8080"), []string{"::1:8080"}},
	{"IPv6 with a zone", "WithAllowedOrigins", proxy.WithAllowedOrigins("http://[fe80::1%25eth0]"), []string{"fe80"}},
	{"a star in the middle", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://a.*.example.com"), []string{"a.*."}},
	{"a star at the end", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://example.*"), []string{"example.*"}},
	{"a star in a label", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://app*.example.com"), []string{"app*"}},
	{"a star for the port", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://app.example.com:*"), []string{":*"}},
	{"a star for the scheme", "WithAllowedOrigins", proxy.WithAllowedOrigins("*://app.example.com"), []string{"scheme"}},
	{"a star for the host", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://*"), []string{`"https://*"`}},
	{"a wildcard over a top-level domain", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://*.com"), []string{"wildcard"}},
	{"a wildcard over a top-level domain with a dot", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://*.com."), []string{"wildcard"}},
	{"two wildcards", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://*.*.example.com"), []string{"*.*"}},
	{"a wildcard over an address", "WithAllowedOrigins", proxy.WithAllowedOrigins("https://*.127.0.0.1"), []string{"wildcard"}},
	{"a regular expression", "WithAllowedOrigins", proxy.WithAllowedOrigins(`https://.*\.example\.com`), []string{"example"}},
	{"an origin that is a key", "WithAllowedOrigins", proxy.WithAllowedOrigins(canary), []string{"scheme"}},
	{"credentials for everybody", "WithCredentials", proxy.WithOptions(proxy.WithAllowedOrigins("*"), proxy.WithCredentials(true)), []string{`"*"`}},

	{"empty host", "WithAllowedHosts", proxy.WithAllowedHosts(""), []string{`""`}},
	{"host with a scheme", "WithAllowedHosts", proxy.WithAllowedHosts("https://example.com"), []string{`"https://example.com"`}},
	{"host with a path", "WithAllowedHosts", proxy.WithAllowedHosts("example.com/x"), []string{"/x"}},
	{"host with a star", "WithAllowedHosts", proxy.WithAllowedHosts("*.example.com"), []string{"*."}},
	{"a star", "WithAllowedHosts", proxy.WithAllowedHosts("*"), []string{`"*"`}},
	{"host with an empty port", "WithAllowedHosts", proxy.WithAllowedHosts("localhost:"), []string{"localhost:"}},
	{"host with a blank", "WithAllowedHosts", proxy.WithAllowedHosts("local host"), []string{"local host"}},
	{"host with userinfo", "WithAllowedHosts", proxy.WithAllowedHosts("me@localhost"), []string{"me@"}},
	{"port only", "WithAllowedHosts", proxy.WithAllowedHosts(":8787"), []string{":8787"}},
	{"host with a bracket left open", "WithAllowedHosts", proxy.WithAllowedHosts("[::1"), []string{"[::1"}},
	{"a host that is a key in a URL", "WithAllowedHosts", proxy.WithAllowedHosts("https://x/" + canary), []string{"host"}},

	{"heartbeat below a second", "WithHeartbeat", proxy.WithHeartbeat(999 * time.Millisecond), []string{"999ms", "second"}},
	{"negative heartbeat", "WithHeartbeat", proxy.WithHeartbeat(-time.Second), []string{"-1s"}},
	{"unknown error shape", "WithErrorShape", proxy.WithErrorShape(99), []string{"99"}},
	{"negative error shape", "WithErrorShape", proxy.WithErrorShape(-1), []string{"-1"}},

	{"defaults for a route that has none", "WithDefaults", proxy.WithDefaults(proxy.RouteImageEdits, map[string]any{"n": 1}), []string{"image_edits"}},
	{"defaults for an unknown route", "WithDefaults", proxy.WithDefaults("speech", map[string]any{}), []string{"speech"}},
	{"a default for the model", "WithDefaults", proxy.WithDefaults(proxy.RouteChat, map[string]any{"model": "x"}), []string{`"model"`}},
	{"a default for messages", "WithDefaults", proxy.WithDefaults(proxy.RouteChat, map[string]any{"messages": []any{}}), []string{`"messages"`}},
	{"a default for stream", "WithDefaults", proxy.WithDefaults(proxy.RouteChat, map[string]any{"stream": true}), []string{`"stream"`}},
	{"a default that is no JSON", "WithDefaults", proxy.WithDefaults(proxy.RouteChat, map[string]any{"temperature": math.NaN()}), []string{`"temperature"`}},
	{"a default that is a function", "WithDefaults", proxy.WithDefaults(proxy.RouteImages, map[string]any{"size": func() {}}), []string{`"size"`}},
	{"a default with an empty name", "WithDefaults", proxy.WithDefaults(proxy.RouteChat, map[string]any{"": 1}), []string{`""`}},
	{"a default with quotes in its name", "WithDefaults", proxy.WithDefaults(proxy.RouteChat, map[string]any{`a"b`: 1}), []string{"a"}},
}

func TestS6InvalidOptionsAreNamed(t *testing.T) {
	t.Parallel()
	for _, row := range invalidOptions {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h, err := proxy.NewHandler(row.value)
			if err == nil || h != nil {
				t.Fatalf("NewHandler returns %v, %v; want no handler and an error", h, err)
			}
			problems := optionProblems(t, err)
			if len(problems) != 1 {
				t.Errorf("%d problems, want 1: %v", len(problems), err)
			}
			problem := problems[0]
			if problem.Option != row.option || problem.Err == nil || !errors.Is(problem, problem.Err) {
				t.Errorf("the problem is %#v, want one of %s", problem, row.option)
			}
			if !strings.HasPrefix(problem.Error(), "proxy: "+row.option+": ") {
				t.Errorf("the text %q does not name the option", problem)
			}
			for _, part := range row.says {
				if !strings.Contains(problem.Error(), part) {
					t.Errorf("the text %q lacks %q", problem, part)
				}
			}
			if ways := showsSecret(err, canary); ways != nil {
				t.Errorf("the error shows the key by %v", ways)
			}
		})
	}
}

func TestValidOptionsAreTaken(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]proxy.Option{
		"nothing":               proxy.WithOptions(),
		"nil":                   nil,
		"every origin":          proxy.WithAllowedOrigins("*"),
		"all kinds of origins":  proxy.WithAllowedOrigins(listedOrigins...),
		"wildcard of localhost": proxy.WithAllowedOrigins("http://*.localhost:3000"),
		"no origins":            proxy.WithAllowedOrigins(),
		"credentials, no list":  proxy.WithCredentials(true),
		"all kinds of hosts":    proxy.WithAllowedHosts("localhost", "localhost:1", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:1", "Example.com"),
		"negative limits":       proxy.WithLimits(proxy.Limits{RequestBytes: -1, ResponseBytes: -1, BodyIdle: -1, BodyTime: -1, HeaderTime: -1, StreamIdle: -1, StreamMax: -1, WriteStall: -1, KeyTime: -1}),
		"no auth header":        proxy.WithAuthHeader(""),
		"empty defaults":        proxy.WithDefaults(proxy.RouteChat, nil),
		"all defaults":          proxy.WithDefaults(proxy.RouteImages, map[string]any{"n": 1, "size": "auto", "x": nil, "y": []int{1}}),
		"a heartbeat":           proxy.WithHeartbeat(time.Second),
		"no heartbeat":          proxy.WithHeartbeat(0),
		"nil logger":            proxy.WithLogger(nil),
		"nil transport":         proxy.WithTransport(nil),
		"no models":             proxy.WithDefaultModels("", ""),
		"no hooks":              proxy.WithHooks(proxy.Hooks{}),
		"list of no keys":       proxy.WithKeySource(proxy.FirstKey(nil)),
		"Azure": proxy.WithOptions(proxy.WithUpstream("https://me.openai.azure.com/openai/deployments/x/?api-version=2024-10-21"),
			proxy.WithAuthHeader("api-key")),
	} {
		up := proxytest.NewUpstream(t)
		h, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithUpstream(up.URL()), option, nil, proxy.WithTransport(up.Transport()))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if name == "Azure" || strings.HasPrefix(name, "all kinds of hosts") {
			continue // the fake speaks neither TLS nor under those names
		}
		srv := proxytest.Serve(t, h)
		res, err := srv.Client().Post(srv.URL+chatPath, "application/json", strings.NewReader(askHello))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if name != "list of no keys" && res.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d", name, res.StatusCode)
		}
	}
}

func TestAllProblemsAreJoined(t *testing.T) {
	t.Parallel()
	_, err := proxy.NewHandler(
		proxy.WithKey(""), proxy.WithUpstream("x"), proxy.WithAuthHeader("a b"), proxy.WithHeartbeat(1), proxy.WithErrorShape(7),
		proxy.WithAllowedOrigins("*", "one", "https://fine.example", "two"), proxy.WithCredentials(true), proxy.WithAllowedHosts("h/1", "fine", "h/2"),
		proxy.WithDefaults(proxy.RouteChat, map[string]any{"model": "x", "stream": true}),
		proxy.WithDefaults(proxy.RouteImages, map[string]any{"prompt": "x"}),
	)
	count := map[string]int{}
	for _, problem := range optionProblems(t, err) {
		count[problem.Option]++
	}
	for option, want := range map[string]int{
		"WithKeySource": 1, "WithUpstream": 1, "WithAuthHeader": 1, "WithHeartbeat": 1, "WithErrorShape": 1,
		"WithAllowedOrigins": 2, "WithCredentials": 1, "WithAllowedHosts": 2, "WithDefaults": 3,
	} {
		if count[option] != want {
			t.Errorf("%d problems of %s, want %d:\n%v", count[option], option, want, err)
		}
	}
	for _, part := range []string{`"one"`, `"two"`, `"h/1"`, `"h/2"`, `"model"`, `"stream"`, `"prompt"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s is not named in\n%v", part, err)
		}
	}
}

// records keeps slog records.
type records struct {
	mu  sync.Mutex
	all []string
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }
func (r *records) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := rec.Level.String() + " " + rec.Message
	rec.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	r.all = append(r.all, text)
	return nil
}

func (r *records) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.all...)
}

func TestNewWithInvalidOptionsFailsClosed(t *testing.T) {
	t.Parallel()
	logs := &records{}
	up := proxytest.NewUpstream(t)
	h := proxy.New(
		proxy.WithKey(canary), proxy.WithUpstream(up.URL()), proxy.WithTransport(up.Transport()), proxy.WithLogger(slog.New(logs)),
		proxy.WithAllowedOrigins("app.example.com", "https://x.example/"+canary), proxy.WithHeartbeat(1),
	)
	lines := logs.lines()
	if len(lines) != 3 {
		t.Errorf("%d records, want one for each of 3 problems: %v", len(lines), lines)
	}
	for i, part := range []string{"app.example.com", "x.example", "WithHeartbeat"} {
		if i < len(lines) && (!strings.HasPrefix(lines[i], "ERROR ") || !strings.Contains(lines[i], part)) {
			t.Errorf("record %q, want one at Error level with %s", lines[i], part)
		}
	}
	srv := proxytest.Serve(t, h)
	for _, s := range []struct{ method, path, body string }{
		{"POST", "/", askHello},
		{"POST", "/generate-image", askImage},
		{"POST", chatPath, askHelloStream},
		{"POST", "/v1/images/edits", askImage},
		{"GET", "/", ""},
		{"OPTIONS", chatPath, ""},
		{"POST", "/nothing", ""},
		{"POST", chatPath, "{"},
		{"DELETE", "/v1/x", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), s.method, srv.URL+s.path, strings.NewReader(s.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", "https://app.example.com")
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		_, _ = body.ReadFrom(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusInternalServerError || res.Header.Get("X-Should-Retry") != "false" {
			t.Errorf("%s %s: status %d, X-Should-Retry %q; want 500 and false", s.method, s.path, res.StatusCode, res.Header.Get("X-Should-Retry"))
		}
		text := body.String()
		if strings.Contains(text, "app.example.com") || strings.Contains(text, "WithAllowed") || strings.Contains(text, canary) {
			t.Errorf("%s %s: the option is in the body: %s", s.method, s.path, text)
		}
		var flat struct {
			Error   json.RawMessage `json:"error"`
			Code    string          `json:"code"`
			Message string          `json:"message"`
		}
		if err := json.Unmarshal(body.Bytes(), &flat); err != nil {
			t.Fatalf("%s %s: %v in %s", s.method, s.path, err, text)
		}
		worker := s.path == "/" || s.path == "/generate-image"
		if worker && (string(flat.Error) != `"Configuration Error"` || flat.Code != "misconfigured") ||
			!worker && !strings.Contains(string(flat.Error), `"code":"misconfigured"`) {
			t.Errorf("%s %s: %s is not in the shape of its route", s.method, s.path, text)
		}
		if names := corsHeaders(res.Header); names != nil {
			t.Errorf("%s %s: a misconfigured handler allows %v", s.method, s.path, names)
		}
	}
	if got := logs.lines(); len(got) != 3 {
		t.Errorf("requests are logged, too: %v", got)
	}
	if text := strings.Join(logs.lines(), "\n"); strings.Contains(text, canary) {
		t.Errorf("the key is in the log:\n%s", text)
	}
	if calls := up.Requests(); len(calls) != 0 {
		t.Errorf("a misconfigured handler made %d upstream calls", len(calls))
	}
}

func TestK8ZeroHandlerAnswers500(t *testing.T) {
	t.Parallel()
	h := new(proxy.Handler)
	for name, served := range map[string]http.Handler{"Handler": h, "Chat": h.Chat(), "Images": h.Images(), "GraphQL": h.GraphQL()} {
		srv := proxytest.Serve(t, served)
		for _, path := range []string{"/", chatPath, "/v1/images/edits", "/graphql", "/graphql/schema", "/nothing"} {
			for _, method := range []string{"POST", "GET", "OPTIONS"} {
				req, _ := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(askHello))
				res, err := srv.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
				if res.StatusCode != http.StatusInternalServerError {
					t.Errorf("%s, %s %s: status %d, want 500", name, method, path, res.StatusCode)
				}
			}
		}
	}
	if err := h.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if got := fmt.Sprint(h); got != "*proxy.Handler" {
		t.Errorf("prints as %s", got)
	}
}

func TestTheLastOptionWins(t *testing.T) {
	t.Parallel()
	up, other := proxytest.NewUpstream(t), proxytest.NewUpstream(t)
	f := start(t,
		nil,
		proxy.WithUpstream("not a URL"), proxy.WithUpstream(other.URL()), proxy.WithTransport(other.Transport()),
		proxy.WithKey(""), proxy.WithAuthHeader("a b"), proxy.WithAuthHeader("api-key"),
		proxy.WithAllowedOrigins("*"), proxy.WithAllowedOrigins("https://old.example"),
		proxy.WithAllowedHosts("old.example"), proxy.WithAllowedHosts(),
		proxy.WithHeartbeat(1), proxy.WithHeartbeat(0), proxy.WithErrorShape(77),
		proxy.WithDefaultModels("old", "old"), proxy.WithLimits(proxy.Limits{RequestBytes: 1}),
		proxy.WithDefaults(proxy.RouteChat, map[string]any{"temperature": 0}), proxy.WithDefaults(proxy.RouteImages, map[string]any{"n": 9}),
		proxy.WithHooks(proxy.Hooks{Admit: func(context.Context, proxy.Call) error { return errors.New("the old one") }}),
		proxy.WithOptions(nil, proxy.WithOptions(
			proxy.WithUpstream(up.URL()), proxy.WithTransport(up.Transport()), proxy.WithKeySource(proxy.StaticKey("sk-new")), nil,
			proxy.WithAuthHeader("X-Key"), proxy.WithAllowedOrigins("https://new.example"), proxy.WithErrorShape(proxy.ErrorShapeOpenAI),
		)),
		proxy.WithDefaultModels("new-chat", ""), proxy.WithLimits(proxy.Limits{}), proxy.WithHooks(proxy.Hooks{}),
		proxy.WithDefaults(proxy.RouteChat, map[string]any{"top_p": 1}),
	)
	res, body := f.post(t, "/", `{"messages":[]}`, "Origin", "https://new.example")
	if res.StatusCode != http.StatusOK || res.Header.Get("Access-Control-Allow-Origin") != "https://new.example" {
		t.Fatalf("status %d, %v: %s", res.StatusCode, res.Header, body)
	}
	sent := up.Next()
	if got := string(sent.Body); got != `{"model":"new-chat","top_p":1,"messages":[]}` {
		t.Errorf("sent %s", got)
	}
	if sent.Header.Get("X-Key") != "sk-new" || sent.Header.Get("Authorization")+sent.Header.Get("Api-Key") != "" {
		t.Errorf("sent %v", sent.Header)
	}
	f.post(t, "/generate-image", `{"prompt":"x","model":"m"}`)
	if got := string(up.Next().Body); got != `{"n":9,"prompt":"x","model":"m"}` {
		t.Errorf("the defaults of the other route are gone: sent %s", got)
	}
	res, body = f.post(t, "/", `{}`, "Origin", "https://old.example")
	if res.StatusCode != http.StatusForbidden || !strings.HasPrefix(body, `{"error":{`) {
		t.Errorf("an origin that was replaced: status %d, %s", res.StatusCode, body)
	}
	if n := len(other.Requests()); n != 0 {
		t.Errorf("%d calls to an upstream that was replaced", n)
	}
}

// Slices and maps of the host may change after the handler was made.
func TestOptionsKeepTheirOwnCopies(t *testing.T) {
	t.Parallel()
	origins, hosts := []string{"https://app.example.com"}, []string{"127.0.0.1"}
	defaults := map[string]any{"top_p": 1}
	options := []proxy.Option{
		proxy.WithAllowedOrigins(origins...), proxy.WithAllowedHosts(hosts...), proxy.WithDefaults(proxy.RouteChat, defaults),
	}
	f := start(t, options...)
	origins[0], hosts[0], defaults["stop"] = "*", "evil.example", "x"
	res, _ := f.post(t, "/", `{"messages":[],"model":"m"}`, "Origin", "https://app.example.com")
	if res.StatusCode != http.StatusOK {
		t.Fatalf("status %d", res.StatusCode)
	}
	if got := string(f.up.Next().Body); got != `{"top_p":1,"messages":[],"model":"m"}` {
		t.Errorf("sent %s", got)
	}
	if res, _ := f.post(t, "/", askHello, "Origin", "https://evil.example"); res.StatusCode != http.StatusForbidden {
		t.Errorf("an origin that was written into the list later: status %d", res.StatusCode)
	}
}

func TestK8TwoHandlersShareNothing(t *testing.T) {
	t.Parallel()
	type side struct {
		f      *fixture
		key    string
		origin string
		model  string
		done   chan proxy.Call
	}
	sides := make([]side, 2)
	for i := range sides {
		name := []string{"red", "green"}[i]
		s := side{key: "sk-of-" + name, origin: "https://" + name + ".example", model: name + "-model", done: make(chan proxy.Call, 100)}
		s.f = start(t, proxy.WithKey(s.key), proxy.WithAllowedOrigins(s.origin), proxy.WithDefaultModels(s.model, s.model),
			proxy.WithDefaults(proxy.RouteChat, map[string]any{"user": name}),
			proxy.WithHooks(proxy.Hooks{Done: func(_ context.Context, call proxy.Call, _ proxy.Outcome) { s.done <- call }}))
		sides[i] = s
	}
	var wg sync.WaitGroup
	for i, s := range sides {
		foreign := sides[1-i].origin
		for range 10 {
			wg.Go(func() {
				res, _ := s.f.post(t, "/", `{"messages":[]}`, "Origin", s.origin)
				if res.StatusCode != 200 || res.Header.Get("Access-Control-Allow-Origin") != s.origin {
					t.Errorf("%s: status %d, %v", s.key, res.StatusCode, res.Header)
				}
				if res, _ := s.f.post(t, "/", askHello, "Origin", foreign); res.StatusCode != http.StatusForbidden {
					t.Errorf("%s: the other's origin got %d", s.key, res.StatusCode)
				}
			})
		}
	}
	wg.Wait()
	for _, s := range sides {
		want := fmt.Sprintf(`{"model":%q,"user":%q,"messages":[]}`, s.model, strings.TrimSuffix(s.model, "-model"))
		for _, req := range s.f.up.Requests() {
			if req.Header.Get("Authorization") != "Bearer "+s.key || string(req.Body) != want {
				t.Errorf("%s: sent %q %s, want %s", s.key, req.Header.Get("Authorization"), req.Body, want)
			}
		}
		s.f.wantCalls(t, 10)
		if len(s.done) != 10 {
			t.Errorf("%s: Done was called %d times, want 10", s.key, len(s.done))
		}
	}
	// Shutting one down leaves the other.
	if err := sides[0].f.handler.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if res, _ := sides[1].f.post(t, "/", askHello); res.StatusCode != 200 {
		t.Errorf("the other handler got %d after Shutdown of the first", res.StatusCode)
	}
}

func TestK8OneHandlerMountedTwice(t *testing.T) {
	t.Parallel()
	f := setup{wrap: func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/a/", http.StripPrefix("/a", h))
		mux.Handle("/b/", http.StripPrefix("/b", h))
		mux.Handle("/chat", h.(*proxy.Handler).Chat())
		return mux
	}}.start(t)
	for _, path := range []string{"/a" + chatPath, "/b" + chatPath, "/a/", "/b/", "/chat"} {
		if res, body := f.post(t, path, askHello); res.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d, %s", path, res.StatusCode, body)
		}
	}
	f.wantCalls(t, 5)
}

func TestPlainHTTPUpstreamIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		upstream string
		warns    bool
	}{
		{"http://api.example.com/v1", true},
		{"http://10.1.2.3:8080/v1", true},
		{"http://localhost.example.com/v1", true},
		{"http://[2001:db8::1]/v1", true},
		{"https://api.example.com/v1", false},
		{"http://localhost:11434/v1", false},
		{"http://127.0.0.1:11434/v1", false},
		{"http://127.1.2.3/v1", false},
		{"http://[::1]:11434/v1", false},
	} {
		for name, build := range map[string]func(...proxy.Option) http.Handler{
			"New": proxy.New,
			"NewHandler": func(opts ...proxy.Option) http.Handler {
				h, err := proxy.NewHandler(opts...)
				if err != nil {
					t.Fatal(err)
				}
				return h
			},
		} {
			logs := &records{}
			reached := brokenTransport(func(*http.Request) (*http.Response, error) { return answerWith("application/json", "{}", io.EOF), nil })
			h := build(proxy.WithKey(canary), proxy.WithUpstream(row.upstream), proxy.WithLogger(slog.New(logs)), proxy.WithTransport(reached))
			for range 2 {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", strings.NewReader(askHello)))
			}
			var warnings []string
			for _, line := range logs.lines() {
				if strings.HasPrefix(line, "WARN ") {
					warnings = append(warnings, line)
				}
			}
			if want := map[bool]int{true: 1}[row.warns]; len(warnings) != want {
				t.Errorf("%s with %s: %d warnings, want %d: %v", name, row.upstream, len(warnings), want, warnings)
			}
			if text := strings.Join(logs.lines(), "\n"); strings.Contains(text, canary) {
				t.Errorf("the key is in the log: %s", text)
			}
		}
	}
}

// The environment's proxy is read once for a process, so each case has its own.
func TestS33ProxyOfTheEnvironment(t *testing.T) {
	if which := os.Getenv("PROXY_TEST_ENV_PROXY"); which != "" {
		h := proxy.New(proxy.WithKey(canary), proxy.WithUpstream("http://upstream.invalid/v1"),
			proxy.WithLogger(quietLogger()), proxy.WithProxyFromEnvironment(which == "on"))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(askHello)))
		fmt.Printf("status %d\n", w.Code)
		return
	}
	t.Parallel()
	for _, row := range []struct {
		option string
		conns  int
		status string
	}{
		{"off", 0, "status 502"},
		{"on", 1, "status 200"},
	} {
		var mu sync.Mutex
		conns := 0
		trap := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.String() != "http://upstream.invalid/v1/chat/completions" {
				t.Errorf("the proxy was asked for %s", r.URL)
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte("{}"))
		}))
		trap.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				mu.Lock()
				defer mu.Unlock()
				conns++
			}
		}
		trap.Start()
		defer trap.Close()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestS33ProxyOfTheEnvironment$")
		cmd.Env = append(os.Environ(), "PROXY_TEST_ENV_PROXY="+row.option, "HTTP_PROXY="+trap.URL, "http_proxy="+trap.URL,
			"HTTPS_PROXY="+trap.URL, "ALL_PROXY="+trap.URL, "NO_PROXY=", "no_proxy=", "REQUEST_METHOD=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		mu.Lock()
		if conns != row.conns || !bytes.Contains(out, []byte(row.status)) {
			t.Errorf("option %s: %d connections to the proxy, want %d; %s, want %s", row.option, conns, row.conns, out, row.status)
		}
		mu.Unlock()
	}
}

func TestS32UpstreamWithACertificateOfItsOwnIsRefused(t *testing.T) {
	t.Parallel()
	called := make(chan struct{}, 10)
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called <- struct{}{} }))
	ts.Config.ErrorLog = log.New(&buffer{}, "", 0)
	ts.StartTLS()
	defer ts.Close()
	book := newDoneBook()
	f := start(t, proxy.WithUpstream(ts.URL+"/v1"), proxy.WithTransport(nil), proxy.WithHooks(proxy.Hooks{Done: book.done}))
	res, body := f.post(t, chatPath, askHello)
	if res.StatusCode != http.StatusBadGateway || !strings.Contains(body, `"upstream_unreachable"`) {
		t.Errorf("status %d, %s; want 502 upstream_unreachable", res.StatusCode, body)
	}
	for _, part := range []string{"x509", "certificate", "tls", "127.0.0.1"} {
		if strings.Contains(body, part) {
			t.Errorf("%q is in the body: %s", part, body)
		}
	}
	if !strings.Contains(f.logs.String(), "certificate") {
		t.Errorf("the log does not say why:\n%s", f.logs)
	}
	if len(called) != 0 {
		t.Error("the request was sent all the same")
	}
	if end := book.only(t, f); end.out.Ending != proxy.EndingError || end.out.Status != 502 {
		t.Errorf("Done was told %+v", end.out)
	}
}

func TestS9RedirectsAreNeverFollowed(t *testing.T) {
	t.Parallel()
	trap := proxytest.NewUpstream(t)
	for name, f := range map[string]*fixture{
		"our own transport":    start(t, proxy.WithTransport(nil)),
		"a transport of hosts": start(t),
	} {
		for _, status := range []int{300, 301, 302, 303, 304, 307, 308} {
			for _, location := range []string{trap.URL() + "/chat/completions", "/v1/chat/completions", "//evil.example/", ""} {
				before := len(f.up.Requests())
				f.up.Queue(proxytest.JSON(status, "").WithHeader("Location", location))
				res, body := f.post(t, chatPath, askHello)
				if res.StatusCode != http.StatusBadGateway || !strings.Contains(body, `"upstream_redirect"`) {
					t.Errorf("%s, %d to %q: status %d, %s; want 502 upstream_redirect", name, status, location, res.StatusCode, body)
				}
				if res.Header.Get("Location") != "" || strings.Contains(body, "evil.example") || location != "" && strings.Contains(body, location) {
					t.Errorf("%s, %d to %q: the target is relayed", name, status, location)
				}
				if calls := len(f.up.Requests()) - before; calls != 1 {
					t.Errorf("%s, %d to %q: %d calls, want 1", name, status, location, calls)
				}
			}
		}
	}
	if n := len(trap.Requests()); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

// Nothing that a caller writes, on any route, changes where a call goes, and no
// address in a request is ever visited.
func TestS1NothingInARequestChoosesTheUpstream(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	conns := 0
	trap := httptest.NewUnstartedServer(http.NotFoundHandler())
	trap.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			mu.Lock()
			defer mu.Unlock()
			conns++
		}
	}
	trap.Start()
	defer trap.Close()
	host := strings.TrimPrefix(trap.URL, "http://")
	// With a transport that can reach the trap.
	f := setup{options: []proxy.Option{proxy.WithTransport(nil)}, wrap: singleMounts}.start(t)
	names := []string{
		"api_base", "base_url", "baseURL", "base-url", "host", "hostname", "endpoint", "url", "uri", "target", "upstream", "proxy", "server",
		"x-host", "x-forwarded-host", "x-forwarded-server", "x-forwarded-proto", "x-original-url", "x-rewrite-url", "x-original-host", "forwarded",
		"x-portkey-custom-host", "x-base-url", "x-api-base", "x-openai-base-url", "x-upstream", "x-upstream-url", "x-target-url", "x-skipper-proxy",
		"sw-url", "destination", "location", "referer", "origin-server", "x-azure-endpoint", "x-custom-host", "via", "x-envoy-original-path",
		"api_url", "azure_endpoint", "x-proxy-host", "x-real-host",
	}
	fields, query, header := map[string]any{}, "", []string{"Host", host}
	for _, name := range names {
		fields[name] = trap.URL
		query += "&" + name + "=" + trap.URL
		if name != "host" { // which "Host" is
			header = append(header, name, trap.URL)
		}
	}
	ways := everyWay(t, trap.URL+"/cat.png", fields)
	for _, way := range ways {
		res, body := way.ask(t, f, "?"+query[1:], header...)
		if res.StatusCode != http.StatusOK || strings.Contains(body, `"errors"`) {
			t.Fatalf("%s: status %d: %s", way.name(), res.StatusCode, body)
		}
		sent := f.up.Next()
		if sent.Target != way.target || "http://"+sent.Host+"/v1" != f.up.URL() {
			t.Errorf("%s: called %s%s", way.name(), sent.Host, sent.Target)
		}
		if !way.rewritten && string(sent.Body) != way.body || !strings.Contains(string(sent.Body), trap.URL) {
			t.Errorf("%s: sent %.60s", way.name(), sent.Body)
		}
		for name, values := range sent.Header {
			if strings.Contains(strings.Join(values, " "), host) {
				t.Errorf("%s: %s went on: %q", way.name(), name, values)
			}
		}
	}
	for _, path := range []string{"//" + host + "/v1/chat/completions", "/" + trap.URL, "/v1/../chat/completions", "/v1/chat/completions/", "/v1//chat/completions"} {
		if res, _ := f.post(t, path, ways[len(ways)-1].body); res.StatusCode == http.StatusOK {
			t.Errorf("%s is served", path)
		}
	}
	f.wantCalls(t, len(ways))
	mu.Lock()
	defer mu.Unlock()
	if conns != 0 {
		t.Errorf("%d connections to an address that only requests name", conns)
	}
}

// The default logger is the one of the moment in which the handler is made.
func TestMissingLoggerMeansTheDefaultOne(t *testing.T) {
	logs := &records{}
	old := slog.Default()
	slog.SetDefault(slog.New(logs))
	t.Cleanup(func() { slog.SetDefault(old) })
	proxy.New(proxy.WithKey(canary), proxy.WithLogger(nil), proxy.WithHeartbeat(1))
	if lines := logs.lines(); len(lines) != 1 || !strings.Contains(lines[0], "WithHeartbeat") {
		t.Errorf("the default logger got %v", lines)
	}
}

// panickyLogs is a log handler that breaks.
type panickyLogs struct{ slog.Handler }

func (panickyLogs) Enabled(context.Context, slog.Level) bool  { return true }
func (panickyLogs) Handle(context.Context, slog.Record) error { panic("disk full") }

func TestF32LoggerThatPanicsTakesNothingWithIt(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithLogger(slog.New(panickyLogs{slog.DiscardHandler})),
		proxy.WithHooks(proxy.Hooks{Admit: func(_ context.Context, call proxy.Call) error {
			if call.Header.Get("X-Test") == "panic" {
				panic("hook")
			}
			return nil
		}}))
	f.up.Queue(proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Cut()))
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+chatPath, strings.NewReader(askHelloStream))
	res, err := f.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	events, err := proxytest.ReadEvents(res.Body)
	_ = res.Body.Close()
	if len(events) != 2 || err == nil {
		t.Errorf("a stream that breaks: %v, %v; want an error event and a cut", events, err)
	}
	for _, row := range []struct {
		status int
		body   string
		header []string
	}{{400, "{", nil}, {500, askHello, []string{"X-Test", "panic"}}, {200, askHello, nil}} {
		if res, body := f.post(t, chatPath, row.body, row.header...); res.StatusCode != row.status {
			t.Errorf("status %d, want %d: %s", res.StatusCode, row.status, body)
		}
	}
	proxy.New(proxy.WithLogger(slog.New(panickyLogs{slog.DiscardHandler})), proxy.WithHeartbeat(1))
}
