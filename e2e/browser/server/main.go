// Command server serves the proxy to the browser tests, over an upstream whose
// answers the prompts of the requests choose. It listens on free ports of the
// loopback interface, prints all addresses as one line of JSON, and ends with
// SIGTERM, SIGINT, or after five minutes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/openai-proxy-go/proxy"
)

const (
	serverKey = "sk-e2e-server-0123456789abcdef"
	// A visitor who has been at /login has this cookie.
	loginCookie, loginValue = "login", "e2e-visitor"
)

func main() {
	demo := flag.String("demo", "", "root of a running examples/server -demo, whose page is served")
	site := flag.String("site", ".", "folder with sdk.html and node_modules")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := run(ctx, *demo, *site); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, demo, site string) error {
	demoURL, err := url.Parse(demo)
	if err != nil || demoURL.Host == "" {
		return fmt.Errorf("-demo %q is no address", demo)
	}
	names := []string{"upstream", "proxy", "members", "allowed", "stranger"}
	listeners, addresses := map[string]net.Listener{}, map[string]string{}
	for _, name := range names { // all before the first is served: they name one another
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer func() { _ = listener.Close() }()
		listeners[name], addresses[name] = listener, "http://"+listener.Addr().String()
	}
	options := proxy.WithOptions(
		proxy.WithUpstream(addresses["upstream"]+"/v1"),
		proxy.WithKey(serverKey),
		proxy.WithAllowedOrigins(addresses["allowed"]),
		proxy.WithAllowedHosts("127.0.0.1"),
	)
	open, err := proxy.NewHandler(options)
	if err != nil {
		return err
	}
	members, err := proxy.NewHandler(options, proxy.WithCredentials(true), proxy.WithCaller(visitor))
	if err != nil {
		return err
	}
	handlers := map[string]http.Handler{
		"upstream": &scripted{},
		"proxy":    withPage(open, demoURL),
		"members":  withLogin(members),
		"allowed":  pages(site),
		"stranger": pages(site),
	}
	for name, handler := range handlers {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
		defer func() { _ = server.Close() }()
		go func() { _ = server.Serve(listeners[name]) }() // ends with Close
	}
	if err := json.NewEncoder(os.Stdout).Encode(addresses); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// withPage puts the true page of the demo, its security policy included, beside
// a proxy that is mounted at the root and below a prefix.
func withPage(handler http.Handler, demo *url.URL) http.Handler {
	page := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Path = "/"
		r.SetURL(demo)
	}}
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", page)
	mux.Handle("/", handler)
	mux.Handle("GET /ai/{$}", page)
	mux.Handle("/ai/", http.StripPrefix("/ai", handler))
	return mux
}

// withLogin is a host that knows its visitors by a cookie.
func withLogin(handler http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, _ *http.Request) {
		// Not Secure: the tests speak plain HTTP.
		http.SetCookie(w, &http.Cookie{ //nolint:gosec // see above
			Name: loginCookie, Value: loginValue, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode,
		})
		w.WriteHeader(http.StatusNoContent)
	})
	mux.Handle("/", handler)
	return mux
}

func visitor(r *http.Request) (proxy.Caller, error) {
	cookie, err := r.Cookie(loginCookie)
	if err != nil || cookie.Value != loginValue {
		return proxy.Caller{}, errors.New("nobody is logged in")
	}
	return proxy.Caller{ID: cookie.Value}, nil
}

// pages serves a page of another origin and the SDK that it loads.
func pages(site string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(site, "sdk.html"))
	})
	sdk := http.Dir(filepath.Join(site, "node_modules", "openai"))
	mux.Handle("GET /openai/", http.StripPrefix("/openai", http.FileServer(sdk)))
	return mux
}
