package proxy_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// rcLog keeps the records of a handler.
type rcLog struct{ buffer }

func (l *rcLog) option() proxy.Option {
	return proxy.WithLogger(slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})))
}

// calls are the records of calls.
func (l *rcLog) calls(t *testing.T) (records []gqlMap) {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		var record gqlMap
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if record["msg"] == "proxy call" {
			records = append(records, record)
		}
	}
	return records
}

// rcRow is a way a call ends, and what is told of it.
type rcRow struct {
	name     string
	answer   proxytest.Answer
	body     string
	leave    string // what the client has read when it leaves; "now": nothing; "": it stays
	user     string
	ending   proxy.Ending
	status   int
	attempts int
	usage    string // reported, estimated or none
	admitted bool
}

const (
	rcPlain  = `{"model":"cheap","messages":[{"role":"user","content":"secret prompt"}]}`
	rcStream = `{"model":"cheap","messages":[{"role":"user","content":"secret prompt"}],"stream":true}`
	rcUsage  = `{"id":"x","choices":[{"message":{"content":"secret answer"}}],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14}}`
	rcChunk  = "data: {\"choices\":[{\"delta\":{\"content\":\"secret answer\"}}]}\n\n"
	rcEnd    = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":5,\"total_tokens\":14}}\n\ndata: [DONE]\n\n"
)

func rcRows() []rcRow {
	partly := proxytest.Respond(http.StatusOK, http.Header{"Content-Type": {"application/json"}}, proxytest.Text(`{"id":`), proxytest.Silence())
	return []rcRow{
		{"complete", proxytest.JSON(200, rcUsage), rcPlain, "", "u", proxy.EndingComplete, 200, 1, "reported", true},
		{"complete stream", proxytest.Stream(proxytest.Text(rcChunk + rcEnd)), rcStream, "", "u", proxy.EndingComplete, 200, 1, "reported", true},
		{"gone before the upstream's headers", proxytest.Hang(), rcStream, "now", "u", proxy.EndingClientGone, 499, 1, "estimated", true},
		{"gone before the first byte", proxytest.Stream(proxytest.Silence()), rcStream, "headers", "u", proxy.EndingClientGone, 200, 1, "estimated", true},
		{"gone in the stream", proxytest.Stream(proxytest.Text(rcChunk), proxytest.Silence()), rcStream, rcChunk, "u", proxy.EndingClientGone, 200, 1, "estimated", true},
		{"gone within a plain answer", partly, rcPlain, "now", "u", proxy.EndingClientGone, 499, 1, "estimated", true},
		{"upstream cut", proxytest.Stream(proxytest.Text(rcChunk), proxytest.Cut()), rcStream, "", "u", proxy.EndingUpstreamCut, 200, 1, "estimated", true},
		{"upstream 4xx", proxytest.Failure(400, "t", "c", "no"), rcPlain, "", "u", proxy.EndingError, 400, 1, "none", true},
		{"upstream 5xx", proxytest.Failure(500, "t", "c", "no"), rcPlain, "", "u", proxy.EndingError, 500, 1, "none", true},
		{"refused by Admit", proxytest.Answer{}, rcPlain, "", "unwanted", proxy.EndingError, 403, 0, "none", false},
		{"refused by Rewrite", proxytest.Answer{}, rcPlain, "", "unwritten", proxy.EndingError, 409, 0, "none", true},
		{"refused by the limiter", proxytest.Answer{}, rcPlain, "", "limited", proxy.EndingError, 429, 0, "none", true},
		{"refused by the policy", proxytest.Answer{}, `{"model":"dear","messages":[]}`, "", "u", proxy.EndingError, 403, 0, "none", false},
	}
}

// rcGuards are all parts that decide about a call.
func rcGuards(book *doneBook, log *rcLog) []proxy.Option {
	return []proxy.Option{
		log.option(),
		proxy.WithCaller(func(r *http.Request) (proxy.Caller, error) { return proxy.Caller{ID: r.Header.Get("X-User")}, nil }),
		proxy.WithPolicy(proxy.Policy{Models: []string{"cheap"}}),
		proxy.WithPrices(map[string]proxy.Price{"cheap": {Prompt: 1, Completion: 2}}),
		proxy.WithLimiter(rcLimiter{}),
		proxy.WithHooks(proxy.Hooks{
			Done: book.done,
			Admit: func(_ context.Context, call proxy.Call) error {
				if call.Caller == "unwanted" {
					return errors.New("unwanted")
				}
				return nil
			},
			Rewrite: func(_ context.Context, call proxy.Call, body []byte) ([]byte, error) {
				if call.Caller == "unwritten" {
					return nil, &proxy.Error{Status: http.StatusConflict, Message: "not now"}
				}
				return body, nil
			},
		}),
	}
}

// rcLimiter has no room for one caller.
type rcLimiter struct{}

func (rcLimiter) Reserve(_ context.Context, call proxy.Call, _ proxy.Amount) (func(context.Context, proxy.Amount), error) {
	if call.Caller == "limited" {
		return nil, &proxy.Error{Status: http.StatusTooManyRequests}
	}
	return func(context.Context, proxy.Amount) {}, nil
}

