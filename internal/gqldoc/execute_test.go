package gqldoc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
)

// publicError is an error made for the client.
type publicError struct {
	text       string
	extensions map[string]any
}

func (e *publicError) Error() string              { return e.text }
func (e *publicError) Extensions() map[string]any { return e.extensions }

func give(v any) gqldoc.Resolver {
	return func(context.Context, gqldoc.Params) (any, error) { return v, nil }
}

func fail(err error) gqldoc.Resolver {
	return func(context.Context, gqldoc.Params) (any, error) { return nil, err }
}

func TestKeysComeInTheOrderOfTheQuery(t *testing.T) {
	node := map[string]any{"id": "1", "role": "USER", "int": 5, "float": 0.5, "old": nil, "nodes": []any{
		map[string]any{"id": "2", "role": "USER"}, map[string]any{"id": "3", "role": "SYSTEM"},
	}}
	node["next"] = map[string]any{"id": "4", "role": "ASSISTANT"}
	s := kitchenSchema(t, resolvers{"Query.node": give(node), "Query.nodes": give([]map[string]any{node}), "Query.echo": give("e")})
	for _, c := range []struct{ name, query, variables, want string }{
		{"as written", `{node {role id int float old}}`, ``, `{"data":{"node":{"role":"USER","id":"1","int":5,"float":0.5,"old":null}}}`},
		{"the other way", `{node {old float int id role}}`, ``, `{"data":{"node":{"old":null,"float":0.5,"int":5,"id":"1","role":"USER"}}}`},
		{"aliases", `{z: node {b: id a: role} echo a: echo}`, ``, `{"data":{"z":{"b":"1","a":"USER"},"echo":"e","a":"e"}}`},
		{
			"first occurrence counts", `{node {id next {id}} echo node {role next {role}}}`, ``,
			`{"data":{"node":{"id":"1","next":{"id":"4","role":"ASSISTANT"},"role":"USER"},"echo":"e"}}`,
		},
		{
			"fragments in place", `{...F echo} fragment F on Query {node {...N id}} fragment N on Node {role ... on Node {int}}`, ``,
			`{"data":{"node":{"role":"USER","int":5,"id":"1"},"echo":"e"}}`,
		},
		{"a fragment twice", `{node {...N id ...N}} fragment N on Node {role}`, ``, `{"data":{"node":{"role":"USER","id":"1"}}}`},
		{
			"skipped", `query ($b: Boolean!) {node {id @skip(if: $b) role int @include(if: $b) ... @skip(if: $b) {float} ...N @include(if: $b)} echo @skip(if: true)} fragment N on Node {id}`, `{"b":true}`,
			`{"data":{"node":{"role":"USER","int":5,"id":"1"}}}`,
		},
		{
			"not skipped", `query ($b: Boolean!) {node {id @skip(if: $b) role int @include(if: $b) ... @skip(if: $b) {float} ...N @include(if: $b)} echo @skip(if: true)} fragment N on Node {id}`, `{"b":false}`,
			`{"data":{"node":{"id":"1","role":"USER","float":0.5}}}`,
		},
		{"both", `{node {id role @skip(if: false) @include(if: false)}}`, ``, `{"data":{"node":{"id":"1"}}}`},
		{"nothing left", `{echo @skip(if: true)}`, ``, `{"data":{}}`},
		{"nothing left below", `{node {id @skip(if: true)}}`, ``, `{"data":{"node":{}}}`},
		{"a skipped one first", `{node {id @skip(if: true) role id}}`, ``, `{"data":{"node":{"role":"USER","id":"1"}}}`},
		{"lists", `{nodes {nodes {role id}}}`, ``, `{"data":{"nodes":[{"nodes":[{"role":"USER","id":"2"},{"role":"SYSTEM","id":"3"}]}]}}`},
		{"typename", `{__typename node {__typename n: __typename}}`, ``, `{"data":{"__typename":"Query","node":{"__typename":"Node","n":"Node"}}}`},
		{"introspection among fields", `{echo __type(name: "Date") {kind name} node {id}}`, ``, `{"data":{"echo":"e","__type":{"kind":"SCALAR","name":"Date"},"node":{"id":"1"}}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := do(t, s, c.query, c.variables); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestValuesAreWritten(t *testing.T) {
	for _, c := range []struct {
		name  string
		field string
		value any
		want  string
	}{
		{"text", "old", "a\"\\\n\t\r\x00\x1f<>&é\u2028😀\xff", `"a\"\\\n\t\r\u0000\u001f<>&é` + "\u2028" + `😀�"`},
		{"empty text", "old", "", `""`},
		{"json", "data", map[string]any{"b": []int{1}, "a": "<"}, `{"a":"<","b":[1]}`},
		{"raw json, on one line", "data", json.RawMessage("{\n \"z\": 1,\n \"a\": [ ]\n}"), `{"z":1,"a":[]}`},
		{"broken raw json", "data", json.RawMessage("{"), `null`},
		{"json that cannot be", "data", make(chan int), `null`},
		{"number kept", "data", json.Number("99999999999999999999"), `99999999999999999999`},
		{"int64", "int", int64(7), `7`},
		{"float", "float", 1e21, `1e+21`},
		{"small float", "float", 0.1, `0.1`},
		{"id from int", "id", 12, `"12"`},
		{"nil map", "next", map[string]any(nil), `{"id":null}`},
		{"nil pointer", "next", (*int)(nil), `null`},
		{"empty list", "nodes", []any{}, `[]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := kitchenSchema(t, resolvers{"Query.node": give(map[string]any{c.field: c.value})})
			selection := c.field
			switch c.field {
			case "next":
				selection = "next {old}"
				c.want = strings.ReplaceAll(c.want, "id", "old")
			case "nodes":
				selection = "nodes {id}"
			}
			got := do(t, s, "{node {"+selection+"}}", "")
			if want := `{"data":{"node":{"` + c.field + `":` + c.want + `}}}`; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if !json.Valid([]byte(got)) || strings.Contains(got, "\n") {
				t.Errorf("no line of JSON: %q", got)
			}
		})
	}
}

