package proxy_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// BenchmarkCancel measures how long it takes from the moment at which a client
// leaves to that at which the upstream knows it, as a median, over loopback.
func BenchmarkCancel(b *testing.B) {
	for _, w := range everyWire() {
		for _, moment := range []struct {
			name    string
			request string
			answer  proxytest.Answer
			read    bool
		}{
			{"stream, silent", streamRequest, proxytest.Stream(proxytest.Text("data: a\n\n"), proxytest.Silence()), true},
			{"stream, talking", streamRequest, talking(), true},
			{"plain, before the headers", plainRequest, proxytest.Hang(), false},
		} {
			b.Run(w.name+"/"+moment.name, func(b *testing.B) {
				f := w.start(b, nil)
				transport := f.Transport()
				var took []time.Duration
				for b.Loop() {
					f.up.Queue(moment.answer)
					ctx, cancel := context.WithCancel(b.Context())
					finished, read := make(chan struct{}), make(chan struct{})
					go func() {
						defer close(finished)
						req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+streamPath, strings.NewReader(moment.request))
						res, err := transport.RoundTrip(req)
						if err != nil {
							return
						}
						_, _ = res.Body.Read(make([]byte, 1))
						close(read)
						<-ctx.Done()
						_ = res.Body.Close()
					}()
					req := f.up.Next()
					if moment.read {
						<-read
					}
					left := time.Now()
					cancel()
					<-req.Canceled()
					took = append(took, time.Since(left))
					<-finished
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
				b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
			})
		}
	}
}
