package proxy_test

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// pipeTransport answers with a body that knows of no context and never ends.
func pipeTransport(t *testing.T, contentType, first string) brokenTransport {
	t.Helper()
	return func(*http.Request) (*http.Response, error) {
		body, more := io.Pipe()
		go func() { _, _ = io.WriteString(more, first) }()
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {contentType}}, Body: body}, nil
	}
}

func TestStreamIdleEndsABodyThatIgnoresTheContext(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		var told outcomes
		returned := make(chan struct{})
		f := w.start(t, returning(returned), proxy.WithTransport(pipeTransport(t, "text/event-stream", "data: a\n\n")),
			proxy.WithLimits(proxy.Limits{StreamIdle: 2 * time.Second}), told.hook())
		began := time.Now()
		res := open(t.Context(), t, f, streamPath, streamRequest)
		wantNext(t, res.Body, "data: a\n\n")
		wantBroken(t, w, res.Body, "", proxy.CodeUpstreamTimeout)
		<-returned
		wantTook(t, began, 2*time.Second+lastWords)
		if out := told.only(t); out.Ending != proxy.EndingUpstreamCut {
			t.Errorf("ending %s, want %s", out.Ending, proxy.EndingUpstreamCut)
		}
	})
}

func TestStreamIdleEndsAPlainBodyThatIgnoresTheContext(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, w wire) {
		var told outcomes
		f := w.start(t, nil, proxy.WithTransport(pipeTransport(t, "application/json", `{"id":`)),
			proxy.WithLimits(proxy.Limits{StreamIdle: 2 * time.Second}), told.hook())
		began := time.Now()
		res, body := f.post(t, streamPath, plainRequest)
		wantFailure(t, res, body, http.StatusGatewayTimeout, proxy.CodeUpstreamTimeout)
		wantTook(t, began, 2*time.Second)
		if out := told.only(t); out.Ending != proxy.EndingError {
			t.Errorf("ending %s, want %s", out.Ending, proxy.EndingError)
		}
	})
}

func TestOddAnswersOfATransport(t *testing.T) {
	t.Parallel()
	head := func(contentType ...string) http.Header { return http.Header{"Content-Type": contentType} }
	text := func(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }
	for name, tt := range map[string]struct {
		answer func() *http.Response
		status int
		code   proxy.ErrorCode
	}{
		"no response": {func() *http.Response { return nil }, 502, proxy.CodeUpstreamBadResponse},
		"200 without a body": {func() *http.Response {
			return &http.Response{StatusCode: 200, Header: head("application/json")}
		}, 502, proxy.CodeUpstreamBadResponse},
		"429 without a body": {func() *http.Response {
			return &http.Response{StatusCode: 429, Header: head("application/json")}
		}, 429, ""},
		"204": {func() *http.Response {
			return &http.Response{StatusCode: 204, Header: head("application/json"), Body: text("{}")}
		}, 502, proxy.CodeUpstreamBadResponse},
		"204 as a stream": {func() *http.Response {
			return &http.Response{StatusCode: 204, Header: head("text/event-stream"), Body: text("data: x\n\n")}
		}, 502, proxy.CodeUpstreamBadResponse},
		"205": {func() *http.Response {
			return &http.Response{StatusCode: 205, Header: head("application/json"), Body: text("{}")}
		}, 502, proxy.CodeUpstreamBadResponse},
		"204 without a header": {func() *http.Response { return &http.Response{StatusCode: 204} }, 502, proxy.CodeUpstreamBadResponse},
	} {
		for _, request := range []string{plainRequest, streamRequest} {
			t.Run(name+" "+request, func(t *testing.T) {
				t.Parallel()
				book := newDoneBook()
				f := start(t, proxy.WithTransport(brokenTransport(func(*http.Request) (*http.Response, error) { return tt.answer(), nil })),
					proxy.WithHooks(proxy.Hooks{Done: book.done}))
				res, body := f.post(t, streamPath, request)
				if res.StatusCode != tt.status || tt.code != "" && !strings.Contains(body, `"code":"`+string(tt.code)+`"`) {
					t.Errorf("%d %s, want %d %s", res.StatusCode, brief(body), tt.status, tt.code)
				}
				if got := book.only(t, f); got.out.Ending != proxy.EndingError || got.out.Status != tt.status {
					t.Errorf("Done was told %+v", got.out)
				}
			})
		}
	}
}

// Whatever its type, what is no final answer is none, and a transport of the host
// may hand one over.
func TestF17OnlyFinalAnswersAreRelayed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{-1, 0, 99, 100, 101, 102, 103, 199} {
		for contentType, body := range map[string]string{"application/json": `{"a":1}`, "text/event-stream": "data: x\n\n"} {
			for _, request := range []string{plainRequest, streamRequest} {
				f := start(t, proxy.WithTransport(brokenTransport(func(*http.Request) (*http.Response, error) {
					return &http.Response{
						StatusCode: status, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body)),
					}, nil
				})))
				res, got := f.post(t, streamPath, request)
				wantFailure(t, res, got, http.StatusBadGateway, proxy.CodeUpstreamBadResponse)
			}
		}
	}
	f := start(t)
	f.up.Queue(proxytest.Raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Type: application/json\r\n\r\n{}"))
	res, got := f.post(t, streamPath, plainRequest)
	wantFailure(t, res, got, http.StatusBadGateway, proxy.CodeUpstreamBadResponse)
}

// A transport of the host may not look whether as much came as was announced.
func TestF15AnswerOfAnotherLengthThanAnnounced(t *testing.T) {
	t.Parallel()
	const body = `{"a":1}`
	for _, length := range []int{len(body) - 1, len(body), len(body) + 2, 100 << 10} {
		f := start(t, proxy.WithTransport(brokenTransport(func(*http.Request) (*http.Response, error) {
			return &http.Response{
				StatusCode: http.StatusOK, ContentLength: int64(length), Body: io.NopCloser(strings.NewReader(body)),
				Header: http.Header{"Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(length)}},
			}, nil
		})))
		res, got := f.post(t, streamPath, plainRequest)
		if length == len(body) {
			if res.StatusCode != http.StatusOK || got != body {
				t.Errorf("%d %s, want 200 %s", res.StatusCode, got, body)
			}
			continue
		}
		wantFailure(t, res, got, http.StatusBadGateway, proxy.CodeUpstreamBadResponse)
	}
}

func TestS36OneContentTypeGoesOn(t *testing.T) {
	t.Parallel()
	for first, body := range map[string]string{"application/json": "{}", "text/event-stream": "data: x\n\n"} {
		f := start(t, proxy.WithTransport(brokenTransport(func(*http.Request) (*http.Response, error) {
			return &http.Response{
				StatusCode: 200, Header: http.Header{"Content-Type": {first, "text/html"}}, Body: io.NopCloser(strings.NewReader(body)),
			}, nil
		})))
		res, got := f.post(t, streamPath, streamRequest)
		if !slices.Equal(res.Header["Content-Type"], []string{first}) || got != body {
			t.Errorf("Content-Type %q, body %q; want %q, %q", res.Header["Content-Type"], got, first, body)
		}
	}
}
