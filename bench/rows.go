package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// row is a goal, and how it is measured.
type row struct {
	id, work string
	measure  func(context.Context, *lab, settings) ([]line, error)
}

const baseline = "ReverseProxy"

func rows() []row {
	small := chat("m", 1000, `"temperature":0.5,`)
	return []row{
		{"P1", "small JSON", beside("P1", "small JSON", "proxy", small, 0.80)},
		{"P2", "POST / with defaults, origins, Done, limiter", beside("P2", "defaults, origins, Done, limiter", "proxy-full",
			call{"/", chat("gpt-4o", 1000, "").body}, 0.90)},
		{"P3", "1 MiB JSON request", largeRequest},
		{"P4", "base64 answers", answers},
		{"P5", "streams back to back", streams},
		{"P6", "slow streams", slowRow},
		{"P7", "time to the first byte", firstByte},
		{"P8", "GraphQL", graphQL},
		{"P9", "preflight", preflight},
		{"P10", "handlers that decode and encode", peers},
		{"P11", "growth", growth},
	}
}

// contest is a target's call beside the baseline's.
type contest struct {
	target      string
	secure      bool // the upstream speaks HTTP/2 over TLS
	call, base  call
	connections int
}

// measure measures both, the one first in even rounds and the other in odd ones.
func (c contest) measure(l *lab, s settings, round int) (ours, theirs measured, err error) {
	one := func(name string, work call, m *measured) error {
		p, err := l.target(name, c.secure)
		if err != nil {
			return err
		}
		if *m, err = load(p, p.url, work, c.connections, s.seconds); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	if round%2 == 1 {
		err = one(baseline, c.base, &theirs)
		return ours, theirs, errors.Join(err, one(c.target, c.call, &ours))
	}
	err = one(c.target, c.call, &ours)
	return ours, theirs, errors.Join(err, one(baseline, c.base, &theirs))
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// beside compares a small call over 1 and 32 connections, with both kinds of
// upstream.
func beside(id, work, target string, c call, goal float64) func(context.Context, *lab, settings) ([]line, error) {
	return func(_ context.Context, l *lab, s settings) ([]line, error) {
		var lines []line
		base := call{chatPath, c.body}
		for _, secure := range []bool{false, true} {
			for _, connections := range []int{1, 32} {
				name := fmt.Sprintf("%s, %d connections, %s", work, connections, protocol(secure))
				cpu := line{id: id, work: name, figure: "CPU per call", goal: goal}
				p50, p99 := line{id: id, work: name, figure: "p50", goal: 1}, line{id: id, work: name, figure: "p99", goal: 1}
				rate := line{id: id, work: name, figure: "calls per second"}
				if secure {
					cpu.goal, p50.goal, p99.goal = 1, 0, 0
				}
				for round := range s.rounds {
					ours, theirs, err := contest{target, secure, c, base, connections}.measure(l, s, round)
					if err != nil {
						return nil, err
					}
					cpu.values = append(cpu.values, ratio(ours.cpu, theirs.cpu))
					cpu.note = fmt.Sprintf("%.0f us to %.0f us", us(ours.cpu), us(theirs.cpu))
					p50.values, p99.values = append(p50.values, ratio(ours.p50, theirs.p50)), append(p99.values, ratio(ours.p99, theirs.p99))
					rate.values = append(rate.values, ours.rate/theirs.rate)
				}
				lines = append(lines, cpu, p50, p99, rate)
			}
		}
		return lines, nil
	}
}

func protocol(secure bool) string {
	if secure {
		return "h2"
	}
	return "h1"
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// cost is the CPU of a call, and how many there are in a second, in relation to the
// baseline's. per says what is counted: a call, or the events of one.
func cost(l *lab, s settings, id, work, target string, secure bool, c call, connections int, goal float64, per string) ([]line, error) {
	cpu, rate := line{id: id, work: work, figure: "CPU", goal: goal}, line{id: id, work: work, figure: per + " per second"}
	for round := range s.rounds {
		ours, theirs, err := contest{target, secure, c, c, connections}.measure(l, s, round)
		if err != nil {
			return nil, err
		}
		cpu.values, rate.values = append(cpu.values, ratio(ours.cpu, theirs.cpu)), append(rate.values, ours.rate/theirs.rate)
		cpu.note = fmt.Sprintf("%.0f us to %.0f us", us(ours.cpu), us(theirs.cpu))
	}
	return []line{cpu, rate}, nil
}

func largeRequest(_ context.Context, l *lab, s settings) ([]line, error) {
	c := chat("m", 1<<20, "")
	var lines []line
	for _, connections := range []int{1, 16} {
		work := fmt.Sprintf("1 MiB JSON, %d connections", connections)
		costs, err := cost(l, s, "P3", work, "proxy", false, c, connections, 1, "calls")
		if err != nil {
			return nil, err
		}
		lines = append(lines, costs...)
	}
	memory, err := peak(l, s, c, 16)
	return append(lines, memory), err
}

// peak is how much memory a fresh process has held at most for each of so many
// calls at a time, beyond what as many small ones made it hold.
func peak(l *lab, s settings, c call, connections int) (line, error) {
	out := line{id: "P3", work: fmt.Sprintf("1 MiB JSON, %d connections", connections), figure: "peak memory per request, over its body", goal: 1.2}
	for range s.rounds {
		p, err := l.fresh("proxy", false)
		if err != nil {
			return out, err
		}
		var most [2]float64 // KiB
		for i, work := range []call{chat("m", 1000, ""), c} {
			if _, err := load(p, p.url, work, connections, s.seconds); err != nil {
				return out, err
			}
			if most[i], err = p.memory("VmHWM"); err != nil {
				return out, err
			}
		}
		out.values = append(out.values, (most[1]-most[0])*1024/float64(connections*len(c.body)))
		out.note = fmt.Sprintf("%.1f to %.1f MiB resident", most[0]/1024, most[1]/1024)
	}
	return out, nil
}

func answers(_ context.Context, l *lab, s settings) ([]line, error) {
	var lines []line
	for _, mib := range []int{2, 5} {
		c := chat(fmt.Sprintf("image-%d", mib<<20), 60, "")
		for _, connections := range []int{1, 16} {
			work := fmt.Sprintf("%d MiB answer, %d connections", mib, connections)
			costs, err := cost(l, s, "P4", work, "proxy", false, c, connections, 0.8, "calls")
			if err != nil {
				return nil, err
			}
			lines = append(lines, costs...)
		}
	}
	return lines, nil
}

func streams(_ context.Context, l *lab, s settings) ([]line, error) {
	var lines []line
	for _, m := range []struct{ events, connections int }{{100, 1}, {100, 16}, {10_000, 1}} {
		for _, target := range []string{"proxy", "proxy-usage"} {
			for _, secure := range []bool{false, true} {
				goal := map[string]float64{"proxy": 1, "proxy-usage": 1.25}[target]
				c := chat(fmt.Sprintf("stream-%d", m.events), 60, `"stream":true,`)
				work := fmt.Sprintf("%d events, %d connections, %s, %s", m.events, m.connections, target, protocol(secure))
				costs, err := cost(l, s, "P5", work, target, secure, c, m.connections, goal, "events")
				if err != nil {
					return nil, err
				}
				lines = append(lines, costs...)
			}
		}
	}
	return lines, nil
}

func firstByte(_ context.Context, l *lab, s settings) ([]line, error) {
	c := chat("stream-1", 60, `"stream":true,`)
	added := line{id: "P7", work: "a stream's first byte, 1 connection", figure: "time added over direct", goal: 1}
	direct := call{"/chat/completions", c.body}
	for round := range s.rounds {
		d, err := load(nil, l.plain, direct, 1, s.seconds)
		if err != nil {
			return nil, err
		}
		ours, theirs, err := contest{"proxy", false, c, c, 1}.measure(l, s, round)
		if err != nil {
			return nil, err
		}
		added.values = append(added.values, ratio(ours.first-d.first, theirs.first-d.first))
		added.note = fmt.Sprintf("%.0f us to %.0f us", us(ours.first-d.first), us(theirs.first-d.first))
	}
	return []line{added}, nil
}

// graphQL compares a field with the same call over REST.
func graphQL(_ context.Context, l *lab, s settings) ([]line, error) {
	rest := chat("m", 1000, "")
	field := call{"/graphql", `{"query":"mutation A($i: ChatInput!) { getAIResponse(input: $i) { id content success } }","variables":{"i":` + rest.body + `}}`}
	var lines []line
	for _, connections := range []int{1, 32} {
		cpu := line{id: "P8", work: fmt.Sprintf("getAIResponse, %d connections", connections), figure: "CPU, over REST's", goal: 1.5}
		p, err := l.target("proxy", false)
		if err != nil {
			return nil, err
		}
		for range s.rounds {
			g, err := load(p, p.url, field, connections, s.seconds)
			if err != nil {
				return nil, err
			}
			r, err := load(p, p.url, rest, connections, s.seconds)
			if err != nil {
				return nil, err
			}
			cpu.values = append(cpu.values, ratio(g.cpu, r.cpu))
			cpu.note = fmt.Sprintf("%.0f us to %.0f us", us(g.cpu), us(r.cpu))
		}
		lines = append(lines, cpu)
	}
	return lines, nil
}

var benchLine = regexp.MustCompile(`BenchmarkPreflight\S*\s+\d+\s+([0-9.]+) ns/op.*?(\d+) allocs/op`)

// preflight runs the benchmark of the package, which leaves the sockets out.
func preflight(ctx context.Context, _ *lab, s settings) ([]line, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkPreflight$", "-benchtime", s.seconds.String(), ".")
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	found := benchLine.FindSubmatch(out)
	if err != nil || found == nil {
		return nil, fmt.Errorf("go test: %w: %s", err, out)
	}
	ns, _ := strconv.ParseFloat(string(found[1]), 64)
	allocs, _ := strconv.ParseFloat(string(found[2]), 64)
	return []line{
		{id: "P9", work: "preflight, in process", figure: "us", values: []float64{ns / 1000}, goal: 3},
		{id: "P9", work: "preflight, in process", figure: "allocations", values: []float64{allocs}, goal: 5},
	}, nil
}

// peers are measured as the proxy is; the ratio is the proxy's CPU to theirs.
func peers(ctx context.Context, l *lab, s settings) ([]line, error) {
	var rivals []rival
	for _, name := range []string{"ReverseProxy+map", "go-openai, re-encoded"} {
		p, err := l.target(name, false)
		if err != nil {
			return nil, err
		}
		rivals = append(rivals, rival{name, p, false})
	}
	var lines, missing []line
	if s.peers {
		for _, r := range allPeers {
			p, stop, err := l.startPeer(ctx, r)
			if err != nil {
				missing = append(missing, line{id: "P10", work: r.name, figure: "our CPU, over theirs", note: err.Error()})
				continue
			}
			defer stop()
			rivals = append(rivals, rival{r.name, p, r.gateway})
		}
	}
	for _, work := range []peerWork{
		{"small JSON, 1 connection", chat("m", 1000, `"temperature":0.5,`), 1, 0, 0.55},
		{"small JSON, 32 connections", chat("m", 1000, `"temperature":0.5,`), 32, 0, 0.35},
		{"1,000 events", chat("stream-1000", 60, `"stream":true,`), 1, 1000, 0.70},
		{"1 MiB request", chat("m", 1<<20, ""), 1, 0, 0.10},
	} {
		for _, r := range rivals {
			cpu := line{id: "P10", work: work.name + ", " + r.name, figure: "our CPU, over theirs"}
			if r.gateway {
				cpu.goal = work.goal
			}
			if err := work.measure(l, s, r.process, &cpu); err != nil {
				// A failing rival does not take the other rows with it.
				cpu.values, cpu.note = nil, "it failed: "+tail([]byte(err.Error()))
			}
			lines = append(lines, cpu)
		}
	}
	return append(lines, missing...), nil
}

// rival is whom P10 compares with.
type rival struct {
	name    string
	process *process
	gateway bool
}

// peerWork is what P10 does with each rival.
type peerWork struct {
	name                string
	c                   call
	connections, events int
	goal                float64 // beside a Go gateway
}

// measure measures us and a rival in each round, first the one, then the other.
func (w peerWork) measure(l *lab, s settings, theirs *process, cpu *line) error {
	ours, err := l.target("proxy", false)
	if err != nil {
		return err
	}
	if err := theirs.check(w.c, w.events); err != nil {
		return err
	}
	for round := range s.rounds {
		both := [2]*process{ours, theirs}
		var used [2]time.Duration
		for i := range both {
			who := (i + round) % 2
			m, err := load(both[who], both[who].url, w.c, w.connections, s.seconds)
			if err != nil {
				return fmt.Errorf("%s: %w", [2]string{"proxy", "rival"}[who], err)
			}
			used[who] = m.cpu
		}
		cpu.values = append(cpu.values, ratio(used[0], used[1]))
		cpu.note = fmt.Sprintf("%.0f us to %.0f us", us(used[0]), us(used[1]))
	}
	a, err := treeUsage(ours.cmd.Process.Pid)
	b, err2 := treeUsage(theirs.cmd.Process.Pid)
	if err == nil && err2 == nil { // on Linux
		cpu.note += fmt.Sprintf("; %d MiB to %d MiB resident", a.Resident>>20, b.Resident>>20)
	}
	return nil
}
