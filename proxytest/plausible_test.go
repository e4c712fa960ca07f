package proxytest_test

import (
	"bytes"
	"encoding/base64"
	"image/png"
	"net/http"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy/proxytest"
)

func TestPlausibleChat(t *testing.T) {
	eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
		up := proxytest.NewUpstream(t, opts...)
		text := readAll(t, post(t, up, "/chat/completions", ask("")))
		if got := value(t, text, "choices", 0, "message", "content"); got != "You said: hello you <b>" {
			t.Errorf("content %q", got)
		}
		if value(t, text, "model") != "m" || value(t, text, "usage", "total_tokens") != 21.0 {
			t.Errorf("model or usage in %s", text)
		}
		req := up.Next()
		if req.Method != "POST" || req.Target != "/v1/chat/completions" || string(req.Body) != ask("") ||
			!strings.HasSuffix(up.URL(), req.Host+"/v1") || req.ContentLength != int64(len(req.Body)) ||
			req.BodyErr != nil || req.Header.Get("User-Agent") == "" || req.RemoteAddr == "" || req.Proto == "" {
			t.Errorf("request %+v", req)
		}
		<-req.Done()
		if n := len(up.Requests()); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestPlausibleChatStream(t *testing.T) {
	for _, tc := range []struct {
		more  string
		usage bool
	}{
		{`,"stream":true`, false},
		{`,"stream":true,"stream_options":{"include_usage":true}`, true},
	} {
		up := proxytest.NewUpstream(t)
		resp := post(t, up, "/chat/completions?api-version=1", ask(tc.more))
		if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
			t.Errorf("content type %q", got)
		}
		checkChatStream(t, readEvents(t, resp), "You said: hello you <b>", tc.usage)
	}
}

func checkChatStream(t *testing.T, events []proxytest.Event, want string, usage bool) {
	t.Helper()
	if n := len(events); n < 3 || events[n-1].Data != "[DONE]" {
		t.Fatalf("events %q", events)
	}
	events = events[:len(events)-1]
	if usage {
		last := events[len(events)-1].Data
		if value(t, last, "usage", "total_tokens") != 21.0 || !strings.Contains(last, `"choices":[]`) {
			t.Errorf("last chunk %s", last)
		}
		events = events[:len(events)-1]
	}
	content := ""
	for _, event := range events {
		if strings.Contains(event.Data, `"usage":null`) != usage || event.Name != "" {
			t.Errorf("chunk %q", event)
		}
		piece, _ := value(t, event.Data, "choices", 0, "delta", "content").(string)
		content += piece
	}
	if content != want || value(t, events[len(events)-1].Data, "choices", 0, "finish_reason") != "stop" {
		t.Errorf("content %q, last chunk %s", content, events[len(events)-1].Data)
	}
}

func TestPlausibleImages(t *testing.T) {
	form := "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na cat\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\nxyz\r\n--b--\r\n"
	up := proxytest.NewUpstream(t)
	client := &http.Client{Transport: up.Transport()}
	resp, err := client.Post(up.URL()+"/images/edits", "multipart/form-data; boundary=b", strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	edited := readAll(t, resp)
	if got := string(up.Next().Body); got != form {
		t.Errorf("form arrived as %q", got)
	}
	drawn := readAll(t, post(t, up, "/images/generations", `{"prompt":"a cat"}`))
	other := readAll(t, post(t, up, "/images/edits", `{"prompt":"a dog"}`))
	picture := value(t, drawn, "data", 0, "b64_json")
	if value(t, edited, "data", 0, "b64_json") != picture || value(t, other, "data", 0, "b64_json") == picture {
		t.Error("the picture does not depend on the prompt alone")
	}
	checkPNG(t, picture)
	url := readAll(t, post(t, up, "/images/generations", `{"prompt":"a cat","response_format":"url"}`))
	if got, _ := value(t, url, "data", 0, "url").(string); !strings.HasPrefix(got, "https://images.example/") {
		t.Errorf("url %q", got)
	}
	events := readEvents(t, post(t, up, "/images/edits", `{"prompt":"a cat","stream":true}`))
	checkImageStream(t, events, "image_edit")
}

func checkPNG(t *testing.T, b64 any) {
	t.Helper()
	text, _ := b64.(string)
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := png.Decode(bytes.NewReader(b)); err != nil {
		t.Error(err)
	}
}

func checkImageStream(t *testing.T, events []proxytest.Event, prefix string) {
	t.Helper()
	if len(events) != 2 || events[0].Name != prefix+".partial_image" || events[1].Name != prefix+".completed" {
		t.Fatalf("events %.200q", events)
	}
	for _, event := range events {
		if value(t, event.Data, "type") != event.Name {
			t.Errorf("type in %.200s", event.Data)
		}
		checkPNG(t, value(t, event.Data, "b64_json"))
	}
	if value(t, events[0].Data, "partial_image_index") != 0.0 || value(t, events[1].Data, "usage", "total_tokens") != 30.0 {
		t.Error("index or usage missing")
	}
}

func TestPlausibleRefusals(t *testing.T) {
	up := proxytest.NewUpstream(t)
	for _, tc := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/models", "{}", 404},
		{"GET", "/chat/completions", "", 405},
		{"POST", "/chat/completions", "", 400},
		{"POST", "/chat/completions", "{", 400},
		{"POST", "/chat/completions", `{"messages":[]}`, 400},
		{"POST", "/chat/completions", `{"model":"m"}`, 400},
		{"POST", "/images/generations", `{`, 400},
		{"POST", "/images/generations", `{"model":"m"}`, 400},
	} {
		resp := do(t, &http.Client{Transport: up.Transport()}, tc.method, up.URL()+tc.path, tc.body)
		text := readAll(t, resp)
		if resp.StatusCode != tc.status || value(t, text, "error", "type") != "invalid_request_error" {
			t.Errorf("%s %s %s: status %d, body %s", tc.method, tc.path, tc.body, resp.StatusCode, text)
		}
	}
}
