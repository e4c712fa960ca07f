package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

const (
	chat      = `{"messages":[{"role":"user","content":"one two"}]}`
	page      = "https://app.example.com"
	elsewhere = "https://evil.example"
	table     = "alice:alice-password,bob:bob-password"
)

func newTable(t *testing.T) *users {
	t.Helper()
	u, err := newUsers(table)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// site serves the routes over a fake upstream.
type testSite struct {
	srv *proxytest.Server
	up  *proxytest.Upstream
}

func startSite(t *testing.T, cfg config, options ...proxytest.ServerOption) testSite {
	t.Helper()
	up := proxytest.NewUpstream(t, options...)
	cfg.users = newTable(t)
	handler, err := routes(cfg, proxy.WithUpstream(up.URL()), proxy.WithTransport(up.Transport()), proxy.WithKey("sk-test"))
	if err != nil {
		t.Fatal(err)
	}
	return testSite{proxytest.Serve(t, handler, options...), up}
}

// send makes a request as the page does; header holds names and values in turn
// and replaces what the page sends.
func (s testSite) send(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", page)
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			req.Header.Del(header[i])
		}
	}
	res, err := s.srv.Client().Do(req)
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

// login returns the Cookie header of a new session.
func (s testSite) login(t *testing.T, user string, header ...string) string {
	t.Helper()
	res, body := s.send(t, "POST", "/login", `{"user":"`+user+`","password":"`+user+`-password"}`, header...)
	cookies := res.Cookies()
	if res.StatusCode != http.StatusNoContent || len(cookies) != 1 || cookies[0].Value == "" {
		t.Fatalf("login of %s: %d %v %s", user, res.StatusCode, res.Header, body)
	}
	readable(t, res)
	return cookies[0].Name + "=" + cookies[0].Value
}

// readable fails the test unless the page can read this answer to a request
// with credentials.
func readable(t *testing.T, res *http.Response) {
	t.Helper()
	if res.Header.Get("Access-Control-Allow-Origin") != page || res.Header.Get("Access-Control-Allow-Credentials") != "true" ||
		!strings.Contains(strings.Join(res.Header.Values("Vary"), ","), "Origin") {
		t.Errorf("the page cannot read its answer: %d %v", res.StatusCode, res.Header)
	}
}

func TestWhoHasNoSessionPaysNothing(t *testing.T) {
	t.Parallel()
	s := startSite(t, config{origin: page})
	alice := s.login(t, "alice")
	gone := s.login(t, "alice")
	if res, body := s.send(t, "POST", "/logout", "", "Cookie", gone); res.StatusCode != http.StatusNoContent {
		t.Fatal(res.StatusCode, body)
	}
	for _, c := range []struct {
		name   string
		header []string
		status int
		text   string
	}{
		{"no cookie", nil, 401, "Log in first."},
		{"an invented session", []string{"Cookie", "__Host-session=AAAAAAAAAAAAAAAAAAAAAAAAAA"}, 401, "unauthorized"},
		{"another cookie", []string{"Cookie", strings.TrimPrefix(alice, "__Host-")}, 401, "unauthorized"},
		{"after the logout", []string{"Cookie", gone}, 401, "unauthorized"},
		{"a page elsewhere", []string{"Cookie", alice, "Origin", elsewhere}, 403, "origin_not_allowed"},
		{"a page that hides its origin", []string{"Cookie", alice, "Origin", "null"}, 403, "origin_not_allowed"},
		{"a sister page", []string{"Cookie", alice, "Origin", "https://other.example.com", "Sec-Fetch-Site", "same-site"}, 403, "origin_not_allowed"},
	} {
		for _, path := range []string{"/ai/v1/chat/completions", "/ai/"} {
			res, text := s.send(t, "POST", path, chat, c.header...)
			if res.StatusCode != c.status || !strings.Contains(text, c.text) {
				t.Errorf("%s on %s: %d %s", c.name, path, res.StatusCode, text)
			}
			if c.status == http.StatusUnauthorized {
				readable(t, res)
			}
		}
	}
	for _, body := range []string{
		`{"model":"gpt-6-astra",` + chat[1:], `{"max_completion_tokens":2001,` + chat[1:],
		`{"store":true,` + chat[1:], `{"prompt":"a cat","n":2}`,
	} {
		res, text := s.send(t, "POST", "/ai/", body, "Cookie", alice)
		if res.StatusCode != http.StatusForbidden || !strings.Contains(text, `"forbidden"`) {
			t.Errorf("%s: %d %s", body, res.StatusCode, text)
		}
		readable(t, res)
	}
	if n := len(s.up.Requests()); n != 0 {
		t.Errorf("%d calls reached the upstream", n)
	}
}

