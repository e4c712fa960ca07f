package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// Requests that several tests send.
const (
	askHello       = `{"model":"gpt-x","messages":[{"role":"user","content":"hi"}]}`
	askHelloStream = `{"model":"gpt-x","messages":[{"role":"user","content":"hi"}],"stream":true}`
	askImage       = `{"model":"img-x","prompt":"a cat"}`
	chatPath       = "/v1/chat/completions"
)

// preflight sends what a browser sends before a JSON POST.
func preflight(t testing.TB, f *fixture, path, origin string, header ...string) *http.Response {
	t.Helper()
	header = append([]string{
		"Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type",
	}, header...)
	res, body := f.do(t, http.MethodOptions, path, "", header...)
	if body != "" {
		t.Errorf("the preflight of %q was answered with a body: %q", origin, body)
	}
	return res
}

// varies reports whether an answer says that it depends on a request header.
func varies(h http.Header, name string) bool {
	for _, line := range h.Values("Vary") {
		for field := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(field), name) {
				return true
			}
		}
	}
	return false
}

// corsHeaders returns the names of all Access-Control headers.
func corsHeaders(h http.Header) (names []string) {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func nameList(line string) (names []string) {
	for name := range strings.SplitSeq(line, ",") {
		names = append(names, strings.ToLower(strings.TrimSpace(name)))
	}
	slices.Sort(names)
	return names
}

// wantOriginRefusal checks the answer to a real request that may not be made.
func wantOriginRefusal(t testing.TB, res *http.Response, body string) {
	t.Helper()
	if res.StatusCode != http.StatusForbidden || !strings.Contains(body, `"origin_not_allowed"`) {
		t.Errorf("status %d, body %q; want 403 origin_not_allowed", res.StatusCode, body)
	}
	if got := res.Header.Get("X-Should-Retry"); got != "false" {
		t.Errorf("X-Should-Retry %q, want false", got)
	}
	if names := corsHeaders(res.Header); names != nil {
		t.Errorf("a refused page is told %v", names)
	}
}

func TestWithoutOptionOnlyTheSameOriginIsServed(t *testing.T) {
	t.Parallel()
	for _, protocol := range []struct {
		name    string
		options []proxytest.ServerOption
	}{
		{"HTTP/1.1", nil},
		{"HTTP/2", []proxytest.ServerOption{proxytest.HTTP2()}},
	} {
		t.Run(protocol.name, func(t *testing.T) {
			t.Parallel()
			f := setup{client: protocol.options}.start(t)
			host := strings.TrimPrefix(f.URL, "http://")
			for _, row := range []struct {
				name   string
				header []string
				served bool
			}{
				{"a server or curl sends neither header", nil, true},
				{"the address bar", []string{"Sec-Fetch-Site", "none"}, true},
				{"the browser says same-origin", []string{"Sec-Fetch-Site", "same-origin", "Origin", f.URL}, true},
				{"the browser says same-origin, the Host was rewritten on the way", []string{"Sec-Fetch-Site", "same-origin", "Origin", "https://public.example.com"}, true},
				{"the browser says same-origin and hides the origin", []string{"Sec-Fetch-Site", "same-origin", "Origin", "null"}, true},
				{"the browser says same-origin without Origin", []string{"Sec-Fetch-Site", "same-origin"}, true},
				{"an old browser on the same host", []string{"Origin", f.URL}, true},
				{"TLS ends before us", []string{"Origin", "https://" + host}, true},
				{"another host name", []string{"Origin", "https://evil.example"}, false},
				{"the same name on another port", []string{"Origin", "http://127.0.0.1:1"}, false},
				{"the same name without the port", []string{"Origin", "http://127.0.0.1"}, false},
				{"another name of the same machine", []string{"Origin", strings.Replace(f.URL, "127.0.0.1", "localhost", 1)}, false},
				{"the host as a prefix", []string{"Origin", f.URL + ".evil.example"}, false},
				{"the host behind userinfo", []string{"Origin", "http://" + host + "@evil.example"}, false},
				{"userinfo before the host", []string{"Origin", "http://evil.example@" + host}, false},
				{"null", []string{"Origin", "null"}, false},
				{"the bare host", []string{"Origin", host}, false},
				{"the browser says cross-site, though the hosts are equal", []string{"Sec-Fetch-Site", "cross-site", "Origin", f.URL}, false},
				{"the browser says same-site, though the hosts are equal", []string{"Sec-Fetch-Site", "same-site", "Origin", f.URL}, false},
				{"cross-site without Origin", []string{"Sec-Fetch-Site", "cross-site"}, false},
				{"same-site without Origin", []string{"Sec-Fetch-Site", "same-site"}, false},
				{"the same origin twice", []string{"Origin", f.URL, "Origin", f.URL}, false},
			} {
				t.Run(row.name, func(t *testing.T) {
					before := len(f.up.Requests())
					res, body := f.post(t, chatPath, askHello, row.header...)
					calls := len(f.up.Requests()) - before
					if !row.served {
						wantOriginRefusal(t, res, body)
						if calls != 0 {
							t.Errorf("a refused request cost %d upstream calls", calls)
						}
						return
					}
					if res.StatusCode != http.StatusOK || calls != 1 {
						t.Errorf("status %d after %d upstream calls, want 200 after 1: %s", res.StatusCode, calls, body)
					}
					if names := corsHeaders(res.Header); names != nil {
						t.Errorf("without a list no origin is named, but there is %v", names)
					}
				})
			}
		})
	}
}

func TestSameOriginByHostHeader(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, row := range []struct {
		host, origin string
		served       bool
	}{
		{"app.example.com", "https://app.example.com", true},
		{"app.example.com", "http://app.example.com", true},
		{"app.example.com:8443", "https://app.example.com:8443", true},
		{"[::1]:8787", "http://[::1]:8787", true},
		{"app.example.com", "https://app.example.com:8443", false},
		{"app.example.com:8443", "https://app.example.com", false},
		{"app.example.com", "https://app.example.com.evil.example", false},
		{"app.example.com", "https://evilapp.example.com", false},
		{"app.example.com", "https://app.example.com/", false},
		{"[::1]:8787", "http://[::2]:8787", false},
	} {
		res, body := f.post(t, "/", askHello, "Host", row.host, "Origin", row.origin)
		if row.served != (res.StatusCode == http.StatusOK) {
			t.Errorf("Host %s, Origin %s: status %d, served want %v", row.host, row.origin, res.StatusCode, row.served)
		}
		if !row.served {
			wantOriginRefusal(t, res, body)
		}
	}
	f.wantCalls(t, 4)
}

// listedOrigins is the list that the table below and the fuzz test are about.
var listedOrigins = []string{
	"https://app.example.com",
	"https://*.example.org",
	"http://localhost:3000",
	"http://127.0.0.1:5173",
	"http://[::1]:8080",
	"https://port.example.net:8443",
	"https://*.sub.example.net:9443",
	"https://xn--bcher-kva.example",
	"https://UPPER.example.edu:443",
	"http://plain.example.edu:80",
	"capacitor://localhost",
	"chrome-extension://abcdefghijklmnopabcdefghijklmnop",
}

// originTable is judged against listedOrigins.
var originTable = []struct {
	name   string
	origin string
	listed bool
}{
	{"exact", "https://app.example.com", true},
	{"exact with a port", "https://port.example.net:8443", true},
	{"localhost with a port", "http://localhost:3000", true},
	{"IPv4 with a port", "http://127.0.0.1:5173", true},
	{"IPv6 with a port", "http://[::1]:8080", true},
	{"punycode", "https://xn--bcher-kva.example", true},
	{"written with capitals in the list", "https://upper.example.edu", true},
	{"written with the default port in the list, http", "http://plain.example.edu", true},
	{"custom scheme of an app", "capacitor://localhost", true},
	{"browser extension", "chrome-extension://abcdefghijklmnopabcdefghijklmnop", true},
	{"one label below a wildcard", "https://a.example.org", true},
	{"two labels below a wildcard", "https://a.b.example.org", true},
	{"six labels below a wildcard", "https://a.b.c.d.e.f.example.org", true},
	{"hyphen and digits below a wildcard", "https://pr-12--x.example.org", true},
	{"underscore below a wildcard", "https://my_app.example.org", true},
	{"punycode below a wildcard", "https://xn--bcher-kva.example.org", true},
	{"the domain twice below a wildcard", "https://example.org.example.org", true},
	{"below a wildcard with a port", "https://a.sub.example.net:9443", true},
	{"deep below a wildcard with a port", "https://a.b.sub.example.net:9443", true},

	{"suffix look-alike", "https://app.example.com.evil.example", false},
	{"suffix without a dot", "https://app.example.comevil.example", false},
	{"longer top-level domain", "https://app.example.community", false},
	{"shorter top-level domain", "https://app.example.co", false},
	{"prefix look-alike", "https://evilapp.example.com", false},
	{"prefix with a hyphen", "https://evil-app.example.com", false},
	{"subdomain of an exact origin", "https://x.app.example.com", false},
	{"parent of an exact origin", "https://example.com", false},
	{"sibling of an exact origin", "https://other.example.com", false},
	{"a port where none is listed", "https://app.example.com:8443", false},
	{"the default port spelled out", "https://app.example.com:443", false},
	{"http's port on https", "https://app.example.com:80", false},
	{"port 0", "https://app.example.com:0", false},
	{"empty port", "https://app.example.com:", false},
	{"a port that is no number", "https://app.example.com:https", false},
	{"port with a sign", "http://localhost:+3000", false},
	{"port with a leading zero", "http://localhost:03000", false},
	{"another port", "http://localhost:3001", false},
	{"a longer port", "http://localhost:30000", false},
	{"no port where one is listed", "http://localhost", false},
	{"another port than the listed one", "https://port.example.net:8444", false},
	{"no port where 8443 is listed", "https://port.example.net", false},
	{"http instead of https", "http://app.example.com", false},
	{"https instead of http", "https://localhost:3000", false},
	{"websocket scheme", "wss://app.example.com", false},
	{"ftp", "ftp://app.example.com", false},
	{"a longer scheme", "xhttps://app.example.com", false},
	{"a shorter scheme", "ttps://app.example.com", false},
	{"no scheme", "app.example.com", false},
	{"empty scheme", "://app.example.com", false},
	{"scheme-relative", "//app.example.com", false},
	{"scheme without slashes", "https:app.example.com", false},
	{"one slash", "https:/app.example.com", false},
	{"backslashes", `https:\\app.example.com`, false},
	{"a custom scheme with another host", "capacitor://evil", false},
	{"a custom scheme without host", "capacitor://", false},
	{"another extension", "chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba", false},
	{"scheme in capitals", "HTTPS://app.example.com", false},
	{"host in capitals", "https://APP.example.com", false},
	{"one capital", "https://app.Example.com", false},
	{"as written in the list, with capitals", "https://UPPER.example.edu", false},
	{"as written in the list, with the default port", "https://upper.example.edu:443", false},
	{"the name that punycode stands for", "https://bücher.example", false},
	{"a Cyrillic а", "https://аpp.example.com", false},
	{"punycode of another name", "https://xn--bcher-kvb.example", false},
	{"fullwidth letters", "https://ａpp.example.com", false},
	{"trailing dot", "https://app.example.com.", false},
	{"trailing dot before the port", "http://localhost.:3000", false},
	{"leading dot", "https://.app.example.com", false},
	{"two dots", "https://app..example.com", false},
	{"userinfo", "https://user@app.example.com", false},
	{"userinfo with a password", "https://user:pass@app.example.com", false},
	{"the listed host as userinfo", "https://app.example.com@evil.example", false},
	{"the listed host as userinfo with a port", "https://app.example.com:443@evil.example", false},
	{"null", "null", false},
	{"null in capitals", "NULL", false},
	{"undefined", "undefined", false},
	{"a list of two", "https://app.example.com https://evil.example", false},
	{"a list of two, the listed one last", "https://evil.example https://app.example.com", false},
	{"a list with a comma", "https://app.example.com,https://evil.example", false},
	{"the listed one twice in one header", "https://app.example.com, https://app.example.com", false},
	{"empty", "", false},
	{"a star", "*", false},
	{"file", "file://", false},
	{"file with a path", "file:///etc/passwd", false},
	{"data", "data:text/html,x", false},
	{"blob", "blob:https://app.example.com/uuid", false},
	{"about:blank", "about:blank", false},
	{"a path", "https://app.example.com/", false},
	{"a longer path", "https://app.example.com/login", false},
	{"a query", "https://app.example.com?x", false},
	{"a fragment", "https://app.example.com#x", false},
	{"a semicolon", "https://app.example.com;x", false},
	{"percent-encoding", "https://app%2eexample.com", false},
	{"an escaped NUL", "https://app.example.com%00.evil.example", false},
	{"8 KiB behind the listed one", "https://app.example.com" + strings.Repeat("a", 8<<10), false},
	{"8 KiB before the listed one", "https://" + strings.Repeat("a", 8<<10) + "app.example.com", false},
	{"8 KiB of dots", "https://" + strings.Repeat(".", 8<<10) + "example.org", false},
	{"8 KiB of slashes", strings.Repeat("https://", 1<<10), false},

	{"the wildcard's own domain", "https://example.org", false},
	{"the wildcard as written", "https://*.example.org", false},
	{"a star below a wildcard", "https://a.*.example.org", false},
	{"prefix of a wildcard's domain", "https://evilexample.org", false},
	{"suffix of a wildcard's domain", "https://a.example.org.evil.example", false},
	{"a wildcard's top-level domain", "https://org", false},
	{"sibling of a wildcard's domain", "https://a.example.com", false},
	{"empty label below a wildcard", "https://.example.org", false},
	{"empty label in the middle", "https://a..example.org", false},
	{"trailing dot below a wildcard", "https://a.example.org.", false},
	{"http below an https wildcard", "http://a.example.org", false},
	{"a port below a wildcard without", "https://a.example.org:8443", false},
	{"the default port below a wildcard", "https://a.example.org:443", false},
	{"no port below a wildcard with one", "https://a.sub.example.net", false},
	{"another port below a wildcard", "https://a.sub.example.net:9444", false},
	{"the domain of a wildcard with a port", "https://sub.example.net:9443", false},
	{"userinfo below a wildcard", "https://evil.example@a.example.org", false},
	{"userinfo that ends below a wildcard", "https://a.example.org@evil.example", false},
	{"a path that ends like a wildcard's domain", "https://evil.example/.example.org", false},
	{"a path with a label", "https://evil.example/a.example.org", false},
	{"a query that ends like a wildcard's domain", "https://evil.example?.example.org", false},
	{"a fragment that ends like a wildcard's domain", "https://evil.example#.example.org", false},
	{"a backslash before the wildcard's domain", `https://evil.example\.example.org`, false},
	{"a port before the wildcard's domain", "https://evil.example:443.example.org", false},
	{"a space before the wildcard's domain", "https://evil.example .example.org", false},
	{"an address before the wildcard's domain", "https://[::1].example.org", false},
	{"a bare IPv6 address as a label", "https://::1.example.org", false},
	{"percent-encoding below a wildcard", "https://a%2e.example.org", false},
	{"a letter beyond ASCII below a wildcard", "https://bücher.example.org", false},

	{"another IPv4 address", "http://127.0.0.2:5173", false},
	{"IPv4 in short form", "http://127.1:5173", false},
	{"IPv4 as a number", "http://2130706433:5173", false},
	{"IPv4 mapped into IPv6", "http://[::ffff:127.0.0.1]:5173", false},
	{"0.0.0.0", "http://0.0.0.0:5173", false},
	{"IPv6 on another port", "http://[::1]:8081", false},
	{"IPv6 without brackets", "http://::1:8080", false},
	{"IPv6 written out", "http://[0:0:0:0:0:0:0:1]:8080", false},
	{"IPv6 with a zone", "http://[::1%25lo]:8080", false},
	{"another IPv6 address", "http://[::2]:8080", false},
	{"IPv6 with the bracket left open", "http://[::1:8080", false},
}

func TestS17OriginTable(t *testing.T) {
	t.Parallel()
	if len(originTable) < 80 {
		t.Fatalf("the table has %d rows, want at least 80", len(originTable))
	}
	f := start(t, proxy.WithAllowedOrigins(listedOrigins...))
	for _, row := range originTable {
		t.Run(row.name, func(t *testing.T) {
			before := len(f.up.Requests())
			res, body := f.post(t, chatPath, askHello, "Origin", row.origin, "Sec-Fetch-Site", "cross-site")
			calls := len(f.up.Requests()) - before
			pre := preflight(t, f, chatPath, row.origin)
			for name, h := range map[string]http.Header{"the answer": res.Header, "the preflight": pre.Header} {
				if !varies(h, "Origin") {
					t.Errorf("%s has Vary %q, want Origin in it", name, h.Values("Vary"))
				}
			}
			if pre.StatusCode != http.StatusNoContent {
				t.Errorf("the preflight has status %d, want 204", pre.StatusCode)
			}
			if !row.listed {
				wantOriginRefusal(t, res, body)
				if calls != 0 {
					t.Errorf("a refused request cost %d upstream calls", calls)
				}
				if names := corsHeaders(pre.Header); names != nil {
					t.Errorf("a refused preflight is told %v", names)
				}
				return
			}
			if res.StatusCode != http.StatusOK || calls != 1 {
				t.Errorf("status %d after %d upstream calls, want 200 after 1: %s", res.StatusCode, calls, body)
			}
			for name, h := range map[string]http.Header{"the answer": res.Header, "the preflight": pre.Header} {
				if got := h.Values("Access-Control-Allow-Origin"); len(got) != 1 || got[0] != row.origin {
					t.Errorf("%s allows %q, want %q once", name, got, row.origin)
				}
				if got := h.Values("Access-Control-Allow-Credentials"); got != nil {
					t.Errorf("%s allows credentials: %q", name, got)
				}
			}
		})
	}
}

func TestSeveralOriginHeadersAreRefused(t *testing.T) {
	t.Parallel()
	const listed, other = "https://app.example.com", "https://evil.example"
	for _, patterns := range [][]string{{listed}, {"*"}} {
		f := start(t, proxy.WithAllowedOrigins(patterns...))
		for _, origins := range [][]string{{listed, listed}, {listed, other}, {other, listed}, {listed, "null"}, {listed, ""}} {
			res, body := f.post(t, "/", askHello, "Origin", origins[0], "Origin", origins[1])
			wantOriginRefusal(t, res, body)
			pre := preflight(t, f, "/", origins[0], "Origin", origins[1])
			if names := corsHeaders(pre.Header); pre.StatusCode != http.StatusNoContent || names != nil {
				t.Errorf("list %v, preflight of %q: status %d, told %v", patterns, origins, pre.StatusCode, names)
			}
		}
		f.wantCalls(t, 0)
	}
}

func TestS19RefusedRequestCostsNothing(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 100)
	f := setup{wrap: singleMounts, options: []proxy.Option{
		proxy.WithAllowedOrigins("https://app.example.com"),
		proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) { asked <- "the key source"; return canary, nil })),
		proxy.WithCaller(func(*http.Request) (proxy.Caller, error) { asked <- "the caller's name"; return proxy.Caller{}, nil }),
		proxy.WithHooks(proxy.Hooks{Admit: func(_ context.Context, _ proxy.Call) error { asked <- "Admit"; return nil }}),
	}}.start(t)
	for _, way := range everyWay(t, "hello", nil) {
		for _, header := range [][]string{
			{"Origin", "https://evil.example"}, {"Origin", "null"}, {"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"},
		} {
			res, body := way.ask(t, f, "", header...)
			if way.rewritten {
				gqlRead(t, res, body).wantStatus(t, http.StatusForbidden).refused(t, "ORIGIN_NOT_ALLOWED")
			} else {
				wantOriginRefusal(t, res, body)
			}
			preflight(t, f, way.path, header[1])
		}
		preflight(t, f, way.path, "https://app.example.com")
	}
	f.wantCalls(t, 0)
	select {
	case who := <-asked:
		t.Errorf("%s was asked for a refused request or a preflight", who)
	default:
	}
}

