package proxy_test

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// erCodes are all codes, as the design lists them.
func erCodes() []string {
	return strings.Fields(`missing_api_key misconfigured invalid_json invalid_request duplicate_key body_too_large body_timeout unsupported_media_type
		not_found method_not_allowed origin_not_allowed host_not_allowed unauthorized forbidden rate_limited key_unavailable shutting_down
		streaming_unsupported_by_host upstream_auth upstream_unreachable upstream_bad_response upstream_redirect upstream_timeout upstream_disconnected
		stream_limit internal_error`)
}

// erConstants reads the codes from the source.
func erConstants(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "ErrorCode" {
			return true
		}
		for i, name := range spec.Names {
			text, err := strconv.Unquote(spec.Values[i].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			if _, twice := codes[text]; twice {
				t.Errorf("%s has two names", text)
			}
			codes[text] = name.Name
		}
		return true
	})
	return codes
}

func TestK7CodesInSourceAndDocumentationAreTheSame(t *testing.T) {
	t.Parallel()
	inSource := slices.Sorted(maps.Keys(erConstants(t)))
	if want := slices.Sorted(slices.Values(erCodes())); !slices.Equal(inSource, want) {
		t.Errorf("the codes in errors.go are %q, want %q", inSource, want)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(doc), "# Errors\n")
	if !ok {
		t.Fatal("doc.go has no section about errors")
	}
	section, _, _ = strings.Cut(section, "\n// # ")
	var inDoc []string
	status := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^//\t([a-z_]+) +(\d{3}|---) +\S`).FindAllStringSubmatch(section, -1) {
		inDoc = append(inDoc, row[1])
		status[row[1]] = row[2]
	}
	slices.Sort(inDoc)
	if !slices.Equal(inSource, inDoc) {
		t.Errorf("the codes in doc.go are %q, want those of errors.go, each once: %q", inDoc, inSource)
	}
	source, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	for code, name := range erConstants(t) {
		comment := regexp.MustCompile(`\b` + name + `\s+ErrorCode = "[a-z_]+" +// (\d{3}|in a stream)`).FindSubmatch(source)
		if comment == nil {
			t.Errorf("errors.go does not say what status goes with %s", name)
		} else if want := strings.ReplaceAll(string(comment[1]), "in a stream", "---"); status[code] != want {
			t.Errorf("%s: doc.go says %s, errors.go %s", code, status[code], want)
		}
	}
}

// erCase is a way to provoke a code, and what the caller is told.
type erCase struct {
	options []proxy.Option
	wrap    func(http.Handler) http.Handler
	answer  proxytest.Answer
	before  func(*testing.T, *fixture)
	method  string // "" for POST
	path    string // "" for both faces
	body    string // "" for a chat request
	header  []string

	status         int
	title, message string
	kind, param    string
	noRetry        bool
	retryAfter     string
	calls          int
}

// erKeys makes a key source of what it returns.
func erKeys(key string, err error) proxy.Option {
	return proxy.WithKeySource(proxy.KeyFunc(func(*http.Request) (string, error) { return key, err }))
}

func erAdmit(err error) proxy.Option {
	return proxy.WithHooks(proxy.Hooks{Admit: func(context.Context, proxy.Call) error { return err }})
}

func erRewrite(rewrite func([]byte) ([]byte, error)) proxy.Option {
	return proxy.WithHooks(proxy.Hooks{Rewrite: func(_ context.Context, _ proxy.Call, body []byte) ([]byte, error) { return rewrite(body) }})
}

// erSecret is a text that no caller may read: it stands in errors of the host.
const erSecret = "dial tcp 10.1.2.3:443: secret detail /etc/passwd"

const (
	erInvalid = "invalid_request_error"
	erServer  = "server_error"
	erUp      = "upstream_error"
)

// erOptions is a list of options in short.
func erOptions(options ...proxy.Option) []proxy.Option { return options }