func TestSession(t *testing.T) {
	t.Parallel()
	s := startSite(t, config{origin: page})
	alice := s.login(t, "alice")
	for _, path := range []string{"/ai/v1/chat/completions", "/ai/", "/ai"} {
		res, body := s.send(t, "POST", path, chat, "Cookie", alice)
		if res.StatusCode != http.StatusOK || !strings.Contains(body, "You said: one two") {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
			continue
		}
		readable(t, res)
		if got := s.up.Next(); got.Header.Get("Cookie") != "" || got.Header.Get("Authorization") != "Bearer sk-test" {
			t.Errorf("%s: upstream got %v", path, got.Header)
		}
	}

	// A new login ends the session that the browser had.
	res, _ := s.send(t, "POST", "/login", `{"user":"alice","password":"alice-password"}`, "Cookie", alice)
	next := res.Cookies()[0].Name + "=" + res.Cookies()[0].Value
	for cookie, status := range map[string]int{alice: 401, next: 200} {
		if res, body := s.send(t, "POST", "/ai/", chat, "Cookie", cookie); res.StatusCode != status {
			t.Errorf("%d %s, want %d", res.StatusCode, body, status)
		}
	}

	res, body := s.send(t, "POST", "/logout", "", "Cookie", next)
	cookies := res.Cookies()
	if res.StatusCode != http.StatusNoContent || len(cookies) != 1 || cookies[0].MaxAge >= 0 || cookies[0].Value != "" {
		t.Errorf("logout: %d %v %s", res.StatusCode, res.Header, body)
	}
	readable(t, res)
	if res, body := s.send(t, "POST", "/ai/", chat, "Cookie", next); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("after the logout: %d %s", res.StatusCode, body)
	}
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	s := startSite(t, config{origin: page})
	for _, path := range []string{"/login", "/logout", "/ai", "/ai/", "/ai/v1/chat/completions"} {
		ask := []string{"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type"}
		res, body := s.send(t, "OPTIONS", path, "", ask...)
		if res.StatusCode != http.StatusNoContent || !strings.Contains(res.Header.Get("Access-Control-Allow-Methods"), "POST") ||
			!strings.EqualFold(res.Header.Get("Access-Control-Allow-Headers"), "content-type") {
			t.Errorf("%s: %d %v %s", path, res.StatusCode, res.Header, body)
		}
		readable(t, res)
		res, _ = s.send(t, "OPTIONS", path, "", append(ask, "Origin", elsewhere)...)
		for name := range res.Header {
			if strings.HasPrefix(name, "Access-Control-Allow") {
				t.Errorf("%s tells a page elsewhere %s", path, name)
			}
		}
	}
}

// A page elsewhere can neither log its visitor in nor out, with or without a
// preflight.
func TestLoginAndLogoutAreForThePage(t *testing.T) {
	t.Parallel()
	s := startSite(t, config{origin: page})
	alice := s.login(t, "alice")
	right := `{"user":"alice","password":"alice-password"}`
	for _, header := range [][]string{
		{"Origin", elsewhere},
		{"Origin", elsewhere, "Content-Type", "text/plain"},
		{"Origin", elsewhere, "Sec-Fetch-Site", ""},
		{"Origin", "null"},
		{"Origin", ""},
		{"Origin", "https://other.example.com", "Sec-Fetch-Site", "same-site"},
	} {
		for path, body := range map[string]string{"/login": right, "/logout": ""} {
			res, text := s.send(t, "POST", path, body, append(header, "Cookie", alice)...)
			if res.StatusCode != http.StatusForbidden || len(res.Cookies()) != 0 || res.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s with %q: %d %v %s", path, header, res.StatusCode, res.Header, text)
			}
		}
	}
	if res, body := s.send(t, "POST", "/ai/", chat, "Cookie", alice); res.StatusCode != http.StatusOK {
		t.Errorf("the session did not outlive them: %d %s", res.StatusCode, body)
	}
	for path, method := range map[string]string{"/login": "GET", "/logout": "GET"} {
		res, body := s.send(t, method, path, "", "Cookie", alice)
		if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "POST, OPTIONS" || len(res.Cookies()) != 0 {
			t.Errorf("%s %s: %d %v %s", method, path, res.StatusCode, res.Header, body)
		}
	}
}

