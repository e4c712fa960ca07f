// Bench measures the proxy beside httputil.ReverseProxy and others, as processes
// that talk over loopback, and prints what each call costs in relation to the
// baseline of the same round. See README.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// settings are what the flags say.
type settings struct {
	rounds  int
	only    string
	quick   bool
	load    bool
	peers   bool
	soak    time.Duration
	output  string
	seconds time.Duration // of one measurement
}

func main() {
	var s settings
	role := flag.String("role", "", "of a process that the driver starts: upstream, or the name of a target")
	upstream := flag.String("upstream", "", "the upstream's root, for a target")
	flag.IntVar(&s.rounds, "rounds", 3, "how often everything is measured")
	flag.StringVar(&s.only, "only", "", "the rows to measure, such as P1,P5")
	flag.BoolVar(&s.quick, "quick", false, "only see whether everything runs; the figures mean nothing")
	flag.BoolVar(&s.load, "load", false, "measure what it holds, rows L1 to L7, and not what it costs")
	flag.BoolVar(&s.peers, "peers", false, "in P10, install and measure gateways and reverse proxies of others too")
	flag.DurationVar(&s.soak, "soak", 5*time.Minute, "how long L5 takes")
	flag.StringVar(&s.output, "o", "", "a file to write the results to, as Markdown")
	flag.DurationVar(&s.seconds, "t", 2*time.Second, "how long one measurement takes")
	flag.Parse()
	if s.quick {
		s.rounds, s.seconds = 1, 100*time.Millisecond
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *role, *upstream, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, role, upstream string, s settings) error {
	raiseFiles()
	switch role {
	case "":
		return drive(ctx, s)
	case "upstream":
		go endWithDriver()
		return serveUpstream()
	}
	go endWithDriver()
	return serveTarget(role, upstream)
}

// endWithDriver ends this process when its standard input does, which is a pipe
// from the driver: however the driver ends, nothing is left running.
func endWithDriver() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// drive starts the processes, measures every row, and reports.
func drive(ctx context.Context, s settings) error {
	l, err := newLab(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	var rep report
	all := rows()
	if s.load {
		all = loadRows()
	}
	for _, r := range all {
		if s.only != "" && !strings.Contains(","+s.only+",", ","+r.id+",") {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s %s\n", r.id, r.work)
		lines, err := r.measure(ctx, l, s)
		if err != nil {
			return fmt.Errorf("%s: %w", r.id, err)
		}
		rep.add(lines...)
		if s.load {
			rep.add(l.leaks(r.id)...)
		}
	}
	return rep.write(s)
}
