package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // for the page
	"encoding/base64"
	"net"
	"net/http"
	"time"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// fakeUpstream is the API that a demo talks to.
type fakeUpstream struct {
	*http.Server
	url string
}

// startFakeUpstream listens on a free port of its own, so that the demo takes
// the same way as a real call, network included. Its Close stops it.
func startFakeUpstream(ctx context.Context) (*fakeUpstream, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{
		Handler:           &proxytest.Upstream{Pace: 60 * time.Millisecond}, // slow enough to watch
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() { _ = server.Serve(listener) }() // ends with Close
	return &fakeUpstream{server, "http://" + listener.Addr().String() + "/v1"}, nil
}

//go:embed page.html
var pageHTML []byte

// newPage serves the page of the demo. It is one file whose only script and
// style are its own: the policy names them by their hashes, so that nothing
// else runs even if an answer of a model slipped markup in.
func newPage() http.Handler {
	policy := "default-src 'none'; connect-src 'self'; img-src data: https:; " +
		"script-src " + hashOf("script") + "; style-src " + hashOf("style") + "; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // the next version has other hashes
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(pageHTML))
	})
}

// hashOf returns the source expression for the page's one element of this name.
func hashOf(element string) string {
	_, rest, _ := bytes.Cut(pageHTML, []byte("<"+element+">"))
	text, _, _ := bytes.Cut(rest, []byte("</"+element+">"))
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
