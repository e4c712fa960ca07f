package jsonobj

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Decode returns the Go value of raw, which Parse has found well-formed, as
// encoding/json does with UseNumber: map[string]any, []any, string, json.Number,
// bool or nil. Of a key that stands twice the last value counts.
func Decode(raw []byte) any {
	v, _ := decode(raw, skipSpace(raw, 0))
	return v
}

func decode(raw []byte, i int) (v any, end int) {
	switch raw[i] {
	case '{':
		return decodeObject(raw, i)
	case '[':
		return decodeArray(raw, i)
	case '"':
		end = skipString(raw, i)
		return unquote(raw[i:end]), end
	case 't':
		return true, i + len("true")
	case 'f':
		return false, i + len("false")
	case 'n':
		return nil, i + len("null")
	}
	end = skipNumber(raw, i)
	return json.Number(raw[i:end]), end
}

func decodeObject(raw []byte, i int) (any, int) {
	object := map[string]any{}
	for i = skipSpace(raw, i+1); raw[i] != '}'; {
		end := skipString(raw, i)
		key := unquote(raw[i:end])
		i = skipSpace(raw, end) + 1 // behind the colon
		object[key], i = decode(raw, skipSpace(raw, i))
		if i = skipSpace(raw, i); raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return object, i + 1
}

func decodeArray(raw []byte, i int) (any, int) {
	array := []any{}
	for i = skipSpace(raw, i+1); raw[i] != ']'; {
		var v any
		v, i = decode(raw, i)
		array = append(array, v)
		if i = skipSpace(raw, i); raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return array, i + 1
}

// Append appends v as JSON, the keys of objects in order. v is made of what
// Decode returns, of Go's int and float64, and of json.RawMessage; anything else
// goes through encoding/json, and becomes null where that fails.
func Append(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case string:
		return appendString(dst, v)
	case bool:
		return strconv.AppendBool(dst, v)
	case int:
		return strconv.AppendInt(dst, int64(v), 10)
	case json.Number:
		if v != "" {
			return append(dst, v...)
		}
	case json.RawMessage:
		if len(v) > 0 {
			return append(dst, v...)
		}
	case []json.RawMessage:
		return appendArray(dst, v)
	case []any:
		return appendArray(dst, v)
	case map[string]any:
		dst = append(dst, '{')
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, key), ':')
			dst = Append(dst, v[key])
		}
		return append(dst, '}')
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return append(dst, "null"...)
	}
	return append(dst, raw...)
}

func appendArray[T any](dst []byte, list []T) []byte {
	dst = append(dst, '[')
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = Append(dst, v)
	}
	return append(dst, ']')
}

// appendString copies ordinary text as it is; Quote does the rest.
func appendString(dst []byte, s string) []byte {
	if !utf8.ValidString(s) {
		return append(dst, Quote(s)...)
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == '"' || s[i] == '\\' {
			return append(dst, Quote(s)...)
		}
	}
	return append(append(append(dst, '"'), s...), '"')
}
