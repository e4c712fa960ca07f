package proxy_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// ownOperations are all operations that name a session. What they select tells
// nothing that differs from answer to answer.
var ownOperations = map[string]struct {
	query  string
	input  func(id string) any
	accept string
}{
	"session":     {`query S($id: String!) { session(sessionId: $id) { title messageCount messages { role content } } }`, ownID, ""},
	"chatHistory": {`query H($id: String) { chatHistory(sessionId: $id) { role content } }`, ownID, ""},
	"sendMessage": {`mutation M($input: MessageInput!) { sendMessage(input: $input) { role content success error } }`, func(id string) any {
		return gqlMap{"input": gqlMap{"sessionId": id, "content": "hi"}}
	}, ""},
	"getAIResponse":                    {ownAsk, func(id string) any { return chatOf(id, "user: hi") }, ""},
	"getAIResponse out of the context": {ownAsk, func(id string) any { return chatOf(id) }, ""},
	"deleteSession":                    {`mutation D($id: String!) { deleteSession(sessionId: $id) { success error } }`, ownID, ""},
	"aiResponse":                       {gqlSubscription, func(id string) any { return chatOf(id, "user: hi") }, gqlSSE},
	"aiResponse out of the context":    {gqlSubscription, func(id string) any { return chatOf(id) }, gqlSSE},
}

const ownAsk = `mutation A($input: ChatInput!) { getAIResponse(input: $input) { role content success error } }`

func ownID(id string) any { return gqlMap{"id": id} }

// ownMake makes a session of a user with a secret in it.
func ownMake(t testing.TB, f *fixture, user string) string {
	t.Helper()
	const create = `mutation C { createSession(input: {title: "the title", system: "the system"}) { sessionId } }`
	id, _ := gqlAsk(t, f, create, nil, "X-User", user).ok(t, "createSession")["sessionId"].(string)
	ownSay(t, f, user, id, "a secret of "+user)
	return id
}

func ownSay(t testing.TB, f *fixture, user, id, text string) {
	t.Helper()
	input := gqlMap{"input": gqlMap{"sessionId": id, "content": text}}
	if got := gqlAsk(t, f, gqlSendMessage, input, "X-User", user).ok(t, "sendMessage"); got["success"] != true {
		t.Fatalf("sendMessage: %v", got)
	}
}

// ownSees returns what a user is shown of a session.
func ownSees(t testing.TB, f *fixture, user, id string) string {
	t.Helper()
	op := ownOperations["session"]
	return strings.TrimSpace(gqlAsk(t, f, op.query, op.input(id), "X-User", user).text)
}

func ownWhole(user string) string {
	return fmt.Sprintf(`{"data":{"session":{"title":"the title","messageCount":1,"messages":[{"role":"user","content":%q}]}}}`, "a secret of "+user)
}

func TestS25SessionOfAnotherCallerAnswersAsOneThatIsAbsentOrExpired(t *testing.T) {
	t.Parallel()
	for name, op := range ownOperations {
		for _, strict := range []bool{false, true} {
			for _, pair := range [][2]string{{"ann", "bob"}, {"ann", ""}, {"", "ann"}} {
				t.Run(fmt.Sprintf("%s of %q by %q, strict %t", name, pair[0], pair[1], strict), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						f := subscriptionInMemory(byUser(), gqlOptions(proxy.GraphQLOptions{StrictSessions: strict}),
							proxy.WithSessionStore(&proxy.MemoryStore{TTL: time.Hour})).start(t)
						expired := ownMake(t, f, pair[1])
						time.Sleep(2 * time.Hour)
						foreign := ownMake(t, f, pair[0])
						ask := func(id string) string {
							before := len(f.up.Requests())
							res, body := f.post(t, "/graphql", gqlRequest(op.query, op.input(id)), "Content-Type", "application/json",
								"Accept", op.accept, "X-User", pair[1], "X-Request-Id", "r")
							answer := fmt.Sprintln(res.StatusCode, res.Header) + strings.ReplaceAll(body, id, "ID")
							for _, sent := range f.up.Requests()[before:] {
								answer += "\nsent " + string(sent.Body)
							}
							return answer
						}
						answers := []string{ask("session_1700000000000_0123456789abcdefghijklmno"), ask(expired), ask(foreign)}
						if answers[0] != answers[1] || answers[0] != answers[2] || strings.Contains(answers[2], "secret of") {
							t.Errorf("absent, expired and foreign sessions can be told apart:\n%s", strings.Join(answers, "\n"))
						}
						if got := ownSees(t, f, pair[0], foreign); got != ownWhole(pair[0]) {
							t.Errorf("the owner's session became %s", got)
						}
					})
				})
			}
		}
	}
}

