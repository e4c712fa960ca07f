package proxy_test

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

const (
	rtChat  = `{"model":"gpt-6-luna","messages":[{"role":"user","content":"hi"}]}`
	rtImage = `{"model":"gpt-image-2","prompt":"a boat"}`
)

// Where a call may go, as the upstream sees it, and nowhere else.
const (
	rtUpChat   = "/v1/chat/completions"
	rtUpImages = "/v1/images/generations"
	rtUpEdits  = "/v1/images/edits"
)

// rtRow is a row of the table of routes.
type rtRow struct {
	path, body, target string
	worker             bool // the face
}

func rtRoutes() []rtRow {
	return []rtRow{
		{"/", rtChat, rtUpChat, true},
		{"/", rtImage, rtUpImages, true},
		{"/images/generations", rtImage, rtUpImages, true},
		{"/generate-image", rtImage, rtUpImages, true},
		{"/v1/chat/completions", rtChat, rtUpChat, false},
		{"/chat/completions", rtChat, rtUpChat, false},
		{"/v1/images/generations", rtImage, rtUpImages, false},
		{"/v1/images/edits", rtImage, rtUpEdits, false},
	}
}

// rtRaw sends a request line and what follows on a connection of its own, which
// is the way to targets and methods that a client would not write.
func rtRaw(t *testing.T, f *fixture, method, target, rest string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, method+" "+target+" HTTP/1.1\r\nHost: proxy.example\r\nConnection: close\r\n"+rest); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	_ = res.Header.Write(f.seen)
	_, _ = f.seen.Write(body)
	return res, string(body)
}

// rtBody renders the end of a raw request: its length and its body.
func rtBody(body string) string {
	return "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

func TestEveryRouteReachesItsUpstreamPath(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]proxytest.ServerOption{"HTTP1": nil, "HTTP2": {proxytest.HTTP2()}} {
		for _, row := range rtRoutes() {
			t.Run(name+row.path+"_to"+row.target, func(t *testing.T) {
				t.Parallel()
				f := setup{client: opts}.start(t)
				res, body := f.post(t, row.path, row.body)
				if res.StatusCode != http.StatusOK {
					t.Fatalf("status %d: %s", res.StatusCode, body)
				}
				f.wantCalls(t, 1)
				got := f.up.Next()
				if got.Method != http.MethodPost || got.Target != row.target || "http://"+got.Host != strings.TrimSuffix(f.up.URL(), "/v1") {
					t.Errorf("the upstream got %s %s at %s, want POST %s at %s", got.Method, got.Target, got.Host, row.target, f.up.URL())
				}
				if string(got.Body) != row.body {
					t.Errorf("the upstream got %s, want %s", got.Body, row.body)
				}
			})
		}
	}
}

