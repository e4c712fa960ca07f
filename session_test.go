package proxy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// chatOf is an input with these turns, each written "role: text".
func chatOf(sessionID string, turns ...string) gqlMap {
	input := gqlMap{}
	if sessionID != "" {
		input["sessionId"] = sessionID
	}
	if turns != nil {
		list := []any{}
		for _, turn := range turns {
			role, text, _ := strings.Cut(turn, ": ")
			list = append(list, gqlMap{"role": role, "content": text})
		}
		input["messages"] = list
	}
	return gqlMap{"input": input}
}

// say stores a turn with sendMessage.
func say(t testing.TB, f *fixture, sessionID, role, text string) gqlMap {
	t.Helper()
	return gqlAsk(t, f, `mutation M($input: MessageInput!) { sendMessage(input: $input) { id sessionId role isUser content success error } }`,
		gqlMap{"input": gqlMap{"sessionId": sessionID, "role": role, "content": text}}).ok(t, "sendMessage")
}

// ask makes a call whose answer is reply, and returns the roles and texts that
// went upstream.
func ask(t testing.TB, f *fixture, reply string, input gqlMap) []string {
	t.Helper()
	f.up.Queue(proxytest.Chat(reply))
	if got := gqlAsk(t, f, gqlGetAIResponse, input).ok(t, "getAIResponse"); got["content"] != reply || got["success"] != true || got["error"] != nil {
		t.Errorf("answer %v", got)
	}
	return sentTurns(t, f)
}

// sentTurns are the messages of the oldest upstream request not looked at yet.
func sentTurns(t testing.TB, f *fixture) []string {
	t.Helper()
	list, _ := gqlSent(t, f)["messages"].([]any)
	turns := []string{}
	for _, item := range list {
		m, _ := item.(gqlMap)
		turns = append(turns, fmt.Sprintf("%v: %v", m["role"], m["content"]))
	}
	return turns
}

// history reads what chatHistory shows.
func history(t testing.TB, f *fixture, sessionID string) []string {
	t.Helper()
	a := gqlAsk(t, f, `query H($id: String) { chatHistory(sessionId: $id, last: 200) { sessionId role isUser content } }`, gqlMap{"id": sessionID})
	list, ok := a.Data["chatHistory"].([]any)
	if !ok || len(a.Errors) > 0 {
		t.Fatalf("status %d: %s", a.status, a.text)
	}
	turns := []string{}
	for _, item := range list {
		m, _ := item.(gqlMap)
		if m["sessionId"] != sessionID || m["isUser"] != (m["role"] == "user") {
			t.Errorf("turn %v of session %s", m, sessionID)
		}
		turns = append(turns, fmt.Sprintf("%v: %v", m["role"], m["content"]))
	}
	return turns
}

func wantTurns(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s is\n%q, want\n%q", what, got, want)
	}
}

func newSession(t testing.TB, f *fixture, input any) string {
	t.Helper()
	got := gqlAsk(t, f, `mutation M($input: SessionInput) { createSession(input: $input) { sessionId success error session { sessionId } } }`, gqlMap{"input": input}).ok(t, "createSession")
	id, _ := got["sessionId"].(string)
	session, _ := got["session"].(gqlMap)
	if id == "" || got["success"] != true || session["sessionId"] != id {
		t.Fatalf("createSession: %v", got)
	}
	return id
}

func TestS24SessionIDsAreUnique(t *testing.T) {
	t.Parallel()
	const total, each = 100_000, 500
	f := start(t, gqlOptions(proxy.GraphQLOptions{Limits: proxy.GraphQLLimits{RootFields: each, Fields: 2 * each, Tokens: 20_000}}))
	var query strings.Builder
	query.WriteString("mutation {")
	for i := range each {
		fmt.Fprintf(&query, " s%d: createSession { id%d: sessionId }", i, i) // equal keys are limited
	}
	query.WriteString("}")
	form := regexp.MustCompile(`^session_\d{13}_([0-9a-z]{25})$`)
	seen := make(map[string]bool, total)
	var values [25]map[byte]bool // of each digit
	for i := range values {
		values[i] = map[byte]bool{}
	}
	for range total / each {
		a := gqlAsk(t, f, query.String(), nil)
		if len(a.Errors) > 0 {
			t.Fatalf("%.500s", a.text)
		}
		for alias, field := range a.Data {
			id, _ := field.(gqlMap)["id"+alias[1:]].(string)
			parts := form.FindStringSubmatch(id)
			if seen[id] || parts == nil {
				t.Fatalf("id %q is not new, or not well-formed", id)
			}
			seen[id] = true
			for i := range values {
				values[i][parts[1][i]] = true
			}
		}
	}
	if len(seen) != total {
		t.Errorf("%d ids, want %d", len(seen), total)
	}
	for i := range values {
		if n := len(values[i]); n != 36 {
			t.Errorf("digit %d has %d values in %d ids, want all 36: it can be guessed", i, n, total)
		}
	}
}