// sdkHeaders is what the official npm SDK asks for in a browser, in the form in
// which browsers ask.
const sdkHeaders = "authorization,content-type,openai-beta,openai-organization,openai-project," +
	"x-stainless-arch,x-stainless-custom-poll-interval,x-stainless-helper-method,x-stainless-lang,x-stainless-os," +
	"x-stainless-package-version,x-stainless-poll-helper,x-stainless-retry-count,x-stainless-runtime," +
	"x-stainless-runtime-version,x-stainless-timeout"

func TestPreflightOfTheOfficialSDKPasses(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithAllowedOrigins("https://app.example.com"))
	for _, path := range []string{
		"/", "/generate-image", "/images/generations", "/chat/completions", chatPath, "/v1/images/generations", "/v1/images/edits",
	} {
		res, _ := f.do(t, http.MethodOptions, path, "", "Origin", "https://app.example.com", "Sec-Fetch-Mode", "cors",
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", sdkHeaders)
		h := res.Header
		if res.StatusCode != http.StatusNoContent {
			t.Errorf("%s: status %d, want 204", path, res.StatusCode)
		}
		if got := h.Get("Access-Control-Allow-Origin"); got != "https://app.example.com" {
			t.Errorf("%s: origin %q", path, got)
		}
		if got := nameList(h.Get("Access-Control-Allow-Headers")); !slices.Equal(got, nameList(sdkHeaders)) {
			t.Errorf("%s: allowed headers\n %v, want\n %v", path, got, nameList(sdkHeaders))
		}
		want := nameList("GET, HEAD, POST, PUT, PATCH, DELETE")
		if got := nameList(h.Get("Access-Control-Allow-Methods")); !slices.Equal(got, want) {
			t.Errorf("%s: methods %v, want %v", path, got, want)
		}
		if got := h.Get("Access-Control-Max-Age"); got != "86400" {
			t.Errorf("%s: Max-Age %q, want 86400", path, got)
		}
		for _, name := range []string{"Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"} {
			if !varies(h, name) {
				t.Errorf("%s: Vary %q lacks %s", path, h.Values("Vary"), name)
			}
		}
	}
	f.wantCalls(t, 0)
}