func TestRootTellsChatFromImages(t *testing.T) {
	t.Parallel()
	const messages = `"messages":[{"role":"user","content":"hi"}]`
	for name, tc := range map[string]struct{ body, target, param string }{
		"messages":                        {`{` + messages + `}`, rtUpChat, ""},
		"messages empty":                  {`{"messages":[]}`, rtUpChat, ""},
		"prompt":                          {`{"prompt":"a boat"}`, rtUpImages, ""},
		"prompt, messages null":           {`{"prompt":"a boat","messages":null}`, rtUpImages, ""},
		"prompt, messages empty":          {`{"prompt":"a boat","messages":[]}`, rtUpChat, ""},
		"prompt and messages":             {`{"prompt":"a boat",` + messages + `}`, rtUpChat, ""},
		"action and prompt":               {`{"action":"generate-image","prompt":"a boat"}`, rtUpImages, ""},
		"action beats messages":           {`{"action":"generate-image","prompt":"a boat",` + messages + `}`, rtUpImages, ""},
		"action with escapes":             {`{"\u0061ction":"generate\u002dimage","prompt":"a boat",` + messages + `}`, rtUpImages, ""},
		"another action and messages":     {`{"action":"chat",` + messages + `}`, rtUpChat, ""},
		"another action and prompt":       {`{"action":"chat","prompt":"a boat"}`, rtUpImages, ""},
		"action in other case":            {`{"action":"Generate-Image",` + messages + `}`, rtUpChat, ""},
		"Action in other case":            {`{"Action":"generate-image",` + messages + `}`, rtUpChat, ""},
		"action null":                     {`{"action":null,` + messages + `}`, rtUpChat, ""},
		"action a list":                   {`{"action":["generate-image"],` + messages + `}`, rtUpChat, ""},
		"action below the top":            {`{"metadata":{"action":"generate-image"},` + messages + `}`, rtUpChat, ""},
		"prompt below the top":            {`{"metadata":{"prompt":"x"},` + messages + `}`, rtUpChat, ""},
		"nothing":                         {`{}`, "", "messages"},
		"prompt empty":                    {`{"prompt":""}`, "", "messages"},
		"prompt empty, messages null":     {`{"prompt":"","messages":null}`, "", "messages"},
		"prompt null":                     {`{"prompt":null}`, "", "messages"},
		"Prompt in other case":            {`{"Prompt":"a boat"}`, "", "messages"},
		"messages a string":               {`{"messages":"hi"}`, "", "messages"},
		"messages an object":              {`{"messages":{}}`, "", "messages"},
		"messages a string, and a prompt": {`{"messages":"hi","prompt":"a boat"}`, "", "messages"},
		"messages false, and a prompt":    {`{"messages":false,"prompt":"a boat"}`, "", "messages"},
		"action without a prompt":         {`{"action":"generate-image",` + messages + `}`, "", "prompt"},
		"action, prompt empty":            {`{"action":"generate-image","prompt":""}`, "", "prompt"},
		"action, prompt a list":           {`{"action":"generate-image","prompt":["a boat"]}`, "", "prompt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			res, body := f.post(t, "/", tc.body)
			if tc.target != "" {
				f.wantCalls(t, 1)
				if got := f.up.Next().Target; got != tc.target || res.StatusCode != http.StatusOK {
					t.Errorf("status %d from %s, want 200 from %s", res.StatusCode, got, tc.target)
				}
				return
			}
			f.wantCalls(t, 0)
			if res.StatusCode != http.StatusBadRequest || !strings.Contains(body, `"param":"`+tc.param+`"`) {
				t.Errorf("status %d: %s, want 400 for %s", res.StatusCode, body, tc.param)
			}
		})
	}
}

func TestKnownPathsTakePostAndOptionsOnly(t *testing.T) {
	t.Parallel()
	f := start(t)
	methods := []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "QUERY", "PROPFIND", "post", "POSTS"}
	for _, row := range rtRoutes() {
		for _, method := range methods {
			res, body := rtRaw(t, f, method, row.path, rtBody(row.body))
			if res.StatusCode != http.StatusMethodNotAllowed || !slices.Equal(res.Header.Values("Allow"), []string{"POST, OPTIONS"}) {
				t.Errorf("%s %s: status %d, Allow %q, want 405 and \"POST, OPTIONS\"", method, row.path, res.StatusCode, res.Header["Allow"])
			}
			want := `{"error":{"message":"Method Not Allowed","type":"invalid_request_error","param":null,"code":"method_not_allowed"},` +
				`"message":"Method Not Allowed","status":405}`
			switch {
			case method == "HEAD":
				want = ""
			case row.worker:
				want = `{"error":"Method Not Allowed"}`
			}
			if strings.TrimSpace(body) != want {
				t.Errorf("%s %s: %q, want %q", method, row.path, body, want)
			}
		}
		res, body := rtRaw(t, f, "OPTIONS", row.path, "\r\n")
		if res.StatusCode != http.StatusNoContent || !slices.Equal(res.Header.Values("Allow"), []string{"POST, OPTIONS"}) || body != "" {
			t.Errorf("OPTIONS %s: status %d, Allow %q, body %q, want 204, \"POST, OPTIONS\", none", row.path, res.StatusCode, res.Header["Allow"], body)
		}
	}
	f.wantCalls(t, 0)
}

func TestS4EverythingElseIsNotFound(t *testing.T) {
	t.Parallel()
	f := start(t)
	paths := []string{
		"/v1", "/v1/", "/chat", "/chat/", "/images", "/images/edits", "/v1/chat", "/v1/images", "/v1/images/variations", "/v1/models", "/models",
		"/v1/chat/completions/", "/chat/completions/", "/v1/chat/completions/chatcmpl-1", "/v1/chat/completions/chatcmpl-1/messages",
		"/v1/images/generations/", "/v1/images/edits/", "/generate-image/", "/generate-images", "/images/generations/x", "/v1/generate-image",
		"/V1/chat/completions", "/v1/Chat/completions", "/Generate-Image", "/v2/chat/completions", "/v1/v1/chat/completions", "/v1/completions",
		"/v1/responses", "/v1/embeddings", "/v1/files", "/v1/organization/users", "/healthz", "/metrics", "/debug/pprof/", "/debug/vars", "/admin",
		"/favicon.ico", "/index.html", "/chat/completions;a=b", "/v1/chat/completions ", "/ v1/chat/completions", "/%20", "/.", "/..",
	}
	for _, path := range paths {
		for _, method := range []string{"POST", "GET", "DELETE", "OPTIONS"} {
			res, body := rtRaw(t, f, method, (&url.URL{Path: path}).EscapedPath(), rtBody(rtChat))
			if res.StatusCode != http.StatusNotFound || !strings.Contains(body, `"code":"not_found"},"message":`) || res.Header.Get("Allow") != "" {
				t.Errorf("%s %q: status %d, Allow %q, %s, want 404 in OpenAI's shape", method, path, res.StatusCode, res.Header.Get("Allow"), body)
			}
		}
	}
	f.wantCalls(t, 0)
}

