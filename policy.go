package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// Policy says what a request may ask for. Zero fields ask nothing. It judges the
// request as the upstream will read it, defaults included, on every route and
// for every GraphQL field alike, before anything is sent; where one is set,
// bodies that two readers could take in two ways are refused with 400. What a
// Rewrite hook makes of a request is the host's own and not judged again.
//
// A refusal is 403 with the code forbidden, and names the parameter; a value of
// the wrong type is 400.
type Policy struct {
	_ [0]func()

	// Models are the models that may be asked for: exact names, or patterns with
	// one "*", which stands for any text ("gpt-4o*"). Empty: any.
	Models []string
	// MaxTokens is the most that max_tokens and max_completion_tokens may be in
	// a chat. A request that has neither gets it: as max_tokens for the models of
	// the worker's days, as max_completion_tokens for all others. 0: any.
	MaxTokens int64
	// MaxN is the most answers or images that may be asked for. 0: any.
	MaxN int64
	// MaxMessages is the most messages that a chat may have. 0: any.
	MaxMessages int
	// Values are the values that a parameter may have, such as "size": {"auto",
	// "1024x1024"}, "quality", "service_tier" or "reasoning_effort". One that is
	// left out or null counts as "auto", OpenAI's word for leaving it to the API.
	Values map[string][]string
	// Refuse names parameters that must be absent, null or false, such as
	// "store", "service_tier", "web_search_options".
	Refuse []string
}

// WithPolicy sets what requests may ask for, whoever makes them. Passing it
// again replaces it. Default: the zero Policy, which lets everything pass.
func WithPolicy(policy Policy) Option {
	policy = policy.clone()
	return optionFunc(func(c *config) { c.policy = policy })
}

func (p Policy) clone() Policy {
	p.Models, p.Refuse = slices.Clone(p.Models), slices.Clone(p.Refuse)
	values := make(map[string][]string, len(p.Values))
	for key, list := range p.Values {
		values[key] = slices.Clone(list)
	}
	p.Values = values
	return p
}

// asks reports whether the policy asks anything.
func (p *Policy) asks() bool {
	return len(p.Models) > 0 || p.MaxTokens != 0 || p.MaxN != 0 || p.MaxMessages != 0 || len(p.Values) > 0 || len(p.Refuse) > 0
}

// keys are the parameters that the policy reads, beside the guarded ones.
func (p *Policy) keys() []string {
	keys := slices.Clone(p.Refuse)
	for key := range p.Values {
		keys = append(keys, key)
	}
	return keys
}

func (p *Policy) check() error {
	var errs []error
	for _, pattern := range p.Models {
		if pattern == "" || strings.Count(pattern, "*") > 1 {
			errs = append(errs, fmt.Errorf(`invalid model %q: a name or a pattern with one "*" is required`, pattern))
		}
	}
	if p.MaxTokens < 0 || p.MaxN < 0 || p.MaxMessages < 0 {
		errs = append(errs, errors.New("a bound is negative"))
	}
	for _, key := range p.keys() {
		if key == "" || slices.Contains([]string{"model", "messages", "prompt", "action", "stream"}, key) {
			errs = append(errs, fmt.Errorf("%q cannot be judged by its value", key))
		}
	}
	for key, list := range p.Values {
		if len(list) == 0 {
			errs = append(errs, fmt.Errorf("no value is allowed for %q: see Refuse", key))
		}
	}
	return errors.Join(errs...)
}

// judge checks a payload, and puts into it what the policy wants there.
func (p *Policy) judge(route Route, in *payload) error {
	if len(p.Models) > 0 && !p.admits(in) {
		return refusedBy("model", "This model may not be used here.")
	}
	for _, key := range p.Refuse {
		if raw := in.get(key); raw != nil && !isNull(raw) && string(raw) != "false" {
			return refusedBy(key, key+" may not be used here.")
		}
	}
	for key, list := range p.Values {
		text, ok := jsonobj.Text(in.get(key))
		switch raw := in.get(key); {
		case raw == nil || isNull(raw):
			text = "auto"
		case !ok:
			return badRequest(CodeInvalidRequest, key, "%s must be a string", key)
		}
		if !slices.Contains(list, text) {
			return refusedBy(key, fmt.Sprintf("%s must be one of: %s", key, strings.Join(list, ", ")))
		}
	}
	if err := p.atMost("n", p.MaxN, in); err != nil {
		return err
	}
	if route != RouteChat {
		return nil
	}
	if p.MaxMessages > 0 {
		if list, _ := jsonobj.Elements(in.get("messages")); len(list) > p.MaxMessages {
			return refusedBy("messages", fmt.Sprintf("At most %d messages are allowed here.", p.MaxMessages))
		}
	}
	return p.capTokens(in)
}

