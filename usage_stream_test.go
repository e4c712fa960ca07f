package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

func TestStreamUsageIsAskedFor(t *testing.T) {
	t.Parallel()
	const ask = `"stream_options":{"include_usage":true}`
	tests := []struct{ name, path, body, want string }{
		{"absent", streamPath, `{"model":"m","stream":true,"messages":[]}`, `{` + ask + `,"model":"m","stream":true,"messages":[]}`},
		{"null", streamPath, `{"model":"m","stream":true,"stream_options":null,"messages":[]}`, `{"model":"m","stream":true,` + ask + `,"messages":[]}`},
		{"an empty object", streamPath, `{"model":"m","stream":true,"messages":[],"stream_options": {} }`, `{"model":"m","stream":true,"messages":[],"stream_options": {"include_usage":true} }`},
		{"an object without it", streamPath, `{"model":"m","stream_options":{"include_obfuscation" : false},"stream":true,"messages":[]}`, `{"model":"m","stream_options":{"include_usage":true,"include_obfuscation" : false},"stream":true,"messages":[]}`},
		{"numbers and spaces stay", streamPath, "{ \"n\":1.10,\n\"model\":\"m\",\"x\":9007199254740993,\"stream\":true,\"messages\":[] }\n", "{" + ask + ", \"n\":1.10,\n\"model\":\"m\",\"x\":9007199254740993,\"stream\":true,\"messages\":[] }\n"},
		{"spelled with escapes", streamPath, `{"model":"m","stream":true,"stream\u005foptions":null,"messages":[]}`, `{"model":"m","stream":true,"stream\u005foptions":{"include_usage":true},"messages":[]}`},
		{"asked for", streamPath, `{"model":"m","stream":true,"messages":[],` + ask + `}`, ""},
		{"refused", streamPath, `{"model":"m","stream":true,"messages":[],"stream_options":{"include_usage":false}}`, ""},
		{"undecided", streamPath, `{"model":"m","stream":true,"messages":[],"stream_options":{"include_usage":null}}`, ""},
		{"asked for with escapes", streamPath, `{"model":"m","stream":true,"messages":[],"stream_options":{"include\u005fusage":true}}`, ""},
		{"no object", streamPath, `{"model":"m","stream":true,"messages":[],"stream_options":"x"}`, ""},
		{"a list", streamPath, `{"model":"m","stream":true,"messages":[],"stream_options":[]}`, ""},
		{"no stream", streamPath, `{"model":"m","messages":[]}`, ""},
		{"stream false", streamPath, `{"model":"m","stream":false,"messages":[]}`, ""},
		{"stream is a text", streamPath, `{"model":"m","stream":"true","messages":[]}`, ""},
		{"an image", "/v1/images/generations", `{"model":"m","prompt":"a cat","stream":true}`, ""},
		{"an edit", "/v1/images/edits", `{"model":"m","prompt":"a cat","stream":true}`, ""},
		{"on the worker's route", "/", `{"model":"m","stream":true,"messages":[]}`, `{` + ask + `,"model":"m","stream":true,"messages":[]}`},
		{"an image on the worker's route", "/", `{"model":"m","stream":true,"prompt":"a cat"}`, ""},
	}
	asking, silent := start(t, proxy.WithStreamUsage(true)), start(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for f, want := range map[*fixture]string{asking: tt.want, silent: ""} {
				if want == "" {
					want = tt.body
				}
				f.up.Queue(proxytest.JSON(http.StatusOK, "{}"))
				f.post(t, tt.path, tt.body)
				if got := f.up.Next().Body; string(got) != want {
					t.Errorf("forwarded %s, want %s", got, want)
				}
			}
		})
	}
}

