package proxy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

const (
	streamPath    = "/v1/chat/completions"
	streamRequest = `{"model":"m","messages":[],"stream":true}`
	plainRequest  = `{"model":"m","messages":[]}`
)

// wire is a choice of protocols for the two sides of the proxy.
type wire struct {
	name             string
	client, upstream []proxytest.ServerOption
	http2            bool // towards the client
}

// everyWire is both protocols on both sides.
func everyWire() []wire {
	h2 := []proxytest.ServerOption{proxytest.HTTP2()}
	return []wire{
		{"HTTP/1.1 to HTTP/1.1", nil, nil, false},
		{"HTTP/1.1 to HTTP/2", nil, h2, false},
		{"HTTP/2 to HTTP/1.1", h2, nil, true},
		{"HTTP/2 to HTTP/2", h2, h2, true},
	}
}

// clientWires is both protocols towards the client, over HTTP/1.1 to the
// upstream.
func clientWires() []wire {
	all := everyWire()
	return []wire{all[0], all[2]}
}

// inMemory puts both sides on pipes.
func (w wire) inMemory() wire {
	w.client = append(slices.Clone(w.client), proxytest.InMemory())
	w.upstream = append(slices.Clone(w.upstream), proxytest.InMemory())
	return w
}

func (w wire) start(t testing.TB, wrap func(http.Handler) http.Handler, options ...proxy.Option) *fixture {
	t.Helper()
	return setup{client: w.client, upstream: w.upstream, wrap: wrap, options: options}.start(t)
}

// eachWire runs a parallel subtest per wire.
func eachWire(t *testing.T, wires []wire, f func(*testing.T, wire)) {
	t.Helper()
	for _, w := range wires {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			f(t, w)
		})
	}
}

// eachBubble runs a parallel subtest per protocol towards the client, in memory
// and under a clock of its own. A goroutine that does not end fails it.
func eachBubble(t *testing.T, f func(*testing.T, wire)) {
	t.Helper()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		synctest.Test(t, func(t *testing.T) { f(t, w.inMemory()) })
	})
}