// erRequestCases are refusals of what the client sent.
func erRequestCases() map[string]erCase {
	return map[string]erCase{
		"invalid_json":           {body: `{`, status: 400, title: "Invalid JSON", message: "Request body is not valid JSON", kind: erInvalid},
		"invalid_request":        {body: `{}`, status: 400, title: "Invalid messages format", message: "messages field is required and must be an array", kind: erInvalid, param: "messages"},
		"duplicate_key":          {body: `{"n":1,"n":2}`, status: 400, title: "Bad Request", message: "n occurs more than once", kind: erInvalid, param: "n"},
		"body_too_large":         {options: erOptions(proxy.WithLimits(proxy.Limits{RequestBytes: 10})), status: 413, title: "Payload Too Large", message: "The request body is too large.", kind: erInvalid},
		"unsupported_media_type": {header: []string{"Content-Encoding", "gzip"}, status: 415, title: "Unsupported Media Type", message: "Compressed request bodies are not supported.", kind: erInvalid},
		"unsupported_media_type of a form": {
			header: []string{"Content-Type", "multipart/form-data; boundary=b"}, status: 415, title: "Unsupported Media Type",
			message: "This route takes JSON; forms are for image edits only.", kind: erInvalid,
		},
		"not_found":          {path: "/nowhere", status: 404, title: "Not Found", message: "There is nothing at this path.", kind: erInvalid},
		"method_not_allowed": {method: "PUT", status: 405, title: "Method Not Allowed", message: "Method Not Allowed", kind: erInvalid},
		"origin_not_allowed": {header: []string{"Origin", "https://evil.example"}, status: 403, title: "Forbidden", message: "This origin may not call the API.", kind: erInvalid, noRetry: true},
		"host_not_allowed": {
			options: erOptions(proxy.WithAllowedHosts("app.example")), status: 421, title: "Misdirected Request", message: "This host is not served here.", kind: erInvalid,
		},
		"invalid_request for a key": {
			options: erOptions(proxy.WithKeySource(proxy.HeaderKey("x-openai-key"))), header: []string{"X-Openai-Key", "a b"}, status: 400, title: "Bad Request",
			message: "The API key in header X-Openai-Key must be 1 to 512 visible ASCII characters.", kind: erInvalid,
		},
	}
}

// erHostCases are failures of the host: its hooks, sources and middleware.
func erHostCases() map[string]erCase {
	return map[string]erCase{
		"missing_api_key":                 {options: erOptions(erKeys("", nil)), status: 500, title: "Configuration Error", message: "OpenAI API key is not configured", kind: erServer, noRetry: true},
		"key_unavailable":                 {options: erOptions(erKeys("", errors.New(erSecret))), status: 503, title: "Service Unavailable", message: "The API key is not available at the moment.", kind: erServer},
		"key_unavailable, a useless key":  {options: erOptions(erKeys("a b", nil)), status: 503, title: "Service Unavailable", message: "The API key is not available at the moment.", kind: erServer},
		"key_unavailable, key and error":  {options: erOptions(erKeys("sk-k", errors.New(erSecret))), status: 503, title: "Service Unavailable", message: "The API key is not available at the moment.", kind: erServer},
		"forbidden":                       {options: erOptions(erAdmit(errors.New(erSecret))), status: 403, title: "Forbidden", message: "This request is not allowed.", kind: erInvalid},
		"unauthorized":                    {options: erOptions(erAdmit(&proxy.Error{Status: 401, Err: errors.New(erSecret)})), status: 401, title: "Unauthorized", message: "Unauthorized", kind: erInvalid},
		"rate_limited":                    {options: erOptions(erAdmit(&proxy.Error{Status: 429, Message: "Slow down.", RetryAfter: 1500 * time.Millisecond})), status: 429, title: "Too Many Requests", message: "Slow down.", kind: "rate_limit_error", retryAfter: "2"},
		"internal_error, hook's status":   {options: erOptions(erAdmit(&proxy.Error{Err: errors.New(erSecret)})), status: 500, title: "Internal Server Error", message: "Internal Server Error", kind: erServer},
		"internal_error, Rewrite fails":   {options: erOptions(erRewrite(func([]byte) ([]byte, error) { return nil, errors.New(erSecret) })), status: 500, title: "Internal Server Error", message: "Internal Server Error", kind: erServer},
		"internal_error, Rewrite is bad":  {options: erOptions(erRewrite(func([]byte) ([]byte, error) { return []byte("{"), nil })), status: 500, title: "Internal Server Error", message: "Internal Server Error", kind: erServer},
		"internal_error, Rewrite, double": {options: erOptions(erRewrite(func([]byte) ([]byte, error) { return []byte(`{"n":1,"n":1,"messages":[]}`), nil })), status: 500, title: "Internal Server Error", message: "Internal Server Error", kind: erServer},
		"internal_error, Rewrite panics":  {options: erOptions(erRewrite(func([]byte) ([]byte, error) { panic(erSecret) })), status: 500, title: "Internal Server Error", message: "Internal Server Error", kind: erServer},
		"shutting_down": {
			before: func(t *testing.T, f *fixture) {
				if err := f.handler.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			status: 503, title: "Service Unavailable", message: "The server is shutting down.", kind: erServer, retryAfter: "1",
		},
		"streaming_unsupported_by_host": {
			wrap: func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Minute, "") },
			body: `{"model":"m","messages":[],"stream":true}`, status: 500, title: "Internal Server Error",
			message: "The server that mounts this proxy cannot stream: a middleware hides Flush.", kind: erServer, noRetry: true,
		},
	}
}

