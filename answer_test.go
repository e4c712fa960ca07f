package proxy_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// anOpenAI renders an error body of the OpenAI face; an empty param or code is
// null.
func anOpenAI(status int, message, typ, param, code string) string {
	text := func(s string) string {
		if s == "" {
			return "null"
		}
		return strconv.Quote(s)
	}
	return `{"error":{"message":` + strconv.Quote(message) + `,"type":"` + typ + `","param":` + text(param) + `,"code":` + text(code) + `},"message":` +
		strconv.Quote(message) + `,"status":` + strconv.Itoa(status) + "}\n"
}

// anAsk sends a chat request to the OpenAI face, to be answered so.
func anAsk(t *testing.T, f *fixture, answer proxytest.Answer, header ...string) (*http.Response, string) {
	t.Helper()
	f.up.Queue(answer)
	return f.post(t, "/v1/chat/completions", rtChat, header...)
}

// anWant checks status and body.
func anWant(t *testing.T, res *http.Response, body string, status int, want string) {
	t.Helper()
	if res.StatusCode != status || body != want {
		t.Errorf("status %d: %s\nwant %d: %s", res.StatusCode, bdShort(body), status, bdShort(want))
	}
}

// anRelayed are the headers that go on from the upstream.
func anRelayed() http.Header {
	return http.Header{
		"Content-Type": {"application/json; charset=utf-8"}, "Retry-After": {"7"}, "Retry-After-Ms": {"6500"}, "X-Should-Retry": {"true"},
		"X-Request-Id": {"req_from_upstream"}, "Openai-Processing-Ms": {"123"}, "Openai-Version": {"2020-10-01"},
		"X-Ratelimit-Limit-Requests": {"500"}, "X-Ratelimit-Limit-Tokens": {"30000"}, "X-Ratelimit-Remaining-Requests": {"499"},
		"X-Ratelimit-Remaining-Tokens": {"29979"}, "X-Ratelimit-Reset-Requests": {"120ms"}, "X-Ratelimit-Reset-Tokens": {"6m0s"},
		"X-Ratelimit-Limit-Tokens_usage_based": {"1"}, "X-Ratelimit-Limit-Images": {"5"}, "X-Ratelimit-New": {"a", "b"},
	}
}

// anDropped are headers that must not go on from the upstream.
func anDropped() []string {
	return strings.Fields(`Set-Cookie Set-Cookie2 Access-Control-Allow-Origin Access-Control-Allow-Credentials Access-Control-Allow-Headers
		Access-Control-Allow-Methods Access-Control-Expose-Headers Access-Control-Max-Age Access-Control-Allow-Private-Network Openai-Organization
		Openai-Project Openai-Model Openai-Poll-After-Ms Cf-Ray Cf-Cache-Status Cf-Connecting-Ip Cf-Mitigated Server Alt-Svc Strict-Transport-Security Via
		X-Powered-By X-Envoy-Upstream-Service-Time X-Generation-Id X-Robots-Tag X-Frame-Options Content-Security-Policy Content-Security-Policy-Report-Only
		Report-To Reporting-Endpoints Nel Location Content-Location Refresh Link Etag Last-Modified Expires Age Pragma Warning Www-Authenticate
		Proxy-Authenticate Proxy-Authorization Proxy-Connection Keep-Alive Trailer Upgrade Te Accept-Ranges Content-Range Content-Disposition
		Content-Language Content-Md5 Digest Allow Accept-Patch Clear-Site-Data Timing-Allow-Origin Server-Timing Sourcemap Authorization Api-Key X-Api-Key
		Cookie Origin Host Public-Key-Pins Expect-Ct P3p Vary X-Ratelimit X-Rate-Limit-Limit Ratelimit-Limit X-Request-Id-2 Request-Id
		Ms-Azureml-Model-Session Apim-Request-Id Azureml-Model-Group X-Content-Duration X-Accel-Redirect X-Accel-Buffering X-Sendfile X-Should-Retry-2
		Retry-After-2 Openai-Version-2 Cross-Origin-Opener-Policy Cross-Origin-Resource-Policy Permissions-Policy Referrer-Policy Cache-Control
		X-Openai-Public-Ip X-Codex-Credits-Balance X-Amzn-Requestid X-Amz-Cf-Id X-Cache X-Served-By X-Timer X-Runtime X-Trace-Id X-B3-Traceid Traceparent
		Tracestate X-Cloud-Trace-Context X-Backend-Server X-Upstream X-Forwarded-For X-Real-Ip X-Debug X-Aspnet-Version Fly-Request-Id X-Vercel-Id
		X-Openai-Key X-Stainless-Lang Idempotency-Key Litellm-Model-Id X-Litellm-Key-Spend X-Portkey-Trace-Id Helicone-Id Openai-Beta User-Agent
		X-Ratelimits Xx-Ratelimit-Limit Retry-After-Seconds X_request_id`)
}

