package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// ErrorCode is the machine-readable name of a failure. It stands as "code" in
// the REST error bodies that this package makes itself (but for the worker's 405,
// which is a title alone); an error of the upstream keeps the upstream's code.
type ErrorCode string

// Every code that the package answers with. The number is the status that goes
// with it; doc.go says what a caller can do about each.
const (
	CodeMissingAPIKey        ErrorCode = "missing_api_key"               // 500
	CodeMisconfigured        ErrorCode = "misconfigured"                 // 500
	CodeInvalidJSON          ErrorCode = "invalid_json"                  // 400
	CodeInvalidRequest       ErrorCode = "invalid_request"               // 400
	CodeDuplicateKey         ErrorCode = "duplicate_key"                 // 400
	CodeBodyTooLarge         ErrorCode = "body_too_large"                // 413
	CodeBodyTimeout          ErrorCode = "body_timeout"                  // 408
	CodeUnsupportedMediaType ErrorCode = "unsupported_media_type"        // 415
	CodeNotFound             ErrorCode = "not_found"                     // 404
	CodeMethodNotAllowed     ErrorCode = "method_not_allowed"            // 405
	CodeOriginNotAllowed     ErrorCode = "origin_not_allowed"            // 403
	CodeHostNotAllowed       ErrorCode = "host_not_allowed"              // 421
	CodeUnauthorized         ErrorCode = "unauthorized"                  // 401
	CodeForbidden            ErrorCode = "forbidden"                     // 403
	CodeRateLimited          ErrorCode = "rate_limited"                  // 429
	CodeKeyUnavailable       ErrorCode = "key_unavailable"               // 503
	CodeShuttingDown         ErrorCode = "shutting_down"                 // 503
	CodeStreamingUnsupported ErrorCode = "streaming_unsupported_by_host" // 500
	CodeUpstreamAuth         ErrorCode = "upstream_auth"                 // 502
	CodeUpstreamUnreachable  ErrorCode = "upstream_unreachable"          // 502
	CodeUpstreamBadResponse  ErrorCode = "upstream_bad_response"         // 502
	CodeUpstreamRedirect     ErrorCode = "upstream_redirect"             // 502
	CodeUpstreamTimeout      ErrorCode = "upstream_timeout"              // 504
	CodeUpstreamDisconnected ErrorCode = "upstream_disconnected"         // in a stream
	CodeStreamLimit          ErrorCode = "stream_limit"                  // in a stream
	CodeInternalError        ErrorCode = "internal_error"                // 500
)

// Error is a refusal or failure as the caller is told of it. Hooks return one
// to choose the answer; Outcome.Err holds one when a call failed.
//
// Every field but Err is public: it is sent to the caller.
type Error struct {
	Status     int           // HTTP status; 0 means 500
	Type       string        // OpenAI's error type; "" means one that suits the status
	Code       ErrorCode     // "" means one that suits the status
	Message    string        // for people; "" means the status text
	Param      string        // the request field at fault, "" for none
	RetryAfter time.Duration // sent as Retry-After in whole seconds, rounded up; 0 sends none
	Err        error         // the cause: logged after key-like texts are struck out, never sent

	title    string           // of the worker's error shape, when the status does not tell it
	graphQL  string           // extensions.code, where no ErrorCode has one
	quota    *quota           // of a limit that was reached
	upstream *upstreamFailure // the answer of the upstream that this error stands for
}

