package proxytest_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// eachMode runs body with every way to listen; those in memory in a bubble.
func eachMode(t *testing.T, body func(t *testing.T, opts ...proxytest.ServerOption)) {
	t.Run("h1", func(t *testing.T) { body(t) })
	t.Run("h2", func(t *testing.T) { body(t, proxytest.HTTP2()) })
	t.Run("h1 in memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { body(t, proxytest.InMemory()) })
	})
	t.Run("h2 in memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { body(t, proxytest.InMemory(), proxytest.HTTP2()) })
	})
}

func TestServe(t *testing.T) {
	eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
		configured := 0
		opts = append(opts, nil, proxytest.Configure(func(s *http.Server) {
			configured++
			s.MaxHeaderBytes = 1 << 16
		}))
		srv := proxytest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusFound)
			_, _ = io.WriteString(w, r.Proto+r.Header.Get("Accept-Encoding"))
		}), opts...)
		client := srv.Client()
		resp, err := client.Get(srv.URL + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusFound || string(body) != resp.Proto || err != nil || configured != 1 {
			t.Errorf("status %d, body %q, %v, Configure ran %d times", resp.StatusCode, body, err, configured)
		}
		if strings.HasSuffix(srv.URL, "/") || srv.Client() != client || srv.Transport() == client.Transport {
			t.Error("URL ends in a slash, Client is not the same, or Transport is")
		}
		other := &http.Client{Transport: srv.Transport()}
		if resp := do(t, other, http.MethodGet, "http://api.example:99/", ""); resp.StatusCode != http.StatusFound {
			t.Errorf("another host name: status %d", resp.StatusCode)
		}
		srv.Close()
		srv.Close()
		if _, err := srv.Client().Get(srv.URL); err == nil {
			t.Error("no error after Close")
		}
	})
}

// Close ends the contexts of running requests, also when their body is unread
// or they have a base of their own, and waits for the handlers.
func TestServerCloseEndsRequests(t *testing.T) {
	type key struct{}
	eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
		started, ended := make(chan any), false
		srv := proxytest.Serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			started <- r.Context().Value(key{})
			<-r.Context().Done()
			time.Sleep(10 * time.Millisecond)
			ended = true
		}), append(opts, proxytest.Configure(func(s *http.Server) {
			parent := s.BaseContext
			if parent != nil {
				t.Error("a BaseContext before Configure")
			}
			s.BaseContext = baseContext(key{}, "mine")
		}))...)
		failed := make(chan error)
		go func() {
			resp, err := srv.Client().Post(srv.URL, "", bytes.NewReader(make([]byte, 1<<20)))
			if err == nil {
				_ = resp.Body.Close()
			}
			failed <- err
		}()
		if got := <-started; got != "mine" {
			t.Errorf("context value %v", got)
		}
		srv.Close()
		if !ended {
			t.Error("Close did not wait for the handler")
		}
		if <-failed == nil {
			t.Error("the client saw no error")
		}
	})
}

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	failed string
}

func (r *recorder) Errorf(format string, _ ...any) { r.failed = format }
func (r *recorder) Fatalf(format string, _ ...any) { r.failed = format }

func TestServerCloseReportsStuckHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := &recorder{TB: t}
		release := make(chan struct{})
		srv := proxytest.Serve(tb, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			<-release
		}), proxytest.InMemory())
		go func() {
			resp, err := srv.Client().Get(srv.URL)
			if err == nil {
				_ = resp.Body.Close()
			}
		}()
		synctest.Wait()
		start := time.Now()
		srv.Close()
		if tb.failed == "" || time.Since(start) != 10*time.Second {
			t.Errorf("failed with %q after %v", tb.failed, time.Since(start))
		}
		close(release)
	})
}

func TestNextGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := &recorder{TB: t}
		up := proxytest.NewUpstream(tb, proxytest.InMemory())
		if req := up.Next(); req != nil || tb.failed == "" {
			t.Errorf("got %v, failure %q", req, tb.failed)
		}
	})
}

func TestInMemoryDialEnds(t *testing.T) {
	srv := proxytest.Serve(t, http.NotFoundHandler(), proxytest.InMemory())
	srv.Close()
	if _, err := srv.Transport().DialContext(t.Context(), "tcp", "x:1"); err == nil {
		t.Error("a closed server was dialled")
	}
	if resp, err := http.Get(srv.URL); err == nil {
		_ = resp.Body.Close()
		t.Error("the made-up address answers")
	}
}

func baseContext(key, value any) func(net.Listener) context.Context {
	return func(net.Listener) context.Context {
		return context.WithValue(context.Background(), key, value)
	}
}

// do sends a request, follows no redirect and closes the answer's body when the
// test ends.
func do(t *testing.T, c *http.Client, method, url, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	plain := *c
	plain.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := plain.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}