// A request cannot move its call to another place: whatever its target, the
// upstream sees one of three request lines or nothing.
func TestS2NoTargetReachesAnotherUpstreamPath(t *testing.T) {
	t.Parallel()
	targets := []string{
		"/v1/chat/completions/../models", "/v1/chat/completions/..%2f..%2fmodels", "/v1/chat/completions/%2e%2e/models", "/v1/../v1/models",
		"/../v1/chat/completions", "/./v1/chat/completions", "/v1/./chat/completions", "/v1//chat/completions", "//v1/chat/completions",
		"///v1/chat/completions", "//evil.example/v1/chat/completions", "/\\evil.example/v1/chat/completions", "/v1\\chat\\completions",
		"/v1/chat/completions\\..\\models", "/%2e/v1/chat/completions", "/%2e%2e/v1/chat/completions", "/%252e%252e/v1/chat/completions",
		"/v1/chat%252Fcompletions", "/v1/chat/completions%00", "/v1/chat/completions%0d%0aX-A:%20b", "/v1/chat/completions%20", "/v1/chat/completions%23",
		"/v1/chat/completions%3f", "/v1/chat/completions%3fa=b", "/v1/chat/completions;x", "/v1/chat/completions@evil.example", "/@evil.example/v1/chat/completions",
		"/evil.example%23/v1/chat/completions", "/v1/chat/completions%2f", "/v1/chat/completions%2f..%2fmodels", "/v1/chat/completions%5c", "/%2f",
		"/%2fv1/chat/completions", "/%2f%2fevil.example/", "/%5c%5cevil.example", "/v1/images/generations/../edits", "/v1/images/%2e%2e/chat/completions",
		"/v1/%63hat/../models", "/v1/chat/comp%EF%BD%8Cetions", "/v1/chat/completions%E2%80%8B", "/v1/chat/completions%ff", "/v1/chat/completion%c5%bf",
		"/169.254.169.254%23", "/http://evil.example/v1/chat/completions", "/https:/evil.example", "/v1/chat/completions/https://evil.example",
		"/v1/chat/%2e/completions", "/v1/chat/%2e%2e/chat/completions", "/..;/v1/chat/completions", "/v1/..;/chat/completions", "/v1/chat/completions..",
		"/v1/chat/completions.", "/v1/chat/completions/.", "/v1/chat/completions/..", "/v1/chat/completions/%2e", "/%76%31", "/v1%2fmodels", "/%2e%2e%2fmodels",
		"/v1/chat/completions%09", "/v1/chat/completions+", "/v1/chat/completions%2B", "/v1/chat/completions,", "/generate-image/..", "/generate-image%2f",
	}
	odd := []string{ // one of our paths to who decodes them
		"/v1/chat%2Fcompletions", "/v1%2fchat%2fcompletions", "/%76%31/chat/completions", "/v1/%63hat/completions", "/%67enerate-image", "/v1/images%2fedits",
	}
	served := []string{
		"/v1/chat/completions?api-version=2024-01-01", "/v1/chat/completions?a=/v1/models", "/?/v1/models", "/v1/chat/completions?", "/?", "/v1/chat/completions?%",
		"http://evil.example/v1/chat/completions", "http://user:pw@evil.example:99/v1/chat/completions", "http://evil.example", "/v1/chat/completions?host=evil.example#@evil.example",
	}
	f := start(t)
	allowed := []string{rtUpChat, rtUpImages, rtUpEdits}
	both := `{"model":"gpt-6-luna","messages":[],"prompt":"a boat"}`
	try := func(target string, wanted ...int) {
		for _, method := range []string{"POST", "GET"} {
			before := len(f.up.Requests())
			res, body := rtRaw(t, f, method, target, rtBody(both))
			calls := f.up.Requests()[before:]
			if method == "GET" && slices.Contains(wanted, http.StatusOK) {
				wanted = []int{http.StatusMethodNotAllowed, http.StatusNotFound}
			}
			if !slices.Contains(wanted, res.StatusCode) {
				t.Errorf("%s %s: status %d: %s, want one of %d", method, target, res.StatusCode, body, wanted)
			}
			if (res.StatusCode == http.StatusOK) != (len(calls) == 1) || len(calls) > 1 || res.Header.Get("Location") != "" {
				t.Errorf("%s %s: status %d, %d upstream calls, Location %q", method, target, res.StatusCode, len(calls), res.Header.Get("Location"))
			}
			for _, call := range calls {
				if call.Method != "POST" || !slices.Contains(allowed, call.Target) || "http://"+call.Host+"/v1" != f.up.URL() {
					t.Errorf("%s %s made the call %s %s at %s", method, target, call.Method, call.Target, call.Host)
				}
			}
		}
	}
	for _, target := range targets {
		try(target, http.StatusNotFound, http.StatusBadRequest)
	}
	for _, target := range odd {
		try(target, http.StatusOK, http.StatusNotFound)
	}
	for _, target := range served {
		try(target, http.StatusOK)
	}
}

