package proxy

import (
	"bytes"
	"flag"
	"io"
	"os"
	"testing"

	"github.com/openai-proxy-go/proxy/internal/leaktest"
)

// TestMain has every buffer wiped that goes back, so that any test fails whose
// request or answer still lies in it, and looks for goroutines at the end.
func TestMain(m *testing.M) {
	flag.Parse()
	scribble = flag.Lookup("test.bench").Value.String() == "" // it would be measured
	os.Exit(leaktest.Run(m))
}

// A transport that closes a body late, or never, keeps what it reads.
func TestLoanWaitsForItsReaders(t *testing.T) {
	pool := &buffers{}
	lend := func() (*loan, []byte) {
		body := append(*pool.get(), "the body of a request"...)
		return &loan{from: pool, buf: &body, used: body}, body
	}

	l, body := lend()
	late, err := l.open(body)
	if err != nil {
		t.Fatal(err)
	}
	l.end()
	got, err := io.ReadAll(late)
	if string(got) != "the body of a request" || err != nil {
		t.Errorf("a reader that outlives the request reads %q, %v", got, err)
	}
	if _, err := l.open(body); err == nil {
		t.Error("a body can be opened when the request is over")
	}

	l, body = lend()
	early, err := l.open(body)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // net/http closes twice here and there
		if err := early.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := early.Read(make([]byte, 8)); n != 0 || err == nil {
		t.Errorf("a closed body reads %d bytes, %v", n, err)
	}
	l.end()
	if !bytes.Equal(body, make([]byte, len(body))) {
		t.Errorf("the buffer did not go back: %q", body)
	}
}

// A connection that is handed the body where it lies may be closed by the transport
// while it writes, and is not waited for.
func TestLoanWaitsForAWrite(t *testing.T) {
	body := []byte("the body of a request")
	l := &loan{from: &buffers{}, buf: &body, used: body}
	opened, err := l.open(body)
	if err != nil {
		t.Fatal(err)
	}
	r := opened.(*loanReader) //nolint:forcetypeassert // it is one
	var got []byte
	n, err := r.writeTo(writerFunc(func(p []byte) (int, error) {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		l.end()
		got = append(got, p...)
		return len(p), nil
	}), 8)
	if n != 8 || err != nil || string(got) != "the body" {
		t.Errorf("wrote %q, %d, %v", got, n, err)
	}
	if n, err := r.writeTo(io.Discard, 8); n != 0 || err == nil {
		t.Errorf("a closed body writes %d bytes, %v", n, err)
	}
	if string(body) != "the body of a request" {
		t.Errorf("the buffer went back while it was written: %q", body)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A stream in haste reads more at once, and goes back to little when it is quiet.
func TestStreamBufferFitsTheStream(t *testing.T) {
	var b streamBuffer
	reads := func(times, n, want int) {
		t.Helper()
		for i := range times {
			if got := len(b.bytes()); got != want {
				t.Fatalf("read %d has room for %d bytes, want %d", i, got, want)
			}
			b.fit(n)
		}
	}
	reads(100, smallStreamBuffer-1, smallStreamBuffer)
	reads(1, smallStreamBuffer, smallStreamBuffer) // there may be more
	reads(quietReads-1, 300, largeStreamBuffer)
	reads(10, smallStreamBuffer+1, largeStreamBuffer)
	reads(quietReads, 300, largeStreamBuffer)
	reads(1, smallStreamBuffer, smallStreamBuffer)
	reads(1, largeStreamBuffer, largeStreamBuffer)
	b.giveBack()
	b.giveBack() // the end of a stream that holds none
	reads(1, 0, smallStreamBuffer)
}
