package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// An upstream closes connections that it finds idle. While they are given up before
// it does, no request meets one that is being closed, however long the pause was.
func TestF10IdleConnectionsAreGivenUpInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const ours, theirs, calls = 30 * time.Second, 60 * time.Second, 1200
		var conns atomic.Int64
		up := proxytest.NewUpstream(t, proxytest.InMemory(), proxytest.Configure(func(s *http.Server) {
			s.IdleTimeout = theirs
			s.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					conns.Add(1)
				}
			}
		}))
		transport := up.Transport()
		transport.IdleConnTimeout = ours // as that of NewHandler has it, see TestF12TransportIsAsDocumented
		f := everyWire()[0].inMemory().start(t, nil, proxy.WithUpstream(up.URL()), proxy.WithTransport(transport))
		pauses := []time.Duration{0, 1, ours - 1, ours, ours + 1, theirs - 1, theirs, theirs + 1}
		for i := range calls {
			if status := postQuietly(t, f); status != http.StatusOK {
				t.Errorf("request %d, after a pause of %v: status %d", i, pauses[i%len(pauses)], status)
			}
			time.Sleep(pauses[(i+1)%len(pauses)])
		}
		if n := len(up.Requests()); n != calls {
			t.Errorf("the upstream got %d requests, want %d", n, calls)
		}
		if n := conns.Load(); n < calls/8 || n > calls {
			t.Errorf("%d connections for %d requests: some must have been used again, and some given up", n, calls)
		}
	})
}

// An upstream closes a connection under a request. One of which nothing was written
// is repeated; any other may fail, and none is processed twice.
func TestF10ConnectionIsClosedUnderARequest(t *testing.T) {
	t.Parallel()
	var processed, unwritten, written atomic.Int64
	var theirs sync.Map // of connections, by the address of the other end
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		processed.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"ok":true}`)
	}))
	up.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		theirs.Store(c.RemoteAddr().String(), c)
		return ctx
	}
	up.Start()
	t.Cleanup(up.Close)
	var reuses atomic.Int64
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		used := false
		return writeHook{conn, func(p []byte) error {
			if !bytes.HasPrefix(p, []byte("POST ")) {
				return nil
			}
			if !used {
				used = true
				return nil
			}
			n := reuses.Add(1)
			if n%5 != 0 {
				return nil
			}
			if c, ok := theirs.Load(conn.LocalAddr().String()); ok {
				_ = c.(net.Conn).Close()
			}
			if n%10 == 0 {
				written.Add(1)
				return nil
			}
			unwritten.Add(1)
			return &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
		}}, nil
	}}
	f := start(t, proxy.WithUpstream(up.URL+"/v1"), proxy.WithTransport(transport))
	const each, users = 250, 4
	var succeeded, failed atomic.Int64
	var wg sync.WaitGroup
	for range users {
		wg.Go(func() {
			for range each {
				switch status := postQuietly(t, f); status {
				case http.StatusOK:
					succeeded.Add(1)
				case http.StatusBadGateway:
					failed.Add(1)
				default:
					t.Errorf("status %d", status)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d connections were closed before a write and %d under one; %d requests failed", unwritten.Load(), written.Load(), failed.Load())
	if unwritten.Load() == 0 || written.Load() == 0 {
		t.Error("no connection that was used again was closed")
	}
	if got := failed.Load(); got > written.Load() {
		t.Errorf("%d requests failed, want %d at most", got, written.Load())
	}
	if got, want := processed.Load(), succeeded.Load(); got != want || want+failed.Load() != each*users {
		t.Errorf("the upstream processed %d requests, of which %d were answered; %d failed", got, want, failed.Load())
	}
}

// writeHook asks before each write.
type writeHook struct {
	net.Conn
	before func(p []byte) error
}

func (c writeHook) Write(p []byte) (int, error) {
	if err := c.before(p); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// postQuietly makes a call and returns its status.
func postQuietly(t *testing.T, f *fixture) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+"/v1/chat/completions",
		strings.NewReader(`{"model":"m","messages":[]}`))
	if err != nil {
		t.Error(err)
		return 0
	}
	res, err := f.Client().Do(req)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// Over HTTP/2 an upstream that goes away says which requests it has not seen.
// Those are repeated, the others are not.
func TestF11UpstreamGoesAway(t *testing.T) {
	var processed atomic.Int64
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		if n := processed.Add(1); n%20 == 0 {
			w.Header().Set("Connection", "close") // HTTP/2: GOAWAY behind this answer
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"ok":true}`)
	}))
	up.EnableHTTP2 = true
	up.StartTLS()
	t.Cleanup(up.Close)
	f := start(t, proxy.WithUpstream(up.URL+"/v1"), proxy.WithTransport(up.Client().Transport))
	const each = 300
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for range each {
				if status := postQuietly(t, f); status != http.StatusOK {
					t.Errorf("status %d", status)
				}
			}
		})
	}
	wg.Wait()
	if got := processed.Load(); got != 5*each {
		t.Errorf("the upstream processed %d requests, want %d", got, 5*each)
	}
}

