package main

import (
	"context"
	"net"
	"syscall"
	"time"
)

// deadLink is how long the kernel waits for a client that has vanished without a
// word, and that still has bytes to take.
const deadLink = 20 * time.Second

// tcpUserTimeout is TCP_USER_TIMEOUT (RFC 5482), which package syscall lacks.
const tcpUserTimeout = 18

// giveUpDeadLinks is an http.Server.ConnContext. Writing to a client that is no
// longer there succeeds until the kernel's buffers are full, and then it still
// waits for a quarter of an hour, while the upstream goes on and is paid.
func giveUpDeadLinks(ctx context.Context, conn net.Conn) context.Context {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return ctx
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // a kernel without it is no reason to refuse
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(deadLink.Milliseconds()))
		})
	}
	return ctx
}
