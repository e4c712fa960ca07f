package gqldoc

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sync"

	"github.com/graphql-go/graphql"
	"github.com/vektah/gqlparser/v2/ast"
)

// builder makes graphql-go's types of the SDL. They serve execution and
// introspection only, so input types carry neither defaults nor coercion, and
// what graphql-go cannot hold is left to introspect.go.
type builder struct {
	schema    *Schema
	resolvers map[string]Resolver
	types     map[string]graphql.Type
}

func (s *Schema) build(resolvers map[string]Resolver) (graphql.Schema, error) {
	b := &builder{schema: s, resolvers: resolvers, types: map[string]graphql.Type{
		// These two are the types of introspection, which graphql-go compares
		// by pointer. The rest of the five is its own as well.
		"String": graphql.String, "Boolean": graphql.Boolean,
		"Int": graphql.Int, "Float": graphql.Float, "ID": graphql.ID,
	}}
	var all []graphql.Type
	for _, def := range s.order {
		if b.types[def.Name] != nil || introspective(def.Name) {
			continue
		}
		t, err := b.define(def)
		if err != nil {
			return graphql.Schema{}, err
		}
		b.types[def.Name] = t
		all = append(all, t)
	}
	config := graphql.SchemaConfig{Types: all, Directives: b.directives()}
	config.Query = b.root(s.sdl.Query)
	config.Mutation = b.root(s.sdl.Mutation)
	config.Subscription = b.root(s.sdl.Subscription)
	schema, err := graphql.NewSchema(config)
	if err != nil {
		return schema, err
	}
	// graphql-go fills these caches on first use without a lock.
	warmIntrospection()
	for _, t := range all {
		switch t := t.(type) {
		case *graphql.Enum:
			warm(t)
		case *graphql.InputObject:
			t.Fields()
		case *graphql.Object:
			t.Fields()
			t.Interfaces()
		}
	}
	return schema, nil
}

// warmIntrospection fills the caches of enums that belong to the process: once,
// or two handlers built at the same time would race.
var warmIntrospection = sync.OnceFunc(func() {
	warm(graphql.TypeKindEnumType)
	warm(graphql.DirectiveLocationEnumType)
})

func warm(e *graphql.Enum) {
	e.ParseValue("")
	e.Serialize("")
}

func (b *builder) root(def *ast.Definition) *graphql.Object {
	if def == nil {
		return nil
	}
	object, _ := b.types[def.Name].(*graphql.Object)
	return object
}

func (b *builder) define(def *ast.Definition) (graphql.Type, error) {
	switch def.Kind {
	case ast.Scalar:
		return graphql.NewScalar(graphql.ScalarConfig{
			Name: def.Name, Description: def.Description, Serialize: serializeJSON,
		}), nil
	case ast.Enum:
		values := graphql.EnumValueConfigMap{}
		for _, v := range def.EnumValues {
			reason, _ := deprecation(v.Directives)
			values[v.Name] = &graphql.EnumValueConfig{Value: v.Name, Description: v.Description, DeprecationReason: reason}
		}
		return graphql.NewEnum(graphql.EnumConfig{Name: def.Name, Description: def.Description, Values: values}), nil
	case ast.InputObject:
		return graphql.NewInputObject(graphql.InputObjectConfig{
			Name: def.Name, Description: def.Description,
			Fields: graphql.InputObjectConfigFieldMapThunk(func() graphql.InputObjectConfigFieldMap { return b.inputs(def) }),
		}), nil
	case ast.Object:
		return graphql.NewObject(graphql.ObjectConfig{
			Name: def.Name, Description: def.Description,
			Fields: graphql.FieldsThunk(func() graphql.Fields { return b.fields(def) }),
		}), nil
	}
	// The conversion and the encoder rely on every fragment applying to every
	// object it is spread on.
	return nil, fmt.Errorf("%s %s: interfaces and unions are not supported", def.Kind, def.Name)
}

