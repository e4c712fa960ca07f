package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/http/pprof"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	openai "github.com/sashabaranov/go-openai"

	"github.com/openai-proxy-go/proxy"
)

// targets are the handlers that are measured, by the names of their roles.
var targets = map[string]func(upstream string) (http.Handler, error){
	"proxy": func(upstream string) (http.Handler, error) {
		return proxy.NewHandler(proxy.WithKey(key), proxy.WithUpstream(upstream))
	},
	"proxy-full": func(upstream string) (http.Handler, error) {
		return proxy.NewHandler(proxy.WithKey(key), proxy.WithUpstream(upstream),
			proxy.WithAllowedOrigins("https://app.example.com", "https://*.example.org"),
			proxy.WithHooks(proxy.Hooks{Done: func(context.Context, proxy.Call, proxy.Outcome) {}}),
			proxy.WithLimiter(&proxy.MemoryLimiter{Requests: 1 << 30, Concurrent: 1 << 20}))
	},
	"proxy-usage": func(upstream string) (http.Handler, error) {
		return proxy.NewHandler(proxy.WithKey(key), proxy.WithUpstream(upstream), proxy.WithStreamUsage(true))
	},
	"proxy-stall": func(upstream string) (http.Handler, error) {
		return proxy.NewHandler(proxy.WithKey(key), proxy.WithUpstream(upstream), proxy.WithLimits(proxy.Limits{WriteStall: 10 * time.Second}))
	},
	"proxy-capped": func(upstream string) (http.Handler, error) {
		return proxy.NewHandler(proxy.WithKey(key), proxy.WithUpstream(upstream), proxy.WithLimits(proxy.Limits{RequestBytes: 1 << 20}),
			proxy.WithLimiter(&proxy.MemoryLimiter{InFlight: inFlightCap}))
	},
	"ReverseProxy":          reverseProxy,
	"ReverseProxy+map":      decodingProxy,
	"go-openai, re-encoded": retypingProxy,
}

const key = "sk-bench"

// inFlightCap is how many calls proxy-capped lets through at a time.
const inFlightCap = 50

// serveTarget prints its address and that of its measures, and serves until it
// is killed.
func serveTarget(name, upstream string) error {
	make, ok := targets[name]
	if !ok {
		return fmt.Errorf("there is no target %q", name)
	}
	h, err := make(upstream)
	if err != nil {
		return err
	}
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s http://%s\n", front.Addr(), back.Addr())
	measures := http.NewServeMux()
	measures.HandleFunc("/stats", stats)
	measures.HandleFunc("/debug/pprof/", pprof.Index)
	measures.HandleFunc("/debug/pprof/profile", pprof.Profile)
	go func() { _ = (&http.Server{Handler: measures, ReadHeaderTimeout: time.Minute}).Serve(back) }()
	return (&http.Server{Handler: h, ReadHeaderTimeout: time.Minute}).Serve(front)
}

// usage is what a process has used so far.
type usage struct {
	CPU       time.Duration
	Allocated uint64
	InUse     uint64 // heap and stacks
	Resident  uint64 // told by treeUsage only
	Routines  int
	Files     int
}

// stats answers with the usage; "?free" gives memory back before.
func stats(w http.ResponseWriter, r *http.Request) {
	if r.URL.RawQuery == "free" {
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	_ = json.NewEncoder(w).Encode(usage{
		CPU:       time.Duration(u.Utime.Nano() + u.Stime.Nano()),
		Allocated: m.TotalAlloc, InUse: m.HeapInuse + m.StackInuse,
		Routines: runtime.NumGoroutine(), Files: openFiles(),
	})
}

func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// reverseProxy is the baseline, as well tuned as it can be. Without full duplex it
// breaks off some answers over HTTP/1.1: the server closes the request's body with
// the first byte of the answer, while the transport still looks for its end.
func reverseProxy(upstream string) (http.Handler, error) {
	target, err := url.Parse(upstream)
	if err != nil {
		return nil, err
	}
	target.Path = "/"
	next := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set("Authorization", "Bearer "+key)
		},
		Transport: tunedTransport(), FlushInterval: -1, BufferPool: &bufferPool{},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		next.ServeHTTP(w, r)
	}), nil
}

func tunedTransport() *http.Transport {
	return &http.Transport{
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1024, IdleConnTimeout: 30 * time.Second,
		DisableCompression: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
}

type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.Pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *bufferPool) Put(b []byte) { p.Pool.Put(&b) }

// decodingProxy is what many gateways do: it decodes a request into a map, looks
// at it, and encodes it again.
func decodingProxy(upstream string) (http.Handler, error) {
	next, err := reverseProxy(upstream)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if json.NewDecoder(r.Body).Decode(&body) != nil || body["model"] == nil {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		raw, _ := json.Marshal(body)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
		next.ServeHTTP(w, r)
	}), nil
}

// retypingProxy puts go-openai's types and client between.
func retypingProxy(upstream string) (http.Handler, error) {
	config := openai.DefaultConfig(key)
	config.BaseURL = upstream
	config.HTTPClient = &http.Client{Transport: tunedTransport()}
	client := openai.NewClientWithConfig(config)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked openai.ChatCompletionRequest
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if !asked.Stream {
			answer, err := client.CreateChatCompletion(r.Context(), asked)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(answer)
			return
		}
		retypeStream(w, r, client, asked)
	}), nil
}

func retypeStream(w http.ResponseWriter, r *http.Request, client *openai.Client, asked openai.ChatCompletionRequest) {
	events, err := client.CreateChatCompletionStream(r.Context(), asked)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer events.Close()
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	for {
		chunk, err := events.Recv()
		if errors.Is(err, io.EOF) {
			_, _ = io.WriteString(w, "data: [DONE]\n\n")
			return
		}
		if err != nil {
			return
		}
		raw, _ := json.Marshal(chunk)
		fmt.Fprintf(w, "data: %s\n\n", raw)
		_ = rc.Flush()
	}
}