// within is a context for waits that only a defect makes long.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// open posts a request and returns when the headers are there.
func open(ctx context.Context, t testing.TB, f *fixture, path, body string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := f.Client().Do(req)
	if err != nil {
		t.Fatalf("no headers: %v", err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// wantNext reads exactly want.
func wantNext(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r, got)
	if err != nil || string(got) != want {
		t.Fatalf("read %s, %v, want %s", brief(string(got[:n])), err, brief(want))
	}
}

// wantRest reads to a clean end.
func wantRest(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != want {
		t.Errorf("read %s, %v, want %s and a clean end", brief(string(got)), err, brief(want))
	}
}

// brief quotes a text that may be long.
func brief(s string) string {
	if len(s) <= 600 {
		return strconv.Quote(s)
	}
	return fmt.Sprintf("%q... %d bytes ...%q", s[:200], len(s), s[len(s)-200:])
}

// gates returns n gates, and a function that opens the next one.
func gates(n int) (all []chan struct{}, next func()) {
	for range n {
		all = append(all, make(chan struct{}))
	}
	left := all
	return all, func() {
		close(left[0])
		left = left[1:]
	}
}

func texts(pieces ...string) []proxytest.Step {
	steps := make([]proxytest.Step, 0, len(pieces))
	for _, p := range pieces {
		steps = append(steps, proxytest.Text(p))
	}
	return steps
}

func TestStreamHeadersComeBeforeTheFirstEvent(t *testing.T) {
	t.Parallel()
	eachWire(t, everyWire(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		for _, path := range []string{"/", "/chat/completions", streamPath} {
			gate, next := gates(1)
			f.up.Queue(proxytest.Stream(proxytest.Gate(gate[0]), proxytest.Text("data: [DONE]\n\n")))
			res := open(within(t), t, f, path, streamRequest)
			next()
			wantRest(t, res.Body, "data: [DONE]\n\n")
		}
	})
}

func TestStreamHeadersAreExact(t *testing.T) {
	t.Parallel()
	eachWire(t, everyWire(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		f.up.Queue(proxytest.Stream(proxytest.Text("data: [DONE]\n\n")).
			WithHeader("Retry-After", "3").WithHeader("Retry-After-Ms", "2500").WithHeader("X-Should-Retry", "false").
			WithHeader("Cache-Control", "public, max-age=1").WithHeader("X-Accel-Buffering", "yes").
			WithHeader("X-Internal", "secret").WithHeader("Content-Length", "14"))
		res := open(within(t), t, f, streamPath, streamRequest)
		wantRest(t, res.Body, "data: [DONE]\n\n")
		res.Header.Del("Date")
		want := http.Header{
			"Content-Type":                   {"text/event-stream; charset=utf-8"},
			"Cache-Control":                  {"no-cache, no-transform"},
			"X-Accel-Buffering":              {"no"},
			"X-Content-Type-Options":         {"nosniff"},
			"X-Request-Id":                   {"req_00000000000000000000000000000001"},
			"Openai-Version":                 {"2020-10-01"},
			"Openai-Processing-Ms":           {"42"},
			"Retry-After":                    {"3"},
			"Retry-After-Ms":                 {"2500"},
			"X-Should-Retry":                 {"false"},
			"X-Ratelimit-Limit-Requests":     {"500"},
			"X-Ratelimit-Limit-Tokens":       {"30000"},
			"X-Ratelimit-Remaining-Requests": {"499"},
			"X-Ratelimit-Remaining-Tokens":   {"29979"},
			"X-Ratelimit-Reset-Requests":     {"120ms"},
			"X-Ratelimit-Reset-Tokens":       {"42ms"},
		}
		if res.StatusCode != http.StatusOK || !maps.EqualFunc(res.Header, want, slices.Equal[[]string]) {
			t.Errorf("status %d, headers\n%v\nwant\n%v", res.StatusCode, res.Header, want)
		}
		if res.ContentLength != -1 {
			t.Errorf("Content-Length %d on a stream", res.ContentLength)
		}
	})
}

// streamShape is what an upstream may send as a stream, in the pieces in which
// it sends it.
type streamShape struct {
	name   string
	pieces []string
}

// everyByte sends a text one byte at a time.
func everyByte(s string) []string {
	out := make([]string, 0, len(s))
	for i := range len(s) {
		out = append(out, s[i:i+1])
	}
	return out
}

func whole(s string) []string { return []string{s} }

// streamShapes are well-formed, odd and broken event streams.
func streamShapes() []streamShape {
	const chunk = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Grüße 🙂"},"finish_reason":null}]}`
	lines := func(end string, l ...string) string { return strings.Join(l, end) + end }
	image := `{"type":"image_generation.partial_image","b64_json":"` + strings.Repeat("iVBORw0K", 20<<10) + `","partial_image_index":0}`
	return []streamShape{
		{"nothing at all", nil},
		{"LF", whole(lines("\n", chunk, "", "data: [DONE]", ""))},
		{"CRLF", whole(lines("\r\n", chunk, "", "data: [DONE]", ""))},
		{"CR", whole(lines("\r", chunk, "", "data: [DONE]", ""))},
		{"line ends mixed", whole("data: a\r\n\ndata: b\n\r\ndata: c\r\rdata: d\n\n")},
		{"LF CR", whole("data: a\n\rdata: b\n\r")},
		{"CR CRLF", whole("data: a\r\r\ndata: b\r\r\n")},
		{"CRLF torn", []string{"data: a\r", "\n\r", "\ndata: b\r", "\n\r", "\n"}},
		{"LF LF torn", []string{"data: a\n", "\ndata: b\n", "\n"}},
		{"CR CR torn", []string{"data: a\r", "\rdata: b\r", "\r"}},
		{"one byte per piece LF", everyByte(lines("\n", chunk, "", "data: [DONE]", ""))},
		{"one byte per piece CRLF", everyByte(lines("\r\n", chunk, "", "data: [DONE]", ""))},
		{"one byte per piece CR", everyByte(lines("\r", chunk, "", "data: [DONE]", ""))},
		{"seven bytes per piece", slices.Collect(func(yield func(string) bool) {
			for part := range slices.Chunk([]byte(lines("\n", chunk, "", chunk, "", "data: [DONE]", "")), 7) {
				if !yield(string(part)) {
					return
				}
			}
		})},
		{"UTF-8 torn in a character", []string{"data: \xf0\x9f", "\x99\x82\n\ndata: \xc3", "\xbc\n\n"}},
		{"BOM", whole("\xef\xbb\xbfdata: a\n\n")},
		{"BOM torn", []string{"\xef", "\xbb", "\xbfdata: a\n\n"}},
		{"BOM twice", whole("\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n")},
		{"BOM in the middle", whole("data: a\n\n\xef\xbb\xbfdata: b\n\n")},
		{"BOM alone", whole("\xef\xbb\xbf")},
		{"no space after data", whole("data:{\"a\":1}\n\ndata:[DONE]\n\n")},
		{"two spaces after data", whole("data:  a\n\n")},
		{"tab after data", whole("data:\ta\n\n")},
		{"space before the colon", whole("data : a\n\n")},
		{"data without a colon", whole("data\n\ndata\ndata\n\n")},
		{"empty data", whole("data:\n\ndata: \n\n")},
		{"capital Data", whole("Data: a\nDATA: b\n\n")},
		{"multi-line data", whole("data: {\ndata: \"a\":1\ndata: }\n\n")},
		{"multi-line data torn", []string{"data: {\nda", "ta: \"a\":1\ndata", ": }\n", "\n"}},
		{"comment", whole(": hello\ndata: a\n\n")},
		{"comment event", whole(": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\ndata: a\n\n")},
		{"bare colon", whole(":\n:\n\n:\ndata: a\n\n")},
		{"ping every event", whole(strings.Repeat(": ping\n\ndata: a\n\n", 200))},
		{"event name", whole("event: message\ndata: a\n\nevent: error\ndata: b\n\n")},
		{"event after data", whole("data: a\nevent: late\n\n")},
		{"id", whole("id: 1\ndata: a\n\nid\ndata: b\n\nid: \x00\ndata: c\n\n")},
		{"retry", whole("retry: 3000\n\nretry: never\ndata: a\n\n")},
		{"unknown fields", whole("foo: bar\nx-y: z\ndata: a\nfoobar\n\n")},
		{"NUL", whole("data: a\x00b\n\n\x00\n\n")},
		{"control characters", whole("data: \x01\x02\x1b[31m\x7f\x0b\x0c\n\n")},
		{"not UTF-8", whole("data: \xff\xfe\xc0\xaf\xed\xa0\x80\n\n")},
		{"every byte value", whole("data: " + allBytes() + "\n\n")},
		{"line separators of Unicode", whole("data: a\u2028b\u2029c\u0085d\n\n")},
		{"leading blank lines", whole("\n\n\ndata: a\n\n")},
		{"many blank lines", whole("data: a\n\n\n\n\r\n\r\n\r\rdata: b\n\n")},
		{"trailing blank lines", whole("data: [DONE]\n\n\n\n")},
		{"[DONE] torn in the word", []string{"data: a\n\ndata: [DO", "NE]\n\n"}},
		{"[DONE] torn before its blank line", []string{"data: a\n\ndata: [DONE]", "\n", "\n"}},
		{"[DONE] twice", whole("data: a\n\ndata: [DONE]\n\ndata: [DONE]\n\n")},
		{"[DONE] and more", whole("data: [DONE]\n\ndata: {\"after\":true}\n\n")},
		{"[DONE] first", whole("data: [DONE]\n\ndata: a\n\ndata: [DONE]\n\n")},
		{"no [DONE]", whole("data: a\n\n")},
		{"no blank line at the end", whole("data: a\n\ndata: [DONE]")},
		{"one line end at the end", whole("data: a\n\ndata: [DONE]\n")},
		{"end within a line", whole("data: a\n\ndata: {\"hal")},
		{"5 MiB line", whole("data: " + strings.Repeat("x", 5<<20) + "\n\ndata: [DONE]\n\n")},
		{"5 MiB without a line end", whole(strings.Repeat("y", 5<<20))},
		{"64 KiB line", whole("data: " + strings.Repeat("x", 64<<10) + "\n\n")},
		{"64 KiB and one", whole("data: " + strings.Repeat("x", 64<<10-5) + "\n\n")},
		{"line of one buffer", whole("data: " + strings.Repeat("x", 4096-8) + "\n\n")},
		{"line of one buffer less one", whole("data: " + strings.Repeat("x", 4096-9) + "\n\ndata: b\n\n")},
		{"ten thousand lines in one event", whole(strings.Repeat("data: a\n", 10_000) + "\n")},
		{"ten thousand events", whole(strings.Repeat("data: a\n\n", 10_000))},
		{"image events", whole("event: image_generation.partial_image\ndata: " + image + "\n\n" +
			"event: image_generation.completed\ndata: " + strings.Replace(image, "partial_image", "completed", 1) + "\n\n")},
		{"tool calls", whole(
			`data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]},"finish_reason":null}]}` + "\n\n" +
				`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":9007199254740993}"}}]},"finish_reason":null}]}` + "\n\n" +
				`data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}` + "\n\ndata: [DONE]\n\n")},
		{"obfuscation", whole(`data: {"choices":[{"index":0,"delta":{"content":"a"}}],"obfuscation":"q7Zk2"}` + "\n\n")},
		{"usage", whole(`data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}` + "\n\ndata: [DONE]\n\n")},
		{"usage null", whole(`data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}` + "\n\n")},
		{"content filter without choices", whole(`data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}` + "\n\n")},
		{"error object", whole(`data: {"error":{"message":"The server experienced an error","type":"server_error","param":null,"code":null}}` + "\n\ndata: [DONE]\n\n")},
		{"error object and nothing after it", whole("data: a\n\n" + `data: {"error":{"message":"overloaded","type":"server_error","param":null,"code":null}}` + "\n\n")},
		{"error event", whole("event: error\n" + `data: {"error":{"message":"overloaded"}}` + "\n\n")},
		{"key-like text", whole("data: sk-abcdefghijklmnopqrstuvwx org-abcdefgh proj_abcdefgh\n\n")},
		{"JSON and no events", whole(`{"error":{"message":"not a stream at all"}}`)},
		{"HTML", whole("<html><body>502 Bad Gateway</body></html>")},
		{"chunked framing as content", whole("5\r\nhello\r\n0\r\n\r\n")},
		{"deep nesting", whole("data: " + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "\n\n")},
	}
}

func allBytes() string {
	b := make([]byte, 0, 256)
	for i := range 256 {
		b = append(b, byte(i))
	}
	return string(b)
}

func TestI5StreamBytesPassUntouched(t *testing.T) {
	t.Parallel()
	if n := len(streamShapes()); n < 60 {
		t.Errorf("%d shapes, want 60 at least", n)
	}
	eachWire(t, everyWire(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		for _, shape := range streamShapes() {
			t.Run(shape.name, func(t *testing.T) {
				f.up.Queue(proxytest.Stream(texts(shape.pieces...)...))
				res := open(within(t), t, f, streamPath, streamRequest)
				wantRest(t, res.Body, strings.Join(shape.pieces, ""))
			})
		}
	})
}

// On a pipe no two pieces come together, as they may from a network.
func TestF9StreamBytesPassUntouchedPieceByPiece(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithHooks(proxy.Hooks{Done: func(context.Context, proxy.Call, proxy.Outcome) {}}))
		for _, shape := range streamShapes() {
			f.up.Queue(proxytest.Stream(texts(shape.pieces...)...))
			res := open(t.Context(), t, f, streamPath, streamRequest)
			got, err := io.ReadAll(res.Body)
			if want := strings.Join(shape.pieces, ""); err != nil || string(got) != want {
				t.Errorf("%s: read %s, %v, want %s", shape.name, brief(string(got)), err, brief(want))
			}
		}
	})
}

