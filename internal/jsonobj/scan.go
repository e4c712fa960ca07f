package jsonobj

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// The scanner works on byte offsets and keeps no state between calls. Every
// function takes the offset of the first byte of its construct and returns the
// offset behind the last one.

// skipSpace returns the offset of the first byte that is not white space.
func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// nest remembers for each open container whether it is an object: one bit a
// level, so that no depth that Parse accepts needs the heap.
type nest struct {
	isObject [MaxDepth/64 + 1]uint64
	depth    int
}

func (n *nest) push(object bool) {
	word, bit := n.depth/64, uint64(1)<<(n.depth%64)
	if object {
		n.isObject[word] |= bit
	} else {
		n.isObject[word] &^= bit
	}
	n.depth++
}

func (n *nest) inObject() bool {
	top := n.depth - 1
	return n.isObject[top/64]&(1<<(top%64)) != 0
}

// skipValue checks the value at i, which stands inside outer open containers.
func skipValue(b []byte, i, outer int) (int, error) {
	if i < len(b) && b[i] != '{' && b[i] != '[' {
		return skipScalar(b, i)
	}
	var open nest
	for {
		var err error
		if i, err = openValue(b, i, &open, outer); err != nil {
			return 0, err
		}
		if i, err = closeValues(b, i, &open); err != nil || open.depth == 0 {
			return i, err
		}
	}
}

// openValue reads down to the end of the next scalar or empty container.
func openValue(b []byte, i int, open *nest, outer int) (int, error) {
	for {
		i = skipSpace(b, i)
		if i >= len(b) {
			return 0, ErrSyntax
		}
		c := b[i]
		if c != '{' && c != '[' {
			return skipScalar(b, i)
		}
		if outer+open.depth >= MaxDepth {
			return 0, ErrDepth
		}
		open.push(c == '{')
		i = skipSpace(b, i+1)
		if i < len(b) && b[i] == c+2 { // '}' is '{'+2 and ']' is '['+2
			open.depth--
			return i + 1, nil
		}
		if c == '{' {
			if i = skipKey(b, i); i < 0 {
				return 0, ErrSyntax
			}
		}
	}
}

// closeValues reads closing brackets up to the comma before the next value.
func closeValues(b []byte, i int, open *nest) (int, error) {
	for open.depth > 0 {
		i = skipSpace(b, i)
		if i >= len(b) {
			return 0, ErrSyntax
		}
		object := open.inObject()
		switch {
		case b[i] == ',' && object:
			if i = skipKey(b, skipSpace(b, i+1)); i < 0 {
				return 0, ErrSyntax
			}
			return i, nil
		case b[i] == ',':
			return i + 1, nil
		case b[i] == '}' && object, b[i] == ']' && !object:
			open.depth--
			i++
		default:
			return 0, ErrSyntax
		}
	}
	return i, nil
}

// skipKey checks a key and its colon; it returns -1 if they are not there.
func skipKey(b []byte, i int) int {
	end := skipString(b, i)
	if end < 0 {
		return -1
	}
	if i = skipSpace(b, end); i >= len(b) || b[i] != ':' {
		return -1
	}
	return i + 1
}

func skipScalar(b []byte, i int) (int, error) {
	end := -1
	switch c := b[i]; {
	case c == '"':
		end = skipString(b, i)
	case c == '-' || isDigit(c):
		end = skipNumber(b, i)
	case c == 't':
		end = skipLiteral(b, i, "true")
	case c == 'f':
		end = skipLiteral(b, i, "false")
	case c == 'n':
		end = skipLiteral(b, i, "null")
	}
	if end < 0 {
		return 0, ErrSyntax
	}
	return end, nil
}

func skipLiteral(b []byte, i int, word string) int {
	if end := i + len(word); end <= len(b) && string(b[i:end]) == word {
		return end
	}
	return -1
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// skipNumber follows the number grammar of RFC 8259, section 6.
func skipNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	default:
		if i = skipDigits(b, i); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i] == '.' {
		if i = skipDigits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		i = skipDigits(b, i)
	}
	return i
}

// skipDigits wants at least one digit.
func skipDigits(b []byte, i int) int {
	start := i
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plain returns the offset behind the ordinary string content from i on. It
// looks at eight bytes at a time, and goes over to plainLong where a text is long.
func plain(b []byte, i int) int {
	end := min(len(b), i+64)
	for ; i+8 <= end; i += 8 {
		if found := special(binary.LittleEndian.Uint64(b[i:])); found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	if end < len(b) {
		return plainLong(b, i)
	}
	for i < len(b) && b[i] >= 0x20 && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// plainLong is plain for long texts: bytes.IndexByte takes whole vectors of them.
// The pieces grow, so that no text makes it look ahead in vain for long.
func plainLong(b []byte, i int) int {
	for size := 128; ; size = min(2*size, 4<<10) {
		piece := b[i:min(len(b), i+size)]
		part := piece
		if at := bytes.IndexByte(part, '"'); at >= 0 {
			part = part[:at]
		}
		if at := bytes.IndexByte(part, '\\'); at >= 0 {
			part = part[:at]
		}
		if at := indexControl(part); at >= 0 {
			return i + at
		}
		if i += len(part); len(part) < len(piece) || i == len(b) {
			return i
		}
	}
}

// indexControl returns the offset of the first control character, or -1.
func indexControl(b []byte) int {
	i := 0
	for ; i+32 <= len(b); i += 32 {
		block := (*[32]byte)(b[i:])
		x, y := binary.LittleEndian.Uint64(block[0:]), binary.LittleEndian.Uint64(block[8:])
		z, w := binary.LittleEndian.Uint64(block[16:]), binary.LittleEndian.Uint64(block[24:])
		if ((x-ones*0x20)&^x|(y-ones*0x20)&^y|(z-ones*0x20)&^z|(w-ones*0x20)&^w)&highs != 0 {
			break
		}
	}
	for ; i < len(b); i++ {
		if b[i] < 0x20 {
			return i
		}
	}
	return -1
}

// special flags quotes, backslashes and control characters among eight bytes,
// by the classic test for a zero byte. The lowest flag is exact, which is all
// that is asked of it here.
func special(x uint64) uint64 {
	quote, slash := x^(ones*'"'), x^(ones*'\\')
	return ((x-ones*0x20)&^x | (quote-ones)&^quote | (slash-ones)&^slash) & highs
}

// skipString checks the string at i; it returns -1 if there is no well-formed
// one.
func skipString(b []byte, i int) int {
	if i >= len(b) || b[i] != '"' {
		return -1
	}
	i++
	for {
		i = plain(b, i)
		if i >= len(b) || b[i] < 0x20 {
			return -1
		}
		if b[i] == '"' {
			return i + 1
		}
		if i = skipEscape(b, i+1); i < 0 {
			return -1
		}
	}
}

// skipEscape checks what follows a backslash.
func skipEscape(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if i+5 > len(b) {
			return -1
		}
		for _, c := range b[i+1 : i+5] {
			if lower := c | 0x20; !isDigit(c) && (lower < 'a' || lower > 'f') {
				return -1
			}
		}
		return i + 5
	}
	return -1
}
