// Command worker serves the proxy as the small worker did that this library
// replaces, so that its pages work unchanged: every page of the web may call, a
// key in the x-openai-key header beats the server's own, requests without a
// model get gpt-3.5-turbo or dall-e-3 with the worker's parameters, and every
// REST error is {"error":"<title>","message":"<detail>"}.
//
//	OPENAI_API_KEY=sk-... go run ./examples/worker -chat-model gpt-6-luna -image-model gpt-image-2
//	curl http://127.0.0.1:8787/ -d '{"messages":[{"role":"user","content":"hello"}]}'
//
// Two things in it are wrong for any server that others can reach, and are here
// only because the worker was so:
//
//   - The origin "*" lets any page of the web spend your money, with any number
//     of requests: here are no users and no limits.
//   - OpenAI has retired both default models. A request that names no model, or
//     one of these, fails upstream; -chat-model and -image-model set living ones
//     for the former.
//
// docs/moving-from-the-worker.md says what else differs, and how to close it.
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
	"time"

	"github.com/openai-proxy-go/proxy"
)

// The worker's own defaults. The library has later ones.
const (
	chatModel  = "gpt-3.5-turbo"
	imageModel = "dall-e-3"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with what it reads and writes handed in, for the test.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8787", "address to listen on") // where wrangler dev had it
	upstream := flags.String("upstream", proxy.DefaultUpstream, "root of the API")
	chat := flags.String("chat-model", chatModel, "model of chat requests that name none")
	image := flags.String("image-model", imageModel, "model of image requests that name none")
	if flags.Parse(args) != nil {
		return 2
	}
	err := serve(ctx, *listen, log.New(stdout, "", 0),
		proxy.WithUpstream(*upstream), proxy.WithDefaultModels(*chat, *image))
	if err != nil {
		log.New(stderr, "worker: ", 0).Print(err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, listen string, out *log.Logger, options ...proxy.Option) error {
	handler, err := newHandler(options...)
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

// newHandler is the worker in options. The parameters that it sent with every
// request (temperature 0.7, max_tokens 1000; n 1, 1024x1024, standard, vivid,
// url) need none: the library has them for the models that took them, and leaves
// them out for those that refuse them.
func newHandler(options ...proxy.Option) (*proxy.Handler, error) {
	return proxy.NewHandler(append([]proxy.Option{
		proxy.WithAllowedOrigins("*"), // every page of the web, at your expense
		proxy.WithKeySource(proxy.FirstKey(
			proxy.HeaderKey("x-openai-key"), // whoever brings a key pays
			proxy.EnvKey("OPENAI_API_KEY"),
		)),
		proxy.WithDefaultModels(chatModel, imageModel),
		proxy.WithErrorShape(proxy.ErrorShapeWorker),
	}, options...)...)
}
