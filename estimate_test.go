package proxy_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// A prompt that begins with "data:" is no picture.
func TestTextThatLooksLikeAPictureIsText(t *testing.T) {
	t.Parallel()
	m := &meter{}
	f := start(t, proxy.WithLimiter(m))
	body := `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"data: ` + strings.Repeat("word ", 200_000) + `"}]}`
	f.up.Queue(proxytest.JSON(200, `{}`))
	f.post(t, chatPath, body)
	f.Close()
	r := m.only(t)
	if r.most.Tokens < 200_000 || r.taken.Tokens < 200_000 {
		t.Errorf("1 MB of text reserved %d and settled %d", r.most.Tokens, r.taken.Tokens)
	}
}

func TestFilesAsDataURLsAreText(t *testing.T) {
	t.Parallel()
	m := &meter{}
	f := start(t, proxy.WithLimiter(m))
	f.post(t, chatPath, `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"file","file":{"filename":"a.txt","file_data":"data:text/plain;base64,`+strings.Repeat("d29yZCB3", 100_000)+`"}}]}]}`)
	f.Close()
	if r := m.only(t); r.most.Tokens < 50_000 {
		t.Errorf("800 kB of a text file reserve %d", r.most.Tokens)
	}
}

// Some readers take a number in a text for the number.
func TestNumbersInTextsAreReserved(t *testing.T) {
	t.Parallel()
	for _, more := range []string{`"max_tokens":"1000000"`, `"n":"128"`, `"max_completion_tokens":"1000000"`} {
		m := &meter{}
		f := start(t, proxy.WithLimiter(m))
		f.post(t, chatPath, `{"model":"m","messages":[],`+more+`}`)
		f.Close()
		if got := m.only(t).most.Tokens; got < 128*4096 {
			t.Errorf("%s reserves %d", more, got)
		}
	}
	for _, n := range []string{"+10", " 10", "10 ", "1e1"} {
		m := &meter{}
		f := start(t, proxy.WithLimiter(m), proxy.WithPrices(map[string]proxy.Price{"*": {Image: 1}}))
		body, ct := edForm(t, "b", edPart{name: "model", value: "m"}, edPart{name: "prompt", value: "p"}, edPart{name: "n", value: n})
		f.post(t, plEdits, body, "Content-Type", ct)
		f.Close()
		if got := m.only(t).most.Cost; got < 10_000_000 {
			t.Errorf("form n=%q reserves %s", n, got)
		}
	}
}

func TestFewLargeEventsCountByTheirSize(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"40 kB": 40_000, "200 kB": 200_000} {
		m := &meter{}
		f := start(t, proxy.WithLimiter(m))
		event := `data: {"choices":[{"delta":{"content":"` + strings.Repeat("word ", size/5) + `"}}]}` + "\n\n"
		f.up.Queue(proxytest.Stream(proxytest.Text(event), proxytest.Text("data: [DONE]\n\n")))
		f.post(t, chatPath, askHelloStream)
		f.Close()
		if r := m.only(t); r.taken.Tokens < int64(size/8) {
			t.Errorf("%s of text in one event settled %d tokens", name, r.taken.Tokens)
		}
	}
}

// Gemini and others count thinking in the sum alone.
func TestSumBeyondItsPartsIsCharged(t *testing.T) {
	t.Parallel()
	m := &meter{}
	f := start(t, proxy.WithLimiter(m), proxy.WithPrices(map[string]proxy.Price{"*": {Prompt: 1, Completion: 1}}))
	f.up.Queue(proxytest.JSON(200, `{"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":5008,"completion_tokens_details":{"reasoning_tokens":5000}}}`))
	f.post(t, chatPath, askHello)
	f.Close()
	if r := m.only(t); r.taken.Tokens < 5008 {
		t.Errorf("settled %+v of a total of 5008", r.taken)
	}
}

func TestUsageIsNotForgotten(t *testing.T) {
	t.Parallel()
	m := &meter{}
	f := start(t, proxy.WithLimiter(m))
	f.up.Queue(proxytest.Stream(proxytest.Text(limitChunk + `data: {"choices":[],"usage":{"prompt_tokens":70000,"completion_tokens":11}}` + "\n\n" + `data: {"choices":[],"usage":{}}` + "\n\ndata: [DONE]\n\n")))
	f.post(t, chatPath, askHelloStream)
	f.Close()
	if r := m.only(t); r.taken.Tokens != 70011 {
		t.Errorf("settled %+v", r.taken)
	}
}

// Some servers tell the usage so far with every event.
func TestUsageOfTheWayThereIsNotTheWhole(t *testing.T) {
	t.Parallel()
	m := &meter{}
	f := start(t, proxy.WithLimiter(m))
	f.up.Queue(proxytest.Stream(proxytest.Text(`data: {"choices":[{"delta":{"content":""}}],"usage":{"prompt_tokens":7,"completion_tokens":0,"total_tokens":7}}`+"\n\n"), proxytest.Text(strings.Repeat(limitChunk, 500)), proxytest.Cut()))
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+chatPath, strings.NewReader(askHelloStream))
	if res, err := f.Client().Do(req); err == nil {
		for {
			var b [4096]byte
			if _, err := res.Body.Read(b[:]); err != nil {
				break
			}
		}
		res.Body.Close()
	}
	f.Close()
	if r := m.only(t); r.taken.Tokens < 500 {
		t.Errorf("500 events behind an early usage settled %+v", r.taken)
	}
}

func TestDrainedSubscriptionCountsWhatWasReadAhead(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string][]proxytest.Step{
		"buffered": {proxytest.Text(strings.Repeat(rcChunk, 1)), proxytest.Text(strings.Repeat(rcChunk, 60) + rcEnd)},
	} {
		book := newDoneBook()
		more := make(chan struct{})
		f := start(t, draining(book, proxy.Limits{DrainTime: 5 * time.Second})...)
		f.up.Queue(proxytest.Stream(steps[0], proxytest.Gate(more), steps[1]))
		leaveAfter(t, f, "/graphql", gqlRequest(gqlSubscription, gqlChat("model", "m")), ":\n\nevent: next",
			"Content-Type", "application/json", "Accept", "text/event-stream")
		close(more)
		if out := book.only(t, f).out; !out.Usage.Reported || out.Usage.TotalTokens != 14 {
			t.Errorf("%s: outcome %+v", name, out)
		}
	}
}