func TestPreflightReflectsShortListsOfTokensOnly(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithAllowedOrigins("https://app.example.com"))
	long := func(n int) string { return strings.Repeat("a", n-2) + ",b" }
	for _, row := range []struct {
		name, asked string
		reflected   bool
	}{
		{"one", "content-type", true},
		{"two", "authorization,content-type", true},
		{"with blanks", "authorization, content-type", true},
		{"every token character", "!#$%&'*+-.^_`|~09azAZ", true},
		{"4 KiB", long(4 << 10), true},
		{"4 KiB and a byte", long(4<<10 + 1), false},
		{"64 KiB of commas", strings.Repeat(",", 64<<10), false},
		{"one comma", ",", false},
		{"a colon", "x-a:b", false},
		{"a slash", "a/b", false},
		{"quotes", `"a"`, false},
		{"a parenthesis", "a(b)", false},
		{"a blank inside a name", "x a", false},
		{"a letter beyond ASCII", "x-ü", false},
		{"empty", "", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			res, _ := f.do(t, http.MethodOptions, "/", "", "Origin", "https://app.example.com",
				"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", row.asked)
			if res.StatusCode != http.StatusNoContent || res.Header.Get("Access-Control-Allow-Origin") == "" {
				t.Errorf("status %d with %v, want 204 with the origin", res.StatusCode, res.Header)
			}
			got := res.Header.Values("Access-Control-Allow-Headers")
			if !row.reflected {
				if got != nil {
					t.Errorf("reflected %.80q", got)
				}
				return
			}
			if len(got) != 1 || !slices.Equal(nameList(got[0]), nameList(row.asked)) {
				t.Errorf("reflected %.80q, want %.80q", got, row.asked)
			}
		})
	}
}

