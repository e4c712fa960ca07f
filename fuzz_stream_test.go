package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
)

// cuts turns the bytes of an input into sizes of pieces, over and over.
func cuts(sizes []byte) func() int {
	if len(sizes) == 0 {
		return func() int { return 1 << 20 }
	}
	i := 0
	return func() int {
		size := int(sizes[i%len(sizes)])
		i++
		if size > 200 {
			return size * 64
		}
		return size
	}
}

// splitEvents cuts a stream behind every blank line, as the standard reads
// them. The last event may lack its end.
func splitEvents(s []byte) (events [][]byte, torn []byte) {
	start, lineStart := 0, 0
	for i := 0; i < len(s); {
		if s[i] != '\r' && s[i] != '\n' {
			i++
			continue
		}
		blank := i == lineStart
		if s[i] == '\r' && i+1 < len(s) && s[i+1] == '\n' {
			i++
		}
		i++
		lineStart = i
		if blank {
			events = append(events, s[start:i])
			start = i
		}
	}
	return events, s[start:]
}

func seedStreams(f *testing.F) {
	f.Helper()
	for _, shape := range streamShapes() {
		if s := strings.Join(shape.pieces, ""); len(s) < 8<<10 {
			f.Add([]byte(s), []byte{1, 3, 0, 7})
		}
	}
	for _, s := range eventStreams() {
		if text := strings.Join(s.events, ""); len(text) < 8<<10 {
			f.Add([]byte(text), []byte{5})
			f.Add([]byte(text), []byte{})
		}
	}
	f.Add([]byte("data: a\r\n\r"), []byte{9, 1})
	f.Add([]byte(usageEvent+usageEvent+"\r\r\r\n\n\n"+usageEvent), []byte{255})
}

// FuzzStreamRelay passes arbitrary bytes in arbitrary pieces: they come out as
// they went in, and with WithStreamUsage nothing but usage events is missing.
func FuzzStreamRelay(f *testing.F) {
	seedStreams(f)
	plain := unconnected(f)
	scanned := unconnected(f, (&outcomes{}).hook())
	hiding := unconnected(f, proxy.WithStreamUsage(true))
	f.Fuzz(func(t *testing.T, stream, sizes []byte) {
		if got := through(plain, bytes.Clone(stream), cuts(sizes)); !bytes.Equal(got, stream) {
			t.Fatalf("relayed %q as %q", stream, got)
		}
		if got := through(scanned, bytes.Clone(stream), cuts(sizes)); !bytes.Equal(got, stream) {
			t.Fatalf("relayed %q as %q with a side scan", stream, got)
		}
		got := through(hiding, bytes.Clone(stream), cuts(sizes))
		if len(stream) < 64<<10 { // of longer events the bytes pass as they come
			if once := through(hiding, bytes.Clone(stream), cuts(nil)); !bytes.Equal(got, once) {
				t.Fatalf("%q becomes %q in pieces and %q at once", stream, got, once)
			}
		}
		events, torn := splitEvents(stream)
		rest := got
		for _, event := range append(events, torn) {
			if after, ok := bytes.CutPrefix(rest, event); ok {
				rest = after
				continue
			}
			if !bytes.Contains(event, []byte("usage")) && !bytes.Contains(event, []byte(`\u`)) {
				t.Fatalf("of %q the event %q is missing: %q", stream, event, got)
			}
		}
		if len(rest) > 0 {
			t.Fatalf("%q became %q: too much", stream, got)
		}
	})
}

// FuzzUsageScan puts usage behind arbitrary bytes: it is found, and what is
// found does not depend on the pieces in which the stream came.
func FuzzUsageScan(f *testing.F) {
	seedStreams(f)
	var last proxy.Outcome
	h := unconnected(f, proxy.WithHooks(proxy.Hooks{Done: func(_ context.Context, _ proxy.Call, out proxy.Outcome) { last = out }}))
	scan := func(stream []byte, size func() int) proxy.Outcome {
		last = proxy.Outcome{}
		through(h, stream, size)
		return last
	}
	f.Fuzz(func(t *testing.T, stream, sizes []byte) {
		if len(stream) > 60<<10 {
			return // the end of a longer line begins where its pieces happen to
		}
		once, pieces := scan(bytes.Clone(stream), cuts(nil)), scan(bytes.Clone(stream), cuts(sizes))
		if once.Usage != pieces.Usage || once.Ending != pieces.Ending {
			t.Fatalf("%q: %+v %s at once, %+v %s in pieces", stream, once.Usage, once.Ending, pieces.Usage, pieces.Ending)
		}
		if once.Usage.Reported && !bytes.Contains(stream, []byte("usage")) && !bytes.Contains(stream, []byte(`\u`)) {
			t.Fatalf("%q: usage out of nothing: %+v", stream, once.Usage)
		}
		if once.Err != nil || once.Bytes != int64(len(stream)) {
			t.Fatalf("%q: outcome %+v", stream, once)
		}
		behind := append(bytes.Clone(stream), "\n\n"+usageEvent+"data: [DONE]\n\n"...)
		want := proxy.Usage{Reported: true, PromptTokens: 9, CompletionTokens: 12, TotalTokens: 21}
		if out := scan(behind, cuts(sizes)); out.Usage != want || out.Ending != proxy.EndingComplete {
			t.Fatalf("%q: %+v %s", behind, out.Usage, out.Ending)
		}
		body, err := json.Marshal(map[string]any{"text": string(stream), "usage": map[string]int{"total_tokens": 7}})
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		ctx := context.WithValue(context.Background(), bodyKey{}, io.ReadCloser(&piecewise{append([]byte("data: "), append(body, "\n\n"...)...), cuts(sizes)}))
		h.ServeHTTP(rec, httptest.NewRequestWithContext(ctx, http.MethodPost, streamPath, strings.NewReader(streamRequest)))
		if last.Usage != (proxy.Usage{Reported: true, TotalTokens: 7}) {
			t.Fatalf("%s: %+v", body, last.Usage)
		}
	})
}
