package proxy

import (
	"context"
	_ "embed" // the schema
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
)

//go:embed schema.graphql
var schemaSDL string

// GraphQLOptions configures /graphql. The zero value serves it with the bounds
// below.
type GraphQLOptions struct {
	_ [0]func()

	// Disable answers the GraphQL paths with 404.
	Disable bool
	// NoIntrospection refuses introspection, hides the SDL at /graphql/schema
	// and leaves suggestions ("Did you mean") out of error messages.
	NoIntrospection bool
	// MaxUpstreamCalls is how many paid fields (getAIResponse, generateImage,
	// aiResponse) one operation may select, aliases included. Default 1.
	MaxUpstreamCalls int
	// DataURLs fills Image.url with a data: URL where the model sent the image
	// as base64, as all living models do.
	DataURLs bool
	// StrictSessions refuses writes to sessions that createSession did not
	// make. Without it any well-formed id is taken on first use.
	StrictSessions bool
	// Limits bounds documents.
	Limits GraphQLLimits
}

// GraphQLLimits bounds what one document may ask for. Zero means the default; a
// limit cannot be switched off.
type GraphQLLimits struct {
	_ [0]func()

	Bytes       int // of the text; default 64 KiB
	Tokens      int // comments included; default 2,500
	Definitions int // operations and fragments; default 50
	Depth       int // of nested fields; default 17, introspection by common clients takes 15
	RootFields  int // of an operation; default 10
	Fields      int // of an operation, fragments expanded; default 600
	SameKey     int // fields of one response key at one place; default 20
	Directives  int // at one place; default 4
	Errors      int // reported; default 10
}

// graphQL is the GraphQL face of a handler.
type graphQL struct {
	h       *Handler
	schema  *gqldoc.Schema
	options GraphQLOptions
	chats   conversations
	lastID  atomic.Int64
}

// newGraphQL builds the types from the SDL; nil if the face is switched off.
func newGraphQL(h *Handler, cfg *config) (*graphQL, error) {
	o := cfg.graphQL
	if o.Disable {
		return nil, nil
	}
	g := &graphQL{h: h, options: o, chats: conversations{store: cfg.sessions, strict: o.StrictSessions}}
	l := o.Limits
	var err error
	g.schema, err = gqldoc.New(gqldoc.Config{
		SDL:             schemaSDL,
		Resolvers:       g.resolvers(),
		Paid:            []string{"Mutation.getAIResponse", "Mutation.generateImage", "Subscription.aiResponse"},
		NoIntrospection: o.NoIntrospection,
		Limits: gqldoc.Limits{
			Bytes: l.Bytes, Tokens: l.Tokens, Definitions: l.Definitions, Depth: l.Depth, RootFields: l.RootFields,
			Fields: l.Fields, SameKey: l.SameKey, Directives: l.Directives, Errors: l.Errors, PaidCalls: o.MaxUpstreamCalls,
		},
	})
	return g, err
}

func (g *graphQL) resolvers() map[string]gqldoc.Resolver {
	return map[string]gqldoc.Resolver{
		"Query.chatHistory":      g.chatHistory,
		"Query.session":          g.session,
		"Session.messages":       g.sessionMessages,
		"Mutation.createSession": g.createSession,
		"Mutation.deleteSession": g.deleteSession,
		"Mutation.sendMessage":   g.sendMessage,
		"Mutation.getAIResponse": g.getAIResponse,
		"Mutation.generateImage": g.generateImage,
	}
}

// exchangeKey finds the exchange in the context that resolvers get.
type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// maxTitle bounds the title of a session, in bytes.
const maxTitle = 1000

// maxTurns is the most that a page of a history may have.
const maxTurns = 200

func (g *graphQL) chatHistory(ctx context.Context, p gqldoc.Params) (any, error) {
	id, _ := p.Args["sessionId"].(string)
	_, messages, err := g.chats.load(ctx, id)
	if err != nil {
		return nil, err
	}
	return page(id, messages, p.Args), nil
}

