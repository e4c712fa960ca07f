package gqldoc

import (
	"fmt"

	"github.com/vektah/gqlparser/v2/ast"
)

// checkSize bounds the document as it is written, in one linear pass and
// before validation: OverlappingFieldsCanBeMerged compares the fields of a key
// pairwise, 2,400 equal ones for 0.3 s.
func (s *Schema) checkSize(doc *ast.QueryDocument) *Error {
	if n := len(doc.Operations) + len(doc.Fragments); n > s.limits.Definitions {
		e := newError(KindComplexity, CodeComplexity,
			fmt.Sprintf("The document has more than %d definitions.", s.limits.Definitions))
		return &e
	}
	var fields []*ast.Field
	for _, op := range doc.Operations {
		if e := s.sizeOf(op.SelectionSet, &fields); e != nil {
			return e
		}
	}
	for _, fragment := range doc.Fragments {
		if vars := fragment.VariableDefinition; len(vars) > 0 {
			e := newError(KindSyntax, CodeSyntax, "Syntax Error: a fragment cannot declare variables.", place(vars[0].Position))
			return &e
		}
		if e := s.sizeOf(fragment.SelectionSet, &fields); e != nil {
			return e
		}
	}
	if len(fields)*len(fields) <= maxPairs {
		return nil // whatever their keys
	}
	pairs, keys := 0, make(map[string]int, len(fields))
	for _, f := range fields {
		keys[f.Alias]++
		// The sum of the squares grows by the next odd number.
		if pairs += 2*keys[f.Alias] - 1; pairs > maxPairs {
			e := newError(KindComplexity, CodeComplexity,
				fmt.Sprintf("The field %q is selected too often.", f.Alias), place(f.Position))
			return &e
		}
	}
	return nil
}

// sizeOf bounds one selection set and those below it, and collects the fields.
func (s *Schema) sizeOf(set ast.SelectionSet, fields *[]*ast.Field) *Error {
	first := len(*fields)
	*fields = flatten(*fields, set)
	own := (*fields)[first:]
	if len(*fields) > s.limits.Fields {
		e := newError(KindComplexity, CodeComplexity,
			fmt.Sprintf("The document has more than %d fields.", s.limits.Fields), place((*fields)[s.limits.Fields].Position))
		return &e
	}
	if len(own) > s.limits.SameKey {
		keys := make(map[string]int, len(own))
		for _, f := range own {
			if keys[f.Alias]++; keys[f.Alias] > s.limits.SameKey {
				e := newError(KindComplexity, CodeComplexity,
					fmt.Sprintf("The field %q is selected more than %d times at one place.", f.Alias, s.limits.SameKey), place(f.Position))
				return &e
			}
		}
	}
	for _, f := range own {
		if e := s.sizeOf(f.SelectionSet, fields); e != nil {
			return e
		}
	}
	return nil
}

// flatten lists the fields of a selection set, those of its inline fragments
// counted as its own, because the overlap rule does so too.
func flatten(to []*ast.Field, set ast.SelectionSet) []*ast.Field {
	for _, selection := range set {
		switch sel := selection.(type) {
		case *ast.Field:
			to = append(to, sel)
		case *ast.InlineFragment:
			to = flatten(to, sel.SelectionSet)
		}
	}
	return to
}

// extent is what a selection set amounts to with its fragments expanded.
type extent struct {
	depth  int
	fields int
	values int // fields, times the lists around them: see maxValues
}

// huge keeps sums and products of extents from overflowing, also in 32 bits:
// fragments that spread each other twice double up to 2^50.
const huge = 1 << 23

func (e *extent) add(of extent, levels int) {
	e.depth = max(e.depth, of.depth+levels)
	e.fields = min(e.fields+of.fields, huge)
	e.values = min(e.values+of.values, huge)
}

// checkBounds bounds what each operation will execute. The document is valid
// here: no cycles, every fragment known.
func (s *Schema) checkBounds(doc *ast.QueryDocument) *Error {
	known := map[*ast.FragmentDefinition]extent{}
	for _, op := range doc.Operations {
		of := s.extentOf(op.SelectionSet, known)
		message := ""
		switch {
		case of.depth > s.limits.Depth:
			message = fmt.Sprintf("The operation is more than %d fields deep.", s.limits.Depth)
		case of.fields > s.limits.Fields:
			message = fmt.Sprintf("The operation has more than %d fields, fragments expanded.", s.limits.Fields)
		case of.values > maxValues:
			message = "The operation asks for too many values at once."
		}
		if message != "" {
			e := newError(KindComplexity, CodeComplexity, message, place(op.Position))
			return &e
		}
		if e := s.checkRoot(op); e != nil {
			return e
		}
	}
	return nil
}

