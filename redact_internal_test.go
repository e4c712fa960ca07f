package proxy

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	const key = "sk-proj-0123456789abcdef"
	for _, row := range []struct{ name, in, want string }{
		{"nothing", "a task-management ask-me-anything", "a task-management ask-me-anything"},
		{"the key", "bad " + key + ".", "bad ***."},
		{"the key inside a word", "x" + key + "y", "x***y"},
		{"the key twice", key + key, "******"},
		{"another key", "bad sk-abcdefgh", "bad ***"},
		{"seven characters are no key", "sk-abcdefg", "sk-abcdefg"},
		{"masked with stars", "Incorrect API key provided: sk-proj-***********MxYA.", "Incorrect API key provided: ***"},
		{"masked with points", "sk-proj...MxYA", "***"},
		{"masked with an ellipsis", "sk-proj…MxYA", "***"},
		{"at the start of a line", "a\nsk-abcdefgh\nb", "a\n***\nb"},
		{"quoted as Go does", `"a\nsk-abcdefgh"`, `"a\n***"`},
		{"in a URL", "https://x/?key=sk-abcdefgh&y=1", "https://x/?key=***&y=1"},
		{"behind a colon", "key:sk-abcdefgh", "key:***"},
		{"behind a capital", "Bsk-abcdefgh", "B***"},
		{"behind a digit", "1sk-abcdefgh", "1***"},
		{"several", "sk-abcdefgh,sk-ijklmnop sk-qrstuvwx", "***,*** ***"},
		{"organization", "Org org-AbCdEf123 is", "Org *** is"},
		{"project", "Project proj_AbCdEf123 is", "Project *** is"},
		{"organization and project", "org-AbCdEf123/proj_AbCdEf123", "***/***"},
		{"ordinary words", "cyborg-xyz, a reproj_abcd, disk-abcdefgh", "cyborg-xyz, a reproj_abcd, disk-abcdefgh"},
	} {
		if got := redact(row.in, key); got != row.want {
			t.Errorf("%s: redact(%q) = %q, want %q", row.name, row.in, got, row.want)
		}
	}
}

// keyWord is the form that must not survive, found by another expression than
// the one under test: a word, not the end of a longer one.
var keyWord = regexp.MustCompile(`(?:^|[\s"'=:,;/({\[<>&?@|+.A-Z0-9_-])sk-[A-Za-z0-9_\-*.…]{8,}`)

func FuzzRedact(f *testing.F) {
	for _, text := range []string{
		"", "sk-", "sk-abcdefgh", "sk-abcdefg", "x sk-abcdefgh y", "Incorrect API key provided: sk-proj-****abcd.", "sk-…………………………",
		"org-abcdsk-abcdefgh12", "proj_abcdsk-abcdefgh12", "sk-sk-sk-sk-sk-", "task-management", "org-1234 proj_1234", "sk-org-1234", "***",
		`{"error":{"message":"sk-abcdefgh"}}`, "\xffsk-abcdefgh\xff", "sk-abcdefgh\u2026sk-abcdefgh",
	} {
		f.Add(text, "")
		f.Add(text, "sk-abcdefgh")
		f.Add("a"+text+"b", "0123456789abcdef")
		f.Add("org-0123456789abcdef "+text, "0123456789abcdef")
	}
	f.Fuzz(func(t *testing.T, text, key string) {
		if key != "" && (!validKey(key) || len(key) < 8 || strings.Contains(key, "*")) {
			return // nobody's key; one of stars cannot be told from what replaces it
		}
		once := redact(text, key)
		if key != "" && strings.Contains(once, key) {
			t.Errorf("the key %q survives in %q, from %q", key, once, text)
		}
		if found := keyWord.FindString(once); found != "" {
			t.Errorf("%q survives in %q, from %q", found, once, text)
		}
		if twice := redact(once, key); twice != once {
			t.Errorf("not idempotent: %q, then %q, from %q", once, twice, text)
		}
		quoted, err := json.Marshal(map[string]string{"message": text})
		if err != nil {
			t.Fatal(err)
		}
		clean := redactJSON(quoted, key)
		var back map[string]string
		if err := json.Unmarshal(clean, &back); err != nil || len(back) != 1 {
			t.Fatalf("redactJSON makes %q of %q: %v", clean, quoted, err)
		}
		for name, value := range back {
			if key != "" && strings.Contains(value, key) || keyWord.MatchString(value) {
				t.Errorf("%q: %q survives in JSON, from %q", name, value, text)
			}
		}
	})
}
