package gqldoc_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
)

var update = flag.Bool("update", false, "write testdata/introspection_*.json")

// TestIntrospectionIsTheSDL runs graphql-js's introspection query with every
// option. The golden files are what verdicts/check.mjs has built a schema
// from, equal to the SDL.
func TestIntrospectionIsTheSDL(t *testing.T) {
	query := sdl(t, "testdata/introspection.graphql")
	for name, s := range map[string]*gqldoc.Schema{"main": proxySchema(t, nil), "kitchen": kitchenSchema(t, nil)} {
		t.Run(name, func(t *testing.T) {
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, []byte(do(t, s, query, "")), "", " "); err != nil {
				t.Fatal(err)
			}
			pretty.WriteByte('\n')
			file := "testdata/introspection_" + name + ".json"
			if *update {
				if err := os.WriteFile(file, pretty.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := sdl(t, file); want != pretty.String() {
				t.Errorf("%s differs; if it should, run with -update and then npm run check in verdicts", file)
			}
		})
	}
}

func TestIntrospectionHasTheOrderOfTheSDLEveryTime(t *testing.T) {
	s := kitchenSchema(t, nil)
	query := sdl(t, "testdata/introspection.graphql")
	first := do(t, s, query, "")
	for range 10 {
		// Another schema too: graphql-go's order is that of maps filled at build.
		if do(t, s, query, "") != first || do(t, kitchenSchema(t, nil), query, "") != first {
			t.Fatal("two introspections differ")
		}
	}
	contains(t, do(t, s, `{__type(name: "Node") {fields {name}}}`, ""),
		`[{"name":"id"},{"name":"int"},{"name":"float"},{"name":"role"},{"name":"day"},{"name":"data"},{"name":"next"},{"name":"nodes"}]`)
}

func TestIntrospectionOfWhatGraphqlGoLacks(t *testing.T) {
	s := kitchenSchema(t, nil)
	for _, c := range []struct{ name, query, want string }{
		{
			"defaults of arguments", `{__type(name: "Query") {fields {name args {name defaultValue}}}}`,
			`{"name":"def","defaultValue":"{id:\"d\",list:[1,null]}"}`,
		},
		{
			"default of an enum list", `{__type(name: "Query") {fields {args {name defaultValue}}}}`,
			`{"name":"roles","defaultValue":"[USER,ASSISTANT]"}`,
		},
		{
			"defaults of input fields", `{__type(name: "Inner") {inputFields {name defaultValue}}}`,
			`[{"name":"a","defaultValue":"5"},{"name":"b","defaultValue":"[\"x\",\"y\\n\\\"z\\\"\"]"},{"name":"c","defaultValue":"USER"},{"name":"deep","defaultValue":null},{"name":"f","defaultValue":"1.5"}]`,
		},
		{"specifiedByURL", `{__type(name: "Date") {specifiedByURL}}`, `"https://example.com/date"`},
		{"specifiedByURL of others", `{__type(name: "JSON") {specifiedByURL description}}`, `{"specifiedByURL":null,"description":null}`},
		{
			"isOneOf", `{a: __type(name: "Pick") {isOneOf} b: __type(name: "Outer") {isOneOf} c: __type(name: "Node") {isOneOf}}`,
			`{"a":{"isOneOf":true},"b":{"isOneOf":false},"c":{"isOneOf":null}}`,
		},
		{"isRepeatable", `{__schema {directives {name isRepeatable}}}`, `{"name":"tag","isRepeatable":true}`},
		{"deprecated input fields hide", `{__type(name: "Outer") {inputFields {name}}}`, `{"name":"f"}]`},
		{
			"and show", `{__type(name: "Outer") {inputFields(includeDeprecated: true) {name isDeprecated deprecationReason}}}`,
			`{"name":"old","isDeprecated":true,"deprecationReason":"gone"}]`,
		},
		{
			"deprecated arguments", `query ($all: Boolean = true) {__type(name: "Query") {fields {args(includeDeprecated: $all) {name deprecationReason}}}}`,
			`{"name":"old","deprecationReason":"No longer supported"}`,
		},
		{
			"deprecated enum values", `{__type(name: "Role") {a: enumValues {name} b: enumValues(includeDeprecated: true) {name isDeprecated}}}`,
			`{"a":[{"name":"USER"},{"name":"ASSISTANT"}],"b":[{"name":"USER","isDeprecated":false},{"name":"ASSISTANT","isDeprecated":false},{"name":"SYSTEM","isDeprecated":true}]}`,
		},
		{
			"wrapping types", `{__type(name: "Node") {fields {name type {kind name description isOneOf ofType {name}}}}}`,
			`{"name":"id","type":{"kind":"NON_NULL","name":null,"description":null,"isOneOf":null,"ofType":{"name":"ID"}}}`,
		},
		{"a type by variable", `query ($n: String!) {__type(name: $n) {__typename name}}`, `{"__type":{"__typename":"__Type","name":"Node"}}`},
		{"an unknown type", `{__type(name: "Nope") {name}}`, `{"data":{"__type":null}}`},
		{"locations", `{__schema {directives {name locations}}}`, `{"name":"skip","locations":["FIELD","FRAGMENT_SPREAD","INLINE_FRAGMENT"]}`},
		{
			"aliases of names", `{__type(name: "Pick") {name: kind n: name inputFields {name: defaultValue x: name}}}`,
			`{"name":"INPUT_OBJECT","n":"Pick","inputFields":[{"name":null,"x":"a"},{"name":null,"x":"b"}]}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			vars := ""
			if strings.Contains(c.query, "$n:") {
				vars = `{"n":"Node"}`
			}
			contains(t, do(t, s, c.query, vars), c.want)
		})
	}
}

func TestIntrospectionOff(t *testing.T) {
	s := schema(t, gqldoc.Config{SDL: sdl(t, mainSDL), NoIntrospection: true})
	for _, query := range []string{
		"{ __schema { types { name } } }", `{ x: __type(name: "Query") { name } }`,
		"query A { __typename } query B { ...F } fragment F on Query { __schema { types { name } } }",
	} {
		if e := one(t, s, query); e.Code != gqldoc.CodeIntrospection || e.Kind != gqldoc.KindValidation {
			t.Errorf("%s: %+v", query, e)
		}
	}
	if _, errs := s.Prepare("{ __typename }"); errs != nil {
		t.Errorf("__typename: %v", errs)
	}
	for _, query := range []string{
		"{ chatHistor { id } }", "{ chatHistory(las: 1) { id } }", "{ chatHistory }",
		"{ ... on Quer { __typename } }", "mutation { sendMessage(input: {rol: 1}) { id } }",
	} {
		if e := one(t, s, query); strings.Contains(e.Message, "Did you mean") {
			t.Errorf("%s: tells %q", query, e.Message)
		}
	}
}
