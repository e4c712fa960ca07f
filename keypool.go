package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// KeyPool takes turns between several sources, each with a key of its own. A key
// to which the upstream answers 401 is set aside for a minute, one that earns 429
// for as long as Retry-After says (a second where it does not), and not used
// meanwhile. If all are set aside the caller gets 503 with the shortest wait as
// Retry-After. A source without a key, or nil, is skipped; an error of one ends
// the search.
//
// A pool learns what its keys earn if it is the key source itself, or stands in
// a [FirstKey] or another pool; wrapped in a function of yours it only takes
// turns.
func KeyPool(sources ...KeySource) KeySource {
	p := &keyPool{}
	for _, s := range sources {
		if s != nil {
			p.slots = append(p.slots, keySlot{source: s})
		}
	}
	return p
}

// keyPool takes turns; its keys are found by the place they came from, so that
// a key of elsewhere, a client's own, leaves no trace.
type keyPool struct {
	mu    sync.Mutex
	turn  int
	slots []keySlot
}

type keySlot struct {
	source KeySource // never changes
	key    secret    // that it gave last
	asked  bool
	until  time.Time // the key is set aside
}

// Format implements [fmt.Formatter].
func (p *keyPool) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// How long a key rests where the upstream does not say.
const (
	asideDenied  = time.Minute
	asideLimited = time.Second
)

// Key returns the next key that is not set aside.
func (p *keyPool) Key(r *http.Request) (string, error) {
	p.mu.Lock()
	first := p.turn
	p.turn = (p.turn + 1) % max(1, len(p.slots))
	p.mu.Unlock()
	shortest, found := time.Duration(0), false
	for i := range p.slots {
		at := (first + i) % len(p.slots)
		key, err := p.slots[at].source.Key(r)
		var wait time.Duration
		switch e, ok := errors.AsType[*Error](err); {
		case ok && p.nested(at) && e.RetryAfter > 0: // all of its keys are set aside
			wait = e.RetryAfter
		case err != nil:
			return "", err
		default:
			if wait = p.give(at, key); key == "" {
				continue
			}
		}
		if wait <= 0 {
			return key, nil
		}
		if !found || wait < shortest {
			shortest, found = wait, true
		}
	}
	if !found {
		return "", nil
	}
	return "", &Error{
		Status: http.StatusServiceUnavailable, Code: CodeKeyUnavailable, RetryAfter: shortest,
		Message: "The API keys are not available at the moment.",
	}
}

// give remembers the key of a slot and returns how long it is still set aside.
func (p *keyPool) give(at int, key string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	slot := &p.slots[at]
	if !slot.asked || !slot.has(key) {
		slot.until = p.restOf(key) // a new one has no past, but in another place
		slot.key = newSecret(key)
	}
	slot.asked = true
	return time.Until(slot.until)
}

// restOf is until when a key is set aside that another place has given too.
func (p *keyPool) restOf(key string) (until time.Time) {
	for i := range p.slots {
		if slot := &p.slots[i]; slot.has(key) && slot.until.After(until) {
			until = slot.until
		}
	}
	return until
}

// earned tells the pool how the upstream took a key.
func (p *keyPool) earned(key string, res *http.Response) {
	var rest time.Duration
	switch res.StatusCode {
	case http.StatusUnauthorized:
		rest = asideDenied
	case http.StatusTooManyRequests:
		rest = asideLimited
	default:
		return
	}
	now := time.Now()
	if wait, ok := retryAfterOf(res.Header, now); ok && (wait > rest || res.StatusCode != http.StatusUnauthorized) {
		rest = wait
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.slots {
		if slot := &p.slots[i]; slot.has(key) && slot.until.Before(now.Add(rest)) {
			slot.until = now.Add(rest)
		}
	}
}

// has reports whether key is the one that the slot gave last.
func (s *keySlot) has(key string) bool { return s.key.text != nil && *s.key.text == key }

// nested reports whether a slot holds another pool.
func (p *keyPool) nested(at int) (found bool) {
	pools(p.slots[at].source, func(*keyPool) { found = true })
	return found
}

// another reports whether key is one of the pool's, and a different one may be
// left that is not set aside.
func (p *keyPool) another(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, mine, other := time.Now(), false, false
	for i := range p.slots {
		switch slot := &p.slots[i]; {
		case slot.has(key):
			mine = true
		case slot.has(""): // its source has none
		case !now.Before(slot.until):
			other = true
		}
	}
	return mine && other
}

// pools visits the pools in a source.
func pools(source KeySource, visit func(*keyPool)) {
	switch s := source.(type) {
	case *keyPool:
		visit(s)
		for i := range s.slots {
			pools(s.slots[i].source, visit)
		}
	case firstKey:
		for _, inner := range s {
			pools(inner, visit)
		}
	}
}

// anotherKey reports whether a pool of the source may have another key.
func anotherKey(source KeySource, key string) (ok bool) {
	pools(source, func(p *keyPool) { ok = ok || p.another(key) })
	return ok
}

// tellKey lets the pools know what a key has earned.
func (h *Handler) tellKey(key string, res *http.Response) {
	if key != "" {
		pools(h.cfg.keys, func(p *keyPool) { p.earned(key, res) })
	}
}
