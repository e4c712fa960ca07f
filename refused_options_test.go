package proxy_test

import (
	"net/http/httptest"
	"testing"

	"github.com/openai-proxy-go/proxy"
)

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	refused := func(t *testing.T, name string, option proxy.Option) {
		t.Helper()
		h, err := proxy.NewHandler(proxy.WithKey(canary), option)
		if h != nil || err == nil {
			t.Fatalf("%s was taken", name)
		}
		if problems := optionProblems(t, err); len(problems) != 1 || problems[0].Option != name {
			t.Errorf("%v, want one problem of %s", err, name)
		}
	}
	for _, header := range []string{"Host", "host", "Content-Type", "content-type", "Content-Length", "Idempotency-Key", "idempotency-key", "User-Agent"} {
		t.Run(header, func(t *testing.T) { refused(t, "WithAuthHeader", proxy.WithAuthHeader(header)) })
	}
	for _, url := range []string{"https://h:99999/v1", "https://h:65536/v1", "https://h:0/v1", "https://[::1]:99999/v1"} {
		t.Run(url, func(t *testing.T) { refused(t, "WithUpstream", proxy.WithUpstream(url)) })
	}
	for _, option := range []proxy.Option{
		proxy.WithAuthHeader("Authorization"), proxy.WithAuthHeader("Api-Key"), proxy.WithUpstream("https://h:65535/v1"), proxy.WithUpstream("https://[::1]:1/v1"),
	} {
		if _, err := proxy.NewHandler(proxy.WithKey(canary), option); err != nil {
			t.Errorf("a good option was refused: %v", err)
		}
	}
}

func TestFirstKeyKeepsItsOwnList(t *testing.T) {
	t.Parallel()
	list := []proxy.KeySource{nil, proxy.StaticKey(canary)}
	source := proxy.FirstKey(list...)
	list[0], list[1] = proxy.StaticKey("sk-other"), nil
	key, err := source.Key(httptest.NewRequestWithContext(t.Context(), "POST", "/", nil))
	if err != nil || key != canary {
		t.Errorf("the list was changed from outside: error %v, the right key %t", err, key == canary)
	}
}
