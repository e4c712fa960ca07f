package gqldoc_test

import (
	"context"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
)

// TestGapsOfTheLibrariesAreClosed goes through what graphql-go or gqlparser
// get wrong. An empty code means that the document has to pass.
func TestGapsOfTheLibrariesAreClosed(t *testing.T) {
	main, kitchen := proxySchema(t, nil), kitchenSchema(t, nil)
	for _, c := range []struct {
		name   string
		s      *gqldoc.Schema
		query  string
		code   string
		phrase string
	}{
		{"null literal", kitchen, `{echo(i: null, list: null, in: null)}`, "", ""},
		{"null in a list and an object", kitchen, `{echo(matrix: [null, [null]], in: {id: 1, name: null})}`, "", ""},
		{"null default", kitchen, `query ($x: Int = null) {echo(i: $x)}`, "", ""},
		{"null at non-null", kitchen, `{must(x: null)}`, validation, "Int!"},
		{"null in a list of non-null", kitchen, `{echo(list: [null])}`, validation, ""},
		{"multi-byte comment", main, "# 你好 😀\nquery Q {__typename}", "", ""},
		{"byte order mark", main, "\ufeff{__typename}", "", ""},
		{"surrogate pair", main, `{session(sessionId: "\uD83D\uDE00") {title}}`, "", ""},
		{"braced escape", main, `{session(sessionId: "\u{1F600}") {title}}`, "", ""},
		{"lone leading surrogate", main, `{session(sessionId: "\uD83D") {title}}`, syntax, "surrogate"},
		{"lone trailing surrogate", main, `{session(sessionId: "x\uDE00y") {title}}`, syntax, "surrogate"},
		{"lone surrogate after 你好", main, "# 你好\n" + `{a: session(sessionId: "你好\n") {title} session(sessionId: "你\uD83Dx") {title}}`, syntax, "surrogate"},
		{"surrogate in a default", main, `query ($s: String! = "\uD83D") {session(sessionId: $s) {title}}`, syntax, "surrogate"},
		{"U+FFFD itself", main, `{session(sessionId: "\uFFFD �") {title}}`, "", ""},
		{"escaped backslash before uD83D", main, `{session(sessionId: "�\\uD83D") {title}}`, "", ""},
		{"invalid UTF-8", main, "{session(sessionId: \"\xff\") {title}}", syntax, "UTF-8"},
		{"invalid UTF-8 in a comment", main, "#\xc3\n{__typename}", syntax, "UTF-8"},
		{"block string", main, `{session(sessionId: """a "b" \""" c""") {title}}`, "", ""},
		{"$a:!", main, `query ($a:!) {__typename}`, syntax, ""},
		{"$a:]", main, `query ($a:]) {__typename}`, syntax, ""},
		{"$a:)", main, `query ($a:) {__typename}`, syntax, ""},
		{"type definition", main, `type X {a: Int} {__typename}`, syntax, ""},
		{"type extension", main, `{__typename} extend type Query {a: Int}`, syntax, ""},
		{"directive on a variable", main, `query ($a: Int @nope) {chatHistory(last: $a) {id}}`, validation, "@nope"},
		{"description of an operation", main, `"what it does" query Q("which" $a: Int) {chatHistory(last: $a) {id}}`, "", ""},
		{"two names in a subscription", kitchen, `subscription {tick {id} tock}`, validation, "one top level field"},
		{"two aliases in a subscription", kitchen, `subscription {a: tick {id} b: tick {id}}`, validation, "one top level field"},
		{"two aliases by fragments", kitchen, `subscription {...A ...B} fragment A on Subscription {a: tick {id}} fragment B on Subscription {b: tick {id}}`, validation, ""},
		{"one field merged in a subscription", kitchen, `subscription {tick {id} tick {role}}`, "", ""},
		{"skipped root of a subscription", kitchen, `subscription {tick @skip(if: true) {id}}`, validation, "@skip"},
		{"perhaps skipped root by fragment", kitchen, `subscription ($b: Boolean!) {...A @include(if: $b)} fragment A on Subscription {tick {id}}`, validation, "@include"},
		{"empty subscription", kitchen, `subscription {}`, syntax, ""},
		{"a directive twice", main, `{__typename @skip(if: true) @skip(if: true)}`, validation, ""},
		{"an input field twice", kitchen, `{echo(in: {id: 1, id: 2})}`, validation, ""},
		{"one of", kitchen, `{echo(pick: {a: "x", b: 1})}`, validation, ""},
		{"fragment variables", main, `fragment F($a: Int) on Query {__typename} {...F}`, syntax, "variables"},
		{"empty document", main, ``, syntax, "<EOF>"},
		{"only a comment", main, `# nothing`, syntax, "<EOF>"},
		{"int of 33 bits", main, `{chatHistory(last: 2147483648) {id}}`, validation, "32-bit"},
		{"int of 65 bits", main, `{chatHistory(last: 18446744073709551616) {id}}`, validation, "32-bit"},
		{"int of 33 bits in an object", kitchen, `{echo(in: {id: 1, inner: {a: 2147483648}})}`, validation, "32-bit"},
		{"int of 33 bits in a list", kitchen, `{echo(list: [2147483648])}`, validation, "32-bit"},
		{"int of 33 bits in a default", kitchen, `query ($x: Int = -2147483649) {echo(i: $x)}`, validation, "32-bit"},
		{"int of 64 bits as ID", kitchen, `{echo(id: 9007199254740993)}`, "", ""},
		{"object at a scalar", kitchen, `{echo(i: {})}`, validation, "an object"},
		{"object at an enum", kitchen, `{echo(role: {})}`, validation, "an object"},
		{"object in a list of scalars", kitchen, `{echo(list: [{}])}`, validation, "an object"},
		{"object at a custom scalar", kitchen, `{echo(json: {}, day: {})}`, "", ""},
		{"number followed by a name", kitchen, `{echo(list: [1a])}`, syntax, `"a"`},
		{"hexadecimal", kitchen, `{echo(list: [0xF])}`, syntax, `"x"`},
		{"fraction followed by a name", kitchen, `{echo(f: 1.5a)}`, syntax, ""},
		{"$a: Int! = 3", kitchen, `query ($a: Int! = 3) {must(x: $a)}`, "", ""},
		{"unknown variable in json", kitchen, `{echo(json: {a: [$x]})}`, validation, "$x"},
		{"@defer", main, `{...F @defer} fragment F on Query {__typename}`, validation, "@defer"},
		{"@defer inline", main, `{... @defer {__typename}}`, validation, "@defer"},
		{"enum as string", kitchen, `{echo(role: "USER")}`, validation, ""},
		{"control character", main, "{session(sessionId: \"\x01\") {title}}", syntax, `"\u0001"`},
		{"the lexer's own message", main, `{session(sessionId: 'x') {title}}`, syntax, "single quote"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, errs := c.s.Prepare(c.query); c.code == "" {
				if errs != nil {
					t.Errorf("refused: %s", errs[0].Message)
				}
				return
			}
			e := one(t, c.s, c.query)
			if e.Code != c.code || !strings.Contains(e.Message, c.phrase) || e.Err != nil {
				t.Errorf("%s: %s", e.Code, e.Message)
			}
		})
	}
}

