package proxy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// errorEvent is the one form of the last event of a broken stream that every
// client understands.
var errorEvent = regexp.MustCompile(`^data: \{"error":\{"message":"[^"\\]+","type":"upstream_error","param":null,"code":"([a-z_]+)"\}\}\n\n$`)

// lastWords is the time between an error event and the cut behind it.
const lastWords = 50 * time.Millisecond

// wantErrorEvent checks the bytes of an error event.
func wantErrorEvent(t testing.TB, event string, code proxy.ErrorCode) {
	t.Helper()
	m := errorEvent.FindStringSubmatch(event)
	if m == nil {
		t.Errorf("the stream ends with %s, which is not an error event", brief(event))
		return
	}
	if m[1] != string(code) {
		t.Errorf("code %q, want %q: %s", m[1], code, event)
	}
	if !json.Valid([]byte(strings.TrimPrefix(event, "data: "))) {
		t.Errorf("the error event is no JSON: %s", event)
	}
}

// wantCutError checks how a reader learns that an answer was broken off.
func wantCutError(t testing.TB, http2 bool, err error) {
	t.Helper()
	switch {
	case http2 && (err == nil || !strings.Contains(err.Error(), "stream error")):
		t.Errorf("the stream ended with %v, want a stream error", err)
	case !http2 && !errors.Is(err, io.ErrUnexpectedEOF):
		t.Errorf("the stream ended with %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

// wantBroken reads the rest of a stream: the blank line that is missing, one
// error event and a cut.
func wantBroken(t testing.TB, w wire, r io.Reader, missing string, code proxy.ErrorCode) {
	t.Helper()
	rest, err := io.ReadAll(r)
	wantCutError(t, w.http2, err)
	event, ok := strings.CutPrefix(string(rest), missing)
	if !ok {
		t.Errorf("behind the relayed bytes came %s, want %q first", brief(string(rest)), missing)
	}
	wantErrorEvent(t, event, code)
}

// outcomes keeps what Hooks.Done was told.
type outcomes struct {
	mu  sync.Mutex
	all []proxy.Outcome
}

func (o *outcomes) hook() proxy.Option {
	return proxy.WithHooks(proxy.Hooks{Done: func(_ context.Context, _ proxy.Call, out proxy.Outcome) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.all = append(o.all, out)
	}})
}

// only returns the one outcome there must be.
func (o *outcomes) only(t testing.TB) proxy.Outcome {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) != 1 {
		t.Fatalf("Done was called %d times, want once: %+v", len(o.all), o.all)
	}
	return o.all[0]
}

// recovering swallows panics, as the recovery middlewares of routers do.
func recovering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { _ = recover() }()
		next.ServeHTTP(w, r)
	})
}

// unwrapOnly has nothing of its writer but Unwrap.
type unwrapOnly struct{ inner http.ResponseWriter }

func (w unwrapOnly) Header() http.Header         { return w.inner.Header() }
func (w unwrapOnly) Write(p []byte) (int, error) { return w.inner.Write(p) }
func (w unwrapOnly) WriteHeader(status int)      { w.inner.WriteHeader(status) }
func (w unwrapOnly) Unwrap() http.ResponseWriter { return w.inner }

func unwrapping(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(unwrapOnly{w}, r) })
}

// breakingHosts are the ways a handler is mounted that may hide a broken stream.
func breakingHosts() map[string]func(http.Handler) http.Handler {
	return map[string]func(http.Handler) http.Handler{
		"bare":                    nil,
		"recovering":              recovering,
		"Unwrap only":             unwrapping,
		"recovering, Unwrap only": func(h http.Handler) http.Handler { return recovering(unwrapping(h)) },
	}
}

