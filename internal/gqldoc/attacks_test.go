package gqldoc_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
)

const (
	syntax     = gqldoc.CodeSyntax
	validation = gqldoc.CodeValidation
	size       = gqldoc.CodeSize
	complexity = gqldoc.CodeComplexity
)

// each writes format n times, with the number in it.
func each(n int, format string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.ReplaceAll(format, "%d", strconv.Itoa(i)))
	}
	return b.String()
}

func nest(open string, n int, inner, closed string) string {
	return strings.Repeat(open, n) + inner + strings.Repeat(closed, n)
}

// attack is a document that must be refused cheaply. The full ones have the
// size at which the libraries were measured, the others what fits the limit of
// 64 KiB.
type attack struct {
	name, document, code string
}

func attacks() []attack {
	const million = 1_000_000
	return []attack{
		// Cycles: 33 bytes end a process that runs graphql-go alone.
		{"cycle of 1", "{...A} fragment A on Query {...A}", validation},
		{"cycle of 2", "{...A} fragment A on Query {...B} fragment B on Query {...A}", validation},
		{"cycle of 3", "{...A} fragment A on Query {...B} fragment B on Query {...C} fragment C on Query {...A}", validation},
		{"cycle below fields", "{chatHistory{...A}} fragment A on ChatMessage {usage{...B}} fragment B on Usage {...A}", validation},
		{"cycle among unused", "{__typename} fragment A on Query {...B} fragment B on Query {...A}", validation},

		// Nesting.
		{"1,000,000 braces", nest("{a", million, "", "}"), size},
		{"1,000,000 braces, unclosed", nest("{a", million, "", ""), size},
		{"1,000,000 lists, unclosed", "{a(l:" + nest("[", million, "", ""), size},
		{"1,000,000 lists", "{a(l:" + nest("[", million, "1", "]") + ")}", size},
		{"1,000,000 objects", "{a(l:" + nest("{a:", million, "1", "}") + ")}", size},
		{"1,000,000 list types", "query($a:" + nest("[", million, "Int", "]") + "){a}", size},
		{"1,000,000 inline fragments", nest("{...", million, "{a}", "}"), size},
		{"1,000 braces", nest("{a", 1000, "", "}"), complexity},
		{"20,000 braces, unclosed", nest("{a", 20_000, "", ""), complexity},
		{"60,000 lists, unclosed", "{a(l:" + nest("[", 60_000, "", ""), complexity},
		{"300 lists", "{chatHistory(last:" + nest("[", 300, "1", "]") + "){id}}", complexity},
		{"1,000 lists", "{a(l:" + nest("[", 1000, "1", "]") + ")}", complexity},
		{"1,000 objects", "{a(l:" + nest("{a:", 1000, "1", "}") + ")}", complexity},
		{"10,000 objects, unclosed", "{a(l:" + nest("{a:", 10_000, "", ""), complexity},
		{"10,000 list types", "query($a:" + nest("[", 10_000, "Int", "]") + "){a}", complexity},
		{"1,000 inline fragments", nest("{...", 1000, "{a}", "}"), complexity},

		// Syntax errors far to the right, which graphql-go draws.
		{"error at column 10,000", strings.Repeat(" ", 10_000) + "?", syntax},
		{"error at column 60,000", strings.Repeat(" ", 60_000) + "?", syntax},
		{"error at column 100,000", strings.Repeat(" ", 100_000) + "?", size},
		{"error after 60,000 characters of string", `{a(b:"` + strings.Repeat("x", 60_000) + "\n", syntax},

		// As many errors as fields.
		{"1,000 unknown fields", "{" + each(1000, "x%d ") + "}", complexity},
		{"590 unknown fields", "{" + each(590, "x%d ") + "}", validation},
		{"5,000 unknown fields", "{" + each(5000, "x%d ") + "}", size},
		{"30,000 unknown fields, one a line", "{" + each(30_000, "x%d\n") + "}", size},
		{"600 unused variables", "query(" + each(600, "$v%d:Int ") + "){__typename}", validation},
		{"5,000 unused variables", "query(" + each(5000, "$v%d:Int ") + "){__typename}", size},
		{"2,000 unused fragments", "{__typename}" + each(2000, " fragment F%d on Query{__typename}"), size},
		{"60 unused fragments", "{__typename}" + each(60, " fragment F%d on Query{__typename}"), complexity},
		{"800 unknown arguments", "{chatHistory(" + each(800, "a%d:1 ") + "){id}}", validation},
		{"10,000 unknown arguments", "{chatHistory(" + each(10_000, "a%d:1 ") + "){id}}", size},
		{"300 directives on a field", "{__typename" + strings.Repeat(" @skip(if:true)", 300) + "}", validation},
		{"1,200 unknown directives", "{__typename" + each(1200, " @d%d") + "}", validation},
		{"10,000 directives on a field", "{__typename" + strings.Repeat(" @skip(if:true)", 10_000) + "}", size},

		// Long tokens.
		{"name of 60 KB", "{" + strings.Repeat("a", 60_000) + "}", complexity},
		{"argument of 60 KB", "{chatHistory(" + strings.Repeat("a", 60_000) + ":1){id}}", complexity},
		{"nine names of 6.5 KB", "{" + each(9, strings.Repeat("a", 6500)+"%d ") + "}", complexity},
		{"number of 60 KB", "{chatHistory(last:" + strings.Repeat("9", 60_000) + "){id}}", complexity},
		{"comments", strings.Repeat("#\n", 30_000) + "{__typename}", size},
		{"BOMs", strings.Repeat("\ufeff", 20_000), syntax},

		// Fields, merged and expanded.
		{"5,000 aliases", "{" + each(5000, "a%d:chatHistory{id} ") + "}", size},
		{"100 aliases", "{" + each(100, "a%d:chatHistory{id} ") + "}", complexity},
		{"2,400 equal leaves", "{chatHistory{" + strings.Repeat("id ", 2400) + "}}", complexity},
		{"30,000 equal leaves", "{chatHistory{" + strings.Repeat("id ", 30_000) + "}}", size},
		{"580 equal leaves", "{chatHistory{" + strings.Repeat("id ", 580) + "}}", complexity},
		{"equal leaves in inline fragments", "{chatHistory{" + strings.Repeat("...{id} ", 400) + "}}", complexity},
		{"49 fragments of 11 equal leaves", "{chatHistory{" + each(49, "...F%d ") + "}}" +
			each(49, " fragment F%d on ChatMessage{"+strings.Repeat("id ", 11)+"}"), complexity},
		{"20 x 4 x 5 equal fields", "{" + strings.Repeat("chatHistory{"+strings.Repeat("usage{"+strings.Repeat("totalTokens ", 5)+"}", 4)+"}", 20) + "}", complexity},
		{"27 fragments of 20 equal leaves, each spreading two", pairs(27, 20), complexity},
		{"5,000 equal objects", "{" + strings.Repeat("chatHistory{id}", 5000) + "}", size},
		{"400 equal objects", "{" + strings.Repeat("chatHistory{id}", 400) + "}", complexity},
		{"400 fragments with one key", "{chatHistory{" + each(400, "...F%d ") + "}}" + each(400, " fragment F%d on ChatMessage{id}"), size},
		{"nested duplicates 2^8", duplicates(8), complexity},
		{"nested duplicates 2^10", duplicates(10), size},
		{"bomb of 20 fragments", bomb(20), complexity},
		{"bomb of 49 fragments", bomb(49), complexity},
		{"bomb of 100 fragments", bomb(100), complexity},
		{"chain of 300 fragments", chain(300), complexity},
		{"chain of 2,000 fragments", chain(2000), size},
		{"30 fragments, each spreading all", all(30), validation},
		{"150 fragments, each spreading all", all(150), size},

		// Introspection.
		{"introspection nested 3", introspection(3), validation},
		{"introspection nested 4", introspection(4), validation},
		{"590 fields of a list", "{chatHistory{" + each(590, "a%d:id ") + "}}", complexity},
		{"introspection by alias", "{__schema{types{fields{" + each(500, "a%d:name ") + "}}}}", complexity},

		// What costs money.
		{"two paid calls", "mutation{a:getAIResponse(input:{}){id} b:getAIResponse(input:{}){id}}", gqldoc.CodePaid},
		{"two kinds of paid calls", `mutation{getAIResponse(input:{}){id} generateImage(input:{}){id}}`, gqldoc.CodePaid},
		{"a paid call hidden in a fragment", "mutation{getAIResponse(input:{}){id} ...F} fragment F on Mutation{...{x:getAIResponse(input:{}){id}}}", gqldoc.CodePaid},
		{"a paid call perhaps skipped", "mutation{getAIResponse(input:{}){id} x:getAIResponse(input:{})@skip(if:true){id}}", gqldoc.CodePaid},
		{"11 root fields", "mutation{" + each(11, "a%d:createSession{success} ") + "}", complexity},
		{"11 root fields by fragment", "{...F} fragment F on Query{" + each(11, "a%d:chatHistory{id} ") + "}", complexity},
	}
}

