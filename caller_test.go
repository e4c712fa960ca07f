package proxy_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// byUser takes the header X-User for who calls.
func byUser() proxy.Option {
	return proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) {
		return proxy.Caller{ID: r.Header.Get("X-User")}, nil
	})
}

// callerRoutes are requests for every route that costs something.
func callerRoutes(t testing.TB) []struct{ name, path, body, contentType, accept string } {
	t.Helper()
	form, contentType := edForm(t.(*testing.T), "bound", edPart{name: "model", value: "img-x"}, edPart{name: "prompt", value: "a hat"})
	image := gqlMap{"input": gqlMap{"prompt": "a cat", "model": "img-x"}}
	return []struct{ name, path, body, contentType, accept string }{
		{"the root", "/", askHello, "", ""},
		{"an image on the root", "/", askImage, "", ""},
		{"the worker's images", "/generate-image", askImage, "", ""},
		{"chat", chatPath, askHello, "", ""},
		{"a stream", chatPath, askHelloStream, "", ""},
		{"images", "/v1/images/generations", askImage, "", ""},
		{"edits", "/v1/images/edits", askImage, "", ""},
		{"edits as a form", "/v1/images/edits", form, contentType, ""},
		{"a GraphQL chat", "/graphql", gqlRequest(gqlGetAIResponse, gqlChat()), gqlJSON, ""},
		{"a GraphQL image", "/graphql", gqlRequest(gqlGenerateImage, image), gqlJSON, ""},
		{"a subscription", "/graphql", gqlRequest(gqlSubscription, gqlChat()), gqlJSON, gqlSSE},
	}
}

func TestCallerReachesHooksAndTheRecordOnEveryRoute(t *testing.T) {
	t.Parallel()
	for _, row := range callerRoutes(t) {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			book, admitted := newDoneBook(), make(chan string, 10)
			f := start(t, byUser(), proxy.WithHooks(proxy.Hooks{
				Admit: func(_ context.Context, call proxy.Call) error { admitted <- call.Caller; return nil },
				Done:  book.done,
			}))
			res, body := f.post(t, row.path, row.body, "X-User", "ann", "Content-Type", row.contentType, "Accept", row.accept)
			if res.StatusCode != http.StatusOK {
				t.Fatalf("status %d: %s", res.StatusCode, body)
			}
			if end := book.only(t, f); end.call.Caller != "ann" {
				t.Errorf("Done was told of %q", end.call.Caller)
			}
			if got := <-admitted; got != "ann" {
				t.Errorf("Admit was asked about %q", got)
			}
			if n := len(recordsOf(f, "ann")); n != 1 {
				t.Errorf("%d records of the call name its caller, want 1:\n%s", n, f.logs)
			}
		})
	}
}

