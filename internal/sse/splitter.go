package sse

// MaxPending is how much of one event a Splitter holds; of a longer event the
// bytes pass as they come.
const MaxPending = 64 << 10

// Splitter cuts a stream into whole events, so that one of them can be left
// out. The zero value is at the start of a stream.
type Splitter struct {
	pending []byte
	scanned int  // offset in pending of the first line not looked at
	partial bool // the start of this event has passed already
	midLine bool // and it ended within a line
	torn    bool // the last event ended with a CR that may be half a CRLF
	kept    bool // and was kept
}

// Emit is handed each event with its blank line, or, with whole false, a piece
// of one that is longer than MaxPending. It reports whether it kept the bytes,
// and must not retain the slice.
type Emit func(event []byte, whole bool) (kept bool)

// Feed takes the next bytes and emits what they complete.
func (s *Splitter) Feed(p []byte, emit Emit) {
	if s.torn && len(p) > 0 {
		s.torn = false
		if p[0] == '\n' {
			if s.kept {
				emit(p[:1], false)
			}
			p = p[1:]
		}
	}
	s.pending = append(s.pending, p...)
	start := s.emitWhole(emit)
	s.pending = append(s.pending[:0], s.pending[start:]...)
	s.scanned -= start
	if s.partial && len(s.pending) > 0 || len(s.pending) > MaxPending {
		s.kept = emit(s.pending, false)
		s.midLine = s.pending[len(s.pending)-1] != '\n'
		s.partial = true
		s.pending, s.scanned = s.pending[:0], 0
	}
}

// emitWhole emits the events that end in pending and returns the offset behind
// the last one.
func (s *Splitter) emitWhole(emit Emit) (start int) {
	for {
		line, rest, ok := NextLine(s.pending[s.scanned:])
		if !ok {
			return start
		}
		next := len(s.pending) - len(rest)
		halfEnd := len(rest) == 0 && s.pending[next-1] == '\r'
		blank := len(line) == 0 && !s.midLine
		if !blank && halfEnd {
			return start // the LF may still come
		}
		s.scanned, s.midLine = next, false
		if blank {
			s.kept = emit(s.pending[start:next], !s.partial)
			s.torn, s.partial, start = halfEnd, false, next
		}
	}
}

// Reset goes to the start of another stream, and returns how much memory is kept
// for it.
func (s *Splitter) Reset() int {
	*s = Splitter{pending: s.pending[:0]}
	return cap(s.pending)
}

// Rest returns what was fed and not emitted yet.
func (s *Splitter) Rest() []byte { return s.pending }
