package proxytest_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// scripted is an answer and what its caller should see.
type scripted struct {
	name   string
	answer proxytest.Answer
	path   string
	body   string
	check  func(t *testing.T, resp *http.Response)
}

func testScripted(t *testing.T, cases []scripted) {
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
				up := proxytest.NewUpstream(t, opts...)
				up.Queue(tc.answer)
				tc.check(t, post(t, up, tc.path, tc.body))
			})
		})
	}
}

func TestChatAndImageAnswers(t *testing.T) {
	const usage = `,"stream":true,"stream_options":{"include_usage":true}`
	testScripted(t, []scripted{
		{"Chat", proxytest.Chat("<hi>"), "/chat/completions", `{"model":"m"}`, func(t *testing.T, resp *http.Response) {
			text := readAll(t, resp)
			if value(t, text, "choices", 0, "message", "content") != "<hi>" || !strings.Contains(text, "<hi>") ||
				value(t, text, "model") != "m" || value(t, text, "object") != "chat.completion" {
				t.Error(text)
			}
		}},
		{"ChatStream", proxytest.ChatStream("a", "b "), "/x", "", func(t *testing.T, resp *http.Response) {
			checkChatStream(t, readEvents(t, resp), "ab ", false)
		}},
		{"ChatStream with usage", proxytest.ChatStream("a", "b "), "/x", ask(usage), func(t *testing.T, resp *http.Response) {
			checkChatStream(t, readEvents(t, resp), "ab ", true)
		}},
		{"ToolCallStream", proxytest.ToolCallStream("f", `{"a"`, `:1}`), "/x", "", checkToolCall},
		{"ImageURL", proxytest.ImageURL("https://a", "https://b"), "/x", "", func(t *testing.T, resp *http.Response) {
			if text := readAll(t, resp); value(t, text, "data", 1, "url") != "https://b" {
				t.Error(text)
			}
		}},
		{"ImageBase64", proxytest.ImageBase64([]byte("abc")), "/x", "", func(t *testing.T, resp *http.Response) {
			text := readAll(t, resp)
			if value(t, text, "data", 0, "b64_json") != "YWJj" || value(t, text, "usage", "output_tokens") != 20.0 {
				t.Error(text)
			}
		}},
		{"ImageStream", proxytest.ImageStream(), "/images/generations", "", func(t *testing.T, resp *http.Response) {
			checkImageStream(t, readEvents(t, resp), "image_generation")
		}},
		{"ImageStream of an edit", proxytest.ImageStream(), "/images/edits?a", "", func(t *testing.T, resp *http.Response) {
			checkImageStream(t, readEvents(t, resp), "image_edit")
		}},
	})
}

func TestGeneralAnswers(t *testing.T) {
	testScripted(t, []scripted{
		{"JSON", proxytest.JSON(418, `{"a":1.10}`), "/x", "", func(t *testing.T, resp *http.Response) {
			text := readAll(t, resp)
			if resp.StatusCode != 418 || text != `{"a":1.10}` || resp.ContentLength != int64(len(text)) ||
				resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%d %v %q", resp.StatusCode, resp.Header, text)
			}
		}},
		{"Failure", proxytest.Failure(404, "typ", "", `say "no"`), "/x", "", func(t *testing.T, resp *http.Response) {
			const want = `{"error":{"message":"say \"no\"","type":"typ","param":null,"code":null}}`
			if text := readAll(t, resp); resp.StatusCode != 404 || text != want {
				t.Errorf("%d %s", resp.StatusCode, text)
			}
		}},
		{"RateLimited", proxytest.RateLimited(1500 * time.Millisecond), "/x", "", func(t *testing.T, resp *http.Response) {
			h := resp.Header
			if resp.StatusCode != 429 || h.Get("Retry-After") != "2" || h.Get("Retry-After-Ms") != "1500" ||
				h.Get("X-Ratelimit-Remaining-Requests") != "0" || h.Get("X-Ratelimit-Reset-Requests") != "1.5s" ||
				value(t, readAll(t, resp), "error", "code") != "rate_limit_exceeded" {
				t.Errorf("%d %v", resp.StatusCode, h)
			}
		}},
		{
			"Respond", proxytest.Respond(206, http.Header{"x-a": {"1", "2"}}, proxytest.Text("a"), proxytest.Step{}, proxytest.Text("b")), "/x", "",
			func(t *testing.T, resp *http.Response) {
				if text := readAll(t, resp); resp.StatusCode != 206 || text != "ab" || len(resp.Header.Values("X-A")) != 2 {
					t.Errorf("%d %q %v", resp.StatusCode, text, resp.Header)
				}
			},
		},
		{"Respond without steps", proxytest.Respond(200, nil), "/x", "", func(t *testing.T, resp *http.Response) {
			if text := readAll(t, resp); text != "" || resp.ContentLength != 0 || resp.Header.Get("Openai-Version") == "" {
				t.Errorf("%q %d", text, resp.ContentLength)
			}
		}},
		{
			"With", proxytest.JSON(200, "{}").WithStatus(302).WithHeader("location", "/y").WithHeader("Content-Type").WithHeader("Set-Cookie", "a", "b"),
			"/x", "", func(t *testing.T, resp *http.Response) {
				_, labelled := resp.Header["Content-Type"]
				if resp.StatusCode != 302 || resp.Header.Get("Location") != "/y" || labelled || len(resp.Header["Set-Cookie"]) != 2 {
					t.Errorf("%d %v", resp.StatusCode, resp.Header)
				}
			},
		},
		{"HandlerFunc", proxytest.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			_, _ = io.Copy(w, r.Body)
		}), "/x", "body", func(t *testing.T, resp *http.Response) {
			if text := readAll(t, resp); text != "body" {
				t.Errorf("%q", text)
			}
		}},
	})
}

