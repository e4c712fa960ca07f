package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
)

// piece is 1,000 bytes of a header's value.
var piece = bytes.Repeat([]byte{'x'}, 1000)

// An upstream sends headers without end, which neither it nor we have in memory.
func TestF18HugeAnswerHeadersTakeLittleMemory(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	roots := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for name, row := range map[string]struct {
		proto string
		send  func(conn io.ReadWriter, pieces int)
	}{
		"HTTP/1.1, a line":     {"http/1.1", func(c io.ReadWriter, n int) { sendHeaders1(c, n, "") }},
		"HTTP/1.1, many lines": {"http/1.1", func(c io.ReadWriter, n int) { sendHeaders1(c, n, "\r\nX-More: ") }},
		"HTTP/2":               {"h2", sendHeaders2},
	} {
		for _, tt := range []struct{ pieces, status int }{{200, 200}, {300, 502}, {1 << 10, 502}, {11 << 10, 502}} {
			t.Run(fmt.Sprintf("%s, %d KB", name, tt.pieces), func(t *testing.T) {
				ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: srv.TLS.Certificates, NextProtos: []string{row.proto}})
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				served := make(chan struct{})
				go func() {
					defer close(served)
					if conn, err := ln.Accept(); err == nil {
						row.send(conn, tt.pieces)
						_ = conn.Close()
					}
				}()
				transport := newTransport(false)
				transport.TLSClientConfig.RootCAs = roots
				h, err := NewHandler(WithKey("sk-x"), WithUpstream("https://"+ln.Addr().String()+"/v1"), WithTransport(transport),
					WithLogger(slog.New(slog.DiscardHandler)))
				if err != nil {
					t.Fatal(err)
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				w := httptest.NewRecorder()
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/chat/completions", strings.NewReader(`{"model":"m","messages":[]}`))
				h.ServeHTTP(w, r)
				runtime.ReadMemStats(&after)
				transport.CloseIdleConnections()
				if w.Code != tt.status {
					t.Errorf("status %d: %s, want %d", w.Code, w.Body, tt.status)
				}
				// In all, of which the heap holds a part at any time.
				if got := after.TotalAlloc - before.TotalAlloc; got > 3<<20 {
					t.Errorf("%d KiB were allocated", got>>10)
				}
				<-served
			})
		}
	}
}

// sendHeaders1 answers a request with so many pieces of a header, and the same
// text between any two.
func sendHeaders1(conn io.ReadWriter, pieces int, between string) {
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nX-More: ")
	for range pieces {
		if _, err := conn.Write(piece); err != nil {
			return
		}
		if _, err := io.WriteString(conn, between); err != nil {
			return
		}
	}
	_, _ = io.WriteString(conn, "\r\n\r\n{}")
}

// sendHeaders2 does so over HTTP/2, in frames as RFC 9113 has them.
func sendHeaders2(conn io.ReadWriter, pieces int) {
	in := bufio.NewReader(conn)
	if _, err := in.Discard(24); err != nil { // the preface
		return
	}
	const data, headers, settings, continuation = 0, 1, 4, 9
	const ack, endStream, endHeaders = 1, 1, 4
	frame := func(kind, flags byte, stream uint32, payload ...byte) error {
		head := make([]byte, 9, 9+len(payload))
		binary.BigEndian.PutUint32(head, uint32(len(payload))<<8)
		head[3], head[4] = kind, flags
		binary.BigEndian.PutUint32(head[5:], stream)
		_, err := conn.Write(append(head, payload...))
		return err
	}
	_ = frame(settings, 0, 0)
	var head [9]byte
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		length := int(binary.BigEndian.Uint32(head[:]) >> 8)
		if _, err := in.Discard(length); err != nil {
			return
		}
		stream := binary.BigEndian.Uint32(head[5:])
		switch {
		case head[3] == settings && head[4]&ack == 0:
			_ = frame(settings, ack, 0)
		case head[3] == headers:
			// Literals that are not indexed: a name, and a value with its length.
			_ = frame(headers, 0, stream, []byte("\x88\x00\x0ccontent-type\x10application/json")...)
			field := append([]byte("\x00\x06x-more\x7f\xe9\x06"), piece...)
			for range pieces {
				if frame(continuation, 0, stream, field...) != nil {
					return
				}
			}
			_ = frame(continuation, endHeaders, stream)
			_ = frame(data, endStream, stream, []byte("{}")...)
		}
	}
}
