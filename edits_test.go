package proxy_test

import (
	"bytes"
	"context"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// edPart is a part of a form: a file if it has a file name.
type edPart struct{ name, file, value string }

// edForm writes a form as a client would and returns it with its Content-Type.
func edForm(t *testing.T, boundary string, parts ...edPart) (body, contentType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.SetBoundary(boundary); err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		header := textproto.MIMEHeader{"Content-Disposition": {`form-data; name="` + p.name + `"`}}
		if p.file != "" {
			header = textproto.MIMEHeader{
				"Content-Disposition": {`form-data; name="` + p.name + `"; filename="` + p.file + `"`}, "Content-Type": {"image/png"},
			}
		}
		part, err := w.CreatePart(header)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(part, p.value)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String(), w.FormDataContentType()
}

// edBytes are bytes that any decoding on the way would change.
func edBytes() string {
	all := make([]byte, 0, 64<<10)
	for i := range cap(all) {
		all = append(all, byte(i), byte(i>>8))
	}
	return "\x89PNG\r\n\x1a\n" + string(all) + "\r\n--not the boundary\r\n"
}

// edSent posts a form and checks that the upstream got it untouched.
func edSent(t *testing.T, f *fixture, path, body, contentType string) {
	t.Helper()
	before := len(f.up.Requests())
	f.up.Queue(proxytest.JSON(http.StatusOK, `{"data":[]}`))
	res, text := f.post(t, path, body, "Content-Type", contentType)
	calls := f.up.Requests()[before:]
	if res.StatusCode != http.StatusOK || len(calls) != 1 {
		t.Fatalf("%s: status %d: %s after %d calls, want 200 after 1", contentType, res.StatusCode, text, len(calls))
	}
	got := calls[0]
	if got.Method != http.MethodPost || got.Target != rtUpEdits {
		t.Errorf("the upstream got %s %s", got.Method, got.Target)
	}
	if string(got.Body) != body || body != "" && got.ContentLength != int64(len(body)) {
		t.Errorf("the upstream got %s of announced length %d, want %s", bdShort(string(got.Body)), got.ContentLength, bdShort(body))
	}
	if !slices.Equal(got.Header["Content-Type"], []string{contentType}) {
		t.Errorf("the upstream got Content-Type %q, want %q", got.Header["Content-Type"], contentType)
	}
}

func TestFormArrivesByteForByteUnderItsOwnBoundary(t *testing.T) {
	t.Parallel()
	full, fullType := edForm(t, "----WebKitFormBoundary7MA4YWxkTrZu0gW",
		edPart{"image[]", "a.png", edBytes()}, edPart{"image[]", "b.png", "\x00\xff"}, edPart{"mask", "m.png", ""}, edPart{"markup", "k.png", "x"},
		edPart{"prompt", "", "a boat, é \"quoted\" <&>"}, edPart{"model", "", "gpt-image-2"}, edPart{"n", "", "1"}, edPart{"size", "", "auto"},
		edPart{"quality", "", "high"}, edPart{"background", "", "transparent"}, edPart{"input_fidelity", "", "high"}, edPart{"output_format", "", "webp"},
		edPart{"output_compression", "", "0"}, edPart{"partial_images", "", "0"}, edPart{"stream", "", "false"}, edPart{"user", "", ""},
		edPart{"moderation", "", "low"}, edPart{"safety_identifier", "", "s"}, edPart{"x_vendor", "", "9007199254740993"})
	small, smallType := edForm(t, "b", edPart{"prompt", "", "p"})
	for name, tc := range map[string]struct{ body, contentType string }{
		"every property":             {full, fullType},
		"without a model":            {small, smallType},
		"quoted boundary":            {strings.ReplaceAll(small, "--b", "--a b"), `multipart/form-data; boundary="a b"`},
		"other case, more params":    {small, `Multipart/Form-Data;charset=utf-8;boundary=b`},
		"odd white space":            {small, `multipart/form-data ;  boundary=b ; x=y`},
		"preamble and epilogue":      {"preamble\r\n" + small + "epilogue", smallType},
		"guarded keys twice":         {strings.Repeat(strings.TrimSuffix(small, "--b--\r\n"), 2) + "--b--\r\n", smallType},
		"without its last boundary":  {strings.TrimSuffix(small, "--b--\r\n"), smallType},
		"another boundary in effect": {strings.ReplaceAll(small, "--b", "--c"), smallType},
		"no form at all":             {"not a form", smallType},
		"empty":                      {"", smallType},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			edSent(t, start(t), "/v1/images/edits", tc.body, tc.contentType)
			edSent(t, rtSubs().start(t), "/draw", tc.body, tc.contentType)
			edSent(t, rtSubs().start(t), "/change/edits", tc.body, tc.contentType)
		})
	}
}

