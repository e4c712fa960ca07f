package gqldoc_test

import (
	"context"
	"encoding/json"
	"os"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
)

// FuzzPrepare sends any text the whole way. Nothing may panic, hang or break
// the JSON.
//
//	go test -fuzz FuzzPrepare -fuzztime 20s -fuzzminimizetime 1x .
func FuzzPrepare(f *testing.F) {
	text, err := os.ReadFile("testdata/verdicts.json")
	if err != nil {
		f.Fatal(err)
	}
	var golden struct {
		Verdicts [][]string `json:"verdicts"`
	}
	if err := json.Unmarshal(text, &golden); err != nil {
		f.Fatal(err)
	}
	for i, v := range golden.Verdicts {
		if i < 500 { // those written by hand
			f.Add(v[2], `{"a":1,"input":{"n":1},"x":{"id":"1"},"b":null}`)
		}
	}
	f.Add(fullIntrospection, "")
	schemas := []*gqldoc.Schema{proxySchema(f, stubs(2)), kitchenSchema(f, resolvers{
		"Query.node": give(map[string]any{"id": "1", "role": "USER", "next": map[string]any{"id": "2"}}), "Query.nodes": give([]any{}),
	})}
	f.Fuzz(func(t *testing.T, query, variables string) {
		var raw map[string]any
		if err := json.Unmarshal([]byte(variables), &raw); err == nil {
			raw = decode(t, variables)
		}
		for _, s := range schemas {
			start := time.Now()
			fuzzOne(t, s, query, raw)
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
		}
	})
}

func fuzzOne(t *testing.T, s *gqldoc.Schema, query string, raw map[string]any) {
	doc, errs := s.Prepare(query)
	if (doc == nil) == (errs == nil) {
		t.Fatalf("document %v, errors %v", doc, errs)
	}
	wellFormed(t, gqldoc.Refused(errs), errs)
	if doc == nil {
		return
	}
	op, errs := doc.Operation("")
	if errs != nil {
		wellFormed(t, gqldoc.Refused(errs), errs)
		return
	}
	vars, errs := op.Variables(raw)
	if errs != nil {
		wellFormed(t, gqldoc.Refused(errs), errs)
		return
	}
	if _, errs := op.Root(vars); errs != nil {
		wellFormed(t, gqldoc.Refused(errs), errs)
	}
	r := op.Execute(context.Background(), vars, nil)
	for _, e := range r.Errors {
		if e.Code == gqldoc.CodeInternal && e.Message == "Internal server error." {
			t.Errorf("%q: %v", query, e.Err)
		}
	}
	wellFormed(t, r, nil)
}

func wellFormed(t *testing.T, r *gqldoc.Result, errs []gqldoc.Error) {
	if out := r.AppendJSON(nil); !json.Valid(out) || !utf8.Valid(out) {
		t.Errorf("no JSON: %s", out)
	}
	if len(errs) > 10 {
		t.Errorf("%d errors", len(errs))
	}
	for _, e := range errs {
		if e.Message == "" || len(e.Message) > 400 || e.Code == "" || e.Kind == gqldoc.KindInternal || e.Err != nil {
			t.Errorf("%+v", e)
		}
		for _, l := range e.Locations {
			if l.Line < 1 || l.Column < 1 {
				t.Errorf("%+v", e)
			}
		}
	}
}
