package proxy

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"time"
)

// The roles of messages.
const (
	roleSystem    = "system"
	roleDeveloper = "developer"
	roleUser      = "user"
	roleAssistant = "assistant"
	roleTool      = "tool"
)

// conversations is how the GraphQL face uses a SessionStore.
type conversations struct {
	store  SessionStore
	strict bool
}

var (
	errSessionID      = errors.New("the session id is not well-formed")
	errSessionUnknown = errors.New("there is no such session")
)

// sessionID admits what clients may name a session: also ids that a page made
// up when createSession failed.
var sessionID = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,128}$`)

// newSessionID returns an id with 129 random bits, in the form that clients of
// the original worker know.
func newSessionID() string {
	const digits = 25
	limit := new(big.Int).Exp(big.NewInt(36), big.NewInt(digits), nil)
	n, err := rand.Int(rand.Reader, limit)
	if err != nil { // crypto/rand ends the process rather than fail
		n = limit
	}
	return fmt.Sprintf("session_%d_%0*s", time.Now().UnixMilli(), digits, n.Text(36))
}

// boundID is the id that a store sees: it stands for the owner too, and does
// not tell the id to whoever reads the store. The parts are prefixed with their
// lengths, so that no two pairs are alike.
func boundID(owner, id string) string {
	h := sha256.New()
	for _, part := range []string{owner, id} {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write([]byte(part))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// bind is boundID for the caller of ctx. In front of the ids of a known caller
// stands, with a dot, what all of them have in common.
func bind(ctx context.Context, id string) string {
	owner := ""
	if x := exchangeOf(ctx); x != nil {
		owner = x.caller.ID
	}
	if owner == "" {
		return boundID("", id)
	}
	return boundID("owner", owner)[:24] + "." + boundID(owner, id)
}

// load returns a session and its messages; of an absent or malformed id it
// returns nothing, and no error.
func (c conversations) load(ctx context.Context, id string) (Session, []Message, error) {
	if !sessionID.MatchString(id) {
		return Session{}, nil, nil
	}
	s, messages, err := c.store.Load(ctx, bind(ctx, id))
	if err != nil {
		return Session{}, nil, fmt.Errorf("session store: %w", err)
	}
	return s, messages, nil
}

func (c conversations) create(ctx context.Context, id, title string, first []Message) error {
	if err := c.store.Create(ctx, Session{ID: bind(ctx, id), Title: title}); err != nil {
		return fmt.Errorf("session store: %w", err)
	}
	if len(first) == 0 {
		return nil
	}
	return c.write(ctx, id, first)
}

// append adds turns to a session, which a well-formed id makes on first use.
func (c conversations) append(ctx context.Context, id string, messages ...Message) error {
	if !sessionID.MatchString(id) {
		return errSessionID
	}
	if c.strict {
		s, _, err := c.load(ctx, id)
		if err != nil {
			return err
		}
		if s.ID == "" {
			return errSessionUnknown
		}
	}
	return c.write(ctx, id, messages)
}

func (c conversations) write(ctx context.Context, id string, messages []Message) error {
	if err := c.store.Append(ctx, bind(ctx, id), messages...); err != nil {
		return fmt.Errorf("session store: %w", err)
	}
	return nil
}

func (c conversations) remove(ctx context.Context, id string) (bool, error) {
	if !sessionID.MatchString(id) {
		return false, nil
	}
	found, err := c.store.Delete(ctx, bind(ctx, id))
	if err != nil {
		return false, fmt.Errorf("session store: %w", err)
	}
	return found, nil
}

// newTurns returns what a request's messages add to the stored ones: the turns
// behind the last one of the assistant, without those that are stored already.
// Pages send their whole history with every request; nothing is stored twice.
func newTurns(stored, sent []Message) []Message {
	start := len(sent)
	for start > 0 && sent[start-1].Role != roleAssistant {
		start--
	}
	trailing := sent[start:]
	said, before := spoken(trailing), spoken(stored)
	known := min(len(said), len(before))
	for known > 0 && !sameTurns(before[len(before)-known:], said[:known]) {
		known--
	}
	var fresh []Message
	for _, m := range trailing {
		switch {
		case !isSpoken(m):
			if !slices.ContainsFunc(stored, func(s Message) bool { return sameTurn(s, m) }) {
				fresh = append(fresh, m)
			}
		case known > 0:
			known--
		default:
			fresh = append(fresh, m)
		}
	}
	return fresh
}

// spoken leaves out instructions, which clients put in front of any part of a
// history.
func spoken(messages []Message) []Message {
	return slices.DeleteFunc(slices.Clone(messages), func(m Message) bool { return !isSpoken(m) })
}

func isSpoken(m Message) bool { return m.Role != roleSystem && m.Role != roleDeveloper }

func sameTurns(a, b []Message) bool {
	return slices.EqualFunc(a, b, sameTurn)
}

func sameTurn(a, b Message) bool {
	return a.Role == b.Role && a.Content == b.Content && (a.Content != "" || string(a.Body) == string(b.Body))
}