// The operations do what they are for, for the owner: or the test above would
// compare refusals only.
func TestSessionIsThereForItsOwner(t *testing.T) {
	t.Parallel()
	for _, user := range []string{"ann", ""} {
		for name, op := range ownOperations {
			f := start(t, byUser(), gqlOptions(proxy.GraphQLOptions{StrictSessions: true}))
			id := ownMake(t, f, user)
			res, body := f.post(t, "/graphql", gqlRequest(op.query, op.input(id)), "Content-Type", "application/json", "Accept", op.accept, "X-User", user)
			if res.StatusCode != http.StatusOK || strings.Contains(body, "errors") || strings.Contains(body, `"success":false`) || strings.Contains(body, `"session":null`) {
				t.Errorf("%s of %q: status %d, %s", name, user, res.StatusCode, body)
			}
			want := ownWhole(user)
			switch name {
			case "deleteSession":
				want = `{"data":{"session":null}}`
			case "session", "chatHistory":
			default:
				want = "" // it has grown
			}
			if got := ownSees(t, f, user, id); want != "" && got != want || got == ownWhole(user) != (want == ownWhole(user)) {
				t.Errorf("%s of %q leaves %s, want %s", name, user, got, want)
			}
		}
	}
}

func TestOneSessionIDOfTwoCallersIsTwoSessions(t *testing.T) {
	t.Parallel()
	f := start(t, byUser())
	users := []string{"ann", "bob", "", "Ann", "owner"}
	for _, user := range users {
		ownSay(t, f, user, "chat", "by <"+user+">")
	}
	for _, user := range users {
		want := fmt.Sprintf(`"messages":[{"role":"user","content":"by <%s>"}]`, user)
		if got := ownSees(t, f, user, "chat"); !strings.Contains(got, want) {
			t.Errorf("%q sees %s, want %s", user, got, want)
		}
	}
}

func TestNoTwoOwnersAndIDsAreAlikeToTheStore(t *testing.T) {
	t.Parallel()
	spy := &spyStore{}
	f := start(t, proxy.WithSessionStore(spy), proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) {
		owner, err := base64.StdEncoding.DecodeString(r.Header.Get("X-User"))
		return proxy.Caller{ID: string(owner)}, err
	}))
	form := regexp.MustCompile(`^[0-9a-f]{24}\.[0-9a-f]{64}$|^[0-9a-f]{64}$`)
	pairs, prefixes := map[string][2]string{}, map[string]string{}
	check := func(owner, id string) {
		const remove = `mutation D($id: String!) { deleteSession(sessionId: $id) { success } }`
		gqlAsk(t, f, remove, gqlMap{"id": id}, "X-User", base64.StdEncoding.EncodeToString([]byte(owner)))
		ids, _ := spy.seen()
		bound, pair := ids[len(ids)-1], [2]string{owner, id}
		prefix, behind, dotted := strings.Cut(bound, ".")
		if !form.MatchString(bound) || dotted != (owner != "") || len(id) > 5 && strings.Contains(bound, id) {
			t.Errorf("%q is %s to the store", pair, bound)
		}
		if dotted {
			if other, ok := prefixes[prefix]; ok && other != owner {
				t.Errorf("the ids of %q and %q begin alike: %s", other, owner, bound)
			}
			prefixes[prefix] = owner
			bound = behind // which differs of itself
		}
		if other, ok := pairs[bound]; ok && other != pair {
			t.Fatalf("%q and %q are both %s", other, pair, bound)
		}
		pairs[bound] = pair
	}
	check("ab", "c")
	check("a", "bc")
	random := rand.New(rand.NewPCG(1, 2))
	seen := 2
	for range 40 {
		text := make([]byte, 2+random.IntN(12))
		for i := range text {
			text[i] = "ab01._:-"[random.IntN(8)]
		}
		for cut := range text {
			check(string(text[:cut]), string(text[cut:]))
			check(string(text[:cut])+"\x00é"[:random.IntN(4)], string(text[cut:]))
			seen++
		}
	}
	if len(pairs) < seen/2 || len(prefixes) < 40 {
		t.Errorf("only %d pairs of %d owners were seen", len(pairs), len(prefixes))
	}
}