func TestStreamUsageIsAskedForBehindRewrite(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithStreamUsage(true), proxy.WithHooks(proxy.Hooks{
		Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) {
			return []byte(`{"messages":[],"model":"forced","stream":true}`), nil
		},
	}))
	f.up.Queue(proxytest.Stream(texts("data: a\n\n", usageEvent)...))
	_, body := f.post(t, streamPath, plainRequest)
	if want := `{"stream_options":{"include_usage":true},"messages":[],"model":"forced","stream":true}`; string(f.up.Next().Body) != want {
		t.Errorf("forwarded %s", f.up.Requests()[0].Body)
	}
	if body != "data: a\n\n" {
		t.Errorf("relayed %q", body)
	}
}

const usageEvent = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}` + "\n\n"

// eventStreams are streams in their events, with the ones that are left out
// where the client did not ask for usage.
func eventStreams() []struct {
	name   string
	events []string
	hidden []bool
} {
	chunk := func(content string) string {
		return `data: {"choices":[{"index":0,"delta":{"content":"` + content + `"}}],"usage":null}` + "\n\n"
	}
	const done = "data: [DONE]\n\n"
	with := func(before, after string) []string {
		events := []string{chunk("Hel"), chunk("lo"), usageEvent, done}
		for i := range events {
			events[i] = strings.ReplaceAll(events[i], before, after)
		}
		return events
	}
	third := []bool{2: true}
	return []struct {
		name   string
		events []string
		hidden []bool
	}{
		{"LF", with("", ""), third},
		{"CRLF", with("\n", "\r\n"), third},
		{"CR", with("\n", "\r"), third},
		{"mixed", with("\n\n", "\r\n\n"), third},
		{"no space behind data", with("data: ", "data:"), third},
		{"spaces in the JSON", with(`":`, `": `), third},
		{"spaces in the list", with(`"choices":[]`, `"choices": [ ]`), third},
		{"spaces before the colons", with(`":`, `" :`), third},
		{"a name and an id", with("data: ", "event: chunk\nid: 7\ndata: "), third},
		{"a comment in the event", with("data: ", ": c\ndata: "), third},
		{"usage before choices", []string{chunk("a"), "data: {\"usage\":{\"total_tokens\":1},\"choices\":[]}\n\n", done}, []bool{1: true}},
		{"an empty usage object", []string{chunk("a"), "data: {\"choices\":[],\"usage\":{}}\n\n", done}, []bool{1: true}},
		{"usage first", []string{usageEvent, chunk("a"), done}, []bool{0: true}},
		{"usage last", []string{chunk("a"), done, usageEvent}, []bool{2: true}},
		{"usage alone", []string{usageEvent}, []bool{0: true}},
		{"null usage", []string{"data: {\"choices\":[],\"usage\":null}\n\n", done}, nil},
		{"no usage", []string{"data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n", done}, nil},
		{"choices beside the usage", []string{`data: {"choices":[{"index":0,"delta":{}}],"usage":{"total_tokens":1}}` + "\n\n", done}, nil},
		{"no choices at all", []string{`data: {"usage":{"total_tokens":1}}` + "\n\n", done}, nil},
		{"choices null", []string{`data: {"choices":null,"usage":{"total_tokens":1}}` + "\n\n", done}, nil},
		{"usage is a number", []string{`data: {"choices":[],"usage":7}` + "\n\n", done}, nil},
		{"usage below", []string{`data: {"choices":[],"x":{"usage":{"total_tokens":1}}}` + "\n\n", done}, nil},
		{"usage in a text", []string{chunk(`\"choices\":[],\"usage\":{}`), done}, nil},
		{"usage in a comment", []string{": " + strings.TrimPrefix(usageEvent, "data: "), done}, nil},
		{"usage in another field", []string{"x-" + usageEvent, done}, nil},
		{"an error object", []string{"data: {\"error\":{\"message\":\"x\"}}\n\n", done}, nil},
		{"no events", []string{"<html>\n", "\n", "</html>"}, nil},
		{"blank lines between", []string{"\n", chunk("a"), "\n", "\n", usageEvent, "\n", done, "\n"}, []bool{4: true}},
		{"an end within a line", []string{chunk("a"), "data: {\"choices\":[],\"usa"}, nil},
		{"an end behind a line", []string{chunk("a"), "data: [DONE]\n"}, nil},
		{"BOM", []string{"\xef\xbb\xbf" + chunk("a"), usageEvent, done}, []bool{1: true}},
		{"longer than is held", []string{chunk(strings.Repeat("x", 100<<10)), usageEvent, done}, []bool{1: true}},
		{"longer than is held, with CRLF", []string{
			strings.ReplaceAll(chunk(strings.Repeat("x", 100<<10)), "\n", "\r\n"),
			strings.ReplaceAll(usageEvent, "\n", "\r\n"), done,
		}, []bool{1: true}},
		{"longer than is held, of many lines", []string{strings.Repeat("data: abcdefgh\n", 10_000) + "\n", usageEvent, done}, []bool{1: true}},
		{"exactly as long as is held", []string{"data: " + strings.Repeat("x", 64<<10-8) + "\n\n", usageEvent, done}, []bool{1: true}},
	}
}

