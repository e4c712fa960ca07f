package proxy_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/openai-proxy-go/proxy/proxytest"
)

// ueWorker renders an upstream error on the worker's face. Its members are
// given as they stand behind the status.
func ueWorker(title string, status int, text, members string) string {
	return `{"error":"` + title + ` Error","message":` + ueQuote(title+" returned "+strconv.Itoa(status)+": "+text) + `,"status":` + strconv.Itoa(status) + members + "}\n"
}

// ueQuote spells a text as JSON without what strconv.Quote has of its own.
func ueQuote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(text) + `"`
}

// Every server that resembles OpenAI's has an idea of its own how an error
// looks. The caller gets one it can read, in either dialect.
func TestErrorsOfEveryServerInBothDialects(t *testing.T) {
	t.Parallel()
	wrapped := func(status int, object, message string) string {
		return `{"error":` + object + `,"message":` + ueQuote(message) + `,"status":` + strconv.Itoa(status) + "}\n"
	}
	plain := func(status int, message, typ, code string) string {
		if code != "null" {
			code = `"` + code + `"`
		}
		return wrapped(status, `{"message":`+ueQuote(message)+`,"type":"`+typ+`","param":null,"code":`+code+`}`, message)
	}
	for name, tc := range map[string]struct {
		status  int
		body    string
		openai  string
		message string // on the worker's face
		members string
	}{
		"OpenAI": {
			400, `{"error":{"message":"Unsupported parameter","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}`,
			wrapped(400, `{"message":"Unsupported parameter","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}`, "Unsupported parameter"),
			"Unsupported parameter", `,"type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"`,
		},
		"OpenAI, nulls": {
			500, `{"error":{"message":"The server had an error","type":"server_error","param":null,"code":null}}`,
			wrapped(500, `{"message":"The server had an error","type":"server_error","param":null,"code":null}`, "The server had an error"),
			"The server had an error", `,"type":"server_error"`,
		},
		"Azure": {
			400, `{"error":{"message":"filtered","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true}}}}}`,
			wrapped(400, `{"message":"filtered","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true}}}}`, "filtered"),
			"filtered", `,"param":"prompt","code":"content_filter"`,
		},
		"vLLM": {
			404, `{"error":{"message":"The model does not exist.","type":"NotFoundError","param":null,"code":404}}`,
			wrapped(404, `{"message":"The model does not exist.","type":"NotFoundError","param":null,"code":404}`, "The model does not exist."),
			"The model does not exist.", `,"type":"NotFoundError","code":"404"`,
		},
		"older vLLM": {
			400, `{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}`,
			plain(400, "too long", "BadRequestError", "400"), "too long", `,"type":"BadRequestError","code":"400"`,
		},
		"llama.cpp": {
			503, `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`,
			wrapped(503, `{"code":503,"message":"Loading model","type":"unavailable_error"}`, "Loading model"), "Loading model", `,"type":"unavailable_error","code":"503"`,
		},
		"Ollama": {
			404, `{"error":"model \"x\" not found"}`,
			plain(404, `model "x" not found`, "invalid_request_error", "null"), `model "x" not found`, ``,
		},
		"LM Studio": {
			400, `{"error":{"message":"No models loaded","type":"invalid_request_error","param":"model","code":"model_not_found"}}`,
			wrapped(400, `{"message":"No models loaded","type":"invalid_request_error","param":"model","code":"model_not_found"}`, "No models loaded"),
			"No models loaded", `,"type":"invalid_request_error","param":"model","code":"model_not_found"`,
		},
		"Gemini, a list": {
			400, `[{"error":{"code":400,"message":"API key not valid","status":"INVALID_ARGUMENT"}}]`,
			wrapped(400, `{"code":400,"message":"API key not valid","status":"INVALID_ARGUMENT"}`, "API key not valid"), "API key not valid", `,"code":"400"`,
		},
		"Anthropic": {
			400, `{"type":"error","error":{"type":"invalid_request_error","message":"bad"},"request_id":"req_1"}`,
			wrapped(400, `{"type":"invalid_request_error","message":"bad"}`, "bad"), "bad", `,"type":"invalid_request_error"`,
		},
		"OpenRouter": {
			402, `{"error":{"message":"Insufficient credits","code":402,"metadata":{"provider_name":"x"}},"user_id":"u"}`,
			wrapped(402, `{"message":"Insufficient credits","code":402,"metadata":{"provider_name":"x"}}`, "Insufficient credits"), "Insufficient credits", `,"code":"402"`,
		},
		"Mistral, detail in message": {
			422, `{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","store"]}]},"type":"invalid_request_error","param":null,"code":null}`,
			plain(422, `{"detail":[{"type":"extra_forbidden","loc":["body","store"]}]}`, "invalid_request_error", "null"),
			`{"detail":[{"type":"extra_forbidden","loc":["body","store"]}]}`, `,"type":"invalid_request_error"`,
		},
		"Mistral, detail": {
			422, `{"detail":"Unprocessable"}`,
			plain(422, "Unprocessable", "invalid_request_error", "null"), "Unprocessable", ``,
		},
		"FastAPI, detail a list": {
			422, `{"detail":[{"loc":["body"],"msg":"field required"}]}`,
			plain(422, `[{"loc":["body"],"msg":"field required"}]`, "invalid_request_error", "null"), `[{"loc":["body"],"msg":"field required"}]`, ``,
		},
		"Mistral, message": {
			429, `{"message":"Requests rate limit exceeded","request_id":"r"}`,
			plain(429, "Requests rate limit exceeded", "rate_limit_error", "null"), "Requests rate limit exceeded", ``,
		},
		"the seed itself": {
			500, `{"error":"Configuration Error","message":"OpenAI API key is not configured"}`,
			plain(500, "Configuration Error", "server_error", "null"), "Configuration Error", ``,
		},
		"error null": {
			500, `{"error":null,"message":"m"}`,
			plain(500, "m", "server_error", "null"), "m", ``,
		},
		"message a list": {
			400, `{"error":{"message":["a","b"],"type":"t"}}`,
			wrapped(400, `{"message":["a","b"],"type":"t"}`, `["a","b"]`), `["a","b"]`, `,"type":"t"`,
		},
		"error of no text": {
			503, `{"error":{}}`,
			wrapped(503, `{}`, "Service Unavailable"), "Service Unavailable", ``,
		},
		"another object": {
			418, `{"a": 1}`,
			plain(418, `{"a": 1}`, "invalid_request_error", "null"), `{"a": 1}`, ``,
		},
		"empty list": {
			400, `[]`,
			plain(400, `[]`, "invalid_request_error", "null"), `[]`, ``,
		},
		"a JSON text": {
			400, `"bad"`,
			plain(400, `"bad"`, "invalid_request_error", "null"), `"bad"`, ``,
		},
		"empty": {
			503, ``,
			plain(503, `Service Unavailable`, "server_error", "null"), `Service Unavailable`, ``,
		},
		"white space": {
			503, " \r\n\t",
			plain(503, `Service Unavailable`, "server_error", "null"), `Service Unavailable`, ``,
		},
		"text": {
			502, "upstream connect error\n",
			plain(502, `upstream connect error`, "upstream_error", "null"), `upstream connect error`, ``,
		},
		"HTML": {
			504, "<html>\n<b class=\"x\">504 & more</b>\n</html>\n",
			plain(504, "<html>\n<b class=\"x\">504 & more</b>\n</html>", "upstream_error", "null"), "<html>\n<b class=\"x\">504 & more</b>\n</html>", ``,
		},
		"half JSON": {
			500, `{"error":{"message":"m"`,
			plain(500, `{"error":{"message":"m"`, "server_error", "null"), `{"error":{"message":"m"`, ``,
		},
		"blank lines first": {
			400, "\n\n\n" + `{"error":{"message":"m"}}`,
			wrapped(400, `{"message":"m"}`, "m"), "m", ``,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			for _, contentType := range []string{"application/json", "text/html; charset=utf-8", "text/event-stream", ""} {
				answer := proxytest.JSON(tc.status, tc.body).WithHeader("Content-Type", contentType)
				res, body := anAsk(t, f, answer)
				anWant(t, res, body, tc.status, tc.openai)
				if got := res.Header["Content-Type"]; !slices.Equal(got, []string{"application/json"}) {
					t.Errorf("Content-Type %q", got)
				}
				f.up.Queue(answer, answer)
				res, body = f.post(t, "/", rtChat)
				anWant(t, res, body, tc.status, ueWorker("OpenAI API", tc.status, tc.message, tc.members))
				res, body = f.post(t, "/generate-image", rtImage)
				anWant(t, res, body, tc.status, ueWorker("OpenAI Image API", tc.status, tc.message, tc.members))
			}
		})
	}
}