// An upstream that takes a request and closes the connection may have worked on
// it: it is never sent again.
func TestF13UpstreamTakesARequestAndCloses(t *testing.T) {
	var taken atomic.Int64
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if taken.Add(1)%4 == 0 { // on a connection that served others before
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_ = conn.Close()
			}
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"ok":true}`)
	}))
	t.Cleanup(up.Close)
	f := start(t, proxy.WithUpstream(up.URL+"/v1"), proxy.WithTransport(up.Client().Transport),
		proxy.WithLimits(proxy.Limits{Retries: 3, RetryTime: time.Minute}))
	const calls = 2000
	lost := 0
	for range calls {
		if postQuietly(t, f) == http.StatusBadGateway {
			lost++
		}
	}
	if got := taken.Load(); got != calls || lost != calls/4 {
		t.Errorf("the upstream got %d requests and %d answers were lost, want %d and %d", got, lost, calls, calls/4)
	}
}

// Whatever a stream is made of passes in bounded memory.
func TestF21StreamsOfAnyShapeTakeBoundedMemory(t *testing.T) {
	const piece = 256 << 10
	for name, begin := range map[string]string{
		"a line without an end": "data: ", "zeros": "\x00\x00", "no event at all": "",
	} {
		size := 32 << 20
		if begin == "data: " {
			size = 100 << 20
		}
		for _, usage := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, usage=%t", name, usage), func(t *testing.T) {
				up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					w.Header().Set("Content-Type", "text/event-stream")
					_, _ = io.WriteString(w, begin)
					for range size / piece {
						if _, err := io.WriteString(w, strings.Repeat("x", piece)); err != nil {
							return
						}
					}
				}))
				t.Cleanup(up.Close)
				h, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithUpstream(up.URL+"/v1"), proxy.WithStreamUsage(usage))
				if err != nil {
					t.Fatal(err)
				}
				srv := httptest.NewServer(h) // not start's, which keeps what clients receive
				t.Cleanup(srv.Close)
				before := heapInUse()
				res, err := srv.Client().Post(srv.URL+"/v1/chat/completions", "application/json",
					strings.NewReader(`{"model":"m","stream":true,"messages":[]}`))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				buf, n, most := make([]byte, 1<<20), 0, uint64(0)
				for i := 0; ; i++ {
					k, err := res.Body.Read(buf)
					n += k
					if i%2000 == 0 {
						most = max(most, heapInUse())
					}
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if want := len(begin) + size; n != want {
					t.Errorf("%d bytes arrived, want %d", n, want)
				}
				if grown := int64(most) - int64(before); grown > 8<<20 {
					t.Errorf("the heap grew by %d KiB", grown>>10)
				}
			})
		}
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// An upstream may answer before it has read the request. Its answer passes, and
// the connection is not used for others with half a request in it.
func TestF22UpstreamAnswersBeforeItHasRead(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%t", h2), func(t *testing.T) {
			up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if r.ContentLength > 1<<20 {
					w.WriteHeader(http.StatusTooManyRequests)
					_, _ = io.WriteString(w, `{"error":{"message":"slower","type":"requests","param":null,"code":"rate_limit_exceeded"}}`)
					return
				}
				body, err := io.ReadAll(r.Body)
				if err != nil || !bytes.HasPrefix(body, []byte(`{"model":"m"`)) {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				_, _ = io.WriteString(w, `{"ok":true}`)
			}))
			up.EnableHTTP2 = h2
			up.StartTLS()
			t.Cleanup(up.Close)
			f := start(t, proxy.WithUpstream(up.URL+"/v1"), proxy.WithTransport(up.Client().Transport))
			early := 0
			for range 5 {
				large := `{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("x", 8<<20) + `"}]}`
				res, body := f.post(t, "/v1/chat/completions", large)
				switch {
				case res.StatusCode == http.StatusTooManyRequests && strings.Contains(body, "slower"):
					early++
				case res.StatusCode == http.StatusBadGateway && !h2: // the connection broke first
				default:
					t.Errorf("status %d: %s", res.StatusCode, body)
				}
				for range 20 {
					if status := postQuietly(t, f); status != http.StatusOK {
						t.Errorf("status %d behind an early answer", status)
					}
				}
			}
			if early == 0 {
				t.Error("no early answer passed")
			}
		})
	}
}

