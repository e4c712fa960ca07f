package proxy

import (
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// silence ends a call whose upstream sends nothing for too long: first no headers,
// then no more of its body. A timer that is set for every read would cost more than
// many a read does; this one looks, when it fires, how long the present read takes.
type silence struct {
	call  *call
	since atomic.Int64 // when the present wait began, after the call did; notWaiting

	mu    sync.Mutex
	timer *time.Timer // nil: never begun
	limit time.Duration
	cause error
	over  bool
}

const notWaiting = -1

// begin waits for the headers.
func (s *silence) begin(limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = false
	s.wait()
	s.arm(limit, errHeaderTime)
}

// answered is for the time behind the headers: reads are what is waited for.
func (s *silence) answered(limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since.Store(notWaiting)
	s.arm(limit, errStreamIdle)
}

func (s *silence) arm(limit time.Duration, cause error) {
	s.limit, s.cause = limit, cause
	if s.timer == nil {
		s.timer = time.AfterFunc(limit, s.fire)
		return
	}
	s.timer.Reset(limit)
}

// end stops the watch until the next begin.
func (s *silence) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

func (s *silence) wait() { s.since.Store(int64(time.Since(s.call.start))) }

func (s *silence) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	left := s.limit
	if since := s.since.Load(); since != notWaiting {
		left -= time.Since(s.call.start) - time.Duration(since)
	}
	if left <= 0 {
		s.call.cancel(s.cause)
		return
	}
	s.timer.Reset(left)
}

// watchedBody is an upstream's body under the watch of a silence.
type watchedBody struct {
	io.ReadCloser
	silence *silence
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.silence.wait()
	n, err := b.ReadCloser.Read(p)
	b.silence.since.Store(notWaiting)
	return n, err
}
