package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// peer is a rival that is a program of its own. In its texts, $host stands for the
// upstream's address, $upstream for its root, $key for its key, $port for where to
// listen, $dir for a folder of this run and $cache for the one of what is installed.
type peer struct {
	name    string
	gateway bool   // for LLMs and in Go, which is whom the goals are about
	absent  string // why there is nothing to start

	program string            // a path, or a name to look up
	install []string          // brings the program, if it is a path
	missing string            // what brings it, if it is a name
	files   map[string]string // to write into $dir
	args    []string
	env     []string
	header  map[string]string // of every call
}

// notServed is why the gateways that the design compares with are not here. Their
// row stays, so that nobody takes the others for the whole field.
const notServed = "not measured: its module could not be had"

var allPeers = []peer{
	{
		name: "nginx", program: "nginx", missing: "apt-get install nginx-light",
		files: map[string]string{"nginx.conf": nginxConf},
		args:  []string{"-p", "$dir", "-c", "$dir/nginx.conf", "-e", "stderr"},
	},
	{
		name: "HAProxy", program: "haproxy", missing: "apt-get install haproxy",
		files: map[string]string{"haproxy.cfg": haproxyConf},
		args:  []string{"-db", "-f", "$dir/haproxy.cfg"},
	},
	{
		name: "Caddy v2.11.9", program: "$cache/caddy-v2.11.9/caddy",
		install: []string{"env", "GOBIN=$cache/caddy-v2.11.9", "go", "install", "github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9"},
		files:   map[string]string{"Caddyfile": caddyfile},
		args:    []string{"run", "--adapter", "caddyfile", "--config", "$dir/Caddyfile"},
		env:     []string{"XDG_CONFIG_HOME=$dir", "XDG_DATA_HOME=$dir"},
	},
	{
		name: "Portkey 1.15.2 (Node)", program: "$cache/portkey-1.15.2/node_modules/@portkey-ai/gateway/build/start-server.js",
		// Streams fail with a newer server below it: its repository has 1.13.
		install: []string{"sh", "-c", `mkdir -p "$cache/portkey-1.15.2" && cd "$cache/portkey-1.15.2" &&
			echo '{"overrides":{"@hono/node-server":"1.13.7"}}' >package.json &&
			npm install --force --ignore-scripts --no-audit --no-fund @portkey-ai/gateway@1.15.2`},
		args: []string{"--headless", "--port=$port"},
		env:  []string{"NODE_ENV=production"},
		header: map[string]string{
			"X-Portkey-Provider": "openai", "X-Portkey-Custom-Host": "$upstream", "Authorization": "Bearer $key",
		},
	},
	{name: "ferro ai-gateway", gateway: true, absent: notServed},
	{name: "gomodel", gateway: true, absent: notServed},
	{name: "Bifrost", gateway: true, absent: notServed},
	{name: "inference-gateway", gateway: true, absent: notServed},
	{name: "one-api", gateway: true, absent: notServed},
}

// The buffer holds a whole request, as our proxy does: without it nginx would write
// the large ones to a file.
const nginxConf = `daemon off;
worker_processes auto;
pid $dir/nginx.pid;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path $dir/body;
  proxy_temp_path $dir/proxy;
  fastcgi_temp_path $dir/fastcgi;
  uwsgi_temp_path $dir/uwsgi;
  scgi_temp_path $dir/scgi;
  client_max_body_size 32m;
  client_body_buffer_size 2m;
  keepalive_requests 1000000;
  upstream model {
    server $host;
    keepalive 1024;
    keepalive_requests 1000000;
  }
  server {
    listen 127.0.0.1:$port;
    location / {
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer $key";
      proxy_buffering off;
    }
  }
}
`

const haproxyConf = `global
  maxconn 8192
defaults
  mode http
  timeout connect 10s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:$port
  http-request set-header Authorization "Bearer $key"
  default_backend model
backend model
  http-reuse always
  server model $host pool-max-conn 1024
`

const caddyfile = `{
	admin off
	auto_https off
	persist_config off
}
http://127.0.0.1:$port {
	reverse_proxy $host {
		header_up Authorization "Bearer $key"
		flush_interval -1
		transport http {
			keepalive_idle_conns_per_host 1024
			compression off
		}
	}
}
`

