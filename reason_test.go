package proxy_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// A browser drops what it has not handed to the page yet when the transfer breaks:
// between the reason and the cut there must be time to read.
func TestReasonOfABrokenStreamCanBeRead(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		var done outcomes
		f := w.start(t, nil, done.hook())
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Cut()))
		began := time.Now()
		res := open(within(t), t, f, streamPath, streamRequest)
		wantNext(t, res.Body, "data: a\n\n")
		wantNext(t, res.Body, "data: {\"error\"")
		if took := time.Since(began); took != 0 {
			t.Errorf("the reason took %v", took)
		}
		_, err := io.Copy(io.Discard, res.Body)
		wantCutError(t, w.http2, err)
		if took := time.Since(began); took != lastWords {
			t.Errorf("the cut came %v behind the reason, want %v", took, lastWords)
		}
		time.Sleep(time.Millisecond)
		if out := done.only(t); out.Ending != proxy.EndingUpstreamCut {
			t.Errorf("the call ended with %s", out.Ending)
		}
	})
}

// Nobody waits for a client that leaves with the reason.
func TestReasonOfABrokenStreamIsNotWaitedForAlone(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		var done outcomes
		f := w.start(t, nil, done.hook())
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Cut()))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		res := open(ctx, t, f, streamPath, streamRequest)
		wantNext(t, res.Body, "data: a\n\ndata: {\"error\"")
		cancel()
		time.Sleep(time.Millisecond)
		if out := done.only(t); out.Duration > time.Millisecond {
			t.Errorf("the call took %v, want no time", out.Duration)
		}
	})
}

// panicBody is the body of a host's transport that has a mistake.
type panicBody struct{ first string }

func (b *panicBody) Read(p []byte) (int, error) {
	if b.first == "" {
		panic("a body of the host")
	}
	n := copy(p, b.first)
	b.first = b.first[n:]
	return n, nil
}

func (*panicBody) Close() error { return nil }

// A panic within a started stream ends it as every other break does.
func TestReasonOfAStreamBrokenByAPanic(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, recovering, proxy.WithTransport(brokenTransport(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: &panicBody{"data: a"}}, nil
		})))
		res := open(within(t), t, f, streamPath, streamRequest)
		wantNext(t, res.Body, "data: a")
		wantBroken(t, w, res.Body, "\n\n", proxy.CodeInternalError)
	})
}
