package gqldoc

import (
	"cmp"
	"slices"

	"github.com/vektah/gqlparser/v2/ast"
)

// graphql-go introspects, but it lists in the order of maps, prints defaults
// wrong and lacks every field the spec got after 2018, dropping their keys
// without a word. So the encoder follows an introspection through the SDL as
// it writes it: each object carries its name under hiddenKey, and by name and
// parent its definition is found.

// fill gives the fields of an introspection object that graphql-go lacks or
// gets wrong.
func fill(about any, field string) (any, bool) {
	switch d := about.(type) {
	case *ast.Schema:
		if field == "description" {
			return text(d.Description), true
		}
	case *ast.Definition:
		return fillType(d, field)
	case *ast.FieldDefinition:
		return fillValue(field, d.Description, d.Directives, d.DefaultValue)
	case *ast.ArgumentDefinition:
		return fillValue(field, d.Description, d.Directives, d.DefaultValue)
	case *ast.EnumValueDefinition:
		return fillValue(field, d.Description, d.Directives, nil)
	case *ast.DirectiveDefinition:
		if field == "isRepeatable" {
			return d.IsRepeatable, true
		}
		return fillValue(field, d.Description, nil, nil)
	case unnamed:
		// A list or a non-null: null, where graphql-go has no key at all.
		switch field {
		case "description", "specifiedByURL", "isOneOf":
			return nil, true
		}
	}
	return nil, false
}

func fillType(d *ast.Definition, field string) (any, bool) {
	switch field {
	case "description":
		return text(d.Description), true
	case "specifiedByURL":
		if by := d.Directives.ForName("specifiedBy"); by != nil && len(by.Arguments) > 0 {
			return by.Arguments[0].Value.Raw, true
		}
		return nil, true
	case "isOneOf":
		if d.Kind == ast.InputObject {
			return d.Directives.ForName("oneOf") != nil, true
		}
		return nil, true
	}
	return nil, false
}

func fillValue(field, description string, directives ast.DirectiveList, standard *ast.Value) (any, bool) {
	switch field {
	case "description":
		return text(description), true
	case "isDeprecated":
		_, deprecated := deprecation(directives)
		return deprecated, true
	case "deprecationReason":
		if reason, deprecated := deprecation(directives); deprecated {
			return reason, true
		}
		return nil, true
	case "defaultValue":
		if standard == nil {
			return nil, true
		}
		return standard.String(), true
	}
	return nil, false
}

// text makes a missing description null.
func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// unnamed stands for a type that wraps another.
type unnamed struct{}

// named is one item of an introspection list.
type named struct {
	name string
	def  any
}

// inspect prepares the value of an introspection field: lists in the order of
// the SDL, and for each object the definition it stands for.
func (e *encoder) inspect(about any, s *slot, value any) (any, []any) {
	switch value := value.(type) {
	case map[string]any:
		if s.field.Name == "__schema" {
			return value, []any{e.schema.sdl}
		}
		return value, []any{e.typeNamed(value)}
	case []any:
		items, ordered := e.items(about, s.field)
		if !ordered {
			below := make([]any, len(value))
			for i, item := range value {
				object, _ := item.(map[string]any)
				below[i] = e.typeNamed(object)
			}
			return value, below
		}
		byName := make(map[any]any, len(value))
		for _, item := range value {
			if object, ok := item.(map[string]any); ok {
				byName[object[hiddenKey]] = object
			}
		}
		list, below := make([]any, 0, len(value)), make([]any, 0, len(value))
		for _, item := range items {
			if object, ok := byName[item.name]; ok {
				list, below = append(list, object), append(below, item.def)
			}
		}
		return list, below
	}
	return value, nil
}

func (e *encoder) typeNamed(object map[string]any) any {
	if name, ok := object[hiddenKey].(string); ok && e.schema.sdl.Types[name] != nil {
		return e.schema.sdl.Types[name]
	}
	return unnamed{}
}

// introspected appends what inspect has prepared.
func (e *encoder) introspected(dst []byte, s *slot, value any, below []any) []byte {
	switch value := value.(type) {
	case map[string]any:
		return e.object(dst, e.planOf(s), value, below[0])
	case []any:
		dst = append(dst, '[')
		for i, item := range value {
			if i > 0 {
				dst = append(dst, ',')
			}
			if object, ok := item.(map[string]any); ok {
				dst = e.object(dst, e.planOf(s), object, below[i])
			} else {
				dst = appendLeaf(dst, item)
			}
		}
		return append(dst, ']')
	}
	return appendLeaf(dst, value)
}

// items lists what an introspection field holds, in order. graphql-go knows no
// deprecated arguments and input fields, so those are left out here.
func (e *encoder) items(about any, field *ast.Field) ([]named, bool) {
	var list []named
	add := func(name string, def any) { list = append(list, named{name, def}) }
	all := e.includeDeprecated(field)
	arguments := func(defs ast.ArgumentDefinitionList) {
		for _, a := range defs {
			if _, deprecated := deprecation(a.Directives); all || !deprecated {
				add(a.Name, a)
			}
		}
	}
	switch d := about.(type) {
	case *ast.Schema:
		switch field.Name {
		case "types":
			for _, t := range e.schema.order {
				add(t.Name, t)
			}
		case "directives":
			for _, directive := range directiveOrder(d) {
				add(directive.Name, directive)
			}
		}
	case *ast.Definition:
		switch field.Name {
		case "fields":
			for _, f := range d.Fields {
				add(f.Name, f)
			}
		case "inputFields":
			for _, f := range d.Fields {
				if _, deprecated := deprecation(f.Directives); all || !deprecated {
					add(f.Name, f)
				}
			}
		case "enumValues":
			for _, v := range d.EnumValues {
				add(v.Name, v)
			}
		default:
			return nil, false
		}
	case *ast.FieldDefinition:
		arguments(d.Arguments)
	case *ast.DirectiveDefinition:
		if field.Name != "args" {
			return nil, false // locations
		}
		arguments(d.Arguments)
	default:
		return nil, false
	}
	return list, true
}

func (e *encoder) includeDeprecated(field *ast.Field) bool {
	arg := field.Arguments.ForName("includeDeprecated")
	if arg == nil {
		return false
	}
	if arg.Value.Kind == ast.Variable {
		all, _ := e.vars[arg.Value.Raw].(bool)
		return all
	}
	return arg.Value.Raw == "true"
}

// directiveOrder lists the directives by name: the prelude's and the schema's
// have no common order.
func directiveOrder(sdl *ast.Schema) []*ast.DirectiveDefinition {
	var list []*ast.DirectiveDefinition
	for _, d := range sdl.Directives {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b *ast.DirectiveDefinition) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// listSizes tells how long a list of an introspection is on average, rounded
// up. Introspection is costly from "types" on, which reaches every type, and
// there the average makes the estimate exact.
func listSizes(sdl *ast.Schema) map[string]int {
	fields, inputs, args, values := 0, 0, 0, 0
	for _, def := range sdl.Types {
		values += len(def.EnumValues)
		if def.Kind == ast.InputObject {
			inputs += len(def.Fields)
			continue
		}
		fields += len(def.Fields)
		for _, f := range def.Fields {
			args += len(f.Arguments)
		}
	}
	types := len(sdl.Types)
	average := func(n, of int) int { return (n + of - 1) / max(1, of) }
	return map[string]int{
		"types":       types,
		"directives":  len(sdl.Directives),
		"fields":      average(fields, types),
		"inputFields": average(inputs, types),
		"enumValues":  average(values, types),
		"args":        average(args, fields),
	}
}
