package proxy

import (
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
	key    string    // that it gave last
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
		if err != nil {
			return "", err
		}
		if key == "" {
			continue
		}
		wait := p.give(at, key)
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
	if slot.key != key {
		slot.key, slot.until = key, time.Time{} // a new one, with no past
	}
	return time.Until(slot.until)
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
	if wait, ok := retryAfterOf(res.Header, now); ok {
		rest = wait
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.slots {
		if slot := &p.slots[i]; slot.key == key && slot.until.Before(now.Add(rest)) {
			slot.until = now.Add(rest)
		}
	}
}

// another reports whether a key may be left that is not set aside.
func (p *keyPool) another() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for i := range p.slots {
		if !now.Before(p.slots[i].until) {
			return true
		}
	}
	return false
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
func anotherKey(source KeySource) (ok bool) {
	pools(source, func(p *keyPool) { ok = ok || p.another() })
	return ok
}

// tellKey lets the pools know what a key has earned.
func (h *Handler) tellKey(key string, res *http.Response) {
	if key != "" {
		pools(h.cfg.keys, func(p *keyPool) { p.earned(key, res) })
	}
}
