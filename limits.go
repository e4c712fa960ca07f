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
	// the connection is cut and the upstream cancelled. Default 30 s. Each
	// write renews it, in place of the host's http.Server.WriteTimeout.
	WriteStall time.Duration
	// KeyTime is the deadline of the request that a KeySource is handed; a
	// source that takes longer is answered with 503. Default 5 s.
	KeyTime time.Duration
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
