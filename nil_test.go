package proxy_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
)

// A request that no server made may have no body at all.
func TestRequestWithoutABodyIsABadRequest(t *testing.T) {
	t.Parallel()
	h, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithTransport(stuckTransport{}), proxy.WithLogger(quietLogger()))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", streamPath, "/generate-image", "/v1/images/generations", "/v1/images/edits", "/graphql"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s, want 400", path, w.Code, w.Body)
		}
	}
}

func TestAdmitThatReturnsATypedNilRefuses(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithHooks(proxy.Hooks{Admit: func(context.Context, proxy.Call) error {
		var none *proxy.Error
		return none
	}}))
	for _, path := range []string{streamPath, "/"} {
		res, body := f.post(t, path, plainRequest)
		if res.StatusCode != http.StatusForbidden || !strings.Contains(body, "This request is not allowed.") {
			t.Errorf("%s: %d %s, want 403", path, res.StatusCode, body)
		}
	}
	f.wantCalls(t, 0)
	if strings.Contains(f.logs.String(), "panic") {
		t.Errorf("it panicked on the way:\n%s", f.logs)
	}
}
