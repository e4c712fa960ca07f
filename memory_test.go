package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/openai-proxy-go/proxy"
)

// The tests of this file measure the heap, and are not parallel.

// A long body is announced, a byte of it comes, and no more: on many connections
// that must not cost what was announced.
func TestS10AnnouncedBodiesTakeNoMemory(t *testing.T) {
	const announced = 31 << 20
	for _, row := range []struct{ path, contentType string }{
		{"/", "application/json"},
		{chatPath, "application/json"},
		{"/v1/images/edits", "multipart/form-data; boundary=b"},
		{"/graphql", "application/json"},
	} {
		t.Run(row.path, func(t *testing.T) {
			const conns = 50
			var waiting sync.WaitGroup
			waiting.Add(conns)
			f := setup{wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					r.Body = &secondRead{ReadCloser: r.Body, reached: sync.OnceFunc(waiting.Done)}
					next.ServeHTTP(w, r)
				})
			}}.start(t)
			before := heapInUse()
			for range conns {
				raw := rawRequest(row.path, "{", announced)
				raw = strings.Replace(raw, "Content-Type: application/json", "Content-Type: "+row.contentType, 1)
				if _, err := io.WriteString(dial(t, f), raw); err != nil {
					t.Fatal(err)
				}
			}
			waiting.Wait()
			if grown := int64(heapInUse()) - int64(before); grown > 8<<20 {
				t.Errorf("%d bodies of %d MiB that did not come: the heap grew by %d KiB", conns, announced>>20, grown>>10)
			}
			f.wantCalls(t, 0)
		})
	}
}

// secondRead tells when the first bytes were taken and more are waited for.
type secondRead struct {
	io.ReadCloser
	began   bool
	reached func()
}

func (b *secondRead) Read(p []byte) (int, error) {
	if b.began {
		b.reached()
	}
	b.began = true
	return b.ReadCloser.Read(p)
}

// allocated returns how many bytes f allocates.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// most is what a request of so many bytes may allocate: a hundred times as much,
// and always 64 KiB.
func most(sent int) int64 { return max(64<<10, 100*int64(sent)) }

// costly are bodies that could cost more than they weigh.
func costly() map[string]string {
	rep := strings.Repeat
	chat := func(more string) string { return `{"model":"m","messages":[],` + more + `}` }
	return map[string]string{
		"open brackets":          rep("[", 1000),
		"open objects":           rep(`{"":`, 1000),
		"many open brackets":     rep("[", 100_000),
		"brackets in a member":   chat(`"x":` + rep("[", 100_000)),
		"nested as deep as may":  chat(`"x":` + rep("[", 990) + rep("]", 990)),
		"nested too deep":        chat(`"x":` + rep("[", 1001) + rep("]", 1001)),
		"keys alike":             chat(rep(`"x":0,`, 20_000) + `"x":0`),
		"empty keys":             chat(rep(`"":0,`, 20_000) + `"":0`),
		"keys all different":     chat(sequence(`"%d":0,`, 20_000) + `"x":0`),
		"keys of escapes":        chat(rep(`"\u0078\u0079":0,`, 5000) + `"x":0`),
		"models":                 chat(rep(`"model":"m",`, 10_000) + `"x":0`),
		"models in other cases":  chat(rep(`"MODEL":"m",`, 10_000) + `"x":0`),
		"keys that fold":         chat(rep("\"\u017ftream\":true,", 5000) + `"x":0`),
		"a long key":             chat(`"` + rep("k", 100_000) + `":0`),
		"a long model":           `{"messages":[],"model":"` + rep("m", 100_000) + `"}`,
		"a model of escapes":     `{"messages":[],"model":"` + rep(`\u006d`, 20_000) + `"}`,
		"messages of nothing":    `{"model":"m","messages":[` + rep("0,", 50_000) + `0]}`,
		"small messages":         `{"model":"m","messages":[` + rep("{},", 50_000) + `{}]}`,
		"stops":                  chat(`"stop":[` + rep(`"",`, 50_000) + `""]`),
		"a long number":          chat(`"max_tokens":` + rep("9", 50_000)),
		"a number of zeros":      chat(`"n":1e` + rep("0", 50_000)),
		"options with options":   chat(`"stream":true,"stream_options":{` + rep(`"x":0,`, 10_000) + `"x":0}`),
		"a prompt of surrogates": `{"prompt":"` + rep(`\ud800`, 10_000) + `"}`,
		"blanks":                 rep(" ", 100_000) + chat(`"x":0`),
		"nothing but blanks":     rep("\n", 100_000),
		"bytes that are no text": chat(`"x":"` + rep("\xff", 50_000) + `"`),
		"an action":              `{"action":"generate-image","prompt":"p",` + rep(`"x":0,`, 10_000) + `"y":0}`,
		"small":                  `{"model":"m","messages":[]}`,
		"nothing":                "",
	}
}

