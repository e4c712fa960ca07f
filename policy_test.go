package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
)

const (
	plEdits  = "/v1/images/edits"
	plImages = "/v1/images/generations"
)

// plStrict is a policy with every part.
func plStrict() proxy.Policy {
	return proxy.Policy{
		Models: []string{"gpt-x", "fine-*"}, MaxTokens: 100, MaxN: 2, MaxMessages: 2,
		Values: map[string][]string{"size": {"auto", "1024x1024"}, "quality": {"low"}},
		Refuse: []string{"store", "service_tier"},
	}
}

// TestS28PolicyJudgesRequests: every request that is refused costs nothing, and
// every other one goes on as its writer wrote it.
func TestS28PolicyJudgesRequests(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithPolicy(plStrict()))
	const messages = `"messages":[],"quality":"low","max_tokens":1`
	for _, tt := range []struct {
		members string // of a chat
		status  int
		param   string // "": it passes
	}{
		{`"model":"gpt-x"`, 200, ""},
		{`"model":"fine-"`, 200, ""},
		{`"model":"fine-tuned"`, 200, ""},
		{`"model":"fin\u0065-tuned"`, 200, ""},
		{`"model":"fin"`, 403, "model"},
		{`"model":"gpt-x2"`, 403, "model"},
		{`"model":"GPT-X"`, 403, "model"},
		{`"model":" gpt-x"`, 403, "model"},
		{`"model":"gpt-x\u0000"`, 403, "model"},
		{`"model":"gpt-x\ud800"`, 403, "model"},
		{`"model":null`, 403, "model"},
		{`"model":["gpt-x"]`, 403, "model"},
		{`"model":{"gpt-x":1}`, 403, "model"},
		{`"temperature":1`, 403, "model"}, // the default one is not among them
		{`"model":"gpt-x","n":2`, 200, ""},
		{`"model":"gpt-x","n":null`, 200, ""},
		{`"model":"gpt-x","n":3`, 403, "n"},
		{`"model":"gpt-x","n":18446744073709551617`, 403, "n"},
		{`"model":"gpt-x","n":` + strings.Repeat("9", 400), 403, "n"},
		{`"model":"gpt-x","n":1.0`, 400, "n"},
		{`"model":"gpt-x","n":1e0`, 400, "n"},
		{`"model":"gpt-x","n":-1`, 400, "n"},
		{`"model":"gpt-x","n":"1"`, 400, "n"},
		{`"model":"gpt-x","n":[1]`, 400, "n"},
		{`"model":"gpt-x","max_completion_tokens":100`, 200, ""},
		{`"model":"gpt-x","max_completion_tokens":101`, 403, "max_completion_tokens"},
		{`"model":"gpt-x","max_completion_tokens":"1"`, 400, "max_completion_tokens"},
		{`"model":"gpt-x","max_completion_tokens":1e9`, 400, "max_completion_tokens"},
		{`"model":"gpt-x","store":false`, 200, ""},
		{`"model":"gpt-x","store":null`, 200, ""},
		{`"model":"gpt-x","store":true`, 403, "store"},
		{`"model":"gpt-x","store":0`, 403, "store"},
		{`"model":"gpt-x","service_tier":"priority"`, 403, "service_tier"},
		{`"model":"gpt-x","size":"auto"`, 200, ""},
		{`"model":"gpt-x","size":null`, 200, ""},
		{`"model":"gpt-x","size":"4096x4096"`, 403, "size"},
		{`"model":"gpt-x","size":1024`, 400, "size"},
		{`"model":"gpt-x","Store":true`, 400, "Store"},
		{`"model":"gpt-x","\u0073ize":"auto","size":"auto"`, 400, "size"},
	} {
		body := `{` + tt.members + `,` + messages + `}`
		if tt.param == "" {
			bdForwarded(t, f, streamPath, body)
			continue
		}
		code := "forbidden"
		if tt.status == 400 {
			code = "invalid_request"
		}
		if strings.Contains(tt.members, "Store") || strings.Contains(tt.members, "u0073") {
			code = "duplicate_key"
		}
		bdRefused(t, f, streamPath, body, tt.status, code, tt.param)
	}
	bdRefused(t, f, streamPath, `{"model":"gpt-x","messages":[1,2,3],"quality":"low"}`, 403, "forbidden", "messages")
	bdRefused(t, f, streamPath, `{"model":"gpt-x","messages":[]}`, 403, "forbidden", "quality") // left out is "auto"
}