// The Host of a request decides nothing about where its call goes.
func TestHostAndForwardedHeadersMoveNothing(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, header := range [][]string{
		{"Host", "evil.example"},
		{"Host", "localhost:1"},
		{"X-Forwarded-Host", "evil.example"},
		{"X-Forwarded-Proto", "ftp"},
		{"Forwarded", "host=evil.example"},
		{"X-Original-Url", "/v1/models"},
		{"X-Rewrite-Url", "/v1/models"},
		{"X-Http-Method-Override", "GET"},
		{"X-Openai-Base-Url", "http://evil.example"},
		{"X-Portkey-Custom-Host", "http://evil.example"},
	} {
		res, body := f.post(t, "/v1/chat/completions", rtChat, header...)
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d: %s", header, res.StatusCode, body)
		}
		if got := f.up.Next(); got.Method != "POST" || got.Target != rtUpChat || "http://"+got.Host+"/v1" != f.up.URL() {
			t.Errorf("%s: the upstream got %s %s at %s", header, got.Method, got.Target, got.Host)
		}
	}
}

func TestQueryOfTheUpstreamIsKeptAndThatOfTheClientIsNot(t *testing.T) {
	t.Parallel()
	for root, want := range map[string]string{
		"/v1":                                 "/v1/chat/completions",
		"/v1/":                                "/v1/chat/completions",
		"":                                    "/chat/completions",
		"/":                                   "/chat/completions",
		"/openai/v1?api-version=preview":      "/openai/v1/chat/completions?api-version=preview",
		"/openai/deployments/a%2Fb?x=1&y=%2F": "/openai/deployments/a%2Fb/chat/completions?x=1&y=%2F",
	} {
		t.Run(root, func(t *testing.T) {
			t.Parallel()
			up := proxytest.NewUpstream(t)
			f := start(t, proxy.WithUpstream(strings.TrimSuffix(up.URL(), "/v1")+root), proxy.WithTransport(up.Transport()))
			res, body := f.post(t, "/v1/chat/completions?api-version=2020-01-01&x=2", rtChat)
			if len(up.Requests()) != 1 {
				t.Fatalf("no call reached the upstream, the answer is %d %s", res.StatusCode, body)
			}
			if got := up.Next().Target; got != want {
				t.Errorf("the upstream got %s, want %s", got, want)
			}
		})
	}
}

func TestUpgradeIsRefused(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, header := range []string{
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
		"Upgrade: WebSocket\r\n",
		"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n",
		"Upgrade: h2c, websocket\r\nConnection: Upgrade\r\n",
		"Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
	} {
		for _, method := range []string{"GET", "POST"} {
			for _, path := range []string{"/", "/v1/chat/completions"} {
				res, body := rtRaw(t, f, method, path, header+rtBody(rtChat))
				if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Upgrade") != "" {
					t.Errorf("%s %s with %q: status %d: %s, want 405", method, path, header, res.StatusCode, body)
				}
			}
		}
	}
	f.wantCalls(t, 0)
}

