package main

import (
	"context"
	"expvar"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/openai-proxy-go/proxy"
)

// metrics counts calls. It is an http.Handler that shows the counts as JSON, in
// the form of expvar, and nothing else: expvar.Handler would show the command
// line too, which may have secrets in it.
//
// Every key is one of a few that the program knows. Nothing that a client
// chooses is a key, such as the model or a path: each new one would take memory
// for ever.
type metrics struct {
	all       expvar.Map // what follows, by name
	calls     expvar.Map // by route, ending and class of the status: "chat complete 2xx"
	usage     expvar.Map // calls by how their tokens are known
	tokens    expvar.Map // by kind
	cost      expvar.Int // in millionths of the prices' currency
	firstByte expvar.Map // of *histogram, by kind of call
	histogram map[kind]*histogram
}

// kind is what calls must have in common for their times to be compared: a
// stream begins when the model does, a plain answer when it is done, and an
// image takes longer than either.
type kind struct {
	route  proxy.Route
	stream bool
}

func (k kind) String() string {
	if k.stream {
		return string(k.route) + " stream"
	}
	return string(k.route)
}

func newMetrics() *metrics {
	m := &metrics{histogram: map[kind]*histogram{}}
	m.all.Set("calls", &m.calls)
	m.all.Set("usage", &m.usage)
	m.all.Set("tokens", &m.tokens)
	m.all.Set("cost_millionths", &m.cost)
	m.all.Set("first_byte_seconds", &m.firstByte)
	for _, route := range []proxy.Route{proxy.RouteChat, proxy.RouteImages, proxy.RouteImageEdits} {
		for _, stream := range []bool{false, true} {
			k := kind{route, stream}
			m.histogram[k] = newHistogram()
			m.firstByte.Set(k.String(), m.histogram[k])
		}
	}
	return m
}

// done is a hook: the end of the answer waits for it, so it only counts. Calls
// that never became one are not here: what a policy, an Admit hook, a caller
// function or the check of the origin refused, or a body that is no JSON.
func (m *metrics) done(_ context.Context, call proxy.Call, outcome proxy.Outcome) {
	m.calls.Add(fmt.Sprintf("%s %s %dxx", call.Route, outcome.Ending, outcome.Status/100), 1)
	switch used := outcome.Usage; {
	case used.Reported:
		m.usage.Add("reported", 1)
	case used.Estimated:
		m.usage.Add("estimated", 1)
	default: // refused, or failed before the model did anything
		m.usage.Add("none", 1)
	}
	m.tokens.Add("prompt", outcome.Usage.PromptTokens)
	m.tokens.Add("prompt_cached", outcome.Usage.CachedTokens) // part of prompt
	m.tokens.Add("completion", outcome.Usage.CompletionTokens)
	m.tokens.Add("completion_reasoning", outcome.Usage.ReasoningTokens) // part of completion
	m.cost.Add(int64(outcome.Cost))
	if h := m.histogram[kind{call.Route, call.Stream}]; h != nil && outcome.FirstByte > 0 {
		h.observe(outcome.FirstByte)
	}
}

// histogram counts durations in buckets as Prometheus has them: each counts what
// took at most so many seconds, so the last counts all.
type histogram struct {
	expvar.Map // "le 0.5": 7
	sum        expvar.Float
}

// bounds reach from a cached answer to a model that thinks for minutes.
var bounds = []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300}

func newHistogram() *histogram {
	h := &histogram{}
	for _, bound := range bounds {
		h.Add(bucket(bound), 0) // shown from the start
	}
	h.Add("le +Inf", 0)
	h.Set("sum", &h.sum)
	return h
}

func bucket(bound float64) string { return "le " + strconv.FormatFloat(bound, 'g', -1, 64) }

func (h *histogram) observe(d time.Duration) {
	for _, bound := range bounds {
		if d.Seconds() <= bound {
			h.Add(bucket(bound), 1)
		}
	}
	h.Add("le +Inf", 1)
	h.sum.Add(d.Seconds())
}

// ServeHTTP shows the counts. A page of the web can have its visitor's browser
// ask a server on loopback, and read the answer if the page's own name resolves
// to 127.0.0.1 by then (DNS rebinding); the Host header still has that name.
func (m *metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !isLocal(r.Host):
		http.Error(w, "This host is not served here.", http.StatusMisdirectedRequest)
	case r.URL.Path != "/debug/vars":
		http.NotFound(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "Use GET.", http.StatusMethodNotAllowed)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = fmt.Fprintln(w, m.all.String()) // whoever asked may be gone
	}
}

func isLocal(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
