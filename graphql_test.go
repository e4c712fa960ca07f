package proxy_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// The documents of the original worker and its front end: they must be taken as
// they are.
const (
	gqlGetAIResponse = `mutation GetAIResponse($input: ChatInput!) { getAIResponse(input: $input) { id content isUser timestamp success error } }`
	gqlGenerateImage = `mutation GenerateImage($input: ImageInput!) { generateImage(input: $input) { id prompt images { url b64_json } model size quality style timestamp success error } }`
	gqlCreateSession = `mutation CreateSession { createSession { sessionId success } }`
	gqlChatHistory   = `query ChatHistory($sessionId: String) { chatHistory(sessionId: $sessionId) { id content isUser timestamp } }`
	gqlSendMessage   = `mutation SendMessage($input: MessageInput!) { sendMessage(input: $input) { id content isUser timestamp success error } }`
)

// The media types that clients of GraphQL ask for.
const (
	gqlAny  = "*/*"
	gqlJSON = "application/json"
	gqlOwn  = "application/graphql-response+json"
)

// gqlMap is a JSON object.
type gqlMap = map[string]any

// gqlAnswer is an answer of /graphql, decoded.
type gqlAnswer struct {
	status int
	header http.Header
	text   string
	Data   gqlMap     `json:"data"`
	Errors []gqlError `json:"errors"`
	Error  string     `json:"error"`
}

type gqlError struct {
	Message    string   `json:"message"`
	Path       []any    `json:"path"`
	Locations  []gqlMap `json:"locations"`
	Extensions gqlMap   `json:"extensions"`
}

// gqlRequest is the JSON body of a request; variables may be nil.
func gqlRequest(query string, variables any) string {
	body := gqlMap{"query": query}
	if variables != nil {
		body["variables"] = variables
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// gqlAsk sends an operation. Without an Accept among the headers none is sent.
func gqlAsk(t testing.TB, f *fixture, query string, variables any, header ...string) gqlAnswer {
	t.Helper()
	return gqlPost(t, f, gqlRequest(query, variables), header...)
}

func gqlPost(t testing.TB, f *fixture, body string, header ...string) gqlAnswer {
	t.Helper()
	res, text := f.post(t, "/graphql", body, append([]string{"Content-Type", "application/json"}, header...)...)
	return gqlRead(t, res, text)
}

func gqlRead(t testing.TB, res *http.Response, text string) gqlAnswer {
	t.Helper()
	a := gqlAnswer{status: res.StatusCode, header: res.Header, text: text}
	gqlDecode(t, text, &a)
	return a
}

func gqlDecode(t testing.TB, text string, v any) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		t.Fatalf("not JSON: %v: %q", err, text)
	}
}

// hasData reports whether there is a data key at all.
func (a gqlAnswer) hasData() bool {
	var keys map[string]json.RawMessage
	_ = json.Unmarshal([]byte(a.text), &keys)
	_, ok := keys["data"]
	return ok
}

// field returns one root field as an object, and nil if it is null.
func (a gqlAnswer) field(t testing.TB, name string) gqlMap {
	t.Helper()
	value, ok := a.Data[name]
	if !ok {
		t.Fatalf("no %s in %s", name, a.text)
	}
	object, _ := value.(gqlMap)
	return object
}

// ok returns one root field of an answer that must have no errors.
func (a gqlAnswer) ok(t testing.TB, name string) gqlMap {
	t.Helper()
	if a.status != http.StatusOK || len(a.Errors) > 0 {
		t.Fatalf("status %d: %s", a.status, a.text)
	}
	return a.field(t, name)
}

// refused returns the only error of an answer, which must have this code.
func (a gqlAnswer) refused(t testing.TB, code string) gqlError {
	t.Helper()
	if len(a.Errors) != 1 || a.Errors[0].Extensions["code"] != code {
		t.Fatalf("status %d, want one error with code %s: %s", a.status, code, a.text)
	}
	return a.Errors[0]
}

func (a gqlAnswer) wantStatus(t testing.TB, status int) gqlAnswer {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, want %d: %s", a.status, status, a.text)
	}
	return a
}

// gqlSent returns the body of the oldest upstream request not looked at yet.
func gqlSent(t testing.TB, f *fixture) gqlMap {
	t.Helper()
	var body gqlMap
	gqlDecode(t, string(f.up.Next().Body), &body)
	return body
}

// wantSame compares a decoded value with JSON text, number literals included.
func wantSame(t testing.TB, what string, got any, want string) {
	t.Helper()
	var v any
	gqlDecode(t, want, &v)
	if !reflect.DeepEqual(got, v) {
		raw, _ := json.Marshal(got)
		t.Errorf("%s: %s, want %s", what, raw, want)
	}
}

// gqlChat is the least input that asks for an answer.
func gqlChat(more ...any) gqlMap {
	input := gqlMap{"messages": []any{gqlMap{"role": "user", "content": "hello"}}}
	for i := 0; i+1 < len(more); i += 2 {
		input[more[i].(string)] = more[i+1]
	}
	return gqlMap{"input": input}
}

func gqlOptions(o proxy.GraphQLOptions) proxy.Option { return proxy.WithGraphQL(o) }

