package proxytest_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

func TestMemoryStoreIsASessionStore(t *testing.T) {
	t.Parallel()
	proxytest.TestSessionStore(t, func(*testing.T) proxy.SessionStore { return &proxy.MemoryStore{} })
}

// faultyStore breaks one rule, and keeps the others as MemoryStore does.
type faultyStore struct {
	proxy.MemoryStore
	fault string
}

func (s *faultyStore) id(id string) string {
	if s.fault == "ids" {
		return strings.ToLower(id)
	}
	return id
}

func (s *faultyStore) Create(ctx context.Context, made proxy.Session) error {
	if s.fault == "create replaces" {
		if old, _, _ := s.MemoryStore.Load(ctx, made.ID); old.ID != "" {
			return nil
		}
	}
	if s.fault == "create" {
		made.Title = strings.ToUpper(made.Title)
	}
	made.ID = s.id(made.ID)
	return s.MemoryStore.Create(ctx, made)
}

func (s *faultyStore) Load(ctx context.Context, id string) (proxy.Session, []proxy.Message, error) {
	found, messages, err := s.MemoryStore.Load(ctx, s.id(id))
	switch {
	case s.fault == "an absent session" && found.ID == "":
		return found, nil, errors.New("no rows in result set")
	case s.fault == "ids" && found.ID != "":
		found.ID = id
	case s.fault == "fields":
		for i, m := range messages {
			var body any
			_ = json.Unmarshal(m.Body, &body)
			messages[i].Body, _ = json.Marshal(body)
		}
	case s.fault == "times":
		found.Updated = found.Created
	}
	return found, messages, err
}

func (s *faultyStore) Append(ctx context.Context, id string, messages ...proxy.Message) error {
	id = s.id(id)
	old, stored, err := s.MemoryStore.Load(ctx, id)
	switch {
	case err != nil:
		return err
	case s.fault == "append" && old.ID == "":
		return errors.New("no such session")
	case s.fault == "order" && len(stored) > 0:
		_ = s.MemoryStore.Create(ctx, old)
		messages = append(messages, stored...)
	case s.fault == "concurrent appends", s.fault == "too large", s.fault == "a context that has ended":
		for _, m := range messages {
			if err := s.MemoryStore.Append(ctx, id, m); err != nil {
				return err
			}
			if ctx.Err() != nil && s.fault == "a context that has ended" {
				return ctx.Err()
			}
		}
		return nil
	}
	return s.MemoryStore.Append(ctx, id, messages...)
}

func (s *faultyStore) Delete(ctx context.Context, id string) (bool, error) {
	found, err := s.MemoryStore.Delete(ctx, s.id(id))
	return found || s.fault == "delete", err
}

const faultVariable = "PROXYTEST_FAULT"

// TestFaultyStore fails on purpose, in a process of its own.
func TestFaultyStore(t *testing.T) {
	fault := os.Getenv(faultVariable)
	if fault == "" {
		t.Skip("runs in a process of its own")
	}
	proxytest.TestSessionStore(t, func(*testing.T) proxy.SessionStore { return &faultyStore{fault: fault} })
}

func TestSessionStoreFindsFaults(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{
		"an absent session", "create", "create replaces", "append", "fields", "order", "times", "ids", "delete",
		"a context that has ended", "too large",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFaultyStore$")
			cmd.Env = append(os.Environ(), faultVariable+"="+fault)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("a store with the fault passed:\n%s", out)
			}
			failed := regexp.MustCompile(`--- FAIL: TestFaultyStore/` + strings.ReplaceAll(fault, " ", "_") + ` `)
			if !failed.Match(out) || !strings.Contains(string(out), "The rule: ") {
				t.Errorf("the rule that is broken is not named:\n%s", out)
			}
		})
	}
}
