package proxy

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"strconv"
	"time"
)

// Amount is what a call takes of a budget.
type Amount struct {
	Tokens int64 // prompt and completion
	Cost   Money // 0 without WithPrices
}

// Limiter decides whether there is room for a call. [MemoryLimiter] is the one
// of this package; one behind a shared store counts for several servers. Its
// methods are called concurrently.
type Limiter interface {
	// Reserve takes room for a call that will take most at the worst, in one
	// step: two calls must not both see the room that only one of them can have.
	// It is asked once for each request that goes upstream, a retry included,
	// with the caller in call.Caller, or, if that is "", the address in
	// call.Address.
	//
	// settle is called exactly once, on every way out, with what was really
	// taken; that may be more than most. Its context has the request's values,
	// outlives the request, and ends after Limits.KeyTime: what a shared store has
	// not noted by then it must find out by itself, as when a server dies.
	//
	// An [*Error], with status 429 and RetryAfter, is the answer as it stands;
	// any other error means that the limiter itself failed, which refuses with
	// 503. The context ends after Limits.KeyTime; a limiter that ignores it blocks
	// its own request only.
	Reserve(ctx context.Context, call Call, most Amount) (settle func(ctx context.Context, taken Amount), err error)
}

// WithLimiter sets what bounds the calls of a caller. Without [WithCaller] a
// caller is an address, of IPv6 a /64: behind a reverse proxy that is the
// proxy's, unless [WithTrustedProxies] names it. With it, bodies that two readers
// could take in two ways are refused with 400, as with [WithPolicy]. Passing it
// again replaces it; nil means the default: no limit.
func WithLimiter(limiter Limiter) Option {
	return optionFunc(func(c *config) { c.limiter = limiter })
}

// reserve asks the limiter for room for one request to the upstream.
func (c *call) reserve(p *payload) error {
	limiter := c.h.cfg.limiter
	if limiter == nil {
		return nil
	}
	most := c.h.cfg.amount(c.info.Model, c.worst(p))
	var err error
	if inMemory, ok := limiter.(*MemoryLimiter); ok { // which needs no deadline
		c.settleWith, err = inMemory.Reserve(c.ctx, c.info, most)
	} else {
		err = c.askLimiter(most)
	}
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok && e != nil {
		return e
	}
	if cause := c.ctx.Err(); cause != nil {
		return c.fault(cause)
	}
	return errUnavailable("The request could not be admitted at the moment.", err)
}

func (c *call) askLimiter(most Amount) error {
	ctx := newHostContext(c.ctx, c.h.cfg.limits.KeyTime)
	defer ctx.close()
	settle, err := c.h.cfg.limiter.Reserve(ctx, c.info, most)
	switch {
	case err != nil:
		return err
	case settle == nil:
		return errors.New("the limiter returned neither a reservation nor an error")
	}
	c.settleWith = settle
	return ctx.Err()
}

// settle gives back what the last reservation did not take.
func (c *call) settle(taken Amount) {
	settle := c.settleWith
	if settle == nil {
		return
	}
	c.settleWith = nil
	defer c.recoverIn("Limiter")
	if _, ok := c.h.cfg.limiter.(*MemoryLimiter); ok {
		settle(context.Background(), taken)
		return
	}
	ctx := newHostContext(context.WithoutCancel(c.ctx), c.h.cfg.limits.KeyTime)
	defer ctx.close()
	settle(ctx, taken)
}

// recoverIn keeps a panic of the host's code behind an answer from doing harm.
func (c *call) recoverIn(where string) {
	if v := recover(); v != nil {
		c.h.cfg.log(c.ctx, slog.LevelError, "proxy recovered a panic",
			slog.String("in", where), slog.String("request_id", c.info.RequestID),
			slog.String("panic", redactAny(v, c.key)), slog.String("stack", string(debug.Stack())))
	}
}

// amount is what a usage takes of a budget.
func (cfg *config) amount(model string, u Usage) Amount {
	return Amount{Tokens: addTokens(u.PromptTokens, u.CompletionTokens), Cost: cfg.prices.cost(model, u)}
}

// quota is what the X-Ratelimit headers of a refusal say.
type quota struct {
	unit             string // requests or tokens
	limit, remaining int64
	reset            time.Duration
}

func (q *quota) setHeaders(header *headerValues) {
	header.set("X-Ratelimit-Limit-"+q.unit, strconv.FormatInt(q.limit, 10))
	header.set("X-Ratelimit-Remaining-"+q.unit, strconv.FormatInt(q.remaining, 10))
	header.set("X-Ratelimit-Reset-"+q.unit, q.reset.Round(time.Millisecond).String())
}
