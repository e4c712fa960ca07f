package proxy_test

import (
	"context"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// Where a hook judges requests, a body that another reader could take for
// another request does not pass.

// judges are the hooks that judge a JSON body, each on its own.
func judges(t *testing.T) map[string]proxy.Option {
	t.Helper()
	return map[string]proxy.Option{
		"Admit": proxy.WithHooks(proxy.Hooks{Admit: func(_ context.Context, call proxy.Call) error {
			t.Errorf("Admit was asked about %v", call)
			return nil
		}}),
		"Rewrite": proxy.WithHooks(proxy.Hooks{Rewrite: func(_ context.Context, call proxy.Call, body []byte) ([]byte, error) {
			t.Errorf("Rewrite was given %v", call)
			return body, nil
		}}),
	}
}

// bystanders are handlers whose hooks judge nothing.
func bystanders() map[string]proxy.Option {
	return map[string]proxy.Option{
		"no hook": nil,
		"Done":    proxy.WithHooks(proxy.Hooks{Done: func(context.Context, proxy.Call, proxy.Outcome) {}}),
	}
}

// ambiguousMembers are members that make a body ambiguous, by the key at fault.
var ambiguousMembers = []struct{ name, members, param string }{
	{"MODEL", `"MODEL":"dear"`, "MODEL"},
	{"Model by escapes", `"\u004dodel":"dear"`, "Model"},
	{"Stream", `"Stream":true`, "Stream"},
	{"N", `"N":100`, "N"},
	{"max_token and a long s", `"max_token` + "\u017f" + `":1`, "max_token\u017f"},
	{"long s by escapes", `"max_completion_token\u017f":1`, "max_completion_token\u017f"},
	{"long s in stream", `"` + "\u017f" + `tream":true`, "\u017ftream"},
	{"any key twice", `"x":1,"x":2`, "x"},
	{"any key twice by escapes", `"temperature":1,"temperatur\u0065":2`, "temperature"},
	{"the empty key twice", `"":1,"y":2,"":1`, ""},
}

func TestAmbiguousJSONIsRefusedWhereAHookJudges(t *testing.T) {
	t.Parallel()
	for hook, option := range judges(t) {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			f := start(t, option)
			for _, tt := range ambiguousMembers {
				for _, path := range []string{streamPath, "/", "/generate-image", "/v1/images/generations", "/v1/images/edits"} {
					for _, body := range []string{
						`{"model":"cheap","messages":[],"prompt":"p",` + tt.members + `}`,
						`{` + tt.members + `,"prompt":"p","messages":[],"model":"cheap"}`,
					} {
						if tt.param == "" {
							continue // a key that is empty has a test of its own
						}
						bdRefused(t, f, path, body, 400, "duplicate_key", tt.param)
					}
				}
			}
		})
	}
}

func TestTheEmptyKeyTwiceIsRefusedWhereAHookJudges(t *testing.T) {
	t.Parallel()
	for hook, option := range judges(t) {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			bdRefused(t, start(t, option), streamPath, `{"model":"m","messages":[],"":1,"":2}`, 400, "duplicate_key", "")
		})
	}
}

func TestAmbiguousJSONPassesUntouchedWhereNoHookJudges(t *testing.T) {
	t.Parallel()
	for hook, option := range bystanders() {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			f := start(t, option)
			for _, tt := range ambiguousMembers {
				for _, path := range []string{streamPath, "/v1/images/generations", "/v1/images/edits"} {
					bdForwarded(t, f, path, `{"model":"cheap","messages":[],"prompt":"p",`+tt.members+`}`)
				}
			}
		})
	}
}

func TestAmbiguousResultOfRewriteIsNotSent(t *testing.T) {
	t.Parallel()
	for _, tt := range ambiguousMembers {
		f := start(t, proxy.WithHooks(proxy.Hooks{Rewrite: func(context.Context, proxy.Call, []byte) ([]byte, error) {
			return []byte(`{"model":"cheap","messages":[],` + tt.members + `}`), nil
		}}))
		bdRefused(t, f, streamPath, plainRequest, 500, "internal_error", "")
	}
}

func TestAmbiguousExtraOfGraphQL(t *testing.T) {
	t.Parallel()
	const query = `mutation A($input: ChatInput!) { getAIResponse(input: $input) { content } }`
	input := func(key string) gqlMap { return gqlChat("model", "cheap", "extra", gqlMap{key: 1, "vendor": true}) }
	const longS = "max_token\u017f"
	for hook, option := range judges(t) {
		f := start(t, option)
		for _, key := range []string{"MODEL", "Max_Tokens", "Stream_Options", longS, "\u017ftream"} {
			if a := gqlAsk(t, f, query, input(key)); len(a.Errors) != 1 {
				t.Errorf("%s, %q: %s", hook, key, a.text)
			}
		}
		f.wantCalls(t, 0)
	}
	for hook, option := range bystanders() {
		f := start(t, option)
		f.up.Queue(proxytest.Chat("x"))
		gqlAsk(t, f, query, input(longS)).ok(t, "getAIResponse")
		if body := gqlSent(t, f); body[longS] == nil || body["vendor"] != true || body["model"] != "cheap" {
			t.Errorf("%s: the upstream got %v", hook, body)
		}
	}
}

