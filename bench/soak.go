package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// soak runs streams, broken and abandoned ones among them, beside JSON and
// GraphQL, and looks whether memory grows.
func soak(ctx context.Context, l *lab, s settings) ([]line, error) {
	length, streams, events := s.soak, 300, 100
	if s.quick {
		length, streams, events = 3*time.Second, 20, 5
	}
	p, err := l.fresh("proxy", false)
	if err != nil {
		return nil, err
	}
	before, err := p.used(true)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: streams}}
	defer client.CloseIdleConnections()
	k := &soaking{ctx: ctx, client: client, url: p.url, end: time.Now().Add(length)}
	var wg sync.WaitGroup
	for i := range streams {
		wg.Go(func() {
			for n := i; time.Now().Before(k.end); n++ {
				switch {
				case n%20 == 7:
					k.broken()
				case n%10 == 3:
					k.abandoned()
				default:
					k.whole(events)
				}
			}
		})
	}
	wg.Go(func() { k.every(20*time.Millisecond, func() { k.ask(chatPath, chat("m", 1000, "").body) }) })
	wg.Go(func() {
		k.every(100*time.Millisecond, func() {
			k.ask("/graphql", `{"query":"mutation A($i: ChatInput!) { getAIResponse(input: $i) { id content } }","variables":{"i":`+chat("m", 60, "").body+`}}`)
		})
	})
	var early, late float64
	began := time.Now()
	for time.Now().Before(k.end) {
		time.Sleep(length / 50)
		rss, err := p.memory("VmRSS")
		if err != nil {
			return nil, err
		}
		if time.Since(began) < length/2 {
			early = max(early, rss)
		} else {
			late = max(late, rss)
		}
	}
	wg.Wait()
	client.CloseIdleConnections()
	took, after, err := p.settled(before, 40*time.Second)
	if err != nil {
		return nil, err
	}
	return []line{
		figure("L5", "streams", "that look whole and are not", float64(k.silent.Load()), 0,
			fmt.Sprintf("%v: %d whole, %d broken, %d abandoned", length, k.wholes.Load(), k.cuts.Load(), k.leaves.Load())),
		figure("L5", "calls", "answered with 5xx or not at all", float64(k.failed.Load()), 0, fmt.Sprintf("%d calls", k.calls.Load())),
		figure("L5", "memory", "second half over first", late/early, 1.03, fmt.Sprintf("%.0f MiB", late/1024)),
		figure("L5", "afterwards", "goroutines more than before", float64(after.Routines-before.Routines), 20, took.Round(time.Millisecond).String()),
	}, nil
}

// soaking is the load of a soak.
type soaking struct {
	ctx    context.Context //nolint:containedctx // of the whole run
	client *http.Client
	url    string
	end    time.Time

	wholes, cuts, leaves, calls, silent, failed atomic.Int64
}

func (k *soaking) every(d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for time.Now().Before(k.end) {
		f()
		<-tick.C
	}
}

func (k *soaking) post(ctx context.Context, path, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return k.client.Do(req)
}

func (k *soaking) ask(path, body string) {
	k.calls.Add(1)
	res, err := k.post(k.ctx, path, body)
	if err != nil {
		k.failed.Add(1)
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || strings.Contains(string(got), `"errors"`) {
		k.failed.Add(1)
	}
}

func (k *soaking) whole(events int) {
	c := chat(fmt.Sprintf("paced-%d", events), 60, `"stream":true,`)
	res, err := k.post(k.ctx, c.path, c.body)
	if err != nil {
		k.failed.Add(1)
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || !strings.HasSuffix(string(got), pacedEvent(events-1)+pacedEnd) {
		k.failed.Add(1)
	}
	k.wholes.Add(1)
}

// broken is a stream that the upstream cuts: it must not look whole.
func (k *soaking) broken() {
	c := chat("cut-10", 60, `"stream":true,`)
	res, err := k.post(k.ctx, c.path, c.body)
	if err != nil {
		k.failed.Add(1)
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(string(got), `"upstream_disconnected"`) {
		k.silent.Add(1)
	}
	k.cuts.Add(1)
}

func (k *soaking) abandoned() {
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	c := chat("slow", 60, `"stream":true,`)
	res, err := k.post(ctx, c.path, c.body)
	if err != nil {
		k.failed.Add(1)
		return
	}
	defer res.Body.Close()
	_, _ = res.Body.Read(make([]byte, 1))
	k.leaves.Add(1)
}
