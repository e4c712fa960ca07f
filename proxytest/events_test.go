package proxytest_test

import (
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/openai-proxy-go/proxy/proxytest"
)

func TestReadEvents(t *testing.T) {
	long := strings.Repeat("x", 5<<20)
	type events = []proxytest.Event
	for _, tc := range []struct {
		name, in string
		want     events
	}{
		{"nothing", "", nil},
		{"one", "data: a\n\n", events{{Data: "a"}}},
		{"no space", "data:a\n\n", events{{Data: "a"}}},
		{"one space only is taken", "data:  a\n\n", events{{Data: " a"}}},
		{"CR", "data: a\r\rdata: b\r\r", events{{Data: "a"}, {Data: "b"}}},
		{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", events{{Data: "a"}, {Data: "b"}}},
		{"mixed", "data: a\n\r\ndata: b\r\n\rdata: c\r\n\n", events{{Data: "a"}, {Data: "b"}, {Data: "c"}}},
		{"byte order mark", "\ufeffdata: a\n\n\ufeffdata: b\n\n", events{{Data: "a"}}},
		{"comments", ": hello\n\ndata: a\n:\n: x\ndata: b\n\n", events{{Data: "a\nb"}}},
		{"many lines", "data: a\ndata\ndata: \ndata: b\n\n", events{{Data: "a\n\n\nb"}}},
		{"empty data", "data\n\n", events{{}}},
		{"name", "event: x\ndata: a\n\ndata: b\n\n", events{{Name: "x", Data: "a"}, {Data: "b"}}},
		{"no data is no event", "event: x\n\ndata: a\n\n", events{{Data: "a"}}},
		{
			"id stays", "id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n",
			events{{Data: "a", ID: "1"}, {Data: "b", ID: "1"}, {Data: "c"}},
		},
		{"id with NUL", "id: 1\x00\ndata: a\n\n", events{{Data: "a"}}},
		{"other fields", "retry: 5\nfoo: bar\nData: x\n data: y\ndata: a\n\n", events{{Data: "a"}}},
		{"colon in data", "data: a: b\n\n", events{{Data: "a: b"}}},
		{"no blank line", "data: a\n\ndata: b\n", events{{Data: "a"}}},
		{"no line end", "data: a\n\ndata: b", events{{Data: "a"}}},
		{"not UTF-8", "data: \xff\n\n", events{{Data: "\xff"}}},
		{"5 MiB", "data: " + long + "\n\n", events{{Data: long}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := proxytest.ReadEvents(strings.NewReader(tc.in))
			if err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %.200q, %v; want %.200q", got, err, tc.want)
			}
		})
	}
}

func TestReadEventsError(t *testing.T) {
	in := io.MultiReader(strings.NewReader("data: a\n\ndata: b\n"), iotest.ErrReader(io.ErrUnexpectedEOF))
	got, err := proxytest.ReadEvents(in)
	if len(got) != 1 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q, %v; want one event and an unexpected EOF", got, err)
	}
}

// An event is there with the line end that completes it, even if that is a CR
// which a LF could still follow; and an error stays.
func TestEventReaderIsPrompt(t *testing.T) {
	for _, end := range []string{"\n\n", "\r\r", "\r\n\r"} {
		pr, pw := io.Pipe()
		go func() { _, _ = pw.Write([]byte("data: a" + end)) }()
		reader := proxytest.NewEventReader(pr)
		if event, err := reader.Next(); err != nil || event.Data != "a" {
			t.Errorf("%q: got %q, %v", end, event, err)
		}
		_ = pw.CloseWithError(io.ErrClosedPipe)
		for range 2 {
			if _, err := reader.Next(); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%q: error %v, want that of the reader", end, err)
			}
		}
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add("\ufeffid: 1\r\nevent: x\rdata: a\ndata\n\n: c\r\n\rdata: b")
	f.Add("\r\n\r\n\n\rdata:\r\r")
	f.Fuzz(func(t *testing.T, in string) {
		whole, err := proxytest.ReadEvents(strings.NewReader(in))
		if err != nil {
			t.Fatalf("at once: %v", err)
		}
		pieces, err := proxytest.ReadEvents(iotest.OneByteReader(strings.NewReader(in)))
		if err != nil || !reflect.DeepEqual(whole, pieces) {
			t.Fatalf("at once %q, byte by byte %q, %v", whole, pieces, err)
		}
		for _, event := range whole {
			if strings.ContainsAny(event.Name+event.ID, "\r\n") || strings.Contains(event.Data, "\r") {
				t.Fatalf("line end inside a field of %q", event)
			}
		}
	})
}