func sequence(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// What a request allocates is in proportion to what was sent, whether or not it
// is judged.
func TestS31RequestsCostWhatTheyWeigh(t *testing.T) {
	policy := proxy.WithPolicy(proxy.Policy{
		Models: []string{"m", "gpt-4*"}, MaxTokens: 1000, MaxN: 4, MaxMessages: 256,
		Values: map[string][]string{"size": {"auto"}}, Refuse: []string{"store", "background"},
	})
	answers := proxy.WithTransport(brokenTransport(func(r *http.Request) (*http.Response, error) {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
		return &http.Response{
			StatusCode: 200, Body: io.NopCloser(strings.NewReader("{}")),
			Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {"2"}},
		}, nil
	}))
	bodies := costly()
	for class, documents := range bdDocuments(t) {
		for i, text := range documents {
			bodies[fmt.Sprintf("document %d of class %s", i, class)] = text
			bodies[fmt.Sprintf("member %d of class %s", i, class)] = `{"model":"m","messages":[],"v":` + text + `}`
		}
	}
	for name, options := range map[string][]proxy.Option{
		"bare": nil, "with a policy": {policy, proxy.WithStreamUsage(true), new(outcomes).hook()},
	} {
		h, err := proxy.NewHandler(append(options, answers, proxy.WithKey(canary), proxy.WithLogger(slog.New(slog.DiscardHandler)))...)
		if err != nil {
			t.Fatal(err)
		}
		for what, body := range bodies {
			paths := []string{"/", chatPath, "/v1/images/edits", "/graphql"}
			if strings.Contains(what, " of class ") {
				paths = paths[:1]
			}
			for _, path := range paths {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body))
				r.Header.Set("Content-Type", "application/json")
				w := &httptest.ResponseRecorder{Body: new(bytes.Buffer)}
				if got := allocated(func() { h.ServeHTTP(w, r) }); got > most(len(body)) {
					t.Errorf("%s, %s to %s: %d KiB for %d bytes (status %d)", name, what, path, got>>10, len(body), w.Code)
				}
			}
		}
		for what, form := range costlyForms() {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/images/edits", strings.NewReader(form))
			r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
			w := &httptest.ResponseRecorder{Body: new(bytes.Buffer)}
			bound := most(len(form))
			if raced {
				bound *= 4 // mime/multipart takes a buffer from a pool for each part
			}
			if got := allocated(func() { h.ServeHTTP(w, r) }); got > bound {
				t.Errorf("%s, a form of %s: %d KiB for %d bytes (status %d)", name, what, got>>10, len(form), w.Code)
			}
		}
	}
}

func costlyForms() map[string]string {
	rep := strings.Repeat
	part := func(disposition string) string { return "--b\r\nContent-Disposition: " + disposition + "\r\n\r\n\r\n" }
	return map[string]string{
		"many parts":        rep(part(`form-data; name="x"`), 5000) + "--b--\r\n",
		"parts without end": rep("--b\r\n", 20_000) + "\r\n--b--\r\n",
		"models":            rep(part(`form-data; name="model"`), 5000) + "--b--\r\n",
		"a long name":       part(`form-data; name="`+rep("n", 100_000)+`"`) + "--b--\r\n",
		"many parameters":   part(`form-data; name="x"`+rep("; a=b", 20_000)) + "--b--\r\n",
		"many headers":      "--b\r\n" + rep("A: b\r\n", 20_000) + "\r\n\r\n--b--\r\n",
		"dashes":            rep("-", 100_000) + "\r\n--b--\r\n",
	}
}
