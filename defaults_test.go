package proxy_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
)

// dfRow is a row of the table of defaults, as written-out ids: what gets its
// fields, and in front of which.
type dfRow struct {
	fields string // as they are spliced in
	models []string
}

const (
	dfChat   = `"temperature":0.7,"max_tokens":1000,`
	dfDalle3 = `"n":1,"size":"1024x1024","quality":"standard","style":"vivid","response_format":"url",`
	dfDalle2 = `"n":1,"size":"1024x1024","response_format":"url",`
)

func dfChatRow() dfRow {
	return dfRow{dfChat, strings.Fields(`
		gpt-3.5-turbo gpt-3.5-turbo-0301 gpt-3.5-turbo-0613 gpt-3.5-turbo-1106 gpt-3.5-turbo-0125 gpt-3.5-turbo-16k gpt-3.5-turbo-16k-0613
		gpt-3.5-turbo-instruct gpt-3.5-turbo-2024-01-25 gpt-3.5-turbo-preview
		gpt-4 gpt-4-0314 gpt-4-0613 gpt-4-1106-preview gpt-4-0125-preview gpt-4-preview gpt-4-2023-06-13
		gpt-4-turbo gpt-4-turbo-preview gpt-4-turbo-2024-04-09 gpt-4-turbo-0409
		gpt-4o gpt-4o-2024-05-13 gpt-4o-2024-08-06 gpt-4o-2024-11-20 gpt-4o-preview
		gpt-4o-mini gpt-4o-mini-2024-07-18 gpt-4o-mini-preview
		gpt-4.1 gpt-4.1-2025-04-14 gpt-4.1-preview
		gpt-4.1-mini gpt-4.1-mini-2025-04-14 gpt-4.1-mini-preview`)}
}