func TestMessageIDsAreUnique(t *testing.T) {
	t.Parallel()
	f := start(t)
	var (
		mu   sync.Mutex
		seen = map[any]bool{}
		all  sync.WaitGroup
	)
	for range 8 {
		all.Go(func() {
			for range 25 {
				m := say(t, f, "", "user", "x")
				mu.Lock()
				if seen[m["id"]] {
					t.Errorf("id %v came twice", m["id"])
				}
				seen[m["id"]] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for role, form := range map[string]string{"user": `^msg_\d{16}_user$`, "assistant": `^msg_\d{16}_ai$`, "system": `^msg_\d{16}_system$`} {
		if id, _ := say(t, f, "", role, "x")["id"].(string); !regexp.MustCompile(form).MatchString(id) {
			t.Errorf("the id of a turn of the role %s is %q", role, id)
		}
	}
}

func TestSessionIDsOfClients(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, id := range []string{"session_1700000000000_k3j9x1a", "a", "A.b:c-d_9", strings.Repeat("x", 128)} {
		say(t, f, id, "user", "first in "+id)
		wantTurns(t, "history of "+id, history(t, f, id), "user: first in "+id)
	}
	for _, id := range []string{
		"a b", "a/b", "a%20b", "ü", "a\n", "a\x00", "'; drop table", `"`, "a{b}", strings.Repeat("x", 129), "😀", "a,b",
	} {
		gqlAsk(t, f, gqlSendMessage, gqlMap{"input": gqlMap{"sessionId": id, "content": "x"}}).wantStatus(t, 400).refused(t, "BAD_USER_INPUT")
		gqlAsk(t, f, gqlGetAIResponse, chatOf(id, "user: x")).wantStatus(t, 400).refused(t, "BAD_USER_INPUT")
		wantTurns(t, "history", history(t, f, id))
		a := gqlAsk(t, f, `query Q($id: String!) { session(sessionId: $id) { title } }`, gqlMap{"id": id}).wantStatus(t, 200)
		wantSame(t, "session", any(a.Data), `{"session":null}`)
		a = gqlAsk(t, f, `mutation D($id: String!) { deleteSession(sessionId: $id) { success } }`, gqlMap{"id": id}).wantStatus(t, 200)
		wantSame(t, "deleteSession", any(a.Data), `{"deleteSession":{"success":false}}`)
	}
	f.wantCalls(t, 0)
}

func TestStrictSessions(t *testing.T) {
	t.Parallel()
	f := start(t, gqlOptions(proxy.GraphQLOptions{StrictSessions: true}))
	const madeUp = "session_1700000000000_k3j9x1a"
	refused := func(id string) {
		t.Helper()
		gqlAsk(t, f, gqlSendMessage, gqlMap{"input": gqlMap{"sessionId": id, "content": "x"}}).wantStatus(t, 400).refused(t, "BAD_USER_INPUT")
		gqlAsk(t, f, gqlGetAIResponse, chatOf(id, "user: x")).wantStatus(t, 400).refused(t, "BAD_USER_INPUT")
		gqlAsk(t, f, gqlGetAIResponse, chatOf(id)).wantStatus(t, 400).refused(t, "BAD_USER_INPUT")
		gqlOpen(t, f, gqlSubscription, chatOf(id, "user: x"), gqlSSE).fails("BAD_USER_INPUT")
		wantTurns(t, "history", history(t, f, id))
	}
	refused(madeUp)
	f.wantCalls(t, 0)
	id := newSession(t, f, nil)
	say(t, f, id, "user", "hi")
	ask(t, f, "Hello", chatOf(id))
	wantTurns(t, "history", history(t, f, id), "user: hi", "assistant: Hello")
	gqlAsk(t, f, `mutation D($id: String!) { deleteSession(sessionId: $id) { success } }`, gqlMap{"id": id})
	refused(id)
	say(t, f, "", "user", "no session at all")
	ask(t, f, "Hello", chatOf("", "user: x"))
}

func TestSessionThatIsAbsentExpiredOrDeletedAnswersAlike(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := subscriptionInMemory(proxy.WithSessionStore(&proxy.MemoryStore{TTL: time.Hour})).start(t)
		remove := `mutation D($id: String!) { deleteSession(sessionId: $id) { success error } }`
		expired, deleted := newSession(t, f, gqlMap{"title": "old"}), newSession(t, f, nil)
		say(t, f, expired, "user", "x")
		say(t, f, deleted, "user", "x")
		if got := gqlAsk(t, f, remove, gqlMap{"id": deleted}).ok(t, "deleteSession")["success"]; got != true {
			t.Error("a session that was there is deleted with success")
		}
		time.Sleep(time.Hour)
		var answers []string
		for _, id := range []string{"session_1_absent", expired, deleted} {
			var all string
			for _, query := range []string{
				`query H($id: String) { chatHistory(sessionId: $id) { content } }`,
				`query S($id: String!) { session(sessionId: $id) { title messageCount messages { content } } }`, remove,
			} {
				a := gqlAsk(t, f, query, gqlMap{"id": id})
				all += fmt.Sprintln(a.status, strings.ReplaceAll(a.text, id, "ID"))
			}
			a := gqlAsk(t, f, gqlGetAIResponse, chatOf(id))
			answers = append(answers, all+fmt.Sprintln(a.status, a.text))
		}
		if answers[0] != answers[1] || answers[0] != answers[2] {
			t.Errorf("absent, expired and deleted sessions can be told apart:\n%s", strings.Join(answers, "\n"))
		}
		for _, want := range []string{`"chatHistory":[]`, `"session":null`, `"success":false`, "messages field is required"} {
			if !strings.Contains(answers[0], want) {
				t.Errorf("no %s in\n%s", want, answers[0])
			}
		}
		f.wantCalls(t, 0)
	})
}

func TestT11ParallelSendMessagesHaveSomeOrder(t *testing.T) {
	t.Parallel()
	f := start(t)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			a := gqlAsk(t, f, `mutation M($a: MessageInput!, $b: MessageInput!) { a: sendMessage(input: $a) { id } b: sendMessage(input: $b) { id } }`, gqlMap{
				"a": gqlMap{"sessionId": "shared", "content": fmt.Sprintf("%02d first", i)},
				"b": gqlMap{"sessionId": "shared", "content": fmt.Sprintf("%02d second", i)},
			})
			a.ok(t, "a")
		})
	}
	all.Wait()
	got := history(t, f, "shared")
	at := map[string]int{}
	for i, turn := range got {
		at[turn] = i
	}
	if len(got) != 100 || len(at) != 100 {
		t.Fatalf("%d turns, %d of them different, want 100", len(got), len(at))
	}
	for i := range 50 {
		if at[fmt.Sprintf("user: %02d first", i)] > at[fmt.Sprintf("user: %02d second", i)] {
			t.Errorf("the turns of request %d are in the wrong order", i)
		}
	}
	again := history(t, f, "shared")
	wantTurns(t, "the history read again", again, got...)
}

