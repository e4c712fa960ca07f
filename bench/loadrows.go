package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// loadRows are what the proxy holds. A figure is absolute, the goal its most.
func loadRows() []row {
	return []row{
		{"L1", "2,000 streams of five events a second", steady},
		{"L2", "5,000 readers of a byte a second", slowReaders},
		{"L3", "2,000 readers that stall", stalledReaders},
		{"L4", "5,000 clients that leave", leavers},
		{"L5", "everything at once", soak},
		{"L6", "three times what is admitted", overload},
		{"L7", "10,000 bodies that are too large", oversized},
	}
}

// figure is a line with one value.
func figure(id, work, what string, value, most float64, note string) line {
	return line{id: id, work: work, figure: what, values: []float64{value}, goal: most, exact: true, note: note}
}

// counts asks the upstream what it has seen.
func (l *lab) counts() (c counts, err error) {
	client := http.Client{Timeout: 10 * time.Second}
	res, err := client.Get(strings.TrimSuffix(l.plain, "/v1") + "/counts") //nolint:noctx // loopback, and short
	if err != nil {
		return c, err
	}
	defer res.Body.Close()
	return c, json.NewDecoder(res.Body).Decode(&c)
}

// leaks counts the goroutines of the targets that nothing can wake any more, where
// the runtime can tell: GOEXPERIMENT=goroutineleakprofile go run . -load.
func (l *lab) leaks(id string) []line {
	total, told := 0, false
	for _, p := range l.running {
		client := http.Client{Timeout: 10 * time.Second}
		res, err := client.Get(p.behind + "/debug/pprof/goroutineleak?debug=1") //nolint:noctx // loopback, and short
		if err != nil {
			continue
		}
		var n int
		if _, err := fmt.Fscanf(res.Body, "goroutineleak profile: total %d", &n); err == nil {
			total, told = total+n, true
		}
		_ = res.Body.Close()
	}
	if !told {
		return nil
	}
	return []line{figure(id, "afterwards", "goroutines that nothing can wake", float64(total), 0, "K3")}
}

// crowd runs so many clients, 64 of them at a time before they say go, and
// returns their errors joined.
func crowd(n int, client func(ready func()) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all error
	failed := 0
	slots := make(chan struct{}, 64)
	for range n {
		slots <- struct{}{}
		wg.Go(func() {
			ready := sync.OnceFunc(func() { <-slots })
			defer ready()
			if err := client(ready); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if failed++; failed <= 3 {
					all = errors.Join(all, err)
				}
			}
		})
	}
	wg.Wait()
	if failed > 3 {
		all = errors.Join(all, fmt.Errorf("and %d more", failed-3))
	}
	return all
}

