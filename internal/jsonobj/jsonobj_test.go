package jsonobj_test

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// document is one line of testdata/documents.txt.
type document struct {
	class, name, text string
}

// documents reads the table that the tests of the handler use too.
func documents(t testing.TB) []document {
	t.Helper()
	table, err := os.ReadFile("testdata/documents.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out []document
	for line := range strings.Lines(string(table)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if fields[0] == "#" {
			continue
		}
		text, err := strconv.Unquote(fields[2])
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		out = append(out, document{fields[0], fields[1], text})
	}
	if len(out) < 340 {
		t.Fatalf("%d documents, want 340 or more", len(out))
	}
	return out
}

func TestParseAgreesWithTheClassesOfJSONDocuments(t *testing.T) {
	t.Parallel()
	for _, d := range documents(t) {
		t.Run(d.class+"_"+d.name, func(t *testing.T) {
			t.Parallel()
			wrapped := `{"v":` + d.text + `}`
			good := d.class == "y" || d.class == "i+"
			_, err := jsonobj.Parse([]byte(d.text))
			isObject := strings.HasPrefix(strings.TrimLeft(d.text, " \t\r\n"), "{")
			switch {
			case !good && (err == nil || errors.Is(err, jsonobj.ErrNotObject)):
				t.Errorf("Parse(%q) = %v, want a syntax or encoding error", d.text, err)
			case good && isObject && err != nil:
				t.Errorf("Parse(%q) = %v, want success", d.text, err)
			case good && !isObject && !errors.Is(err, jsonobj.ErrNotObject):
				t.Errorf("Parse(%q) = %v, want %v", d.text, err, jsonobj.ErrNotObject)
			}
			o, err := jsonobj.Parse([]byte(wrapped))
			if good != (err == nil) {
				t.Fatalf("Parse(%q) = %v, want success: %t", wrapped, err, good)
			}
			if v, _ := o.Get("v"); good && string(v) != strings.Trim(d.text, " \t\r\n") {
				t.Errorf("Get(v) = %q, want %q", v, d.text)
			}
		})
	}
}

func TestParseNamesTheFault(t *testing.T) {
	t.Parallel()
	nested := func(object bool, depth int) string {
		if object {
			return strings.Repeat(`{"a":`, depth-1) + "{}" + strings.Repeat("}", depth-1)
		}
		return `{"a":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `}`
	}
	for name, tc := range map[string]struct {
		text string
		want error
	}{
		"object":                      {`{}`, nil},
		"white space around":          {" \t\r\n{ } \t\r\n", nil},
		"empty":                       {"", jsonobj.ErrSyntax},
		"only white space":            {" \n", jsonobj.ErrSyntax},
		"null":                        {"null", jsonobj.ErrNotObject},
		"array":                       {"[{}]", jsonobj.ErrNotObject},
		"string":                      {`"{}"`, jsonobj.ErrNotObject},
		"number":                      {"12", jsonobj.ErrNotObject},
		"true":                        {"true", jsonobj.ErrNotObject},
		"array and more":              {"[] x", jsonobj.ErrSyntax},
		"two documents":               {"{}{}", jsonobj.ErrSyntax},
		"trailing text":               {`{"messages":[]} x`, jsonobj.ErrSyntax},
		"byte order mark":             {"\ufeff{}", jsonobj.ErrSyntax},
		"invalid UTF-8 in a string":   {"{\"a\":\"\xff\"}", jsonobj.ErrEncoding},
		"invalid UTF-8 in a key":      {"{\"\xff\":1}", jsonobj.ErrEncoding},
		"invalid UTF-8 behind":        {"{}\xff", jsonobj.ErrEncoding},
		"encoded surrogate":           {"{\"a\":\"\xed\xa0\x80\"}", jsonobj.ErrEncoding},
		"objects 1000 deep":           {nested(true, 1000), nil},
		"objects 1001 deep":           {nested(true, 1001), jsonobj.ErrDepth},
		"arrays 1000 deep":            {nested(false, 1000), nil},
		"arrays 1001 deep":            {nested(false, 1001), jsonobj.ErrDepth},
		"arrays a million deep":       {nested(false, 1_000_000), jsonobj.ErrDepth},
		"unclosed a million deep":     {`{"a":` + strings.Repeat("[", 1_000_000), jsonobj.ErrDepth},
		"unclosed objects":            {strings.Repeat(`{"":`, 1_000_000), jsonobj.ErrDepth},
		"top-level array, too deep":   {strings.Repeat("[", 1001) + strings.Repeat("]", 1001), jsonobj.ErrDepth},
		"deep, then shallow, then ok": {`{"a":` + strings.Repeat("[", 999) + strings.Repeat("]", 999) + `,"b":[[]]}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := jsonobj.Parse([]byte(tc.text)); !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Errorf("Parse = %v, want %v", err, tc.want)
			}
		})
	}
}