// A connection is opened for a request, and closed in the end: nothing else stays.
func TestK4ConnectionsThatAreOpenedAreClosed(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%t", h2), func(t *testing.T) {
			up := httptest.NewUnstartedServer(http.HandlerFunc(faultByModel))
			up.EnableHTTP2 = h2
			up.StartTLS()
			t.Cleanup(up.Close)
			var open, dials atomic.Int64
			transport := &http.Transport{
				TLSClientConfig: up.Client().Transport.(*http.Transport).TLSClientConfig.Clone(), ForceAttemptHTTP2: h2,
				DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, addr)
					if err != nil {
						return nil, err
					}
					dials.Add(1)
					open.Add(1)
					return &countedConn{Conn: conn, closed: sync.OnceFunc(func() { open.Add(-1) })}, nil
				},
			}
			f := start(t, proxy.WithUpstream(up.URL+"/v1"), proxy.WithTransport(transport),
				proxy.WithLimits(proxy.Limits{HeaderTime: 50 * time.Millisecond}))
			statuses := map[int]int{}
			for range 5 {
				for _, model := range []string{"close", "refuse", "hang", "cut", "html"} {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+"/v1/chat/completions",
						strings.NewReader(`{"stream":true,"messages":[],"model":"`+model+`"}`))
					if err != nil {
						t.Fatal(err)
					}
					res, err := f.Client().Do(req)
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
					statuses[res.StatusCode]++
				}
			}
			if want := map[int]int{200: 5, 418: 5, 502: 10, 504: 5}; !maps.Equal(statuses, want) {
				t.Errorf("the answers were %v, want %v", statuses, want)
			}
			if n := dials.Load(); n == 0 || h2 && n > 3 {
				t.Errorf("%d connections", n)
			}
			transport.CloseIdleConnections()
			for deadline := time.Now().Add(10 * time.Second); open.Load() != 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d connections to the upstream are still open", open.Load())
				}
			}
		})
	}
}

// faultByModel fails as the model's name says.
func faultByModel(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	switch {
	case bytes.Contains(body, []byte(`"close"`)):
		panic(http.ErrAbortHandler)
	case bytes.Contains(body, []byte(`"refuse"`)):
		w.WriteHeader(http.StatusTeapot)
	case bytes.Contains(body, []byte(`"hang"`)):
		<-r.Context().Done()
	case bytes.Contains(body, []byte(`"cut"`)):
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	default:
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, strings.Repeat("no JSON", 1000))
	}
}

type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}
