package proxy_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// bdChat has every property of a chat request, and some that nobody knows, in
// spellings that a decoder would not give back.
const bdChat = `
{ "zeta" : {"b":1,"a":[ ]} ,
  "messages": [
    {"role":"developer","content":"","name":"d"},
    {"role":"system","content":[{"type":"text","text":"<b>&\u0041</b>","prompt_cache_breakpoint":{"mode":"explicit"}}]},
    {"role":"user","content":[
      {"type":"text","text":"Gr\u00fc\u00dfe \ud83d\ude39 \ud800 \u2028 \/ é"},
      {"type":"image_url","image_url":{"url":"https://images.example/a.png?x=1&y=2","detail":"low"}},
      {"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}},
      {"type":"file","file":{"file_id":"file-1"}},
      {"type":"file","file":{"file_data":"data:;base64,AA==","filename":"a.pdf"}}]},
    {"role":"assistant","content":null,"refusal":null,"audio":{"id":"audio_1"},"tool_calls":[
      {"id":"c1","type":"function","function":{"name":"f","arguments":""}},
      {"id":"c2","type":"custom","custom":{"name":"g","input":""}}]},
    {"role":"assistant","content":[{"type":"refusal","refusal":"no"}],"function_call":{"name":"f","arguments":"{}"}},
    {"role":"tool","tool_call_id":"c1","content":""},
    {"role":"function","name":"f","content":null}
  ],
  "model":"gpt-6-luna", "audio":{"voice":"alloy","format":"wav"}, "frequency_penalty":0, "presence_penalty":-0.0,
  "function_call":"none", "functions":[{"name":"f","parameters":{}}], "logit_bias":{"50256":-100,"1":0.5}, "logprobs":false, "top_logprobs":0,
  "max_completion_tokens":null, "max_tokens":9007199254740993, "metadata":{"k":"v"}, "modalities":["text","audio"],
  "moderation":{"model":"omni-moderation-latest","policy":{"input":{"mode":"score"},"output":{"mode":"block"}}},
  "n":1, "parallel_tool_calls":false, "prediction":{"type":"content","content":[{"type":"text","text":"p"}]},
  "prompt_cache_key":"", "prompt_cache_options":{"mode":"implicit","ttl":"1h"}, "prompt_cache_retention":"24h", "reasoning_effort":"none",
  "response_format":{"type":"json_schema","json_schema":{"name":"s","strict":false,"schema":{"type":"object"}}},
  "safety_identifier":null, "seed":-9223372036854775808, "service_tier":"auto", "stop":"END", "store":false,
  "stream":false, "stream_options":null, "temperature":0, "top_p":1.10, "tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[]}},
  "tools":[{"type":"function","function":{"name":"f","strict":false}},{"type":"custom","custom":{"name":"g"}}], "user":"", "verbosity":"low",
  "web_search_options":{"search_context_size":"low"}, "reasoning":{"x_vendor":1e-7}, "top_k":40, "":0, "\u0075nknown":[1E400,-0,1.0e+28]
}
`

// bdImage is the same for an image request.
const bdImage = `{"n":1,"prompt":"a \"boat\" \u2764 <&>","model":"gpt-image-2.6-flare","size":"auto","quality":"auto","style":null,` +
	`"response_format":"b64_json","background":"transparent","moderation":"low","output_format":"webp","output_compression":0,` +
	`"frame_count":2,"frame_duration_ms":100,"svg":{"model":"m","reasoning":"low"},"partial_images":0,"stream":false,"complexity":"high",` +
	`"safety_identifier":"","user":"u","input_fidelity":"high","x_vendor":{"deep":[9007199254740993,1.10]},"seed":18446744073709551616}`

