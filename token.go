package proxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// Tokens mints and checks the short-lived tokens that let a page call the
// handler without knowing a key: the host's server gives one to a page it trusts,
// and the page sends it as the official SDKs send their apiKey, in
// "Authorization: Bearer". Hand its Caller method to [WithCaller].
//
// A token is a JSON Web Token (RFC 7519) of the type openai-proxy+jwt, signed
// with HS256 and nothing else; any server that knows the secret can mint one, with
// the claims sub, iat and exp and those of [Token]. A claim that is there but empty
// is refused.
// Nothing is stored: a token is good until it expires, or until its secret is
// taken out. Tokens is safe for concurrent use and prints as ***.
type Tokens struct {
	_       [0]func()
	secrets []secret
}

// Token is what a browser token says. Zero fields say nothing.
type Token struct {
	_ [0]func()

	Subject   string        // claim sub: becomes Caller.ID; required
	Lifetime  time.Duration // claim exp: default 10 min, at most 24 h
	Origin    string        // claim origin: the only page it is good for, as "https://app.example.com"
	Models    []string      // claim models: as Policy.Models
	MaxTokens int64         // claim max_tokens: as Policy.MaxTokens
}

const (
	tokenType     = "openai-proxy+jwt" //nolint:gosec // a media type, no credential
	tokenLifetime = 10 * time.Minute
	maxLifetime   = 24 * 60 * 60 // seconds
	// tokenSkew is how far two servers' clocks may differ, in seconds.
	tokenSkew = 30
	// maxToken bounds what is taken apart.
	maxToken = 4 << 10
	// minTokenSecret is the least that RFC 7518, section 3.2, asks of HS256.
	minTokenSecret = 32
)

type tokenClaims struct {
	Subject   string   `json:"sub"`
	Issued    int64    `json:"iat"`
	Expires   int64    `json:"exp"`
	NotBefore int64    `json:"nbf,omitempty"`
	Origin    string   `json:"origin,omitempty"`
	Models    []string `json:"models,omitempty"`
	MaxTokens int64    `json:"max_tokens,omitempty"`
}

// NewTokens makes a Tokens that signs with the first secret and accepts all of
// them: to rotate, put the new one in front and drop the old one once the last
// token signed with it has expired. Every secret must have 32 bytes at least,
// and should be random.
func NewTokens(secrets ...string) (*Tokens, error) {
	t := &Tokens{}
	for _, s := range secrets {
		if len(s) < minTokenSecret {
			return nil, &OptionError{"NewTokens", fmt.Errorf("a secret has fewer than %d bytes", minTokenSecret)}
		}
		t.secrets = append(t.secrets, newSecret(s))
	}
	if len(t.secrets) == 0 {
		return nil, &OptionError{"NewTokens", errors.New("a secret is required")}
	}
	return t, nil
}

// Format implements [fmt.Formatter].
func (t *Tokens) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// Mint signs a token that is good from now on.
func (t *Tokens) Mint(token Token) (string, error) {
	if t == nil || len(t.secrets) == 0 {
		return "", errors.New("proxy: Tokens is made by NewTokens")
	}
	if token.Lifetime == 0 {
		token.Lifetime = tokenLifetime
	}
	policy := Policy{Models: token.Models, MaxTokens: token.MaxTokens}
	switch {
	case token.Subject == "":
		return "", errors.New("proxy: a token needs a subject")
	case token.Lifetime < time.Second || token.Lifetime > maxLifetime*time.Second:
		return "", fmt.Errorf("proxy: a token lives between 1 s and 24 h, not %v", token.Lifetime)
	case policy.check() != nil:
		return "", fmt.Errorf("proxy: %w", policy.check())
	}
	claims := tokenClaims{
		Subject: token.Subject, Origin: token.Origin, Models: token.Models, MaxTokens: token.MaxTokens,
		Issued: time.Now().Unix(), Expires: time.Now().Add(token.Lifetime).Unix(),
	}
	if token.Origin != "" {
		o, err := parseOrigin(token.Origin)
		if err != nil || o.any || o.subdomains {
			return "", fmt.Errorf("proxy: invalid origin %q: one exact origin is required", token.Origin)
		}
		claims.Origin = o.serialized
	}
	signed := mintedHeader + "." + encodePart(encodeJSON(claims))
	minted := signed + "." + encodePart(t.secrets[0].sign(signed))
	if len(minted) > maxToken {
		return "", errors.New("proxy: the token would be longer than 4 KiB")
	}
	return minted, nil
}

// Caller reads the token of a request, for [WithCaller]. Without a token, or
// with one that is not good, it refuses with 401; with one of another page, with
// 403.
func (t *Tokens) Caller(r *http.Request) (Caller, error) {
	values := r.Header["Authorization"]
	if len(values) != 1 || bearer(values[0]) == "" {
		return Caller{}, unauthorized("A token is required.", errors.New("no bearer token"))
	}
	claims, err := t.verify(bearer(values[0]))
	if err != nil {
		return Caller{}, err
	}
	if claims.Origin != "" && !fromOrigin(r, claims.Origin) {
		return Caller{}, &Error{
			Status: http.StatusForbidden, Code: CodeForbidden, Message: "The token is for another page.",
			Err: errors.New("the token's origin is not the request's"),
		}
	}
	return Caller{ID: claims.Subject, Policy: Policy{Models: claims.Models, MaxTokens: claims.MaxTokens}}, nil
}