// settled waits until a process has no more goroutines than before, and returns
// how long that took.
func (p *process) settled(before usage, limit time.Duration) (time.Duration, usage, error) {
	began := time.Now()
	for {
		now, err := p.used(false)
		if err != nil || now.Routines <= before.Routines+20 || time.Since(began) > limit {
			return time.Since(began), now, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// steady holds streams for two minutes and compares every byte.
func steady(ctx context.Context, l *lab, s settings) ([]line, error) {
	streams, events := 2000, 600
	if s.quick {
		streams, events = 50, 20
	}
	p, err := l.fresh("proxy", false)
	if err != nil {
		return nil, err
	}
	before, err := p.used(true)
	if err != nil {
		return nil, err
	}
	want := sha256.New()
	for n := range events {
		_, _ = io.WriteString(want, pacedEvent(n))
	}
	_, _ = io.WriteString(want, pacedEnd)
	client := &http.Client{Transport: &http.Transport{ReadBufferSize: 1 << 10, WriteBufferSize: 1 << 10}}
	defer client.CloseIdleConnections()
	var wrong atomic.Int64
	stop := make(chan struct{})
	type sample struct {
		at       time.Time
		rss      float64
		routines int
		files    int
	}
	var samples []sample
	var live []float64 // bytes of heap and stacks behind a collection, every 20 s
	watched := make(chan error, 1)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				watched <- nil
				return
			case <-tick.C:
			}
			collect := len(samples)%20 == 19
			u, err := p.used(collect)
			rss, err2 := p.memory("VmRSS")
			if err := errors.Join(err, err2); err != nil {
				watched <- err
				return
			}
			if collect {
				live = append(live, float64(u.InUse))
			}
			samples = append(samples, sample{time.Now(), rss, u.Routines, u.Files})
		}
	}()
	c := chat(fmt.Sprintf("paced-%d", events), 60, `"stream":true,`)
	err = crowd(streams, func(ready func()) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+c.path, strings.NewReader(c.body))
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			wrong.Add(1)
			return err
		}
		defer res.Body.Close()
		ready()
		got := sha256.New()
		if _, err := io.Copy(got, res.Body); err != nil || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			wrong.Add(1)
			return fmt.Errorf("a stream is not what was sent: %w", errors.Join(err, errDifferent))
		}
		return nil
	})
	close(stop)
	if err := errors.Join(<-watched, ignoreDifferent(err)); err != nil {
		return nil, err
	}
	client.CloseIdleConnections()
	took, after, err := p.settled(before, 10*time.Second)
	if err != nil {
		return nil, err
	}
	most := func(from, to int, of func(sample) float64) (m float64) {
		for _, x := range samples[max(0, from):max(0, min(to, len(samples)))] {
			m = max(m, of(x))
		}
		return m
	}
	n, rss := len(samples), func(x sample) float64 { return x.rss }
	if len(live) == 0 {
		live = []float64{1}
	}
	return []line{
		figure("L1", "streams", "that differ, of "+fmt.Sprint(streams), float64(wrong.Load()), 0, ""),
		figure("L1", "memory", "in use at the end over that at the beginning", live[len(live)-1]/live[0], 1.05,
			fmt.Sprintf("%.1f to %.1f MiB behind a collection", live[0]/(1<<20), live[len(live)-1]/(1<<20))),
		figure("L1", "memory", "KiB per stream", most(0, n, rss)/float64(streams), 100, ""),
		figure("L1", "goroutines", "over 4 per stream", most(0, n, func(x sample) float64 { return float64(x.routines) })-4*float64(streams), 50, ""),
		figure("L1", "files", "over 2 per stream", most(0, n, func(x sample) float64 { return float64(x.files) })-2*float64(streams), 100, ""),
		figure("L1", "afterwards", "goroutines", float64(after.Routines), 150, took.Round(time.Millisecond).String()),
	}, nil
}

var errDifferent = errors.New("bytes differ")

// ignoreDifferent leaves to a figure what a figure tells.
func ignoreDifferent(err error) error {
	if errors.Is(err, errDifferent) {
		return nil
	}
	return err
}

// rawStream asks for a stream on a connection with a small receive buffer.
func rawStream(ctx context.Context, p *process, model string) (net.Conn, error) {
	u, err := url.Parse(p.url)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
	}}
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	c := chat(model, 60, `"stream":true,`)
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", c.path, len(c.body), c.body)
	return conn, err
}

// slowReaders reads a byte a second from each stream, beside other traffic.
func slowReaders(ctx context.Context, l *lab, s settings) ([]line, error) {
	readers, length := 5000, time.Minute
	if s.quick {
		readers, length = 100, 3*time.Second
	}
	p, err := l.fresh("proxy", false)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, length+30*time.Second)
	defer cancel()
	var held []float64
	var others []time.Duration
	var ready atomic.Int64
	end := make(chan struct{})
	watched := make(chan error, 1)
	go func() {
		defer close(end)
		for ready.Load() < int64(readers) && ctx.Err() == nil {
			time.Sleep(100 * time.Millisecond)
		}
		client := &http.Client{Timeout: 10 * time.Second}
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for began := time.Now(); time.Since(began) < length; <-tick.C {
			took, _, err := once(client, p.url, chat("m", 1000, ""))
			if err != nil {
				watched <- err
				return
			}
			others = append(others, took)
			rss, _ := p.memory("VmRSS")
			held = append(held, rss)
		}
		watched <- nil
	}()
	err = crowd(readers, func(release func()) error {
		conn, err := rawStream(ctx, p, "stream-300") // some 64 KiB
		if err != nil {
			return err
		}
		defer conn.Close()
		var one [1]byte
		if _, err := conn.Read(one[:]); err != nil {
			return err
		}
		release()
		ready.Add(1)
		for {
			select {
			case <-end:
				return nil
			case <-time.After(time.Second):
			}
			if _, err := conn.Read(one[:]); err != nil {
				return err
			}
		}
	})
	if err := errors.Join(err, <-watched); err != nil {
		return nil, err
	}
	slices.Sort(others)
	third := len(held) / 3
	return []line{
		figure("L2", "memory", "MiB for "+fmt.Sprint(readers), slices.Max(held)/1024, 380, ""),
		figure("L2", "memory", "last third over middle third", median(held[len(held)-third:])/median(held[third:len(held)-third]), 1.02, ""),
		figure("L2", "other calls", "p99 in ms", us(others[len(others)*99/100])/1000, 100, fmt.Sprintf("%d calls, none failed", len(others))),
	}, nil
}