func TestGraphQLTakesTheDocumentsOfTheOriginal(t *testing.T) {
	t.Parallel()
	const when = `"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`
	tests := []struct {
		name, query string
		variables   any
		answer      *proxytest.Answer
		want        string // keys in the order of the query
	}{
		{
			"GetAIResponse", gqlGetAIResponse, gqlChat(), new(proxytest.Chat("Hi, <you> & me")),
			`{"data":{"getAIResponse":{"id":"chatcmpl-[^"]+","content":"Hi, <you> & me","isUser":false,"timestamp":` + when + `,"success":true,"error":null}}}`,
		},
		{
			"GenerateImage", gqlGenerateImage,
			gqlMap{"input": gqlMap{"prompt": "a cat", "model": "dall-e-3", "size": "1792x1024", "quality": "hd", "style": "natural"}},
			new(proxytest.JSON(200, `{"created":1,"data":[{"url":"https://images.example/1.png"}]}`)),
			`{"data":{"generateImage":{"id":"img_\d+","prompt":"a cat","images":\[{"url":"https://images.example/1.png","b64_json":null}\],"model":"dall-e-3","size":"1792x1024","quality":"hd","style":"natural","timestamp":` + when + `,"success":true,"error":null}}}`,
		},
		{"CreateSession", gqlCreateSession, nil, nil, `{"data":{"createSession":{"sessionId":"session_\d{13}_[0-9a-z]{25}","success":true}}}`},
		{"ChatHistory", gqlChatHistory, gqlMap{"sessionId": "session_1_abc"}, nil, `{"data":{"chatHistory":\[\]}}`},
		{"ChatHistory without a session", gqlChatHistory, nil, nil, `{"data":{"chatHistory":\[\]}}`},
		{
			"SendMessage", gqlSendMessage,
			gqlMap{"input": gqlMap{"sessionId": "session_1_abc", "content": "hello", "role": "user"}},
			nil,
			`{"data":{"sendMessage":{"id":"msg_\d+_user","content":"hello","isUser":true,"timestamp":` + when + `,"success":true,"error":null}}}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			if tt.answer != nil {
				f.up.Queue(*tt.answer)
			}
			a := gqlAsk(t, f, tt.query, tt.variables, "Accept", gqlAny)
			if a.status != http.StatusOK || !regexp.MustCompile(`^`+tt.want+`\n?$`).MatchString(a.text) {
				t.Errorf("status %d, %s\nwant %s", a.status, a.text, tt.want)
			}
			if got := a.header.Get("Content-Type"); got != "application/json; charset=utf-8" {
				t.Errorf("Content-Type %q", got)
			}
		})
	}
}

func TestGraphQLWaysToWriteAnOperation(t *testing.T) {
	t.Parallel()
	const sent = `{"model":"m","messages":[{"role":"user","content":"hello"}],"temperature":0}`
	input := gqlMap{"model": "m", "messages": []any{gqlMap{"role": "user", "content": "hello"}}, "temperature": 0}
	tests := []struct {
		name, query string
		variables   any
		operation   string
		want        string
	}{
		{"variables", `mutation M($input: ChatInput!) { getAIResponse(input: $input) { content } }`, gqlMap{"input": input}, "", `{"getAIResponse":{"content":"Hi"}}`},
		{"literals", `mutation { getAIResponse(input: {model: "m", messages: [{role: "user", content: "hello"}], temperature: 0}) { content } }`, nil, "", `{"getAIResponse":{"content":"Hi"}}`},
		{"one item for a list", `mutation { getAIResponse(input: {model: "m", messages: {role: "user", content: "hello"}, temperature: 0}) { content } }`, nil, "", `{"getAIResponse":{"content":"Hi"}}`},
		{"variables within a literal", `mutation M($r: String!, $c: String, $t: Float) { getAIResponse(input: {model: "m", messages: [{role: $r, content: $c}], temperature: $t}) { content } }`, gqlMap{"r": "user", "c": "hello", "t": 0}, "", `{"getAIResponse":{"content":"Hi"}}`},
		{"defaults of variables", `mutation M($m: String = "m", $t: Float = 0) { getAIResponse(input: {model: $m, messages: [{role: "user", content: "hello"}], temperature: $t}) { content } }`, nil, "", `{"getAIResponse":{"content":"Hi"}}`},
		{"aliases", `mutation M($input: ChatInput!) { answer: getAIResponse(input: $input) { text: content who: role } }`, gqlMap{"input": input}, "", `{"answer":{"text":"Hi","who":"assistant"}}`},
		{"fragments", `mutation M($input: ChatInput!) { ...Root } fragment Root on Mutation { getAIResponse(input: $input) { ... on ChatMessage { content } ...Rest } } fragment Rest on ChatMessage { role }`, gqlMap{"input": input}, "", `{"getAIResponse":{"content":"Hi","role":"assistant"}}`},
		{"directives", `mutation M($input: ChatInput!, $no: Boolean = false) { getAIResponse(input: $input) { content role @include(if: $no) id @skip(if: true) } }`, gqlMap{"input": input}, "", `{"getAIResponse":{"content":"Hi"}}`},
		{"operationName", `query Other { chatHistory { id } } mutation M($input: ChatInput!) { getAIResponse(input: $input) { content } }`, gqlMap{"input": input}, "M", `{"getAIResponse":{"content":"Hi"}}`},
		{"comments and line breaks", "# 你好，世界\nmutation M($input: ChatInput!) {\n  # 发送消息的 Mutation\n  getAIResponse(input: $input) { content }\n}", gqlMap{"input": input}, "", `{"getAIResponse":{"content":"Hi"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			f.up.Queue(proxytest.Chat("Hi"))
			body := gqlMap{"query": tt.query, "operationName": nil, "variables": tt.variables}
			if tt.operation != "" {
				body["operationName"] = tt.operation
			}
			raw, _ := json.Marshal(body)
			a := gqlPost(t, f, string(raw))
			if want := `{"data":` + tt.want + "}"; strings.TrimSpace(a.text) != want || a.status != http.StatusOK {
				t.Errorf("status %d, %s\nwant %s", a.status, a.text, want)
			}
			wantSame(t, "sent upstream", any(gqlSent(t, f)), sent)
		})
	}
}

func TestGraphQLStatusByMediaType(t *testing.T) {
	t.Parallel()
	upstream := func(a proxytest.Answer) *proxytest.Answer { return &a }
	tests := []struct {
		name, query   string
		variables     any
		answer        *proxytest.Answer
		options       []proxy.Option
		code          string
		any, json, ql int // the status where */*, JSON, or GraphQL's own type is asked for
		data          bool
	}{
		{name: "parsing", query: "{", code: "GRAPHQL_PARSE_FAILED", any: 400, json: 200, ql: 400},
		{name: "validation", query: "{ nothing }", code: "GRAPHQL_VALIDATION_FAILED", any: 400, json: 200, ql: 400},
		{name: "a size", query: "{" + strings.Repeat(" ", 64<<10) + "__typename }", code: "QUERY_TOO_LARGE", any: 400, json: 200, ql: 400},
		{name: "a missing variable", query: gqlGetAIResponse, code: "BAD_USER_INPUT", any: 400, json: 200, ql: 400},
		{name: "a text for a number", query: gqlGetAIResponse, variables: gqlChat("max_tokens", "12"), code: "BAD_USER_INPUT", any: 400, json: 200, ql: 400},
		{name: "two operations and no name", query: "query A { chatHistory { id } } query B { chatHistory { id } }", code: "OPERATION_RESOLUTION_FAILURE", any: 400, json: 200, ql: 400},
		{name: "no messages", query: gqlGetAIResponse, variables: gqlMap{"input": gqlMap{}}, code: "BAD_REQUEST", any: 400, json: 200, ql: 200, data: true},
		{name: "no prompt", query: gqlGenerateImage, variables: gqlMap{"input": gqlMap{}}, code: "BAD_REQUEST", any: 400, json: 200, ql: 200, data: true},
		{name: "upstream 429", query: gqlGetAIResponse, variables: gqlChat(), answer: upstream(proxytest.RateLimited(7 * time.Second)), code: "UPSTREAM_RATE_LIMITED", any: 429, json: 200, ql: 200, data: true},
		{name: "upstream 400", query: gqlGetAIResponse, variables: gqlChat(), answer: upstream(proxytest.Failure(400, "invalid_request_error", "", "no")), code: "UPSTREAM_REJECTED", any: 400, json: 200, ql: 200, data: true},
		{name: "upstream 404", query: gqlGetAIResponse, variables: gqlChat(), answer: upstream(proxytest.Failure(404, "invalid_request_error", "model_not_found", "no")), code: "UPSTREAM_REJECTED", any: 404, json: 200, ql: 200, data: true},
		{name: "upstream 500", query: gqlGetAIResponse, variables: gqlChat(), answer: upstream(proxytest.Failure(500, "server_error", "", "no")), code: "UPSTREAM_ERROR", any: 500, json: 200, ql: 200, data: true},
		{name: "upstream 503 for an image", query: gqlGenerateImage, variables: gqlMap{"input": gqlMap{"prompt": "p"}}, answer: upstream(proxytest.Failure(503, "server_error", "", "no")), code: "UPSTREAM_ERROR", any: 503, json: 200, ql: 200, data: true},
		{name: "upstream refuses the server's key", query: gqlGetAIResponse, variables: gqlChat(), answer: upstream(proxytest.Failure(401, "invalid_request_error", "invalid_api_key", "no")), code: "UPSTREAM_AUTH", any: 502, json: 200, ql: 200, data: true},
		{name: "upstream is not JSON", query: gqlGetAIResponse, variables: gqlChat(), answer: upstream(proxytest.JSON(200, "<html>")), code: "UPSTREAM_ERROR", any: 502, json: 200, ql: 200, data: true},
		{name: "upstream has no choices", query: gqlGetAIResponse, variables: gqlChat(), answer: upstream(proxytest.JSON(200, `{"choices":[]}`)), code: "UPSTREAM_ERROR", any: 502, json: 200, ql: 200, data: true},
		{name: "upstream has no images", query: gqlGenerateImage, variables: gqlMap{"input": gqlMap{"prompt": "p"}}, answer: upstream(proxytest.JSON(200, `{"data":[]}`)), code: "UPSTREAM_ERROR", any: 502, json: 200, ql: 200, data: true},
		{name: "upstream hangs up", query: gqlGetAIResponse, variables: gqlChat(), answer: upstream(proxytest.Raw("")), code: "UPSTREAM_UNREACHABLE", any: 502, json: 200, ql: 200, data: true},
		{name: "upstream redirects", query: gqlGetAIResponse, variables: gqlChat(), answer: upstream(proxytest.Respond(302, http.Header{"Location": {"http://elsewhere.example/"}})), code: "UPSTREAM_ERROR", any: 502, json: 200, ql: 200, data: true},
		{name: "upstream streams", query: gqlGetAIResponse, variables: gqlChat(), answer: upstream(proxytest.ChatStream("a")), code: "UPSTREAM_ERROR", any: 502, json: 200, ql: 200, data: true},
		{name: "no key", query: gqlGetAIResponse, variables: gqlChat(), options: []proxy.Option{proxy.WithKeySource(proxy.FirstKey())}, code: "CONFIGURATION_ERROR", any: 500, json: 200, ql: 200, data: true},
		{name: "a key source that fails", query: gqlGetAIResponse, variables: gqlChat(), options: []proxy.Option{proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) {
			return "", errors.New("vault.internal:8200 refused")
		}))}, code: "KEY_UNAVAILABLE", any: 503, json: 200, ql: 200, data: true},
		{name: "a caller that is not admitted", query: gqlGetAIResponse, variables: gqlChat(), options: []proxy.Option{proxy.WithHooks(proxy.Hooks{Admit: func(context.Context, proxy.Call) error {
			return errors.New("ledger.internal: budget")
		}})}, code: "FORBIDDEN", any: 403, json: 200, ql: 200, data: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, tt.options...)
			for accept, want := range map[string]int{"": tt.any, gqlAny: tt.any, gqlJSON: tt.json, gqlOwn: tt.ql} {
				if tt.answer != nil {
					f.up.Queue(*tt.answer)
				}
				var header []string
				if accept != "" {
					header = []string{"Accept", accept}
				}
				a := gqlAsk(t, f, tt.query, tt.variables, header...).wantStatus(t, want)
				a.refused(t, tt.code)
				if a.hasData() != tt.data {
					t.Errorf("Accept %q: a data key is there: %v, want %v: %s", accept, a.hasData(), tt.data, a.text)
				}
				if !strings.HasPrefix(a.text, `{"errors":[`) {
					t.Errorf("errors do not come first: %s", a.text)
				}
				media := gqlJSON
				if accept == gqlOwn {
					media = gqlOwn
				}
				if got := a.header.Get("Content-Type"); got != media+"; charset=utf-8" {
					t.Errorf("Accept %q: Content-Type %q", accept, got)
				}
				for _, text := range []string{".internal", "dial", "127.0.0.1", "unexpected EOF", "goroutine", "elsewhere.example"} {
					if strings.Contains(a.text, text) {
						t.Errorf("the answer tells %q: %s", text, a.text)
					}
				}
			}
		})
	}
}

func TestGraphQLSucceedsInPartWith200(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.RateLimited(time.Second))
	a := gqlAsk(t, f, `mutation M($input: ChatInput!) { createSession { success } getAIResponse(input: $input) { id } }`, gqlChat(), "Accept", gqlAny)
	a.wantStatus(t, http.StatusOK).refused(t, "UPSTREAM_RATE_LIMITED")
	if a.field(t, "createSession")["success"] != true || a.field(t, "getAIResponse") != nil {
		t.Error(a.text)
	}
}

