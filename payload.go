package proxy

import (
	"slices"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// payload is a request body for the upstream: a JSON object with what is to be
// spliced in, or a form that nothing is ever added to.
type payload struct {
	object      jsonobj.Object
	added       []jsonobj.Field   // in front of the object's members
	replaced    []string          // keys of the object whose values are ours
	form        map[string]string // the guarded values of a form
	contentType string            // of a form, as the client wrote it; "": JSON
	body        []byte            // to send; of JSON, made by render
	oldModel    bool              // the model is one that takes max_tokens

	cannotStream bool // whoever waits for the answer cannot pass a stream on
}

// get returns the raw JSON value that the upstream will find under key, or nil.
func (p *payload) get(key string) []byte {
	if p.contentType != "" {
		return p.formValue(key)
	}
	if i := p.indexAdded(key); i >= 0 {
		return p.added[i].Value
	}
	raw, _ := p.object.Get(key)
	return raw
}

// formValue returns a value of a form, which has no types: what looks like a
// number or a constant is one.
func (p *payload) formValue(key string) []byte {
	text, ok := p.form[key]
	if _, number := wholeNumber([]byte(text)); !ok || number || text == "true" || text == "false" || text == "null" {
		if !ok {
			return nil
		}
		return []byte(text)
	}
	return jsonobj.Quote(text)
}

func (p *payload) indexAdded(key string) int {
	return slices.IndexFunc(p.added, func(f jsonobj.Field) bool { return f.Key == key })
}

// isOurs reports whether the value of key is ours.
func (p *payload) isOurs(key string) bool {
	return p.indexAdded(key) >= 0 || slices.Contains(p.replaced, key)
}

// set puts a value under key, in place of the one that is there. A form stays as
// it is.
func (p *payload) set(key string, value []byte) {
	if p.contentType != "" {
		return
	}
	if i := p.indexAdded(key); i >= 0 {
		p.added = slices.Clone(p.added)
		p.added[i].Value = value
		return
	}
	if p.object.Has(key) {
		if o, err := jsonobj.Parse(p.object.Replace(key, value)); err == nil {
			p.object, p.replaced = o, append(p.replaced, key)
			return
		}
	}
	p.added = append(slices.Clip(p.added), jsonobj.Field{Key: key, Value: value})
}

// render makes the body of a JSON payload.
func (p *payload) render() {
	if p.contentType != "" {
		return
	}
	p.body = p.object.Bytes()
	if len(p.added) > 0 {
		p.body = p.object.With(p.added...)
	}
}