// admits compares the model itself, not its description in the Call.
func (p *Policy) admits(in *payload) bool {
	model, ok := jsonobj.Text(in.get("model"))
	return ok && slices.ContainsFunc(p.Models, func(pattern string) bool { return matchModel(pattern, model) })
}

// matchModel compares a model with a name or a pattern.
func matchModel(pattern, model string) bool {
	prefix, suffix, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == model
	}
	return len(model) >= len(prefix)+len(suffix) && strings.HasPrefix(model, prefix) && strings.HasSuffix(model, suffix)
}

// capTokens keeps both names of the bound under it, and gives one to a request
// that has none. A default of our own gives way.
func (p *Policy) capTokens(in *payload) error {
	if p.MaxTokens == 0 {
		return nil
	}
	bound := strconv.AppendInt(nil, p.MaxTokens, 10)
	bounded := false
	for _, key := range []string{"max_tokens", "max_completion_tokens"} {
		raw := in.get(key)
		if raw == nil || isNull(raw) {
			continue
		}
		bounded = true
		if n, ok := wholeNumber(raw); in.isOurs(key) && (!ok || n > p.MaxTokens) {
			in.set(key, bound)
		}
		if err := p.atMost(key, p.MaxTokens, in); err != nil {
			return err
		}
	}
	if bounded {
		return nil
	}
	key := "max_completion_tokens"
	if in.oldModel {
		key = "max_tokens"
	}
	in.set(key, bound)
	return nil
}

// atMost checks a parameter that must be a whole number, written as one.
func (p *Policy) atMost(key string, most int64, in *payload) error {
	raw := in.get(key)
	if most == 0 || raw == nil || isNull(raw) {
		return nil
	}
	n, ok := wholeNumber(raw)
	if !ok {
		return badRequest(CodeInvalidRequest, key, "%s must be a whole number", key)
	}
	if n > most {
		return refusedBy(key, fmt.Sprintf("%s may be at most %d here.", key, most))
	}
	return nil
}

// wholeNumber reads a number that every reader takes for the same one.
func wholeNumber(raw []byte) (int64, bool) {
	var n int64
	for _, c := range raw {
		if !isDigit(c) {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	if len(raw) > 18 {
		return forever, true
	}
	return n, len(raw) > 0
}

func refusedBy(key, message string) *Error {
	return &Error{Status: http.StatusForbidden, Code: CodeForbidden, Param: key, Message: message}
}

// judged reports whether anybody decides by what is in the body.
func (x *exchange) judged() bool {
	cfg := x.h.cfg
	return cfg.hooks.judge() || cfg.limiter != nil || cfg.policy.asks() || x.caller.Policy.asks()
}

// guarded are the keys that decide about this request.
func (x *exchange) guarded() []string {
	if !x.caller.Policy.asks() {
		return x.h.guarded
	}
	return append(slices.Clip(x.h.guarded), x.caller.Policy.keys()...)
}

// judge applies the policies, and adds what this package says of the caller.
func (x *exchange) judge(info *Call, p *payload) error {
	if err := x.caller.Policy.check(); err != nil {
		return &Error{Status: http.StatusInternalServerError, Code: CodeInternalError, Err: err}
	}
	p.oldModel = x.h.cfg.policy.MaxTokens+x.caller.Policy.MaxTokens != 0 && x.h.defaults.knows(info.Model)
	for _, policy := range []*Policy{&x.h.cfg.policy, &x.caller.Policy} {
		if !policy.asks() {
			continue
		}
		if err := policy.judge(info.Route, p); err != nil {
			return err
		}
	}
	if x.h.cfg.safety.text != nil && x.caller.ID != "" && p.contentType == "" {
		p.set("safety_identifier", jsonobj.Quote(x.h.cfg.safetyIdentifier(x.caller.ID)))
	}
	return nil
}