// What a caller without any right makes the handler allocate must not grow with
// what he sends.
func TestS18HeadersOfOriginsCostLittle(t *testing.T) {
	h, err := proxy.NewHandler(proxy.WithAllowedOrigins(listedOrigins...))
	if err != nil {
		t.Fatal(err)
	}
	cost := func(header ...string) float64 {
		r := httptest.NewRequest(http.MethodOptions, "/", nil)
		r.Header.Set("Access-Control-Request-Method", "POST")
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return testing.AllocsPerRun(3, func() { h.ServeHTTP(httptest.NewRecorder(), r) })
	}
	for _, row := range []struct {
		name   string
		header func(size int) []string
	}{
		{"commas in a preflight", func(size int) []string {
			return []string{"Origin", "https://app.example.com", "Access-Control-Request-Headers", strings.Repeat(",", size)}
		}},
		{"names in a preflight", func(size int) []string {
			return []string{"Origin", "https://app.example.com", "Access-Control-Request-Headers", strings.Repeat("a,", size/2)}
		}},
		{"letters in an origin", func(size int) []string { return []string{"Origin", "https://" + strings.Repeat("a", size)} }},
		{"labels in an origin", func(size int) []string { return []string{"Origin", "https://" + strings.Repeat("a.", size/2)} }},
		{"labels below a wildcard", func(size int) []string {
			return []string{"Origin", "https://" + strings.Repeat("a.", size/2) + "example.org"}
		}},
	} {
		small, large := cost(row.header(1<<10)...), cost(row.header(64<<10)...)
		if large > small+10 {
			t.Errorf("%s: %.0f allocations for 64 KiB, %.0f for 1 KiB", row.name, large, small)
		}
	}
}