func TestCallerWithTooManySessionsLosesHisOwnLeastRecentlyUsed(t *testing.T) {
	t.Parallel()
	f := start(t, byUser())
	const create = `mutation { createSession(input: {title: "t"}) { sessionId } }`
	made := func(user string, n int) (ids []string) {
		for range n {
			id, _ := gqlAsk(t, f, create, nil, "X-User", user).ok(t, "createSession")["sessionId"].(string)
			ids = append(ids, id)
		}
		return ids
	}
	lost := func(user string, ids []string) (gone []int) {
		for i, id := range ids {
			if strings.Contains(ownSees(t, f, user, id), "null") {
				gone = append(gone, i)
			}
		}
		return gone
	}
	bob, nobody := made("bob", 3), made("", 105)
	ann := made("ann", 100)
	if gone := lost("ann", ann); gone != nil { // which is a use of each, in order
		t.Errorf("of 100 sessions %v are gone", gone)
	}
	ownSay(t, f, "ann", ann[0], "used")
	ownSees(t, f, "ann", ann[2])
	ownSees(t, f, "bob", ann[1]) // no use of hers
	ann = append(ann, made("ann", 2)...)
	ownSay(t, f, "ann", "of-the-page", "made by a write") // the third beyond
	if gone := lost("ann", ann); !slices.Equal(gone, []int{1, 3, 4}) {
		t.Errorf("sessions %v are gone, want 1, 3 and 4", gone)
	}
	if gone := append(lost("bob", bob), lost("", nobody)...); gone != nil {
		t.Errorf("sessions %v of others are gone", gone)
	}
}

// ownModel is a MemoryStore as it is described, for a comparison: ids, the most
// recently used last.
type ownModel struct {
	ids          []string
	owned, total int
}

func (m *ownModel) drop(id string) bool {
	n := len(m.ids)
	m.ids = slices.DeleteFunc(m.ids, func(other string) bool { return other == id })
	return len(m.ids) < n
}

func (m *ownModel) use(id string) {
	m.drop(id)
	m.ids = append(m.ids, id)
	owner, _, dotted := strings.Cut(id, ".")
	var his []string
	for _, other := range m.ids {
		if strings.HasPrefix(other, owner+".") && dotted {
			his = append(his, other)
		}
	}
	if len(his) > m.owned {
		m.drop(his[0])
	}
	m.ids = m.ids[max(0, len(m.ids)-m.total):]
}

func TestMemoryStoreBoundsOwnersAsDescribed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 7))
		model := &ownModel{owned: 1 + random.IntN(5), total: 3 + random.IntN(12)}
		store := &proxy.MemoryStore{MaxOwned: model.owned, MaxSessions: model.total}
		for step := range 2000 {
			id := fmt.Sprintf("%d.%d", random.IntN(5), random.IntN(8))
			if random.IntN(4) == 0 {
				id = id[2:]
			}
			var found bool
			var err error
			want := slices.Contains(model.ids, id)
			switch random.IntN(5) {
			case 0:
				found, err = store.Delete(ctx, id)
				model.drop(id)
			case 1, 2:
				var s proxy.Session
				s, _, err = store.Load(ctx, id)
				if found = s.ID != ""; want {
					model.use(id)
				}
			case 3:
				err, found = store.Create(ctx, proxy.Session{ID: id}), want
				model.use(id)
			default:
				err, found = store.Append(ctx, id, weighing("m", 1)), want
				model.use(id)
			}
			if err != nil || found != want {
				t.Fatalf("seed %d, step %d: %s found %t, want %t: %v", seed, step, id, found, want, err)
			}
		}
	}
}

