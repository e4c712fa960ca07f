package gqldoc_test

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
)

// echoSchema answers echo and must with their arguments as JSON, so that an
// absent key and a null one show.
func echoSchema(tb testing.TB) *gqldoc.Schema {
	echo := func(_ context.Context, p gqldoc.Params) (any, error) {
		text, err := json.Marshal(p.Args)
		return string(text), err
	}
	return kitchenSchema(tb, resolvers{"Query.echo": echo, "Query.must": echo})
}

// The arguments echo has by default.
const (
	standard    = `"def":{"id":"d","inner":{"a":1,"b":["x","y\n\"z\""],"c":"ASSISTANT","f":1.5},"list":[1,null],"name":"n","old":null}`
	standardEnd = `"req":3,"roles":["USER","ASSISTANT"]`
)

// innerDefault is what Outer.inner is when absent.
const innerDefault = `"inner":{"a":1,"b":["x","y\n\"z\""],"c":"ASSISTANT","f":1.5}`

func TestArgumentsAreCoerced(t *testing.T) {
	s := echoSchema(t)
	for _, c := range []struct{ name, query, variables, want string }{
		{"nothing given", `{echo}`, ``, ``},
		{"null is not absent", `{echo(i: null)}`, ``, `"i":null`},
		{"null by variable", `query ($x: Int) {echo(i: $x)}`, `{"x":null}`, `"i":null`},
		{"absent by variable", `query ($x: Int) {echo(i: $x)}`, `{}`, ``},
		{"variable's default when absent", `query ($x: Int = 8) {echo(i: $x)}`, `{}`, `"i":8`},
		{"no default when null", `query ($x: Int = 8) {echo(i: $x)}`, `{"x":null}`, `"i":null`},
		{"non-null variable with default", `query ($x: Int! = 8) {echo(i: $x)}`, `{}`, `"i":8`},
		{"default null", `query ($x: Int = null) {echo(i: $x)}`, `{}`, `"i":null`},
		{"unknown variables are ignored", `query ($x: Int) {echo(i: $x)}`, `{"x":1,"y":2}`, `"i":1`},
		{"int", `{echo(i: -7)}`, ``, `"i":-7`},
		{"int by variable", `query ($x: Int) {echo(i: $x)}`, `{"x":7}`, `"i":7`},
		{"int as 7.0", `query ($x: Int) {echo(i: $x)}`, `{"x":7.0}`, `"i":7`},
		{"int as 7e2", `query ($x: Int) {echo(i: $x)}`, `{"x":7e2}`, `"i":700`},
		{"largest int", `query ($x: Int) {echo(i: $x)}`, `{"x":2147483647}`, `"i":2147483647`},
		{"float", `{echo(f: 0.1)}`, ``, `"f":0.1`},
		{"float from int", `{echo(f: 2)}`, ``, `"f":2`},
		{"float zero by variable", `query ($x: Float) {echo(f: $x)}`, `{"x":0}`, `"f":0`},
		{"float exponent", `query ($x: Float) {echo(f: $x)}`, `{"x":1e-7}`, `"f":1e-7`},
		{"string", `{echo(s: "a\"\u0041\u{1F600}\uD83D\uDE00")}`, ``, `"s":"a\"A😀😀"`},
		{"block string", `{echo(s: """` + "\n  a\n    b \\\"\"\" \n" + `""")}`, ``, `"s":"a\n  b \"\"\" "`},
		{"boolean", `{echo(b: false)}`, ``, `"b":false`},
		{"id from int", `{echo(id: 12)}`, ``, `"id":"12"`},
		{"id from int by variable", `query ($x: ID) {echo(id: $x)}`, `{"x":12}`, `"id":"12"`},
		{"id from string", `query ($x: ID) {echo(id: $x)}`, `{"x":"a"}`, `"id":"a"`},
		{"enum", `{echo(role: USER)}`, ``, `"role":"USER"`},
		{"enum by variable", `query ($x: Role) {echo(role: $x)}`, `{"x":"SYSTEM"}`, `"role":"SYSTEM"`},
		{"list", `{echo(list: [1, 2])}`, ``, `"list":[1,2]`},
		{"list of one value", `{echo(list: 1)}`, ``, `"list":[1]`},
		{"list of one value by variable", `query ($x: [Int!]) {echo(list: $x)}`, `{"x":1}`, `"list":[1]`},
		{"empty list", `{echo(list: [])}`, ``, `"list":[]`},
		{"variable in a list", `query ($x: Int!) {echo(list: [1, $x])}`, `{"x":2}`, `"list":[1,2]`},
		{"absent variable in a list is null", `query ($x: Int) {echo(matrix: [[1, $x]])}`, `{}`, `"matrix":[[1,null]]`},
		{"matrix of one value", `{echo(matrix: 1)}`, ``, `"matrix":[[1]]`},
		{"json", `{echo(json: {a: [1, 2.50, "x", null, true, E, {b: {}}], c: []})}`, ``, `"json":{"a":[1,2.50,"x",null,true,"E",{"b":{}}],"c":[]}`},
		{"json keeps numbers", `query ($x: JSON) {echo(json: $x)}`, `{"x":{"seed":99999999999999999999,"t":0.10}}`, `"json":{"seed":99999999999999999999,"t":0.10}`},
		{
			"variables in json", `query ($x: Int, $y: JSON, $z: String) {echo(json: {a: $x, b: [$y, $z], c: $z})}`, `{"x":1,"y":{"k":[null]}}`,
			`"json":{"a":1,"b":[{"k":[null]},null]}`,
		},
		{"json null", `{echo(json: null)}`, ``, `"json":null`},
		{"custom scalar", `{echo(day: "2026-01-01")}`, ``, `"day":"2026-01-01"`},
		{"argument's default when the variable is absent", `query ($x: Int) {must(x: 1) echo(req: $x)}`, `{}`, ``},
		{"argument given", `{echo(req: 4)}`, ``, `"req":4`},
		{"one key of many", `{echo(pick: {b: 1})}`, ``, `"pick":{"b":1}`},
		{"defaults of input fields", `{echo(in: {id: 1})}`, ``, `"in":{"id":"1",` + innerDefault + `,"name":"n","old":null}`},
		{
			"defaults of nested input fields", `query ($x: Outer) {echo(in: $x)}`, `{"x":{"id":"1","inner":{"deep":{"a":null}},"old":3}}`,
			`"in":{"id":"1","inner":{"a":5,"b":["x","y\n\"z\""],"c":"USER","deep":{"a":null,"b":["x","y\n\"z\""],"c":"USER","f":1.5},"f":1.5},"name":"n","old":3}`,
		},
		{
			"null input fields", `{echo(in: {id: 1, name: null, list: null, json: null})}`, ``,
			`"in":{"id":"1",` + innerDefault + `,"json":null,"list":null,"name":null,"old":null}`,
		},
		{
			"absent variable in an object is absent", `query ($x: String, $y: [Int]) {echo(in: {id: 1, name: $x, list: $y})}`, `{}`,
			`"in":{"id":"1",` + innerDefault + `,"name":"n","old":null}`,
		},
		{
			"input object default of a variable", `query ($x: Outer = {id: 2, role: USER}) {echo(in: $x)}`, ``,
			`"in":{"id":"2",` + innerDefault + `,"name":"n","old":null,"role":"USER"}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := execute(context.Background(), t, s, c.query, c.variables, nil)
			if len(r.Errors) > 0 {
				t.Fatalf("%s", r.AppendJSON(nil))
			}
			text, _ := r.Data["echo"].(string)
			var got, want map[string]json.RawMessage
			full := "{" + standard + "," + standardEnd
			if c.want != "" {
				full += "," + c.want // the last of two keys counts
			}
			if err := json.Unmarshal([]byte(full+"}"), &want); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %s\nwant %s", text, full)
			}
		})
	}
}

func TestVariablesOfTheWrongTypeAreRefused(t *testing.T) {
	s := echoSchema(t)
	for _, c := range []struct{ typ, value, want string }{
		{"Int", `"12"`, `Variable \"$x\" expects a 32-bit Int, found \"12\".`},
		{"Int", `1.5`, `32-bit Int, found 1.5`},
		{"Int", `true`, `32-bit Int, found true`},
		{"Int", `2147483648`, `32-bit Int`},
		{"Int", `-2147483649`, `32-bit Int`},
		{"Int", `99999999999999999999`, `32-bit Int`},
		{"Int", `1e400`, `32-bit Int`},
		{"Int", `[1]`, `found a list`},
		{"Int", `{}`, `found an object`},
		{"Int!", `null`, `Variable \"$x\" of type \"Int!\" must not be null.`},
		{"Float", `"1.5"`, `expects a Float, found \"1.5\"`},
		{"Float", `true`, `expects a Float`},
		{"Float", `1e400`, `expects a Float`},
		{"String", `5`, `expects a String, found 5`},
		{"String", `{"k":1}`, `found an object`},
		{"String", `["x"]`, `found a list`},
		{"String", `true`, `expects a String`},
		{"Boolean", `"no"`, `expects a Boolean`},
		{"Boolean", `1`, `expects a Boolean`},
		{"ID", `1.5`, `expects a ID`},
		{"ID", `true`, `expects a ID`},
		{"Role", `"user"`, `expects a value of enum \"Role\", found \"user\"`},
		{"Role", `1`, `found 1`},
		{"Role", `""`, `found \"\"`},
		{"[Int!]", `[1,null]`, `at \"x[1]\": it of type \"Int!\" must not be null`},
		{"[Int!]", `[1,"2"]`, `at \"x[1]\"`},
		{"[[Int]]", `[[1,"2"]]`, `at \"x[0][1]\"`},
		{"Outer", `{"id":1,"nope":2}`, `has no field \"nope\" in type \"Outer\"`},
		{"Outer", `{"id":1,"__typename":"Outer"}`, `has no field \"__typename\"`},
		{"Outer", `{}`, `at \"x.id\": it of required type \"ID!\" was not provided`},
		{"Outer", `{"id":1,"inner":null}`, `at \"x.inner\"`},
		{"Outer", `{"id":1,"inner":{"deep":{"a":"5"}}}`, `at \"x.inner.deep.a\"`},
		{"Outer", `[{"id":1}]`, `found a list`},
		{"Outer", `"x"`, `expects an object of type \"Outer\", found \"x\"`},
		{"Pick", `{}`, `must specify exactly one key`},
		{"Pick", `{"a":"x","b":1}`, `must specify exactly one key`},
		{"Pick", `{"a":null}`, `must specify exactly one key`},
	} {
		t.Run(c.typ+" "+c.value, func(t *testing.T) {
			arg := map[string]string{
				"Int": "i", "Float": "f", "String": "s", "Boolean": "b", "ID": "id", "Role": "role",
				"[Int!]": "list", "[[Int]]": "matrix", "Outer": "in", "Pick": "pick", "Int!": "i",
			}[c.typ]
			got := do(t, s, "query ($x: "+c.typ+") {echo("+arg+": $x)}", `{"x":`+c.value+`}`)
			contains(t, got, c.want, `"code":"BAD_USER_INPUT"`, `"locations":[{"line":1,"column":8}]`)
			if strings.Contains(got, `"data"`) {
				t.Errorf("a request error has data: %s", got)
			}
		})
	}
	contains(t, do(t, s, `query ($x: Int!) {echo(i: $x)}`, ``), `Variable \"$x\" of required type \"Int!\" was not provided.`)
	long := do(t, s, `query ($x: Int) {echo(i: $x)}`, `{"x":"`+strings.Repeat("y", 10_000)+`"}`)
	if len(long) > 600 {
		t.Errorf("echoes %d bytes", len(long))
	}
	many := execute(context.Background(), t, s, `query ($x: [Int!]) {echo(list: $x)}`, `{"x":[`+strings.Repeat("true,", 50)+`true]}`, nil)
	if len(many.Errors) != 10 {
		t.Errorf("%d errors, want 10", len(many.Errors))
	}
}

func TestNullAtANonNullArgumentIsAFieldError(t *testing.T) {
	s := echoSchema(t)
	for _, query := range []string{
		`query ($x: Int) {a: echo(i: 1) echo(req: $x)}`,
		`query ($x: Int = 1) {a: echo(i: 1) echo(req: $x)}`,
	} {
		contains(t, do(t, s, query, `{"x":null}`), `"path":["echo"]`, `must not be null`, `"code":"BAD_USER_INPUT"`, `"echo":null`, `"a":"{`)
	}
}

func TestNullAtSkipIsRefused(t *testing.T) {
	s := echoSchema(t)
	query := `query ($b: Boolean = false) {a: must(x: 1) @skip(if: $b) ...F} fragment F on Query {b: must(x: 2) @include(if: $b)}`
	contains(t, do(t, s, query, `{"b":null}`), `must not be null where @skip or @include uses it`, `"code":"BAD_USER_INPUT"`)
	contains(t, do(t, s, query, `{"b":true}`), `{"data":{"b":`)
	contains(t, do(t, s, query, ``), `{"data":{"a":`)
	// Elsewhere a null is fine.
	contains(t, do(t, s, `query ($b: Boolean = false) {echo(b: $b)}`, `{"b":null}`), `\"b\":null`)
}

func TestGoTypesOfArguments(t *testing.T) {
	var got map[string]any
	s := kitchenSchema(t, resolvers{"Query.echo": func(_ context.Context, p gqldoc.Params) (any, error) {
		got = p.Args
		return nil, nil
	}})
	do(t, s, `query ($x: Outer, $j: JSON) {echo(i: 1, f: 2, s: "s", b: true, id: 3, role: USER, list: 4, in: $x, json: $j)}`,
		`{"x":{"id":"1"},"j":[1]}`)
	want := map[string]any{"i": 1, "f": 2.0, "s": "s", "b": true, "id": "3", "role": "USER", "list": []any{4}, "json": []any{json.Number("1")}}
	for key, value := range want {
		if !reflect.DeepEqual(got[key], value) {
			t.Errorf("%s is %T %v, want %T", key, got[key], got[key], value)
		}
	}
	if _, ok := got["in"].(map[string]any); !ok {
		t.Errorf("in is %T", got["in"])
	}
	if _, ok := got["day"]; ok {
		t.Error("an absent argument has a key")
	}
}

func TestCallersVariablesStayAsTheyAre(t *testing.T) {
	s := echoSchema(t)
	text := `{"x":{"id":1,"json":{"a":[1,{"b":2}]},"list":7}}`
	raw := decode(t, text)
	doc, _ := s.Prepare(`query ($x: Outer) {echo(in: $x)}`)
	op, _ := doc.Operation("")
	if _, errs := op.Variables(raw); errs != nil {
		t.Fatal(errs)
	}
	if !reflect.DeepEqual(raw, decode(t, text)) {
		t.Errorf("changed to %v", raw)
	}
}
