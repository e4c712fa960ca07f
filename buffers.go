package proxy

import (
	"io"
	"net/http"
	"sync"
)

// buffers keeps the memory of large bodies for the next ones. The zero value is
// ready.
type buffers struct{ pool sync.Pool }

// maxKept is the largest buffer that is kept.
const maxKept = 8 << 20

func (b *buffers) get() *[]byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return buf
	}
	return new([]byte)
}

// put takes back a buffer, or the larger one that took its place, once nobody
// holds any of it.
func (b *buffers) put(buf *[]byte, used []byte) {
	if cap(used) > maxKept {
		return
	}
	if scribble {
		clear(used[:cap(used)])
	}
	*buf = used[:0]
	b.pool.Put(buf)
}

// scribble is set by tests: whoever holds memory that went back sees zeros.
var scribble bool

// loan is a buffer that a request body lies in. A transport may read the body for
// longer than its RoundTrip takes, until it calls Close (see http.RoundTripper).
type loan struct {
	from *buffers
	buf  *[]byte
	used []byte

	mu      sync.Mutex
	readers int
	over    bool
}

// open returns a reader of body, which may lie in the buffer.
func (l *loan) open(body []byte) (io.ReadCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil, http.ErrBodyReadAfterClose
	}
	l.readers++
	return &loanReader{of: l, rest: body}, nil
}

// end gives the buffer back, unless a transport still reads it: then it is
// garbage when that is done.
func (l *loan) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over = true; l.readers == 0 {
		l.from.put(l.buf, l.used)
	}
}

// hold counts who reads the body.
func (l *loan) hold(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers += n
}

type loanReader struct {
	mu   sync.Mutex
	of   *loan // nil: closed
	rest []byte
}

func (r *loanReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		return 0, http.ErrBodyReadAfterClose
	}
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// writeTo writes at most so many bytes of the body from where they lie.
func (r *loanReader) writeTo(w io.Writer, most int64) (int64, error) {
	r.mu.Lock()
	of := r.of
	part := r.rest[:min(int64(len(r.rest)), most)]
	r.rest = r.rest[len(part):]
	if of != nil {
		of.hold(1) // for as long as this takes: Close need not wait for it
		defer of.hold(-1)
	}
	r.mu.Unlock()
	if of == nil {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := w.Write(part)
	return int64(n), err
}

func (r *loanReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		return nil
	}
	r.of.hold(-1)
	r.of, r.rest = nil, nil
	return nil
}

// streamBuffer is what a stream is read into, and written from at once. Events are
// small and streams are many: more would be memory that waits. A stream that fills
// it, with images or in haste, borrows a large one until it has been quiet for a
// while. The zero value is ready.
type streamBuffer struct {
	small []byte
	large *[largeStreamBuffer]byte // nil: none is borrowed
	quiet int                      // reads in a row that did not need it
}

const (
	smallStreamBuffer = 1 << 10
	largeStreamBuffer = 16 << 10 // which even a slow reader takes within WriteStall
	quietReads        = 64       // a second of an ordinary stream
)

var largeStreamBuffers = sync.Pool{New: func() any { return new([largeStreamBuffer]byte) }}

func (b *streamBuffer) bytes() []byte {
	if b.large != nil {
		return b.large[:]
	}
	if b.small == nil {
		b.small = make([]byte, smallStreamBuffer)
	}
	return b.small
}

// fit makes room for the next read, after one of n bytes.
func (b *streamBuffer) fit(n int) {
	switch {
	case n > smallStreamBuffer:
		b.quiet = 0
	case b.large == nil && n == smallStreamBuffer:
		b.large, _ = largeStreamBuffers.Get().(*[largeStreamBuffer]byte)
	case b.large != nil:
		if b.quiet++; b.quiet == quietReads {
			b.giveBack()
		}
	}
}

// giveBack ends a loan: nobody may read what was in it.
func (b *streamBuffer) giveBack() {
	if b.large != nil {
		if scribble {
			clear(b.large[:])
		}
		largeStreamBuffers.Put(b.large)
		b.large, b.quiet = nil, 0
	}
}
