package proxytest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// A Step is one thing that an answer does after its headers; [Answer.After] does
// it before. No step outlives its caller: when the caller leaves, the rest of
// the answer is dropped. The zero Step does nothing.
type Step struct {
	run func(*exchange) ending
}

// Text sends s as one piece and flushes it.
func Text(s string) Step {
	return Step{func(x *exchange) ending { return x.send(s) }}
}

// Pause waits for d.
func Pause(d time.Duration) Step {
	return Step{func(x *exchange) ending {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return complete
		case <-x.ctx.Done():
			return abandoned
		}
	}}
}

// Gate waits until open is closed or gives a value.
func Gate(open <-chan struct{}) Step {
	return Step{func(x *exchange) ending {
		select {
		case <-open:
			return complete
		case <-x.ctx.Done():
			return abandoned
		}
	}}
}

// Silence sends nothing more and keeps the connection until the caller leaves.
func Silence() Step {
	return Step{func(x *exchange) ending {
		<-x.ctx.Done()
		return abandoned
	}}
}

// Cut breaks the answer off: HTTP/1 closes the connection without the chunk
// that ends a body (FIN), HTTP/2 resets the stream.
func Cut() Step {
	return Step{func(*exchange) ending { return cut }}
}

// Reset breaks the connection with a TCP reset (RST). In memory and over HTTP/2
// it is [Cut].
func Reset() Step {
	return Step{func(x *exchange) ending {
		if x.conn == nil {
			conn, _, err := http.NewResponseController(x.w).Hijack()
			if err != nil {
				return cut
			}
			defer conn.Close()
			x.conn = conn
		}
		if tcp, ok := x.conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		return abandoned
	}}
}

// ending says how a step or an answer ended.
type ending int

const (
	complete  ending = iota
	abandoned        // nothing is left to send, or nobody to send it to
	cut              // the transport is to be dropped
)

// exchange is one request being answered.
type exchange struct {
	ctx  context.Context //nolint:containedctx // done when the caller leaves or the upstream closes
	w    http.ResponseWriter
	r    *http.Request
	req  *Request
	conn net.Conn // the hijacked connection, nil before
}

// do runs steps until one of them ends the answer.
func (x *exchange) do(steps []Step) ending {
	for _, step := range steps {
		if step.run == nil {
			continue
		}
		if end := step.run(x); end != complete {
			return end
		}
	}
	return complete
}

func (x *exchange) send(s string) ending {
	var err error
	if x.conn != nil {
		_, err = io.WriteString(x.conn, s)
	} else {
		_, err = x.w.Write([]byte(s)) // WriteString would cut it into chunks of 2 KiB
		err = errors.Join(err, x.flush())
	}
	if err != nil {
		return abandoned
	}
	return complete
}

// flush sends what was written. A writer that cannot is left to send all at the
// end.
func (x *exchange) flush() error {
	err := http.NewResponseController(x.w).Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// takeOver runs the steps on the bare connection and closes it.
func (x *exchange) takeOver(steps []Step) ending {
	conn, rw, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return cut
	}
	x.conn = conn
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	x.ctx = ctx
	finished := make(chan struct{})
	watched := make(chan struct{})
	go func() { // net/http no longer looks whether the caller is there
		defer close(watched)
		_, _ = io.Copy(io.Discard, rw)
		select {
		case <-finished:
		default:
			x.req.leave()
		}
		cancel()
	}()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	x.do(steps)
	close(finished)
	stop()
	_ = conn.Close()
	<-watched
	return abandoned
}