func TestGraphQLUpstreamErrorIsToldInWordsAndInExtensions(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.Failure(429, "requests", "rate_limit_exceeded", "Slow down, org-0123456789abcdef.").
		WithHeader("Retry-After", "7").WithHeader("X-Request-Id", "req_upstream"))
	a := gqlAsk(t, f, "mutation M($input: ChatInput!) {\n  getAIResponse(input: $input) { id }\n}", gqlChat(), "Accept", gqlAny).wantStatus(t, 429)
	e := a.refused(t, "UPSTREAM_RATE_LIMITED")
	if e.Message != "OpenAI API returned 429: Slow down, ***." {
		t.Errorf("message %q", e.Message)
	}
	wantSame(t, "extensions", any(e.Extensions), `{"code":"UPSTREAM_RATE_LIMITED","upstream":{"status":429,"type":"requests","code":"rate_limit_exceeded"}}`)
	wantSame(t, "path", any(e.Path), `["getAIResponse"]`)
	if len(e.Locations) != 1 || e.Locations[0]["line"] != json.Number("2") || e.Locations[0]["column"] != json.Number("3") {
		t.Errorf("locations %v", e.Locations)
	}
	wantSame(t, "data", any(a.Data), `{"getAIResponse":null}`)
	if a.header.Get("Retry-After") != "7" || a.header.Get("X-Ratelimit-Limit-Requests") == "" || a.header.Get("X-Request-Id") != "req_upstream" {
		t.Errorf("headers of the upstream are missing: %v", a.header)
	}
	if a.header.Get("Set-Cookie") != "" || a.header.Get("Openai-Organization") != "" {
		t.Errorf("headers that must not go on: %v", a.header)
	}

	f.up.Queue(proxytest.JSON(400, `{"error":{"message":"Bad size","type":"image_generation_user_error","param":"size","code":"invalid_value"}}`))
	e = gqlAsk(t, f, gqlGenerateImage, gqlMap{"input": gqlMap{"prompt": "p"}}).wantStatus(t, 400).refused(t, "UPSTREAM_REJECTED")
	if e.Message != "OpenAI Image API returned 400: Bad size" {
		t.Errorf("message %q", e.Message)
	}
	wantSame(t, "extensions", any(e.Extensions), `{"code":"UPSTREAM_REJECTED","upstream":{"status":400,"type":"image_generation_user_error","param":"size","code":"invalid_value"}}`)
}

func TestGraphQLRefusedKeys(t *testing.T) {
	t.Parallel()
	const fixed = "The upstream does not accept this server's credentials."
	ownKeys := proxy.WithKeySource(proxy.FirstKey(proxy.HeaderKey("X-Openai-Key"), proxy.StaticKey(canary)))
	for _, status := range []int{401, 403} {
		t.Run(fmt.Sprint("the server's ", status), func(t *testing.T) {
			t.Parallel()
			f := start(t, ownKeys)
			f.up.Queue(proxytest.Failure(status, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-cana***. Project billing-7."))
			a := gqlAsk(t, f, gqlGetAIResponse, gqlChat()).wantStatus(t, http.StatusBadGateway)
			e := a.refused(t, "UPSTREAM_AUTH")
			if e.Message != fixed || strings.Contains(a.text, "billing-7") || strings.Contains(a.text, "invalid_api_key") {
				t.Errorf("not the fixed text alone: %s", a.text)
			}
			if _, ok := e.Extensions["upstream"]; ok {
				t.Errorf("extensions tell of the upstream: %v", e.Extensions)
			}
			if a.header.Get("X-Should-Retry") != "false" {
				t.Error("x-should-retry is not false")
			}
			if !strings.Contains(f.logs.String(), "billing-7") {
				t.Error("the log does not have the upstream's words")
			}
		})
		t.Run(fmt.Sprint("the client's ", status), func(t *testing.T) {
			t.Parallel()
			f := start(t, ownKeys)
			f.up.Queue(proxytest.Failure(status, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."))
			a := gqlAsk(t, f, gqlGetAIResponse, gqlChat(), "X-Openai-Key", "sk-of-the-client").wantStatus(t, status)
			e := a.refused(t, "UPSTREAM_UNAUTHORIZED")
			if want := fmt.Sprintf("OpenAI API returned %d: Incorrect API key provided.", status); e.Message != want {
				t.Errorf("message %q, want %q", e.Message, want)
			}
		})
	}
}

func TestGraphQLNoKeyIsSaidAsTheOriginalSaidIt(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithKeySource(proxy.FirstKey()))
	a := gqlAsk(t, f, gqlGetAIResponse, gqlChat()).wantStatus(t, 500)
	if e := a.refused(t, "CONFIGURATION_ERROR"); e.Message != "OpenAI API key is not configured" {
		t.Errorf("message %q", e.Message)
	}
	if a.header.Get("X-Should-Retry") != "false" {
		t.Error("x-should-retry is not false")
	}
	if a := gqlAsk(t, f, gqlCreateSession, nil); a.ok(t, "createSession")["success"] != true {
		t.Error("what costs nothing needs no key")
	}
	f.wantCalls(t, 0)
}

func TestGraphQLMethods(t *testing.T) {
	t.Parallel()
	f := start(t)
	get := func(method string, parameters url.Values, header ...string) gqlAnswer {
		res, text := f.do(t, method, "/graphql?"+parameters.Encode(), "", header...)
		if method == http.MethodHead {
			return gqlAnswer{status: res.StatusCode, header: res.Header, text: text}
		}
		return gqlRead(t, res, text)
	}
	query := url.Values{"query": {gqlChatHistory}, "variables": {`{"sessionId":"x"}`}, "operationName": {"ChatHistory"}}
	t.Run("GET query", func(t *testing.T) {
		a := get(http.MethodGet, query).wantStatus(t, 200)
		wantSame(t, "data", any(a.Data), `{"chatHistory":[]}`)
		if got := a.header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("Cache-Control %q", got)
		}
	})
	t.Run("HEAD query", func(t *testing.T) {
		a := get(http.MethodHead, query).wantStatus(t, 200)
		if a.text != "" || a.header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%v %q", a.header, a.text)
		}
	})
	subscription := `subscription { aiResponse(input: {messages: []}) { done } }`
	for _, tt := range []struct{ name, method, query, accept, allow string }{
		{"GET mutation", http.MethodGet, gqlCreateSession, "", "POST, OPTIONS"},
		{"GET mutation for GraphQL's media type", http.MethodGet, gqlCreateSession, gqlOwn, "POST, OPTIONS"},
		{"GET mutation as a stream", http.MethodGet, gqlCreateSession, "text/event-stream", "POST, OPTIONS"},
		{"GET subscription", http.MethodGet, subscription, "text/event-stream", "POST, OPTIONS"},
		{"DELETE", http.MethodDelete, "{ __typename }", "", "GET, POST, OPTIONS"},
		{"PUT", http.MethodPut, "{ __typename }", "", "GET, POST, OPTIONS"},
		{"PATCH", http.MethodPatch, "{ __typename }", "", "GET, POST, OPTIONS"},
		{"GET without a query", http.MethodGet, "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parameters := url.Values{"query": {tt.query}}
			if tt.query == "" {
				parameters = nil
			}
			var header []string
			if tt.accept != "" {
				header = []string{"Accept", tt.accept}
			}
			a := get(tt.method, parameters, header...).wantStatus(t, http.StatusMethodNotAllowed)
			a.refused(t, "METHOD_NOT_ALLOWED")
			if got := a.header.Get("Allow"); got == "" || tt.allow != "" && got != tt.allow {
				t.Errorf("Allow %q, want %q", got, tt.allow)
			}
			if a.Error != "Method Not Allowed" || a.hasData() {
				t.Errorf("both shapes of an error and no data are wanted: %s", a.text)
			}
		})
	}
	t.Run("HEAD mutation", func(t *testing.T) {
		get(http.MethodHead, url.Values{"query": {gqlCreateSession}}).wantStatus(t, http.StatusMethodNotAllowed)
	})
	t.Run("GET mutation by name", func(t *testing.T) {
		both := url.Values{"query": {"query A { chatHistory { id } } " + gqlCreateSession}, "operationName": {"CreateSession"}}
		get(http.MethodGet, both).wantStatus(t, http.StatusMethodNotAllowed)
		both.Set("operationName", "A")
		get(http.MethodGet, both).wantStatus(t, http.StatusOK)
	})
	t.Run("GET parameters of a wrong type", func(t *testing.T) {
		for _, variables := range []string{"[1]", "{", `"a"`, "{}}", "{} {}"} {
			get(http.MethodGet, url.Values{"query": {"{ __typename }"}, "variables": {variables}}).
				wantStatus(t, http.StatusBadRequest).refused(t, "BAD_REQUEST")
		}
	})
	t.Run("OPTIONS", func(t *testing.T) {
		res, text := f.do(t, http.MethodOptions, "/graphql", "")
		if res.StatusCode != http.StatusNoContent || res.Header.Get("Allow") != "GET, POST, OPTIONS" || text != "" {
			t.Errorf("status %d, Allow %q, %q", res.StatusCode, res.Header.Get("Allow"), text)
		}
	})
	f.wantCalls(t, 0)
}

