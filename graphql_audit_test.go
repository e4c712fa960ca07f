package proxy_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

// The levels of the audits, in the words of RFC 2119.
const (
	auditMust   = "MUST"
	auditShould = "SHOULD"
	auditMay    = "MAY"
)

// gqlAudit is one check of the list that the npm package graphql-http 1.23.1
// holds servers against.
type gqlAudit struct {
	id, level string
	get       url.Values // the parameters of a GET; nil: POST
	noType    bool       // the POST has no Content-Type; else JSON
	charset   bool       // the Content-Type names UTF-8
	accept    string     // "": none, and once more with */*, which fetch adds
	body      string
	lo, hi    int    // the statuses that pass; 0: any
	media     string // what the answer's Content-Type must hold
	noErrors  bool
	noData    bool
}

const (
	auditJSON    = "application/json"
	auditGraphQL = "application/graphql-response+json"
	auditBroken  = `{ "not a JSON`
	auditUnknown = `{"query":"{ 8f31403dfe404bccbb0e835f2629c6a7 }"}`
	auditCoerce  = `{"query":"query CoerceFailure($id: ID!){ __typename }","variables":{"id":null}}`
	auditTyped   = `query Type($name: String!) { __type(name: $name) { name } }`
)

// auditWith is a request for __typename with one more parameter.
func auditWith(parameter, value string) string {
	return `{"query":"{ __typename }","` + parameter + `":` + value + `}`
}

// gqlAudits returns all 61.
func gqlAudits() []gqlAudit {
	plain := `{"query":"{ __typename }"}`
	named := `{"query":"query Query { __typename }","operationName":"Query"}`
	typed := `{"query":"` + auditTyped + `","variables":{"name":"sometype"}}`
	typedGet := url.Values{"query": {auditTyped}, "variables": {`{"name":"sometype"}`}}
	list := []gqlAudit{
		// media types
		{id: "22EB", level: auditShould, accept: auditGraphQL, body: plain, lo: 200, hi: 200, media: auditGraphQL},
		{id: "4655", level: auditMust, accept: auditJSON, body: plain, lo: 200, hi: 200, media: auditJSON},
		{id: "47DE", level: auditShould, accept: "*/*", body: plain, lo: 200, hi: 200, media: auditJSON},
		{id: "80D8", level: auditShould, body: plain, lo: 200, hi: 200, media: auditJSON},
		{id: "82A3", level: auditMust, body: plain, lo: 200, hi: 200},
		{id: "BF61", level: auditMust, charset: true, body: `{"query":"{ __type(name: \"Run🏃Swim🏊\") { name } }"}`, lo: 200, hi: 200},
		{id: "78D5", level: auditMust, body: plain, lo: 200, hi: 200},
		// requests
		{id: "2C94", level: auditMust, body: plain, lo: 200, hi: 200},
		{id: "5A70", level: auditMay, get: url.Values{"query": {"{ __typename }"}}, lo: 200, hi: 200},
		{id: "9C48", level: auditMay, get: url.Values{"query": {"mutation { __typename }"}}, accept: auditGraphQL, lo: 400, hi: 499},
		{id: "9ABE", level: auditShould, noType: true, body: plain, lo: 400, hi: 499},
		{id: "03D4", level: auditMust, body: plain, lo: 200, hi: 200},
		{id: "A5BF", level: auditMay, body: "", lo: 400, hi: 400},
		// parameters
		{id: "423L", level: auditMay, accept: auditGraphQL, body: `{"notquery":"{ __typename }"}`, lo: 400, hi: 400},
		{id: "34A2", level: auditShould, accept: auditGraphQL, body: plain, lo: 200, hi: 200},
		{id: "13EE", level: auditMust, accept: auditJSON, body: plain, lo: 200, hi: 200, noErrors: true},
		{id: "8161", level: auditShould, accept: auditGraphQL, body: named, lo: 200, hi: 200},
		{id: "B8B3", level: auditMust, accept: auditJSON, body: named, lo: 200, hi: 200, noErrors: true},
		{id: "2EA1", level: auditShould, accept: auditGraphQL, body: typed, lo: 200, hi: 200},
		{id: "28B9", level: auditMust, accept: auditJSON, body: typed, lo: 200, hi: 200, noErrors: true},
		{id: "D6D5", level: auditMay, get: typedGet, accept: auditGraphQL, lo: 200, hi: 200, noErrors: true},
		{id: "6A70", level: auditMay, get: typedGet, accept: auditJSON, lo: 200, hi: 200, noErrors: true},
		{id: "428F", level: auditShould, accept: auditGraphQL, body: auditWith("extensions", `{"some":"value"}`), lo: 200, hi: 200},
		{id: "1B7A", level: auditMust, accept: auditJSON, body: auditWith("extensions", `{"some":"value"}`), lo: 200, hi: 200, noErrors: true},
		// JSON that is none, and parameters that are not there
		{id: "B6DC", level: auditMay, accept: auditJSON, body: auditBroken, lo: 200, hi: 599},
		{id: "BCF8", level: auditShould, accept: auditJSON, body: auditBroken, lo: 400, hi: 400},
		{id: "B7N8", level: auditShould, accept: auditGraphQL, body: auditBroken, lo: 400, hi: 400},
		{id: "8764", level: auditMay, body: `{"qeury":"{ __typename }"}`, lo: 400, hi: 599},
		{id: "3E3A", level: auditMay, body: `{"qeury":"{ __typename }"}`, lo: 400, hi: 400},
		// answers as application/json
		{id: "572B", level: auditShould, accept: auditJSON, body: `{"query":"{"}`, lo: 200, hi: 200},
		{id: "FDE2", level: auditShould, accept: auditJSON, body: auditUnknown, lo: 200, hi: 200},
		{id: "7B9B", level: auditShould, accept: auditJSON, body: auditCoerce, lo: 200, hi: 200},
		// answers as application/graphql-response+json
		{id: "865D", level: auditShould, accept: auditGraphQL, body: `{"query":"{"}`, lo: 400, hi: 599},
		{id: "556A", level: auditShould, accept: auditGraphQL, body: `{"query":"{"}`, lo: 400, hi: 400},
		{id: "D586", level: auditShould, accept: auditGraphQL, body: `{"query":"{"}`, noData: true},
		{id: "51FE", level: auditShould, accept: auditGraphQL, body: auditUnknown, lo: 400, hi: 599},
		{id: "74FF", level: auditShould, accept: auditGraphQL, body: auditUnknown, lo: 400, hi: 400},
		{id: "5E5B", level: auditShould, accept: auditGraphQL, body: auditUnknown, noData: true},
		{id: "86EE", level: auditShould, accept: auditGraphQL, body: auditCoerce, lo: 400, hi: 400},
	}
	notText := []string{`{"an":"object"}`, `0`, `false`, `["array"]`}
	notMap := []string{`"string"`, `0`, `false`, `["array"]`}
	for i, digit := range []string{"0", "1", "2", "3"} {
		list = append(list,
			gqlAudit{id: "LKJ" + digit, level: auditMay, body: `{"query":` + notText[i] + `}`, lo: 400, hi: 400},
			gqlAudit{id: "6C0" + digit, level: auditMay, body: auditWith("operationName", notText[i]), lo: 400, hi: 400},
			gqlAudit{id: "476" + digit, level: auditMay, body: auditWith("variables", notMap[i]), lo: 400, hi: 400},
			gqlAudit{id: "58B" + digit, level: auditMay, body: auditWith("extensions", notMap[i]), lo: 400, hi: 400},
		)
	}
	for i, parameter := range []string{"variables", "operationName", "extensions"} {
		digit := string("012"[i])
		list = append(list,
			gqlAudit{
				id: "94B" + digit, level: auditShould, accept: auditGraphQL, body: auditWith(parameter, "null"),
				lo: 200, hi: 200, noErrors: true,
			},
			gqlAudit{
				id: "022" + digit, level: auditMust, accept: auditJSON, body: auditWith(parameter, "null"),
				lo: 200, hi: 200, noErrors: true,
			},
		)
	}
	return list
}

