package proxy_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
)

func quietGraphQLLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

// stubUpstream answers every call well, in memory.
type stubUpstream struct{}

func (stubUpstream) RoundTrip(req *http.Request) (*http.Response, error) {
	raw, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	var asked struct{ Stream bool }
	if err := json.Unmarshal(raw, &asked); err != nil {
		return nil, err // what goes upstream is always JSON
	}
	contentType, body := "application/json", `{"id":"c","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`
	switch {
	case strings.HasSuffix(req.URL.Path, "/images/generations"):
		body = `{"created":1,"data":[{"b64_json":"AAAA"}]}`
	case asked.Stream:
		contentType = "text/event-stream"
		body = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ok\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
	}
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {contentType}}, ContentLength: int64(len(body)),
		Body: io.NopCloser(strings.NewReader(body)),
	}, nil
}

// FuzzGraphQL: whatever is sent to /graphql, nothing panics, nothing is a fault
// of the server, and every answer is well-formed.
func FuzzGraphQL(f *testing.F) {
	chat := string(mustJSON(f, gqlChat()))
	for _, query := range []string{
		gqlGetAIResponse, gqlGenerateImage, gqlCreateSession, gqlChatHistory, gqlSendMessage, gqlSubscription,
		"{ __typename }", "{...A} fragment A on Query {...A}", "{", "", "\ufeff{ __typename }", "# 你好\n{ __typename }",
		`query($a:!){__typename}`, `{ chatHistory(sessionId: "\uD83D\uDE00 \u{1F600}", last: 99999999999) { id } }`,
		`mutation { getAIResponse(input: {messages: [], extra: {a: [$x, null, 1e999]}}) { id } }`,
		`query($last: Int! = 3, $b: Boolean) { chatHistory(last: $last) { id @skip(if: $b) } }`,
		`{ __schema { types { fields { type { ofType { name } } } } } __type(name: "Query") { name } }`,
		`mutation { createSession(input: {title: """block "quotes" \""" """, system: null}) { session { messages(last: -1) { toolCalls { name } } } } }`,
		`subscription { aiResponse(input: {messages: {role: "user", parts: [{a: 1}]}}) { done message { id } } }`,
	} {
		body := gqlRequest(query, json.RawMessage(chat))
		f.Add(false, "application/json", "*/*", "", body)
		f.Add(false, "application/json", gqlUrql, "", body)
		f.Add(true, "", gqlOwn, "query="+url.QueryEscape(query)+"&variables="+url.QueryEscape(chat), "")
	}
	f.Add(false, "application/json; charset=utf-8", gqlMultipart, "", `{"query":"{ __typename }","variables":null,"operationName":"","extensions":{}}`)
	f.Add(false, "text/plain", "text/event-stream;q=x,,", "", "[]")
	f.Add(true, "", "*/*;q=NaN", "variables={}}&query=%ff", "")
	handler, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithTransport(stubUpstream{}), proxy.WithLogger(quietGraphQLLogger()),
		proxy.WithSessionStore(&proxy.MemoryStore{MaxSessions: 100}))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, get bool, contentType, accept, query, body string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/graphql", strings.NewReader(body))
		if get {
			r = httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/graphql", http.NoBody)
		}
		r.URL.RawQuery = query
		r.Header["Content-Type"], r.Header["Accept"] = []string{contentType}, []string{accept}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		answer := w.Body.String()
		if w.Code >= 500 || w.Code < 200 {
			t.Fatalf("status %d: %s", w.Code, answer)
		}
		if strings.Contains(answer, canary) || strings.Contains(answer, "goroutine ") {
			t.Fatalf("the answer tells what it must not: %s", answer)
		}
		switch got := w.Header().Get("Content-Type"); {
		case strings.HasPrefix(got, "text/event-stream"):
			wantEventsOfResults(t, answer)
		case strings.HasPrefix(got, "multipart/mixed"):
			if !strings.HasPrefix(answer, "\r\n--graphql\r\n") || !strings.HasSuffix(answer, "\r\n--graphql--\r\n") {
				t.Fatalf("not whole: %q", answer)
			}
		default:
			wantResult(t, answer)
		}
	})
}

// wantResult checks that a text is a GraphQL result.
func wantResult(t *testing.T, text string) {
	t.Helper()
	var result struct {
		Data   map[string]json.RawMessage
		Errors []struct {
			Message    string
			Extensions struct{ Code string }
		}
	}
	if err := json.Unmarshal([]byte(text), &result); err != nil {
		t.Fatalf("no result: %v: %s", err, text)
	}
	if result.Data == nil && len(result.Errors) == 0 {
		t.Fatalf("neither data nor errors: %s", text)
	}
	for _, e := range result.Errors {
		if e.Message == "" || e.Extensions.Code == "" {
			t.Fatalf("an error without words or code: %s", text)
		}
		if e.Extensions.Code == "INTERNAL_SERVER_ERROR" {
			t.Fatalf("an input made an internal error: %s", text)
		}
	}
}

func wantEventsOfResults(t *testing.T, text string) {
	t.Helper()
	rest, ok := strings.CutSuffix(strings.TrimPrefix(text, ":\n\n"), "event: complete\ndata: \n\n")
	if !ok {
		t.Fatalf("no end: %q", text)
	}
	for frame := range strings.SplitSeq(strings.TrimSuffix(rest, "\n\n"), "\n\n") {
		data, ok := strings.CutPrefix(frame, "event: next\ndata: ")
		if !ok || strings.ContainsAny(data, "\r\n") {
			t.Fatalf("frame %q", frame)
		}
		wantResult(t, data)
	}
}
