// Package jsonobj looks at a JSON object without decoding it: one pass checks
// the whole document and remembers where the top-level members lie, so that a
// body can be judged, extended and forwarded byte for byte as its writer
// spelled it.
//
// It is stricter than RFC 8259 where two parsers could disagree: nothing but
// white space may follow the object, the text must be valid UTF-8 without a
// byte order mark, and nesting is bounded. Escapes pass, lone surrogates among
// them, and duplicate keys are reported, not judged.
package jsonobj

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxDepth is the deepest nesting that Parse accepts; the object itself is
// level one.
const MaxDepth = 1000

// Errors of Parse.
var (
	ErrSyntax    = errors.New("not one well-formed JSON value")
	ErrNotObject = errors.New("not a JSON object")
	ErrDepth     = errors.New("nested too deeply")
	ErrEncoding  = errors.New("not valid UTF-8")
	ErrLength    = errors.New("longer than 4 GiB")
)

// Object is a checked JSON object. The zero value is an empty object of no
// bytes. It aliases the bytes given to Parse; both must be left unchanged.
type Object struct {
	raw     []byte
	open    int // offset of the opening brace
	members []member
}

// member is where the parts of one top-level member lie. It is small because a
// hostile document can be little else than members.
type member struct {
	keyStart, keyEnd, valueStart, valueEnd uint32
}

// key returns the key of a member as it reads after unescaping.
func (o *Object) key(m *member) string {
	quoted := o.raw[m.keyStart:m.keyEnd]
	if bytes.IndexByte(quoted, '\\') >= 0 {
		return unquote(quoted)
	}
	return string(quoted[1 : len(quoted)-1])
}

// is compares the key of a member, without allocating for an ordinary one.
func (o *Object) is(m *member, key string) bool {
	quoted := o.raw[m.keyStart:m.keyEnd]
	if len(quoted) < len(key)+2 { // escapes are longer than what they stand for
		return false
	}
	if bytes.IndexByte(quoted, '\\') >= 0 {
		return unquote(quoted) == key
	}
	return string(quoted[1:len(quoted)-1]) == key
}

// index finds the key of a member among keys; -1: it is none of them.
func (o *Object) index(m *member, keys []string) int {
	quoted := o.raw[m.keyStart:m.keyEnd]
	if bytes.IndexByte(quoted, '\\') >= 0 {
		return slices.Index(keys, unquote(quoted))
	}
	quoted = quoted[1 : len(quoted)-1]
	for i, key := range keys {
		if string(quoted) == key {
			return i
		}
	}
	return -1
}

// Parse checks that raw is one JSON object and nothing else.
func Parse(raw []byte) (Object, error) {
	if len(raw) > math.MaxUint32 {
		return Object{}, ErrLength
	}
	if !utf8.Valid(raw) {
		return Object{}, ErrEncoding
	}
	open := skipSpace(raw, 0)
	if open == len(raw) {
		return Object{}, ErrSyntax
	}
	if raw[open] != '{' {
		return Object{}, notObject(raw, open)
	}
	o := Object{raw: raw, open: open}
	end, err := o.scanMembers(open + 1)
	if err != nil {
		return Object{}, err
	}
	if skipSpace(raw, end) != len(raw) {
		return Object{}, ErrSyntax
	}
	return o, nil
}

// notObject tells a document of another type from one that is no JSON.
func notObject(raw []byte, i int) error {
	end, err := skipValue(raw, i, 0)
	if err != nil {
		return err
	}
	if skipSpace(raw, end) != len(raw) {
		return ErrSyntax
	}
	return ErrNotObject
}

// scanMembers reads the members from behind the opening brace and returns the
// offset behind the closing one.
func (o *Object) scanMembers(i int) (int, error) {
	raw := o.raw
	i = skipSpace(raw, i)
	if i < len(raw) && raw[i] == '}' {
		return i + 1, nil
	}
	o.members = make([]member, 0, 8)
	for {
		keyStart := i
		keyEnd := skipString(raw, i)
		if keyEnd < 0 {
			return 0, ErrSyntax
		}
		if i = skipSpace(raw, keyEnd); i >= len(raw) || raw[i] != ':' {
			return 0, ErrSyntax
		}
		valueStart := skipSpace(raw, i+1)
		valueEnd, err := skipValue(raw, valueStart, 1)
		if err != nil {
			return 0, err
		}
		//nolint:gosec // Parse refuses longer documents
		o.members = append(o.members, member{uint32(keyStart), uint32(keyEnd), uint32(valueStart), uint32(valueEnd)})
		if i = skipSpace(raw, valueEnd); i >= len(raw) {
			return 0, ErrSyntax
		}
		switch raw[i] {
		case '}':
			return i + 1, nil
		case ',':
			i = skipSpace(raw, i+1)
		default:
			return 0, ErrSyntax
		}
	}
}

// Bytes returns the document as it was given to Parse.
func (o Object) Bytes() []byte { return o.raw }

// Has reports whether key is there, whatever its value.
func (o Object) Has(key string) bool {
	_, ok := o.Get(key)
	return ok
}

// Get returns the raw value of key. Of a key that occurs more than once it
// returns the first value; see Repeated.
func (o Object) Get(key string) (value []byte, ok bool) {
	for i := range o.members {
		if m := &o.members[i]; o.is(m, key) {
			return o.raw[m.valueStart:m.valueEnd], true
		}
	}
	return nil, false
}

// String returns the value of key if it is a JSON string, unescaped.
func (o Object) String(key string) (s string, ok bool) {
	v, _ := o.Get(key)
	return Text(v)
}

