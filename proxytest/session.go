package proxytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// TestSessionStore checks that a store keeps the contract that is written at
// [proxy.SessionStore]. Each failure names the rule that is broken and why the
// handler needs it. newStore is called once for each rule, and must return a
// store without sessions, for which it may use t.Cleanup. Call it from a test:
//
//	func TestStore(t *testing.T) {
//		proxytest.TestSessionStore(t, func(t *testing.T) proxy.SessionStore { return openStore(t) })
//	}
func TestSessionStore(t *testing.T, newStore func(t *testing.T) proxy.SessionStore) {
	t.Helper()
	for _, rule := range sessionRules {
		t.Run(rule.name, func(t *testing.T) {
			rule.check(&sessionCheck{T: t, store: newStore(t), why: rule.why})
		})
	}
}

// sessionRules are the sentences of the contract.
var sessionRules = []struct {
	name, why string
	check     func(*sessionCheck)
}{
	{"an absent session", "Load of an absent id returns zero values and no error: clients ask for made-up ids, which is no failure", checkAbsent},
	{"create", "Create makes an empty session and reads only ID and Title of what it is given; the times are the store's", checkCreate},
	{"create replaces", "Create replaces the session with the same id, its messages included", checkReplace},
	{"append", "Append makes the session if it is absent: any well-formed id of a client is taken on its first write", checkAppend},
	{"fields", "Load returns every field of a message as it was given: Body is sent to the API byte for byte, and compared", checkFields},
	{"order", "Append adds messages behind those that are there, in their order", checkOrder},
	{"times", "Updated is the time of the last write, Created that of the first", checkTimes},
	{"ids", "An id is opaque: two that differ in any character are two sessions", checkIDs},
	{"delete", "Delete removes a session with all that belongs to it, and reports whether there was one", checkDelete},
	{"kept messages", "The caller may keep what Load returned: later writes must not change it", checkKept},
	{"concurrent appends", "Either all messages of one Append are added, uninterrupted by those of others, or none", checkConcurrent},
	{"concurrent sessions", "The methods are called concurrently, for the same session and for many", checkMany},
	{"a context that has ended", "An Append that returns an error has added nothing, one that returns none has added all", checkContext},
	{"too large", "Messages that can never fit are refused whole, with an error that is proxy.ErrSessionFull, and what was there stays", checkTooLarge},
}

// sessionCheck is one rule and the store under test.
type sessionCheck struct {
	*testing.T
	store proxy.SessionStore
	why   string
}

func (c *sessionCheck) failed(format string, args ...any) {
	c.Helper()
	c.Fatalf("%s.\nThe rule: %s.", fmt.Sprintf(format, args...), c.why)
}

func (c *sessionCheck) load(id string) (proxy.Session, []proxy.Message) {
	c.Helper()
	s, messages, err := c.store.Load(c.Context(), id)
	if err != nil {
		c.failed("Load(%q) returned the error %v", id, err)
	}
	if s.ID != "" && s.Count != len(messages) {
		c.failed("Load(%q) returned Count %d with %d messages", id, s.Count, len(messages))
	}
	return s, messages
}

func (c *sessionCheck) append(id string, messages ...proxy.Message) {
	c.Helper()
	if err := c.store.Append(c.Context(), id, messages...); err != nil {
		c.failed("Append(%q) of %d messages returned the error %v", id, len(messages), err)
	}
}

func (c *sessionCheck) create(id, title string) {
	c.Helper()
	if err := c.store.Create(c.Context(), proxy.Session{ID: id, Title: title}); err != nil {
		c.failed("Create(%q) returned the error %v", id, err)
	}
}

// wantTexts compares the texts of a session.
func (c *sessionCheck) wantTexts(id string, want ...string) {
	c.Helper()
	s, messages := c.load(id)
	got := make([]string, len(messages))
	for i, m := range messages {
		got[i] = m.Content
	}
	if s.ID != id || fmt.Sprint(got) != fmt.Sprint(want) {
		c.failed("the session %q is %q with the texts %q, want %q", id, s.ID, got, want)
	}
}

