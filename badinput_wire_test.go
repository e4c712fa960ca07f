package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// wireBody is the JSON of the requests below, 29 bytes of it.
const wireBody = `{"model":"m","messages":[ ] }`

// framing is a request as it stands on the wire.
type framing struct {
	name string
	wire string
	// reach is how many upstream calls it makes. Where it is none, the answer is
	// of class 4xx or 5xx, or the connection is closed without one.
	reach int
}

// head begins a request with these lines between the request line and the body.
func head(lines ...string) string {
	return "POST /v1/chat/completions HTTP/1.1\r\n" + strings.Join(append(lines, "", ""), "\r\n")
}

func framings() []framing {
	length := fmt.Sprintf("Content-Length: %d", len(wireBody))
	host, chunked := "Host: a", "Transfer-Encoding: chunked"
	inChunks := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(wireBody), wireBody)
	good := head(host, length) + wireBody
	line := func(s string) string { return s + "\r\nHost: a\r\n" + length + "\r\n\r\n" + wireBody }
	return []framing{
		// Two framings, or a broken one: the body's end is not beyond doubt.
		{"two lengths", head(host, length, "Content-Length: 5") + wireBody, 0},
		{"two lengths in one line", head(host, fmt.Sprintf("Content-Length: %d, 5", len(wireBody))) + wireBody, 0},
		{"a length with a sign", head(host, fmt.Sprintf("Content-Length: +%d", len(wireBody))) + wireBody, 0},
		{"a negative length", head(host, "Content-Length: -1") + wireBody, 0},
		{"a length in hex", head(host, "Content-Length: 0x1d") + wireBody, 0},
		{"an empty length", head(host, "Content-Length: ") + wireBody, 0},
		{"a length with a space inside", head(host, "Content-Length: 2 9") + wireBody, 0},
		{"a length past 64 bits", head(host, "Content-Length: 92233720368547758089") + wireBody, 0},
		{"a length that is a fraction", head(host, "Content-Length: 29.0") + wireBody, 0},
		{"too long a length", head(host, "Content-Length: 999999999999") + wireBody, 0},
		{"a body that ends early", head(host, "Content-Length: 100") + wireBody, 0},
		{"no length and no coding", head(host) + wireBody, 0},
		{"an unknown coding", head(host, "Transfer-Encoding: gzip") + inChunks, 0},
		{"chunked twice", head(host, "Transfer-Encoding: chunked, chunked") + inChunks, 0},
		{"chunked in two lines", head(host, chunked, chunked) + inChunks, 0},
		{"chunked, then identity", head(host, "Transfer-Encoding: chunked, identity") + inChunks, 0},
		{"chunked with a vertical tab", head(host, "Transfer-Encoding: \vchunked") + inChunks, 0},
		{"chunked with a letter too many", head(host, "Transfer-Encoding: xchunked") + inChunks, 0},
		{"chunked for HTTP/1.0", "POST /v1/chat/completions HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + inChunks, 0},
		{"a chunk size that is no number", head(host, chunked) + "zz\r\n" + wireBody + "\r\n0\r\n\r\n", 0},
		{"a chunk size with a sign", head(host, chunked) + "+1d\r\n" + wireBody + "\r\n0\r\n\r\n", 0},
		{"a negative chunk size", head(host, chunked) + "-1\r\n" + wireBody + "\r\n0\r\n\r\n", 0},
		{"a chunk size with 0x", head(host, chunked) + "0x1d\r\n" + wireBody + "\r\n0\r\n\r\n", 0},
		{"a chunk size past 64 bits", head(host, chunked) + "1000000000000001d\r\n" + wireBody + "\r\n0\r\n\r\n", 0},
		{"an empty chunk size", head(host, chunked) + "\r\n" + wireBody + "\r\n0\r\n\r\n", 0},
		{"too small a chunk size", head(host, chunked) + "5\r\n" + wireBody + "\r\n0\r\n\r\n", 0},
		{"too large a chunk size", head(host, chunked) + "ff\r\n" + wireBody + "\r\n0\r\n\r\n", 0},
		{"a chunk without its line's end", head(host, chunked) + fmt.Sprintf("%x\r\n%s0\r\n\r\n", len(wireBody), wireBody), 0},
		{"chunk lines that end in a bare LF", head(host, chunked) + fmt.Sprintf("%x\n%s\n0\n\n", len(wireBody), wireBody), 0},
		{"a chunk extension with a bare LF", head(host, chunked) + fmt.Sprintf("%x;a\nb\r\n%s\r\n0\r\n\r\n", len(wireBody), wireBody), 0},
		{"a chunk extension of 64 KiB", head(host, chunked) + fmt.Sprintf("%x;%s\r\n%s\r\n0\r\n\r\n", len(wireBody), strings.Repeat("a", 64<<10), wireBody), 0},
		{"chunks without an end", head(host, chunked) + fmt.Sprintf("%x\r\n%s\r\n", len(wireBody), wireBody), 0},

		// Broken headers.
		{"a space before the colon", head(host, "Content-Length : 29") + wireBody, 0},
		{"a header without a name", head(host, length, ": x") + wireBody, 0},
		{"a header without a colon", head(host, length, "nonsense") + wireBody, 0},
		{"a zero byte in a value", head(host, length, "X-A: a\x00b") + wireBody, 0},
		{"a zero byte in a name", head(host, length, "X-\x00A: ab") + wireBody, 0},
		{"a CR inside a value", head(host, length, "X-A: a\rb") + wireBody, 0},
		{"a space inside a name", head(host, length, "X A: ab") + wireBody, 0},
		{"a name outside ASCII", head(host, length, "X-\xc3\xa9: ab") + wireBody, 0},
		{"no host", head(length) + wireBody, 0},
		{"two hosts", head(host, "Host: b", length) + wireBody, 0},
		{"a host with a path", head("Host: a/b c", length) + wireBody, 0},
		{"headers of 2 MiB", head(host, length, "X-A: "+strings.Repeat("a", 2<<20)) + wireBody, 0},
		{"an expectation that nobody knows", head(host, length, "Expect: 200-maybe") + wireBody, 0},

		// Broken or strange request lines.
		{"no version", "POST /v1/chat/completions\r\nHost: a\r\n\r\n", 0},
		{"version 0.9", line("POST /v1/chat/completions HTTP/0.9"), 0},
		{"version 1.10", line("POST /v1/chat/completions HTTP/1.10"), 0},
		{"version 3", line("POST /v1/chat/completions HTTP/3.0"), 0},
		{"a space too many", line("POST  /v1/chat/completions HTTP/1.1"), 0},
		{"a space inside the target", line("POST /v1/chat /completions HTTP/1.1"), 0},
		{"no target", line("POST HTTP/1.1"), 0},
		{"a bad escape", line("POST /v1/%zz HTTP/1.1"), 0},
		{"a space before the method", line(" POST /v1/chat/completions HTTP/1.1"), 0},
		{"a method that is no token", line("PO(ST /v1/chat/completions HTTP/1.1"), 0},
		{"a method in lower case", line("post /v1/chat/completions HTTP/1.1"), 0},
		{"CONNECT", "CONNECT api.openai.com:443 HTTP/1.1\r\nHost: api.openai.com:443\r\n\r\n", 0},
		{"TRACE", line("TRACE /v1/chat/completions HTTP/1.1"), 0},
		{"two slashes", line("POST //v1/chat/completions HTTP/1.1"), 0},
		{"a way up", line("POST /v1/../v1/chat/completions HTTP/1.1"), 0},
		{"an escaped way up", line("POST /v1/%2e%2e/v1/chat/completions HTTP/1.1"), 0},
		{"an escaped slash", line("POST /v1%2fchat%2fcompletions/x HTTP/1.1"), 0},
		{"a websocket", head(host, length, "Connection: Upgrade", "Upgrade: websocket") + wireBody, 0},
		{"a TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0},
		{"nothing but line ends", "\r\n\r\n\r\n\r\n", 0},

		// Odd, and well-formed.
		{"plain", good, 1},
		{"chunks", head(host, chunked) + inChunks, 1},
		{"chunks of one byte", head(host, chunked) + onebyte(wireBody), 1},
		{"chunked in capitals", head(host, "Transfer-Encoding: CHUNKED") + inChunks, 1},
		{"a chunk extension", head(host, chunked) + fmt.Sprintf("%x;a=b\r\n%s\r\n0\r\n\r\n", len(wireBody), wireBody), 1},
		{"trailers", head(host, chunked, "Trailer: Authorization") + fmt.Sprintf("%x\r\n%s\r\n0\r\nAuthorization: Bearer sk-mine\r\n\r\n", len(wireBody), wireBody), 1},
		{"the same length twice", head(host, length, length) + wireBody, 1},
		{"zeros before the length", head(host, fmt.Sprintf("Content-Length: 00%d", len(wireBody))) + wireBody, 1},
		{"names in any case", head("hOsT: a", fmt.Sprintf("cOnTeNt-LeNgTh: %d", len(wireBody))) + wireBody, 1},
		{"a folded header", head(host, length, "X-A: a\r\n b") + wireBody, 1},
		{"lines that end in a bare LF", strings.ReplaceAll(head(host, length), "\r\n", "\n") + wireBody, 1},
		{"an empty line in front", "\r\n" + good, 0},
		{"100-continue", head(host, length, "Expect: 100-continue") + wireBody, 1},
		{"our headers in Connection", head(host, length, "Connection: authorization, content-type, content-length") + wireBody, 1},
		{"a header with an underscore", head(host, length, "X_Forwarded_User: root", "Content_Length: 3") + wireBody, 1},
		{"forwarding headers", head(host, length, "X-Forwarded-Host: evil", "X-Forwarded-For: 1.1.1.1", "Forwarded: host=evil") + wireBody, 1},
		{"a target with scheme and host", line("POST http://evil.example/v1/chat/completions HTTP/1.1"), 1},
		{"a query", line("POST /v1/chat/completions?api_base=http://evil HTTP/1.1"), 1},
		{"an offer of h2c", head(host, length, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__") + wireBody, 1},
		{"two requests at once", good + good, 2},
		{"a request behind chunks", head(host, chunked) + inChunks + good, 2},
		{"a request inside a body", head(host, fmt.Sprintf("Content-Length: %d", len(wireBody)+len(good))) + strings.Repeat(" ", len(good)) + wireBody, 1},
		{"HTTP/1.0", "POST /v1/chat/completions HTTP/1.0\r\n" + length + "\r\n\r\n" + wireBody, 1},
	}
}

func onebyte(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "1\r\n%c\r\n", c)
	}
	return b.String() + "0\r\n\r\n"
}

func TestI1RawFraming(t *testing.T) {
	f := start(t, proxy.WithLimits(proxy.Limits{BodyIdle: 300 * time.Millisecond, BodyTime: 300 * time.Millisecond}))
	wanted := []string{"Accept", "Accept-Encoding", "Authorization", "Content-Length", "Content-Type", "User-Agent"}
	for _, tt := range framings() {
		t.Run(tt.name, func(t *testing.T) {
			before := len(f.up.Requests())
			var statuses []int
			cost := allocated(func() { statuses = exchangeRaw(t, f, tt.wire, tt.reach) })
			// Both ends of both connections are counted, too.
			if cost > most(len(tt.wire))+192<<10 {
				t.Errorf("%d KiB were allocated for %d bytes", cost>>10, len(tt.wire))
			}
			calls := f.up.Requests()[before:]
			if len(calls) != tt.reach {
				t.Fatalf("%d upstream calls, want %d; the answers were %v", len(calls), tt.reach, statuses)
			}
			if tt.reach == 0 {
				for _, status := range statuses {
					if status < 400 {
						t.Errorf("the answer has status %d", status)
					}
				}
				return
			}
			if len(statuses) != tt.reach || slices.ContainsFunc(statuses, func(s int) bool { return s != http.StatusOK }) {
				t.Errorf("the answers were %v, want %d of 200", statuses, tt.reach)
			}
			for _, call := range calls {
				if call.Method != http.MethodPost || call.Target != "/v1/chat/completions" || strings.TrimSpace(string(call.Body)) != wireBody {
					t.Errorf("the upstream got %s %s %q", call.Method, call.Target, call.Body)
				}
				for name := range call.Header {
					if !slices.Contains(wanted, name) {
						t.Errorf("the upstream got the header %s", name)
					}
				}
				if got := call.Header["Authorization"]; !slices.Equal(got, []string{"Bearer " + canary}) {
					t.Errorf("the upstream got %d keys", len(got))
				}
			}
		})
	}
}

// exchangeRaw sends bytes on a connection of their own and returns the statuses of
// all answers, of which so many are expected.
func exchangeRaw(t *testing.T, f *fixture, wire string, expected int) (statuses []int) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(f.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	patience := time.Second // for what is refused without an answer
	if expected > 0 {
		patience = 20 * time.Second
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	go func() { _, _ = io.WriteString(conn, wire) }()
	r := bufio.NewReader(io.TeeReader(conn, f.seen))
	for {
		if len(statuses) >= max(1, expected) { // more may come, or the server waits for another request
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return statuses
		}
		if res.StatusCode == http.StatusContinue {
			continue
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		statuses = append(statuses, res.StatusCode)
	}
}

// A flipped bit makes a bad request or another good one, never a failure of the
// server.
func TestI4FlippedBits(t *testing.T) {
	f := start(t, proxy.WithLimits(proxy.Limits{BodyIdle: 50 * time.Millisecond, BodyTime: 50 * time.Millisecond}))
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	requests := []string{
		post("/v1/chat/completions", `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello"}]}`),
		post("/", `{"messages":[{"role":"user","content":"Hello"}],"stream":true}`),
		post("/v1/images/generations", `{"model":"gpt-image-1","prompt":"A hut at a lake"}`),
		post("/graphql", `{"query":"mutation { createSession { id } }"}`),
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	const flips = 250 // of each
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, request := range requests {
		for range flips {
			wire := []byte(request)
			at := rnd.IntN(len(wire) * 8)
			wire[at/8] ^= 1 << (at % 8)
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				for _, status := range exchangeClosed(t, f, string(wire)) {
					if status < 200 || status >= 500 && status != http.StatusHTTPVersionNotSupported && status != http.StatusNotImplemented {
						t.Errorf("status %d for %q", status, wire)
					}
				}
			})
		}
	}
	wg.Wait()
	if statuses := exchangeRaw(t, f, requests[0], 1); !slices.Equal(statuses, []int{http.StatusOK}) {
		t.Errorf("afterwards the answer is %v", statuses)
	}
}

// exchangeClosed is exchangeRaw for a client that sends no more, which ends what
// waits for more.
func exchangeClosed(t *testing.T, f *fixture, wire string) (statuses []int) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(f.URL, "http://"))
	if err != nil {
		t.Error(err)
		return nil
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = io.WriteString(conn, wire)
	r := bufio.NewReader(io.TeeReader(conn, f.seen))
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return statuses
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		statuses = append(statuses, res.StatusCode)
	}
}