func TestOperationsAreFound(t *testing.T) {
	s := proxySchema(t, nil)
	prepare := func(text string) *gqldoc.Document {
		doc, errs := s.Prepare(text)
		if errs != nil {
			t.Fatal(errs[0].Message)
		}
		return doc
	}
	two := prepare("query A {__typename} mutation B {createSession {success}}")
	if op, errs := two.Operation("B"); errs != nil || op.Name() != "B" || op.Type() != gqldoc.Mutation {
		t.Errorf("B: %v %v", op, errs)
	}
	if op, errs := prepare("{__typename}").Operation(""); errs != nil || op.Type() != gqldoc.Query || op.Name() != "" {
		t.Errorf("anonymous: %v %v", op, errs)
	}
	if op, errs := prepare("subscription {aiResponse(input: {}) {done}}").Operation(""); errs != nil || op.Type() != gqldoc.Subscription {
		t.Errorf("subscription: %v %v", op, errs)
	}
	for name, want := range map[string]string{
		"":                        "Must provide operation name",
		"C":                       `Unknown operation named "C".`,
		"a":                       `Unknown operation named "a".`,
		strings.Repeat("x", 1000): "Unknown operation named",
	} {
		_, errs := two.Operation(name)
		if len(errs) != 1 || errs[0].Code != gqldoc.CodeResolution || !strings.Contains(errs[0].Message, want) || len(errs[0].Message) > 400 {
			t.Errorf("%.20q: %v", name, errs)
		}
	}
	if _, errs := prepare("{__typename}").Operation("A"); len(errs) != 1 {
		t.Error("an anonymous operation has a name")
	}
}

