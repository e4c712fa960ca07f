package main

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	sessionTime  = 12 * time.Hour // from the login on, however much it is used
	userSessions = 5              // of one user; the oldest goes
)

// sessions are the open ones, by the hash of their id: how long a look-up takes
// tells nothing about an id, and neither does a copy of the memory. All are gone
// when the process ends; several servers need a store that they share. The zero
// value is ready.
type sessions struct {
	mu   sync.Mutex
	open map[[sha256.Size]byte]session
}

type session struct {
	user  string
	begun time.Time
}

// begin opens a session and returns its id, 128 bits or more of randomness. It
// is bounded by the users there are; with a sign-up that anybody can use, bound
// the whole map too.
func (s *sessions) begin(user string) string {
	id := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest [sha256.Size]byte
	var first time.Time
	own := 0
	for key, open := range s.open {
		switch {
		case time.Since(open.begun) >= sessionTime:
			delete(s.open, key)
		case open.user == user:
			if own == 0 || open.begun.Before(first) {
				oldest, first = key, open.begun
			}
			own++
		}
	}
	if own >= userSessions {
		delete(s.open, oldest)
	}
	if s.open == nil {
		s.open = map[[sha256.Size]byte]session{}
	}
	s.open[sha256.Sum256([]byte(id))] = session{user, time.Now()}
	return id
}

// user returns whose session an id is.
func (s *sessions) user(id string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	open, ok := s.open[sha256.Sum256([]byte(id))]
	if !ok || time.Since(open.begun) >= sessionTime {
		return "", false
	}
	return open.user, true
}

// end closes a session, if there is one.
func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sha256.Sum256([]byte(id)))
}

// users is a table for the demonstration. Your own server has a database with
// password hashes that are slow on purpose (argon2id, scrypt, PBKDF2), or leaves
// passwords to an identity provider.
type users struct {
	known  map[string]*account
	nobody *account // stands in for whoever is not known
}

type account struct {
	password [sha256.Size]byte
	tries    *rate.Limiter
}

func newAccount(password string) *account {
	return &account{sha256.Sum256([]byte(password)), rate.NewLimiter(rate.Every(6*time.Second), 10)}
}

// newUsers reads "name:password,name:password".
func newUsers(table string) (*users, error) {
	u := &users{map[string]*account{}, newAccount(rand.Text())}
	for entry := range strings.SplitSeq(table, ",") {
		name, password, ok := strings.Cut(strings.TrimSpace(entry), ":")
		if !ok || name == "" || password == "" {
			return nil, errors.New("LOGIN_USERS must be name:password, several of them separated by commas")
		}
		if u.known[name] != nil {
			return nil, fmt.Errorf("LOGIN_USERS has %s twice", name)
		}
		u.known[name] = newAccount(password)
	}
	return u, nil
}

// check reports whether the password is the user's, or how long to wait before
// the next attempt. Attempts are counted by the name that is tried, not by
// address: guessers have many addresses, and strangers may share one. The price
// is that a guesser can keep a user from logging in, though not from calling.
//
// A name that is not known takes the same steps, and so the same time.
func (u *users) check(name, password string) (known bool, wait time.Duration) {
	who, known := u.known[name]
	if !known {
		who = u.nobody
	}
	if try := who.tries.Reserve(); try.Delay() > 0 {
		wait = try.Delay()
		try.Cancel()
		return false, max(wait, 1)
	}
	given := sha256.Sum256([]byte(password))
	// Hashes of one length: how many bytes are right does not show in the time.
	same := subtle.ConstantTimeCompare(given[:], who.password[:]) == 1
	return known && same, 0
}
