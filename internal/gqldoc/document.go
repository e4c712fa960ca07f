package gqldoc

import (
	"strconv"
	"sync"

	gast "github.com/graphql-go/graphql/language/ast"
	"github.com/vektah/gqlparser/v2/ast"
)

// Document is a document that passed every check, read-only and reusable.
type Document struct {
	text       string
	operations []*Operation
}

// OperationType is the keyword of an operation.
type OperationType string

// The types of operations.
const (
	Query        OperationType = "query"
	Mutation     OperationType = "mutation"
	Subscription OperationType = "subscription"
)

// Operation is one operation of a document.
type Operation struct {
	schema *Schema
	def    *ast.OperationDefinition

	// The form graphql-go executes, made by convert on first use: of a
	// document's operations a request runs one.
	converted sync.Once
	doc       *gast.Document
	sources   map[*gast.Field]*ast.Field // where the arguments and positions are
	shared    []string                   // variables graphql-go has to know
	guards    []*ast.VariableDefinition  // variables of @skip and @include
}

// Prepare parses, bounds and validates a document. It returns either a
// document or at least one error, and at most Limits.Errors of them.
func (s *Schema) Prepare(query string) (doc *Document, errs []Error) {
	if doc := s.cache.get(query); doc != nil {
		return doc, nil
	}
	defer func() {
		if p := recover(); p != nil {
			doc, errs = nil, internal(p)
		}
	}()
	parsed, refused := s.parse(query)
	if refused == nil {
		refused = s.checkSize(parsed)
	}
	if refused != nil {
		return nil, []Error{*refused}
	}
	if errs := s.validate(parsed); len(errs) > 0 {
		return nil, errs
	}
	if refused := s.checkBounds(parsed); refused != nil {
		return nil, []Error{*refused}
	}
	doc = &Document{text: query}
	for _, def := range parsed.Operations {
		doc.operations = append(doc.operations, &Operation{schema: s, def: def, guards: guards(def)})
	}
	s.cache.put(doc)
	return doc, nil
}

// Operation finds the operation to execute: the named one, or the only one
// when name is empty.
func (d *Document) Operation(name string) (*Operation, []Error) {
	if name == "" {
		switch len(d.operations) {
		case 1:
			return d.operations[0], nil
		case 0:
			return nil, []Error{newError(KindResolution, CodeResolution, "Must provide an operation.")}
		}
		return nil, []Error{newError(KindResolution, CodeResolution,
			"Must provide operation name if query contains multiple operations.")}
	}
	for _, op := range d.operations {
		if op.def.Name == name {
			return op, nil
		}
	}
	return nil, []Error{newError(KindResolution, CodeResolution,
		"Unknown operation named "+strconv.Quote(clipTo(name, maxName))+".")}
}

// Name returns the name of the operation, which may be empty.
func (o *Operation) Name() string { return o.def.Name }

// Type returns the keyword of the operation.
func (o *Operation) Type() OperationType { return OperationType(o.def.Operation) }

// Root is the root field of a subscription.
type Root struct {
	Field string         // its name in the schema
	Key   string         // its name in the response
	Args  map[string]any // as [Params].Args
}

// Root returns the first root field of the operation. A subscription has
// exactly one, and its arguments are what the source stream is opened with.
func (o *Operation) Root(vars map[string]any) (Root, []Error) {
	fields := rootFields(o.def.SelectionSet)
	if len(fields) == 0 {
		return Root{}, []Error{newError(KindResolution, CodeResolution, "The operation selects no field.")}
	}
	field := fields[0]
	args, e := o.schema.arguments(field, vars)
	if e != nil {
		return Root{}, []Error{*e}
	}
	return Root{Field: field.Name, Key: field.Alias, Args: args}, nil
}

// rootFields lists the fields of a selection set with its fragments expanded,
// each fragment once, in the order of execution.
func rootFields(set ast.SelectionSet) []*ast.Field {
	var fields []*ast.Field
	seen := map[*ast.FragmentDefinition]bool{}
	var walk func(ast.SelectionSet)
	walk = func(set ast.SelectionSet) {
		for _, selection := range set {
			switch sel := selection.(type) {
			case *ast.Field:
				fields = append(fields, sel)
			case *ast.InlineFragment:
				walk(sel.SelectionSet)
			case *ast.FragmentSpread:
				if sel.Definition != nil && !seen[sel.Definition] {
					seen[sel.Definition] = true
					walk(sel.Definition.SelectionSet)
				}
			}
		}
	}
	walk(set)
	return fields
}

// guards lists the variables of an operation that stand in @skip or @include
// and may be null. A default makes such a variable legal, and an explicit null
// then has to be an error of the request; graphql-go would run it as absent.
func guards(def *ast.OperationDefinition) []*ast.VariableDefinition {
	var nullable []*ast.VariableDefinition
	for _, v := range def.VariableDefinitions {
		if v.Type.NamedType == "Boolean" && !v.Type.NonNull {
			nullable = append(nullable, v)
		}
	}
	if nullable == nil {
		return nil
	}
	used := map[string]bool{}
	note := func(list ast.DirectiveList) {
		for _, d := range list {
			for _, arg := range d.Arguments {
				if arg.Value.Kind == ast.Variable {
					used[arg.Value.Raw] = true
				}
			}
		}
	}
	visit(def.SelectionSet, map[*ast.FragmentDefinition]bool{}, note)
	var found []*ast.VariableDefinition
	for _, v := range nullable {
		if used[v.Variable] {
			found = append(found, v)
		}
	}
	return found
}

// visit calls note with the directives of every selection below set.
func visit(set ast.SelectionSet, seen map[*ast.FragmentDefinition]bool, note func(ast.DirectiveList)) {
	for _, selection := range set {
		switch sel := selection.(type) {
		case *ast.Field:
			note(sel.Directives)
			visit(sel.SelectionSet, seen, note)
		case *ast.InlineFragment:
			note(sel.Directives)
			visit(sel.SelectionSet, seen, note)
		case *ast.FragmentSpread:
			note(sel.Directives)
			if !seen[sel.Definition] {
				seen[sel.Definition] = true
				visit(sel.Definition.SelectionSet, seen, note)
			}
		}
	}
}
