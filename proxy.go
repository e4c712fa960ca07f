package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strings"
	"time"
)

// Handler is the proxy: an [http.Handler] with every route. It is made by
// [New] or [NewHandler], is safe for concurrent use, and does not change after
// construction. The zero value answers every request with 500.
//
// It prints as *proxy.Handler under every fmt verb: nothing of its
// configuration, least of all a key, can end up in a log that way.
type Handler struct {
	cfg      *config // nil: misconfigured
	origins  originPolicy
	hosts    hostPolicy
	upstream *upstream
	defaults defaultsTable
	graphql  *graphQL // nil: switched off
	live     liveCalls
	guarded  []string // keys that decide about a request
	retries  retryBudget
	buffers  buffers // for large bodies
	small    buffers // for small answers

	instantKey bool // the key source needs no deadline
}

// New returns a handler with every route, to be mounted at the root of a server
// or under a prefix with [http.StripPrefix]. It never fails: with an invalid
// option it logs every problem at Error level, calls no upstream, and answers
// each request with 500 and the code misconfigured. A missing key is no invalid
// option; it is known per request.
func New(opts ...Option) http.Handler {
	h, err := NewHandler(opts...)
	if err == nil {
		return h
	}
	cfg := newConfig(opts)
	for _, problem := range problems(err) {
		cfg.log(context.Background(), slog.LevelError, "proxy is misconfigured", slog.String("error", redact(problem.Error(), "")))
	}
	return &Handler{}
}

// problems takes apart what errors.Join joined.
func problems(err error) []error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return joined.Unwrap()
	}
	return []error{err}
}

// NewHandler is the strict twin of [New]: it returns one [*OptionError] for each
// problem, joined, and no handler.
//
// Its own transport, which [WithTransport] replaces, dials within 5 s, agrees on
// TLS within 5 s, prefers HTTP/2 and pings it after 15 s of silence, keeps 64
// idle connections to the upstream for 30 s each, takes response headers up to
// 256 KiB, asks for no compression and uses no proxy.
func NewHandler(opts ...Option) (*Handler, error) {
	cfg := newConfig(opts)
	if err := cfg.check(); err != nil {
		return nil, err
	}
	origins, err := newOriginPolicy(cfg.origins, cfg.credentials)
	if err != nil {
		return nil, &OptionError{"WithAllowedOrigins", err}
	}
	up, err := newUpstream(cfg)
	if err != nil {
		return nil, &OptionError{"WithUpstream", err}
	}
	h := &Handler{
		cfg:      cfg,
		origins:  origins,
		hosts:    newHostPolicy(cfg.hosts),
		upstream: up,
		defaults: newDefaultsTable(cfg.owned),
		guarded:  cfg.guarded(),

		instantKey: isInstant(cfg.keys),
	}
	h.live.init()
	if h.graphql, err = newGraphQL(h, cfg); err != nil {
		return nil, &OptionError{"WithGraphQL", err}
	}
	return h, nil
}

// Format implements [fmt.Formatter].
func (h *Handler) Format(f fmt.State, _ rune) { fmt.Fprint(f, "*proxy.Handler") }

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, h.route(r.URL.Path))
}

// Chat returns the chat route alone, to be mounted on any path of the host's
// own: it does not look at the path. It answers as /v1/chat/completions does,
// with the same origins, limits and hooks.
func (h *Handler) Chat() http.Handler { return h.only(endpoint{serve: (*exchange).chat}) }

// GraphQL returns the GraphQL route alone, to be mounted on any path of the
// host's own. It answers as /graphql does, which takes GET and POST.
func (h *Handler) GraphQL() http.Handler {
	return h.only(h.graphQLEndpoint())
}

// Images returns the image routes alone, to be mounted on any path of the
// host's own. A multipart form, or a path that ends in /edits, is an edit; any
// other request is a generation.
func (h *Handler) Images() http.Handler { return h.only(endpoint{serve: (*exchange).imagesOrEdits}) }

func (h *Handler) only(ep endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, ep) })
}

// endpoint is what stands behind a path.
type endpoint struct {
	serve func(*exchange) error // nil: nothing does
	shape ErrorShape            // of its errors
	allow string                // its methods, as in the Allow header; "": allowPost
}

// The methods of endpoints.
const (
	allowPost    = "POST, OPTIONS"
	allowGet     = "GET, OPTIONS"
	allowGraphQL = "GET, POST, OPTIONS"
)