func checkToolCall(t *testing.T, resp *http.Response) {
	events := readEvents(t, resp)
	if len(events) != 5 || events[4].Data != "[DONE]" {
		t.Fatalf("events %q", events)
	}
	first := events[0].Data
	if value(t, first, "choices", 0, "delta", "tool_calls", 0, "function", "name") != "f" ||
		value(t, first, "choices", 0, "delta", "tool_calls", 0, "type") != "function" ||
		value(t, events[3].Data, "choices", 0, "finish_reason") != "tool_calls" {
		t.Errorf("events %q", events)
	}
	arguments := ""
	for _, event := range events[:3] {
		piece, _ := value(t, event.Data, "choices", 0, "delta", "tool_calls", 0, "function", "arguments").(string)
		arguments += piece
	}
	if arguments != `{"a":1}` {
		t.Errorf("arguments %s", arguments)
	}
}

// The headers documented at WithHeader come with every answer, and an Answer is
// a value.
func TestAnswerHeaders(t *testing.T) {
	base := proxytest.JSON(200, "{}").WithHeader("X-A", "1")
	_ = base.WithHeader("X-A", "2").WithStatus(500)
	up := proxytest.NewUpstream(t)
	up.Queue(base, proxytest.Stream())
	for _, id := range []string{"1", "2"} {
		h := post(t, up, "/x", "").Header
		if want := "req_" + strings.Repeat("0", 31) + id; h.Get("X-Request-Id") != want {
			t.Errorf("id %q, want %q", h.Get("X-Request-Id"), want)
		}
		for _, name := range []string{
			"Content-Type", "Openai-Version", "Openai-Processing-Ms", "Openai-Organization", "Openai-Project",
			"X-Ratelimit-Limit-Requests", "X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Requests",
			"X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Requests", "X-Ratelimit-Reset-Tokens",
			"Set-Cookie", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Cf-Ray",
			"Cf-Cache-Status", "Server", "Alt-Svc", "Strict-Transport-Security", "X-Content-Type-Options",
		} {
			if h.Get(name) == "" {
				t.Errorf("no %s", name)
			}
		}
		if id == "1" && h.Get("X-A") != "1" {
			t.Errorf("X-A %q: an answer was changed in place", h.Get("X-A"))
		}
	}
}

// An early answer comes while the body is still being sent.
func TestEarly(t *testing.T) {
	eachMode(t, func(t *testing.T, opts ...proxytest.ServerOption) {
		up := proxytest.NewUpstream(t, opts...)
		up.Queue(proxytest.JSON(413, "{}").Early())
		body, send := io.Pipe()
		resp, err := (&http.Client{Transport: up.Transport()}).Post(up.URL(), "", body)
		if err != nil {
			t.Fatal(err)
		}
		_ = send.Close()
		_ = resp.Body.Close()
		if req := up.Next(); resp.StatusCode != 413 || req.Body != nil || req.BodyErr != nil {
			t.Errorf("status %d, body %q, %v", resp.StatusCode, req.Body, req.BodyErr)
		}
	})
}
