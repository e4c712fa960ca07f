package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// Hooks let the host watch and steer every upstream call. A call is one request
// to the upstream, not one HTTP request: a GraphQL document that asks for two
// answers makes two calls, and each passes all hooks.
//
// Any field may be nil. Hooks run in the goroutine of the request and may be
// called concurrently for different requests. A hook that panics fails its own
// request with 500 and nothing else.
type Hooks struct {
	_ [0]func()

	// Admit decides whether the call may be made, before anything is sent
	// upstream. With it, or Rewrite, bodies that two readers could take in two
	// ways are refused with 400: any key twice, or one that differs from a
	// guarded key (model, n, stream, ...) in case only. An [*Error] is the answer as it stands; any other error
	// refuses with 403 and is logged, not shown. The context is the request's.
	Admit func(ctx context.Context, call Call) error

	// Rewrite returns the JSON body to send instead of the given one: a system
	// message added, a model forced. It runs once per admitted call, after the
	// defaults were spliced in. The body must not be modified or kept, nor the
	// result be changed until Done is told; the result is checked like a client's body, and one that fails the check is
	// a 500. An [*Error] is the answer as it stands; any other error is a 500.
	// Multipart forms are never rewritten and do not pass here.
	Rewrite func(ctx context.Context, call Call, body []byte) ([]byte, error)

	// Done is told how the call ended: exactly once for every call that Admit
	// let pass, on every way out, before the request's handler returns: the end
	// of an answer reaches the client behind it, so hand slow work on. The
	// context keeps the values of the request's and is never cancelled.
	Done func(ctx context.Context, call Call, outcome Outcome)
}

// WithHooks sets the functions that watch and steer calls. Passing it again
// replaces all of them. Default: none.
func WithHooks(hooks Hooks) Option {
	return optionFunc(func(c *config) { c.hooks = hooks })
}

// Route names what a call asks for.
type Route string

// The routes of calls.
const (
	RouteChat       Route = "chat"
	RouteImages     Route = "images"
	RouteImageEdits Route = "image_edits"
)

// Call describes one upstream call to hooks.
//
// It prints without its header under every fmt verb, as a slog value and as
// JSON, because the header may hold the caller's own secrets.
type Call struct {
	_ [0]func()

	Route     Route
	Method    string      // of the HTTP request that caused the call
	Path      string      // of that request, as the handler saw it
	Model     string      // as it will be sent; "" if a form's model is not known
	Stream    bool        // whether the body asks for a stream
	Caller    string      // Caller.ID; "" if nobody in particular
	Address   string      // of the client; of IPv6 its /64; see WithTrustedProxies
	RequestID string      // the client's X-Request-Id, or a made one
	Header    http.Header `json:"-"` // of the HTTP request; read only
}

// Format implements [fmt.Formatter]; the header is left out.
func (c Call) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "{Route:%s Method:%q Path:%q Model:%q Stream:%t Caller:%q Address:%q RequestID:%s}",
		c.Route, c.Method, c.Path, c.Model, c.Stream, c.Caller, c.Address, c.RequestID)
}

// LogValue implements [slog.LogValuer]; the header is left out.
func (c Call) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("route", string(c.Route)),
		slog.String("model", c.Model),
		slog.Bool("stream", c.Stream),
		slog.String("caller", c.Caller),
		slog.String("request_id", c.RequestID))
}

// Ending says how a call ended.
type Ending string

// The ways a call ends.
const (
	// EndingComplete: the whole answer was relayed; a stream showed [DONE], a
	// finish_reason or its completed event.
	EndingComplete Ending = "complete"
	// EndingIncomplete: the stream ended cleanly, but showed none of those.
	EndingIncomplete Ending = "incomplete"
	// EndingClientGone: the client left, or did not read for Limits.WriteStall.
	EndingClientGone Ending = "client_gone"
	// EndingUpstreamCut: a started stream broke, stalled or was ended by a limit
	// or a shutdown; the client was told with an error event.
	EndingUpstreamCut Ending = "upstream_cut"
	// EndingError: the caller got an error instead of an answer.
	EndingError Ending = "error"
)

// Outcome is what became of a call.
type Outcome struct {
	_ [0]func()

	Status    int           // HTTP status of the answer; 499 if the client left before it
	Ending    Ending        //
	Bytes     int64         // of the answer that were handed to the client's connection; in GraphQL, read from the upstream
	FirstByte time.Duration // from the start of the call to the first of them; 0 if there was none
	Duration  time.Duration // from the start of the call to its end
	Usage     Usage         // the tokens, told or estimated
	Cost      Money         // of Usage, by WithPrices
	Attempts  int           // requests made to the upstream: more than 1 only with Limits.Retries
	Err       error         // nil for EndingComplete and EndingIncomplete
}

// admit asks the host whether the call may be made.
func (hk *Hooks) admit(ctx context.Context, c Call) error {
	if hk.Admit == nil {
		return nil
	}
	err := hk.Admit(ctx, c)
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok && e != nil {
		return e
	}
	return &Error{Status: http.StatusForbidden, Code: CodeForbidden, Message: "This request is not allowed.", Err: err}
}

// judge reports whether a hook judges requests by what is in them.
func (hk *Hooks) judge() bool { return hk.Admit != nil || hk.Rewrite != nil }

// showsCalls reports whether the host is shown what calls there are.
func (c *config) showsCalls() bool {
	return c.hooks.judge() || c.hooks.Done != nil || c.limiter != nil
}

// accounts reports whether anybody wants to know what calls use.
func (c *config) accounts() bool {
	return c.hooks.Done != nil || c.limiter != nil || len(c.prices) > 0 || c.streamUsage
}
