package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	openai "github.com/sashabaranov/go-openai"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

func TestS3URLsInPromptsAreNotFetched(t *testing.T) {
	trap, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var caught atomic.Int64
	go func() {
		for {
			conn, err := trap.Accept()
			if err != nil {
				return
			}
			caught.Add(1)
			_ = conn.Close()
		}
	}()
	f := setup{options: []proxy.Option{proxy.WithTransport(nil)}, wrap: singleMounts}.start(t) // which could reach the trap
	at := trap.Addr().String()
	_, port, _ := net.SplitHostPort(at)
	urls := []string{
		"http://" + at, "https://" + at + "/x.png", "//" + at, "http://localhost:" + port, "http://[::ffff:127.0.0.1]:" + port,
		"http://0.0.0.0:" + port, "http://2130706433:" + port, "http://0x7f.1:" + port, "http://user@" + at, "ftp://" + at,
		"file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "http://127.1:" + port, "ws://" + at, "wss://" + at,
		"gopher://" + at + "/_x", "http://0177.0.0.1:" + port, "http://" + at + "#@api.openai.com", "http://api.openai.com@" + at, "HTTP://" + at + "/%2e%2e/",
	}
	if len(urls) < 20 {
		t.Errorf("%d URLs, want 20", len(urls))
	}
	for _, url := range urls {
		quoted := []byte(mustText(t, url))
		for _, way := range everyWay(t, url, map[string]any{"file_url": url, "webhook": url, "callback": url}) {
			if res, answer := way.ask(t, f, ""); res.StatusCode != http.StatusOK || strings.Contains(answer, `"errors"`) {
				t.Errorf("%s: status %d: %s", way.name(), res.StatusCode, answer)
			}
			if got := f.up.Next().Body; !bytes.Contains(got, quoted) && !bytes.Contains(got, []byte("\r\n"+url+"\r\n")) {
				t.Errorf("%s: the upstream did not get the text as it was: %s", way.name(), got)
			}
		}
	}
	_ = trap.Close()
	if n := caught.Load(); n != 0 {
		t.Errorf("%d connections to URLs of the caller", n)
	}
}

// Whatever a client writes, a log has one line for each record, and no control
// characters.
func TestS13LogsAreOneLineARecord(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	records := 0
	text := slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})
	f := start(t, proxy.WithLogger(slog.New(countingHandler{text, &mu, &records})))
	evil := "a\nlevel=INFO msg=forged\r\n\x1b[31mred\u2028next\x00"
	quoted, _ := json.Marshal(evil)
	f.post(t, "/v1/chat/completions", `{"model":`+string(quoted)+`,"messages":[]}`, "X-Request-Id", "a\tb", "User-Agent", "a\tb")
	f.post(t, "/v1/chat/completions", `{"model":"m","messages":`+string(quoted)+`}`)
	f.post(t, "/%0a%0dlevel=INFO%20msg=forged%1b%5b31m", `{}`)
	f.post(t, "/graphql", `{"query":`+string(quoted)+`}`)
	f.up.Queue(proxytest.Failure(http.StatusBadRequest, evil, evil, evil), proxytest.JSON(http.StatusBadGateway, evil))
	f.post(t, "/v1/chat/completions", `{"model":"m","messages":[]}`)
	f.post(t, "/", `{"model":"m","messages":[]}`)
	mu.Lock()
	defer mu.Unlock()
	if records < 5 {
		t.Fatalf("%d records", records)
	}
	if lines := strings.Count(log.String(), "\n"); lines != records {
		t.Errorf("%d lines for %d records:\n%s", lines, records, log.String())
	}
	if strings.ContainsAny(strings.ReplaceAll(log.String(), "\n", ""), "\r\x1b\x00\u2028") {
		t.Errorf("control characters in %q", log.String())
	}
}

type countingHandler struct {
	slog.Handler
	mu *sync.Mutex
	n  *int
}

func (h countingHandler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	*h.n++
	return h.Handler.Handle(ctx, r)
}

// Many users share a handler, its buffers and its connections, and some of their
// calls fail: every answer is to its own question.
func TestS29AnswersAreNotMixed(t *testing.T) {
	const users, requests = 40, 100 // over each protocol
	for name, upstream := range map[string][]proxytest.ServerOption{"h1": nil, "h2": {proxytest.HTTP2()}} {
		t.Run(name, func(t *testing.T) {
			f := setup{upstream: upstream}.start(t)
			answers := make([]proxytest.Answer, users*requests)
			for i := range answers {
				answers[i] = proxytest.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { echoNonce(w, r, i) })
			}
			f.up.Queue(answers...)
			var wg sync.WaitGroup
			for user := range users {
				wg.Go(func() {
					for i := range requests {
						askNonce(t, f, fmt.Sprintf("nonce-%d-%d", user, i), i)
					}
				})
			}
			wg.Wait()
		})
	}
}