func (c *sessionCheck) wantAbsent(id string) {
	c.Helper()
	if s, messages := c.load(id); s != (proxy.Session{}) || len(messages) != 0 {
		c.failed("Load(%q) returned %+v and %d messages, want nothing", id, s, len(messages))
	}
}

func turn(id, text string) proxy.Message {
	body, err := json.Marshal(map[string]string{"content": text, "role": "user"})
	if err != nil {
		body = nil // not reached: a text always encodes
	}
	return proxy.Message{ID: id, Role: "user", Content: text, Time: time.Now(), Body: body}
}

func turns(texts ...string) []proxy.Message {
	out := make([]proxy.Message, len(texts))
	for i, text := range texts {
		out[i] = turn("msg_"+text, text)
	}
	return out
}

func checkAbsent(c *sessionCheck) {
	c.wantAbsent("absent")
	c.create("present", "")
	c.wantAbsent("absent")
	c.wantAbsent("")
}

func checkCreate(c *sessionCheck) {
	before := time.Now()
	long := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	err := c.store.Create(c.Context(), proxy.Session{ID: "a", Title: `Tïtle "1" 😀`, Created: long, Updated: long, Expires: long, Count: 7})
	if err != nil {
		c.failed("Create returned the error %v", err)
	}
	s, messages := c.load("a")
	if s.ID != "a" || s.Title != `Tïtle "1" 😀` || len(messages) != 0 {
		c.failed("the new session is %+v with %d messages", s, len(messages))
	}
	c.wantNow("Created", s.Created, before)
	c.wantNow("Updated", s.Updated, before)
	if !s.Expires.IsZero() && !s.Expires.After(before) {
		c.failed("the new session has expired at %v", s.Expires)
	}
}

// wantNow allows for a store whose clock is another machine's.
func (c *sessionCheck) wantNow(name string, got, since time.Time) {
	c.Helper()
	const skew = time.Minute
	if got.Before(since.Add(-skew)) || got.After(time.Now().Add(skew)) {
		c.failed("%s is %v, want about %v", name, got, since)
	}
}

func checkReplace(c *sessionCheck) {
	c.create("a", "old")
	c.append("a", turns("one", "two")...)
	c.create("a", "new")
	c.wantTexts("a")
	if s, _ := c.load("a"); s.Title != "new" {
		c.failed("the title is %q, want %q", s.Title, "new")
	}
	c.append("a", turns("three")...)
	c.wantTexts("a", "three")
}

func checkAppend(c *sessionCheck) {
	before := time.Now()
	c.append("a", turns("one")...)
	c.wantTexts("a", "one")
	s, _ := c.load("a")
	c.wantNow("Created", s.Created, before)
	c.wantNow("Updated", s.Updated, before)
	if s.Title != "" {
		c.failed("a session that Append made has the title %q", s.Title)
	}
	c.create("b", "kept")
	c.append("b", turns("two")...)
	if s, _ := c.load("b"); s.Title != "kept" {
		c.failed("behind Append the title is %q, want %q", s.Title, "kept")
	}
	c.wantTexts("a", "one")
}

func checkFields(c *sessionCheck) {
	at := time.Date(2026, 8, 20, 12, 34, 56, 789_000_000, time.UTC)
	given := []proxy.Message{
		{ID: "msg_1_user", Role: "user", Content: "line\r\n\ttab \"quotes\" 'single' \\ % _ 你好 😀 \u2028", Time: at, Body: json.RawMessage(`{ "role":"user",  "content":"x", "n":1.10, "big":9007199254740993 }`)},
		{ID: "", Role: "assistant", Content: "", Time: at.In(time.FixedZone("east", 3600)), Body: json.RawMessage(`{"z":1,"a":null,"content":null}`), Reply: json.RawMessage(`{"toolCalls":[{"id":"call_1","function":{"arguments":""}}]}`)},
		{ID: "msg_1_user", Role: "tool", Content: "the same id again", Time: at, Body: json.RawMessage(`{}`)},
		{ID: "msg_2_system", Role: "system", Content: strings.Repeat("long ", 2_000), Time: at, Body: json.RawMessage(`{}`)},
		{ID: "msg_3_developer", Role: "developer", Content: "last", Time: at, Body: json.RawMessage(`{}`)},
	}
	c.append("a", given...)
	_, got := c.load("a")
	if len(got) != len(given) {
		c.failed("%d messages came back, want %d", len(got), len(given))
	}
	for i, want := range given {
		g := got[i]
		if g.ID != want.ID || g.Role != want.Role || g.Content != want.Content {
			c.failed("message %d came back as %.200q, want %.200q", i, []string{g.ID, g.Role, g.Content}, []string{want.ID, want.Role, want.Content})
		}
		if !bytes.Equal(g.Body, want.Body) || !bytes.Equal(g.Reply, want.Reply) {
			c.failed("message %d came back with Body %s and Reply %s, want %s and %s", i, g.Body, g.Reply, want.Body, want.Reply)
		}
		if !g.Time.Truncate(time.Millisecond).Equal(want.Time) {
			c.failed("message %d came back with the time %v, want %v", i, g.Time, want.Time)
		}
	}
}

