package sse_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy/internal/sse"
)

func TestTailKnowsABlankLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"":                       true,
		"\n":                     false,
		"\n\n":                   true,
		"\r\r":                   true,
		"\r\n":                   false,
		"\r\n\r\n":               true,
		"\r\n\n":                 true,
		"\n\r\n":                 true,
		"\n\r":                   true,
		"data: a":                false,
		"data: a\n":              false,
		"data: a\n\n":            true,
		"data: a\r\n":            false,
		"data: a\r\n\r":          true,
		"data: a\r\n\r\n":        true,
		"data: a\r\r":            true,
		"data: a\r":              false,
		"data: a\n\ndata: b":     false,
		"data: a\n\ndata: b\n":   false,
		"data: a\n\n\n":          true,
		"data: a\n\n: c\n":       false,
		"data: a\n\ndata: b\n\n": true,
		"data: a\n ":             false,
		"data: a\n\n ":           false,
		"data: \\n\\n":           false,
	} {
		for _, size := range []int{1, 2, 3, 4, 5, 1 << 10} {
			var tail sse.Tail
			for piece := range chunks(text, size) {
				tail.Feed(piece)
			}
			if got := tail.AtBoundary(); got != want {
				t.Errorf("AtBoundary behind %q in pieces of %d = %t, want %t", text, size, got, want)
			}
		}
	}
}

func TestNextLineCutsAtEveryKindOfLineEnd(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text, line, rest string
		ok               bool
	}{
		{"", "", "", false},
		{"a", "", "a", false},
		{"a\n", "a", "", true},
		{"a\r", "a", "", true},
		{"a\r\n", "a", "", true},
		{"a\nb", "a", "b", true},
		{"a\rb\n", "a", "b\n", true},
		{"a\r\nb\r\n", "a", "b\r\n", true},
		{"a\r\rb\n", "a", "\rb\n", true},
		{"a\n\rb", "a", "\rb", true},
		{"\n\n", "", "\n", true},
		{"\r\n\r\n", "", "\r\n", true},
		{"a\x00b\u2028c\u0085\n", "a\x00b\u2028c\u0085", "", true},
	} {
		line, rest, ok := sse.NextLine([]byte(tc.text))
		if string(line) != tc.line || string(rest) != tc.rest || ok != tc.ok {
			t.Errorf("NextLine(%q) = %q, %q, %t, want %q, %q, %t", tc.text, line, rest, ok, tc.line, tc.rest, tc.ok)
		}
	}
}

func TestDataStripsOneSpace(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		line, value string
		ok          bool
	}{
		{"data: a", "a", true},
		{"data:a", "a", true},
		{"data:  a ", " a ", true},
		{"data:", "", true},
		{"data: ", "", true},
		{"data:\ta", "\ta", true},
		{"data", "", false},
		{"", "", false},
		{" data: a", "", false},
		{"Data: a", "", false},
		{"data : a", "", false},
		{"event: a", "", false},
		{": data: a", "", false},
	} {
		if value, ok := sse.Data([]byte(tc.line)); string(value) != tc.value || ok != tc.ok {
			t.Errorf("Data(%q) = %q, %t, want %q, %t", tc.line, value, ok, tc.value, tc.ok)
		}
	}
}

// piece is one call of an Emit.
type piece struct {
	text  string
	whole bool
}

// split feeds text in pieces of size bytes and keeps all that keep approves of.
func split(text string, size int, keep func(string) bool) (emitted []piece, out string) {
	var s sse.Splitter
	for p := range chunks(text, size) {
		fed := bytes.Clone(p)
		s.Feed(fed, func(event []byte, whole bool) bool {
			emitted = append(emitted, piece{string(event), whole})
			kept := !whole || keep(string(event))
			if kept {
				out += string(event)
			}
			return kept
		})
		for i := range fed {
			fed[i] = 'X' // nothing may point into what was fed
		}
	}
	return emitted, out + string(s.Rest())
}

// chunks yields text in pieces of size bytes.
func chunks(text string, size int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(text) > 0 {
			n := min(size, len(text))
			if !yield([]byte(text[:n])) {
				return
			}
			text = text[n:]
		}
	}
}

func all(string) bool { return true }

