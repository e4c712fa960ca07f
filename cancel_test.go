package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// cancelCeiling bounds how long the upstream may take to learn that its caller
// left. The figure itself is a benchmark's.
const cancelCeiling = time.Second

// wantCanceled waits for the upstream to learn that its caller left.
func wantCanceled(t testing.TB, req *proxytest.Request) {
	t.Helper()
	timer := time.NewTimer(cancelCeiling)
	defer timer.Stop()
	select {
	case <-req.Canceled():
	case <-timer.C:
		t.Errorf("the upstream was not cancelled within %v", cancelCeiling)
	}
}

// talking answers with a stream that never ends by itself.
func talking() proxytest.Answer {
	return proxytest.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "data: tick\n\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
			}
		}
	})
}

// stage is a moment at which a client leaves.
type stage struct {
	name    string
	request string
	answer  func() proxytest.Answer
	read    string // what the client reads before it leaves
}

func stages() []stage {
	unfinished := func() proxytest.Answer {
		return proxytest.Respond(http.StatusOK, http.Header{"Content-Type": {"application/json"}},
			proxytest.Text(`{"id":`), proxytest.Silence())
	}
	events := func(steps ...proxytest.Step) func() proxytest.Answer {
		return func() proxytest.Answer { return proxytest.Stream(append(steps, proxytest.Silence())...) }
	}
	return []stage{
		{"stream, before the headers", streamRequest, proxytest.Hang, ""},
		{"stream, behind the headers", streamRequest, events(), "\r\n\r\n"},
		{"stream, behind the first byte", streamRequest, events(proxytest.Text("d")), "d"},
		{"stream, between events", streamRequest, events(proxytest.Text("data: a\n\n")), "data: a\n\n"},
		{"stream, within an event", streamRequest, events(proxytest.Text("data: a\n\ndata: b")), "data: b"},
		{"stream, while the upstream talks", streamRequest, talking, "data: tick\n\n"},
		{"plain, before the headers", plainRequest, proxytest.Hang, ""},
		{"plain, within the body", plainRequest, unfinished, ""},
		{"plain, within an error body", plainRequest, func() proxytest.Answer { return unfinished().WithStatus(500) }, ""},
	}
}

// leaves are the ways an HTTP/1.1 client leaves.
var leaves = map[string]func(*net.TCPConn){
	"FIN": func(c *net.TCPConn) { _ = c.Close() },
	"RST": func(c *net.TCPConn) {
		_ = c.SetLinger(0)
		_ = c.Close()
	},
	"half-close": func(c *net.TCPConn) { _ = c.CloseWrite() },
}

