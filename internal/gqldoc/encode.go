package gqldoc

import (
	"bytes"
	"encoding/json"

	"github.com/vektah/gqlparser/v2/ast"
)

// Result is the outcome of one request, or of one event of a subscription.
type Result struct {
	Errors []Error

	// Data is nil when a non-null root field failed, and for request errors.
	// It is graphql-go's, in no order, and good for asking which root fields
	// are null; AppendJSON writes it.
	Data map[string]any

	op   *Operation // nil for request errors, which have no data key
	vars map[string]any
}

// Refused is the result of a request that was not executed.
func Refused(errs []Error) *Result { return &Result{Errors: errs} }

// Executed reports whether the request came to an execution, which gives it a
// data key.
func (r *Result) Executed() bool { return r.op != nil }

// AppendJSON appends the response: errors first, then data in the order of the
// query. There is no line break in it.
func (r *Result) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	if len(r.Errors) > 0 {
		dst = append(dst, `"errors":[`...)
		for i := range r.Errors {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = r.Errors[i].AppendJSON(dst)
		}
		dst = append(dst, ']')
	}
	if r.op == nil {
		return append(dst, '}')
	}
	if len(r.Errors) > 0 {
		dst = append(dst, ',')
	}
	dst = append(dst, `"data":`...)
	if r.Data == nil {
		return append(dst, `null}`...)
	}
	e := encoder{schema: r.op.schema, vars: r.vars}
	return append(e.object(dst, e.plan([]ast.SelectionSet{r.op.def.SelectionSet}), r.Data, nil), '}')
}

// encoder writes graphql-go's maps in the order of the selections. Every
// fragment applies to every object it meets, since there are no interfaces and
// no unions.
type encoder struct {
	schema *Schema
	vars   map[string]any
}

// slot is one response key of a selection set.
type slot struct {
	key   string
	field *ast.Field
	sets  []ast.SelectionSet // of all fields merged under the key
	plan  *plan              // of sets, made on first use
}

// plan is a selection set merged and in order. One serves all items of a list.
type plan struct{ slots []*slot }

func (e *encoder) plan(sets []ast.SelectionSet) *plan {
	p := &plan{}
	seen := map[*ast.FragmentDefinition]bool{}
	for _, set := range sets {
		e.collect(p, set, seen)
	}
	return p
}

func (e *encoder) collect(p *plan, set ast.SelectionSet, seen map[*ast.FragmentDefinition]bool) {
	for _, selection := range set {
		switch sel := selection.(type) {
		case *ast.Field:
			if e.included(sel.Directives) {
				s := p.slot(sel)
				if len(sel.SelectionSet) > 0 {
					s.sets = append(s.sets, sel.SelectionSet)
				}
			}
		case *ast.InlineFragment:
			if e.included(sel.Directives) {
				e.collect(p, sel.SelectionSet, seen)
			}
		case *ast.FragmentSpread:
			if !seen[sel.Definition] && e.included(sel.Directives) {
				seen[sel.Definition] = true
				e.collect(p, sel.Definition.SelectionSet, seen)
			}
		}
	}
}

func (p *plan) slot(field *ast.Field) *slot {
	for _, s := range p.slots {
		if s.key == field.Alias {
			return s
		}
	}
	s := &slot{key: field.Alias, field: field}
	p.slots = append(p.slots, s)
	return s
}

// included evaluates @skip and @include as graphql-go does.
func (e *encoder) included(list ast.DirectiveList) bool {
	for _, d := range list {
		if d.Name != "skip" && d.Name != "include" {
			continue
		}
		condition, ok := false, false
		if arg := d.Arguments.ForName("if"); arg != nil {
			if arg.Value.Kind == ast.Variable {
				condition, ok = e.vars[arg.Value.Raw].(bool)
			} else {
				condition, ok = arg.Value.Raw == "true", true
			}
		}
		if ok && condition == (d.Name == "skip") {
			return false
		}
	}
	return true
}

// object appends one object. about is the definition it stands for, if it is
// an object of an introspection.
func (e *encoder) object(dst []byte, p *plan, values map[string]any, about any) []byte {
	dst = append(dst, '{')
	first := true
	for _, s := range p.slots {
		value, ok := values[s.key]
		if about != nil {
			if better, found := fill(about, s.field.Name); found {
				value, ok = better, true
			}
		}
		if !ok {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = appendString(dst, s.key)
		dst = append(dst, ':')
		if introspective(s.field.Definition.Type.Name()) {
			value, below := e.inspect(about, s, value)
			dst = e.introspected(dst, s, value, below)
		} else {
			dst = e.value(dst, s, value)
		}
	}
	return append(dst, '}')
}

func (e *encoder) value(dst []byte, s *slot, value any) []byte {
	switch value := value.(type) {
	case map[string]any:
		return e.object(dst, e.planOf(s), value, nil)
	case []any:
		dst = append(dst, '[')
		for i, item := range value {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = e.value(dst, s, item)
		}
		return append(dst, ']')
	}
	return appendLeaf(dst, value)
}

func (e *encoder) planOf(s *slot) *plan {
	if s.plan == nil {
		s.plan = e.plan(s.sets)
	}
	return s.plan
}

// marshal is json.Marshal without the escapes for HTML.
func marshal(v any) ([]byte, bool) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, false
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), true
}
