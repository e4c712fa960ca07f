package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// The CORS layer is our own: it is part of what keeps money in, and over a
// library the corrections would be longer (ARCHITECTURE.md).

const (
	// allowMethods has more than the routes take, so that a page which uses a
	// wrong method can read the 405.
	allowMethods = "GET, HEAD, POST, PUT, PATCH, DELETE"
	// exposeHeaders by name: "*" means nothing beside credentials (Fetch,
	// section 3.3.7).
	exposeHeaders = "X-Request-Id, Retry-After, Retry-After-Ms, X-Should-Retry, Openai-Processing-Ms, Openai-Version, " +
		"X-Ratelimit-Limit-Requests, X-Ratelimit-Limit-Tokens, X-Ratelimit-Remaining-Requests, " +
		"X-Ratelimit-Remaining-Tokens, X-Ratelimit-Reset-Requests, X-Ratelimit-Reset-Tokens"
	preflightVary   = "Access-Control-Request-Method, Access-Control-Request-Headers"
	preflightMaxAge = "86400"
	// maxRequestHeaders bounds what a preflight may ask for and have reflected.
	maxRequestHeaders = 4 << 10
	// maxOrigin bounds what is taken apart to look for a parent domain; a host
	// name has 253 characters at most.
	maxOrigin = 300
)

// originPolicy decides which pages may call. The zero value admits pages of the
// handler's own origin only.
type originPolicy struct {
	any         bool
	credentials bool
	exact       map[string]bool // "https://app.example.com"
	below       map[string]bool // "https://example.com" for "https://*.example.com"
}

func newOriginPolicy(patterns []string, credentials bool) (originPolicy, error) {
	p := originPolicy{credentials: credentials, exact: map[string]bool{}, below: map[string]bool{}}
	for _, pattern := range patterns {
		o, err := parseOrigin(pattern)
		switch {
		case err != nil:
			return originPolicy{}, err
		case o.any:
			p.any = true
		case o.subdomains:
			p.below[o.serialized] = true
		default:
			p.exact[o.serialized] = true
		}
	}
	return p, nil
}

// originPattern is one entry of WithAllowedOrigins.
type originPattern struct {
	any, subdomains bool
	serialized      string // as browsers write it: RFC 6454, section 6.2
}

// parseOrigin checks a pattern and brings it to the form browsers send.
func parseOrigin(pattern string) (originPattern, error) {
	if pattern == "*" {
		return originPattern{any: true}, nil
	}
	invalid := func(rule string) (originPattern, error) {
		return originPattern{}, fmt.Errorf("invalid origin %q: %s", pattern, rule)
	}
	scheme, rest, ok := strings.Cut(pattern, "://")
	if !ok || !isScheme(scheme) {
		return invalid(`a scheme is required, as in "https://example.com"`)
	}
	rest, subdomains := strings.CutPrefix(rest, "*.")
	u, err := url.Parse("scheme://" + rest)
	switch {
	case err != nil || u.Hostname() == "":
		return invalid("a host is required")
	case u.Host != rest:
		return invalid("it must be scheme, host and port only")
	case !isHostname(u.Hostname()):
		return invalid("the host must be a name in ASCII (punycode) or an address")
	case !isPort(u):
		return invalid("the port must be 1 to 65535, and an IPv6 address stand in brackets")
	case subdomains && !canHaveSubdomains(u.Hostname()):
		return invalid("a wildcard needs a domain of at least two labels")
	}
	scheme, host := strings.ToLower(scheme), strings.ToLower(u.Host)
	if port := u.Port(); scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return originPattern{subdomains: subdomains, serialized: scheme + "://" + host}, nil
}

// canHaveSubdomains keeps a wildcard from covering a whole top-level domain.
func canHaveSubdomains(host string) bool {
	host = strings.TrimSuffix(host, ".")
	return net.ParseIP(host) == nil && (strings.Contains(host, ".") || host == "localhost")
}

func isScheme(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (i == 0 || !strings.ContainsRune("0123456789+-.", rune(s[i]))) {
			return false
		}
	}
	return s != ""
}

// isHostname admits what can stand in an Origin: letters, digits, hyphen, dot,
// underscore, and IPv6 addresses.
func isHostname(h string) bool {
	if strings.Contains(h, ":") {
		return net.ParseIP(h) != nil
	}
	return isLabel(strings.ReplaceAll(h, ".", ""))
}