func TestSplitterEmitsWholeEvents(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, text string
		want       []string
		rest       string
	}{
		{"nothing", "", nil, ""},
		{"one", "data: a\n\n", []string{"data: a\n\n"}, ""},
		{"two", "data: a\n\ndata: b\n\n", []string{"data: a\n\n", "data: b\n\n"}, ""},
		{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []string{"data: a\r\n\r\n", "data: b\r\n\r\n"}, ""},
		{"CR", "data: a\r\rdata: b\r\r", []string{"data: a\r\r", "data: b\r\r"}, ""},
		{"many lines", "event: x\nid: 1\n: c\ndata: a\ndata: b\n\n", []string{"event: x\nid: 1\n: c\ndata: a\ndata: b\n\n"}, ""},
		{"an unfinished one", "data: a\n\ndata: b\n", []string{"data: a\n\n"}, "data: b\n"},
		{"a torn line", "data: a\n\ndat", []string{"data: a\n\n"}, "dat"},
		{"extra blank lines", "\n\ndata: a\n\n\n", []string{"\n", "\n", "data: a\n\n", "\n"}, ""},
	} {
		emitted, out := split(tc.text, len(tc.text)+1, all)
		if out != tc.text {
			t.Errorf("%s: out %q, want %q", tc.name, out, tc.text)
		}
		rest := tc.text
		for i, p := range emitted {
			if !p.whole || i >= len(tc.want) || p.text != tc.want[i] {
				t.Errorf("%s: event %d is %q (whole %t), want %q", tc.name, i, p.text, p.whole, tc.want)
			}
			rest = strings.TrimPrefix(rest, p.text)
		}
		if len(emitted) != len(tc.want) || rest != tc.rest {
			t.Errorf("%s: %d events and rest %q, want %d and %q", tc.name, len(emitted), rest, len(tc.want), tc.rest)
		}
	}
}

func TestSplitterLeavesOutOneEventHoweverItIsTorn(t *testing.T) {
	t.Parallel()
	long := "data: " + strings.Repeat("L", sse.MaxPending+100) + "\n\n"
	for name, tc := range map[string]struct{ text, want string }{
		"in the middle":   {"data: a\n\ndata: drop\n\ndata: b\n\n", "data: a\n\ndata: b\n\n"},
		"first":           {"data: drop\n\ndata: b\n\n", "data: b\n\n"},
		"last":            {"data: a\n\ndata: drop\n\n", "data: a\n\n"},
		"alone":           {"data: drop\n\n", ""},
		"twice":           {"data: drop\n\ndata: drop\n\ndata: a\n\n", "data: a\n\n"},
		"CRLF":            {"data: a\r\n\r\ndata: drop\r\n\r\ndata: b\r\n\r\n", "data: a\r\n\r\ndata: b\r\n\r\n"},
		"CR":              {"data: a\r\rdata: drop\r\rdata: b\r\r", "data: a\r\rdata: b\r\r"},
		"unfinished":      {"data: a\n\ndata: drop\n", "data: a\n\ndata: drop\n"},
		"behind long one": {long + "data: drop\n\ndata: b\n\n", long + "data: b\n\n"},
	} {
		keep := func(event string) bool { return !strings.HasPrefix(event, "data: drop") }
		for _, size := range []int{1, 2, 3, 5, 7, 11, 1 << 20} {
			if _, out := split(tc.text, size, keep); out != tc.want {
				t.Errorf("%s, in pieces of %d: %s, want %s", name, size, short(out), short(tc.want))
			}
		}
	}
}

func short(s string) string {
	if len(s) > 200 {
		return s[:80] + "..." + s[len(s)-100:]
	}
	return s
}

func TestSplitterPassesLongEventsInPieces(t *testing.T) {
	t.Parallel()
	text := "data: a\n\ndata: " + strings.Repeat("x", 3*sse.MaxPending) + "\n\ndata: b\n\n"
	emitted, out := split(text, 4<<10, all)
	if out != text {
		t.Fatalf("out has %d bytes, want %d", len(out), len(text))
	}
	partial := 0
	for _, p := range emitted {
		if !p.whole {
			partial++
		}
		if len(p.text) > sse.MaxPending+4<<10 {
			t.Errorf("%d bytes were held, want %d and one piece at most", len(p.text), sse.MaxPending)
		}
	}
	if partial < 2 {
		t.Errorf("%d pieces of the long event, want 2 or more", partial)
	}
	if last := emitted[len(emitted)-1]; !last.whole || last.text != "data: b\n\n" {
		t.Errorf("the last event is %q (whole %t), want %q whole", short(last.text), last.whole, "data: b\n\n")
	}
}

