package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// compatible stands for a server that resembles OpenAI's. It prints where a call
// arrives and with which key.
func compatible(answers ...proxytest.Answer) *httptest.Server {
	api := new(proxytest.Upstream)
	api.Queue(answers...)
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("%s api-key=%q Authorization=%q\n", r.URL, r.Header.Get("api-key"), r.Header.Get("Authorization"))
		api.ServeHTTP(w, r)
	}))
}

// chatWith sends a chat as a page would, and prints the answer's status, and its
// body if it is an error.
func chatWith(handler http.Handler, body string) {
	server := httptest.NewServer(handler)
	defer server.Close()
	res, err := http.Post(server.URL+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	fmt.Println(res.Status)
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		fmt.Print(string(text))
	}
}

// Azure OpenAI takes its key in a header of its own. The model is the name of a
// deployment; with the older URLs, ".../openai/deployments/NAME?api-version=...",
// it stands in the path, and the query is kept as it is here.
func ExampleWithUpstream_azure() {
	azure := compatible(proxytest.Azure.Chat("Hello"))
	defer azure.Close()

	chatWith(proxy.New(
		proxy.WithUpstream(azure.URL+"/openai/v1?api-version=preview"), // https://RESOURCE.openai.azure.com/openai/v1
		proxy.WithAuthHeader("api-key"),
		proxy.WithKey("key-of-the-resource"), // or WithKeySource(EnvKey("AZURE_OPENAI_API_KEY"))
		proxy.WithDefaultModels("my-deployment", ""),
	), `{"messages":[{"role":"user","content":"Hello"}]}`)
	// Output:
	// /openai/v1/chat/completions?api-version=preview api-key="key-of-the-resource" Authorization=""
	// 200 OK
}

// Ollama on the same machine wants no key: none is sent, none need be set.
func ExampleWithUpstream_ollama() {
	ollama := compatible(proxytest.Ollama.Chat("Hello"), proxytest.Ollama.Failure(404, `model "gpt-9" not found`))
	defer ollama.Close()

	handler := proxy.New(
		proxy.WithUpstream(ollama.URL+"/v1"), // http://localhost:11434/v1
		proxy.WithAuthHeader(""),
		proxy.WithDefaultModels("llama3.2", ""), // the built-in default is OpenAI's
	)
	chatWith(handler, `{"messages":[{"role":"user","content":"Hello"}]}`)
	chatWith(handler, `{"model":"gpt-9","messages":[{"role":"user","content":"Hello"}]}`)
	// Output:
	// /v1/chat/completions api-key="" Authorization=""
	// 200 OK
	// /v1/chat/completions api-key="" Authorization=""
	// 404 Not Found
	// {"error":{"message":"model \"gpt-9\" not found","type":"not_found_error","param":null,"code":null},"message":"model \"gpt-9\" not found","status":404}
}

// OpenRouter has the models of many makers; a policy keeps pages to some of them.
func ExampleWithUpstream_openRouter() {
	openRouter := compatible(proxytest.OpenRouter.Chat("Hello"))
	defer openRouter.Close()

	handler := proxy.New(
		proxy.WithUpstream(openRouter.URL+"/api/v1"), // https://openrouter.ai/api/v1
		proxy.WithKey("sk-or-of-the-server"),         // or WithKeySource(EnvKey("OPENROUTER_API_KEY"))
		proxy.WithDefaultModels("deepseek/deepseek-chat", ""),
		proxy.WithPolicy(proxy.Policy{Models: []string{"deepseek/*"}}),
	)
	chatWith(handler, `{"messages":[{"role":"user","content":"Hello"}]}`)
	chatWith(handler, `{"model":"openai/gpt-6-sol","messages":[{"role":"user","content":"Hello"}]}`)
	// Output:
	// /api/v1/chat/completions api-key="" Authorization="Bearer sk-or-of-the-server"
	// 200 OK
	// 403 Forbidden
	// {"error":{"message":"This model may not be used here.","type":"invalid_request_error","param":"model","code":"forbidden"},"message":"This model may not be used here.","status":403}
}
