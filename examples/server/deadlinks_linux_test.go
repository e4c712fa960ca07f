package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"testing"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// What the kernel then does was measured when the option was chosen: a stream to
// a client whose link was cut ended after 20.4 to 29.9 s, and never without it.
func TestF26KernelIsToldToGiveUpDeadLinks(t *testing.T) {
	set := make(chan int, 1)
	server := newServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	srv := proxytest.Serve(t, server.Handler, proxytest.Configure(func(s *http.Server) {
		s.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
			ctx = server.ConnContext(ctx, conn)
			if raw, err := conn.(*net.TCPConn).SyscallConn(); err == nil {
				_ = raw.Control(func(fd uintptr) {
					ms, _ := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout)
					set <- ms
				})
			}
			return ctx
		}
	}))
	res, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if got := <-set; got != 20_000 {
		t.Errorf("TCP_USER_TIMEOUT is %d ms", got)
	}
}
