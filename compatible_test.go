package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	openai "github.com/sashabaranov/go-openai"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

var coDialects = []proxytest.Dialect{
	proxytest.Azure, proxytest.Ollama, proxytest.VLLM, proxytest.LlamaCpp, proxytest.OpenRouter,
	proxytest.DeepSeek, proxytest.Mistral, proxytest.Gemini,
}

const coStream = `{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}`

// coTee keeps the bodies that the upstream has sent.
type coTee struct {
	http.RoundTripper
	sent *buffer
}

func (rt coTee) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := rt.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(res.Body, rt.sent), res.Body}
	return res, nil
}

// coStart makes a fixture whose upstream's bodies are kept.
func coStart(t *testing.T, options ...proxy.Option) (f *fixture, up *proxytest.Upstream, sent *buffer) {
	t.Helper()
	up, sent = proxytest.NewUpstream(t), &buffer{}
	options = append([]proxy.Option{proxy.WithUpstream(up.URL()), proxy.WithTransport(coTee{up.Transport(), sent})}, options...)
	return start(t, options...), up, sent
}

// What a compatible server says is the caller's, to the byte, whatever the
// server's habits: plain, streamed, and streamed with an error inside.
func TestCompatibleServersAnswersPassUntouched(t *testing.T) {
	t.Parallel()
	for _, d := range coDialects {
		for name, tc := range map[string]struct {
			answer proxytest.Answer
			body   string
			kind   string
		}{
			"plain":  {d.Chat("Hello <b>"), rtChat, "application/json"},
			"stream": {d.ChatStream("Hel", "lo"), coStream, "text/event-stream; charset=utf-8"},
			"fails":  {d.StreamFailure("worn out", "Hel", "lo"), coStream, "text/event-stream; charset=utf-8"},
		} {
			t.Run(string(d)+" "+name, func(t *testing.T) {
				t.Parallel()
				for _, path := range []string{"/v1/chat/completions", "/"} {
					f, up, sent := coStart(t)
					up.Queue(tc.answer)
					res, got := f.post(t, path, tc.body)
					if want := sent.String(); res.StatusCode != http.StatusOK || got != want || !strings.Contains(got, "Hel") {
						t.Errorf("%s: status %d: %q\nwant %q", path, res.StatusCode, got, want)
					}
					if kind := res.Header.Get("Content-Type"); kind != tc.kind {
						t.Errorf("%s: Content-Type %q, want %q", path, kind, tc.kind)
					}
				}
			})
		}
	}
}

