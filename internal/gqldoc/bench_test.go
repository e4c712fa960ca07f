package gqldoc_test

import (
	"context"
	"strings"
	"testing"

	"github.com/openai-proxy-go/proxy/internal/gqldoc"
)

const fullIntrospection = `query IntrospectionQuery { __schema { description queryType { name kind } mutationType { name kind } subscriptionType { name kind } types { ...FullType } directives { name description isRepeatable locations args(includeDeprecated: true) { ...InputValue } } } }
fragment FullType on __Type { kind name description specifiedByURL isOneOf fields(includeDeprecated: true) { name description args(includeDeprecated: true) { ...InputValue } type { ...TypeRef } isDeprecated deprecationReason } inputFields(includeDeprecated: true) { ...InputValue } interfaces { ...TypeRef } enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason } possibleTypes { ...TypeRef } }
fragment InputValue on __InputValue { name description type { ...TypeRef } defaultValue isDeprecated deprecationReason }
fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } } } } } } }`

// documented are the operations of the README, with variables.
var documented = []struct{ name, document, variables string }{
	{"createSession", "mutation CreateSession { createSession { sessionId success } }", ""},
	{
		"sendMessage", "mutation SendMessage($input: MessageInput!) { sendMessage(input: $input) { id content isUser timestamp success error } }",
		`{"input":{"sessionId":"s1","content":"hello","role":"user"}}`,
	},
	{
		"getAIResponse", "mutation GetAIResponse($input: ChatInput!) { getAIResponse(input: $input) { id content isUser timestamp success error } }",
		`{"input":{"sessionId":"s1","messages":[{"role":"user","content":"hello"}],"temperature":0.7}}`,
	},
	{
		"generateImage", "mutation GenerateImage($input: ImageInput!) { generateImage(input: $input) { id prompt images { url b64_json } model size quality style timestamp success error } }",
		`{"input":{"prompt":"a cat","n":1,"size":"1024x1024"}}`,
	},
	{
		"chatHistory", "query ChatHistory($sessionId: String) { chatHistory(sessionId: $sessionId) { id content isUser timestamp } }",
		`{"sessionId":"s1"}`,
	},
}

// stubs answer every operation, chatHistory with n messages.
func stubs(n int) resolvers {
	message := map[string]any{
		"id": "msg_1", "sessionId": "s1", "role": "assistant", "isUser": false, "content": "Hello there.", "finishReason": "stop",
		"model": "gpt-4o", "timestamp": "2026-08-20T12:34:56.789Z", "success": true,
		"usage": map[string]any{"promptTokens": 10, "completionTokens": 20, "totalTokens": 30},
	}
	history := make([]any, n)
	for i := range history {
		history[i] = message
	}
	give := func(v any) gqldoc.Resolver {
		return func(context.Context, gqldoc.Params) (any, error) { return v, nil }
	}
	return resolvers{
		"Query.chatHistory":      give(history),
		"Mutation.createSession": give(map[string]any{"sessionId": "s1", "success": true}),
		"Mutation.sendMessage":   give(message),
		"Mutation.getAIResponse": give(message),
		"Mutation.generateImage": give(map[string]any{
			"id": "img_1", "prompt": "a cat", "images": []any{map[string]any{"url": "https://example.com/cat.png"}}, "model": "dall-e-3",
			"size": "1024x1024", "timestamp": "2026-08-20T12:34:56.789Z", "success": true,
		}),
	}
}

func BenchmarkDocumented(b *testing.B) {
	s := proxySchema(b, stubs(10))
	for _, d := range documented {
		b.Run("prepare/"+d.name, func(b *testing.B) {
			n := 0
			suffixes := make([]string, 4096) // more than the cache holds
			for i := range suffixes {
				suffixes[i] = d.document + strings.Repeat(" ", i%64) + strings.Repeat("\n", i/64)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, errs := s.Prepare(suffixes[n%len(suffixes)]); errs != nil {
					b.Fatal(errs[0].Message)
				}
				n++
			}
		})
		b.Run("cached/"+d.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, errs := s.Prepare(d.document); errs != nil {
					b.Fatal(errs[0].Message)
				}
			}
		})
		b.Run("execute/"+d.name, func(b *testing.B) { benchmarkExecute(b, s, d.document, d.variables) })
	}
}

// BenchmarkEvent is one token of a stream, with a long conversation in the
// variables.
func BenchmarkEvent(b *testing.B) {
	s := proxySchema(b, nil)
	doc, errs := s.Prepare("subscription S($input: ChatInput!) { aiResponse(input: $input) { content done finishReason usage { totalTokens } } }")
	if errs != nil {
		b.Fatal(errs[0].Message)
	}
	op, _ := doc.Operation("")
	vars, errs := op.Variables(decode(b, `{"input":{"messages":[`+strings.TrimSuffix(strings.Repeat(`{"role":"user","content":"hello"},`, 100), ",")+`]}}`))
	if errs != nil {
		b.Fatal(errs[0].Message)
	}
	event := map[string]any{"content": "tok", "done": false}
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		out = op.Execute(context.Background(), vars, event).AppendJSON(out[:0])
	}
}

func BenchmarkVariablesOf100Messages(b *testing.B) {
	s := proxySchema(b, nil)
	doc, _ := s.Prepare(documented[2].document)
	op, _ := doc.Operation("")
	raw := decode(b, `{"input":{"messages":[`+strings.TrimSuffix(strings.Repeat(`{"role":"user","content":"hello"},`, 100), ",")+`]}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, errs := op.Variables(raw); errs != nil {
			b.Fatal(errs[0].Message)
		}
	}
}
