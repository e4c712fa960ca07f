package gqldoc

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
)

// Variables coerces the variables of a request, decoded by encoding/json with
// UseNumber, to the types the operation declares. Strictly: no string is a
// number, no number a string. Defaults are applied where a value is absent,
// not where it is null. raw is not changed.
func (o *Operation) Variables(raw map[string]any) (map[string]any, []Error) {
	c := coercer{sdl: o.schema.sdl, limit: o.schema.limits.Errors}
	out := make(map[string]any, len(o.def.VariableDefinitions))
	for _, def := range o.def.VariableDefinitions {
		c.variable, c.at = def.Variable, place(def.Position)
		in, ok := raw[def.Variable]
		switch {
		case ok:
			out[def.Variable] = c.value(def.Type, in, &step{key: def.Variable})
		case def.DefaultValue != nil:
			out[def.Variable] = c.value(def.Type, def.DefaultValue, &step{key: def.Variable})
		case def.Type.NonNull:
			c.add(fmt.Sprintf("Variable %q of required type %q was not provided.", "$"+def.Variable, def.Type.String()))
		}
	}
	for _, def := range o.guards {
		if v, ok := out[def.Variable]; ok && v == nil {
			c.at = place(def.Position)
			c.add(fmt.Sprintf("Variable %q must not be null where @skip or @include uses it.", "$"+def.Variable))
		}
	}
	if len(c.errs) > 0 {
		return nil, c.errs
	}
	return out, nil
}

// arguments coerces the arguments of one field.
func (s *Schema) arguments(field *ast.Field, vars map[string]any) (map[string]any, *Error) {
	if field.Definition == nil || len(field.Definition.Arguments) == 0 {
		return nil, nil
	}
	c := coercer{sdl: s.sdl, vars: vars, limit: 1, at: place(field.Position)}
	args := make(map[string]any, len(field.Definition.Arguments))
	for _, def := range field.Definition.Arguments {
		at := &step{key: def.Name}
		in, ok := any(nil), false
		if given := field.Arguments.ForName(def.Name); given != nil {
			in, ok = c.given(given.Value)
		}
		switch {
		case ok:
			args[def.Name] = c.value(def.Type, in, at)
		case def.DefaultValue != nil:
			args[def.Name] = c.value(def.Type, def.DefaultValue, at)
		case def.Type.NonNull:
			c.refuse(at, "is required.")
		}
	}
	if len(c.errs) > 0 {
		return nil, &c.errs[0]
	}
	return args, nil
}

// coercer turns input into the Go values of its type: JSON as decoded, or
// literals of a document or of the SDL (*ast.Value), by the same code.
type coercer struct {
	sdl      *ast.Schema
	vars     map[string]any // for literals in a document
	variable string         // being coerced; "" for an argument
	at       Location
	limit    int
	errs     []Error
}

// step is the way to a value, for messages.
type step struct {
	up  *step
	key any // string or int
}

func (p *step) String() string {
	if p.up == nil {
		return fmt.Sprint(p.key)
	}
	if i, ok := p.key.(int); ok {
		return p.up.String() + "[" + strconv.Itoa(i) + "]"
	}
	return p.up.String() + "." + fmt.Sprint(p.key)
}

func (c *coercer) add(message string) {
	if len(c.errs) < c.limit {
		c.errs = append(c.errs, newError(KindInput, CodeInput, message, c.at))
	}
}

// refuse reports a value that does not fit and returns nothing in its place.
func (c *coercer) refuse(at *step, format string, args ...any) any {
	if len(c.errs) >= c.limit {
		return nil
	}
	problem := fmt.Sprintf(format, args...)
	if c.variable == "" {
		c.add(fmt.Sprintf("Argument %q %s", at.String(), problem))
	} else if at.up == nil {
		c.add(fmt.Sprintf("Variable %q %s", "$"+c.variable, problem))
	} else {
		c.add(fmt.Sprintf("Variable %q got an invalid value at %q: it %s", "$"+c.variable, at.String(), problem))
	}
	return nil
}

// variableValue is a variable's value inside a literal, coerced already.
type variableValue struct{ value any }

// given resolves a literal that is a variable. Not ok means that the variable
// was not provided and has no default, which makes its place absent.
func (c *coercer) given(v *ast.Value) (any, bool) {
	if v.Kind != ast.Variable {
		return v, true
	}
	value, ok := c.vars[v.Raw]
	return variableValue{value}, ok
}

// enumName is an enum literal, which is no string.
type enumName string

// open turns the outermost level of a literal into what JSON would have.
func (c *coercer) open(in any) any {
	v, ok := in.(*ast.Value)
	if !ok {
		return in
	}
	switch v.Kind {
	case ast.NullValue:
		return nil
	case ast.IntValue, ast.FloatValue:
		return json.Number(v.Raw)
	case ast.BooleanValue:
		return v.Raw == "true"
	case ast.EnumValue:
		return enumName(v.Raw)
	case ast.ListValue:
		list := make([]any, len(v.Children))
		for i, child := range v.Children {
			list[i], _ = c.given(child.Value) // absent in a list is null
		}
		return list
	case ast.ObjectValue:
		object := make(map[string]any, len(v.Children))
		for _, child := range v.Children {
			if value, ok := c.given(child.Value); ok {
				object[child.Name] = value
			}
		}
		return object
	case ast.Variable: // a literal on its own, in a default: not in valid documents
		return nil
	}
	return v.Raw
}

