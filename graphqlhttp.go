package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// media is a media type that a GraphQL answer can have.
type media int

const (
	mediaNone      media = iota
	mediaAny             // JSON for a client that named no type: it goes by the status
	mediaJSON            // application/json, asked for by name
	mediaGraphQL         // application/graphql-response+json
	mediaSSE             // text/event-stream
	mediaMultipart       // multipart/mixed; subscriptionSpec=1.0
)

func (m media) contentType() string {
	switch m {
	case mediaGraphQL:
		return "application/graphql-response+json; charset=utf-8"
	case mediaSSE:
		return "text/event-stream; charset=utf-8"
	case mediaMultipart:
		return `multipart/mixed;boundary="graphql";subscriptionSpec=1.0`
	}
	return "application/json; charset=utf-8"
}

// accepted is what a client takes, for a single answer and for a stream.
type accepted struct{ single, stream media }

// negotiate reads an Accept header (RFC 9110, section 12.5.1). Clients of
// GraphQL name types of streams with every request, so which kind is meant is
// the operation's to say.
func negotiate(accept []string) accepted {
	header := strings.Join(accept, ",")
	if strings.TrimSpace(header) == "" {
		return accepted{mediaAny, mediaSSE}
	}
	var best accepted
	var singleQ, streamQ float64
	for part := range strings.SplitSeq(header, ",") {
		name, params, err := mime.ParseMediaType(part)
		if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
			continue
		}
		q := 1.0
		if v, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(v, 64); err != nil {
				continue
			}
		}
		single, stream := mediaOf(name, params)
		if single != mediaNone && q > singleQ {
			best.single, singleQ = single, q
		}
		if stream != mediaNone && q > streamQ {
			best.stream, streamQ = stream, q
		}
	}
	return best
}

func mediaOf(name string, params map[string]string) (single, stream media) {
	switch name {
	case "application/graphql-response+json":
		return mediaGraphQL, mediaNone
	case "application/json":
		return mediaJSON, mediaNone
	case "*/*":
		return mediaAny, mediaSSE
	case "application/*":
		return mediaAny, mediaNone
	case "text/event-stream", "text/*":
		return mediaNone, mediaSSE
	case "multipart/mixed":
		if spec := params["subscriptionspec"]; spec == "" || spec == "1.0" {
			return mediaNone, mediaMultipart
		}
	}
	return mediaNone, mediaNone
}

// graphQLRequest holds the parameters of GraphQL over HTTP.
type graphQLRequest struct {
	query         string
	operationName string
	variables     map[string]any
}

// graphQL serves /graphql: GraphQL over HTTP as the draft of the GraphQL
// foundation and its official audits want it.
func (x *exchange) graphQL() error {
	g := x.h.graphql
	x.w.Header().Add("Vary", "Accept")
	accept := negotiate(x.r.Header["Accept"])
	x.media = accept.single
	if accept == (accepted{}) {
		return &Error{
			Status: http.StatusNotAcceptable, Message: "The answer can be application/graphql-response+json, application/json, " +
				"or, for subscriptions, text/event-stream.", graphQL: "NOT_ACCEPTABLE",
		}
	}
	req, err := x.graphQLRequest()
	if err != nil {
		return err
	}
	ctx := context.WithValue(x.r.Context(), exchangeKey{}, x)
	run, errs := g.prepare(req)
	switch {
	case len(errs) > 0:
		return x.answerGraphQL(accept, gqldoc.Refused(errs))
	case x.r.Method != http.MethodPost && run.op.Type() != gqldoc.Query:
		e := x.wrongMethod("POST, OPTIONS")
		e.Message = "Only queries may be sent with GET."
		return e
	case run.op.Type() == gqldoc.Subscription:
		return x.subscribe(ctx, run, accept.stream)
	}
	return x.answerGraphQL(accept, run.op.Execute(ctx, run.vars, nil))
}

