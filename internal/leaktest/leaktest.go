// Package leaktest ends the tests of a package with a look at what they left
// running.
package leaktest

import (
	"bytes"
	"fmt"
	"os"
	"runtime/pprof"
	"testing"
)

// Run runs the tests and returns the exit status. Where the runtime can tell
// which goroutines nothing will ever wake again, as it can when built with
// GOEXPERIMENT=goroutineleakprofile, one such goroutine fails them.
func Run(m *testing.M) int {
	status := m.Run()
	profile := pprof.Lookup("goroutineleak")
	if profile == nil {
		return status
	}
	var text bytes.Buffer
	if err := profile.WriteTo(&text, 1); err != nil { // which looks for them
		fmt.Fprintln(os.Stderr, "leaktest:", err)
		return 1
	}
	if profile.Count() == 0 {
		return status
	}
	fmt.Fprintf(os.Stderr, "leaktest: the tests left goroutines behind\n%s", &text)
	return 1
}
