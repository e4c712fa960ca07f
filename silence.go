package proxy

import (
	"io"
	"time"
)

// A call whose upstream sends nothing for too long is ended: first no headers, then
// no more of its body. It only notes until when it waits; liveCalls looks after
// that. A timer for every call would cost more than many a call does, one for every
// read more than many a read.

// waitFor begins to wait.
func (c *call) waitFor(limit time.Duration) {
	live := &c.h.live
	if limit > maxWait {
		return
	}
	moment := int64(time.Since(live.born) + limit)
	c.until.Store(moment)
	live.lookAt(moment, limit)
}

// waitNoMore ends the wait.
func (c *call) waitNoMore() { c.until.Store(never) }

// silenceCause says what was waited for.
func (c *call) silenceCause() error {
	if c.answered.Load() {
		return errStreamIdle
	}
	return errHeaderTime
}

// watchedBody is an upstream's body, each read of which must not take longer than
// Limits.StreamIdle.
type watchedBody struct {
	io.ReadCloser
	call *call
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.call.waitFor(b.call.h.cfg.limits.StreamIdle)
	n, err := b.ReadCloser.Read(p)
	b.call.waitNoMore()
	return n, err
}
