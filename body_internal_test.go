package proxy

import (
	"errors"
	"io"
	"testing"
)

// meagre gives a byte at a time, and notes what it was offered to fill.
type meagre struct {
	left, given int
	check       func(given, offered int)
}

func (r *meagre) Read(p []byte) (int, error) {
	r.check(r.given, r.given+len(p))
	if r.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := min(r.left, max(1, r.given/8), len(p)) // quicker the longer it lasts
	r.left, r.given = r.left-n, r.given+n
	return n, nil
}

// Whatever length is announced, memory is taken for what has arrived.
func TestS10MemoryFollowsTheBytesThatArrive(t *testing.T) {
	for _, announced := range []int64{-1, 0, 1, firstRead, 1 << 20, 31 << 20, 1 << 40, forever} {
		for _, sent := range []int{0, 1, firstRead, firstRead + 1, 3 << 20} {
			if announced >= 0 && int64(sent) > announced {
				continue
			}
			src := &meagre{left: sent, check: func(given, offered int) {
				if most := max(firstRead, 32*given); offered > most {
					t.Fatalf("%d bytes announced, %d arrived: memory for %d, want %d at most", announced, given, offered, most)
				}
			}}
			if _, err := readGrowing(src, announced, forever, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d of %d bytes: %v", sent, announced, err)
			}
		}
	}
}