func (b *builder) inputs(def *ast.Definition) graphql.InputObjectConfigFieldMap {
	fields := graphql.InputObjectConfigFieldMap{}
	for _, f := range def.Fields {
		fields[f.Name] = &graphql.InputObjectFieldConfig{Type: b.typeOf(f.Type), Description: f.Description}
	}
	return fields
}

func (b *builder) fields(def *ast.Definition) graphql.Fields {
	fields := graphql.Fields{}
	for _, f := range def.Fields {
		if introspective(f.Name) {
			continue
		}
		reason, _ := deprecation(f.Directives)
		resolve := property
		event := def == b.schema.sdl.Subscription
		if r := b.resolvers[def.Name+"."+f.Name]; r != nil {
			resolve = guard(r, !event)
		} else if event {
			resolve = guard(theEvent, false)
		}
		fields[f.Name] = &graphql.Field{
			Type: b.typeOf(f.Type), Args: b.args(f.Arguments),
			Description: f.Description, DeprecationReason: reason, Resolve: resolve,
		}
	}
	return fields
}

func (b *builder) args(list ast.ArgumentDefinitionList) graphql.FieldConfigArgument {
	args := graphql.FieldConfigArgument{}
	for _, a := range list {
		args[a.Name] = &graphql.ArgumentConfig{Type: b.typeOf(a.Type), Description: a.Description}
	}
	return args
}

func (b *builder) typeOf(t *ast.Type) graphql.Type {
	var out graphql.Type
	if t.Elem != nil {
		out = graphql.NewList(b.typeOf(t.Elem))
	} else {
		out = b.types[t.NamedType]
	}
	if t.NonNull {
		return graphql.NewNonNull(out)
	}
	return out
}

// directives are for introspection: execution knows @skip and @include itself.
func (b *builder) directives() []*graphql.Directive {
	known := map[string]bool{}
	for _, v := range graphql.DirectiveLocationEnumType.Values() {
		known[v.Name] = true
	}
	var list []*graphql.Directive
	for _, def := range directiveOrder(b.schema.sdl) {
		var at []string
		for _, l := range def.Locations {
			// A location graphql-go's enum lacks would be null in a list of
			// non-null.
			if known[string(l)] {
				at = append(at, string(l))
			}
		}
		if len(at) == 0 {
			continue
		}
		list = append(list, graphql.NewDirective(graphql.DirectiveConfig{
			Name: def.Name, Description: def.Description, Locations: at, Args: b.args(def.Arguments),
		}))
	}
	return list
}

// deprecation reads @deprecated.
func deprecation(list ast.DirectiveList) (string, bool) {
	d := list.ForName("deprecated")
	if d == nil {
		return "", false
	}
	if arg := d.Arguments.ForName("reason"); arg != nil && arg.Value.Kind != ast.NullValue {
		return arg.Value.Raw, true
	}
	return graphql.DefaultDeprecationReason, true
}

// property is the resolver of the fields without one.
func property(p graphql.ResolveParams) (any, error) {
	source := p.Source
	if root, ok := source.(event); ok {
		source = root.value
	}
	object, _ := source.(map[string]any)
	return checked(object[p.Info.FieldName])
}

// checked refuses functions. graphql-go would take one for a thunk and call it
// outside every guard, those of a mutation in random order.
//
// graphql-go serializes a string through fmt, and a pointer to one directly.
func checked(v any) (any, error) {
	switch s := v.(type) {
	case nil, bool, int, map[string]any, []any:
		return v, nil
	case string:
		return &s, nil
	}
	if reflect.TypeOf(v).Kind() == reflect.Func {
		return nil, &failure{resolverError(fmt.Errorf("gqldoc: a resolver returned a %T", v))}
	}
	return v, nil
}

// serializeJSON makes the value of a custom scalar its JSON, compact, so that
// it fits a line of an event stream.
func serializeJSON(v any) any {
	raw, ok := marshal(v)
	if !ok {
		return nil
	}
	return json.RawMessage(raw)
}
