package gqldoc_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
)

// differences are the documents on which this package and graphql-js part, and
// why that is right or does no harm. Everything else has to agree.
var differences = map[string]string{
	// graphql-js parses type definitions and its ExecutableDefinitions rule
	// refuses them; a request has no use for that grammar.
	"type X { a: Int }":                definitions,
	"extend type Query { a: Int }":     definitions,
	"scalar X":                         definitions,
	"directive @x on FIELD":            definitions,
	"schema { query: Query }":          definitions,
	"enum E { A }":                     definitions,
	"{ __typename } type X { a: Int }": definitions,
	"input I { a: Int }":               definitions,
	"union U = Query":                  definitions,
	"interface I { a: Int }":           definitions,

	"subscription { aiResponse(input: {}) @include(if: true) { content } }":         conditionalRoot,
	"subscription { ... @include(if: true) { aiResponse(input: {}) { content } } }": conditionalRoot,

	"{ session(sessionId: \"a\x00b\") { title } }":        control,
	"{ session(sessionId: \"a\ab\") { title } }":          control,
	"{ session(sessionId: \"\"\"a\x00\"\"\") { title } }": control,

	`{ session(sessionId: """"a"""") { title } }`: quotes,
	`{ session(sessionId: """""""") { title } }`:  quotes,

	"{ echo(f: 1e400) }":                 infinite,
	"{ echo(f: 99999999999999999999) }":  "gqlparser reads Float literals without a point as 64-bit integers",
	"{ echo(id: 12345678901234567890) }": "gqlparser reads ID literals as 64-bit integers",
}

const (
	definitions     = "a syntax error here, a validation error there"
	conditionalRoot = "the spec forbids @skip and @include at the root of a subscription; graphql-js evaluates them"
	control         = "control characters in strings are refused, as the spec did before 2025"
	quotes          = "a block string may end in more than three quotes; the rest counts as text"
	infinite        = "no float64 holds it; graphql-js passes Infinity on"
)

// TestVerdictsAgreeWithGraphQLJS holds Prepare against parse and validate of
// graphql-js, on the documents of verdicts/generate.mjs.
func TestVerdictsAgreeWithGraphQLJS(t *testing.T) {
	text, err := os.ReadFile("testdata/verdicts.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Version  string     `json:"graphql"`
		Verdicts [][]string `json:"verdicts"` // schema, verdict, document
	}
	if err := json.Unmarshal(text, &golden); err != nil {
		t.Fatal(err)
	}
	if n := len(golden.Verdicts); n < 300 {
		t.Fatalf("only %d documents", n)
	}
	schemas := map[string]*gqldoc.Schema{"main": proxySchema(t, nil), "kitchen": kitchenSchema(t, nil)}
	unused := map[string]bool{}
	for document := range differences {
		unused[document] = true
	}
	counts := map[string]int{}
	for _, v := range golden.Verdicts {
		name, want, document := v[0], v[1], v[2]
		got, message := "valid", ""
		if _, errs := schemas[name].Prepare(document); errs != nil {
			got, message = "invalid", errs[0].Message
			if errs[0].Kind == gqldoc.KindSyntax {
				got = "syntax"
			}
		}
		counts[want]++
		if got == want {
			continue
		}
		if _, known := differences[document]; known {
			delete(unused, document)
			continue
		}
		t.Errorf("%s %q: %s here (%s), %s in graphql-js %s", name, document, got, message, want, golden.Version)
	}
	for document := range unused {
		t.Errorf("no difference any more: %q", document)
	}
	t.Logf("%d documents, %v, %d named differences", len(golden.Verdicts), counts, len(differences))
}
