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
// bound to their own request, and gates to their prompt.
type scripted struct {
	mu    sync.Mutex
	calls []*call
	gates map[string]chan struct{}
}

// call is one request as the upstream saw it. GET /calls lists all.
type call struct {
	Path          string          `json:"path"`
	Authorization string          `json:"authorization"`
	Cookie        string          `json:"cookie"`
	Prompt        string          `json:"prompt"`
	Body          json.RawMessage `json:"body"`
	State         string          `json:"state"`   // running, done, or left by the caller
	EndedAt       int64           `json:"endedAt"` // milliseconds since 1970
}

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "GET /calls":
		s.list(w)
		return
	case "POST /open":
		close(s.gate(r.URL.Query().Get("prompt"))) // a second time is a mistake in the test, and panics
		return
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, 1<<20)); err != nil {
		http.Error(w, "the body is not whole", http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body.Bytes()))
	c := &call{
		Path: r.URL.Path, Authorization: r.Header.Get("Authorization"), Cookie: r.Header.Get("Cookie"),
		Prompt: promptOf(body.Bytes()), State: "running",
	}
	if json.Valid(body.Bytes()) {
		c.Body = body.Bytes()
	}
	first := s.add(c)
	// Answers that break the connection end by a panic of net/http's own.
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		c.State, c.EndedAt = "done", time.Now().UnixMilli()
		if r.Context().Err() != nil {
			c.State = "left"
		}
	}()
	var up proxytest.Upstream
	up.Queue(s.answer(c.Prompt, first))
	up.ServeHTTP(w, r)
}

// add keeps a call and reports whether it is the first with its prompt.
func (s *scripted) add(c *call) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first = true
	for _, earlier := range s.calls {
		first = first && earlier.Prompt != c.Prompt
	}
	s.calls = append(s.calls, c)
	return first
}

func (s *scripted) list(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(append([]*call{}, s.calls...)) // whoever asked may be gone
}

// gate returns what holds answers to the prompt back until POST /open.
func (s *scripted) gate(prompt string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gates == nil {
		s.gates = map[string]chan struct{}{}
	}
	if s.gates[prompt] == nil {
		s.gates[prompt] = make(chan struct{})
	}
	return s.gates[prompt]
}

// answer reads the script in a prompt: its words before the colon. Those that
// say "once" play at the first call only. Everything else gets the plausible
// answer, an echo or a small picture.
func (s *scripted) answer(prompt string, first bool) proxytest.Answer {
	script, _, _ := strings.Cut(prompt, ":")
	script, once := strings.CutSuffix(script, " once")
	if once && !first {
		return proxytest.Answer{}
	}
	half := proxytest.Text(chunk("The first half"))
	switch script {
	case "wait in the middle":
		return proxytest.Stream(half, proxytest.Gate(s.gate(prompt)),
			proxytest.Text(chunk(", and the second.")), proxytest.Text("data: [DONE]\n\n"))
	case "fall silent":
		return proxytest.Stream(half, proxytest.Silence())
	case "never answer":
		return proxytest.Hang()
	case "limit the rate":
		return proxytest.RateLimited(7 * time.Second)
	case "break down":
		return proxytest.Failure(http.StatusInternalServerError, "server_error", "", "The server had an error.")
	case "break off":
		return proxytest.Stream(half, proxytest.Gate(s.gate(prompt)), proxytest.Cut())
	case "fail in the middle":
		return proxytest.Stream(half, proxytest.Text(
			`data: {"error":{"message":"The model is overloaded.","type":"server_error","param":null,"code":null}}`+"\n\n"))
	case "end early":
		return proxytest.Stream(half)
	case "run out of tokens":
		return proxytest.Stream(half, proxytest.Text(strings.Replace(chunk("!"), `"finish_reason":null`, `"finish_reason":"length"`, 1)),
			proxytest.Text("data: [DONE]\n\n"))
	case "refuse to draw":
		return proxytest.Failure(http.StatusBadRequest, "image_generation_user_error", "moderation_blocked",
			"Your request was rejected by the safety system.")
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