func TestGraphQLOrigins(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithAllowedOrigins("https://app.example"))
	res, _ := f.do(t, http.MethodOptions, "/graphql", "", "Origin", "https://app.example",
		"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type,x-openai-key,apollo-require-preflight")
	if res.StatusCode != http.StatusNoContent || res.Header.Get("Access-Control-Allow-Origin") != "https://app.example" ||
		!strings.Contains(res.Header.Get("Access-Control-Allow-Headers"), "apollo-require-preflight") ||
		!strings.Contains(res.Header.Get("Access-Control-Allow-Methods"), "POST") {
		t.Errorf("preflight: status %d, %v", res.StatusCode, res.Header)
	}
	a := gqlAsk(t, f, gqlGetAIResponse, gqlChat(), "Origin", "https://app.example")
	a.ok(t, "getAIResponse")
	if a.header.Get("Access-Control-Allow-Origin") != "https://app.example" {
		t.Errorf("the page cannot read its answer: %v", a.header)
	}
	vary := strings.Join(a.header.Values("Vary"), ", ")
	if !strings.Contains(vary, "Origin") || !strings.Contains(vary, "Accept") {
		t.Errorf("Vary %q", vary)
	}
	for _, path := range []string{"/graphql?query={__typename}", "/graphql/schema"} {
		res, text := f.do(t, http.MethodGet, path, "", "Origin", "https://evil.example")
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("GET %s from another origin: status %d: %s", path, res.StatusCode, text)
		}
	}
	gqlAsk(t, f, gqlGetAIResponse, gqlChat(), "Origin", "https://evil.example").
		wantStatus(t, http.StatusForbidden).refused(t, "ORIGIN_NOT_ALLOWED")
	f.wantCalls(t, 1)
}

func TestS19GraphQLTakesJSONOnly(t *testing.T) {
	t.Parallel()
	f := start(t)
	body := gqlRequest(gqlCreateSession, nil)
	for _, contentType := range []string{
		"", "text/plain", "text/plain; charset=utf-8", "application/x-www-form-urlencoded",
		"multipart/form-data; boundary=x", "application/graphql", "text/json", "application/json; charset=utf-16",
		"application/json, text/plain", "text/plain; application/json", "json",
	} {
		var header []string
		if contentType != "" {
			header = []string{"Content-Type", contentType}
		}
		res, text := f.post(t, "/graphql", body, header...)
		gqlRead(t, res, text).wantStatus(t, http.StatusUnsupportedMediaType).refused(t, "UNSUPPORTED_MEDIA_TYPE")
	}
	for _, contentType := range []string{
		"application/json", "APPLICATION/JSON", "application/json;charset=UTF-8", `application/json; charset="utf-8"`,
	} {
		res, text := f.post(t, "/graphql", body, "Content-Type", contentType)
		gqlRead(t, res, text).ok(t, "createSession")
	}
}

func TestGraphQLBodies(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithLimits(proxy.Limits{RequestBytes: 1 << 20}))
	one := gqlRequest(gqlCreateSession, nil)
	for _, tt := range []struct {
		name, body, code string
		status           int
	}{
		{"a batch", "[" + one + "," + one + "]", "BAD_REQUEST", 400},
		{"an empty batch", "[]", "BAD_REQUEST", 400},
		{"a text", `"{ __typename }"`, "BAD_REQUEST", 400},
		{"null", "null", "BAD_REQUEST", 400},
		{"nothing", "", "BAD_REQUEST", 400},
		{"half of it", one[:20], "BAD_REQUEST", 400},
		{"two documents", one + one, "BAD_REQUEST", 400},
		{"a null query", `{"query":null}`, "BAD_REQUEST", 400},
		{"an empty query", `{"query":""}`, "", 400},
		{"two queries", `{"query":"{ __typename }","query":"mutation { createSession { success } }"}`, "BAD_REQUEST", 400},
		{"too much", `{"query":"{ __typename }","more":"` + strings.Repeat("x", 1<<20) + `"}`, "PAYLOAD_TOO_LARGE", 413},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := gqlPost(t, f, tt.body).wantStatus(t, tt.status)
			if tt.code != "" {
				a.refused(t, tt.code)
			}
			if a.hasData() || len(a.Errors) == 0 {
				t.Errorf("a refused request has errors and no data: %s", a.text)
			}
		})
	}
	if a := gqlPost(t, f, "["+one+"]"); a.Errors[0].Message != "Batching is not supported." {
		t.Errorf("message %q", a.Errors[0].Message)
	}
	gqlPost(t, f, `{"id":1,"query":"{ __typename }","more":{"unknown":[null]}}`).wantStatus(t, 200)
	f.wantCalls(t, 0)
}

func TestGraphQLNegotiation(t *testing.T) {
	t.Parallel()
	const (
		utf8JSON = "application/json; charset=utf-8"
		utf8Own  = "application/graphql-response+json; charset=utf-8"
		events   = "text/event-stream; charset=utf-8"
		urql     = "application/graphql-response+json, application/graphql+json, application/json, text/event-stream, multipart/mixed"
	)
	f := start(t)
	for accept, want := range map[string]string{
		"*/*":              utf8JSON,
		"application/*":    utf8JSON,
		"application/json": utf8JSON,
		gqlOwn:             utf8Own,
		"application/graphql-response+json, application/json":             utf8Own, // graphql-request
		"application/graphql-response+json,application/json;q=0.9":        utf8Own, // Apollo
		"application/json, application/graphql-response+json;q=0.5":       utf8JSON,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": utf8JSON, // a browser
		urql: utf8Own,
		"text/event-stream, application/json;q=0.1":   utf8JSON, // single answers are preferred for what is single
		"text/event-stream":                           events,   // graphql-sse
		"text/event-stream, application/json;q=0":     events,
		"Application/JSON ; Q=1":                      utf8JSON,
		"text/html, application/json;q=0.3, */*;q=0":  utf8JSON,
		"application/graphql-response+json;charset=x": utf8Own,
	} {
		res, text := f.post(t, "/graphql", `{"query":"{ __typename }"}`, "Content-Type", "application/json", "Accept", accept)
		if got := res.Header.Get("Content-Type"); res.StatusCode != 200 || got != want {
			t.Errorf("Accept %q: status %d, Content-Type %q, want %q: %s", accept, res.StatusCode, got, want, text)
		}
		if !slices.Contains(res.Header.Values("Vary"), "Accept") {
			t.Errorf("Accept %q: Vary %q", accept, res.Header.Values("Vary"))
		}
	}
	for _, accept := range []string{"text/html", "image/png, text/html;q=0.5", "application/json;q=0", "application/xml"} {
		res, text := f.post(t, "/graphql", gqlRequest(gqlGetAIResponse, gqlChat()), "Content-Type", "application/json", "Accept", accept)
		gqlRead(t, res, text).wantStatus(t, http.StatusNotAcceptable).refused(t, "NOT_ACCEPTABLE")
		if !slices.Contains(res.Header.Values("Vary"), "Accept") {
			t.Errorf("Accept %q: Vary %q", accept, res.Header.Values("Vary"))
		}
	}
	f.wantCalls(t, 0)
}

func TestGraphQLSchemaCanBeDownloaded(t *testing.T) {
	t.Parallel()
	f := start(t)
	res, text := f.do(t, http.MethodGet, "/graphql/schema", "")
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" || !strings.Contains(text, "type Mutation {") {
		t.Errorf("status %d, %v: %.100s", res.StatusCode, res.Header, text)
	}
	res, text = f.do(t, http.MethodHead, "/graphql/schema", "")
	if res.StatusCode != 200 || text != "" || res.ContentLength <= 0 {
		t.Errorf("HEAD: status %d, length %d, %q", res.StatusCode, res.ContentLength, text)
	}
	res, _ = f.post(t, "/graphql/schema", "")
	if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "GET, OPTIONS" {
		t.Errorf("POST: status %d, Allow %q", res.StatusCode, res.Header.Get("Allow"))
	}
}

func TestGraphQLSwitchedOff(t *testing.T) {
	t.Parallel()
	f := start(t, gqlOptions(proxy.GraphQLOptions{Disable: true}))
	alone := setup{
		options: []proxy.Option{gqlOptions(proxy.GraphQLOptions{Disable: true})},
		wrap:    func(h http.Handler) http.Handler { return h.(*proxy.Handler).GraphQL() },
	}.start(t)
	for _, tt := range []struct {
		f            *fixture
		method, path string
	}{
		{f, http.MethodPost, "/graphql"},
		{f, http.MethodGet, "/graphql?query={__typename}"},
		{f, http.MethodGet, "/graphql/schema"},
		{f, http.MethodDelete, "/graphql"},
		{f, http.MethodPost, "/graphql/schema"},
		{alone, http.MethodPost, "/anything"},
	} {
		res, text := tt.f.do(t, tt.method, tt.path, `{"query":"{ __typename }"}`, "Content-Type", "application/json")
		if res.StatusCode != http.StatusNotFound || !strings.Contains(text, `"not_found"`) {
			t.Errorf("%s %s: status %d: %s", tt.method, tt.path, res.StatusCode, text)
		}
	}
	if res, text := f.post(t, "/v1/chat/completions", `{"messages":[]}`); res.StatusCode == http.StatusNotFound {
		t.Errorf("REST went with it: %s", text)
	}
}

