package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// large is a megabyte that says the same sixteen bytes all over, so that a piece of
// another is seen wherever it stands.
func large(nonce string) string { return strings.Repeat(nonce, 64<<10) }

func largeBody(nonce string) string {
	return `{"model":"m","messages":[{"role":"user","content":"` + large(nonce) + `"}]}`
}

func largeAnswer(nonce string) string { return `{"answer":"` + large(nonce) + `"}` }

// Large requests and answers lie in memory that serves others later. Every call must
// see its own, whatever becomes of the calls beside it.
func TestLargeBodiesAreNotMixed(t *testing.T) {
	for _, wire := range []struct {
		name           string
		client         []proxytest.ServerOption
		h2, inTheClear bool // the upstream
	}{
		{name: "HTTP/1.1 to HTTP/1.1"},
		{name: "HTTP/1.1 to HTTP/1.1 in the clear", inTheClear: true}, // by the proxy's own transport
		{name: "HTTP/1.1 to HTTP/2", h2: true},
		{name: "HTTP/2 to HTTP/2", client: []proxytest.ServerOption{proxytest.HTTP2()}, h2: true},
	} {
		t.Run(wire.name, func(t *testing.T) {
			var whole, mixed atomic.Int64
			up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				nonce, early := strings.CutPrefix(r.Header.Get("X-Client-Request-Id"), "early")
				if early { // answers before it has read
					w.WriteHeader(http.StatusBadRequest)
					_, _ = io.WriteString(w, `{"error":{"message":"no `+nonce+`"}}`)
					return
				}
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return
				}
				whole.Add(1)
				if string(body) != largeBody(nonce) {
					mixed.Add(1)
				}
				_, _ = io.WriteString(w, largeAnswer(nonce))
			}))
			t.Cleanup(up.Close)
			var transport http.RoundTripper
			if wire.inTheClear {
				up.Start()
			} else {
				up.EnableHTTP2 = wire.h2
				up.StartTLS()
				transport = up.Client().Transport
			}
			f := setup{client: wire.client, options: []proxy.Option{
				proxy.WithUpstream(up.URL + "/v1"), proxy.WithTransport(transport),
			}}.start(t)
			var wg sync.WaitGroup
			const users, each = 3, 6
			for i := range users {
				wg.Go(func() {
					for j := range each {
						sendLarge(t, f, fmt.Sprintf("%08x%08x", i+1, j+1), j)
					}
				})
			}
			wg.Wait()
			if n := mixed.Load(); n != 0 || whole.Load() < users*each/3 {
				t.Errorf("of %d bodies that came whole %d were not as they were sent", whole.Load(), n)
			}
		})
	}
}

// sendLarge makes a call. Of six, two are whole, two are answered early, and two
// given up: while the request goes up, and while the answer comes down.
func sendLarge(t *testing.T, f *fixture, nonce string, kind int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var body io.Reader = strings.NewReader(largeBody(nonce))
	if kind%6 == 4 {
		body = io.MultiReader(io.LimitReader(body, 500<<10), failing{cancel})
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+chatPath, body)
	if err != nil {
		t.Error(err)
		return
	}
	req.ContentLength = int64(len(largeBody(nonce)))
	req.Header.Set("X-Client-Request-Id", nonce)
	early := kind%3 == 2
	if early {
		req.Header.Set("X-Client-Request-Id", "early"+nonce)
	}
	res, err := f.Server.Client().Do(req)
	if kind%6 == 4 {
		if err == nil {
			_ = res.Body.Close()
			t.Error("half a request was answered")
		}
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	defer res.Body.Close()
	if kind%6 == 1 {
		got := make([]byte, 100<<10)
		if _, err := io.ReadFull(res.Body, got); err != nil || !strings.HasPrefix(largeAnswer(nonce), string(got)) {
			t.Errorf("%s: the first bytes of the answer: %v", nonce, err)
		}
		cancel()
		return
	}
	got, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		t.Error(err)
	case early && res.StatusCode == http.StatusBadGateway: // over HTTP/1.1 an upstream that does not read may break the connection
	case early && (res.StatusCode != http.StatusBadRequest || !bytes.Contains(got, []byte(`"no `+nonce+`"`))):
		t.Errorf("%s: status %d: %s", nonce, res.StatusCode, brief(string(got)))
	case !early && (res.StatusCode != http.StatusOK || string(got) != largeAnswer(nonce)):
		t.Errorf("%s: status %d: %s", nonce, res.StatusCode, brief(string(got)))
	}
}

// failing gives its request up when it is read.
type failing struct{ cancel func() }

func (f failing) Read([]byte) (int, error) {
	f.cancel()
	return 0, errors.New("the client has left")
}