func TestMembersReadAsTheirWriterSpelledThem(t *testing.T) {
	t.Parallel()
	const text = ` {"a" : 9007199254740993 , "b":"x\u0041\n", "mode\u006c":"m", "":0, "a":2, "c":{"a":3}, "n":null, "\ud800":"\udfff"} `
	o := mustParse(t, text)
	if got := string(o.Bytes()); got != text {
		t.Errorf("Bytes() = %q, want %q", got, text)
	}
	for key, want := range map[string]string{
		"a": "9007199254740993", "b": `"x\u0041\n"`, "model": `"m"`, "": "0", "c": `{"a":3}`, "n": "null", "\ufffd": `"\udfff"`,
	} {
		if got, ok := o.Get(key); !ok || string(got) != want || !o.Has(key) {
			t.Errorf("Get(%q) = %q, %t, want %q", key, got, ok, want)
		}
	}
	for _, key := range []string{"A", "mode\\u006c", "Model", "x", " a"} {
		if got, ok := o.Get(key); ok || got != nil || o.Has(key) {
			t.Errorf("Get(%q) = %q, %t, want nothing", key, got, ok)
		}
	}
	for key, want := range map[string]string{"b": "xA\n", "model": "m", "\ufffd": "\ufffd"} {
		if got, ok := o.String(key); !ok || got != want {
			t.Errorf("String(%q) = %q, %t, want %q", key, got, ok, want)
		}
	}
	for _, key := range []string{"a", "n", "c", "none"} {
		if got, ok := o.String(key); ok || got != "" {
			t.Errorf("String(%q) = %q, %t, want nothing", key, got, ok)
		}
	}
}

func TestZeroObjectIsEmpty(t *testing.T) {
	t.Parallel()
	var o jsonobj.Object
	if o.Has("a") || len(o.Bytes()) != 0 || o.Repeated([]string{"a"}) != "" {
		t.Error("the zero Object has members")
	}
}

func TestRepeatedNamesTheFirstGuardedKeyThatOccursTwice(t *testing.T) {
	t.Parallel()
	guarded := []string{"model", "n", "stream"}
	for text, want := range map[string]string{
		`{}`:                                     "",
		`{"model":1,"n":2,"stream":3}`:           "",
		`{"model":1,"model":1}`:                  "model",
		`{"model":1,"mode\u006c":1}`:             "model",
		`{"\u006dodel":1,"mod\u0065l":1}`:        "model",
		`{"model":1,"Model":1}`:                  "",
		`{"x":1,"x":2}`:                          "",
		`{"x":1,"x":2,"n":1,"n":2}`:              "n",
		`{"stream":1,"n":1,"n":2,"stream":2}`:    "n",
		`{"n":1,"n":1,"n":1}`:                    "n",
		`{"a":{"n":1,"n":2}}`:                    "",
		`{"\u017ftream":1,"stream":1}`:           "",
		`{"n":1,"\u004e":2}`:                     "",
		`{"n":1,"n\u0000":2}`:                    "",
		`{"messages":[],"messages":[],"n":null}`: "",
	} {
		if got := mustParse(t, text).Repeated(guarded); got != want {
			t.Errorf("Repeated of %s = %q, want %q", text, got, want)
		}
	}
}

// The ceiling is far above what one pass over half a megabyte takes, and far
// below what comparing every key with every other one does.
func TestRepeatedStaysCheapWithManyKeys(t *testing.T) {
	t.Parallel()
	o := mustParse(t, `{`+strings.Repeat(`"":0,`, 100_000)+`"n":1,"n":2}`)
	done := make(chan string, 1)
	go func() { done <- o.Repeated([]string{"model", "n"}) }()
	select {
	case got := <-done:
		if got != "n" {
			t.Errorf("Repeated = %q, want n", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("Repeated of 100,000 members takes more than 10 s: its work grows with the square of the members")
	}
}

func TestWithPutsFieldsInFront(t *testing.T) {
	t.Parallel()
	model := jsonobj.Field{Key: "model", Value: []byte(`"m"`)}
	n := jsonobj.Field{Key: "n", Value: []byte("1")}
	for _, tc := range []struct {
		text   string
		fields []jsonobj.Field
		want   string
	}{
		{`{}`, nil, `{}`},
		{`{"a":1}`, nil, `{"a":1}`},
		{`{}`, []jsonobj.Field{model}, `{"model":"m"}`},
		{"\n { } ", []jsonobj.Field{model}, "\n {\"model\":\"m\" } "},
		{`{"a":1}`, []jsonobj.Field{model}, `{"model":"m","a":1}`},
		{" {\n \"a\" : 1\n}\n", []jsonobj.Field{model, n}, " {\"model\":\"m\",\"n\":1,\n \"a\" : 1\n}\n"},
	} {
		if got := string(mustParse(t, tc.text).With(tc.fields...)); got != tc.want {
			t.Errorf("With of %q = %q, want %q", tc.text, got, tc.want)
		}
	}
}

func TestWithoutAndReplaceTouchOneMember(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ text, key, without, replaced string }{
		{`{}`, "a", `{}`, `{}`},
		{`{"b":1}`, "a", `{"b":1}`, `{"b":1}`},
		{`{"a":1}`, "a", `{}`, `{"a":[7]}`},
		{`{ "a" : 1 }`, "a", `{  }`, `{ "a" : [7] }`},
		{`{"a":1,"b":2}`, "a", `{"b":2}`, `{"a":[7],"b":2}`},
		{`{"a":1 , "b":2}`, "a", `{"b":2}`, `{"a":[7] , "b":2}`},
		{`{"b":2,"a":1}`, "a", `{"b":2}`, `{"b":2,"a":[7]}`},
		{`{"b":2 , "a" : 1 }`, "a", `{"b":2 }`, `{"b":2 , "a" : [7] }`},
		{`{"b":2,"a":{"a":1},"c":3}`, "a", `{"b":2,"c":3}`, `{"b":2,"a":[7],"c":3}`},
		{`{"\u0061":1,"b":"a"}`, "a", `{"b":"a"}`, `{"\u0061":[7],"b":"a"}`},
		{`{"a":1,"b":2,"a":3}`, "a", `{"b":2,"a":3}`, `{"a":[7],"b":2,"a":3}`},
	} {
		o := mustParse(t, tc.text)
		if got := string(o.Without(tc.key)); got != tc.without {
			t.Errorf("Without(%q) of %q = %q, want %q", tc.key, tc.text, got, tc.without)
		}
		if got := string(o.Replace(tc.key, []byte("[7]"))); got != tc.replaced {
			t.Errorf("Replace(%q) of %q = %q, want %q", tc.key, tc.text, got, tc.replaced)
		}
		if string(o.Bytes()) != tc.text {
			t.Errorf("the document itself changed: %q, want %q", o.Bytes(), tc.text)
		}
	}
}

func TestQuoteLeavesHTMLAloneAndIsAlwaysJSON(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":         `""`,
		"a":        `"a"`,
		`<a href>`: `"<a href>"`,
		"\"\\\n":   `"\"\\\n"`,
		"é🎈":       `"é🎈"`,
		"a\xffb":   `"a` + `\ufffd` + `b"`,
	} {
		if got := string(jsonobj.Quote(text)); got != want {
			t.Errorf("Quote(%q) = %s, want %s", text, got, want)
		}
	}
}

