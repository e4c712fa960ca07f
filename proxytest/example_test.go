package proxytest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// newGateway stands for the handler that a test is about: it sends requests to
// the API and adds a key.
func newGateway(api string, transport http.RoundTripper) (http.Handler, error) {
	target, err := url.Parse(api)
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set("Authorization", "Bearer sk-test")
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "request broken off", http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}), nil
}

// testGateway scripts two answers, sends two requests through the handler, and
// prints what the client and the upstream saw. In a real test it is
// TestGateway(t *testing.T) and compares.
func testGateway(t testing.TB) {
	up := proxytest.NewUpstream(t)
	handler, err := newGateway(up.URL(), up.Transport())
	if err != nil {
		t.Fatal(err)
	}
	srv := proxytest.Serve(t, handler)
	up.Queue(
		proxytest.Failure(http.StatusBadRequest, "invalid_request_error", "", "no such model"),
		proxytest.Stream(proxytest.Text("data: {}\n\n"), proxytest.Cut()),
	)
	for _, body := range []string{`{"model":"x"}`, `{"stream":true}`} {
		resp, err := srv.Client().Post(srv.URL+"/chat/completions", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		events, err := proxytest.ReadEvents(resp.Body)
		_ = resp.Body.Close()
		sent := up.Next()
		fmt.Println(sent.Target, sent.Header.Get("Authorization"), string(sent.Body))
		fmt.Println(resp.StatusCode, len(events), errors.Is(err, io.ErrUnexpectedEOF))
	}
}

// exampleT is the part of a testing.T that an example has to stand in for.
type exampleT struct {
	testing.TB
	cleanups []func()
}

func (t *exampleT) Helper()          {}
func (t *exampleT) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

func Example() {
	t := &exampleT{}
	testGateway(t)
	for _, cleanup := range slices.Backward(t.cleanups) {
		cleanup()
	}
	// Output:
	// /v1/chat/completions Bearer sk-test {"model":"x"}
	// 400 0 false
	// /v1/chat/completions Bearer sk-test {"stream":true}
	// 200 1 true
}