func TestBothFlowsOfClientsGiveTheSameHistory(t *testing.T) {
	t.Parallel()
	want := []string{"user: one", "assistant: 1", "user: two", "assistant: 2", "user: two", "assistant: 2"}
	asked := func(n int) []string { return want[:2*n+1] } // all turns up to the question n
	for name, turn := range map[string]func(t *testing.T, f *fixture, n int, reply string){
		"sendMessage, then getAIResponse with the session": func(t *testing.T, f *fixture, n int, reply string) {
			say(t, f, "s", "user", strings.TrimPrefix(want[2*n], "user: "))
			wantTurns(t, "the context", ask(t, f, reply, chatOf("s")), asked(n)...)
		},
		"everything is sent": func(t *testing.T, f *fixture, n int, reply string) {
			wantTurns(t, "the context", ask(t, f, reply, chatOf("s", asked(n)...)), asked(n)...)
		},
		"sendMessage, then everything is sent": func(t *testing.T, f *fixture, n int, reply string) {
			say(t, f, "s", "user", strings.TrimPrefix(want[2*n], "user: "))
			wantTurns(t, "the context", ask(t, f, reply, chatOf("s", asked(n)...)), asked(n)...)
		},
		"sendMessage, then everything with a system turn in front": func(t *testing.T, f *fixture, n int, reply string) {
			say(t, f, "s", "user", strings.TrimPrefix(want[2*n], "user: "))
			all := append([]string{"system: be brief"}, asked(n)...)
			wantTurns(t, "the context", ask(t, f, reply, chatOf("s", all...)), all...)
		},
		"the last turn alone": func(t *testing.T, f *fixture, n int, reply string) {
			wantTurns(t, "the context", ask(t, f, reply, chatOf("s", want[2*n])), want[2*n])
		},
		"sendMessage, then the last turn alone": func(t *testing.T, f *fixture, n int, reply string) {
			say(t, f, "s", "user", strings.TrimPrefix(want[2*n], "user: "))
			wantTurns(t, "the context", ask(t, f, reply, chatOf("s", want[2*n])), want[2*n])
		},
		"subscriptions": func(t *testing.T, f *fixture, n int, reply string) {
			f.up.Queue(proxytest.ChatStream(reply))
			s := gqlOpen(t, f, gqlSubscription, chatOf("s", asked(n)...), gqlSSE)
			s.until()
			s.completes()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			for n := range 3 {
				turn(t, f, n, strings.TrimPrefix(want[2*n+1], "assistant: "))
				wantTurns(t, "the history", history(t, f, "s"), want[:2*n+2]...)
			}
		})
	}
}

func TestMessagesOfARequestAreTheWholeContext(t *testing.T) {
	t.Parallel()
	f := start(t)
	say(t, f, "s", "user", "stored")
	wantTurns(t, "the context", ask(t, f, "1", chatOf("s", "system: other", "user: asked")), "system: other", "user: asked")
	wantTurns(t, "the history", history(t, f, "s"), "user: stored", "user: asked", "assistant: 1")
	wantTurns(t, "the context", ask(t, f, "2", chatOf("s", "user: asked", "assistant: edited", "user: asked", "user: more")),
		"user: asked", "assistant: edited", "user: asked", "user: more")
	wantTurns(t, "the history", history(t, f, "s"), "user: stored", "user: asked", "assistant: 1", "user: asked", "user: more", "assistant: 2")
}

func TestNothingIsStoredWithoutASession(t *testing.T) {
	t.Parallel()
	spy := &spyStore{}
	f := start(t, proxy.WithSessionStore(spy))
	say(t, f, "", "user", "hi")
	ask(t, f, "Hello", chatOf("", "user: hi"))
	gqlAsk(t, f, `mutation { sendMessage(input: {content: "x"}) { sessionId id } }`, nil).ok(t, "sendMessage")
	if ids, _ := spy.seen(); len(ids) > 0 {
		t.Errorf("the store was asked for %q", ids)
	}
}

func TestContextOfASessionThatIsEmptyIsRefused(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, id := range []string{newSession(t, f, nil), "made-up", ""} {
		for _, input := range []gqlMap{chatOf(id), {"input": gqlMap{"sessionId": id, "messages": nil}}} {
			a := gqlAsk(t, f, gqlGetAIResponse, input).wantStatus(t, 400)
			if e := a.refused(t, "BAD_REQUEST"); e.Message != "messages field is required and must be an array" {
				t.Errorf("message %q", e.Message)
			}
		}
	}
	f.wantCalls(t, 0)
}