// anRaw renders an answer with all of these headers, two of them in lower case.
func anRaw(status int, contentType, body string) proxytest.Answer {
	var b strings.Builder
	b.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " x\r\n")
	for name, values := range anRelayed() {
		for _, v := range values {
			if name == "Content-Type" {
				v = contentType
			}
			b.WriteString(strings.ToLower(name) + ": " + v + "\r\n")
		}
	}
	for i, name := range anDropped() {
		if name == "Upgrade" || name == "Trailer" {
			b.WriteString(name + ": x-dropped\r\n")
			continue
		}
		b.WriteString(name + ": dropped " + strconv.Itoa(i) + "\r\n")
	}
	b.WriteString("Connection: X-Hop, close\r\nX-Hop: dropped\r\n")
	b.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	return proxytest.Raw(b.String())
}

func TestS8OnlyListedHeadersComeDown(t *testing.T) {
	t.Parallel()
	if n := len(anDropped()); n < 120 {
		t.Errorf("%d headers that must not come down, want 120", n)
	}
	const errorBody = `{"error":{"message":"m","type":"t","param":null,"code":"c"}}`
	for name, tc := range map[string]struct {
		status            int
		contentType, body string
		ours              map[string]string
	}{
		"answer": {200, "application/json; charset=utf-8", `{}`, map[string]string{"Cache-Control": "no-store", "Content-Length": "2"}},
		"error": {429, "application/json; charset=utf-8", errorBody, map[string]string{
			"Cache-Control": "no-store", "Content-Type": "application/json", "Content-Length": strconv.Itoa(len(anOpenAI(429, "m", "t", "", "c"))),
		}},
		"stream": {200, "text/event-stream; charset=utf-8", "data: [DONE]\n\n", map[string]string{
			"Cache-Control": "no-cache, no-transform", "Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			res, _ := anAsk(t, f, anRaw(tc.status, tc.contentType, tc.body))
			want := anRelayed()
			for name, value := range tc.ours {
				want[name] = []string{value}
			}
			want.Set("X-Content-Type-Options", "nosniff")
			got := res.Header.Clone()
			got.Del("Date") // of the server that mounts the handler
			if res.StatusCode != tc.status {
				t.Errorf("status %d, want %d", res.StatusCode, tc.status)
			}
			anSameHeader(t, got, want)
		})
	}
}

// On no way down comes what is not listed: neither as a header nor in a body.
func TestS8NothingElseComesDownOnAnyWay(t *testing.T) {
	t.Parallel()
	f := setup{wrap: singleMounts}.start(t)
	for _, way := range everyWay(t, "hello", nil) {
		for _, status := range []int{200, 429, 500} {
			f.up.Queue(anRaw(status, "application/json; charset=utf-8", `{}`))
			res, body := way.ask(t, f, "")
			if strings.Contains(body, "dropped") {
				t.Errorf("%s, %d: %s", way.name(), status, body)
			}
			for name, values := range res.Header {
				if strings.Contains(strings.Join(values, " "), "dropped") {
					t.Errorf("%s, %d: %s is %q", way.name(), status, name, values)
				}
			}
		}
	}
}

func anSameHeader(t *testing.T, got, want http.Header) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !slices.Equal(got[name], want[name]) {
			t.Errorf("header %s is %q, want %q", name, got[name], want[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			t.Errorf("header %s: %q is there and should not", name, got[name])
		}
	}
}