// FuzzSplitter feeds the same bytes in pieces of several sizes: nothing is
// lost, added or moved, and which events can be left out does not depend on how
// the bytes arrive.
func FuzzSplitter(f *testing.F) {
	for _, seed := range []string{
		"", "data: a\n\n", "data: a\r\n\r\ndata: b\r\n\r\n", "data: a\r\rdata: b\r\r", "\n\n\n", "\r\n\r\n\r\n", "\r\r\r", "\n\r\n\r",
		"data: drop\r\n\r\ndata: a\r\n\r\n", "id: 1\r\rdata: a\r\r\n",
		": c\n\nevent: e\nid: 1\ndata: x\n\n", "data: a\n\ndata: torn", "data: {\"choices\":[],\"usage\":{}}\n\ndata: [DONE]\n\n",
		"data: " + strings.Repeat("x", sse.MaxPending+1) + "\n\ndata: y\n\n",
	} {
		f.Add([]byte(seed), uint16(3))
	}
	f.Fuzz(func(t *testing.T, raw []byte, size uint16) {
		text := string(raw)
		if len(text) > sse.MaxPending { // cut where they are too long depends on the pieces
			if _, out := split(text, int(size)+1, all); out != text {
				t.Fatalf("in pieces of %d: %d bytes came out, want %d", int(size)+1, len(out), len(text))
			}
			return
		}
		keep := func(event string) bool { return strings.Contains(event, "a") }
		events, reference := split(text, len(text)+1, keep)
		for _, n := range []int{1, 2, int(size) + 1} {
			if _, out := split(text, n, all); out != text {
				t.Fatalf("in pieces of %d: %q came out, want %q", n, out, text)
			}
			got, out := split(text, n, keep)
			if out != reference {
				t.Fatalf("in pieces of %d: %q came out, want %q", n, out, reference)
			}
			// A CRLF torn in its middle is the one difference: its LF comes by
			// itself behind an event that has ended with the CR.
			if !strings.Contains(text, "\r") && !slices.Equal(got, events) {
				t.Fatalf("in pieces of %d: events %+v, want %+v", n, got, events)
			}
		}
		checkTail(t, text)
	})
}

// checkTail compares the tail of text, fed byte by byte, with text itself.
func checkTail(t *testing.T, text string) {
	t.Helper()
	var whole, single sse.Tail
	whole.Feed([]byte(text))
	for p := range chunks(text, 1) {
		single.Feed(p)
	}
	if whole.AtBoundary() != single.AtBoundary() {
		t.Fatalf("AtBoundary behind %q: %t at once, %t byte by byte", text, whole.AtBoundary(), single.AtBoundary())
	}
	normal := strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	if want := text == "" || strings.HasSuffix(normal, "\n\n"); whole.AtBoundary() != want {
		t.Fatalf("AtBoundary behind %q = %t, want %t", text, whole.AtBoundary(), want)
	}
}

func BenchmarkSplitter(b *testing.B) {
	stream := []byte(strings.Repeat("data: {\"choices\":[{\"delta\":{\"content\":\"word \"}}]}\n\n", 1000))
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		var s sse.Splitter
		for rest := stream; len(rest) > 0; {
			n := min(4<<10, len(rest))
			s.Feed(rest[:n], func([]byte, bool) bool { return true })
			rest = rest[n:]
		}
	}
}

// A Splitter that was reset knows nothing of the stream before.
func TestSplitterReset(t *testing.T) {
	var s sse.Splitter
	var got []string
	emit := func(event []byte, whole bool) bool {
		got = append(got, fmt.Sprintf("%q %t", event, whole))
		return true
	}
	for _, before := range []string{"data: a\n\ndata: torn", strings.Repeat("x", sse.MaxPending+1), "data: a\r\r"} {
		s.Feed([]byte(before), emit)
		s.Reset()
		got = nil
		s.Feed([]byte("\ndata: b\n\n"), emit)
		if want := []string{`"\n" true`, `"data: b\n\n" true`}; !slices.Equal(got, want) || len(s.Rest()) > 0 {
			t.Errorf("behind %.20q: %s, want %s", before, got, want)
		}
		s.Reset()
	}
}