func TestGraphQLIntrospection(t *testing.T) {
	t.Parallel()
	const query = `{ __schema { mutationType { fields { name } } } __type(name: "ChatInput") { inputFields { name } } }`
	f := start(t)
	a := gqlAsk(t, f, query, nil).wantStatus(t, 200)
	if !strings.Contains(a.text, "getAIResponse") || !strings.Contains(a.text, "logit_bias") {
		t.Error(a.text)
	}
	hidden := start(t, gqlOptions(proxy.GraphQLOptions{NoIntrospection: true}))
	for _, query := range []string{
		query, `{ __type(name: "ChatInput") { name } }`, `{ ...A } fragment A on Query { s: __schema { description } }`,
	} {
		a := gqlAsk(t, hidden, query, nil).wantStatus(t, 400)
		if a.Errors[0].Extensions["code"] != "INTROSPECTION_DISABLED" || a.hasData() {
			t.Errorf("%s: %s", query, a.text)
		}
	}
	gqlAsk(t, hidden, "{ __typename }", nil).wantStatus(t, 200)
	for _, query := range []string{
		`{ chatHistor { id } }`, `mutation { getAIRespons(input: {}) { id } }`, `mutation M($i: ChatInpu!) { getAIResponse(input: $i) { id } }`,
		`mutation { getAIResponse(inpu: {}) { id } }`, `mutation { getAIResponse(input: {message: []}) { id } }`,
		`mutation { getAIResponse(input: {}) { conten } }`,
	} {
		a := gqlAsk(t, hidden, query, nil).wantStatus(t, 400)
		for _, name := range []string{"Did you mean", "chatHistory", "getAIResponse", "messages", "content"} {
			told := regexp.MustCompile(`\b` + name + `\b`)
			if told.MatchString(a.text) && !told.MatchString(query) {
				t.Errorf("%s: the answer tells %q: %s", query, name, a.text)
			}
		}
	}
	res, text := hidden.do(t, http.MethodGet, "/graphql/schema", "")
	if res.StatusCode != http.StatusNotFound || strings.Contains(text, "Mutation") {
		t.Errorf("the schema: status %d: %s", res.StatusCode, text)
	}
}

func TestGraphQLPaidCallsAreCountedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	const (
		chat  = `getAIResponse(input: {messages: [{role: "user", content: "hi"}]}) { content }`
		image = `generateImage(input: {prompt: "p"}) { id }`
	)
	for _, tt := range []struct {
		name, query string
		most, calls int
	}{
		{"one", "mutation { a: " + chat + "}", 0, 1},
		{"the same one twice is one", "mutation { " + chat + chat + "}", 0, 1},
		{"two aliases", "mutation { a: " + chat + " b: " + chat + "}", 0, 0},
		{"two kinds", "mutation { " + chat + image + "}", 0, 0},
		{"hidden in a fragment", "mutation { a: " + chat + " ...F } fragment F on Mutation { ... on Mutation { b: " + chat + " } }", 0, 0},
		{"skipped ones count", "mutation { a: " + chat + " b: getAIResponse(input: {messages: []}) @skip(if: true) { id } }", 0, 0},
		{"two are allowed", "mutation { a: " + chat + " b: " + chat + "}", 2, 2},
		{"three of two", "mutation { a: " + chat + " b: " + chat + image + "}", 2, 0},
		{"beside what is free", "mutation { createSession { success } " + chat + " sendMessage(input: {content: \"x\"}) { id } }", 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, gqlOptions(proxy.GraphQLOptions{MaxUpstreamCalls: tt.most}))
			a := gqlAsk(t, f, tt.query, nil)
			if tt.calls > 0 {
				a.wantStatus(t, 200)
				f.wantCalls(t, tt.calls)
				return
			}
			a.wantStatus(t, 400).refused(t, "TOO_MANY_UPSTREAM_CALLS")
			if a.hasData() {
				t.Error(a.text)
			}
			f.wantCalls(t, 0)
		})
	}
}

func TestS22GraphQLLimitsCanBeChanged(t *testing.T) {
	t.Parallel()
	narrow := start(t, gqlOptions(proxy.GraphQLOptions{Limits: proxy.GraphQLLimits{
		Bytes: 300, Tokens: 40, Definitions: 2, Depth: 3, RootFields: 3, Fields: 12, SameKey: 2, Directives: 1, Errors: 2,
	}}))
	for name, query := range map[string]string{
		"bytes":       "{ __typename } #" + strings.Repeat("x", 300),
		"tokens":      "{" + strings.Repeat(" __typename", 41) + "}",
		"definitions": "query A { __typename } query B { __typename } query C { __typename }",
		"depth":       `{ session(sessionId: "x") { messages { toolCalls { name } } } }`,
		"root fields": "{ a: __typename b: __typename c: __typename d: __typename }",
		"fields":      "{ chatHistory { a: id b: id c: id d: id e: id f: id g: id h: id i: id j: id k: id l: id } }",
		"same key":    "{ chatHistory { id id id } }",
		"directives":  "{ __typename @skip(if: false) @include(if: true) }",
	} {
		a := gqlAsk(t, narrow, query, nil).wantStatus(t, 400)
		if len(a.Errors) == 0 || a.hasData() {
			t.Errorf("%s: %s", name, a.text)
		}
	}
	if a := gqlAsk(t, narrow, "{ a b c }", nil); len(a.Errors) != 2 {
		t.Errorf("%d errors, want 2: %s", len(a.Errors), a.text)
	}
	gqlAsk(t, narrow, "{ chatHistory { id } }", nil).wantStatus(t, 200)
}

// gqlEveryChatKey has a value for every parameter of ChatInput that goes
// upstream as it is.
const gqlEveryChatKey = `{
	"model": "m", "temperature": 0, "top_p": 0.25, "max_tokens": 0, "max_completion_tokens": 7, "n": 2, "seed": -3,
	"stop": ["a", "b"], "presence_penalty": -0.5, "frequency_penalty": 1.5,
	"logit_bias": {"50256": -100, "1": 0.125}, "logprobs": false, "top_logprobs": 0,
	"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "number", "minimum": 0.10}}, "required": []}}}],
	"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false,
	"response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": {}}},
	"reasoning_effort": "low", "verbosity": "high", "service_tier": "flex", "store": true,
	"metadata": {"k": "v"}, "prediction": {"type": "content", "content": "c"}, "user": "u", "safety_identifier": "s"
}`

func TestGraphQLSendsEveryParameterOfAChat(t *testing.T) {
	t.Parallel()
	f := start(t)
	var input, want gqlMap
	gqlDecode(t, gqlEveryChatKey, &input)
	gqlDecode(t, gqlEveryChatKey, &want)
	const messages = `[
		{"role": "system", "content": "be brief", "name": "boss"},
		{"role": "user", "parts": [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
		{"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
		{"role": "tool", "content": "", "tool_call_id": "call_1"},
		{"role": "assistant", "content": null, "refusal": "no"},
		{"role": "user", "content": "你好 😀 \u0000 \" \\"}
	]`
	var list []any
	gqlDecode(t, messages, &list)
	input["messages"] = list
	gqlAsk(t, f, gqlGetAIResponse, gqlMap{"input": input}).ok(t, "getAIResponse")
	got := gqlSent(t, f)
	var sent []any
	gqlDecode(t, strings.Replace(messages, `"parts"`, `"content"`, 1), &sent)
	want["messages"] = sent
	for key, value := range want {
		if !reflect.DeepEqual(got[key], value) {
			t.Errorf("%s: %v, want %v", key, got[key], value)
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			t.Errorf("%s: %v was added", key, got[key])
		}
	}
}

func TestGraphQLSchemaNamesEveryParameterThatIsTested(t *testing.T) {
	t.Parallel()
	f := start(t)
	a := gqlAsk(t, f, `{ chat: __type(name: "ChatInput") { inputFields { name } } image: __type(name: "ImageInput") { inputFields { name } } }`, nil)
	for input, rest := range map[string]struct {
		all  string
		more []string
	}{
		"chat":  {gqlEveryChatKey, []string{"sessionId", "messages", "stream", "stream_options", "extra"}},
		"image": {gqlEveryImageKey, []string{"extra"}},
	} {
		var tested gqlMap
		gqlDecode(t, rest.all, &tested)
		fields, _ := a.field(t, input)["inputFields"].([]any)
		for _, field := range fields {
			name, _ := field.(gqlMap)["name"].(string)
			if _, ok := tested[name]; !ok && !slices.Contains(rest.more, name) {
				t.Errorf("no test sends %s of the input %s", name, input)
			}
		}
	}
}

func TestGraphQLNullsArriveAsNulls(t *testing.T) {
	t.Parallel()
	f := start(t)
	input := gqlMap{"model": "gpt-4o", "temperature": nil, "max_tokens": nil, "stop": nil, "messages": []any{
		gqlMap{"role": "user", "content": "hi", "name": nil, "parts": nil},
	}}
	gqlAsk(t, f, gqlGetAIResponse, gqlMap{"input": input}).ok(t, "getAIResponse")
	const want = `{"model":"gpt-4o","temperature":null,"max_tokens":null,"stop":null,"messages":[{"role":"user","content":"hi","name":null}]}`
	wantSame(t, "variables", any(gqlSent(t, f)), want)
	gqlAsk(t, f, `mutation { getAIResponse(input: {model: "gpt-4o", temperature: null, max_tokens: null, stop: null,
		messages: [{role: "user", content: "hi", name: null, parts: null}]}) { id } }`, nil).ok(t, "getAIResponse")
	wantSame(t, "literals", any(gqlSent(t, f)), want)
}

