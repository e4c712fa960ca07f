package proxy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// A store that fails behind a paid call must not cost the caller the answer.
func TestT4StoreThatFailsLosesNoPaidAnswer(t *testing.T) {
	t.Parallel()
	const query = `mutation A($input: ChatInput!) { getAIResponse(input: $input) { content success error } }`
	f := start(t, proxy.WithSessionStore(&downStore{append: errors.New("redis is down at 10.1.2.3")}))
	f.up.Queue(proxytest.Chat("paid for"))
	a := gqlAsk(t, f, query, gqlChat("sessionId", "s"))
	got := a.ok(t, "getAIResponse")
	if told, _ := got["error"].(string); got["content"] != "paid for" || told == "" || strings.Contains(a.text, "redis") {
		t.Errorf("the answer is %s, want the content and an error that hides the cause", a.text)
	}
	if !strings.Contains(f.logs.String(), "redis is down") {
		t.Errorf("the cause is not logged:\n%s", f.logs)
	}
	f.wantCalls(t, 1)
}

func TestStoreThatFailsLosesNoPaidStream(t *testing.T) {
	t.Parallel()
	const query = `subscription S($input: ChatInput!) { aiResponse(input: $input) { content done message { content error } } }`
	f := start(t, proxy.WithSessionStore(&downStore{append: errors.New("redis is down at 10.1.2.3")}))
	f.up.Queue(proxytest.ChatStream("paid ", "for"))
	s := gqlOpen(t, f, query, gqlChat("sessionId", "s"), gqlSSE)
	last, text := s.until()
	message, _ := last["message"].(gqlMap)
	if told, _ := message["error"].(string); text != "paid for" || message["content"] != "paid for" || told == "" || strings.Contains(told, "redis") {
		t.Errorf("text %q, the last event %v", text, last)
	}
	s.completes()
	f.wantCalls(t, 1)
}