// startPeer installs a peer if need be, starts it, and waits until it answers what
// the upstream says. Once stop returns nothing of it is left.
func (l *lab) startPeer(ctx context.Context, r peer) (p *process, stop func(), err error) {
	if r.absent != "" {
		return nil, nil, errors.New(r.absent)
	}
	dir, err := os.MkdirTemp("", "bench-peer-")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p = &process{header: http.Header{}}
	ended := make(chan struct{})
	end := func() {
		cancel()
		if p.cmd != nil {
			<-ended
		}
		_ = os.RemoveAll(dir)
	}
	if err := p.startPeer(ctx, r, l.plain, dir, ended); err != nil {
		end()
		return nil, nil, err
	}
	return p, end, nil
}

func (p *process) startPeer(ctx context.Context, r peer, upstream, dir string, ended chan struct{}) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	host := strings.TrimSuffix(strings.TrimPrefix(upstream, "http://"), "/v1")
	fill := strings.NewReplacer("$host", host, "$upstream", upstream, "$key", key, "$port", port,
		"$dir", dir, "$cache", filepath.Join(cache, "openai-proxy-bench")).Replace
	program, err := r.installed(ctx, fill)
	if err != nil {
		return err
	}
	for name, text := range r.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(fill(text)), 0o600); err != nil {
			return err
		}
	}
	log, err := os.Create(filepath.Join(dir, "log")) //nolint:gosec // in a folder of our own
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, program, fillAll(r.args, fill)...) //nolint:gosec // one of the peers above
	cmd.Env = append(os.Environ(), fillAll(r.env, fill)...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, endsWithDriver()
	// What has children ends them when it is asked to end, and not when it is killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.url = cmd, "http://127.0.0.1:"+port
	for name, value := range r.header {
		p.header.Set(name, fill(value))
	}
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	if err := p.awaitAnswer(ended); err != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("it does not get ready: %w: %s", err, tail(said))
	}
	return nil
}

// installed returns the path of the peer's program.
func (r peer) installed(ctx context.Context, fill func(string) string) (string, error) {
	if len(r.install) == 0 {
		for _, dir := range []string{"/usr/sbin", "/sbin"} { // not everybody's PATH has them
			if path, err := exec.LookPath(filepath.Join(dir, r.program)); err == nil {
				return path, nil
			}
		}
		path, err := exec.LookPath(r.program)
		if err != nil {
			return "", fmt.Errorf("not installed: %s", r.missing)
		}
		return path, nil
	}
	path := fill(r.program)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintf(os.Stderr, "installing %s, which may take minutes\n", r.name)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	words := fillAll(r.install, fill)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...) //nolint:gosec // one of the peers above
	cmd.Dir = os.TempDir()                                  // outside of this module
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("it cannot be installed: %w: %s", err, tail(out))
	}
	return path, nil
}

// awaitAnswer waits until the process answers what the upstream says.
func (p *process) awaitAnswer(ended <-chan struct{}) error {
	for end := time.Now().Add(time.Minute); ; {
		err := p.check(chat("m", 100, ""), 0)
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-ended:
			return errors.New("it ended")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// check makes a call and looks whether the answer is the upstream's, so that no
// page of errors is measured: so many events, or a message if there are none.
func (p *process) check(c call, events int) error {
	client := &http.Client{Transport: p.transport(1), Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	res, err := client.Post(p.url+c.path, "application/json", strings.NewReader(c.body)) //nolint:noctx // a benchmark
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return err
	}
	found := bytes.Count(got, []byte("word word"))
	if events > 0 {
		found = bytes.Count(got, []byte(`" word"`))
	}
	if res.StatusCode != http.StatusOK || found < max(events, 1) {
		return fmt.Errorf("status %d, and not the upstream's answer: %.200q", res.StatusCode, got)
	}
	return nil
}

// transport returns what sends calls to the process, with the headers it wants.
func (p *process) transport(connections int) http.RoundTripper {
	t := &http.Transport{MaxIdleConnsPerHost: connections, DisableCompression: true}
	if p == nil || len(p.header) == 0 {
		return t
	}
	return withHeader{t, p.header}
}

type withHeader struct {
	*http.Transport
	header http.Header
}

func (t withHeader) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, values := range t.header {
		r.Header[name] = values
	}
	return t.Transport.RoundTrip(r)
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

func fillAll(texts []string, fill func(string) string) []string {
	var out []string
	for _, text := range texts {
		out = append(out, fill(text))
	}
	return out
}

// tail is the end of what a program said, for a cell of the table.
func tail(said []byte) string {
	text := strings.Join(strings.Fields(strings.ReplaceAll(string(said), "|", "/")), " ")
	return strings.ToValidUTF8(text[max(0, len(text)-200):], "")
}
