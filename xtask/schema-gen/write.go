package main

import (
	"bytes"
	"fmt"
	"strings"
)

// text is the table's file. Its grammar is documented where it is read, in apimachinery/src/schema/table.rs.
func (t *table) text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "kubernetes\t%s\n", kubernetesVersion)
	for _, s := range t.order {
		s.write(&b)
	}
	return b.Bytes()
}

func (s *structType) write(b *bytes.Buffer) {
	fmt.Fprintf(b, "=\t%s", s.name)
	if s.atomic {
		b.WriteString("\tatomic")
	}
	for _, k := range s.kinds {
		fmt.Fprintf(b, "\tkind=%s", k)
	}
	for _, u := range s.unions {
		fmt.Fprintf(b, "\tunion=%s:%s", u.discriminator, strings.Join(u.members, ","))
	}
	for _, e := range s.embeds {
		fmt.Fprintf(b, "\tembed=%d:%s", e.number, e.name)
		if e.parent > 0 {
			fmt.Fprintf(b, ":%d", e.parent-1)
		}
	}
	b.WriteByte('\n')
	pkg := s.name[:strings.LastIndex(s.name, ".")]
	for _, f := range s.fields {
		f.write(b, pkg)
	}
}

func (f *field) write(b *bytes.Buffer, pkg string) {
	flags := ""
	for _, flag := range []struct {
		on   bool
		name string
	}{{f.pointer, "p"}, {f.omitEmpty, "e"}, {f.omitZero, "z"}, {f.required, "r"}, {f.described, "d"}} {
		if flag.on {
			flags += flag.name
		}
	}
	number := fmt.Sprint(f.proto)
	if f.embed > 0 {
		number = fmt.Sprintf("%d.%d", f.embed-1, f.proto)
	}
	fmt.Fprintf(b, "%s\t%s\t%s\t%s\t%s", f.json, f.typ.text(pkg), f.goType, flags, number)
	if len(f.patch) > 0 || f.patchKey != "" {
		fmt.Fprintf(b, "\tpatch=%s:%s", strings.Join(f.patch, ","), f.patchKey)
	}
	if f.structType != "" {
		fmt.Fprintf(b, "\tstruct=%s", f.structType)
	}
	if len(f.enum) > 0 {
		fmt.Fprintf(b, "\tenum=%s", strings.Join(f.enum, "|"))
	}
	if f.def != nil {
		fmt.Fprintf(b, "\tdefault=%s", f.def)
	}
	b.WriteByte('\n')
}

func (w *wireType) text(pkg string) string {
	switch {
	case w.list != nil:
		marks := ""
		if w.wrapped {
			marks += "!"
		}
		if w.pointer {
			marks += "*"
		}
		return "[" + w.kind + "]" + marks + w.list.text(pkg)
	case w.mapOf != nil:
		return "{" + w.kind + "}" + w.mapOf.text(pkg)
	case w.ref != nil:
		if rest, ok := strings.CutPrefix(w.ref.name, pkg+"."); ok {
			return "." + rest
		}
		return w.ref.name
	}
	return w.scalar
}
