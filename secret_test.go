package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// plainCanary is a key without the form of OpenAI's, as Azure's are: only
// knowing it helps to strike it out.
const plainCanary = "5f0c9d1e7a3b4862canary4e8f1a6c07b92e35d6"

// showsSecret prints v in every way there is and returns those that show one of
// the secrets.
func showsSecret(v any, secrets ...string) (ways []string) {
	ways = showsSecretByMethods(v, secrets...)
	type hidden struct{ value any }
	for _, verb := range append(slices.Clip(printVerbs), "%w") {
		// Of these fmt asks no method: what protects is where the text is kept.
		text := fmt.Sprintf(verb, hidden{v})
		if verb == "%w" {
			text += fmt.Sprintf(verb, v)
		}
		for _, s := range secrets {
			if strings.Contains(text, s) || strings.Contains(text, fmt.Sprintf("%x", s)) {
				ways = append(ways, fmt.Sprintf("%s in an unexported field: %.300s", verb, text))
			}
		}
	}
	return ways
}

var printVerbs = []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%t", "%T", "%U", "%c", "%10.3v", "%-5s"}

// showsSecretByMethods leaves out the ways in which fmt and slog do not ask the
// methods of v.
func showsSecretByMethods(v any, secrets ...string) (ways []string) {
	seen := func(way, text string) {
		for _, s := range secrets {
			hex, hexUpper := fmt.Sprintf("%x", s), fmt.Sprintf("%X", s)
			if strings.Contains(text, s) || strings.Contains(text, hex) || strings.Contains(text, hexUpper) {
				ways = append(ways, fmt.Sprintf("%s: %.300s", way, text))
				return
			}
		}
	}
	type exported struct{ Value any }
	shapes := map[string]any{
		"": v, " in a slice": []any{v}, " in a map": map[string]any{"k": v},
		" in a struct": exported{v}, " behind a pointer": &exported{v},
	}
	for shape, value := range shapes {
		for _, verb := range printVerbs {
			seen(verb+shape, fmt.Sprintf(verb, value))
		}
		seen("Print"+shape, fmt.Sprint(value))
		encoded, err := json.Marshal(value)
		seen("JSON"+shape, fmt.Sprint(string(encoded), err))
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", value)
		seen("slog text"+shape, b.String())
		b.Reset()
		slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", value)
		seen("slog JSON"+shape, b.String())
		func() {
			defer func() { seen("panic"+shape, fmt.Sprint(recover())) }()
			panic(value)
		}()
	}
	if len(ways) > 2 {
		ways = append(ways[:2:2], fmt.Sprintf("and %d more ways", len(ways)-2))
	}
	return ways
}

func TestS12ExportedValuesDoNotPrintTheKey(t *testing.T) {
	t.Parallel()
	quiet := proxy.WithLogger(quietLogger())
	handler, err := proxy.NewHandler(proxy.WithKey(canary), quiet)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := proxy.NewHandler(proxy.WithKeySource(proxy.FirstKey(proxy.StaticKey(plainCanary))), quiet)
	if err != nil {
		t.Fatal(err)
	}
	holds := func(key string) proxy.KeyFunc {
		return func(*http.Request) (string, error) { return key, nil }
	}
	call := proxy.Call{
		Route: proxy.RouteChat, Method: "POST", Path: "/", Model: "m", Stream: true, RequestID: "id",
		Header: http.Header{"X-Openai-Key": {canary}, "Authorization": {"Bearer " + plainCanary}},
	}
	for name, v := range map[string]any{
		"Handler":                  handler,
		"Handler by value":         reflect.ValueOf(handler).Elem().Interface(),
		"Handler, plain key":       plain,
		"Handler, plain, by value": reflect.ValueOf(plain).Elem().Interface(),
		"New":                      proxy.New(proxy.WithKey(canary), quiet),
		"New, misconfigured":       proxy.New(proxy.WithKey(canary), proxy.WithUpstream("x"), quiet),
		"Chat":                     handler.Chat(),
		"Images":                   handler.Images(),
		"WithKey":                  proxy.WithKey(canary),
		"WithKeySource":            proxy.WithKeySource(proxy.StaticKey(canary)),
		"WithOptions":              proxy.WithOptions(proxy.WithKey(canary)),
		"a list of options":        []proxy.Option{proxy.WithKey(canary), proxy.WithAuthHeader("api-key")},
		"StaticKey":                proxy.StaticKey(canary),
		"StaticKey, plain":         proxy.StaticKey(plainCanary),
		"FirstKey":                 proxy.FirstKey(proxy.StaticKey(canary), proxy.StaticKey(plainCanary)),
		"FirstKey, nested":         proxy.FirstKey(proxy.FirstKey(proxy.StaticKey(plainCanary)), nil),
		"KeyFunc":                  holds(canary),
		"KeyFunc as a source":      proxy.KeySource(holds(canary)),
		"EnvKey":                   proxy.EnvKey("PROXY_TEST_NOT_SET"),
		"HeaderKey":                proxy.HeaderKey("x-openai-key"),
	} {
		for _, way := range showsSecret(v, canary, plainCanary) {
			t.Errorf("%s shows the key by %s", name, way)
		}
	}
	for name, v := range map[string]any{"Call": call, "Call behind a pointer": &call, "calls": []proxy.Call{call}} {
		for _, way := range showsSecretByMethods(v, canary, plainCanary) {
			t.Errorf("%s shows a key of its header by %s", name, way)
		}
	}
}

