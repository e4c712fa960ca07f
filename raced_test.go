//go:build race

package proxy_test

// raced is set where sync.Pool drops part of what it is given.
const raced = true