func checkOrder(c *sessionCheck) {
	same := time.Now() // no order can be made of it
	var want []string
	for i := range 30 {
		var batch []proxy.Message
		for j := range i%3 + 1 {
			// Ids that sort neither as texts nor as numbers.
			m := turn(fmt.Sprintf("msg_%d", (i*7919+j)%97), fmt.Sprintf("%d.%d", i, j))
			m.Time = same.Add(-time.Duration(i) * time.Second)
			batch, want = append(batch, m), append(want, m.Content)
		}
		c.append("a", batch...)
	}
	c.wantTexts("a", want...)
}

func checkTimes(c *sessionCheck) {
	c.create("a", "")
	first, _ := c.load("a")
	second := first
	// The clock of a store may tick in seconds.
	for limit := time.Now().Add(3 * time.Second); !second.Updated.After(first.Updated); second, _ = c.load("a") {
		if time.Now().After(limit) {
			c.failed("behind Append Updated is still %v", second.Updated)
		}
		c.append("a", turns("one")...)
	}
	if !second.Created.Equal(first.Created) {
		c.failed("behind Append Created is %v, %v before", second.Created, first.Created)
	}
	third, _ := c.load("a")
	if !third.Updated.Equal(second.Updated) {
		c.failed("behind Load Updated is %v, %v before: reading is no write", third.Updated, second.Updated)
	}
}

func checkIDs(c *sessionCheck) {
	long := strings.Repeat("x", 127)
	ids := []string{
		"a", "A", "aa", "a.", "a/b", "a/../b", "b", "../b", "%61", "a%", "a_", "a*", "a?b=c", "a#b", "a'--", `a"b`, `a\b`, "a:b", "a;b",
		"{a}", "~", "!", "0", "00", "null", "__proto__", "-", ".", "..", long + "a", long + "A", long + "b",
	}
	for _, id := range ids {
		c.append(id, turn("msg_"+id, id))
	}
	for _, id := range ids {
		c.wantTexts(id, id)
	}
	for i, id := range ids {
		if found, err := c.store.Delete(c.Context(), id); !found || err != nil {
			c.failed("Delete(%q) returned %t, %v", id, found, err)
		}
		c.wantAbsent(id)
		if i+1 < len(ids) {
			c.wantTexts(ids[i+1], ids[i+1])
		}
	}
}

func checkDelete(c *sessionCheck) {
	want := func(id string, want bool) {
		c.Helper()
		if found, err := c.store.Delete(c.Context(), id); found != want || err != nil {
			c.failed("Delete(%q) returned %t, %v, want %t", id, found, err, want)
		}
	}
	want("a", false)
	c.create("a", "title")
	c.append("a", turns("one")...)
	c.append("b", turns("other")...)
	want("a", true)
	c.wantAbsent("a")
	want("a", false)
	c.append("a", turns("two")...)
	c.wantTexts("a", "two")
	if s, _ := c.load("a"); s.Title != "" {
		c.failed("the title %q came back with a new session of the same id", s.Title)
	}
	c.wantTexts("b", "other")
	c.create("empty", "")
	want("empty", true)
}

