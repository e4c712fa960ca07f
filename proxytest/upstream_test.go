package proxytest_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy/proxytest"
)

const hello = `{"model":"m","messages":[{"role":"user","content":"old"},` +
	`{"role":"user","content":[{"type":"text","text":"hello "},{"type":"text","text":"you <b>"}]},` +
	`{"role":"assistant","content":"x"}]%}`

// ask gives a chat body with more keys.
func ask(more string) string { return strings.Replace(hello, "%", more, 1) }

// post sends body to a path of the upstream.
func post(t *testing.T, up *proxytest.Upstream, path, body string) *http.Response {
	t.Helper()
	return do(t, &http.Client{Transport: up.Transport()}, http.MethodPost, up.URL()+path, body)
}

func readAll(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func readEvents(t *testing.T, resp *http.Response) []proxytest.Event {
	t.Helper()
	events, err := proxytest.ReadEvents(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// value returns what is at a path of keys and indexes in a JSON text.
func value(t *testing.T, text string, path ...any) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			a, _ := v.([]any)
			if step >= len(a) {
				t.Fatalf("no %v in %q", path, text)
			}
			v = a[step]
		}
	}
	return v
}

// A zero Upstream needs no test and keeps nothing, and Pace slows its streams.
func TestZeroUpstream(t *testing.T) {
	up := &proxytest.Upstream{Pace: time.Millisecond}
	rec := httptest.NewRecorder()
	start := time.Now()
	up.ServeHTTP(rec, httptest.NewRequest("POST", "/v1/chat/completions", strings.NewReader(ask(`,"stream":true`))))
	checkChatStream(t, readEvents(t, rec.Result()), "You said: hello you <b>", false)
	if passed := time.Since(start); passed < 5*time.Millisecond {
		t.Errorf("five words took %v", passed)
	}
	rec = httptest.NewRecorder()
	up.ServeHTTP(rec, httptest.NewRequest("POST", "/v1/images/generations", strings.NewReader(`{"prompt":"p","stream":true}`)))
	checkImageStream(t, readEvents(t, rec.Result()), "image_generation")
	up.Queue(proxytest.JSON(418, "{}"))
	rec = httptest.NewRecorder()
	up.ServeHTTP(rec, httptest.NewRequest("POST", "/", nil))
	if rec.Code != 418 {
		t.Errorf("queued answer: status %d", rec.Code)
	}
	if _, err := up.Transport().DialContext(t.Context(), "tcp", "x:1"); err == nil {
		t.Error("the transport of a zero Upstream dials")
	}
	if up.URL() != "" || up.Next() != nil || len(up.Requests()) != 0 {
		t.Error("a zero Upstream has a URL or keeps requests")
	}
	up.Close()
}

func TestConcurrentRequests(t *testing.T) {
	eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
		up := proxytest.NewUpstream(t, opts...)
		client := &http.Client{Transport: up.Transport()}
		const calls = 20
		var group sync.WaitGroup
		for range calls {
			group.Go(func() {
				up.Queue(proxytest.JSON(201, "{}"))
				resp, err := client.Post(up.URL()+"/chat/completions", "", strings.NewReader("{}"))
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if resp.StatusCode != 201 {
					t.Errorf("status %d", resp.StatusCode)
				}
			})
		}
		for range calls {
			up.Next()
		}
		group.Wait()
		if n := len(up.Requests()); n != calls {
			t.Errorf("%d requests", n)
		}
	})
}