// TestPolicyHoldsOnEveryRoute: no way in is forgotten.
func TestPolicyHoldsOnEveryRoute(t *testing.T) {
	t.Parallel()
	f := setup{
		options: []proxy.Option{proxy.WithPolicy(proxy.Policy{Models: []string{"cheap"}, MaxN: 1})},
		wrap:    besideItsParts,
	}.start(t)
	for _, path := range []string{
		"/", "/v1/chat/completions", "/chat/completions", "/images/generations", "/generate-image",
		plImages, plEdits, "/chat", "/images", "/images/edits",
	} {
		bdRefused(t, f, path, `{"model":"dear","messages":[],"prompt":"p"}`, 403, "forbidden", "model")
		bdRefused(t, f, path, `{"messages":[],"prompt":"p"}`, 403, "forbidden", "model")
		bdRefused(t, f, path, `{"model":"cheap","n":2,"messages":[],"prompt":"p"}`, 403, "forbidden", "n")
	}
	bdRefused(t, f, "/", `{"model":"dear","action":"generate-image","prompt":"p"}`, 403, "forbidden", "model")
	for _, path := range []string{"/graphql", "/gql"} {
		for query, input := range map[string]gqlMap{
			gqlGetAIResponse: gqlChat("model", "dear"),
			gqlGenerateImage: {"input": gqlMap{"prompt": "p", "model": "dear"}},
		} {
			res, text := f.post(t, path, gqlRequest(query, input), "Content-Type", "application/json")
			if !strings.Contains(text, `"code":"FORBIDDEN"`) || res.StatusCode != http.StatusForbidden {
				t.Errorf("%s: %d %s", path, res.StatusCode, text)
			}
		}
	}
	f.wantCalls(t, 0)
}

// besideItsParts serves a handler and, on paths of the host's own, its parts.
func besideItsParts(whole http.Handler) http.Handler {
	h, _ := whole.(*proxy.Handler)
	mux := http.NewServeMux()
	mux.Handle("/chat", h.Chat())
	mux.Handle("/images", h.Images())
	mux.Handle("/images/edits", h.Images())
	mux.Handle("/gql", h.GraphQL())
	mux.Handle("/", h)
	return mux
}

func TestPolicyHoldsForASubscription(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithPolicy(proxy.Policy{Models: []string{"cheap"}}))
	res, text := f.post(t, "/graphql", gqlRequest(gqlSubscription, gqlChat("model", "dear")),
		"Content-Type", "application/json", "Accept", "text/event-stream")
	if res.StatusCode != http.StatusOK || !strings.Contains(text, "FORBIDDEN") {
		t.Errorf("%d %s", res.StatusCode, text)
	}
	f.wantCalls(t, 0)
}

// TestPolicyBoundsTokensWhereTheRequestDoesNot: under the name that the model
// takes.
func TestPolicyBoundsTokensWhereTheRequestDoesNot(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithPolicy(proxy.Policy{MaxTokens: 500}))
	for _, tt := range []struct{ path, body, want string }{
		{streamPath, `{"model":"gpt-6-luna","messages":[]}`, `{"max_completion_tokens":500,"model":"gpt-6-luna","messages":[]}`},
		{streamPath, `{"model":"gpt-4o","messages":[]}`, `{"max_tokens":500,"model":"gpt-4o","messages":[]}`},
		{streamPath, `{"model":"m","max_tokens":500,"messages":[]}`, `{"model":"m","max_tokens":500,"messages":[]}`},
		{streamPath, `{"model":"m","max_tokens":1,"max_completion_tokens":2,"messages":[]}`, `{"model":"m","max_tokens":1,"max_completion_tokens":2,"messages":[]}`},
		{streamPath, `{"model":"m","max_completion_tokens":null,"messages":[]}`, `{"model":"m","max_completion_tokens":500,"messages":[]}`},
		{"/", `{"model":"gpt-4o","messages":[]}`, `{"temperature":0.7,"max_tokens":500,"model":"gpt-4o","messages":[]}`},
		{plImages, `{"model":"m","prompt":"p"}`, `{"model":"m","prompt":"p"}`},
	} {
		bdSent(t, f, tt.path, tt.body, tt.want)
	}
	bdRefused(t, f, streamPath, `{"model":"m","max_tokens":501,"messages":[]}`, 403, "forbidden", "max_tokens")
	bdRefused(t, f, streamPath, `{"model":"m","max_tokens":1,"max_completion_tokens":501,"messages":[]}`, 403, "forbidden", "max_completion_tokens")
	gqlAsk(t, f, gqlGetAIResponse, gqlChat("model", "gpt-6-luna"))
	if got := gqlSent(t, f)["max_completion_tokens"]; fmt.Sprint(got) != "500" {
		t.Errorf("GraphQL sent max_completion_tokens %v", got)
	}
}