func TestWhatClientsSeeOfErrors(t *testing.T) {
	upstream := &publicError{"OpenAI API returned 429: slow down", map[string]any{
		"code": "UPSTREAM_RATE_LIMITED", "upstream": map[string]any{"status": 429}, "a": 1,
	}}
	for _, c := range []struct {
		name    string
		resolve gqldoc.Resolver
		want    string
	}{
		{"public", fail(upstream), `{"message":"OpenAI API returned 429: slow down","locations":[{"line":1,"column":2}],"path":["x"],` +
			`"extensions":{"code":"UPSTREAM_RATE_LIMITED","a":1,"upstream":{"status":429}}}`},
		{"public, wrapped", fail(fmt.Errorf("secret: %w", upstream)), `{"message":"OpenAI API returned 429: slow down",`},
		{"public without code", fail(&publicError{"no", nil}), `{"message":"no","locations":[{"line":1,"column":2}],"path":["x"],"extensions":{"code":"INTERNAL_SERVER_ERROR"}}`},
		{"private", fail(errors.New("secret")), `{"message":"Internal server error.","locations":[{"line":1,"column":2}],"path":["x"],"extensions":{"code":"INTERNAL_SERVER_ERROR"}}`},
		{"panic with text", func(context.Context, gqldoc.Params) (any, error) { panic("secret") }, `"Internal server error."`},
		{"panic with error", func(context.Context, gqldoc.Params) (any, error) { panic(errors.New("secret")) }, `"Internal server error."`},
		{"panic with nil map", func(context.Context, gqldoc.Params) (any, error) {
			var m map[string]int
			m["secret"] = 1 //nolint:staticcheck // the panic is the test
			return nil, nil
		}, `"Internal server error."`},
		{"panic with number", func(context.Context, gqldoc.Params) (any, error) { panic(42) }, `"Internal server error."`},
		{"thunk", give(func() (any, error) { return "secret", nil }), `"Internal server error."`},
		{"thunk below", give(map[string]any{"id": func() any { return "secret" }}), `"Internal server error."`},
		{"timeout", fail(fmt.Errorf("secret: %w", context.DeadlineExceeded)), `"extensions":{"code":"TIMEOUT"}`},
		{"cancelled", fail(fmt.Errorf("secret: %w", context.Canceled)), `"extensions":{"code":"CANCELLED"}`},
		{"no list", give(map[string]any{"id": "1", "nodes": "secret"}), `"Internal server error."`},
		{"null at non-null", give(map[string]any{}), `Cannot return null for non-nullable field Node.id.`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := kitchenSchema(t, resolvers{"Query.node": c.resolve, "Query.echo": give("e")})
			r := execute(context.Background(), t, s, "{x:node{id nodes{id}} echo}", "", nil)
			got := string(r.AppendJSON(nil))
			contains(t, got, c.want, `"echo":"e"}}`)
			if !strings.HasPrefix(got, `{"errors":[`) || strings.Contains(got, "secret") || len(r.Errors) != 1 {
				t.Error(got)
			}
			if c.name != "null at non-null" && (r.Errors[0].Err == nil || r.Errors[0].Kind != gqldoc.KindExecution) {
				t.Errorf("nothing for the log: %+v", r.Errors[0])
			}
		})
	}
}

