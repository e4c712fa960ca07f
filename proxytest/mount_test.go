package proxytest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// verdicts is a test that keeps what it is told.
type verdicts struct {
	testing.TB

	mu     sync.Mutex
	faults []string
}

func (v *verdicts) Errorf(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults = append(v.faults, fmt.Sprintf(format, args...))
}

// wrapped is a ResponseWriter of a middleware that hides what it wraps.
type wrapped struct{ http.ResponseWriter }

// flushing lets only Flush through.
type flushing struct{ wrapped }

func (f flushing) Flush() { _ = http.NewResponseController(f.ResponseWriter).Flush() }

// held keeps the answer until the end, and claims to flush.
type held struct {
	wrapped
	bytes.Buffer
}

func (h *held) Write(p []byte) (int, error) { return h.Buffer.Write(p) }
func (h *held) Flush()                      {}

// zipped compresses, and flushes well.
type zipped struct {
	wrapped
	zip *gzip.Writer
}

func (z zipped) Write(p []byte) (int, error) {
	return z.zip.Write(p)
}

func (z zipped) WriteHeader(status int) {
	z.Header().Set("Content-Encoding", "gzip")
	z.Header().Del("Content-Length")
	z.ResponseWriter.WriteHeader(status)
}

func (z zipped) Flush() {
	_ = z.zip.Flush()
	_ = http.NewResponseController(z.ResponseWriter).Flush()
}

// changing puts other bytes in place of some.
type changing struct{ wrapped }

func (c changing) Unwrap() http.ResponseWriter { return c.ResponseWriter }
func (c changing) Write(p []byte) (int, error) {
	_, err := c.ResponseWriter.Write(bytes.ReplaceAll(p, []byte("1"), []byte("7")))
	return len(p), err
}

// around makes a middleware.
func around(f func(next http.Handler, w http.ResponseWriter, r *http.Request)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f(next, w, r) })
	}
}

func TestCheckMount(t *testing.T) {
	tests := map[string]struct {
		mount func(http.Handler) http.Handler
		want  []string // a part of each fault, over each protocol
	}{
		"nothing": {func(h http.Handler) http.Handler { return h }, nil},
		"a good middleware": {around(func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			defer func() { _ = recover() }()
			next.ServeHTTP(struct {
				wrapped
				unwrapper
			}{wrapped{w}, unwrapper{w}}, r.WithContext(context.WithValue(r.Context(), unwrapper{}, "user")))
		}), nil},
		"a prefix that is not stripped": {around(func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			r.URL.Path = "/api" + r.URL.Path
			next.ServeHTTP(w, r)
		}), []string{"there is nothing at"}},
		"a login": {around(func(_ http.Handler, w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
		}), []string{"status 401"}},
		"TimeoutHandler": {func(h http.Handler) http.Handler {
			return http.TimeoutHandler(h, time.Hour, "late")
		}, []string{"hides Flush", "gives each request ", "hides SetWriteDeadline"}},
		"a writer without Unwrap": {around(func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(wrapped{w}, r)
		}), []string{"hides Flush", "hides SetWriteDeadline"}},
		"a writer that can only flush": {around(func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(flushing{wrapped{w}}, r)
		}), []string{"ends as if it were whole", "hides SetWriteDeadline"}},
		"a buffer": {around(func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			h := &held{wrapped: wrapped{w}}
			next.ServeHTTP(h, r)
			_, _ = w.Write(h.Bytes())
		}), []string{"arrives only with the next one", "hides SetWriteDeadline"}},
		"compression": {around(func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			z := zipped{wrapped{w}, gzip.NewWriter(w)}
			next.ServeHTTP(z, r)
			_ = z.zip.Close()
		}), []string{"compresses application/json", "compresses text/event-stream", "hides SetWriteDeadline"}},
		"another CORS": {around(func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(late{w}, r)
		}), []string{"has 2 Access-Control-Allow-Origin"}},
		"changed bytes": {around(func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(changing{wrapped{w}}, r)
		}), []string{"an answer is changed", "a stream is changed"}},
		"a request without its context": {around(func(next http.Handler, w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(context.Background())
			leaving := context.AfterFunc(r.Context(), func() { time.AfterFunc(7*time.Second, cancel) })
			defer leaving()
			defer cancel()
			next.ServeHTTP(w, r.WithContext(ctx))
		}), []string{"is not noticed"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := &verdicts{TB: t}
			proxytest.CheckMount(v, tt.mount, "/v1/chat/completions")
			for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
				var got []string
				for _, fault := range v.faults {
					if strings.Contains(fault, "over "+protocol+" ") {
						got = append(got, fault)
					}
				}
				if len(got) != len(tt.want) {
					t.Errorf("over %s: %q, want %q", protocol, got, tt.want)
					continue
				}
				for i, want := range tt.want {
					if !strings.Contains(got[i], want) {
						t.Errorf("over %s: %q, want %q", protocol, got[i], want)
					}
				}
			}
		})
	}
}

type unwrapper struct{ to http.ResponseWriter }

func (u unwrapper) Unwrap() http.ResponseWriter { return u.to }

// late adds a header when the others are there.
type late struct{ http.ResponseWriter }

func (l late) Unwrap() http.ResponseWriter { return l.ResponseWriter }
func (l late) WriteHeader(status int) {
	l.Header().Add("Access-Control-Allow-Origin", "*")
	l.ResponseWriter.WriteHeader(status)
}

// A mount is checked with all that the host puts around it.
func ExampleCheckMount() {
	mount := func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/api/", http.StripPrefix("/api", h))
		return mux
	}
	// In a real test it is TestMount(t *testing.T).
	t := &testing.T{}
	proxytest.CheckMount(t, mount, "/api/v1/chat/completions")
	fmt.Println("faults found:", t.Failed())
	// Output: faults found: false
}
