package proxy

import (
	"path"
	"slices"
	"strings"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// defaultsRow gives parameters to the models that match one of its patterns.
// Patterns are those of path.Match, matched against the whole model id.
type defaultsRow struct {
	models []string
	fields []jsonobj.Field
}

func field(key, value string) jsonobj.Field { return jsonobj.Field{Key: key, Value: []byte(value)} }

// chatDefaults are what the original worker sent with every chat request, kept
// for the models that still take it: newer ones answer max_tokens and
// temperature with 400. What no row names gets nothing.
func chatDefaults() []defaultsRow {
	return []defaultsRow{{
		models: dated(
			"gpt-3.5-turbo*", "gpt-4", "gpt-4-turbo*", "gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini"),
		fields: []jsonobj.Field{field("temperature", "0.7"), field("max_tokens", "1000")},
	}}
}

// imageDefaults are the same for images. Living image models refuse style,
// response_format and quality "standard".
func imageDefaults() []defaultsRow {
	return []defaultsRow{{
		models: []string{"dall-e-3"},
		fields: []jsonobj.Field{
			field("n", "1"), field("size", `"1024x1024"`), field("quality", `"standard"`),
			field("style", `"vivid"`), field("response_format", `"url"`),
		},
	}, {
		models: []string{"dall-e-2"},
		fields: []jsonobj.Field{field("n", "1"), field("size", `"1024x1024"`), field("response_format", `"url"`)},
	}}
}

// dated adds to each pattern its dated and preview forms: gpt-4o-2024-08-06,
// gpt-4-0613, gpt-4-1106-preview.
func dated(patterns ...string) []string {
	suffixes := []string{"", "-[0-9][0-9][0-9][0-9]", "-[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"}
	var out []string
	for _, p := range patterns {
		for _, s := range suffixes {
			out = append(out, p+s, p+s+"-preview")
		}
	}
	return out
}

// otherKinds are models that share a prefix with chat models and not their
// parameters.
var otherKinds = []string{"search", "audio", "realtime"}

// fieldsFor returns the parameters that model gets.
func fieldsFor(rows []defaultsRow, model string) []jsonobj.Field {
	if !strings.HasPrefix(model, "gpt-") && !strings.HasPrefix(model, "dall-e-") {
		return nil // as for every other id; patterns take longer to say so
	}
	for _, kind := range otherKinds {
		if strings.Contains(model, kind) {
			return nil
		}
	}
	for _, row := range rows {
		if slices.Contains(row.models, model) {
			return row.fields // no pattern, and most are none
		}
		for _, pattern := range row.models {
			if ok, _ := path.Match(pattern, model); ok {
				return row.fields
			}
		}
	}
	return nil
}

// defaultsTable knows what to add to requests on the worker's routes.
type defaultsTable struct {
	rows  map[Route][]defaultsRow
	owned map[Route][]jsonobj.Field // of WithDefaults, in place of rows
}

func newDefaultsTable(owned map[Route][]jsonobj.Field) defaultsTable {
	return defaultsTable{
		rows:  map[Route][]defaultsRow{RouteChat: chatDefaults(), RouteImages: imageDefaults()},
		owned: owned,
	}
}

// missing returns the parameters that o lacks.
func (t defaultsTable) missing(route Route, model string, o jsonobj.Object) []jsonobj.Field {
	fields, owned := t.owned[route]
	if !owned {
		fields = fieldsFor(t.rows[route], model)
	}
	var out []jsonobj.Field
	for _, f := range fields {
		if t := twin(f.Key); o.Has(f.Key) || t != "" && o.Has(t) {
			continue
		}
		out = append(out, f)
	}
	return out
}

// knows reports whether a chat model is of the worker's days.
func (t defaultsTable) knows(model string) bool { return len(fieldsFor(t.rows[RouteChat], model)) > 0 }

// twin names the key that says the same under another name.
func twin(key string) string {
	switch key {
	case "max_tokens":
		return "max_completion_tokens"
	case "max_completion_tokens":
		return "max_tokens"
	}
	return ""
}
