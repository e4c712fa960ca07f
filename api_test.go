package proxy_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/doc"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var updateGolden = flag.Bool("update", false, "write the golden files in testdata anew")

// maxNames is the most package-level names that the package exports, the
// constants of one type counted once: a surface that a newcomer can still read.
const maxNames = 75

// wantGolden compares got with a file of testdata.
func wantGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *updateGolden {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -run %s -update . writes it)", err, t.Name())
	}
	if got == string(want) {
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for _, line := range wantLines {
		if !slices.Contains(gotLines, line) {
			t.Errorf("%s has, and the package has not: %s", path, line)
		}
	}
	for _, line := range gotLines {
		if !slices.Contains(wantLines, line) {
			t.Errorf("the package has, and %s has not: %s", path, line)
		}
	}
	t.Errorf("%s differs; if that is meant: go test -run %s -update .", path, t.Name())
}

// parseRoot parses the files of the package, without its tests.
func parseRoot(t *testing.T, mode parser.Mode) (*token.FileSet, map[string]*ast.File) {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset, files := token.NewFileSet(), map[string]*ast.File{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, mode)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = f
	}
	return fset, files
}

// readPackage returns the exported declarations.
func readPackage(t *testing.T) (*token.FileSet, *doc.Package) {
	t.Helper()
	fset, files := parseRoot(t, parser.ParseComments)
	var list []*ast.File
	for _, f := range files {
		list = append(list, f)
	}
	pkg, err := doc.NewFromFiles(fset, list, "github.com/openai-proxy-go/proxy")
	if err != nil {
		t.Fatal(err)
	}
	return fset, pkg
}

// declaration prints a declaration without its comments and its body.
func declaration(t *testing.T, fset *token.FileSet, decl ast.Decl) string {
	t.Helper()
	ast.Inspect(decl, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			n.Doc, n.Body = nil, nil
		case *ast.GenDecl:
			n.Doc = nil
		case *ast.ValueSpec:
			n.Doc, n.Comment = nil, nil
		case *ast.TypeSpec:
			n.Doc, n.Comment = nil, nil
		case *ast.Field:
			n.Doc, n.Comment = nil, nil
		}
		return true
	})
	var b bytes.Buffer
	if err := format.Node(&b, fset, decl); err != nil {
		t.Fatal(err)
	}
	// The places of the comments that are gone would be blank lines.
	var out strings.Builder
	for line := range strings.Lines(b.String()) {
		if strings.TrimSpace(line) != "" {
			out.WriteString(line)
		}
	}
	return strings.TrimSpace(out.String()) + "\n"
}

// TestExportedSurface holds what the package exports against testdata/api.txt:
// nothing is added, changed or lost by accident.
func TestExportedSurface(t *testing.T) {
	t.Parallel()
	fset, pkg := readPackage(t)
	var b strings.Builder
	values := func(list []*doc.Value) {
		for _, v := range list {
			b.WriteString(declaration(t, fset, v.Decl) + "\n")
		}
	}
	funcs := func(list []*doc.Func) {
		for _, f := range list {
			b.WriteString(declaration(t, fset, f.Decl) + "\n")
		}
	}
	values(pkg.Consts)
	values(pkg.Vars)
	funcs(pkg.Funcs)
	for _, typ := range pkg.Types {
		b.WriteString(declaration(t, fset, typ.Decl) + "\n")
		values(typ.Consts)
		values(typ.Vars)
		funcs(typ.Funcs)
		funcs(typ.Methods)
	}
	wantGolden(t, "api.txt", b.String())
}

func TestExportedSurfaceIsSmall(t *testing.T) {
	t.Parallel()
	_, pkg := readPackage(t)
	count := func(list []*doc.Value) (n int) {
		for _, v := range list {
			for _, name := range v.Names {
				if ast.IsExported(name) {
					n++
				}
			}
		}
		return n
	}
	names := count(pkg.Consts) + count(pkg.Vars) + len(pkg.Funcs)
	for _, typ := range pkg.Types {
		names += 1 + len(typ.Funcs) + count(typ.Vars)
		if len(typ.Consts) > 0 {
			names++ // all of them
		}
	}
	if names > maxNames {
		t.Errorf("%d package-level names are exported, at most %d may be", names, maxNames)
	}
}