// piecewise is a body that gives no more than one piece per read.
type piecewise struct {
	rest []byte
	size func() int
}

func (r *piecewise) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest[:max(1, min(r.size(), len(r.rest)))])
	r.rest = r.rest[n:]
	return n, nil
}

func (r *piecewise) Close() error { return nil }

// bodyKey finds the upstream's body in the context of a request.
type bodyKey struct{}

// bodyTransport answers with a stream whose body the context brings.
type bodyTransport struct{}

func (bodyTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: -1,
		Header: http.Header{"Content-Type": {"text/event-stream"}}, Request: req,
		Body: req.Context().Value(bodyKey{}).(io.ReadCloser),
	}, nil
}

// unconnected makes a handler whose upstream is a body in the context.
func unconnected(t testing.TB, options ...proxy.Option) http.Handler {
	t.Helper()
	h, err := proxy.NewHandler(append([]proxy.Option{proxy.WithKey("k"), proxy.WithTransport(bodyTransport{})}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// through passes a stream through a handler in pieces of the given sizes.
func through(h http.Handler, stream []byte, size func() int) []byte {
	ctx := context.WithValue(context.Background(), bodyKey{}, io.ReadCloser(&piecewise{stream, size}))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequestWithContext(ctx, http.MethodPost, streamPath, strings.NewReader(streamRequest)))
	return rec.Body.Bytes()
}

func TestStreamUsageEventIsLeftOutInAnyChunking(t *testing.T) {
	t.Parallel()
	hiding, plain := unconnected(t, proxy.WithStreamUsage(true)), unconnected(t)
	for _, tt := range eventStreams() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stream := []byte(strings.Join(tt.events, ""))
			var want []byte
			for i, event := range tt.events {
				if i >= len(tt.hidden) || !tt.hidden[i] {
					want = append(want, event...)
				}
			}
			check := func(how string, size func() int) {
				if got := through(hiding, slices.Clone(stream), size); !bytes.Equal(got, want) {
					t.Errorf("%s: %s, want %s", how, brief(string(got)), brief(string(want)))
				}
				if got := through(plain, slices.Clone(stream), size); !bytes.Equal(got, stream) {
					t.Errorf("%s, without the option: %s, want %s", how, brief(string(got)), brief(string(stream)))
				}
			}
			for _, n := range []int{1, 2, 3, 5, 7, 64, 1000, 4096, 1 << 20} {
				if n > 5 || len(stream) < 16<<10 {
					check(fmt.Sprintf("%d at once", n), func() int { return n })
				}
			}
			if len(stream) > 4096 {
				return
			}
			for i := range stream { // torn once, everywhere
				first := true
				check(fmt.Sprintf("torn at %d", i), func() int {
					if first {
						first = false
						return max(i, 1)
					}
					return len(stream)
				})
				if t.Failed() {
					return
				}
			}
		})
	}
}

