package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// scripted is an upstream that plays what the prompt asks for. Answers are
// bound to their own request, so tests may run side by side.
type scripted struct {
	mu    sync.Mutex
	calls []*call
}

// longerThanPing is a silence in which a subscription must show that it lives,
// which it does every 12 seconds.
const longerThanPing = 15 * time.Second

// call is one request as the upstream saw it. GET /calls lists all.
type call struct {
	Path          string          `json:"path"`
	Authorization string          `json:"authorization"`
	Prompt        string          `json:"prompt"`
	Body          json.RawMessage `json:"body"`
	State         string          `json:"state"` // running, done, or left by the caller
}

const (
	stateRunning = "running"
	stateDone    = "done"
	stateLeft    = "left"
)

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.URL.Path == "/calls" {
		s.list(w)
		return
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, 1<<20)); err != nil {
		http.Error(w, "the body is not whole", http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body.Bytes()))
	c := &call{
		Path: r.URL.Path, Authorization: r.Header.Get("Authorization"),
		Prompt: promptOf(body.Bytes()), State: stateRunning,
	}
	if json.Valid(body.Bytes()) {
		c.Body = body.Bytes()
	}
	s.mu.Lock()
	s.calls = append(s.calls, c)
	s.mu.Unlock()
	// Answers that break the connection end by a panic of net/http's own.
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		c.State = stateDone
		if r.Context().Err() != nil {
			c.State = stateLeft
		}
	}()
	var up proxytest.Upstream
	up.Queue(answer(c.Prompt))
	up.ServeHTTP(w, r)
}

func (s *scripted) list(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(append([]*call{}, s.calls...)) // whoever asked may be gone
}

// answer reads the script in a prompt: its first words. Any other prompt gets
// the plausible answer, an echo or a small picture.
func answer(prompt string) proxytest.Answer {
	script, _, _ := strings.Cut(prompt, ":")
	switch script {
	case "limit the rate":
		return proxytest.RateLimited(2 * time.Second)
	case "refuse the key":
		return proxytest.Failure(http.StatusUnauthorized, "invalid_request_error", "invalid_api_key",
			"Incorrect API key provided: "+serverKey+".")
	case "break down":
		return proxytest.Failure(http.StatusInternalServerError, "server_error", "", "The server had an error.")
	case "die in the middle":
		return proxytest.Stream(proxytest.Text(chunk("Hel")), proxytest.Text(chunk("lo")), proxytest.Cut())
	case "fail in the middle":
		return proxytest.Stream(proxytest.Text(chunk("Hel")), proxytest.Text(
			`data: {"error":{"message":"The server is overloaded.","type":"server_error","param":null,"code":null}}`+"\n\n"))
	case "fall silent":
		return proxytest.Stream(proxytest.Text(chunk("Hel")), proxytest.Silence())
	case "pause":
		return proxytest.Stream(proxytest.Text(chunk("Hel")), proxytest.Pause(longerThanPing),
			proxytest.Text(chunk("lo")), proxytest.Text("data: [DONE]\n\n"))
	case "never answer":
		return proxytest.Hang()
	case "draw by URL":
		return proxytest.ImageURL("https://images.example.com/cat.png")
	}
	return proxytest.Answer{}
}

// chunk is one event of a chat stream.
func chunk(content string) string {
	text, _ := json.Marshal(content) // a string always encodes
	return `data: {"id":"chatcmpl-e2e","object":"chat.completion.chunk","created":1,"model":"e2e",` +
		`"choices":[{"index":0,"delta":{"role":"assistant","content":` + string(text) + `},"finish_reason":null}]}` + "\n\n"
}

// promptOf is the text that a request is about: the last message of a chat, or
// the prompt of an image.
func promptOf(body []byte) string {
	var asked struct {
		Prompt   string `json:"prompt"`
		Messages []struct {
			Content any `json:"content"`
		} `json:"messages"`
	}
	if json.Unmarshal(body, &asked) != nil || len(asked.Messages) == 0 {
		return asked.Prompt
	}
	text, _ := asked.Messages[len(asked.Messages)-1].Content.(string)
	return text
}
