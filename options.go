package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	openai "github.com/sashabaranov/go-openai"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// The models that a request without one gets. They age: OpenAI retires models
// within a year or two, and a release of this package may change them. Set your
// own with [WithDefaultModels].
const (
	DefaultChatModel  = openai.GPT6Luna
	DefaultImageModel = openai.CreateImageModelGptImage2
)

// DefaultUpstream is OpenAI's API, with its version path.
const DefaultUpstream = "https://api.openai.com/v1"

// Option configures [New] and [NewHandler]. Options are applied in order: where
// two set the same thing the last one wins. A nil Option is ignored.
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

// OptionError is a problem of the configuration: the option, and what is wrong
// with its value. It never holds a key.
type OptionError struct {
	Option string // the name of the function, such as "WithUpstream"
	Err    error
}

// Error returns the option's name and the problem.
func (e *OptionError) Error() string { return "proxy: " + e.Option + ": " + e.Err.Error() }

// Unwrap returns the problem.
func (e *OptionError) Unwrap() error { return e.Err }

// config is what options fill in. It does not change after construction.
type config struct {
	keys        KeySource
	upstream    string
	authHeader  string
	origins     []string
	hosts       []string
	credentials bool
	transport   http.RoundTripper
	envProxy    bool
	logger      *slog.Logger
	records     bool // calls are logged
	chatModel   string
	imageModel  string
	defaults    map[Route]map[string]any
	limits      Limits
	shape       ErrorShape
	heartbeat   time.Duration
	streamUsage bool
	hooks       Hooks
	graphQL     GraphQLOptions
	sessions    SessionStore
	identify    func(*http.Request) (Caller, error)
	trusted     []netip.Prefix
	trustedErr  error
	safety      secret
	policy      Policy
	limiter     Limiter
	prices      priceTable
	owned       map[Route][]jsonobj.Field // defaults, rendered
}

func newConfig(opts []Option) *config {
	c := &config{
		keys:       EnvKey("OPENAI_API_KEY"),
		upstream:   DefaultUpstream,
		authHeader: "Authorization",
		chatModel:  DefaultChatModel,
		imageModel: DefaultImageModel,
		defaults:   map[Route]map[string]any{},
	}
	WithOptions(opts...).apply(c)
	if c.sessions == nil {
		c.sessions = &MemoryStore{}
	}
	if c.records = c.logger != nil; !c.records {
		c.logger = slog.Default()
	}
	c.limits = c.limits.withDefaults()
	return c
}

// WithOptions makes one option of several; nil ones are ignored.
func WithOptions(opts ...Option) Option {
	opts = slices.Clone(opts)
	return optionFunc(func(c *config) {
		for _, o := range opts {
			if o != nil {
				o.apply(c)
			}
		}
	})
}

// WithKey sets the API key: short for WithKeySource(StaticKey(key)). Passing it
// again, or WithKeySource, replaces it. Default: EnvKey("OPENAI_API_KEY").
func WithKey(key string) Option { return WithKeySource(StaticKey(key)) }

// WithKeySource sets where API keys come from. Passing it again, or WithKey,
// replaces it. Default: EnvKey("OPENAI_API_KEY").
func WithKeySource(source KeySource) Option {
	return optionFunc(func(c *config) { c.keys = source })
}

// WithUpstream sets the root of the API, version path included, such as
// "https://api.openai.com/v1" or "http://localhost:11434/v1". A query
// ("?api-version=...") is kept on every call; a trailing slash does not matter.
// Nothing in a request can change it. Passing it again replaces it. Default:
// [DefaultUpstream].
func WithUpstream(root string) Option {
	return optionFunc(func(c *config) { c.upstream = root })
}

// WithAuthHeader names the header that carries the key to the upstream.
// "Authorization" carries it as a Bearer token, any other name as it is (Azure:
// "api-key"). The empty name sends no key and asks no key source, for local
// servers. Passing it again replaces it. Default: "Authorization".
func WithAuthHeader(name string) Option {
	return optionFunc(func(c *config) { c.authHeader = name })
}

// WithAllowedOrigins lets pages of other origins call the handler. An origin is
// exact ("https://app.example.com", "http://localhost:3000"), or covers every
// subdomain, at any depth, but not the domain itself
// ("https://*.example.com"). "*" admits every page of the web, which may then
// spend your money: use it with limits, or for development. Pages of the
// handler's own origin are always served, and so are callers that are no browsers
// (neither Origin nor a cross-site Sec-Fetch-Site). Passing it again replaces the
// list. Default: none.
func WithAllowedOrigins(origins ...string) Option {
	origins = slices.Clone(origins)
	return optionFunc(func(c *config) { c.origins = origins })
}

