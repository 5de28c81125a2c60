package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// source finds and parses Go packages in the module cache.
type source struct {
	dirs     map[string]string
	packages map[string]*goPackage
}

// goPackage is the declarations of a package that matter here.
type goPackage struct {
	path, name string
	types      map[string]*goType
	typeOrder  []string
	consts     map[string]*goConst
	methods    map[string]map[string]bool
	known      []string
}

type goType struct {
	name    string
	expr    ast.Expr
	alias   bool
	markers markers
	pkg     *goPackage
	file    *ast.File
}

type goConst struct {
	typ   ast.Expr
	value ast.Expr
	pkg   *goPackage
	file  *ast.File
}

func findModules() (*source, error) {
	src := &source{dirs: map[string]string{}, packages: map[string]*goPackage{}}
	want := map[string]string{"k8s.io/kubernetes": kubernetesVersion}
	for _, m := range []string{"api", "apimachinery", "apiextensions-apiserver", "kube-aggregator"} {
		want["k8s.io/"+m] = libraryVersion
	}
	for module, version := range want {
		output, err := exec.Command("go", "mod", "download", "-json", module+"@"+version).Output()
		if err != nil {
			return nil, fmt.Errorf("go mod download %s@%s: %w", module, version, err)
		}
		var found struct{ Dir, Error string }
		if err := json.Unmarshal(output, &found); err != nil {
			return nil, err
		}
		if found.Error != "" || found.Dir == "" {
			return nil, fmt.Errorf("go mod download %s@%s: %s", module, version, found.Error)
		}
		src.dirs[module] = found.Dir
	}
	return src, nil
}

// load parses a package once.
func (s *source) load(path string) (*goPackage, error) {
	if p := s.packages[path]; p != nil {
		return p, nil
	}
	dir := ""
	for module, d := range s.dirs {
		if rest, ok := strings.CutPrefix(path, module+"/"); ok {
			dir = filepath.Join(d, rest)
		}
	}
	if dir == "" {
		return nil, fmt.Errorf("package %s is in none of the modules", path)
	}
	p := &goPackage{path: path, types: map[string]*goType{}, consts: map[string]*goConst{}, methods: map[string]map[string]bool{}}
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		if excluded(f) {
			continue
		}
		p.name = f.Name.Name
		for _, d := range f.Decls {
			p.declare(d, f)
		}
	}
	s.packages[path] = p
	return p, nil
}

// excluded tells whether a build constraint keeps the file out of an ordinary build.
func excluded(f *ast.File) bool {
	for _, group := range f.Comments {
		if group.Pos() > f.Package {
			break
		}
		for _, c := range group.List {
			if !constraint.IsGoBuild(c.Text) {
				continue
			}
			if e, err := constraint.Parse(c.Text); err == nil && !e.Eval(func(tag string) bool { return tag == "linux" || tag == "amd64" }) {
				return true
			}
		}
	}
	return false
}

func (p *goPackage) declare(d ast.Decl, f *ast.File) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv != nil && len(d.Recv.List) == 1 {
			recv := d.Recv.List[0].Type
			if star, ok := recv.(*ast.StarExpr); ok {
				recv = star.X
			}
			if id, ok := recv.(*ast.Ident); ok {
				if p.methods[id.Name] == nil {
					p.methods[id.Name] = map[string]bool{}
				}
				p.methods[id.Name][d.Name.Name] = true
			}
		}
		p.findKnownTypes(d)
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				doc := spec.Doc
				if doc == nil {
					doc = d.Doc
				}
				p.types[spec.Name.Name] = &goType{name: spec.Name.Name, expr: spec.Type, alias: spec.Assign.IsValid(), markers: parseMarkers(doc), pkg: p, file: f}
				p.typeOrder = append(p.typeOrder, spec.Name.Name)
			case *ast.ValueSpec:
				for i, name := range spec.Names {
					if d.Tok == token.CONST && i < len(spec.Values) {
						p.consts[name.Name] = &goConst{typ: spec.Type, value: spec.Values[i], pkg: p, file: f}
					}
				}
			}
		}
	}
}

// findKnownTypes collects the kinds that the package registers: the `&Kind{}` arguments of AddKnownTypes.
func (p *goPackage) findKnownTypes(d *ast.FuncDecl) {
	if d.Body == nil {
		return
	}
	ast.Inspect(d.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || sel.Sel.Name != "AddKnownTypes" {
			return true
		}
		for _, arg := range call.Args {
			if u, ok := arg.(*ast.UnaryExpr); ok {
				if lit, ok := u.X.(*ast.CompositeLit); ok {
					if id, ok := lit.Type.(*ast.Ident); ok {
						p.known = append(p.known, id.Name)
					}
				}
			}
		}
		return true
	})
}

