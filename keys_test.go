package proxy_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// sentKey returns the key that the next upstream request carried.
func sentKey(f *fixture) string {
	return strings.TrimPrefix(f.up.Next().Header.Get("Authorization"), "Bearer ")
}

func TestKeySources(t *testing.T) {
	t.Setenv("PROXY_TEST_KEY", " \t sk-from-environment \n")
	t.Setenv("PROXY_TEST_BLANK", " \t\n")
	fixed := func(key string) proxy.KeySource {
		return proxy.KeyFunc(func(*http.Request) (string, error) { return key, nil })
	}
	for _, row := range []struct {
		name   string
		source proxy.KeySource
		header []string
		want   string // "" for no key
	}{
		{"static", proxy.StaticKey("sk-static"), nil, "sk-static"},
		{"environment, trimmed", proxy.EnvKey("PROXY_TEST_KEY"), nil, "sk-from-environment"},
		{"environment that is blank", proxy.EnvKey("PROXY_TEST_BLANK"), nil, ""},
		{"environment that is not set", proxy.EnvKey("PROXY_TEST_NOT_SET"), nil, ""},
		{"environment without a name", proxy.EnvKey(""), nil, ""},
		{"header", proxy.HeaderKey("x-openai-key"), []string{"X-OpenAI-Key", "sk-header"}, "sk-header"},
		{"header with blanks around", proxy.HeaderKey("x-openai-key"), []string{"X-OpenAI-Key", " sk-header\t"}, "sk-header"},
		{"header that is missing", proxy.HeaderKey("x-openai-key"), nil, ""},
		{"header that is empty", proxy.HeaderKey("x-openai-key"), []string{"X-OpenAI-Key", ""}, ""},
		{"bearer token", proxy.HeaderKey("Authorization"), []string{"Authorization", "Bearer sk-bearer"}, "sk-bearer"},
		{"bearer in small letters", proxy.HeaderKey("authorization"), []string{"Authorization", "bearer sk-bearer"}, "sk-bearer"},
		{"bearer with blanks", proxy.HeaderKey("Authorization"), []string{"Authorization", "Bearer   sk-bearer "}, "sk-bearer"},
		{"another scheme", proxy.HeaderKey("Authorization"), []string{"Authorization", "Basic c2stYmFzaWM="}, ""},
		{"no scheme", proxy.HeaderKey("Authorization"), []string{"Authorization", "sk-bare"}, ""},
		{"scheme without a token", proxy.HeaderKey("Authorization"), []string{"Authorization", "Bearer "}, ""},
		{"a header without scheme keeps the word Bearer out", proxy.HeaderKey("Api-Key"), []string{"Api-Key", "abc123"}, "abc123"},
		{"function", fixed("sk-function"), nil, "sk-function"},
		{"function without a key", fixed(""), nil, ""},
		{"longest key", fixed(strings.Repeat("k", 512)), nil, strings.Repeat("k", 512)},
		{"every visible character", fixed("!\"#$%&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~"), nil, "!\"#$%&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~"},
		{"first of: the first", proxy.FirstKey(fixed("sk-a"), fixed("sk-b")), nil, "sk-a"},
		{"first of: the first that has one", proxy.FirstKey(fixed(""), nil, fixed("sk-b"), fixed("sk-c")), nil, "sk-b"},
		{"first of: header before environment", proxy.FirstKey(proxy.HeaderKey("x-openai-key"), proxy.EnvKey("PROXY_TEST_KEY")), []string{"X-OpenAI-Key", "sk-header"}, "sk-header"},
		{"first of: empty header falls back", proxy.FirstKey(proxy.HeaderKey("x-openai-key"), proxy.EnvKey("PROXY_TEST_KEY")), []string{"X-OpenAI-Key", ""}, "sk-from-environment"},
		{"first of: blank header falls back", proxy.FirstKey(proxy.HeaderKey("x-openai-key"), proxy.EnvKey("PROXY_TEST_KEY")), []string{"X-OpenAI-Key", "  \t "}, "sk-from-environment"},
		{"first of: missing header falls back", proxy.FirstKey(proxy.HeaderKey("x-openai-key"), proxy.EnvKey("PROXY_TEST_KEY")), nil, "sk-from-environment"},
		{"first of: another scheme falls back", proxy.FirstKey(proxy.HeaderKey("Authorization"), fixed("sk-b")), []string{"Authorization", "Basic x"}, "sk-b"},
		{"first of: nested", proxy.FirstKey(proxy.FirstKey(fixed("")), proxy.FirstKey(fixed(""), fixed("sk-deep"))), nil, "sk-deep"},
		{"first of none", proxy.FirstKey(), nil, ""},
		{"first of nil", proxy.FirstKey(nil, nil), nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := start(t, proxy.WithKeySource(row.source))
			res, body := f.post(t, chatPath, askHello, row.header...)
			if row.want == "" {
				if res.StatusCode != http.StatusInternalServerError || !strings.Contains(body, `"missing_api_key"`) {
					t.Errorf("status %d, %s; want 500 missing_api_key", res.StatusCode, body)
				}
				f.wantCalls(t, 0)
				return
			}
			if res.StatusCode != http.StatusOK {
				t.Fatalf("status %d: %s", res.StatusCode, body)
			}
			if got := f.up.Next().Header.Values("Authorization"); len(got) != 1 || got[0] != "Bearer "+row.want {
				t.Errorf("sent %q, want the bearer token %q once", got, row.want)
			}
		})
	}
}