// pairs writes n fragments of equal leaves, each spreading the next two.
func pairs(n, leaves int) string {
	var b strings.Builder
	b.WriteString("{chatHistory{" + each(n, "...F%d ") + "}}")
	for i := range n {
		fmt.Fprintf(&b, " fragment F%d on ChatMessage{%s", i, strings.Repeat("id ", leaves))
		for k := i + 1; k < min(i+3, n); k++ {
			fmt.Fprintf(&b, "...F%d ", k)
		}
		b.WriteString("}")
	}
	return b.String()
}

func duplicates(n int) string {
	if n == 0 {
		return "{x}"
	}
	inner := duplicates(n - 1)
	return "{a" + inner + " a" + inner + "}"
}

func bomb(n int) string {
	var b strings.Builder
	b.WriteString("{...F0}")
	for i := range n - 1 {
		fmt.Fprintf(&b, " fragment F%d on Query{...F%d ...F%d x%d:chatHistory{id}}", i, i+1, i+1, i)
	}
	fmt.Fprintf(&b, " fragment F%d on Query{chatHistory{id}}", n-1)
	return b.String()
}

func chain(n int) string {
	var b strings.Builder
	b.WriteString("{...F0}")
	for i := range n - 1 {
		fmt.Fprintf(&b, " fragment F%d on Query{...F%d}", i, i+1)
	}
	fmt.Fprintf(&b, " fragment F%d on Query{__typename}", n-1)
	return b.String()
}

