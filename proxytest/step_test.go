package proxytest_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy/proxytest"
)

const one = "data: 1\n\n"

// What breaks a stream is seen by the caller as a broken transfer, after all
// that was sent before.
func TestBreaks(t *testing.T) {
	for name, step := range map[string]proxytest.Step{"cut": proxytest.Cut(), "reset": proxytest.Reset()} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
				up := proxytest.NewUpstream(t, opts...)
				up.Queue(proxytest.Stream(proxytest.Text(one), proxytest.Pause(time.Millisecond), step, proxytest.Text("never")))
				resp := post(t, up, "/x", "")
				events, err := proxytest.ReadEvents(resp.Body)
				if len(events) != 1 || err == nil {
					t.Errorf("%d events, error %v", len(events), err)
				}
				switch {
				case resp.ProtoMajor == 2:
				case name == "reset" && !strings.Contains(t.Name(), "memory"):
					if !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("error %v, want a TCP reset", err)
					}
				case !errors.Is(err, io.ErrUnexpectedEOF):
					t.Errorf("error %v, want an unexpected EOF", err)
				}
				req := up.Next()
				<-req.Done()
				select {
				case <-req.Canceled():
					t.Error("canceled, though the upstream broke off")
				default:
				}
			})
		})
	}
}

// Broken before its headers, a request fails; and so does one whose answer is
// shorter than announced.
func TestNoAnswer(t *testing.T) {
	for name, answer := range map[string]proxytest.Answer{
		"cut":   proxytest.Chat("x").After(proxytest.Cut()),
		"reset": proxytest.Chat("x").After(proxytest.Pause(time.Millisecond), proxytest.Reset()),
		"raw":   proxytest.Raw(""),
		"short": proxytest.Respond(200, http.Header{"Content-Length": {"9"}}, proxytest.Text("abc")),
		"head":  proxytest.JSON(200, "{}").WithHeader("Content-Length", "9"),
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
				up := proxytest.NewUpstream(t, opts...)
				up.Queue(answer)
				resp, err := (&http.Client{Transport: up.Transport()}).Post(up.URL(), "", strings.NewReader("x"))
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
				}
				if err == nil {
					t.Error("no error")
				}
				if n := len(up.Requests()); n != 1 {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

// A gate holds the next piece back while the one before it can be read.
func TestGate(t *testing.T) {
	eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
		up := proxytest.NewUpstream(t, opts...)
		head, open := make(chan struct{}), make(chan struct{}, 1)
		up.Queue(proxytest.Stream(
			proxytest.Gate(head), proxytest.Text(one), proxytest.Gate(open), proxytest.Text("data: 2\n\n"), proxytest.Gate(head)))
		resp := post(t, up, "/x", "") // the headers come before the gate opens
		events := proxytest.NewEventReader(resp.Body)
		close(head)
		if event, err := events.Next(); err != nil || event.Data != "1" {
			t.Fatalf("%q, %v", event, err)
		}
		select {
		case <-up.Next().Done():
			t.Error("done before the gate is open")
		case <-time.After(10 * time.Millisecond):
		}
		open <- struct{}{}
		if event, err := events.Next(); err != nil || event.Data != "2" {
			t.Fatalf("%q, %v", event, err)
		}
		if _, err := events.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("error %v, want a clean end", err)
		}
	})
}

// In a bubble pauses take their exact time and no real one.
func TestPauseInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := proxytest.NewUpstream(t, proxytest.InMemory())
		up.Queue(proxytest.Stream(proxytest.Pause(time.Minute), proxytest.Text(one)).After(proxytest.Pause(time.Hour)))
		start := time.Now()
		resp := post(t, up, "/x", "")
		if got := time.Since(start); got != time.Hour {
			t.Errorf("headers after %v", got)
		}
		readEvents(t, resp)
		if got := time.Since(start); got != time.Hour+time.Minute {
			t.Errorf("event after %v", got)
		}
	})
}

// A piece is one chunk on the wire, and Raw is byte for byte what it says.
func TestWire(t *testing.T) {
	big := strings.Repeat("x", 100_000)
	const head = "HTTP/9.9 banana\r\n\n"
	gate := make(chan struct{})
	close(gate)
	up := proxytest.NewUpstream(t)
	up.Queue(
		proxytest.Stream(proxytest.Text("ab"), proxytest.Text(big)),
		proxytest.Raw(head, proxytest.Gate(gate), proxytest.Text("tail"), proxytest.Cut(), proxytest.Text("never")),
	)
	chunked := exchange(t, up)
	if _, body, _ := strings.Cut(chunked, "\r\n\r\n"); body != "2\r\nab\r\n186a0\r\n"+big+"\r\n0\r\n\r\n" {
		t.Errorf("chunks %.60q", body)
	}
	if raw := exchange(t, up); raw != head+"tail" {
		t.Errorf("raw %q", raw)
	}
}

// exchange sends one request on a connection of its own and returns all that
// comes back.
func exchange(t *testing.T, up *proxytest.Upstream) string {
	t.Helper()
	host := strings.TrimSuffix(strings.TrimPrefix(up.URL(), "http://"), "/v1")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