func TestWrongLogins(t *testing.T) {
	t.Parallel()
	s := startSite(t, config{origin: page})
	answers := map[string]bool{}
	for _, c := range []struct {
		body   string
		status int
	}{
		{`{"user":"alice","password":"bob-password"}`, 401},
		{`{"user":"alice","password":""}`, 401},
		{`{"user":"carol","password":"alice-password"}`, 401},
		{`{"user":"","password":""}`, 401},
		{`{}`, 401},
		{``, 400},
		{`[]`, 400},
		{`{"user":"` + strings.Repeat("a", 5000) + `"}`, 400},
	} {
		res, body := s.send(t, "POST", "/login", c.body)
		if res.StatusCode != c.status || len(res.Cookies()) != 0 {
			t.Errorf("%.50s: %d %v %s", c.body, res.StatusCode, res.Header, body)
		}
		readable(t, res)
		if c.status == http.StatusUnauthorized {
			answers[body] = true
		}
	}
	if len(answers) != 1 {
		t.Errorf("the answers tell who is a user: %v", answers)
	}
}

func TestCookie(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  config
		want string
	}{
		"same site":  {config{origin: page}, `^__Host-session=[A-Z2-7]{26}; Path=/; Max-Age=43200; HttpOnly; Secure; SameSite=Strict$`},
		"cross-site": {config{origin: page, crossSite: true}, `^__Host-session=[A-Z2-7]{26}; Path=/; Max-Age=43200; HttpOnly; Secure; SameSite=None; Partitioned$`},
		"dev":        {config{origin: page, dev: true}, `^session=[A-Z2-7]{26}; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict$`},
	} {
		s := startSite(t, c.cfg)
		res, _ := s.send(t, "POST", "/login", `{"user":"alice","password":"alice-password"}`)
		set := res.Header.Get("Set-Cookie")
		if !regexp.MustCompile(c.want).MatchString(set) {
			t.Errorf("%s: %s", name, set)
		}
		cookie, _, _ := strings.Cut(set, ";")
		if res, body := s.send(t, "POST", "/ai/", chat, "Cookie", cookie); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
		res, _ = s.send(t, "POST", "/logout", "", "Cookie", cookie)
		// A browser deletes a cookie only under the attributes it was set with.
		attributes := func(set string) string {
			_, rest, _ := strings.Cut(set, ";")
			return regexp.MustCompile(`Max-Age=\d+`).ReplaceAllString(rest, "")
		}
		if got := res.Header.Get("Set-Cookie"); attributes(got) != attributes(set) || !strings.Contains(got, "Max-Age=0") {
			t.Errorf("%s: logout says %s", name, got)
		}
	}
}

// Two users share neither a limit nor a conversation.
func TestUsersAreKeptApart(t *testing.T) {
	t.Parallel()
	s := startSite(t, config{origin: page})
	alice, bob := s.login(t, "alice"), s.login(t, "bob")
	query := func(user, field string) string {
		t.Helper()
		body, _ := json.Marshal(map[string]string{"query": field})
		_, text := s.send(t, "POST", "/ai/graphql", string(body), "Cookie", user)
		return strings.TrimSpace(text)
	}
	answer := query(alice, `mutation { createSession { sessionId success } }`)
	id := regexp.MustCompile(`"session_\w+"`).FindString(answer)
	if id == "" {
		t.Fatal(answer)
	}
	answer = query(alice, `mutation { sendMessage(input: {sessionId: `+id+`, content: "a secret"}) { success } }`)
	if !strings.Contains(answer, `"success":true`) {
		t.Fatal(answer)
	}
	history := `{ chatHistory(sessionId: ` + id + `) { content } }`
	if got := query(alice, history); got != `{"data":{"chatHistory":[{"content":"a secret"}]}}` {
		t.Errorf("alice sees %s", got)
	}
	if got := query(bob, history); got != `{"data":{"chatHistory":[]}}` {
		t.Errorf("bob sees %s", got)
	}
	got := query(bob, `mutation { getAIResponse(input: {sessionId: `+id+`}) { content } }`)
	if !strings.Contains(got, `"getAIResponse":null`) || len(s.up.Requests()) != 0 {
		t.Errorf("bob continues: %s", got)
	}

	var res *http.Response
	for range 60 { // a 21st request passes only if 3 s went by before it, and so on
		if res, _ = s.send(t, "POST", "/ai/", chat, "Cookie", alice); res.StatusCode != http.StatusOK {
			break
		}
	}
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
		t.Fatalf("alice has no limit: %d %v", res.StatusCode, res.Header)
	}
	readable(t, res)
	if res, body := s.send(t, "POST", "/ai/", chat, "Cookie", s.login(t, "alice")); res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a new login is a new limit: %d %s", res.StatusCode, body)
	}
	if res, body := s.send(t, "POST", "/ai/", chat, "Cookie", bob); res.StatusCode != http.StatusOK {
		t.Errorf("bob is held to the limit of alice: %d %s", res.StatusCode, body)
	}
}

