package gqldoc

import (
	"slices"

	gast "github.com/graphql-go/graphql/language/ast"
	"github.com/vektah/gqlparser/v2/ast"
)

// hiddenKey is the response key of a name that convert adds to every object of
// an introspection. No client can spell it. By it the encoder finds the
// definition an object stands for (see introspect.go).
const hiddenKey = "\x00"

// converter makes graphql-go's tree of one operation.
type converter struct {
	op        *Operation
	mutation  *ast.Definition
	fragments map[string]bool
	defs      []gast.Node
	variables map[string]*gast.VariableDefinition
	serial    int
}

// convert makes the document that graphql-go executes: this operation alone
// with the fragments it reaches, no arguments but those of @skip, @include and
// introspection, no variables but those they use.
func (o *Operation) convert() {
	c := converter{
		op:        o,
		mutation:  o.schema.sdl.Mutation,
		fragments: map[string]bool{},
		variables: map[string]*gast.VariableDefinition{},
	}
	o.sources = map[*gast.Field]*ast.Field{}
	operation := gast.NewOperationDefinition(&gast.OperationDefinition{
		Operation:    string(o.def.Operation),
		SelectionSet: c.selections(o.def.SelectionSet, false),
	})
	for name := range c.variables {
		o.shared = append(o.shared, name)
	}
	slices.Sort(o.shared)
	for _, name := range o.shared {
		operation.VariableDefinitions = append(operation.VariableDefinitions, c.variables[name])
	}
	o.doc = gast.NewDocument(&gast.Document{Definitions: append(c.defs, operation)})
}

func (c *converter) selections(set ast.SelectionSet, named bool) *gast.SelectionSet {
	list := make([]gast.Selection, 0, len(set)+1)
	for _, selection := range set {
		switch sel := selection.(type) {
		case *ast.Field:
			list = append(list, c.field(sel))
		case *ast.InlineFragment:
			list = append(list, gast.NewInlineFragment(&gast.InlineFragment{
				TypeCondition: typeRef(sel.TypeCondition),
				Directives:    c.directives(sel.Directives),
				SelectionSet:  c.selections(sel.SelectionSet, false),
			}))
		case *ast.FragmentSpread:
			list = append(list, gast.NewFragmentSpread(&gast.FragmentSpread{
				Name:       name(sel.Name),
				Directives: c.directives(sel.Directives),
			}))
			c.fragment(sel.Definition)
		}
	}
	if named {
		list = append(list, gast.NewField(&gast.Field{Alias: name(hiddenKey), Name: name("name")}))
	}
	return gast.NewSelectionSet(&gast.SelectionSet{Selections: list})
}

func (c *converter) field(field *ast.Field) *gast.Field {
	f := gast.NewField(&gast.Field{Name: name(field.Name), Directives: c.directives(field.Directives)})
	if field.Alias != field.Name {
		f.Alias = name(field.Alias)
	}
	c.op.sources[f] = field
	parent := field.ObjectDefinition
	if parent == c.mutation {
		// graphql-go runs the root fields of a mutation by their position in
		// the source, which is wrong for a fragment written above its
		// operation. So the position is the order of the spec. Elsewhere it
		// stays nil: graphql-go compiles a regexp for each one it reports.
		c.serial++
		f.Loc = &gast.Location{Start: c.serial, End: c.serial}
	}
	if introspective(field.Name) || parent != nil && introspective(parent.Name) {
		f.Arguments = c.arguments(field.Arguments)
	}
	if len(field.SelectionSet) > 0 {
		f.SelectionSet = c.selections(field.SelectionSet, hasName(field.Definition.Type.Name()))
	}
	return f
}

// hasName reports whether objects of an introspection type have a name.
func hasName(typeName string) bool {
	switch typeName {
	case "__Type", "__Field", "__InputValue", "__EnumValue", "__Directive":
		return true
	}
	return false
}

func (c *converter) fragment(def *ast.FragmentDefinition) {
	if c.fragments[def.Name] {
		return
	}
	c.fragments[def.Name] = true
	c.defs = append(c.defs, gast.NewFragmentDefinition(&gast.FragmentDefinition{
		Name:          name(def.Name),
		TypeCondition: typeRef(def.TypeCondition),
		SelectionSet:  c.selections(def.SelectionSet, false),
	}))
}

func (c *converter) directives(list ast.DirectiveList) []*gast.Directive {
	var out []*gast.Directive
	for _, d := range list {
		if d.Name == "skip" || d.Name == "include" {
			out = append(out, gast.NewDirective(&gast.Directive{Name: name(d.Name), Arguments: c.arguments(d.Arguments)}))
		}
	}
	return out
}

// arguments converts what the directives and introspection fields take:
// Boolean and String. A null stays out, which is how graphql-go says it.
func (c *converter) arguments(list ast.ArgumentList) []*gast.Argument {
	var out []*gast.Argument
	for _, arg := range list {
		var value gast.Value
		switch v := arg.Value; v.Kind {
		case ast.BooleanValue:
			value = gast.NewBooleanValue(&gast.BooleanValue{Value: v.Raw == "true"})
		case ast.StringValue, ast.BlockValue:
			value = gast.NewStringValue(&gast.StringValue{Value: v.Raw})
		case ast.Variable:
			variable := gast.NewVariable(&gast.Variable{Name: name(v.Raw)})
			value = variable
			// Nullable and without default: graphql-go gets coerced values.
			c.variables[v.Raw] = gast.NewVariableDefinition(&gast.VariableDefinition{
				Variable: variable, Type: typeRef(v.ExpectedType.Name()),
			})
		default:
			continue
		}
		out = append(out, gast.NewArgument(&gast.Argument{Name: name(arg.Name), Value: value}))
	}
	return out
}

func name(s string) *gast.Name { return gast.NewName(&gast.Name{Value: s}) }

func typeRef(typeName string) *gast.Named {
	if typeName == "" {
		return nil
	}
	return gast.NewNamed(&gast.Named{Name: name(typeName)})
}