// dfNoChatRow are chat models that get nothing.
func dfNoChatRow() []string {
	return append(strings.Fields(`
		o1 o1-mini o1-preview o1-pro o1-2024-12-17 o3 o3-mini o3-pro o3-2025-04-16 o4-mini o4-mini-2025-04-16 o9
		gpt-5 gpt-5-mini gpt-5-nano gpt-5-pro gpt-5-2025-08-07 gpt-5-chat-latest gpt-5.1 gpt-5.1-chat-latest gpt-5.2 gpt-5.2-pro gpt-5.4 gpt-5.4-mini
		gpt-5.4-nano gpt-5.5 gpt-5.6-sol gpt-5.6-luna gpt-5.6-terra gpt-6-luna gpt-6-sol gpt-6-astra gpt-6.1-sol gpt-6.1-terra gpt-7 gpt-10
		gpt-4o-search-preview gpt-4o-search-preview-2025-03-11 gpt-4o-mini-search-preview gpt-4o-mini-search-preview-2025-03-11
		gpt-4o-audio-preview gpt-4o-audio-preview-2024-10-01 gpt-4o-mini-audio-preview gpt-4o-mini-audio-preview-2024-12-17
		gpt-4o-realtime-preview gpt-4o-realtime-preview-2024-10-01 gpt-4o-mini-realtime-preview gpt-3.5-turbo-search gpt-4-turbo-realtime
		gpt-4o-transcribe gpt-4o-mini-transcribe gpt-4o-mini-tts gpt-4o-long-output gpt-4o-64k-output-alpha chatgpt-4o-latest
		gpt-4.1-nano gpt-4.1-nano-2025-04-14 gpt-4.5-preview gpt-4.2 gpt-4.10 gpt-41 gpt-40 gpt-4-32k gpt-4-32k-0613 gpt-4-vision-preview gpt-4-1106-vision-preview
		gpt-4-turb gpt-4turbo gpt-4o- gpt-4o-2 gpt-4o-20240806 gpt-4o-2024-08 gpt-4o-2024-08-06x gpt-4o-24-08-06 gpt-4o-abcd gpt-4o-latest gpt-4o-mini-high
		gpt-4-0613x gpt-4-061 gpt-4-06133 gpt-4x gpt-4o4 gpt-4omini gpt-4.1mini gpt-4.1-mini2 gpt-4_1 gpt-4-previews
		gpt-3.5 gpt-3 gpt-3.5-turb gpt-35-turbo gpt-3.5turbo gpt-3x5-turbo xgpt-4o my-gpt-4o gpt-4o/x openai/gpt-4o azure/gpt-3.5-turbo vendor/gpt-4 gpt-3.5-turbo/x
		ft:gpt-4o:acme::abc ft:gpt-3.5-turbo:acme ft:gpt-4o-mini-2024-07-18:acme:x:y ft:gpt-4 gpt-4o:free gpt-4:latest
		GPT-4o Gpt-4 gpt-4O GPT-3.5-TURBO llama3 llama3:8b mistral-large-latest claude-3-5-sonnet gemini-2.5-pro deepseek-chat davinci-002
		dall-e-3 dall-e-2 gpt-image-1 gpt-image-2 default * gpt-* gpt-4* [a-z] ? \`),
		"", " gpt-4o", "gpt-4o ", "gpt-4o\n", "gpt-4o\x00", "gpt-4\u200bo", "gpt-４o", "[", "gpt-4[", "\ufffd")
}

func dfImageRows() []dfRow {
	return []dfRow{
		{dfDalle3, []string{"dall-e-3"}},
		{dfDalle2, []string{"dall-e-2"}},
		{"", strings.Fields(`gpt-image-1 gpt-image-1-mini gpt-image-1.5 gpt-image-2 gpt-image-2-2026-04-21 gpt-image-2.5-sunburst gpt-image-2.6-flare
			chatgpt-image-latest chatgpt-image-1 dall-e dall-e-1 dall-e-4 dall-e-3-hd dall-e-3x xdall-e-3 DALL-E-3 dall-e-30 dall-e-2-2024-01-01 openai/dall-e-3
			ft:dall-e-3 flux stable-diffusion-xl imagen-4 gpt-4o gpt-3.5-turbo * dall-e-* dall-e-?`)},
		{"", []string{"", " dall-e-3", "dall-e-3 "}},
	}
}

// dfQuote spells a model as JSON.
func dfQuote(t *testing.T, model string) string {
	t.Helper()
	quoted, err := json.Marshal(model)
	if err != nil {
		t.Fatal(err)
	}
	return string(quoted)
}

func TestChatModelsGetTheirRowAndNoOther(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, row := range []dfRow{dfChatRow(), {"", dfNoChatRow()}} {
		for _, model := range row.models {
			members := `"model":` + dfQuote(t, model) + `,"messages":[]}`
			bdSent(t, f, "/", `{`+members, `{`+row.fields+members)
			bdForwarded(t, f, "/v1/chat/completions", `{`+members)
			bdForwarded(t, f, "/chat/completions", `{`+members)
			members = `"messages":[],"x":1,"model":` + dfQuote(t, model) + ` } `
			bdSent(t, f, "/", ` { `+members, ` {`+row.fields+` `+members)
		}
	}
}

func TestModelsAreComparedAfterUnescaping(t *testing.T) {
	t.Parallel()
	f := start(t)
	bdSent(t, f, "/", `{"m\u006fdel":"gpt\u002d4o","messages":[]}`, `{`+dfChat+`"m\u006fdel":"gpt\u002d4o","messages":[]}`)
	bdSent(t, f, "/generate-image", `{"model":"dall\u002de-3","prompt":"p"}`, `{`+dfDalle3+`"model":"dall\u002de-3","prompt":"p"}`)
	bdForwarded(t, f, "/", `{"model":"gpt-4o\u0000","messages":[]}`)
	bdForwarded(t, f, "/", `{"model":"gpt-4\ud800o","messages":[]}`)
}

func TestImageModelsGetTheirRowAndNoOther(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, row := range dfImageRows() {
		for _, model := range row.models {
			members := `"model":` + dfQuote(t, model) + `,"prompt":"p"}`
			for _, path := range []string{"/", "/images/generations", "/generate-image"} {
				bdSent(t, f, path, `{`+members, `{`+row.fields+members)
			}
			bdForwarded(t, f, "/v1/images/generations", `{`+members)
			bdForwarded(t, f, "/v1/images/edits", `{`+members)
		}
	}
}

func TestKeysThatArePresentWinOverTheTable(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, value := range []string{`0`, `null`, `""`, `false`, `[]`, `{}`, `0.7`, `1000`, `"x"`, `-1`, `1e400`} {
		chat := func(key string) string { return `"` + key + `":` + value + `,"model":"gpt-4o","messages":[]}` }
		bdSent(t, f, "/", `{`+chat("temperature"), `{"max_tokens":1000,`+chat("temperature"))
		bdSent(t, f, "/", `{`+chat("max_tokens"), `{"temperature":0.7,`+chat("max_tokens"))
		bdSent(t, f, "/", `{`+chat("max_completion_tokens"), `{"temperature":0.7,`+chat("max_completion_tokens"))
		bdForwarded(t, f, "/", `{"max_completion_tokens":`+value+`,"max_tokens":`+value+`,`+chat("temperature"))
		bdForwarded(t, f, "/", `{"t\u0065mperature":`+value+`,`+chat("max_tokens"))
		bdSent(t, f, "/", `{`+chat("Temperature"), `{`+dfChat+chat("Temperature"))
		bdSent(t, f, "/", `{"x":{"temperature":1,"max_tokens":1},`+chat("y"), `{`+dfChat+`"x":{"temperature":1,"max_tokens":1},`+chat("y"))
		for _, row := range dfImageRows()[:2] {
			for field := range strings.SplitSeq(strings.TrimSuffix(row.fields, ","), ",") {
				key, _, _ := strings.Cut(field, ":")
				body := key + `:` + value + `,"model":"` + row.models[0] + `","prompt":"p"}`
				bdSent(t, f, "/generate-image", `{`+body, `{`+strings.Replace(row.fields, field+",", "", 1)+body)
			}
		}
	}
	bdSent(t, f, "/", `{"":1,"model":"gpt-4o","messages":[]}`, `{`+dfChat+`"":1,"model":"gpt-4o","messages":[]}`)
	bdSent(t, f, "/generate-image", `{"":1,"model":"dall-e-2","prompt":"p"}`, `{`+dfDalle2+`"":1,"model":"dall-e-2","prompt":"p"}`)
	bdForwarded(t, f, "/generate-image", `{"model":"dall-e-3","prompt":"p","n":0,"size":null,"quality":"hd","style":"natural","response_format":"b64_json"}`)
}

func TestMissingModelIsTheDefaultOne(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		options     []proxy.Option
		chat, image string
		chatFields  string
		imageFields string
	}{
		"constants":     {nil, proxy.DefaultChatModel, proxy.DefaultImageModel, "", ""},
		"option":        {[]proxy.Option{proxy.WithDefaultModels("my-chat", "my-image")}, "my-chat", "my-image", "", ""},
		"chat only":     {[]proxy.Option{proxy.WithDefaultModels("my-chat", "")}, "my-chat", proxy.DefaultImageModel, "", ""},
		"image only":    {[]proxy.Option{proxy.WithDefaultModels("", "my-image")}, proxy.DefaultChatModel, "my-image", "", ""},
		"last one wins": {[]proxy.Option{proxy.WithDefaultModels("a", "b"), proxy.WithDefaultModels("c", "")}, "c", proxy.DefaultImageModel, "", ""},
		"of a row":      {[]proxy.Option{proxy.WithDefaultModels("gpt-4o", "dall-e-3")}, "gpt-4o", "dall-e-3", dfChat, dfDalle3},
		"to be quoted":  {[]proxy.Option{proxy.WithDefaultModels(`a"\<é`, "b\n")}, `a\"\\<é`, `b\n`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, tc.options...)
			chat, image := `"model":"`+tc.chat+`",`, `"model":"`+tc.image+`",`
			for _, path := range []string{"/v1/chat/completions", "/chat/completions"} {
				bdSent(t, f, path, `{"messages":[]}`, `{`+chat+`"messages":[]}`)
			}
			bdSent(t, f, "/", `{"messages":[]}`, `{`+chat+tc.chatFields+`"messages":[]}`)
			for _, path := range []string{"/v1/images/generations", "/v1/images/edits"} {
				bdSent(t, f, path, `{"prompt":"p"}`, `{`+image+`"prompt":"p"}`)
			}
			for _, path := range []string{"/", "/images/generations", "/generate-image"} {
				bdSent(t, f, path, `{"prompt":"p"}`, `{`+image+tc.imageFields+`"prompt":"p"}`)
			}
		})
	}
}

func TestDefaultConstants(t *testing.T) {
	t.Parallel()
	if proxy.DefaultChatModel != "gpt-6-luna" || proxy.DefaultImageModel != "gpt-image-2" || proxy.DefaultUpstream != "https://api.openai.com/v1" {
		t.Errorf("the defaults are %q, %q and %q", proxy.DefaultChatModel, proxy.DefaultImageModel, proxy.DefaultUpstream)
	}
}

func TestOpenAIRoutesGetOnlyAModelWhateverIsConfigured(t *testing.T) {
	t.Parallel()
	f := start(t, proxy.WithDefaultModels("gpt-4o", "dall-e-3"),
		proxy.WithDefaults(proxy.RouteChat, map[string]any{"temperature": 0.1}), proxy.WithDefaults(proxy.RouteImages, map[string]any{"n": 2}))
	for _, path := range []string{"/v1/chat/completions", "/chat/completions"} {
		bdSent(t, f, path, `{"messages":[]}`, `{"model":"gpt-4o","messages":[]}`)
		bdForwarded(t, f, path, `{"model":"gpt-4o","messages":[]}`)
	}
	for _, path := range []string{"/v1/images/generations", "/v1/images/edits"} {
		bdSent(t, f, path, `{"prompt":"p"}`, `{"model":"dall-e-3","prompt":"p"}`)
		bdForwarded(t, f, path, `{"model":"dall-e-3","prompt":"p"}`)
	}
}

func TestWithDefaultsReplacesTheTable(t *testing.T) {
	t.Parallel()
	chat := func(values map[string]any) proxy.Option { return proxy.WithDefaults(proxy.RouteChat, values) }
	for name, tc := range map[string]struct {
		options     []proxy.Option
		added, body string
	}{
		"whatever the model":        {[]proxy.Option{chat(map[string]any{"temperature": 0.5})}, `"temperature":0.5,`, `"model":"o3","messages":[]}`},
		"in place of the row":       {[]proxy.Option{chat(map[string]any{"temperature": 0.5})}, `"temperature":0.5,`, `"model":"gpt-4o","messages":[]}`},
		"in the order of the keys":  {[]proxy.Option{chat(map[string]any{"z": 1, "a": []int{2}, "m": nil})}, `"a":[2],"m":null,"z":1,`, `"model":"m","messages":[]}`},
		"empty switches off":        {[]proxy.Option{chat(map[string]any{})}, ``, `"model":"gpt-4o","messages":[]}`},
		"nil switches off":          {[]proxy.Option{chat(nil)}, ``, `"model":"gpt-4o","messages":[]}`},
		"the last one wins":         {[]proxy.Option{chat(map[string]any{"a": 1}), chat(map[string]any{"b": 2})}, `"b":2,`, `"model":"m","messages":[]}`},
		"present wins":              {[]proxy.Option{chat(map[string]any{"temperature": 1, "top_p": 1})}, `"top_p":1,`, `"temperature":null,"model":"m","messages":[]}`},
		"limit under its new name":  {[]proxy.Option{chat(map[string]any{"max_completion_tokens": 9})}, `"max_completion_tokens":9,`, `"model":"m","messages":[]}`},
		"either name of the limit":  {[]proxy.Option{chat(map[string]any{"max_completion_tokens": 9})}, ``, `"max_tokens":0,"model":"m","messages":[]}`},
		"either name, the old one":  {[]proxy.Option{chat(map[string]any{"max_tokens": 9})}, ``, `"max_completion_tokens":null,"model":"m","messages":[]}`},
		"raw JSON":                  {[]proxy.Option{chat(map[string]any{"n": json.RawMessage(`1.10`), "x": json.Number("9007199254740993")})}, `"n":1.10,"x":9007199254740993,`, `"model":"m","messages":[]}`},
		"images do not reach chat":  {[]proxy.Option{proxy.WithDefaults(proxy.RouteImages, map[string]any{"n": 1})}, dfChat, `"model":"gpt-4o","messages":[]}`},
		"images":                    {[]proxy.Option{proxy.WithDefaults(proxy.RouteImages, map[string]any{"quality": "high"})}, `"quality":"high",`, `"model":"dall-e-3","prompt":"p"}`},
		"images, unknown":           {[]proxy.Option{proxy.WithDefaults(proxy.RouteImages, map[string]any{"quality": "high"})}, `"quality":"high",`, `"model":"gpt-image-2","prompt":"p"}`},
		"images, empty":             {[]proxy.Option{proxy.WithDefaults(proxy.RouteImages, map[string]any{})}, ``, `"model":"dall-e-3","prompt":"p"}`},
		"chat does not reach image": {[]proxy.Option{chat(map[string]any{})}, dfDalle2, `"model":"dall-e-2","prompt":"p"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bdSent(t, start(t, tc.options...), "/", `{`+tc.body, `{`+tc.added+tc.body)
		})
	}
}

func TestWithDefaultsTakesItsMapAsItWasThen(t *testing.T) {
	t.Parallel()
	values := map[string]any{"temperature": 0.5}
	option := proxy.WithDefaults(proxy.RouteChat, values)
	values["temperature"], values["top_p"] = 1, 1
	bdSent(t, start(t, option), "/", `{"model":"m","messages":[]}`, `{"temperature":0.5,"model":"m","messages":[]}`)
}

func TestWithDefaultsRefusesWhatCannotBeDefaulted(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]proxy.Option{
		"model":           proxy.WithDefaults(proxy.RouteChat, map[string]any{"model": "m"}),
		"messages":        proxy.WithDefaults(proxy.RouteChat, map[string]any{"messages": []any{}}),
		"prompt":          proxy.WithDefaults(proxy.RouteImages, map[string]any{"prompt": "p"}),
		"action":          proxy.WithDefaults(proxy.RouteChat, map[string]any{"action": "x"}),
		"stream":          proxy.WithDefaults(proxy.RouteChat, map[string]any{"stream": true}),
		"stream_options":  proxy.WithDefaults(proxy.RouteChat, map[string]any{"stream_options": nil}),
		"no JSON":         proxy.WithDefaults(proxy.RouteChat, map[string]any{"x": func() {}}),
		"key with quotes": proxy.WithDefaults(proxy.RouteChat, map[string]any{`a"b`: 1}),
		"key with escape": proxy.WithDefaults(proxy.RouteChat, map[string]any{`a\b`: 1}),
		"edits":           proxy.WithDefaults(proxy.RouteImageEdits, map[string]any{"n": 1}),
		"unknown route":   proxy.WithDefaults("audio", map[string]any{"n": 1}),
	} {
		if _, err := proxy.NewHandler(proxy.WithKey("k"), option); err == nil || !strings.Contains(err.Error(), "WithDefaults") {
			t.Errorf("%s: NewHandler gave %v, want an error of WithDefaults", name, err)
		}
	}
}

func TestActionIsDroppedOnlyWhereItMadeAnImageRequest(t *testing.T) {
	t.Parallel()
	f := start(t)
	const prompt = `"model":"gpt-image-2","prompt":"p"`
	for body, want := range map[string]string{
		`{"action":"generate-image",` + prompt + `}`:                               `{` + prompt + `}`,
		`{` + prompt + `,"action":"generate-image"}`:                               `{` + prompt + `}`,
		"{\n \"action\" : \"generate-image\" ,\n " + prompt + "\n}":                "{\n " + prompt + "\n}",
		`{"x":1 , "action":"generate-image" , ` + prompt + `}`:                     `{"x":1 , ` + prompt + `}`,
		`{"\u0061ction":"generate\u002dimage",` + prompt + `}`:                     `{` + prompt + `}`,
		`{"action":"generate-image","messages":[{"action":1}],` + prompt + `}`:     `{"messages":[{"action":1}],` + prompt + `}`,
		`{"action":"generate-image","Action":"x","x":{"action":2},` + prompt + `}`: `{"Action":"x","x":{"action":2},` + prompt + `}`,
		`{"action":"generate-image","prompt":"p"}`:                                 `{"model":"` + proxy.DefaultImageModel + `","prompt":"p"}`,
		`{"action":"generate-image","prompt":"p","model":"dall-e-2"}`:              `{` + dfDalle2 + `"prompt":"p","model":"dall-e-2"}`,
	} {
		bdSent(t, f, "/", body, want)
	}
	for _, action := range []string{`"edit"`, `"Generate-Image"`, `null`, `1`, `""`, `["generate-image"]`} {
		for _, path := range []string{"/", "/images/generations", "/generate-image", "/v1/images/generations", "/v1/images/edits"} {
			bdForwarded(t, f, path, `{"action":`+action+`,`+prompt+`}`)
		}
		bdForwarded(t, f, "/", `{"action":`+action+`,"model":"m","messages":[]}`)
	}
	// Here the path makes the request one for images, or the route knows no actions.
	for _, path := range []string{"/images/generations", "/generate-image", "/v1/images/generations", "/v1/images/edits"} {
		bdForwarded(t, f, path, `{"action":"generate-image",`+prompt+`}`)
	}
	bdForwarded(t, f, "/v1/chat/completions", `{"action":"generate-image","model":"m","messages":[],"prompt":"p"}`)
}

// A hook is shown the request as the table has completed it, and what it
// returns is sent as it stands.
func TestRewriteSeesTheDefaultsAndAddsNone(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 1)
	f := start(t, proxy.WithHooks(proxy.Hooks{Rewrite: func(_ context.Context, call proxy.Call, body []byte) ([]byte, error) {
		seen <- call.Model + " " + string(body)
		return []byte(` {"messages":[],"model":"gpt-4"} `), nil
	}}))
	bdSent(t, f, "/", `{"model":"gpt-4o","messages":[]}`, ` {"messages":[],"model":"gpt-4"} `)
	if got, want := <-seen, `gpt-4o {`+dfChat+`"model":"gpt-4o","messages":[]}`; got != want {
		t.Errorf("Rewrite saw %s, want %s", got, want)
	}
	if got := f.up.Next().Method; got != http.MethodPost {
		t.Errorf("method %s", got)
	}
}