// dial opens a bare connection to the proxy.
func dial(t testing.TB, f *fixture) *net.TCPConn {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(f.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// rawRequest is a request as it stands on the wire.
func rawRequest(path, body string, announced int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: proxy.test\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, announced, body)
}

// readUntil reads until mark has passed.
func readUntil(t testing.TB, r *bufio.Reader, mark string) {
	t.Helper()
	var got strings.Builder
	for !strings.HasSuffix(got.String(), mark) {
		b, err := r.ReadByte()
		if err != nil {
			t.Fatalf("waiting for %q: %v, so far %q", mark, err, got.String())
		}
		got.WriteByte(b)
	}
}

func TestF25ClientThatLeavesCancelsTheUpstream(t *testing.T) {
	t.Parallel()
	all := everyWire()
	for _, w := range all[:2] { // HTTP/1.1 towards the client
		for how, leave := range leaves {
			for _, s := range stages() {
				t.Run(fmt.Sprintf("%s/%s/%s", w.name, how, s.name), func(t *testing.T) {
					t.Parallel()
					var told outcomes
					f := w.start(t, nil, told.hook())
					f.up.Queue(s.answer())
					conn := dial(t, f)
					if _, err := io.WriteString(conn, rawRequest(streamPath, s.request, len(s.request))); err != nil {
						t.Fatal(err)
					}
					readUntil(t, bufio.NewReaderSize(conn, 16), s.read)
					req := f.up.Next()
					leave(conn)
					wantCanceled(t, req)
					f.Close() // waits for the handler
					out := told.only(t)
					if out.Ending != proxy.EndingClientGone || !errors.Is(out.Err, proxy.ErrClientGone) {
						t.Errorf("ending %s, %v", out.Ending, out.Err)
					}
					if want := map[bool]int{true: 499, false: 200}[s.read == ""]; out.Status != want {
						t.Errorf("status %d, want %d", out.Status, want)
					}
				})
			}
		}
	}
}

func TestClientThatResetsItsStreamCancelsTheUpstream(t *testing.T) {
	t.Parallel()
	all := everyWire()
	for _, w := range all[2:] { // HTTP/2 towards the client
		for _, how := range []string{"RST_STREAM", "closed connection"} {
			for _, s := range stages() {
				t.Run(fmt.Sprintf("%s/%s/%s", w.name, how, s.name), func(t *testing.T) {
					t.Parallel()
					var told outcomes
					f := w.start(t, nil, told.hook())
					f.up.Queue(s.answer())
					var conn atomic.Value
					transport := f.Transport()
					dialer := transport.DialContext
					transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
						c, err := dialer(ctx, network, addr)
						if err == nil {
							conn.Store(c)
						}
						return c, err
					}
					ctx, cancel := context.WithCancel(within(t))
					finished := make(chan struct{})
					read := make(chan struct{})
					go func() {
						defer close(finished)
						req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+streamPath, strings.NewReader(s.request))
						res, err := transport.RoundTrip(req)
						if err != nil {
							return
						}
						defer res.Body.Close()
						if want := strings.TrimSpace(s.read); want != "" {
							_, _ = io.ReadFull(res.Body, make([]byte, len(want)))
						}
						close(read)
						_, _ = io.Copy(io.Discard, res.Body)
					}()
					req := f.up.Next()
					if s.read != "" {
						<-read
					}
					if how == "RST_STREAM" {
						cancel()
					} else {
						_ = conn.Load().(net.Conn).Close()
					}
					wantCanceled(t, req)
					cancel()
					<-finished
					f.Close()
					if out := told.only(t); out.Ending != proxy.EndingClientGone || !errors.Is(out.Err, proxy.ErrClientGone) {
						t.Errorf("ending %s, %v", out.Ending, out.Err)
					}
				})
			}
		}
	}
}

// returning closes the channel when the handler has returned.
func returning(done chan<- struct{}) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(done)
			next.ServeHTTP(w, r)
		})
	}
}

func TestF25ClientThatLeavesWithinItsBodyCausesNoCall(t *testing.T) {
	t.Parallel()
	for how, leave := range leaves {
		for _, part := range []string{"", streamRequest[:7], streamRequest[:len(streamRequest)-1], streamRequest} {
			t.Run(fmt.Sprintf("%s behind %d bytes", how, len(part)), func(t *testing.T) {
				t.Parallel()
				done := make(chan struct{})
				f := setup{wrap: returning(done)}.start(t)
				conn := dial(t, f)
				if _, err := io.WriteString(conn, rawRequest(streamPath, part, len(streamRequest)+1)); err != nil {
					t.Fatal(err)
				}
				leave(conn)
				select {
				case <-done:
				case <-time.After(cancelCeiling):
					t.Errorf("the handler still runs %v after its client left", cancelCeiling)
				}
				f.wantCalls(t, 0)
			})
		}
	}
	t.Run("RST_STREAM", func(t *testing.T) {
		t.Parallel()
		done := make(chan struct{})
		f := setup{client: []proxytest.ServerOption{proxytest.HTTP2()}, wrap: returning(done)}.start(t)
		body, more := io.Pipe()
		defer more.Close()
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		go func() {
			_, _ = io.WriteString(more, streamRequest[:7])
			cancel()
		}()
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+streamPath, body)
		if res, err := f.Client().Do(req); err == nil {
			_ = res.Body.Close()
			t.Errorf("an answer to half a request: %d", res.StatusCode)
		}
		select {
		case <-done:
		case <-time.After(cancelCeiling):
			t.Errorf("the handler still runs %v after its client left", cancelCeiling)
		}
		f.wantCalls(t, 0)
	})
}

