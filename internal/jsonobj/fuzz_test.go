package jsonobj_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// FuzzParse holds the scanner against encoding/json, which differs in what it
// says about UTF-8, nesting and other types only.
func FuzzParse(f *testing.F) {
	for _, d := range documents(f) {
		f.Add([]byte(d.text))
		f.Add([]byte(`{"v":` + d.text + `}`))
	}
	f.Add([]byte(strings.Repeat(`{"a":`, 999) + "{}" + strings.Repeat("}", 999)))
	f.Add([]byte(strings.Repeat(`{"a":`, 1000) + "{}" + strings.Repeat("}", 1000)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		trimmed := bytes.TrimLeft(raw, " \t\r\n")
		want := json.Valid(raw) && utf8.Valid(raw) && len(trimmed) > 0 && trimmed[0] == '{' && depth(raw) <= jsonobj.MaxDepth
		o, err := jsonobj.Parse(raw)
		if (err == nil) != want {
			t.Fatalf("Parse(%q) = %v, want success: %t", raw, err, want)
		}
		if err != nil {
			return
		}
		members := decode(t, raw)
		checkMembers(t, o, members)
		checkEdits(t, o, members)
		same := jsonobj.MapStrings(raw, func(s string) string { return s })
		if !bytes.Equal(same, raw) {
			t.Errorf("MapStrings without a change: %q, want %q", same, raw)
		}
		changed := jsonobj.MapStrings(raw, func(s string) string { return "\xff" + s + `"\` })
		if !json.Valid(changed) {
			t.Errorf("MapStrings made %q of %q", changed, raw)
		}
	})
}

// pair is one member as encoding/json reads it.
type pair struct{ key, value string }

func decode(t *testing.T, raw []byte) (members []pair) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		t.Fatal(err)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			t.Fatal(err)
		}
		members = append(members, pair{key.(string), string(value)})
	}
	return members
}

func checkMembers(t *testing.T, o jsonobj.Object, members []pair) {
	t.Helper()
	first := map[string]string{}
	repeated := ""
	var keys []string
	for _, m := range members {
		if _, twice := first[m.key]; !twice {
			first[m.key] = m.value
			keys = append(keys, m.key)
		} else if repeated == "" {
			repeated = m.key
		}
	}
	for key, want := range first {
		if got, ok := o.Get(key); !ok || string(got) != want {
			t.Errorf("Get(%q) = %q, want %q", key, got, want)
		}
		var text string
		isString := want[0] == '"' && json.Unmarshal([]byte(want), &text) == nil
		if got, ok := o.String(key); ok != isString || got != text {
			t.Errorf("String(%q) = %q, %t, want %q, %t", key, got, ok, text, isString)
		}
	}
	if len(members) < 100 {
		if got := o.Repeated(keys); got != repeated {
			t.Errorf("Repeated = %q, want %q", got, repeated)
		}
	}
	if got := o.Repeated(nil); got != "" {
		t.Errorf("Repeated(nil) = %q", got)
	}
}

func checkEdits(t *testing.T, o jsonobj.Object, members []pair) {
	t.Helper()
	added := o.With(jsonobj.Field{Key: "new", Value: []byte("[1.10]")}, jsonobj.Field{Key: "other", Value: []byte("null")})
	wantMembers(t, "With", added, append([]pair{{"new", "[1.10]"}, {"other", "null"}}, members...))
	if len(members) == 0 {
		return
	}
	for _, i := range []int{0, len(members) / 2, len(members) - 1} {
		key := members[i].key
		i = slices.IndexFunc(members, func(m pair) bool { return m.key == key })
		without := slices.Concat(members[:i], members[i+1:])
		wantMembers(t, "Without", o.Without(key), without)
		replaced := slices.Clone(members)
		replaced[i].value = "[1.10]"
		wantMembers(t, "Replace", o.Replace(key, []byte("[1.10]")), replaced)
	}
}

func wantMembers(t *testing.T, what string, raw []byte, want []pair) {
	t.Helper()
	if !json.Valid(raw) {
		t.Fatalf("%s made %q, which is no JSON", what, raw)
	}
	if got := decode(t, raw); !slices.Equal(got, want) {
		t.Errorf("%s made members %q, want %q", what, got, want)
	}
}

// depth is the nesting of a valid document.
func depth(raw []byte) (deepest int) {
	level, inString := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}
