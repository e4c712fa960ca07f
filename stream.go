package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/openai-proxy-go/proxy/internal/sse"
)

// stream relays server-sent events. From its first line on the answer is begun:
// whatever happens is told inside the stream, and a stream that did not end by
// itself never ends tidily.
func (x *exchange) stream(rep *reply) {
	c := rep.call
	header := &x.header
	copyHeader(header, rep.header, c.key)
	header.set("Cache-Control", "no-cache, no-transform")
	header.set("X-Accel-Buffering", "no")
	c.out.Status = rep.status
	out := x.streamWriter(":\n")
	x.writeHeader(rep.status)
	x.events = out
	defer out.close()
	if most := c.h.cfg.limits.StreamMax; most != forever {
		limit := time.AfterFunc(most, func() { c.cancel(errStreamMax) })
		defer limit.Stop()
	}
	if err := out.start(); err != nil {
		x.broken = true
		c.streamEnded(ErrClientGone, EndingClientGone)
		return
	}
	if every := c.h.cfg.heartbeat; every > 0 {
		out.startPings(every, c.cancel)
	}
	err := c.copyEvents(out, rep.body)
	switch {
	case err == nil && c.out.Ending == "":
		c.out.Ending = EndingComplete
	case err == nil: // incomplete, as the side scan has found
	case errors.Is(err, errClientWrite), c.gone():
		x.broken = true
		c.streamEnded(ErrClientGone, EndingClientGone)
	default:
		x.broken = true
		e := c.streamFault(err)
		ending := EndingUpstreamCut
		if errors.Is(e, ErrClientGone) {
			ending = EndingClientGone
		} else {
			x.logFailure(e)
		}
		c.streamEnded(e, ending)
		out.fail(e, x.r.Context().Done())
	}
}

func (c *call) streamEnded(err error, ending Ending) { c.out.Err, c.out.Ending = err, ending }

// errClientWrite marks a failure to write to the client.
var errClientWrite = errors.New("the client takes no more bytes")

// copyEvents relays bytes as they are read, until the end of the upstream's
// body (nil), a failed read, or a failed write (errClientWrite).
func (c *call) copyEvents(out *streamWriter, body io.Reader) error {
	if c.h.cfg.accounts() {
		c.scan = &usageScan{}
	}
	scan := c.scan
	var filter *usageFilter
	if c.hideUsage {
		filter = newUsageFilter()
	}
	var room streamBuffer
	done := func() { // but not behind a failed write, which over HTTP/2 may still read them
		room.giveBack()
		filter.done()
	}
	for {
		buf := room.bytes()
		n, err := body.Read(buf)
		c.took(n)
		part := buf[:n]
		if scan != nil {
			scan.feed(part) // before it is known whether the client is still there
		}
		if filter != nil {
			part = filter.pass(part, err != nil)
		}
		if len(part) > 0 && c.gone() {
			return errClientWrite
		}
		if len(part) > 0 {
			written, werr := out.write(part)
			c.wrote(written)
			if werr != nil {
				return errClientWrite
			}
		}
		if err == io.EOF {
			if scan != nil && !scan.end() {
				c.out.Ending = EndingIncomplete
			}
			done()
			return nil
		}
		if err != nil {
			done()
			return err
		}
		room.fit(n)
	}
}

// streamFault says why a started stream broke.
func (c *call) streamFault(err error) *Error {
	e := c.fault(err)
	switch cause := context.Cause(c.ctx); {
	case errors.Is(cause, errStreamMax):
		return &Error{Code: CodeStreamLimit, Message: "The stream took longer than this server allows.", Err: cause}
	case errors.Is(err, errTooMuch):
		return &Error{Code: CodeStreamLimit, Message: "The stream is larger than this server allows.", Err: err}
	case errors.Is(cause, errStreamIdle):
		e.Message = "The upstream was silent for too long."
	case e.Code == CodeUpstreamUnreachable:
		return &Error{
			Status: http.StatusBadGateway, Code: CodeUpstreamDisconnected,
			Message: "The upstream broke off the stream.", Err: e.Err,
		}
	}
	return e
}