// WithCredentials lets pages of the allowed origins send cookies and read the
// answer. With the origin "*" it is a configuration error. Passing it again
// replaces it. Default: false.
func WithCredentials(allow bool) Option {
	return optionFunc(func(c *config) { c.credentials = allow })
}

// WithAllowedHosts restricts the Host header, against DNS rebinding: a request
// for another host is answered with 421. "localhost" stands for any port,
// "localhost:8787" for that one; IPv6 addresses stand in brackets. Passing it
// again replaces the list. Default: any host.
func WithAllowedHosts(hosts ...string) Option {
	hosts = slices.Clone(hosts)
	return optionFunc(func(c *config) { c.hosts = hosts })
}

// WithTransport sets the transport to the upstream. Cancellation, time limits
// and sizes are kept with any transport that heeds its request's context until it
// answers, and whose bodies may be closed while they are read; what the default one adds is written
// at [NewHandler]. Redirects are not followed and cookies not kept whatever it
// is. Passing it again replaces it; nil means the default.
func WithTransport(transport http.RoundTripper) Option {
	return optionFunc(func(c *config) { c.transport = transport })
}

// WithProxyFromEnvironment lets the default transport go through the proxy that
// HTTP_PROXY, HTTPS_PROXY and NO_PROXY name. It does nothing beside
// WithTransport. Passing it again replaces it. Default: false.
func WithProxyFromEnvironment(use bool) Option {
	return optionFunc(func(c *config) { c.envProxy = use })
}

// WithLogger sets where calls and failures are logged: one record for each
// call, at Info; what failed on our side or the upstream's at Error, what a
// client did wrong at Debug. Without it calls that go well are not logged, and
// failures go to slog.Default(). No record holds a key, a prompt or an answer. Passing it again replaces it; nil means the default: failures alone, to
// slog.Default() at the time of construction.
func WithLogger(logger *slog.Logger) Option {
	return optionFunc(func(c *config) { c.logger = logger })
}

// WithDefaultModels sets the models of requests that name none. An empty name
// keeps the default of its kind. Passing it again replaces both. Default:
// [DefaultChatModel], [DefaultImageModel].
func WithDefaultModels(chat, image string) Option {
	return optionFunc(func(c *config) {
		c.chatModel, c.imageModel = DefaultChatModel, DefaultImageModel
		if chat != "" {
			c.chatModel = chat
		}
		if image != "" {
			c.imageModel = image
		}
	})
}

// WithDefaults sets the parameters that a request on the worker's routes ("/",
// "/generate-image", "/images/generations") and in GraphQL gets where it does
// not name them, in place of the built-in table, whatever the model. route is
// RouteChat or RouteImages. A key that the body has wins, also as null;
// max_tokens and max_completion_tokens count as one. An empty map switches the
// table off. Values are rendered by encoding/json when the handler is made.
// Passing it again for the same route replaces it. Default: the table in the
// package comment.
func WithDefaults(route Route, values map[string]any) Option {
	values = maps.Clone(values)
	return optionFunc(func(c *config) { c.defaults[route] = values })
}

// WithLimits bounds sizes and times. Passing it again replaces all of them.
// Default: those of [Limits].
func WithLimits(limits Limits) Option {
	return optionFunc(func(c *config) { c.limits = limits })
}

// WithErrorShape puts one shape of error bodies on every REST route. Passing it
// again replaces it. Default: [ErrorShapeByRoute].
func WithErrorShape(shape ErrorShape) Option {
	return optionFunc(func(c *config) { c.shape = shape })
}

// WithHeartbeat writes a comment line (":") to a stream that was silent for
// interval, so that proxies in between do not take it for dead. It is written
// between events only. The price: the go-openai client loses the text of an
// error event that follows a comment, and gives up after 300 comments in a row.
// Passing it again replaces it. Default: 0, no heartbeat; below a second is a
// configuration error.
func WithHeartbeat(interval time.Duration) Option {
	return optionFunc(func(c *config) { c.heartbeat = interval })
}

// WithStreamUsage asks the upstream for the usage of chat streams that do not
// ask themselves, and leaves the event with it out of what the client gets.
// Hooks.Done then learns it, unless the client decided otherwise or the stream
// broke. Such streams are relayed event by event;
// their other chunks carry "usage": null. Passing it again replaces it.
// Default: false.
func WithStreamUsage(ask bool) Option {
	return optionFunc(func(c *config) { c.streamUsage = ask })
}

// WithGraphQL configures /graphql. Passing it again replaces all of it. Default:
// the zero [GraphQLOptions], which serves it.
func WithGraphQL(options GraphQLOptions) Option {
	return optionFunc(func(c *config) { c.graphQL = options })
}

// WithSessionStore sets where GraphQL keeps conversations. Passing it again
// replaces it; nil means the default: a new [MemoryStore] of its own.
func WithSessionStore(store SessionStore) Option {
	return optionFunc(func(c *config) { c.sessions = store })
}