func TestDocumentedOperationsValidateUnchanged(t *testing.T) {
	s := proxySchema(t, stubs(1))
	for _, d := range documented {
		got := do(t, s, d.document, d.variables)
		if strings.Contains(got, "errors") {
			t.Errorf("%s: %s", d.name, got)
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	s := proxySchema(t, nil)
	for _, c := range []struct{ query, want string }{
		{"{\n  nope\n}", `"locations":[{"line":2,"column":3}]`},
		{"# 你好\n{a: session(sessionId: \"你好😀\") {title} nope}", `"locations":[{"line":2,"column":39}]`},
		{"{a}}", `"locations":[{"line":1,"column":4}]`},
		{"{a(b: \"x", `"locations":[{"line":1,"column":9}]`},
		{"{chatHistory {id: content id}}", `"locations":[{"line":1,"column":27}]`},
	} {
		got := do(t, s, c.query, "")
		contains(t, got, c.want)
		if strings.Contains(got, `"data"`) || strings.Contains(got, "file") {
			t.Errorf("%q: %s", c.query, got)
		}
	}
	long := one(t, s, `{session(sessionId: `+strings.Repeat("[", 10)+`"`+strings.Repeat("ü", 5000)+`"`+strings.Repeat("]", 10)+`) {title}}`)
	if len(long.Message) > 400 || !strings.HasSuffix(long.Message, "ü...") {
		t.Errorf("%d bytes: %s", len(long.Message), long.Message)
	}
}

func TestErrorsComeInTheSameOrder(t *testing.T) {
	s := proxySchema(t, nil)
	query := `query ($a: Nope, $b: Int) {nope chatHistory(x: 1) {nope id {x}} session {title} ...F @nope}`
	_, first := s.Prepare(query)
	for range 20 {
		_, again := s.Prepare(query)
		for i := range first {
			if len(again) != len(first) || again[i].Message != first[i].Message {
				t.Fatalf("%v\n%v", first, again)
			}
		}
	}
}

func TestNewRefusesWhatTheSchemaDoesNotHave(t *testing.T) {
	resolve := func(context.Context, gqldoc.Params) (any, error) { return nil, nil }
	for _, c := range []struct {
		name   string
		config gqldoc.Config
		want   []string
	}{
		{"resolvers", gqldoc.Config{SDL: sdl(t, mainSDL), Resolvers: resolvers{
			"Query.nope": resolve, "Nope.x": resolve, "Query": resolve, "ChatInput.n": resolve, "Query.__schema": resolve, "__Type.name": resolve, "Query.chatHistory": nil,
		}}, []string{"Query.nope", "Nope.x", "Query ", "ChatInput.n", "Query.__schema", "__Type.name", "Query.chatHistory"}},
		{"paid", gqldoc.Config{SDL: sdl(t, mainSDL), Paid: []string{"Mutation.nope", "Mutation.sendMessage"}}, []string{"Mutation.nope"}},
		{"syntax", gqldoc.Config{SDL: "type {"}, []string{"gqldoc: "}},
		{"no query", gqldoc.Config{SDL: "type X {a: Int}"}, []string{"no Query"}},
		{"empty", gqldoc.Config{}, []string{"no Query"}},
		{"interface", gqldoc.Config{SDL: "interface I {a: Int} type X implements I {a: Int} type Query {x: X}"}, []string{"interfaces and unions"}},
		{"union", gqldoc.Config{SDL: "union U = X type X {a: Int} type Query {x: U}"}, []string{"interfaces and unions"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := gqldoc.New(c.config)
			if err == nil {
				t.Fatal("passed")
			}
			contains(t, err.Error(), c.want...)
		})
	}
}

func TestCachedDocumentsAreTheSame(t *testing.T) {
	s := proxySchema(t, nil)
	first, _ := s.Prepare("{__typename}")
	again, _ := s.Prepare("{__typename}")
	if first != again {
		t.Error("not cached")
	}
	long := "{__typename}" + strings.Repeat(" ", 8<<10)
	first, _ = s.Prepare(long)
	again, _ = s.Prepare(long)
	if first == again {
		t.Error("a long document is cached")
	}
	// Many others push the first out; it only has to be prepared again.
	for i := range 600 {
		s.Prepare("{__typename}" + strings.Repeat("\n", i+1))
	}
	if fresh, errs := s.Prepare("{__typename}"); errs != nil || fresh == first {
		t.Errorf("after 600 others: %v", errs)
	}
}