func TestAPIHeadersOfAnOrdinaryAnswer(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, answer := range []proxytest.Answer{{}, proxytest.RateLimited(0), proxytest.ChatStream("a"), proxytest.Failure(500, "server_error", "", "m")} {
		res, _ := anAsk(t, f, answer)
		for name := range res.Header {
			allowed := []string{
				"Content-Type", "Content-Length", "Date", "Cache-Control", "X-Accel-Buffering", "X-Content-Type-Options", "X-Request-Id", "Openai-Version",
				"Openai-Processing-Ms", "Retry-After", "Retry-After-Ms",
			}
			if !slices.Contains(allowed, name) && !strings.HasPrefix(name, "X-Ratelimit-") {
				t.Errorf("status %d: header %s: %q", res.StatusCode, name, res.Header[name])
			}
		}
		if len(res.Header["X-Content-Type-Options"]) != 1 || !strings.HasPrefix(res.Header.Get("X-Request-Id"), "req_000") {
			t.Errorf("status %d: %q", res.StatusCode, res.Header)
		}
	}
}

func TestF17TrailersAreDropped(t *testing.T) {
	t.Parallel()
	eachWire(t, everyWire(), func(t *testing.T, w wire) {
		f := w.start(t, nil)
		for contentType, text := range map[string]string{"application/json": `{}`, "text/event-stream": "data: x\n\n"} {
			res, body := anAsk(t, f, proxytest.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", contentType)
				w.Header().Set("Trailer", "X-Ratelimit-Late")
				_, _ = w.Write([]byte(text))
				w.Header().Set("X-Ratelimit-Late", "1")
				w.Header().Set(http.TrailerPrefix+"X-Request-Id", "late")
			}))
			if res.StatusCode != http.StatusOK || body != text || len(res.Trailer) != 0 || res.Header.Get("X-Ratelimit-Late") != "" {
				t.Errorf("status %d: %s, trailer %q, header %q", res.StatusCode, body, res.Trailer, res.Header)
			}
		}
	})
}

// anUnsent are request headers that stay here.
func anUnsent() []string {
	return strings.Fields(`Authorization Cookie Origin Referer Api-Key X-Api-Key X-Openai-Key X-Goog-Api-Key Anthropic-Version Openai-Organization
		Openai-Project Forwarded X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto X-Forwarded-Port X-Forwarded-User X-Forwarded-Uri X-Real-Ip True-Client-Ip
		Cf-Connecting-Ip Via Idempotency-Key X-Idempotency-Key Accept-Language Accept-Charset Cache-Control Pragma Range If-Match If-None-Match
		If-Modified-Since Date From Warning Dnt Sec-Fetch-Mode Sec-Fetch-Dest Sec-Ch-Ua Sec-Gpc Priority Traceparent Tracestate Baggage X-B3-Traceid
		X-Request-Id X-Correlation-Id X-Amzn-Trace-Id X-Csrf-Token X-Requested-With X-Http-Method-Override X-Original-Url X-Rewrite-Url Proxy-Authorization
		Content-Language Content-Disposition Content-Location Content-Md5 Digest Openai-Version Openai-Beta-2 X-Client-Request-Id-2 X-Stainless Stainless-Lang
		X_stainless_lang Helicone-Auth X-Portkey-Config Http-Referer X-Title Max-Forwards Access-Control-Request-Headers Api_base Upstream Host-2 X-Host
		X-Ms-Client-Request-Id Apikey X-Auth-Token X-Access-Token X-Amz-Security-Token X-Api-Version Openai-Model X-Portkey-Api-Key X-Portkey-Provider
		X-Litellm-Api-Key X-Bf-Vk Cf-Access-Jwt-Assertion X-Forwarded-Server X-Forwarded-Prefix X-Original-Host X-Client-Ip X-Cluster-Client-Ip
		Fastly-Client-Ip X-Envoy-External-Address X-Remote-User X-Webauth-User Remote-User X_forwarded_user X-Debug X-Trace Save-Data Downlink Rtt
		Device-Memory Viewport-Width Width Sec-Fetch-User Sec-Purpose Sec-Ch-Ua-Platform Purpose Link Expect-Ct Client-Cert Client-Cert-Chain
		If-Unmodified-Since If-Range X-Openai-Organization X-Stainles-Lang Xx-Stainless-Lang Accept-Datetime A-Im`)
}

