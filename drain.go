package proxy

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// errDrained is the cause when a call has outlived its client for too long.
var errDrained = errors.New("the client left, and the upstream took too long to finish")

// drain is how a call outlives its client.
type drain struct {
	c    *call
	left atomic.Bool // the client has
	sent atomic.Bool // there is something to wait for
	stop func() bool // watching the request
	once sync.Once
	used int64       // bytes of a stream, since then
	over *time.Timer // once the client has left
	rep  *reply
}

// startDrainable gives the call a context that its request does not end.
func (c *call) startDrainable(request context.Context) {
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(request))
	d := &drain{c: c}
	c.drain = d
	d.stop = context.AfterFunc(request, func() {
		if !d.sent.Load() || errors.Is(request.Err(), context.DeadlineExceeded) {
			c.cancel(context.Cause(request))
			return
		}
		d.begin()
	})
}

// begin starts the time that is left.
func (d *drain) begin() {
	d.once.Do(func() {
		d.left.Store(true)
		d.over = time.AfterFunc(d.c.h.cfg.limits.DrainTime, func() { d.c.cancel(errDrained) })
	})
}

// arm marks the point from which on the upstream is at work.
func (d *drain) arm() {
	if d != nil {
		d.sent.Store(true)
	}
}

// from remembers the answer that is to be read.
func (d *drain) from(rep *reply) {
	if d != nil {
		d.rep = rep
	}
}

// gone reports that the client has left a call which goes on without it.
func (c *call) gone() bool { return c.drain != nil && c.drain.left.Load() }

// took counts bytes of a stream that nobody was there for.
func (c *call) took(n int) {
	if c.gone() {
		c.drain.used += int64(n)
	}
}

// finishDrain reads on where the client left a stream, to learn its usage.
func (c *call) finishDrain() {
	d := c.drain
	if d == nil {
		return
	}
	d.stop()
	if c.out.Ending == EndingClientGone && c.scan != nil && c.ctx.Err() == nil {
		d.begin()
		d.read(c.scan)
	}
	d.once.Do(func() {}) // from here on begin does nothing
	if d.over != nil {
		d.over.Stop()
	}
}

func (d *drain) read(scan *usageScan) {
	buf := make([]byte, smallStreamBuffer)
	for left := d.c.h.cfg.limits.DrainBytes - d.used; left > 0; {
		n, err := d.rep.body.Read(buf[:min(left, smallStreamBuffer)])
		scan.feed(buf[:n])
		left -= int64(n)
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			scan.end()
		}
		return
	}
}