// What a crash of the whole process prints goes to logs, too.
func TestS12CrashDoesNotPrintTheKey(t *testing.T) {
	if which := os.Getenv("PROXY_TEST_CRASH"); which != "" {
		handler, err := proxy.NewHandler(proxy.WithKey(canary))
		if err != nil {
			os.Exit(3)
		}
		switch which {
		case "handler":
			panic(handler)
		case "source":
			panic(proxy.StaticKey(canary))
		case "sources":
			panic(proxy.FirstKey(proxy.StaticKey(canary)))
		case "option":
			panic(proxy.WithKey(canary))
		case "call":
			panic(proxy.Call{Header: http.Header{"Authorization": {canary}}})
		}
		os.Exit(4)
	}
	t.Parallel()
	for _, which := range []string{"handler", "source", "sources", "option", "call"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestS12CrashDoesNotPrintTheKey$")
		cmd.Env = append(os.Environ(), "PROXY_TEST_CRASH="+which)
		out, err := cmd.CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("panic")) {
			t.Fatalf("%s: the process did not crash: %v\n%s", which, err, out)
		}
		if bytes.Contains(out, []byte(canary)) {
			t.Errorf("%s: the crash shows the key:\n%s", which, out)
		}
	}
}

// brokenTransport fails in a given way and knows what it was to send.
type brokenTransport func(*http.Request) (*http.Response, error)

func (f brokenTransport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// failingBody fails after a first piece.
type failingBody struct {
	first io.Reader
	err   error
}

func (b *failingBody) Read(p []byte) (int, error) {
	if n, err := b.first.Read(p); err == nil {
		return n, nil
	}
	return 0, b.err
}
func (b *failingBody) Close() error { return nil }

// panickyBody panics with its text when it is read.
type panickyBody string

func (b panickyBody) Read([]byte) (int, error) { panic(string(b)) }
func (b panickyBody) Close() error             { return nil }

func answerWith(contentType, body string, err error) *http.Response {
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, ContentLength: -1,
		Header: http.Header{"Content-Type": {contentType}},
		Body:   &failingBody{strings.NewReader(body), err},
	}
}