// chunked frames a text as one chunk of HTTP/1.1.
func chunked(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

const rawStreamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

// withinChunk is the one break before which nothing can be read: net/http hands
// out the bytes of a chunk when all of them are there, or none will follow.
const withinChunk = "FIN within a chunk"

// breaks are the ways an upstream breaks off. Each sends a text, waits for the
// gate and breaks.
func breaks() map[string]func(text string, gate <-chan struct{}) proxytest.Answer {
	return map[string]func(string, <-chan struct{}) proxytest.Answer{
		"FIN": func(s string, gate <-chan struct{}) proxytest.Answer {
			return proxytest.Stream(proxytest.Text(s), proxytest.Gate(gate), proxytest.Cut())
		},
		"RST": func(s string, gate <-chan struct{}) proxytest.Answer {
			return proxytest.Stream(proxytest.Text(s), proxytest.Gate(gate), proxytest.Reset())
		},
		"malformed chunk size": func(s string, gate <-chan struct{}) proxytest.Answer {
			return proxytest.Raw(rawStreamHead+chunked(s), proxytest.Gate(gate), proxytest.Text("zz\r\nrest\r\n"))
		},
		"chunk without its end": func(s string, gate <-chan struct{}) proxytest.Answer {
			return proxytest.Raw(rawStreamHead+chunked(s), proxytest.Gate(gate), proxytest.Text("0"))
		},
		withinChunk: func(s string, gate <-chan struct{}) proxytest.Answer {
			return proxytest.Raw(fmt.Sprintf("%s%x\r\n%s", rawStreamHead, len(s)+100, s), proxytest.Gate(gate))
		},
		"Content-Length not met": func(s string, gate <-chan struct{}) proxytest.Answer {
			return proxytest.Stream(proxytest.Text(s), proxytest.Gate(gate)).WithHeader("Content-Length", "1000")
		},
		"gzip broken off": func(s string, gate <-chan struct{}) proxytest.Answer {
			return proxytest.Stream(proxytest.Text(gzipPieces(s)[0]), proxytest.Gate(gate)).
				WithHeader("Content-Encoding", "gzip")
		},
		"gzip garbled": func(s string, gate <-chan struct{}) proxytest.Answer {
			return proxytest.Stream(proxytest.Text(gzipPieces(s)[0]), proxytest.Gate(gate), proxytest.Text("\x07garbage")).
				WithHeader("Content-Encoding", "gzip")
		},
	}
}

// tails are ends of what was relayed, and what is missing to a blank line.
var tails = []struct{ name, text, missing string }{
	{"at a boundary", "data: one\n\ndata: two\n\n", ""},
	{"at a boundary with CRLF", "data: one\r\n\r\n", ""},
	{"at a boundary with CR", "data: one\r\r", ""},
	{"within a line", "data: one\n\ndata: tw", "\n\n"},
	{"within [DONE]", "data: one\n\ndata: [DON", "\n\n"},
	{"behind a line", "data: one\n", "\n\n"},
	{"behind a line with CRLF", "data: one\r\n", "\n\n"},
	{"behind a line with CR", "data: one\r", "\n\n"},
	{"behind a comment", "data: one\n\n: comment\n", "\n\n"},
	{"within a character", "data: one\n\ndata: \xf0\x9f", "\n\n"},
	{"one byte", "d", "\n\n"},
	{"nothing", "", ""},
}

func TestF1F2BrokenStreamEndsWithAnErrorEventAndACut(t *testing.T) {
	t.Parallel()
	for host, wrap := range breakingHosts() {
		for how, answer := range breaks() {
			t.Run(host+"/"+how, func(t *testing.T) {
				eachWire(t, clientWires(), func(t *testing.T, w wire) {
					f := w.start(t, wrap)
					for _, tail := range tails {
						if tail.text == "" && strings.Contains(how, "chunk") {
							continue // an empty chunk is the end
						}
						t.Run(tail.name, func(t *testing.T) {
							gate, next := gates(1)
							f.up.Queue(answer(tail.text, gate[0]))
							res := open(within(t), t, f, streamPath, streamRequest)
							if how == withinChunk {
								next()
							}
							wantNext(t, res.Body, tail.text)
							if how != withinChunk {
								next()
							}
							wantBroken(t, w, res.Body, tail.missing, proxy.CodeUpstreamDisconnected)
						})
					}
					if logs := f.logs.String(); strings.Contains(logs, "panic") {
						t.Errorf("there was a panic:\n%s", logs)
					}
				})
			})
		}
	}
}

func TestBrokenStreamOverHTTP2ToTheUpstream(t *testing.T) {
	t.Parallel()
	all := everyWire()
	eachWire(t, []wire{all[1], all[3]}, func(t *testing.T, w wire) {
		f := w.start(t, recovering)
		for _, tail := range tails {
			gate, next := gates(1)
			f.up.Queue(proxytest.Stream(proxytest.Text(tail.text), proxytest.Gate(gate[0]), proxytest.Cut()))
			res := open(within(t), t, f, streamPath, streamRequest)
			wantNext(t, res.Body, tail.text)
			next()
			wantBroken(t, w, res.Body, tail.missing, proxy.CodeUpstreamDisconnected)
		}
	})
}

func TestBrokenStreamOnEveryFace(t *testing.T) {
	t.Parallel()
	f := start(t)
	for path, body := range map[string]string{
		"/":                       streamRequest,
		"/chat/completions":       streamRequest,
		"/generate-image":         `{"prompt":"a cat","stream":true}`,
		"/v1/images/generations":  `{"prompt":"a cat","stream":true}`,
		"/v1/images/edits":        `{"prompt":"a cat","stream":true}`,
		"/v1/chat/completions?x=": plainRequest,
	} {
		gate, next := gates(1)
		f.up.Queue(proxytest.Stream(proxytest.Text("data: one\n\n"), proxytest.Gate(gate[0]), proxytest.Cut()))
		res := open(within(t), t, f, path, body)
		wantNext(t, res.Body, "data: one\n\n")
		next()
		wantBroken(t, clientWires()[0], res.Body, "", proxy.CodeUpstreamDisconnected)
	}
}

func TestLongBrokenStreamKeepsEveryByte(t *testing.T) {
	t.Parallel()
	eachWire(t, everyWire(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		long := "data: " + strings.Repeat("x", 3<<20)
		f.up.Queue(proxytest.Stream(proxytest.Text(long), proxytest.Cut()))
		res := open(within(t), t, f, streamPath, streamRequest)
		if w.upstream == nil { // a reset of HTTP/2 may overtake what the receiver has not read
			wantNext(t, res.Body, long)
			wantBroken(t, w, res.Body, "\n\n", proxy.CodeUpstreamDisconnected)
			return
		}
		got, err := io.ReadAll(res.Body)
		wantCutError(t, w.http2, err)
		_, event, ok := strings.Cut(string(got), "\n\n")
		if !ok {
			t.Fatalf("no error event in %s", brief(string(got)))
		}
		wantErrorEvent(t, event, proxy.CodeUpstreamDisconnected)
	})
}

func TestBrokenStreamIsToldToDone(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		var told outcomes
		f := w.start(t, nil, told.hook())
		const sent = `data: {"choices":[],"usage":{"total_tokens":7}}` + "\n\n"
		gate, next := gates(1)
		f.up.Queue(proxytest.Stream(proxytest.Text(sent), proxytest.Gate(gate[0]), proxytest.Cut()))
		res := open(within(t), t, f, streamPath, streamRequest)
		wantNext(t, res.Body, sent)
		next()
		wantBroken(t, w, res.Body, "", proxy.CodeUpstreamDisconnected)
		f.Close() // waits for the handler
		out := told.only(t)
		var e *proxy.Error
		if !errors.As(out.Err, &e) || e.Code != proxy.CodeUpstreamDisconnected {
			t.Errorf("Err is %v", out.Err)
		}
		if out.Ending != proxy.EndingUpstreamCut || out.Status != http.StatusOK || out.Bytes != int64(len(sent)) ||
			out.Usage.TotalTokens != 7 || out.Attempts != 1 {
			t.Errorf("outcome %+v", out)
		}
		if !strings.Contains(f.logs.String(), "upstream_disconnected") {
			t.Errorf("no word of it in the log:\n%s", f.logs)
		}
	})
}