// route is the table of paths. They are matched whole: a prefix would open
// more of the upstream than is meant (GET /chat/completions lists every stored
// chat). An empty path is what StripPrefix leaves of the mount point itself.
func (h *Handler) route(path string) endpoint {
	switch path {
	case "", "/":
		return endpoint{serve: (*exchange).chatOrImages, shape: ErrorShapeWorker}
	case "/images/generations", "/generate-image":
		return endpoint{serve: (*exchange).workerImages, shape: ErrorShapeWorker}
	case "/v1/chat/completions", "/chat/completions":
		return endpoint{serve: (*exchange).chat}
	case "/v1/images/generations":
		return endpoint{serve: (*exchange).images}
	case "/v1/images/edits":
		return endpoint{serve: (*exchange).edits}
	case "/graphql":
		return h.graphQLEndpoint()
	case "/graphql/schema":
		if h.graphql != nil && !h.graphql.options.NoIntrospection {
			return endpoint{serve: (*exchange).graphQLSchema, shape: errorShapeGraphQL, allow: allowGet}
		}
	}
	return endpoint{}
}

func (h *Handler) graphQLEndpoint() endpoint {
	if h.graphql == nil {
		return endpoint{}
	}
	return endpoint{serve: (*exchange).graphQL, shape: errorShapeGraphQL, allow: allowGraphQL}
}

// exchange is one HTTP request on its way through the handler. Its methods
// return an error only while nothing has been written.
type exchange struct {
	h       *Handler
	w       http.ResponseWriter
	header  headerValues // of the answer
	rc      http.ResponseController
	r       *http.Request
	body    timedBody
	writing writeDeadline
	id      string
	shape   ErrorShape
	caller  Caller
	key     string        // of its call, to be kept out of logs
	loan    *loan         // of its body; nil: none
	media   media         // of a GraphQL answer
	started bool          // the answer's header is on its way
	broken  bool          // the answer could not be finished
	events  *streamWriter // of a relayed stream
}

// serve is the frame around every route.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, ep endpoint) {
	x := &exchange{h: h, w: w, rc: *http.NewResponseController(w), r: r, id: requestID(r), shape: ep.shape}
	defer x.recover()
	if h.cfg != nil {
		x.writing = writeDeadline{rc: &x.rc, limit: h.cfg.limits.WriteStall, http2: r.ProtoMajor >= 2, born: time.Now()}
	}
	x.header.Header = w.Header()
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		// Until the body is read. net/http would wait for the rest of it before
		// it sends an answer, and without a limit.
		x.header.set("Connection", "close")
	}
	if err := x.run(ep); err != nil {
		x.fail(err)
	}
	if x.loan != nil {
		x.loan.end()
	}
}

// run passes the request through the gates that stand before every route, the
// origin first, so that every answer can be read by those who may.
func (x *exchange) run(ep endpoint) error {
	h, r, header := x.h, x.r, &x.header
	header.set("X-Content-Type-Options", "nosniff")
	header.set("X-Request-Id", x.id)
	if h.cfg == nil {
		return &Error{
			Status: http.StatusInternalServerError, Code: CodeMisconfigured,
			Message: "The proxy is not configured correctly.",
		}
	}
	if h.cfg.shape != ErrorShapeByRoute && x.shape != errorShapeGraphQL {
		x.shape = h.cfg.shape
	}
	v := h.origins.check(r)
	h.origins.setHeaders(header, v)
	switch {
	case !h.hosts.allows(r.Host):
		return errHost()
	case ep.serve != nil && isPreflight(r):
		h.origins.answerPreflight(x.w, header, r, v)
		return nil
	case v.refused:
		return errOrigin()
	case ep.serve == nil:
		return &Error{Status: http.StatusNotFound, Code: CodeNotFound, Message: "There is nothing at this path."}
	case r.Method == http.MethodOptions:
		header.set("Allow", ep.methods())
		x.writeHeader(http.StatusNoContent)
		return nil
	case !ep.takes(r.Method) || wantsUpgrade(r):
		return x.wrongMethod(ep.methods())
	case h.live.closing():
		return errShuttingDown()
	}
	x.writing.rest() // a WriteTimeout of the host would end an HTTP/2 stream while the upstream still thinks
	if err := x.identify(); err != nil {
		return err
	}
	return ep.serve(x)
}