// graphQLSchema serves the SDL.
func (x *exchange) graphQLSchema() error {
	header := &x.header
	header.set("Content-Type", "text/plain; charset=utf-8")
	header.set("Content-Length", strconv.Itoa(len(schemaSDL)))
	x.writeHeader(http.StatusOK)
	if x.r.Method != http.MethodHead {
		_, _ = io.WriteString(x.w, schemaSDL) // whoever asked may be gone
	}
	return nil
}

// execution is an operation ready to run.
type execution struct {
	op   *gqldoc.Operation
	vars map[string]any
}

// prepare takes a request to an operation and its variables. All errors of the
// request itself are found here.
func (g *graphQL) prepare(req graphQLRequest) (execution, []gqldoc.Error) {
	doc, errs := g.schema.Prepare(req.query)
	if len(errs) > 0 {
		return execution{}, errs
	}
	op, errs := doc.Operation(req.operationName)
	if len(errs) > 0 {
		return execution{}, errs
	}
	vars, errs := op.Variables(req.variables)
	return execution{op, vars}, errs
}

// graphQLRequest reads the parameters from the query of a GET, or from the JSON
// body of a POST. Forms and text are refused: pages may send those to any
// server without asking.
func (x *exchange) graphQLRequest() (graphQLRequest, error) {
	if x.r.Method != http.MethodPost {
		query := x.r.URL.Query()
		raw := map[string][]byte{}
		for _, key := range []string{"query", "operationName"} {
			if query.Has(key) {
				raw[key] = jsonobj.Quote(query.Get(key))
			}
		}
		for _, key := range []string{"variables", "extensions"} {
			if v := query.Get(key); v != "" {
				raw[key] = []byte(v)
			}
		}
		if len(raw) == 0 { // not a GraphQL request at all
			return graphQLRequest{}, x.wrongMethod(allowGraphQL)
		}
		return readParameters(raw)
	}
	contentType := x.r.Header.Get("Content-Type")
	_, params, err := mime.ParseMediaType(contentType)
	charset := strings.ToLower(params["charset"])
	if err != nil || mediaType(contentType) != "application/json" || charset != "" && charset != "utf-8" {
		return graphQLRequest{}, &Error{
			Status: http.StatusUnsupportedMediaType, Code: CodeUnsupportedMediaType,
			Message: "The request must be application/json in UTF-8.",
		}
	}
	body, err := x.readBody(nil)
	if err != nil {
		return graphQLRequest{}, err
	}
	o, err := jsonobj.Parse(body)
	if errors.Is(err, jsonobj.ErrNotObject) && bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
		return graphQLRequest{}, badRequest(CodeInvalidRequest, "", "Batching is not supported.")
	}
	if err != nil {
		e := badRequest(CodeInvalidJSON, "", "The request body is not a JSON object.")
		e.Err = err
		return graphQLRequest{}, e
	}
	keys := []string{"query", "operationName", "variables", "extensions"}
	if key := o.Repeated(keys); key != "" {
		return graphQLRequest{}, badRequest(CodeDuplicateKey, key, "%s occurs more than once", key)
	}
	raw := map[string][]byte{}
	for _, key := range keys {
		if v, ok := o.Get(key); ok {
			raw[key] = v
		}
	}
	return readParameters(raw)
}

// maxValues bounds the values in variables and extensions: decoding takes many
// times the memory of the text. Strings may be as long as the request.
const maxValues = 100_000

