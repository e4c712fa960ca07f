package proxy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/openai-proxy-go/proxy/internal/jsonobj"
)

// redacted stands for every secret in a text.
const redacted = "***"

// keyLike matches what OpenAI's keys, organizations and projects look like,
// also when the upstream has masked a part itself ("sk-proj-***MxYA"). The
// group before it keeps words like "task-management" whole, and takes "\n"
// before a key for the escape that it is.
var keyLike = regexp.MustCompile(`(^|[^a-z]|\\[a-z])(?:sk-[A-Za-z0-9_\-*.…]{8,}|org-[A-Za-z0-9]{4,}|proj_[A-Za-z0-9]{4,})`)

// redact strikes key from text, and everything that looks like a key,
// an organization or a project.
func redact(text, key string) string {
	if key != "" {
		text = strings.ReplaceAll(text, key, redacted)
	}
	if !strings.Contains(text, "sk-") && !strings.Contains(text, "org-") && !strings.Contains(text, "proj_") {
		return text
	}
	return keyLike.ReplaceAllString(text, "${1}"+redacted)
}

// redactAny is redact for the value of a panic.
func redactAny(v any, key string) string { return redact(fmt.Sprint(v), key) }

// harmless returns err, or, if its text holds something like a key, a plain
// error with the text redacted.
func harmless(err error, key string) error {
	text := err.Error()
	if clean := redact(text, key); clean != text {
		return errors.New(clean)
	}
	return err
}

// redactJSON does the same to every string of a well-formed JSON value, after
// unescaping, so that no spelling of a key slips through.
func redactJSON(raw []byte, key string) []byte {
	return jsonobj.MapStrings(raw, func(s string) string { return redact(s, key) })
}
