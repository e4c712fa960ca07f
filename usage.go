package proxy

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"sync"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
	"github.com/openai-proxy-go/proxy/internal/sse"
)

// Usage is what a call has used, in tokens. Where it is neither reported nor
// estimated nothing is known, or nothing was used.
type Usage struct {
	Reported bool // the upstream told it
	// Estimated: the upstream worked and told nothing, or not all, as on a stream
	// that was cut. A token is counted for four bytes of the prompt, and for each
	// event one and one more for four bytes beyond its frame; for a plain answer that
	// never came, all that the request allowed.
	Estimated bool

	PromptTokens     int64 // input_tokens for images
	CompletionTokens int64 // output_tokens for images
	TotalTokens      int64
	CachedTokens     int64 // part of PromptTokens
	ReasoningTokens  int64 // part of CompletionTokens

	ImagePromptTokens     int64 // part of PromptTokens
	ImageCompletionTokens int64 // part of CompletionTokens
	Images                int64 // that the request asked for
}

// readUsage reads a usage object, in the names of chat or of images; some servers
// send both. Anything else is no usage. A count that is no whole number counts
// as none, and does not spoil the others.
func readUsage(raw []byte) (u Usage, ok bool) {
	o, err := jsonobj.Parse(raw)
	if err != nil {
		return Usage{}, false
	}
	prompt, completion := details(o, "prompt_tokens_details", "input_tokens_details"), details(o, "completion_tokens_details", "output_tokens_details")
	return Usage{
		Reported:              true,
		PromptTokens:          max(tokens(o, "prompt_tokens"), tokens(o, "input_tokens")),
		CompletionTokens:      max(tokens(o, "completion_tokens"), tokens(o, "output_tokens")),
		TotalTokens:           tokens(o, "total_tokens"),
		CachedTokens:          tokens(prompt, "cached_tokens"),
		ReasoningTokens:       tokens(completion, "reasoning_tokens"),
		ImagePromptTokens:     tokens(prompt, "image_tokens"),
		ImageCompletionTokens: tokens(completion, "image_tokens"),
	}, true
}

// tells reports whether a usage counts anything.
func (u *Usage) tells() bool {
	return u.PromptTokens > 0 || u.CompletionTokens > 0 || u.TotalTokens > 0
}

func tokens(o jsonobj.Object, key string) int64 {
	raw, _ := o.Get(key)
	return tokensIn(raw)
}