func TestSystemTurnsAreContextAndNotShown(t *testing.T) {
	t.Parallel()
	f := start(t)
	id := newSession(t, f, gqlMap{"title": "T", "system": "be brief"})
	wantTurns(t, "the history", history(t, f, id))
	say(t, f, id, "user", "hi")
	say(t, f, id, "developer", "and kind")
	wantTurns(t, "the context", ask(t, f, "Hello", chatOf(id)), "system: be brief", "user: hi", "developer: and kind")
	wantTurns(t, "the history", history(t, f, id), "user: hi", "assistant: Hello")
	a := gqlAsk(t, f, `query S($id: String!) { session(sessionId: $id) { sessionId title createdAt updatedAt expiresAt messageCount messages(last: 1) { role content } } }`, gqlMap{"id": id})
	s := a.ok(t, "session")
	when := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)
	for _, key := range []string{"createdAt", "updatedAt", "expiresAt"} {
		if at, _ := s[key].(string); !when.MatchString(at) {
			t.Errorf("%s is %v", key, s[key])
		}
		delete(s, key)
	}
	wantSame(t, "session", any(s), `{"sessionId":"`+id+`","title":"T","messageCount":2,"messages":[{"role":"assistant","content":"Hello"}]}`)
}

func TestToolCallsStayInTheContext(t *testing.T) {
	t.Parallel()
	f := start(t)
	const call = `{"id":"call_1","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Oslo\",\"n\":1.10}"}}`
	f.up.Queue(proxytest.JSON(200, `{"id":"c1","choices":[{"message":{"role":"assistant","content":null,"tool_calls":[`+call+`]},"finish_reason":"tool_calls"}]}`))
	got := gqlAsk(t, f, `mutation M($input: ChatInput!) { getAIResponse(input: $input) { content toolCalls { id name arguments } } }`, chatOf("s", "user: how is Oslo?")).ok(t, "getAIResponse")
	wantSame(t, "answer", any(got), `{"content":null,"toolCalls":[{"id":"call_1","name":"weather","arguments":"{\"city\":\"Oslo\",\"n\":1.10}"}]}`)
	gqlSent(t, f)

	var calls []any
	gqlDecode(t, "["+call+"]", &calls)
	turns := gqlMap{"input": gqlMap{"sessionId": "s", "messages": []any{
		gqlMap{"role": "user", "content": "how is Oslo?"},
		gqlMap{"role": "assistant", "content": nil, "tool_calls": calls},
		gqlMap{"role": "tool", "content": "rain", "tool_call_id": "call_1"},
	}}}
	ask(t, f, "It rains.", turns)
	say(t, f, "s", "user", "thanks")
	f.up.Queue(proxytest.Chat("Bye."))
	gqlAsk(t, f, gqlGetAIResponse, chatOf("s")).ok(t, "getAIResponse")
	wantSame(t, "the context", gqlSent(t, f)["messages"], `[
		{"role":"user","content":"how is Oslo?"},
		{"role":"assistant","content":null,"tool_calls":[`+call+`]},
		{"role":"tool","content":"rain","tool_call_id":"call_1"},
		{"role":"assistant","content":"It rains."},
		{"role":"user","content":"thanks"}]`)
	a := gqlAsk(t, f, `{ chatHistory(sessionId: "s") { content toolCalls { name } finishReason } }`, nil)
	wantSame(t, "the history", a.Data["chatHistory"], `[{"content":"how is Oslo?","toolCalls":null,"finishReason":null},{"content":null,"toolCalls":[{"name":"weather"}],"finishReason":"tool_calls"},
		{"content":"It rains.","toolCalls":null,"finishReason":"stop"},{"content":"thanks","toolCalls":null,"finishReason":null},{"content":"Bye.","toolCalls":null,"finishReason":"stop"}]`)
}

func TestPartsStayInTheContext(t *testing.T) {
	t.Parallel()
	f := start(t)
	parts := []any{gqlMap{"type": "text", "text": "what is it?"}, gqlMap{"type": "image_url", "image_url": gqlMap{"url": "data:image/png;base64,AAAA"}}}
	input := gqlMap{"input": gqlMap{"sessionId": "s", "messages": []any{gqlMap{"role": "user", "parts": parts}}}}
	ask(t, f, "A dot.", input)
	say(t, f, "s", "user", "sure?")
	f.up.Queue(proxytest.Chat("Yes."))
	gqlAsk(t, f, gqlGetAIResponse, chatOf("s")).ok(t, "getAIResponse")
	wantSame(t, "the context", gqlSent(t, f)["messages"], `[{"role":"user","content":[{"type":"text","text":"what is it?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]},
		{"role":"assistant","content":"A dot."},{"role":"user","content":"sure?"}]`)
}