// erUpstreamCases are failures of the upstream.
func erUpstreamCases() map[string]erCase {
	return map[string]erCase{
		"upstream_auth": {
			answer: proxytest.Failure(401, "t", "invalid_api_key", "no"), status: 502, title: "Bad Gateway",
			message: "The upstream does not accept this server's credentials.", kind: erUp, noRetry: true, calls: 1,
		},
		"upstream_unreachable":  {answer: proxytest.Raw(""), status: 502, title: "Bad Gateway", message: anUnreachable, kind: erUp, calls: 1},
		"upstream_bad_response": {answer: proxytest.JSON(200, ""), status: 502, title: "Bad Gateway", message: anUnusable, kind: erUp, calls: 1},
		"upstream_redirect": {
			answer: proxytest.JSON(302, "{}").WithHeader("Location", "http://x/"), status: 502, title: "Bad Gateway",
			message: "The upstream answered with a redirect.", kind: erUp, calls: 1,
		},
		"upstream_timeout": {
			options: erOptions(proxy.WithLimits(proxy.Limits{HeaderTime: 30 * time.Millisecond})), answer: proxytest.Hang(), status: 504, title: "Gateway Timeout",
			message: "The upstream did not answer in time.", kind: erUp, calls: 1,
		},
		"upstream_timeout, silent body": {
			options: erOptions(proxy.WithLimits(proxy.Limits{StreamIdle: 30 * time.Millisecond})), status: 504, title: "Gateway Timeout",
			answer:  proxytest.Respond(200, http.Header{"Content-Type": {"application/json"}}, proxytest.Text("{"), proxytest.Silence()),
			message: "The upstream did not answer in time.", kind: erUp, calls: 1,
		},
	}
}

// openAI and worker render what the caller is told in either dialect.
func (c erCase) openAI(code string) string {
	return anOpenAI(c.status, c.message, c.kind, c.param, code)
}

func (c erCase) worker(code string) string {
	if c.status == http.StatusMethodNotAllowed {
		return `{"error":"Method Not Allowed"}` + "\n"
	}
	param := ""
	if c.param != "" {
		param = `,"param":"` + c.param + `"`
	}
	return `{"error":"` + c.title + `","message":"` + c.message + `","type":"` + c.kind + `"` + param + `,"code":"` + code + `"}` + "\n"
}

func TestEveryCodeInBothDialects(t *testing.T) {
	t.Parallel()
	for _, cases := range []map[string]erCase{erRequestCases(), erHostCases(), erUpstreamCases()} {
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				code, _, _ := strings.Cut(name, " ")
				code = strings.TrimSuffix(code, ",")
				if !slices.Contains(erCodes(), code) {
					t.Fatalf("%s is no code", code)
				}
				openAI, worker := c.openAI(code), c.worker(code)
				c.try(t, "/v1/chat/completions", openAI)
				c.try(t, "/v1/chat/completions", openAI, proxy.WithErrorShape(proxy.ErrorShapeByRoute))
				c.try(t, "/v1/chat/completions", openAI, proxy.WithErrorShape(proxy.ErrorShapeOpenAI))
				c.try(t, "/v1/chat/completions", worker, proxy.WithErrorShape(proxy.ErrorShapeWorker))
				c.try(t, "/", openAI, proxy.WithErrorShape(proxy.ErrorShapeOpenAI))
				c.try(t, "/", worker, proxy.WithErrorShape(proxy.ErrorShapeWorker))
				if c.path == "" {
					c.try(t, "/", worker)
				}
			})
		}
	}
}

