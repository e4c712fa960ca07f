// Nethttp mounts the proxy under /api/ai in a net/http server that logs every
// request, survives panics, compresses its pages and asks for a login.
package main

import (
	"log"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/klauspost/compress/gzhttp"

	"github.com/openai-proxy-go/proxy"
)

func main() {
	server := &http.Server{
		Addr:              "127.0.0.1:8080",
		Handler:           handler(proxy.New(), login),
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}

func handler(ai http.Handler, login func(http.Handler) http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/ai/", login(http.StripPrefix("/api/ai", ai)))
	mux.Handle("/", gzhttp.GzipHandler(http.FileServer(http.Dir("public")))) // pages only
	return logged(recovered(mux))
}

func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		next.ServeHTTP(w, r) // w is not wrapped: nothing can be hidden
		slog.Info("request", "method", r.Method, "path", r.URL.Path, "took", time.Since(began))
	})
}

func recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				slog.Error("panic", "value", v)
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// login stands for the session check of the server.
func login(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password == "" || password != os.Getenv("PASSWORD") {
			w.Header().Set("WWW-Authenticate", `Basic realm="ai"`)
			http.Error(w, "login first", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