// counting counts the handlers that run.
func counting(running *atomic.Int64) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1)
			defer running.Add(-1)
			next.ServeHTTP(w, r)
		})
	}
}

// In a bubble nothing but timers passes time: a cancellation that needs none has
// arrived when every goroutine waits.
func TestClientThatLeavesCancelsWithoutATimer(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		var running atomic.Int64
		f := w.start(t, counting(&running), proxy.WithHeartbeat(15*time.Second))
		for _, s := range stages() {
			if strings.Contains(s.name, "talks") {
				continue // it never waits
			}
			f.up.Queue(s.answer())
			ctx, cancel := context.WithCancel(t.Context())
			finished := make(chan struct{})
			go func() {
				defer close(finished)
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+streamPath, strings.NewReader(s.request))
				if res, err := f.Client().Do(req); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
			}()
			req := f.up.Next()
			synctest.Wait()
			began := time.Now()
			cancel()
			synctest.Wait()
			select {
			case <-req.Canceled():
			default:
				t.Errorf("%s: the upstream was not cancelled", s.name)
			}
			if n := running.Load(); n != 0 {
				t.Errorf("%s: %d handlers still run", s.name, n)
			}
			<-finished
			if took := time.Since(began); took != 0 {
				t.Errorf("%s: it took %v", s.name, took)
			}
		}
	})
}

func TestClientThatDoesNotReadHoldsTheUpstreamBack(t *testing.T) {
	t.Parallel()
	const piece = 32 << 10
	tests := []struct {
		wire
		bound int64
	}{
		{everyWire()[0].inMemory(), 512 << 10},
		{everyWire()[1].inMemory(), 4<<20 + 512<<10}, // the window of net/http's client
		{everyWire()[2].inMemory(), 4<<20 + 512<<10}, // here that of the test's client
		{everyWire()[3].inMemory(), 8<<20 + 512<<10},
	}
	for _, tt := range tests {
		for name, option := range map[string]proxy.Option{
			"by read": nil, "by event": proxy.WithStreamUsage(true),
			"side scan": (&outcomes{}).hook(), "heartbeat": proxy.WithHeartbeat(time.Second),
		} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var accepted atomic.Int64
					f := tt.start(t, nil, proxy.WithLimits(proxy.Limits{WriteStall: -1}), option)
					f.up.Queue(proxytest.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						w.Header().Set("Content-Type", "text/event-stream")
						for r.Context().Err() == nil {
							n, err := io.WriteString(w, "data: "+strings.Repeat("x", piece-8)+"\n\n")
							accepted.Add(int64(n))
							if err != nil {
								return
							}
						}
					}))
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					res := open(ctx, t, f, streamPath, streamRequest)
					time.Sleep(time.Minute) // of the bubble: until nothing moves any more
					first := accepted.Load()
					if first > tt.bound {
						t.Errorf("%d bytes were taken from the upstream, want at most %d", first, tt.bound)
					}
					time.Sleep(time.Hour)
					if more := accepted.Load(); more != first {
						t.Errorf("%d bytes more were taken while the client read none", more-first)
					}
					if _, err := io.CopyN(io.Discard, res.Body, tt.bound); err != nil {
						t.Error(err)
					}
					if more := accepted.Load(); more <= first {
						t.Errorf("the stream does not go on: %d bytes", more)
					}
					req := f.up.Next()
					cancel()
					wantCanceled(t, req)
				})
			})
		}
	}
}