// answerKinds are requests that are answered in every way there is. The
// fixture of TestEveryAnswerCanBeReadByThePage serves them.
var answerKinds = []struct {
	name, method, path, body string
	header                   []string
	status                   int
}{
	{"200", "POST", chatPath, askHello, nil, 200},
	{"200 on the worker's face", "POST", "/", askHello, nil, 200},
	{"event stream", "POST", chatPath, askHelloStream, []string{"X-Test", "stream"}, 200},
	{"broken event stream", "POST", chatPath, askHelloStream, []string{"X-Test", "cut"}, 200},
	{"400 of ours", "POST", chatPath, "{", nil, 400},
	{"400 on the worker's face", "POST", "/", "{}", nil, 400},
	{"429 of the upstream", "POST", chatPath, askHello, []string{"X-Test", "429"}, 429},
	{"500 of the upstream", "POST", "/", askHello, []string{"X-Test", "500"}, 500},
	{"502", "POST", chatPath, askHello, []string{"X-Test", "502"}, 502},
	{"401 of the upstream", "POST", chatPath, askHello, []string{"X-Test", "401"}, 502},
	{"500 without a key", "POST", chatPath, askHello, []string{"X-Test", "nokey"}, 500},
	{"403 of a hook", "POST", chatPath, askHello, []string{"X-Test", "forbid"}, 403},
	{"recovered panic", "POST", chatPath, askHello, []string{"X-Test", "panic"}, 500},
	{"413", "POST", chatPath, `{"messages":[],"x":"` + strings.Repeat("x", 2<<10) + `"}`, nil, 413},
	{"415", "POST", chatPath, askHello, []string{"Content-Encoding", "gzip"}, 415},
	{"404", "POST", "/v1/models", askHello, nil, 404},
	{"404 of GET", "GET", "/nothing", "", nil, 404},
	{"404 of OPTIONS", "OPTIONS", "/nothing", "", nil, 404},
	{"plain OPTIONS", "OPTIONS", chatPath, "", nil, 204},
	{"405 of GET", "GET", chatPath, "", nil, 405},
	{"405 of HEAD", "HEAD", chatPath, "", nil, 405},
	{"405 of PUT", "PUT", "/", "", nil, 405},
	{"405 of PATCH", "PATCH", "/", "", nil, 405},
	{"405 of DELETE", "DELETE", "/generate-image", "", nil, 405},
	{"405 of TRACE", "TRACE", "/", "", nil, 405},
	{"405 of PROPFIND", "PROPFIND", "/", "", nil, 405},
	{"405 of M-SEARCH", "M-SEARCH", "/", "", nil, 405},
	{"405 of post in small letters", "post", "/", "", nil, 405},
	{"405 of a made-up method", "FROBNICATE", "/v1/images/edits", "", nil, 405},
	{"405 of an upgrade", "POST", "/", askHello, []string{"Connection", "Upgrade", "Upgrade", "websocket"}, 405},
	{"421", "POST", chatPath, askHello, []string{"Host", "rebound.example"}, 421},
	{"preflight", "OPTIONS", chatPath, "", []string{"Access-Control-Request-Method", "POST"}, 204},
}