// The upstream sees a caller leave, whatever its answer is waiting for.
func TestCanceled(t *testing.T) {
	for name, answer := range map[string]proxytest.Answer{
		"hang":       proxytest.Hang(),
		"gate":       proxytest.Stream(proxytest.Text("data: 1\n\n"), proxytest.Gate(nil)),
		"silence":    proxytest.Stream(proxytest.Silence(), proxytest.Text("never")),
		"pause":      proxytest.Stream(proxytest.Pause(time.Hour)),
		"after":      proxytest.JSON(200, "{}").After(proxytest.Gate(nil)),
		"raw":        proxytest.Raw("HTTP/1.1 200 OK\r\n\r\n", proxytest.Silence()),
		"early hang": proxytest.Hang().Early(),
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
				if name == "raw" && strings.Contains(t.Name(), "h2") {
					t.Skip("HTTP/1 only")
				}
				if name == "early hang" && strings.Contains(t.Name(), "h1") {
					t.Skip("net/http does not watch an unread body's connection")
				}
				up := proxytest.NewUpstream(t, opts...)
				up.Queue(answer)
				ctx, cancel := context.WithCancel(t.Context())
				req, err := http.NewRequestWithContext(ctx, "POST", up.URL(), strings.NewReader("x"))
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan struct{})
				client := &http.Client{Transport: up.Transport()}
				go func() {
					defer close(ended)
					resp, err := client.Do(req)
					if err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
				}()
				got := up.Next()
				select {
				case <-got.Canceled():
					t.Error("canceled too soon")
				case <-got.Done():
					t.Error("done too soon")
				case <-time.After(20 * time.Millisecond):
				}
				cancel()
				<-got.Done()
				select {
				case <-got.Canceled():
				default:
					t.Error("done, not canceled")
				}
				<-ended
			})
		})
	}
}

// A caller that leaves inside its own body is kept with the part that came.
func TestBodyBrokenOff(t *testing.T) {
	eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
		up := proxytest.NewUpstream(t, opts...)
		ctx, cancel := context.WithCancel(t.Context())
		body, send := io.Pipe()
		req, err := http.NewRequestWithContext(ctx, "POST", up.URL(), body)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: up.Transport()}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			resp, err := client.Do(req)
			if err == nil {
				_ = resp.Body.Close()
			}
		}()
		_, _ = send.Write([]byte("part"))
		time.Sleep(20 * time.Millisecond)
		cancel()
		_ = send.CloseWithError(ctx.Err()) // what reads a body must end
		got := up.Next()
		<-got.Done()
		<-got.Canceled()
		<-ended
		if got.BodyErr == nil || string(got.Body) != "part" || got.ContentLength != -1 {
			t.Errorf("body %q, error %v, length %d", got.Body, got.BodyErr, got.ContentLength)
		}
	})
}

// The end of a test, or Close, does not wait for a script that waits itself.
func TestUpstreamCloseOpensGates(t *testing.T) {
	eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
		up := proxytest.NewUpstream(t, opts...)
		up.Queue(proxytest.Stream(proxytest.Gate(nil)), proxytest.Hang().Early())
		client := &http.Client{Transport: up.Transport()}
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() {
				resp, err := client.Post(up.URL(), "", strings.NewReader("x"))
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			})
			<-time.After(10 * time.Millisecond)
		}
		requests := []*proxytest.Request{up.Next(), up.Next()}
		up.Close()
		for _, req := range requests {
			<-req.Canceled()
			<-req.Done()
		}
		group.Wait()
	})
}

// A handler between client and upstream: what leaves on one side is seen on the
// other, and the end of the test ends a stream that is still open.
func TestThroughHandler(t *testing.T) {
	eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
		up := proxytest.NewUpstream(t, opts...)
		handler, err := newGateway(up.URL(), up.Transport())
		if err != nil {
			t.Fatal(err)
		}
		srv := proxytest.Serve(t, handler, opts...)
		open := proxytest.Stream(proxytest.Text(one), proxytest.Gate(nil))
		up.Queue(open, open)
		for _, leave := range []bool{true, false} {
			resp := do(t, srv.Client(), http.MethodPost, srv.URL+"/chat/completions", ask(""))
			if event, err := proxytest.NewEventReader(resp.Body).Next(); err != nil || event.Data != "1" {
				t.Errorf("%q, %v", event, err)
			}
			req := up.Next()
			if leave {
				_ = resp.Body.Close()
				<-req.Canceled()
			}
		}
	})
}
