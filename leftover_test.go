package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// faults are the ways an upstream fails, for an answer of a content type.
func faults(contentType, text string) map[string]proxytest.Answer {
	begin := func(steps ...proxytest.Step) proxytest.Answer {
		return proxytest.Respond(http.StatusOK, http.Header{"Content-Type": {contentType}}, append([]proxytest.Step{proxytest.Text(text)}, steps...)...)
	}
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + contentType + "\r\n"
	return map[string]proxytest.Answer{
		"closed without a word":  begin().After(proxytest.Cut()),
		"closed at once":         proxytest.Raw(""),
		"not HTTP":               proxytest.Raw("SSH-2.0-OpenSSH_9.6\r\n"),
		"half a header":          proxytest.Raw("HTTP/1.1 200 OK\r\nContent-Ty"),
		"no headers":             proxytest.Hang(),
		"unread":                 proxytest.Hang().Early(),
		"cut in the body":        begin(proxytest.Cut()),
		"reset in the body":      begin(proxytest.Reset()),
		"silence in the body":    begin(proxytest.Silence()),
		"a bad chunk":            proxytest.Raw(head + "Transfer-Encoding: chunked\r\n\r\n" + chunked(text) + "zz\r\n"),
		"length not met":         begin().WithHeader("Content-Length", "1000"),
		"gzip that is none":      begin().WithHeader("Content-Encoding", "gzip"),
		"an unknown coding":      begin(proxytest.Silence()).WithHeader("Content-Encoding", "br"),
		"half a gzip":            proxytest.Stream(proxytest.Text(gzipPieces(text)[0])).WithHeader("Content-Type", contentType).WithHeader("Content-Encoding", "gzip"),
		"101":                    proxytest.Raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
		"204":                    proxytest.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }),
		"a redirect":             begin(proxytest.Silence()).WithStatus(http.StatusFound).WithHeader("Location", "/"),
		"HTML":                   begin(proxytest.Silence()).WithHeader("Content-Type", "text/html"),
		"429":                    proxytest.RateLimited(time.Second),
		"500 without an end":     begin(proxytest.Silence()).WithStatus(http.StatusInternalServerError),
		"401 without an end":     begin(proxytest.Silence()).WithStatus(http.StatusUnauthorized),
		"a 503 that is cut":      begin(proxytest.Cut()).WithStatus(http.StatusServiceUnavailable),
		"trailers":               proxytest.Raw(head + "Connection: close\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text) + "0\r\nX: y\r\n\r\n"),
		"an answer that is fine": begin(),
	}
}

// After every fault, of which the client may or may not see the end, nothing runs
// on: no handler, no call, no timer's work. The bubble fails if a goroutine is left.
func TestK3EveryFaultLeavesNothing(t *testing.T) {
	t.Parallel()
	for contentType, text := range map[string]string{"application/json": `{"a":1}`, "text/event-stream": "data: a\n\n"} {
		for _, leaves := range []bool{false, true} {
			for name, option := range map[string]proxy.Option{
				"with everything": proxy.WithOptions(new(outcomes).hook(), proxy.WithHeartbeat(time.Second), proxy.WithStreamUsage(true)),
				"drained":         proxy.WithLimits(leftoverLimits(time.Minute)),
			} {
				t.Run(fmt.Sprintf("%s, leaves=%t, %s", contentType, leaves, name), func(t *testing.T) {
					eachBubble(t, func(t *testing.T, w wire) {
						var running atomic.Int64
						f := w.start(t, counting(&running), proxy.WithLimits(leftoverLimits(0)), option)
						for fault, answer := range faults(contentType, text) {
							askAndLeave(t, f, answer, leaves)
							synctest.Wait()
							if n := running.Load(); n != 0 {
								t.Errorf("%s: %d handlers still run", fault, n)
							}
						}
						gone, stop := context.WithCancel(t.Context())
						stop()
						if err := f.handler.Shutdown(gone); err != nil {
							t.Errorf("calls are left: %v", err)
						}
					})
				})
			}
		}
	}
}

func leftoverLimits(drain time.Duration) proxy.Limits {
	return proxy.Limits{HeaderTime: 5 * time.Second, StreamIdle: 7 * time.Second, DrainTime: drain}
}

// askAndLeave makes a call and reads all of it, or leaves after three seconds, and
// gives the rest two minutes.
func askAndLeave(t *testing.T, f *fixture, answer proxytest.Answer, leaves bool) {
	t.Helper()
	f.up.Queue(answer)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if leaves {
		time.AfterFunc(3*time.Second, cancel)
	}
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+streamPath, strings.NewReader(streamRequest))
	if res, err := f.Client().Do(req); err == nil {
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	time.Sleep(2 * time.Minute) // of the bubble
}