func TestFailedCallsStoreNothing(t *testing.T) {
	t.Parallel()
	f := start(t)
	say(t, f, "s", "user", "kept")
	for _, answer := range []proxytest.Answer{
		proxytest.RateLimited(time.Second), proxytest.Raw(""), proxytest.JSON(200, `{"choices":[]}`),
		proxytest.JSON(200, `{"error":{"message":"x"}}`), proxytest.JSON(200, `<html>`),
	} {
		f.up.Queue(answer)
		if a := gqlAsk(t, f, gqlGetAIResponse, chatOf("s", "user: kept", "user: lost")); len(a.Errors) != 1 {
			t.Errorf("no failure: %s", a.text)
		}
	}
	for _, answer := range []proxytest.Answer{
		proxytest.RateLimited(time.Second), proxytest.Stream(gqlText("a"), proxytest.Cut()), proxytest.Stream(gqlText("a")),
		proxytest.Stream(gqlText("a"), proxytest.Text(gqlFinish+`data: {"error":{"message":"x"}}`+"\n\n")),
	} {
		f.up.Queue(answer)
		s := gqlOpen(t, f, gqlSubscription, chatOf("s", "user: lost"), gqlSSE)
		if rest, err := io.ReadAll(s.in); err != nil || !strings.Contains(string(rest), `"errors"`) {
			t.Errorf("no failure: %v, %s", err, rest)
		}
	}
	wantTurns(t, "the history", history(t, f, "s"), "user: kept")
}

func TestCallsOfClientsThatLeftStoreNothing(t *testing.T) {
	t.Parallel()
	returned := make(chan struct{})
	spy := &spyStore{}
	f := setup{wrap: gqlReturning(returned), options: []proxy.Option{proxy.WithSessionStore(spy)}}.start(t)
	f.up.Queue(proxytest.Stream(gqlText("half"), proxytest.Silence()))
	s := gqlOpen(t, f, gqlSubscription, chatOf("s", "user: x"), gqlSSE)
	s.delta()
	s.cancel()
	gqlWait(t, "the return of the handler", returned)
	if _, appended := spy.seen(); appended > 0 {
		t.Errorf("%d messages were stored", appended)
	}
}

func TestHistoryPages(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithSessionStore(&proxy.MemoryStore{MaxMessages: 500}))
	var ids []string
	for i := range 230 {
		id, _ := say(t, f, "s", []string{"user", "system"}[min(i%23, 1)^1], fmt.Sprint(i))["id"].(string)
		ids = append(ids, id)
	}
	read := func(args gqlMap) []string {
		t.Helper()
		args["id"] = "s"
		a := gqlAsk(t, f, `query H($id: String, $last: Int, $before: String) { chatHistory(sessionId: $id, last: $last, before: $before) { content } }`, args).wantStatus(t, 200)
		texts := []string{}
		list, _ := a.Data["chatHistory"].([]any)
		for _, item := range list {
			texts = append(texts, fmt.Sprint(item.(gqlMap)["content"]))
		}
		return texts
	}
	var all []string // the turns that are shown
	for i := range 230 {
		if i%23 != 0 {
			all = append(all, fmt.Sprint(i))
		}
	}
	for _, tt := range []struct {
		name string
		args gqlMap
		want []string
	}{
		{"without arguments", gqlMap{}, all[len(all)-100:]},
		{"nulls", gqlMap{"last": nil, "before": nil}, all[len(all)-100:]},
		{"the last three", gqlMap{"last": 3}, []string{"227", "228", "229"}},
		{"none", gqlMap{"last": 0}, []string{}},
		{"less than none", gqlMap{"last": -5}, []string{}},
		{"more than a page may have", gqlMap{"last": 1000}, all[len(all)-200:]},
		{"before one", gqlMap{"last": 2, "before": ids[229]}, []string{"227", "228"}},
		{"before the first of a page", gqlMap{"last": 3, "before": ids[24]}, []string{"1", "2", "3"}[:0:0]},
	} {
		if tt.name == "before the first of a page" {
			tt.want = all[20:23] // 21, 22 and 24 stand around a system turn
			tt.args["before"] = ids[25]
		}
		wantTurns(t, tt.name, read(tt.args), tt.want...)
	}
	var walked []string
	before := any(nil)
	for {
		page := read(gqlMap{"last": 50, "before": before})
		if len(page) == 0 {
			break
		}
		walked = append(slices.Clone(page), walked...)
		var n int
		_, _ = fmt.Sscan(page[0], &n)
		before = ids[n]
	}
	wantTurns(t, "the history, page by page", walked, all...)
}

func TestFullSessionIsAnOutcome(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithSessionStore(&proxy.MemoryStore{MaxSessionBytes: 1000}))
	say(t, f, "s", "user", "kept")
	big := strings.Repeat("x", 1000)
	got := gqlAsk(t, f, gqlSendMessage, gqlMap{"input": gqlMap{"sessionId": "s", "content": big}}).ok(t, "sendMessage")
	if got["success"] != false || got["error"] == nil {
		t.Errorf("sendMessage: %v", got)
	}
	f.up.Queue(proxytest.Chat(big))
	got = gqlAsk(t, f, gqlGetAIResponse, chatOf("s", "user: hi")).ok(t, "getAIResponse")
	if got["content"] != big || got["error"] == nil {
		t.Error("an answer that is paid for is given, with a word that it is not stored")
	}
	got = gqlAsk(t, f, `mutation M($input: SessionInput) { createSession(input: $input) { sessionId success error } }`, gqlMap{"input": gqlMap{"system": big}}).ok(t, "createSession")
	if got["success"] != false || got["error"] == nil || got["sessionId"] != nil {
		t.Errorf("createSession: %v", got)
	}
	wantTurns(t, "the history", history(t, f, "s"), "user: kept")
}

// spyStore is a MemoryStore that notes what it is asked for.
type spyStore struct {
	proxy.MemoryStore
	mu       sync.Mutex
	ids      []string
	appended int
}

func (s *spyStore) note(id string, appended int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, id)
	s.appended += appended
}

