package sse

import (
	"errors"
	"io"
)

// ErrTooLong is returned for an event that is longer than a Reader takes.
var ErrTooLong = errors.New("the event is too long")

// Reader reads the data of events, one by one.
type Reader struct {
	src  io.Reader
	max  int
	buf  []byte // read, not taken yet
	seen int    // how much of buf holds no line end
	data []byte
	any  bool // data holds a line, which may be empty
	torn bool // the last line ended with a CR that may be half a CRLF
	err  error
}

// NewReader returns a Reader that takes events of up to limit bytes.
func NewReader(src io.Reader, limit int) *Reader { return &Reader{src: src, max: limit} }

// Next returns the data of the next event, its lines joined by LF. The slice is
// valid until the next call. The error is io.EOF at a clean end, where an event
// without a blank line behind it counts as one: some servers leave that out.
func (r *Reader) Next() ([]byte, error) {
	r.data, r.any = r.data[:0], false
	for {
		line, ok := r.line()
		switch {
		case !ok && r.err != nil:
			return r.last()
		case !ok && len(r.buf) > r.max:
			return nil, ErrTooLong
		case !ok:
			r.fill()
		case len(line) == 0:
			if r.any {
				return r.data, nil
			}
		default:
			if err := r.add(line); err != nil {
				return nil, err
			}
		}
	}
}

// line takes the next whole line from the buffer.
func (r *Reader) line() ([]byte, bool) {
	if r.torn && len(r.buf) > 0 {
		r.torn = false
		if r.buf[0] == '\n' {
			r.buf, r.seen = r.buf[1:], 0
		}
	}
	tail, rest, ok := NextLine(r.buf[r.seen:])
	if !ok {
		r.seen = len(r.buf)
		return nil, false
	}
	line := r.buf[:r.seen+len(tail)]
	r.torn = len(rest) == 0 && r.buf[len(r.buf)-1] == '\r'
	r.buf, r.seen = rest, 0
	return line, true
}

func (r *Reader) add(line []byte) error {
	value, ok := Data(line)
	if !ok {
		return nil
	}
	if len(r.data)+len(value) > r.max {
		return ErrTooLong
	}
	if r.any {
		r.data = append(r.data, '\n')
	}
	r.any = true
	r.data = append(r.data, value...)
	return nil
}

func (r *Reader) fill() {
	var part [4 << 10]byte
	n, err := r.src.Read(part[:])
	r.buf = append(r.buf, part[:n]...)
	r.err = err
}

// last returns what stands before the end of the stream.
func (r *Reader) last() ([]byte, error) {
	if errors.Is(r.err, io.EOF) {
		if len(r.buf) > 0 {
			line := r.buf
			r.buf, r.seen = nil, 0
			if err := r.add(line); err != nil {
				return nil, err
			}
		}
		if r.any {
			return r.data, nil
		}
	}
	return nil, r.err
}
