package gqldoc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Kind says which stage refused, so that a caller can choose a status.
type Kind uint8

// The stages.
const (
	KindSyntax     Kind = iota + 1 // the text is no GraphQL document
	KindValidation                 // the document does not fit the schema
	KindSize                       // the text is too long
	KindComplexity                 // the document asks for too much
	KindResolution                 // no such operation in the document
	KindInput                      // variables do not fit their types
	KindExecution                  // a resolver failed; there is a data key
	KindInternal                   // a bug of ours, found by recover
)

// The values of extensions.code.
const (
	CodeSyntax        = "GRAPHQL_PARSE_FAILED"
	CodeValidation    = "GRAPHQL_VALIDATION_FAILED"
	CodeSize          = "QUERY_TOO_LARGE"
	CodeComplexity    = "QUERY_TOO_COMPLEX"
	CodePaid          = "TOO_MANY_UPSTREAM_CALLS"
	CodeIntrospection = "INTROSPECTION_DISABLED"
	CodeResolution    = "OPERATION_RESOLUTION_FAILURE"
	CodeInput         = "BAD_USER_INPUT"
	CodeCancelled     = "CANCELLED"
	CodeTimeout       = "TIMEOUT"
	CodeInternal      = "INTERNAL_SERVER_ERROR"
)

const internalMessage = "Internal server error."

// maxMessage bounds the bytes of a message made here: gqlparser's echo names
// and literals of the document at any length.
const maxMessage = 400

// Location is a place in the document, both numbers from 1, columns in runes.
type Location struct{ Line, Column int }

// Error is one entry of a response's errors.
type Error struct {
	Message    string
	Locations  []Location
	Path       []any // string and int
	Code       string
	Extensions map[string]any // beside the code; a "code" in here wins
	Kind       Kind

	// Err is what a resolver returned or panicked with. It is for the log and
	// never encoded.
	Err error
}

func newError(kind Kind, code, message string, at ...Location) Error {
	return Error{Kind: kind, Code: code, Message: clip(message), Locations: at}
}

// AppendJSON appends the wire form of e.
func (e *Error) AppendJSON(dst []byte) []byte {
	dst = appendString(append(dst, `{"message":`...), e.Message)
	if len(e.Locations) > 0 {
		dst = append(dst, `,"locations":[`...)
		for i, l := range e.Locations {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = strconv.AppendInt(append(dst, `{"line":`...), int64(l.Line), 10)
			dst = strconv.AppendInt(append(dst, `,"column":`...), int64(l.Column), 10)
			dst = append(dst, '}')
		}
		dst = append(dst, ']')
	}
	if len(e.Path) > 0 {
		dst = append(dst, `,"path":`...)
		dst = appendLeaf(dst, e.Path)
	}
	return append(e.appendExtensions(dst), '}')
}

func (e *Error) appendExtensions(dst []byte) []byte {
	code, ok := e.Extensions["code"]
	if !ok {
		code = e.Code
	}
	if code == "" && len(e.Extensions) == 0 {
		return dst
	}
	dst = appendLeaf(append(dst, `,"extensions":{"code":`...), code)
	for _, key := range slices.Sorted(maps.Keys(e.Extensions)) {
		if key == "code" {
			continue
		}
		dst = appendString(append(dst, ','), key)
		dst = appendLeaf(append(dst, ':'), e.Extensions[key])
	}
	return append(dst, '}')
}

// internal reports a panic of a library, which is a bug but no reason to end
// the host's process.
func internal(p any) []Error {
	return []Error{{
		Kind: KindInternal, Code: CodeInternal, Message: internalMessage,
		Err: fmt.Errorf("gqldoc: panic: %v\n%s", p, debug.Stack()),
	}}
}

// publicError is what an error has to be for its text to reach a client.
type publicError interface {
	error
	Extensions() map[string]any
}

// resolverError gives the public face of what a resolver returned.
func resolverError(err error) Error {
	e := Error{Kind: KindExecution, Code: CodeInternal, Message: internalMessage, Err: err}
	var public publicError
	switch {
	case errors.As(err, &public):
		e.Message, e.Extensions = public.Error(), public.Extensions()
	case errors.Is(err, context.DeadlineExceeded):
		e.Code, e.Message = CodeTimeout, "The request timed out."
	case errors.Is(err, context.Canceled):
		e.Code, e.Message = CodeCancelled, "The request was cancelled."
	}
	return e
}

// clip cuts s to maxMessage bytes without splitting a character.
func clip(s string) string { return clipTo(s, maxMessage) }

func clipTo(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit - len("...")
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. Unlike encoding/json it leaves <, >
// and & alone and allocates nothing.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}

// appendLeaf appends any value without a selection.
func appendLeaf(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case string:
		return appendString(dst, v)
	case bool:
		return strconv.AppendBool(dst, v)
	case int:
		return strconv.AppendInt(dst, int64(v), 10)
	case json.RawMessage: // only serializeJSON makes these: valid and compact
		return append(dst, v...)
	}
	if raw, ok := marshal(v); ok {
		return append(dst, raw...)
	}
	return append(dst, "null"...)
}