// Every server's error keeps its status, its text is found, and a code that it
// has is kept: as it is on the OpenAI face, as a text on the worker's.
func TestCompatibleServersErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		dialect proxytest.Dialect
		status  int
		object  string // the error object on the OpenAI face
		text    string
		members string // of the worker's shape
	}{
		{proxytest.Azure, 400, `{"message":"no","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation",` +
			`"content_filter_result":{"hate":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}}}}`, "no", `,"param":"prompt","code":"content_filter"`},
		{proxytest.Azure, 429, `{"code":"429","message":"no"}`, "no", `,"code":"429"`},
		{proxytest.Ollama, 404, `{"message":"no","type":"not_found_error","param":null,"code":null}`, "no", `,"type":"not_found_error"`},
		{proxytest.VLLM, 404, `{"message":"no","type":"NotFoundError","param":null,"code":404}`, "no", `,"type":"NotFoundError","code":"404"`},
		{proxytest.LlamaCpp, 503, `{"code":503,"message":"no","type":"unavailable_error"}`, "no", `,"type":"unavailable_error","code":"503"`},
		{proxytest.OpenRouter, 402, `{"message":"no","code":402,"metadata":{"provider_name":"proxytest"}}`, "no", `,"code":"402"`},
		{proxytest.DeepSeek, 402, `{"message":"no","type":"invalid_request_error","param":null,"code":null}`, "no", `,"type":"invalid_request_error"`},
		{
			proxytest.Mistral, 422,
			`{"message":"{\"detail\":[{\"type\":\"extra_forbidden\",\"loc\":[\"body\"],\"msg\":\"no\"}]}","type":"invalid_request_error","param":null,"code":null}`,
			`{"detail":[{"type":"extra_forbidden","loc":["body"],"msg":"no"}]}`, `,"type":"invalid_request_error"`,
		},
		{proxytest.Mistral, 429, `{"message":"no","type":"rate_limit_error","param":null,"code":null}`, "no", ""},
		{proxytest.Gemini, 400, `{"code":400,"message":"no","status":"INVALID_ARGUMENT"}`, "no", `,"code":"400"`},
	} {
		t.Run(string(tc.dialect)+strconv.Itoa(tc.status), func(t *testing.T) {
			t.Parallel()
			f := start(t)
			for _, body := range []string{rtChat, coStream} {
				f.up.Queue(tc.dialect.Failure(tc.status, "no"), tc.dialect.Failure(tc.status, "no"))
				res, got := f.post(t, "/v1/chat/completions", body)
				anWant(t, res, got, tc.status, `{"error":`+tc.object+`,"message":`+ueQuote(tc.text)+`,"status":`+strconv.Itoa(tc.status)+"}\n")
				res, got = f.post(t, "/", body)
				anWant(t, res, got, tc.status, ueWorker("OpenAI API", tc.status, tc.text, tc.members))
			}
		})
	}
}

// A key that the server does not take is this server's fault, whatever the shape
// of the refusal; where no key is sent, the refusal is the caller's to see.
func TestCompatibleServersThatRefuseTheKey(t *testing.T) {
	t.Parallel()
	for _, d := range coDialects {
		f := start(t)
		f.up.Queue(d.Failure(401, "Unauthorized"))
		res, got := f.post(t, "/v1/chat/completions", rtChat)
		if res.StatusCode != 502 || !strings.Contains(got, `"upstream_auth"`) || strings.Contains(got, "Unauthorized") {
			t.Errorf("%s: status %d: %s", d, res.StatusCode, got)
		}
		f = start(t, proxy.WithAuthHeader(""))
		f.up.Queue(d.Failure(401, "Unauthorized"))
		res, got = f.post(t, "/v1/chat/completions", rtChat)
		if res.StatusCode != 401 || !strings.Contains(got, `"message":"Unauthorized","status":401`) {
			t.Errorf("%s, without a key: status %d: %s", d, res.StatusCode, got)
		}
	}
}

func TestAzureGetsItsKeyInItsHeaderAndItsQuery(t *testing.T) {
	t.Parallel()
	up := proxytest.NewUpstream(t)
	root := strings.TrimSuffix(up.URL(), "/v1")
	for base, want := range map[string]string{
		"/openai/v1?api-version=preview": "/openai/v1/chat/completions?api-version=preview",
		"/openai/v1":                     "/openai/v1/chat/completions",
		"/openai/deployments/my-gpt?api-version=2024-10-21":     "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21",
		"/openai/deployments/my-gpt/?api-version=2024-10-21&a=": "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21&a=",
	} {
		f := start(t, proxy.WithUpstream(root+base), proxy.WithTransport(up.Transport()), proxy.WithAuthHeader("api-key"))
		up.Queue(proxytest.Azure.ChatStream("hi"))
		res, got := f.post(t, "/v1/chat/completions?api-version=other", coStream, "Api-Key", "of the page", "Authorization", "Bearer of-the-page")
		if res.StatusCode != 200 || !strings.Contains(got, `"prompt_filter_results":[{`) {
			t.Errorf("status %d: %s", res.StatusCode, got)
		}
		sent := up.Next()
		if sent.Target != want {
			t.Errorf("%s became %s, want %s", base, sent.Target, want)
		}
		if keys := sent.Header["Api-Key"]; len(keys) != 1 || keys[0] != canary || sent.Header["Authorization"] != nil {
			t.Errorf("Api-Key %q, Authorization %q", keys, sent.Header["Authorization"])
		}
	}
}

