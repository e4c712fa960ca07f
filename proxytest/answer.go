package proxytest

import (
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// An Answer is one reply of an [Upstream]. The zero Answer is the plausible one
// that a request gets without a script. Answers are values: methods return a
// changed copy, and one Answer may be queued many times.
type Answer struct {
	plan   func(*Request) reply
	before []Step
	status int
	header http.Header
	early  bool
}

// reply is an answer made out for one request. A handler excludes the rest; raw
// excludes status, header and body; steps exclude a body.
type reply struct {
	status  int
	header  http.Header
	body    string
	steps   []Step
	stream  bool
	raw     bool
	handler http.HandlerFunc
}

// JSON answers with a body labelled application/json, which is not looked at.
func JSON(status int, body string) Answer {
	return Answer{plan: func(*Request) reply { return jsonReply(status, body) }}
}

// Failure answers with the error envelope of the API. The parameter is null, and
// so is an empty code.
func Failure(status int, typ, code, message string) Answer {
	return JSON(status, envelope(typ, code, message))
}

// RateLimited answers 429 with Retry-After in whole seconds, rounded up,
// retry-after-ms, and x-ratelimit-* headers that leave no request. The message
// names an organization, as that of the API does.
func RateLimited(after time.Duration) Answer {
	after = max(after, 0)
	return Failure(http.StatusTooManyRequests, "requests", "rate_limit_exceeded",
		"Rate limit reached in organization org-Proxytest0123456789 on requests per min (RPM): Limit 3, Used 3, Requested 1.").
		WithHeader("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds())))).
		WithHeader("Retry-After-Ms", strconv.FormatInt(after.Milliseconds(), 10)).
		WithHeader("X-Ratelimit-Remaining-Requests", "0").
		WithHeader("X-Ratelimit-Reset-Requests", after.String())
}

// Stream answers 200 with text/event-stream. The headers go out first, then step
// by step; after the last step the stream ends cleanly.
func Stream(steps ...Step) Answer {
	return Answer{plan: func(*Request) reply { return streamReply(steps) }}
}

// Respond is the general answer: the header is added to that of [JSON] without
// its Content-Type, then the steps follow as in [Stream]. A Content-Length that
// the steps do not keep to is a broken transfer. Without steps the body is
// empty.
func Respond(status int, header http.Header, steps ...Step) Answer {
	return Answer{plan: func(*Request) reply {
		return reply{status: status, header: header, steps: steps, stream: len(steps) > 0}
	}}
}

// Raw writes bytes on the connection as they are, does the steps, among which
// [Text] writes as it is too, and closes the connection: malformed framing, an
// early end, no HTTP at all. Raw("") closes without a word. HTTP/1 only: over
// HTTP/2 the stream is reset as by [Cut].
func Raw(bytes string, steps ...Step) Answer {
	steps = append([]Step{Text(bytes)}, steps...)
	return Answer{plan: func(*Request) reply { return reply{raw: true, steps: steps} }}
}

// Hang answers nothing, not even headers, until the caller leaves.
func Hang() Answer {
	return JSON(http.StatusOK, "{}").After(Silence())
}

// HandlerFunc lets f answer, for what no other answer can say, such as trailers
// or informational responses. The request's body can be read once more.
func HandlerFunc(f func(http.ResponseWriter, *http.Request)) Answer {
	return Answer{plan: func(*Request) reply { return reply{handler: f} }}
}

// WithStatus replaces the status. [Raw] and [HandlerFunc] ignore it.
func (a Answer) WithStatus(status int) Answer {
	a.status = status
	return a
}

// WithHeader replaces a header, whoever set it; with no values the header is not
// sent at all. [Raw] and [HandlerFunc] ignore it.
//
// Every other answer has the headers that the API sends: Content-Type,
// X-Request-Id (req_ and 32 digits, counted from 1), Openai-Version,
// Openai-Processing-Ms, Openai-Organization, Openai-Project, six
// X-Ratelimit-*, Set-Cookie (__cf_bm), Access-Control-Allow-Origin (*), two
// Access-Control-Expose-Headers, Cf-Ray, Cf-Cache-Status, Server, Alt-Svc,
// Strict-Transport-Security, X-Content-Type-Options.
func (a Answer) WithHeader(key string, values ...string) Answer {
	a.header = maps.Clone(a.header)
	if a.header == nil {
		a.header = http.Header{}
	}
	a.header[http.CanonicalHeaderKey(key)] = values
	return a
}

// After puts steps before the headers: After(Pause(d)) thinks first,
// After(Cut()) closes without a word on HTTP/1 and HTTP/2 alike. [Text] has no
// place here.
func (a Answer) After(steps ...Step) Answer {
	a.before = slices.Concat(a.before, steps)
	return a
}

// Early gives the answer before the request's body is read, which is then left
// unread: [Request] has no Body. Over HTTP/1 the connection is closed behind it, and
// net/http does not notice that a caller leaves while its body is unread.
func (a Answer) Early() Answer {
	a.early = true
	return a
}

// give gives the answer and says how it ended.
func (a Answer) give(x *exchange) ending {
	if end := x.do(a.before); end != complete {
		return end
	}
	rep := a.plan(x.req)
	switch {
	case rep.handler != nil:
		rep.handler(x.w, x.r)
		return complete
	case rep.raw:
		return x.takeOver(rep.steps)
	}
	header := x.w.Header()
	maps.Copy(header, apiHeader(x.req))
	maps.Copy(header, canonical(rep.header))
	maps.Copy(header, a.header)
	status := rep.status
	if a.status != 0 {
		status = a.status
	}
	if rep.stream {
		x.w.WriteHeader(status)
		if err := x.flush(); err != nil {
			return abandoned
		}
		return x.do(rep.steps)
	}
	if _, set := header["Content-Length"]; !set && rep.body != "" {
		header.Set("Content-Length", strconv.Itoa(len(rep.body)))
	}
	x.w.WriteHeader(status)
	_, _ = x.w.Write([]byte(rep.body)) // a caller that left is seen by its context
	return complete
}

func jsonReply(status int, body string) reply {
	return reply{
		status: status, body: body,
		header: http.Header{"Content-Type": {"application/json"}},
	}
}

func streamReply(steps []Step) reply {
	return reply{
		status: http.StatusOK, steps: steps, stream: true,
		header: http.Header{"Content-Type": {"text/event-stream; charset=utf-8"}},
	}
}

// canonical returns a copy of h whose keys net/http finds.
func canonical(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for key, values := range h {
		out[http.CanonicalHeaderKey(key)] = values
	}
	return out
}

// apiHeader returns what api.openai.com sends with every answer, as listed at
// WithHeader. Whoever relays an answer should drop about half of it.
func apiHeader(req *Request) http.Header {
	return http.Header{
		"X-Request-Id":                   {"req_" + req.id},
		"Openai-Version":                 {"2020-10-01"},
		"Openai-Processing-Ms":           {"42"},
		"Openai-Organization":            {"org-Proxytest0123456789"},
		"Openai-Project":                 {"proj_Proxytest0123456789"},
		"X-Ratelimit-Limit-Requests":     {"500"},
		"X-Ratelimit-Limit-Tokens":       {"30000"},
		"X-Ratelimit-Remaining-Requests": {"499"},
		"X-Ratelimit-Remaining-Tokens":   {"29979"},
		"X-Ratelimit-Reset-Requests":     {"120ms"},
		"X-Ratelimit-Reset-Tokens":       {"42ms"},
		"Set-Cookie":                     {"__cf_bm=proxytest; path=/; domain=.api.openai.com; HttpOnly; Secure; SameSite=None"},
		"Access-Control-Allow-Origin":    {"*"},
		"Access-Control-Expose-Headers":  {"X-Request-ID", "CF-Ray"},
		"Cf-Ray":                         {"0123456789abcdef-FRA"},
		"Cf-Cache-Status":                {"DYNAMIC"},
		"Server":                         {"cloudflare"},
		"Alt-Svc":                        {`h3=":443"; ma=86400`},
		"Strict-Transport-Security":      {"max-age=31536000; includeSubDomains; preload"},
		"X-Content-Type-Options":         {"nosniff"},
	}
}
