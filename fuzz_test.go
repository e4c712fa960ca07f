package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/openai-proxy-go/proxy"
)

// fzCall is one request as the stub upstream got it.
type fzCall struct {
	target, method, contentType string
	body                        []byte
}

type fzKey struct{}

// fzUpstream answers in process. The calls of a request are kept in its
// context, so that one handler serves all.
type fzUpstream struct{}

func (fzUpstream) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	calls := req.Context().Value(fzKey{}).(*[]fzCall)
	*calls = append(*calls, fzCall{req.URL.String(), req.Method, req.Header.Get("Content-Type"), body})
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(`{"ok":true}`)), Request: req,
	}, nil
}

const fzRoot = "https://upstream.example/v1"

func fzHandler(f *testing.F) http.Handler {
	f.Helper()
	h, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithUpstream(fzRoot), proxy.WithTransport(fzUpstream{}),
		proxy.WithLogger(slog.New(slog.DiscardHandler)), proxy.WithDefaultModels("gpt-4.1-mini", "dall-e-2"))
	if err != nil {
		f.Fatal(err)
	}
	return h
}

// fzServe sends a request through the handler and returns what became of it.
func fzServe(t *testing.T, h http.Handler, method, path, contentType string, body []byte) (*httptest.ResponseRecorder, []fzCall) {
	t.Helper()
	var calls []fzCall
	ctx := context.WithValue(t.Context(), fzKey{}, &calls)
	req := (&http.Request{
		Method: method, URL: &url.URL{Path: path}, Host: "proxy.example", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}).WithContext(ctx)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	if w.Code >= 500 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	if (w.Code == http.StatusOK) != (len(calls) == 1) || len(calls) > 1 {
		t.Fatalf("status %d after %d calls: %s", w.Code, len(calls), w.Body)
	}
	if w.Code >= 400 && method != http.MethodHead && !json.Valid(w.Body.Bytes()) {
		t.Fatalf("status %d: %q is no JSON", w.Code, w.Body)
	}
	if strings.Contains(w.Body.String(), canary) {
		t.Fatalf("the key is in %s", w.Body)
	}
	return w, calls
}

// fzMember is a top-level member as encoding/json reads it.
type fzMember struct{ key, value string }

// fzParse is the reader that the handler's own is held against.
func fzParse(raw []byte) (members []fzMember, ok bool) {
	trimmed := bytes.TrimLeft(raw, " \t\r\n")
	if !json.Valid(raw) || !utf8.Valid(raw) || len(trimmed) == 0 || trimmed[0] != '{' || fzDepth(raw) > 1000 {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	_, _ = dec.Token()
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, false
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, false
		}
		members = append(members, fzMember{key.(string), string(value)})
	}
	return members, true
}

