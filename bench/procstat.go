package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU times in /proc, 10 ms on every Linux that Go runs on.
const tick = time.Second / 100

// stat is what /proc/PID/stat tells of a process.
type stat struct {
	parent   int
	cpu      time.Duration
	resident uint64
}

// treeUsage adds up what a process and all its descendants use: nginx, for one,
// works in children.
func treeUsage(root int) (u usage, err error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return u, err
	}
	all := map[int]stat{}
	for _, path := range paths {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		raw, err := os.ReadFile(path) //nolint:gosec // of /proc
		if err != nil {
			continue // it has ended
		}
		if all[pid], err = parseStat(string(raw)); err != nil {
			return u, err
		}
	}
	if _, ok := all[root]; !ok {
		return u, fmt.Errorf("there is no process %d", root)
	}
	for pid, s := range all {
		if descends(all, pid, root) {
			u.CPU += s.cpu
			u.Resident += s.resident
		}
	}
	return u, nil
}

func descends(all map[int]stat, pid, root int) bool {
	for range len(all) { // a process that takes a number anew could close a circle
		if pid == root {
			return true
		}
		if pid <= 1 {
			return false
		}
		pid = all[pid].parent
	}
	return false
}

func parseStat(raw string) (s stat, err error) {
	// The name stands in parentheses, and may hold anything.
	fields := strings.Fields(raw[strings.LastIndexByte(raw, ')')+1:])
	if len(fields) < 22 {
		return s, fmt.Errorf("a strange line in /proc: %q", raw)
	}
	var n [4]int64
	for i, at := range []int{1, 11, 12, 21} { // ppid, utime, stime, rss
		if n[i], err = strconv.ParseInt(fields[at], 10, 64); err != nil {
			return s, err
		}
	}
	return stat{int(n[0]), time.Duration(n[1]+n[2]) * tick, uint64(n[3]) * uint64(os.Getpagesize())}, nil //nolint:gosec // not negative
}
