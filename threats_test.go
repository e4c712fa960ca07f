package proxy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that THREATS.md names exists, and every test that carries a row's id
// is named there.
func TestThreatsNamesTheTests(t *testing.T) {
	text, err := os.ReadFile("THREATS.md")
	if err != nil {
		t.Fatal(err)
	}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	rowID := regexp.MustCompile(`^Test[FIKST][0-9]+d?([A-Z]|[FIKST][0-9])`)
	defined := map[string]bool{}
	err = filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(source, -1) {
			defined[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, name := range regexp.MustCompile(`\b(Test|Fuzz)\w+`).FindAllString(string(text), -1) {
		if named[name] = true; !defined[name] {
			t.Errorf("THREATS.md names %s, which does not exist", name)
		}
	}
	for name := range defined {
		if !named[name] && (rowID.MatchString(name) || strings.HasPrefix(name, "Fuzz")) {
			t.Errorf("THREATS.md does not name %s", name)
		}
	}
}
