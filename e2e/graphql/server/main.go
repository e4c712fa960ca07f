// Command server serves the proxy to the end-to-end test, over an upstream
// whose failures the prompts of the requests choose. It listens on two free
// ports of the loopback interface, prints both addresses as one line of JSON,
// and ends with SIGTERM, SIGINT, or after five minutes.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// Keys that must not come back in any answer.
const (
	serverKey = "sk-e2e-server-0123456789abcdef"
	// frontEnd is a page of another origin.
	frontEnd = "http://localhost:3000"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	upstream, closeUpstream, err := serve(ctx, &scripted{})
	if err != nil {
		return err
	}
	defer closeUpstream()
	handler, err := proxy.NewHandler(
		proxy.WithUpstream(upstream+"/v1"),
		proxy.WithKeySource(proxy.FirstKey(proxy.HeaderKey("x-openai-key"), proxy.StaticKey(serverKey))),
		proxy.WithAllowedOrigins(frontEnd),
		proxy.WithAllowedHosts("127.0.0.1"),
		proxy.WithGraphQL(proxy.GraphQLOptions{DataURLs: true}),
	)
	if err != nil {
		return err
	}
	root, closeProxy, err := serve(ctx, handler)
	if err != nil {
		return err
	}
	defer closeProxy()
	err = json.NewEncoder(os.Stdout).Encode(map[string]string{"proxy": root, "upstream": upstream})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// serve listens on a free port and returns the root URL of it.
func serve(ctx context.Context, h http.Handler) (root string, closeIt func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with Close
	return "http://" + listener.Addr().String(), func() { _ = server.Close() }, nil
}
