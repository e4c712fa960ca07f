package gqldoc

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/graphql-go/graphql"
	"github.com/graphql-go/graphql/gqlerrors"
	gast "github.com/graphql-go/graphql/language/ast"
	"github.com/vektah/gqlparser/v2/ast"
)

// Params is what a resolver gets.
type Params struct {
	// Source is what the resolver of the parent field returned, at the root
	// the value given to Execute.
	Source any

	// Args holds the coerced arguments: Int is int, Float float64, String, ID
	// and enums string, Boolean bool, lists []any, input objects
	// map[string]any. Values of other scalars are as encoding/json decodes
	// them with UseNumber. An absent argument without default is no key, an
	// explicit null is a key with a nil value. Resolvers share these values
	// and must not change them.
	Args map[string]any
}

// Resolver computes a field. What it returns is completed as the type of the
// field: nil, map[string]any for objects (or whatever its fields' resolvers
// read), any slice for lists, and plain values: Go numbers for Int and Float,
// since graphql-go makes null of a json.Number there. Never a function.
//
// An error with a method Extensions() map[string]any, itself or wrapped,
// reaches the client with its text; any other is "Internal server error." to
// the client and stays in [Error].Err for the log. So does a panic.
type Resolver func(ctx context.Context, p Params) (any, error)

// run is what one execution hands to its resolvers.
type run struct {
	first *resolved // of the only root field

	ctx  context.Context //nolint:containedctx // it lives exactly as long as the run
	op   *Operation
	vars map[string]any
}

type runKey struct{}

// Execute runs the operation with coerced variables. A subscription runs for
// one event: root is the value of its root field, or an error to report there.
//
// The resolvers get ctx as it lives; after it has died no further one is
// called, so that a mutation stops paying once the caller has left.
func (o *Operation) Execute(ctx context.Context, vars map[string]any, root any) *Result {
	o.converted.Do(o.convert)
	var shared map[string]any
	if len(o.shared) > 0 {
		shared = make(map[string]any, len(o.shared))
		for _, name := range o.shared {
			shared[name] = vars[name]
		}
	}
	// graphql-go answers a dead context at once and leaves its goroutine
	// behind until the resolver returns. It gets one that never dies.
	running := &run{ctx: ctx, op: o, vars: vars}
	running.ahead(root)
	detached := context.WithValue(context.WithoutCancel(ctx), runKey{}, running)
	out := graphql.Execute(graphql.ExecuteParams{
		Schema: o.schema.types, Root: event{root}, AST: o.doc, Args: shared, Context: detached,
	})
	r := &Result{op: o, vars: vars}
	r.Data, _ = out.Data.(map[string]any)
	for _, e := range out.Errors {
		r.Errors = append(r.Errors, o.executionError(e))
	}
	// Fields of one object run in the order of a map.
	slices.SortStableFunc(r.Errors, func(a, b Error) int {
		return slices.CompareFunc(a.Locations, b.Locations, func(a, b Location) int {
			if a.Line != b.Line {
				return a.Line - b.Line
			}
			return a.Column - b.Column
		})
	})
	return r
}

// event wraps the root value, because graphql-go replaces a nil one.
type event struct{ value any }

// theEvent is the resolver of a subscription's root field.
func theEvent(_ context.Context, p Params) (any, error) {
	if err, ok := p.Source.(error); ok {
		return nil, err
	}
	return p.Source, nil
}

// failure carries a finished error through graphql-go, which shows the text of
// any error and loses the extensions of a wrapped one.
type failure struct{ public Error }

func (f *failure) Error() string { return f.public.Message }

// guard makes a resolver of ours one of graphql-go's. Without withArgs it gets
// no arguments: those of a subscription have opened the stream, and coercing
// them again for each event would cost more than the event.
func guard(resolve Resolver, withArgs bool) graphql.FieldResolveFn {
	return func(p graphql.ResolveParams) (any, error) {
		run, ok := p.Context.Value(runKey{}).(*run)
		if !ok {
			return nil, errors.New("gqldoc: resolver outside of Execute")
		}
		source := p.Source
		if root, ok := source.(event); ok {
			if run.first != nil {
				return run.first.value, run.first.err
			}
			source = root.value
		}
		// Merged fields have equal arguments, by validation.
		field := run.op.sources[p.Info.FieldASTs[0]]
		if !withArgs {
			field = nil
		}
		return run.resolve(resolve, field, source)
	}
}

// resolve calls a resolver and gives its outcome the form graphql-go passes on.
func (r *run) resolve(resolve Resolver, field *ast.Field, source any) (v any, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, &failure{resolverError(fmt.Errorf("gqldoc: panic in a resolver: %v\n%s", p, debug.Stack()))}
		}
	}()
	if err := r.ctx.Err(); err != nil {
		return nil, &failure{resolverError(err)}
	}
	params := Params{Source: source}
	if field != nil {
		args, refused := r.op.schema.arguments(field, r.vars)
		if refused != nil {
			refused.Kind = KindExecution
			return nil, &failure{*refused}
		}
		params.Args = args
	}
	v, err = resolve(r.ctx, params)
	if err != nil {
		return nil, &failure{resolverError(err)}
	}
	return checked(v)
}

// resolved is the outcome of a root field that ran ahead of graphql-go.
type resolved struct {
	value any
	err   error
}

// ahead runs the resolver of an operation's only root field on the caller's
// goroutine. graphql-go would run it on a new one, whose small stack a call to
// an upstream makes grow again and again.
func (r *run) ahead(root any) {
	if r.op.Type() == Subscription || len(r.op.def.SelectionSet) != 1 {
		return
	}
	field, ok := r.op.def.SelectionSet[0].(*ast.Field)
	if !ok || len(field.Directives) > 0 {
		return
	}
	if resolve := r.op.schema.resolvers[field.Definition]; resolve != nil {
		v, err := r.resolve(resolve, field, root)
		r.first = &resolved{v, err}
	}
}

// executionError takes an error out of graphql-go's wrappings.
func (o *Operation) executionError(f gqlerrors.FormattedError) Error {
	var e Error
	var nodes []gast.Node
	var err error = f
	found := false
	for err != nil {
		var next error
		switch w := err.(type) { //nolint:errorlint // one layer at a time is the point
		case *failure:
			e, found = w.public, true
		case gqlerrors.FormattedError:
			next = w.OriginalError()
		case *gqlerrors.Error:
			next = w.OriginalError
			if nodes == nil {
				nodes = w.Nodes
			}
		}
		err = next
	}
	if !found {
		// graphql-go's own. This one text is the spec's and tells nothing.
		e = resolverError(errors.New(f.Message))
		if strings.HasPrefix(f.Message, "Cannot return null for non-nullable field ") {
			e.Message = f.Message
		}
	}
	e.Path = f.Path
	e.Locations = nil
	for _, node := range nodes {
		if field, ok := node.(*gast.Field); ok && o.sources[field] != nil {
			e.Locations = append(e.Locations, place(o.sources[field].Position))
		}
	}
	return e
}