func TestEnvironmentIsReadForEveryRequest(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-first")
	f := setup{options: []proxy.Option{proxy.WithKeySource(proxy.EnvKey("OPENAI_API_KEY"))}}.start(t)
	f.post(t, "/", askHello)
	t.Setenv("OPENAI_API_KEY", "sk-rotated")
	f.post(t, "/", askHello)
	t.Setenv("OPENAI_API_KEY", "")
	res, _ := f.post(t, "/", askHello)
	if a, b := sentKey(f), sentKey(f); a != "sk-first" || b != "sk-rotated" {
		t.Errorf("sent %q and %q, want the key of each moment", a, b)
	}
	if res.StatusCode != http.StatusInternalServerError {
		t.Errorf("status %d after the key was removed, want 500", res.StatusCode)
	}
}

func TestDefaultKeySourceIsTheEnvironment(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-of-the-environment")
	up := proxytest.NewUpstream(t)
	h, err := proxy.NewHandler(proxy.WithUpstream(up.URL()))
	if err != nil {
		t.Fatal(err)
	}
	srv := proxytest.Serve(t, h)
	res, err := srv.Client().Post(srv.URL, "application/json", strings.NewReader(askHello))
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got := up.Next().Header.Get("Authorization"); got != "Bearer sk-of-the-environment" {
		t.Errorf("sent %q", got)
	}
}

func TestS7KeyHeaderWithInvalidCharactersIs400(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"X-Openai-Key", "Authorization"} {
		f := start(t, proxy.WithKeySource(proxy.FirstKey(proxy.HeaderKey(header), proxy.StaticKey(canary))))
		for _, bad := range []string{"sk-a b", "sk-a\tb", "sk-ä", "sk-\u00a0", "sk-…", "sk-\xff", strings.Repeat("k", 513)} {
			value := bad
			if header == "Authorization" {
				value = "Bearer " + bad
			}
			res, body := f.post(t, chatPath, askHello, header, value)
			if res.StatusCode != http.StatusBadRequest || !strings.Contains(body, `"invalid_request"`) || strings.Contains(body, bad) {
				t.Errorf("%s: %.20q: status %d, %s; want 400 invalid_request without the value", header, bad, res.StatusCode, body)
			}
		}
		f.wantCalls(t, 0)
	}
}

func TestNoKeyIsToldInBothShapes(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) { return "", nil })))
	for path, want := range map[string]string{
		"/":      `{"error":"Configuration Error","message":"OpenAI API key is not configured"`,
		chatPath: `{"error":{"message":"OpenAI API key is not configured","type":"server_error","param":null,"code":"missing_api_key"},"message":"OpenAI API key is not configured","status":500}`,
	} {
		for _, body := range []string{askHello, askHelloStream} {
			res, got := f.post(t, path, body)
			if res.StatusCode != http.StatusInternalServerError || !strings.HasPrefix(got, want) {
				t.Errorf("%s: status %d, %s; want 500 %s", path, res.StatusCode, got, want)
			}
			if res.Header.Get("X-Should-Retry") != "false" {
				t.Errorf("%s: the SDKs would try again: X-Should-Retry %q", path, res.Header.Get("X-Should-Retry"))
			}
		}
	}
	f.wantCalls(t, 0)
}