// Each piece reaches the client before the upstream sends the next, whatever it is
// a piece of.
func TestF9EachPieceGoesOutBeforeTheNextIsSent(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithHooks(proxy.Hooks{Done: func(context.Context, proxy.Call, proxy.Outcome) {}}))
		for _, shape := range streamShapes() {
			next := make(chan struct{})
			var steps []proxytest.Step
			for _, p := range shape.pieces {
				steps = append(steps, proxytest.Gate(next), proxytest.Text(p))
			}
			f.up.Queue(proxytest.Stream(append(steps, proxytest.Gate(next))...))
			res := open(t.Context(), t, f, streamPath, streamRequest)
			for _, p := range shape.pieces {
				next <- struct{}{}
				wantNext(t, res.Body, p)
			}
			close(next)
			wantRest(t, res.Body, "")
		}
	})
}

// A slow upstream is passed on at its own pace, to the moment.
func TestF9BytesThatDribbleComeWhenTheyAreSent(t *testing.T) {
	t.Parallel()
	const event = "data: {\"choices\":[{\"delta\":{\"content\":\"Gr\u00fc\u00dfe\"}}]}\r\n\r\n"
	for gap, size := range map[time.Duration]int{500 * time.Millisecond: 1, 3500 * time.Microsecond: 7} { // the latter 2 KB/s
		var steps []proxytest.Step
		var want []string
		for part := range slices.Chunk([]byte(event+event), size) {
			want = append(want, string(part))
			steps = append(steps, proxytest.Pause(gap), proxytest.Text(string(part)))
		}
		t.Run(gap.String(), func(t *testing.T) {
			eachBubble(t, func(t *testing.T, w wire) {
				f := w.start(t, nil)
				f.up.Queue(proxytest.Stream(steps...))
				res := open(t.Context(), t, f, streamPath, streamRequest)
				pieces, at, err := readTimed(t, res.Body)
				if err != nil || !slices.Equal(pieces, want) {
					t.Fatalf("read %q, %v, want %q", pieces, err, want)
				}
				for i := range at {
					if due := time.Duration(i+1) * gap; at[i] != due {
						t.Errorf("%q came after %v, want %v", pieces[i], at[i], due)
					}
				}
			})
		})
	}
}