func TestStreamUsageOverConnections(t *testing.T) {
	t.Parallel()
	eachWire(t, everyWire(), func(t *testing.T, w wire) {
		var book outcomes
		f := w.start(t, nil, proxy.WithStreamUsage(true), book.hook())
		const hello = `{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}`
		res := open(within(t), t, f, streamPath, hello)
		got, err := io.ReadAll(res.Body)
		if err != nil || strings.Contains(string(got), "total_tokens") || !strings.HasSuffix(string(got), "data: [DONE]\n\n") {
			t.Errorf("%q, %v", got, err)
		}
		f.Close()
		want := proxy.Usage{Reported: true, PromptTokens: 9, CompletionTokens: 12, TotalTokens: 21}
		if out := book.only(t); out.Usage != want || out.Ending != proxy.EndingComplete || out.Bytes != int64(len(got)) {
			t.Errorf("outcome %+v", out)
		}
	})
}

func TestStreamUsageGoesOutEventByEvent(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithStreamUsage(true))
		gate, next := gates(5)
		long := "data: " + strings.Repeat("x", 100<<10)
		f.up.Queue(proxytest.Stream(
			proxytest.Gate(gate[0]), proxytest.Text("data: a\n\n"),
			proxytest.Gate(gate[1]), proxytest.Text("data: b\n\ndata: c"),
			proxytest.Gate(gate[2]), proxytest.Text("\n\n"),
			proxytest.Gate(gate[3]), proxytest.Text(long),
			proxytest.Gate(gate[4]), proxytest.Text("\n\n"+usageEvent+"data: [DONE]\n\n")))
		res := open(within(t), t, f, streamPath, streamRequest)
		for _, want := range []string{"data: a\n\n", "data: b\n\n", "data: c\n\n", long} {
			next()
			wantNext(t, res.Body, want)
		}
		next()
		wantRest(t, res.Body, "\n\ndata: [DONE]\n\n")
	})
}

// Whoever asks himself gets his usage, and his stream by read.
func TestStreamUsageOfAClientThatAsksIsUntouched(t *testing.T) {
	t.Parallel()
	for _, options := range []string{`{"include_usage":true}`, `{"include_usage":false}`} {
		f := start(t, proxy.WithStreamUsage(true))
		gate, next := gates(1)
		torn := usageEvent[:30]
		f.up.Queue(proxytest.Stream(proxytest.Text(torn), proxytest.Gate(gate[0]), proxytest.Text(usageEvent[30:])))
		res := open(within(t), t, f, streamPath, `{"messages":[],"stream":true,"stream_options":`+options+`}`)
		wantNext(t, res.Body, torn)
		next()
		wantRest(t, res.Body, usageEvent[30:])
	}
}