// check returns every problem of the configuration, joined, and renders what
// can be rendered once.
func (c *config) check() error {
	var errs []error
	report := func(option string, err error) {
		if err != nil {
			errs = append(errs, &OptionError{option, harmless(err, "")})
		}
	}
	report("WithKeySource", checkKeySource(c.keys))
	_, err := parseUpstream(c.upstream)
	report("WithUpstream", err)
	report("WithAuthHeader", checkAuthHeader(c.authHeader))
	for _, origin := range c.origins {
		_, err := parseOrigin(origin)
		report("WithAllowedOrigins", err)
	}
	if c.credentials && slices.Contains(c.origins, "*") {
		report("WithCredentials", errors.New(`credentials cannot be allowed for every origin ("*")`))
	}
	for _, host := range c.hosts {
		report("WithAllowedHosts", checkHost(host))
	}
	if c.heartbeat < 0 || c.heartbeat > 0 && c.heartbeat < time.Second {
		report("WithHeartbeat", fmt.Errorf("invalid interval %v: at least a second is needed", c.heartbeat))
	}
	if c.shape < ErrorShapeByRoute || c.shape > ErrorShapeWorker {
		report("WithErrorShape", fmt.Errorf("unknown shape %d", c.shape))
	}
	c.checkGuards(report)
	for _, err := range c.renderDefaults() {
		report("WithDefaults", err)
	}
	return errors.Join(errs...)
}

// checkAuthHeader refuses names that net/http or this package gives a meaning of
// their own.
func checkAuthHeader(name string) error {
	if name != "" && !isToken(name) {
		return fmt.Errorf("invalid header name %q", name)
	}
	switch canonical := http.CanonicalHeaderKey(name); canonical {
	case "Host", "Transfer-Encoding", "Content-Length", "Content-Type", "Content-Encoding", "Accept", "Accept-Encoding",
		"Connection", "User-Agent", "Trailer", "Te", "Upgrade", "Expect", "Idempotency-Key", "X-Idempotency-Key":
		return fmt.Errorf("header %s cannot carry a key", canonical)
	}
	return nil
}

// renderDefaults turns the host's defaults into JSON, in the order of the keys.
func (c *config) renderDefaults() (errs []error) {
	c.owned = map[Route][]jsonobj.Field{}
	for _, route := range slices.Sorted(maps.Keys(c.defaults)) {
		if route != RouteChat && route != RouteImages {
			errs = append(errs, fmt.Errorf("there are no defaults for route %q", route))
			continue
		}
		fields := []jsonobj.Field{}
		for _, key := range slices.Sorted(maps.Keys(c.defaults[route])) {
			value, err := renderDefault(key, c.defaults[route][key])
			if err != nil {
				errs = append(errs, err)
				continue
			}
			fields = append(fields, jsonobj.Field{Key: key, Value: value})
		}
		c.owned[route] = fields
	}
	return errs
}

func renderDefault(key string, value any) ([]byte, error) {
	switch key {
	case "model", "messages", "prompt", "action", "stream", "stream_options":
		return nil, fmt.Errorf("%q cannot have a default", key)
	}
	if key == "" || string(jsonobj.Quote(key)) != `"`+key+`"` {
		return nil, fmt.Errorf("invalid key %q", key)
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("the value of %q is no JSON: %w", key, err)
	}
	return raw, nil
}

// parseUpstream checks the root of the API.
func parseUpstream(root string) (*url.URL, error) {
	u, err := url.Parse(root)
	switch {
	case err != nil:
		return nil, errors.New("invalid URL") // the text may hold credentials
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("invalid URL: the scheme must be https or http")
	case u.Host == "" || u.Hostname() == "":
		return nil, errors.New("invalid URL: a host is required")
	case u.User != nil:
		return nil, errors.New("invalid URL: credentials do not belong in it, see WithKeySource")
	case !isPort(u):
		return nil, errors.New("invalid URL: the port must be 1 to 65535")
	case u.Fragment != "" || u.RawFragment != "":
		return nil, errors.New("invalid URL: it must have no fragment")
	}
	return u, nil
}

// checkHost checks an entry of WithAllowedHosts.
func checkHost(host string) error {
	u, err := url.Parse("http://" + host)
	if err != nil || u.Host != host || !isHostname(u.Hostname()) || !isPort(u) {
		return fmt.Errorf("invalid host %q: a name or address is required, with or without a port; IPv6 in brackets", host)
	}
	return nil
}

// isPort reports whether u has no port or a proper one, and no colon of an IPv6
// address that lacks its brackets.
func isPort(u *url.URL) bool {
	name := u.Hostname()
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	rest := strings.TrimPrefix(u.Host, name)
	if rest == "" {
		return true
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rest, ":"))
	return err == nil && rest[0] == ':' && n >= 1 && n <= 65535
}
