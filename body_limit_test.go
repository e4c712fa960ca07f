package proxy_test

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// bdChunked sends a body whose length is not announced.
func bdChunked(t *testing.T, f *fixture, path, body, contentType string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+path, struct{ io.Reader }{strings.NewReader(body)})
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	f.up.Queue(proxytest.JSON(http.StatusOK, `{"ok":true}`))
	res, err := f.Client().Do(req)
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

func TestS10BodiesAreBoundedWithAndWithoutTheirLength(t *testing.T) {
	t.Parallel()
	const limit = 1000
	body := func(size int) string {
		const head, tail = `{"model":"m","prompt":"p","messages":["`, `"]}`
		return head + strings.Repeat("x", size-len(head)-len(tail)) + tail
	}
	for name, opts := range map[string][]proxytest.ServerOption{"HTTP1": nil, "HTTP2": {proxytest.HTTP2()}} {
		for _, row := range rtRoutes() {
			t.Run(name+row.path+"_to"+row.target, func(t *testing.T) {
				t.Parallel()
				f := setup{client: opts, options: []proxy.Option{proxy.WithLimits(proxy.Limits{RequestBytes: limit})}}.start(t)
				bdForwarded(t, f, row.path, body(limit))
				bdRefused(t, f, row.path, body(limit+1), 413, "body_too_large", "")
				if res, text := bdChunked(t, f, row.path, body(limit), "application/json"); res.StatusCode != 200 {
					t.Errorf("status %d: %s, want 200", res.StatusCode, text)
				}
				if got := f.up.Requests(); len(got) != 2 || string(got[1].Body) != body(limit) {
					t.Errorf("%d calls, want 2, the second with the whole body", len(got))
				}
				if res, text := bdChunked(t, f, row.path, body(limit+1), "application/json"); res.StatusCode != 413 || !strings.Contains(text, `"code":"body_too_large"`) {
					t.Errorf("status %d: %s, want 413", res.StatusCode, text)
				}
				f.wantCalls(t, 2)
			})
		}
	}
}

func TestFormsAreBoundedToo(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithLimits(proxy.Limits{RequestBytes: 1000}))
	form := "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n" + strings.Repeat("x", 1000) + "\r\n--b--\r\n"
	bdRefused(t, f, "/v1/images/edits", form, 413, "body_too_large", "", "Content-Type", "multipart/form-data; boundary=b")
	if res, text := bdChunked(t, f, "/v1/images/edits", form, "multipart/form-data; boundary=b"); res.StatusCode != 413 {
		t.Errorf("status %d: %s, want 413", res.StatusCode, text)
	}
	f.wantCalls(t, 0)
}

func TestNegativeLimitTakesEverything(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithLimits(proxy.Limits{RequestBytes: -1}))
	body := `{"model":"m","messages":["` + strings.Repeat("x", 3<<20) + `"]}`
	bdForwarded(t, f, "/v1/chat/completions", body)
	if res, text := bdChunked(t, f, "/v1/chat/completions", body, "text/plain"); res.StatusCode != 200 {
		t.Errorf("status %d: %s, want 200", res.StatusCode, text)
	}
	if got := f.up.Requests(); len(got) != 2 || string(got[1].Body) != body {
		t.Errorf("%d calls, want 2, the second with the whole body", len(got))
	}
}

// The length alone is enough: not a byte of such a body is waited for.
func TestS10AnnouncedLengthPastTheLimitIsRefusedUnread(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, path := range []string{"/", "/v1/chat/completions", "/v1/images/generations"} {
		for _, length := range []int64{32<<20 + 1, 1 << 40} {
			res, text := rtRaw(t, f, "POST", path, "Content-Length: "+strconv.FormatInt(length, 10)+"\r\n\r\n")
			if res.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(text, `"code":"body_too_large"`) {
				t.Errorf("%s with %d bytes: status %d: %s, want 413", path, length, res.StatusCode, text)
			}
		}
	}
	f.wantCalls(t, 0)
}

// bdTruncated sends the start of a request, ends the connection's way up, and
// reads whatever comes down.
func bdTruncated(t *testing.T, f *fixture, raw string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(conn)
	return string(text)
}

func TestBodiesThatDoNotArriveWholeAreNotForwarded(t *testing.T) {
	t.Parallel()
	f := start(t)
	const head = "POST /v1/chat/completions HTTP/1.1\r\nHost: proxy.example\r\nConnection: close\r\n"
	for _, raw := range []string{
		head + "Content-Length: 1000\r\n\r\n" + rtChat,
		head + "Content-Length: " + strconv.Itoa(len(rtChat)+1) + "\r\n\r\n" + rtChat,
		head + "Transfer-Encoding: chunked\r\n\r\n" + strconv.FormatInt(int64(len(rtChat)), 16) + "\r\n" + rtChat + "\r\n",
		head + "Transfer-Encoding: chunked\r\n\r\n" + strconv.FormatInt(int64(len(rtChat)), 16) + "\r\n" + rtChat + "\r\nzz\r\n",
		head + "Transfer-Encoding: chunked\r\n\r\n" + strconv.FormatInt(int64(len(rtChat)), 16) + "\r\n" + rtChat + "X",
	} {
		if text := bdTruncated(t, f, raw); text != "" && !strings.HasPrefix(text, "HTTP/1.1 4") {
			t.Errorf("%q: %q, want a 4xx or nothing", raw, text)
		}
	}
	f.wantCalls(t, 0)
}

// Half a megabyte of tiny members is a small body; judging its keys must not
// take longer than reading it. The ceiling is far above what that needs.
func TestManyKeysCostLittle(t *testing.T) {
	t.Parallel()
	f := start(t)
	body := `{"model":"m","messages":[],` + strings.Repeat(`"":0,`, 100_000) + `"x":1}`
	client := *f.Client()
	client.Timeout = 10 * time.Second
	res, err := client.Post(f.URL+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("status %d, %v, want 200", res.StatusCode, err)
	}
}