func TestStreamStatusAndContentTypePass(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.Stream(texts("data: a\n\n")...).WithStatus(http.StatusAccepted).
		WithHeader("Content-Type", `Text/Event-Stream;Charset="UTF-8"`))
	res := open(within(t), t, f, streamPath, streamRequest)
	wantRest(t, res.Body, "data: a\n\n")
	if res.StatusCode != http.StatusAccepted || res.Header.Get("Content-Type") != `Text/Event-Stream;Charset="UTF-8"` {
		t.Errorf("status %d, Content-Type %q", res.StatusCode, res.Header.Get("Content-Type"))
	}
}

func TestStreamPiecesGoOutBeforeTheNextIsSent(t *testing.T) {
	t.Parallel()
	pieces := []string{
		"data: one\n\n", "data: two\r\n\r\n", ": comment\n", "data: ha", "lf\n", "\n", "\xf0\x9f", "\x99\x82", "data: [DONE]\n\n",
	}
	eachWire(t, everyWire(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		gate, next := gates(len(pieces))
		var steps []proxytest.Step
		for i, p := range pieces {
			steps = append(steps, proxytest.Gate(gate[i]), proxytest.Text(p))
		}
		f.up.Queue(proxytest.Stream(steps...))
		res := open(within(t), t, f, streamPath, streamRequest)
		for _, p := range pieces {
			next()
			wantNext(t, res.Body, p)
		}
		wantRest(t, res.Body, "")
	})
}