// startAnswerKinds serves answerKinds with a list of origins.
func startAnswerKinds(t *testing.T, options ...proxy.Option) *fixture {
	t.Helper()
	scripts := map[string]proxytest.Answer{
		"stream": proxytest.ChatStream("hi"),
		"cut":    proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Cut()),
		"429":    proxytest.RateLimited(1),
		"500":    proxytest.Failure(500, "server_error", "", "oops"),
		"502":    proxytest.JSON(200, "<html>"),
		"401":    proxytest.Failure(401, "invalid_request_error", "invalid_api_key", "no"),
	}
	var f *fixture
	usual := []proxy.Option{
		proxy.WithAllowedHosts("127.0.0.1"),
		proxy.WithLimits(proxy.Limits{RequestBytes: 1 << 10}),
		proxy.WithKeySource(proxy.KeyFunc(func(r *http.Request) (string, error) {
			if r.Header.Get("X-Test") == "nokey" {
				return "", nil
			}
			return canary, nil
		})),
		proxy.WithHooks(proxy.Hooks{Admit: func(_ context.Context, call proxy.Call) error {
			switch want := call.Header.Get("X-Test"); want {
			case "panic":
				panic("a hook of the host")
			case "forbid":
				return io.ErrUnexpectedEOF
			default:
				if answer, ok := scripts[want]; ok {
					f.up.Queue(answer)
				}
			}
			return nil
		}}),
	}
	f = setup{options: append(usual, options...)}.start(t)
	return f
}

func TestEveryAnswerCanBeReadByThePage(t *testing.T) {
	t.Parallel()
	const listed = "https://app.example.com"
	f := startAnswerKinds(t, proxy.WithAllowedOrigins("https://*.example.org", listed), proxy.WithCredentials(true))
	for _, kind := range answerKinds {
		t.Run(kind.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), kind.method, f.URL+kind.path, strings.NewReader(kind.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Origin", listed)
			for i := 0; i < len(kind.header); i += 2 {
				req.Header.Set(kind.header[i], kind.header[i+1])
			}
			if host := req.Header.Get("Host"); host != "" {
				req.Host = host
			}
			res, err := f.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body) // broken, in one case
			_ = res.Body.Close()
			h := res.Header
			if res.StatusCode != kind.status {
				t.Errorf("status %d, want %d", res.StatusCode, kind.status)
			}
			if !varies(h, "Origin") {
				t.Errorf("Vary %q lacks Origin", h.Values("Vary"))
			}
			if got := h.Values("Access-Control-Allow-Origin"); len(got) != 1 || got[0] != listed {
				t.Errorf("allowed origin %q, want %q once", got, listed)
			}
			if got := h.Values("Access-Control-Allow-Credentials"); len(got) != 1 || got[0] != "true" {
				t.Errorf("allowed credentials %q, want true once", got)
			}
			if got := h.Values("Access-Control-Expose-Headers"); kind.name != "preflight" && len(got) != 1 {
				t.Errorf("exposed headers %q, want one line", got)
			}
		})
	}
}

func TestVaryIsOnEveryAnswer(t *testing.T) {
	t.Parallel()
	f := startAnswerKinds(t, proxy.WithAllowedOrigins("https://app.example.com"))
	for _, origin := range []string{"", "https://evil.example", "null", "the own"} {
		for _, kind := range answerKinds {
			req, err := http.NewRequestWithContext(t.Context(), kind.method, f.URL+kind.path, strings.NewReader(kind.body))
			if err != nil {
				t.Fatal(err)
			}
			switch origin {
			case "":
			case "the own":
				req.Header.Set("Origin", f.URL)
			default:
				req.Header.Set("Origin", origin)
			}
			for i := 0; i < len(kind.header); i += 2 {
				req.Header.Set(kind.header[i], kind.header[i+1])
			}
			if host := req.Header.Get("Host"); host != "" {
				req.Host = host
			}
			res, err := f.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if !varies(res.Header, "Origin") {
				t.Errorf("origin %q, %s: Vary %q lacks Origin", origin, kind.name, res.Header.Values("Vary"))
			}
			if names := corsHeaders(res.Header); names != nil {
				t.Errorf("origin %q, %s: told %v", origin, kind.name, names)
			}
		}
	}
}

func TestVaryOnConnect(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithAllowedOrigins("https://app.example.com"))
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = fmt.Fprint(conn, "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\nOrigin: https://app.example.com\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodPost})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed || !varies(res.Header, "Origin") {
		t.Errorf("status %d, Vary %q; want 405 with Origin", res.StatusCode, res.Header.Values("Vary"))
	}
	f.wantCalls(t, 0)
}

func TestExposedHeadersAreNamed(t *testing.T) {
	t.Parallel()
	want := nameList("x-request-id, retry-after, retry-after-ms, x-should-retry, openai-processing-ms, openai-version, " +
		"x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, " +
		"x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens")
	for _, allowed := range []string{"https://app.example.com", "*"} {
		f := start(t, proxy.WithAllowedOrigins(allowed))
		f.up.Queue(proxytest.RateLimited(1))
		for range 2 { // an error, then an answer
			res, _ := f.post(t, chatPath, askHello, "Origin", "https://app.example.com")
			if got := nameList(strings.Join(res.Header.Values("Access-Control-Expose-Headers"), ",")); !slices.Equal(got, want) {
				t.Errorf("origins %q, status %d: exposed %v, want %v", allowed, res.StatusCode, got, want)
			}
		}
	}
}

