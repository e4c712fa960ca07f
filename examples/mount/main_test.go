package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

const chat = `{"messages":[{"role":"user","content":"one two"}]}`

func startSite(t *testing.T, options ...proxy.Option) (*proxytest.Server, *proxytest.Upstream) {
	t.Helper()
	up := proxytest.NewUpstream(t)
	tenants := newDirectory(
		tenant{"acme", "acme-token", proxy.StaticKey("sk-acme")},
		tenant{"globex", "globex-token", proxy.StaticKey("sk-globex")},
		tenant{"new", "new-token", proxy.StaticKey("")},
	)
	handler, err := routes(tenants, append(options, proxy.WithUpstream(up.URL()))...)
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

func TestTenantsPayWithTheirOwnKeys(t *testing.T) {
	t.Parallel()
	srv, up := startSite(t)
	for _, c := range []struct{ name, path, token, key string }{
		{"the OpenAI face", "/ai/v1/chat/completions", "acme-token", "sk-acme"},
		{"the worker's face", "/ai/", "globex-token", "sk-globex"},
		{"the mount point itself", "/ai", "acme-token", "sk-acme"},
		{"chat on its own path", "/assistant", "globex-token", "sk-globex"},
	} {
		res, body := send(t, srv, "POST", c.path, chat, "Authorization", "Bearer "+c.token)
		if res.StatusCode != http.StatusOK || !strings.Contains(body, "You said: one two") {
			t.Errorf("%s: %d %s", c.name, res.StatusCode, body)
			continue
		}
		if got := up.Next().Header.Get("Authorization"); got != "Bearer "+c.key {
			t.Errorf("%s: upstream got %q, want %s", c.name, got, c.key)
		}
	}
}

func TestStrangersPayNothing(t *testing.T) {
	t.Parallel()
	srv, up := startSite(t)
	for name, c := range map[string]struct {
		header []string
		status int
		text   string
	}{
		"no token":             {nil, 401, "A valid token is required."},
		"a wrong token":        {[]string{"Authorization", "Bearer acme-tokem"}, 401, "unauthorized"},
		"another scheme":       {[]string{"Authorization", "Basic acme-token"}, 401, "unauthorized"},
		"a tenant without key": {[]string{"Authorization", "Bearer new-token"}, 500, "missing_api_key"},
		"a page elsewhere":     {[]string{"Authorization", "Bearer acme-token", "Origin", "https://evil.example"}, 403, "origin_not_allowed"},
	} {
		for _, path := range []string{"/ai/v1/chat/completions", "/assistant"} {
			res, body := send(t, srv, "POST", path, chat, c.header...)
			if res.StatusCode != c.status || !strings.Contains(body, c.text) {
				t.Errorf("%s on %s: %d %s", name, path, res.StatusCode, body)
			}
		}
	}
	if n := len(up.Requests()); n != 0 {
		t.Errorf("%d calls reached the upstream", n)
	}
}

// A preflight has no token and must pass all the same, on every mount.
func TestPreflight(t *testing.T) {
	t.Parallel()
	srv, _ := startSite(t, proxy.WithAllowedOrigins("https://app.example"))
	for _, path := range []string{"/ai", "/ai/", "/ai/v1/chat/completions", "/assistant"} {
		res, body := send(t, srv, "OPTIONS", path, "", "Origin", "https://app.example",
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type")
		if res.StatusCode != http.StatusNoContent || res.Header.Get("Access-Control-Allow-Origin") != "https://app.example" {
			t.Errorf("%s: %d %v %s", path, res.StatusCode, res.Header, body)
		}
	}
	res, body := send(t, srv, "POST", "/ai/", chat, "Origin", "https://app.example")
	if res.StatusCode != http.StatusUnauthorized || res.Header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("a page cannot read its refusal: %d %v %s", res.StatusCode, res.Header, body)
	}
}

func TestOtherRoutesStay(t *testing.T) {
	t.Parallel()
	srv, _ := startSite(t)
	res, body := send(t, srv, "GET", "/", "")
	if res.StatusCode != http.StatusOK || body != "The rest of the site.\n" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	res, body = send(t, srv, "GET", "/ai/nothing", "")
	if res.StatusCode != http.StatusNotFound || !strings.Contains(body, "not_found") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

func TestRun(t *testing.T) {
	t.Setenv("ACME_OPENAI_KEY", "sk-acme")
	up := proxytest.NewUpstream(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stdout, w := io.Pipe()
	status := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		status <- run(ctx, []string{"-listen", "127.0.0.1:0", "-upstream", up.URL()}, w, &stderr)
		w.Close()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "Listening on ")
	if err != nil || !ok {
		t.Fatal(line, err, stderr.String())
	}
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, url+"/ai/v1/chat/completions", strings.NewReader(chat))
	req.Header.Set("Authorization", "Bearer acme-token")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := up.Next().Header.Get("Authorization"); got != "Bearer sk-acme" || res.StatusCode != http.StatusOK {
		t.Errorf("%d, upstream got %q", res.StatusCode, got)
	}
	stop()
	if got := <-status; got != 0 {
		t.Errorf("exit status %d: %s", got, stderr.String())
	}
	if got := run(t.Context(), []string{"-upstream", "nonsense"}, io.Discard, &stderr); got != 1 {
		t.Errorf("exit status %d with an invalid upstream", got)
	}
	if got := run(t.Context(), []string{"-nonsense"}, io.Discard, &stderr); got != 2 {
		t.Errorf("exit status %d with an unknown flag", got)
	}
}