func TestF8SilentStreamIsBroken(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		for host, wrap := range breakingHosts() {
			f := w.start(t, wrap, proxy.WithLimits(proxy.Limits{StreamIdle: 2 * time.Second}))
			for _, tail := range tails {
				f.up.Queue(proxytest.Stream(proxytest.Text(tail.text), proxytest.Silence()))
				res := open(t.Context(), t, f, streamPath, streamRequest)
				began := time.Now()
				wantNext(t, res.Body, tail.text)
				wantBroken(t, w, res.Body, tail.missing, proxy.CodeUpstreamTimeout)
				if took := time.Since(began); took != 2*time.Second+lastWords {
					t.Errorf("%s, %s: broken off after %v", host, tail.name, took)
				}
				wantCanceled(t, f.up.Next())
			}
		}
	})
}

func TestF26StreamThatLastsTooLongIsBroken(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		for _, wrap := range breakingHosts() {
			f := w.start(t, wrap, proxy.WithLimits(proxy.Limits{StreamMax: 5 * time.Second}))
			var steps []proxytest.Step
			for range 100 {
				steps = append(steps, proxytest.Text("data: tick\n\n"), proxytest.Pause(2*time.Second))
			}
			f.up.Queue(proxytest.Stream(steps...))
			res := open(t.Context(), t, f, streamPath, streamRequest)
			began := time.Now()
			wantNext(t, res.Body, strings.Repeat("data: tick\n\n", 3))
			wantBroken(t, w, res.Body, "", proxy.CodeStreamLimit)
			if took := time.Since(began); took != 5*time.Second+lastWords {
				t.Errorf("broken off after %v", took)
			}
			wantCanceled(t, f.up.Next())
		}
	})
}