// value coerces in to the type t.
func (c *coercer) value(t *ast.Type, in any, at *step) any {
	if v, ok := in.(variableValue); ok {
		// The types fit by validation; a nullable variable with a default may
		// still bring null to a place that refuses it.
		if v.value == nil && t.NonNull {
			return c.refuse(at, "of type %q must not be null.", t.String())
		}
		return v.value
	}
	in = c.open(in)
	if in == nil {
		if t.NonNull {
			return c.refuse(at, "of type %q must not be null.", t.String())
		}
		return nil
	}
	if t.Elem != nil {
		list, ok := in.([]any)
		if !ok {
			return []any{c.value(t.Elem, in, at)} // one value is a list of one
		}
		out := make([]any, len(list))
		for i, item := range list {
			out[i] = c.value(t.Elem, item, &step{at, i})
		}
		return out
	}
	def := c.sdl.Types[t.NamedType]
	switch {
	case def == nil:
		return c.refuse(at, "has an unknown type.")
	case def.Kind == ast.InputObject:
		return c.object(def, in, at)
	case def.Kind == ast.Enum:
		return c.enum(def, in, at)
	case customScalar(def):
		return c.plain(in)
	}
	return c.scalar(def, in, at)
}

func (c *coercer) object(def *ast.Definition, in any, at *step) any {
	object, ok := in.(map[string]any)
	if !ok {
		return c.refuse(at, "expects an object of type %q, found %s.", def.Name, describe(in))
	}
	out := make(map[string]any, len(object))
	known := 0
	for _, field := range def.Fields {
		value, ok := object[field.Name]
		switch {
		case ok:
			known++
			out[field.Name] = c.value(field.Type, value, &step{at, field.Name})
		case field.DefaultValue != nil:
			out[field.Name] = c.value(field.Type, field.DefaultValue, &step{at, field.Name})
		case field.Type.NonNull:
			c.refuse(&step{at, field.Name}, "of required type %q was not provided.", field.Type.String())
		}
	}
	if known < len(object) {
		names := make([]string, 0, len(object)-known)
		for name := range object {
			if def.Fields.ForName(name) == nil {
				names = append(names, name)
			}
		}
		slices.Sort(names) // the order of a map is none to report errors in
		for _, name := range names {
			c.refuse(at, "has no field %s in type %q.", strconv.Quote(clipTo(name, maxName)), def.Name)
		}
	}
	if def.Directives.ForName("oneOf") != nil {
		for _, value := range out {
			if len(out) == 1 && value != nil {
				return out
			}
		}
		return c.refuse(at, "of type %q must specify exactly one key, and not null.", def.Name)
	}
	return out
}

func (c *coercer) enum(def *ast.Definition, in any, at *step) any {
	var name string
	switch in := in.(type) {
	case enumName:
		name = string(in)
	case string:
		name = in
	}
	if name == "" || def.EnumValues.ForName(name) == nil {
		return c.refuse(at, "expects a value of enum %q, found %s.", def.Name, describe(in))
	}
	return name
}

// plain makes a literal of a custom scalar what its JSON would be.
func (c *coercer) plain(in any) any {
	switch in := c.open(in).(type) {
	case variableValue:
		return in.value
	case enumName:
		return string(in)
	case []any:
		if !literal(in) {
			return in
		}
		for i := range in {
			in[i] = c.plain(in[i])
		}
		return in
	case map[string]any:
		for key, value := range in {
			if !literalPart(value) {
				return in
			}
			in[key] = c.plain(value)
		}
		return in
	default:
		return in
	}
}

// literal reports whether a list was opened from a literal: what came by JSON
// belongs to the caller, is plain already and must not be written to.
func literal(list []any) bool { return len(list) > 0 && literalPart(list[0]) }

func literalPart(v any) bool {
	switch v.(type) {
	case *ast.Value, variableValue:
		return true
	}
	return false
}

func (c *coercer) scalar(def *ast.Definition, in any, at *step) any {
	switch def.Name {
	case "Int":
		if n, ok := integer(in); ok && n >= math.MinInt32 && n <= math.MaxInt32 {
			return int(n)
		}
		return c.refuse(at, "expects a 32-bit Int, found %s.", describe(in))
	case "Float":
		if number, ok := in.(json.Number); ok {
			if f, err := number.Float64(); err == nil && !math.IsInf(f, 0) {
				return f
			}
		}
	case "String":
		if s, ok := in.(string); ok {
			return s
		}
	case "Boolean":
		if b, ok := in.(bool); ok {
			return b
		}
	case "ID":
		if s, ok := in.(string); ok {
			return s
		}
		if n, ok := integer(in); ok {
			return strconv.FormatInt(n, 10)
		}
	}
	return c.refuse(at, "expects a %s, found %s.", def.Name, describe(in))
}

// integer reads a JSON number of integral value; 1.0 and 1e2 are such.
func integer(in any) (int64, bool) {
	number, ok := in.(json.Number)
	if !ok {
		return 0, false
	}
	if n, err := strconv.ParseInt(string(number), 10, 64); err == nil {
		return n, true
	}
	const exact = 1 << 53
	f, err := number.Float64()
	if err != nil || f != math.Trunc(f) || math.Abs(f) > exact {
		return 0, false
	}
	return int64(f), true
}

// describe shows a refused value, shortly: it may be a picture.
func describe(in any) string {
	switch in := in.(type) {
	case string:
		return strconv.Quote(clipTo(in, 64))
	case json.Number:
		return clipTo(string(in), 64)
	case bool:
		return strconv.FormatBool(in)
	case enumName:
		return string(in)
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", in), "*")
}