// recordsOf returns the records of a caller's calls.
func recordsOf(f *fixture, caller string) (lines []string) {
	for line := range strings.Lines(f.logs.String()) {
		if strings.Contains(line, `msg="proxy call"`) && strings.Contains(line, " caller="+caller+" ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// refusals are bodies of one refusal in the shape of each route.
func refusals(status int, title, kind, code, message string) map[string]string {
	return map[string]string{
		"/":      fmt.Sprintf(`{"error":%q,"message":%q,"type":%q,"code":%q}`, title, message, kind, code),
		chatPath: fmt.Sprintf(`{"error":{"message":%q,"type":%q,"param":null,"code":%q},"message":%q,"status":%d}`, message, kind, code, message, status),
		"/graphql": fmt.Sprintf(`{"errors":[{"message":%q,"extensions":{"code":%q}}]}`, message,
			cmp.Or(map[string]string{"internal_error": "INTERNAL_SERVER_ERROR"}[code], strings.ToUpper(code))),
	}
}

func TestCallerThatIsRefusedIsToldInTheShapeOfTheRoute(t *testing.T) {
	t.Parallel()
	const text = "ldap at 10.1.2.3 said: no such user"
	unknown := refusals(401, "Unauthorized", "invalid_request_error", "unauthorized", "The caller is not known.")
	own := &proxy.Error{Status: 403, Type: "billing", Code: "suspended", Message: "Your account is closed.", RetryAfter: time.Minute, Err: errors.New(text)}
	suspended := refusals(403, "Forbidden", "billing", "suspended", "Your account is closed.")
	for _, row := range []struct {
		name   string
		err    error
		status int
		bodies map[string]string
	}{
		{"a plain error", errors.New(text), 401, unknown},
		{"a plain error that wraps", fmt.Errorf("%s: %w", text, io.EOF), 401, unknown},
		{"an Error that is nil", errors.Join(errors.New(text), (*proxy.Error)(nil)), 401, unknown},
		{"an Error as it stands", own, 403, suspended},
		{"an Error inside another", fmt.Errorf("%s: %w", text, own), 403, suspended},
		{
			"an Error of its own with 401", &proxy.Error{Status: 401, Message: "Log in again.", Err: errors.New(text)},
			401, refusals(401, "Unauthorized", "invalid_request_error", "unauthorized", "Log in again."),
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			book := newDoneBook()
			f := start(t, proxy.WithHooks(proxy.Hooks{
				Admit: func(_ context.Context, call proxy.Call) error { t.Errorf("Admit was asked about %v", call); return nil },
				Done:  book.done,
			}), proxy.WithCaller(func(*http.Request) (proxy.Caller, error) { return proxy.Caller{ID: "ann"}, row.err }))
			for _, route := range callerRoutes(t) {
				res, body := f.post(t, route.path, route.body, "Content-Type", route.contentType, "Accept", route.accept)
				wantRefusal(t, route.name, row.status, res, body)
				want, ok := row.bodies[route.path]
				if ok && strings.TrimSpace(body) != want {
					t.Errorf("%s: %s, want %s", route.name, body, want)
				}
			}
			if !strings.Contains(f.logs.String(), text) {
				t.Errorf("the cause is not in the log:\n%s", f.logs)
			}
			f.wantCalls(t, 0)
			book.none(t, f)
		})
	}
}

func wantRefusal(t testing.TB, name string, status int, res *http.Response, body string) {
	t.Helper()
	if res.StatusCode != status || strings.Contains(body, "ldap") || strings.Contains(body, "10.1.2.3") {
		t.Errorf("%s: status %d, %s; want %d without the cause", name, res.StatusCode, body, status)
	}
	challenge := ""
	if status == http.StatusUnauthorized {
		challenge = "Bearer"
	}
	if got := res.Header.Get("WWW-Authenticate"); got != challenge {
		t.Errorf("%s: WWW-Authenticate %q, want %q", name, got, challenge)
	}
}

func TestS5CallerIsAskedOncePerRequestThatCouldCost(t *testing.T) {
	t.Parallel()
	const two = `mutation M($input: ChatInput!) { a: getAIResponse(input: $input) { content } b: getAIResponse(input: $input) { content } }`
	page := "https://app.example.com"
	for _, row := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		asked, calls             int32
	}{
		{"chat", "POST", chatPath, askHello, nil, 200, 1, 1},
		{"chat of an allowed page", "POST", chatPath, askHello, []string{"Origin", page}, 200, 1, 1},
		{"two answers in one document", "POST", "/graphql", gqlRequest(two, gqlChat()), nil, 200, 1, 2},
		{"a query", "POST", "/graphql", gqlRequest(`{ __typename }`, nil), nil, 200, 1, 0},
		{"a query with GET", "GET", "/graphql?query={__typename}", "", nil, 200, 1, 0},
		{"the schema", "GET", "/graphql/schema", "", nil, 200, 1, 0},
		{"a body that is none", "POST", chatPath, "{", nil, 400, 1, 0},
		{"a preflight", "OPTIONS", chatPath, "", []string{"Origin", page, "Access-Control-Request-Method", "POST"}, 204, 0, 0},
		{"a preflight of GraphQL", "OPTIONS", "/graphql", "", []string{"Origin", page, "Access-Control-Request-Method", "POST"}, 204, 0, 0},
		{"a refused preflight", "OPTIONS", chatPath, "", []string{"Origin", "https://evil.example", "Access-Control-Request-Method", "POST"}, 204, 0, 0},
		{"a plain OPTIONS", "OPTIONS", chatPath, "", nil, 204, 0, 0},
		{"another page", "POST", chatPath, askHello, []string{"Origin", "https://evil.example"}, 403, 0, 0},
		{"another host", "POST", chatPath, askHello, []string{"Host", "evil.example"}, 421, 0, 0},
		{"nothing there", "POST", "/v1/files", askHello, nil, 404, 0, 0},
		{"another method", "DELETE", chatPath, "", nil, 405, 0, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			f := start(t, proxy.WithAllowedOrigins(page), proxy.WithAllowedHosts("127.0.0.1"), gqlOptions(proxy.GraphQLOptions{MaxUpstreamCalls: 2}),
				proxy.WithCaller(func(*http.Request) (proxy.Caller, error) { asked.Add(1); return proxy.Caller{}, nil }))
			res, body := f.do(t, row.method, row.path, row.body, append(row.header, "Content-Type", "application/json")...)
			if res.StatusCode != row.status || asked.Load() != row.asked {
				t.Errorf("status %d after %d questions, want %d after %d: %s", res.StatusCode, asked.Load(), row.status, row.asked, body)
			}
			f.wantCalls(t, int(row.calls))
		})
	}
}

func TestCallerIsNotAskedAgainForARetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		f := inMemory(proxy.WithLimits(proxy.Limits{Retries: 1}), proxy.WithCaller(func(*http.Request) (proxy.Caller, error) {
			asked.Add(1)
			return proxy.Caller{ID: "ann"}, nil
		})).start(t)
		f.up.Queue(proxytest.RateLimited(time.Second))
		if res, body := f.post(t, chatPath, askHello); res.StatusCode != http.StatusOK || asked.Load() != 1 {
			t.Errorf("status %d after %d questions, want 200 after 1: %s", res.StatusCode, asked.Load(), body)
		}
		f.wantCalls(t, 2)
	})
}

func TestCallerIsFoundOutBeforeTheBodyIsRead(t *testing.T) {
	t.Parallel()
	type tenant struct{}
	f := setup{
		wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tenant{}, "red")))
			})
		},
		options: []proxy.Option{proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) {
			if r.Method != http.MethodPost || r.URL.Path != chatPath || r.Context().Value(tenant{}) != "red" || r.Header.Get("X-Test") != "seen" {
				t.Errorf("asked about another request: %v", r)
			}
			return proxy.Caller{}, errors.New("nobody")
		})},
	}.start(t)
	never, w := io.Pipe()
	defer w.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+chatPath, never)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 1 << 20
	req.Header.Set("X-Test", "seen")
	res, err := f.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("status %d, want 401", res.StatusCode)
	}
}

func TestCallerFunctionThatPanicsFailsItsOwnRequestOnly(t *testing.T) {
	t.Parallel()
	const streams = 20
	f := start(t, proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) {
		if r.Header.Get("X-Test") == "panic" {
			panic("the directory is on fire: " + canary)
		}
		return proxy.Caller{ID: "ann"}, nil
	}))
	more := make(chan struct{})
	const first, second = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n", "data: [DONE]\n\n"
	for range streams {
		f.up.Queue(proxytest.Stream(proxytest.Text(first), proxytest.Gate(more), proxytest.Text(second)))
	}
	var others sync.WaitGroup
	for range streams {
		others.Go(func() {
			if res, body := f.post(t, chatPath, askHelloStream); res.StatusCode != http.StatusOK || body != first+second {
				t.Errorf("another's stream: status %d, %q", res.StatusCode, body)
			}
		})
	}
	want := refusals(500, "Internal Server Error", "server_error", "internal_error", "Internal Server Error")
	for path, body := range want {
		res, got := f.post(t, path, askHello, "X-Test", "panic", "Content-Type", "application/json")
		if res.StatusCode != http.StatusInternalServerError || strings.TrimSpace(got) != body {
			t.Errorf("%s: status %d, %s; want 500 %s", path, res.StatusCode, got, body)
		}
	}
	close(more)
	others.Wait()
	if !strings.Contains(f.logs.String(), "the directory is on fire") {
		t.Errorf("the panic is not in the log:\n%s", f.logs)
	}
	f.wantCalls(t, streams)
}

