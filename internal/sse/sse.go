// Package sse finds the boundaries of server-sent events (WHATWG HTML,
// section 9.2.6) in bytes that pass, without holding a byte back that its
// caller does not ask it to hold.
package sse

import "bytes"

// Tail remembers how the bytes seen so far end. The zero value has seen
// nothing.
type Tail struct {
	last [4]byte
	n    int
}

// Feed takes the next bytes of the stream.
func (t *Tail) Feed(p []byte) {
	if len(p) >= len(t.last) {
		t.n = copy(t.last[:], p[len(p)-len(t.last):])
		return
	}
	if over := t.n + len(p) - len(t.last); over > 0 {
		t.n = copy(t.last[:], t.last[over:t.n])
	}
	t.n += copy(t.last[t.n:], p)
}

// AtBoundary reports whether a new event may start here: nothing was seen yet,
// or the last line was blank.
func (t *Tail) AtBoundary() bool {
	return t.n == 0 || endsBlankLine(t.last[:t.n])
}

// endsBlankLine reports whether p ends with two line ends in a row, each of
// them LF, CRLF or CR.
func endsBlankLine(p []byte) bool {
	rest, ok := bytes.CutSuffix(p, []byte("\n"))
	if ok {
		rest = bytes.TrimSuffix(rest, []byte("\r"))
	} else if rest, ok = bytes.CutSuffix(p, []byte("\r")); !ok {
		return false
	}
	return bytes.HasSuffix(rest, []byte("\n")) || bytes.HasSuffix(rest, []byte("\r"))
}

// NextLine cuts the first line off p, without its line end. ok is false if p
// holds no whole line. A CR that ends p counts as a whole line end, so that the
// LF of a torn CRLF is seen as one more, empty line.
func NextLine(p []byte) (line, rest []byte, ok bool) {
	lf := bytes.IndexByte(p, '\n')
	head := p
	if lf >= 0 {
		head = p[:lf]
	}
	switch cr := bytes.IndexByte(head, '\r'); {
	case cr >= 0 && cr+1 == lf:
		return p[:cr], p[lf+1:], true
	case cr >= 0:
		return p[:cr], p[cr+1:], true
	case lf >= 0:
		return p[:lf], p[lf+1:], true
	}
	return nil, p, false
}

// Data returns the value of a data line, without the one leading space that
// the standard strips; ok is false for any other line.
func Data(line []byte) (value []byte, ok bool) {
	value, ok = bytes.CutPrefix(line, []byte("data:"))
	if !ok {
		return nil, false
	}
	return bytes.TrimPrefix(value, []byte(" ")), true
}