func TestExportedSurfaceIsDocumented(t *testing.T) {
	t.Parallel()
	_, pkg := readPackage(t)
	want := func(name, text string) {
		if strings.TrimSpace(text) == "" {
			t.Errorf("%s has no comment", name)
		}
	}
	want("the package", pkg.Doc)
	values := func(list []*doc.Value) {
		for _, v := range list {
			for _, spec := range v.Decl.Specs {
				s := spec.(*ast.ValueSpec)
				want(s.Names[0].Name, v.Doc+s.Doc.Text()+s.Comment.Text())
			}
		}
	}
	funcs := func(prefix string, list []*doc.Func) {
		for _, f := range list {
			want(prefix+f.Name, f.Doc)
			if !strings.HasPrefix(f.Doc, f.Name+" ") {
				t.Errorf("the comment of %s%s does not start with its name: %.40q", prefix, f.Name, f.Doc)
			}
		}
	}
	values(slices.Concat(pkg.Consts, pkg.Vars))
	funcs("", pkg.Funcs)
	for _, typ := range pkg.Types {
		want(typ.Name, typ.Doc)
		values(slices.Concat(typ.Consts, typ.Vars))
		funcs("", typ.Funcs)
		funcs(typ.Name+".", typ.Methods)
	}
	for _, f := range slices.Concat(pkg.Funcs, optionFuncs(pkg)) {
		if strings.HasPrefix(f.Name, "With") && f.Name != "WithOptions" && !strings.Contains(f.Doc, "Default") && !strings.Contains(f.Doc, "default") {
			t.Errorf("the comment of %s does not tell its default", f.Name)
		}
	}
}

// optionFuncs are the functions that return an Option; go/doc lists them with
// the type.
func optionFuncs(pkg *doc.Package) (funcs []*doc.Func) {
	for _, typ := range pkg.Types {
		if typ.Name == "Option" {
			funcs = append(funcs, typ.Funcs...)
		}
	}
	return funcs
}

// TestNoLibraryTypeIsExported: a major version of a library must not become one
// of this package.
func TestNoLibraryTypeIsExported(t *testing.T) {
	t.Parallel()
	_, files := parseRoot(t, parser.SkipObjectResolution)
	for name, file := range files {
		libraries := map[string]bool{}
		for _, imp := range file.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			if !strings.Contains(path, ".") { // the standard library
				continue
			}
			local := path[strings.LastIndex(path, "/")+1:]
			if imp.Name != nil {
				local = imp.Name.Name
			}
			libraries[local] = true
		}
		ast.FileExports(file)
		check := func(where string, node ast.Node) {
			if node == nil {
				return
			}
			ast.Inspect(node, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := sel.X.(*ast.Ident); ok && libraries[x.Name] {
						t.Errorf("%s: %s shows %s.%s", name, where, x.Name, sel.Sel.Name)
					}
				}
				return true
			})
		}
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				check(d.Name.Name, d.Type)
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						check(s.Name.Name, s.Type)
					case *ast.ValueSpec:
						if s.Type != nil {
							check(s.Names[0].Name, s.Type)
						}
					}
				}
			}
		}
	}
}

// TestK6Imports holds the packages that a user of this one links against
// testdata/imports.txt.
func TestK6Imports(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	paths := strings.Fields(string(out))
	slices.Sort(paths)
	for _, path := range paths {
		if strings.HasSuffix(path, "/proxytest") || strings.Contains(path, "/examples/") {
			t.Errorf("the package imports %s, which imports it", path)
		}
	}
	wantGolden(t, "imports.txt", strings.Join(paths, "\n")+"\n")
}

// TestInternalPackagesDoNotImportTheRoot keeps imports going one way.
func TestInternalPackagesDoNotImportTheRoot(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.ImportPath}}: {{join .Imports \" \"}} .", "./internal/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, " github.com/openai-proxy-go/proxy ") {
			t.Errorf("the root is imported by %s", line)
		}
	}
}

// TestOnlyTheLastStepsWrite holds the rule that makes wrappers of
// http.ResponseWriter needless: what may still fail does not write.
func TestOnlyTheLastStepsWrite(t *testing.T) {
	t.Parallel()
	may := []string{"errors.go", "cors.go", "proxy.go", "relay.go", "stream.go"}
	fset, files := parseRoot(t, parser.SkipObjectResolution)
	for name, file := range files {
		if slices.Contains(may, name) {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if ok && slices.Contains([]string{"WriteHeader", "Flush", "FlushError", "Hijack"}, sel.Sel.Name) {
				t.Errorf("%s: %s is called outside of %v", fset.Position(call.Pos()), sel.Sel.Name, may)
			}
			return true
		})
	}
}

// TestNoStateOutsideOfHandlers: no init functions, and package variables only
// where they are written once, at their declaration.
func TestNoStateOutsideOfHandlers(t *testing.T) {
	t.Parallel()
	fset, files := parseRoot(t, parser.SkipObjectResolution)
	vars := map[string]bool{}
	for _, file := range files {
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%s: an init function", fset.Position(d.Pos()))
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR {
					continue
				}
				for _, spec := range d.Specs {
					for _, name := range spec.(*ast.ValueSpec).Names {
						vars[name.Name] = name.Name != "_"
					}
				}
			}
		}
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			assign, ok := n.(*ast.AssignStmt)
			if !ok || assign.Tok == token.DEFINE {
				return true
			}
			for _, left := range assign.Lhs {
				if ix, ok := left.(*ast.IndexExpr); ok {
					left = ix.X
				}
				if id, ok := left.(*ast.Ident); ok && vars[id.Name] {
					t.Errorf("%s: the package variable %s is written", fset.Position(assign.Pos()), id.Name)
				}
			}
			return true
		})
	}
}
