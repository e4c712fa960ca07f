package gqldoc_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
)

// sdl reads an SDL of the repository.
func sdl(tb testing.TB, path string) string {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

const (
	mainSDL    = "../../schema.graphql"
	kitchenSDL = "testdata/kitchen.graphql"
)

type resolvers = map[string]gqldoc.Resolver

func schema(tb testing.TB, config gqldoc.Config) *gqldoc.Schema {
	tb.Helper()
	s, err := gqldoc.New(config)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// proxySchema is configured as the proxy configures it.
func proxySchema(tb testing.TB, r resolvers) *gqldoc.Schema {
	return schema(tb, gqldoc.Config{
		SDL: sdl(tb, mainSDL), Resolvers: r,
		Paid: []string{"Mutation.getAIResponse", "Mutation.generateImage", "Subscription.aiResponse"},
	})
}

func kitchenSchema(tb testing.TB, r resolvers) *gqldoc.Schema {
	return schema(tb, gqldoc.Config{SDL: sdl(tb, kitchenSDL), Resolvers: r})
}

// do runs a request from text to text.
func do(tb testing.TB, s *gqldoc.Schema, query, variables string) string {
	tb.Helper()
	return doWith(context.Background(), tb, s, query, variables, nil)
}

func doWith(ctx context.Context, tb testing.TB, s *gqldoc.Schema, query, variables string, root any) string {
	tb.Helper()
	r := execute(ctx, tb, s, query, variables, root)
	return string(r.AppendJSON(nil))
}

func execute(ctx context.Context, tb testing.TB, s *gqldoc.Schema, query, variables string, root any) *gqldoc.Result {
	tb.Helper()
	doc, errs := s.Prepare(query)
	if errs != nil {
		return gqldoc.Refused(errs)
	}
	op, errs := doc.Operation("")
	if errs != nil {
		return gqldoc.Refused(errs)
	}
	vars, errs := op.Variables(decode(tb, variables))
	if errs != nil {
		return gqldoc.Refused(errs)
	}
	return op.Execute(ctx, vars, root)
}

func decode(tb testing.TB, text string) map[string]any {
	tb.Helper()
	if text == "" {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		tb.Fatalf("variables %s: %v", text, err)
	}
	return m
}

// one refuses a document and gives the only error.
func one(tb testing.TB, s *gqldoc.Schema, query string) gqldoc.Error {
	tb.Helper()
	doc, errs := s.Prepare(query)
	if doc != nil || len(errs) == 0 {
		tb.Fatalf("passed: %.200s", query)
	}
	return errs[0]
}

func contains(tb testing.TB, got string, parts ...string) {
	tb.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			tb.Errorf("no %s in %.600s", part, got)
		}
	}
}
