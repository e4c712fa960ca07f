package proxy

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// guardedKeys decide what a request costs or does. Twice in one body they would
// let this package see another request than the upstream.
var guardedKeys = []string{
	"model", "messages", "prompt", "action", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens",
}

// firstRead is the size of the buffer that a body starts with; more is
// allocated as bytes arrive, never for a length that was only announced.
const firstRead = 64 << 10

// readBody reads a request body whole, under the limits. Reading to the end
// matters for more than the content: net/http notices that an HTTP/1 client
// left only once its body is at the end. A buffer may be lent for it.
func (x *exchange) readBody(buf []byte) ([]byte, error) {
	r, limits := x.r, &x.h.cfg.limits
	if coding := strings.Join(r.Header["Content-Encoding"], ","); coding != "" && !strings.EqualFold(coding, "identity") {
		return nil, &Error{
			Status: http.StatusUnsupportedMediaType, Code: CodeUnsupportedMediaType,
			Message: "Compressed request bodies are not supported.",
		}
	}
	if r.Body == nil { // a request that no server made
		return nil, nil
	}
	if r.ContentLength > limits.RequestBytes {
		return nil, errTooLarge()
	}
	x.body = timedBody{body: r.Body, x: x, deadline: deadline(time.Now(), limits.BodyTime)}
	body, err := readGrowing(&x.body, r.ContentLength, limits.RequestBytes, buf)
	if err != nil {
		return nil, bodyError(r, err)
	}
	x.w.Header().Del("Connection") // see serve
	return body, nil
}

// borrowBody is readBody into a buffer that serves other requests later. Small
// bodies are not worth it, and what Rewrite was given is the host's to keep.
func (x *exchange) borrowBody() ([]byte, error) {
	if x.r.ContentLength < firstRead || x.h.cfg.hooks.Rewrite != nil {
		return x.readBody(nil)
	}
	buf := x.h.buffers.get()
	x.loan = &loan{from: &x.h.buffers, buf: buf, used: *buf}
	body, err := x.readBody(*buf)
	if err == nil {
		x.loan.used = body
	}
	return body, err
}

func errTooLarge() *Error {
	return &Error{
		Status: http.StatusRequestEntityTooLarge, Code: CodeBodyTooLarge,
		Message: "The request body is too large.",
	}
}

// bodyError tells the ways apart in which reading a body fails.
func bodyError(r *http.Request, err error) *Error {
	var tooLarge *http.MaxBytesError // a limit of the host
	switch {
	case errors.Is(err, errTooMuch), errors.As(err, &tooLarge):
		return errTooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{
			Status: http.StatusRequestTimeout, Code: CodeBodyTimeout,
			Message: "The request body did not arrive in time.", Err: err,
		}
	case r.Context().Err() != nil:
		return errGone(r.Context())
	}
	e := badRequest(CodeInvalidRequest, "", "The request body could not be read.")
	e.Err = err
	return e
}

// timedBody renews the connection's read deadline before each read.
type timedBody struct {
	body     io.Reader
	x        *exchange
	deadline time.Time // for the whole body; zero: none
}

func (b *timedBody) Read(p []byte) (int, error) {
	next := deadline(time.Now(), b.x.h.cfg.limits.BodyIdle)
	if next.IsZero() || !b.deadline.IsZero() && b.deadline.Before(next) {
		next = b.deadline
	}
	_ = b.x.rc.SetReadDeadline(next) // a writer without deadlines has no limit here
	n, err := b.body.Read(p)
	if err == io.EOF {
		// The deadline would otherwise end the watch for a leaving client.
		_ = b.x.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// errTooMuch is the cause when a body is longer than its limit.
var errTooMuch = errors.New("more bytes than are allowed")

// readGrowing reads src to its end, or until it has seen more than limit. With a
// known length the buffer grows by a factor of 32 at most in one step, so that
// little is copied and a liar has to send a part of what he makes us allocate. buf,
// which may be nil, is used as far as it reaches.
func readGrowing(src io.Reader, length, limit int64, buf []byte) ([]byte, error) {
	size := int64(firstRead)
	if length == forever {
		length = -1 // nobody means it
	}
	if length >= 0 {
		size = min(size, length+1) // one more, so that the end is seen
	}
	if buf = buf[:0]; cap(buf) == 0 {
		buf = make([]byte, 0, size)
	}
	for {
		n, err := src.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > limit {
			return nil, errTooMuch
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
		if len(buf) < cap(buf) {
			continue
		}
		size = 2 * int64(cap(buf))
		if int64(len(buf)) <= length {
			size = min(32*int64(cap(buf)), length+1)
		}
		buf = append(make([]byte, 0, size), buf...)
	}
}

// parseBody checks a JSON body and its guarded keys. Where anybody judges
// the body, nothing may stand in it that another reader could take for something
// else: no key twice, and none that differs from a guarded one in case only.
func (x *exchange) parseBody(body []byte) (jsonobj.Object, error) {
	o, err := jsonobj.Parse(body)
	if err != nil {
		e := badRequest(CodeInvalidJSON, "", "Request body is not valid JSON")
		e.Err = err
		if errors.Is(err, jsonobj.ErrNotObject) {
			e.Message = "Request body is not valid JSON: an object is required"
		}
		return o, e
	}
	guarded := x.guarded()
	if key := o.Repeated(guarded); key != "" {
		return o, badRequest(CodeDuplicateKey, key, "%s occurs more than once", key)
	}
	if x.judged() {
		if key, ok := o.Ambiguous(guarded); ok {
			return o, badRequest(CodeDuplicateKey, key, "%q can be read in two ways", key)
		}
	}
	return o, nil
}

// isNull and isTrue compare a raw value.
func isNull(raw []byte) bool { return string(raw) == "null" }
func isTrue(raw []byte) bool { return string(raw) == "true" }