// Codes of the upstream that are spelled like ours are the upstream's.
func TestUpstreamCodesAreNotTakenForOurs(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, code := range erCodes() {
		answer := proxytest.Failure(405, "t", code, "their text").WithHeader("X-Request-Id", "theirs")
		f.up.Queue(answer, answer)
		res, body := f.post(t, "/v1/chat/completions", rtChat)
		anWant(t, res, body, 405, anOpenAI(405, "their text", "t", "", code))
		if _, ok := res.Header["X-Should-Retry"]; ok {
			t.Errorf("%s: X-Should-Retry %q", code, res.Header.Get("X-Should-Retry"))
		}
		res, body = f.post(t, "/", rtChat)
		anWant(t, res, body, 405, ueWorker("OpenAI API", 405, "their text", `,"type":"t","code":"`+code+`"`))
	}
}

func TestQuotedTextsAreBounded(t *testing.T) {
	t.Parallel()
	f := start(t)
	const limit = 2 << 10
	for name, text := range map[string]string{
		"a little more":     "<html>" + strings.Repeat("a", limit),
		"much more":         "<html>" + strings.Repeat("b", 60<<10),
		"just as much":      strings.Repeat("c", limit),
		"within characters": strings.Repeat("é", limit),
		"longer characters": "x" + strings.Repeat("🎈", limit),
	} {
		want := text[:limit]
		for !utf8.ValidString(want) {
			want = want[:len(want)-1]
		}
		answer := proxytest.JSON(503, text).WithHeader("Content-Type", "text/html")
		f.up.Queue(answer, answer)
		res, body := f.post(t, "/v1/chat/completions", rtChat)
		t.Log(name)
		anWant(t, res, body, 503, anOpenAI(503, want, "server_error", "", ""))
		res, body = f.post(t, "/", rtChat)
		anWant(t, res, body, 503, ueWorker("OpenAI API", 503, want, ""))
	}
	res, body := anAsk(t, f, proxytest.JSON(500, "a\xff\xfeb\xc3"))
	anWant(t, res, body, 500, anOpenAI(500, "ab", "server_error", "", ""))
}

