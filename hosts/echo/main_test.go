package main

import (
	"net/http"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/openai-proxy-go/proxy/proxytest"
)

func TestMount(t *testing.T) {
	open := func(next echo.HandlerFunc) echo.HandlerFunc { return next }
	proxytest.CheckMount(t, func(h http.Handler) http.Handler { return handler(h, open) }, "/api/ai/v1/chat/completions")
}