func TestI7GraphQLOverHTTPAudits(t *testing.T) {
	t.Parallel()
	levels, ids := map[string]int{}, map[string]bool{}
	for _, a := range gqlAudits() {
		levels[a.level]++
		ids[a.id] = true
	}
	if len(ids) != 61 || levels[auditMust] != 13 || levels[auditShould] != 23 || levels[auditMay] != 25 {
		t.Errorf("%d audits, %v: want 61, of which 13 MUST, 23 SHOULD and 25 MAY", len(ids), levels)
	}
	f := start(t)
	for _, a := range gqlAudits() {
		t.Run(a.id, func(t *testing.T) {
			a.run(t, f, a.accept)
			if a.accept == "" {
				a.run(t, f, "*/*")
			}
		})
	}
	f.wantCalls(t, 0)
}

func (a gqlAudit) run(t *testing.T, f *fixture, accept string) {
	t.Helper()
	method, path := http.MethodPost, "/graphql"
	var header []string
	if accept != "" {
		header = append(header, "Accept", accept)
	}
	switch {
	case a.get != nil:
		method, path = http.MethodGet, path+"?"+a.get.Encode()
	case a.charset:
		header = append(header, "Content-Type", "application/json; charset=utf-8")
	case !a.noType:
		header = append(header, "Content-Type", "application/json")
	}
	res, text := f.do(t, method, path, a.body, header...)
	if a.lo > 0 && (res.StatusCode < a.lo || res.StatusCode > a.hi) {
		t.Errorf("%s, Accept %q: status %d, want %d to %d: %s", a.level, accept, res.StatusCode, a.lo, a.hi, text)
	}
	if got := res.Header.Get("Content-Type"); !strings.Contains(got, a.media) {
		t.Errorf("%s, Accept %q: Content-Type %q, want %q in it", a.level, accept, got, a.media)
	}
	if !utf8.ValidString(text) {
		t.Errorf("%s: the answer is not UTF-8: %q", a.level, text)
	}
	var result map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &result); err != nil {
		t.Fatalf("%s: the answer is no JSON object: %v: %s", a.level, err, text)
	}
	if _, ok := result["errors"]; ok && a.noErrors {
		t.Errorf("%s, Accept %q: the answer has errors: %s", a.level, accept, text)
	}
	if _, ok := result["data"]; ok && a.noData {
		t.Errorf("%s, Accept %q: the answer has data: %s", a.level, accept, text)
	}
}
