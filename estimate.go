package proxy

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// What stands for tokens that nobody has counted.
const (
	bytesPerToken = 4
	// unboundedTokens is what a chat is taken to answer at most where the request
	// sets no bound.
	unboundedTokens = 4096
	// imageTokens are those of a large image in the highest quality.
	imageTokens = 6300
	// pictureTokens are those of a picture in a prompt.
	pictureTokens = 1500
)

// worst is what a request can use at most, as far as its body tells.
func (c *call) worst(p *payload) Usage {
	n := max(1, numberIn(p, "n", 1))
	if c.info.Route != RouteChat {
		u := Usage{PromptTokens: imagePromptTokens(p), Images: n}
		u.CompletionTokens = multiply(n, imageTokens)
		u.ImageCompletionTokens = u.CompletionTokens
		return u.total()
	}
	each := numberIn(p, "max_completion_tokens", 0)
	each = max(each, numberIn(p, "max_tokens", 0))
	if each == 0 {
		each = unboundedTokens
	}
	return Usage{PromptTokens: promptTokens(p.body), CompletionTokens: multiply(n, each)}.total()
}

// numberIn reads a parameter that counts something, also where it stands as a text,
// which some readers take for the number in it. What is no number at all the
// upstream refuses.
func numberIn(p *payload, key string, standard int64) int64 {
	raw := p.get(key)
	if raw == nil {
		return standard
	}
	if text, ok := jsonobj.Text(raw); ok {
		raw = []byte(strings.TrimPrefix(strings.TrimSpace(text), "+"))
	}
	if n, ok := wholeNumber(raw); ok && len(raw) > 0 {
		return n
	}
	if n := tokensIn(raw); n > 0 {
		return n
	}
	if f, err := strconv.ParseFloat(string(raw), 64); f > 1<<53 && (err == nil || errors.Is(err, strconv.ErrRange)) {
		return forever // too large to count, as 1e30 is
	}
	return standard
}

// imagePromptTokens counts a form's files as pictures, not as text.
func imagePromptTokens(p *payload) int64 {
	if p.contentType == "" {
		return promptTokens(p.body)
	}
	return pictureTokens * int64(1+bytes.Count(p.body, []byte("filename=")))
}

var markDataURL = []byte(`"data:image/`)

// promptTokens estimates the tokens of a JSON body: of its text, and of the
// pictures that it holds as data URLs.
func promptTokens(body []byte) int64 {
	size, pictures := len(body), 0
	for rest := body; ; {
		i := bytes.Index(rest, markDataURL)
		if i < 0 {
			break
		}
		isPicture := isURLKey(rest[:i])
		rest = rest[i+len(markDataURL):]
		if !isPicture { // a text that only begins so
			continue
		}
		end := bytes.IndexByte(rest, '"')
		if end < 0 {
			break
		}
		rest, size, pictures = rest[end:], size-end, pictures+1
	}
	return int64(size/bytesPerToken + pictures*pictureTokens + 1)
}

// isURLKey reports whether a key called url stands at the end of a JSON text, as
// the value of one does behind it.
func isURLKey(before []byte) bool {
	before = bytes.TrimRight(before, " \t\r\n")
	before, colon := bytes.CutSuffix(before, []byte(":"))
	before = bytes.TrimRight(before, " \t\r\n")
	return colon && (bytes.HasSuffix(before, []byte(`"url"`)) || bytes.HasSuffix(before, []byte(`"image_url"`)))
}

// lineCount estimates tokens from the events of a stream: one for each, and more
// for what is longer than the shortest, which is little else than its frame.
type lineCount struct {
	lines, bytes, shortest int64
}

// minFrame keeps "[DONE]" from being taken for the shortest event, maxFrame one
// that is long because it holds much.
const (
	minFrame = 8
	maxFrame = 400
)

func (n *lineCount) add(size int) {
	if size < minFrame {
		return
	}
	n.lines++
	n.bytes += int64(size)
	if n.shortest == 0 || int64(size) < n.shortest {
		n.shortest = int64(size)
	}
}

func (n *lineCount) tokens() int64 {
	return n.lines + max(0, n.bytes-n.lines*min(n.shortest, maxFrame))/bytesPerToken
}

// account fills in what is not known of a call's usage, and its cost.
func (c *call) account() {
	u := &c.out.Usage
	if c.scan != nil && !u.Reported {
		*u = c.scan.usage
	}
	if more := c.untold(); u.Reported && more > 0 {
		u.CompletionTokens, u.Estimated = addTokens(u.CompletionTokens, more), true
		*u = u.total()
	}
	if !u.Reported && c.worked && c.h.cfg.accounts() {
		*u = c.estimated()
	}
	if (u.Reported || u.Estimated) && c.info.Route != RouteChat {
		u.Images = max(1, numberIn(&c.payload, "n", 1))
	}
	c.out.Cost = c.h.cfg.prices.cost(c.info.Model, c.charged())
}

// untold is how much of a stream that was broken off came behind its last usage,
// where that was no more than the usage so far. An error and [DONE] may follow any.
func (c *call) untold() int64 {
	brokenOff := c.out.Ending == EndingUpstreamCut || c.out.Ending == EndingClientGone
	if c.scan == nil || c.info.Route != RouteChat || !brokenOff || c.scan.count.lines <= c.scan.told.lines+2 {
		return 0
	}
	return c.scan.count.tokens() - c.scan.told.tokens()
}

// charged is the usage that counts: what a sum has beyond its parts was answered, and
// an empty report is none.
func (c *call) charged() Usage {
	u := c.out.Usage
	switch {
	case !u.Reported:
	case u.TotalTokens > addTokens(u.PromptTokens, u.CompletionTokens):
		// Some count thinking in the sum alone.
		u.CompletionTokens = u.TotalTokens - u.PromptTokens
	case u.PromptTokens > 0 || u.CompletionTokens > 0:
	case c.worked:
		images := u.Images
		u = c.estimated()
		u.Images = images
	}
	return u
}

// estimated is the usage of a call that the upstream worked on without saying
// how much.
func (c *call) estimated() Usage {
	u := c.worst(&c.payload)
	u.Estimated = true
	switch {
	case c.broken: // before there was an answer
		u.CompletionTokens, u.ImageCompletionTokens = 0, 0
	case c.info.Route != RouteChat:
	case c.scan != nil: // a stream: what came of it
		u.CompletionTokens = c.scan.count.tokens()
	case c.answer > 0:
		u.CompletionTokens = c.answer/bytesPerToken + 1
	}
	return u.total()
}

func (u Usage) total() Usage {
	u.TotalTokens = addTokens(u.PromptTokens, u.CompletionTokens)
	return u
}

// multiply saturates.
func multiply(a, b int64) int64 {
	if a != 0 && b > forever/a {
		return forever
	}
	return a * b
}
