package hosts

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	gingzip "github.com/gin-contrib/gzip"
	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/handlers"
	"github.com/gorilla/mux"
	"github.com/justinas/alice"
	"github.com/klauspost/compress/gzhttp"
	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"
	"github.com/urfave/negroni/v3"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// What CheckMount says of a host, in short.
const (
	compressesJSON   = "compresses application/json"
	compressesStream = "compresses text/event-stream"
	hidesFlush       = "hides Flush"
	hidesDeadline    = "hides SetWriteDeadline"
	hasDeadline      = "gives each request"
)

type host struct {
	name   string
	mount  func(http.Handler) http.Handler
	faults []string // all that CheckMount finds, over HTTP/1.1 and HTTP/2 alike
}

func hosts() []host {
	under := func(wrap ...func(http.Handler) http.Handler) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler {
			for _, w := range wrap {
				h = w(h)
			}
			return h
		}
	}
	quiet := log.New(io.Discard, "", 0)
	chiWith := func(middlewares ...func(http.Handler) http.Handler) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler {
			r := chi.NewRouter()
			r.Use(middlewares...)
			r.Mount("/", h)
			return r
		}
	}
	ginWith := func(middlewares ...gin.HandlerFunc) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler {
			gin.SetMode(gin.ReleaseMode)
			r := gin.New()
			r.Use(middlewares...)
			r.Any("/*path", gin.WrapH(h))
			return r
		}
	}
	echoWith := func(middlewares ...echo.MiddlewareFunc) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler {
			e := echo.New()
			e.Use(middlewares...)
			e.Any("/*", echo.WrapHandler(h))
			return e
		}
	}
	return []host{
		{"net/http", under(), nil},
		{"net/http StripPrefix", func(h http.Handler) http.Handler {
			strip := http.StripPrefix("/api", h)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.URL.Path = "/api" + r.URL.Path
				strip.ServeHTTP(w, r)
			})
		}, nil},
		{"net/http MaxBytesHandler", func(h http.Handler) http.Handler { return http.MaxBytesHandler(h, 1<<20) }, nil},
		{"net/http TimeoutHandler", func(h http.Handler) http.Handler {
			return http.TimeoutHandler(h, time.Minute, "")
		}, []string{hidesFlush, hasDeadline, hidesDeadline}},
		{"chi", chiWith(), nil},
		{"chi Logger", chiWith(chimiddleware.RequestLogger(&chimiddleware.DefaultLogFormatter{Logger: quiet})), nil},
		{"chi Recoverer, RequestID, RealIP", chiWith(chimiddleware.RequestID, chimiddleware.RealIP, chimiddleware.Recoverer), nil},
		{"chi Compress", chiWith(chimiddleware.Compress(5)), []string{compressesJSON}},
		{"chi Timeout", chiWith(chimiddleware.Timeout(time.Minute)), []string{hasDeadline}},
		{"gin", ginWith(), nil},
		{"gin Logger, Recovery", ginWith(gin.LoggerWithWriter(io.Discard), gin.RecoveryWithWriter(io.Discard)), nil},
		{"gin gzip", ginWith(gingzip.Gzip(gingzip.DefaultCompression)), []string{compressesJSON, compressesStream, hidesDeadline}},
		{"echo", echoWith(), nil},
		{"echo Logger, Recover", echoWith(echomiddleware.LoggerWithConfig(echomiddleware.LoggerConfig{Output: io.Discard}), echomiddleware.Recover()), nil},
		{"echo Gzip", echoWith(echomiddleware.Gzip()), []string{compressesJSON, compressesStream}},
		{"echo BodyDump", echoWith(echomiddleware.BodyDump(func(echo.Context, []byte, []byte) {})), nil},
		{"gorilla mux", func(h http.Handler) http.Handler {
			r := mux.NewRouter()
			r.PathPrefix("/").Handler(h)
			return r
		}, nil},
		{"gorilla RecoveryHandler", under(handlers.RecoveryHandler(handlers.RecoveryLogger(quiet))), nil},
		{"gorilla LoggingHandler", under(func(h http.Handler) http.Handler { return handlers.CombinedLoggingHandler(io.Discard, h) }), nil},
		{"gorilla CompressHandler", under(handlers.CompressHandler), []string{compressesJSON, compressesStream}},
		{"klauspost gzhttp", under(func(h http.Handler) http.Handler { return gzhttp.GzipHandler(h) }), []string{compressesStream}},
		{"otelhttp", under(otelhttp.NewMiddleware("proxy")), nil},
		{"alice", func(h http.Handler) http.Handler { return alice.New(handlers.ProxyHeaders).Then(h) }, nil},
		{"negroni", func(h http.Handler) http.Handler {
			n := negroni.New(&negroni.Recovery{Logger: quiet})
			n.UseHandler(h)
			return n
		}, nil},
	}
}

// verdicts keeps what CheckMount finds.
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

func TestF30Hosts(t *testing.T) {
	for _, h := range hosts() {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			v := &verdicts{TB: t}
			proxytest.CheckMount(v, h.mount, "/v1/chat/completions")
			for _, protocol := range []string{"over HTTP/1.1 ", "over HTTP/2 "} {
				var got []string
				for _, fault := range v.faults {
					if strings.Contains(fault, protocol) {
						got = append(got, fault)
					}
				}
				if len(got) != len(h.faults) {
					t.Errorf("%s: %q, want %q", protocol, got, h.faults)
					continue
				}
				for i, want := range h.faults {
					if !strings.Contains(got[i], want) {
						t.Errorf("%s: %q, want %q", protocol, got[i], want)
					}
				}
			}
		})
	}
}