// TestEveryCallLeavesOneRecord: and Done is told of every admitted one.
func TestEveryCallLeavesOneRecord(t *testing.T) {
	t.Parallel()
	for _, tt := range rcRows() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			book, log := newDoneBook(), &rcLog{}
			f := start(t, rcGuards(book, log)...)
			if tt.attempts > 0 {
				f.up.Queue(tt.answer)
			}
			tt.run(t, f)
			if tt.admitted {
				tt.checkOutcome(t, book.only(t, f))
			} else {
				book.none(t, f)
			}
			records := log.calls(t)
			if len(records) != 1 {
				t.Fatalf("%d records, want 1:\n%s", len(records), log.String())
			}
			tt.checkRecord(t, records[0])
			for _, secret := range []string{"secret", canary, "top secret header"} {
				if strings.Contains(log.String(), secret) {
					t.Errorf("%q is in the log:\n%s", secret, log.String())
				}
			}
			f.wantCalls(t, tt.attempts)
		})
	}
}

// run makes the request and leaves when it is time.
func (tt rcRow) run(t *testing.T, f *fixture) {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+streamPath, strings.NewReader(tt.body))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Authorization", "Cookie", "X-Secret"} {
		req.Header.Set(name, "Bearer top secret header")
	}
	req.Header.Set("X-User", tt.user)
	if tt.leave == "now" {
		go func() {
			f.up.Next()
			cancel()
		}()
	}
	res, err := f.Client().Do(req)
	if err != nil {
		if tt.leave != "now" {
			t.Fatal(err)
		}
		return
	}
	defer res.Body.Close()
	switch tt.leave {
	case "headers":
	case "":
		_, _ = io.Copy(io.Discard, res.Body) // the outcome tells
	default:
		if _, err := io.ReadFull(res.Body, make([]byte, len(tt.leave))); err != nil {
			t.Fatal(err)
		}
	}
}

func (tt rcRow) checkOutcome(t *testing.T, done ended) {
	t.Helper()
	out := done.out
	if out.Ending != tt.ending || out.Status != tt.status || out.Attempts != tt.attempts || done.call.Caller != tt.user {
		t.Errorf("outcome %+v of %v, want %s, %d, %d attempts", out, done.call, tt.ending, tt.status, tt.attempts)
	}
	known := map[string]bool{"reported": out.Usage.Reported, "estimated": out.Usage.Estimated, "none": out.Usage == proxy.Usage{}}
	if !known[tt.usage] || (out.Cost > 0) != (tt.usage != "none") {
		t.Errorf("usage %+v at %s, want it %s", out.Usage, out.Cost, tt.usage)
	}
	if tt.usage == "reported" && out.Cost != 19 { // nine at one, five at two
		t.Errorf("cost %s", out.Cost)
	}
}

func (tt rcRow) checkRecord(t *testing.T, record gqlMap) {
	t.Helper()
	if record["level"] != "INFO" || record["caller"] != tt.user || record["route"] != "chat" || record["ending"] != string(tt.ending) ||
		record["status"] != float64(tt.status) || record["attempts"] != float64(tt.attempts) ||
		record["stream"] != (tt.body == rcStream) || record["request_id"] == "" {
		t.Errorf("record %v", record)
	}
	known := slices.Sorted(maps.Keys(record))
	want := []string{
		"attempts", "bytes", "caller", "cost", "duration", "ending", "first_byte", "level", "model", "msg",
		"request_id", "route", "status", "stream", "time",
	}
	if tt.usage != "none" {
		want = append(want, "usage")
	}
	known = slices.DeleteFunc(known, func(key string) bool { return key == "upstream_request_id" })
	if !slices.Equal(known, want) {
		t.Errorf("the record has %q, want %q", known, want)
	}
}

func TestTwoFieldsOfGraphQLLeaveTwoRecords(t *testing.T) {
	t.Parallel()
	book, log := newDoneBook(), &rcLog{}
	f := start(t, log.option(), proxy.WithHooks(proxy.Hooks{Done: book.done}), gqlOptions(proxy.GraphQLOptions{MaxUpstreamCalls: 2}))
	gqlAsk(t, f, `mutation($input: ChatInput!) { a: getAIResponse(input: $input) { id } b: getAIResponse(input: $input) { id } }`, gqlChat())
	f.Close()
	if records := log.calls(t); len(records) != 2 || len(book.all()) != 2 {
		t.Errorf("%d records and %d outcomes, want two of each:\n%s", len(records), len(book.all()), log.String())
	}
}

func TestLoggerAboveInfoGetsNoRecord(t *testing.T) {
	t.Parallel()
	log := &rcLog{}
	f := start(t, proxy.WithLogger(slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))))
	f.post(t, streamPath, rcPlain)
	f.Close()
	if text := log.String(); text != "" {
		t.Errorf("a call that went well logged %s", text)
	}
}
