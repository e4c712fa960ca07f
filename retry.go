package proxy

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

// retryBudget keeps repetitions at a tenth of all calls. The zero value is full.
type retryBudget struct {
	mu    sync.Mutex
	spent float64
}

// The budget lets retryBurst repetitions through at once, and earns one with ten
// calls.
const (
	retryBurst = 10
	retryEarn  = 0.1
)

func (b *retryBudget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spent = max(0, b.spent-retryEarn)
}

func (b *retryBudget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spent+1 > retryBurst {
		return false
	}
	b.spent++
	return true
}

// try makes the request, and repeats it where that is wanted and safe.
func (c *call) try(p *payload) (*reply, error) {
	left := c.h.cfg.limits.RetryTime
	var last error
	for {
		before := c.out.Attempts
		rep, err := c.attempt(p)
		if c.h.cfg.limits.Retries > 0 && before == 0 && c.out.Attempts == 1 {
			c.h.retries.earn() // by traffic, not by what never left
		}
		if err == nil {
			return rep, nil
		}
		if c.out.Attempts == before && last != nil && c.ctx.Err() == nil {
			return nil, last // no room or no key for another: what the upstream said stands
		}
		last = err
		wait, ok := c.mayRetry(err, left)
		if !ok {
			return nil, err
		}
		left -= wait
		c.settle(Amount{}) // a refusal costs nothing
		c.release()
		if err := c.sleep(wait); err != nil {
			return nil, err
		}
	}
}

// mayRetry reports how long to wait before the next attempt.
func (c *call) mayRetry(err error, left time.Duration) (time.Duration, bool) {
	cfg := c.h.cfg
	e := asError(err)
	if c.out.Attempts > cfg.limits.Retries || e.upstream == nil || c.ctx.Err() != nil || c.gone() {
		return 0, false
	}
	header := e.upstream.header
	if e.status() != http.StatusTooManyRequests && e.status() != http.StatusServiceUnavailable || header.Get("X-Should-Retry") == "false" {
		return 0, false
	}
	wait, ok := retryAfterOf(header, time.Now())
	if !ok {
		return 0, false
	}
	if e.status() == http.StatusTooManyRequests && anotherKey(cfg.keys, c.key) {
		wait = 0
	}
	if wait > left || !c.h.retries.take() {
		return 0, false
	}
	return wait, true
}

// sleep waits for a repetition. Of a client that left, nothing is repeated, even
// where its call may go on without it.
func (c *call) sleep(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	request := c.x.r.Context()
	select {
	case <-timer.C:
	case <-c.ctx.Done():
	case <-request.Done():
	}
	switch {
	case c.ctx.Err() != nil:
		return c.fault(c.ctx.Err())
	case request.Err() != nil:
		return errGone(request)
	}
	return nil
}

// maxRetryAfter is the longest wait that is believed.
const maxRetryAfter = 24 * time.Hour

// retryAfterOf reads when to come back: OpenAI's header in milliseconds, or the
// standard one, in seconds or as a date (RFC 9110, section 10.2.3).
func retryAfterOf(header http.Header, now time.Time) (time.Duration, bool) {
	span := func(text string, unit time.Duration) (time.Duration, bool) {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || !(f >= 0) {
			return 0, false
		}
		return time.Duration(min(f*float64(unit), float64(maxRetryAfter))), true
	}
	if d, ok := span(header.Get("Retry-After-Ms"), time.Millisecond); ok {
		return d, true
	}
	text := header.Get("Retry-After")
	if d, ok := span(text, time.Second); ok {
		return d, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0, false
	}
	return min(max(0, at.Sub(now)), maxRetryAfter), true
}