func TestCallerFunctionMayAbortTheResponse(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithCaller(func(*http.Request) (proxy.Caller, error) { panic(http.ErrAbortHandler) }))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+chatPath, strings.NewReader(askHello))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := f.Client().Do(req); err == nil {
		_ = res.Body.Close()
		t.Errorf("answered with %d, want the connection to be cut", res.StatusCode)
	}
	f.wantCalls(t, 0)
}

func TestSlowCallerFunctionIs503AfterKeyTime(t *testing.T) {
	t.Parallel()
	bodies := refusals(503, "Service Unavailable", "server_error", "internal_error", "The caller could not be identified in time.")
	for _, row := range []struct {
		name string
		late func(err error) (proxy.Caller, error)
	}{
		{"passes its context's error on", func(err error) (proxy.Caller, error) { return proxy.Caller{}, err }},
		{"has an error of its own", func(error) (proxy.Caller, error) { return proxy.Caller{}, errors.New("ldap: timeout") }},
		{"knows the caller too late", func(error) (proxy.Caller, error) { return proxy.Caller{ID: "ann"}, nil }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := inMemory(proxy.WithLimits(proxy.Limits{KeyTime: 200 * time.Millisecond}), proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) {
					<-r.Context().Done()
					return row.late(r.Context().Err())
				})).start(t)
				for path, want := range bodies {
					begin := time.Now()
					res, body := f.post(t, path, askHello, "Content-Type", "application/json")
					if took := time.Since(begin); took != 200*time.Millisecond {
						t.Errorf("%s: answered after %v, want 200ms on the bubble's clock", path, took)
					}
					if res.StatusCode != http.StatusServiceUnavailable || strings.TrimSpace(body) != want {
						t.Errorf("%s: status %d, %s; want 503 %s", path, res.StatusCode, body, want)
					}
				}
				f.wantCalls(t, 0)
			})
		})
	}
}

func TestCallerFunctionThatIgnoresItsContextBlocksItsOwnRequestOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := inMemory(proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) {
			if r.Header.Get("X-User") == "slow" {
				time.Sleep(time.Minute)
			}
			return proxy.Caller{ID: r.Header.Get("X-User")}, nil
		})).start(t)
		begin := time.Now()
		var slow sync.WaitGroup
		slow.Go(func() {
			res, _ := f.post(t, chatPath, askHello, "X-User", "slow")
			if took := time.Since(begin); res.StatusCode != http.StatusServiceUnavailable || took != time.Minute {
				t.Errorf("the slow one: status %d after %v, want 503 after 1m", res.StatusCode, took)
			}
		})
		synctest.Wait()
		for range 10 {
			if res, body := f.post(t, chatPath, askHello, "X-User", "quick"); res.StatusCode != http.StatusOK || time.Since(begin) != 0 {
				t.Errorf("another: status %d after %v, want 200 at once: %s", res.StatusCode, time.Since(begin), body)
			}
		}
		slow.Wait()
		f.wantCalls(t, 10)
	})
}

func TestCallerThatLeavesWhileHeIsAskedAboutIsNoFailure(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	f := setup{client: []proxytest.ServerOption{proxytest.HTTP2()}, options: []proxy.Option{
		proxy.WithLimits(proxy.Limits{KeyTime: -1}), proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) {
			close(asked)
			<-r.Context().Done()
			return proxy.Caller{}, r.Context().Err()
		}),
	}}.start(t)
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-asked; leave() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+chatPath, strings.NewReader(askHello))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := f.Client().Do(req); err == nil {
		_ = res.Body.Close()
		t.Errorf("the caller that left was answered with %d", res.StatusCode)
	}
	f.Close()
	if logs := f.logs.String(); strings.Contains(logs, "level=ERROR") || !strings.Contains(logs, "status=499") {
		t.Errorf("want a record of status 499 below Error level:\n%s", logs)
	}
	f.wantCalls(t, 0)
}