// An object is quoted as far as it is no error object; that one is kept whole.
func TestLongErrorObjectsAreKeptWholeAndOthersQuoted(t *testing.T) {
	t.Parallel()
	f := start(t)
	long := strings.Repeat("m", 50<<10)
	res, body := anAsk(t, f, proxytest.JSON(400, `{"error":{"message":"`+long+`","type":"t","param":null,"code":"c"}}`))
	anWant(t, res, body, 400, anOpenAI(400, long, "t", "", "c"))
	other := `{"a":"` + long + `"}`
	res, body = anAsk(t, f, proxytest.JSON(400, other))
	anWant(t, res, body, 400, anOpenAI(400, other[:2<<10], "invalid_request_error", "", ""))
}

func TestHugeErrorBodiesKeepTheirStatus(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, size := range []int{70 << 10, 10 << 20} {
		res, body := anAsk(t, f, proxytest.JSON(429, `{"error":{"message":"`+strings.Repeat("m", size)+`"}}`).WithHeader("Retry-After", "9"))
		if res.StatusCode != 429 || res.Header.Get("Retry-After") != "9" || len(body) > 70<<10 {
			t.Errorf("status %d, Retry-After %q, %d bytes", res.StatusCode, res.Header.Get("Retry-After"), len(body))
		}
	}
}

func TestErrorBodyThatBreaksOffIsOneOfOurs(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 500 x\r\nContent-Type: application/json\r\nRetry-After: 4\r\n"
	for name, answer := range map[string]proxytest.Answer{
		"Content-Length not met": proxytest.Raw(head + "Content-Length: 100\r\n\r\n" + `{"error":{"message":"m"}}`),
		"chunks without an end":  proxytest.Raw(head + "Transfer-Encoding: chunked\r\n\r\n" + "2\r\n{}\r\n"),
		"reset":                  proxytest.Respond(500, http.Header{"Content-Type": {"application/json"}}, proxytest.Text(`{"error":`), proxytest.Reset()),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			res, body := anAsk(t, f, answer)
			if res.StatusCode != 500 && res.StatusCode != 502 || !strings.HasPrefix(body, `{"error":{"message":"`) || strings.Contains(body, "EOF") || strings.Contains(body, "reset") {
				t.Errorf("status %d: %s, want a whole error of ours", res.StatusCode, body)
			}
		})
	}
}

func TestRateLimitOfTheUpstreamReachesTheCaller(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.up.Queue(proxytest.RateLimited(1500*time.Millisecond), proxytest.RateLimited(1500*time.Millisecond))
	const text = "Rate limit reached in organization *** on requests per min (RPM): Limit 3, Used 3, Requested 1."
	res, body := f.post(t, "/v1/chat/completions", rtChat)
	anWant(t, res, body, 429, anOpenAI(429, text, "requests", "", "rate_limit_exceeded"))
	for name, want := range map[string]string{"Retry-After": "2", "Retry-After-Ms": "1500", "X-Ratelimit-Remaining-Requests": "0", "X-Ratelimit-Reset-Requests": "1.5s"} {
		if got := res.Header[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q, want %s", name, got, want)
		}
	}
	res, body = f.post(t, "/", rtChat)
	anWant(t, res, body, 429, ueWorker("OpenAI API", 429, text, `,"type":"requests","code":"rate_limit_exceeded"`))
}
