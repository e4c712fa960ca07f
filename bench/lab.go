package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lab is the upstream and the targets, each a process of its own.
type lab struct {
	ctx      context.Context //nolint:containedctx // of all processes
	cancel   context.CancelFunc
	plain    string // the upstream's root over HTTP/1.1
	secure   string // and over HTTP/2 with TLS
	certFile string
	running  map[string]*process
}

// process is one of them.
type process struct {
	cmd         *exec.Cmd
	url, behind string      // where it answers, and where it tells what it has used; a peer does not
	header      http.Header // that its calls need
}

func newLab(ctx context.Context) (*lab, error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &lab{ctx: ctx, cancel: cancel, running: map[string]*process{}}
	_, line, err := l.start(nil, "-role", "upstream")
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Sscan(line, &l.plain, &l.secure, &l.certFile); err != nil {
		return nil, fmt.Errorf("the upstream says %q: %w", line, err)
	}
	return l, nil
}

func (l *lab) close() {
	l.cancel()
	_ = os.Remove(l.certFile)
}

// start runs this program in a role and returns the line that it prints first.
func (l *lab) start(env []string, args ...string) (*exec.Cmd, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	cmd := exec.CommandContext(l.ctx, self, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // open for as long as this process runs
		return nil, "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	return cmd, line, err
}

// target returns a process of a target, over the plain or the secure upstream;
// it is started once.
func (l *lab) target(name string, secure bool) (*process, error) {
	upstream := l.plain
	if secure {
		upstream = l.secure
	}
	id := name + " " + upstream
	if p := l.running[id]; p != nil {
		return p, nil
	}
	cmd, line, err := l.start([]string{"SSL_CERT_FILE=" + l.certFile}, "-role", name, "-upstream", upstream)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: cmd}
	if _, err := fmt.Sscan(line, &p.url, &p.behind); err != nil {
		return nil, err
	}
	l.running[id] = p
	return p, nil
}

// fresh is target, in a process that nothing was measured with.
func (l *lab) fresh(name string, secure bool) (*process, error) {
	for id, p := range l.running {
		if strings.HasPrefix(id, name+" ") {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
			delete(l.running, id)
		}
	}
	return l.target(name, secure)
}

// used asks a process what it has used so far.
func (p *process) used(free bool) (u usage, err error) {
	if p.behind == "" {
		return treeUsage(p.cmd.Process.Pid)
	}
	url := p.behind + "/stats"
	if free {
		url += "?free"
	}
	client := http.Client{Timeout: 10 * time.Second}
	res, err := client.Get(url) //nolint:noctx // loopback, and short
	if err != nil {
		return u, err
	}
	defer res.Body.Close()
	return u, json.NewDecoder(res.Body).Decode(&u)
}

// memory returns a line of /proc/PID/status in KiB: VmRSS or VmHWM.
func (p *process) memory(name string) (float64, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strconv.ParseFloat(strings.Fields(rest)[0], 64)
		}
	}
	return 0, fmt.Errorf("there is no %s", name)
}

// raiseFiles allows as many open files as the system lets us have.
func raiseFiles() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}
