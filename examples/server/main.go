// Command server is the proxy as a whole program. Try it without a key:
//
//	go run ./examples/server -demo
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/openai-proxy-go/proxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is main with everything that it reads and writes handed in, so that a
// test can call it. It returns the exit status.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	cfg, err := parseConfig(args, getenv)
	if errors.Is(err, flag.ErrHelp) {
		log.New(stdout, "", 0).Print(usage)
		return 0
	}
	if err == nil {
		err = cfg.check()
	}
	problems := log.New(stderr, "server: ", 0)
	if err != nil {
		for line := range strings.Lines(err.Error()) { // errors.Join: one line each
			problems.Print(line)
		}
		problems.Print("server -help explains the settings")
		return 2
	}
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	if err := serve(ctx, cfg, logger, log.New(stdout, "", 0)); err != nil {
		problems.Print(err)
		return 1
	}
	return 0
}

// serve runs the server until ctx ends.
func serve(ctx context.Context, cfg config, logger *slog.Logger, out *log.Logger) error {
	if cfg.demo {
		fake, err := startFakeUpstream(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = fake.Close() }() // last: the calls are over by then
		cfg.upstream = fake.url
	} else if !cfg.envKey && cfg.keyFile == "" && !cfg.dev {
		logger.Warn("no key is set: requests will fail, see OPENAI_API_KEY")
	}
	handler, err := proxy.NewHandler(cfg.options(logger)...)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.listen)
	if err != nil {
		return err
	}
	server := newServer(routes(handler, cfg.demo), logger)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	announce(out, listener.Addr(), cfg.demo)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return shutdown(server, handler, cfg.grace)
	}
}

// routes puts the proxy beside the server's own pages. Patterns for the proxy
// name no method: "POST /" would never see a preflight, which is an OPTIONS.
func routes(handler http.Handler, demo bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "ok\n") // whoever asked may be gone
	})
	if demo {
		mux.Handle("GET /{$}", newPage())
	}
	mux.Handle("/", handler)
	return mux
}

// newServer sets the limits that a handler cannot set for itself.
func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		ReadHeaderTimeout: 10 * time.Second,
		// For bodies that nobody reads. While the proxy reads one, its own
		// limits stand in for this: 30 s without a byte, 10 min in all.
		ReadTimeout:    time.Minute,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		ConnContext:    giveUpDeadLinks,
		// No WriteTimeout: it counts from the request on, and a model may think
		// for minutes. The proxy limits each write instead.
	}
}

// shutdown lets requests finish for the time of grace. Server and handler stop
// together: the server takes no new connections and waits, the handler refuses
// new calls on old connections and, when the time is over, ends streams with an
// error event that says why.
func shutdown(server *http.Server, handler *proxy.Handler, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- handler.Shutdown(ctx) }()
	// The last words of streams take the handler up to a second more.
	longer, cancel := context.WithTimeout(context.Background(), grace+2*time.Second)
	defer cancel()
	err := server.Shutdown(longer)
	if err != nil {
		err = errors.Join(err, server.Close()) // whoever is left had their chance
	}
	return errors.Join(<-ended, err)
}

// announce tells where the server listens, and in demo mode what to do there.
func announce(out *log.Logger, addr net.Addr, demo bool) {
	out.Printf("Listening on http://%s", addr)
	if !demo {
		return
	}
	url := "http://" + addr.String()
	if tcp, ok := addr.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		_, port, _ := net.SplitHostPort(addr.String())
		url = "http://localhost:" + port
	}
	out.Printf(`
This is a demo: a fake upstream answers, no key is used, nothing is billed.
Open %[1]s/ in a browser, or try:

  curl -N %[1]s/ -d '{"messages":[{"role":"user","content":"Hello!"}],"stream":true}'
`, url)
}