func TestConnectToAHostIsRefused(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, target := range []string{"evil.example:443", "proxy.example:80"} {
		if res, body := rtRaw(t, f, "CONNECT", target, "\r\n"); res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("CONNECT %s: status %d: %s, want 405", target, res.StatusCode, body)
		}
	}
	f.wantCalls(t, 0)
}

func TestMountedUnderAPrefix(t *testing.T) {
	t.Parallel()
	mount := func(pattern, prefix string) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle(pattern, http.StripPrefix(prefix, h))
			return mux
		}
	}
	for name, tc := range map[string]struct {
		wrap         func(http.Handler) http.Handler
		path, target string // "": not found
	}{
		"the mount point":                  {mount("/ai", "/ai"), "/ai", rtUpChat},
		"the mount point with a slash":     {mount("/ai/", "/ai"), "/ai/", rtUpChat},
		"a route below":                    {mount("/ai/", "/ai"), "/ai/v1/chat/completions", rtUpChat},
		"deep below":                       {mount("/a/b/", "/a/b"), "/a/b/chat/completions", rtUpChat},
		"the worker's images below":        {mount("/ai/", "/ai"), "/ai/generate-image", rtUpImages},
		"unknown below":                    {mount("/ai/", "/ai"), "/ai/v1/models", ""},
		"slash in the prefix, no path":     {mount("/ai/", "/ai/"), "/ai/", rtUpChat},
		"slash in the prefix, OpenAI":      {mount("/ai/", "/ai/"), "/ai/v1/chat/completions", ""},
		"slash in the prefix, short":       {mount("/ai/", "/ai/"), "/ai/chat/completions", ""},
		"slash in the prefix, the worker":  {mount("/ai/", "/ai/"), "/ai/generate-image", ""},
		"slash in the prefix, generations": {mount("/ai/", "/ai/"), "/ai/images/generations", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup{wrap: tc.wrap}.start(t)
			res, body := f.post(t, tc.path, `{"model":"m","messages":[],"prompt":"a boat"}`)
			if tc.target == "" {
				f.wantCalls(t, 0)
				if res.StatusCode != http.StatusNotFound || !strings.Contains(body, `"code":"not_found"`) {
					t.Errorf("status %d: %s, want 404 of the handler", res.StatusCode, body)
				}
				return
			}
			f.wantCalls(t, 1)
			if got := f.up.Next().Target; got != tc.target || res.StatusCode != http.StatusOK {
				t.Errorf("status %d: %s from %s, want 200 from %s", res.StatusCode, body, got, tc.target)
			}
		})
	}
}

// rtSubs mounts the sub-handlers on paths of the host's own.
func rtSubs(options ...proxy.Option) setup {
	return setup{options: options, wrap: func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		all := h.(*proxy.Handler)
		mux.Handle("/talk", all.Chat())
		mux.Handle("/generate-image", all.Chat())
		mux.Handle("/draw", all.Images())
		mux.Handle("/chat/completions", all.Images())
		mux.Handle("/change/edits", all.Images())
		return mux
	}}
}

func TestSubHandlersDoNotLookAtThePath(t *testing.T) {
	t.Parallel()
	form := "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na boat\r\n--b--\r\n"
	for name, tc := range map[string]struct{ path, contentType, body, target, sent string }{
		"Chat":                      {"/talk", "", rtChat, rtUpChat, rtChat},
		"Chat on another's path":    {"/generate-image", "", rtChat, rtUpChat, rtChat},
		"Chat without a model":      {"/talk", "", `{"messages":[]}`, rtUpChat, `{"model":"` + proxy.DefaultChatModel + `","messages":[]}`},
		"Chat has no defaults":      {"/talk", "", `{"model":"gpt-4o","messages":[]}`, rtUpChat, `{"model":"gpt-4o","messages":[]}`},
		"Chat has no action switch": {"/talk", "", `{"model":"m","action":"generate-image","messages":[],"prompt":"a"}`, rtUpChat, `{"model":"m","action":"generate-image","messages":[],"prompt":"a"}`},
		"Images":                    {"/draw", "", rtImage, rtUpImages, rtImage},
		"Images on another's path":  {"/chat/completions", "", rtImage, rtUpImages, rtImage},
		"Images without a model":    {"/draw", "", `{"prompt":"a"}`, rtUpImages, `{"model":"` + proxy.DefaultImageModel + `","prompt":"a"}`},
		"Images has no defaults":    {"/draw", "", `{"model":"dall-e-3","prompt":"a"}`, rtUpImages, `{"model":"dall-e-3","prompt":"a"}`},
		"Images keeps an action":    {"/draw", "", `{"model":"m","action":"generate-image","prompt":"a"}`, rtUpImages, `{"model":"m","action":"generate-image","prompt":"a"}`},
		"Images with a form":        {"/draw", "multipart/form-data; boundary=b", form, rtUpEdits, form},
		"Images below /edits":       {"/change/edits", "application/json", rtImage, rtUpEdits, rtImage},
		"Images, form below /edits": {"/change/edits", "multipart/form-data; boundary=b", form, rtUpEdits, form},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := rtSubs().start(t)
			res, body := f.post(t, tc.path, tc.body, "Content-Type", tc.contentType)
			f.wantCalls(t, 1)
			if res.StatusCode != http.StatusOK {
				t.Fatalf("status %d: %s", res.StatusCode, body)
			}
			if got := f.up.Next(); got.Target != tc.target || string(got.Body) != tc.sent {
				t.Errorf("the upstream got %s on %s, want %s on %s", got.Body, got.Target, tc.sent, tc.target)
			}
		})
	}
}