func TestEveryPropertyArrivesAsTheClientWroteIt(t *testing.T) {
	t.Parallel()
	chat := strings.Fields(`audio frequency_penalty presence_penalty function_call functions logit_bias logprobs top_logprobs
		max_completion_tokens max_tokens messages metadata modalities model moderation n parallel_tool_calls prediction prompt_cache_key
		prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store
		stream stream_options temperature top_p tool_choice tools user verbosity web_search_options`)
	images := strings.Fields(`prompt model n size quality style response_format background moderation output_format output_compression
		frame_count frame_duration_ms svg partial_images stream complexity safety_identifier user`)
	for path, tc := range map[string]struct {
		body  string
		named []string
	}{
		"/v1/chat/completions":   {bdChat, chat},
		"/chat/completions":      {bdChat, chat},
		"/":                      {bdChat, chat},
		"/v1/images/generations": {bdImage, images},
		"/images/generations":    {bdImage, images},
		"/generate-image":        {bdImage, images},
		"/v1/images/edits":       {bdImage, images},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			var properties map[string]json.RawMessage
			if err := json.Unmarshal([]byte(tc.body), &properties); err != nil {
				t.Fatal(err)
			}
			for _, name := range tc.named {
				if _, ok := properties[name]; !ok {
					t.Errorf("the test's own body lacks %s", name)
				}
			}
			f := start(t)
			bdForwarded(t, f, path, tc.body)
		})
	}
}

// bdForwarded sends a body and checks that the upstream got its very bytes.
func bdForwarded(t *testing.T, f *fixture, path, body string, header ...string) {
	t.Helper()
	bdSent(t, f, path, body, body, header...)
}

// bdSent sends a body and checks what the upstream got.
func bdSent(t *testing.T, f *fixture, path, body, want string, header ...string) {
	t.Helper()
	before := len(f.up.Requests())
	f.up.Queue(proxytest.JSON(http.StatusOK, `{"ok":true}`))
	res, text := f.post(t, path, body, header...)
	calls := f.up.Requests()[before:]
	if res.StatusCode != http.StatusOK || text != `{"ok":true}` || len(calls) != 1 {
		t.Fatalf("%s %s: status %d: %s after %d calls, want 200 after 1", path, bdShort(body), res.StatusCode, text, len(calls))
	}
	if got := calls[0]; string(got.Body) != want || got.ContentLength != int64(len(want)) {
		t.Errorf("%s: the upstream got %s, want %s", path, bdShort(string(got.Body)), bdShort(want))
	}
	if got := calls[0].Header["Content-Type"]; !slices.Equal(got, []string{"application/json"}) {
		t.Errorf("%s: the upstream got Content-Type %q", path, got)
	}
}

// bdRefused sends a body and checks that it never reached the upstream.
func bdRefused(t *testing.T, f *fixture, path, body string, status int, code, param string, header ...string) string {
	t.Helper()
	before := len(f.up.Requests())
	res, text := f.post(t, path, body, header...)
	if n := len(f.up.Requests()) - before; n != 0 {
		t.Errorf("%s %s: %d upstream calls, want 0", path, bdShort(body), n)
	}
	var flat struct{ Code, Param string }
	var nested struct{ Error struct{ Code, Param string } }
	if json.Unmarshal([]byte(text), &nested) == nil {
		flat = nested.Error
	} else if err := json.Unmarshal([]byte(text), &flat); err != nil {
		t.Errorf("%s %s: the answer is no JSON: %s", path, bdShort(body), text)
	}
	if res.StatusCode != status || flat.Code != code || flat.Param != param {
		t.Errorf("%s %s %s: status %d: %s, want %d, code %s, param %q", path, header, bdShort(body), res.StatusCode, text, status, code, param)
	}
	return text
}

func bdShort(s string) string {
	if len(s) > 400 {
		return strconv.Quote(s[:200]) + "..." + strconv.Quote(s[len(s)-200:])
	}
	return strconv.Quote(s)
}