func tokensIn(raw []byte) int64 {
	if n, ok := wholeNumber(raw); ok || len(raw) == 0 {
		return n
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f < 0 || f > 1<<53 || f != math.Trunc(f) {
		return 0
	}
	return int64(f)
}

// details returns the first of keys that holds an object.
func details(o jsonobj.Object, keys ...string) jsonobj.Object {
	for _, key := range keys {
		raw, _ := o.Get(key)
		if inner, err := jsonobj.Parse(raw); err == nil {
			return inner
		}
	}
	return jsonobj.Object{}
}

// bodyUsage finds the usage of a whole JSON answer.
func bodyUsage(body []byte) Usage {
	if !bytes.Contains(body, []byte(`"usage"`)) {
		return Usage{}
	}
	o, err := jsonobj.Parse(body)
	if err != nil {
		return Usage{}
	}
	raw, _ := o.Get("usage")
	u, _ := readUsage(raw)
	return u
}

// maxScannedLine is how much of one line of a stream the scan keeps: the end of
// it, where usage stands in the megabytes of an image event.
const maxScannedLine = 64 << 10

// usageScan reads usage and completeness from a stream that passes by. It keeps
// a copy of a line torn between two reads, never the bytes on their way.
type usageScan struct {
	usage    Usage
	complete bool
	count    lineCount
	told     lineCount // as it was when usage was told last
	torn     []byte    // the line that has not ended yet, or its last maxScannedLine bytes
	lost     int       // how much there was of it before those
}

// feed takes bytes that were relayed.
func (s *usageScan) feed(p []byte) {
	for {
		line, rest, ok := sse.NextLine(p)
		if !ok {
			s.keep(rest)
			return
		}
		if len(s.torn) > 0 {
			s.keep(line)
			line = s.torn
		}
		s.line(line)
		s.torn, s.lost, p = s.torn[:0], 0, rest
	}
}

// end looks at what no line end stands behind, and reports whether the stream
// came to its end by itself.
func (s *usageScan) end() (complete bool) {
	s.line(s.torn)
	return s.complete
}

// keep adds to the torn line, forgetting its start where it grows too long.
func (s *usageScan) keep(p []byte) {
	if over := len(p) - maxScannedLine; over > 0 {
		s.lost, p = s.lost+over, p[over:]
	}
	if over := len(s.torn) - maxScannedLine; over > 0 && len(s.torn)+len(p) > 2*maxScannedLine {
		s.lost += over
		s.torn = append(s.torn[:0], s.torn[over:]...)
	}
	s.torn = append(s.torn, p...)
}

// The marks of a stream that came to its end by itself. Inside a JSON string
// the quotes would be escaped, so a match with a colon behind it is a key.
var (
	markEvent     = []byte("event:")
	markDone      = []byte("[DONE]")
	markFinish    = []byte(`finish_reason"`) // behind a quote, which is too common to look for
	markUsage     = []byte(`usage"`)
	markCompleted = []byte(".completed")
	markNull      = []byte("null")
)

// line looks at one whole line, or at the end of one that was too long.
func (s *usageScan) line(line []byte) {
	if name, ok := bytes.CutPrefix(line, markEvent); ok {
		s.complete = s.complete || bytes.HasSuffix(name, markCompleted) // of an image
		return
	}
	data, ok := sse.Data(line)
	if !ok && len(line) < maxScannedLine {
		return
	}
	if !ok {
		data = line
	}
	s.count.add(len(data) + s.lost)
	s.complete = s.complete || bytes.Equal(data, markDone) || hasValue(line, markFinish)
	if !hasValue(line, markUsage) {
		return
	}
	if u, ok := lineUsage(data, line); ok && (u.tells() || !s.usage.Reported) {
		s.usage, s.told = u, s.count
	}
}

// hasValue reports whether a key, its first quote left out, occurs with a value other than null.
func hasValue(line, key []byte) bool {
	for {
		i := bytes.Index(line, key)
		if i < 0 {
			return false
		}
		quoted := i > 0 && line[i-1] == '"'
		if line = bytes.TrimLeft(line[i+len(key):], " \t"); !quoted {
			continue
		}
		value, ok := bytes.CutPrefix(line, []byte(":"))
		if ok && !bytes.HasPrefix(bytes.TrimLeft(value, " \t"), markNull) {
			return true
		}
	}
}

// lineUsage takes the usage member of a data line. Where only the end of the
// line is known, it takes the last object called usage.
func lineUsage(data, line []byte) (Usage, bool) {
	if o, err := jsonobj.Parse(data); err == nil {
		raw, _ := o.Get("usage")
		return readUsage(raw)
	}
	i := bytes.LastIndex(line, markUsage)
	_, value, _ := bytes.Cut(line[i:], []byte(":"))
	dec := json.NewDecoder(bytes.NewReader(value))
	var raw json.RawMessage
	if dec.Decode(&raw) != nil {
		return Usage{}, false
	}
	return readUsage(raw)
}

// usageFilter relays event by event and leaves out the one that we asked for.
type usageFilter struct {
	events sse.Splitter
	out    []byte
}

// usageFilters keeps the memory of those that are done.
var usageFilters = sync.Pool{New: func() any { return new(usageFilter) }}

func newUsageFilter() *usageFilter {
	f, _ := usageFilters.Get().(*usageFilter)
	return f
}

// done gives the filter back, unless a long event has made it large.
func (f *usageFilter) done() {
	if f == nil || f.events.Reset() > maxFilterKept || cap(f.out) > maxFilterKept {
		return
	}
	if scribble {
		clear(f.out[:cap(f.out)])
	}
	usageFilters.Put(f)
}

const maxFilterKept = 2 * largeStreamBuffer

// pass returns what may go on of the stream so far. At its end nothing is held
// back.
func (f *usageFilter) pass(p []byte, end bool) []byte {
	f.out = f.out[:0]
	f.events.Feed(p, f.event)
	if end {
		f.out = append(f.out, f.events.Rest()...)
	}
	return f.out
}

func (f *usageFilter) event(event []byte, whole bool) (kept bool) {
	if whole && isUsageEvent(event) {
		return false
	}
	f.out = append(f.out, event...)
	return true
}

// isUsageEvent recognizes the event that include_usage adds: no choices, and a
// usage object.
func isUsageEvent(event []byte) bool {
	if !bytes.Contains(event, markUsage) {
		return false
	}
	for {
		line, rest, ok := sse.NextLine(event)
		if !ok {
			return false
		}
		if data, ok := sse.Data(line); ok {
			o, err := jsonobj.Parse(data)
			if err != nil {
				return false
			}
			choices, _ := o.Get("choices")
			usage, _ := o.Get("usage")
			return len(usage) > 0 && usage[0] == '{' && isEmptyArray(choices)
		}
		event = rest
	}
}

func isEmptyArray(raw []byte) bool {
	return len(raw) >= 2 && raw[0] == '[' && len(bytes.TrimSpace(raw[1:len(raw)-1])) == 0
}