func all(n int) string {
	spreads := each(n, "...F%d ")
	return "{" + spreads + "}" + each(n, " fragment F%d on Query{"+strings.ReplaceAll(spreads, "%d", "")+"}")
}

func introspection(n int) string {
	return "{__schema{types{" + nest("fields{type{", n, "name", "}}") + "}}}"
}

// TestAttacksAreRefusedCheaply is the list that an upgrade of gqlparser must
// not reopen. The process has to live, and no document may cost more than
// 4 MiB.
func TestAttacksAreRefusedCheaply(t *testing.T) {
	s := proxySchema(t, nil)
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			doc, errs := s.Prepare(a.document)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			allocated := after.TotalAlloc - before.TotalAlloc
			if doc != nil || len(errs) == 0 || len(errs) > 10 {
				t.Fatalf("doc %v, %d errors", doc != nil, len(errs))
			}
			for _, e := range errs {
				if e.Code != a.code || len(e.Message) > 400 {
					t.Errorf("%s, want %s: %s", e.Code, a.code, e.Message)
				}
			}
			if allocated > 4<<20 {
				t.Errorf("allocated %d KiB", allocated>>10)
			}
			if took > 2*time.Second { // milliseconds; the machine may be busy
				t.Errorf("took %v", took)
			}
			t.Logf("%d bytes: %v, %d KiB: %s", len(a.document), took, allocated>>10, errs[0].Message)
		})
	}
}

