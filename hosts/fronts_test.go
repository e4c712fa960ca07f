//go:build fronts

package hosts

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// front is a reverse proxy in configurations that behave alike.
type front struct {
	name     string
	commands []command
}

func fronts() []front {
	fixed := func(text string) func(*testing.T) string { return func(*testing.T) string { return text } }
	doc := func(language string) func(*testing.T) string {
		return func(t *testing.T) string { return fence(t, language) }
	}
	const (
		nginxDefault   = "location / {\n proxy_pass http://127.0.0.1:8080;\n proxy_read_timeout 60s; # which it is anyway\n}\n"
		nginxGzip      = "gzip on; gzip_proxied any; gzip_min_length 0; gzip_types text/event-stream application/json;"
		haproxyDefault = "defaults\n mode http\n timeout connect 5000\n timeout client 50000\n timeout server 50000\n" +
			"frontend web\n bind :80\n default_backend app\nbackend app\n server app 127.0.0.1:8080\n"
		caddyEncode  = " encode {\n gzip\n minimum_length 1\n }\n"
		caddyDefault = "example.com {\n reverse_proxy 127.0.0.1:8080\n}\n"
		haproxyGzip  = " compression algo gzip\n compression type text/event-stream application/json\n"
	)
	return []front{
		{"nginx, default", []command{nginx(fixed(nginxDefault), "")}},
		{"nginx, as below", []command{nginx(doc("nginx"), "")}},
		{"nginx, as below, gzip", []command{nginx(doc("nginx"), nginxGzip)}},
		{"HAProxy, default", []command{haproxy(fixed(haproxyDefault), "")}},
		{"HAProxy, as below, also with gzip", []command{haproxy(doc("haproxy"), ""), haproxy(doc("haproxy"), haproxyGzip)}},
		{"Caddy, default, and as below", []command{caddy(fixed(caddyDefault), ""), caddy(doc("caddyfile"), "")}},
		{"Caddy, encode before all", []command{caddy(fixed(caddyDefault), caddyEncode)}},
	}
}

// The fronts wait frontTimeout for the server where silence is measured; streams
// are silent for frontSilence, with heartbeats each second or without.
const (
	frontTimeout = "2s"
	frontSilence = 5 * time.Second
)

// TestFronts measures what becomes of streams behind each front, for clients of
// HTTP/1.1 and HTTP/2, and compares it with the table in the document.
func TestFronts(t *testing.T) {
	text, err := os.ReadFile(deploying)
	if err != nil {
		t.Fatal(err)
	}
	rest := map[string]bool{} // of the rows, those that nothing has measured
	for _, row := range regexp.MustCompile(`(?m)^\| (nginx|HAProxy|Caddy).*$`).FindAllString(string(text), -1) {
		rest[row] = true
	}
	var mu sync.Mutex
	t.Run("fronts", func(t *testing.T) {
		for _, f := range fronts() {
			for i, c := range f.commands {
				t.Run(fmt.Sprint(f.name, " ", i), func(t *testing.T) {
					t.Parallel()
					http1, http2 := measure(t, c, false), measure(t, c, true)
					rows := []string{"| " + f.name + " | " + http1 + " |"}
					if http1 != http2 {
						rows = []string{"| " + f.name + ", HTTP/1.1 | " + http1 + " |", "| " + f.name + ", HTTP/2 | " + http2 + " |"}
					}
					mu.Lock()
					defer mu.Unlock()
					for _, row := range rows {
						if !strings.Contains(string(text), row+"\n") {
							t.Errorf("%s does not say\n%s", deploying, row)
						}
						delete(rest, row)
					}
				})
			}
		}
	})
	for row := range rest {
		t.Errorf("%s says what was not measured:\n%s", deploying, row)
	}
}

// bench is a client, a front, a server with the proxy, and a fake upstream.
type bench struct {
	t      *testing.T
	up     *proxytest.Upstream
	client *http.Client
	url    string
}

func newBench(t *testing.T, c command, http2 bool, timeout string) *bench {
	t.Helper()
	up := proxytest.NewUpstream(t)
	handler := func(options ...proxy.Option) http.Handler {
		h, err := proxy.NewHandler(append(options, proxy.WithKey("sk-front"), proxy.WithUpstream(up.URL()),
			proxy.WithTransport(up.Transport()), proxy.WithLogger(slog.New(slog.DiscardHandler)))...)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	mux := http.NewServeMux()
	mux.Handle("/ai/", http.StripPrefix("/ai", handler()))
	mux.Handle("/ai/beating/", http.StripPrefix("/ai/beating", handler(proxy.WithHeartbeat(time.Second))))
	srv := proxytest.Serve(t, mux)
	address := run(t, c, place{backend: strings.TrimPrefix(srv.URL, "http://"), timeout: timeout, http2: http2})
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	// Caddy 2.6 now and then answers with nothing on a connection of HTTP/1.1 on
	// which it has cut an answer before: each request has a connection of its own.
	transport := &http.Transport{Protocols: protocols, DisableCompression: true, DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &bench{t: t, up: up, client: &http.Client{Transport: transport}, url: "http://" + address + "/ai"}
}

const (
	frontChat   = `{"model":"m","messages":[]}`
	frontStream = `{"model":"m","stream":true,"messages":[]}`
	firstEvent  = "data: {\"n\":1}\n\n"
	lastEvents  = "data: {\"n\":2}\n\ndata: [DONE]\n\n"
)

// answer is what came, its body decoded.
type answer struct {
	io.Reader
	status, coding string
}

// post asks as a browser does. What does not come in time is an answer whose
// body cannot be read.
func (b *bench) post(path, body string, within time.Duration) (answer, context.CancelFunc) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), within)
	b.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+path+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept-Encoding", "gzip, deflate, br")
	res, err := b.client.Do(req)
	if err != nil {
		return answer{Reader: iotest.ErrReader(err), status: "no answer"}, cancel
	}
	b.t.Cleanup(func() { _ = res.Body.Close() })
	a := answer{Reader: res.Body, status: res.Status[:3], coding: res.Header.Get("Content-Encoding")}
	if a.coding == "gzip" {
		a.Reader = &decoded{body: res.Body}
	}
	return a, cancel
}