// Text returns the text of raw, a well-formed JSON value, if it is a string.
func Text(raw []byte) (s string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	return unquote(raw), true
}

// Repeated returns the first of keys that occurs more than once, or "".
func (o Object) Repeated(keys []string) string {
	var few [32]bool
	seen := few[:]
	if len(keys) > len(few) {
		seen = make([]bool, len(keys))
	}
	for i := range o.members {
		k := o.index(&o.members[i], keys)
		if k < 0 {
			continue
		}
		if seen[k] {
			return keys[k]
		}
		seen[k] = true
	}
	return ""
}

// Ambiguous returns a key that readers could differ about: one that occurs more
// than once, or that equals one of keys in all but case (Unicode simple folding).
func (o Object) Ambiguous(keys []string) (key string, ok bool) {
	var few [32]string // most objects have few members, and need no map
	known := few[:0]
	var seen map[string]bool
	if len(o.members) > len(few) {
		seen = make(map[string]bool, len(o.members))
	}
	for i := range o.members {
		key := o.key(&o.members[i])
		if seen[key] || slices.Contains(known, key) {
			return key, true
		}
		if seen != nil {
			seen[key] = true
		} else {
			known = append(known, key)
		}
		if slices.ContainsFunc(keys, func(k string) bool { return k != key && foldsTo(key, k) }) {
			return key, true
		}
	}
	return "", false
}

// foldsTo is strings.EqualFold, quick for ASCII texts of different lengths, which
// never are.
func foldsTo(a, b string) bool {
	return (len(a) == len(b) || !isASCII(a) || !isASCII(b)) && strings.EqualFold(a, b)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Field is a member to add: a key and its raw JSON value.
type Field struct {
	Key   string
	Value []byte
}

// With returns a new document with fields in front of the members of o. The
// bytes of o follow unchanged. Keys need no escaping: they are constants of
// the caller.
func (o Object) With(fields ...Field) []byte {
	size := len(o.raw) + 1
	for _, f := range fields {
		size += len(f.Key) + len(f.Value) + len(`"":,`)
	}
	out := make([]byte, 0, size)
	out = append(out, o.raw[:o.open+1]...)
	for i, f := range fields {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, '"')
		out = append(out, f.Key...)
		out = append(out, `":`...)
		out = append(out, f.Value...)
	}
	if len(fields) > 0 && len(o.members) > 0 {
		out = append(out, ',')
	}
	return append(out, o.raw[o.open+1:]...)
}

// Without returns a new document that lacks the first member called key; every
// other byte stays. If there is none it returns the document itself.
func (o Object) Without(key string) []byte {
	for i := range o.members {
		m := &o.members[i]
		if !o.is(m, key) {
			continue
		}
		from, to := int(m.keyStart), int(m.valueEnd)
		switch {
		case i > 0: // the comma before it goes too
			from = int(o.members[i-1].valueEnd)
		case len(o.members) > 1: // or, for the first, the comma behind it
			to = int(o.members[1].keyStart)
		}
		return cut(o.raw, from, to, nil)
	}
	return o.raw
}

// Replace returns a new document in which the first member called key has the
// given raw value; every other byte stays. If there is none it returns the
// document itself.
func (o Object) Replace(key string, value []byte) []byte {
	for i := range o.members {
		if m := &o.members[i]; o.is(m, key) {
			return cut(o.raw, int(m.valueStart), int(m.valueEnd), value)
		}
	}
	return o.raw
}

// cut returns a copy of raw with raw[from:to] replaced.
func cut(raw []byte, from, to int, with []byte) []byte {
	out := make([]byte, 0, len(raw)-(to-from)+len(with))
	out = append(out, raw[:from]...)
	out = append(out, with...)
	return append(out, raw[to:]...)
}

// MapStrings returns raw, a well-formed JSON value, with every string replaced
// for which change, given its unescaped text, returns another one. Keys are
// strings too. It returns raw itself if nothing changed.
func MapStrings(raw []byte, change func(string) string) []byte {
	var out []byte
	last := 0
	for i := 0; i < len(raw); {
		if raw[i] != '"' {
			i++
			continue
		}
		end := skipString(raw, i)
		if end < 0 {
			break
		}
		text := unquote(raw[i:end])
		if changed := change(text); changed != text {
			out = append(append(out, raw[last:i]...), Quote(changed)...)
			last = end
		}
		i = end
	}
	if out == nil {
		return raw
	}
	return append(out, raw[last:]...)
}

// Elements returns the raw elements of raw, a well-formed JSON value, if it is an
// array.
func Elements(raw []byte) (elements [][]byte, ok bool) {
	if len(raw) == 0 || raw[0] != '[' {
		return nil, false
	}
	for i := skipSpace(raw, 1); raw[i] != ']'; {
		end, err := skipValue(raw, i, 0)
		if err != nil {
			return nil, false
		}
		elements = append(elements, raw[i:end])
		if i = skipSpace(raw, end); raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return elements, true
}

// Values returns about how many values raw, a well-formed JSON value, holds, for
// bounding what decoding it would take.
func Values(raw []byte) int {
	n := 1
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			end := skipString(raw, i)
			if end < 0 {
				return n
			}
			i = end - 1
		case ',', '[', '{':
			n++
		}
	}
	return n
}

// Quote returns s as a JSON string. Bytes that are no UTF-8 become U+FFFD, and
// characters that mean something to HTML are left alone.
func Quote(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil { // a string never fails to encode
		return []byte(`""`)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// unquote returns the text of a JSON string that was checked before. Lone
// surrogates become U+FFFD.
func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return strings.ToValidUTF8(string(quoted), "\uFFFD")
	}
	return s
}
