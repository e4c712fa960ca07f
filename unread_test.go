package proxy_test

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// unreadAnswer sends a raw request and returns the answer, which must come at
// once. It runs in a bubble.
func unreadAnswer(t *testing.T, f *fixture, raw string) *http.Response {
	t.Helper()
	conn, err := f.Transport().DialContext(t.Context(), "tcp", "proxy.test:80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Hour)) // of the bubble
	began := time.Now()
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(raw, " ")
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer after %v: %v", time.Since(began), err)
	}
	if _, err := io.ReadAll(res.Body); err != nil {
		t.Errorf("reading the answer: %v", err)
	}
	_ = res.Body.Close()
	wantTook(t, began, 0)
	return res
}

func TestRefusalDoesNotWaitForTheBody(t *testing.T) {
	t.Parallel()
	const (
		evil   = "Origin: https://evil.example\r\n"
		method = "Access-Control-Request-Method: POST\r\n"
	)
	for name, tt := range map[string]struct {
		head, host, more string
		status           int
	}{
		"origin":            {"POST " + streamPath, "proxy.test", evil, http.StatusForbidden},
		"path":              {"POST /nope", "proxy.test", "", http.StatusNotFound},
		"method":            {"PUT " + streamPath, "proxy.test", "", http.StatusMethodNotAllowed},
		"GET":               {"GET " + streamPath, "proxy.test", "", http.StatusMethodNotAllowed},
		"host":              {"POST " + streamPath, "evil.test", "", http.StatusMisdirectedRequest},
		"preflight":         {"OPTIONS " + streamPath, "proxy.test", "Origin: https://app.example\r\n" + method, http.StatusNoContent},
		"refused preflight": {"OPTIONS " + streamPath, "proxy.test", evil + method, http.StatusNoContent},
		"OPTIONS":           {"OPTIONS " + streamPath, "proxy.test", "", http.StatusNoContent},
		"GraphQL by GET":    {"GET /graphql?query=%7B__typename%7D", "proxy.test", "", http.StatusOK},
		"schema":            {"GET /graphql/schema", "proxy.test", "", http.StatusOK},
		"coding":            {"POST " + streamPath, "proxy.test", "Content-Encoding: br\r\n", http.StatusUnsupportedMediaType},
		"announced length":  {"POST " + streamPath, "proxy.test", "", http.StatusRequestEntityTooLarge},
	} {
		for kind, body := range map[string]string{
			"length, none":  "Content-Length: 10\r\n\r\n",
			"length, part":  "Content-Length: 10\r\n\r\n{",
			"chunked, none": "Transfer-Encoding: chunked\r\n\r\n",
			"chunked, part": "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
		} {
			if name == "announced length" {
				if strings.HasPrefix(kind, "chunked") {
					continue // announces nothing
				}
				body = strings.Replace(body, "10", "1000", 1)
			}
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					f := inMemory(proxy.WithAllowedHosts("proxy.test"), proxy.WithAllowedOrigins("https://app.example"),
						proxy.WithLimits(proxy.Limits{RequestBytes: 100})).start(t)
					res := unreadAnswer(t, f, tt.head+" HTTP/1.1\r\nHost: "+tt.host+"\r\n"+tt.more+body)
					if res.StatusCode != tt.status || !res.Close {
						t.Errorf("status %d, Connection: close %t; want %d and true", res.StatusCode, res.Close, tt.status)
					}
					f.wantCalls(t, 0)
				})
			})
		}
	}
}

// Where no body is to come, or all of it was read, the connection stays.
func TestConnectionStaysOpenWhereNothingIsUnread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := inMemory().start(t)
		for raw, status := range map[string]int{
			"POST /nope HTTP/1.1\r\nHost: proxy.test\r\nContent-Length: 0\r\n\r\n":                  http.StatusNotFound,
			"GET " + streamPath + " HTTP/1.1\r\nHost: proxy.test\r\n\r\n":                           http.StatusMethodNotAllowed,
			rawRequest(streamPath, "{", 1):                                                          http.StatusBadRequest,
			rawRequest(streamPath, `{"messages":7}`, 14):                                            http.StatusBadRequest,
			rawRequest(streamPath, `{"messages":[{"role":"user","content":"hi"}],"model":"m"}`, 57): http.StatusOK,
		} {
			if res := unreadAnswer(t, f, raw); res.StatusCode != status || res.Close {
				t.Errorf("%q: status %d, Connection: close %t; want %d and false", raw, res.StatusCode, res.Close, status)
			}
		}
	})
}