// extentOf measures each fragment once, so it is linear in the document.
func (s *Schema) extentOf(set ast.SelectionSet, known map[*ast.FragmentDefinition]extent) extent {
	var sum extent
	for _, selection := range set {
		switch sel := selection.(type) {
		case *ast.Field:
			sum.add(extent{fields: 1, values: 1}, 1)
			if len(sel.SelectionSet) > 0 {
				below := s.extentOf(sel.SelectionSet, known)
				below.values = s.valuesOf(sel, below)
				sum.add(below, 1)
			}
		case *ast.InlineFragment:
			sum.add(s.extentOf(sel.SelectionSet, known), 0)
		case *ast.FragmentSpread:
			of, ok := known[sel.Definition]
			if !ok {
				of = s.extentOf(sel.Definition.SelectionSet, known)
				known[sel.Definition] = of
			}
			sum.add(of, 0)
		}
	}
	return sum
}

// valuesOf estimates the values below one field.
func (s *Schema) valuesOf(field *ast.Field, below extent) int {
	switch {
	case introspective(field.ObjectDefinition.Name):
		return min(below.values, huge) * max(1, s.sizes[field.Name])
	case field.Definition.Type.Elem != nil:
		return max(below.values, below.fields*listRows)
	}
	return below.values
}

// checkRoot bounds the root fields, by response key: what execution merges
// counts once, and no alias hides a second paid call. Skipped fields count,
// since a variable may unskip them.
func (s *Schema) checkRoot(op *ast.OperationDefinition) *Error {
	refuse := func(kind Kind, code, message string, at *ast.Position) *Error {
		e := newError(kind, code, message, place(at))
		return &e
	}
	keys := map[string]bool{}
	paid := 0
	for _, field := range rootFields(op.SelectionSet) {
		if s.hidden && (field.Name == "__schema" || field.Name == "__type") {
			return refuse(KindValidation, CodeIntrospection, "Introspection is disabled.", field.Position)
		}
		if keys[field.Alias] {
			continue
		}
		keys[field.Alias] = true
		if s.paid[field.Definition] {
			paid++
		}
		if paid > s.limits.PaidCalls {
			return refuse(KindComplexity, CodePaid,
				fmt.Sprintf("An operation may make %d upstream call(s).", s.limits.PaidCalls), field.Position)
		}
	}
	if len(keys) > s.limits.RootFields {
		return refuse(KindComplexity, CodeComplexity,
			fmt.Sprintf("The operation has more than %d root fields.", s.limits.RootFields), op.Position)
	}
	if op.Operation != ast.Subscription {
		return nil
	}
	// gqlparser's rule counts names, so two aliases of one field pass it.
	if len(keys) != 1 {
		return refuse(KindValidation, CodeValidation, "A subscription must select only one top level field.", op.Position)
	}
	if d := conditional(op.SelectionSet, map[*ast.FragmentDefinition]bool{}); d != nil {
		return refuse(KindValidation, CodeValidation,
			"A subscription must not use @"+d.Name+" on its top level field.", d.Position)
	}
	return nil
}

// conditional finds a directive that could take the root field of a
// subscription away, which the spec forbids: there would be nothing to
// subscribe to.
func conditional(set ast.SelectionSet, seen map[*ast.FragmentDefinition]bool) *ast.Directive {
	for _, selection := range set {
		var directives ast.DirectiveList
		var inner ast.SelectionSet
		switch sel := selection.(type) {
		case *ast.Field:
			directives = sel.Directives
		case *ast.InlineFragment:
			directives, inner = sel.Directives, sel.SelectionSet
		case *ast.FragmentSpread:
			directives = sel.Directives
			if !seen[sel.Definition] {
				seen[sel.Definition] = true
				inner = sel.Definition.SelectionSet
			}
		}
		for _, d := range directives {
			if d.Name == "skip" || d.Name == "include" {
				return d
			}
		}
		if d := conditional(inner, seen); d != nil {
			return d
		}
	}
	return nil
}