// Error returns code, message and cause. It is meant for logs: it may hold
// details that the caller is not told.
func (e *Error) Error() string {
	if e == nil {
		return "nil *proxy.Error" // a hook's typed nil
	}
	text := fmt.Sprintf("%s (%d): %s", e.code(), e.status(), e.message())
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// Sentinel causes, found with errors.Is in Outcome.Err.
var (
	// ErrNoKey means that no key source had a key for the request.
	ErrNoKey = errors.New("no API key is configured")
	// ErrClientGone means that the caller left before the answer was complete.
	ErrClientGone = errors.New("the client left")
)

// statusClientGone is what logs and outcomes show for a caller that left. It is
// written, too, in case a middleware of the host cancelled the request and the
// caller is still there: silence would read as an empty 200.
const statusClientGone = 499

// ErrorShape chooses how error bodies look.
type ErrorShape int

const (
	// ErrorShapeByRoute is the default: the worker's shape on the worker's
	// routes, OpenAI's on all others but GraphQL's, which has its own always.
	ErrorShapeByRoute ErrorShape = iota
	// ErrorShapeOpenAI is {"error":{"message","type","param","code"},"message","status"}.
	ErrorShapeOpenAI
	// ErrorShapeWorker is {"error":"<title>","message":"<detail>", ...}, as the
	// worker that this package replaces answered.
	ErrorShapeWorker

	// errorShapeGraphQL is {"errors":[{"message","extensions":{"code"}}]}.
	errorShapeGraphQL
)

// asError returns err as an *Error; one that is none becomes a 500 that keeps
// its text to the log.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok && e != nil {
		return e
	}
	return &Error{Status: http.StatusInternalServerError, Code: CodeInternalError, Err: err}
}

func badRequest(code ErrorCode, param, format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: code, Param: param, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) status() int {
	if e.Status < 400 || e.Status > 599 {
		return http.StatusInternalServerError
	}
	return e.Status
}

func (e *Error) message() string {
	if e.Message != "" {
		return e.Message
	}
	if text := http.StatusText(e.status()); text != "" {
		return text
	}
	return "The request failed."
}

// code is the code of the answer: for an error of the upstream the upstream's,
// or none.
func (e *Error) code() ErrorCode {
	if e.Code != "" || e.upstream != nil {
		return e.Code
	}
	switch e.status() {
	case http.StatusUnauthorized:
		return CodeUnauthorized
	case http.StatusForbidden:
		return CodeForbidden
	case http.StatusTooManyRequests:
		return CodeRateLimited
	}
	if e.status() < 500 {
		return CodeInvalidRequest
	}
	return CodeInternalError
}

// logCode is the code for a log, which tells the upstream's from ours.
func (e *Error) logCode() string {
	if e.upstream != nil {
		return upstreamErrorType + ":" + string(e.Code)
	}
	return string(e.code())
}

// isMethod reports our own 405.
func (e *Error) isMethod() bool { return e.upstream == nil && e.code() == CodeMethodNotAllowed }

func (e *Error) kind() string {
	switch status := e.status(); {
	case e.Type != "":
		return e.Type
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status == http.StatusBadGateway, status == http.StatusGatewayTimeout:
		return upstreamErrorType
	case status >= 500:
		return "server_error"
	}
	return "invalid_request_error"
}

// workerTitle names the failure in the worker's words.
func (e *Error) workerTitle() string {
	if e.title != "" {
		return e.title
	}
	switch e.code() {
	case CodeMissingAPIKey, CodeMisconfigured:
		return "Configuration Error"
	case CodeInvalidJSON:
		return "Invalid JSON"
	}
	switch e.status() {
	case http.StatusRequestEntityTooLarge:
		return "Payload Too Large"
	case statusClientGone:
		return "Client Closed Request"
	}
	return http.StatusText(e.status())
}

// retryable reports false for failures that the next try meets again: the
// official SDKs repeat every 5xx and 408, 409 and 429 otherwise.
func (e *Error) retryable() bool {
	if e.upstream != nil {
		return true // as the upstream says
	}
	switch e.code() {
	case CodeMissingAPIKey, CodeMisconfigured, CodeUpstreamAuth, CodeStreamingUnsupported, CodeOriginNotAllowed:
		return false
	}
	return true
}

// writeError answers a request with e, in the shape of its route. Nothing may
// have been written before.
func (x *exchange) writeError(e *Error) {
	header := &x.header
	e.setHeaders(header)
	body := e.body(x.shape)
	header.set("Content-Type", "application/json")
	if x.shape == errorShapeGraphQL {
		header.set("Content-Type", x.media.contentType())
	}
	header.set("Cache-Control", "no-store")
	header.set("Content-Length", strconv.Itoa(len(body)))
	x.writeHeader(e.status())
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write(body) // the caller may be gone; there is nobody else to tell
	}
}