// streamWriter is the client's side of a stream: every write is flushed, and
// heartbeats take their turn under the same lock.
type streamWriter struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	writing *writeDeadline

	mu     sync.Mutex
	tail   sse.Tail
	beat   *time.Timer
	every  time.Duration
	closed bool

	// comment is what a heartbeat writes. For relayed streams a bare comment
	// line is the one form that no official client stumbles over: the usual
	// ": ping" with a blank line behind it ends openai-go's streams.
	comment string
	framed  bool // every write is whole: a comment may follow any of them
}

func (x *exchange) streamWriter(comment string) *streamWriter {
	return &streamWriter{w: x.w, rc: &x.rc, writing: &x.writing, comment: comment}
}

// start flushes the headers.
func (s *streamWriter) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing.renew()
	defer s.writing.rest()
	return s.flush()
}

// startPings sets the heartbeat going; cancel is told if one cannot be sent.
func (s *streamWriter) startPings(every time.Duration, cancel context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.every = every
	s.beat = time.AfterFunc(every, func() { s.heartbeat(cancel) })
}

// write hands p to the client and flushes it.
func (s *streamWriter) write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.send(p)
	s.tail.Feed(p[:n])
	if s.beat != nil {
		s.beat.Reset(s.every)
	}
	return n, err
}

// send writes and flushes under a fresh deadline, which is the stall limit and
// pushes the host's WriteTimeout back, in one. The lock is held.
func (s *streamWriter) send(p []byte) (int, error) {
	s.writing.renew()
	defer s.writing.rest()
	n, err := s.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, s.flush()
}

// flush takes a writer that cannot flush for one that need not: a request that
// asked for a stream was refused before, if so.
func (s *streamWriter) flush() error {
	if err := s.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// heartbeat sends a comment between two events.
func (s *streamWriter) heartbeat(cancel context.CancelCauseFunc) {
	defer func() {
		if recover() != nil { // a writer of the host; nobody else would catch it here
			cancel(errPanicked)
		}
	}()
	if !s.mu.TryLock() {
		return // a write is under way, and sets the timer when it is done
	}
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if s.framed || s.tail.AtBoundary() {
		if _, err := s.send([]byte(s.comment)); err != nil {
			cancel(errClientWrite)
			return
		}
	}
	s.beat.Reset(s.every)
}

// lastWords is how long a broken stream stays open behind its error event: a
// browser drops what it has not handed to the page yet when the transfer breaks.
const lastWords = 50 * time.Millisecond

// fail ends a broken stream: an error event that every client understands, and
// then a cut that none can overlook. A tidy end would be taken for success.
func (s *streamWriter) fail(e *Error, gone <-chan struct{}) {
	if !s.sendLast(e.streamEvent()) {
		return
	}
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-gone:
	}
	cutConnection(s.w, s.rc)
}

// sendLast sends an event of its own behind whatever went before, and stops the
// heartbeats.
func (s *streamWriter) sendLast(event []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if !s.tail.AtBoundary() {
		event = append([]byte("\n\n"), event...)
	}
	_, err := s.send(event)
	return err == nil
}

// close makes sure that no heartbeat writes behind the handler's back.
func (s *streamWriter) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.beat != nil {
		s.beat.Stop()
	}
}

// cut breaks the connection of an answer that cannot be finished.
func (x *exchange) cut() { cutConnection(x.w, &x.rc) }

// cutConnection breaks the transport under an answer: with a deadline in the
// past, one more write fails, and the server resets the stream (HTTP/2) or
// closes the connection (HTTP/1.1). A panic with http.ErrAbortHandler would do
// the same, unless a middleware of the host recovers it.
func cutConnection(w http.ResponseWriter, rc *http.ResponseController) {
	if rc.SetWriteDeadline(time.Unix(1, 0)) != nil {
		return // nothing more can be done from here
	}
	_, _ = w.Write([]byte("\n"))
	_ = rc.Flush()
}
