package main

import (
	"context"
	"fmt"
	"time"
)

// slowRow compares the memory of streams that are mostly silent, and how late
// their events are.
func slowRow(ctx context.Context, l *lab, s settings) ([]line, error) {
	counts := []int{2000, 5000}
	if s.quick {
		counts = []int{50}
	}
	var lines []line
	for _, secure := range []bool{false, true} {
		for _, n := range counts {
			work := fmt.Sprintf("%d slow streams, %s", n, protocol(secure))
			memory := line{id: "P6", work: work, figure: "KiB per stream", goal: map[bool]float64{false: 0.95, true: 0.80}[secure]}
			late := line{id: "P6", work: work, figure: "lateness of events, p99", goal: 1}
			ours, err := l.held(ctx, "proxy", secure, n)
			if err != nil {
				return nil, err
			}
			theirs, err := l.held(ctx, baseline, false, n)
			if err != nil {
				return nil, err
			}
			memory.values = []float64{ours.each / theirs.each}
			memory.note = fmt.Sprintf("%.1f to %.1f KiB over HTTP/1.1", ours.each, theirs.each)
			late.values = []float64{ratio(ours.late, theirs.late)}
			late.note = fmt.Sprintf("%v to %v", ours.late.Round(100*time.Microsecond), theirs.late.Round(100*time.Microsecond))
			lines = append(lines, memory, late)
		}
	}
	return lines, nil
}

// holding is what a process takes to hold streams.
type holding struct {
	each float64       // KiB per stream
	late time.Duration // p99
	rest float64       // MiB of heap and stacks in use before
	back float64       // and afterwards
}

// held opens slow streams at a fresh process.
func (l *lab) held(ctx context.Context, target string, secure bool, n int) (h holding, err error) {
	p, err := l.fresh(target, secure)
	if err != nil {
		return h, err
	}
	if _, err := load(p, p.url, chat("m", 100, ""), 4, 100*time.Millisecond); err != nil {
		return h, err
	}
	before, err := p.used(true)
	if err != nil {
		return h, err
	}
	rest, err := p.memory("VmRSS")
	if err != nil {
		return h, err
	}
	late, err := slowStreams(ctx, p.url, n, func() error {
		now, err := p.memory("VmRSS")
		h.each = (now - rest) / float64(n)
		return err
	})
	if err != nil {
		return h, err
	}
	h.late, h.rest = late[len(late)*99/100], float64(before.InUse)/(1<<20)
	for range 10 { // seconds to come back to rest in
		time.Sleep(time.Second)
		after, err := p.used(true)
		if err != nil {
			return h, err
		}
		if h.back = float64(after.InUse) / (1 << 20); after.InUse < before.InUse*5/4 {
			break
		}
	}
	return h, nil
}

// growth shows that cost grows as the work does, and no faster: each figure is
// the largest cost per unit over the smallest, fixed costs taken off.
func growth(ctx context.Context, l *lab, s settings) ([]line, error) {
	p, err := l.fresh("proxy", false)
	if err != nil {
		return nil, err
	}
	perUnit := func(figure string, sizes []int, of func(int) call) (line, error) {
		out := line{id: "P11", work: "from " + fmt.Sprint(sizes[0]) + " to " + fmt.Sprint(sizes[len(sizes)-1]), figure: figure, goal: 1.5}
		var costs []float64
		fixed, err := load(p, p.url, of(0), 1, s.seconds)
		if err != nil {
			return out, err
		}
		for _, size := range sizes {
			m, err := load(p, p.url, of(size), 1, s.seconds)
			if err != nil {
				return out, err
			}
			each := float64(m.cpu-fixed.cpu) / float64(size)
			costs = append(costs, each)
			out.note += fmt.Sprintf("%d: %.2f ns; ", size, each)
		}
		// The smallest size is little but fixed cost: what counts is that the
		// largest is no dearer than the middle.
		out.values = []float64{costs[len(costs)-1] / costs[len(costs)/2]}
		return out, nil
	}
	eventCounts, bodySizes, streamCounts := []int{10, 100, 1000, 10_000, 100_000}, []int{1 << 10, 32 << 10, 1 << 20, 31 << 20}, []int{100, 1000, 5000}
	if s.quick {
		eventCounts, bodySizes, streamCounts = []int{10, 100}, []int{1 << 10, 32 << 10}, []int{20, 50}
	}
	events, err := perUnit("CPU per event, last over middle", eventCounts, func(n int) call {
		return chat(fmt.Sprintf("stream-%d", n), 60, `"stream":true,`)
	})
	if err != nil {
		return nil, err
	}
	bytes, err := perUnit("CPU per byte, last over middle", bodySizes, func(n int) call { return chat("m", n, "") })
	if err != nil {
		return nil, err
	}
	lines := []line{events, bytes}
	memory := line{id: "P11", work: "slow streams", figure: "KiB per stream, last over first", goal: 1.2}
	// The runtime keeps what it knows of each goroutine that ever was, some 10 MB
	// of 5,000 streams, whoever held them: hence the baseline.
	back := line{id: "P11", work: "afterwards", figure: "heap and stacks still in use, over the baseline's", goal: 1.1}
	var first, left float64
	for _, n := range streamCounts {
		h, err := l.held(ctx, "proxy", false, n)
		if err != nil {
			return nil, err
		}
		if first == 0 {
			first = h.each
		}
		memory.values = []float64{h.each / first}
		left = h.back - h.rest
		back.note = fmt.Sprintf("%.1f MiB more than the %.1f before", left, h.rest)
		memory.note += fmt.Sprintf("%d: %.1f KiB; ", n, h.each)
	}
	theirs, err := l.held(ctx, baseline, false, streamCounts[len(streamCounts)-1])
	if err != nil {
		return nil, err
	}
	back.values = []float64{left / (theirs.back - theirs.rest)}
	back.note += fmt.Sprintf(", to %.1f more than %.1f", theirs.back-theirs.rest, theirs.rest)
	return append(lines, memory, back), nil
}