// failingWriter fails from the n-th write or flush on.
type failingWriter struct {
	http.ResponseWriter
	writes, flushes int
}

var errTestWrite = errors.New("the connection is gone")

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.writes--; w.writes < 0 {
		return 0, errTestWrite
	}
	return w.ResponseWriter.Write(p)
}

func (w *failingWriter) FlushError() error {
	if w.flushes--; w.flushes < 0 {
		return errTestWrite
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func TestEveryWriteErrorCancelsTheUpstream(t *testing.T) {
	t.Parallel()
	const many = 1 << 30
	tests := []struct {
		name            string
		writes, flushes int
		option          proxy.Option
	}{
		{"first write", 0, many, nil},
		{"second write", 1, many, nil},
		{"flush of the headers", many, 0, nil},
		{"first flush", many, 1, nil},
		{"second flush", many, 2, nil},
		{"heartbeat", 2, many, proxy.WithHeartbeat(time.Second)},
		{"flush of a heartbeat", many, 3, proxy.WithHeartbeat(time.Second)},
		{"first write by event", 0, many, proxy.WithStreamUsage(true)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var told outcomes
				done := make(chan struct{})
				f := everyWire()[0].inMemory().start(t, func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer close(done)
						next.ServeHTTP(&failingWriter{w, tt.writes, tt.flushes}, r)
					})
				}, tt.option, told.hook())
				f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Pause(10*time.Millisecond),
					proxytest.Text("data: b\n\n"), proxytest.Silence()))
				go func() { // what it gets is not the point
					req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+streamPath, strings.NewReader(streamRequest))
					if res, err := f.Client().Do(req); err == nil {
						_, _ = io.Copy(io.Discard, res.Body)
						_ = res.Body.Close()
					}
				}()
				req := f.up.Next()
				time.Sleep(2 * time.Second)
				synctest.Wait()
				select {
				case <-req.Canceled():
				default:
					t.Error("the upstream was not cancelled")
				}
				<-done
				if out := told.only(t); out.Ending != proxy.EndingClientGone || !errors.Is(out.Err, proxy.ErrClientGone) {
					t.Errorf("ending %s, %v", out.Ending, out.Err)
				}
			})
		})
	}
}

func TestWriteErrorOfAPlainAnswerIsTold(t *testing.T) {
	t.Parallel()
	var told outcomes
	f := setup{options: []proxy.Option{told.hook()}, wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(&failingWriter{w, 0, 0}, r)
		})
	}}.start(t)
	f.up.Queue(proxytest.JSON(http.StatusOK, `{"id":"x"}`))
	req, _ := http.NewRequestWithContext(within(t), http.MethodPost, f.URL+streamPath, strings.NewReader(plainRequest))
	if res, err := f.Client().Do(req); err == nil {
		if _, err := io.ReadAll(res.Body); err == nil {
			t.Error("a clean answer without its body")
		}
		_ = res.Body.Close()
	}
	f.Close()
	if out := told.only(t); out.Ending != proxy.EndingClientGone || out.Bytes != 0 {
		t.Errorf("outcome %+v", out)
	}
}

// Thousands of streams that are opened and dropped leave nothing behind.
func TestK3ManyDroppedStreamsLeaveNothing(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		var running atomic.Int64
		f := w.start(t, counting(&running))
		for range 300 {
			f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Silence()))
			ctx, cancel := context.WithCancel(t.Context())
			res := open(ctx, t, f, streamPath, streamRequest)
			wantNext(t, res.Body, "data: a\n\n")
			req := f.up.Next()
			cancel()
			_ = res.Body.Close()
			wantCanceled(t, req)
		}
		synctest.Wait()
		if n := running.Load(); n != 0 {
			t.Errorf("%d handlers still run", n)
		}
		gone, stop := context.WithCancel(t.Context())
		stop()
		if err := f.handler.Shutdown(gone); err != nil {
			t.Errorf("calls are left: %v", err)
		}
	})
}
