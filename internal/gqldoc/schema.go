package gqldoc

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/graphql-go/graphql"
	"github.com/vektah/gqlparser/v2/ast"
)

// Limits bounds what one document may ask for. A zero field is its default; a
// limit cannot be switched off.
type Limits struct {
	Bytes       int // of the text: 64 KiB
	Tokens      int // comments included: 2,500
	Definitions int // operations and fragments: 50
	Depth       int // of nested fields, fragments expanded: 17. graphql-js's introspection query needs 15
	RootFields  int // response keys at the root of an operation: 10
	Fields      int // of the document as written, and of each operation with its fragments expanded: 600
	SameKey     int // fields of one response key in one selection set: 20
	Directives  int // at one place: 4
	Errors      int // reported: 10
	PaidCalls   int // response keys on Config.Paid fields: 1
}

// Limits that nobody has a reason to change.
const (
	maxName   = 128 // bytes: a name costs Levenshtein distances and is echoed
	maxNumber = 400 // bytes: as graphql-js's largest sensible number, 1e308 written out
	// maxValueNesting is what lists and objects may nest beside the fields.
	maxValueNesting = 16
	// maxPairs bounds the pairs of fields with one response key in the whole
	// document. OverlappingFieldsCanBeMerged compares them across fragments:
	// 539 equal fields in 49 fragments, 3 KB, for 30 ms.
	maxPairs = 40_000
	// maxValues bounds the values a result may hold, by an estimate: the lists
	// of an introspection count at their usual length (listSizes), any other
	// list as listRows, lists within it as one. A value costs graphql-go more
	// than a microsecond, so that 5 KB of aliases would cost 0.1 s.
	// graphql-js's introspection query comes to 14,000.
	maxValues = 30_000
	listRows  = 100
)

func (l Limits) withDefaults() Limits {
	or := func(v *int, standard int) {
		if *v <= 0 {
			*v = standard
		}
	}
	or(&l.Bytes, 64<<10)
	or(&l.Tokens, 2500)
	or(&l.Definitions, 50)
	or(&l.Depth, 17)
	or(&l.RootFields, 10)
	or(&l.Fields, 600)
	or(&l.SameKey, 20)
	or(&l.Directives, 4)
	or(&l.Errors, 10)
	or(&l.PaidCalls, 1)
	return l
}

// Config is what [New] needs.
type Config struct {
	SDL string

	// Resolvers by "Type.field". A field without one reads its key from a
	// map[string]any source; a field of the subscription type without one is
	// the event itself (see [Operation.Execute]).
	Resolvers map[string]Resolver

	// Paid lists the root fields, as "Mutation.field", of which an operation
	// may select Limits.PaidCalls in all.
	Paid []string

	Limits Limits

	// NoIntrospection refuses __schema and __type, and keeps names of the
	// schema out of error messages ("Did you mean").
	NoIntrospection bool
}

// Schema prepares and executes documents against one SDL.
type Schema struct {
	sdl       *ast.Schema
	types     graphql.Schema
	limits    Limits
	rules     []rule
	paid      map[*ast.FieldDefinition]bool
	resolvers map[*ast.FieldDefinition]Resolver
	hidden    bool // introspection is off
	order     []*ast.Definition
	sizes     map[string]int // introspection list field: its usual length
	cache     *cache
}

// New loads the SDL and binds the resolvers. Its error names every resolver
// and paid field that the SDL does not have.
func New(config Config) (*Schema, error) {
	sdl, err := loadSDL(config.SDL)
	if err != nil {
		return nil, fmt.Errorf("gqldoc: %w", err)
	}
	s := &Schema{
		sdl:       sdl,
		limits:    config.Limits.withDefaults(),
		rules:     rulesOf(config.NoIntrospection),
		paid:      map[*ast.FieldDefinition]bool{},
		resolvers: map[*ast.FieldDefinition]Resolver{},
		hidden:    config.NoIntrospection,
		order:     definitionOrder(sdl),
		cache:     newCache(),
	}
	s.rules = append(s.rules, s.ownRules()...)
	s.sizes = listSizes(sdl)

	var problems []error
	for _, name := range config.Paid {
		field := s.field(name)
		if field == nil {
			problems = append(problems, fmt.Errorf("gqldoc: paid field %s is not in the schema", name))
			continue
		}
		s.paid[field] = true
	}
	for name, resolve := range config.Resolvers {
		if s.field(name) == nil || resolve == nil {
			problems = append(problems, fmt.Errorf("gqldoc: resolver %s has no field or no function", name))
			continue
		}
		s.resolvers[s.field(name)] = resolve
	}
	if len(problems) > 0 {
		slices.SortFunc(problems, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
		return nil, errors.Join(problems...)
	}
	if s.types, err = s.build(config.Resolvers); err != nil {
		return nil, fmt.Errorf("gqldoc: %w", err)
	}
	return s, nil
}

// field finds "Type.field" among the object types a client can see.
func (s *Schema) field(name string) *ast.FieldDefinition {
	typeName, fieldName, _ := strings.Cut(name, ".")
	def := s.sdl.Types[typeName]
	if def == nil || def.Kind != ast.Object || introspective(typeName) || introspective(fieldName) {
		return nil
	}
	return def.Fields.ForName(fieldName)
}

// introspective reports whether a name is reserved for introspection.
func introspective(name string) bool { return strings.HasPrefix(name, "__") }

// definitionOrder lists the types as a reader of the SDL meets them, the
// implied ones last. sdl.Types is a map.
func definitionOrder(sdl *ast.Schema) []*ast.Definition {
	var order []*ast.Definition
	for _, def := range sdl.Types {
		order = append(order, def)
	}
	slices.SortFunc(order, func(a, b *ast.Definition) int {
		if a.BuiltIn != b.BuiltIn {
			if a.BuiltIn {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.Position.Start, b.Position.Start), cmp.Compare(a.Name, b.Name))
	})
	return order
}
