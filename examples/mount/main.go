// Command mount serves the proxy below /ai, beside other routes of a server,
// and lets every tenant pay with a key of its own. Try it with a real key:
//
//	ACME_OPENAI_KEY=sk-... go run ./examples/mount
//	curl http://127.0.0.1:8788/ai/v1/chat/completions \
//	    -H 'Authorization: Bearer acme-token' \
//	    -d '{"messages":[{"role":"user","content":"hello"}]}'
//
// The official SDKs work with the base URL http://127.0.0.1:8788/ai/v1 and the
// tenant's token as their API key.
package main

import (
	"context"
	"crypto/sha256"
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
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with what it reads and writes handed in, for the test.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("mount", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8788", "address to listen on")
	upstream := flags.String("upstream", proxy.DefaultUpstream, "root of the API")
	if flags.Parse(args) != nil {
		return 2
	}
	err := serve(ctx, *listen, *upstream, log.New(stdout, "", 0))
	if err != nil {
		log.New(stderr, "mount: ", 0).Print(err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, listen, upstream string, out *log.Logger) error {
	// Your own server has these in a database.
	tenants := newDirectory(
		tenant{name: "acme", token: "acme-token", key: proxy.EnvKey("ACME_OPENAI_KEY")},
		tenant{name: "globex", token: "globex-token", key: proxy.EnvKey("GLOBEX_OPENAI_KEY")},
	)
	handler, err := routes(tenants, proxy.WithUpstream(upstream))
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	out.Printf("Listening on http://%s", listener.Addr())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // examples/server stops gracefully
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// routes is the server: pages of its own, and the proxy.
func routes(tenants directory, options ...proxy.Option) (http.Handler, error) {
	ai, err := proxy.NewHandler(append(options,
		proxy.WithKeySource(proxy.KeyFunc(tenantKey)),
		proxy.WithHooks(proxy.Hooks{Admit: tenantsOnly}),
	)...)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "The rest of the site.\n")
	})

	// No method in these patterns. "POST /ai/" would answer a browser's
	// preflight, which is an OPTIONS, with a 405 that no page may read, and the
	// browser would never send the POST.
	//
	// The prefix has no slash at its end: the proxy wants "/v1/...", not
	// "v1/...". And "/ai" itself is a route too, or the mux would redirect it to
	// "/ai/", on which clients turn a POST into a GET.
	mounted := tenants.identify(http.StripPrefix("/ai", ai))
	mux.Handle("/ai/", mounted)
	mux.Handle("/ai", mounted)

	// Chat alone, on a path of our own. It does not look at the path, so there
	// is nothing to strip.
	mux.Handle("/assistant", tenants.identify(ai.Chat()))
	return mux, nil
}

// tenant is a customer of ours: the token that we gave them, and where the key
// is that pays for their calls. A KeySource never prints its key.
type tenant struct {
	name, token string
	key         proxy.KeySource
}

// directory finds tenants by the hash of their token. Comparing hashes tells
// an attacker nothing about how much of a guess was right.
type directory map[[sha256.Size]byte]tenant

func newDirectory(tenants ...tenant) directory {
	d := directory{}
	for _, t := range tenants {
		d[sha256.Sum256([]byte(t.token))] = t
	}
	return d
}

// contextKey is the type of our one context key.
type contextKey struct{}

// identify is the login of this server: it notes who calls, and refuses nobody.
// Whoever has sessions reads the cookie here instead: the proxy refuses pages of
// other origins, so none of them can spend with somebody else's cookie.
func (d directory) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if t, ok := d[sha256.Sum256([]byte(token))]; ok {
			r = r.WithContext(context.WithValue(r.Context(), contextKey{}, t))
		}
		next.ServeHTTP(w, r)
	})
}

// tenantsOnly refuses everybody else. It does so in a hook, not in identify: a
// preflight, which never has a token, is answered before, and the refusal has
// the headers and the form that pages and SDKs can read.
func tenantsOnly(ctx context.Context, _ proxy.Call) error {
	if _, ok := ctx.Value(contextKey{}).(tenant); !ok {
		return &proxy.Error{Status: http.StatusUnauthorized, Message: "A valid token is required."}
	}
	return nil
}

// tenantKey returns the key of the tenant who calls. An empty one is answered
// with "not configured"; an error would mean that the key store is down. The
// tenant's token ends here: the proxy passes no Authorization on.
func tenantKey(r *http.Request) (string, error) {
	if t, ok := r.Context().Value(contextKey{}).(tenant); ok {
		return t.key.Key(r)
	}
	return "", nil
}
