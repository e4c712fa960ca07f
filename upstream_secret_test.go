package proxy_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

func TestRefusedServerKeyIsAServerFault(t *testing.T) {
	t.Parallel()
	const masked = "sk-proj-***********************************************************MxYA"
	const want = "The upstream does not accept this server's credentials."
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		for name, body := range map[string]string{
			"OpenAI":  `{"error":{"message":"Incorrect API key provided: ` + masked + `, see org-Abcdef0123.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`,
			"detail":  `{"detail":"Unauthorized ` + masked + `"}`,
			"HTML":    `<html>` + masked + ` ` + canary + `</html>`,
			"the key": `{"error":{"message":"` + canary + `"}}`,
			"empty":   ``,
		} {
			f := start(t)
			answer := proxytest.JSON(status, body).WithHeader("Www-Authenticate", "Bearer").WithHeader("X-Should-Retry", "true").WithHeader("Retry-After", "1")
			f.up.Queue(answer, answer)
			res, got := f.post(t, "/v1/chat/completions", rtChat)
			anWant(t, res, got, 502, anOpenAI(502, want, "upstream_error", "", "upstream_auth"))
			if !slices.Equal(res.Header["X-Should-Retry"], []string{"false"}) || res.Header.Get("Www-Authenticate") != "" || res.Header.Get("Retry-After") != "" {
				t.Errorf("%s: header %q", name, res.Header)
			}
			res, got = f.post(t, "/", rtChat)
			anWant(t, res, got, 502, `{"error":"Bad Gateway","message":"`+want+`","type":"upstream_error","code":"upstream_auth"}`+"\n")
			logs := f.logs.String()
			if !strings.Contains(logs, strconv.Itoa(status)+": ") || strings.Contains(logs, "MxYA") || strings.Contains(logs, "Abcdef0123") {
				t.Errorf("%s: the log says\n%s", name, logs)
			}
			if name == "OpenAI" && !strings.Contains(logs, "Incorrect API key provided: ***, see ***.") {
				t.Errorf("the log says\n%s", logs)
			}
		}
	}
}

func TestRefusedKeyOfTheClientIsTheClientsBusiness(t *testing.T) {
	t.Parallel()
	const own = "sk-own-0123456789abcdef"
	denied := func(status int) proxytest.Answer {
		return proxytest.Failure(status, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-own-0***cdef, you can "+own)
	}
	byo := proxy.WithKeySource(proxy.FirstKey(proxy.HeaderKey("x-openai-key"), proxy.HeaderKey("Authorization"), proxy.StaticKey(canary)))
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		for _, header := range [][]string{{"X-Openai-Key", own}, {"Authorization", "Bearer " + own}, {"Authorization", "bearer " + own}, {"X-Openai-Key", " " + own + " "}} {
			f := start(t, byo)
			f.up.Queue(denied(status), denied(status))
			res, body := f.post(t, "/v1/chat/completions", rtChat, header...)
			const text = "Incorrect API key provided: ***, you can ***"
			anWant(t, res, body, status, anOpenAI(status, text, "invalid_request_error", "", "invalid_api_key"))
			res, body = f.post(t, "/", rtChat, header...)
			anWant(t, res, body, status, ueWorker("OpenAI API", status, text, `,"type":"invalid_request_error","code":"invalid_api_key"`))
			if got := f.up.Next().Header.Get("Authorization"); got != "Bearer "+own {
				t.Errorf("the upstream got %q", got)
			}
		}
		f := start(t, byo)
		res, body := anAsk(t, f, denied(status), "Authorization", "Basic eDp5", "X-Openai-Key", "")
		anWant(t, res, body, 502, anOpenAI(502, "The upstream does not accept this server's credentials.", "upstream_error", "", "upstream_auth"))
		f = start(t, proxy.WithAuthHeader(""))
		res, body = anAsk(t, f, proxytest.Failure(status, "t", "c", "no"))
		anWant(t, res, body, status, anOpenAI(status, "no", "t", "", "c"))
	}
}

