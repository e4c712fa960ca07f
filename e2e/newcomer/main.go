// Newcomer walks README.md's path as it is written: clone, first answer, mounted
// in an own server, first own test. Every console line is executed and every shown
// answer compared with the real one. Needs Go, git and curl, and free ports 8787 and
// 8080 on the loopback interface.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	tested := flag.Bool("tested", false, "leave the README's test command out: it was run already")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := walk(ctx, ".", *tested); err != nil {
		fmt.Fprintln(os.Stderr, "newcomer:", err)
		os.Exit(1)
	}
}

const module = "github.com/openai-proxy-go/proxy"

// walk goes the path of the README in root.
func walk(ctx context.Context, root string, tested bool) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(root, "README.md")) //nolint:gosec // of the project itself
	if err != nil {
		return err
	}
	w := &walker{ctx: ctx, root: root, tested: tested, blocks: blocks(string(text))}
	if w.dir, err = os.MkdirTemp("", "newcomer"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(w.dir) }()
	return errors.Join(w.console(), w.mount(), w.test())
}

type walker struct {
	ctx    context.Context //nolint:containedctx // of the whole walk
	root   string          // of the repository
	tested bool            // its tests were run already
	dir    string          // temporary
	blocks []block
}

// console runs the console blocks, the first of which clone the repository. The
// server that one of them starts goes on beside the rest.
func (w *walker) console() error {
	dir, clone := w.dir, filepath.Join(w.dir, "proxy")
	for _, b := range w.blocks {
		if b.language != "console" {
			continue
		}
		for _, c := range commands(b.text) {
			fmt.Println("$", c.line)
			switch {
			case strings.HasPrefix(c.line, "git clone "):
				c.line = "git clone -q '" + w.root + "' proxy"
			case c.line == "cd proxy":
				dir = clone
				continue
			case strings.HasPrefix(c.line, "OPENAI_API_KEY="): // needs an account
				continue
			case w.tested && strings.HasPrefix(c.line, "go test"):
				continue
			case strings.HasSuffix(c.line, " -demo"):
				stop, err := w.start(dir, "http://127.0.0.1:8787/healthz", "sh", "-c", "exec "+c.line)
				if err != nil {
					return err
				}
				defer stop()
				continue
			}
			out, err := w.run(dir, "sh", "-c", c.line)
			if err != nil {
				return err
			}
			if err := matches(out, c.shown); err != nil {
				return fmt.Errorf("%s: %w\ngot:\n%s", c.line, err, out)
			}
		}
	}
	return nil
}

