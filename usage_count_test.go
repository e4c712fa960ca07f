package proxy_test

import (
	"net/http"
	"testing"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

func TestUsageCounts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		usage string
		want  proxy.Usage
	}{
		"both names": {
			`{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107,"input_tokens":100,"output_tokens":7}`,
			proxy.Usage{Reported: true, PromptTokens: 100, CompletionTokens: 7, TotalTokens: 107},
		},
		"the other names": {
			`{"input_tokens":100,"output_tokens":7,"total_tokens":107}`,
			proxy.Usage{Reported: true, PromptTokens: 100, CompletionTokens: 7, TotalTokens: 107},
		},
		"1.0 is one": {
			`{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107,"prompt_tokens_details":{"cached_tokens":1.0}}`,
			proxy.Usage{Reported: true, PromptTokens: 100, CompletionTokens: 7, TotalTokens: 107, CachedTokens: 1},
		},
		"no count at all spoils no other": {
			`{"prompt_tokens":100,"completion_tokens":"x","total_tokens":107,"completion_tokens_details":{"reasoning_tokens":null}}`,
			proxy.Usage{Reported: true, PromptTokens: 100, TotalTokens: 107},
		},
		"less than none": {`{"prompt_tokens":-1,"total_tokens":5}`, proxy.Usage{Reported: true, TotalTokens: 5}},
	} {
		for kind, answer := range map[string]proxytest.Answer{
			"plain":  proxytest.JSON(http.StatusOK, `{"choices":[],"usage":`+tt.usage+`}`),
			"stream": proxytest.Stream(proxytest.Text(`data: {"choices":[],"usage":` + tt.usage + "}\n\ndata: [DONE]\n\n")),
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				var told outcomes
				f := start(t, told.hook())
				f.up.Queue(answer)
				f.post(t, streamPath, streamRequest)
				f.Close()
				if got := told.only(t).Usage; got != tt.want {
					t.Errorf("usage %+v, want %+v", got, tt.want)
				}
			})
		}
	}
}