func fzDepth(raw []byte) (deepest int) {
	level, inString := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

// fzText is a value as text, if it is a JSON string.
func fzText(value string) string {
	var s string
	if !strings.HasPrefix(value, `"`) || json.Unmarshal([]byte(value), &s) != nil {
		return ""
	}
	return s
}

// fzExpected says what a request on a route that takes JSON should come to: a
// refusal with a code, or a call with a body.
type fzExpected struct {
	code, target string
	body         []byte
	members      []fzMember // in place of body where a member was dropped
}

func fzExpect(path string, raw []byte) fzExpected {
	members, ok := fzParse(raw)
	if !ok {
		return fzExpected{code: "invalid_json"}
	}
	first := map[string]string{}
	for _, m := range members {
		_, twice := first[m.key]
		if twice && slices.Contains(bdGuarded(), m.key) {
			return fzExpected{code: "duplicate_key"}
		}
		if !twice {
			first[m.key] = m.value
		}
	}
	worker := !strings.HasPrefix(path, "/v1/") && path != "/chat/completions"
	byAction := (path == "/" || path == "") && fzText(first["action"]) == "generate-image"
	images := strings.Contains(path, "image")
	target := fzRoot + "/chat/completions"
	if path == "/" || path == "" {
		noMessages := first["messages"] == "" || first["messages"] == "null"
		images = byAction || noMessages && first["prompt"] != "" && first["prompt"] != "null" && first["prompt"] != `""`
	}
	switch {
	case images && fzText(first["prompt"]) == "":
		return fzExpected{code: "invalid_request"}
	case images && strings.HasSuffix(path, "/edits"):
		target = fzRoot + "/images/edits"
	case images:
		target = fzRoot + "/images/generations"
	case !strings.HasPrefix(first["messages"], "["):
		return fzExpected{code: "invalid_request"}
	}
	added := fzAdded(first, images, worker)
	if byAction {
		var kept []fzMember
		for _, m := range append(added, members...) {
			if m.key != "action" {
				kept = append(kept, m)
			}
		}
		return fzExpected{target: target, members: kept}
	}
	return fzExpected{target: target, body: fzSplice(raw, added, len(members) > 0)}
}

var (
	fzChatModels = regexp.MustCompile(`^(gpt-3\.5-turbo[^/]*|gpt-4-turbo[^/]*|(gpt-4|gpt-4o|gpt-4o-mini|gpt-4\.1|gpt-4\.1-mini)(-\d{4}|-\d{4}-\d{2}-\d{2})?(-preview)?)$`)
	fzOtherKinds = regexp.MustCompile(`search|audio|realtime`)
)

// fzAdded is the table of defaults once more.
func fzAdded(first map[string]string, images, worker bool) (added []fzMember) {
	model := "gpt-4.1-mini"
	if images {
		model = "dall-e-2"
	}
	if value, ok := first["model"]; ok {
		model = fzText(value)
	} else {
		added = append(added, fzMember{"model", `"` + model + `"`})
	}
	var fields []fzMember
	switch {
	case !worker:
	case images && model == "dall-e-3":
		fields = []fzMember{{"n", "1"}, {"size", `"1024x1024"`}, {"quality", `"standard"`}, {"style", `"vivid"`}, {"response_format", `"url"`}}
	case images && model == "dall-e-2":
		fields = []fzMember{{"n", "1"}, {"size", `"1024x1024"`}, {"response_format", `"url"`}}
	case !images && fzChatModels.MatchString(model) && !fzOtherKinds.MatchString(model):
		fields = []fzMember{{"temperature", "0.7"}}
		if _, ok := first["max_completion_tokens"]; !ok {
			fields = append(fields, fzMember{"max_tokens", "1000"})
		}
	}
	for _, m := range fields {
		if _, ok := first[m.key]; !ok {
			added = append(added, m)
		}
	}
	return added
}

// fzSplice puts members behind the opening brace and leaves the rest alone.
func fzSplice(raw []byte, added []fzMember, more bool) []byte {
	open := bytes.IndexByte(raw, '{') + 1
	out := bytes.Clone(raw[:open])
	for i, m := range added {
		out = append(out, `"`+m.key+`":`+m.value...)
		if i < len(added)-1 || more {
			out = append(out, ',')
		}
	}
	return append(out, raw[open:]...)
}

// fzCheck compares what became of a JSON body with what should have.
func fzCheck(t *testing.T, path string, raw []byte, w *httptest.ResponseRecorder, calls []fzCall) {
	t.Helper()
	want := fzExpect(path, raw)
	if want.code != "" {
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `"code":"`+want.code+`"`) {
			t.Fatalf("%s %q: status %d: %s, want 400 %s", path, raw, w.Code, w.Body, want.code)
		}
		return
	}
	if w.Code != http.StatusOK {
		t.Fatalf("%s %q: status %d: %s, want 200", path, raw, w.Code, w.Body)
	}
	got := calls[0]
	if got.target != want.target || got.method != http.MethodPost || got.contentType != "application/json" {
		t.Fatalf("%s %q: the call was %s %s as %s, want %s", path, raw, got.method, got.target, got.contentType, want.target)
	}
	if want.members != nil {
		members, ok := fzParse(got.body)
		if !ok || !slices.Equal(members, want.members) {
			t.Fatalf("%s %q: the upstream got %q, want the members %q", path, raw, got.body, want.members)
		}
		return
	}
	if !bytes.Equal(got.body, want.body) {
		t.Fatalf("%s %q: the upstream got %q, want %q", path, raw, got.body, want.body)
	}
}