func checkKept(c *sessionCheck) {
	c.append("a", turns("one", "two")...)
	_, kept := c.load("a")
	grown := append(kept, turns("the caller's own")...) // beside the store's, whatever room there is
	c.append("a", turns("three")...)
	c.wantTexts("a", "one", "two", "three")
	c.create("a", "")
	c.append("a", turns("four", "five", "six")...)
	if _, err := c.store.Delete(c.Context(), "a"); err != nil {
		c.failed("Delete returned the error %v", err)
	}
	if len(kept) != 2 || kept[0].Content != "one" || kept[1].Content != "two" || grown[2].Content != "the caller's own" {
		c.failed("messages that were loaded before are %v now", kept)
	}
}

func checkConcurrent(c *sessionCheck) {
	const writers, rounds, batch = 10, 5, 3
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for r := range rounds {
				var messages []proxy.Message
				for b := range batch {
					messages = append(messages, turn(fmt.Sprintf("msg_%d_%d_%d", w, r, b), fmt.Sprintf("%d %d %d", w, r, b)))
				}
				if err := c.store.Append(c.Context(), "a", messages...); err != nil {
					c.Errorf("Append returned the error %v.\nThe rule: %s.", err, c.why)
				}
				if _, _, err := c.store.Load(c.Context(), "a"); err != nil {
					c.Errorf("Load returned the error %v", err)
				}
			}
		})
	}
	all.Wait()
	_, got := c.load("a")
	if len(got) != writers*rounds*batch {
		c.failed("%d messages are there, want %d: some were lost, or came twice", len(got), writers*rounds*batch)
	}
	next := map[int]int{}
	for i := 0; i < len(got); i += batch {
		var w, r, b int
		if _, err := fmt.Sscan(got[i].Content, &w, &r, &b); err != nil || b != 0 || next[w] != r {
			c.failed("message %d is %q, want the first of round %d of its writer", i, got[i].Content, next[w])
		}
		next[w]++
		for b := range batch {
			if want := fmt.Sprintf("%d %d %d", w, r, b); got[i+b].Content != want {
				c.failed("message %d is %q, want %q: two Appends are mixed", i+b, got[i+b].Content, want)
			}
		}
	}
}

func checkMany(c *sessionCheck) {
	const sessions = 20
	var all sync.WaitGroup
	for i := range sessions {
		all.Go(func() {
			id := fmt.Sprintf("session-%d", i)
			err := errors.Join(
				c.store.Create(c.Context(), proxy.Session{ID: id, Title: id}),
				c.store.Append(c.Context(), id, turns(id)...),
				c.store.Append(c.Context(), "shared-"+id, turns(id)...),
			)
			_, errDelete := c.store.Delete(c.Context(), "shared-"+id)
			if err = errors.Join(err, errDelete); err != nil {
				c.Errorf("a store in use by several returned the error %v.\nThe rule: %s.", err, c.why)
			}
		})
	}
	all.Wait()
	for i := range sessions {
		id := fmt.Sprintf("session-%d", i)
		c.wantTexts(id, id)
		c.wantAbsent("shared-" + id)
	}
}

func checkContext(c *sessionCheck) {
	c.append("a", turns("one")...)
	ctx, cancel := context.WithCancel(c.Context())
	cancel()
	if err := c.store.Append(ctx, "a", turns("two", "three")...); err != nil {
		c.wantTexts("a", "one")
		return
	}
	c.wantTexts("a", "one", "two", "three")
}

func checkTooLarge(c *sessionCheck) {
	c.append("a", turns("one")...)
	huge := turn("msg_huge", strings.Repeat("x", 4<<20))
	batch := []proxy.Message{turn("msg_2", "two"), huge}
	err := c.store.Append(c.Context(), "a", batch...)
	_, messages := c.load("a")
	switch {
	case err == nil:
		if n := len(messages); n == 0 || messages[n-1].Content != huge.Content {
			c.failed("Append returned no error for a message of 4 MiB, and did not add it")
		}
	case !errors.Is(err, proxy.ErrSessionFull):
		c.failed("Append of a message of 4 MiB returned the error %v", err)
	case len(messages) != 1 || messages[0].Content != "one":
		c.failed("behind a refused Append there are %d messages, want the one from before", len(messages))
	}
}