func TestNullRisesToTheNextNullable(t *testing.T) {
	list := []any{map[string]any{"id": "1"}, map[string]any{}, map[string]any{"id": "3"}}
	s := kitchenSchema(t, resolvers{"Query.node": give(map[string]any{"id": "0", "nodes": list}), "Query.nodes": give(list)})
	contains(t, do(t, s, "{node {id nodes {id}}}", ""), `"path":["node","nodes",1,"id"]`, `"data":{"node":{"id":"0","nodes":null}}}`)
	contains(t, do(t, s, "{nodes {id}}", ""), `"path":["nodes",1,"id"]`, `"data":null}`)
}

func TestErrorsOfSiblingsComeInTheOrderOfTheQuery(t *testing.T) {
	s := kitchenSchema(t, resolvers{"Query.must": fail(&publicError{"no", nil})})
	query := "{" + each(10, "a%d: must(x: 1) ") + "}"
	first := do(t, s, query, "")
	contains(t, first, `{"errors":[{"message":"no","locations":[{"line":1,"column":2}],"path":["a0"]`)
	for range 20 {
		if got := do(t, s, query, ""); got != first {
			t.Fatalf("%s\n%s", first, got)
		}
	}
}

func TestMutationsRunInTheOrderOfTheSpec(t *testing.T) {
	var order []string
	note := func(name string) gqldoc.Resolver {
		return func(context.Context, gqldoc.Params) (any, error) {
			order = append(order, name)
			return nil, nil
		}
	}
	s := kitchenSchema(t, resolvers{"Mutation.a": note("a"), "Mutation.b": note("b"), "Mutation.c": note("c")})
	// The fragment stands above the operation; graphql-go would run c first.
	do(t, s, "fragment F on Mutation {c {id}} mutation {b {id} a {id} ...F b {role} x: a {id}}", "")
	if got := strings.Join(order, ""); got != "baca" {
		t.Errorf("ran %s", got)
	}
}

func TestNothingRunsAfterTheCallerHasLeft(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	ran := 0
	pay := func(ctx context.Context, _ gqldoc.Params) (any, error) {
		ran++
		cancel()
		return nil, ctx.Err()
	}
	s := kitchenSchema(t, resolvers{"Mutation.a": pay})
	got := doWith(ctx, t, s, "mutation {a {id} b: a {id} c: a {id}}", "", nil)
	if ran != 1 {
		t.Errorf("%d of 3 ran", ran)
	}
	contains(t, got, `"code":"CANCELLED"`, `"data":{"a":null,"b":null,"c":null}`)

	late, stop := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer stop()
	contains(t, doWith(late, t, s, "mutation {a {id}}", "", nil), `"code":"TIMEOUT"`, `"message":"The request timed out."`)
}

// TestNoGoroutineIsLeftBehind fails by a deadlock of the bubble: graphql-go
// leaves a goroutine for each context that dies during an execution.
func TestNoGoroutineIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kitchenSchema(t, resolvers{"Mutation.a": func(ctx context.Context, _ gqldoc.Params) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		for range 20 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			contains(t, doWith(ctx, t, s, "mutation {a {id} b: a {id}}", "", nil), `"code":"TIMEOUT"`, `"path":["b"]`)
			cancel()
		}
	})
}

func TestResolversGetTheLiveContext(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, "value"))
	defer cancel()
	s := kitchenSchema(t, resolvers{"Query.node": func(ctx context.Context, _ gqldoc.Params) (any, error) {
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
			t.Error("the context lives on")
		}
		return map[string]any{"id": ctx.Value(key{})}, nil
	}})
	if got := doWith(ctx, t, s, "{node {id}}", "", nil); got != `{"data":{"node":{"id":"value"}}}` {
		t.Error(got)
	}
}