func TestWithoutACallerFunctionNobodyIsAsked(t *testing.T) {
	t.Parallel()
	refuse := proxy.WithCaller(func(*http.Request) (proxy.Caller, error) { return proxy.Caller{}, errors.New("no") })
	for name, options := range map[string][]proxy.Option{
		"nil": {proxy.WithCaller(nil)}, "nil behind another": {refuse, proxy.WithCaller(nil)}, "another behind it": {refuse, byUser()},
	} {
		callers := make(chan string, 1)
		f := start(t, append(options, proxy.WithHooks(proxy.Hooks{
			Admit: func(_ context.Context, call proxy.Call) error { callers <- call.Caller; return nil },
		}))...)
		if res, body := f.post(t, chatPath, askHello); res.StatusCode != http.StatusOK || <-callers != "" {
			t.Errorf("%s: status %d: %s; want 200 for nobody in particular", name, res.StatusCode, body)
		}
	}
}

func TestS21AddressOfTheClient(t *testing.T) {
	t.Parallel()
	own := []string{"10.0.0.0/8", "192.0.2.7", "2001:db8:ffff::/48", "::1"}
	for _, row := range []struct {
		name    string
		trusted []string
		remote  string
		forward []string // lines of X-Forwarded-For
		want    string
	}{
		{"the connection's", nil, "203.0.113.9:1234", nil, "203.0.113.9"},
		{"the header is not believed without the option", nil, "10.0.0.1:1", []string{"198.51.100.1"}, "10.0.0.1"},
		{"the header of a stranger is not believed", own, "203.0.113.9:1", []string{"198.51.100.1"}, "203.0.113.9"},
		{"a trusted proxy names the client", own, "10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"a single trusted address", own, "192.0.2.7:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"the neighbour of a single trusted address", own, "192.0.2.8:1", []string{"198.51.100.1"}, "192.0.2.8"},
		{"what the client wrote itself stands on the left", own, "10.0.0.1:1", []string{"127.0.0.1, 10.9.9.9, 198.51.100.1"}, "198.51.100.1"},
		{"trusted proxies are passed over", own, "10.0.0.1:1", []string{"1.1.1.1, 198.51.100.1, 10.0.0.3, 10.0.0.2"}, "198.51.100.1"},
		{"a trusted proxy behind a stranger is the stranger's word", own, "10.0.0.1:1", []string{"10.0.0.9, 198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"several lines are one list", own, "10.0.0.1:1", []string{"1.1.1.1", "198.51.100.1, 10.0.0.3", "10.0.0.2"}, "198.51.100.1"},
		{"an empty line behind", own, "10.0.0.1:1", []string{"198.51.100.1", ""}, "10.0.0.1"},
		{"all are trusted", own, "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"no header", own, "10.0.0.1:1", nil, "10.0.0.1"},
		{"an empty header", own, "10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"without blanks", own, "10.0.0.1:1", []string{"1.1.1.1,198.51.100.1,10.0.0.2"}, "198.51.100.1"},
		{"with more blanks", own, "10.0.0.1:1", []string{" 1.1.1.1 ,\t198.51.100.1 \t, 10.0.0.2 "}, "198.51.100.1"},
		{"with a port", own, "10.0.0.1:1", []string{"1.1.1.1, 198.51.100.1:5678, 10.0.0.2:80"}, "198.51.100.1"},
		{"IPv6", own, "[::1]:1", []string{"2001:db8:1:2:3:4:5:6"}, "2001:db8:1:2::/64"},
		{"IPv6 in brackets with a port", own, "[::1]:1", []string{"[2001:db8:1:2:3:4:5:6]:443"}, "2001:db8:1:2::/64"},
		{"IPv6 in brackets", own, "[::1]:1", []string{"[2001:db8:1:2:3:4:5:6]"}, "2001:db8:1:2::/64"},
		{"IPv6 through a trusted IPv6 network", own, "10.0.0.1:1", []string{"2001:db8:1:2:3::9, 2001:db8:ffff::5"}, "2001:db8:1:2::/64"},
		{"IPv4 in IPv6", own, "[::ffff:10.0.0.1]:1", []string{"::ffff:198.51.100.1, ::ffff:10.0.0.2"}, "198.51.100.1"},
		{"IPv6 with a zone", own, "[fe80::1%eth0]:1", []string{"198.51.100.1"}, "fe80::/64"},
		{"a prefix of all IPv6 is none of IPv4", []string{"::/0"}, "10.0.0.1:1", []string{"198.51.100.1"}, "10.0.0.1"},
		{"a prefix that is not masked", []string{"10.1.2.3/8"}, "10.9.9.9:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"a mapped address", []string{"::ffff:10.0.0.1"}, "10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"a word stops", own, "10.0.0.1:1", []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		{"a word behind proxies stops there", own, "10.0.0.1:1", []string{"198.51.100.1, _hidden, 10.0.0.2"}, "10.0.0.2"},
		{"an empty entry stops", own, "10.0.0.1:1", []string{"198.51.100.1,, 10.0.0.2"}, "10.0.0.2"},
		{"half an address stops", own, "10.0.0.1:1", []string{"198.51.100.1, 198.51.100"}, "10.0.0.1"},
		{"leading zeros stop", own, "10.0.0.1:1", []string{"010.0.0.7"}, "10.0.0.1"},
		{"no port", own, "203.0.113.9", nil, "203.0.113.9"},
		{"IPv6 without a port", own, "2001:db8:1:2:3::9", nil, "2001:db8:1:2::/64"},
		{"no TCP", own, "@", []string{"198.51.100.1"}, "@"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if got := addressSeen(t, row.trusted, row.remote, row.forward); got != row.want {
				t.Errorf("the address is %q, want %q", got, row.want)
			}
		})
	}
}

// addressSeen returns what hooks see of a client at the other end of remote.
func addressSeen(t *testing.T, trusted []string, remote string, forward []string) (address string) {
	t.Helper()
	seen := make(chan string, 1)
	f := setup{
		wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.RemoteAddr = remote
				next.ServeHTTP(w, r)
			})
		},
		options: []proxy.Option{proxy.WithTrustedProxies(trusted...), proxy.WithHooks(proxy.Hooks{
			Admit: func(_ context.Context, call proxy.Call) error { seen <- call.Address; return nil },
		})},
	}.start(t)
	header := []string{"X-Real-Ip", "192.0.2.1", "Forwarded", "for=192.0.2.1", "Cf-Connecting-Ip", "192.0.2.1"}
	for _, line := range forward {
		header = append(header, "X-Forwarded-For", line)
	}
	if res, body := f.post(t, chatPath, askHello, header...); res.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s", res.StatusCode, body)
	}
	return <-seen
}

func TestTrustedProxiesThatCannotBeReadAreRefused(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", " ", "*", "localhost", "10.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/8 ", "10.0.0.1:80", "[::1]", "2001:db8::/129",
		"fe80::1%eth0", "fe80::%eth0/64", "::ffff:10.0.0.0/104", "010.0.0.1", "10.0.0.0/8,10.1.0.0/16",
	} {
		_, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithTrustedProxies("10.0.0.1", bad, "no/where"))
		if err == nil {
			t.Errorf("%q was taken", bad)
			continue
		}
		problems := optionProblems(t, err)
		if len(problems) != 1 || problems[0].Option != "WithTrustedProxies" ||
			!strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) || !strings.Contains(err.Error(), `"no/where"`) {
			t.Errorf("%q: %v; want one problem of WithTrustedProxies that names both", bad, err)
		}
	}
	if _, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithTrustedProxies("no/where"), proxy.WithTrustedProxies()); err != nil {
		t.Errorf("a list that was replaced is refused: %v", err)
	}
}