func TestContentTypeOfTheAnswerDecidesHowItIsRelayed(t *testing.T) {
	t.Parallel()
	const events, object = "data: a\n\n", `{"id":"x"}`
	requests := map[string]string{
		"asked for a stream": streamRequest, "asked for none": plainRequest,
		"asked for stream false": `{"messages":[],"stream":false}`,
	}
	answers := []struct {
		contentType string
		stream      bool
	}{
		{"text/event-stream", true},
		{"text/event-stream; charset=utf-8", true},
		{"TEXT/EVENT-STREAM", true},
		{"text/event-stream ; x=y", true},
		{"application/json", false},
		{"application/json; charset=utf-8", false},
		{"application/problem+json", false},
	}
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		for asked, request := range requests {
			for _, accept := range []string{"", "application/json", "text/event-stream"} {
				for _, answer := range answers {
					t.Run(fmt.Sprintf("%s, Accept %q, %s", asked, accept, answer.contentType), func(t *testing.T) {
						var header []string
						if accept != "" {
							header = []string{"Accept", accept}
						}
						gate, next := gates(1)
						if answer.stream {
							f.up.Queue(proxytest.Stream(proxytest.Text(events), proxytest.Gate(gate[0]), proxytest.Text(events)).
								WithHeader("Content-Type", answer.contentType))
							res := open(within(t), t, f, streamPath, request, header...)
							wantNext(t, res.Body, events) // before the rest is sent
							next()
							wantRest(t, res.Body, events)
							if res.Header.Get("X-Accel-Buffering") != "no" {
								t.Error("not the headers of a stream")
							}
						} else {
							f.up.Queue(proxytest.JSON(http.StatusOK, object).WithHeader("Content-Type", answer.contentType))
							res := open(within(t), t, f, streamPath, request, header...)
							wantRest(t, res.Body, object)
							if res.ContentLength != int64(len(object)) || res.Header.Get("X-Accel-Buffering") != "" {
								t.Errorf("Content-Length %d, headers %v: not those of a plain answer", res.ContentLength, res.Header)
							}
							if got := res.Header.Get("Content-Type"); got != answer.contentType {
								t.Errorf("Content-Type %q", got)
							}
						}
						if got := f.up.Next().Header.Values("Accept"); !slices.Equal(got, header[min(1, len(header)):]) {
							t.Errorf("Accept %q went upstream", got)
						}
					})
				}
			}
		}
	})
}

