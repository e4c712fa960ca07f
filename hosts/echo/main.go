// Echo mounts the proxy under /api/ai in an echo server that logs every request,
// survives panics, compresses its pages and asks for a login.
package main

import (
	"crypto/subtle"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/openai-proxy-go/proxy"
)

func main() {
	password := os.Getenv("PASSWORD")
	login := middleware.BasicAuth(func(_, given string, _ echo.Context) (bool, error) {
		return password != "" && subtle.ConstantTimeCompare([]byte(given), []byte(password)) == 1, nil
	})
	server := &http.Server{
		Addr:              "127.0.0.1:8080",
		Handler:           handler(proxy.New(), login),
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}

func handler(ai http.Handler, login echo.MiddlewareFunc) http.Handler {
	e := echo.New()
	e.Use(middleware.Logger(), middleware.Recover())
	e.Any("/api/ai/*", echo.WrapHandler(http.StripPrefix("/api/ai", ai)), login)
	e.Group("", middleware.Gzip()).Static("/", "public") // not for the proxy
	return e
}