// worst are the documents inside the limits that cost most, for the
// benchmarks and to prove that they are inside.
func worst() []attack {
	return []attack{
		{"19 fragments of 10 equal leaves", "{session(sessionId:\"\"){...S}} fragment S on Session{" + each(19, "...F%d ") + "}" +
			each(19, " fragment F%d on Session{"+strings.Repeat("title ", 10)+"}"), ""},
		{"532 fields of 14 keys in 38 fragments", "mutation{sendMessage{" + each(38, "...F%d ") + "}}" +
			each(38, " fragment F%d on ChatMessage{"+strings.ReplaceAll(each(13, "a%d:id "), "%d", "")+"id}"), ""},
		{"30 fragments, each spreading the later ones", later(30), ""},
		{"2,400 empty strings", "mutation{getAIResponse(input:{stop:[" + strings.Repeat(`"" `, 2400) + "]}){id}}", ""},
		{"10 roots x 28 fields, merged", "{" + each(10, "a%d:chatHistory{"+strings.Repeat("id role ", 14)+"} ") + "}", ""},
		{"290 fields of a list", "{chatHistory{" + each(290, "a%d:id ") + "}}", ""},
		{"400 inline messages", `mutation{getAIResponse(input:{messages:[` + strings.Repeat(`{role:"user"}`, 400) + "]}){id}}", ""},
		{"2,400 JSON values", `mutation{getAIResponse(input:{extra:[` + strings.Repeat("1 ", 2400) + "]}){id}}", ""},
		{"60 KB of string", `mutation{getAIResponse(input:{messages:[{role:"user",content:"` + strings.Repeat("x", 60_000) + `"}]}){id}}`, ""},
		{"49 operations", each(49, "query Q%d{chatHistory{id role content usage{totalTokens}}} "), ""},
		{"introspection in full", fullIntrospection, ""},
		{"introspection of all fields with 150 aliases", "{__schema{types{fields{" + each(150, "a%d:name ") + "}}}}", ""},
		{"introspection with 595 aliases", "{__schema{types{" + each(595, "a%d:name ") + "}}}", ""},
	}
}

func later(n int) string {
	var b strings.Builder
	b.WriteString("{chatHistory{...F0}}")
	for i := range n {
		fmt.Fprintf(&b, " fragment F%d on ChatMessage{", i)
		if i > 0 && i < 4 { // a few doublings; more are over 600 fields expanded
			b.WriteString("id ")
		}
		if i+1 < n {
			fmt.Fprintf(&b, "...F%d ", i+1)
			if i < 6 {
				fmt.Fprintf(&b, "...F%d ", i+2)
			}
		} else {
			b.WriteString("role")
		}
		b.WriteString("}")
	}
	return b.String()
}

func TestWorstDocumentsAreInsideTheLimits(t *testing.T) {
	s := proxySchema(t, nil)
	for _, w := range worst() {
		t.Run(w.name, func(t *testing.T) {
			if _, errs := s.Prepare(w.document); errs != nil {
				t.Fatalf("%d bytes: %s", len(w.document), errs[0].Message)
			}
		})
	}
}

