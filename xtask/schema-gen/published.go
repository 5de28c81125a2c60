package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
)

// published is the part of an OpenAPI schema that the table must agree with.
type published struct {
	Description string
	Properties  map[string]published
	Required    []string
	Default     any
	ListType    string                                  `json:"x-kubernetes-list-type"`
	ListKeys    []string                                `json:"x-kubernetes-list-map-keys"`
	MapType     string                                  `json:"x-kubernetes-map-type"`
	Patch       string                                  `json:"x-kubernetes-patch-strategy"`
	PatchKey    string                                  `json:"x-kubernetes-patch-merge-key"`
	Kinds       []struct{ Group, Version, Kind string } `json:"x-kubernetes-group-version-kind"`
	Unions      []struct {
		Discriminator string
		Fields        map[string]string `json:"fields-to-discriminateBy"`
	} `json:"x-kubernetes-unions"`
}

// Definitions whose kinds are those of the group that a document is about.
var inEveryGroup = []string{"DeleteOptions", "WatchEvent"}

// Definitions that are words in the table.
var notStructs = []string{
	"Quantity", "FieldsV1", "MicroTime", "Patch", "Time", "RawExtension", "IntOrString", "JSON",
	"JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray",
}

// compareWithPublished fails on any difference between the table and the published documents.
func compareWithPublished(t *table, kubernetes string) error {
	files, err := filepath.Glob(filepath.Join(kubernetes, "api/openapi-spec/v3/*.json"))
	if err != nil {
		return err
	}
	var wrong []error
	seen := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var doc struct {
			Components struct{ Schemas map[string]published }
		}
		if err := json.Unmarshal(text, &doc); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for name, schema := range doc.Components.Schemas {
			short := name[strings.LastIndex(name, ".")+1:]
			pkg := name[:len(name)-len(short)]
			if seen[name] || strings.Contains(pkg, "alpha") || strings.Contains(pkg, "beta") || slices.Contains(notStructs, short) {
				continue
			}
			seen[name] = true
			s := t.structs[name]
			if s == nil {
				wrong = append(wrong, fmt.Errorf("%s is published but not in the table", name))
				continue
			}
			for _, d := range s.differences(schema, slices.Contains(inEveryGroup, short)) {
				wrong = append(wrong, fmt.Errorf("%s: %s", name, d))
			}
		}
	}
	if len(seen) < 500 {
		wrong = append(wrong, fmt.Errorf("only %d definitions are published", len(seen)))
	}
	return errors.Join(wrong...)
}

func (s *structType) differences(p published, everyGroup bool) []string {
	var out []string
	differ := func(what string, ours, theirs any) {
		if !reflect.DeepEqual(ours, theirs) {
			out = append(out, fmt.Sprintf("%s is %v here and %v published", what, ours, theirs))
		}
	}
	var required []string
	names := map[string]bool{}
	for _, f := range s.fields {
		names[f.json] = true
		if f.required {
			required = append(required, f.json)
		}
		if q, ok := p.Properties[f.json]; !ok {
			out = append(out, f.json+" is not published")
		} else {
			f.compare(q, func(what string, ours, theirs any) { differ(f.json+"'s "+what, ours, theirs) })
		}
	}
	for name := range p.Properties {
		if !names[name] {
			out = append(out, name+" is published but not in the table")
		}
	}
	differ("required", required, p.Required)
	differ("map type", map[bool]string{true: "atomic"}[s.atomic], p.MapType)
	var kinds []string
	for _, k := range p.Kinds {
		kinds = append(kinds, k.Group+"/"+k.Version+"/"+k.Kind)
	}
	if !everyGroup {
		ours := slices.Clone(s.kinds)
		sort.Strings(ours)
		sort.Strings(kinds)
		differ("kinds", ours, kinds)
	}
	differ("number of unions", len(s.unions), len(p.Unions))
	for i, u := range s.unions {
		if i < len(p.Unions) {
			differ("discriminator", u.discriminator, p.Unions[i].Discriminator)
			differ("union", u.goNames, p.Unions[i].Fields)
		}
	}
	return out
}

func (f *field) compare(p published, differ func(string, any, any)) {
	listType, keys, mapType := "", []string(nil), f.structType
	if f.typ.list != nil {
		kind, rest, _ := strings.Cut(f.typ.kind, ":")
		if listType = kind; rest != "" {
			keys = strings.Split(rest, ",")
		}
	} else if f.typ.mapOf != nil {
		mapType = f.typ.kind
	}
	if f.typ.scalar == "bytes" {
		listType, mapType = mapType, ""
	}
	differ("list type", listType, p.ListType)
	differ("list keys", keys, p.ListKeys)
	differ("map type", mapType, p.MapType)
	differ("patch strategy", strings.Join(f.patch, ","), p.Patch)
	differ("patch merge key", f.patchKey, p.PatchKey)
	differ("default", f.openAPIDefault(), p.Default)
	differ("being described", f.described, p.Description != "")
}

// openAPIDefault is the declared default, or the zero value of what is always written.
func (f *field) openAPIDefault() any {
	var v any
	switch {
	case f.def != nil:
		if err := json.Unmarshal(f.def, &v); err != nil {
			panic(err)
		}
	case f.pointer:
	case f.typ.ref != nil:
		v = map[string]any{}
	case f.omitEmpty:
	case f.typ.scalar == "string":
		v = ""
	case f.typ.scalar == "bool":
		v = false
	case f.typ.scalar == "int32", f.typ.scalar == "int64", f.typ.scalar == "float", strings.HasPrefix(f.typ.scalar, "uint"):
		v = 0.0
	}
	return v
}
