// Command login serves the proxy to users who have logged in. The page stands
// on another origin than this server, and a session cookie says who calls:
//
//	LOGIN_USERS=alice:a-password,bob:another OPENAI_API_KEY=sk-... \
//	    go run ./examples/login -dev -origin http://localhost:3000
//
// A page of http://localhost:3000 then logs in, and hands no key to the SDK:
//
//	await fetch("http://localhost:8790/login", {
//	  method: "POST", credentials: "include", headers: {"Content-Type": "application/json"},
//	  body: JSON.stringify({user: "alice", password: "a-password"}),
//	});
//	const client = new OpenAI({
//	  baseURL: "http://localhost:8790/ai/v1", apiKey: "unused",
//	  fetchOptions: {credentials: "include"}, dangerouslyAllowBrowser: true,
//	});
//
// Say localhost in both: to a browser, localhost and 127.0.0.1 are two sites, and
// a cookie of one is not sent from pages of the other.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/openai-proxy-go/proxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// config is what flags and environment say.
type config struct {
	origin    string // of the page
	crossSite bool   // the page's site is not ours
	dev       bool   // plain HTTP
	users     *users
}

// run is main with what it reads and writes handed in, for the test.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	var cfg config
	flags := flag.NewFlagSet("login", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8790", "address to listen on")
	upstream := flags.String("upstream", proxy.DefaultUpstream, "root of the API")
	flags.StringVar(&cfg.origin, "origin", "http://localhost:3000", "origin of the page that may call")
	flags.BoolVar(&cfg.crossSite, "cross-site", false, "the page is of another site, not of another subdomain only")
	flags.BoolVar(&cfg.dev, "dev", false, "send the cookie over plain HTTP, for localhost")
	if flags.Parse(args) != nil {
		return 2
	}
	err := func() (err error) {
		if cfg.users, err = newUsers(getenv("LOGIN_USERS")); err != nil {
			return err
		}
		return serve(ctx, *listen, cfg, log.New(stdout, "", 0), proxy.WithUpstream(*upstream))
	}()
	if err != nil {
		log.New(stderr, "login: ", 0).Print(err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, listen string, cfg config, out *log.Logger, options ...proxy.Option) error {
	handler, err := routes(cfg, options...)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	out.Printf("Listening on http://%s", listener.Addr())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // examples/server stops gracefully
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// routes is the server: logging in and out, and the proxy for those who have.
func routes(cfg config, options ...proxy.Option) (http.Handler, error) {
	if strings.Contains(cfg.origin, "*") {
		return nil, errors.New("-origin must name one origin: whoever is in it acts for the user")
	}
	if cfg.crossSite && cfg.dev {
		return nil, errors.New("-cross-site needs HTTPS: browsers take SameSite=None with Secure only")
	}
	s := &site{cfg: cfg, sessions: &sessions{}}
	ai, err := proxy.NewHandler(append([]proxy.Option{
		// Without credentials the browser would send no cookie, or keep the
		// answer from the page. Pages of other origins get 403 before anything
		// else is looked at: a cookie with SameSite=None comes along with any
		// page's request, so this check is what keeps them from spending with it.
		proxy.WithAllowedOrigins(cfg.origin),
		proxy.WithCredentials(true),
		proxy.WithCaller(s.caller),
		proxy.WithLimiter(&proxy.MemoryLimiter{Requests: 20, Concurrent: 3, Tokens: 200_000}), // for each user
		proxy.WithPolicy(proxy.Policy{
			Models:    []string{proxy.DefaultChatModel, proxy.DefaultImageModel},
			MaxTokens: 2000, MaxN: 1, Refuse: []string{"store"},
		}),
	}, options...)...)
	if err != nil {
		return nil, err
	}
	login, err := s.forThePage(s.login)
	if err != nil {
		return nil, err
	}
	logout, err := s.forThePage(s.logout)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux() // no methods in the patterns: preflights are OPTIONS
	mux.Handle("/login", login)
	mux.Handle("/logout", logout)
	mounted := http.StripPrefix("/ai", ai)
	mux.Handle("/ai/", mounted)
	mux.Handle("/ai", mounted) // or the mux would redirect it, and a POST become a GET
	return mux, nil
}