func TestS8OnlyListedHeadersGoUp(t *testing.T) {
	t.Parallel()
	if n := len(anUnsent()); n < 120 {
		t.Errorf("%d headers that must not go up, want 120", n)
	}
	sent := []string{
		"User-Agent", "OpenAI/JS 7.57.0", "Openai-Beta", "assistants=v2", "X-Client-Request-Id", "c-1",
		"X-Stainless-Lang", "js", "x-stainless-retry-count", "0", "X-Stainless-Anything-New", "a", "X-Stainless-Anything-New", "b",
		"Sec-Fetch-Site", "same-origin",
	}
	for _, name := range anUnsent() {
		if name == "Origin" {
			continue // refused by its own rule
		}
		sent = append(sent, name, "unsent")
	}
	want := func(way way, length int64, auth, key string) http.Header {
		h := http.Header{
			"Accept": {way.accept}, "User-Agent": {"OpenAI/JS 7.57.0"}, "Openai-Beta": {"assistants=v2"}, "X-Client-Request-Id": {"c-1"},
			"X-Stainless-Lang": {"js"}, "X-Stainless-Retry-Count": {"0"}, "X-Stainless-Anything-New": {"a", "b"},
			"Content-Type": {"application/json"}, "Content-Length": {strconv.FormatInt(length, 10)}, "Accept-Encoding": {"identity"},
		}
		if strings.HasPrefix(way.contentType, "multipart/") {
			h["Content-Type"] = []string{way.contentType}
		}
		if auth != "" {
			h[auth] = []string{key}
		}
		return h
	}
	for name, tc := range map[string]struct {
		option    proxy.Option
		auth, key string
	}{
		"bearer":     {nil, "Authorization", "Bearer " + canary},
		"lower case": {proxy.WithAuthHeader("authorization"), "Authorization", "Bearer " + canary},
		"Azure's":    {proxy.WithAuthHeader("api-key"), "Api-Key", canary},
		"another":    {proxy.WithAuthHeader("X-Goog-Api-Key"), "X-Goog-Api-Key", canary},
		"no key":     {proxy.WithAuthHeader(""), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup{options: []proxy.Option{tc.option}, wrap: singleMounts}.start(t)
			for _, way := range everyWay(t, "hello", nil) {
				if res, body := way.ask(t, f, "", sent...); res.StatusCode != http.StatusOK || strings.Contains(body, `"errors"`) {
					t.Errorf("%s: status %d: %s", way.name(), res.StatusCode, body)
				}
				got := f.up.Next()
				anSameHeader(t, got.Header, want(way, got.ContentLength, tc.auth, tc.key))
				if len(got.Body) != int(got.ContentLength) || !way.rewritten && string(got.Body) != way.body {
					t.Errorf("%s: sent %s", way.name(), got.Body)
				}
			}
		})
	}
}

func TestNothingIsAddedForAClientThatSendsNothing(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.post(t, "/v1/chat/completions", rtChat, "User-Agent", "")
	got := f.up.Next()
	anSameHeader(t, got.Header, http.Header{
		"Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(len(rtChat))}, "Accept-Encoding": {"identity"}, "Authorization": {"Bearer " + canary},
	})
}

