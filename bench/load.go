package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// call is a request of the load.
type call struct {
	path, body string
}

const chatPath = "/v1/chat/completions"

// chat asks for what model says, with a prompt of about size bytes.
func chat(model string, size int, more string) call {
	return call{chatPath, `{"model":"` + model + `",` + more + `"messages":[{"role":"user","content":"` + strings.Repeat("hello ", size/6) + `"}]}`}
}

// measured is what one measurement found.
type measured struct {
	cpu      time.Duration // of the target, per call
	rate     float64       // calls per second
	p50, p99 time.Duration // of a call
	first    time.Duration // median until the first byte of the body
}

// load sends calls over so many connections for a time, and says what each cost
// the process, or nobody if it is nil.
func load(p *process, url string, c call, connections int, length time.Duration) (m measured, err error) {
	client := &http.Client{
		Transport: p.transport(connections),
		Timeout:   time.Minute, // sooner a failure than a driver that waits for ever
	}
	defer client.CloseIdleConnections()
	for range 2 * connections { // warm up
		if _, _, err := once(client, url, c); err != nil {
			return m, err
		}
	}
	var before, after usage
	if p != nil {
		if before, err = p.used(false); err != nil {
			return m, err
		}
	}
	began := time.Now()
	all, firsts, err := loadFor(client, url, c, connections, length)
	took := time.Since(began)
	if err != nil {
		return m, err
	}
	if p != nil {
		if after, err = p.used(false); err != nil {
			return m, err
		}
	}
	n := len(all)
	slices.Sort(all)
	slices.Sort(firsts)
	return measured{
		cpu: (after.CPU - before.CPU) / time.Duration(n), rate: float64(n) / took.Seconds(),
		p50: all[n/2], p99: all[n*99/100], first: firsts[n/2],
	}, nil
}

func loadFor(client *http.Client, url string, c call, connections int, length time.Duration) (all, firsts []time.Duration, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	end := time.Now().Add(length)
	for range connections {
		wg.Go(func() {
			for ok := true; ok; ok = time.Now().Before(end) {
				took, first, failed := once(client, url, c)
				mu.Lock()
				all, firsts, err = append(all, took), append(firsts, first), errors.Join(err, failed)
				mu.Unlock()
				if failed != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return all, firsts, err
}

// once makes a call and reads its answer to the end.
func once(client *http.Client, url string, c call) (all, first time.Duration, err error) {
	began := time.Now()
	res, err := client.Post(url+c.path, "application/json", strings.NewReader(c.body)) //nolint:noctx // a benchmark
	if err != nil {
		return 0, 0, err
	}
	defer res.Body.Close()
	var one [1]byte
	if _, err := io.ReadFull(res.Body, one[:]); err != nil {
		return 0, 0, err
	}
	first = time.Since(began)
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, 0, err
	}
	if res.StatusCode != http.StatusOK {
		return 0, 0, fmt.Errorf("status %d", res.StatusCode)
	}
	return time.Since(began), first, nil
}

// slowStreams holds so many streams with an event each second, and calls look
// when all of them have had some. It returns how late events were, sorted.
func slowStreams(ctx context.Context, url string, streams int, look func() error) (late []time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	transport := &http.Transport{MaxIdleConnsPerHost: streams, WriteBufferSize: 1 << 10, ReadBufferSize: 1 << 10}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var mu sync.Mutex
	var wg, ready sync.WaitGroup
	ready.Add(streams)
	slots := make(chan struct{}, 64) // connections in the making
	for range streams {
		slots <- struct{}{}
		wg.Go(func() {
			lates, failed := slowStream(ctx, client, url, func() { <-slots; ready.Done() })
			mu.Lock()
			late, err = append(late, lates...), errors.Join(err, failed)
			mu.Unlock()
		})
	}
	ready.Wait()
	time.Sleep(3 * time.Second) // a few events each
	lookErr := look()
	cancel()
	wg.Wait()
	slices.Sort(late)
	return late, errors.Join(err, lookErr)
}

func slowStream(ctx context.Context, client *http.Client, url string, ready func()) (late []time.Duration, err error) {
	told := false
	defer func() {
		if !told {
			ready()
		}
	}()
	c := chat("slow", 60, `"stream":true,`)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+c.path, strings.NewReader(c.body))
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var event struct{ Sent int64 }
		if err := json.Unmarshal([]byte(data), &event); err != nil {
			return nil, err
		}
		late = append(late, time.Since(time.Unix(0, event.Sent)))
		if !told {
			told = true
			ready()
		}
	}
	return late, nil
}
