package proxy

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// Session is what a store keeps about a conversation beside its messages.
type Session struct {
	ID      string // bound to its owner; not the id that clients see
	Title   string
	Created time.Time
	Updated time.Time // of the last write
	Expires time.Time // zero: never, or not known
	Count   int       // of the messages that are kept
}

// Message is one turn of a conversation.
type Message struct {
	ID      string
	Role    string          // system, developer, user, assistant or tool
	Content string          // the text; "" if there is none
	Time    time.Time       //
	Body    json.RawMessage // the message as the chat API takes it
	Reply   json.RawMessage // what else is shown of an assistant's turn; nil for others
}

// size is what a message counts for in the bounds of a store.
func (m Message) size() int64 {
	return messageOverhead + int64(len(m.ID)+len(m.Role)+len(m.Content)+len(m.Body)+len(m.Reply))
}

// SessionStore keeps conversations. Its methods are called concurrently.
//
// An id is an opaque text of at most 128 visible ASCII characters; it already
// stands for its owner, so a store need not know about callers. All ids of one
// known caller begin alike, up to a dot; others have no dot. Errors are for
// failures of the store itself. The acceptance test is proxytest.TestSessionStore.
type SessionStore interface {
	// Create makes a session, or replaces the one with the same id. Only ID and
	// Title of s are read.
	Create(ctx context.Context, s Session) error
	// Load returns a session and all its messages, oldest first. Of an absent or
	// expired id it returns zero values and no error. The caller may keep the
	// messages but not change them.
	Load(ctx context.Context, id string) (Session, []Message, error)
	// Append adds messages in their order and makes the session if it is absent.
	// Either all of them are added, uninterrupted by others, or none.
	Append(ctx context.Context, id string, messages ...Message) error
	// Delete removes a session and reports whether there was one.
	Delete(ctx context.Context, id string) (bool, error)
}

// ErrSessionFull is returned by stores for messages that can never fit.
var ErrSessionFull = errors.New("the messages are larger than a session may be")

// MemoryStore keeps sessions in memory, within bounds. The zero value is ready;
// its fields must not be changed after the first use. Past a bound the least
// recently used sessions go, and within a session the oldest messages. It has no
// goroutine: what has expired goes when something else comes or asks for it.
type MemoryStore struct {
	_ [0]func()

	MaxSessions     int           // default 10,000
	MaxOwned        int           // of one known caller; default 100
	MaxMessages     int           // in one session; default 200
	MaxSessionBytes int64         // in one session; default 256 KiB
	MaxBytes        int64         // in all; default 64 MiB
	TTL             time.Duration // since the last use; default 24 h

	mu       sync.Mutex
	sessions map[string]*list.Element
	recent   list.List             // of *memorySession, the most recently used in front
	owned    map[string]*list.List // of elements of recent, by owner, in the same order
	bytes    int64
}

type memorySession struct {
	Session
	messages []Message
	bytes    int64
	owner    string        // "": nobody in particular
	inOwned  *list.Element // of its owner's list
}

// What empty messages and sessions count for in the bounds, so that many small
// ones cannot take more memory than a few large ones.
const (
	messageOverhead = 160
	sessionOverhead = 512
)

func or[T int | int64 | time.Duration](v, standard T) T {
	if v <= 0 {
		return standard
	}
	return v
}