func TestServersWithoutAKeyNeedNone(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "")
	f := start(t, proxy.WithKeySource(proxy.EnvKey("OPENAI_API_KEY")), proxy.WithAuthHeader(""))
	f.up.Queue(proxytest.Ollama.Chat("hi"))
	res, got := f.post(t, "/v1/chat/completions", rtChat, "Authorization", "Bearer unused")
	if res.StatusCode != 200 {
		t.Errorf("status %d: %s", res.StatusCode, got)
	}
	for name := range f.up.Next().Header {
		if strings.Contains(name, "Auth") || strings.Contains(name, "Key") {
			t.Errorf("the upstream got %s", name)
		}
	}
}

// The blank lines and comments that DeepSeek sends while it thinks are life for
// StreamIdle, and part of the answer.
func TestBlankLinesAndCommentsAreLife(t *testing.T) {
	t.Parallel()
	const whole = `{"choices":[{"message":{"role":"assistant","content":"hi"}}]}`
	for _, tc := range []struct {
		kind, filler, answer string
	}{{"application/json", "\n", whole}, {"text/event-stream", ": keep-alive\n\n", "data: [DONE]\n\n"}} {
		for _, every := range []time.Duration{4 * time.Second, 6 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				f := setup{
					client:   []proxytest.ServerOption{proxytest.InMemory()},
					upstream: []proxytest.ServerOption{proxytest.InMemory()},
					options:  []proxy.Option{proxy.WithLimits(proxy.Limits{StreamIdle: 5 * time.Second})},
				}.start(t)
				filler, pause := proxytest.Text(tc.filler), proxytest.Pause(every)
				f.up.Queue(proxytest.Respond(200, http.Header{"Content-Type": {tc.kind}},
					filler, pause, filler, pause, filler, pause, proxytest.Text(tc.answer)))
				res, err := f.Client().Post(f.URL+"/v1/chat/completions", "application/json", strings.NewReader(rtChat))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				text, err := io.ReadAll(res.Body)
				got, stalled := string(text), every > 5*time.Second
				if !stalled && (err != nil || got != strings.Repeat(tc.filler, 3)+tc.answer) {
					t.Errorf("%s, %v: %q, %v", tc.kind, every, got, err)
				}
				if stalled && !strings.Contains(got, `"code":"upstream_timeout"`) {
					t.Errorf("%s, %v: %q, %v", tc.kind, every, got, err)
				}
			})
		}
	}
}

// WithStreamUsage learns the usage wherever the server puts it, and takes
// nothing from the stream but the event that it asked for.
func TestStreamUsageOfCompatibleServers(t *testing.T) {
	t.Parallel()
	for _, d := range coDialects {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			var out proxy.Outcome
			f, up, sent := coStart(t, proxy.WithStreamUsage(true),
				proxy.WithHooks(proxy.Hooks{Done: func(_ context.Context, _ proxy.Call, o proxy.Outcome) { out = o }}))
			up.Queue(d.ChatStream("Hel", "lo"))
			_, got := f.post(t, "/v1/chat/completions", coStream)
			f.Close() // Done has run when the handler has
			if used := told(out.Usage); used.TotalTokens != 21 || out.Ending != proxy.EndingComplete {
				t.Errorf("usage %+v, ending %q", out.Usage, out.Ending)
			}
			events := strings.SplitAfter(sent.String(), "\n\n")
			want := ""
			for _, event := range events {
				if !strings.Contains(event, `"choices":[]`) || !strings.Contains(event, `"usage":{`) {
					want += event
				}
			}
			if hidden := len(sent.String()) > len(want); got != want || hidden == (d == proxytest.LlamaCpp) {
				t.Errorf("%q\nwant %q", got, want)
			}
		})
	}
}

