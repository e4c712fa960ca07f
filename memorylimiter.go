package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// MemoryLimiter is a [Limiter] that counts in this process. Zero fields limit
// nothing, or have the default that stands with them; fields must not be
// changed after the first use. It may serve several handlers at once.
//
// A budget is taken by reserving: a call is refused if, were everything under
// way to cost the most it can, the budget would not hold. What a call can cost
// at most is estimated from its body: a token for four bytes of the prompt, and
// max_completion_tokens (or 4,096 where it is not given, see Policy.MaxTokens)
// for each of n answers, or 6,300 for each image. When the call is over, what the
// upstream reported is booked instead; where it reported nothing, an estimate of
// what was seen. Streams report their usage when asked to: without WithStreamUsage
// what a model thinks unseen costs a budget nothing.
//
// Its memory is bounded by MaxCallers. Past it the caller that has called least
// recently is forgotten, but never one with a call under way: if there is no
// other, new callers are refused.
type MemoryLimiter struct {
	_ [0]func()

	Requests   int           // of one caller, per Every
	Every      time.Duration // default 1 min
	Burst      int           // requests that may come at once; default Requests
	Concurrent int           // calls under way, of one caller
	InFlight   int           // calls under way, of all callers
	Tokens     int64         // of one caller, per Window
	Cost       Money         // of one caller, per Window; needs WithPrices
	Window     time.Duration // from a caller's first call on; default 24 h
	MaxCallers int           // default 50,000, which takes about 16 MiB

	mu       sync.Mutex
	inFlight int
	callers  map[callerKey]*account
	recent   account // the ring of accounts: next is the most recently used
}

// callerKey stands for a caller or an address; the two are never the same.
type callerKey [16]byte

// account is what is known of one caller.
type account struct {
	key        callerKey
	next, prev *account
	rate       *rate.Limiter
	concurrent int
	opened     time.Time // when its window began
	spent      Amount
	reserved   Amount
}

func keyOf(call Call) callerKey {
	kind, id := "caller", call.Caller
	if id == "" {
		kind, id = "address", call.Address
	}
	var room [64]byte
	sum := sha256.Sum256(append(append(append(room[:0], kind...), 0), id...))
	return callerKey(sum[:16])
}

func (m *MemoryLimiter) check(priced bool) error {
	switch {
	case m == nil:
		return errors.New("the limiter is nil")
	case m.Requests < 0, m.Every < 0, m.Burst < 0, m.Concurrent < 0, m.InFlight < 0,
		m.Tokens < 0, m.Cost < 0, m.Window < 0, m.MaxCallers < 0:
		return errors.New("a limit is negative")
	case m.Burst > 0 && m.Requests == 0:
		return errors.New("a burst says nothing without Requests")
	case m.Cost > 0 && !priced:
		return errors.New("a limit on cost needs WithPrices")
	}
	return nil
}

// Reserve implements [Limiter].
func (m *MemoryLimiter) Reserve(_ context.Context, call Call, most Amount) (func(context.Context, Amount), error) {
	key := keyOf(call)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.InFlight > 0 && m.inFlight >= m.InFlight {
		return nil, limited("The server is busy.", time.Second, nil)
	}
	a := m.account(key, now)
	if a == nil {
		return nil, limited("The server is busy.", time.Second, nil)
	}
	if err := m.refuse(a, most, now); err != nil {
		return nil, err
	}
	m.inFlight++
	a.concurrent++
	a.reserved.add(most)
	return func(_ context.Context, taken Amount) { m.settle(a, most, taken) }, nil
}

// refuse looks at every limit of one caller; the rate comes last, because asking
// it takes from it.
func (m *MemoryLimiter) refuse(a *account, most Amount, now time.Time) *Error {
	reset := m.roll(a, now)
	if m.Concurrent > 0 && a.concurrent >= m.Concurrent {
		return limited("Too many requests at the same time.", time.Second, nil)
	}
	tokens := addTokens(a.spent.Tokens, addTokens(a.reserved.Tokens, most.Tokens))
	if m.Tokens > 0 && tokens > m.Tokens {
		left := max(0, m.Tokens-addTokens(a.spent.Tokens, a.reserved.Tokens))
		return limited("The budget of tokens is used up.", m.wait(addTokens(a.spent.Tokens, most.Tokens) <= m.Tokens, reset),
			&quota{unit: "Tokens", limit: m.Tokens, remaining: left, reset: reset})
	}
	spent := addTokens(int64(a.spent.Cost), int64(most.Cost))
	if m.Cost > 0 && addTokens(spent, int64(a.reserved.Cost)) > int64(m.Cost) {
		return limited("The budget is used up.", m.wait(spent <= int64(m.Cost), reset), nil)
	}
	return m.refuseRate(a, now)
}

