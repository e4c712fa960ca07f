package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// system is the message as it is spliced in.
const system = `{"role":"system","content":"` + systemPrompt + `"}`

const forced = `"` + model + `"`

func start(t *testing.T) (*proxytest.Server, *proxytest.Upstream) {
	t.Helper()
	up := proxytest.NewUpstream(t)
	handler, err := newHandler(proxy.WithUpstream(up.URL()), proxy.WithKey("sk-test"))
	if err != nil {
		t.Fatal(err)
	}
	return proxytest.Serve(t, handler), up
}

func post(t *testing.T, srv *proxytest.Server, path, body string) (*http.Response, string) {
	t.Helper()
	res, err := srv.Client().Post(srv.URL+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

func TestUpstreamGetsOurMessageAndModel(t *testing.T) {
	t.Parallel()
	srv, up := start(t)
	for _, c := range []struct{ name, body, want string }{
		{
			"messages first",
			`{"messages":[{"role":"user","content":"hi"}],"model":"gpt-4o"}`,
			`{"messages":[` + system + `,{"role":"user","content":"hi"}],"model":` + forced + `}`,
		},
		{
			"model first",
			`{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}`,
			`{"model":` + forced + `,"messages":[` + system + `,{"role":"user","content":"hi"}]}`,
		},
		{
			"no model",
			`{"messages":[{"role":"user","content":"hi"}]}`,
			`{"model":` + forced + `,"messages":[` + system + `,{"role":"user","content":"hi"}]}`,
		},
		{
			"a model that is no string",
			`{"model": null ,"messages":[{"role":"user"}]}`,
			`{"model": ` + forced + ` ,"messages":[` + system + `,{"role":"user"}]}`,
		},
		{
			"no messages",
			`{"model":"x","messages":[ ]}`,
			`{"model":` + forced + `,"messages":[` + system + ` ]}`,
		},
		{
			"every other byte stays",
			"\n{ \"seed\" : 9007199254740993, \"temperature\":1.10,\"x\":{\"model\":\"y\",\"messages\":[]},\n" +
				"\t\"messages\" : [\n {\"role\":\"system\",\"content\":\"<你好> \\ud83d \\u003c\"} ] , \"stop\":null, \"model\" : \"z\" }\n",
			"\n{ \"seed\" : 9007199254740993, \"temperature\":1.10,\"x\":{\"model\":\"y\",\"messages\":[]},\n" +
				"\t\"messages\" : [" + system + ",\n {\"role\":\"system\",\"content\":\"<你好> \\ud83d \\u003c\"} ] , \"stop\":null, \"model\" : " + forced + " }\n",
		},
		{
			"names with escapes",
			`{"mode\u006c":"x","\u006dessages":[]}`,
			`{"mode\u006c":` + forced + `,"\u006dessages":[` + system + `]}`,
		},
	} {
		res, body := post(t, srv, "/v1/chat/completions", c.body)
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", c.name, res.StatusCode, body)
		}
		if got := string(up.Next().Body); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestStreamsPass(t *testing.T) {
	t.Parallel()
	srv, up := start(t)
	_, body := post(t, srv, "/v1/chat/completions", `{"stream":true,"messages":[{"role":"user","content":"one two"}]}`)
	events, err := proxytest.ReadEvents(strings.NewReader(body))
	if err != nil || len(events) < 5 || events[len(events)-1].Data != "[DONE]" {
		t.Errorf("%d events, %v: %s", len(events), err, body)
	}
	if got := string(up.Next().Body); !strings.Contains(got, system) {
		t.Errorf("upstream got %s", got)
	}
}

func TestNothingElseIsServed(t *testing.T) {
	t.Parallel()
	srv, up := start(t)
	for path, body := range map[string]string{
		"/":                      `{"messages":[]}`,
		"/v1/images/generations": `{"prompt":"x","model":"expensive"}`,
	} {
		if res, text := post(t, srv, path, body); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, res.StatusCode, text)
		}
	}
	for _, body := range []string{`{"model":"x"}`, `{"messages":[],"messages":[]}`, `{"messages":{}}`, `[]`} {
		if res, text := post(t, srv, "/v1/chat/completions", body); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, res.StatusCode, text)
		}
	}
	if n := len(up.Requests()); n != 0 {
		t.Errorf("%d calls reached the upstream", n)
	}
}

// The hook itself neither panics nor changes what it is given.
func TestRewrite(t *testing.T) {
	t.Parallel()
	call := proxy.Call{Route: proxy.RouteChat}
	for _, body := range []string{``, `[]`, `{`, `{}`, `{"messages":[]}`, `{"model":"x","messages":null}`, `{"model":"x","messages":`, `{1:2}`} {
		if got, err := rewrite(t.Context(), call, []byte(body)); err == nil {
			t.Errorf("%s became %s", body, got)
		}
	}
	body := []byte(`{"messages":[],"model":"x"}`)
	before := bytes.Clone(body)
	got, err := rewrite(t.Context(), call, body)
	if err != nil || !json.Valid(got) || !bytes.Equal(body, before) {
		t.Errorf("%s became %s, %v", body, got, err)
	}
	image := []byte(`{"prompt":"x"}`)
	if got, err := rewrite(t.Context(), proxy.Call{Route: proxy.RouteImages}, image); err != nil || !bytes.Equal(got, image) {
		t.Errorf("%s, %v", got, err)
	}
}

func TestRun(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "sk-test")
	up := proxytest.NewUpstream(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stdout, w := io.Pipe()
	status := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		status <- run(ctx, []string{"-listen", "127.0.0.1:0", "-upstream", up.URL()}, w, &stderr)
		w.Close()
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "Listening on ")
	if err != nil || !ok {
		t.Fatal(line, err, stderr.String())
	}
	res, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(`{"messages":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := up.Next(); got.Header.Get("Authorization") != "Bearer sk-test" || !strings.Contains(string(got.Body), system) {
		t.Errorf("upstream got %v %s", got.Header, got.Body)
	}
	stop()
	if got := <-status; got != 0 {
		t.Errorf("exit status %d: %s", got, stderr.String())
	}
	if got := run(t.Context(), []string{"-upstream", "nonsense"}, io.Discard, &stderr); got != 1 {
		t.Errorf("exit status %d with an invalid upstream", got)
	}
	if got := run(t.Context(), []string{"-nonsense"}, io.Discard, &stderr); got != 2 {
		t.Errorf("exit status %d with an unknown flag", got)
	}
}
