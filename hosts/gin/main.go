// Gin mounts the proxy under /api/ai in a gin engine that logs every request,
// survives panics, compresses its pages and asks for a login.
package main

import (
	"log"
	"net/http"
	"os"
	"time"

	"github.com/gin-contrib/gzip"
	"github.com/gin-gonic/gin"

	"github.com/openai-proxy-go/proxy"
)

func main() {
	login := gin.BasicAuth(gin.Accounts{"user": os.Getenv("PASSWORD")}) // panics without one
	server := &http.Server{
		Addr:              "127.0.0.1:8080",
		Handler:           handler(proxy.New(), login),
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}

func handler(ai http.Handler, login gin.HandlerFunc) http.Handler {
	r := gin.New()
	r.Use(gin.Logger(), gin.Recovery())
	r.Any("/api/ai/*path", login, gin.WrapH(http.StripPrefix("/api/ai", ai)))
	pages := r.Group("/pages", gzip.Gzip(gzip.DefaultCompression)) // not for the proxy
	pages.Static("/", "public")
	return r
}