// Create implements [SessionStore].
func (m *MemoryStore) Create(_ context.Context, s Session) error {
	size := int64(len(s.Title))
	if size > or(m.MaxSessionBytes, 256<<10) {
		return ErrSessionFull
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.expire(now)
	if e, ok := m.sessions[s.ID]; ok {
		m.remove(e)
	}
	made := m.add(s.ID, now)
	made.Title = s.Title
	made.bytes += size
	m.bytes += size
	m.shrink()
	return nil
}

// Load implements [SessionStore]. It counts as a use.
func (m *MemoryStore) Load(_ context.Context, id string) (Session, []Message, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.expire(now)
	e, ok := m.sessions[id]
	if !ok {
		return Session{}, nil, nil
	}
	s := m.touch(e, now)
	s.Count = len(s.messages)
	return s.Session, slices.Clip(s.messages), nil
}

// Append implements [SessionStore].
func (m *MemoryStore) Append(_ context.Context, id string, messages ...Message) error {
	var size int64
	for _, msg := range messages {
		size += msg.size()
	}
	if size > or(m.MaxSessionBytes, 256<<10) || len(messages) > or(m.MaxMessages, 200) {
		return ErrSessionFull
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.expire(now)
	var s *memorySession
	if e, ok := m.sessions[id]; ok {
		s = m.touch(e, now)
	} else {
		s = m.add(id, now)
	}
	s.Updated = now
	// A new slice: readers may still hold the old one.
	kept := s.messages[m.tooMany(s, len(messages), size):]
	s.messages = append(append(make([]Message, 0, len(kept)+len(messages)), kept...), messages...)
	s.bytes += size
	m.bytes += size
	m.shrink()
	return nil
}

// tooMany counts the oldest messages that have to go, and takes them off the
// books.
func (m *MemoryStore) tooMany(s *memorySession, more int, size int64) (drop int) {
	for drop < len(s.messages) &&
		(len(s.messages)-drop+more > or(m.MaxMessages, 200) || s.bytes+size > or(m.MaxSessionBytes, 256<<10)) {
		freed := s.messages[drop].size()
		s.bytes -= freed
		m.bytes -= freed
		drop++
	}
	return drop
}

// Delete implements [SessionStore].
func (m *MemoryStore) Delete(_ context.Context, id string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(time.Now())
	e, ok := m.sessions[id]
	if ok {
		m.remove(e)
	}
	return ok, nil
}

func (m *MemoryStore) add(id string, now time.Time) *memorySession {
	s := &memorySession{Session: Session{ID: id, Created: now, Updated: now}}
	s.Expires = now.Add(or(m.TTL, 24*time.Hour))
	if m.sessions == nil {
		m.sessions = map[string]*list.Element{}
	}
	m.sessions[id] = m.recent.PushFront(s)
	m.bytes += sessionOverhead
	m.own(m.sessions[id], s)
	return s
}

// own adds a session to those of its owner, who may have too many then.
func (m *MemoryStore) own(e *list.Element, s *memorySession) {
	owner, _, ok := strings.Cut(s.ID, ".")
	if !ok {
		return
	}
	if m.owned == nil {
		m.owned = map[string]*list.List{}
	}
	if m.owned[owner] == nil {
		m.owned[owner] = list.New()
	}
	s.owner, s.inOwned = owner, m.owned[owner].PushFront(e)
	if m.owned[owner].Len() > or(m.MaxOwned, 100) {
		oldest, _ := m.owned[owner].Back().Value.(*list.Element)
		m.remove(oldest)
	}
}

func (m *MemoryStore) touch(e *list.Element, now time.Time) *memorySession {
	s := sessionOf(e)
	s.Expires = now.Add(or(m.TTL, 24*time.Hour))
	m.recent.MoveToFront(e)
	if s.inOwned != nil {
		m.owned[s.owner].MoveToFront(s.inOwned)
	}
	return s
}

func (m *MemoryStore) remove(e *list.Element) {
	s := sessionOf(e)
	m.recent.Remove(e)
	delete(m.sessions, s.ID)
	m.bytes -= s.bytes + sessionOverhead
	if s.inOwned == nil {
		return
	}
	m.owned[s.owner].Remove(s.inOwned)
	if m.owned[s.owner].Len() == 0 {
		delete(m.owned, s.owner)
	}
}

// expire drops what nobody has used for the TTL: as the list is in the order of
// use, that is its end.
func (m *MemoryStore) expire(now time.Time) {
	for e := m.recent.Back(); e != nil && !now.Before(sessionOf(e).Expires); e = m.recent.Back() {
		m.remove(e)
	}
}

// shrink drops the least recently used sessions until the bounds hold.
func (m *MemoryStore) shrink() {
	for m.recent.Len() > or(m.MaxSessions, 10_000) || m.bytes > or(m.MaxBytes, 64<<20) && m.recent.Len() > 1 {
		m.remove(m.recent.Back())
	}
}

// sessionOf returns what an element of recent holds; nothing else is put there.
func sessionOf(e *list.Element) *memorySession {
	s, _ := e.Value.(*memorySession)
	return s
}