func TestSourceAndRoot(t *testing.T) {
	s := kitchenSchema(t, resolvers{
		"Query.echo": func(_ context.Context, p gqldoc.Params) (any, error) { return fmt.Sprint(p.Source), nil },
		"Query.node": give(map[string]any{"id": "parent"}),
		"Node.nodes": func(_ context.Context, p gqldoc.Params) (any, error) {
			return []any{map[string]any{"id": fmt.Sprint(p.Source.(map[string]any)["id"], p.Args["first"])}}, nil
		},
	})
	got := doWith(context.Background(), t, s, "{echo node {nodes(first: 3) {id} x: nodes {id}}}", "", "root")
	if got != `{"data":{"echo":"root","node":{"nodes":[{"id":"parent3"}],"x":[{"id":"parent10"}]}}}` {
		t.Error(got)
	}
	if got := do(t, s, "{echo}", ""); got != `{"data":{"echo":"<nil>"}}` {
		t.Error(got)
	}
	// Without a resolver the root may be a map.
	plain := kitchenSchema(t, nil)
	if got := doWith(context.Background(), t, plain, "{echo}", "", map[string]any{"echo": "x"}); got != `{"data":{"echo":"x"}}` {
		t.Error(got)
	}
	if got := do(t, plain, "{echo}", ""); got != `{"data":{"echo":null}}` {
		t.Error(got)
	}
}

func TestSubscriptionsRunPerEvent(t *testing.T) {
	s := kitchenSchema(t, resolvers{"Subscription.tock": func(_ context.Context, p gqldoc.Params) (any, error) {
		if p.Args != nil {
			t.Error("arguments are coerced for each event")
		}
		return fmt.Sprint("tock ", p.Source), nil
	}})
	prepare := func(query, variables string) (*gqldoc.Operation, map[string]any) {
		doc, errs := s.Prepare(query)
		if errs != nil {
			t.Fatal(errs[0].Message)
		}
		op, _ := doc.Operation("")
		vars, errs := op.Variables(decode(t, variables))
		if errs != nil {
			t.Fatal(errs[0].Message)
		}
		return op, vars
	}
	op, vars := prepare("subscription ($n: Int = 4) {...F} fragment F on Subscription {x: tick(n: $n) {role id}}", `{"n":7}`)
	root, errs := op.Root(vars)
	if errs != nil || root.Field != "tick" || root.Key != "x" || root.Args["n"] != 7 {
		t.Errorf("%+v %v", root, errs)
	}
	run := func(event any) string {
		return string(op.Execute(context.Background(), vars, event).AppendJSON(nil))
	}
	if got := run(map[string]any{"id": "1", "role": "USER"}); got != `{"data":{"x":{"role":"USER","id":"1"}}}` {
		t.Error(got)
	}
	if got := run(nil); got != `{"data":{"x":null}}` {
		t.Error(got)
	}
	contains(t, run(&publicError{"broken", map[string]any{"code": "UPSTREAM_ERROR"}}),
		`{"errors":[{"message":"broken"`, `"path":["x"]`, `"code":"UPSTREAM_ERROR"`, `"data":{"x":null}}`)
	contains(t, run(errors.New("secret")), `"Internal server error."`)

	tock, vars := prepare("subscription {tock}", "")
	if got := string(tock.Execute(context.Background(), vars, 3).AppendJSON(nil)); got != `{"data":{"tock":"tock 3"}}` {
		t.Error(got)
	}
	bad, vars := prepare("subscription ($n: Int) {tick(n: $n) {id}}", `{}`)
	if root, errs := bad.Root(vars); errs != nil || root.Args["n"] != 1 {
		t.Errorf("default: %+v %v", root, errs)
	}
}

func TestRequestErrorsHaveNoData(t *testing.T) {
	got := string(gqldoc.Refused([]gqldoc.Error{{Message: "no", Code: "BAD_REQUEST"}, {Message: "plain"}}).AppendJSON([]byte("x")))
	if got != `x{"errors":[{"message":"no","extensions":{"code":"BAD_REQUEST"}},{"message":"plain"}]}` {
		t.Error(got)
	}
}

// TestFirstUseInParallel is for the race detector: graphql-go fills caches on
// first use, conversion is lazy, documents are shared.
func TestFirstUseInParallel(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { // schemas too are made in parallel
			s := proxySchema(t, stubs(3))
			doc, errs := s.Prepare(fullIntrospection)
			if errs != nil {
				t.Error(errs[0].Message)
				return
			}
			var inner sync.WaitGroup
			for range 4 {
				inner.Go(func() {
					op, _ := doc.Operation("")
					op.Execute(context.Background(), nil, nil).AppendJSON(nil)
					for _, d := range documented {
						if got := do(t, s, d.document, d.variables); strings.Contains(got, "errors") {
							t.Error(got)
						}
					}
				})
			}
			inner.Wait()
		})
	}
	wg.Wait()
}