// verify checks the signature first, and nothing of a token before it.
func (t *Tokens) verify(token string) (*tokenClaims, error) {
	invalid := func(cause string) (*tokenClaims, error) {
		return nil, unauthorized("The token is not valid.", errors.New(cause))
	}
	if len(token) > maxToken {
		return invalid("too long")
	}
	end := strings.LastIndexByte(token, '.')
	head, body, ok := strings.Cut(token[:max(end, 0)], ".")
	if !ok {
		return invalid("not three parts")
	}
	signature, err := decodePart(token[end+1:])
	if err != nil || !t.signed(token[:end], signature) {
		return invalid("the signature is not ours")
	}
	if !isToken256(head) {
		return invalid("another kind of token")
	}
	claims, err := readClaims(body)
	if err != nil {
		return invalid("the claims are not readable")
	}
	now, policy := time.Now(), Policy{Models: claims.Models, MaxTokens: claims.MaxTokens}
	switch { // in an order in which no sum can overflow
	case claims.Subject == "" || claims.Expires <= 0 || claims.Issued <= 0 || policy.check() != nil:
		return invalid("a claim is missing or not valid")
	case max(claims.Issued, claims.NotBefore) > now.Unix()+tokenSkew:
		return invalid("it is from the future")
	case claims.Expires > claims.Issued+maxLifetime:
		return invalid("it lives for too long")
	case now.After(time.Unix(claims.Expires+tokenSkew, 0)):
		return nil, unauthorized("The token has expired.", errors.New("expired"))
	}
	return claims, nil
}

// signed tries every secret, each in constant time.
func (t *Tokens) signed(text string, signature []byte) bool {
	ok := false
	for _, s := range t.secrets {
		if hmac.Equal(s.sign(text), signature) {
			ok = true
		}
	}
	return ok
}

func (s secret) sign(text string) []byte {
	mac := hmac.New(sha256.New, []byte(*s.text))
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

func encodePart(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// decodePart is strict: of two spellings of one signature only one is good.
func decodePart(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return nil, errors.New("a line break")
	}
	return base64.RawURLEncoding.Strict().DecodeString(text)
}

// isToken256 reports whether a header is of our kind: the one that Mint writes, or
// one that says the same.
func isToken256(part string) bool {
	if part == mintedHeader {
		return true
	}
	raw, err := decodePart(part)
	if err != nil {
		return false
	}
	header, err := jsonobj.Parse(raw)
	if err != nil || header.Has("crit") || header.Repeated([]string{"alg", "typ"}) != "" {
		return false
	}
	algorithm, _ := header.String("alg")
	kind, _ := header.String("typ")
	return algorithm == "HS256" && kind == tokenType
}

// mintedHeader is {"alg":"HS256","typ":"openai-proxy+jwt"}.
const mintedHeader = "eyJhbGciOiJIUzI1NiIsInR5cCI6Im9wZW5haS1wcm94eStqd3QifQ"

var claimNames = []string{"sub", "iat", "exp", "nbf", "origin", "models", "max_tokens"}

// readClaims reads the claims that we know; one of another type is an error.
func readClaims(part string) (*tokenClaims, error) {
	raw, err := decodePart(part)
	if err != nil {
		return nil, err
	}
	o, err := jsonobj.Parse(raw)
	if err != nil {
		return nil, err
	}
	claims := &tokenClaims{}
	claims.Subject, _ = o.String("sub")
	claims.Origin, err = originClaim(o)
	if key := o.Repeated(claimNames); key != "" {
		err = errors.New(key + " stands twice")
	}
	for _, n := range []struct {
		key   string
		value *int64
	}{{"iat", &claims.Issued}, {"exp", &claims.Expires}, {"nbf", &claims.NotBefore}, {"max_tokens", &claims.MaxTokens}} {
		if value, ok := o.Get(n.key); ok {
			if *n.value, ok = wholeNumber(value); !ok || *n.value == 0 { // which would say nothing
				err = errors.New(n.key + " is not a whole number above 0")
			}
		}
	}
	models, _ := o.Get("models")
	elements, ok := jsonobj.Elements(models)
	if len(models) > 0 && (!ok || len(elements) == 0) { // no models would be any
		err = errors.New("models is not an array of names")
	}
	for _, raw := range elements {
		model, ok := jsonobj.Text(raw)
		if !ok {
			err = errors.New("a model is not a string")
		}
		claims.Models = append(claims.Models, model)
	}
	return claims, err
}

// originClaim reads the one origin that a token is for, or "".
func originClaim(o jsonobj.Object) (string, error) {
	raw, ok := o.Get("origin")
	if !ok {
		return "", nil
	}
	text, _ := jsonobj.Text(raw)
	if origin, err := parseOrigin(text); err != nil || origin.any || origin.subdomains {
		return "", errors.New("origin is not an exact origin")
	}
	return text, nil
}

// fromOrigin reports whether a page of origin makes the request. Browsers leave
// Origin out of GET requests of the own origin.
func fromOrigin(r *http.Request, origin string) bool {
	if origins := r.Header["Origin"]; len(origins) > 0 {
		return len(origins) == 1 && origins[0] == origin
	}
	u, err := url.Parse(origin)
	return err == nil && r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Site") == "same-origin" && u.Host == r.Host
}

func unauthorized(message string, cause error) *Error {
	return &Error{Status: http.StatusUnauthorized, Code: CodeUnauthorized, Message: message, Err: cause}
}
