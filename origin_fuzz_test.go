package proxy_test

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
)

// The second matcher knows nothing of the first: it is one regular expression,
// for a list of one.
var (
	patternForm = regexp.MustCompile(`^([a-z][a-z0-9+.-]*)://(\*\.)?([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?$`)
	labelsForm  = `[a-z0-9_-]+(?:\.[a-z0-9_-]+)*`
)

// secondMatcher reports whether a page of origin may call when only pattern is
// listed.
func secondMatcher(pattern, origin string) bool {
	if pattern == "*" {
		return true
	}
	p := patternForm.FindStringSubmatch(strings.ToLower(pattern))
	if p == nil {
		return false
	}
	scheme, wildcard, host, port := p[1], p[2] != "", p[3], p[4]
	if scheme == "https" && port == ":443" || scheme == "http" && port == ":80" {
		port = ""
	}
	if !wildcard {
		return origin == scheme+"://"+host+port
	}
	want := "^" + regexp.QuoteMeta(scheme+"://") + labelsForm + regexp.QuoteMeta("."+host+port) + "$"
	return regexp.MustCompile(want).MatchString(origin)
}

// sendable reports whether s can be the value of a header as net/http reads it.
func sendable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return s == strings.TrimSpace(s)
}

func quietLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

// askPreflight asks h directly, without a connection: the fuzzer is faster so.
func askPreflight(h http.Handler, origin string) http.Header {
	r := httptest.NewRequest(http.MethodOptions, "http://own.invalid/", nil)
	r.Header["Origin"] = []string{origin}
	r.Header.Set("Access-Control-Request-Method", http.MethodPost)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Header()
}

func FuzzOrigin(f *testing.F) {
	for _, pattern := range listedOrigins {
		f.Add(pattern, pattern)
		f.Add(pattern, strings.Replace(pattern, "*.", "a.", 1))
	}
	for _, row := range originTable {
		f.Add("https://app.example.com", row.origin)
		f.Add("https://*.example.org", row.origin)
		f.Add(row.origin, row.origin)
	}
	f.Add("*", "null")
	f.Fuzz(func(t *testing.T, pattern, origin string) {
		if !sendable(origin) || origin == "" {
			return
		}
		if lower := strings.ToLower(origin); lower != origin {
			origin = lower // browsers write no capitals; what they would mean is nobody's question
		}
		h, err := proxy.NewHandler(proxy.WithAllowedOrigins(pattern), proxy.WithLogger(quietLogger()))
		if err != nil {
			var problem *proxy.OptionError
			if !errors.As(err, &problem) || problem.Option != "WithAllowedOrigins" {
				t.Errorf("pattern %q: %v is no OptionError of WithAllowedOrigins", pattern, err)
			}
			return
		}
		got := askPreflight(h, origin).Get("Access-Control-Allow-Origin")
		want := ""
		if secondMatcher(pattern, origin) {
			want = origin
			if pattern == "*" {
				want = "*"
			}
		}
		if got != want {
			t.Errorf("pattern %q, origin %q: allowed %q, the second matcher says %q", pattern, origin, got, want)
		}
	})
}

func FuzzParseOrigins(f *testing.F) {
	for _, pattern := range listedOrigins {
		f.Add(pattern, "localhost:8787", "https://api.openai.com/v1")
	}
	for _, row := range originTable {
		f.Add(row.origin, "[::1]", row.origin)
		f.Add("https://app.example.com", row.origin, "https://api.openai.com/v1?api-version=1")
	}
	f.Fuzz(func(t *testing.T, origin, host, upstream string) {
		h, err := proxy.NewHandler(proxy.WithAllowedOrigins(origin, "https://app.example.com"), proxy.WithAllowedHosts(host),
			proxy.WithUpstream(upstream), proxy.WithLogger(quietLogger()))
		if err != nil {
			joined, ok := err.(interface{ Unwrap() []error })
			if !ok {
				t.Fatalf("%v is not joined", err)
			}
			for _, one := range joined.Unwrap() {
				if _, ok := errors.AsType[*proxy.OptionError](one); !ok {
					t.Errorf("%v is no OptionError", one)
				}
			}
			// The lenient twin takes the same without a panic, and refuses to serve.
			w := httptest.NewRecorder()
			proxy.New(proxy.WithAllowedOrigins(origin), proxy.WithAllowedHosts(host), proxy.WithUpstream(upstream),
				proxy.WithAllowedOrigins("!"), proxy.WithLogger(quietLogger())).
				ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}")))
			if body, _ := io.ReadAll(w.Body); w.Code != http.StatusInternalServerError || !strings.Contains(string(body), "misconfigured") {
				t.Errorf("New answers %d %s", w.Code, body)
			}
			return
		}
		askPreflight(h, "https://app.example.com")
	})
}
