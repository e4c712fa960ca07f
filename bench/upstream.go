package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The upstream answers as its request's model says: "json", "image-2097152" (the
// bytes of its base64), "stream-1000" (events, back to back), "slow" (an event
// each second, with the time in it), "paced-600" (numbered events, five a second),
// "cut-10" (a stream that breaks off after so many events). Everything else is
// "json". GET /counts tells what it has seen.

const answer = `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,` +
	`"message":{"role":"assistant","content":"%s","refusal":null},"logprobs":null,"finish_reason":"stop"}],` +
	`"usage":{"prompt_tokens":9,"completion_tokens":200,"total_tokens":209},"system_fingerprint":"fp"}`

const event = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":"fp",` +
	`"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"obfuscation":"abcdefgh"}` + "\n\n"

// serveUpstream prints its addresses, plain and with TLS, and the certificate's
// file, and serves until it is killed.
func serveUpstream() error {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	cert, file, err := selfSigned()
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/v1 https://%s/v1 %s\n", plain.Addr(), secure.Addr(), file)
	handler := http.HandlerFunc(answerCall)
	withTLS := &http.Server{
		Handler: handler, ReadHeaderTimeout: time.Minute,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: 10_000},
	}
	go func() { _ = withTLS.ServeTLS(secure, "", "") }()
	return (&http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}).Serve(plain)
}

// counts are the calls that the upstream has seen.
type counts struct {
	Begun, Now, Most, Left int64
	Moved                  int64 // when an unpaced stream last moved, as Unix nanoseconds
}

var (
	seen   counts
	seenMu sync.Mutex
)

// count keeps the counts of one call until done.
func count(r *http.Request) (done func()) {
	seenMu.Lock()
	defer seenMu.Unlock()
	seen.Begun++
	seen.Now++
	seen.Most = max(seen.Most, seen.Now)
	return func() {
		seenMu.Lock()
		defer seenMu.Unlock()
		seen.Now--
		if r.Context().Err() != nil {
			seen.Left++
		}
	}
}

func answerCall(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/counts" {
		seenMu.Lock()
		defer seenMu.Unlock()
		seen.Moved = moved.Load()
		_ = json.NewEncoder(w).Encode(seen)
		return
	}
	defer count(r)()
	model := modelOf(r)
	switch {
	case strings.HasPrefix(model, "paced-"):
		events, _ := strconv.Atoi(model[len("paced-"):])
		paced(w, r, events)
	case strings.HasPrefix(model, "cut-"):
		events, _ := strconv.Atoi(model[len("cut-"):])
		stream(w, r, events)
		panic(http.ErrAbortHandler)
	case strings.HasPrefix(model, "image-"):
		size, _ := strconv.Atoi(model[len("image-"):])
		w.Header().Set("Content-Type", "application/json")
		body := image(size)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = io.WriteString(w, body)
	case strings.HasPrefix(model, "stream-"):
		events, _ := strconv.Atoi(model[len("stream-"):])
		stream(w, r, events)
	case model == "slow":
		slow(w, r)
	default:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, answer, strings.Repeat("word ", 140))
	}
}

var images sync.Map // by size: an upstream should not cost more than what is measured

func image(size int) string {
	body, ok := images.Load(size)
	if !ok {
		body, _ = images.LoadOrStore(size, `{"created":1,"data":[{"b64_json":"`+strings.Repeat("A", size)+`"}]}`)
	}
	return body.(string) //nolint:forcetypeassert // nothing else is stored
}

// modelOf reads the body to its end, and the model at its front or its end.
func modelOf(r *http.Request) string {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return ""
	}
	if len(body) > 4096 { // the load writes the model first
		body = append(body[:512:512], `"}]}`...)
		if i := strings.Index(string(body), `,"messages"`); i > 0 {
			body = append(body[:i:i], '}')
		}
	}
	var asked struct{ Model string }
	_ = json.Unmarshal(body, &asked)
	return asked.Model
}

func stream(w http.ResponseWriter, r *http.Request, events int) {
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	for range events {
		if _, err := io.WriteString(w, event); err != nil || rc.Flush() != nil || r.Context().Err() != nil {
			return
		}
		moved.Store(time.Now().UnixNano())
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}

var moved atomic.Int64

// pacedEvent is the nth event of a paced stream.
func pacedEvent(n int) string {
	return fmt.Sprintf("data: {\"n\":%d,\"text\":%q}\n\n", n, strings.Repeat("word ", 30))
}

const pacedEnd = "data: [DONE]\n\n"

func paced(w http.ResponseWriter, r *http.Request, events int) {
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	tick := time.NewTicker(time.Second / 5)
	defer tick.Stop()
	for n := range events {
		if _, err := io.WriteString(w, pacedEvent(n)); err != nil || rc.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
	_, _ = io.WriteString(w, pacedEnd)
}

func slow(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		fmt.Fprintf(w, "data: {\"sent\":%d}\n\n", time.Now().UnixNano())
		if rc.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// selfSigned makes a certificate for 127.0.0.1 and writes it to a file.
func selfSigned() (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	file, err := os.CreateTemp("", "bench-*.pem")
	if err != nil {
		return tls.Certificate{}, "", err
	}
	defer file.Close()
	if err := pem.Encode(file, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		return tls.Certificate{}, "", err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file.Name(), nil
}