func TestGraphQLExtraIsMerged(t *testing.T) {
	t.Parallel()
	f := start(t)
	const extra = `{"seed_64": 9007199254740993, "price": 1.10, "tiny": 1e-400, "top_k": 0, "vendor": {"a": [null, false, ""]}, "nothing": null}`
	raw := `{"query":` + string(mustJSON(t, gqlGetAIResponse)) + `,"variables":{"input":{"model":"m","messages":[],"extra":` + extra + `}}}`
	gqlPost(t, f, raw).ok(t, "getAIResponse")
	want := `{"model":"m","messages":[],` + extra[1:]
	wantSame(t, "variables", any(gqlSent(t, f)), want)

	gqlAsk(t, f, `mutation M($price: JSON) { getAIResponse(input: {model: "m", messages: [], extra: {
		seed_64: 9007199254740993, price: $price, tiny: 1e-400, top_k: 0, vendor: {a: [null, false, ""]}, nothing: null}}) { id } }`,
		gqlMap{"price": json.Number("1.10")}).ok(t, "getAIResponse")
	wantSame(t, "literals", any(gqlSent(t, f)), want)

	gqlAsk(t, f, gqlGenerateImage, gqlMap{"input": gqlMap{"prompt": "p", "model": "m", "extra": gqlMap{"input_fidelity": "high"}}}).ok(t, "generateImage")
	wantSame(t, "images", any(gqlSent(t, f)), `{"prompt":"p","model":"m","input_fidelity":"high"}`)
	gqlAsk(t, f, gqlGetAIResponse, gqlChat("model", "m", "extra", nil)).ok(t, "getAIResponse")
	wantSame(t, "null", any(gqlSent(t, f)), `{"model":"m","messages":[{"role":"user","content":"hello"}]}`)
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestGraphQLExtraMayNotCollide(t *testing.T) {
	t.Parallel()
	f := start(t)
	keys := []string{"sessionId", "messages", "stream", "stream_options", "prompt", "action", "extra"}
	var all gqlMap
	gqlDecode(t, gqlEveryChatKey, &all)
	for key := range all {
		keys = append(keys, key)
	}
	for _, key := range keys {
		e := gqlAsk(t, f, gqlGetAIResponse, gqlChat("extra", gqlMap{key: true})).wantStatus(t, 400).refused(t, "BAD_USER_INPUT")
		if !strings.Contains(e.Message, key) {
			t.Errorf("%s is not named: %s", key, e.Message)
		}
	}
	for _, key := range []string{"prompt", "model", "n", "size", "response_format", "action", "stream"} {
		gqlAsk(t, f, gqlGenerateImage, gqlMap{"input": gqlMap{"prompt": "p", "extra": gqlMap{key: "x"}}}).
			wantStatus(t, 400).refused(t, "BAD_USER_INPUT")
	}
	for _, extra := range []any{"text", 1, []any{}, true} {
		gqlAsk(t, f, gqlGetAIResponse, gqlChat("extra", extra)).wantStatus(t, 400).refused(t, "BAD_USER_INPUT")
	}
	f.wantCalls(t, 0)
}

func TestGraphQLDefaults(t *testing.T) {
	t.Parallel()
	f := start(t)
	owned := start(t, proxy.WithDefaults(proxy.RouteChat, map[string]any{"temperature": 0.1}), proxy.WithDefaultModels("house-model", "house-images"))
	for _, tt := range []struct {
		name  string
		f     *fixture
		input gqlMap
		added string // beside messages
	}{
		{"gpt-4o", f, gqlChat("model", "gpt-4o"), `{"model":"gpt-4o","temperature":0.7,"max_tokens":1000}`},
		{"gpt-3.5-turbo", f, gqlChat("model", "gpt-3.5-turbo"), `{"model":"gpt-3.5-turbo","temperature":0.7,"max_tokens":1000}`},
		{"gpt-4o with zeros", f, gqlChat("model", "gpt-4o", "temperature", 0, "max_tokens", 0), `{"model":"gpt-4o","temperature":0,"max_tokens":0}`},
		{"gpt-4o with max_completion_tokens", f, gqlChat("model", "gpt-4o", "max_completion_tokens", 5), `{"model":"gpt-4o","temperature":0.7,"max_completion_tokens":5}`},
		{"gpt-6-luna", f, gqlChat("model", "gpt-6-luna"), `{"model":"gpt-6-luna"}`},
		{"o-series", f, gqlChat("model", "o4-mini"), `{"model":"o4-mini"}`},
		{"none", f, gqlChat(), `{"model":"` + proxy.DefaultChatModel + `"}`},
		{"the host's", owned, gqlChat(), `{"model":"house-model","temperature":0.1}`},
		{"the host's, overridden", owned, gqlChat("temperature", 1, "model", "m"), `{"model":"m","temperature":1}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gqlAsk(t, tt.f, gqlGetAIResponse, tt.input).ok(t, "getAIResponse")
			got := gqlSent(t, tt.f)
			delete(got, "messages")
			wantSame(t, "sent", any(got), tt.added)
		})
	}
}

func TestGraphQLStreamIsIgnoredByGetAIResponse(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.Chat("whole"))
	a := gqlAsk(t, f, gqlGetAIResponse, gqlChat("model", "m", "stream", true, "stream_options", gqlMap{"include_usage": true}))
	if got := a.ok(t, "getAIResponse")["content"]; got != "whole" {
		t.Error(got)
	}
	wantSame(t, "sent", any(gqlSent(t, f)), `{"model":"m","messages":[{"role":"user","content":"hello"}]}`)
}

func TestGraphQLAnswersHoldWhatTheUpstreamSaid(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.JSON(200, `{"id":"chatcmpl-7","model":"m-2026","system_fingerprint":"fp_1","choices":[
		{"index":0,"finish_reason":"tool_calls","logprobs":{"content":[{"token":"a","logprob":-0.10}]},"message":{"role":"assistant","content":null,"refusal":null,
			"reasoning_content":"hm","tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"x\":1.10}"}},{"id":"call_2","type":"custom","custom":{"name":"c","input":"raw"}}]}},
		{"index":1,"finish_reason":"stop","logprobs":null,"message":{"role":"assistant","content":"second","refusal":"no"}}],
		"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}}`))
	a := gqlAsk(t, f, `mutation M($input: ChatInput!) { getAIResponse(input: $input) {
		id sessionId role isUser content refusal reasoning toolCalls { index id type name arguments } finishReason
		choices { index content refusal finishReason toolCalls { name } logprobs }
		model usage { promptTokens completionTokens totalTokens cachedTokens reasoningTokens } systemFingerprint success error } }`, gqlChat())
	wantSame(t, "answer", any(a.ok(t, "getAIResponse")), `{"id":"chatcmpl-7","sessionId":null,"role":"assistant","isUser":false,"content":null,"refusal":null,"reasoning":"hm",
		"toolCalls":[{"index":null,"id":"call_1","type":"function","name":"f","arguments":"{\"x\":1.10}"},{"index":null,"id":"call_2","type":"custom","name":"c","arguments":"raw"}],
		"finishReason":"tool_calls","choices":[
			{"index":0,"content":null,"refusal":null,"finishReason":"tool_calls","toolCalls":[{"name":"f"},{"name":"c"}],"logprobs":{"content":[{"token":"a","logprob":-0.10}]}},
			{"index":1,"content":"second","refusal":"no","finishReason":"stop","toolCalls":null,"logprobs":null}],
		"model":"m-2026","usage":{"promptTokens":9,"completionTokens":12,"totalTokens":21,"cachedTokens":4,"reasoningTokens":3},"systemFingerprint":"fp_1","success":true,"error":null}`)

	f.up.Queue(proxytest.JSON(200, `{"choices":[{"message":{"content":""}}]}`))
	got := gqlAsk(t, f, `mutation M($input: ChatInput!) { getAIResponse(input: $input) { id role content model usage { totalTokens } choices { index } finishReason } }`, gqlChat()).ok(t, "getAIResponse")
	if id, _ := got["id"].(string); !regexp.MustCompile(`^msg_\d+_ai$`).MatchString(id) {
		t.Errorf("id %q", id)
	}
	delete(got, "id")
	wantSame(t, "the least answer", any(got), `{"role":"assistant","content":"","model":null,"usage":null,"choices":null,"finishReason":null}`)
}

// opaqueKey looks like no key: only who knows it can strike it out.
const opaqueKey = "7f9c2ba4e88f827d616045507605853e"

func TestGraphQLErrorWithStatus200IsAFailure(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		query     string
		variables any
	}{
		"chat":  {gqlGetAIResponse, gqlChat()},
		"image": {gqlGenerateImage, gqlMap{"input": gqlMap{"prompt": "p"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, proxy.WithKey(opaqueKey))
			f.up.Queue(proxytest.JSON(200, `{"error":{"message":"Quota of `+opaqueKey+` and sk-0123456789abcdef is used up","code":"quota"}}`))
			a := gqlAsk(t, f, tt.query, tt.variables).wantStatus(t, http.StatusBadGateway)
			e := a.refused(t, "UPSTREAM_ERROR")
			if !strings.Contains(e.Message, "is used up") {
				t.Errorf("the upstream's words are lost: %q", e.Message)
			}
			if strings.Contains(a.text, opaqueKey) || strings.Contains(a.text, "sk-0123456789abcdef") {
				t.Errorf("a key is in the answer: %s", a.text)
			}
			if strings.Contains(f.logs.String(), opaqueKey) {
				t.Errorf("a key is in the log: %s", f.logs)
			}
		})
	}
}

