package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// call is one upstream call, from what is asked to Done. What it needs on its way
// lies in it, so that it is allocated in one piece.
type call struct {
	h          *Handler
	x          *exchange // the HTTP request that caused it
	info       Call
	payload    payload // what is sent
	next, prev *call   // in liveCalls, as is live
	live       bool
	until      atomic.Int64    // how long it waits for the upstream
	answered   atomic.Bool     // the headers are there
	ctx        context.Context //nolint:containedctx // a call is a scope: its context lives exactly as long as it
	cancel     context.CancelCauseFunc
	start      time.Time
	key        string
	admitted   bool
	hideUsage  bool                          // we asked for usage, the client did not
	settleWith func(context.Context, Amount) // of the limiter, until it is called
	worked     bool                          // the upstream may have done what is paid for
	broken     bool                          // it was reached, and broke off without an answer
	answer     int64                         // bytes of its whole answer
	scan       *usageScan                    // of its stream
	upstreamID string                        // the upstream's X-Request-Id
	body       watchedBody                   // of the answer, once there is one
	reply      reply
	unwatch    func() bool
	drain      *drain // nil: a client that leaves ends the call
	out        Outcome
}

// Causes that end a call from our side, as found with context.Cause.
var (
	errHeaderTime = errors.New("the upstream sent no headers in time")
	errStreamIdle = errors.New("the upstream was silent for too long")
	errStreamMax  = errors.New("the stream took longer than it may")
	errShutdown   = errors.New("the proxy is shutting down")
	errFinished   = errors.New("the call is over")
	errPanicked   = errors.New("the call panicked")
)

// do makes one upstream call: the only way to the API, for every route and for
// every GraphQL field. Either it returns a reply, whose close ends the call, or
// it has ended the call itself.
func (c *call) do() (_ *reply, err error) {
	if err := c.begin(); err != nil {
		return nil, err
	}
	p := &c.payload
	handedOver := false
	defer func() {
		if handedOver {
			return
		}
		if err == nil {
			err = errPanicked
		}
		c.failed(err)
		c.end()
	}()
	if err = c.x.judge(&c.info, p); err != nil {
		return nil, err
	}
	p.render()
	if err = c.h.cfg.hooks.admit(c.ctx, c.info); err != nil {
		return nil, c.hookFailed(err)
	}
	c.admitted = true
	if err = c.rewrite(p); err != nil {
		return nil, c.hookFailed(err)
	}
	if c.info.Stream && p.cannotStream {
		return nil, errCannotStream()
	}
	rep, err := c.try(p)
	if err != nil {
		return nil, err
	}
	handedOver = true
	return rep, nil
}

// begin registers the call, unless the handler is shutting down.
func (c *call) begin() error {
	c.start = time.Now()
	if request := c.x.r.Context(); c.h.cfg.limits.DrainTime > 0 {
		c.startDrainable(request)
	} else {
		c.ctx, c.cancel = context.WithCancelCause(request)
	}
	if !c.h.live.add(c) {
		c.cancel(errShutdown)
		return errShuttingDown()
	}
	return nil
}

// attempt makes one request to the upstream, if there is room and a key for it.
func (c *call) attempt(p *payload) (*reply, error) {
	if err := c.reserve(p); err != nil {
		return nil, err
	}
	var err error
	if c.key, err = c.findKey(); err != nil {
		return nil, err
	}
	c.x.key = c.key
	return c.send(p)
}

// end frees everything that the call holds and tells Done, once.
func (c *call) end() {
	defer c.h.live.remove(c) // behind Done: Shutdown waits for it
	c.finishDrain()
	c.release()
	c.cancel(errFinished)
	if c.out.Ending == "" { // the handler is panicking
		c.out.Ending, c.out.Err = EndingError, errPanicked
	}
	c.out.Duration = time.Since(c.start)
	c.account()
	c.settle(c.h.cfg.amount(c.info.Model, c.charged()))
	c.record()
	if c.admitted && c.h.cfg.hooks.Done != nil {
		defer c.recoverIn("Hooks.Done")
		c.h.cfg.hooks.Done(context.WithoutCancel(c.ctx), c.info, c.out)
	}
}