// try provokes the code once.
func (c erCase) try(t *testing.T, path, want string, options ...proxy.Option) {
	t.Helper()
	f := setup{wrap: c.wrap, options: append(options, c.options...)}.start(t)
	f.up.Queue(c.answer)
	if c.before != nil {
		c.before(t, f)
	}
	if c.path != "" {
		path = c.path
	}
	method, body := c.method, c.body
	if method == "" {
		method = http.MethodPost
	}
	if body == "" {
		body = rtChat
	}
	res, got := f.do(t, method, path, body, c.header...)
	anWant(t, res, got, c.status, want)
	f.wantCalls(t, c.calls)
	var retry []string
	if c.noRetry {
		retry = []string{"false"}
	}
	if !slices.Equal(res.Header["X-Should-Retry"], retry) {
		t.Errorf("%s: X-Should-Retry %q, want %q", path, res.Header["X-Should-Retry"], retry)
	}
	if got := res.Header.Get("Retry-After"); got != c.retryAfter {
		t.Errorf("%s: Retry-After %q, want %q", path, got, c.retryAfter)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Content-Length": strconv.Itoa(len(got)), "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
	} {
		if !slices.Equal(res.Header[name], []string{want}) {
			t.Errorf("%s: %s is %q, want %q", path, name, res.Header[name], want)
		}
	}
	if res.Header.Get("X-Request-Id") == "" {
		t.Errorf("%s: no X-Request-Id", path)
	}
}

func TestMissingPromptOnTheWorkersFace(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, path := range []string{"/images/generations", "/generate-image"} {
		res, body := f.post(t, path, `{}`)
		anWant(t, res, body, 400, `{"error":"Missing required field","message":"prompt field is required for image generation","type":"invalid_request_error","param":"prompt","code":"invalid_request"}`+"\n")
	}
	f.wantCalls(t, 0)
}

func TestMissingKeyOnTheWorkersFace(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", " \t")
	f := start(t, proxy.WithKeySource(proxy.EnvKey("OPENAI_API_KEY")))
	for path, body := range map[string]string{"/": rtChat, "/generate-image": rtImage, "/images/generations": rtImage} {
		res, got := f.post(t, path, body)
		anWant(t, res, got, 500, `{"error":"Configuration Error","message":"OpenAI API key is not configured","type":"server_error","code":"missing_api_key"}`+"\n")
	}
	f.wantCalls(t, 0)
}

func TestMisconfiguredInBothDialects(t *testing.T) {
	t.Parallel()
	const message = "The proxy is not configured correctly."
	srv := proxytest.Serve(t, proxy.New(proxy.WithKey(""), proxy.WithLogger(slog.New(slog.DiscardHandler))))
	for path, want := range map[string]string{
		"/":                    `{"error":"Configuration Error","message":"` + message + `","type":"server_error","code":"misconfigured"}` + "\n",
		"/v1/chat/completions": anOpenAI(500, message, "server_error", "", "misconfigured"),
	} {
		res, err := srv.Client().Post(srv.URL+path, "", strings.NewReader(rtChat))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		anWant(t, res, string(body), 500, want)
		if got := res.Header["X-Should-Retry"]; !slices.Equal(got, []string{"false"}) {
			t.Errorf("X-Should-Retry %q", got)
		}
	}
}

func TestBodyThatStopsArrivingIs408(t *testing.T) {
	t.Parallel()
	const message = "The request body did not arrive in time."
	for name, limits := range map[string]proxy.Limits{"idle": {BodyIdle: 50 * time.Millisecond}, "in all": {BodyTime: 50 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, proxy.WithLimits(limits))
			for path, want := range map[string]string{
				"/":                    `{"error":"Request Timeout","message":"` + message + `","type":"invalid_request_error","code":"body_timeout"}` + "\n",
				"/v1/chat/completions": anOpenAI(408, message, "invalid_request_error", "", "body_timeout"),
				"/v1/images/edits":     anOpenAI(408, message, "invalid_request_error", "", "body_timeout"),
			} {
				res, body := rtRaw(t, f, "POST", path, "Content-Length: 1000\r\n\r\n"+rtChat)
				anWant(t, res, body, 408, want)
			}
			f.wantCalls(t, 0)
		})
	}
}

// Codes that stand in a stream come as its last event.
func TestCodesInsideAStream(t *testing.T) {
	t.Parallel()
	const first = "data: {\"a\":1}\n\n"
	for code, tc := range map[string]struct {
		limits proxy.Limits
		answer proxytest.Answer
	}{
		"upstream_disconnected": {proxy.Limits{}, proxytest.Stream(proxytest.Text(first), proxytest.Cut())},
		"upstream_timeout":      {proxy.Limits{StreamIdle: 100 * time.Millisecond}, proxytest.Stream(proxytest.Text(first), proxytest.Silence())},
		"stream_limit":          {proxy.Limits{StreamMax: 100 * time.Millisecond}, proxytest.Stream(proxytest.Text(first), proxytest.Silence())},
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			f := start(t, proxy.WithLimits(tc.limits))
			f.up.Queue(tc.answer)
			res, err := f.Client().Post(f.URL+"/", "application/json", strings.NewReader(`{"model":"m","messages":[],"stream":true}`))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			event := regexp.MustCompile(`^data: \{"error":\{"message":"[A-Z][^"]+\.","type":"upstream_error","param":null,"code":"` + code + `"\}\}\n\n$`)
			rest, ok := strings.CutPrefix(string(body), first)
			if !ok || !event.MatchString(rest) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q, %v, want an event with %s and a broken transfer", body, err, code)
			}
		})
	}
}

