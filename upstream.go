package proxy

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// upstream knows where the API is and how to reach it.
type upstream struct {
	requests   map[Route]*http.Request // as all of a route begin
	transport  http.RoundTripper
	authHeader string // canonical; "": no key is sent
}

func newUpstream(cfg *config) (*upstream, error) {
	root, err := parseUpstream(cfg.upstream)
	if err != nil {
		return nil, err
	}
	if root.Path == "" {
		root.Path = "/" // or JoinPath makes a relative path of it
	}
	up := &upstream{
		requests: map[Route]*http.Request{
			RouteChat:       newRequest(root.JoinPath("chat/completions")),
			RouteImages:     newRequest(root.JoinPath("images/generations")),
			RouteImageEdits: newRequest(root.JoinPath("images/edits")),
		},
		transport:  cfg.transport,
		authHeader: http.CanonicalHeaderKey(cfg.authHeader),
	}
	if up.transport == nil {
		up.transport = newTransport(cfg.envProxy)
	}
	if root.Scheme == "http" && !isLoopback(root.Hostname()) {
		cfg.log(context.Background(), slog.LevelWarn, "the upstream is reached without TLS: keys and prompts can be read on the way",
			slog.String("host", root.Host))
	}
	return up, nil
}

func newRequest(to *url.URL) *http.Request {
	return &http.Request{Method: http.MethodPost, URL: to, Host: to.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// newTransport makes the transport that NewHandler documents. Without pings a
// dead HTTP/2 connection would fail every request until the kernel gives it up.
func newTransport(envProxy bool) *http.Transport {
	t := &http.Transport{
		DialContext:            dial,
		TLSHandshakeTimeout:    5 * time.Second,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        30 * time.Second,
		WriteBufferSize:        2 << 10, // HTTP/1.1 keeps it, and 4 KiB to read into, for as long as a stream lasts
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout:  15 * time.Second,
			PingTimeout:      5 * time.Second,
			WriteByteTimeout: 10 * time.Second,
		},
	}
	if envProxy {
		t.Proxy = http.ProxyFromEnvironment
	}
	return t
}

func newDialer() *net.Dialer {
	return &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := newDialer().DialContext(ctx, network, address)
	if tcp, ok := conn.(*net.TCPConn); ok {
		return tcpConn{tcp}, err
	}
	return conn, err
}

// tcpConn writes a large body from where it lies. net/http would copy it in pieces
// of 32 KiB, each with a system call of its own.
type tcpConn struct{ *net.TCPConn }

// ReadFrom implements [io.ReaderFrom], which a transport uses without TLS.
func (c tcpConn) ReadFrom(r io.Reader) (int64, error) {
	if limited, ok := r.(*io.LimitedReader); ok {
		if body, ok := limited.R.(*loanReader); ok {
			n, err := body.writeTo(c.TCPConn, limited.N)
			limited.N -= n
			return n, err
		}
	}
	return c.TCPConn.ReadFrom(r)
}

// request builds the upstream request from nothing: what is not named here does
// not go on, whatever the client sent.
func (c *call) request(p *payload) *http.Request {
	up, in := c.h.upstream, c.x.r.Header
	header := make(http.Header, 8)
	for name, values := range in {
		if passesUp(name) {
			header[name] = values
		}
	}
	own := headerValues{Header: header}
	if _, ok := header["User-Agent"]; !ok {
		own.set("User-Agent", "") // net/http would add its own
	}
	if p.contentType == "" {
		own.set("Content-Type", "application/json")
	} else {
		own.set("Content-Type", p.contentType)
	}
	own.set("Accept-Encoding", "identity")
	switch up.authHeader {
	case "":
	case "Authorization":
		own.set("Authorization", "Bearer "+c.key)
	default:
		own.set(up.authHeader, c.key)
	}
	req := up.requests[c.info.Route].WithContext(c.ctx)
	req.Header, req.ContentLength = header, int64(len(p.body))
	// With it the transport can repeat what it knows was never processed.
	req.GetBody = func() (io.ReadCloser, error) { return c.openBody(p.body) }
	req.Body, _ = req.GetBody() // fails only when the exchange is over
	return req
}

// openBody returns a reader of what is sent. net/http sends the headers of a
// request apart from its body unless it knows the body's reader, which is worth
// a loan where the body is large.
func (c *call) openBody(body []byte) (io.ReadCloser, error) {
	if c.x.loan != nil {
		return c.x.loan.open(body)
	}
	return io.NopCloser(bytes.NewReader(body)), nil
}

// passesUp is the list of request headers that go on. Idempotency-Key is not
// among them: net/http replays a POST that has one, and it would be paid twice.
func passesUp(name string) bool {
	switch name {
	case "Accept", "User-Agent", "Openai-Beta", "X-Client-Request-Id":
		return true
	}
	return strings.HasPrefix(name, "X-Stainless-")
}

// passesDown is the list of response headers that go on.
func passesDown(name string) bool {
	switch name {
	case "Content-Type", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "X-Request-Id",
		"Openai-Processing-Ms", "Openai-Version":
		return true
	}
	return strings.HasPrefix(name, "X-Ratelimit-")
}

// copyHeader hands the allowed headers of an answer on, without what looks like
// a key in them. Values are fresh: a shared slice
// could be changed by a middleware of the host.
func copyHeader(dst *headerValues, src http.Header, key string) {
	for name, values := range src {
		if !passesDown(name) || len(values) == 0 {
			continue
		}
		if name == "Content-Type" || len(values) == 1 { // two types would let readers differ
			dst.set(name, redact(values[0], key))
			continue
		}
		fresh := make([]string, len(values))
		for i, v := range values {
			fresh[i] = redact(v, key)
		}
		dst.Header[name] = fresh
	}
}

// decoded returns the body of an answer without the coding that the upstream
// put on it unasked; ok is false for a coding that is not known.
func decoded(res *http.Response, body io.Reader, limit int64) (_ io.Reader, ok bool) {
	switch strings.ToLower(strings.TrimSpace(strings.Join(res.Header["Content-Encoding"], ","))) {
	case "", "identity":
		return body, true
	case "gzip", "x-gzip":
		return &gunzip{src: body, left: limit}, true
	}
	return nil, false
}

// gunzip decodes as bytes arrive, and no more than left of them.
type gunzip struct {
	src  io.Reader
	zr   *gzip.Reader
	left int64
}

func (g *gunzip) Read(p []byte) (int, error) {
	if g.zr == nil {
		zr, err := gzip.NewReader(g.src)
		if err != nil {
			return 0, err
		}
		g.zr = zr
	}
	n, err := g.zr.Read(p)
	if g.left -= int64(n); g.left < 0 {
		return 0, errTooMuch
	}
	return n, err
}

// upstreamFailure is what an upstream that answered with an error status said.
type upstreamFailure struct {
	header http.Header     // its headers
	object json.RawMessage // its error object, without secrets; nil if it sent none
	route  Route
	key    string
}

func (f *upstreamFailure) copyHeader(dst *headerValues) { copyHeader(dst, f.header, f.key) }

// workerMessage is the message of the worker's error shape.
func (f *upstreamFailure) workerMessage(status int, text string) string {
	return upstreamName(f.route) + " returned " + strconv.Itoa(status) + ": " + text
}

func upstreamName(route Route) string {
	if route == RouteChat {
		return "OpenAI API"
	}
	return "OpenAI Image API"
}

// maxQuoted is how much of an error text that is no JSON is quoted.
const maxQuoted = 2 << 10

// newUpstreamError turns an error answer into an *Error that keeps its status.
func newUpstreamError(status int, header http.Header, body []byte, route Route, key string) *Error {
	f := &upstreamFailure{header: header, route: route, key: key}
	e := &Error{Status: status, upstream: f, title: upstreamName(route) + " Error"}
	body = bytes.TrimSpace(body)
	if !json.Valid(body) {
		e.Message = quote(redact(unescaped(string(body), key), key))
		return e
	}
	said := parseErrorBody(redactJSON(body, key))
	f.object, e.Message = said.object, said.message
	e.Type, e.Code, e.Param = said.typ, ErrorCode(said.code), said.param
	return e
}

// unescaped returns text as it is, unless JSON escapes in it hide a secret: then
// without them. A text that is no JSON may be half of one.
func unescaped(text, key string) string {
	plain := unicodeEscape.ReplaceAllStringFunc(text, func(escape string) string {
		n, err := strconv.ParseUint(escape[2:], 16, 16)
		if err != nil {
			return escape
		}
		return string(rune(n))
	})
	plain = strings.ReplaceAll(plain, `\/`, "/")
	if redact(plain, key) != plain {
		return plain
	}
	return text
}

var unicodeEscape = regexp.MustCompile(`\\u[0-9A-Fa-f]{4}`)

// quote returns the start of a text, valid as UTF-8.
func quote(text string) string {
	if len(text) > maxQuoted {
		text = text[:maxQuoted]
	}
	return strings.ToValidUTF8(text, "")
}

// said is what can be read from the error bodies of OpenAI and of the servers
// that resemble it.
type said struct {
	object                    json.RawMessage
	message, typ, code, param string
}

// parseErrorBody reads {"error":{...}}, {"error":"..."}, [{"error":...}],
// {"message":...} and {"detail":...}; of anything else it quotes the text.
func parseErrorBody(body []byte) said {
	var list []json.RawMessage
	if json.Unmarshal(body, &list) == nil && len(list) > 0 && list[0][0] == '{' {
		body = list[0]
	}
	o, err := jsonobj.Parse(body)
	if err != nil {
		return said{message: quote(string(body))}
	}
	inner, ok := o.Get("error")
	if ok && inner[0] == '{' {
		eo, err := jsonobj.Parse(inner)
		if err != nil {
			return said{message: quote(string(body))}
		}
		return said{
			object: inner, message: textOf(eo, "message"),
			typ: textOf(eo, "type"), code: textOf(eo, "code"), param: textOf(eo, "param"),
		}
	}
	for _, key := range []string{"error", "message", "detail"} {
		if text := textOf(o, key); text != "" {
			return said{message: text, typ: textOf(o, "type"), code: textOf(o, "code")}
		}
	}
	return said{message: quote(string(body))}
}

// textOf returns a member as text: a string as it reads, null as nothing, and
// any other value as JSON.
func textOf(o jsonobj.Object, key string) string {
	if s, ok := o.String(key); ok {
		return s
	}
	raw, ok := o.Get(key)
	if !ok || isNull(raw) {
		return ""
	}
	return quote(string(raw))
}