// stalledReaders read nothing of a MiB: the proxy must give them up.
func stalledReaders(ctx context.Context, l *lab, s settings) ([]line, error) {
	readers := 2000
	if s.quick {
		readers = 50
	}
	p, err := l.fresh("proxy-stall", false)
	if err != nil {
		return nil, err
	}
	before, err := p.used(true)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	var ended sync.Map
	err = crowd(readers, func(release func()) error {
		conn, err := rawStream(ctx, p, "stream-20000") // more than all buffers take
		if err != nil {
			return err
		}
		release()
		ended.Store(conn, nil)
		return nil
	})
	if err != nil {
		return nil, err
	}
	open := time.Since(began)
	took, after, err := p.settled(before, 2*time.Minute)
	ended.Range(func(conn, _ any) bool {
		_ = conn.(net.Conn).Close() //nolint:forcetypeassert // nothing else is stored
		return true
	})
	if err != nil {
		return nil, err
	}
	seen, err := l.counts()
	if err != nil {
		return nil, err
	}
	rest := time.Since(time.Unix(0, seen.Moved))
	return []line{
		figure("L3", "streams", "seconds from the last byte that moved until the last was given up", rest.Seconds(), 15,
			fmt.Sprintf("opened in %v, buffers full after %v", open.Round(time.Millisecond), (took-rest).Round(time.Millisecond))),
		figure("L3", "afterwards", "goroutines", float64(after.Routines), 150, ""),
		figure("L3", "afterwards", "calls under way at the upstream", float64(seen.Now), 0, ""),
	}, nil
}

