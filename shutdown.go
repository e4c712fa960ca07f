package proxy

import (
	"context"
	"net/http"
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
