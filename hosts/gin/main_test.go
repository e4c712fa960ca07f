package main

import (
	"net/http"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/openai-proxy-go/proxy/proxytest"
)

func TestMount(t *testing.T) {
	open := func(*gin.Context) {}
	proxytest.CheckMount(t, func(h http.Handler) http.Handler { return handler(h, open) }, "/api/ai/v1/chat/completions")
}