func TestMapStringsChangesTextsAfterUnescaping(t *testing.T) {
	t.Parallel()
	change := func(s string) string { return strings.ReplaceAll(s, "key", "***") }
	for text, want := range map[string]string{
		`{}`:                                 `{}`,
		`12`:                                 `12`,
		`"key"`:                              `"***"`,
		`"a key b"`:                          `"a *** b"`,
		`["k\u0065y",1.10,"x"]`:              `["***",1.10,"x"]`,
		`{"key":"\u006b\u0065\u0079","n":1}`: `{"***":"***","n":1}`,
		` { "a" : [ "key" ] } `:              ` { "a" : [ "***" ] } `,
		`{"a":"\ud800","b":"<\u003e"}`:       `{"a":"\ud800","b":"<\u003e"}`,
		`{"a":"ke","b":"y"}`:                 `{"a":"ke","b":"y"}`,
		`"\\key\""`:                          `"\\***\""`,
		`{"a":"\"key\\"}`:                    `{"a":"\"***\\"}`,
	} {
		if got := string(jsonobj.MapStrings([]byte(text), change)); got != want {
			t.Errorf("MapStrings(%s) = %s, want %s", text, got, want)
		}
	}
	raw := []byte(`{"a":"b"}`)
	if got := jsonobj.MapStrings(raw, change); &got[0] != &raw[0] {
		t.Error("a document without changes was copied")
	}
}

func mustParse(t testing.TB, text string) jsonobj.Object {
	t.Helper()
	o, err := jsonobj.Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse(%q): %v", text, err)
	}
	return o
}

// chatBody is a chat request of about size bytes with a few long messages.
func chatBody(size int) []byte {
	var b strings.Builder
	b.WriteString(`{"model":"gpt-6-luna","temperature":0.2,"stream":true,"messages":[`)
	const message = `{"role":"user","content":"The quick brown fox \"jumps\" over the lazy dog; \u00e9t\u00e9, naïve, 日本語.\n"}`
	for b.Len() < size-len(message) {
		b.WriteString(message + ",")
	}
	b.WriteString(message + `]}`)
	return []byte(b.String())
}

func BenchmarkParse(b *testing.B) {
	for name, size := range map[string]int{"2KiB": 2 << 10, "1MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			body := chatBody(size)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jsonobj.Parse(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkWith(b *testing.B) {
	for name, size := range map[string]int{"2KiB": 2 << 10, "1MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			o := mustParse(b, string(chatBody(size)))
			field := jsonobj.Field{Key: "max_tokens", Value: []byte("1000")}
			b.SetBytes(int64(len(o.Bytes())))
			b.ReportAllocs()
			for b.Loop() {
				o.With(field)
			}
		})
	}
}

func BenchmarkRepeatedManyKeys(b *testing.B) {
	o := mustParse(b, `{`+strings.Repeat(`"":0,`, 10_000)+`"n":1}`)
	b.ReportAllocs()
	for b.Loop() {
		if o.Repeated([]string{"model", "n"}) != "" {
			b.Fatal("repeated")
		}
	}
}
