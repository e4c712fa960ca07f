package proxy_test

import (
	"bytes"
	"maps"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// way is a way to an upstream call: a route, or a single handler that the host has
// mounted on a path of its own.
type way struct {
	path, accept, contentType, body string
	target                          string // at the upstream
	rewritten                       bool   // the upstream gets another body
}

// singleMounts serves each single handler on a path of the host's own, and
// everything else as it is.
func singleMounts(h http.Handler) http.Handler {
	own := h.(interface {
		Chat() http.Handler
		Images() http.Handler
		GraphQL() http.Handler
	})
	mounts := map[string]http.Handler{
		"/mine/chat": own.Chat(), "/mine/images": own.Images(), "/mine/images/edits": own.Images(), "/mine/graphql": own.GraphQL(),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if single, ok := mounts[r.URL.Path]; ok {
			single.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// everyWay is every way to the upstream of a handler behind singleMounts. Each
// request says text, and has more members than it needs.
func everyWay(t testing.TB, text string, more map[string]any) []way {
	t.Helper()
	with := func(own gqlMap) string {
		maps.Copy(own, more)
		return mustText(t, own)
	}
	chat := with(gqlMap{"model": "m", "messages": []any{gqlMap{"role": "user", "content": []any{
		gqlMap{"type": "text", "text": text}, gqlMap{"type": "image_url", "image_url": gqlMap{"url": text}},
	}}}})
	draw := with(gqlMap{"model": "m", "prompt": text, "image": []any{gqlMap{"image_url": text}}})
	input := gqlMap{"model": "m", "messages": []any{gqlMap{"role": "user", "content": text}}}
	image := gqlMap{"model": "m", "prompt": text}
	if more != nil {
		input["extra"], image["extra"] = more, more
	}
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	_ = w.SetBoundary("b")
	_ = w.WriteField("model", "m")
	_ = w.WriteField("prompt", text)
	for _, name := range slices.Sorted(maps.Keys(more)) {
		_ = w.WriteField(name, text)
	}
	_ = w.Close()
	const asJSON = "application/json"
	ways := []way{
		{"/mine/images", asJSON, w.FormDataContentType(), form.String(), rtUpEdits, false},
		{"/v1/images/edits", asJSON, w.FormDataContentType(), form.String(), rtUpEdits, false},
		{"/v1/images/edits", asJSON, asJSON, draw, rtUpEdits, false},
		{"/mine/images/edits", asJSON, asJSON, draw, rtUpEdits, false},
	}
	for _, path := range []string{"/", "/chat/completions", chatPath, "/mine/chat"} {
		ways = append(ways, way{path, asJSON, "text/plain", chat, rtUpChat, false})
	}
	for _, path := range []string{"/", "/generate-image", "/images/generations", "/v1/images/generations", "/mine/images"} {
		ways = append(ways, way{path, asJSON, asJSON, draw, rtUpImages, false})
	}
	for _, path := range []string{"/graphql", "/mine/graphql"} {
		ways = append(ways,
			way{path, gqlAny, asJSON, gqlRequest(gqlGetAIResponse, gqlMap{"input": input}), rtUpChat, true},
			way{path, gqlSSE, asJSON, gqlRequest(gqlSubscription, gqlMap{"input": input}), rtUpChat, true},
			way{path, gqlAny, asJSON, gqlRequest(gqlGenerateImage, gqlMap{"input": image}), rtUpImages, true})
	}
	return ways
}

func mustText(t testing.TB, v any) string {
	t.Helper()
	return string(mustJSON(t, v))
}

// name tells ways apart.
func (w way) name() string {
	return strings.Join([]string{w.path, w.contentType, w.accept, "to", w.target}, " ")
}

// ask makes the request, with headers beyond its own.
func (w way) ask(t testing.TB, f *fixture, query string, header ...string) (*http.Response, string) {
	t.Helper()
	return f.post(t, w.path+query, w.body, append([]string{"Accept", w.accept, "Content-Type", w.contentType}, header...)...)
}
