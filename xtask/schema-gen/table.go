package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// table is every struct type that is found, by definition name.
type table struct {
	src     *source
	structs map[string]*structType
	order   []*structType
	enums   map[*goType][]string
}

type structType struct {
	name, goName string
	fields       []*field
	atomic       bool
	kinds        []string
	unions       []union
	embeds       []embed
}

type union struct {
	discriminator string
	members       []string
	goNames       map[string]string
}

// embed is a nested message that JSON inlines; parent counts from one, 0 for the message itself.
type embed struct {
	number, parent int
	name           string
}

type field struct {
	json, goName, goType string
	typ                  *wireType
	pointer              bool
	omitEmpty, omitZero  bool
	required             bool
	def                  json.RawMessage
	proto, embed         int
	patch                []string
	patchKey             string
	enum                 []string
	markers              markers
	structType           string
	described            bool
}

// wireType is a type as the table writes it: a scalar's word, a struct's definition name, a list or a map.
type wireType struct {
	scalar   string
	ref      *structType
	list     *wireType
	mapOf    *wireType
	kind     string
	pointer  bool
	wrapped  bool
	enumType *goType
}

// Types that JSON and protobuf treat specially, and their word in the table.
var special = map[string]string{
	"k8s.io/apimachinery/pkg/api/resource.Quantity":                                         "quantity",
	"k8s.io/apimachinery/pkg/util/intstr.IntOrString":                                       "intorstring",
	"k8s.io/apimachinery/pkg/runtime.RawExtension":                                          "raw",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Time":                                             "time",
	"k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime":                                        "microtime",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":                                         "duration",
	"k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1":                                         "fieldsv1",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON":                         "json",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrBool":        "orbool",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrArray":       "orarray",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrStringArray": "orstrings",
}

var predeclared = map[string]string{
	"string": "string", "bool": "bool", "int32": "int32", "int64": "int64", "float64": "float",
	"uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64", "byte": "uint8",
}

// Kinds of the meta package that belong to no group of their own; the rest of it is meta.k8s.io or in every group.
var metaKinds = map[string]string{
	"Status": "/v1/Status", "APIVersions": "/v1/APIVersions", "APIGroup": "/v1/APIGroup", "APIGroupList": "/v1/APIGroupList",
	"APIResourceList": "/v1/APIResourceList", "Table": "meta.k8s.io/v1/Table", "TableOptions": "meta.k8s.io/v1/TableOptions",
	"PartialObjectMetadata": "meta.k8s.io/v1/PartialObjectMetadata", "PartialObjectMetadataList": "meta.k8s.io/v1/PartialObjectMetadataList",
}

// Types without `kind` that are spoken all the same.
var extraRoots = map[string][]string{
	"k8s.io/apimachinery/pkg/apis/meta/v1": {"WatchEvent"},
	"k8s.io/apimachinery/pkg/version":      {"Info"},
}

func (t *table) addPackage(p apiPackage) error {
	pkg, err := t.src.load(p.path)
	if err != nil {
		return err
	}
	if t.enums == nil {
		if err := t.findEnums(); err != nil {
			return err
		}
	}
	for _, name := range pkg.typeOrder {
		decl := pkg.types[name]
		if !ast.IsExported(name) || special[p.path+"."+name] != "" {
			continue
		}
		body, _, err := t.structBody(decl)
		if err != nil {
			return err
		}
		if body == nil || !hasTypeMeta(body) && !slices.Contains(extraRoots[p.path], name) {
			continue
		}
		s, err := t.addStruct(decl)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if slices.Contains(pkg.known, name) && p.version != "" && p.path != metaPath {
			s.kinds = append(s.kinds, p.group+"/"+p.version+"/"+name)
		} else if p.path == metaPath && metaKinds[name] != "" {
			s.kinds = append(s.kinds, metaKinds[name])
		}
	}
	return nil
}

const metaPath = "k8s.io/apimachinery/pkg/apis/meta/v1"

func hasTypeMeta(body *ast.StructType) bool {
	for _, f := range body.Fields.List {
		if len(f.Names) > 0 {
			continue
		}
		switch e := f.Type.(type) {
		case *ast.Ident:
			if e.Name == "TypeMeta" {
				return true
			}
		case *ast.SelectorExpr:
			if e.Sel.Name == "TypeMeta" {
				return true
			}
		}
	}
	return false
}

