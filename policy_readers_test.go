package proxy_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy"
)

// readings are the models and numbers that different readers find in a body: the
// first or the last of equal keys, keys with folded case, and a strict one, which
// finds nothing in a body with equal keys.
func readings(t testing.TB, body []byte) (models, numbers []string) {
	t.Helper()
	first, last, twice := map[string]json.RawMessage{}, map[string]json.RawMessage{}, false
	dec := json.NewDecoder(bytes.NewReader(body))
	if _, err := dec.Token(); err != nil {
		t.Fatalf("the upstream got no JSON: %q", body)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			t.Fatal(err)
		}
		name, _ := key.(string)
		if _, ok := first[name]; ok {
			twice = true
		} else {
			first[name] = value
		}
		last[name] = value
	}
	if twice {
		t.Errorf("a strict reader refuses %q", body)
	}
	var folded struct {
		Model json.RawMessage `json:"model"`
		N     json.RawMessage `json:"n"`
	}
	if err := json.Unmarshal(body, &folded); err != nil {
		t.Fatal(err)
	}
	return []string{string(first["model"]), string(last["model"]), string(folded.Model)},
		[]string{string(first["n"]), string(last["n"]), string(folded.N)}
}

// judgedBodies are the rows of JSON that two readers take for two requests.
func judgedBodies() []string {
	const rest = `,"messages":[]}`
	return []string{
		`{"model":"cheap","n":1` + rest,
		`{"model":"cheap","MODEL":"dear"` + rest,
		`{"MODEL":"dear","model":"cheap"` + rest,
		`{"model":"cheap","model":"dear"` + rest,
		`{"model":"dear","model":"cheap"` + rest,
		`{"mode\u006c":"dear","model":"cheap"` + rest,
		`{"mode\u006c":"dear"` + rest,
		`{"model":"cheap","mode` + "\u017f" + `":"dear"` + rest,
		`{"\u017ftream":true,"model":"cheap"` + rest,
		`{"model":"cheap","messages":[],"me` + "\u017f" + `sages":[1]}`,
		`{"model":"cheap","N":100` + rest,
		`{"model":"cheap","n":1,"n":100` + rest,
		`{"model":"cheap","n":1.0` + rest, `{"model":"cheap","n":1e0` + rest, `{"model":"cheap","n":"1"` + rest,
		`{"model":"cheap","n":100` + rest, `{"model":"cheap","n":-1` + rest,
		`{"model":"chea\u0070"` + rest, `{"model":"cheap\u0000"` + rest, `{"model":"cheap\ud800"` + rest,
		"{\"model\":\"cheap\xff\"" + rest,
		`{"model":"cheap"` + rest + `{"model":"dear"` + rest, `{"model":"cheap"` + rest + ` x`,
		`null`, `[]`, `{"model":null` + rest, `{"` + rest[1:],
		`{"model":"cheap","x":{"model":"dear","model":"dear"}` + rest,
		`{"model":"cheap","x":1,"x":2` + rest,
		`{"` + "\ufeff" + `model":"dear","model":"cheap"` + rest,
		`{"model":"cheap","messages":` + strings.Repeat("[", 998) + strings.Repeat("]", 998) + `}`,
	}
}

// policyHandler is a handler with a policy whose upstream is checked by readers.
func policyHandler(t testing.TB) func(body string) (status int) {
	t.Helper()
	check := readingTransport(func(body []byte) {
		models, numbers := readings(t, body)
		for _, model := range models {
			if model := unquoted(model); model != "cheap" {
				t.Errorf("a reader finds model %q in %q", model, body)
			}
		}
		for _, number := range numbers {
			if n, err := strconv.Atoi(number); number != "" && number != "null" && (err != nil || n > 2) {
				t.Errorf("a reader finds n %q in %q", number, body)
			}
		}
	})
	h, err := proxy.NewHandler(proxy.WithKey(canary), proxy.WithTransport(check), proxy.WithLogger(quietGraphQLLogger()),
		proxy.WithPolicy(proxy.Policy{Models: []string{"cheap"}, MaxN: 2}))
	if err != nil {
		t.Fatal(err)
	}
	return func(body string) int {
		w := &forgetful{}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://proxy.example/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		h.ServeHTTP(w, r)
		return w.status
	}
}

func unquoted(raw string) (text string) {
	if json.Unmarshal([]byte(raw), &text) != nil {
		return raw
	}
	return text
}

// readingTransport hands every body that is sent to a function.
type readingTransport func(body []byte)

// RoundTrip implements [http.RoundTripper].
func (rt readingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	rt(body)
	return cannedJSON(`{"choices":[]}`).RoundTrip(r)
}

func TestS16EveryReaderSeesWhatThePolicySaw(t *testing.T) {
	t.Parallel()
	send := policyHandler(t)
	passed := 0
	for _, body := range judgedBodies() {
		switch status := send(body); status {
		case http.StatusOK:
			passed++
		case http.StatusBadRequest, http.StatusForbidden:
		default:
			t.Errorf("%q: status %d", body, status)
		}
	}
	if passed < 4 {
		t.Errorf("only %d bodies passed: the policy refuses too much", passed)
	}
}

// FuzzPolicyReaders: whatever passes a policy, no reader sees anything else in
// it.
func FuzzPolicyReaders(f *testing.F) {
	for _, body := range judgedBodies() {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if status := policyHandler(t)(body); status >= 500 {
			t.Errorf("%q: status %d", body, status)
		}
	})
}