// decoded reads a compressed body as it arrives.
type decoded struct {
	body io.Reader
	zr   *gzip.Reader
}

func (d *decoded) Read(p []byte) (int, error) {
	if d.zr == nil {
		zr, err := gzip.NewReader(d.body) // which waits for the first bytes
		if err != nil {
			return 0, err
		}
		d.zr = zr
	}
	return d.zr.Read(p)
}

// measure returns the cells of one row.
func measure(t *testing.T, c command, http2 bool) string {
	t.Helper()
	usual, hasty := newBench(t, c, http2, ""), newBench(t, c, http2, frontTimeout)
	return strings.Join([]string{
		usual.events(), usual.broken(), usual.leaving(), usual.large(),
		hasty.silent(""), hasty.silent("/beating"), hasty.late(),
	}, " | ")
}

// enough is as long as anything may take.
const enough = 15 * time.Second

// events sends a second event when the first has arrived.
func (b *bench) events() string {
	more := make(chan struct{})
	b.up.Queue(proxytest.Stream(proxytest.Text(firstEvent), proxytest.Gate(more), proxytest.Text(lastEvents)))
	late := time.AfterFunc(3*time.Second, func() { close(more) })
	a, _ := b.post("", frontStream, enough)
	begin := make([]byte, len(firstEvent))
	_, err := io.ReadFull(a, begin)
	verdict := "held back"
	if late.Stop() {
		verdict = "as they come"
		close(more)
	}
	rest, restErr := io.ReadAll(a)
	if got := string(begin) + string(rest); errors.Join(err, restErr) != nil || got != firstEvent+lastEvents {
		b.t.Errorf("a stream arrives as %q, %v, %v", got, err, restErr)
	}
	if a.coding != "" {
		verdict += ", " + a.coding
	}
	return verdict
}

// broken has the upstream break a stream off, which the client may learn from
// the proxy's error event and from the transport.
func (b *bench) broken() string {
	b.up.Queue(proxytest.Stream(proxytest.Text(firstEvent), proxytest.Cut()))
	a, _ := b.post("", frontStream, enough)
	text, err := io.ReadAll(a)
	switch told := strings.Contains(string(text), string(proxy.CodeUpstreamDisconnected)); {
	case told && err != nil:
		return "event, cut"
	case told:
		return "event alone"
	case err != nil:
		return "cut alone"
	}
	return "looks whole"
}

// leaving has the client go while the stream is silent, behind the first event
// if that comes at all.
func (b *bench) leaving() string {
	b.up.Queue(proxytest.Stream(proxytest.Text(firstEvent), proxytest.Silence()))
	before := len(b.up.Requests())
	a, cancel := b.post("", frontStream, 3*time.Second)
	_, _ = io.ReadFull(a, make([]byte, 4))
	req := b.up.Requests()[before]
	cancel()
	select {
	case <-req.Canceled():
		return "cancelled"
	case <-time.After(4 * time.Second):
		return "goes on"
	}
}

// silent has a stream say nothing for longer than the front waits.
func (b *bench) silent(path string) string {
	b.up.Queue(proxytest.Stream(proxytest.Text(firstEvent), proxytest.Pause(frontSilence), proxytest.Text(lastEvents)))
	a, _ := b.post(path, frontStream, enough)
	text, err := io.ReadAll(a)
	switch whole := strings.ReplaceAll(string(text), ":\n", "") == firstEvent+lastEvents; {
	case whole && err == nil:
		return "passes"
	case err == nil:
		return "looks whole"
	}
	return "cut"
}

// late has a plain answer come later than the front waits.
func (b *bench) late() string {
	b.up.Queue(proxytest.Chat("hi").After(proxytest.Pause(frontSilence)))
	a, _ := b.post("", frontChat, enough)
	return a.status
}

// large sends a body as large as a small picture.
func (b *bench) large() string {
	b.up.Queue(proxytest.Chat("hi"))
	a, _ := b.post("", `{"model":"m","messages":[{"role":"user","content":"`+strings.Repeat("a", 2<<20)+`"}]}`, enough)
	return a.status
}
