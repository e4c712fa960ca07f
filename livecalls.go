package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// liveCalls are the calls under way, as a list through them, and the one timer
// that watches over the silence of all their upstreams.
type liveCalls struct {
	mu    sync.Mutex
	first *call
	empty chan struct{} // made by close; closed when no call is left

	born  time.Time
	next  atomic.Int64 // when the timer fires, after born; never: there is none
	timer *time.Timer
}

// never is later than any moment after born.
const never = 1<<63 - 1

func (l *liveCalls) init() {
	l.born = time.Now()
	l.next.Store(never)
}

// add registers c, unless the handler is closing.
func (l *liveCalls) add(c *call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.empty != nil {
		return false
	}
	c.until.Store(never)
	if c.next = l.first; c.next != nil {
		c.next.prev = c
	}
	l.first, c.live = c, true
	return true
}

func (l *liveCalls) remove(c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.live {
		return
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	c.next, c.prev, c.live = nil, nil, false
	if l.first != nil {
		return
	}
	l.unset() // or it would keep the handler from being collected
	if l.empty != nil {
		close(l.empty)
	}
}

// close admits no more calls; the channel is closed once none is left.
func (l *liveCalls) close() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.empty == nil {
		l.empty = make(chan struct{})
		if l.first == nil {
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
	for c := l.first; c != nil; c = c.next {
		c.cancel(cause)
	}
}

// lookAt sees to it that look is called at a moment, or before.
func (l *liveCalls) lookAt(moment int64, in time.Duration) {
	if moment >= l.next.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(moment, in)
}

func (l *liveCalls) set(moment int64, in time.Duration) {
	if moment >= l.next.Load() {
		return
	}
	l.unset()
	l.next.Store(moment)
	l.timer = time.AfterFunc(in, l.look)
}

func (l *liveCalls) unset() {
	l.next.Store(never)
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// look ends the calls whose upstream has been silent for too long.
func (l *liveCalls) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := int64(time.Since(l.born))
	if l.next.Load() > now {
		return // the timer was replaced when it had fired already
	}
	l.unset() // first: a call that begins to wait and is not seen here sets the timer
	next, soonest := int64(never), now
	for c := l.first; c != nil; c = c.next {
		soonest += int64(lookTime) // so that looking never takes all of the time
		until := c.until.Load()
		if until > now {
			next = min(next, until)
		} else if c.until.CompareAndSwap(until, never) {
			c.cancel(c.silenceCause())
		}
	}
	next = max(next, soonest)
	l.set(next, time.Duration(next-now))
}

// lookTime is twenty times as long as it takes to look at a call.
const lookTime = time.Microsecond