func TestFormsArriveByteForByteOverHTTP2AndChunked(t *testing.T) {
	t.Parallel()
	body, contentType := edForm(t, "b", edPart{"image", "a.png", edBytes()}, edPart{"prompt", "", "p"})
	f := setup{client: []proxytest.ServerOption{proxytest.HTTP2()}, upstream: []proxytest.ServerOption{proxytest.HTTP2()}}.start(t)
	edSent(t, f, "/v1/images/edits", body, contentType)
	f = start(t)
	if res, text := bdChunked(t, f, "/v1/images/edits", body, contentType); res.StatusCode != http.StatusOK {
		t.Errorf("status %d: %s", res.StatusCode, text)
	}
	if got := f.up.Next(); string(got.Body) != body || got.ContentLength != int64(len(body)) {
		t.Errorf("the upstream got %d bytes, announced %d, want %d", len(got.Body), got.ContentLength, len(body))
	}
}

func TestFormNeedsABoundary(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, contentType := range []string{
		"multipart/form-data", "multipart/form-data;", "multipart/form-data; boundary=", `multipart/form-data; boundary=""`, "multipart/form-data; x=y",
		"multipart/form-data; boundary", "multipart/form-data; boundary=a; boundary=b",
	} {
		bdRefused(t, f, "/v1/images/edits", "--b--\r\n", 400, "invalid_request", "", "Content-Type", contentType)
	}
}

func TestJSONEditsGetNothingButAModel(t *testing.T) {
	t.Parallel()
	f := start(t)
	full := `{"images":[{"file_id":"file-1"},{"image_url":"https://images.example/a.png"}],"mask":{"file_id":"file-2"},"markup":null,` +
		`"prompt":"p","model":"dall-e-2","action":"generate-image","n":0,"input_fidelity":"low","stream":false,"x":1.10}`
	bdForwarded(t, f, "/v1/images/edits", full)
	bdForwarded(t, f, "/v1/images/edits", full, "Content-Type", "text/plain")
	bdSent(t, f, "/v1/images/edits", `{"prompt":"p"}`, `{"model":"`+proxy.DefaultImageModel+`","prompt":"p"}`)
	for _, got := range f.up.Requests() {
		if got.Target != rtUpEdits {
			t.Errorf("the upstream got a call on %s, want %s", got.Target, rtUpEdits)
		}
	}
	bdRefused(t, f, "/v1/images/edits", `{"model":"m"}`, 400, "invalid_request", "prompt")
	bdRefused(t, f, "/v1/images/edits", `{"prompt":"a","prompt":"b"}`, 400, "duplicate_key", "prompt")
}

// edCalls keeps what Admit was shown.
type edCalls struct {
	mu    sync.Mutex
	calls []proxy.Call
}

func (c *edCalls) hooks() proxy.Option {
	return proxy.WithHooks(proxy.Hooks{Admit: func(_ context.Context, call proxy.Call) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.calls = append(c.calls, call)
		return nil
	}})
}

// take returns the only call since the last time.
func (c *edCalls) take(t *testing.T) proxy.Call {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.calls) != 1 {
		t.Fatalf("Admit saw %d calls, want 1", len(c.calls))
	}
	call := c.calls[0]
	c.calls = nil
	return call
}

func TestHooksSeeModelAndStreamOfAForm(t *testing.T) {
	t.Parallel()
	file := edPart{"image", "model", "gpt-1"} // a file called model is not the model
	for name, tc := range map[string]struct {
		parts  []edPart
		model  string
		stream bool
	}{
		"none":              {[]edPart{{"prompt", "", "p"}}, "", false},
		"model":             {[]edPart{{"model", "", "gpt-image-2"}, file}, "gpt-image-2", false},
		"model and stream":  {[]edPart{file, {"stream", "", "true"}, {"prompt", "", "p"}, {"model", "", "m"}}, "m", true},
		"stream false":      {[]edPart{{"stream", "", "false"}, {"model", "", "m"}}, "m", false},
		"stream True":       {[]edPart{{"stream", "", "True"}, {"model", "", "m"}}, "m", false},
		"stream 1":          {[]edPart{{"stream", "", "1"}, {"model", "", "m"}}, "m", false},
		"behind large file": {[]edPart{{"image", "a.png", edBytes()}, {"model", "", "m"}, {"stream", "", "true"}}, "m", true},
		"long prompt":       {[]edPart{{"prompt", "", strings.Repeat("p", 32000)}, {"model", "", "m"}}, "m", false},
		"two images":        {[]edPart{{"image", "a", "1"}, {"image", "b", "2"}, {"image[]", "c", "3"}, {"image[]", "d", "4"}, {"model", "", "m"}}, "m", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body, contentType := edForm(t, "xYz0123456789", tc.parts...)
			var seen edCalls
			edSent(t, start(t, seen.hooks()), "/v1/images/edits", body, contentType)
			got := seen.take(t)
			if got.Route != proxy.RouteImageEdits || got.Model != tc.model || got.Stream != tc.stream {
				t.Errorf("Admit saw %v, want route image_edits, model %q, stream %t", got, tc.model, tc.stream)
			}
		})
	}
}

