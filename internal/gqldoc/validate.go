package gqldoc

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/validator"
	"github.com/vektah/gqlparser/v2/validator/core"
	"github.com/vektah/gqlparser/v2/validator/rules"
)

type rule = core.Rule

// rulesOf lists gqlparser's default rules in a fixed order; their own
// collection is a map. validator.Validate and AddRule are not for us: the rule
// set behind them belongs to the process, and so to the host too.
func rulesOf(withoutSuggestions bool) []rule {
	set := rules.NewDefaultRules()
	if withoutSuggestions {
		set.ReplaceRule(rules.FieldsOnCorrectTypeRule.Name, rules.FieldsOnCorrectTypeRuleWithoutSuggestions.RuleFunc)
		set.ReplaceRule(rules.KnownArgumentNamesRule.Name, rules.KnownArgumentNamesRuleWithoutSuggestions.RuleFunc)
		set.ReplaceRule(rules.KnownTypeNamesRule.Name, rules.KnownTypeNamesRuleWithoutSuggestions.RuleFunc)
		set.ReplaceRule(rules.ScalarLeafsRule.Name, rules.ScalarLeafsRuleWithoutSuggestions.RuleFunc)
		set.ReplaceRule(rules.ValuesOfCorrectTypeRule.Name, rules.ValuesOfCorrectTypeRuleWithoutSuggestions.RuleFunc)
	}
	var list []rule
	for name, f := range set.GetInner() {
		list = append(list, rule{Name: name, RuleFunc: f})
	}
	slices.SortFunc(list, func(a, b rule) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// enough ends a walk from inside a rule. gqlparser has no bound on errors, its
// walker holds no lock and starts no goroutine, so a panic is a safe way out.
type enough struct{}

// validate runs all rules in one walk. The walk also fills in the definitions
// that conversion and coercion read; afterwards the document is read-only.
func (s *Schema) validate(doc *ast.QueryDocument) (errs []Error) {
	defer func() {
		switch p := recover(); p.(type) {
		case nil, enough:
		default:
			errs = internal(p)
		}
	}()
	add := func(options ...core.ErrorOption) {
		var g gqlerror.Error
		for _, option := range options {
			option(&g)
		}
		errs = append(errs, newError(KindValidation, CodeValidation, g.Message, locations(&g)...))
		if len(errs) >= s.limits.Errors {
			panic(enough{}) //nolint:forbidigo // the only way out of the walk; recovered above
		}
	}
	var events core.Events
	for _, r := range s.rules {
		r.RuleFunc(&events, add)
	}
	validator.Walk(s.sdl, doc, &events)
	return errs
}

// ownRules are what gqlparser's rules leave open.
func (s *Schema) ownRules() []rule {
	return []rule{
		{Name: "gqldoc.Values", RuleFunc: valueRule},
		{Name: "gqldoc.Directives", RuleFunc: s.directiveRule},
	}
}

// valueRule refuses Int literals of more than 32 bits and objects where a
// scalar or an enum is expected.
func valueRule(events *core.Events, add core.AddErrFunc) {
	events.OnValue(func(_ *core.Walker, v *ast.Value) {
		if v.Definition == nil || v.ExpectedType == nil {
			return
		}
		switch v.Kind {
		case ast.IntValue:
			if v.Definition.Name != "Int" {
				return
			}
			// Past 64 bits gqlparser's own rule has complained already.
			n, err := strconv.ParseInt(v.Raw, 10, 64)
			if err == nil && (n < math.MinInt32 || n > math.MaxInt32) {
				add(core.Message("Int cannot represent non 32-bit signed integer value: %s", v.Raw), core.At(v.Position))
			}
		case ast.ObjectValue:
			def := v.Definition
			if def.Kind == ast.Enum || def.Kind == ast.Scalar && !customScalar(def) {
				add(core.Message("Expected value of type %q, found an object.", v.ExpectedType.String()), core.At(v.Position))
			}
		}
	})
}

// customScalar reports whether values of a scalar are passed on as they are.
func customScalar(def *ast.Definition) bool {
	return !def.OneOf("Int", "Float", "String", "Boolean", "ID")
}

func (s *Schema) directiveRule(events *core.Events, add core.AddErrFunc) {
	events.OnDirectiveList(func(_ *core.Walker, list []*ast.Directive) {
		if len(list) > s.limits.Directives {
			add(core.Message("There are more than %d directives at one place.", s.limits.Directives), core.At(list[0].Position))
		}
	})
}
