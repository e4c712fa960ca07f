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

// Every Go program in README.md must compile; its tests are compiled as tests.
func TestREADMEProgramsCompile(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(programs) < 3 {
		t.Fatalf("%d Go programs in README.md, want 3 or more", len(programs))
	}
	for i, program := range programs {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			name := "main.go"
			if strings.Contains(string(program[1]), "testing.T") {
				name = "app_test.go"
			}
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, program[1], 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), "go", "vet", file).CombinedOutput(); err != nil {
				t.Errorf("go vet: %v\n%s", err, out)
			}
		})
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