// roll opens a new window where the last one is over, and returns how long the
// present one lasts.
func (m *MemoryLimiter) roll(a *account, now time.Time) time.Duration {
	window := min(or(m.Window, 24*time.Hour), maxWait)
	if !now.Before(a.opened.Add(window)) {
		a.opened, a.spent = now, Amount{}
	}
	return a.opened.Add(window).Sub(now)
}

// wait is until room may come: soon, if only calls under way are in the way.
func (m *MemoryLimiter) wait(soon bool, reset time.Duration) time.Duration {
	if soon {
		return time.Second
	}
	return reset
}

func (m *MemoryLimiter) refuseRate(a *account, now time.Time) *Error {
	if m.Requests == 0 {
		return nil
	}
	burst := or(m.Burst, m.Requests)
	if a.rate == nil {
		each := or(m.Every, time.Minute) / time.Duration(m.Requests)
		a.rate = rate.NewLimiter(rate.Every(max(each, 1)), burst)
	}
	r := a.rate.ReserveN(now, 1)
	delay := r.DelayFrom(now)
	if delay == 0 {
		return nil
	}
	r.CancelAt(now)
	return limited("Too many requests.", delay, &quota{unit: "Requests", limit: int64(m.Requests), reset: delay})
}

func limited(message string, wait time.Duration, q *quota) *Error {
	return &Error{
		Status: http.StatusTooManyRequests, Code: CodeRateLimited, RetryAfter: wait, Message: message,
		Err: fmt.Errorf("a limit was reached: %s", message), quota: q,
	}
}

// settle ends a call. What it took counts in the window that is open now, which
// may be a later one than that of its beginning.
func (m *MemoryLimiter) settle(a *account, most, taken Amount) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inFlight--
	a.concurrent--
	a.reserved.sub(most)
	m.roll(a, time.Now())
	a.spent.add(Amount{Tokens: max(0, taken.Tokens), Cost: max(0, taken.Cost)})
}

// account finds a caller's account, or makes one. It is nil if every account
// has a call under way and no more may be made.
func (m *MemoryLimiter) account(key callerKey, now time.Time) *account {
	if m.callers == nil {
		m.callers = map[callerKey]*account{}
		m.recent.next, m.recent.prev = &m.recent, &m.recent
	}
	a := m.callers[key]
	if a != nil {
		a.unlink()
		m.link(a)
		return a
	}
	if len(m.callers) >= or(m.MaxCallers, 50_000) && !m.forget() {
		return nil
	}
	a = &account{key: key, opened: now}
	m.callers[key] = a
	m.link(a)
	return a
}

// forget drops the account that was used least recently. Those with calls under
// way go to the front: they are in use.
func (m *MemoryLimiter) forget() bool {
	for range len(m.callers) {
		a := m.recent.prev
		a.unlink()
		if a.concurrent == 0 {
			delete(m.callers, a.key)
			return true
		}
		m.link(a)
	}
	return false
}

func (m *MemoryLimiter) link(a *account) {
	a.prev, a.next = &m.recent, m.recent.next
	a.prev.next, a.next.prev = a, a
}

func (a *account) unlink() { a.prev.next, a.next.prev = a.next, a.prev }

func (a *Amount) add(b Amount) {
	a.Tokens = addTokens(a.Tokens, b.Tokens)
	a.Cost = Money(addTokens(int64(a.Cost), int64(b.Cost)))
}

func (a *Amount) sub(b Amount) {
	a.Tokens, a.Cost = max(0, a.Tokens-b.Tokens), max(0, a.Cost-b.Cost)
}

// addTokens adds two counts that are not negative, and saturates.
func addTokens(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