// mount builds and runs the README's server as a module of the newcomer's own.
func (w *walker) mount() error {
	if err := w.program("server", "main.go", "http.ListenAndServe"); err != nil {
		return err
	}
	dir := filepath.Join(w.dir, "server")
	if _, err := w.run(dir, "go", "build", "-o", "server", "."); err != nil {
		return err
	}
	fmt.Println("- the server of the README")
	const url = "http://127.0.0.1:8080/ai/v1/chat/completions"
	stop, err := w.start(dir, url, "./server")
	if err != nil {
		return err
	}
	defer stop()
	for _, check := range []struct{ args, want string }{
		{"-X OPTIONS -H 'Access-Control-Request-Method: POST' -H 'Origin: https://app.example.com'", "Access-Control-Allow-Origin: https://app.example.com"},
		{"-H 'Origin: https://app.example.com' -d '{}'", "messages field is required"},
		{"-H 'Origin: https://elsewhere.example' -d '{}'", "origin_not_allowed"},
	} {
		out, err := w.run(dir, "sh", "-c", "curl -sSi "+url+" "+check.args)
		if err == nil && !strings.Contains(out, check.want) {
			err = fmt.Errorf("curl %s: there is no %q in:\n%s", check.args, check.want, out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// test runs the README's test.
func (w *walker) test() error {
	if err := w.program("test", "app_test.go", "testing.T"); err != nil {
		return err
	}
	fmt.Println("- the test of the README")
	out, err := w.run(filepath.Join(w.dir, "test"), "go", "test", "-count=1", "-v", ".")
	if err == nil && !strings.Contains(out, "--- PASS: TestChat") {
		err = errors.New("TestChat did not run:\n" + out)
	}
	return err
}

// program makes a module of the README's first program that holds a mark. The
// released module is replaced by the clone.
func (w *walker) program(name, file, mark string) error {
	for _, b := range w.blocks {
		if b.language != "go" || !strings.HasPrefix(b.text, "package ") || !strings.Contains(b.text, mark) {
			continue
		}
		dir := filepath.Join(w.dir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(b.text), 0o600); err != nil {
			return err
		}
		for _, args := range [][]string{
			{"mod", "init", "app.example/app"},
			{"mod", "edit", "-replace", module + "=" + filepath.Join(w.dir, "proxy")},
			{"mod", "tidy"},
		} {
			if _, err := w.run(dir, "go", args...); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("README.md has no program with %s", mark)
}

// run runs a command and returns what it printed.
func (w *walker) run(dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(w.ctx, name, args...) //nolint:gosec // what the README says
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out), err
}

// start starts a server and waits until url answers. stop ends it with all that
// it has started.
func (w *walker) start(dir, url, name string, args ...string) (stop func(), err error) {
	cmd := exec.CommandContext(w.ctx, name, args...) //nolint:gosec // what the README says
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "OPENAI_API_KEY=sk-newcomer")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
	}
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, url, nil)
		if err != nil {
			break
		}
		if res, err := http.DefaultClient.Do(req); err == nil { //nolint:forbidigo // no library here
			_, _ = io.Copy(io.Discard, res.Body)
			return stop, res.Body.Close()
		}
	}
	stop()
	return nil, fmt.Errorf("%s does not answer at %s:\n%s", name, url, &out)
}

// block is a fenced block of a Markdown text.
type block struct{ language, text string }

func blocks(markdown string) (list []block) {
	var open *block
	for line := range strings.Lines(markdown) {
		fence, ok := strings.CutPrefix(line, "```")
		switch {
		case ok && open == nil:
			open = &block{language: strings.TrimSpace(fence)}
		case ok:
			list, open = append(list, *open), nil
		case open != nil:
			open.text += line
		}
	}
	return list
}

// command is a line behind a prompt, and what the README shows below it.
type command struct {
	line  string
	shown []string
}

// commands reads a console block. Indented lines continue a command.
func commands(text string) (list []command) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch begin, ok := strings.CutPrefix(line, "$ "); {
		case ok:
			list = append(list, command{line: begin})
		case len(list) > 0 && strings.HasPrefix(line, "    "):
			list[len(list)-1].line += "\n" + line
		case len(list) > 0 && line != "":
			c := &list[len(list)-1]
			c.shown = append(c.shown, line)
		}
	}
	return list
}

// matches reports whether every line shown stands in the output, in its order.
func matches(out string, shown []string) error {
	lines := strings.Split(out, "\n")
	for _, want := range shown {
		for len(lines) > 0 && !lineMatches(lines[0], want) {
			lines = lines[1:]
		}
		if len(lines) == 0 {
			return fmt.Errorf("there is nothing like %s", want)
		}
		lines = lines[1:]
	}
	return nil
}

// lineMatches compares JSON by what is shown of it, and other text as it is.
func lineMatches(got, want string) bool {
	got, want = strings.TrimPrefix(got, "data: "), strings.TrimPrefix(want, "data: ")
	var g, w any
	if json.Unmarshal([]byte(want), &w) != nil || json.Unmarshal([]byte(got), &g) != nil {
		return got == want
	}
	return holds(g, w)
}

// holds reports whether got has everything that want shows: members and elements
// of the same kind, and texts that are equal up to "...".
func holds(got, want any) bool {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		for key, value := range w {
			if !ok || !holds(g[key], value) {
				return false
			}
		}
		return ok
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) < len(w) {
			return false
		}
		for i := range w {
			if !holds(g[i], w[i]) {
				return false
			}
		}
		return true
	case string:
		g, ok := got.(string)
		begin, cut := strings.CutSuffix(w, "...")
		return ok && (g == w || cut && strings.HasPrefix(g, begin))
	case float64:
		_, ok := got.(float64)
		return ok
	}
	return got == want
}