func TestSessionsExpire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startSite(t, config{origin: page}, proxytest.InMemory())
		alice := s.login(t, "alice")
		time.Sleep(sessionTime - time.Second)
		if res, body := s.send(t, "POST", "/ai/", chat, "Cookie", alice); res.StatusCode != http.StatusOK {
			t.Errorf("just before: %d %s", res.StatusCode, body)
		}
		time.Sleep(time.Second)
		if res, body := s.send(t, "POST", "/ai/", chat, "Cookie", alice); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("after its time: %d %s", res.StatusCode, body)
		}
	})
}

// Guesses at one name are slowed down, right or wrong, and others not.
func TestGuessesAreLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startSite(t, config{origin: page}, proxytest.InMemory())
		try := func(user, password string) *http.Response {
			t.Helper()
			res, _ := s.send(t, "POST", "/login", `{"user":"`+user+`","password":"`+password+`"}`)
			readable(t, res)
			return res
		}
		for _, user := range []string{"alice", "carol"} {
			for range 10 {
				if res := try(user, "guess"); res.StatusCode != http.StatusUnauthorized {
					t.Fatal(user, res.StatusCode)
				}
			}
			if res := try(user, user+"-password"); res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "6" {
				t.Errorf("%s: %d %v", user, res.StatusCode, res.Header)
			}
		}
		if res := try("bob", "bob-password"); res.StatusCode != http.StatusNoContent {
			t.Errorf("bob: %d", res.StatusCode)
		}
		time.Sleep(6 * time.Second)
		if res := try("alice", "alice-password"); res.StatusCode != http.StatusNoContent {
			t.Errorf("alice, later: %d", res.StatusCode)
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sessions{}
		other := s.begin("bob")
		ids := make([]string, 3*userSessions)
		for i := range ids {
			time.Sleep(time.Second)
			ids[i] = s.begin("alice")
		}
		for i, id := range ids {
			if user, ok := s.user(id); ok != (i >= 2*userSessions) || ok && user != "alice" {
				t.Errorf("session %d: %q, %t", i, user, ok)
			}
		}
		if user, ok := s.user(other); !ok || user != "bob" || len(s.open) != userSessions+1 {
			t.Errorf("bob: %q, %t; %d sessions", user, ok, len(s.open))
		}
		time.Sleep(sessionTime)
		if s.begin("bob"); len(s.open) != 1 {
			t.Errorf("%d sessions are kept, 1 is open", len(s.open))
		}
	})
}

func TestInvalidConfigurations(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]config{
		"every origin":        {origin: "*"},
		"every subdomain":     {origin: "https://*.example.com"},
		"no origin":           {origin: "app.example.com"},
		"a path":              {origin: page + "/login"},
		"None without Secure": {origin: page, crossSite: true, dev: true},
	} {
		cfg.users = newTable(t)
		if _, err := routes(cfg); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	for _, text := range []string{"", "alice", "alice:", ":x", "alice:x,alice:y", "alice:x,"} {
		if _, err := newUsers(text); err == nil {
			t.Errorf("users %q were taken", text)
		}
	}
}

func TestRun(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-test")
	up := proxytest.NewUpstream(t)
	env := func(name string) string { return map[string]string{"LOGIN_USERS": table}[name] }
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stdout, w := io.Pipe()
	status := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		status <- run(ctx, []string{"-dev", "-listen", "127.0.0.1:0", "-upstream", up.URL()}, env, w, &stderr)
		w.Close()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "Listening on ")
	if err != nil || !ok {
		t.Fatal(line, err, stderr.String())
	}
	post := func(path, body, cookie string) *http.Response {
		t.Helper()
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, url+path, strings.NewReader(body))
		req.Header.Set("Origin", "http://localhost:3000")
		req.Header.Set("Cookie", cookie)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res
	}
	res := post("/login", `{"user":"bob","password":"bob-password"}`, "")
	cookie, _, _ := strings.Cut(res.Header.Get("Set-Cookie"), ";")
	if res := post("/ai/v1/chat/completions", chat, cookie); res.StatusCode != http.StatusOK || len(up.Requests()) != 1 {
		t.Errorf("%d, %d calls", res.StatusCode, len(up.Requests()))
	}
	stop()
	if got := <-status; got != 0 {
		t.Errorf("exit status %d: %s", got, stderr.String())
	}
	if got := run(t.Context(), []string{"-upstream", "nonsense"}, env, io.Discard, &stderr); got != 1 {
		t.Errorf("exit status %d with an invalid upstream", got)
	}
	if got := run(t.Context(), nil, func(string) string { return "" }, io.Discard, &stderr); got != 1 {
		t.Errorf("exit status %d without users", got)
	}
	if got := run(t.Context(), []string{"-nonsense"}, env, io.Discard, &stderr); got != 2 {
		t.Errorf("exit status %d with an unknown flag", got)
	}
}