// fzSeeds adds the tables of the other tests.
func fzSeeds(f *testing.F, add func(string)) {
	f.Helper()
	for _, seed := range []string{
		rtChat, rtImage, bdChat, bdImage, "", "{}", " { } ", `{"messages":[]}`, `{"prompt":"p"}`, `{"action":"generate-image","prompt":"p"}`,
		`{"x":1 , "action":"generate-image" , "prompt":"p"}`, `{"\u0061ction":"generate\u002dimage","prompt":"p","messages":[]}`,
		`{"messages":[],"mod\u0065l":"gpt-4o","model":"o3"}`, `{"Model":"a","MODEL":"b","messages":[]}`, `{"model":"gpt-4o-2024-08-06","max_completion_tokens":null,"messages":[]}`,
		`{"model":null,"messages":[]}`, `{"model":"gpt-4o","temperature":0,"messages":[]}`, `{"prompt":"p","messages":null}`, `{"prompt":"","messages":null}`,
		`{"model":"dall-e-3","n":null,"prompt":"p"}`, `{"messages":[]} x`, "\ufeff{}", "{\"messages\":[],\"a\":\"\xff\"}", `{"messages":[],"\ud800":1}`,
		`{"prompt":"\u0000"}`, `{"prompt":"\ud800"}`, `{"":"","messages":[]}`, `{"action":"generate-image","prompt":"p","action":1}`,
	} {
		add(seed)
	}
	for _, model := range dfChatRow().models {
		add(`{"model":` + strconv.Quote(model) + `,"messages":[]}`)
	}
	table, err := os.ReadFile("internal/jsonobj/testdata/documents.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if text, err := strconv.Unquote(fields[2]); err == nil && len(text) < 100 {
			add(`{"messages":[],"v":` + text + `}`)
		}
	}
}

// FuzzChatBody sends bodies through the whole handler: no body alone makes a
// 5xx, and what is forwarded is what the client wrote, with the defaults in
// front.
func FuzzChatBody(f *testing.F) {
	fzSeeds(f, func(seed string) { f.Add([]byte(seed)) })
	h := fzHandler(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, path := range []string{"/", "/v1/chat/completions", "/generate-image", "/v1/images/edits"} {
			w, calls := fzServe(t, h, http.MethodPost, path, "application/json", raw)
			fzCheck(t, path, raw, w, calls)
		}
	})
}

// fzPaths are all routes.
func fzPaths() []string {
	return []string{"", "/", "/images/generations", "/generate-image", "/v1/chat/completions", "/chat/completions", "/v1/images/generations", "/v1/images/edits"}
}

// FuzzRoute sends methods, paths and types of all kinds: a call goes to one of
// three places or is not made.
func FuzzRoute(f *testing.F) {
	for _, method := range []string{"POST", "GET", "HEAD", "OPTIONS", "CONNECT", "post", ""} {
		for _, path := range append(fzPaths(), "/v1/models", "/v1/chat/completions/", "//v1/chat/completions", "v1/chat/completions", "/v1/../v1/chat/completions") {
			f.Add(method, path, "application/json", []byte(rtChat))
			f.Add(method, path, "multipart/form-data; boundary=b", []byte("--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\np\r\n--b--\r\n"))
			f.Add(method, path, "Multipart/Form-Data", []byte(rtImage))
			f.Add(method, path, "", []byte(rtImage))
		}
	}
	h := fzHandler(f)
	f.Fuzz(func(t *testing.T, method, path, contentType string, raw []byte) {
		w, calls := fzServe(t, h, method, path, contentType, raw)
		kind, _, _ := strings.Cut(contentType, ";")
		form := strings.ToLower(strings.TrimSpace(kind)) == "multipart/form-data"
		switch {
		case path == "/graphql" || path == "/graphql/schema":
		case !slices.Contains(fzPaths(), path):
			fzStatus(t, w, http.StatusNotFound, "")
		case method == http.MethodOptions:
			fzStatus(t, w, http.StatusNoContent, "POST, OPTIONS")
		case method != http.MethodPost:
			fzStatus(t, w, http.StatusMethodNotAllowed, "POST, OPTIONS")
		case form && path == "/v1/images/edits":
			if w.Code == http.StatusOK && (!bytes.Equal(calls[0].body, raw) || calls[0].contentType != contentType || calls[0].target != fzRoot+"/images/edits") {
				t.Fatalf("a form %q as %q came to %s as %q: %q", raw, contentType, calls[0].target, calls[0].contentType, calls[0].body)
			}
			if w.Code != http.StatusOK {
				fzStatus(t, w, http.StatusBadRequest, "")
			}
		case form:
			fzStatus(t, w, http.StatusUnsupportedMediaType, "")
		default:
			fzCheck(t, path, raw, w, calls)
		}
	})
}

func fzStatus(t *testing.T, w *httptest.ResponseRecorder, status int, allow string) {
	t.Helper()
	if w.Code != status || w.Header().Get("Allow") != allow {
		t.Fatalf("status %d, Allow %q: %s, want %d, %q", w.Code, w.Header().Get("Allow"), w.Body, status, allow)
	}
}
