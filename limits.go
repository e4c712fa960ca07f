package proxy

import "time"

// Limits bounds what a request may take. Zero means the default, a negative
// value means no limit.
type Limits struct {
	_ [0]func()

	// RequestBytes bounds a request body; past it the answer is 413. Default 32 MiB.
	RequestBytes int64
	// ResponseBytes bounds an answer that is not a stream, and the decoded
	// bytes of a stream that the upstream compressed unasked; past it the
	// answer is 502, or the stream ends with code stream_limit. Default 64 MiB.
	// Error bodies of the upstream are read up to 64 KiB whatever it says.
	ResponseBytes int64
	// BodyIdle is how long a client may send no byte of its body; past it the
	// answer is 408. Default 30 s. Each read renews it, in place of the host's
	// http.Server.ReadTimeout; a ResponseWriter without read deadlines has
	// neither this limit nor BodyTime.
	BodyIdle time.Duration
	// BodyTime is how long a client may take to send its whole body; past it
	// the answer is 408. Default 10 min.
	BodyTime time.Duration
	// HeaderTime is how long the upstream may take until its headers, which it
	// sends when a plain answer is ready; past it the answer is 504. Default
	// 10 min, as in the official SDKs.
	HeaderTime time.Duration
	// StreamIdle is how long the upstream may be silent behind its headers;
	// past it a stream ends with the code upstream_timeout and a plain answer
	// becomes 504. Default 10 min, since reasoning models are silent for
	// minutes.
	StreamIdle time.Duration
	// StreamMax is how long a stream may take in all; past it it ends with the
	// code stream_limit. No limit by default.
	StreamMax time.Duration
	// WriteStall is how long a client may take no byte of its answer; past it
	// the connection is cut and the upstream cancelled. It counts for as much as is
	// written at once: up to 256 KiB of a plain answer, 16 KiB of a stream, less what
	// the system's buffers take. Default 30 s. Writes
	// renew it, to within a hundredth, in place of the host's http.Server.WriteTimeout.
	WriteStall time.Duration
	// KeyTime is the deadline of what the host is asked for a request: its key
	// (KeySource), its caller (WithCaller), room for it (Limiter). Past it the
	// answer is 503. Default 5 s.
	KeyTime time.Duration

	// DrainTime is how long the upstream may go on when the client has left,
	// instead of being cancelled within 100 ms: some providers bill the whole
	// answer all the same, and only its end tells how much that was. The request's
	// handler does not return before, and the call keeps its place in a Limiter. A
	// deadline of the host and Shutdown end it at once. Default 0: cancelled.
	DrainTime time.Duration
	// DrainBytes is how much of a stream is read in that time. Default 4 MiB.
	DrainBytes int64

	// Retries is how often a request may be repeated that the upstream answered
	// with 429 or 503 and a Retry-After. Nothing else is ever repeated, nothing
	// once a byte of an answer has gone out, nothing for a client that left, and
	// x-should-retry: false is heeded. Each repetition passes the Limiter and asks
	// the KeySource again: with a KeyPool that has another key it does not wait.
	// Beyond ten at once, no more than one request in ten is a repetition, so that
	// a struggling upstream is not held down. Outcome.Attempts counts them all.
	// Clients retry too, the official SDKs twice. Default 0: never.
	Retries int
	// RetryTime is how long the waits of one call may be together; a Retry-After
	// beyond it is passed on. Default 30 s.
	RetryTime time.Duration
}

// maxErrorBytes bounds what is read of an upstream's error body.
const maxErrorBytes = 64 << 10

// forever stands for "no limit" where a number is needed.
const forever = 1<<63 - 1

// withDefaults returns l with every field filled in.
func (l Limits) withDefaults() Limits {
	bytes := func(v, standard int64) int64 {
		switch {
		case v == 0:
			return standard
		case v < 0:
			return forever
		}
		return v
	}
	span := func(v, standard time.Duration) time.Duration {
		return time.Duration(bytes(int64(v), int64(standard)))
	}
	return Limits{
		RequestBytes:  bytes(l.RequestBytes, 32<<20),
		ResponseBytes: bytes(l.ResponseBytes, 64<<20),
		BodyIdle:      span(l.BodyIdle, 30*time.Second),
		BodyTime:      span(l.BodyTime, 10*time.Minute),
		HeaderTime:    span(l.HeaderTime, 10*time.Minute),
		StreamIdle:    span(l.StreamIdle, 10*time.Minute),
		StreamMax:     span(l.StreamMax, forever),
		WriteStall:    span(l.WriteStall, 30*time.Second),
		KeyTime:       span(l.KeyTime, 5*time.Second),
		DrainTime:     max(0, l.DrainTime),
		DrainBytes:    bytes(l.DrainBytes, 4<<20),
		Retries:       max(0, l.Retries),
		RetryTime:     span(l.RetryTime, 30*time.Second),
	}
}

// deadline returns the moment d from now, or the zero time, which means none to
// net/http, if there is no limit.
func deadline(now time.Time, d time.Duration) time.Time {
	if d == forever {
		return time.Time{}
	}
	return now.Add(d)
}