func (s *spyStore) seen() (ids []string, appended int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids), s.appended
}

func (s *spyStore) Create(ctx context.Context, made proxy.Session) error {
	s.note(made.ID, 0)
	return s.MemoryStore.Create(ctx, made)
}

func (s *spyStore) Load(ctx context.Context, id string) (proxy.Session, []proxy.Message, error) {
	s.note(id, 0)
	return s.MemoryStore.Load(ctx, id)
}

func (s *spyStore) Append(ctx context.Context, id string, messages ...proxy.Message) error {
	s.note(id, len(messages))
	return s.MemoryStore.Append(ctx, id, messages...)
}

func (s *spyStore) Delete(ctx context.Context, id string) (bool, error) {
	s.note(id, 0)
	return s.MemoryStore.Delete(ctx, id)
}

func TestStoreNeverSeesTheSessionID(t *testing.T) {
	t.Parallel()
	spy := &spyStore{}
	f := start(t, proxy.WithSessionStore(spy))
	ids := []string{newSession(t, f, gqlMap{"system": "x"}), "a", "A", strings.Repeat("long", 32)}
	for _, id := range ids {
		say(t, f, id, "user", "hi")
		ask(t, f, "Hello", chatOf(id))
		history(t, f, id)
		gqlAsk(t, f, `mutation D($id: String!) { deleteSession(sessionId: $id) { success } }`, gqlMap{"id": id})
	}
	seen, _ := spy.seen()
	form := regexp.MustCompile(`^[!-~]{16,128}$`)
	different := map[string]bool{}
	for _, bound := range seen {
		different[bound] = true
		if !form.MatchString(bound) || strings.Contains(bound, ids[0]) || strings.Contains(bound, ids[3]) {
			t.Errorf("the store was asked for %q", bound)
		}
	}
	if len(different) != len(ids) {
		t.Errorf("%d sessions in the store, want %d", len(different), len(ids))
	}
}

// downStore fails where it is told to.
type downStore struct {
	proxy.MemoryStore
	create, load, append, remove error
}

func (s *downStore) Create(ctx context.Context, made proxy.Session) error {
	return errors.Join(s.create, s.MemoryStore.Create(ctx, made))
}

func (s *downStore) Load(ctx context.Context, id string) (proxy.Session, []proxy.Message, error) {
	found, messages, err := s.MemoryStore.Load(ctx, id)
	return found, messages, errors.Join(s.load, err)
}

func (s *downStore) Append(ctx context.Context, id string, messages ...proxy.Message) error {
	if s.append != nil {
		return s.append
	}
	return s.MemoryStore.Append(ctx, id, messages...)
}

func (s *downStore) Delete(ctx context.Context, id string) (bool, error) {
	found, err := s.MemoryStore.Delete(ctx, id)
	return found, errors.Join(s.remove, err)
}

func TestStoreThatFailsIsToldToTheLogAlone(t *testing.T) {
	t.Parallel()
	down := errors.New("dial tcp db.internal:5432: connection refused")
	for _, tt := range []struct {
		name, query string
		variables   gqlMap
		store       *downStore
		calls       int
	}{
		{"createSession", gqlCreateSession, nil, &downStore{create: down}, 0},
		{"createSession, reading back", gqlCreateSession, nil, &downStore{load: down}, 0},
		{"createSession, first turn", `mutation { createSession(input: {system: "x"}) { success } }`, nil, &downStore{append: down}, 0},
		{"deleteSession", `mutation { deleteSession(sessionId: "s") { success } }`, nil, &downStore{remove: down}, 0},
		{"sendMessage", gqlSendMessage, gqlMap{"input": gqlMap{"sessionId": "s", "content": "x"}}, &downStore{append: down}, 0},
		{"chatHistory", gqlChatHistory, gqlMap{"sessionId": "s"}, &downStore{load: down}, 0},
		{"session", `{ session(sessionId: "s") { title } }`, nil, &downStore{load: down}, 0},
		{"getAIResponse, context", gqlGetAIResponse, chatOf("s"), &downStore{load: down}, 0},
		{"getAIResponse, before the call", gqlGetAIResponse, chatOf("s", "user: x"), &downStore{load: down}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, proxy.WithSessionStore(tt.store))
			var variables any
			if tt.variables != nil {
				variables = tt.variables
			}
			a := gqlAsk(t, f, tt.query, variables).wantStatus(t, 500)
			if len(a.Errors) == 0 || a.Errors[0].Message != "Internal server error." || a.Errors[0].Extensions["code"] != "INTERNAL_SERVER_ERROR" {
				t.Errorf("the error is not the generic one: %s", a.text)
			}
			if strings.Contains(a.text, "internal:") || strings.Contains(a.text, "dial") || strings.Contains(a.text, "session store") {
				t.Errorf("the answer tells of the store: %s", a.text)
			}
			if !strings.Contains(f.logs.String(), "db.internal") {
				t.Error("the log does not tell what failed")
			}
			f.wantCalls(t, tt.calls)
		})
	}
	t.Run("behind the call", func(t *testing.T) {
		t.Parallel()
		f := start(t, proxy.WithSessionStore(&downStore{append: down}))
		f.up.Queue(proxytest.Chat("paid"), proxytest.ChatStream("paid"))
		a := gqlAsk(t, f, gqlGetAIResponse, chatOf("s", "user: x"))
		s := gqlOpen(t, f, gqlSubscription, chatOf("s", "user: x"), gqlSSE)
		rest, _ := io.ReadAll(s.in)
		for _, text := range []string{a.text, string(rest)} {
			if strings.Contains(text, "db.internal") || strings.Contains(text, "dial") {
				t.Errorf("the answer tells of the store: %s", text)
			}
		}
		if strings.Count(f.logs.String(), "db.internal") < 2 {
			t.Errorf("the log does not tell what failed: %s", f.logs)
		}
	})
}