// release closes the answer.
func (c *call) release() {
	c.waitNoMore()
	if c.unwatch != nil {
		c.unwatch()
	}
	if c.body.ReadCloser != nil {
		_ = c.body.Close() // of a body that was read, or given up
	}
	c.unwatch, c.body.ReadCloser = nil, nil
}

// failed notes an ending without an answer.
func (c *call) failed(err error) {
	e := asError(err)
	c.out.Status, c.out.Ending, c.out.Err = e.status(), EndingError, e
	if errors.Is(err, ErrClientGone) {
		c.out.Ending = EndingClientGone
	}
}

// hookFailed is the answer for an error of a hook. One that gave up because the
// call was over is no failure of the host's.
func (c *call) hookFailed(err error) error {
	if cause := c.ctx.Err(); cause != nil && errors.Is(err, cause) {
		return c.fault(cause)
	}
	return err
}

// rewrite lets the host change a JSON body, and asks for usage.
func (c *call) rewrite(p *payload) error {
	if p.contentType != "" {
		return nil
	}
	if rewrite := c.h.cfg.hooks.Rewrite; rewrite != nil {
		body, err := rewrite(c.ctx, c.info, p.body)
		if err != nil {
			return asError(err)
		}
		o, err := c.x.parseBody(body)
		if err == nil {
			err = checkFields(c.info.Route, o)
		}
		if err != nil {
			return &Error{Status: http.StatusInternalServerError, Code: CodeInternalError, Err: err}
		}
		stream, _ := o.Get("stream")
		c.info.Model, _ = o.String("model")
		c.info.Stream = isTrue(stream)
		p.object, p.added, p.body = o, nil, body
	}
	if c.h.cfg.streamUsage && c.info.Stream && c.info.Route == RouteChat {
		p.body, c.hideUsage = askUsage(p.body)
	}
	return nil
}

// askUsage splices stream_options.include_usage in, unless the client has
// decided about it. A null is no decision.
func askUsage(body []byte) (_ []byte, asked bool) {
	o, err := jsonobj.Parse(body)
	if err != nil {
		return body, false
	}
	options, ok := o.Get("stream_options")
	if !ok {
		return o.With(field("stream_options", `{"include_usage":true}`)), true
	}
	if isNull(options) {
		return o.Replace("stream_options", []byte(`{"include_usage":true}`)), true
	}
	inner, err := jsonobj.Parse(options)
	if err != nil || inner.Has("include_usage") {
		return body, false
	}
	return o.Replace("stream_options", inner.With(field("include_usage", "true"))), true
}

// findKey asks the key source, under its own deadline.
func (c *call) findKey() (string, error) {
	if c.h.upstream.authHeader == "" {
		return "", nil
	}
	key, err := c.askKey()
	switch {
	case c.ctx.Err() != nil:
		return "", c.fault(c.ctx.Err())
	case err == nil && key == "":
		return "", &Error{
			Status: http.StatusInternalServerError, Code: CodeMissingAPIKey,
			Message: "OpenAI API key is not configured", Err: ErrNoKey,
		}
	case err == nil && !validKey(key):
		err = errInvalidKey
	}
	if err == nil {
		return key, nil
	}
	if e, ok := errors.AsType[*Error](err); ok { // the client's own mistake
		return "", e
	}
	return "", &Error{
		Status: http.StatusServiceUnavailable, Code: CodeKeyUnavailable,
		Message: "The API key is not available at the moment.", Err: harmless(err, key),
	}
}