// formPart renders a part with these header lines.
func formPart(header, value string) string { return "--b\r\n" + header + "\r\n\r\n" + value + "\r\n" }

const (
	formType  = "multipart/form-data; boundary=b"
	formModel = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ncheap\r\n"
	formEnd   = "--b--\r\n"
	formField = "Content-Disposition: form-data; "
)

// anyHook are the hooks that are shown what is in a form.
func anyHook(t *testing.T) map[string]proxy.Option {
	t.Helper()
	all := judges(t)
	all["Done"] = bystanders()["Done"]
	return all
}

func TestAmbiguousFormIsRefusedWhereAHookIsSet(t *testing.T) {
	t.Parallel()
	a := strings.ReplaceAll(formModel+formEnd, "--b", "--a")
	forms := map[string]struct{ contentType, body, code, param string }{
		"boundary*":       {"multipart/form-data; boundary=a; boundary*=utf-8''b", a + formModel + formEnd, "invalid_request", ""},
		"boundary* first": {"multipart/form-data; boundary*=utf-8''b; boundary=a", formModel + formEnd + a, "invalid_request", ""},
		"boundary* alone": {"multipart/form-data; boundary*=utf-8''b", formModel + formEnd, "invalid_request", ""},
		"boundary*0":      {"multipart/form-data; boundary*0=b", formModel + formEnd, "invalid_request", ""},
		"MODEL":           {formType, formModel + formPart(formField+`name="MODEL"`, "dear") + formEnd, "duplicate_key", "model"},
		"Model alone":     {formType, formPart(formField+`name="Model"`, "dear") + formEnd, "duplicate_key", "model"},
		"long": {
			formType, formPart(formField+`name="model"`, "cheap"+strings.Repeat(" ", 1019)+"dear") + formEnd,
			"invalid_request", "",
		},
		"long stream": {
			formType, formModel + formPart(formField+`name="stream"`, strings.Repeat(" ", 1021)+"true") + formEnd,
			"invalid_request", "",
		},
	}
	for _, name := range []string{
		`name="model"; name*=utf-8''note`, `name=note; name*=utf-8''model`, `name*=utf-8''model`, `name="note"; NAME*=utf-8''model`,
		`name*0="mo"; name*1="del"`, `name=" model"`, `name="model "`, `name="mo\del"`, `name="mo%64el"`, `name="mod` + "\u00e9" + `l"`,
		`name="` + "\u017f" + `tream"`, `name="model` + "\x00" + `"`, `name=""`, `filename="a"`, `name="` + strings.Repeat("x", 65) + `"`,
	} {
		forms[name] = struct{ contentType, body, code, param string }{
			formType, formPart(formField+name, "dear") + formPart(formField+`name="prompt"`, "p") + formEnd, "invalid_request", "",
		}
	}
	for _, coding := range []string{"quoted-printable", "base64", "Base64", "x-unknown", "7bit\r\nContent-Transfer-Encoding: base64"} {
		for _, key := range []string{"model", "stream"} {
			forms[key+" as "+coding] = struct{ contentType, body, code, param string }{
				formType, formPart(formField+`name="`+key+`"`+"\r\nContent-Transfer-Encoding: "+coding, "ZGVhcg==") + formEnd, "invalid_request", "",
			}
		}
	}
	for hook, option := range anyHook(t) {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			f := start(t, option)
			for name, form := range forms {
				t.Run(name, func(t *testing.T) {
					bdRefused(t, f, "/v1/images/edits", form.body, 400, form.code, form.param, "Content-Type", form.contentType)
				})
			}
		})
	}
	t.Run("no hook", func(t *testing.T) {
		t.Parallel()
		f := start(t)
		for _, form := range forms {
			edSent(t, f, "/v1/images/edits", form.body, form.contentType)
		}
	})
}

func TestPlainFormsStillPassTheHooks(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("m", 1024)
	for name, tt := range map[string]struct{ part, model string }{
		"the longest model":  {formPart(formField+`name="model"`, long), long},
		"7BIT":               {formPart(formField+`name="model"`+"\r\nContent-Transfer-Encoding: 7BIT", "m"), "m"},
		"binary":             {formPart("Content-Transfer-Encoding: binary\r\n"+formField+`name="model"`, "m"), "m"},
		"filename*":          {formPart(formField+`name="image[]"; filename="a"; filename*=utf-8''%C3%A9.png`, "x") + formModel, "cheap"},
		"an encoded picture": {formPart(formField+`name="image"; filename="a"`+"\r\nContent-Transfer-Encoding: base64", "eA==") + formModel, "cheap"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen edCalls
			edSent(t, start(t, seen.hooks()), "/v1/images/edits", tt.part+formEnd, formType)
			if got := seen.take(t); got.Model != tt.model {
				t.Errorf("Admit saw the model %q, want %q", got.Model, tt.model)
			}
		})
	}
}
