package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/openai-proxy-go/proxy"
)

const usage = `Usage: server [flags]

Serves the OpenAI API for chat and images to web pages and keeps the key.

  flag          variable         meaning
  -listen       LISTEN           address to listen on (default 127.0.0.1:8787)
  -upstream     OPENAI_BASE_URL  root of the API, version path included
                                 (default ` + proxy.DefaultUpstream + `)
  -origins      ALLOWED_ORIGINS  pages that may call, comma separated, such as
                                 https://app.example.com,https://*.example.org;
                                 * is every page of the web (default none but
                                 pages of this server's own origin)
  -hosts        ALLOWED_HOSTS    names this server answers to, comma separated
                                 (default localhost,127.0.0.1,[::1] when it
                                 listens on loopback, any name otherwise)
  -chat-model   CHAT_MODEL       model of chat requests that name none
                                 (default ` + proxy.DefaultChatModel + `)
  -image-model  IMAGE_MODEL      model of image requests that name none
                                 (default ` + proxy.DefaultImageModel + `)
  -dev          PROXY_DEV        take a key from the x-openai-key header first
  -demo         PROXY_DEMO       serve a page to try, over a fake upstream that
                                 needs no key and no network; -upstream, -dev
                                 and keys are not used

The key is in OPENAI_API_KEY, or in the file that OPENAI_API_KEY_FILE names,
which is read for every request. A flag beats its variable; switches take true
or false; an empty value is the default. Behind a reverse proxy that passes the
Host header on, -hosts must list the public name. GET /healthz answers 200.`

// config is what flags and environment say.
type config struct {
	listen, upstream      string
	chatModel, imageModel string
	origins, hosts        []string
	dev, demo             bool
	envKey                bool // whether the environment has a key; the key itself is not kept
	keyFile               string
	grace                 time.Duration // how long requests may take to finish at the end
}

// parseConfig reads flags and environment and reports every problem that it
// finds in them, joined.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	var problems []error
	envBool := func(name string) bool {
		value := getenv(name)
		on, err := strconv.ParseBool(value)
		if value != "" && err != nil {
			problems = append(problems, fmt.Errorf("%s: %q is neither true nor false", name, value))
		}
		return on
	}
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints problems and usage
	listen := flags.String("listen", getenv("LISTEN"), "")
	upstream := flags.String("upstream", getenv("OPENAI_BASE_URL"), "")
	origins := flags.String("origins", getenv("ALLOWED_ORIGINS"), "")
	hosts := flags.String("hosts", getenv("ALLOWED_HOSTS"), "")
	chatModel := flags.String("chat-model", getenv("CHAT_MODEL"), "")
	imageModel := flags.String("image-model", getenv("IMAGE_MODEL"), "")
	dev := flags.Bool("dev", envBool("PROXY_DEV"), "")
	demo := flags.Bool("demo", envBool("PROXY_DEMO"), "")
	if err := flags.Parse(args); err != nil {
		return config{}, errors.Join(append(problems, err)...)
	}
	if flags.NArg() > 0 {
		problems = append(problems, fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	return config{
		listen:     or(*listen, "127.0.0.1:8787"),
		upstream:   or(*upstream, proxy.DefaultUpstream),
		chatModel:  *chatModel,
		imageModel: *imageModel,
		origins:    list(*origins),
		hosts:      list(*hosts),
		dev:        *dev,
		demo:       *demo,
		envKey:     strings.TrimSpace(getenv("OPENAI_API_KEY")) != "",
		keyFile:    getenv("OPENAI_API_KEY_FILE"),
		grace:      8 * time.Second, // docker stop kills after 10
	}, errors.Join(problems...)
}

// check reports every value that cannot work, joined, before anything starts.
func (c config) check() error {
	var problems []error
	if _, err := net.ResolveTCPAddr("tcp", c.listen); err != nil {
		problems = append(problems, fmt.Errorf("-listen: %w", err))
	}
	if !c.demo && c.envKey && c.keyFile != "" {
		problems = append(problems, errors.New("OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set: which one is meant?"))
	}
	if !c.demo && c.keyFile != "" {
		if _, err := readKey(c.keyFile); err != nil {
			problems = append(problems, fmt.Errorf("OPENAI_API_KEY_FILE: %w", err))
		}
	}
	if c.demo {
		c.upstream = proxy.DefaultUpstream // the one that is configured is not used
	}
	_, err := proxy.NewHandler(c.options(slog.New(slog.DiscardHandler))...)
	return errors.Join(append(problems, err)...)
}

// options translates the configuration for the proxy.
func (c config) options(logger *slog.Logger) []proxy.Option {
	options := []proxy.Option{
		proxy.WithLogger(logger),
		proxy.WithUpstream(c.upstream),
		proxy.WithAllowedOrigins(c.origins...),
		proxy.WithAllowedHosts(c.allowedHosts()...),
		proxy.WithDefaultModels(c.chatModel, c.imageModel),
		proxy.WithKeySource(c.keySource()),
		proxy.WithStreamUsage(true), // for the log
	}
	if c.demo {
		options = append(options, proxy.WithAuthHeader("")) // no key, whatever the environment has
	}
	return options
}

// allowedHosts names the hosts to answer to. A server on loopback is in reach
// of every page the user opens, if that page's DNS says so (rebinding); only
// the Host header shows it.
func (c config) allowedHosts() []string {
	addr, err := net.ResolveTCPAddr("tcp", c.listen)
	if len(c.hosts) > 0 || err != nil || !addr.IP.IsLoopback() {
		return c.hosts
	}
	return []string{"localhost", "127.0.0.1", "[::1]"}
}

// keySource says where keys come from.
func (c config) keySource() proxy.KeySource {
	source := proxy.EnvKey("OPENAI_API_KEY")
	if c.keyFile != "" {
		source = proxy.KeyFunc(func(*http.Request) (string, error) { return readKey(c.keyFile) })
	}
	if c.dev {
		source = proxy.FirstKey(proxy.HeaderKey("x-openai-key"), source)
	}
	return source
}

// readKey reads the key for every request: a file is cheap beside a call to a
// model, and a rotated secret is seen at once. Callers never see the error.
func readKey(file string) (string, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(text))
	if key == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return key, nil
}

// or returns value, or standard if it is empty.
func or(value, standard string) string {
	if value == "" {
		return standard
	}
	return value
}

// list splits a comma separated list; white space and empty entries do not
// count.
func list(text string) []string {
	var entries []string
	for entry := range strings.SplitSeq(text, ",") {
		if entry = strings.TrimSpace(entry); entry != "" {
			entries = append(entries, entry)
		}
	}
	return entries
}
