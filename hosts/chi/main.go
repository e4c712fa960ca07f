// Chi mounts the proxy under /api/ai in a chi router that logs every request,
// survives panics, compresses its pages and asks for a login.
package main

import (
	"log"
	"net/http"
	"os"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/openai-proxy-go/proxy"
)

func main() {
	login := middleware.BasicAuth("ai", map[string]string{"user": os.Getenv("PASSWORD")})
	server := &http.Server{
		Addr:              "127.0.0.1:8080",
		Handler:           handler(proxy.New(), login),
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}

func handler(ai http.Handler, login func(http.Handler) http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Use(middleware.Logger, middleware.Recoverer)
	// Mount keeps the prefix in the path that the proxy looks at.
	r.With(login).Mount("/api/ai", http.StripPrefix("/api/ai", ai))
	r.Group(func(pages chi.Router) { // neither Compress nor Timeout for the proxy
		pages.Use(middleware.Compress(5), middleware.Timeout(10*time.Second))
		pages.Handle("/*", http.FileServer(http.Dir("public")))
	})
	return r
}