// readParameters checks the types of the parameters. null is absent.
func readParameters(raw map[string][]byte) (req graphQLRequest, err error) {
	wrong := func(key, kind string) (graphQLRequest, error) {
		return graphQLRequest{}, badRequest(CodeInvalidRequest, key, "The parameter %s must be %s.", key, kind)
	}
	if raw["query"] == nil && bytes.Contains(raw["extensions"], []byte(`"persistedQuery"`)) {
		// Clients that tried a hash send the whole document then.
		e := badRequest(CodeInvalidRequest, "query", "PersistedQueryNotSupported")
		e.graphQL = "PERSISTED_QUERY_NOT_SUPPORTED"
		return graphQLRequest{}, e
	}
	var ok bool
	if req.query, ok = jsonobj.Text(raw["query"]); !ok {
		return wrong("query", "a string")
	}
	if v := raw["operationName"]; v != nil && json.Unmarshal(v, &req.operationName) != nil {
		return wrong("operationName", "a string")
	}
	if jsonobj.Values(raw["variables"])+jsonobj.Values(raw["extensions"]) > maxValues {
		return graphQLRequest{}, badRequest(CodeInvalidRequest, "variables", "The variables hold more than %d values.", maxValues)
	}
	if v := raw["variables"]; v != nil {
		variables, err := jsonobj.Parse(v)
		if err != nil && !isNull(v) {
			return wrong("variables", "an object")
		}
		if err == nil {
			req.variables, _ = jsonobj.Decode(variables.Bytes()).(map[string]any)
		}
	}
	if v := raw["extensions"]; v != nil {
		var extensions map[string]json.RawMessage
		if json.Unmarshal(v, &extensions) != nil {
			return wrong("extensions", "an object")
		}
	}
	return req, nil
}

// answerGraphQL writes a result: as JSON, or as a stream of one result for a
// client that takes nothing else.
func (x *exchange) answerGraphQL(accept accepted, result *gqldoc.Result) error {
	x.logFields(result)
	if accept.single == mediaNone {
		out, err := x.startEvents(accept.stream)
		if err != nil {
			return err
		}
		defer out.close()
		if out.next(result) == nil {
			out.complete()
		}
		return nil
	}
	status, cause := statusOf(accept.single, result)
	lent := x.h.small.get()
	body := append(result.AppendJSON((*lent)[:0]), '\n')
	header := &x.header
	if cause != nil && status == cause.status() {
		cause.setHeaders(header)
	}
	header.set("Content-Type", accept.single.contentType())
	header.set("Cache-Control", "no-store")
	header.set("Content-Length", strconv.Itoa(len(body)))
	x.writeHeader(status)
	if x.r.Method != http.MethodHead && x.writeBody(nil, body) != nil {
		return nil // whoever asked may be gone
	}
	if len(body) < firstRead {
		x.h.small.put(lent, body) // as relay does
	}
	return nil
}

// statusOf is the one place that gives results a status. The audits want 200 for
// errors of a document where application/json is asked for by name, and 400 with
// GraphQL's own type; a client that names no type goes by the status, so it gets
// that of the upstream where nothing succeeded.
func statusOf(m media, result *gqldoc.Result) (int, *Error) {
	if len(result.Errors) == 0 {
		return http.StatusOK, nil
	}
	first := result.Errors[0]
	switch {
	case first.Kind == gqldoc.KindInternal:
		return http.StatusInternalServerError, nil
	case !result.Executed():
		if m == mediaJSON {
			return http.StatusOK, nil
		}
		return http.StatusBadRequest, nil
	case m != mediaAny || anySucceeded(result):
		return http.StatusOK, nil
	case first.Kind == gqldoc.KindInput:
		return http.StatusBadRequest, nil
	}
	e := asError(first.Err)
	if errors.Is(first.Err, context.DeadlineExceeded) {
		return http.StatusGatewayTimeout, nil
	}
	return e.status(), e
}

func anySucceeded(result *gqldoc.Result) bool {
	for _, value := range result.Data {
		if value != nil {
			return true
		}
	}
	return false
}

// logFields logs what failed on our side of fields, with its cause.
func (x *exchange) logFields(result *gqldoc.Result) {
	for _, e := range result.Errors {
		if e.Err == nil || errors.Is(e.Err, context.Canceled) {
			continue
		}
		failed := asError(e.Err)
		x.logFailure(failed, slog.Any("field", e.Path))
	}
}