func TestHooksSeeJSONEditsAsEdits(t *testing.T) {
	t.Parallel()
	var seen edCalls
	f := start(t, seen.hooks())
	bdForwarded(t, f, "/v1/images/edits", `{"prompt":"p","stream":true,"m\u006fdel":"gpt-image\u002d2"}`)
	if got := seen.take(t); got.Route != proxy.RouteImageEdits || got.Model != "gpt-image-2" || !got.Stream {
		t.Errorf("Admit saw %v", got)
	}
	bdSent(t, f, "/v1/images/edits", `{"prompt":"p"}`, `{"model":"`+proxy.DefaultImageModel+`","prompt":"p"}`)
	if got := seen.take(t); got.Route != proxy.RouteImageEdits || got.Model != proxy.DefaultImageModel || got.Stream {
		t.Errorf("Admit saw %v", got)
	}
}

func TestGuardedKeyTwiceInAFormIsRefusedWhereAHookIsSet(t *testing.T) {
	t.Parallel()
	var seen edCalls
	f := start(t, seen.hooks())
	for _, key := range bdGuarded() {
		for _, parts := range [][]edPart{
			{{key, "", "a"}, {key, "", "a"}},
			{{key, "", "a"}, {"image", "a.png", edBytes()}, {key, "", "b"}},
			{{key, "", ""}, {key, "a.txt", "b"}},
			{{key, "", strings.Repeat("x", 1000)}, {key, "", "b"}},
		} {
			body, contentType := edForm(t, "b0123456789", append(parts, edPart{"x", "", "1"}, edPart{"x", "", "2"})...)
			bdRefused(t, f, "/v1/images/edits", body, 400, "duplicate_key", key, "Content-Type", contentType)
		}
	}
	const first = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\na\r\n"
	for _, disposition := range []string{
		"Content-Disposition: form-data; name=model", "content-disposition: FORM-DATA; x=y; NAME=\"model\"",
		"Content-Type: text/plain\r\nContent-Disposition:form-data;name=\"model\";filename=\"\"",
	} {
		form := first + "--b\r\n" + disposition + "\r\n\r\nb\r\n--b--\r\n"
		bdRefused(t, f, "/v1/images/edits", form, 400, "duplicate_key", "model", "Content-Type", "multipart/form-data; boundary=b")
	}
	if len(seen.calls) != 0 {
		t.Errorf("Admit saw %v", seen.calls)
	}
}

func TestFormThatCannotBeReadIsRefusedWhereAHookIsSet(t *testing.T) {
	t.Parallel()
	var seen edCalls
	f := start(t, seen.hooks())
	good, contentType := edForm(t, "b", edPart{"model", "", "m"}, edPart{"prompt", "", "p"})
	for name, body := range map[string]string{
		"empty":              "",
		"no form":            "not a form",
		"another boundary":   strings.ReplaceAll(good, "--b", "--c"),
		"no last boundary":   strings.TrimSuffix(good, "--b--\r\n"),
		"ends within a part": good[:len(good)-12],
		"a false end":        "not a form --b-- at all",
		"no end but a false": "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na --b-- c\r\n--b\r\nContent-Disposition: form-data; name=\"model\"\r\n",
		"bad part header":    "--b\r\nContent-Disposition\r\n\r\na\r\n--b--\r\n",
		// Others may read a model here; a policy that sees none must not let it pass.
		"a name twice":       "--b\r\nContent-Disposition: form-data; name=\"x\"; name=\"model\"\r\n\r\nm\r\n--b--\r\n",
		"two dispositions":   "--b\r\nContent-Disposition: form-data; name=\"x\"\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n",
		"an unreadable name": "--b\r\nContent-Disposition: form-data; name=\"model\"; \"\r\n\r\nm\r\n--b--\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			bdRefused(t, f, "/v1/images/edits", body, 400, "invalid_request", "", "Content-Type", contentType)
		})
	}
	if len(seen.calls) != 0 {
		t.Errorf("Admit saw %v", seen.calls)
	}
}
