package proxy

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// shutdownGrace is how long Shutdown waits for the last words of the calls that
// it has ended itself.
const shutdownGrace = time.Second

// Shutdown stops the handler gracefully: new requests get 503 with Retry-After,
// calls under way go on. When ctx ends they are ended: streams get an error
// event with the code shutting_down before the cut, other calls get 503.
//
// It returns nil once no call is left, or the cause of ctx if one still is a
// second after ctx ended. Call it beside http.Server.Shutdown, which waits for
// streams and does not end them. It may be called more than once; a handler
// does not come back.
func (h *Handler) Shutdown(ctx context.Context) error {
	empty := h.live.close()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	h.live.cancel(errShutdown)
	grace := time.NewTimer(shutdownGrace)
	defer grace.Stop()
	select {
	case <-empty:
		return nil
	case <-grace.C:
		return context.Cause(ctx)
	}
}

func errShuttingDown() *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Code: CodeShuttingDown, RetryAfter: time.Second,
		Message: "The server is shutting down.", Err: errShutdown,
	}
}

// liveCalls are the calls under way. The zero value has none and is open.
type liveCalls struct {
	mu    sync.Mutex
	calls map[*call]struct{}
	empty chan struct{} // made by close; closed when no call is left
}

// add registers c, unless the handler is closing.
func (l *liveCalls) add(c *call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.empty != nil {
		return false
	}
	if l.calls == nil {
		l.calls = map[*call]struct{}{}
	}
	l.calls[c] = struct{}{}
	return true
}

func (l *liveCalls) remove(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.calls[c]; !ok {
		return
	}
	delete(l.calls, c)
	if l.empty != nil && len(l.calls) == 0 {
		close(l.empty)
	}
}

// close admits no more calls; the channel is closed once none is left.
func (l *liveCalls) close() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.empty == nil {
		l.empty = make(chan struct{})
		if len(l.calls) == 0 {
			close(l.empty)
		}
	}
	return l.empty
}

func (l *liveCalls) closing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.empty != nil
}

func (l *liveCalls) cancel(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.calls {
		c.cancel(cause)
	}
}
