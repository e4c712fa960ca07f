package proxy

import (
	"log/slog"
	"strings"
)

// record writes the one line about a call that the log gets. It holds nothing
// of what was asked and answered, and of headers no more than request ids.
func (c *call) record() {
	if !c.h.cfg.records || !c.h.cfg.logs(c.ctx, slog.LevelInfo) {
		return
	}
	out := &c.out
	attrs := make([]slog.Attr, 0, 16)
	attrs = append(attrs,
		slog.String("request_id", c.info.RequestID), slog.String("caller", c.info.Caller),
		slog.String("route", string(c.info.Route)), slog.String("model", shortened(redact(c.info.Model, c.key))), slog.Bool("stream", c.info.Stream),
		slog.Int("status", out.Status), slog.String("ending", string(out.Ending)), slog.Int("attempts", out.Attempts),
		slog.Int64("bytes", out.Bytes), slog.Duration("first_byte", out.FirstByte), slog.Duration("duration", out.Duration))
	if c.upstreamID != "" {
		attrs = append(attrs, slog.String("upstream_request_id", redact(c.upstreamID, c.key)))
	}
	if u := &out.Usage; u.Reported || u.Estimated {
		attrs = append(attrs, slog.GroupAttrs("usage", slog.Bool("estimated", u.Estimated),
			slog.Int64("prompt", u.PromptTokens), slog.Int64("completion", u.CompletionTokens),
			slog.Int64("cached", u.CachedTokens), slog.Int64("reasoning", u.ReasoningTokens),
			slog.Int64("image", addTokens(u.ImagePromptTokens, u.ImageCompletionTokens)), slog.Int64("images", u.Images)))
	}
	if len(c.h.cfg.prices) > 0 {
		attrs = append(attrs, slog.String("cost", out.Cost.String()))
	}
	c.h.cfg.log(c.ctx, slog.LevelInfo, "proxy call", attrs...)
}

// shortened keeps a name that a client has made up from filling the log.
func shortened(name string) string {
	const most = 200
	if len(name) <= most {
		return name
	}
	return strings.ToValidUTF8(name[:most], "") + "..."
}