// leavers go after two events.
func leavers(ctx context.Context, l *lab, s settings) ([]line, error) {
	clients := 5000
	if s.quick {
		clients = 100
	}
	p, err := l.fresh("proxy", false)
	if err != nil {
		return nil, err
	}
	before, err := p.used(true)
	if err != nil {
		return nil, err
	}
	began, err := l.counts()
	if err != nil {
		return nil, err
	}
	var held sync.Map
	err = crowd(clients, func(release func()) error {
		conn, err := rawStream(ctx, p, "slow")
		if err != nil {
			return err
		}
		r := bufio.NewReader(conn)
		for events := 0; events < 1; {
			text, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			if strings.HasPrefix(text, "data:") {
				events++
			}
		}
		release()
		held.Store(conn, nil)
		return nil
	})
	if err != nil {
		return nil, err
	}
	left := time.Now()
	held.Range(func(conn, _ any) bool {
		_ = conn.(net.Conn).Close() //nolint:forcetypeassert // nothing else is stored
		return true
	})
	closed := time.Since(left)
	var seen counts
	for time.Since(left) < 20*time.Second {
		if seen, err = l.counts(); err != nil {
			return nil, err
		}
		if seen.Left-began.Left >= int64(clients) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancelled := time.Since(left)
	took, after, err := p.settled(before, 20*time.Second)
	if err != nil {
		return nil, err
	}
	return []line{
		figure("L4", "clients", "whose call went on, of "+fmt.Sprint(clients), float64(int64(clients)-(seen.Left-began.Left)), 0, ""),
		figure("L4", "calls", "seconds until all were cancelled, after the last client left", (cancelled - closed).Seconds(), 1, ""),
		figure("L4", "afterwards", "seconds until at rest", (cancelled + took - closed).Seconds(), 2, fmt.Sprintf("%d goroutines, %d files", after.Routines, after.Files)),
	}, nil
}

// overload sends three times what is admitted.
func overload(_ context.Context, l *lab, s settings) ([]line, error) {
	p, err := l.fresh("proxy-capped", false)
	if err != nil {
		return nil, err
	}
	events := 25
	if s.quick {
		events = 5
	}
	before, err := l.counts()
	if err != nil {
		return nil, err
	}
	want := ""
	for n := range events {
		want += pacedEvent(n)
	}
	want += pacedEnd
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 3 * inFlightCap}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	var admitted, refused, wrong atomic.Int64
	var mu sync.Mutex
	var delays []time.Duration
	c := chat(fmt.Sprintf("paced-%d", events), 60, `"stream":true,`)
	var wg sync.WaitGroup
	for range 3 * inFlightCap {
		wg.Go(func() {
			for range 3 {
				began := time.Now()
				res, err := client.Post(p.url+c.path, "application/json", strings.NewReader(c.body)) //nolint:noctx // a benchmark
				if err != nil {
					wrong.Add(1)
					return
				}
				got, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				switch {
				case res.StatusCode == http.StatusTooManyRequests && res.Header.Get("Retry-After") != "":
					refused.Add(1)
					mu.Lock()
					delays = append(delays, time.Since(began))
					mu.Unlock()
					time.Sleep(time.Second)
				case res.StatusCode == http.StatusOK && err == nil && string(got) == want:
					admitted.Add(1)
				default:
					wrong.Add(1)
				}
			}
		})
	}
	wg.Wait()
	seen, err := l.counts()
	if err != nil {
		return nil, err
	}
	slices.Sort(delays)
	if len(delays) == 0 {
		return nil, errors.New("nothing was refused")
	}
	return []line{
		figure("L6", "answers", "that are neither whole nor 429", float64(wrong.Load()), 0, fmt.Sprintf("%d admitted, %d refused", admitted.Load(), refused.Load())),
		figure("L6", "refusals", "ms, median", us(delays[len(delays)/2])/1000, 10, fmt.Sprintf("p99 %v", delays[len(delays)*99/100].Round(time.Microsecond))),
		figure("L6", "upstream", "calls more than were admitted", float64(seen.Begun-before.Begun-admitted.Load()), 0, ""),
	}, nil
}

// oversized sends bodies of 8 MiB where one is admitted.
func oversized(_ context.Context, l *lab, s settings) ([]line, error) {
	requests := 10_000
	if s.quick {
		requests = 200
	}
	p, err := l.fresh("proxy-capped", false)
	if err != nil {
		return nil, err
	}
	before, err := l.counts()
	if err != nil {
		return nil, err
	}
	rest, err := p.memory("VmRSS")
	if err != nil {
		return nil, err
	}
	body := chat("m", 8<<20, "").body
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	var other, broken atomic.Int64
	var wg sync.WaitGroup
	work := make(chan int)
	for range 64 {
		wg.Go(func() {
			for i := range work {
				var in io.Reader = strings.NewReader(body)
				if i%2 == 1 {
					in = struct{ io.Reader }{in} // in chunks, its length unknown
				}
				res, err := client.Post(p.url+chatPath, "application/json", in) //nolint:noctx // a benchmark
				if err != nil {
					broken.Add(1) // the connection was closed before the answer was read
					continue
				}
				if res.StatusCode != http.StatusRequestEntityTooLarge {
					other.Add(1)
				}
				_ = res.Body.Close()
			}
		})
	}
	for i := range requests {
		work <- i
	}
	close(work)
	wg.Wait()
	most, err := p.memory("VmHWM")
	if err != nil {
		return nil, err
	}
	seen, err := l.counts()
	if err != nil {
		return nil, err
	}
	return []line{
		figure("L7", "answers", "other than 413", float64(other.Load()), 0, fmt.Sprintf("%d of %d broken off while they were sent", broken.Load(), requests)),
		figure("L7", "upstream", "calls", float64(seen.Begun-before.Begun), 0, ""),
		figure("L7", "memory", "MiB more at most", (most-rest)/1024, 96, ""),
	}, nil
}
