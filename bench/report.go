package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// line is a figure of the table: a ratio to the baseline, mostly.
type line struct {
	id, work, figure string
	values           []float64 // one a round
	goal             float64   // at most; 0: none, unless exact
	exact            bool
	note             string
}

type report struct{ lines []line }

func (r *report) add(lines ...line) { r.lines = append(r.lines, lines...) }

func median(values []float64) float64 {
	values = slices.Clone(values)
	slices.Sort(values)
	return values[len(values)/2]
}

// write prints the table, and puts it into a file if that is wanted.
func (r *report) write(s settings) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Results\n\n%s, %d cores, %s %s/%s, `go run . %s`, medians of %d rounds, %v each.\n\n",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH,
		strings.Join(os.Args[1:], " "), s.rounds, s.seconds)
	b.WriteString("Ratios are to the baseline, httputil.ReverseProxy well tuned, in the same round.\n\n")
	b.WriteString("| row | work | figure | median | goal | | range | note |\n|---|---|---|---|---|---|---|---|\n")
	for _, l := range r.lines {
		if len(l.values) == 0 { // what could not be measured is not left out
			fmt.Fprintf(&b, "| %s | %s | %s | - | | | | %s |\n", l.id, l.work, l.figure, l.note)
			continue
		}
		verdict, goal, m := "", "", median(l.values)
		if l.goal > 0 || l.exact {
			goal, verdict = fmt.Sprintf("%.2f", l.goal), "met"
			if m > l.goal {
				verdict = "**missed**"
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %.2f | %s | %s | %.2f-%.2f | %s |\n", l.id, l.work, l.figure, m, goal, verdict,
			slices.Min(l.values), slices.Max(l.values), l.note)
	}
	fmt.Print(b.String())
	if s.output == "" {
		return nil
	}
	return os.WriteFile(s.output, b.Bytes(), 0o644) //nolint:gosec // a report for everybody
}