func (ep endpoint) methods() string {
	if ep.allow == "" {
		return allowPost
	}
	return ep.allow
}

func (ep endpoint) takes(method string) bool {
	if method == http.MethodHead {
		method = http.MethodGet // RFC 9110, section 9.3.2
	}
	for allowed := range strings.SplitSeq(ep.methods(), ", ") {
		if method == allowed {
			return true
		}
	}
	return false
}

func (x *exchange) wrongMethod(allow string) *Error {
	x.header.set("Allow", allow)
	return &Error{Status: http.StatusMethodNotAllowed, Code: CodeMethodNotAllowed, Message: "Method Not Allowed"}
}

// wantsUpgrade reports a request to change the protocol. An offer of cleartext
// HTTP/2, which curl makes, may be ignored (RFC 9110, section 7.8).
func wantsUpgrade(r *http.Request) bool {
	for _, v := range r.Header["Upgrade"] {
		if !strings.EqualFold(v, "h2c") {
			return true
		}
	}
	return false
}

// requestID returns the client's X-Request-Id, if it is a token of at most 128
// characters, or makes one.
func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); len(id) <= 128 && isToken(id) {
		return id
	}
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	id := [28]byte{'r', 'e', 'q', '_'}
	for i := 4; i < len(id); i += 12 {
		bits := rand.Uint64() //nolint:gosec // nobody is kept from guessing it
		for j := range id[i : i+12] {
			id[i+j] = alphabet[bits%32]
			bits /= 32
		}
	}
	return string(id[:])
}

// writeHeader begins the answer. Until then a method may return an error.
func (x *exchange) writeHeader(status int) {
	x.started = true
	x.writing.renew()
	x.w.WriteHeader(status)
}

// fail answers with an error, and logs it.
func (x *exchange) fail(err error) {
	e := asError(err)
	x.logFailure(e)
	x.writeError(e)
}

// logFailure writes one record: what failed on our side or the upstream's at
// Error level, what the client did wrong or gave up at Debug level.
func (x *exchange) logFailure(e *Error, more ...slog.Attr) {
	if x.h.cfg == nil {
		return // New has logged why
	}
	level := slog.LevelDebug
	if e.status() >= 500 {
		level = slog.LevelError
	}
	attrs := append(more,
		slog.String("request_id", x.id), slog.String("method", x.r.Method), slog.String("path", x.r.URL.Path),
		slog.Int("status", e.status()), slog.String("code", e.logCode()))
	if e.Err != nil {
		attrs = append(attrs, slog.String("error", redact(e.Err.Error(), x.key)))
	}
	x.h.cfg.log(x.r.Context(), level, "proxy request failed", attrs...)
}

// logs reports whether a level is logged. A logger that panics must not take the
// request with it.
func (c *config) logs(ctx context.Context, level slog.Level) bool {
	defer func() { _ = recover() }()
	return c.logger.Enabled(ctx, level)
}

// log writes a record.
func (c *config) log(ctx context.Context, level slog.Level, msg string, attrs ...slog.Attr) {
	defer func() { _ = recover() }()
	if !c.logs(ctx, level) {
		return
	}
	r := slog.NewRecord(time.Now(), level, msg, 0) // the line of this package would tell nobody anything
	r.AddAttrs(attrs...)
	_ = c.logger.Handler().Handle(ctx, r) // nowhere to tell it
}

// recover turns a panic of a hook, a source or a store into an answer. The
// panic that aborts a response on purpose goes on to the server.
func (x *exchange) recover() {
	v := recover()
	if v == nil {
		return
	}
	x.logPanic(v)
	e := &Error{Status: http.StatusInternalServerError, Code: CodeInternalError}
	switch {
	case x.events != nil:
		x.events.fail(e, x.r.Context().Done())
	case x.started:
		x.cut()
	default:
		x.writeError(e)
	}
}

// logPanic records a panic, unless it is the one of net/http.
func (x *exchange) logPanic(v any) {
	if v == http.ErrAbortHandler { //nolint:errorlint // a sentinel that is never wrapped
		panic(v) //nolint:forbidigo // on its way through
	}
	if x.h.cfg != nil {
		x.h.cfg.log(x.r.Context(), slog.LevelError, "proxy recovered a panic",
			slog.String("request_id", x.id), slog.String("panic", redactAny(v, x.key)),
			slog.String("stack", string(debug.Stack())))
	}
}
