package proxy

import (
	"net/http"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// chat serves OpenAI's chat route: nothing is added but a missing model.
func (x *exchange) chat() error {
	o, err := x.readObject()
	if err != nil {
		return err
	}
	return x.sendJSON(RouteChat, o, false)
}

// chatOrImages serves the worker's root, which takes both kinds of request: an
// image if the action says so, or if there is a prompt and no messages.
func (x *exchange) chatOrImages() error {
	o, err := x.readObject()
	if err != nil {
		return err
	}
	if action, _ := o.String("action"); action == imageAction {
		if o, err = jsonobj.Parse(o.Without("action")); err != nil {
			return err
		}
		return x.sendJSON(RouteImages, o, true)
	}
	if promptOnly(o) {
		return x.sendJSON(RouteImages, o, true)
	}
	return x.sendJSON(RouteChat, o, true)
}

// imageAction is the value of "action" that makes a request on the worker's
// root an image request.
const imageAction = "generate-image"

// promptOnly reports a non-empty prompt where messages are absent or null.
func promptOnly(o jsonobj.Object) bool {
	if messages, ok := o.Get("messages"); ok && !isNull(messages) {
		return false
	}
	prompt, ok := o.Get("prompt")
	return ok && !isNull(prompt) && string(prompt) != `""`
}

// readObject reads the body of a JSON route. Any Content-Type is taken, so that
// "simple" requests and plain curl work; the origin was checked before. Only a
// form is refused, which no upstream route but edits takes.
func (x *exchange) readObject() (jsonobj.Object, error) {
	if mediaType(x.r.Header.Get("Content-Type")) == "multipart/form-data" {
		return jsonobj.Object{}, &Error{
			Status: http.StatusUnsupportedMediaType, Code: CodeUnsupportedMediaType,
			Message: "This route takes JSON; forms are for image edits only.",
		}
	}
	body, err := x.borrowBody()
	if err != nil {
		return jsonobj.Object{}, err
	}
	return x.parseBody(body)
}

// sendJSON checks a request, adds what it lacks, and forwards it. Only requests
// on the worker's routes, and GraphQL's, get more than a model.
func (x *exchange) sendJSON(route Route, o jsonobj.Object, worker bool) error {
	c, err := x.prepare(route, o, worker)
	if err != nil {
		return err
	}
	return x.forward(c)
}

// prepare makes a call of a request's body.
func (x *exchange) prepare(route Route, o jsonobj.Object, worker bool) (*call, error) {
	if err := checkFields(route, o); err != nil {
		return nil, err
	}
	var add []jsonobj.Field
	model, _ := o.String("model")
	if !o.Has("model") {
		model = x.h.defaultModel(route)
		add = append(add, jsonobj.Field{Key: "model", Value: jsonobj.Quote(model)})
	}
	if worker {
		add = append(add, x.h.defaults.missing(route, model, o)...)
	}
	stream, _ := o.Get("stream")
	return x.newCall(route, model, isTrue(stream), payload{object: o, added: add}), nil
}

// checkFields checks what a route cannot do without; everything else is the
// upstream's to judge.
func checkFields(route Route, o jsonobj.Object) error {
	if route == RouteChat {
		if messages, _ := o.Get("messages"); len(messages) == 0 || messages[0] != '[' {
			e := badRequest(CodeInvalidRequest, "messages", "messages field is required and must be an array")
			e.title = "Invalid messages format"
			return e
		}
		return nil
	}
	if prompt, _ := o.String("prompt"); prompt == "" {
		e := badRequest(CodeInvalidRequest, "prompt", "prompt field is required for image generation")
		e.title = "Missing required field"
		return e
	}
	return nil
}

func (h *Handler) defaultModel(route Route) string {
	if route == RouteChat {
		return h.cfg.chatModel
	}
	return h.cfg.imageModel
}

// newCall makes the call that the request asks for.
func (x *exchange) newCall(route Route, model string, stream bool, p payload) *call {
	c := &call{h: x.h, x: x, payload: p, info: Call{
		Route: route, Method: x.r.Method, Path: x.r.URL.Path,
		Model: model, Stream: stream, Caller: x.caller.ID,
		RequestID: x.id, Header: x.r.Header,
	}}
	if x.h.cfg.showsCalls() {
		c.info.Address = x.h.cfg.address(x.r)
	}
	return c
}

// forward makes the call and hands its answer to the client.
func (x *exchange) forward(c *call) error {
	c.payload.cannotStream = !canFlush(x.w)
	if c.info.Stream && c.payload.cannotStream {
		return errCannotStream() // before a hook counts the call
	}
	rep, err := c.do()
	if err != nil {
		return err
	}
	defer x.finish(rep)
	if rep.stream {
		x.stream(rep)
		return nil
	}
	return x.relay(rep)
}

// finish ends the call of an answer. The last write's deadline must not pass over
// what net/http has still to send: a stream may have been silent before its end, and
// Done may take its time. Only a broken answer must not be given time again.
func (x *exchange) finish(rep *reply) {
	if x.broken || !rep.stream && !x.h.cfg.accounts() && !x.h.cfg.records { // nobody is told: nothing takes time
		rep.close()
		return
	}
	x.writing.rest()
	rep.close()
	x.writing.renew()
}

func errCannotStream() *Error {
	return &Error{
		Status: http.StatusInternalServerError, Code: CodeStreamingUnsupported,
		Message: "The server that mounts this proxy cannot stream: a middleware hides Flush.",
	}
}

// canFlush looks for what http.ResponseController would find. Calling Flush to
// find out would send the header.
func canFlush(w http.ResponseWriter) bool {
	for {
		switch t := w.(type) {
		case interface{ FlushError() error }, http.Flusher:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}