func TestPlainAnswerWaitsForItsLastByte(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil)
		gate, next := gates(1)
		f.up.Queue(proxytest.Respond(http.StatusOK, http.Header{"Content-Type": {"application/json"}},
			proxytest.Text(`{"id":`), proxytest.Gate(gate[0]), proxytest.Text(`"x"}`)))
		answered := make(chan *http.Response, 1)
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+streamPath, strings.NewReader(streamRequest))
			res, err := f.Client().Do(req)
			if err != nil {
				t.Error(err)
			}
			answered <- res
		}()
		synctest.Wait()
		select {
		case <-answered:
			t.Fatal("the headers went out before the body was whole")
		default:
		}
		next()
		res := <-answered
		defer res.Body.Close()
		wantRest(t, res.Body, `{"id":"x"}`)
	})
}

func TestOnlyTheValueTrueAsksForAStream(t *testing.T) {
	t.Parallel()
	calls := make(chan proxy.Call, 1)
	// Done, not Admit: where a hook judges, "Stream" is refused as ambiguous.
	f := start(t, proxy.WithHooks(proxy.Hooks{Done: func(_ context.Context, call proxy.Call, _ proxy.Outcome) {
		calls <- call
	}}))
	for body, want := range map[string]bool{
		`{"messages":[],"stream":true}`:          true,
		`{"messages":[],"stream" : true }`:       true,
		`{"messages":[],"str\u0065am":true}`:     true,
		`{"messages":[],"stream":false}`:         false,
		`{"messages":[],"stream":null}`:          false,
		`{"messages":[],"stream":"true"}`:        false,
		`{"messages":[],"stream":1}`:             false,
		`{"messages":[],"stream":[true]}`:        false,
		`{"messages":[],"Stream":true}`:          false,
		`{"messages":[],"x":{"stream":true}}`:    false,
		`{"messages":[{"stream":true}]}`:         false,
		`{"messages":[]}`:                        false,
		`{"stream_options":{},"messages":[]}`:    false,
		`{"messages":[],"stream":true,"x":null}`: true,
	} {
		f.up.Queue(proxytest.Chat("hi"))
		f.post(t, streamPath, body, "Accept", "text/event-stream")
		if seen := <-calls; seen.Stream != want {
			t.Errorf("%s: Stream is %t", body, seen.Stream)
		}
	}
}

