package main

import "syscall"

// endsWithDriver lets the kernel end a peer when the driver ends, however it does:
// peers do not watch their standard input, as our own processes do.
func endsWithDriver() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