func TestSubHandlersRefuseInOpenAIsShape(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		method, path, body, contentType string
		status                          int
		openai, worker                  string
	}{
		"Chat, method":   {"GET", "/talk", "", "", 405, `"code":"method_not_allowed"}`, `{"error":"Method Not Allowed"}`},
		"Images, method": {"PUT", "/draw", "", "", 405, `"code":"method_not_allowed"}`, `{"error":"Method Not Allowed"}`},
		"Chat, prompt":   {"POST", "/talk", rtImage, "", 400, `"param":"messages","code":"invalid_request"}`, `{"error":"Invalid messages format","message":"messages field is required and must be an array"`},
		"Images, chat":   {"POST", "/draw", rtChat, "", 400, `"param":"prompt","code":"invalid_request"}`, `{"error":"Missing required field","message":"prompt field is required for image generation"`},
		"Chat, a form":   {"POST", "/talk", "--b--", "multipart/form-data; boundary=b", 415, `"code":"unsupported_media_type"}`, `{"error":"Unsupported Media Type",`},
		"Chat, no JSON":  {"POST", "/talk", "{", "", 400, `"code":"invalid_json"}`, `{"error":"Invalid JSON","message":"Request body is not valid JSON"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := rtSubs().start(t)
			res, body := f.do(t, tc.method, tc.path, tc.body, "Content-Type", tc.contentType)
			if res.StatusCode != tc.status || !strings.HasPrefix(body, `{"error":{"message":`) || !strings.Contains(body, tc.openai) {
				t.Errorf("status %d: %s, want %d with %s", res.StatusCode, body, tc.status, tc.openai)
			}
			if allow := res.Header.Get("Allow"); (tc.status == 405) != (allow == "POST, OPTIONS") {
				t.Errorf("Allow %q", allow)
			}
			f.wantCalls(t, 0)
			f = rtSubs(proxy.WithErrorShape(proxy.ErrorShapeWorker)).start(t)
			res, body = f.do(t, tc.method, tc.path, tc.body, "Content-Type", tc.contentType)
			if res.StatusCode != tc.status || !strings.HasPrefix(body, tc.worker) {
				t.Errorf("status %d: %s, want %d with %s", res.StatusCode, body, tc.status, tc.worker)
			}
			f.wantCalls(t, 0)
		})
	}
}

func TestZeroHandlerAndMisconfiguredHandlerAnswerEveryRequest(t *testing.T) {
	t.Parallel()
	var zero proxy.Handler
	for name, h := range map[string]http.Handler{
		"zero":     &zero,
		"Chat":     zero.Chat(),
		"Images":   zero.Images(),
		"New":      proxy.New(proxy.WithKey(""), proxy.WithLogger(slog.New(slog.DiscardHandler))),
		"upstream": proxy.New(proxy.WithKey("k"), proxy.WithUpstream("ftp://x"), proxy.WithLogger(slog.New(slog.DiscardHandler))),
	} {
		srv := proxytest.Serve(t, h)
		for _, path := range []string{"/", "/v1/chat/completions", "/nowhere"} {
			res, err := srv.Client().Post(srv.URL+path, "application/json", strings.NewReader(rtChat))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != http.StatusInternalServerError || !strings.Contains(string(body), `"code":"misconfigured"`) ||
				res.Header.Get("X-Should-Retry") != "false" {
				t.Errorf("%s %s: status %d: %s, want 500 misconfigured", name, path, res.StatusCode, body)
			}
		}
	}
}