func TestShutdownBreaksStreams(t *testing.T) {
	t.Parallel()
	for host, wrap := range breakingHosts() {
		t.Run(host, func(t *testing.T) {
			eachWire(t, clientWires(), func(t *testing.T, w wire) {
				for _, tail := range tails {
					f := w.start(t, wrap)
					f.up.Queue(proxytest.Stream(proxytest.Text(tail.text), proxytest.Silence()))
					res := open(within(t), t, f, streamPath, streamRequest)
					wantNext(t, res.Body, tail.text)
					now, cancel := context.WithCancel(t.Context())
					cancel()
					if err := f.handler.Shutdown(now); err != nil {
						t.Errorf("Shutdown: %v", err)
					}
					wantBroken(t, w, res.Body, tail.missing, proxy.CodeShuttingDown)
					f.Close()
				}
			})
		})
	}
}

// gzipBomb is n bytes of one event, compressed.
func gzipBomb(n int) string {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = io.WriteString(zw, "data: ")
	_, _ = zw.Write(bytes.Repeat([]byte("x"), n))
	_ = zw.Close()
	return b.String()
}

func TestGzipBombInAStreamIsBroken(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	bomb := gzipBomb(16 << 20)
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		f := w.start(t, recovering, proxy.WithLimits(proxy.Limits{ResponseBytes: limit}))
		f.up.Queue(proxytest.Stream(proxytest.Text(bomb)).WithHeader("Content-Encoding", "gzip"))
		res := open(within(t), t, f, streamPath, streamRequest)
		got, err := io.ReadAll(res.Body)
		wantCutError(t, w.http2, err)
		sent, event, ok := strings.Cut(string(got), "\n\n")
		if !ok || strings.Trim(sent, "x") != "data: " {
			t.Fatalf("%s is not the start of the stream and an error event", brief(string(got)))
		}
		wantErrorEvent(t, event, proxy.CodeStreamLimit)
		if len(sent) > limit || len(sent) < limit-8<<10 {
			t.Errorf("%d bytes passed, the limit is %d", len(sent), limit)
		}
	})
}

func TestF19GzipBombAsAPlainAnswerIsRefused(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithLimits(proxy.Limits{ResponseBytes: 1 << 20}))
	f.up.Queue(proxytest.JSON(http.StatusOK, gzipBomb(16<<20)).WithHeader("Content-Encoding", "gzip"))
	res, body := f.post(t, streamPath, plainRequest)
	if res.StatusCode != http.StatusBadGateway || !strings.Contains(body, `"upstream_bad_response"`) {
		t.Errorf("%d %s", res.StatusCode, brief(body))
	}
}

// The limit of a plain answer does not hold for a stream as it was sent.
func TestStreamMayBeLongerThanAPlainAnswer(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithLimits(proxy.Limits{ResponseBytes: 1 << 10}))
	f.up.Queue(proxytest.Stream(proxytest.Text(strings.Repeat("data: a\n\n", 10_000))))
	res := open(within(t), t, f, streamPath, streamRequest)
	wantRest(t, res.Body, strings.Repeat("data: a\n\n", 10_000))
}