// gqlEveryImageKey has a value for every parameter of ImageInput.
const gqlEveryImageKey = `{
	"prompt": "a cat", "model": "gpt-image-2", "n": 2, "size": "auto", "quality": "low", "style": "vivid",
	"response_format": "b64_json", "background": "transparent", "moderation": "low", "output_format": "webp",
	"output_compression": 0, "user": "u", "safety_identifier": "s"
}`

func TestGraphQLImageRequests(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, tt := range []struct{ name, input, want string }{
		{"every parameter", gqlEveryImageKey, gqlEveryImageKey},
		{"dall-e-3", `{"prompt":"p","model":"dall-e-3"}`, `{"prompt":"p","model":"dall-e-3","n":1,"size":"1024x1024","quality":"standard","style":"vivid","response_format":"url"}`},
		{"dall-e-2", `{"prompt":"p","model":"dall-e-2"}`, `{"prompt":"p","model":"dall-e-2","n":1,"size":"1024x1024","response_format":"url"}`},
		{"dall-e-3 with its own", `{"prompt":"p","model":"dall-e-3","n":0,"size":null}`, `{"prompt":"p","model":"dall-e-3","n":0,"size":null,"quality":"standard","style":"vivid","response_format":"url"}`},
		{"gpt-image-2", `{"prompt":"p","model":"gpt-image-2"}`, `{"prompt":"p","model":"gpt-image-2"}`},
		{"none", `{"prompt":"p"}`, `{"prompt":"p","model":"` + proxy.DefaultImageModel + `"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gqlPost(t, f, `{"query":`+string(mustJSON(t, gqlGenerateImage))+`,"variables":{"input":`+tt.input+`}}`).ok(t, "generateImage")
			wantSame(t, "sent", any(gqlSent(t, f)), tt.want)
		})
	}
}

func TestGraphQLImageAnswers(t *testing.T) {
	t.Parallel()
	const query = `mutation M($input: ImageInput!) { generateImage(input: $input) {
		images { url b64_json revised_prompt } model size quality style background output_format usage { inputTokens outputTokens totalTokens } } }`
	png := base64.StdEncoding.EncodeToString([]byte("png"))
	tests := []struct {
		name, input, answer, want string
		data                      bool
	}{
		{
			"url", `{"prompt":"p","model":"m"}`, `{"data":[{"url":"https://i.example/1","revised_prompt":"r"},{"url":"https://i.example/2"}]}`,
			`{"images":[{"url":"https://i.example/1","b64_json":null,"revised_prompt":"r"},{"url":"https://i.example/2","b64_json":null,"revised_prompt":null}],
			"model":"m","size":null,"quality":null,"style":null,"background":null,"output_format":null,"usage":null}`, false,
		},
		{
			"base64", `{"prompt":"p","model":"m"}`, `{"data":[{"b64_json":"` + png + `"}]}`,
			`{"images":[{"url":null,"b64_json":"` + png + `","revised_prompt":null}],"model":"m","size":null,"quality":null,"style":null,"background":null,"output_format":null,"usage":null}`, false,
		},
		{
			"what the upstream did", `{"prompt":"p","model":"m","size":"auto","quality":"auto"}`,
			`{"data":[{"b64_json":"` + png + `"}],"size":"1024x1536","quality":"high","background":"opaque","output_format":"jpeg","usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}`,
			`{"images":[{"url":"data:image/jpeg;base64,` + png + `","b64_json":"` + png + `","revised_prompt":null}],"model":"m","size":"1024x1536","quality":"high","style":null,
			"background":"opaque","output_format":"jpeg","usage":{"inputTokens":1,"outputTokens":2,"totalTokens":3}}`, true,
		},
		{
			"data URL of an unnamed format", `{"prompt":"p","model":"m"}`, `{"data":[{"b64_json":"` + png + `"}]}`,
			`{"images":[{"url":"data:image/png;base64,` + png + `","b64_json":"` + png + `","revised_prompt":null}],"model":"m","size":null,"quality":null,"style":null,"background":null,"output_format":null,"usage":null}`, true,
		},
		{
			"a URL is kept", `{"prompt":"p","model":"m"}`, `{"data":[{"url":"https://i.example/1"}]}`,
			`{"images":[{"url":"https://i.example/1","b64_json":null,"revised_prompt":null}],"model":"m","size":null,"quality":null,"style":null,"background":null,"output_format":null,"usage":null}`, true,
		},
		{
			"what was asked for, defaults among it", `{"prompt":"p","model":"dall-e-3"}`, `{"data":[{"url":"https://i.example/1"}]}`,
			`{"images":[{"url":"https://i.example/1","b64_json":null,"revised_prompt":null}],"model":"dall-e-3","size":"1024x1024","quality":"standard","style":"vivid","background":null,"output_format":null,"usage":null}`, false,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := start(t, gqlOptions(proxy.GraphQLOptions{DataURLs: tt.data}))
			f.up.Queue(proxytest.JSON(200, tt.answer))
			a := gqlPost(t, f, `{"query":`+string(mustJSON(t, query))+`,"variables":{"input":`+tt.input+`}}`)
			wantSame(t, "answer", any(a.ok(t, "generateImage")), tt.want)
		})
	}
}

func TestGraphQLInputThatTheSchemaAdmitsAndTheOriginalDidNot(t *testing.T) {
	t.Parallel()
	f := start(t)
	const (
		noMessages = "messages field is required and must be an array"
		noPrompt   = "prompt field is required for image generation"
	)
	for _, tt := range []struct {
		query string
		input gqlMap
		want  string
	}{
		{gqlGetAIResponse, gqlMap{}, noMessages},
		{gqlGetAIResponse, gqlMap{"messages": nil}, noMessages},
		{gqlGenerateImage, gqlMap{}, noPrompt},
		{gqlGenerateImage, gqlMap{"prompt": nil}, noPrompt},
		{gqlGenerateImage, gqlMap{"prompt": ""}, noPrompt},
	} {
		a := gqlAsk(t, f, tt.query, gqlMap{"input": tt.input}).wantStatus(t, 400)
		if len(a.Errors) != 1 || a.Errors[0].Message != tt.want {
			t.Errorf("%v: %s", tt.input, a.text)
		}
	}
	both := gqlMap{"messages": []any{gqlMap{"role": "user", "content": "a", "parts": []any{gqlMap{"type": "text", "text": "b"}}}}}
	gqlAsk(t, f, gqlGetAIResponse, gqlMap{"input": both}).wantStatus(t, 400).refused(t, "BAD_USER_INPUT")
	gqlAsk(t, f, gqlSendMessage, gqlMap{"input": gqlMap{"sessionId": "x"}}).wantStatus(t, 400).refused(t, "BAD_USER_INPUT")
	gqlAsk(t, f, gqlSendMessage, gqlMap{"input": gqlMap{"content": "x", "role": "robot"}}).wantStatus(t, 400).refused(t, "BAD_USER_INPUT")
	f.wantCalls(t, 0)
}

// gqlBook keeps what hooks are told, as text that can be compared.
type gqlBook struct {
	mu      sync.Mutex
	entries []string
	out     []proxy.Outcome
}

func (b *gqlBook) add(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries = append(b.entries, fmt.Sprintf(format, args...))
}

func (b *gqlBook) list() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.entries)
}

func (b *gqlBook) outcomes() []proxy.Outcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.out)
}

func (b *gqlBook) hooks() proxy.Option {
	return proxy.WithHooks(proxy.Hooks{
		Admit: func(_ context.Context, c proxy.Call) error {
			b.add("admit %s %s %s %t", c.Route, c.Path, c.Model, c.Stream)
			return nil
		},
		Rewrite: func(_ context.Context, c proxy.Call, body []byte) ([]byte, error) {
			b.add("rewrite %s", c.Model)
			return []byte(strings.Replace(string(body), `"m"`, `"forced"`, 1)), nil
		},
		Done: func(_ context.Context, c proxy.Call, out proxy.Outcome) {
			b.add("done %s %d %s %d", c.Model, out.Status, out.Ending, out.Usage.TotalTokens)
			b.mu.Lock()
			defer b.mu.Unlock()
			b.out = append(b.out, out)
		},
	})
}

func TestGraphQLCallsPassTheHooks(t *testing.T) {
	t.Parallel()
	var book gqlBook
	f := start(t, book.hooks(), gqlOptions(proxy.GraphQLOptions{MaxUpstreamCalls: 3}))
	gqlAsk(t, f, `mutation M($c: ChatInput!, $i: ImageInput!) { createSession { success } getAIResponse(input: $c) { id } generateImage(input: $i) { id } }`,
		gqlMap{"c": gqlChat("model", "m")["input"], "i": gqlMap{"prompt": "p", "model": "m"}}).wantStatus(t, 200)
	want := []string{
		"admit chat /graphql m false", "rewrite m", "done forced 200 complete 21",
		"admit images /graphql m false", "rewrite m", "done forced 200 complete 30",
	}
	if got := book.list(); !slices.Equal(got, want) {
		t.Errorf("hooks were told\n%q, want\n%q", got, want)
	}
	for range 2 {
		if got := gqlSent(t, f)["model"]; got != "forced" {
			t.Errorf("model %v was sent, want what Rewrite made of it", got)
		}
	}
	for _, out := range book.outcomes() {
		if !out.Usage.Reported || out.Attempts != 1 || out.Bytes <= 0 || out.Duration <= 0 || out.Err != nil {
			t.Errorf("outcome %+v", out)
		}
	}
}

