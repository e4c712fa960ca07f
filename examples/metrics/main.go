// Command metrics serves the proxy on one address, and what it counts on
// another, which is on loopback always:
//
//	OPENAI_API_KEY=sk-... go run ./examples/metrics
//	curl http://127.0.0.1:8791/ -d '{"messages":[{"role":"user","content":"hello"}]}'
//	curl http://127.0.0.1:8792/debug/vars
//
// The numbers are not for the pages that call: they tell how many users there
// are, what they cost, and when something is broken. A route beside the proxy
// would be in reach of whoever reaches the proxy, and one mistake in a reverse
// proxy's rules from the whole web. A listener of its own needs no rule.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/openai-proxy-go/proxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with what it reads and writes handed in, for the test.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("metrics", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8791", "address to listen on")
	numbers := flags.String("metrics", "127.0.0.1:8792", "loopback address to show the numbers on")
	upstream := flags.String("upstream", proxy.DefaultUpstream, "root of the API")
	if flags.Parse(args) != nil {
		return 2
	}
	err := serve(ctx, *listen, *numbers, log.New(stdout, "", 0), proxy.WithUpstream(*upstream))
	if err != nil {
		log.New(stderr, "metrics: ", 0).Print(err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, listen, numbers string, out *log.Logger, options ...proxy.Option) error {
	m := newMetrics()
	handler, err := newHandler(m, options...)
	if err != nil {
		return err
	}
	var config net.ListenConfig
	private, err := config.Listen(ctx, "tcp", numbers)
	if err != nil {
		return err
	}
	defer func() { _ = private.Close() }() // for the ways out before it is served
	if !isLoopback(private.Addr()) {
		return fmt.Errorf("-metrics %s is not on loopback: others could read it", numbers)
	}
	public, err := config.Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	out.Printf("Listening on http://%s, metrics on http://%s/debug/vars", public.Addr(), private.Addr())

	// Servers of their own: http.DefaultServeMux has expvar's page, because
	// importing expvar puts it there, and so has every server without a handler.
	servers := []*http.Server{
		{Handler: handler, ReadHeaderTimeout: 10 * time.Second},
		{Handler: m, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second},
	}
	end := func() {
		for _, server := range servers {
			_ = server.Close() // examples/server stops gracefully
		}
	}
	context.AfterFunc(ctx, end)
	failed := make(chan error, len(servers))
	for i, listener := range []net.Listener{public, private} {
		go func() { failed <- servers[i].Serve(listener) }()
	}
	first := <-failed
	end() // one does not go on without the other
	for _, err := range []error{first, <-failed} {
		if !errors.Is(err, http.ErrServerClosed) {
			return err
		}
	}
	return nil
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// newHandler is the proxy, which tells m of every call.
func newHandler(m *metrics, options ...proxy.Option) (*proxy.Handler, error) {
	return proxy.NewHandler(append([]proxy.Option{
		proxy.WithHooks(proxy.Hooks{Done: m.done}),
		proxy.WithStreamUsage(true), // streams say what they used only when asked
		// An illustration: put your provider's prices here, per million tokens.
		proxy.WithPrices(map[string]proxy.Price{
			proxy.DefaultChatModel:  {Prompt: 0.25, Cached: 0.025, Completion: 2},
			proxy.DefaultImageModel: {Prompt: 5, ImagePrompt: 8, Completion: 30},
		}),
	}, options...)...)
}