// setHeaders writes what an error says in headers.
func (e *Error) setHeaders(header *headerValues) {
	if e.upstream != nil {
		e.upstream.copyHeader(header)
	}
	if !e.retryable() {
		header.set("X-Should-Retry", "false")
	}
	if e.quota != nil {
		e.quota.setHeaders(header)
	}
	if e.upstream == nil && e.status() == http.StatusUnauthorized {
		header.set("Www-Authenticate", "Bearer") // RFC 9110, section 11.6.1
	}
	if e.RetryAfter > 0 {
		header.set("Retry-After", retryAfter(e.RetryAfter))
	}
}

// retryAfter renders d as whole seconds, rounded up (RFC 9110, section 10.2.3).
func retryAfter(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// body renders e in the dialect of its route. No single body satisfies the
// clients of all: one reads "error" as a text, the other as an object.
func (e *Error) body(shape ErrorShape) []byte {
	switch shape {
	case ErrorShapeWorker:
		return e.workerBody()
	case errorShapeGraphQL:
		return e.graphQLBody()
	}
	object := e.object()
	if e.upstream != nil && e.upstream.object != nil {
		object = e.upstream.object
	}
	return encodeJSON(struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
		Status  int             `json:"status"`
	}{object, e.message(), e.status()})
}

func (e *Error) workerBody() []byte {
	if e.isMethod() {
		return []byte(`{"error":"Method Not Allowed"}` + "\n")
	}
	out := struct {
		Error   string    `json:"error"`
		Message string    `json:"message"`
		Status  int       `json:"status,omitempty"`
		Type    string    `json:"type,omitempty"`
		Param   string    `json:"param,omitempty"`
		Code    ErrorCode `json:"code,omitempty"`
	}{Error: e.workerTitle(), Message: e.message(), Type: e.kind(), Param: e.Param, Code: e.code()}
	if e.upstream != nil {
		out.Message = e.upstream.workerMessage(e.status(), e.message())
		out.Status = e.status()
		out.Type, out.Code = e.Type, e.Code
	}
	return encodeJSON(out)
}

// graphQLBody renders a request that came to no execution. Other methods answer
// in the worker's shape beside.
func (e *Error) graphQLBody() []byte {
	type entry struct {
		Message    string         `json:"message"`
		Extensions map[string]any `json:"extensions"`
	}
	out := struct {
		Error  string  `json:"error,omitempty"`
		Errors []entry `json:"errors"`
	}{Errors: []entry{{e.message(), fieldError{e}.Extensions()}}}
	if e.isMethod() {
		out.Error = "Method Not Allowed"
	}
	return encodeJSON(out)
}

// object renders OpenAI's error object; all four keys are always there.
func (e *Error) object() json.RawMessage {
	out := struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}{Message: e.message(), Type: e.kind()}
	if e.Param != "" {
		out.Param = &e.Param
	}
	if code := string(e.code()); code != "" {
		out.Code = &code
	}
	return bytes.TrimSpace(encodeJSON(out))
}

// encodeJSON renders v, which always encodes, with a line end and without
// escaping what only HTML minds.
func encodeJSON(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return []byte(`{"error":"Internal Server Error"}` + "\n")
	}
	return b.Bytes()
}

// upstreamErrorType is the "type" of every failure that the upstream caused.
const upstreamErrorType = "upstream_error"

// streamEvent renders e as the last event of a broken stream. The form is exact
// on purpose: "error" first, no space behind the brace, no event name. It is
// the only one that openai-go, go-openai and the npm SDK all take for an error.
func (e *Error) streamEvent() []byte {
	code := string(e.code())
	object := encodeJSON(struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}{e.message(), upstreamErrorType, nil, code})
	return fmt.Appendf(nil, "data: {\"error\":%s}\n\n", bytes.TrimSpace(object))
}