func (c *call) askKey() (string, error) {
	if c.h.instantKey {
		return c.h.cfg.keys.Key(c.x.r)
	}
	ctx := newHostContext(c.ctx, c.h.cfg.limits.KeyTime)
	defer ctx.close()
	key, err := c.h.cfg.keys.Key(c.x.r.WithContext(ctx))
	if err == nil {
		err = ctx.Err()
	}
	return key, err
}

// send makes the request and judges the head of its answer.
func (c *call) send(p *payload) (*reply, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, c.fault(err)
	}
	c.out.Attempts++
	c.worked = true
	c.drain.arm()
	c.answered.Store(false)
	c.waitFor(c.h.cfg.limits.HeaderTime)
	// RoundTrip, not a Client: redirects are not followed, cookies not kept.
	res, err := c.h.upstream.transport.RoundTrip(c.request(p))
	c.waitNoMore()
	switch {
	case err != nil:
		c.worked, c.broken = !isDial(err), c.ctx.Err() == nil
		return nil, c.fault(err)
	case res == nil:
		return nil, errBadResponse(errors.New("the transport returned neither a response nor an error"))
	case res.Body == nil:
		res.Body = http.NoBody
	}
	c.answered.Store(true)
	c.body, c.upstreamID = watchedBody{res.Body, c}, res.Header.Get("X-Request-Id")
	if c.h.cfg.transport != nil {
		// A transport of the host may know of no context once it has answered.
		c.unwatch = context.AfterFunc(c.ctx, func() { _ = res.Body.Close() })
	}
	body, known := decoded(res, &c.body, c.h.cfg.limits.ResponseBytes)
	media := mediaType(res.Header.Get("Content-Type"))
	c.reply = reply{
		call: c, status: res.StatusCode, header: res.Header, body: body, length: lengthOf(res.Header),
		stream: media == "text/event-stream",
	}
	rep := &c.reply
	c.drain.from(rep)
	c.h.tellKey(c.key, res)
	switch status := res.StatusCode; {
	case status >= 400:
		c.worked = false
		return nil, rep.refusal(known)
	case status >= 300:
		c.worked = false
		return nil, &Error{Status: http.StatusBadGateway, Code: CodeUpstreamRedirect, Message: "The upstream answered with a redirect."}
	case status < 200, status == http.StatusNoContent, status == http.StatusResetContent,
		!known, !rep.stream && !isJSON(media):
		return nil, errBadResponse(errors.New("the upstream's status, coding or content type is not usable"))
	}
	return rep, nil
}

// isDial reports a failure from before there was a connection.
func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// fault says why talking to the upstream failed before an answer was begun.
func (c *call) fault(err error) *Error {
	switch cause := context.Cause(c.ctx); {
	case errors.Is(cause, errHeaderTime), errors.Is(cause, errStreamIdle):
		return &Error{
			Status: http.StatusGatewayTimeout, Code: CodeUpstreamTimeout,
			Message: "The upstream did not answer in time.", Err: cause,
		}
	case errors.Is(cause, errShutdown):
		return errShuttingDown()
	case cause != nil:
		return errGone(c.x.r.Context())
	case errors.Is(err, errTooMuch):
		return errBadResponse(err)
	}
	return &Error{
		Status: http.StatusBadGateway, Code: CodeUpstreamUnreachable,
		Message: "The upstream could not be reached.", Err: harmless(err, c.key),
	}
}

// errGone is for a request whose own context has ended: the client left, or the
// host gave the request a deadline.
func errGone(ctx context.Context) *Error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &Error{
			Status: http.StatusGatewayTimeout, Code: CodeUpstreamTimeout,
			Message: "The request took longer than this server allows.", Err: ctx.Err(),
		}
	}
	return &Error{Status: statusClientGone, Code: CodeInternalError, Message: "The request was cancelled.", Err: ErrClientGone}
}

func errBadResponse(cause error) *Error {
	return &Error{
		Status: http.StatusBadGateway, Code: CodeUpstreamBadResponse,
		Message: "The upstream's answer was not usable.", Err: cause,
	}
}