// A message that counts for about n bytes.
func weighing(id string, n int) proxy.Message {
	return proxy.Message{ID: id, Role: "user", Content: strings.Repeat("x", n)}
}

func loadTexts(t testing.TB, s proxy.SessionStore, id string) (texts []string) {
	t.Helper()
	_, messages, err := s.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		texts = append(texts, m.ID)
	}
	return texts
}

func TestMemoryStoreKeepsTheSessionsUsedLast(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := &proxy.MemoryStore{MaxSessions: 3}
	there := func(id string) bool {
		// Delete asks without counting as a use for the others.
		found, messages, _ := s.Load(ctx, id)
		return found.ID == id && found.Count == len(messages)
	}
	for _, id := range []string{"a", "b", "c"} {
		_ = s.Create(ctx, proxy.Session{ID: id})
	}
	there("a") // used: now b is the one used last
	_ = s.Append(ctx, "d", weighing("1", 1))
	if there("b") || !there("a") || !there("c") || !there("d") {
		t.Error("not the session that was used longest ago went")
	}
	_ = s.Append(ctx, "a", weighing("2", 1)) // a, d, c
	_ = s.Create(ctx, proxy.Session{ID: "c"})
	_ = s.Create(ctx, proxy.Session{ID: "e"}) // c, a were used behind d
	if there("d") || !there("a") || !there("c") || !there("e") {
		t.Error("writing does not count as a use")
	}
}

func TestMemoryStoreBoundsOneSession(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := &proxy.MemoryStore{MaxMessages: 3, MaxSessionBytes: 1500} // a message weighs 160 more than its texts
	for i := range 5 {
		_ = s.Append(ctx, "a", weighing(fmt.Sprint(i), 1))
	}
	wantTurns(t, "past the number of messages", loadTexts(t, s, "a"), "2", "3", "4")
	_ = s.Append(ctx, "a", weighing("5", 1), weighing("6", 1))
	wantTurns(t, "two at once", loadTexts(t, s, "a"), "4", "5", "6")
	_ = s.Append(ctx, "b", weighing("0", 400))
	_ = s.Append(ctx, "b", weighing("1", 400))
	_ = s.Append(ctx, "b", weighing("2", 400))
	wantTurns(t, "past the bytes", loadTexts(t, s, "b"), "1", "2")
	for name, batch := range map[string][]proxy.Message{
		"bytes":  {weighing("7", 700), weighing("8", 600)},
		"number": {weighing("7", 1), weighing("8", 1), weighing("9", 1), weighing("10", 1)},
	} {
		if err := s.Append(ctx, "b", batch...); !errors.Is(err, proxy.ErrSessionFull) {
			t.Errorf("%s that can never fit: %v", name, err)
		}
		if err := s.Append(ctx, "new "+name, batch...); !errors.Is(err, proxy.ErrSessionFull) {
			t.Errorf("%s that can never fit, in a new session: %v", name, err)
		}
		if found, _, _ := s.Load(ctx, "new "+name); found.ID != "" {
			t.Error("a refused Append made a session")
		}
	}
	wantTurns(t, "behind refusals", loadTexts(t, s, "b"), "1", "2")
}

func TestMemoryStoreBoundsAllSessions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := &proxy.MemoryStore{MaxBytes: 10_000}
	for i := range 10 {
		_ = s.Append(ctx, fmt.Sprint(i), weighing("m", 2000))
	}
	var left []string
	for i := range 10 {
		if found, _, _ := s.Load(ctx, fmt.Sprint(i)); found.ID != "" {
			left = append(left, found.ID)
		}
	}
	if len(left) == 0 || len(left) > 5 || left[len(left)-1] != "9" || left[0] != fmt.Sprint(10-len(left)) {
		t.Errorf("sessions %q are left, want the last, at most five", left)
	}
	// What was deleted, replaced or dropped is not counted any more.
	for i := range 1000 {
		_ = s.Append(ctx, "x", weighing("m", 2000))
		if i%3 == 0 {
			_ = s.Create(ctx, proxy.Session{ID: "x"})
		}
		if i%5 == 0 {
			_, _ = s.Delete(ctx, "x")
		}
	}
	for _, id := range []string{"a", "b", "c"} {
		_ = s.Append(ctx, id, weighing("m", 2000))
	}
	for _, id := range []string{"a", "b", "c"} {
		wantTurns(t, "session "+id, loadTexts(t, s, id), "m")
	}
}

