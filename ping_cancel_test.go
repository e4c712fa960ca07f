package proxy_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// A ping that cannot be sent says that the client has left, also while the
// upstream is silent.
func TestFailedPingOfASubscriptionCancelsTheUpstream(t *testing.T) {
	t.Parallel()
	for name, accept := range map[string]string{"SSE": gqlSSE, "multipart": gqlMultipart} {
		for where, failing := range map[string]failingWriter{"write": {writes: 1, flushes: 1 << 30}, "flush": {writes: 1 << 30, flushes: 1}} {
			t.Run(name+", "+where, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var told outcomes
					h, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithTransport(stuckTransport{}), proxy.WithLogger(quietLogger()), told.hook())
					if err != nil {
						t.Fatal(err)
					}
					r := httptest.NewRequestWithContext(t.Context(), "POST", "/graphql", strings.NewReader(gqlRequest(gqlSubscription, gqlChat())))
					r.Header.Set("Content-Type", "application/json")
					r.Header.Set("Accept", accept)
					w := failing
					w.ResponseWriter = httptest.NewRecorder()
					began := time.Now()
					h.ServeHTTP(&w, r)
					wantTook(t, began, 12*time.Second)
					if out := told.only(t); out.Ending != proxy.EndingClientGone {
						t.Errorf("ending %s, %v, want %s", out.Ending, out.Err, proxy.EndingClientGone)
					}
				})
			})
		}
	}
}
