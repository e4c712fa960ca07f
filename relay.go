package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

// reply is the usable answer of an upstream: its head, and the body still to
// come. close must be called once.
type reply struct {
	call   *call
	status int
	header http.Header
	body   io.Reader
	length int64 // of the body; -1: the upstream does not say
	stream bool
}

// close ends the call.
func (rep *reply) close() { rep.call.end() }

// refusal reads the body of an error answer and makes the *Error of it. What
// the upstream says of the server's key is the server's fault, and its words
// tell about the key: the caller gets a fixed text, the log the rest.
func (rep *reply) refusal(readable bool) *Error {
	c := rep.call
	var body []byte
	if readable {
		body, _ = readGrowing(rep.body, -1, maxErrorBytes, nil) // what cannot be read is not quoted
	}
	if err := c.ctx.Err(); err != nil {
		return c.fault(err)
	}
	e := newUpstreamError(rep.status, rep.header, body, c.info.Route, c.key)
	denied := rep.status == http.StatusUnauthorized || rep.status == http.StatusForbidden
	if denied && c.h.upstream.authHeader != "" && !ownKey(c.x.r, c.key) {
		return &Error{
			Status: http.StatusBadGateway, Code: CodeUpstreamAuth,
			Message: "The upstream does not accept this server's credentials.",
			Err:     errors.New(strconv.Itoa(rep.status) + ": " + e.message()),
		}
	}
	return e
}

// whole reads the body to its end, under the limit, and checks that it looks
// like the JSON value it is labelled as. It is not parsed: that would cost more
// than all the rest. buf, which may be nil, is used as far as it reaches.
func (rep *reply) whole(buf []byte) ([]byte, error) {
	limit := rep.call.h.cfg.limits.ResponseBytes
	if rep.length > limit {
		return nil, errBadResponse(errTooMuch)
	}
	body, err := readGrowing(rep.body, rep.length, limit, buf)
	if err != nil {
		e := rep.call.fault(err)
		if e.Code == CodeUpstreamUnreachable { // it was reached, and broke off
			return nil, errBadResponse(e.Err)
		}
		return nil, e
	}
	if rep.length >= 0 && int64(len(body)) != rep.length {
		return nil, errBadResponse(io.ErrUnexpectedEOF) // a transport of the host may not have looked
	}
	rep.call.answer = int64(len(body))
	if !looksLikeJSON(body) {
		return nil, errBadResponse(errors.New("the upstream's body is not JSON"))
	}
	return body, nil
}

// lengthOf is what an upstream says of its body's length, -1 if it says nothing.
func lengthOf(header http.Header) int64 {
	n, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if err != nil || n < 0 || header.Get("Content-Encoding") != "" {
		return -1
	}
	return n
}

// looksLikeJSON reports whether the first and the last byte that are not white
// space are those of an object or an array.
func looksLikeJSON(body []byte) bool {
	body = bytes.Trim(body, " \t\r\n")
	if len(body) < 2 {
		return false
	}
	first, last := body[0], body[len(body)-1]
	return first == '{' && last == '}' || first == '[' && last == ']'
}

// writePiece is the most that is written under one write deadline: a slow reader
// must take it within WriteStall.
const writePiece = 256 << 10

// relay hands a plain answer on. Nothing is sent before all of it is there, so
// that no truncated answer looks whole.
func (x *exchange) relay(rep *reply) error {
	c := rep.call
	pool := &c.h.buffers
	if rep.length >= 0 && rep.length < firstRead {
		pool = &c.h.small
	}
	lent := pool.get()
	body, err := rep.whole(*lent)
	if err != nil {
		c.failed(err)
		return err
	}
	if c.h.cfg.accounts() {
		c.out.Usage = bodyUsage(body)
	}
	if c.gone() { // which is why all of it was read
		err := errGone(x.r.Context())
		c.failed(err)
		return err
	}
	header := &x.header
	copyHeader(header, rep.header, c.key)
	header.set("Cache-Control", "no-store")
	header.set("Content-Length", strconv.Itoa(len(body)))
	c.out.Status, c.out.Ending = rep.status, EndingComplete
	x.started = true
	x.w.WriteHeader(rep.status) // which is sent with the body, under its deadline
	if err := x.writeBody(c, body); err != nil {
		x.broken = true // and the buffer is not put back: over HTTP/2 the write may still read it
		c.out.Ending, c.out.Err = EndingClientGone, ErrClientGone
	} else {
		pool.put(lent, body)
	}
	return nil
}

// writeBody writes piece by piece, each under a fresh deadline, so that a slow
// reader is not taken for a stalled one. c may be nil.
func (x *exchange) writeBody(c *call, body []byte) error {
	for len(body) > 0 {
		piece := body[:min(len(body), writePiece)]
		x.writing.renew()
		n, err := x.w.Write(piece)
		c.wrote(n)
		if err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}

// wrote counts bytes that were handed to the client's connection.
func (c *call) wrote(n int) {
	if c == nil || n <= 0 {
		return
	}
	if c.out.Bytes == 0 {
		c.out.FirstByte = time.Since(c.start)
	}
	c.out.Bytes += int64(n)
}
