package proxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Caller is who makes a request, as the function of [WithCaller] found out.
type Caller struct {
	_ [0]func()

	// ID names the caller to limits, sessions and records. It should be stable,
	// and not be a secret. "" is nobody in particular: limits then count by
	// address.
	ID string
	// Policy is what this caller may ask for, within what WithPolicy allows to
	// everybody.
	Policy Policy
}

// WithCaller sets the function that says who makes a request. It runs once per
// HTTP request, before the body is read, for every route; preflights are
// answered before it, because browsers send them without credentials.
//
// An [*Error] is the answer as it stands; any other error refuses with 401 and
// is logged, not shown. The context of the request that it is handed ends after
// Limits.KeyTime; a function that outlives it refuses with 503, and one that
// ignores it blocks its own request only; since the body was not read yet, a
// client on HTTP/1.1 that leaves meanwhile is not noticed. The body must not be read. Sessions
// belong to the caller that made them: to others they do not exist. Passing it
// again replaces it; nil means the default: nobody is asked.
func WithCaller(identify func(r *http.Request) (Caller, error)) Option {
	return optionFunc(func(c *config) { c.identify = identify })
}

// WithTrustedProxies names the reverse proxies, as addresses or CIDR prefixes,
// whose X-Forwarded-For is believed when the client's address is looked for.
// The header is read from right to left up to the first address that is not
// trusted. A proxy on a Unix socket has no address, and cannot be named. Passing
// it again replaces the list. Default: none, the address is the connection's.
func WithTrustedProxies(prefixes ...string) Option {
	list := make([]netip.Prefix, 0, len(prefixes))
	var errs []error
	for _, text := range prefixes {
		p, err := parsePrefix(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("invalid address or prefix %q", text))
		}
		list = append(list, p)
	}
	return optionFunc(func(c *config) { c.trusted, c.trustedErr = list, errors.Join(errs...) })
}

func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, err
	}
	if p.Addr().Is4In6() {
		return p, errors.New("an IPv4 prefix is written in IPv4")
	}
	return p.Masked(), nil
}

// WithSafetyIdentifier sends OpenAI a safety_identifier with every JSON request
// of a known caller: HMAC-SHA256 of its ID under secret, in hexadecimal, which
// tells OpenAI callers apart but not who they are. It replaces what the client
// wrote under that key. secret must have 16 bytes at least, and stay the same
// for the identifiers to. Servers that refuse unknown keys do not like it.
// Passing it again replaces it. Default: none is sent.
func WithSafetyIdentifier(secret string) Option {
	key := newSecret(secret)
	return optionFunc(func(c *config) { c.safety = key })
}

// identify finds out who makes the request.
func (x *exchange) identify() error {
	cfg := x.h.cfg
	if cfg.identify == nil {
		return nil
	}
	ctx := newHostContext(x.r.Context(), cfg.limits.KeyTime)
	defer ctx.close()
	caller, err := cfg.identify(x.r.WithContext(ctx))
	if gone := x.r.Context().Err(); gone != nil {
		return errGone(x.r.Context())
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		x.caller = caller
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok && e != nil {
		return e
	}
	if ctx.Err() != nil {
		return errUnavailable("The caller could not be identified in time.", err)
	}
	return &Error{Status: http.StatusUnauthorized, Code: CodeUnauthorized, Message: "The caller is not known.", Err: err}
}

// errUnavailable is for a part of the host that fails or takes too long.
func errUnavailable(message string, cause error) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Code: CodeInternalError, Message: message, Err: cause}
}

// address is the client's, as limits count it: of IPv6 the /64, which is what
// one customer has.
func (c *config) address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	a, ok := parseAddress(host)
	if !ok {
		return host // of a listener that is not TCP
	}
	if len(c.trusted) == 0 || !c.trusts(a) {
		return network(a)
	}
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for i := len(hops) - 1; i >= 0 && c.trusts(a); i-- {
		hop, ok := parseAddress(strings.TrimSpace(hops[i]))
		if !ok {
			break
		}
		a = hop
	}
	return network(a)
}

func (c *config) trusts(a netip.Addr) bool {
	for _, p := range c.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// parseAddress reads an address, also in brackets and with a port, as some
// proxies write it.
func parseAddress(text string) (netip.Addr, bool) {
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		text = strings.TrimSuffix(inner, "]")
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		ap, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}, false
		}
		a = ap.Addr()
	}
	return a.Unmap().WithZone(""), true
}

func network(a netip.Addr) string {
	if a.Is4() {
		return a.String()
	}
	return netip.PrefixFrom(a, 64).Masked().String()
}

// minSecret is the least that a secret must have to be one.
const minSecret = 16

// safetyIdentifier stands for a caller to OpenAI.
func (c *config) safetyIdentifier(id string) string {
	mac := hmac.New(sha256.New, []byte(*c.safety.text))
	mac.Write([]byte(id))
	return hex.EncodeToString(mac.Sum(nil))
}

// guarded are the keys that decide about every request.
func (c *config) guarded() []string {
	keys := append(slices.Clone(guardedKeys), c.policy.keys()...)
	if c.safety.text != nil {
		keys = append(keys, "safety_identifier")
	}
	return keys
}

// checkGuards checks what decides who may call, how much, and at what cost.
func (c *config) checkGuards(report func(option string, err error)) {
	report("WithTrustedProxies", c.trustedErr)
	if c.safety.text != nil && len(*c.safety.text) < minSecret {
		report("WithSafetyIdentifier", fmt.Errorf("the secret has fewer than %d bytes", minSecret))
	}
	report("WithPolicy", c.policy.check())
	if m, ok := c.limiter.(*MemoryLimiter); ok {
		report("WithLimiter", m.check(len(c.prices) > 0))
	}
	report("WithPrices", c.prices.check())
}
