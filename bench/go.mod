module github.com/openai-proxy-go/proxy/bench

go 1.26.0

require (
	github.com/openai-proxy-go/proxy v0.0.0
	github.com/sashabaranov/go-openai v1.43.0
)

require (
	github.com/agnivade/levenshtein v1.2.2 // indirect
	github.com/graphql-go/graphql v0.8.1 // indirect
	github.com/vektah/gqlparser/v2 v2.5.64 // indirect
	golang.org/x/time v0.16.0 // indirect
)

replace github.com/openai-proxy-go/proxy => ../