func TestF33FailingKeySourceIs503AndItsTextIsLoggedOnly(t *testing.T) {
	t.Parallel()
	const text = "vault at 10.1.2.3 said: permission denied"
	for _, source := range []proxy.KeySource{
		proxy.KeyFunc(func(*http.Request) (string, error) { return "", errors.New(text) }),
		proxy.KeyFunc(func(*http.Request) (string, error) { return canary, errors.New(text + " for " + canary) }),
		proxy.FirstKey(proxy.KeyFunc(func(*http.Request) (string, error) { return "", errors.New(text) }), proxy.StaticKey(canary)),
	} {
		f := start(t, proxy.WithKeySource(source))
		for _, path := range []string{"/", chatPath} {
			res, body := f.post(t, path, askHello)
			if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, `"key_unavailable"`) {
				t.Errorf("%s: status %d, %s; want 503 key_unavailable", path, res.StatusCode, body)
			}
			if strings.Contains(body, "vault") || strings.Contains(body, "10.1.2.3") {
				t.Errorf("%s: the source's text is in the body: %s", path, body)
			}
		}
		if !strings.Contains(f.logs.String(), text) {
			t.Errorf("the source's text is not in the log:\n%s", f.logs)
		}
		f.wantCalls(t, 0)
	}
}

func TestKeySourceWithAnUnusableKeyIs503(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"sk-two\nlines-0123456789", "sk-with blank-0123456789", "sk-ünicode-0123456789", "\x00", strings.Repeat("k", 8<<10+1)} {
		f := start(t, proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) { return bad, nil })))
		res, body := f.post(t, chatPath, askHello)
		if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, `"key_unavailable"`) {
			t.Errorf("%.20q: status %d, %s; want 503 key_unavailable", bad, res.StatusCode, body)
		}
		if strings.Contains(f.logs.String()+body, bad) || strings.Contains(f.logs.String()+body, "0123456789") {
			t.Errorf("the unusable key is shown:\n%s\n%s", body, f.logs)
		}
		f.wantCalls(t, 0)
	}
}

func TestF33SlowKeySourceIs503AfterKeyTime(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		source proxy.KeyFunc
	}{
		{"passes its context's error on", func(r *http.Request) (string, error) {
			<-r.Context().Done()
			return "", r.Context().Err()
		}},
		{"returns a key too late", func(r *http.Request) (string, error) {
			<-r.Context().Done()
			return canary, nil
		}},
		{"returns no key too late", func(r *http.Request) (string, error) {
			<-r.Context().Done()
			return "", nil
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := inMemory(proxy.WithKeySource(row.source), proxy.WithLimits(proxy.Limits{KeyTime: 200 * time.Millisecond})).start(t)
				begin := time.Now()
				res, body := f.post(t, chatPath, askHello)
				if took := time.Since(begin); took != 200*time.Millisecond {
					t.Errorf("answered after %v, want 200ms on the bubble's clock", took)
				}
				if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, `"key_unavailable"`) {
					t.Errorf("status %d, %s; want 503 key_unavailable", res.StatusCode, body)
				}
				f.wantCalls(t, 0)
			})
		})
	}
}

func TestKeyTimeIsFiveSecondsUnlessSet(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		set  time.Duration
		want time.Duration // 0: no deadline that a test could wait for
	}{{0, 5 * time.Second}, {time.Minute, time.Minute}, {-1, 0}} {
		left := make(chan time.Duration, 1)
		synctest.Test(t, func(t *testing.T) {
			f := inMemory(proxy.WithLimits(proxy.Limits{KeyTime: row.set}),
				proxy.WithKeySource(proxy.KeyFunc(func(r *http.Request) (string, error) {
					end, ok := r.Context().Deadline()
					if !ok || time.Until(end) > 24*time.Hour {
						left <- 0
					} else {
						left <- time.Until(end)
					}
					return canary, nil
				}))).start(t)
			f.post(t, "/", askHello)
		})
		if got := <-left; got != row.want {
			t.Errorf("KeyTime %v: the source has %v, want %v", row.set, got, row.want)
		}
	}
}

// inMemory is a setup for bubbles of testing/synctest.
func inMemory(options ...proxy.Option) setup {
	return setup{
		client:   []proxytest.ServerOption{proxytest.InMemory()},
		upstream: []proxytest.ServerOption{proxytest.InMemory()},
		options:  options,
	}
}

func TestKeySourceThatPanicsFailsItsOwnRequestOnly(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithKeySource(proxy.KeyFunc(func(r *http.Request) (string, error) {
		if r.Header.Get("X-Test") == "panic" {
			panic("the vault is on fire: " + canary)
		}
		return canary, nil
	})))
	for _, path := range []string{"/", chatPath} {
		res, body := f.post(t, path, askHello, "X-Test", "panic")
		if res.StatusCode != http.StatusInternalServerError || !strings.Contains(body, `"internal_error"`) || strings.Contains(body, "fire") {
			t.Errorf("%s: status %d, %s; want 500 internal_error", path, res.StatusCode, body)
		}
		if res, _ := f.post(t, path, askHello); res.StatusCode != http.StatusOK {
			t.Errorf("%s: the next request got %d", path, res.StatusCode)
		}
	}
	if !strings.Contains(f.logs.String(), "the vault is on fire") {
		t.Errorf("the panic is not in the log:\n%s", f.logs)
	}
	f.wantCalls(t, 2)
}