func (g *graphQL) session(ctx context.Context, p gqldoc.Params) (any, error) {
	id, _ := p.Args["sessionId"].(string)
	s, messages, err := g.chats.load(ctx, id)
	if err != nil {
		return nil, err
	}
	if s.ID == "" {
		return nil, nil
	}
	return sessionFields(id, s, messages), nil
}

// sessionMessages pages through the turns that its session was loaded with.
func (g *graphQL) sessionMessages(_ context.Context, p gqldoc.Params) (any, error) {
	s, _ := p.Source.(map[string]any)
	id, _ := s["sessionId"].(string)
	messages, _ := s["messages"].([]Message)
	return page(id, messages, p.Args), nil
}

func sessionFields(id string, s Session, messages []Message) map[string]any {
	fields := map[string]any{
		"sessionId": id, "createdAt": timestamp(s.Created), "updatedAt": timestamp(s.Updated),
		"messageCount": len(shown(messages)), "messages": messages,
	}
	if s.Title != "" {
		fields["title"] = s.Title
	}
	if !s.Expires.IsZero() {
		fields["expiresAt"] = timestamp(s.Expires)
	}
	return fields
}

// page returns the newest turns that are older than a given one.
func page(id string, messages []Message, args map[string]any) []any {
	turns := shown(messages)
	if before, ok := args["before"].(string); ok {
		end := 0
		for i, m := range turns {
			if m.ID == before {
				end = i
			}
		}
		turns = turns[:end]
	}
	last := 100
	if n, ok := args["last"].(int); ok {
		last = max(0, min(n, maxTurns))
	}
	turns = turns[max(0, len(turns)-last):]
	out := make([]any, len(turns))
	for i, m := range turns {
		out[i] = messageFields(id, m)
	}
	return out
}

// shown leaves out what is no turn of the conversation: a system message would
// be shown as the assistant's.
func shown(messages []Message) []Message {
	out := make([]Message, 0, len(messages))
	for _, m := range messages {
		if m.Role == roleUser || m.Role == roleAssistant {
			out = append(out, m)
		}
	}
	return out
}

func (g *graphQL) createSession(ctx context.Context, p gqldoc.Params) (any, error) {
	input, _ := p.Args["input"].(map[string]any)
	title, _ := input["title"].(string)
	if len(title) > maxTitle {
		return nil, badInput("title", "title must be 1,000 bytes at most")
	}
	id := newSessionID()
	var first []Message
	if system, _ := input["system"].(string); system != "" {
		first = append(first, g.textMessage(roleSystem, system))
	}
	if err := g.chats.create(ctx, id, title, first); err != nil {
		outcome, failure := writeRefused(err)
		return map[string]any{"success": false, "error": outcome}, failure
	}
	s, messages, err := g.chats.load(ctx, id)
	if err != nil {
		return nil, err
	}
	return map[string]any{"sessionId": id, "success": true, "session": sessionFields(id, s, messages)}, nil
}

func (g *graphQL) deleteSession(ctx context.Context, p gqldoc.Params) (any, error) {
	id, _ := p.Args["sessionId"].(string)
	found, err := g.chats.remove(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return map[string]any{"sessionId": id, "success": false, "error": "There is no such session."}, nil
	}
	return map[string]any{"sessionId": id, "success": true}, nil
}

func (g *graphQL) sendMessage(ctx context.Context, p gqldoc.Params) (any, error) {
	input, _ := p.Args["input"].(map[string]any)
	content, ok := input["content"].(string)
	if !ok {
		return nil, badInput("content", "content field is required")
	}
	role, ok := input["role"].(string)
	if !ok {
		role = roleUser
	}
	switch role {
	case roleUser, roleAssistant, roleSystem, roleDeveloper:
	default:
		return nil, badInput("role", "role must be user, assistant, system or developer")
	}
	m := g.textMessage(role, content)
	id, _ := input["sessionId"].(string)
	fields := messageFields(id, m)
	if id != "" {
		if err := g.chats.append(ctx, id, m); err != nil {
			outcome, failure := writeRefused(err)
			fields["success"], fields["error"] = false, outcome
			return fields, failure
		}
	}
	return fields, nil
}

