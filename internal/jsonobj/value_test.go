package jsonobj_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// FuzzValue holds Decode and Append against encoding/json.
func FuzzValue(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":[],"b":{},"c":null,"d":true,"e":false,"f":"\ud83d\ude00\u0000\/","g":-1.5e+10}`,
		` { "a" : [ 1 , { "b" : [ [ ] ] } ] , "a" : 2 } `, `{"\u0061":"x","k\"":"\\"}`, `{"<&>":"<\u2028>"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := jsonobj.Parse(raw); err != nil {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		var want any
		if err := dec.Decode(&want); err != nil {
			t.Fatal(err)
		}
		got := jsonobj.Decode(raw)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("Decode(%q) = %#v, want %#v", raw, got, want)
		}
		out := jsonobj.Append(nil, got)
		if _, err := jsonobj.Parse(out); err != nil || !reflect.DeepEqual(jsonobj.Decode(out), want) {
			t.Fatalf("Append of %q = %q, %v", raw, out, err)
		}
	})
}

func TestAppendTakesGoValues(t *testing.T) {
	t.Parallel()
	got := jsonobj.Append(nil, map[string]any{
		"b": 1, "a": 0.5, "c": json.RawMessage(`{"x":1.10}`), "d": []json.RawMessage{json.RawMessage("1")}, "e": int64(7),
		"f": json.RawMessage(nil), "g": func() {}, "h": "\xff\n", "i": json.Number(""),
	})
	want := `{"a":0.5,"b":1,"c":{"x":1.10},"d":[1],"e":7,"f":null,"g":null,"h":"\ufffd\n","i":0}`
	if string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