// isLabel admits what can stand between the dots of a host name.
func isLabel(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// matches reports whether a page of this origin may call. The origin is
// compared as it was sent: browsers write it in one way only.
func (p *originPolicy) matches(origin string) bool {
	if p.any || p.exact[origin] {
		return true
	}
	if len(p.below) == 0 || len(origin) > maxOrigin {
		return false
	}
	scheme, host, ok := strings.Cut(origin, "://")
	if !ok {
		return false
	}
	for {
		label, parent, ok := strings.Cut(host, ".")
		if !ok || !isLabel(label) {
			return false
		}
		if p.below[scheme+"://"+parent] {
			return true
		}
		host = parent
	}
}

// verdict is what the policy says about one request.
type verdict struct {
	origin  string // to be named in Access-Control-Allow-Origin, or ""
	refused bool
}

// check judges a request by its Origin, Host and Sec-Fetch-Site, as
// [http.CrossOriginProtection] does: pages of the own origin are served, by
// what the browser says of itself or else by comparing hosts. Callers that send
// neither Origin nor Sec-Fetch-Site are no browsers.
func (p *originPolicy) check(r *http.Request) verdict {
	origins, site := r.Header["Origin"], r.Header.Get("Sec-Fetch-Site")
	if len(origins) == 0 {
		return verdict{refused: !p.any && (site == "cross-site" || site == "same-site")}
	}
	origin := origins[0]
	if len(origins) == 1 && p.matches(origin) {
		return verdict{origin: origin}
	}
	if site == "same-origin" || site == "" && len(origins) == 1 && sameHost(origin, r.Host) {
		return verdict{}
	}
	return verdict{refused: true}
}

// sameHost compares Origin's host and port with Host. The scheme is not
// compared: TLS may end before us.
func sameHost(origin, host string) bool {
	_, originHost, ok := strings.Cut(origin, "://")
	return ok && originHost != "" && originHost == host
}

// setHeaders writes what every answer carries.
func (p *originPolicy) setHeaders(h *headerValues, v verdict) {
	if !p.any && len(p.exact)+len(p.below) > 0 {
		h.add("Vary", "Origin")
	}
	if v.origin == "" {
		return
	}
	if p.any {
		h.set("Access-Control-Allow-Origin", "*")
	} else {
		h.set("Access-Control-Allow-Origin", v.origin)
	}
	if p.credentials {
		h.set("Access-Control-Allow-Credentials", "true")
	}
	h.set("Access-Control-Expose-Headers", exposeHeaders)
}

// isPreflight follows the Fetch standard, section 3.3.2.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Origin"]) > 0 && r.Header.Get("Access-Control-Request-Method") != ""
}

// answerPreflight ends a preflight. One that is refused is told nothing, which
// browsers read as a refusal.
func (p *originPolicy) answerPreflight(w http.ResponseWriter, h *headerValues, r *http.Request, v verdict) {
	h.add("Vary", preflightVary)
	if v.origin != "" {
		h.set("Access-Control-Allow-Methods", allowMethods)
		if asked := r.Header["Access-Control-Request-Headers"]; len(asked) == 1 && isTokenList(asked[0]) {
			h.set("Access-Control-Allow-Headers", asked[0])
		}
		h.set("Access-Control-Max-Age", preflightMaxAge)
		h.Del("Access-Control-Expose-Headers")
	}
	w.WriteHeader(http.StatusNoContent)
}

// isTokenList reports whether s is a short list of header names: requested
// headers are reflected, because any fixed list lags behind the SDKs.
func isTokenList(s string) bool {
	if s == "" || len(s) > maxRequestHeaders {
		return false
	}
	for name := range strings.SplitSeq(s, ",") {
		name = strings.Trim(name, " \t")
		if name == "" || !isToken(name) {
			return false
		}
	}
	return true
}

// isToken reports whether s is a token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// hostPolicy is the list of WithAllowedHosts; nil admits every host.
type hostPolicy map[string]bool

func newHostPolicy(hosts []string) hostPolicy {
	if len(hosts) == 0 {
		return nil
	}
	p := hostPolicy{}
	for _, h := range hosts {
		p[strings.ToLower(h)] = true
	}
	return p
}

// allows compares the Host of a request, with its port and without.
func (p hostPolicy) allows(host string) bool {
	if p == nil {
		return true
	}
	host = strings.ToLower(host)
	if p[host] {
		return true
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		return false
	}
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	return p[name]
}

// errOrigin and errHost are the answers to those that the policies refuse.
func errOrigin() *Error {
	return &Error{
		Status: http.StatusForbidden, Code: CodeOriginNotAllowed,
		Message: "This origin may not call the API.",
		Err:     errors.New("the Origin is not among the allowed ones"),
	}
}

func errHost() *Error {
	return &Error{
		Status: http.StatusMisdirectedRequest, Code: CodeHostNotAllowed,
		Message: "This host is not served here.",
		Err:     errors.New("the Host is not among the allowed ones"),
	}
}