func TestSpellingsOfValuesSurvive(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, member := range []string{
		`"max_tokens":9007199254740993`, `"max_tokens":12345678901234567890`, `"seed":-9223372036854775809`, `"temperature":1.10`,
		`"temperature":0`, `"temperature":0.0`, `"temperature":-0`, `"temperature":null`, `"temperature":1e0`, `"temperature":1E+0`, `"n":1.0`,
		`"stop":"END"`, `"stop":["a","b"]`, `"stop":null`, `"stop":""`, `"stop":[]`, `"logit_bias":{"1":0.25}`, `"user":""`, `"store":false`,
		`"stream":false`, `"stream":null`, `"stream":"true"`, `"stream":1`, `"stream":0`, `"max_tokens":"5"`, `"max_completion_tokens":0`,
		`"x":"\u0041\u00e9\u20ac"`, `"x":"\ud83d\ude39"`, `"x":"\ud800"`, `"x":"\udc00\ud800"`, `"x":"\u0000"`, `"x":"\/"`, `"x":"</script>&"`,
		`"x":"é"`, `"x":"` + "\u2028\u2029\x7f\U0010ffff" + `"`, `"\ud800":1`, `"\u0078":1`, `"x y":1`, `"":""`, `"x" : 1`, "\"x\"\t:\r\n[ ]",
		`"stream_options":{"include_usage":false}`, `"stream_options":null`, `"x":{"x":{"x":[[],{}]}}`, `"n":-1`, `"n":1e400`, `"n":{}`,
	} {
		key, _, _ := strings.Cut(member, ":")
		for _, body := range []string{
			`{"model":"gpt-6-luna","messages":[],` + member + `}`,
			`{` + member + `,"messages":[{}],"model":"o3"}`,
			" { \"messages\" : [ ] ,\n" + member + "\n, \"model\" : \"x/y\" } \r\n",
		} {
			bdForwarded(t, f, "/v1/chat/completions", body)
			bdForwarded(t, f, "/", body)
		}
		if strings.Contains(key, "stop") {
			continue
		}
		bdForwarded(t, f, "/v1/images/generations", `{"model":"gpt-image-2","prompt":"p",`+member+`}`)
	}
}

// Models and prompts that are there are the upstream's to judge.
func TestOddFieldsAreTheUpstreamsToJudge(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, model := range []string{`null`, `""`, `5`, `[]`, `{}`, `true`, `"\ud800"`} {
		bdForwarded(t, f, "/v1/chat/completions", `{"model":`+model+`,"messages":[1,null,"x",{}]}`)
		bdForwarded(t, f, "/", `{"model":`+model+`,"messages":[1,null,"x",{}]}`)
		bdForwarded(t, f, "/v1/images/generations", `{"model":`+model+`,"prompt":" "}`)
		bdForwarded(t, f, "/generate-image", `{"model":`+model+`,"prompt":"\u0000","messages":5}`)
	}
}

func TestMessagesAndPromptAreChecked(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, value := range []string{"", `,"messages":null`, `,"messages":"[]"`, `,"messages":{}`, `,"messages":1`, `,"messages":true`, `,"Messages":[]`, `,"input":{"messages":[]}`} {
		body := `{"model":"m"` + value + `}`
		for _, path := range []string{"/v1/chat/completions", "/chat/completions", "/"} {
			text := bdRefused(t, f, path, body, 400, "invalid_request", "messages")
			if want := `{"error":"Invalid messages format","message":"messages field is required and must be an array"`; path == "/" && !strings.HasPrefix(text, want) {
				t.Errorf("%s: %s, want %s", body, text, want)
			}
		}
	}
	for _, value := range []string{"", `,"prompt":null`, `,"prompt":""`, `,"prompt":[]`, `,"prompt":["a"]`, `,"prompt":{}`, `,"prompt":1`, `,"prompt":false`, `,"Prompt":"a"`} {
		body := `{"model":"m"` + value + `}`
		for _, path := range []string{"/v1/images/generations", "/images/generations", "/generate-image"} {
			text := bdRefused(t, f, path, body, 400, "invalid_request", "prompt")
			if want := `{"error":"Missing required field","message":"prompt field is required for image generation"`; path[1] != 'v' && !strings.HasPrefix(text, want) {
				t.Errorf("%s: %s, want %s", body, text, want)
			}
		}
	}
}