func TestGraphQLFailedCallsAreToldToDone(t *testing.T) {
	t.Parallel()
	var book gqlBook
	f := start(t, book.hooks())
	for _, answer := range []proxytest.Answer{
		proxytest.RateLimited(time.Second), proxytest.JSON(200, "<html>"), proxytest.Raw(""), proxytest.ChatStream("a"),
		proxytest.JSON(200, `{"choices":[]}`),
	} {
		f.up.Queue(answer)
		gqlAsk(t, f, gqlGetAIResponse, gqlChat("model", "m"))
	}
	outs := book.outcomes()
	if len(outs) != 5 {
		t.Fatalf("Done was called %d times, want 5: %q", len(outs), book.list())
	}
	for i, status := range []int{429, 502, 502, 502} {
		if outs[i].Status != status || outs[i].Ending != proxy.EndingError || outs[i].Err == nil {
			t.Errorf("call %d: %+v, want status %d and an error", i, outs[i], status)
		}
	}
	if outs[4].Ending != proxy.EndingError {
		t.Errorf("a call whose caller got an error instead of an answer ended %q", outs[4].Ending)
	}
}

func TestGraphQLHooksThatPanicFailTheirFieldOnly(t *testing.T) {
	t.Parallel()
	const secret = "secret stack 42"
	hooks := map[string]proxy.Hooks{
		"Admit":   {Admit: func(context.Context, proxy.Call) error { panic(secret) }},
		"Rewrite": {Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) { panic(errors.New(secret)) }},
	}
	for name, h := range hooks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, proxy.WithHooks(h))
			a := gqlAsk(t, f, `mutation M($input: ChatInput!) { createSession { success } getAIResponse(input: $input) { id } }`, gqlChat())
			e := a.refused(t, "INTERNAL_SERVER_ERROR")
			if strings.Contains(a.text, secret) || strings.Contains(a.text, ".go") {
				t.Errorf("the panic is told to the client: %s", a.text)
			}
			if a.field(t, "createSession")["success"] != true || a.field(t, "getAIResponse") != nil || len(e.Path) != 1 {
				t.Errorf("only the field may fail: %s", a.text)
			}
			gqlAsk(t, f, gqlGetAIResponse, gqlChat(), "Accept", gqlAny).wantStatus(t, http.StatusInternalServerError)
			if !strings.Contains(f.logs.String(), secret) {
				t.Error("the panic is not in the log")
			}
		})
	}
	t.Run("Done", func(t *testing.T) {
		t.Parallel()
		f := start(t, proxy.WithHooks(proxy.Hooks{Done: func(context.Context, proxy.Call, proxy.Outcome) { panic(secret) }}))
		gqlAsk(t, f, gqlGetAIResponse, gqlChat()).ok(t, "getAIResponse")
	})
}

// gqlReturning closes a channel when the handler has returned.
func gqlReturning(done chan<- struct{}) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(done)
			next.ServeHTTP(w, r)
		})
	}
}

// gqlWait waits for a channel to be closed.
func gqlWait(t testing.TB, what string, ch <-chan struct{}) {
	t.Helper()
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-ch:
	case <-timer.C:
		t.Fatalf("%s did not happen in 10 s", what)
	}
}

func TestGraphQLMutationStopsPayingOnceTheCallerHasLeft(t *testing.T) {
	t.Parallel()
	var book gqlBook
	returned := make(chan struct{})
	f := setup{
		wrap:    gqlReturning(returned),
		options: []proxy.Option{book.hooks(), gqlOptions(proxy.GraphQLOptions{MaxUpstreamCalls: 3})},
	}.start(t)
	f.up.Queue(proxytest.Chat("first").After(proxytest.Gate(make(chan struct{}))))
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		body := strings.NewReader(gqlRequest(`mutation M($input: ChatInput!, $i: ImageInput!) {
			a: getAIResponse(input: $input) { id } b: getAIResponse(input: $input) { id } c: generateImage(input: $i) { id } }`,
			gqlMap{"input": gqlChat("model", "m")["input"], "i": gqlMap{"prompt": "p"}}))
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+"/graphql", body)
		req.Header.Set("Content-Type", "application/json")
		if res, err := f.Client().Do(req); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			t.Error("the caller got an answer")
		}
	}()
	first := f.up.Next()
	leave()
	gqlWait(t, "the cancellation of the first call", first.Canceled())
	gqlWait(t, "the return of the handler", returned)
	gqlWait(t, "the end of the request", left)
	f.wantCalls(t, 1)
	outs := book.outcomes()
	if len(outs) != 1 || outs[0].Ending != proxy.EndingClientGone || !errors.Is(outs[0].Err, proxy.ErrClientGone) {
		t.Errorf("hooks were told %q, want one call that ended with its caller", book.list())
	}
}

func TestGraphQLMutationsRunInTheirOrder(t *testing.T) {
	t.Parallel()
	f := start(t)
	a := gqlAsk(t, f, `mutation {
		z: sendMessage(input: {sessionId: "order", content: "1"}) { content }
		a: sendMessage(input: {sessionId: "order", content: "2"}) { content }
		m: sendMessage(input: {sessionId: "order", content: "3"}) { content }
	}`, nil)
	if want := `{"data":{"z":{"content":"1"},"a":{"content":"2"},"m":{"content":"3"}}}`; strings.TrimSpace(a.text) != want {
		t.Errorf("%s, want %s", a.text, want)
	}
	a = gqlAsk(t, f, `{ chatHistory(sessionId: "order") { content } }`, nil)
	wantSame(t, "history", any(a.Data), `{"chatHistory":[{"content":"1"},{"content":"2"},{"content":"3"}]}`)
}

func TestGraphQLHandlerAlone(t *testing.T) {
	t.Parallel()
	f := setup{wrap: func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/api/ask", h.(*proxy.Handler).GraphQL())
		return mux
	}}.start(t)
	f.up.Queue(proxytest.Chat("alone"))
	res, text := f.post(t, "/api/ask", gqlRequest(gqlGetAIResponse, gqlChat()), "Content-Type", "application/json")
	if got := gqlRead(t, res, text).ok(t, "getAIResponse")["content"]; got != "alone" {
		t.Error(text)
	}
	res, text = f.do(t, http.MethodGet, "/api/ask?query={__typename}", "")
	if res.StatusCode != 200 || strings.TrimSpace(text) != `{"data":{"__typename":"Query"}}` {
		t.Errorf("GET: status %d: %s", res.StatusCode, text)
	}
	res, text = f.do(t, http.MethodDelete, "/api/ask", "")
	gqlRead(t, res, text).wantStatus(t, http.StatusMethodNotAllowed).refused(t, "METHOD_NOT_ALLOWED")
}

func TestGraphQLUnderAPrefix(t *testing.T) {
	t.Parallel()
	f := setup{wrap: func(h http.Handler) http.Handler { return http.StripPrefix("/ai", h) }}.start(t)
	res, text := f.post(t, "/ai/graphql", gqlRequest(gqlGetAIResponse, gqlChat()), "Content-Type", "application/json")
	gqlRead(t, res, text).ok(t, "getAIResponse")
	for _, path := range []string{"/ai/graphql/", "/ai/graphql/schema/", "/ai/GraphQL", "/ai/v1/graphql", "/ai/graphqlx"} {
		if res, text := f.post(t, path, gqlRequest(gqlGetAIResponse, gqlChat()), "Content-Type", "application/json"); res.StatusCode != 404 {
			t.Errorf("%s: status %d: %s", path, res.StatusCode, text)
		}
	}
}

func TestGraphQLOverHTTP2(t *testing.T) {
	t.Parallel()
	h2 := []proxytest.ServerOption{proxytest.HTTP2()}
	f := setup{client: h2, upstream: h2}.start(t)
	f.up.Queue(proxytest.Chat("two"))
	if got := gqlAsk(t, f, gqlGetAIResponse, gqlChat()).ok(t, "getAIResponse")["content"]; got != "two" {
		t.Error(got)
	}
}

func TestGraphQLDeadlineOfTheHostIsATimeout(t *testing.T) {
	t.Parallel()
	f := setup{wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
			defer cancel()
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}}.start(t)
	f.up.Queue(proxytest.Hang())
	gqlAsk(t, f, gqlGetAIResponse, gqlChat()).wantStatus(t, http.StatusGatewayTimeout).refused(t, "TIMEOUT")
}

func TestGraphQLRefusesNewRequestsOnceItShutsDown(t *testing.T) {
	t.Parallel()
	f := start(t)
	if err := f.handler.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := gqlAsk(t, f, gqlGetAIResponse, gqlChat()).wantStatus(t, http.StatusServiceUnavailable)
	a.refused(t, "SHUTTING_DOWN")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestGraphQLCallUnderWayEndsWithTheShutdown(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.Hang())
	answered := make(chan gqlAnswer, 1)
	go func() { answered <- gqlAsk(t, f, gqlGetAIResponse, gqlChat()) }()
	req := f.up.Next()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.handler.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	(<-answered).wantStatus(t, http.StatusServiceUnavailable).refused(t, "SHUTTING_DOWN")
	gqlWait(t, "the cancellation", req.Canceled())
}
