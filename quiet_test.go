package proxy_test

import (
	"testing"
	"time"

	"github.com/openai-proxy-go/proxy"
	"github.com/openai-proxy-go/proxy/proxytest"
)

// Without a logger, hooks and limits less is done behind an answer; its end must
// have time all the same.
func TestSilenceBeforeACleanEndKeepsItCleanWhereNobodyIsTold(t *testing.T) {
	t.Parallel()
	const events = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
	eachBubble(t, func(t *testing.T, w wire) {
		f := w.start(t, nil, proxy.WithLimits(proxy.Limits{WriteStall: 3 * time.Second}), proxy.WithLogger(nil))
		f.up.Queue(proxytest.Stream(proxytest.Text(events), proxytest.Pause(20*time.Second)))
		res := open(t.Context(), t, f, streamPath, streamRequest)
		wantRest(t, res.Body, events)
	})
}