// ueSecrets are texts of an upstream and what may go on of them.
func ueSecrets() map[string]string {
	return map[string]string{
		"no secret here":                              "no secret here",
		"key sk-abcdefgh":                             "key ***",
		"sk-abcdefgh":                                 "***",
		"(sk-proj-AbC_dEf-123456)":                    "(***)",
		"'sk-abcdefgh1234', next":                     "'***', next",
		"sk-proj-***********MxYA.":                    "***",
		"sk-abc…wxyz12":                               "***",
		"sk-....abcd":                                 "***",
		"sk-abcdefgh,sk-ijklmnop;sk-qrstuvwx":         "***,***;***",
		"Bearer sk-svcacct-0123456789 is wrong":       "Bearer *** is wrong",
		"key=sk-abcdefgh&x=1":                         "key=***&x=1",
		"https://x/?k=sk-abcdefgh12":                  "https://x/?k=***",
		"\"sk-abcdefgh\"":                             "\"***\"",
		"a\nsk-abcdefgh\nb":                           "a\n***\nb",
		"organization org-Abc0123456789xyz on TPM":    "organization *** on TPM",
		"org-abcd":                                    "***",
		"project proj_Abc0123456789 has no access":    "project *** has no access",
		"`proj_abcdefgh`":                             "`***`",
		"in org-Abcdefgh, proj_Ijklmnop, sk-qrstuvwx": "in ***, ***, ***",
		"the server's " + canary + " whole":           "the server's *** whole",
		"x" + canary + "y":                            "x***y",
		canary[3:] + " without its start":             canary[3:] + " without its start",
		"a task-management-system":                    "a task-management-system",
		"sk-short":                                    "sk-short",
		"desk-abcdefghij":                             "desk-abcdefghij",
		"re-org-anization":                            "re-***",
		"reorg-anization":                             "reorg-anization",
		"SK-ABCDEFGHIJ":                               "SK-ABCDEFGHIJ",
	}
}

func TestSecretsInErrorTextsAreStruckOut(t *testing.T) {
	t.Parallel()
	f := start(t)
	for text, want := range ueSecrets() {
		if strings.HasPrefix(text, canary[3:]) {
			continue // no more of it than that is asked for
		}
		quoted, wanted := ueQuote(text), ueQuote(want)
		bodies := map[string]string{ // what the upstream says, and what the caller gets of it
			`{"error":{"message":` + quoted + `,"type":"t","param":null,"code":"c"}}`: `{"error":{"message":` + wanted + `,"type":"t","param":null,"code":"c"},"message":` + wanted + `,"status":400}`,
			`{"error":` + quoted + `}`: `{"error":{"message":` + wanted + `,"type":"invalid_request_error","param":null,"code":null},"message":` + wanted + `,"status":400}`,
			text:                       `{"error":{"message":` + wanted + `,"type":"invalid_request_error","param":null,"code":null},"message":` + wanted + `,"status":400}`,
			`{"error":{"message":"m","type":` + quoted + `,"param":` + quoted + `,"code":` + quoted + `}}`: `{"error":{"message":"m","type":` + wanted + `,"param":` + wanted + `,"code":` + wanted + `},"message":"m","status":400}`,
			`{"error":{"message":"m","x":{"y":[` + quoted + `,{` + quoted + `:1}]}}}`:                      `{"error":{"message":"m","x":{"y":[` + wanted + `,{` + wanted + `:1}]}},"message":"m","status":400}`,
		}
		for said, want := range bodies {
			if strings.HasPrefix(said, `"`) {
				continue // a JSON text is quoted with its quotes
			}
			res, body := anAsk(t, f, proxytest.JSON(400, said))
			anWant(t, res, body, 400, want+"\n")
		}
		f.up.Queue(proxytest.Failure(400, "t", "c", text))
		res, body := f.post(t, "/", rtChat)
		anWant(t, res, body, 400, ueWorker("OpenAI API", 400, want, `,"type":"t","code":"c"`))
	}
}

// ueEscaped spells every character of a text as an escape.
func ueEscaped(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		b.WriteString(`\u00` + strconv.FormatInt(int64(c)|0x100, 16)[1:])
	}
	return b.String()
}

func TestEscapedSpellingsOfSecretsAreStruckOut(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, secret := range []string{canary, "sk-abcdefgh0123", "org-Abcdefgh", "proj_Abcdefgh"} {
		for _, spelled := range []string{
			ueEscaped(secret), ueEscaped(secret[:1]) + secret[1:], secret[:2] + ueEscaped(secret[2:3]) + secret[3:], secret[:len(secret)-1] + ueEscaped(secret[len(secret)-1:]),
			ueEscaped(secret[:8]) + secret[8:],
		} {
			res, body := anAsk(t, f, proxytest.JSON(400, `{"error":{"message":"in `+spelled+` out","type":"`+spelled+`","`+spelled+`":1,"param":null,"code":"c"}}`))
			anWant(t, res, body, 400, `{"error":{"message":"in *** out","type":"***","***":1,"param":null,"code":"c"},"message":"in *** out","status":400}`+"\n")
			f.up.Queue(proxytest.JSON(400, `{"detail":"`+spelled+`"}`))
			res, body = f.post(t, "/", rtChat)
			anWant(t, res, body, 400, ueWorker("OpenAI API", 400, "***", ""))
		}
	}
}