func TestCredentialsGoToListedOriginsOnly(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithAllowedOrigins("https://app.example.com", "https://*.example.org"), proxy.WithCredentials(true))
	for origin, want := range map[string]string{
		"https://app.example.com": "true", "https://a.example.org": "true",
		"https://evil.example": "", "null": "", f.URL: "",
	} {
		res, _ := f.post(t, "/", askHello, "Origin", origin)
		pre := preflight(t, f, "/", origin)
		for _, h := range []http.Header{res.Header, pre.Header} {
			if got := h.Get("Access-Control-Allow-Credentials"); got != want {
				t.Errorf("%s: credentials %q, want %q", origin, got, want)
			}
		}
	}
	off := start(t, proxy.WithAllowedOrigins("https://app.example.com"), proxy.WithCredentials(true), proxy.WithCredentials(false))
	res, _ := off.post(t, "/", askHello, "Origin", "https://app.example.com")
	if got := res.Header.Get("Access-Control-Allow-Credentials"); got != "" {
		t.Errorf("the last WithCredentials(false) does not win: %q", got)
	}
}

func TestEveryOriginAllowed(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithAllowedOrigins("https://app.example.com", "*"))
	for _, origin := range []string{"https://app.example.com", "https://evil.example", "null", "file://"} {
		res, _ := f.post(t, "/", askHello, "Origin", origin, "Sec-Fetch-Site", "cross-site")
		pre := preflight(t, f, "/", origin)
		if res.StatusCode != http.StatusOK || pre.StatusCode != http.StatusNoContent {
			t.Errorf("%s: status %d and %d, want 200 and 204", origin, res.StatusCode, pre.StatusCode)
		}
		for _, h := range []http.Header{res.Header, pre.Header} {
			if got := h.Values("Access-Control-Allow-Origin"); len(got) != 1 || got[0] != "*" {
				t.Errorf("%s: allowed origin %q, want * and never the origin itself", origin, got)
			}
			if got := h.Values("Access-Control-Allow-Credentials"); got != nil {
				t.Errorf("%s: credentials %q beside *", origin, got)
			}
		}
	}
	if _, err := proxy.NewHandler(proxy.WithAllowedOrigins("*"), proxy.WithCredentials(true)); err == nil {
		t.Error("credentials beside * are no configuration error")
	}
}

func TestUpstreamsOwnCORSHeadersAreDropped(t *testing.T) {
	t.Parallel()
	f := start(t)
	for range 2 {
		res, _ := f.post(t, chatPath, askHello)
		if names := corsHeaders(res.Header); names != nil {
			t.Errorf("status %d: the upstream's %v came through", res.StatusCode, names)
		}
		f.up.Queue(proxytest.Failure(400, "invalid_request_error", "", "no"))
	}
}

func TestVaryOfTheHostIsKept(t *testing.T) {
	t.Parallel()
	f := setup{
		options: []proxy.Option{proxy.WithAllowedOrigins("https://app.example.com")},
		wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Vary", "Accept-Language")
				next.ServeHTTP(w, r)
			})
		},
	}.start(t)
	f.up.Queue(proxytest.Chat("hi").WithHeader("Vary", "X-Upstream"))
	answer, _ := f.post(t, chatPath, askHello)
	refused, _ := f.post(t, chatPath, askHello, "Origin", "https://evil.example")
	wrong, _ := f.do(t, http.MethodGet, chatPath, "")
	for name, h := range map[string]http.Header{
		"an answer": answer.Header, "a refusal": refused.Header, "a 405": wrong.Header,
		"a preflight": preflight(t, f, "/", "https://app.example.com").Header,
	} {
		if !varies(h, "Accept-Language") || !varies(h, "Origin") || varies(h, "X-Upstream") {
			t.Errorf("%s: Vary %q, want the host's and Origin, nothing of the upstream's", name, h.Values("Vary"))
		}
	}
}

// A middleware that writes into the slices of one answer must not reach the
// next answer through a slice that they share.
func TestHeaderValuesAreFreshForEachAnswer(t *testing.T) {
	t.Parallel()
	const poison = "poisoned"
	f := setup{
		options: []proxy.Option{proxy.WithAllowedOrigins("https://app.example.com"), proxy.WithCredentials(true)},
		wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r)
				for _, values := range w.Header() {
					values = values[:cap(values)]
					for i := range values {
						values[i] = poison
					}
				}
			})
		},
	}.start(t)
	seen := func() string {
		var b strings.Builder
		for _, path := range []string{chatPath, "/", "/nothing"} {
			for _, method := range []string{"POST", "GET", "OPTIONS"} {
				res, _ := f.do(t, method, path, askHello, "Origin", "https://app.example.com")
				_ = res.Header.Write(&b)
			}
			res, _ := f.do(t, http.MethodOptions, path, "", "Origin", "https://app.example.com", "Access-Control-Request-Method", "POST")
			_ = res.Header.Write(&b)
		}
		res, _ := f.post(t, chatPath, askHelloStream)
		_ = res.Header.Write(&b)
		return b.String()
	}
	seen()
	if second := seen(); strings.Contains(second, poison) {
		t.Errorf("a header of an earlier answer is in a later one:\n%s", second)
	}
}

func TestAllowedHosts(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithAllowedHosts("localhost", "Proxy.Example.com", "exact.example.com:8443", "[::1]", "[::2]:9000", "127.0.0.1"),
		proxy.WithAllowedOrigins("https://app.example.com"))
	for _, row := range []struct {
		host   string
		served bool
	}{
		{"localhost", true},
		{"localhost:8787", true},
		{"LOCALHOST:1", true},
		{"proxy.example.com", true},
		{"PROXY.example.com:443", true},
		{"exact.example.com:8443", true},
		{"127.0.0.1", true},
		{"127.0.0.1:9", true},
		{"[::1]", true},
		{"[::1]:8787", true},
		{"[::2]:9000", true},
		{"exact.example.com", false},
		{"exact.example.com:443", false},
		{"[::2]", false},
		{"[::2]:9001", false},
		{"[::3]:8787", false},
		{"localhost.", false},
		{"localhost.evil.example", false},
		{"evil.localhost", false},
		{"xlocalhost", false},
		{"rebound.example", false},
		{"rebound.example:8787", false},
		{"127.0.0.2", false},
		{"127.0.0.1.evil.example", false},
		{"0.0.0.0:8787", false},
	} {
		before := len(f.up.Requests())
		res, body := f.post(t, chatPath, askHello, "Host", row.host)
		calls := len(f.up.Requests()) - before
		pre := preflight421(t, f, row.host)
		if row.served {
			if res.StatusCode != http.StatusOK || calls != 1 || pre != http.StatusNoContent {
				t.Errorf("Host %s: status %d after %d calls, preflight %d; want it served", row.host, res.StatusCode, calls, pre)
			}
			continue
		}
		if res.StatusCode != http.StatusMisdirectedRequest || !strings.Contains(body, `"host_not_allowed"`) || calls != 0 || pre != 421 {
			t.Errorf("Host %s: status %d after %d calls, preflight %d, %s; want 421 host_not_allowed", row.host, res.StatusCode, calls, pre, body)
		}
	}
	for _, path := range []string{"/", "/nothing"} {
		if res, _ := f.do(t, http.MethodGet, path, "", "Host", "rebound.example"); res.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("GET %s of another host: status %d, want 421", path, res.StatusCode)
		}
	}
}