func TestSideScanHoldsNothingBack(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		f := w.start(t, nil, (&outcomes{}).hook())
		pieces := []string{"d", "ata: {\"choices\":[],\"us", "age\":{\"total_tok", "ens\":3}}", "\r", "\n", "\r", "\n"}
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

func TestStreamUsageOfABrokenStream(t *testing.T) {
	t.Parallel()
	eachWire(t, clientWires(), func(t *testing.T, w wire) {
		for sent, want := range map[string]string{
			"data: a\n\n" + usageEvent:      "data: a\n\n",
			"data: a\n\ndata: b":            "data: a\n\ndata: b\n\n",
			"data: a\n\ndata: b\n":          "data: a\n\ndata: b\n\n\n",
			usageEvent + "data: {\"choices": "data: {\"choices\n\n",
		} {
			f := w.start(t, nil, proxy.WithStreamUsage(true))
			f.up.Queue(proxytest.Stream(proxytest.Text(sent), proxytest.Cut()))
			res := open(within(t), t, f, streamPath, streamRequest)
			wantNext(t, res.Body, want)
			wantBroken(t, w, res.Body, "", proxy.CodeUpstreamDisconnected)
		}
	})
}

func TestDoneLearnsTheUsage(t *testing.T) {
	t.Parallel()
	const details = `{"prompt_tokens":10,"completion_tokens":20,"total_tokens":30,` +
		`"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":16}}`
	detailed := proxy.Usage{Reported: true, PromptTokens: 10, CompletionTokens: 20, TotalTokens: 30, CachedTokens: 4, ReasoningTokens: 16}
	const image = `{"total_tokens":100,"input_tokens":50,"output_tokens":50,"input_tokens_details":{"text_tokens":10,"image_tokens":40}}`
	ofImage := proxy.Usage{Reported: true, PromptTokens: 50, CompletionTokens: 50, TotalTokens: 100, ImagePromptTokens: 40}
	stream := func(s string) proxytest.Answer { return proxytest.Stream(proxytest.Text(s)) }
	plain := func(s string) proxytest.Answer { return proxytest.JSON(http.StatusOK, s) }
	b64 := strings.Repeat("iVBORw0K", 40<<10)
	tests := []struct {
		name   string
		answer proxytest.Answer
		want   proxy.Usage
		ending proxy.Ending
	}{
		{"stream", stream("data: {\"choices\":[],\"usage\":" + details + "}\n\ndata: [DONE]\n\n"), detailed, proxy.EndingComplete},
		{"stream with CRLF", stream("data: {\"choices\":[],\"usage\":" + details + "}\r\n\r\ndata: [DONE]\r\n\r\n"), detailed, proxy.EndingComplete},
		{"stream with CR", stream("data: {\"choices\":[],\"usage\":" + details + "}\r\rdata: [DONE]\r\r"), detailed, proxy.EndingComplete},
		{"stream in bytes", proxytest.Stream(texts(everyByte("data: {\"choices\":[],\"usage\":" + details + "}\n\ndata: [DONE]\n\n")...)...), detailed, proxy.EndingComplete},
		{"usage beside choices", stream("data: {\"choices\":[{\"finish_reason\":\"stop\"}],\"usage\":" + details + "}\n\n"), detailed, proxy.EndingComplete},
		{"usage with spaces around its colon", stream("data: { \"choices\" : [], \"usage\" : " + details + " }\n\ndata: [DONE]\n\n"), detailed, proxy.EndingComplete},
		{"growing usage", stream("data: {\"choices\":[{}],\"usage\":{\"total_tokens\":1}}\n\ndata: {\"choices\":[],\"usage\":" + details + "}\n\ndata: [DONE]\n\n"), detailed, proxy.EndingComplete},
		{"null behind usage", stream("data: {\"choices\":[],\"usage\":" + details + "}\n\ndata: {\"usage\":null}\n\ndata: [DONE]\n\n"), detailed, proxy.EndingComplete},
		{"usage in a text", stream("data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{\\\"total_tokens\\\":7}\"}}]}\n\ndata: [DONE]\n\n"), proxy.Usage{}, proxy.EndingComplete},
		{"null usage", stream("data: {\"choices\":[],\"usage\":null}\n\ndata: [DONE]\n\n"), proxy.Usage{}, proxy.EndingComplete},
		{"no usage", stream("data: a\n\ndata: [DONE]\n\n"), proxy.Usage{}, proxy.EndingComplete},
		{"no [DONE], a finish_reason", stream("data: {\"choices\":[{\"finish_reason\":\"length\"}]}\n\n"), proxy.Usage{}, proxy.EndingComplete},
		{"no [DONE], no finish_reason", stream("data: {\"choices\":[{\"finish_reason\":null}]}\n\n"), proxy.Usage{}, proxy.EndingIncomplete},
		{"no [DONE], a spaced finish_reason", stream("data: {\"choices\": [{\"finish_reason\": \"stop\"}]}\n\n"), proxy.Usage{}, proxy.EndingComplete},
		{"finish_reason null, then set", stream("data: {\"choices\":[{\"finish_reason\":null},{\"finish_reason\":\"stop\"}]}\n\n"), proxy.Usage{}, proxy.EndingComplete},
		{"an empty stream", stream(""), proxy.Usage{}, proxy.EndingIncomplete},
		{"[DONE] in a text", stream("data: {\"choices\":[{\"delta\":{\"content\":\"[DONE]\"}}]}\n\n"), proxy.Usage{}, proxy.EndingIncomplete},
		{"completed in a text", stream("data: {\"choices\":[{\"delta\":{\"content\":\"task.completed\"}}]}\n\n"), proxy.Usage{}, proxy.EndingIncomplete},
		{"[DONE] without space", stream("data:[DONE]\n\n"), proxy.Usage{}, proxy.EndingComplete},
		{"[DONE] and no line end", stream("data: a\n\ndata: [DONE]"), proxy.Usage{}, proxy.EndingComplete},
		{"an error object", stream("data: {\"error\":{\"message\":\"overloaded\"}}\n\n"), proxy.Usage{}, proxy.EndingIncomplete},
		{"image stream", stream("event: image_generation.partial_image\ndata: {\"type\":\"image_generation.partial_image\",\"b64_json\":\"" + b64 + "\"}\n\n" +
			"event: image_generation.completed\ndata: {\"type\":\"image_generation.completed\",\"b64_json\":\"" + b64 + "\",\"usage\":" + image + "}\n\n"), ofImage, proxy.EndingComplete},
		{"image stream cut short", stream("event: image_generation.partial_image\ndata: {\"type\":\"image_generation.partial_image\",\"b64_json\":\"" + b64 + "\"}\n\n"), proxy.Usage{}, proxy.EndingIncomplete},
		{"edit stream", stream("event: image_edit.completed\ndata: {\"type\":\"image_edit.completed\",\"usage\":" + image + ",\"b64_json\":\"x\"}\n\n"), ofImage, proxy.EndingComplete},
		{"plain", plain(`{"id":"x","choices":[],"usage":` + details + `}`), detailed, proxy.EndingComplete},
		{"plain with spaces", plain("{\n  \"usage\" : " + details + " }\n"), detailed, proxy.EndingComplete},
		{"plain image", plain(`{"created":1,"data":[{"b64_json":"` + b64 + `"}],"usage":` + image + `}`), ofImage, proxy.EndingComplete},
		{"plain without usage", plain(`{"id":"x"}`), proxy.Usage{}, proxy.EndingComplete},
		{"plain with null usage", plain(`{"usage":null}`), proxy.Usage{}, proxy.EndingComplete},
		{"plain with usage below", plain(`{"x":{"usage":{"total_tokens":7}}}`), proxy.Usage{}, proxy.EndingComplete},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eachWire(t, clientWires(), func(t *testing.T, w wire) {
				var book outcomes
				f := w.start(t, nil, book.hook())
				f.up.Queue(tt.answer)
				res := open(within(t), t, f, streamPath, streamRequest)
				got, err := io.ReadAll(res.Body)
				if err != nil {
					t.Fatal(err)
				}
				f.Close()
				out := book.only(t)
				if told(out.Usage) != tt.want || out.Ending != tt.ending || out.Err != nil {
					t.Errorf("usage %+v, ending %s, %v, want %+v, %s", out.Usage, out.Ending, out.Err, tt.want, tt.ending)
				}
				if out.Status != http.StatusOK || out.Bytes != int64(len(got)) || out.Attempts != 1 {
					t.Errorf("outcome %+v for %d bytes", out, len(got))
				}
			})
		})
	}
}

func TestDoneLearnsTheTimesOfAStream(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		var book outcomes
		f := w.start(t, nil, book.hook())
		f.up.Queue(proxytest.Stream(proxytest.Pause(3*time.Second), proxytest.Text("data: a\n\n"),
			proxytest.Pause(4*time.Second), proxytest.Text("data: [DONE]\n\n")).After(proxytest.Pause(2 * time.Second)))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		wantRest(t, res.Body, "data: a\n\ndata: [DONE]\n\n")
		f.Close()
		if out := book.only(t); out.FirstByte != 5*time.Second || out.Duration != 9*time.Second {
			t.Errorf("first byte %v, duration %v", out.FirstByte, out.Duration)
		}
	})
}