func TestKeySourceSeesTheRequest(t *testing.T) {
	t.Parallel()
	type tenant struct{}
	f := setup{
		wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tenant{}, r.Header.Get("X-Tenant"))))
			})
		},
		options: []proxy.Option{proxy.WithKeySource(proxy.KeyFunc(func(r *http.Request) (string, error) {
			name, _ := r.Context().Value(tenant{}).(string)
			if r.Method != http.MethodPost || r.URL.Path != chatPath || name != r.Header.Get("X-Tenant") {
				return "", errors.New("not the request that was sent")
			}
			if name == "stranger" {
				return "", nil
			}
			return "sk-tenant-" + name, nil
		}))},
	}.start(t)
	for _, name := range []string{"red", "green", "red", "blue"} {
		f.post(t, chatPath, askHello, "X-Tenant", name)
		if got := sentKey(f); got != "sk-tenant-"+name {
			t.Errorf("tenant %s pays with %q", name, got)
		}
	}
	if res, _ := f.post(t, chatPath, askHello, "X-Tenant", "stranger"); res.StatusCode != http.StatusInternalServerError {
		t.Errorf("a tenant without a key: status %d, want 500", res.StatusCode)
	}
	f.wantCalls(t, 4)
}

func TestAuthHeaderCarriesTheKey(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 10)
	source := proxy.KeyFunc(func(*http.Request) (string, error) { asked <- struct{}{}; return canary, nil })
	for _, row := range []struct {
		name, option string
		want         http.Header
		asks         int
	}{
		{"Azure's", "api-key", http.Header{"Api-Key": {canary}}, 1},
		{"another", "X-Goog-Api-Key", http.Header{"X-Goog-Api-Key": {canary}}, 1},
		{"the default in small letters", "authorization", http.Header{"Authorization": {"Bearer " + canary}}, 1},
		{"none", "", http.Header{}, 0},
	} {
		f := start(t, proxy.WithKeySource(source), proxy.WithAuthHeader(row.option))
		res, body := f.post(t, chatPath, askHello, "Authorization", "Bearer dummy", "Api-Key", "dummy", "X-Goog-Api-Key", "dummy", "X-Api-Key", "dummy")
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d: %s", row.name, res.StatusCode, body)
		}
		sent := f.up.Next().Header
		for _, name := range []string{"Authorization", "Api-Key", "X-Goog-Api-Key", "X-Api-Key"} {
			if got, want := strings.Join(sent.Values(name), "|"), strings.Join(row.want.Values(name), "|"); got != want {
				t.Errorf("%s: sent %s %q, want %q", row.name, name, got, want)
			}
		}
		if got := len(asked); got != row.asks {
			t.Errorf("%s: the key source was asked %d times, want %d", row.name, got, row.asks)
		}
		for len(asked) > 0 {
			<-asked
		}
	}
}

func TestUpstreamRootIsJoined(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ root, target string }{
		{"/v1", "/v1/chat/completions"},
		{"/v1/", "/v1/chat/completions"},
		{"/v1//", "/v1/chat/completions"},
		{"", "/chat/completions"},
		{"/", "/chat/completions"},
		{"?api-version=2026-01-01", "/chat/completions?api-version=2026-01-01"},
		{"/openai/deployments/gpt%2Dx", "/openai/deployments/gpt-x/chat/completions"},
		{"/a%2Fb/v1", "/a%2Fb/v1/chat/completions"},
		{"/openai/v1?api-version=2026-01-01", "/openai/v1/chat/completions?api-version=2026-01-01"},
		{"/openai/v1/?api-version=2026-01-01&x=%2F", "/openai/v1/chat/completions?api-version=2026-01-01&x=%2F"},
	} {
		up := proxytest.NewUpstream(t)
		f := start(t, proxy.WithUpstream(strings.TrimSuffix(up.URL(), "/v1")+row.root), proxy.WithTransport(up.Transport()))
		res, body := f.post(t, chatPath+"?api-version=evil&model=dear", askHello)
		if len(up.Requests()) != 1 {
			t.Errorf("root %q: %d calls; status %d, %s", row.root, len(up.Requests()), res.StatusCode, body)
			continue
		}
		got := up.Next().Target
		if row.target == "/openai/deployments/gpt-x/chat/completions" {
			got = strings.Replace(got, "%2D", "-", 1) // the same octet in two spellings
		}
		if got != row.target {
			t.Errorf("root %q: called %q, want %q", row.root, got, row.target)
		}
	}
}