func preflight421(t testing.TB, f *fixture, host string) int {
	t.Helper()
	res, _ := f.do(t, http.MethodOptions, chatPath, "", "Host", host,
		"Origin", "https://app.example.com", "Access-Control-Request-Method", "POST")
	return res.StatusCode
}

// A page of a rebound name is same-origin to itself; the Host list is what stops
// it, and it is asked first.
func TestS19ReboundPageIsStoppedByItsHost(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithAllowedHosts("localhost", "127.0.0.1"))
	res, _ := f.post(t, "/", askHello, "Host", "rebound.example", "Origin", "http://rebound.example", "Sec-Fetch-Site", "same-origin")
	if res.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("status %d, want 421", res.StatusCode)
	}
	f.wantCalls(t, 0)
}

// An address that the list takes must match what clients write for it.
func TestAllowedHostThatIsTakenMatches(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ entry, host string }{
		{"::1", "[::1]:8787"},
		{"::1", "[::1]"},
		{"[::1]", "[::1]:8787"},
		{"[::1]:8787", "[::1]:8787"},
		{"LocalHost:8787", "localhost:8787"},
	} {
		up := proxytest.NewUpstream(t)
		h, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithUpstream(up.URL()), proxy.WithAllowedHosts(row.entry))
		if err != nil {
			continue // refusing it is as good
		}
		srv := proxytest.Serve(t, h)
		req, _ := http.NewRequest(http.MethodPost, srv.URL, strings.NewReader(askHello))
		req.Host = row.host
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("WithAllowedHosts(%q) is accepted and refuses Host %s with %d", row.entry, row.host, res.StatusCode)
		}
	}
}

func TestOriginRulesHoldForSubHandlers(t *testing.T) {
	t.Parallel()
	for _, part := range []struct {
		name, body string
		of         func(*proxy.Handler) http.Handler
	}{
		{"Chat", askHello, (*proxy.Handler).Chat},
		{"Images", askImage, (*proxy.Handler).Images},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			f := setup{
				options: []proxy.Option{proxy.WithAllowedOrigins("https://app.example.com"), proxy.WithAllowedHosts("127.0.0.1")},
				wrap:    func(h http.Handler) http.Handler { return part.of(h.(*proxy.Handler)) },
			}.start(t)
			res, body := f.post(t, "/anywhere", part.body, "Origin", "https://evil.example")
			wantOriginRefusal(t, res, body)
			if pre := preflight(t, f, "/anywhere", "https://app.example.com"); pre.Header.Get("Access-Control-Allow-Origin") == "" {
				t.Errorf("the preflight of a listed origin is answered with %d and %v", pre.StatusCode, pre.Header)
			}
			if got := preflight421(t, f, "rebound.example"); got != 421 {
				t.Errorf("another host: %d, want 421", got)
			}
			res, _ = f.post(t, "/anywhere", part.body, "Origin", "https://app.example.com")
			if res.StatusCode != http.StatusOK || res.Header.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
				t.Errorf("a listed origin: status %d, %v", res.StatusCode, res.Header)
			}
			f.wantCalls(t, 1)
		})
	}
}

func TestS20HostValuesDoNotChangeTheAnswer(t *testing.T) {
	t.Parallel()
	f, hosts := start(t), 0
	for _, host := range []string{
		"api.openai.com", "localhost", "127.0.0.1:1", "[::1]:99", "EXAMPLE.com", "example.com.", "a.b.c.d.e.f", "x:65535", "_", "xn--bcher-kva",
		"169.254.169.254", "metadata.google.internal", strings.Repeat("a", 1000), "localhost:4000", "0.0.0.0", "0", "127.1", "2130706433",
		"[::]", "[::ffff:127.0.0.1]:80", "[fe80::1]", "a:", "a:0", "-a", "a-", "a..b", "*.example.com", "user.example.com:443", "admin", "null",
		"chat", "127.0.0.1.nip.io",
	} {
		hosts++
		res, body := f.post(t, chatPath, askHello, "Host", host)
		if res.StatusCode != http.StatusOK || res.Header.Get("Location") != "" || strings.Contains(body, host+"/") {
			t.Errorf("Host %.40s: status %d, Location %q", host, res.StatusCode, res.Header.Get("Location"))
		}
	}
	if f.wantCalls(t, hosts); hosts < 30 {
		t.Errorf("%d hosts, want 30", hosts)
	}
	upstream, err := url.Parse(f.up.URL())
	if err != nil {
		t.Fatal(err)
	}
	for _, req := range f.up.Requests() {
		if req.Host != upstream.Host || req.Header.Get("X-Forwarded-Host") != "" || req.Header.Get("Origin") != "" {
			t.Errorf("the upstream saw Host %q and %v", req.Host, req.Header)
		}
	}
}