func TestKeyInAFailureOfTheTransportIsNotShown(t *testing.T) {
	t.Parallel()
	for _, key := range []string{canary, plainCanary} {
		says := func(r *http.Request) error {
			return &url.Error{Op: "Post", URL: "https://api.example.com/?key=" + key, Err: fmt.Errorf("header %v: bad", r.Header)}
		}
		for _, row := range []struct {
			name string
			trip brokenTransport
		}{
			{"error", func(r *http.Request) (*http.Response, error) { return nil, says(r) }},
			{"wrapped error", func(r *http.Request) (*http.Response, error) {
				return nil, errors.Join(io.ErrUnexpectedEOF, fmt.Errorf("sent: %w", says(r)))
			}},
			{"panic with a text", func(r *http.Request) (*http.Response, error) {
				panic("cannot send " + r.Header.Get("Authorization"))
			}},
			{"panic with an error", func(r *http.Request) (*http.Response, error) { panic(says(r)) }},
			{"panic with the header", func(r *http.Request) (*http.Response, error) { panic(r.Header) }},
			{"plain body that breaks", func(r *http.Request) (*http.Response, error) {
				return answerWith("application/json", `{"id":`, says(r)), nil
			}},
			{"stream that breaks", func(r *http.Request) (*http.Response, error) {
				return answerWith("text/event-stream", "data: {}\n\n", says(r)), nil
			}},
			{"plain body that panics", func(r *http.Request) (*http.Response, error) {
				res := answerWith("application/json", "", io.EOF)
				res.Body = panickyBody(says(r).Error())
				return res, nil
			}},
			{"stream that panics", func(r *http.Request) (*http.Response, error) {
				res := answerWith("text/event-stream", "", io.EOF)
				res.Body = panickyBody(says(r).Error())
				return res, nil
			}},
		} {
			t.Run(row.name+" "+key[:5], func(t *testing.T) {
				t.Parallel()
				done := make(chan string, 4)
				f := start(t, proxy.WithKey(key), proxy.WithTransport(row.trip), proxy.WithHooks(proxy.Hooks{
					Done: func(_ context.Context, call proxy.Call, out proxy.Outcome) {
						done <- strings.Join(append(showsSecret(out, key), showsSecretByMethods(call, key)...), "\n")
						if out.Err != nil {
							done <- strings.Join(showsSecret(out.Err, key), "\n")
							return
						}
						done <- ""
					},
				}))
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL+chatPath, strings.NewReader(askHelloStream))
				if err != nil {
					t.Fatal(err)
				}
				if res, err := f.Client().Do(req); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				for range 2 {
					if shown := <-done; shown != "" {
						t.Errorf("the outcome shows the key by\n%s", shown)
					}
				}
				f.Close()
				if text := f.logs.String(); strings.Contains(text, key) {
					t.Errorf("the log shows the key:\n%s", text)
				}
				if text := f.seen.String(); strings.Contains(text, key) {
					t.Errorf("the answer shows the key:\n%s", text)
				}
			})
		}
	}
}

func TestKeyInAFailureOfTheSourceIsNotShown(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]proxy.KeyFunc{
		"error beside the key": func(*http.Request) (string, error) { return plainCanary, errors.New("no lease for " + plainCanary) },
		"error with the key":   func(*http.Request) (string, error) { return "", errors.New("no lease for " + canary) },
		"quoted on a line":     func(*http.Request) (string, error) { return "", fmt.Errorf("bad secret %q", "x\n"+canary) },
		"panic with the key":   func(*http.Request) (string, error) { panic("no lease for " + canary) },
		"unusable key":         func(*http.Request) (string, error) { return canary + "\n" + plainCanary, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcome := make(chan string, 1)
			f := start(t, proxy.WithKeySource(source), proxy.WithHooks(proxy.Hooks{
				Done: func(_ context.Context, _ proxy.Call, out proxy.Outcome) {
					outcome <- strings.Join(append(showsSecret(out, canary, plainCanary), showsSecret(out.Err, canary, plainCanary)...), "\n")
				},
			}))
			_, body := f.post(t, chatPath, askHello)
			if shown := <-outcome; shown != "" {
				t.Errorf("the outcome shows the key by\n%s", shown)
			}
			for where, text := range map[string]string{"the log": f.logs.String(), "the answer": body} {
				if strings.Contains(text, canary) || strings.Contains(text, plainCanary) {
					t.Errorf("%s shows the key:\n%s", where, text)
				}
			}
		})
	}
}

