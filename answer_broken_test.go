package proxy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

const (
	anUnusable    = "The upstream's answer was not usable."
	anUnreachable = "The upstream could not be reached."
)

func anBadResponse() string {
	return anOpenAI(502, anUnusable, "upstream_error", "", "upstream_bad_response")
}

func anNotReached() string {
	return anOpenAI(502, anUnreachable, "upstream_error", "", "upstream_unreachable")
}

func TestF15AnswerMustBeLabelledAndShapedAsJSON(t *testing.T) {
	t.Parallel()
	f := start(t)
	good := []string{
		"application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8", "APPLICATION/JSON", " application/json ", "application/problem+json",
		"application/vnd.api+json; v=1", "Application/LD+JSON",
	}
	bad := []string{
		"text/html", "text/plain", "text/plain; charset=utf-8", "application/octet-stream", "application/jsonp", "application/json-seq", "application/x-ndjson",
		"application/xml", "image/png", "text/json2", "json", "multipart/mixed", "application/javascript", "text/event-streams",
	}
	for _, contentType := range good {
		res, body := anAsk(t, f, proxytest.JSON(200, `{"a":1}`).WithHeader("Content-Type", contentType))
		anWant(t, res, body, 200, `{"a":1}`)
		if got := res.Header.Get("Content-Type"); got != strings.TrimSpace(contentType) {
			t.Errorf("Content-Type %q, want %q", got, contentType)
		}
	}
	for _, contentType := range bad {
		res, body := anAsk(t, f, proxytest.JSON(200, `{"a":1}`).WithHeader("Content-Type", contentType))
		anWant(t, res, body, 502, anBadResponse())
	}
	raw := proxytest.Raw("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\n" + `{"a":1}`)
	res, body := anAsk(t, f, raw)
	anWant(t, res, body, 502, anBadResponse())
	for _, text := range []string{
		"", " ", "\n\n", "null", "true", "1", `"text"`, "<html></html>", "{", "}", "[", "]", "{]", "[}", `{"a":1`, `"a":1}`, `{"a":[1]`, `{"a":1}x`, `x{"a":1}`, `[1,2`, "OK",
		"\ufeff{}", "{}\x00", "\x00{}", "{}\ufeff", "data: {}\n\n",
	} {
		for _, status := range []int{200, 201} {
			res, body := anAsk(t, f, proxytest.JSON(status, text))
			anWant(t, res, body, 502, anBadResponse())
		}
	}
	for _, status := range []int{204, 205} {
		res, body := anAsk(t, f, proxytest.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		anWant(t, res, body, 502, anBadResponse())
	}
}

func TestF5BrokenAnswersAre502(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	type row struct {
		answer proxytest.Answer
		want   string
	}
	cases := map[string]row{
		"closed without a word":        {proxytest.Raw(""), anNotReached()},
		"cut before the headers":       {proxytest.JSON(200, "{}").After(proxytest.Cut()), anNotReached()},
		"reset before the headers":     {proxytest.JSON(200, "{}").After(proxytest.Reset()), anNotReached()},
		"reset, unread":                {proxytest.JSON(200, "{}").After(proxytest.Reset()).Early(), anNotReached()},
		"not HTTP":                     {proxytest.Raw("SSH-2.0-OpenSSH_9.6\r\n"), anNotReached()},
		"HTTP of another kind":         {proxytest.Raw("HTTP/3 200\r\n\r\n"), anNotReached()},
		"half a status line":           {proxytest.Raw("HTTP/1.1 2"), anNotReached()},
		"half a header":                {proxytest.Raw("HTTP/1.1 200 OK\r\nContent-Ty"), anNotReached()},
		"header without a colon":       {proxytest.Raw("HTTP/1.1 200 OK\r\nno header\r\n\r\n{}"), anNotReached()},
		"status of no number":          {proxytest.Raw("HTTP/1.1 abc OK\r\n\r\n"), anNotReached()},
		"two Content-Lengths":          {proxytest.Raw(head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"), anNotReached()},
		"Content-Length of no number":  {proxytest.Raw(head + "Content-Length: x\r\n\r\n{}"), anNotReached()},
		"Content-Length too long":      {proxytest.Raw(head + "Content-Length: 100\r\n\r\n{}"), anBadResponse()},
		"Content-Length one too long":  {proxytest.Raw(head + "Content-Length: 3\r\n\r\n{}"), anBadResponse()},
		"Content-Length too short":     {proxytest.Raw(head + "Connection: close\r\nContent-Length: 5\r\n\r\n{\"a\":1}"), anBadResponse()},
		"chunks without an end":        {proxytest.Raw(head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"), anBadResponse()},
		"chunk of no length":           {proxytest.Raw(head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n"), anBadResponse()},
		"chunk that is too long":       {proxytest.Raw(head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}}\r\n0\r\n\r\n"), anBadResponse()},
		"cut in its middle":            {proxytest.Respond(200, http.Header{"Content-Type": {"application/json"}}, proxytest.Text(`{"a":{}}`), proxytest.Cut()), anBadResponse()},
		"reset in its middle":          {proxytest.Respond(200, http.Header{"Content-Type": {"application/json"}}, proxytest.Text(`{"a":{}}`), proxytest.Reset()), anBadResponse()},
		"switching protocols":          {proxytest.Raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n{}"), anBadResponse()},
		"nothing but informational":    {proxytest.Raw(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 20)), anNotReached()},
		"a body by the connection end": {proxytest.Raw("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"a\":"), anBadResponse()},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, transport := range []proxy.Option{nil, proxy.WithTransport(nil)} {
				f := start(t, transport)
				res, body := anAsk(t, f, tc.answer)
				anWant(t, res, body, 502, tc.want)
				f.wantCalls(t, 1)
				if _, ok := res.Header["X-Should-Retry"]; ok {
					t.Errorf("X-Should-Retry: %s", res.Header.Get("X-Should-Retry"))
				}
			}
		})
	}
}

func TestF6UnreachableUpstreamIs502(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	for name, root := range map[string]string{
		"nobody listens": "http://" + address + "/v1",
		"no TLS there":   "https://" + plain.Listener.Addr().String() + "/v1",
		"no such name":   "http://upstream.invalid/v1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, proxy.WithUpstream(root), proxy.WithTransport(nil))
			res, body := f.post(t, "/v1/chat/completions", rtChat)
			anWant(t, res, body, 502, anNotReached())
			res, body = f.post(t, "/", rtChat)
			anWant(t, res, body, 502, `{"error":"Bad Gateway","message":"`+anUnreachable+`","type":"upstream_error","code":"upstream_unreachable"}`+"\n")
		})
	}
}

// wantFewDials makes calls, one of them with repetitions wished for, and checks that
// each dials twice at most and has sent nothing.
func wantFewDials(t *testing.T, root string, connect func(context.Context) (net.Conn, error)) {
	t.Helper()
	var dials atomic.Int64
	sent := &buffer{}
	f := start(t, proxy.WithUpstream(root), proxy.WithLimits(proxy.Limits{Retries: 3, RetryTime: time.Minute}),
		proxy.WithTransport(&http.Transport{ForceAttemptHTTP2: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials.Add(1)
			conn, err := connect(ctx)
			if err != nil {
				return nil, err
			}
			return tappedConn{conn, sent}, nil
		}}))
	for _, request := range []string{plainRequest, streamRequest} {
		before := dials.Load()
		res, body := f.post(t, streamPath, request)
		anWant(t, res, body, 502, anNotReached())
		if n := dials.Load() - before; n < 1 || n > 2 {
			t.Errorf("%d dials, want 1 or 2", n)
		}
	}
	if got := sent.String(); strings.Contains(got, "messages") || strings.Contains(got, canary) {
		t.Errorf("the request was sent: %q", got)
	}
}

// tappedConn keeps what is written.
type tappedConn struct {
	net.Conn
	sent *buffer
}

func (c tappedConn) Write(p []byte) (int, error) {
	_, _ = c.sent.Write(p)
	return c.Conn.Write(p)
}

func TestF6UnreachableUpstreamIsDialledTwiceAtMost(t *testing.T) {
	t.Parallel()
	failing := func(err error) func(context.Context) (net.Conn, error) {
		return func(context.Context) (net.Conn, error) { return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	}
	wantFewDials(t, "http://up.example/v1", failing(syscall.ECONNREFUSED))
	wantFewDials(t, "https://up.example/v1", failing(&net.DNSError{Err: "no such host", Name: "up.example", IsNotFound: true}))
	wantFewDials(t, "http://up.example/v1", failing(context.DeadlineExceeded))
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	foreign := httptest.NewUnstartedServer(http.NotFoundHandler())
	foreign.Config.ErrorLog = log.New(io.Discard, "", 0)
	foreign.StartTLS()
	t.Cleanup(foreign.Close)
	for _, srv := range []*httptest.Server{plain, foreign} { // no TLS there; a certificate of its own
		wantFewDials(t, "https://up.example/v1", func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", srv.Listener.Addr().String())
		})
	}
}

func TestF17InformationalAnswersAreSkipped(t *testing.T) {
	t.Parallel()
	eachWire(t, everyWire(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		res, body := anAsk(t, f, proxytest.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a>")
			for range 20 {
				w.WriteHeader(http.StatusEarlyHints)
			}
			w.WriteHeader(http.StatusProcessing)
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{}`))
		}))
		anWant(t, res, body, 200, "{}")
		if res.Header.Get("Link") != "" {
			t.Errorf("Link: %s", res.Header.Get("Link"))
		}
	})
}

func TestF18AnswerHeadersAreBounded(t *testing.T) {
	t.Parallel()
	answer := func(size int) proxytest.Answer {
		return proxytest.JSON(200, "{}").WithHeader("X-Filler", strings.Repeat("x", size))
	}
	f := start(t, proxy.WithTransport(nil))
	res, body := anAsk(t, f, answer(200<<10))
	anWant(t, res, body, 200, "{}")
	res, body = anAsk(t, f, answer(300<<10))
	anWant(t, res, body, 502, anNotReached())
}

func TestF16EveryRedirectOfTheUpstreamIs502(t *testing.T) {
	t.Parallel()
	trap := proxytest.NewUpstream(t)
	for _, transport := range []proxy.Option{nil, proxy.WithTransport(nil)} {
		f := start(t, transport)
		for _, status := range []int{300, 301, 302, 303, 304, 305, 307, 308, 399} {
			for _, location := range []string{trap.URL() + "/chat/completions", "/v1/images/generations", "", "http://x/?key=" + canary} {
				before := len(f.up.Requests())
				answer := proxytest.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					w.Header()["Location"] = []string{location}
					w.WriteHeader(status)
				})
				res, body := anAsk(t, f, answer)
				anWant(t, res, body, 502, anOpenAI(502, "The upstream answered with a redirect.", "upstream_error", "", "upstream_redirect"))
				if n := len(f.up.Requests()) - before; n != 1 || res.Header.Get("Location") != "" {
					t.Errorf("status %d: %d calls, Location %q", status, n, res.Header.Get("Location"))
				}
			}
		}
	}
	if n := len(trap.Requests()); n != 0 {
		t.Errorf("the target of the redirects got %d requests", n)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	body := func(size int) string { return `["` + strings.Repeat("x", size-4) + `"]` }
	chunked := func(size int) proxytest.Answer {
		return proxytest.Respond(200, http.Header{"Content-Type": {"application/json"}}, proxytest.Text(body(size)))
	}
	f := start(t, proxy.WithLimits(proxy.Limits{ResponseBytes: 100_000}))
	res, got := anAsk(t, f, proxytest.JSON(200, body(100_000)))
	anWant(t, res, got, 200, body(100_000))
	res, got = anAsk(t, f, chunked(100_000))
	anWant(t, res, got, 200, body(100_000))
	for _, answer := range []proxytest.Answer{
		proxytest.JSON(200, body(100_001)), chunked(100_001), proxytest.JSON(200, body(1_000_000)), anZipped(200, body(100_001)), anZipped(200, body(5_000_000)),
	} {
		res, got = anAsk(t, f, answer)
		anWant(t, res, got, 502, anBadResponse())
	}
	f = start(t, proxy.WithLimits(proxy.Limits{ResponseBytes: -1}))
	res, got = anAsk(t, f, chunked(3<<20))
	anWant(t, res, got, 200, body(3<<20))
}

// anZipped answers with a body that nobody asked to compress.
func anZipped(status int, body string) proxytest.Answer {
	return proxytest.JSON(status, anZip(body)).WithHeader("Content-Encoding", "gzip")
}

func anZip(body string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(body))
	_ = w.Close()
	return b.String()
}

func TestF19CompressedAnswersAreDecodedOrRefused(t *testing.T) {
	t.Parallel()
	f := start(t)
	const doc = `{"a":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}`
	for _, coding := range []string{"gzip", "GZIP", "x-gzip", " gzip "} {
		res, body := anAsk(t, f, proxytest.JSON(200, anZip(doc)).WithHeader("Content-Encoding", coding))
		anWant(t, res, body, 200, doc)
		if _, ok := res.Header["Content-Encoding"]; ok || res.Header.Get("Content-Length") != strconv.Itoa(len(doc)) {
			t.Errorf("Content-Encoding %q, Content-Length %s", res.Header["Content-Encoding"], res.Header.Get("Content-Length"))
		}
	}
	for _, coding := range []string{"identity", "Identity", ""} {
		res, body := anAsk(t, f, proxytest.JSON(200, doc).WithHeader("Content-Encoding", coding))
		anWant(t, res, body, 200, doc)
	}
	for _, codings := range [][]string{{"br"}, {"deflate"}, {"zstd"}, {"compress"}, {"gzip, gzip"}, {"gzip, br"}, {"unknown"}, {"gzip", "br"}, {"identity", "br"}} {
		res, body := anAsk(t, f, proxytest.JSON(200, anZip(doc)).WithHeader("Content-Encoding", codings...))
		anWant(t, res, body, 502, anBadResponse())
	}
	zipped := anZip(doc)
	for _, broken := range []string{doc, "", zipped[:len(zipped)-1], zipped[:10], zipped[:len(zipped)-8] + "12345678", zipped + "garbage", anZip(""), anZip("<html>")} {
		res, body := anAsk(t, f, proxytest.JSON(200, broken).WithHeader("Content-Encoding", "gzip"))
		anWant(t, res, body, 502, anBadResponse())
	}
	res, body := anAsk(t, f, anZipped(400, `{"error":{"message":"m","type":"t","param":"p","code":"c"}}`))
	anWant(t, res, body, 400, anOpenAI(400, "m", "t", "p", "c"))
	res, _ = anAsk(t, f, proxytest.JSON(429, "\x00\x01brotli").WithHeader("Content-Encoding", "br").WithHeader("Retry-After", "3"))
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "3" || res.Header.Get("Content-Encoding") != "" {
		t.Errorf("status %d, header %q", res.StatusCode, res.Header)
	}
}