// textMessage is a turn with nothing but text.
func (g *graphQL) textMessage(role, content string) Message {
	suffix := "_" + role
	if role == roleAssistant {
		suffix = "_ai"
	}
	body := encodeJSON(struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}{role, content})
	return Message{ID: "msg_" + g.digits() + suffix, Role: role, Content: content, Time: time.Now(), Body: body}
}

// digits returns microseconds since 1970 that no other id of this handler has.
// Clients merge objects of equal ids.
func (g *graphQL) digits() string {
	for {
		last := g.lastID.Load()
		next := max(time.Now().UnixMicro(), last+1)
		if g.lastID.CompareAndSwap(last, next) {
			return strconv.FormatInt(next, 10)
		}
	}
}

// timestamp is RFC 3339 in UTC with milliseconds, as JavaScript writes it.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// fieldError is a failure of a field as clients see it.
type fieldError struct{ failure *Error }

// Error returns the public message only.
func (e fieldError) Error() string {
	if up := e.failure.upstream; up != nil {
		return up.workerMessage(e.failure.status(), e.failure.message())
	}
	return e.failure.message()
}

// Unwrap finds what failed.
func (e fieldError) Unwrap() error { return e.failure }

// Extensions are the machine-readable part of the error.
func (e fieldError) Extensions() map[string]any {
	f := e.failure
	out := map[string]any{"code": f.graphQLCode()}
	if f.upstream == nil {
		if f.Param != "" {
			out["param"] = f.Param
		}
		return out
	}
	up := map[string]any{"status": f.status()}
	for key, value := range map[string]string{"type": f.Type, "code": string(f.Code), "param": f.Param} {
		if value != "" {
			up[key] = value
		}
	}
	out["upstream"] = up
	return out
}

// graphQLCode names the failure in GraphQL's manner.
func (e *Error) graphQLCode() string {
	if e.graphQL != "" {
		return e.graphQL
	}
	if e.upstream != nil {
		switch status := e.status(); {
		case status == 401, status == 403:
			return "UPSTREAM_UNAUTHORIZED"
		case status == 429:
			return "UPSTREAM_RATE_LIMITED"
		case status < 500:
			return "UPSTREAM_REJECTED"
		}
		return "UPSTREAM_ERROR"
	}
	switch e.code() {
	case CodeInvalidJSON, CodeInvalidRequest, CodeDuplicateKey:
		return "BAD_REQUEST"
	case CodeBodyTooLarge:
		return "PAYLOAD_TOO_LARGE"
	case CodeMissingAPIKey, CodeMisconfigured:
		return "CONFIGURATION_ERROR"
	case CodeUpstreamTimeout, CodeBodyTimeout:
		return gqldoc.CodeTimeout
	case CodeUpstreamBadResponse, CodeUpstreamRedirect, CodeUpstreamDisconnected, CodeStreamLimit:
		return "UPSTREAM_ERROR"
	case CodeInternalError:
		return gqldoc.CodeInternal
	}
	return strings.ToUpper(string(e.code()))
}

// fieldFailed makes any error of a call one that clients may see.
func fieldFailed(err error) error {
	e := asError(err)
	if errors.Is(e, ErrClientGone) {
		return context.Canceled
	}
	return fieldError{e}
}

// badInput refuses a value that the schema admits.
func badInput(param, message string) error {
	e := badRequest(CodeInvalidRequest, param, "%s", message)
	e.graphQL = gqldoc.CodeInput
	return fieldError{e}
}

// writeRefused tells a session that takes no more, which is an outcome, from a
// failure.
func writeRefused(err error) (outcome string, failure error) {
	switch {
	case errors.Is(err, ErrSessionFull):
		return "The session is full.", nil
	case errors.Is(err, errSessionID):
		return "", badInput("sessionId", "sessionId must be 1 to 128 letters, digits, or any of _ . : -")
	case errors.Is(err, errSessionUnknown):
		return "", badInput("sessionId", "There is no such session.")
	}
	return "", err
}
