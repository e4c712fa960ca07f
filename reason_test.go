package proxy_test

import (
	"context"
	"io"
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