// structBody follows `type A B` to a struct; nil if it ends elsewhere. It also tells where the body was written.
func (t *table) structBody(decl *goType) (*ast.StructType, *goType, error) {
	switch e := decl.expr.(type) {
	case *ast.StructType:
		return e, decl, nil
	case *ast.Ident, *ast.SelectorExpr:
		if id, ok := e.(*ast.Ident); ok && decl.pkg.types[id.Name] == nil {
			return nil, nil, nil
		}
		if sel, ok := e.(*ast.SelectorExpr); ok {
			path, err := importPath(sel.X.(*ast.Ident).Name, decl.file)
			if err != nil || !strings.HasPrefix(path, "k8s.io/ap") {
				return nil, nil, err
			}
		}
		next, err := t.src.named(e, decl.pkg, decl.file)
		if err != nil || next == nil {
			return nil, nil, err
		}
		return t.structBody(next)
	}
	return nil, nil, nil
}

// definitionName is the OpenAPI name: the domain reversed, then the path.
func definitionName(decl *goType) string {
	domain, rest, _ := strings.Cut(decl.pkg.path, "/")
	parts := strings.Split(domain, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".") + "." + strings.ReplaceAll(rest, "/", ".") + "." + decl.name
}

func (t *table) addStruct(decl *goType) (*structType, error) {
	name := definitionName(decl)
	if s := t.structs[name]; s != nil {
		return s, nil
	}
	body, owner, err := t.structBody(decl)
	if err != nil || body == nil {
		return nil, fmt.Errorf("%s is not a struct: %w", name, err)
	}
	s := &structType{name: name, goName: decl.name, atomic: decl.markers.first("structType") == "atomic"}
	t.structs[name] = s
	t.order = append(t.order, s)
	if err := t.addMembers(s, body, owner, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	seen := map[string]bool{}
	for _, f := range s.fields {
		if seen[f.json] {
			return nil, fmt.Errorf("%s: two fields are named %s", name, f.json)
		}
		seen[f.json] = true
	}
	return s, t.addUnions(s, decl)
}

// Fields that JSON inlines from a struct without a protobuf number are not in protobuf.
const notInProtobuf = -1

// addMembers adds the fields of a struct that is the embed `into` of s, counted from one; 0 for s itself.
func (t *table) addMembers(s *structType, body *ast.StructType, owner *goType, into int) error {
	for _, f := range body.Fields.List {
		tag := fieldTag(f)
		jsonTag, tagged := tag.Lookup("json")
		name, options, _ := strings.Cut(jsonTag, ",")
		if len(f.Names) == 0 && name == "" {
			if err := t.addInlined(s, f, owner, into); err != nil {
				return err
			}
			continue
		}
		goName := ""
		if len(f.Names) > 0 {
			goName = f.Names[0].Name
		} else if sel, ok := f.Type.(*ast.SelectorExpr); ok {
			goName = sel.Sel.Name
		} else if id, ok := f.Type.(*ast.Ident); ok {
			goName = id.Name
		}
		if name == "-" || !ast.IsExported(goName) {
			continue
		}
		if !tagged || name == "" {
			return fmt.Errorf("field %s has no JSON name", goName)
		}
		added, err := t.newField(f, owner, name, goName, options)
		if err != nil {
			return fmt.Errorf("field %s: %w", goName, err)
		}
		if into == notInProtobuf {
			added.proto = 0
		} else {
			added.embed = into
		}
		s.fields = append(s.fields, added)
	}
	return nil
}

func (t *table) addInlined(s *structType, f *ast.Field, owner *goType, into int) error {
	decl, err := t.src.named(f.Type, owner.pkg, owner.file)
	if err != nil || decl == nil {
		return fmt.Errorf("embedded field: %w", err)
	}
	inner, innerOwner, err := t.structBody(decl)
	if err != nil || inner == nil {
		return fmt.Errorf("embedded %s is not a struct: %w", decl.name, err)
	}
	number := protoNumber(fieldTag(f))
	if number == 0 || into == notInProtobuf {
		return t.addMembers(s, inner, innerOwner, notInProtobuf)
	}
	s.embeds = append(s.embeds, embed{number, into, decl.name})
	self := len(s.embeds)
	if _, err := t.addStruct(decl); err != nil {
		return err
	}
	return t.addMembers(s, inner, innerOwner, self)
}

func protoNumber(tag interface{ Get(string) string }) int {
	parts := strings.Split(tag.Get("protobuf"), ",")
	if len(parts) < 2 {
		return 0
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil {
		return 0
	}
	return n
}

func (t *table) newField(f *ast.Field, owner *goType, name, goName, options string) (*field, error) {
	tag := fieldTag(f)
	m := parseMarkers(f.Doc)
	out := &field{json: name, goName: goName, markers: m, described: describes(f.Doc), proto: protoNumber(tag), patchKey: tag.Get("patchMergeKey")}
	for _, o := range strings.Split(options, ",") {
		switch o {
		case "", "inline":
		case "omitempty":
			out.omitEmpty = true
		case "omitzero":
			out.omitZero = true
		default:
			return nil, fmt.Errorf("JSON option %q is not known", o)
		}
	}
	if p := tag.Get("patchStrategy"); p != "" {
		out.patch = strings.Split(p, ",")
	}
	switch {
	case m.has("required"):
		out.required = true
	case m.has("optional"):
	default:
		out.required = !out.omitEmpty
	}
	expr := f.Type
	if star, ok := expr.(*ast.StarExpr); ok {
		out.pointer, expr = true, star.X
	}
	var err error
	if out.typ, out.goType, err = t.resolve(expr, owner, name); err != nil {
		return nil, err
	}
	if out.def, err = t.defaultOf(m, expr, owner); err != nil {
		return nil, err
	}
	inner := out.typ
	for inner.list != nil || inner.mapOf != nil {
		if inner.list != nil {
			inner = inner.list
		} else {
			inner = inner.mapOf
		}
	}
	out.enum = t.enums[inner.enumType]
	return out, out.applyListMarkers()
}

// applyListMarkers notes how the field's list or map is merged.
func (f *field) applyListMarkers() error {
	kind := f.markers.first("listType")
	switch {
	case f.typ.list != nil && f.typ.scalar == "":
		if keys := f.markers["listMapKey"]; kind == "map" {
			if len(keys) == 0 {
				return fmt.Errorf("a map list without keys")
			}
			kind += ":" + strings.Join(keys, ",")
		} else if len(keys) > 0 {
			return fmt.Errorf("keys on a list that is no map")
		}
		f.typ.kind = kind
	case f.typ.mapOf != nil:
		if mapType := f.markers.first("mapType"); mapType == "atomic" || mapType == "granular" {
			f.typ.kind = mapType
		} else if mapType != "" {
			return fmt.Errorf("map type %q is not known", mapType)
		}
	case f.typ.scalar == "bytes" && kind == "atomic":
		f.structType = kind
	case kind != "":
		return fmt.Errorf("a list type on something else")
	}
	if f.typ.ref != nil {
		f.structType = f.markers.first("structType")
	}
	if f.structType != "" && f.structType != "atomic" && f.structType != "granular" {
		return fmt.Errorf("struct type %q is not known", f.structType)
	}
	return nil
}

var reference = regexp.MustCompile(`^ref\(([^"]+)\)$`)

// defaultOf is the declared default of a field, or of its named type.
func (t *table) defaultOf(m markers, e ast.Expr, owner *goType) (json.RawMessage, error) {
	text, home := m.first("default"), owner.pkg.path
	for text == "" {
		if _, ok := e.(*ast.Ident); !ok {
			if _, ok := e.(*ast.SelectorExpr); !ok {
				break
			}
		}
		decl, err := t.src.named(e, owner.pkg, owner.file)
		if err != nil || decl == nil {
			break
		}
		text, home, e, owner = decl.markers.first("default"), decl.pkg.path, decl.expr, decl
	}
	if text == "" {
		return nil, nil
	}
	if found := reference.FindStringSubmatch(text); found != nil {
		path, name := home, found[1]
		if i := strings.LastIndex(found[1], "."); i >= 0 {
			path, name = found[1][:i], found[1][i+1:]
		}
		v, err := t.src.constant(path, name)
		if err != nil {
			return nil, err
		}
		return json.Marshal(v)
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, fmt.Errorf("default %s: %w", text, err)
	}
	return json.Marshal(v)
}

// resolve gives a type's form in the table and its name as Go prints it, for an expression that is no pointer.
func (t *table) resolve(e ast.Expr, owner *goType, where string) (*wireType, string, error) {
	switch e := e.(type) {
	case *ast.Ident:
		if owner.pkg.types[e.Name] == nil {
			word := predeclared[e.Name]
			if word == "" {
				return nil, "", fmt.Errorf("%s: type %s is not known", where, e.Name)
			}
			goName := e.Name
			if goName == "byte" {
				goName = "uint8"
			}
			return &wireType{scalar: word}, goName, nil
		}
		return t.resolveNamed(e, owner, where)
	case *ast.SelectorExpr:
		return t.resolveNamed(e, owner, where)
	case *ast.InterfaceType:
		return &wireType{scalar: "json"}, "interface {}", nil
	case *ast.ArrayType:
		if id, ok := e.Elt.(*ast.Ident); ok && id.Name == "byte" {
			return &wireType{scalar: "bytes"}, "[]uint8", nil
		}
		inner, pointer, goName, err := t.element(e.Elt, owner, where)
		return &wireType{list: inner, pointer: pointer}, "[]" + goName, err
	case *ast.MapType:
		key, keyName, err := t.resolve(e.Key, owner, where)
		if err != nil {
			return nil, "", err
		}
		if key.scalar != "string" {
			return nil, "", fmt.Errorf("%s: a map whose keys are %s", where, keyName)
		}
		inner, pointer, goName, err := t.element(e.Value, owner, where)
		if pointer {
			return nil, "", fmt.Errorf("%s: a map of pointers", where)
		}
		return &wireType{mapOf: inner}, "map[" + keyName + "]" + goName, err
	}
	return nil, "", fmt.Errorf("%s: type %T is not known", where, e)
}

func (t *table) element(e ast.Expr, owner *goType, where string) (*wireType, bool, string, error) {
	star, pointer := e.(*ast.StarExpr)
	if pointer {
		e = star.X
	}
	inner, goName, err := t.resolve(e, owner, where)
	if pointer {
		goName = "*" + goName
	}
	return inner, pointer, goName, err
}

func (t *table) resolveNamed(e ast.Expr, owner *goType, where string) (*wireType, string, error) {
	decl, err := t.src.named(e, owner.pkg, owner.file)
	if err != nil {
		return nil, "", err
	}
	if decl.alias {
		return t.resolve(decl.expr, decl, where)
	}
	goName := decl.pkg.name + "." + decl.name
	if word := special[decl.pkg.path+"."+decl.name]; word != "" {
		return &wireType{scalar: word}, goName, nil
	}
	if body, _, err := t.structBody(decl); err != nil {
		return nil, "", err
	} else if body != nil {
		s, err := t.addStruct(decl)
		return &wireType{ref: s}, goName, err
	}
	under, _, err := t.resolve(decl.expr, decl, where)
	if err != nil {
		return nil, "", err
	}
	if decl.pkg.methods[decl.name]["UnmarshalJSON"] {
		return nil, "", fmt.Errorf("%s: %s decodes itself", where, goName)
	}
	named := *under
	named.wrapped = decl.markers.has("protobuf.nullable")
	if named.wrapped && named.list == nil {
		return nil, "", fmt.Errorf("%s: %s is wrapped in protobuf but is no list", where, goName)
	}
	if decl.markers.has("enum") {
		named.enumType = decl
	}
	return &named, goName, nil
}

// findEnums collects the constants of every `+enum` type, from all packages, since some are declared elsewhere.
func (t *table) findEnums() error {
	t.enums = map[*goType][]string{}
	for _, p := range apiPackages {
		if _, err := t.src.load(p.path); err != nil {
			return err
		}
	}
	for _, pkg := range t.src.packages {
		for _, c := range pkg.consts {
			typ := c.constType()
			if typ == nil {
				continue
			}
			if sel, ok := typ.(*ast.SelectorExpr); ok {
				path, err := importPath(sel.X.(*ast.Ident).Name, c.file)
				if err != nil || t.src.packages[path] == nil {
					continue
				}
			}
			decl, err := t.src.named(typ, pkg, c.file)
			if err != nil || decl == nil || !decl.markers.has("enum") {
				continue
			}
			if v, ok := t.src.literal(c.value, c); ok {
				if text, ok := v.(string); ok && !slices.Contains(t.enums[decl], text) {
					t.enums[decl] = append(t.enums[decl], text)
				}
			}
		}
	}
	for _, values := range t.enums {
		sort.Strings(values)
	}
	return nil
}

// addUnions notes the unions that the struct declares, as a whole or by marked members.
func (t *table) addUnions(s *structType, decl *goType) error {
	whole := decl.markers.has("union")
	u := union{goNames: map[string]string{}}
	for _, f := range s.fields {
		switch {
		case f.markers.has("unionDiscriminator"):
			u.discriminator = f.json
		case whole || f.markers.has("unionDeprecated"):
			u.members = append(u.members, f.json)
			u.goNames[f.json] = f.goName
			if strings.ToUpper(f.json[:1])+f.json[1:] != f.goName {
				return fmt.Errorf("union member %s is %s in Go, which OpenAPI cannot derive", f.json, f.goName)
			}
		}
	}
	if len(u.members) > 0 {
		s.unions = append(s.unions, u)
	}
	return nil
}
