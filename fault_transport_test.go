package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// An upstream closes connections that it finds idle. A request that meets one
// being closed may fail, but none may be processed twice, and none may fail while
// connections are given up before the upstream does.
func TestF10UpstreamClosesIdleConnections(t *testing.T) {
	const idle = 60 * time.Millisecond
	for _, tt := range []struct {
		name   string
		ours   time.Duration // how long we keep a connection
		failed int           // of 400, at most
	}{{"given up in time", idle / 4, 2}, {"given up too late", time.Minute, 80}} {
		t.Run(tt.name, func(t *testing.T) {
			var processed atomic.Int64
			up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return
				}
				processed.Add(1)
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"ok":true}`)
			}))
			up.Config.IdleTimeout = idle
			up.Start()
			t.Cleanup(up.Close)
			transport := up.Client().Transport.(*http.Transport).Clone()
			transport.IdleConnTimeout = tt.ours
			f := start(t, proxy.WithUpstream(up.URL+"/v1"), proxy.WithTransport(transport))
			var succeeded, refused atomic.Int64
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for range 50 {
						switch status := postQuietly(t, f); status {
						case http.StatusOK:
							succeeded.Add(1)
						case http.StatusBadGateway:
							refused.Add(1)
						default:
							t.Errorf("status %d", status)
						}
						time.Sleep(idle - 2*time.Millisecond + time.Duration(i)*time.Millisecond/2)
					}
				})
			}
			wg.Wait()
			if got := refused.Load(); got > int64(tt.failed) {
				t.Errorf("%d of 400 requests failed, want at most %d", got, tt.failed)
			}
			// What failed may have been processed; what succeeded was, once.
			if got := processed.Load(); got < succeeded.Load() || got > 400 {
				t.Errorf("the upstream processed %d requests, of which %d were answered", got, succeeded.Load())
			}
		})
	}
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
	const each = 60
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
	const calls = 400
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
	var open atomic.Int64
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case bytes.Contains(body, []byte(`"close"`)):
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_ = conn.Close()
			}
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
	}))
	t.Cleanup(up.Close)
	transport := up.Client().Transport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		open.Add(1)
		return &countedConn{Conn: conn, closed: sync.OnceFunc(func() { open.Add(-1) })}, nil
	}
	f := start(t, proxy.WithUpstream(up.URL+"/v1"), proxy.WithTransport(transport),
		proxy.WithLimits(proxy.Limits{HeaderTime: 50 * time.Millisecond}))
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
		}
	}
	transport.CloseIdleConnections()
	for deadline := time.Now().Add(10 * time.Second); open.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections to the upstream are still open", open.Load())
		}
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