func TestStatusAndBytesAreRelayed(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, body := range []string{
		`{}`, `[]`, ` {"a":9007199254740993,"b":1.10} `, "\n\n\n{\"late\":true}\n", "\r\n\t [1]\t\r\n", `{"key":"sk-aaaaaaaabbbbbbbb org-Aaaaaaaa proj_Aaaaaaaa"}`,
		"{\"bytes\":\"\xff\xfe\"}", `{not json at all}`, `[}{]`, `{"error":{"message":"in a 200"}}`, `{"a":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		for _, status := range []int{200, 201, 202, 203, 206, 226, 299} {
			res, got := anAsk(t, f, proxytest.JSON(status, body))
			anWant(t, res, got, status, body)
			if n := res.Header.Get("Content-Length"); n != strconv.Itoa(len(body)) {
				t.Errorf("Content-Length %s, want %d", n, len(body))
			}
		}
	}
}

func TestF14ErrorStatusIsKept(t *testing.T) {
	t.Parallel()
	f := start(t)
	for status := 400; status < 600; status++ {
		if status == http.StatusUnauthorized || status == http.StatusForbidden {
			continue
		}
		res, body := anAsk(t, f, proxytest.Failure(status, "some_type", "some_code", "some text").WithHeader("X-Should-Retry", "true"))
		anWant(t, res, body, status, anOpenAI(status, "some text", "some_type", "", "some_code"))
		if got := res.Header["X-Should-Retry"]; !slices.Equal(got, []string{"true"}) {
			t.Errorf("status %d: X-Should-Retry %q", status, got)
		}
		res, _ = anAsk(t, f, proxytest.Failure(status, "", "", ""))
		if got, ok := res.Header["X-Should-Retry"]; ok {
			t.Errorf("status %d: X-Should-Retry %q, want none", status, got)
		}
	}
}

func TestRequestIDIsTheUpstreamsOrTheClientsOrMade(t *testing.T) {
	t.Parallel()
	f := start(t)
	made := regexp.MustCompile(`^req_[A-Za-z0-9]{20,}$`)
	none := proxytest.JSON(200, "{}").WithHeader("X-Request-Id")
	for _, id := range []string{"a", "req_123", strings.Repeat("x", 128), "!#$%&'*+-.^_`|~09AZaz"} {
		res, _ := anAsk(t, f, none, "X-Request-Id", id)
		if got := res.Header["X-Request-Id"]; !slices.Equal(got, []string{id}) {
			t.Errorf("X-Request-Id %q, want %q", got, id)
		}
		res, _ = anAsk(t, f, proxytest.JSON(200, "{}").WithHeader("X-Request-Id", "theirs"), "X-Request-Id", id)
		if got := res.Header["X-Request-Id"]; !slices.Equal(got, []string{"theirs"}) {
			t.Errorf("X-Request-Id %q, want the upstream's", got)
		}
		for _, path := range []string{"/", "/nowhere"} {
			if res, _ := f.post(t, path, "", "X-Request-Id", id); !slices.Equal(res.Header["X-Request-Id"], []string{id}) {
				t.Errorf("%s: X-Request-Id %q, want %q", path, res.Header["X-Request-Id"], id)
			}
		}
		if res, _ := anAsk(t, f, proxytest.Raw(""), "X-Request-Id", id); !slices.Equal(res.Header["X-Request-Id"], []string{id}) {
			t.Errorf("X-Request-Id %q, want %q", res.Header["X-Request-Id"], id)
		}
	}
	seen := map[string]bool{}
	for _, id := range []string{"", "", "a b", strings.Repeat("x", 129), "é", `"a"`, "a,b", "a;b", "a/b", "a@b", "<a>", "a\tb", "{a}"} {
		var header []string
		if id != "" {
			header = []string{"X-Request-Id", id}
		}
		for _, answer := range []proxytest.Answer{none, proxytest.Failure(400, "t", "c", "m").WithHeader("X-Request-Id"), proxytest.ChatStream("a").WithHeader("X-Request-Id")} {
			res, _ := anAsk(t, f, answer, header...)
			got := res.Header["X-Request-Id"]
			if len(got) != 1 || !made.MatchString(got[0]) || seen[got[0]] {
				t.Errorf("for %q: X-Request-Id %q, want a new one", id, got)
				continue
			}
			seen[got[0]] = true
		}
	}
}

func TestUpstreamErrorObjectIsKeptWhole(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, object := range []string{
		`{"message":"m","type":"t","param":"p","code":"c"}`,
		`{"code":429,"message":"m","metadata":{"raw":"x","n":9007199254740993,"f":1.10},"type":null}`,
		`{"message":"<b>&\u0041\/é","inner":{"a":[1,2,{}]},"innererror":{"code":"ResponsibleAIPolicyViolation"},"code":"401"}`,
		`{"code":400}`,
		`{}`,
		`{"message":null,"message":"twice"}`,
		`{"message":["a","b"],"type":5}`,
	} {
		res, body := anAsk(t, f, proxytest.JSON(400, ` {"error": `+object+` , "x":1}`))
		var got struct {
			Error   json.RawMessage
			Message string
			Status  int
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 400 || string(got.Error) != object || got.Status != 400 || got.Message == "" {
			t.Errorf("status %d: %s, want the object %s", res.StatusCode, body, object)
		}
	}
}