// Not parallel: it measures the heap.
func TestMemoryOfOwnersGoesWithTheirSessions(t *testing.T) {
	const owners, most = 50_000, 2 << 20
	ctx := context.Background()
	for name, tt := range map[string]struct {
		store *proxy.MemoryStore
		then  func(s *proxy.MemoryStore, id string)
	}{
		"deleted":             {&proxy.MemoryStore{}, func(s *proxy.MemoryStore, id string) { _, _ = s.Delete(ctx, id) }},
		"expired":             {&proxy.MemoryStore{TTL: 1}, func(*proxy.MemoryStore, string) {}},
		"pushed out":          {&proxy.MemoryStore{MaxSessions: 10}, func(*proxy.MemoryStore, string) {}},
		"pushed out by bytes": {&proxy.MemoryStore{MaxBytes: 16 << 10}, func(s *proxy.MemoryStore, id string) { _ = s.Append(ctx, id, weighing("m", 100)) }},
		"replaced":            {&proxy.MemoryStore{MaxSessions: 10}, func(s *proxy.MemoryStore, id string) { _ = s.Create(ctx, proxy.Session{ID: id}) }},
	} {
		t.Run(name, func(t *testing.T) {
			used := heapOf(func() {
				for i := range owners {
					id := fmt.Sprintf("%024d.%064d", i, i)
					if err := tt.store.Create(ctx, proxy.Session{ID: id}); err != nil {
						t.Fatal(err)
					}
					tt.then(tt.store, id)
				}
			})
			if used > most {
				t.Errorf("%d KiB are in use for owners without sessions, want at most %d", used>>10, most>>10)
			}
			runtime.KeepAlive(tt.store)
		})
	}
}

const safetySecret = "0123456789abcdef" // 16 bytes, the least

// safetyOf is what OpenAI is told of a caller.
func safetyOf(secret, id string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(id))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestSafetyIdentifierStandsForTheCaller(t *testing.T) {
	t.Parallel()
	ann := `"safety_identifier":"` + safetyOf(safetySecret, "ann") + `"`
	with := func(value string) string { return strings.Replace(askHello, "{", `{"safety_identifier":`+value+`,`, 1) }
	form, formType := edForm(t, "bound", edPart{name: "prompt", value: "a hat"}, edPart{name: "safety_identifier", value: "mine"})
	for _, row := range []struct {
		name, user, path, contentType, body, want string
	}{
		{"chat", "ann", chatPath, "", askHello, "{" + ann + "," + askHello[1:]},
		{"a stream", "ann", chatPath, "", askHelloStream, "{" + ann + "," + askHelloStream[1:]},
		{"the root", "ann", "/", "", askHello, "{" + ann + "," + askHello[1:]},
		{"bytes that decoding would change", "ann", chatPath, "", `{"messages" : [ ], "x":1.10e0,"model":"m","y":"\u00e9"} `, `{` + ann + `,"messages" : [ ], "x":1.10e0,"model":"m","y":"\u00e9"} `},
		{"an image on the root", "ann", "/", "", askImage, "{" + ann + "," + askImage[1:]},
		{"images", "ann", "/v1/images/generations", "", askImage, "{" + ann + "," + askImage[1:]},
		{"edits", "ann", "/v1/images/edits", "", askImage, "{" + ann + "," + askImage[1:]},
		{"in place of the client's", "ann", chatPath, "", with(`"mine"`), with(ann[20:])},
		{"in place of another's", "ann", chatPath, "", with(`"` + safetyOf(safetySecret, "bob") + `"`), with(ann[20:])},
		{"in place of null", "ann", chatPath, "", with(`null`), with(ann[20:])},
		{"in place of an object", "ann", chatPath, "", with(`{"a":[1]}`), with(ann[20:])},
		{"in the place of another", "ann", chatPath, "", `{"messages":[],"safety_identifier" : "mine" ,"model":"m"}`, `{"messages":[],"safety_identifier" : ` + ann[20:] + ` ,"model":"m"}`},
		{"not in a form", "ann", "/v1/images/edits", formType, form, form},
		{"not of anybody", "", chatPath, "", askHello, askHello},
		{"not in place of what anybody says", "", chatPath, "", with(`"mine"`), with(`"mine"`)},
		{"not of anybody's image", "", "/v1/images/generations", "", askImage, askImage},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, byUser(), proxy.WithSafetyIdentifier(safetySecret))
			if res, body := f.post(t, row.path, row.body, "X-User", row.user, "Content-Type", row.contentType); res.StatusCode != http.StatusOK {
				t.Fatalf("status %d: %s", res.StatusCode, body)
			}
			if got := string(f.up.Next().Body); got != row.want {
				t.Errorf("sent %s\nwant %s", got, row.want)
			}
		})
	}
}

