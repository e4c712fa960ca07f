package proxytest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// Without a test the zero Upstream is a handler that needs no key.
func ExampleUpstream_demo() {
	demo := httptest.NewServer(&proxytest.Upstream{})
	defer demo.Close()
	body := `{"model":"any","messages":[{"role":"user","content":"hello"}],"stream":true}`
	resp, err := http.Post(demo.URL+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	events, err := proxytest.ReadEvents(resp.Body)
	fmt.Println(len(events), events[len(events)-1].Data, err)
	// Output: 6 [DONE] <nil>
}