// echoNonce answers with what the user said, some of it broken off.
func echoNonce(w http.ResponseWriter, r *http.Request, i int) {
	body, _ := io.ReadAll(r.Body)
	var asked struct {
		Messages []struct{ Content string }
		Stream   bool
	}
	if json.Unmarshal(body, &asked) != nil || len(asked.Messages) == 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	nonce := asked.Messages[0].Content
	switch {
	case asked.Stream:
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: {\"nonce\":%q}\n\n", nonce)
		_ = http.NewResponseController(w).Flush()
		if i%5 == 0 {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "data: {\"nonce\":%q}\n\n", nonce)
	case i%7 == 0:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprintf(w, `{"error":{"message":%q}}`, nonce)
	default:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"nonce":%q}`, nonce)
	}
}

func askNonce(t *testing.T, f *fixture, nonce string, i int) {
	t.Helper()
	body := fmt.Sprintf(`{"model":"m","stream":%t,"messages":[{"role":"user","content":%q}]}`, i%2 == 0, nonce)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	res, err := f.Server.Client().Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	defer res.Body.Close()
	got, _ := io.ReadAll(res.Body)
	if strings.Count(string(got), "nonce-") != strings.Count(string(got), `"`+nonce+`"`) || !strings.Contains(string(got), nonce) {
		t.Errorf("%s got the answer %s", nonce, got)
	}
}

func TestS30AnswersTellNothingMore(t *testing.T) {
	f := start(t)
	allowed := []string{
		"Cache-Control", "Content-Length", "Content-Type", "Date", "X-Content-Type-Options", "X-Request-Id",
		"X-Accel-Buffering", "X-Should-Retry", "Allow", "Openai-Processing-Ms", "Openai-Version", "Retry-After", "Vary",
	}
	check := func(name string, res *http.Response) {
		t.Helper()
		for header := range res.Header {
			if !slices.Contains(allowed, header) && !strings.HasPrefix(header, "X-Ratelimit-") {
				t.Errorf("%s: the answer has %s: %s", name, header, res.Header.Get(header))
			}
		}
		media, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
		if media != "application/json" && media != "text/event-stream" && media != "application/graphql-response+json" {
			t.Errorf("%s: the type is %q", name, media)
		}
		if res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: browsers may guess the type", name)
		}
		if cache := res.Header.Get("Cache-Control"); cache != "no-store" && media != "text/event-stream" {
			t.Errorf("%s: Cache-Control is %q", name, cache)
		}
	}
	for name, body := range map[string]string{
		"chat": `{"model":"m","messages":[]}`, "a stream": `{"model":"m","stream":true,"messages":[]}`, "no JSON": `<html>`, "no messages": `{}`,
	} {
		for _, path := range []string{"/", "/v1/chat/completions"} {
			res, _ := f.post(t, path, body)
			check(name, res)
		}
	}
	res, _ := f.post(t, "/nothing", `{}`)
	check("no route", res)
	res, _ = f.do(t, http.MethodDelete, "/", "")
	check("a wrong method", res)
	res, _ = f.post(t, "/graphql", `{"query":"{ __typename }"}`, "Content-Type", "application/json")
	check("GraphQL", res)
	f.up.Queue(proxytest.JSON(http.StatusInternalServerError, `<script>alert(1)</script>`).WithHeader("Content-Type", "text/html").WithHeader("Server", "x"))
	res, _ = f.post(t, "/v1/chat/completions", `{"model":"m","messages":[]}`)
	check("HTML of the upstream", res)
}

// An SDK finds in every stream what it finds without the proxy.
func TestI5GoOpenAIClientReadsEveryShapeAlike(t *testing.T) {
	f := start(t)
	config := openai.DefaultConfig(canary)
	config.BaseURL = f.up.URL()
	direct := openai.NewClientWithConfig(config)
	for _, shape := range streamShapes() {
		t.Run(shape.name, func(t *testing.T) {
			read := func(client *openai.Client) (string, string) {
				f.up.Queue(proxytest.Stream(texts(shape.pieces...)...))
				text, err := sdkStream(t, client)
				return text, fmt.Sprint(err)
			}
			wantText, wantErr := read(direct)
			text, err := read(goOpenAI(f))
			if text != wantText || err != wantErr {
				t.Errorf("%s, %s; without the proxy %s, %s", brief(text), err, brief(wantText), wantErr)
			}
		})
	}
}
