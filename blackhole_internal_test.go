package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A path that swallows packets leaves an HTTP/2 connection that looks alive.
// Without pings it would fail every request for a quarter of an hour; the
// transport's find out, and the next request gets a new connection.
func TestF12DeadHTTP2ConnectionIsReplaced(t *testing.T) {
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"ok":true}`)
	}))
	up.EnableHTTP2 = true
	up.StartTLS()
	defer up.Close()

	transport := newTransport(false)
	if h2 := transport.HTTP2; h2.SendPingTimeout != 15*time.Second || h2.PingTimeout != 5*time.Second {
		t.Errorf("pings after %v and %v, documented are 15 and 5 s", h2.SendPingTimeout, h2.PingTimeout)
	}
	transport.HTTP2.SendPingTimeout, transport.HTTP2.PingTimeout = 100*time.Millisecond, 100*time.Millisecond
	transport.TLSClientConfig = &tls.Config{RootCAs: up.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, MinVersion: tls.VersionTLS12}
	defer transport.CloseIdleConnections()
	var dials atomic.Int64
	var dead atomic.Pointer[deafConn]
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		dials.Add(1)
		deaf := &deafConn{Conn: conn, closed: make(chan struct{})}
		dead.CompareAndSwap(nil, deaf)
		return deaf, nil
	}
	h, err := NewHandler(WithKey("sk-x"), WithUpstream(up.URL+"/v1"), WithTransport(transport),
		WithLogger(slog.New(slog.DiscardHandler)), WithLimits(Limits{HeaderTime: 20 * time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	post := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(`{"model":"m","messages":[]}`)))
		return w.Code
	}
	if got := post(); got != http.StatusOK {
		t.Fatalf("status %d", got)
	}
	dead.Load().deaf.Store(true)
	began, failed := time.Now(), 0
	for post() != http.StatusOK {
		if failed++; failed > 2 || time.Since(began) > 10*time.Second {
			t.Fatalf("%d requests have failed in %v", failed, time.Since(began))
		}
	}
	if dials.Load() < 2 {
		t.Error("there was no second connection: the first one was never dead")
	}
}

// deafConn swallows what is written and hears nothing, once it is told to.
type deafConn struct {
	net.Conn
	deaf   atomic.Bool
	closed chan struct{}
	once   atomic.Bool
}

func (c *deafConn) Write(p []byte) (int, error) {
	if c.deaf.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *deafConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.deaf.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *deafConn) Close() error {
	if c.once.CompareAndSwap(false, true) {
		close(c.closed)
	}
	return c.Conn.Close()
}
