package main

import (
	"net/http"
	"testing"

	"github.com/openai-proxy-go/proxy/proxytest"
)

func TestMount(t *testing.T) {
	open := func(h http.Handler) http.Handler { return h }
	proxytest.CheckMount(t, func(h http.Handler) http.Handler { return handler(h, open) }, "/api/ai/v1/chat/completions")
}