// A cap that a policy puts in is max_completion_tokens, which servers without
// OpenAI's models may refuse or not read; one the caller names is left alone, and
// a Rewrite hook may give it the older name.
func TestPolicyCapsCompatibleServers(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithPolicy(proxy.Policy{MaxTokens: 100}))
	for body, want := range map[string]string{
		`{"model":"mistral-small-latest","messages":[]}`:                 `{"max_completion_tokens":100,"model":"mistral-small-latest","messages":[]}`,
		`{"model":"mistral-small-latest","messages":[],"max_tokens":50}`: `{"model":"mistral-small-latest","messages":[],"max_tokens":50}`,
	} {
		f.up.Queue(proxytest.Mistral.Chat("hi"))
		f.post(t, "/v1/chat/completions", body)
		if got := string(f.up.Next().Body); got != want {
			t.Errorf("%s became %s", body, got)
		}
	}
	f = start(t, proxy.WithPolicy(proxy.Policy{MaxTokens: 100}), proxy.WithHooks(proxy.Hooks{
		Rewrite: func(_ context.Context, _ proxy.Call, body []byte) ([]byte, error) {
			return bytes.Replace(body, []byte(`"max_completion_tokens"`), []byte(`"max_tokens"`), 1), nil
		},
	}))
	f.post(t, "/v1/chat/completions", `{"model":"mistral-small-latest","messages":[]}`)
	if got := string(f.up.Next().Body); got != `{"max_tokens":100,"model":"mistral-small-latest","messages":[]}` {
		t.Errorf("rewritten: %s", got)
	}
}

// go-openai reads every server through the proxy. What a server says in a way
// that it cannot read, it does not read without the proxy either.
func TestGoOpenAIClientReadsCompatibleServers(t *testing.T) {
	t.Parallel()
	for _, d := range coDialects {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			f := start(t)
			client := goOpenAI(f)
			f.up.Queue(d.Chat("hi"))
			chat, err := client.CreateChatCompletion(t.Context(), sdkChat)
			if err != nil || chat.Choices[0].Message.Content != "hi" || chat.Usage.TotalTokens != 21 {
				t.Errorf("%+v, %v", chat, err)
			}
			f.up.Queue(d.ChatStream("Hel", "lo"))
			if text, err := sdkStream(t, client); text != "Hello" || !errors.Is(err, io.EOF) {
				t.Errorf("%q, %v", text, err)
			}
			for _, status := range []int{400, 422, 429, 503} {
				f.up.Queue(d.Failure(status, "say no"))
				_, err = client.CreateChatCompletion(t.Context(), sdkChat)
				failed, ok := errors.AsType[*openai.APIError](err)
				if !ok || failed.HTTPStatusCode != status || !strings.Contains(failed.Message, "say no") {
					t.Errorf("%d is %#v", status, err)
				}
			}
		})
	}
}

// An error inside a stream is what it is without the proxy: vLLM's is an error
// to go-openai, OpenRouter's and that of older llama.cpp it takes for an end.
func TestGoOpenAIClientReadsErrorsInsideStreamsAsWithoutTheProxy(t *testing.T) {
	t.Parallel()
	for _, d := range coDialects {
		f := start(t)
		config := openai.DefaultConfig("any text")
		config.BaseURL, config.HTTPClient = f.up.URL(), &http.Client{Transport: f.up.Transport()}
		straight := openai.NewClientWithConfig(config)
		f.up.Queue(d.StreamFailure("worn out", "Hel", "lo"), d.StreamFailure("worn out", "Hel", "lo"))
		wantText, want := sdkStream(t, straight)
		text, err := sdkStream(t, goOpenAI(f))
		if text != wantText || text != "Hello" || err.Error() != want.Error() {
			t.Errorf("%s: %q, %v; without the proxy %q, %v", d, text, err, wantText, want)
		}
		blind := d == proxytest.OpenRouter || d == proxytest.LlamaCpp
		if errors.Is(err, io.EOF) != blind {
			t.Errorf("%s: %v", d, err)
		}
	}
}
