package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Definitions besides lists whose descriptions no Rust crate has as they are published.
var describedHere = []string{"WatchEvent", "JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray"}

// enumValues begins what a description says of a field's values.
const enumValues = "Possible enum values:\n"

// The options that stand for the query of an action.
var optionsOf = map[string]string{
	"get": "GetOptions", "list": "ListOptions", "watch": "ListOptions", "watchlist": "ListOptions",
	"post": "CreateOptions", "put": "UpdateOptions", "patch": "PatchOptions", "delete": "DeleteOptions",
}

type parameter struct{ Name, In, Description string }

type action struct {
	Action     string                                `json:"x-kubernetes-action"`
	Kind       struct{ Group, Version, Kind string } `json:"x-kubernetes-group-version-kind"`
	Parameters []parameter
}

// descriptions are texts by definition and field; the definition's own has no field. A field's name that begins with `+` has what its
// values mean, which follows the description.
type descriptions map[string]map[string]string

func (d descriptions) add(definition, field, text string) {
	if text == "" {
		return
	}
	if d[definition] == nil {
		d[definition] = map[string]string{}
	}
	d[definition][field] = text
}

// describe collects from the published documents what the descriptions of the k8s-openapi crate lack: those of lists, of query parameters and
// of what values mean.
func describe(t *table, kubernetes string) (descriptions, error) {
	files, err := filepath.Glob(filepath.Join(kubernetes, "api/openapi-spec/v3/*.json"))
	if err != nil {
		return nil, err
	}
	out := descriptions{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var doc struct {
			Paths      map[string]map[string]json.RawMessage
			Components struct{ Schemas map[string]published }
		}
		if err := json.Unmarshal(text, &doc); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for name, schema := range doc.Components.Schemas {
			short := name[strings.LastIndex(name, ".")+1:]
			if t.structs[name] != nil || slices.Contains(describedHere, short) {
				out.ofSchema(name, short, schema)
			}
		}
		for path, item := range doc.Paths {
			if err := out.ofPath(t, path, item); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", file, path, err)
			}
		}
	}
	return out, out.ofValues(t, filepath.Join(kubernetes, "pkg/generated/openapi/zz_generated.openapi.go"))
}

// ofValues takes what values mean, which the published documents leave out and servers do not, from the source that servers have it from.
func (d descriptions) ofValues(t *table, path string) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		return err
	}
	definitions := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if pair, ok := n.(*ast.KeyValueExpr); ok {
			if name, definition := registered(pair, file); name != "" {
				definitions[name] = definition
			}
		}
		return true
	})
	for _, declaration := range file.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok {
			continue
		}
		definition := definitions[function.Name.Name]
		if t.structs[definition] == nil {
			continue
		}
		ast.Inspect(function, func(n ast.Node) bool {
			pair, ok := n.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			field, isName := stringOf(pair.Key)
			text := described(pair.Value)
			if !isName || text == "" {
				return true
			}
			if at := strings.Index(text, enumValues); at >= 0 {
				d.add(definition, "+"+field, text[len(strings.TrimRight(text[:at], " \n")):])
			} else if t.structs[definition].goName == "GetOptions" && field != "kind" && field != "apiVersion" {
				// Only custom resources have them in their queries, which are not published.
				d.add(definition, field, text)
			}
			return true
		})
	}
	return nil
}

// registered reads `alias.Type{}.OpenAPIModelName(): function(ref)`.
func registered(pair *ast.KeyValueExpr, file *ast.File) (function, definition string) {
	key, isCall := pair.Key.(*ast.CallExpr)
	value, alsoCall := pair.Value.(*ast.CallExpr)
	if !isCall || !alsoCall {
		return "", ""
	}
	name, ok := value.Fun.(*ast.Ident)
	method, isMethod := key.Fun.(*ast.SelectorExpr)
	if !ok || !isMethod {
		return "", ""
	}
	literal, isLiteral := method.X.(*ast.CompositeLit)
	if !isLiteral {
		return "", ""
	}
	selector, isSelector := literal.Type.(*ast.SelectorExpr)
	if !isSelector {
		return "", ""
	}
	path, err := importPath(selector.X.(*ast.Ident).Name, file)
	if err != nil {
		return "", ""
	}
	return name.Name, definitionName(&goType{name: selector.Sel.Name, pkg: &goPackage{path: path}})
}

// described is the description in `{SchemaProps: spec.SchemaProps{Description: "…"}}`.
func described(e ast.Expr) string {
	for _, name := range []string{"SchemaProps", "Description"} {
		literal, ok := e.(*ast.CompositeLit)
		if !ok {
			return ""
		}
		e = nil
		for _, element := range literal.Elts {
			if pair, ok := element.(*ast.KeyValueExpr); ok {
				if key, ok := pair.Key.(*ast.Ident); ok && key.Name == name {
					e = pair.Value
				}
			}
		}
	}
	text, _ := stringOf(e)
	return text
}

func stringOf(e ast.Expr) (string, bool) {
	literal, ok := e.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(literal.Value)
	return text, err == nil
}

func (d descriptions) ofSchema(name, short string, schema published) {
	whole := strings.HasSuffix(short, "List") || slices.Contains(describedHere, short)
	if whole {
		d.add(name, "", schema.Description)
	}
	for field, p := range schema.Properties {
		if whole && field != "kind" && field != "apiVersion" {
			d.add(name, field, p.Description)
		}
	}
}

// ofPath takes parameters for fields of the options that stand for them. Those of the path are taken where all its actions have the same.
func (d descriptions) ofPath(t *table, path string, item map[string]json.RawMessage) error {
	options := map[*structType]bool{}
	for method, text := range item {
		if method == "parameters" {
			continue
		}
		var a action
		if err := json.Unmarshal(text, &a); err != nil {
			return err
		}
		of := t.options(path, a)
		options[of] = true
		d.ofParameters(of, a.Parameters)
	}
	var shared []parameter
	if text := item["parameters"]; text != nil {
		if err := json.Unmarshal(text, &shared); err != nil {
			return err
		}
	}
	if len(options) == 1 {
		for of := range options {
			d.ofParameters(of, shared)
		}
	}
	return nil
}

func (t *table) options(path string, a action) *structType {
	if strings.HasSuffix(path, "/log") {
		return t.structs["io.k8s.api.core.v1."+a.Kind.Kind+"LogOptions"]
	}
	if a.Action != "connect" {
		return t.structs["io.k8s.apimachinery.pkg.apis.meta.v1."+optionsOf[a.Action]]
	}
	for _, s := range t.order {
		if slices.Contains(s.kinds, a.Kind.Group+"/"+a.Kind.Version+"/"+a.Kind.Kind) {
			return s
		}
	}
	return nil
}

func (d descriptions) ofParameters(of *structType, parameters []parameter) {
	if of == nil {
		return
	}
	for _, p := range parameters {
		isField := slices.ContainsFunc(of.fields, func(f *field) bool { return f.json == p.Name })
		if p.In == "query" && isField {
			d.add(of.name, p.Name, p.Description)
		}
	}
}

// text is a line `=definition`, tab and description, followed by a line for each field, sorted, with newlines and backslashes escaped.
func (d descriptions) text() []byte {
	escape := strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	var out strings.Builder
	for _, definition := range sortedKeys(d) {
		fmt.Fprintf(&out, "=%s\t%s\n", definition, escape.Replace(d[definition][""]))
		for _, field := range sortedKeys(d[definition]) {
			if field != "" {
				fmt.Fprintf(&out, "%s\t%s\n", field, escape.Replace(d[definition][field]))
			}
		}
	}
	return []byte(out.String())
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