// named resolves an identifier or a selector to its declaration; nil for a predeclared type.
func (s *source) named(e ast.Expr, pkg *goPackage, file *ast.File) (*goType, error) {
	switch e := e.(type) {
	case *ast.Ident:
		return pkg.types[e.Name], nil
	case *ast.SelectorExpr:
		path, err := importPath(e.X.(*ast.Ident).Name, file)
		if err != nil {
			return nil, err
		}
		other, err := s.load(path)
		if err != nil {
			return nil, err
		}
		t := other.types[e.Sel.Name]
		if t == nil {
			return nil, fmt.Errorf("%s.%s is not declared", path, e.Sel.Name)
		}
		return t, nil
	}
	return nil, fmt.Errorf("%T is not a name", e)
}

func importPath(name string, file *ast.File) (string, error) {
	for _, i := range file.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return "", err
		}
		if i.Name != nil && i.Name.Name == name || i.Name == nil && path[strings.LastIndex(path, "/")+1:] == name {
			return path, nil
		}
	}
	return "", fmt.Errorf("no import is named %s", name)
}

// constant evaluates a constant of string or number type by name.
func (s *source) constant(path, name string) (any, error) {
	p, err := s.load(path)
	if err != nil {
		return nil, err
	}
	c := p.consts[name]
	if c == nil {
		return nil, fmt.Errorf("constant %s.%s is not declared", path, name)
	}
	v, ok := s.literal(c.value, c)
	if !ok {
		return nil, fmt.Errorf("constant %s.%s is not a literal", path, name)
	}
	return v, nil
}

func (s *source) literal(e ast.Expr, c *goConst) (any, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		switch e.Kind {
		case token.STRING:
			v, err := strconv.Unquote(e.Value)
			return v, err == nil
		case token.INT:
			v, err := strconv.ParseInt(e.Value, 0, 64)
			return v, err == nil
		}
	case *ast.CallExpr:
		if len(e.Args) == 1 {
			return s.literal(e.Args[0], c)
		}
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			x, okx := s.literal(e.X, c)
			y, oky := s.literal(e.Y, c)
			xs, isx := x.(string)
			ys, isy := y.(string)
			return xs + ys, okx && oky && isx && isy
		}
	case *ast.Ident:
		v, err := s.constant(c.pkg.path, e.Name)
		return v, err == nil
	case *ast.SelectorExpr:
		path, err := importPath(e.X.(*ast.Ident).Name, c.file)
		if err != nil {
			return nil, false
		}
		v, err := s.constant(path, e.Sel.Name)
		return v, err == nil
	}
	return nil, false
}

// constType is the type name that a constant is declared with, by its own type or by conversion.
func (c *goConst) constType() ast.Expr {
	if c.typ != nil {
		return c.typ
	}
	if call, ok := c.value.(*ast.CallExpr); ok && len(call.Args) == 1 {
		return call.Fun
	}
	return nil
}

// markers are the `+key=value` lines of a comment.
type markers map[string][]string

func parseMarkers(doc *ast.CommentGroup) markers {
	m := markers{}
	if doc == nil {
		return m
	}
	for _, c := range doc.List {
		text := c.Text
		if strings.HasPrefix(text, "//") {
			text = text[2:]
		} else {
			text = strings.TrimSuffix(strings.TrimPrefix(text, "/*"), "*/")
		}
		for _, line := range strings.Split(text, "\n") {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "+") {
				continue
			}
			key, value, _ := strings.Cut(line[1:], "=")
			m[key] = append(m[key], value)
		}
	}
	return m
}

// describes tells whether OpenAPI takes a description from a comment: text before `---` that is no marker and no TODO.
func describes(doc *ast.CommentGroup) bool {
	for _, line := range strings.Split(doc.Text(), "\n") {
		line = strings.TrimSpace(line)
		if line == "---" {
			return false
		}
		if line != "" && !strings.HasPrefix(line, "+") && !strings.HasPrefix(line, "TODO") {
			return true
		}
	}
	return false
}

func (m markers) has(key string) bool { return m[key] != nil }

func (m markers) first(key string) string {
	if v := m[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func fieldTag(f *ast.Field) reflect.StructTag {
	if f.Tag == nil {
		return ""
	}
	text, err := strconv.Unquote(f.Tag.Value)
	if err != nil {
		return ""
	}
	return reflect.StructTag(text)
}