func TestPolicyReadsForms(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithPolicy(proxy.Policy{
		Models: []string{"cheap"}, MaxN: 2, Values: map[string][]string{"size": {"auto", "1024x1024"}}, Refuse: []string{"store"},
	}))
	image := edPart{name: "image", file: "a.png", value: edBytes()}
	for _, tt := range []struct {
		parts  []edPart
		status int
		param  string
	}{
		{[]edPart{{name: "model", value: "cheap"}, image}, 200, ""},
		{[]edPart{image, {name: "n", value: "2"}, {name: "size", value: "1024x1024"}, {name: "model", value: "cheap"}}, 200, ""},
		{[]edPart{image}, 403, "model"},
		{[]edPart{{name: "model", value: "dear"}, image}, 403, "model"},
		{[]edPart{{name: "model", file: "cheap", value: "cheap"}, {name: "model", value: "dear"}}, 400, "model"},
		{[]edPart{{name: "model", value: "cheap"}, {name: "n", value: "3"}}, 403, "n"},
		{[]edPart{{name: "model", value: "cheap"}, {name: "n", value: "1.0"}}, 400, "n"},
		{[]edPart{{name: "model", value: "cheap"}, {name: "n[]", value: "9"}}, 400, "n"},
		{[]edPart{{name: "model", value: "cheap"}, {name: "model[0]", value: "dear"}}, 400, "model"},
		{[]edPart{{name: "model", value: "cheap"}, {name: "Size", value: "huge"}}, 400, "size"},
		{[]edPart{{name: "model", value: "cheap"}, {name: "size", value: "huge"}}, 403, "size"},
		{[]edPart{{name: "model", value: "cheap"}, {name: "store", value: "true"}}, 403, "store"},
		{[]edPart{{name: "model", value: "cheap"}, {name: "store", value: "false"}}, 200, ""},
	} {
		body, contentType := edForm(t, "b", tt.parts...)
		if tt.param == "" {
			edSent(t, f, plEdits, body, contentType)
			continue
		}
		code := map[bool]string{true: "forbidden", false: "duplicate_key"}[tt.status == 403]
		if tt.parts[len(tt.parts)-1].value == "1.0" {
			code = "invalid_request"
		}
		bdRefused(t, f, plEdits, body, tt.status, code, tt.param, "Content-Type", contentType)
	}
}

// TestPolicyOfACallerNarrows: what everybody may not, no caller may.
func TestPolicyOfACallerNarrows(t *testing.T) {
	t.Parallel()
	f := start(t,
		proxy.WithPolicy(proxy.Policy{Models: []string{"a", "b"}, MaxTokens: 100}),
		proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) {
			c := proxy.Caller{ID: r.Header.Get("X-User")}
			if c.ID == "narrow" {
				c.Policy = proxy.Policy{Models: []string{"b", "c"}, MaxTokens: 10, Refuse: []string{"tools"}}
			}
			return c, nil
		}))
	bdSent(t, f, streamPath, `{"model":"a","messages":[],"tools":[]}`, `{"max_completion_tokens":100,"model":"a","messages":[],"tools":[]}`, "X-User", "wide")
	bdSent(t, f, streamPath, `{"model":"b","messages":[]}`, `{"max_completion_tokens":10,"model":"b","messages":[]}`, "X-User", "narrow")
	bdRefused(t, f, streamPath, `{"model":"a","messages":[]}`, 403, "forbidden", "model", "X-User", "narrow")
	bdRefused(t, f, streamPath, `{"model":"c","messages":[]}`, 403, "forbidden", "model", "X-User", "narrow")
	bdRefused(t, f, streamPath, `{"model":"b","messages":[],"tools":[]}`, 403, "forbidden", "tools", "X-User", "narrow")
	bdRefused(t, f, streamPath, `{"model":"b","messages":[],"Tools":[]}`, 400, "duplicate_key", "Tools", "X-User", "narrow")
	bdRefused(t, f, streamPath, `{"model":"b","messages":[],"max_tokens":11}`, 403, "forbidden", "max_tokens", "X-User", "narrow")
}

func TestPolicyComesBeforeTheHooksAndNotAfter(t *testing.T) {
	t.Parallel()
	asked := 0
	f := start(t, proxy.WithPolicy(proxy.Policy{Models: []string{"cheap"}}), proxy.WithHooks(proxy.Hooks{
		Admit: func(context.Context, proxy.Call) error { asked++; return nil },
		Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) {
			return []byte(`{"model":"the host's own","messages":[]}`), nil
		},
	}))
	bdRefused(t, f, streamPath, `{"model":"dear","messages":[]}`, 403, "forbidden", "model")
	if asked != 0 {
		t.Error("Admit was asked about a request that the policy refuses")
	}
	bdSent(t, f, streamPath, `{"model":"cheap","messages":[]}`, `{"model":"the host's own","messages":[]}`)
}

func TestPoliciesThatCannotBeMeantAreRefused(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]proxy.Policy{
		"an empty model":   {Models: []string{""}},
		"two stars":        {Models: []string{"*a*"}},
		"negative tokens":  {MaxTokens: -1},
		"negative n":       {MaxN: -1},
		"negative count":   {MaxMessages: -1},
		"no value":         {Values: map[string][]string{"size": nil}},
		"a judged key":     {Refuse: []string{"model"}},
		"an empty key":     {Refuse: []string{""}},
		"values of stream": {Values: map[string][]string{"stream": {"true"}}},
	} {
		_, err := proxy.NewHandler(proxy.WithKey("sk-test"), proxy.WithPolicy(p))
		if err == nil || !strings.Contains(err.Error(), "WithPolicy") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