func TestMemoryStoreForgetsToTheSecond(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		store *proxy.MemoryStore
		ttl   time.Duration
	}{
		"default": {&proxy.MemoryStore{}, 24 * time.Hour},
		"an hour": {&proxy.MemoryStore{TTL: time.Hour}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, s := t.Context(), tt.store
				there := func(id string) bool {
					found, _, _ := s.Load(ctx, id)
					if found.ID != "" && !found.Expires.Equal(time.Now().Add(tt.ttl)) {
						t.Errorf("the session expires at %v, %v from now", found.Expires, time.Until(found.Expires))
					}
					return found.ID != ""
				}
				_ = s.Create(ctx, proxy.Session{ID: "idle"})
				_ = s.Append(ctx, "read", weighing("m", 1))
				_ = s.Append(ctx, "written", weighing("m", 1))
				time.Sleep(tt.ttl - time.Second)
				if !there("read") {
					t.Error("gone a second early")
				}
				_ = s.Append(ctx, "written", weighing("n", 1))
				time.Sleep(time.Second)
				if there("idle") || !there("read") || !there("written") {
					t.Error("what nobody used is still there, or what was used is not")
				}
				if found, _ := s.Delete(ctx, "idle"); found {
					t.Error("what has expired was deleted with success")
				}
				_ = s.Append(ctx, "idle", weighing("fresh", 1))
				wantTurns(t, "a new session of the same id", loadTexts(t, s, "idle"), "fresh")
				time.Sleep(tt.ttl)
				if there("idle") || there("read") || there("written") {
					t.Error("still there")
				}
			})
		})
	}
}

// heapOf returns how much more of the heap is in use behind fill.
func heapOf(fill func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	fill()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// Not parallel: they measure the heap.
func TestT9MemoryStoreMemoryIsBounded(t *testing.T) {
	const most = 4 << 20
	tests := map[string]struct {
		store *proxy.MemoryStore
		fill  func(s *proxy.MemoryStore, i int) error
		n     int
	}{
		"100,000 empty sessions": {&proxy.MemoryStore{MaxBytes: most}, func(s *proxy.MemoryStore, i int) error {
			return s.Create(t.Context(), proxy.Session{ID: fmt.Sprintf("%064d", i)})
		}, 100_000},
		"100,000 sessions with a message": {&proxy.MemoryStore{MaxBytes: most}, func(s *proxy.MemoryStore, i int) error {
			return s.Append(t.Context(), fmt.Sprintf("%064d", i), proxy.Message{
				ID: fmt.Sprintf("msg_%d_user", i), Role: "user", Content: fmt.Sprintf("hello %d", i),
				Body: json.RawMessage(fmt.Sprintf(`{"role":"user","content":"hello %d"}`, i)),
			})
		}, 100_000},
		"the least messages": {&proxy.MemoryStore{MaxBytes: most}, func(s *proxy.MemoryStore, i int) error {
			batch := make([]proxy.Message, 200)
			for k := range batch {
				batch[k] = proxy.Message{ID: fmt.Sprint(i, k), Role: "user"}
			}
			return s.Append(t.Context(), fmt.Sprintf("%064d", i), batch...)
		}, 1000},
		"long titles": {&proxy.MemoryStore{MaxBytes: most}, func(s *proxy.MemoryStore, i int) error {
			err := s.Create(t.Context(), proxy.Session{ID: fmt.Sprintf("%064d", i), Title: strings.Repeat("x", 64<<10)})
			if errors.Is(err, proxy.ErrSessionFull) {
				return nil
			}
			return err
		}, 1000},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			used := heapOf(func() {
				for i := range tt.n {
					if err := tt.fill(tt.store, i); err != nil {
						t.Fatal(err)
					}
				}
			})
			if used > 2*most {
				t.Errorf("%d KiB are in use, the bound is %d KiB", used>>10, most>>10)
			}
			runtime.KeepAlive(tt.store)
		})
	}
}

func TestMemoryStoreDefaults(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var s proxy.MemoryStore
	for i := range 250 {
		_ = s.Append(ctx, "many", weighing(fmt.Sprint(i), 1))
	}
	if got := loadTexts(t, &s, "many"); len(got) != 200 || got[0] != "50" {
		t.Errorf("%d messages from %q, want 200 from 50", len(got), got[0])
	}
	if err := s.Append(ctx, "big", weighing("m", 256<<10+1)); !errors.Is(err, proxy.ErrSessionFull) {
		t.Errorf("more than 256 KiB: %v", err)
	}
	if err := s.Append(ctx, "big", weighing("m", 255<<10)); err != nil {
		t.Errorf("255 KiB: %v", err)
	}
	for i := range 10_050 {
		_ = s.Create(ctx, proxy.Session{ID: fmt.Sprint(i)})
	}
	count := 0
	for i := range 10_050 {
		if found, _, _ := s.Load(ctx, fmt.Sprint(i)); found.ID != "" {
			count++
		}
	}
	if count != 10_000 {
		t.Errorf("%d sessions, want 10,000", count)
	}
}

func TestMemoryStoresPrintNothingOfTheirSessions(t *testing.T) {
	t.Parallel()
	f := start(t)
	say(t, f, "s", "user", "a secret of the caller")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, f.handler); strings.Contains(text, "secret") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
	if strings.Contains(f.logs.String(), "a secret of the caller") {
		t.Error("the log has a turn of the caller")
	}
}

func TestSessionsOfTwoHandlersAreApart(t *testing.T) {
	t.Parallel()
	a, b := start(t), start(t)
	say(t, a, "s", "user", "hi")
	wantTurns(t, "the history of another handler", history(t, b, "s"))
	shared := &proxy.MemoryStore{}
	c, d := start(t, proxy.WithSessionStore(shared)), start(t, proxy.WithSessionStore(shared))
	say(t, c, "s", "user", "hi")
	if got := history(t, d, "s"); !reflect.DeepEqual(got, []string{"user: hi"}) {
		t.Errorf("a store that two handlers share shows %q", got)
	}
	if res, _ := a.do(t, http.MethodGet, "/graphql?query={__typename}", ""); res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
}