func TestStreamOfImagesPasses(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		for _, path := range []string{"/v1/images/generations", "/v1/images/edits", "/generate-image"} {
			f.up.Queue(proxytest.ImageStream())
			res := open(within(t), t, f, path, `{"model":"gpt-image-2","prompt":"a cat","stream":true}`)
			events, err := proxytest.ReadEvents(res.Body)
			if err != nil || len(events) != 2 || !strings.HasSuffix(events[1].Name, ".completed") {
				t.Errorf("%s: %d events, %v", path, len(events), err)
			}
		}
	})
}

func TestF20UpstreamIsAskedForNoCompression(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		res := open(within(t), t, f, streamPath, `{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}`,
			"Accept-Encoding", "gzip, br, zstd")
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Error(err)
		}
		if got := f.up.Next().Header.Values("Accept-Encoding"); !slices.Equal(got, []string{"identity"}) {
			t.Errorf("Accept-Encoding %q went upstream", got)
		}
	})
}

// gzipPieces compresses each piece so that it can be decoded when it arrives.
func gzipPieces(pieces ...string) []string {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	out := make([]string, 0, len(pieces)+1)
	take := func() {
		out = append(out, b.String())
		b.Reset()
	}
	for _, p := range pieces {
		_, _ = io.WriteString(zw, p)
		_ = zw.Flush()
		take()
	}
	_ = zw.Close()
	take()
	return out
}

func TestCompressedStreamIsDecodedAsItArrives(t *testing.T) {
	t.Parallel()
	pieces := []string{"data: one\n\n", "data: two\n\n", "data: thr", "ee\n\n", "data: [DONE]\n\n"}
	eachWire(t, everyWire(), func(t *testing.T, w wire) {
		for _, coding := range []string{"gzip", "x-gzip", "GZIP"} {
			f := w.start(t, nil)
			gate, next := gates(len(pieces) + 1)
			var steps []proxytest.Step
			for i, p := range gzipPieces(pieces...) {
				steps = append(steps, proxytest.Gate(gate[i]), proxytest.Text(p))
			}
			f.up.Queue(proxytest.Stream(steps...).WithHeader("Content-Encoding", coding))
			res := open(within(t), t, f, streamPath, streamRequest)
			for _, p := range pieces {
				next()
				wantNext(t, res.Body, p)
			}
			next()
			wantRest(t, res.Body, "")
			if got := res.Header.Values("Content-Encoding"); got != nil {
				t.Errorf("Content-Encoding %q reached the client", got)
			}
		}
	})
}

func TestStreamInAnUnknownCodingIsRefused(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, coding := range []string{"br", "zstd", "deflate", "gzip, br", "x"} {
		f.up.Queue(proxytest.Stream(texts("data: a\n\n")...).WithHeader("Content-Encoding", coding))
		res, body := f.post(t, streamPath, streamRequest)
		if res.StatusCode != http.StatusBadGateway || !strings.Contains(body, `"upstream_bad_response"`) {
			t.Errorf("%s: %d %s", coding, res.StatusCode, body)
		}
	}
}

func TestErrorBeforeTheStreamKeepsItsStatus(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		f.up.Queue(proxytest.RateLimited(2*time.Second),
			proxytest.Failure(http.StatusBadRequest, "invalid_request_error", "unsupported_value", "stream must be false"),
			proxytest.Stream(texts("data: nothing to see\n\n")...).WithStatus(http.StatusServiceUnavailable))
		for _, want := range []int{http.StatusTooManyRequests, http.StatusBadRequest, http.StatusServiceUnavailable} {
			res, body := f.post(t, streamPath, streamRequest)
			if res.StatusCode != want || res.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%d %s %s, want %d", res.StatusCode, res.Header.Get("Content-Type"), body, want)
			}
		}
	})
}
