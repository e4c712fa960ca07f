package proxy

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
)

// KeySource tells which API key to use for a request. An empty key with a nil
// error means "none here". An [*Error] is the answer as it stands, to refuse a
// caller; any other error means that the source itself failed, which the caller
// sees as 503.
//
// Key is called once per upstream call, concurrently for different requests.
// Its context ends after Limits.KeyTime; a source that ignores the context
// blocks its own request only. The request's body must not be read.
type KeySource interface {
	Key(r *http.Request) (string, error)
}

// KeyFunc is a function used as a [KeySource], for a key per tenant or a secret
// store.
type KeyFunc func(r *http.Request) (string, error)

// Key calls f.
func (f KeyFunc) Key(r *http.Request) (string, error) { return f(r) }

// Format implements [fmt.Formatter]. It prints ***, so that no verb reaches
// what the function holds.
func (f KeyFunc) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// secret is a key that prints as *** under every verb, in slog and as JSON.
// The text stands behind a pointer because fmt does not call methods of
// unexported fields: of a pointer it prints no more than the address.
type secret struct{ text *string }

func newSecret(text string) secret { return secret{&text} }

func (s secret) Format(f fmt.State, _ rune)   { fmt.Fprint(f, redacted) }
func (s secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (s secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func (s secret) Key(*http.Request) (string, error) {
	if s.text == nil {
		return "", nil
	}
	return *s.text, nil
}

// StaticKey always returns key. NewHandler refuses one that is empty or has
// anything but visible ASCII characters; white space around it is not trimmed.
// The source prints as ***.
func StaticKey(key string) KeySource { return newSecret(key) }

// EnvKey returns the value of an environment variable, without white space
// around it. It is read for every request, so that a rotated secret is seen.
func EnvKey(name string) KeySource { return envKey(name) }

type envKey string

func (name envKey) Key(*http.Request) (string, error) {
	return strings.TrimSpace(os.Getenv(string(name))), nil
}

// HeaderKey returns a key that the client sends in a header. Of an
// Authorization header it takes the token behind "Bearer ". A missing or empty
// header is no key; a value that is no visible ASCII is answered with 400.
//
// With it, anybody who may call the handler chooses which account pays. It is
// meant for development and for callers that bring their own key.
func HeaderKey(name string) KeySource { return headerKey(http.CanonicalHeaderKey(name)) }

type headerKey string

func (name headerKey) Key(r *http.Request) (string, error) {
	key := strings.Trim(r.Header.Get(string(name)), " \t")
	if name == "Authorization" {
		key = bearer(key)
	}
	if key != "" && (len(key) > maxHeaderKey || !validKey(key)) {
		return "", badRequest(CodeInvalidRequest, "", "The API key in header %s must be 1 to 512 visible ASCII characters.", string(name))
	}
	return key, nil
}

// isInstant reports whether a source answers out of what is at hand, so that it
// needs no deadline.
func isInstant(source KeySource) bool {
	instant := true
	switch s := source.(type) {
	case secret, envKey, headerKey, nil:
	case firstKey:
		for _, inner := range s {
			instant = instant && isInstant(inner)
		}
	case *keyPool:
		for i := range s.slots {
			instant = instant && isInstant(s.slots[i].source)
		}
	default:
		return false
	}
	return instant
}

// FirstKey returns the first key that any of sources has, in order; an error of
// one ends the search. A nil source has no key.
func FirstKey(sources ...KeySource) KeySource { return firstKey(slices.Clone(sources)) }

type firstKey []KeySource

func (f firstKey) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

func (f firstKey) Key(r *http.Request) (string, error) {
	for _, source := range f {
		if source == nil {
			continue
		}
		if key, err := source.Key(r); key != "" || err != nil {
			return key, err
		}
	}
	return "", nil
}

// checkKeySource finds the static keys in source that can never work.
func checkKeySource(source KeySource) error {
	switch s := source.(type) {
	case nil:
		return errors.New("the key source is nil")
	case secret:
		if s.text == nil || !validKey(*s.text) {
			return errors.New("the key must be 1 to 8,192 visible ASCII characters")
		}
	case KeyFunc:
		if s == nil {
			return errors.New("the key function is nil")
		}
	case *keyPool:
		if len(s.slots) == 0 {
			return errors.New("the key pool is empty")
		}
		for i := range s.slots {
			if err := checkKeySource(s.slots[i].source); err != nil {
				return err
			}
		}
	case firstKey:
		for _, inner := range s {
			if err := checkKeySource(inner); inner != nil && err != nil {
				return err
			}
		}
	}
	return nil
}

// bearer returns the token of an Authorization value with the Bearer scheme,
// or "".
func bearer(value string) string {
	scheme, token, ok := strings.Cut(value, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.Trim(token, " \t")
}

// The longest keys: of a client's header, and of any source. Tokens of identity
// providers take a few thousand characters.
const (
	maxHeaderKey = 512
	maxKey       = 8 << 10
)

// validKey reports whether key can stand in a header without being changed.
func validKey(key string) bool {
	if key == "" || len(key) > maxKey {
		return false
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return false
		}
	}
	return true
}

// errInvalidKey is the cause when a source returns something that is no key.
var errInvalidKey = errors.New("the key source returned a value that is not 1 to 8,192 visible ASCII characters")

// ownKey reports whether the client itself sent key, in any header: then what
// the upstream says about the key is the client's business.
func ownKey(r *http.Request, key string) bool {
	found := 0
	for _, values := range r.Header {
		for _, v := range values {
			v = strings.Trim(v, " \t")
			found |= subtle.ConstantTimeCompare([]byte(v), []byte(key))
			found |= subtle.ConstantTimeCompare([]byte(bearer(v)), []byte(key))
		}
	}
	return key != "" && found == 1
}