func TestF3F4F23CleanEndStaysClean(t *testing.T) {
	t.Parallel()
	const one = "data: a\n\n"
	stream := func(text string) proxytest.Answer { return proxytest.Stream(proxytest.Text(text)) }
	answers := []struct {
		name, text string
		answer     func(text string) proxytest.Answer
	}{
		{"[DONE]", "data: a\n\ndata: [DONE]\n\n", stream},
		{"no [DONE]", one, stream},
		{"within a line", "data: a\n\ndata: {\"hal", stream},
		{"nothing", "", stream},
		{"an error object", `data: {"error":{"message":"overloaded","type":"server_error","param":null,"code":null}}` + "\n\n", stream},
		{"close-delimited", one, func(text string) proxytest.Answer {
			return proxytest.Raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + text)
		}},
		{"HTTP/1.0", one, func(text string) proxytest.Answer {
			return proxytest.Raw("HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + text)
		}},
		{"a Content-Length", one, func(text string) proxytest.Answer {
			return stream(text).WithHeader("Content-Length", strconv.Itoa(len(text)))
		}},
		{"trailers", one, func(text string) proxytest.Answer {
			// Raw closes the connection: without the header it might be used again before.
			return proxytest.Raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" +
				chunked(text) + "0\r\nX-Trailer: 1\r\n\r\n")
		}},
		{"gzip", one, func(text string) proxytest.Answer {
			return proxytest.Stream(texts(gzipPieces(text)...)...).WithHeader("Content-Encoding", "gzip")
		}},
	}
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		for host, wrap := range breakingHosts() {
			f := w.start(t, wrap)
			for _, tt := range answers {
				t.Run(host+"/"+tt.name, func(t *testing.T) {
					f.up.Queue(tt.answer(tt.text))
					res := open(within(t), t, f, streamPath, streamRequest)
					wantRest(t, res.Body, tt.text)
					if len(res.Trailer) != 0 {
						t.Errorf("trailers %v", res.Trailer)
					}
				})
			}
		}
	})
}

// limitedBy gives every request a deadline, as a timeout middleware does.
func limitedBy(d time.Duration) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), d)
			defer cancel()
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}

func TestDeadlineOfTheHostBreaksAStream(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		for _, tail := range tails {
			f := w.start(t, limitedBy(3*time.Second))
			f.up.Queue(proxytest.Stream(proxytest.Text(tail.text), proxytest.Silence()))
			res := open(t.Context(), t, f, streamPath, streamRequest)
			wantNext(t, res.Body, tail.text)
			wantBroken(t, w, res.Body, tail.missing, proxy.CodeUpstreamTimeout)
			wantCanceled(t, f.up.Next())
		}
	})
}

func TestDeadlineOfTheHostBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, limitedBy(3*time.Second))
		for _, request := range []string{streamRequest, plainRequest} {
			f.up.Queue(proxytest.Hang())
			began := time.Now()
			res, body := f.post(t, streamPath, request)
			if res.StatusCode != http.StatusGatewayTimeout || !strings.Contains(body, `"upstream_timeout"`) {
				t.Errorf("%d %s", res.StatusCode, body)
			}
			if took := time.Since(began); took != 3*time.Second {
				t.Errorf("answered after %v", took)
			}
			wantCanceled(t, f.up.Next())
		}
	})
}

// A middleware may end a request without a deadline; the client is still there
// and must not take what it has for the whole.
func TestRequestCancelledByTheHostBreaksAStream(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		stop := make(chan struct{})
		f := w.start(t, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancel(r.Context())
				defer cancel()
				go func() {
					select {
					case <-stop:
					case <-ctx.Done():
					}
					cancel()
				}()
				next.ServeHTTP(w, r.WithContext(ctx))
			})
		})
		f.up.Queue(proxytest.Stream(proxytest.Text("data: on"), proxytest.Silence()))
		res := open(within(t), t, f, streamPath, streamRequest)
		wantNext(t, res.Body, "data: on")
		close(stop)
		rest, err := io.ReadAll(res.Body)
		wantCutError(t, w.http2, err)
		if event, ok := strings.CutPrefix(string(rest), "\n\n"); !ok || !errorEvent.MatchString(event) {
			t.Errorf("the stream ends with %q", rest)
		}
		wantCanceled(t, f.up.Next())
	})
}

func TestBrokenStreamDoesNotHurtItsNeighbours(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		gate, next := gates(1)
		f.up.Queue(proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Gate(gate[0]), proxytest.Text("data: b\n\n")))
		neighbour := open(within(t), t, f, streamPath, streamRequest)
		wantNext(t, neighbour.Body, "data: a\n\n")
		for range 20 {
			f.up.Queue(proxytest.Stream(proxytest.Text("data: x\n\n"), proxytest.Cut()))
			res := open(within(t), t, f, streamPath, streamRequest)
			wantNext(t, res.Body, "data: x\n\n")
			wantBroken(t, w, res.Body, "", proxy.CodeUpstreamDisconnected)
		}
		next()
		wantRest(t, neighbour.Body, "data: b\n\n")
	})
}
