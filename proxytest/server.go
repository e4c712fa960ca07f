package proxytest

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait of this package that a broken handler could make
// endless.
const patience = 10 * time.Second

// A ServerOption changes how [Serve] and [NewUpstream] listen. Without options
// they speak HTTP/1.1 on a free port of 127.0.0.1.
type ServerOption func(*serverConfig)

type serverConfig struct {
	http2     bool
	inMemory  bool
	configure []func(*http.Server)
}

// HTTP2 makes server and client speak cleartext HTTP/2 with prior knowledge, and
// nothing else.
func HTTP2() ServerOption {
	return func(c *serverConfig) { c.http2 = true }
}

// InMemory replaces the network by net.Pipe, so that both ends can live in a
// bubble of testing/synctest. The URL is then made up; only the client and the
// transports that the server hands out reach it.
//
// A pipe has no buffer: every write waits for its reader, and an answer can be
// there before the write of the request has returned. A handler that passes a
// body on while it reads it, as httputil.ReverseProxy does, then easily fails,
// because net/http closes the body it reads when it begins to answer; on a real
// network that is rare. Let it read the body first.
func InMemory() ServerOption {
	return func(c *serverConfig) { c.inMemory = true }
}

// Configure changes the http.Server before it starts, for its timeouts, its
// ErrorLog or its ConnState. Handler, Protocols and the listener stay ours; a
// BaseContext set here becomes the parent of the one in use. Several functions
// run in their order.
func Configure(f func(*http.Server)) ServerOption {
	return func(c *serverConfig) { c.configure = append(c.configure, f) }
}

// A Server serves one handler to a test. Its methods are safe for concurrent
// use.
type Server struct {
	// URL is the root, without a slash at its end: "http://127.0.0.1:PORT".
	// In memory it is a made-up loopback address where nobody listens.
	URL string

	tb      testing.TB
	http    *http.Server
	http2   bool
	dial    func(context.Context) (net.Conn, error)
	cancel  context.CancelFunc
	served  chan struct{}
	client  *http.Client
	closing sync.Once

	mu         sync.Mutex
	running    int           // handlers and connections
	idle       chan struct{} // nil until Close waits for them
	transports []*http.Transport
}

// Serve starts a server for h and closes it when the test ends.
func Serve(tb testing.TB, h http.Handler, opts ...ServerOption) *Server {
	tb.Helper()
	var c serverConfig
	for _, opt := range opts {
		if opt != nil {
			opt(&c)
		}
	}
	s := &Server{tb: tb, http2: c.http2, served: make(chan struct{})}
	ln, err := s.listen(c.inMemory)
	if err != nil {
		tb.Fatalf("proxytest: no listener: %v", err)
	}
	s.http = &http.Server{}
	for _, f := range c.configure {
		f(s.http)
	}
	s.http.Handler = s.counted(h)
	s.http.Protocols = s.protocols()
	s.bindContext()
	s.countConnections()
	s.client = &http.Client{
		Transport:     s.Transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(ln) // ends with http.ErrServerClosed when Close is called
	}()
	tb.Cleanup(s.Close)
	return s
}

// Client returns the server's client, the same on every call. It follows no
// redirect, asks for no compression and has no timeout.
func (s *Server) Client() *http.Client { return s.client }

// Transport returns a new transport that dials this server whatever host a
// http:// URL names. It asks for no compression and speaks only the protocol of
// the server. Its fields may be changed before its first use; the connections
// it keeps idle are closed with the server.
func (s *Server) Transport() *http.Transport {
	t := &http.Transport{
		DisableCompression: true,
		Protocols:          s.protocols(),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return s.dial(ctx)
		},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.transports = append(s.transports, t)
	return t
}

// Close stops listening, cuts every connection, ends the context of every
// request and waits for the handlers. One that still runs after 10 seconds fails
// the test. Close may be called more than once; the end of the test calls it.
func (s *Server) Close() {
	s.tb.Helper()
	s.closing.Do(func() {
		s.tb.Helper()
		_ = s.http.Close()
		s.cancel()
		<-s.served
		_ = s.http.Close() // again, for a connection accepted during the first
		idle := s.refuse()
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-idle:
		case <-timer.C:
			s.tb.Errorf("proxytest: a handler still runs %v after its server was closed", patience)
		}
	})
}

// refuse lets no handler start from now on and closes the connections that
// clients keep. The channel is closed when the last handler has returned and the
// server has let go of the last connection: it keeps some for half a second
// after closing them, which must not outlive a bubble.
func (s *Server) refuse() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.transports {
		t.CloseIdleConnections()
	}
	s.idle = make(chan struct{})
	if s.running == 0 {
		close(s.idle)
	}
	return s.idle
}

// enter counts a handler or a connection until leave. It reports false when it
// is too late for either.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle != nil {
		return false
	}
	s.running++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if s.idle != nil && s.running == 0 {
		close(s.idle)
	}
}

// counted is h, known to Close while it runs.
func (s *Server) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.enter() {
			defer s.leave()
			h.ServeHTTP(w, r)
		}
	})
}

// countConnections makes connections known to Close.
func (s *Server) countConnections() {
	hook := s.http.ConnState
	s.http.ConnState = func(c net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew: // comes before Serve returns, so never too late
			s.enter()
		case http.StateClosed, http.StateHijacked:
			s.leave()
		}
		if hook != nil {
			hook(c, state)
		}
	}
}

// listen opens the listener and sets what depends on its kind.
func (s *Server) listen(inMemory bool) (net.Listener, error) {
	if inMemory {
		ln := newPipeListener()
		s.URL, s.dial = "http://"+ln.Addr().String(), ln.dial
		return ln, nil
	}
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.URL = "http://" + ln.Addr().String()
	s.dial = func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", ln.Addr().String())
	}
	return ln, nil
}

// bindContext makes Close end the contexts of all requests: of those too whose
// connection was hijacked, or whose body nobody reads.
func (s *Server) bindContext() {
	closing, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	base := s.http.BaseContext
	s.http.BaseContext = func(ln net.Listener) context.Context {
		if base == nil {
			return closing
		}
		ctx, cancel := context.WithCancel(base(ln))
		context.AfterFunc(closing, cancel)
		return ctx
	}
}

func (s *Server) protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(!s.http2)
	p.SetUnencryptedHTTP2(s.http2)
	return p
}
