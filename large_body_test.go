package proxy_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/openai-proxy-go/proxy"
)

// Large requests lie in memory that serves others later. Every upstream call must
// see its own, whatever becomes of the calls beside it.
func TestLargeBodiesAreNotMixed(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%t", h2), func(t *testing.T) {
			up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if r.Header.Get("X-Client-Request-Id") == "early" { // answers before it has read
					w.WriteHeader(http.StatusBadRequest)
					_, _ = io.WriteString(w, `{"error":{"message":"no"}}`)
					return
				}
				if body, err := io.ReadAll(r.Body); err == nil {
					fmt.Fprintf(w, `{"seen":"%x"}`, sha256.Sum256(body))
				}
			}))
			up.EnableHTTP2 = h2
			up.StartTLS()
			t.Cleanup(up.Close)
			f := start(t, proxy.WithUpstream(up.URL+"/v1"), proxy.WithTransport(up.Client().Transport))
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for j := range 8 {
						sendLargeBody(t, f, i, j)
					}
				})
			}
			wg.Wait()
		})
	}
}

func sendLargeBody(t *testing.T, f *fixture, i, j int) {
	t.Helper()
	body := fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":"%s"}]}`,
		strings.Repeat(string(rune('a'+(i+j)%26)), 80<<10+i*1000))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	want, status := fmt.Sprintf(`{"seen":"%x"}`, sha256.Sum256([]byte(body))), http.StatusOK
	if j%2 == 1 {
		req.Header.Set("X-Client-Request-Id", "early")
		want, status = `"no"`, http.StatusBadRequest
	}
	res, err := f.Client().Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	// Over HTTP/1.1 an upstream that does not read may break the connection.
	if early := j%2 == 1; early && res.StatusCode == http.StatusBadGateway {
		return
	}
	if res.StatusCode != status || !strings.Contains(string(got), want) || err != nil {
		t.Errorf("status %d: %s, %v; want %d: %s", res.StatusCode, got, err, status, want)
	}
}
