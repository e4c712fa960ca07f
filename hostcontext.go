package proxy

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// hostContext is a context with a deadline for what the host is asked. Unlike
// that of context.WithTimeout it has no timer before somebody waits for Done,
// which few functions do: a timer that is the next to fire wakes a thread, and
// costs more than most of what a host answers.
type hostContext struct {
	context.Context //nolint:containedctx // it is one
	deadline        time.Time
	over            atomic.Bool
	watched         atomic.Bool // inner is there
	once            sync.Once
	inner           context.Context //nolint:containedctx // what the timer hangs on
	cancel          context.CancelFunc
}

func newHostContext(parent context.Context, limit time.Duration) *hostContext {
	c := &hostContext{Context: parent, deadline: time.Now().Add(min(limit, maxWait))}
	if earlier, ok := parent.Deadline(); ok && earlier.Before(c.deadline) {
		c.deadline = earlier
	}
	return c
}

// maxWait keeps deadlines within what a time.Time can say.
const maxWait = 100 * 365 * 24 * time.Hour

// Deadline implements [context.Context].
func (c *hostContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done implements [context.Context].
func (c *hostContext) Done() <-chan struct{} { return c.watch().Done() }

// Err implements [context.Context].
func (c *hostContext) Err() error {
	if err := c.Context.Err(); err != nil {
		return err
	}
	if c.watched.Load() {
		return c.inner.Err() // one clock: a context whose Done is closed must have an Err
	}
	if !c.over.Load() && time.Now().Before(c.deadline) {
		return nil
	}
	return c.watch().Err()
}

func (c *hostContext) watch() context.Context {
	c.once.Do(func() {
		c.inner, c.cancel = context.WithDeadline(c.Context, c.deadline)
		c.watched.Store(true)
	})
	if c.inner == nil { // closed before anybody waited
		ctx, cancel := context.WithCancel(c.Context)
		cancel()
		return ctx
	}
	return c.inner
}

// close ends the context, when the host has answered.
func (c *hostContext) close() {
	c.over.Store(true)
	c.once.Do(func() {})
	if c.cancel != nil {
		c.cancel()
	}
}
