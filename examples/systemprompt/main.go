// Command systemprompt serves a chat whose system message and model are set by
// the server, whatever the page asks for:
//
//	OPENAI_API_KEY=sk-... go run ./examples/systemprompt
//	curl http://127.0.0.1:8789/v1/chat/completions \
//	    -d '{"messages":[{"role":"user","content":"Who are you?"}]}'
package main

import (
	"bytes"
	"context"
	"encoding/json"
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

const (
	model        = proxy.DefaultChatModel
	systemPrompt = "You are the assistant of a garden shop. Answer questions about plants, in one paragraph."
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with what it reads and writes handed in, for the test.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("systemprompt", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8789", "address to listen on")
	upstream := flags.String("upstream", proxy.DefaultUpstream, "root of the API")
	if flags.Parse(args) != nil {
		return 2
	}
	err := serve(ctx, *listen, *upstream, log.New(stdout, "", 0))
	if err != nil {
		log.New(stderr, "systemprompt: ", 0).Print(err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, listen, upstream string, out *log.Logger) error {
	handler, err := newHandler(proxy.WithUpstream(upstream))
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

// newHandler serves chat alone. A page that could reach the image routes would
// choose its own model there; and "POST /" fills in parameters for the model
// that the client names, which the forced one may refuse (WithDefaults can
// switch that off).
func newHandler(options ...proxy.Option) (http.Handler, error) {
	h, err := proxy.NewHandler(append(options, proxy.WithHooks(proxy.Hooks{Rewrite: rewrite}))...)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/chat/completions", h.Chat())
	return mux, nil
}

// rewrite puts the system message in front and sets the model; every other byte
// of the body goes on as the client wrote it. Decoding into a struct or a map
// and encoding it again would lose fields that the struct does not have, digits
// of large numbers, and the order of the members.
//
// A system message of the client stays where it is, behind ours: models follow
// the first, but whoever must rely on it takes the others out here.
func rewrite(_ context.Context, call proxy.Call, body []byte) ([]byte, error) {
	if call.Route != proxy.RouteChat {
		return body, nil
	}
	members, err := membersOf(body)
	if err != nil {
		return nil, err
	}
	// The proxy has checked that messages is an array and added a model where
	// the client named none. A hook should not panic if that ever changes.
	messages, ok := members["messages"]
	name, okModel := members["model"]
	if !ok || !okModel || body[messages.start] != '[' {
		return nil, errors.New("the body lacks messages or model")
	}
	first, err := json.Marshal(struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}{"system", systemPrompt})
	if err != nil {
		return nil, err
	}
	if rest := bytes.TrimSpace(body[messages.start+1 : messages.end]); rest[0] != ']' {
		first = append(first, ',')
	}
	quoted, err := json.Marshal(model)
	if err != nil {
		return nil, err
	}
	// The later place is changed first, so that the other stays where it is.
	insert := change{messages.start + 1, messages.start + 1, first}
	force := change{name.start, name.end, quoted}
	if name.start > messages.start {
		return insert.apply(force.apply(body)), nil
	}
	return force.apply(insert.apply(body)), nil
}

// span is where a value lies in a body: body[start:end].
type span struct{ start, end int }

// membersOf finds the values of the top-level members of a JSON object. Names
// are compared as JSON does, letter by letter; encoding/json would take "Model"
// for "model" if it decoded into a struct, and the upstream would not.
func membersOf(body []byte) (map[string]span, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("the body is no object")
	}
	members := map[string]span{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage // skips the value, whatever is in it
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		end := int(dec.InputOffset())
		name, _ := token.(string) // unescaped; a key is always a string
		members[name] = span{end - len(value), end}
	}
	return members, nil
}

// change replaces body[start:end].
type change struct {
	start, end int
	text       []byte
}

// apply returns a changed copy: the body of a hook must not be modified.
func (c change) apply(body []byte) []byte {
	changed := make([]byte, 0, len(body)+len(c.text))
	changed = append(changed, body[:c.start]...)
	changed = append(changed, c.text...)
	return append(changed, body[c.end:]...)
}
