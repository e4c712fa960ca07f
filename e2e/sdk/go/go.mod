module github.com/openai-proxy-go/proxy/e2e/sdk/go

go 1.26.0

replace github.com/openai-proxy-go/proxy => ../../../

require (
	github.com/openai-proxy-go/proxy v0.0.0-00010101000000-000000000000
	github.com/openai/openai-go/v3 v3.96.0
	github.com/sashabaranov/go-openai v1.43.0
)

require (
	github.com/agnivade/levenshtein v1.2.2 // indirect
	github.com/coder/websocket v1.8.15 // indirect
	github.com/graphql-go/graphql v0.8.1 // indirect
	github.com/tidwall/gjson v1.20.0 // indirect
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.1 // indirect
	github.com/tidwall/sjson v1.2.5 // indirect
	github.com/vektah/gqlparser/v2 v2.5.64 // indirect
	golang.org/x/time v0.16.0 // indirect
)