func TestSafetyIdentifierIsSentByGraphQL(t *testing.T) {
	t.Parallel()
	f := start(t, byUser(), proxy.WithSafetyIdentifier(safetySecret))
	image := gqlMap{"input": gqlMap{"prompt": "a cat", "model": "img-x"}}
	for name, request := range map[string]string{
		"chat": gqlRequest(gqlGetAIResponse, gqlChat("model", "m")), "chat with one": gqlRequest(gqlGetAIResponse, gqlChat("safety_identifier", "mine")),
		"image": gqlRequest(gqlGenerateImage, image), "subscription": gqlRequest(gqlSubscription, gqlChat("safety_identifier", nil)),
	} {
		for user, want := range map[string]any{"ann": safetyOf(safetySecret, "ann"), "": map[string]any{"chat with one": "mine"}[name]} {
			f.post(t, "/graphql", request, "X-User", user, "Content-Type", "application/json", "Accept", map[bool]string{true: gqlSSE}[name == "subscription"])
			if got := gqlSent(t, f)["safety_identifier"]; got != want {
				t.Errorf("%s of %q sends %v, want %v", name, user, got, want)
			}
		}
	}
}

func TestSafetyIdentifierTellsCallersApartAndNotWhoTheyAre(t *testing.T) {
	t.Parallel()
	users := []string{"ann", "bob", "Ann", "a", "ann@example.com", strings.Repeat("deadbeef", 40)}
	seen, form := map[string]string{}, regexp.MustCompile(`^[0-9a-f]{64}$`)
	for _, secret := range []string{safetySecret, safetySecret + "0"} {
		f := start(t, byUser(), proxy.WithSafetyIdentifier("another secret, replaced"), proxy.WithSafetyIdentifier(secret))
		for _, user := range append(users, users...) {
			f.post(t, chatPath, askHello, "X-User", user)
			id, _ := gqlSent(t, f)["safety_identifier"].(string)
			if other, ok := seen[id]; ok && other != secret+user || id != safetyOf(secret, user) || !form.MatchString(id) || len(user) > 2 && strings.Contains(id, user) {
				t.Errorf("%q is %q", user, id)
			}
			seen[id] = secret + user
		}
	}
	if len(seen) != 2*len(users) {
		t.Errorf("%d identifiers of %d callers under 2 secrets", len(seen), len(users))
	}
}

func TestSafetyIdentifierIsAGuardedKey(t *testing.T) {
	t.Parallel()
	const twice = `{"safety_identifier":"a","model":"m","messages":[],"safety\u005fidentifier":"b"}`
	f := start(t, byUser(), proxy.WithSafetyIdentifier(safetySecret))
	for _, user := range []string{"ann", ""} {
		for _, path := range []string{"/", chatPath} {
			res, body := f.post(t, path, twice, "X-User", user)
			if res.StatusCode != http.StatusBadRequest || !strings.Contains(body, `"duplicate_key"`) || !strings.Contains(body, `"param":"safety_identifier"`) {
				t.Errorf("%s of %q: status %d, %s; want 400 duplicate_key", path, user, res.StatusCode, body)
			}
		}
	}
	f.wantCalls(t, 0)
	f.post(t, chatPath, `{"model":"m","messages":[],"safety\u005fidentifier":"b"}`, "X-User", "ann")
	if got := gqlSent(t, f)["safety_identifier"]; got != safetyOf(safetySecret, "ann") {
		t.Errorf("a key with an escape: %v is sent", got)
	}
	plain := start(t, byUser())
	plain.post(t, chatPath, twice, "X-User", "ann")
	if got := string(plain.up.Next().Body); got != twice {
		t.Errorf("without the option %s is sent", got)
	}
}

func TestSafetyIdentifierNeedsASecret(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"", "short", safetySecret[:15]} {
		_, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithSafetyIdentifier(secret))
		if err == nil {
			t.Errorf("%q was taken", secret)
			continue
		}
		if problems := optionProblems(t, err); len(problems) != 1 || problems[0].Option != "WithSafetyIdentifier" || secret != "" && strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v; want one problem of WithSafetyIdentifier without it", secret, err)
		}
	}
	option := proxy.WithSafetyIdentifier(safetySecret)
	handler, err := proxy.NewHandler(proxy.WithKey(canary), option, proxy.WithLogger(quietLogger()))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{"the option": option, "Handler": handler} {
		for _, way := range showsSecret(v, safetySecret) {
			t.Errorf("%s shows the secret by %s", name, way)
		}
	}
}