// A body that breaks off is no JSON any more, and its escapes still read as
// what they stand for.
func TestEscapedSpellingsInHalfAnObjectAreStruckOut(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, spelled := range []string{`\u0073` + canary[1:], canary[:2] + `\u002d` + canary[3:], canary[:12] + ueEscaped(canary[12:13]) + canary[13:]} {
		_, body := anAsk(t, f, proxytest.JSON(500, `{"error":{"message":"Incorrect API key provided: `+spelled+`"`))
		if strings.Contains(body, canary[13:]) {
			t.Errorf("most of the key is in %s", body)
		}
	}
}

func TestKeysOfAnyFormAreStruckOut(t *testing.T) {
	t.Parallel()
	for _, key := range []string{`0123456789abcdef`, `tenant+key/with=odd.chars`, `quote"back\slash`, `<&>'key`, `$1${2}.*(`, `AIzaSyA-abcdefgh_ijk`} {
		f := start(t, proxy.WithKey(key))
		said := ueQuote("your key " + key + " is wrong")
		want := ueQuote("your key *** is wrong")
		for _, spelled := range []string{said, strings.ReplaceAll(said, "/", `\/`), strings.ReplaceAll(said, "<", `\u003c`), `"your key ` + ueEscaped(key) + ` is wrong"`} {
			res, body := anAsk(t, f, proxytest.JSON(400, `{"error":{"message":`+spelled+`,"type":"t","param":null,"code":"c"}}`).WithHeader("Openai-Version", "v"+key))
			anWant(t, res, body, 400, `{"error":{"message":`+want+`,"type":"t","param":null,"code":"c"},"message":`+want+`,"status":400}`+"\n")
			if got := res.Header.Get("Openai-Version"); got != "v***" {
				t.Errorf("Openai-Version %q", got)
			}
		}
		res, body := anAsk(t, f, proxytest.JSON(400, "your key "+key+" is wrong").WithHeader("Content-Type", "text/plain"))
		anWant(t, res, body, 400, `{"error":{"message":`+want+`,"type":"invalid_request_error","param":null,"code":null},"message":`+want+`,"status":400}`+"\n")
		if strings.Contains(f.logs.String(), key) {
			t.Errorf("the key %s is in the log:\n%s", key, f.logs)
		}
	}
}

func TestSecretsAtTheQuotedEndAreStruckOut(t *testing.T) {
	t.Parallel()
	f := start(t)
	for cut := range 12 { // the key lies across the place where the quote ends
		text := strings.Repeat("x", 2<<10-4*cut) + " " + canary + " behind"
		f.up.Queue(proxytest.JSON(500, text))
		_, body := f.post(t, "/v1/chat/completions", rtChat)
		if strings.Contains(body, canary[:4*cut]) && cut > 0 {
			t.Errorf("%d characters of the key are in %s", 4*cut, bdShort(body))
		}
	}
}

func TestSecretsInRelayedHeadersAreStruckOut(t *testing.T) {
	t.Parallel()
	for text, want := range ueSecrets() {
		if strings.ContainsAny(text, "\n…") || strings.HasPrefix(text, canary[3:]) {
			continue
		}
		f := start(t)
		for name, answer := range map[string]proxytest.Answer{
			"answer": proxytest.JSON(200, "{}"), "error": proxytest.Failure(400, "t", "c", "m"), "stream": proxytest.ChatStream("a"),
		} {
			for _, header := range []string{"X-Request-Id", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "Openai-Processing-Ms", "Openai-Version", "X-Ratelimit-Scope"} {
				answer = answer.WithHeader(header, text, "second "+text)
			}
			res, _ := anAsk(t, f, answer)
			for _, header := range []string{"X-Request-Id", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "Openai-Processing-Ms", "Openai-Version", "X-Ratelimit-Scope"} {
				if got := res.Header[header]; !slices.Equal(got, []string{want, "second " + want}) {
					t.Errorf("%s: %s is %q, want %q twice", name, header, got, want)
				}
			}
		}
		res, _ := anAsk(t, f, proxytest.JSON(200, "{}").WithHeader("Content-Type", "application/json; x="+text))
		if got := res.Header.Get("Content-Type"); got != "application/json; x="+want {
			t.Errorf("Content-Type %q", got)
		}
	}
}

// What succeeded is not searched: a chance match would corrupt it.
func TestSuccessfulBodiesAreNotSearched(t *testing.T) {
	t.Parallel()
	f := start(t)
	body := `{"text":"sk-abcdefgh org-Abcdefgh proj_Abcdefgh \u0073k-abcdefgh"}`
	res, got := anAsk(t, f, proxytest.JSON(200, body))
	anWant(t, res, got, 200, body)
	stream := "data: " + body + "\n\ndata: [DONE]\n\n"
	res, got = anAsk(t, f, proxytest.Stream(proxytest.Text(stream)))
	anWant(t, res, got, 200, stream)
}