// echoes are answers of an upstream that has a key in them; the key is put in
// where {key} stands.
var echoes = []struct {
	name   string
	answer func(key string) proxytest.Answer
}{
	{"header of an answer", func(key string) proxytest.Answer { return proxytest.Chat("hi").WithHeader("X-Request-Id", key) }},
	{"part of a header", func(key string) proxytest.Answer {
		return proxytest.Chat("hi").WithHeader("X-Ratelimit-Limit-Requests", "500; key="+key)
	}},
	{"header with several values", func(key string) proxytest.Answer {
		return proxytest.Chat("hi").WithHeader("X-Ratelimit-Reset-Tokens", "1s", key)
	}},
	{"media type parameter", func(key string) proxytest.Answer {
		return proxytest.Chat("hi").WithHeader("Content-Type", "application/json; key="+key)
	}},
	{"header of a stream", func(key string) proxytest.Answer { return proxytest.ChatStream("hi").WithHeader("Openai-Version", key) }},
	{"header of an error", func(key string) proxytest.Answer { return proxytest.RateLimited(1).WithHeader("X-Should-Retry", key) }},
	{"message of an error", func(key string) proxytest.Answer {
		return proxytest.Failure(400, "invalid_request_error", "x", "bad key "+key+".")
	}},
	{"code of an error", func(key string) proxytest.Answer { return proxytest.Failure(429, "t", key, "no") }},
	{"type of an error", func(key string) proxytest.Answer { return proxytest.Failure(500, key, "", "no") }},
	{"further member of an error", func(key string) proxytest.Answer {
		return proxytest.JSON(400, `{"error":{"message":"no","type":"t","param":"`+key+`","code":null,"headers":{"authorization":["Bearer `+key+`"]}}}`)
	}},
	{"name of a member", func(key string) proxytest.Answer {
		return proxytest.JSON(400, `{"error":{"message":"no","`+key+`":1}}`)
	}},
	{"spelled with escapes", func(key string) proxytest.Answer {
		var b strings.Builder
		for _, c := range key {
			fmt.Fprintf(&b, `\u%04x`, c)
		}
		return proxytest.JSON(400, `{"error":{"message":"key `+b.String()+`"}}`)
	}},
	{"flat error", func(key string) proxytest.Answer { return proxytest.JSON(404, `{"error":"no `+key+`"}`) }},
	{"message at the top", func(key string) proxytest.Answer { return proxytest.JSON(404, `{"message":"no `+key+`"}`) }},
	{"detail that is a list", func(key string) proxytest.Answer { return proxytest.JSON(422, `{"detail":[{"input":"`+key+`"}]}`) }},
	{"list of errors", func(key string) proxytest.Answer {
		return proxytest.JSON(400, `[{"error":{"message":"`+key+`"}}]`)
	}},
	{"string as a body", func(key string) proxytest.Answer { return proxytest.JSON(400, `"`+key+`"`) }},
	{"text", func(key string) proxytest.Answer {
		return proxytest.JSON(503, "no upstream for "+key).WithHeader("Content-Type", "text/plain")
	}},
	{"HTML", func(key string) proxytest.Answer {
		return proxytest.JSON(502, "<html><body>bad "+key+"</body></html>").WithHeader("Content-Type", "text/html")
	}},
	{"text that ends in the middle of the key", func(key string) proxytest.Answer {
		return proxytest.JSON(500, strings.Repeat("x", 2<<10-len(key)/2)+key)
	}},
	{"error labelled as a stream", func(key string) proxytest.Answer {
		return proxytest.JSON(400, "data: {\"error\":{\"message\":\""+key+"\"}}\n\n").WithHeader("Content-Type", "text/event-stream")
	}},
	{"JSON that is cut short", func(key string) proxytest.Answer { return proxytest.JSON(500, `{"error":{"message":"`+key) }},
	{"401", func(key string) proxytest.Answer {
		return proxytest.Failure(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: "+key)
	}},
	{"403", func(key string) proxytest.Answer { return proxytest.JSON(403, "forbidden for "+key) }},
	{"Location", func(key string) proxytest.Answer {
		return proxytest.JSON(302, "").WithHeader("Location", "https://elsewhere.example/?key="+key)
	}},
	{"Location of a 307", func(key string) proxytest.Answer {
		return proxytest.JSON(307, `{"moved":"`+key+`"}`).WithHeader("Location", "/"+key)
	}},
	{"Location of an answer", func(key string) proxytest.Answer {
		return proxytest.Chat("hi").WithHeader("Location", "/"+key)
	}},
	{"cookie", func(key string) proxytest.Answer { return proxytest.Chat("hi").WithHeader("Set-Cookie", "k="+key) }},
	{"organization", func(key string) proxytest.Answer {
		return proxytest.Chat("hi").WithHeader("Openai-Organization", key)
	}},
	{"trailer", func(key string) proxytest.Answer {
		return proxytest.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Request-Id, X-Ratelimit-Limit-Tokens")
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"ok":true}`)
			w.Header().Set("X-Ratelimit-Limit-Tokens", key)
			w.Header().Set(http.TrailerPrefix+"X-Key", key)
		})
	}},
	{"trailer of a stream", func(key string) proxytest.Answer {
		return proxytest.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: {}\n\n")
			w.Header().Set(http.TrailerPrefix+"X-Ratelimit-Limit-Tokens", key)
		})
	}},
	{"header of a bad answer", func(key string) proxytest.Answer {
		return proxytest.JSON(200, "<html>"+key).WithHeader("X-Request-Id", key)
	}},
	{"malformed header", func(key string) proxytest.Answer {
		return proxytest.Raw("HTTP/1.1 200 OK\r\n" + key + "\r\n\r\n")
	}},
	{"malformed status line", func(key string) proxytest.Answer { return proxytest.Raw(key + " 200 OK\r\n\r\n") }},
}

func TestS11UpstreamThatEchoesTheKey(t *testing.T) {
	t.Parallel()
	// A key that was seen as a whole, and the ways in which upstreams mask one.
	echoed := map[string]string{
		"whole": canary, "plain": plainCanary,
		"start": canary[:16], "stars": "sk-canar****************18fb", "ellipsis": "sk-canary…18fb0000",
		"points": "sk-proj-canary...18fb", "organization": "org-AbCdEf0123456789", "project": "proj_AbCdEf0123456789",
	}
	for form, text := range echoed {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			key := canary
			if form == "plain" {
				key = plainCanary
			}
			f := start(t, proxy.WithKey(key))
			for _, echo := range echoes {
				for _, path := range []string{chatPath, "/"} {
					f.up.Queue(echo.answer(text))
					res, body := f.post(t, path, askHello)
					var head bytes.Buffer
					_ = res.Header.Write(&head)
					_ = res.Trailer.Write(&head)
					if strings.Contains(head.String()+body, text) {
						t.Errorf("%s, %s: shown to the client:\n%s\n%s", echo.name, path, &head, body)
					}
				}
			}
			if logs := f.logs.String(); strings.Contains(logs, text) {
				t.Errorf("shown in the log:\n%s", logs)
			}
		})
	}
}

func TestS15ErrorTextsTellNothingOfTheUpstream(t *testing.T) {
	t.Parallel()
	f := start(t)
	host := strings.TrimSuffix(strings.TrimPrefix(f.up.URL(), "http://"), "/v1")
	for _, answer := range []proxytest.Answer{
		proxytest.Raw(""), proxytest.Raw("no HTTP at all\r\n\r\n"), proxytest.Raw("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
		proxytest.JSON(200, "{}").WithHeader("Content-Length", "99"), proxytest.JSON(204, ""), proxytest.JSON(302, "").WithHeader("Location", f.up.URL()),
	} {
		for _, path := range []string{chatPath, "/"} {
			f.up.Queue(answer)
			res, body := f.post(t, path, askHello)
			if res.StatusCode != http.StatusBadGateway {
				t.Errorf("status %d: %s", res.StatusCode, body)
			}
			for _, part := range []string{host, "127.0.0.1", "malformed", "EOF", "net/http", "dial", ".go:", "/v1"} {
				if strings.Contains(body, part) {
					t.Errorf("%q is in the body: %s", part, body)
				}
			}
		}
	}
	f.up.Close()
	if res, body := f.post(t, chatPath, askHello); res.StatusCode != http.StatusBadGateway || strings.Contains(body, host) || strings.Contains(body, "refused") {
		t.Errorf("an upstream that is down: status %d, %s", res.StatusCode, body)
	}
}

func TestAnswersOfStatus200AreNotSearched(t *testing.T) {
	t.Parallel()
	const text = "sk-this-is-what-the-model-said and org-Example123456"
	f := start(t)
	f.up.Queue(proxytest.Chat(text), proxytest.ChatStream(text))
	for _, body := range []string{askHello, askHelloStream} {
		if _, got := f.post(t, chatPath, body); !strings.Contains(got, text) {
			t.Errorf("the model's words were changed: %s", got)
		}
	}
}

func TestS14PromptsAreNotLogged(t *testing.T) {
	t.Parallel()
	const marker = "the-secret-of-the-prompt"
	f := start(t)
	for _, body := range []string{
		`{"model":"m","messages":[{"role":"user","content":"` + marker + `"}]}`,
		`{"model":"m","messages":"` + marker + `"}`,
		`{"` + marker + `"`,
		`{"messages":[],"model":"` + marker + `","model":"x"}`,
		`"` + marker + `"`,
	} {
		for _, answer := range []proxytest.Answer{proxytest.Chat(marker), proxytest.Failure(400, "t", "c", marker), proxytest.JSON(200, marker)} {
			f.up.Queue(answer)
			f.post(t, chatPath, body)
		}
	}
	if logs := f.logs.String(); strings.Contains(logs, marker) {
		t.Errorf("a prompt or an answer is in the log:\n%s", logs)
	}
}