// Whatever goes wrong, the caller reads no text of an error of Go, no host and
// no port.
func TestS15NoErrorTextOfGoReachesTheCaller(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	_, port, _ := net.SplitHostPort(address)
	words := []string{
		port, "127.0.0.1", "localhost", "dial", "tcp", "refused", "EOF", "reset by", "broken pipe", "context", "deadline", "goroutine", ".go", "net/http", "http:", "json:",
		"malformed", "unexpected", "invalid character", "secret detail", "10.1.2.3", "passwd", "gzip", "multipart", "mime", "tls", "x509", "lookup", "panic", "runtime",
	}
	try := func(what string, f *fixture, path, body string, header ...string) {
		_, got := f.post(t, path, body, header...)
		for _, word := range words {
			if strings.Contains(got, word) {
				t.Errorf("%s: %q is in %s", what, word, got)
			}
		}
	}
	for _, cases := range []map[string]erCase{erHostCases(), erUpstreamCases()} {
		for name, c := range cases {
			f := setup{wrap: c.wrap, options: c.options}.start(t)
			f.up.Queue(c.answer)
			try(name, f, "/v1/chat/completions", rtChat, c.header...)
		}
	}
	for _, root := range []string{"http://" + address, "https://" + address + "/v1", "http://upstream.invalid/v1"} {
		f := start(t, proxy.WithUpstream(root), proxy.WithTransport(nil))
		try(root, f, "/v1/chat/completions", rtChat)
		try(root, f, "/", rtChat)
	}
	f := start(t)
	for _, body := range []string{"", "{", `{"a":`, "\xff", strings.Repeat("[", 2000)} {
		try("body", f, "/v1/chat/completions", body)
		try("form", f, "/v1/images/edits", body, "Content-Type", "multipart/form-data")
	}
	for _, broken := range []string{"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n{}", "garbage", "HTTP/1.1 200 OK\r\nbad\r\n\r\n"} {
		f.up.Queue(proxytest.Raw(broken))
		try("answer", f, "/v1/chat/completions", rtChat)
	}
}

func TestHookErrorIsTheAnswerAsItStands(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  *proxy.Error
		want string
	}{
		"all of it": {
			&proxy.Error{Status: 402, Type: "billing", Code: "no_credit", Message: "Pay <first> & \"then\".", Param: "model", Err: errors.New(erSecret)},
			`{"error":{"message":"Pay <first> & \"then\".","type":"billing","param":"model","code":"no_credit"},"message":"Pay <first> & \"then\".","status":402}`,
		},
		"a status alone": {
			&proxy.Error{Status: 418},
			`{"error":{"message":"I'm a teapot","type":"invalid_request_error","param":null,"code":"invalid_request"},"message":"I'm a teapot","status":418}`,
		},
		"nothing": {
			&proxy.Error{},
			`{"error":{"message":"Internal Server Error","type":"server_error","param":null,"code":"internal_error"},"message":"Internal Server Error","status":500}`,
		},
		"no error status": {
			&proxy.Error{Status: 200},
			`{"error":{"message":"Internal Server Error","type":"server_error","param":null,"code":"internal_error"},"message":"Internal Server Error","status":500}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, erAdmit(tc.err))
			res, body := f.post(t, "/v1/chat/completions", rtChat)
			status := tc.err.Status
			if status < 400 {
				status = 500
			}
			anWant(t, res, body, status, tc.want+"\n")
			f.wantCalls(t, 0)
		})
	}
}

func TestErrorTellsItsCauseToLogsOnly(t *testing.T) {
	t.Parallel()
	cause := errors.New("the cause")
	err := error(&proxy.Error{Status: 402, Code: "no_credit", Message: "Pay first.", Err: cause})
	if got, want := err.Error(), "no_credit (402): Pay first.: the cause"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is not found by errors.Is")
	}
	if got, want := (&proxy.Error{}).Error(), "internal_error (500): Internal Server Error"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}
