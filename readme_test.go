package proxy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every Go program in README.md and docs must compile; tests are compiled as tests,
// and what is no whole program as the body of a function.
func TestREADMEProgramsCompile(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, "README.md", "README.zh-CN.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for i, program := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			found++
			t.Run(fmt.Sprintf("%s/%d", page, i), func(t *testing.T) {
				t.Parallel()
				compile(t, program[1])
			})
		}
	}
	if found < 8 {
		t.Errorf("%d Go programs, want 8 or more", found)
	}
}

// compile checks a program in a file of its own.
func compile(t *testing.T, program string) {
	t.Helper()
	name := "main.go"
	switch {
	case strings.HasPrefix(program, "proxy.With"):
		program = "h := proxy.New(\n" + program + ")\n"
		fallthrough
	case !strings.HasPrefix(program, "package "):
		program = "package app\n\nimport \"github.com/openai-proxy-go/proxy\"\n\n" +
			"func mount(tokens *proxy.Tokens) {\n" + program + "_ = h\n}\n"
	case strings.Contains(program, "testing.T"):
		name = "app_test.go"
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("go vet: %v\n%s", err, out)
	}
}

func TestREADMENamesEveryOption(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, pkg := readPackage(t)
	options := 0
	for _, f := range optionFuncs(pkg) {
		options++
		if !strings.Contains(string(readme), "`"+f.Name+"(") {
			t.Errorf("README.md does not name %s", f.Name)
		}
	}
	if options < 20 {
		t.Errorf("%d options found", options)
	}
}

// The Chinese README shows the same code, options and limits.
func TestChineseREADMEAgrees(t *testing.T) {
	t.Parallel()
	comment := regexp.MustCompile(` // [^\n]*`)
	marks := regexp.MustCompile("(?s)```\\w+\n.*?```|(?m)^\\| `[^|]*`")
	var facts [2][]string
	for i, page := range []string{"README.md", "README.zh-CN.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range marks.FindAllString(string(text), -1) {
			if name, _, row := strings.Cut(strings.TrimPrefix(found, "| `"), "`"); row && !strings.HasPrefix(found, "```") {
				found = name
			}
			facts[i] = append(facts[i], comment.ReplaceAllString(found, ""))
		}
	}
	for i := range max(len(facts[0]), len(facts[1])) {
		if i >= len(facts[0]) || i >= len(facts[1]) || facts[0][i] != facts[1][i] {
			t.Fatalf("they differ from here on:\n%q\n%q", facts[0][min(i, len(facts[0])):], facts[1][min(i, len(facts[1])):])
		}
	}
	if len(facts[0]) < 40 {
		t.Errorf("only %d facts compared", len(facts[0]))
	}
}
