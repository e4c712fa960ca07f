package proxytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// An Upstream is a scripted fake of the OpenAI API for chat and images.
//
// The zero value is a usable http.Handler that answers plausibly and plays what
// was queued, for a demonstration without a key; it keeps no requests.
// [NewUpstream] makes one that listens and keeps them. All methods are safe for
// concurrent use.
//
// Without a script, POST on a path that ends in /chat/completions echoes the
// last user message as "You said: ...", in words when the request asks for a
// stream; /images/generations and /images/edits draw a small PNG whose colour
// depends on the prompt. The parameter n is ignored. A body that is no JSON
// object, or a chat request without model or messages, or an image request
// without prompt, is 400; another method 405; another path 404: each with the
// error envelope of the API.
//
// Every token count of chat is 9 + 12 = 21, of images 10 + 20 = 30.
type Upstream struct {
	// Pace is the pause between the pieces of an unscripted stream. The default
	// is none. It must not change while requests are served.
	Pace time.Duration

	server *Server

	mu       sync.Mutex
	queue    []Answer
	count    int
	requests []*Request
	taken    int
	arrival  chan struct{}
}

// NewUpstream starts an upstream and closes it when the test ends.
func NewUpstream(tb testing.TB, opts ...ServerOption) *Upstream {
	tb.Helper()
	u := &Upstream{arrival: make(chan struct{})}
	u.server = Serve(tb, u, opts...)
	return u
}

// URL returns the root of the API with its version path, such as
// "http://127.0.0.1:PORT/v1". In memory the address is made up and only
// [Upstream.Transport] reaches it. It is empty for a zero Upstream.
func (u *Upstream) URL() string {
	if u.server == nil {
		return ""
	}
	return u.server.URL + "/v1"
}

// Transport returns a new transport that dials this upstream whatever host a
// http:// URL names; see [Server.Transport]. That of a zero Upstream reaches
// nothing.
func (u *Upstream) Transport() *http.Transport {
	if u.server == nil {
		return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("proxytest: this Upstream does not listen")
		}}
	}
	return u.server.Transport()
}

// Close takes the upstream down before the test ends; see [Server.Close].
// Requests and queued answers stay.
func (u *Upstream) Close() {
	if u.server != nil {
		u.server.Close()
	}
}

// Queue appends answers. Each request takes the oldest one when its headers have
// arrived; with none left it gets a plausible answer, as from the zero [Answer].
func (u *Upstream) Queue(answers ...Answer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.queue = append(u.queue, answers...)
}

// Requests returns all requests so far whose body has arrived or was broken off,
// oldest first, taken by Next or not. It is empty for a zero Upstream.
func (u *Upstream) Requests() []*Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]*Request(nil), u.requests...)
}

// Next returns the oldest request that it has not returned yet, and waits for
// one. After 10 seconds without it fails the test by FailNow, so call it from
// the test's own goroutine. It returns nil for a zero Upstream.
func (u *Upstream) Next() *Request {
	if u.server == nil {
		return nil
	}
	u.server.tb.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		req, arrival := u.next()
		if req != nil {
			return req
		}
		select {
		case <-arrival:
		case <-timer.C:
			u.server.tb.Fatalf("proxytest: no request reached the upstream within %v", patience)
			return nil
		}
	}
}

// next returns the next request, or a channel that is closed when one comes.
func (u *Upstream) next() (*Request, <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.taken == len(u.requests) {
		return nil, u.arrival
	}
	u.taken++
	return u.requests[u.taken-1], nil
}

// ServeHTTP reads the whole body, keeps the request and gives the next answer.
func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, number := u.take()
	req := newRequest(r, number)
	defer close(req.done)
	stop := context.AfterFunc(r.Context(), req.leave)
	defer func() {
		stop()
		if r.Context().Err() != nil {
			req.leave()
		}
	}()
	if answer.early {
		// Else net/http reads the body before the headers go out on HTTP/1.
		// Where it is not supported it is not needed.
		_ = http.NewResponseController(w).EnableFullDuplex()
		if r.ProtoMajor == 1 {
			// net/http would look for the next request while it still reads the
			// rest of this one, and panic.
			w.Header().Set("Connection", "close")
		}
	} else {
		req.Body, req.BodyErr = io.ReadAll(r.Body) //nolint:forbidigo // a test reads what it is sent
		r.Body = io.NopCloser(bytes.NewReader(req.Body))
	}
	u.keep(req)
	if req.BodyErr != nil {
		req.leave()
		return
	}
	if answer.plan == nil {
		answer.plan = u.plausible
	}
	x := &exchange{ctx: r.Context(), w: w, r: r, req: req}
	if answer.give(x) == cut {
		// The only way that net/http knows to break off an answer: the
		// connection is closed on HTTP/1, the stream reset on HTTP/2.
		panic(http.ErrAbortHandler) //nolint:forbidigo // see above
	}
}

// take removes the oldest answer from the queue; with none it is the zero
// Answer. The number counts the requests from 1.
func (u *Upstream) take() (Answer, int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count++
	if len(u.queue) == 0 {
		return Answer{}, u.count
	}
	answer := u.queue[0]
	u.queue = u.queue[1:]
	return answer, u.count
}

func (u *Upstream) keep(req *Request) {
	if u.server == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests = append(u.requests, req)
	close(u.arrival)
	u.arrival = make(chan struct{})
}

// A Request is what reached the upstream. Its fields are copies and do not
// change any more.
type Request struct {
	Method string
	// Target is the request target as it was sent, with its query.
	Target string
	// Proto is "HTTP/1.1" or "HTTP/2.0".
	Proto string
	// Host is the Host header or the :authority, which Header does not contain.
	Host   string
	Header http.Header
	// ContentLength is the announced length of the body, -1 without.
	ContentLength int64
	// Body is the body byte for byte; nil when the answer was [Answer.Early].
	Body []byte
	// BodyErr says why Body is not whole. Such a request gets no answer.
	BodyErr error
	// RemoteAddr tells connections apart; in memory all have the same.
	RemoteAddr string

	id       string
	canceled chan struct{}
	leave    func()
	done     chan struct{}
}

func newRequest(r *http.Request, number int) *Request {
	req := &Request{
		Method: r.Method, Target: r.RequestURI, Proto: r.Proto, Host: r.Host,
		Header: r.Header.Clone(), ContentLength: r.ContentLength, RemoteAddr: r.RemoteAddr,
		id:       fmt.Sprintf("%032d", number),
		canceled: make(chan struct{}), done: make(chan struct{}),
	}
	req.leave = sync.OnceFunc(func() { close(req.canceled) })
	return req
}

// Canceled is closed when the caller left, or the upstream was closed, before
// the answer was complete. If it is, that happens before Done is closed.
func (r *Request) Canceled() <-chan struct{} { return r.canceled }

// Done is closed when the upstream has finished with the request: its answer is
// complete, cut off, or the caller has left.
func (r *Request) Done() <-chan struct{} { return r.done }