func TestS7KeysOfCallersAreIgnoredUnlessAskedFor(t *testing.T) {
	t.Parallel()
	byHeader := proxy.WithKeySource(proxy.FirstKey(proxy.HeaderKey("x-openai-key"), proxy.StaticKey(canary)))
	const caller = "sk-of-the-caller-0123456789"
	for _, mode := range []struct {
		name    string
		options []proxy.Option
		want    string
	}{
		{"off by default", nil, canary},
		{"on", []proxy.Option{byHeader}, caller},
	} {
		f := setup{options: mode.options, wrap: singleMounts}.start(t)
		for _, way := range everyWay(t, "hello", nil) {
			res, body := way.ask(t, f, "", "X-OpenAI-Key", caller, "OpenAI-Organization", "org-caller", "OpenAI-Project", "proj_caller",
				"Authorization", "Bearer dummy", "Cookie", "session=1")
			if res.StatusCode != http.StatusOK || strings.Contains(body, `"errors"`) {
				t.Fatalf("%s, %s: status %d: %s", mode.name, way.name(), res.StatusCode, body)
			}
			sent := f.up.Next()
			if got := sent.Header.Values("Authorization"); len(got) != 1 || got[0] != "Bearer "+mode.want {
				t.Errorf("%s, %s: sent %q, want %q", mode.name, way.name(), got, mode.want)
			}
			for _, name := range []string{"X-Openai-Key", "Openai-Organization", "Openai-Project", "Cookie", "Origin", "Referer"} {
				if got := sent.Header.Values(name); got != nil {
					t.Errorf("%s, %s: %s went on: %q", mode.name, way.name(), name, got)
				}
			}
		}
		if strings.Contains(f.logs.String(), caller) {
			t.Errorf("%s: the caller's key is in the log:\n%s", mode.name, f.logs)
		}
	}
	off := start(t)
	if res, _ := off.post(t, "/", askHello, "X-OpenAI-Key", "not a key"); res.StatusCode != http.StatusOK {
		t.Errorf("a header that nobody reads is judged: status %d", res.StatusCode)
	}
	on := start(t, byHeader)
	on.post(t, "/", askHello)
	if got := sentKey(on); got != canary {
		t.Errorf("without the header %q is sent, want the server's key", got)
	}
}

// Whose key an upstream refuses decides whose fault it is.
func TestUpstreamRefusesAKey(t *testing.T) {
	t.Parallel()
	const caller = "sk-of-the-caller-0123456789"
	source := proxy.FirstKey(proxy.HeaderKey("x-openai-key"), proxy.HeaderKey("Authorization"), proxy.StaticKey(canary))
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		for _, row := range []struct {
			name   string
			header []string
			status int
			code   string
		}{
			{"the server's", nil, http.StatusBadGateway, "upstream_auth"},
			{"the caller's", []string{"X-OpenAI-Key", caller}, status, "invalid_api_key"},
			{"the caller's bearer token", []string{"Authorization", "Bearer " + caller}, status, "invalid_api_key"},
		} {
			f := start(t, proxy.WithKeySource(source))
			f.up.Queue(proxytest.Failure(status, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-of-the*********6789. Org org-AbCdEf123."))
			res, body := f.post(t, chatPath, askHello, row.header...)
			if res.StatusCode != row.status || !strings.Contains(body, `"`+row.code+`"`) {
				t.Errorf("%s, %d: status %d, %s; want %d %s", row.name, status, res.StatusCode, body, row.status, row.code)
			}
			if strings.Contains(body, "6789") || strings.Contains(body, "AbCdEf") {
				t.Errorf("%s, %d: the upstream's words about the key are relayed: %s", row.name, status, body)
			}
			if row.code == "upstream_auth" {
				if strings.Contains(body, "Incorrect") || res.Header.Get("X-Should-Retry") != "false" {
					t.Errorf("%d: want a fixed text and no retry, got %s, X-Should-Retry %q", status, body, res.Header.Get("X-Should-Retry"))
				}
				if logs := f.logs.String(); !strings.Contains(logs, "Incorrect API key provided: ***") {
					t.Errorf("%d: the log does not say what the upstream said, scrubbed:\n%s", status, logs)
				}
			}
		}
	}
}
