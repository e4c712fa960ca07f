//go:build fronts

package hosts

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deploying is the document whose configurations are measured.
const deploying = "../docs/deploying.md"

// fence returns the code of the document in a language.
func fence(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile(deploying)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllSubmatch(text, -1)
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks of %s, want one", deploying, len(found), language)
	}
	return string(found[0][1])
}

// place says where a front listens, what stands behind it, and how long it
// waits for that; "" leaves the time as it is.
type place struct {
	dir, listen, backend, timeout string
	http2                         bool
}

// edit replaces patterns, each of which must be there.
func edit(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i+1 < len(pairs); i += 2 {
		pattern := regexp.MustCompile(pairs[i])
		if !pattern.MatchString(text) {
			t.Fatalf("no %q in:\n%s", pairs[i], text)
		}
		text = pattern.ReplaceAllLiteralString(text, pairs[i+1])
	}
	return text
}

// command writes a front's configuration for a place and returns what runs it.
type command func(*testing.T, place) []string

const backendPattern = `127\.0\.0\.1:8080`

// nginx returns the command that runs nginx with a location; more is put before it.
func nginx(location func(*testing.T) string, more string) command {
	return func(t *testing.T, p place) []string {
		t.Helper()
		text := edit(t, location(t), backendPattern, p.backend)
		if p.timeout != "" {
			text = edit(t, text, `proxy_read_timeout .*`, "proxy_read_timeout "+p.timeout+";")
		}
		listen := p.listen
		if p.http2 {
			listen += " http2"
		}
		config := fmt.Sprintf(`daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path %[1]s/body;
    proxy_temp_path %[1]s/proxy;
    %[2]s
    server {
        listen %[3]s;
        %[4]s
    }
}
`, p.dir, more, listen, text)
		return []string{"nginx", "-e", "stderr", "-c", write(t, p.dir, "nginx.conf", config)}
	}
}

// haproxy returns the command that runs HAProxy with a configuration.
func haproxy(config func(*testing.T) string, more string) command {
	return func(t *testing.T, p place) []string {
		t.Helper()
		listen := p.listen
		if p.http2 {
			listen += " proto h2"
		}
		text := edit(t, config(t), backendPattern, p.backend, `bind .*`, "bind "+listen)
		if p.timeout != "" {
			text = edit(t, text, `timeout server .*`, "timeout server "+p.timeout)
		}
		return []string{"haproxy", "-db", "-f", write(t, p.dir, "haproxy.cfg", text+more)}
	}
}

// caddy returns the command that runs Caddy with a site; more is put into it.
func caddy(config func(*testing.T) string, more string) command {
	return func(t *testing.T, p place) []string {
		t.Helper()
		protocols := "h1"
		if p.http2 {
			protocols = "h1 h2c"
		}
		proxied := "reverse_proxy " + p.backend
		if p.timeout != "" {
			proxied += " {\n transport http {\n read_timeout " + p.timeout + "\n response_header_timeout " + p.timeout + "\n }\n }"
		}
		site := edit(t, config(t), `example\.com \{`, "http://"+p.listen+" {\n"+more, `reverse_proxy `+backendPattern, proxied)
		options := "{\n admin off\n servers {\n protocols " + protocols + "\n }\n}\n"
		return []string{"caddy", "run", "--adapter", "caddyfile", "--config", write(t, p.dir, "Caddyfile", options+site)}
	}
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run starts a front and ends it with the test. It returns its address.
func run(t *testing.T, c command, p place) string {
	t.Helper()
	p.dir, p.listen = t.TempDir(), freeAddress(t)
	args := c(t, p)
	program, err := exec.LookPath(args[0])
	if err != nil {
		t.Fatalf("%v: fronts.sh installs what is missing", err)
	}
	cmd := exec.Command(program, args[1:]...)
	cmd.Dir, cmd.Env = p.dir, append(os.Environ(), "HOME="+p.dir, "XDG_DATA_HOME="+p.dir, "XDG_CONFIG_HOME="+p.dir)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL) // open streams would hold a gentler end up
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", strings.Join(args, " "), said.String())
		}
	})
	if !listens(p.listen, ended) {
		t.Fatalf("%s does not listen on %s", args[0], p.listen)
	}
	return p.listen
}

// listens waits until somebody listens on address, or ended is closed.
func listens(address string, ended <-chan struct{}) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		var d net.Dialer
		if conn, err := d.DialContext(ctx, "tcp", address); err == nil {
			_ = conn.Close()
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