func TestLimitsCanBeSet(t *testing.T) {
	for _, c := range []struct {
		name, document, code string
		limits               gqldoc.Limits
	}{
		{"bytes", "{ __typename }", size, gqldoc.Limits{Bytes: 13}},
		{"tokens", "{ __typename }", size, gqldoc.Limits{Tokens: 2}},
		{"definitions", "{ ...F } fragment F on Query { __typename }", complexity, gqldoc.Limits{Definitions: 1}},
		{"depth", "{ chatHistory { usage { totalTokens } } }", complexity, gqldoc.Limits{Depth: 2}},
		{"depth by fragment", "{ chatHistory { ...F } } fragment F on ChatMessage { usage { totalTokens } }", complexity, gqldoc.Limits{Depth: 2}},
		{"root fields", "{ a: __typename b: __typename }", complexity, gqldoc.Limits{RootFields: 1}},
		{"fields", "{ a: __typename b: __typename }", complexity, gqldoc.Limits{Fields: 1}},
		{"fields expanded", "{ a: chatHistory { ...F } b: chatHistory { ...F } } fragment F on ChatMessage { id role }", complexity, gqldoc.Limits{Fields: 5}},
		{"same key", "{ __typename __typename }", complexity, gqldoc.Limits{SameKey: 1}},
		{"directives", "{ __typename @skip(if: true) @include(if: true) }", validation, gqldoc.Limits{Directives: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := schema(t, gqldoc.Config{SDL: sdl(t, mainSDL), Limits: c.limits})
			if e := one(t, s, c.document); e.Code != c.code {
				t.Errorf("%s: %s", e.Code, e.Message)
			}
			if _, errs := proxySchema(t, nil).Prepare(c.document); errs != nil {
				t.Errorf("refused by default: %s", errs[0].Message)
			}
		})
	}
	two := "mutation { a: getAIResponse(input: {}) { id } b: getAIResponse(input: {}) { id } }"
	s := schema(t, gqldoc.Config{SDL: sdl(t, mainSDL), Paid: []string{"Mutation.getAIResponse"}, Limits: gqldoc.Limits{PaidCalls: 2}})
	if _, errs := s.Prepare(two); errs != nil {
		t.Errorf("two paid calls allowed: %s", errs[0].Message)
	}
	s = schema(t, gqldoc.Config{SDL: sdl(t, mainSDL), Limits: gqldoc.Limits{Errors: 3}})
	if _, errs := s.Prepare("{" + each(20, "x%d ") + "}"); len(errs) != 3 {
		t.Errorf("%d errors, want 3", len(errs))
	}
}

func BenchmarkAttack(b *testing.B) {
	s := proxySchema(b, nil)
	for _, a := range attacks() {
		b.Run(a.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Prepare(a.document)
			}
		})
	}
}

// BenchmarkWorst shows the costliest documents that pass: prepared anew and
// executed with stubs.
func BenchmarkWorst(b *testing.B) {
	s := proxySchema(b, stubs(100))
	for _, w := range worst() {
		document := w.document
		n := 0
		b.Run("prepare/"+w.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n++
				if _, errs := s.Prepare(document + "#" + strconv.Itoa(n)); errs != nil { // not from the cache
					b.Fatal(errs[0].Message)
				}
			}
		})
		b.Run("execute/"+w.name, func(b *testing.B) {
			benchmarkExecute(b, s, document, "")
		})
	}
	b.Run("execute/10 x 28 fields x 100 messages", func(b *testing.B) {
		benchmarkExecute(b, s, "{"+each(10, "a%d:chatHistory{"+each(28, "b%d:id ")+"} ")+"}", "")
	})
}

func benchmarkExecute(b *testing.B, s *gqldoc.Schema, document, variables string) {
	doc, errs := s.Prepare(document)
	if errs != nil {
		b.Fatal(errs[0].Message)
	}
	raw := decode(b, variables)
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		op, errs := doc.Operation("")
		if errs != nil {
			op, _ = doc.Operation("Q0")
		}
		vars, errs := op.Variables(raw)
		if errs != nil {
			b.Fatal(errs[0].Message)
		}
		out = op.Execute(context.Background(), vars, nil).AppendJSON(out[:0])
	}
	b.SetBytes(int64(len(out)))
}