// bdGuarded are the keys that decide what a request costs or does.
func bdGuarded() []string {
	return []string{"model", "messages", "prompt", "action", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens"}
}

// bdEscaped spells the i-th letter of a key as an escape.
func bdEscaped(key string, i int) string {
	return key[:i] + `\u00` + strconv.FormatInt(int64(key[i]), 16) + key[i+1:]
}

func TestGuardedKeysTwiceAreRefused(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, key := range bdGuarded() {
		for _, other := range []string{key, bdEscaped(key, 0), bdEscaped(key, len(key)-1), bdEscaped(key, len(key)/2)} {
			for _, values := range [][2]string{{`"a"`, `"b"`}, {`"a"`, `"a"`}, {`[]`, `[]`}, {`null`, `1`}, {`true`, `{}`}} {
				body := `{"x":1,"` + key + `":` + values[0] + `,"y":{"` + key + `":0},"` + other + `":` + values[1] + `}`
				for _, path := range []string{"/", "/v1/chat/completions", "/generate-image", "/v1/images/generations", "/v1/images/edits"} {
					bdRefused(t, f, path, body, 400, "duplicate_key", key)
				}
			}
		}
	}
	for _, body := range []string{
		`{"mod\u0065l":"a","mode\u006c":"b","messages":[]}`,
		`{"\u006d\u006f\u0064\u0065\u006c":"a","model":"b","messages":[]}`,
		`{"\u006D\u006F\u0064el":"a","messages":[],"model":"b"}`,
		`{"model":"a","model":"b","model":"c","messages":[]}`,
	} {
		bdRefused(t, f, "/v1/chat/completions", body, 400, "duplicate_key", "model")
	}
}

func TestCaseVariantsAndOtherDuplicatesPass(t *testing.T) {
	t.Parallel()
	f := start(t)
	var extra []string
	for _, key := range bdGuarded() {
		title := strings.ToUpper(key[:1]) + key[1:]
		for _, variant := range []string{
			title, strings.ToUpper(key), bdEscaped(title, 0), key + " ", key + `\u0000`, strings.ReplaceAll(key, "s", "ſ"), strings.ReplaceAll(key, "k", "\u212a"),
			strings.ReplaceAll(key, "s", `\u017f`), strings.ReplaceAll(key, "_", "-"),
		} {
			if variant == key {
				continue
			}
			extra = append(extra, `"`+variant+`":"b"`)
		}
	}
	for _, key := range []string{"temperature", "tools", "response_format", "service_tier", "size", "quality", "x", ""} {
		extra = append(extra, `"`+key+`":1,"`+key+`":2`)
	}
	extra = append(extra, `"x":{"model":1,"model":2}`, `"x":[{"n":1,"n":2}]`, `"y":{"\u006eame":1,"name":2}`, `"MODEL":1,"MODEL":2`)
	for _, members := range extra {
		bdForwarded(t, f, "/v1/chat/completions", `{"model":"gpt-6-luna","messages":[{"role":"a","role":"b"}],`+members+`}`)
		bdForwarded(t, f, "/", `{`+members+`,"model":"gpt-6-luna","messages":[{"role":"a","role":"b"}]}`)
		bdForwarded(t, f, "/v1/images/generations", `{"prompt":"p",`+members+`,"model":"gpt-image-2"}`)
	}
	bdSent(t, f, "/v1/chat/completions", `{"Model":"dear","messages":[]}`, `{"model":"`+proxy.DefaultChatModel+`","Model":"dear","messages":[]}`)
	bdForwarded(t, f, "/v1/chat/completions", `{"model":"m","messages":[],"stream_options":{"include_usage":true,"include_usage":false}}`)
}

// bdDocuments reads the table of JSON documents by class.
func bdDocuments(t *testing.T) map[string][]string {
	t.Helper()
	table, err := os.ReadFile("internal/jsonobj/testdata/documents.txt")
	if err != nil {
		t.Fatal(err)
	}
	documents := map[string][]string{}
	for line := range strings.Lines(string(table)) {
		class, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		_, quoted, _ := strings.Cut(rest, " ")
		if class == "#" {
			continue
		}
		text, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		documents[class] = append(documents[class], text)
	}
	if classes := slices.Sorted(maps.Keys(documents)); !slices.Equal(classes, []string{"i+", "i-", "n", "y"}) {
		t.Fatalf("the table has the classes %q", classes)
	}
	return documents
}

func TestI2DocumentsThatAreJSONPassByteForByte(t *testing.T) {
	t.Parallel()
	f := start(t)
	documents := bdDocuments(t)
	for _, text := range append(documents["y"], documents["i+"]...) {
		body := `{"model":"m","messages":[],"v":` + text + `}`
		bdForwarded(t, f, "/v1/chat/completions", body)
		bdForwarded(t, f, "/v1/images/generations", `{"v":`+text+`,"model":"m","prompt":"p"}`)
		bdSent(t, f, "/", `{"v":`+text+`,"messages":[]}`, `{"model":"`+proxy.DefaultChatModel+`","v":`+text+`,"messages":[]}`)
		if strings.HasPrefix(strings.TrimSpace(text), "{") {
			continue
		}
		answer := bdRefused(t, f, "/", text, 400, "invalid_json", "")
		if want := `{"error":"Invalid JSON","message":"Request body is not valid JSON`; !strings.HasPrefix(answer, want) {
			t.Errorf("%q: %s, want %s", text, answer, want)
		}
	}
}

func TestI2DocumentsThatAreNoJSONAreRefused(t *testing.T) {
	t.Parallel()
	f := start(t)
	documents := bdDocuments(t)
	bad := append(documents["n"], documents["i-"]...)
	bad = append(bad,
		strings.Repeat("[", 100_000), strings.Repeat(`{"":`, 100_000), strings.Repeat("[{", 50_000), `{"messages":`+strings.Repeat("[", 100_000),
		`{"messages":[]} x`, `{"messages":[]}{"messages":[]}`, `{"messages":[]}`+"\x00", "\ufeff"+`{"messages":[]}`, `{"messages":[]},`, `{"messages":[],}`,
		`{"messages":[NaN]}`, `{"messages":[],"temperature":NaN}`, `{"messages":[],"temperature":Infinity}`, `{'messages':[]}`, `{messages:[]}`,
		`{"messages":[]}//`, `{"messages":[] /* none */}`, "{\"messages\":[],\"x\":\"\xff\"}", "{\"messages\":[],\"x\":\"\xed\xa0\x80\"}", "{\"messages\":[],\"\xc0\xaf\":1}",
		"{\"messages\":[]}\xa0", "{\"messages\":[],\"x\":\"a\nb\"}", `{"messages":[],"x":"\x41"}`, `{"messages":[],"x":01}`, "model=m&messages=[]", "<html></html>",
	)
	for _, text := range bad {
		for _, path := range []string{"/", "/v1/chat/completions", "/v1/images/edits"} {
			answer := bdRefused(t, f, path, text, 400, "invalid_json", "")
			want := `{"error":"Invalid JSON","message":"Request body is not valid JSON","type":"invalid_request_error","code":"invalid_json"}`
			if path == "/" && strings.TrimSpace(answer) != want {
				t.Errorf("%s: %s, want %s", bdShort(text), answer, want)
			}
		}
		bdRefused(t, f, "/v1/chat/completions", `{"model":"m","messages":[],"v":`+text+`}`, 400, "invalid_json", "")
	}
}

func TestOnlyObjectsAreTaken(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, text := range []string{`null`, `[]`, `"x"`, `1`, `true`, `false`, ` null `, `[{"messages":[]}]`, `"{\"messages\":[]}"`} {
		for _, row := range rtRoutes() {
			bdRefused(t, f, row.path, text, 400, "invalid_json", "")
		}
	}
	for _, row := range rtRoutes() {
		bdRefused(t, f, row.path, "", 400, "invalid_json", "")
	}
}

func TestNestingIsBounded(t *testing.T) {
	t.Parallel()
	f := start(t)
	arrays := func(n int) string {
		return `{"model":"m","messages":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`
	}
	objects := func(n int) string {
		return `{"model":"m","messages":[],"x":` + strings.Repeat(`{"":`, n-2) + "{}" + strings.Repeat("}", n-2) + `}`
	}
	for _, nested := range []func(int) string{arrays, objects} {
		bdForwarded(t, f, "/v1/chat/completions", nested(999))
		bdForwarded(t, f, "/v1/chat/completions", nested(1000))
		bdForwarded(t, f, "/", nested(1000))
		bdRefused(t, f, "/v1/chat/completions", nested(1001), 400, "invalid_json", "")
		bdRefused(t, f, "/", nested(1001), 400, "invalid_json", "")
		bdRefused(t, f, "/", nested(10_001), 400, "invalid_json", "")
	}
}

// A spliced default makes a body longer, not deeper.
func TestDeepestBodyTakesDefaultsAndLosesItsAction(t *testing.T) {
	t.Parallel()
	f := start(t)
	deep := strings.Repeat("[", 999) + strings.Repeat("]", 999)
	bdSent(t, f, "/", `{"messages":`+deep+`}`, `{"model":"`+proxy.DefaultChatModel+`","messages":`+deep+`}`)
	bdSent(t, f, "/", `{"action":"generate-image","prompt":"p","model":"m","x":`+deep+`}`, `{"prompt":"p","model":"m","x":`+deep+`}`)
}

func TestAnyContentTypeIsTakenAndOursIsSent(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, contentType := range []string{
		"", "application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/json; charset=utf-16", "text/plain", "text/plain;charset=UTF-8",
		"application/x-www-form-urlencoded", "text/html", "application/octet-stream", "application/xml", "multipart/mixed; boundary=b", "multipart/related", "garbage",
		";", "a/b/c", "application/graphql", "text/event-stream", "application/jsonp", "multipart/form-data-not; boundary=b",
	} {
		for _, row := range rtRoutes() {
			if contentType == "" {
				bdForwarded(t, f, row.path, row.body)
				continue
			}
			bdForwarded(t, f, row.path, row.body, "Content-Type", contentType)
		}
	}
}

func TestS35ContentEncodingIsRefused(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, row := range rtRoutes() {
		for _, coding := range []string{"gzip", "GZIP", "x-gzip", "br", "deflate", "zstd", "compress", "gzip, identity", "identity, gzip", "aes128gcm", "unknown"} {
			bdRefused(t, f, row.path, row.body, 415, "unsupported_media_type", "", "Content-Encoding", coding)
		}
		bdRefused(t, f, row.path, row.body, 415, "unsupported_media_type", "", "Content-Encoding", "identity", "Content-Encoding", "gzip")
		bdForwarded(t, f, row.path, row.body, "Content-Encoding", "identity")
		bdForwarded(t, f, row.path, row.body, "Content-Encoding", "Identity")
	}
}

func TestFormsAreTakenForEditsOnly(t *testing.T) {
	t.Parallel()
	f := start(t)
	form := "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na boat\r\n--b--\r\n"
	for _, row := range rtRoutes() {
		if row.path == "/v1/images/edits" {
			continue
		}
		for _, contentType := range []string{"multipart/form-data; boundary=b", "Multipart/Form-Data;boundary=b", " multipart/form-data ; boundary=\"b\"", "multipart/form-data"} {
			bdRefused(t, f, row.path, form, 415, "unsupported_media_type", "", "Content-Type", contentType)
			bdRefused(t, f, row.path, row.body, 415, "unsupported_media_type", "", "Content-Type", contentType)
		}
	}
}
