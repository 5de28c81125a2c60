#!/usr/bin/env python3
"""Writes internal_form.txt: the field names of upstream's internal types, which messages about whole structs show.

usage: internal_form.py KUBERNETES API > internal_form.txt
  KUBERNETES  the module k8s.io/kubernetes, API the module k8s.io/api of the same minor version

One line per struct type: its name, then each field as GoName=json:shape in the order of declaration. Shapes:
  s n b q   a string, number, boolean or quantity that is no pointer (absent: "", 0, false, "0")
  p         anything whose absence shows as null and whose value shows as it is
  S:T P:T L:T M:T  a struct T, a pointer to one, a list or a map of them
  E:T       an embedded struct T, whose fields stand among its parent's, in JSON as well
  O         embedded ObjectMeta: the fields of `metadata`;  T embedded TypeMeta
"""
import re
import sys

KUBERNETES, API = sys.argv[1:3]
ROOTS = [("core", "PodTemplateSpec"), ("core", "PersistentVolumeClaim"), ("batch", "PodFailurePolicy"), ("batch", "SuccessPolicy")]


def parse(path):
    """The struct types of a file (name -> lines of fields) and its other named types (name -> underlying)."""
    structs, named, current = {}, {}, None
    for line in open(path):
        line = line.split("//")[0].rstrip()
        if m := re.match(r"type (\w+) struct \{", line):
            current = structs.setdefault(m[1], [])
        elif line == "}":
            current = None
        elif current is not None and line.strip():
            current.append(line.strip())
        elif m := re.match(r"type (\w+) (\S+)$", line):
            named[m[1]] = m[2]
    return structs, named


FILES = {g: parse(f"{KUBERNETES}/pkg/apis/{g}/types.go") for g in ("core", "batch")}
OUTSIDE = {g: parse(f"{API}/{g}/v1/types.go")[0] for g in ("core", "batch")}
done, queue = {}, list(ROOTS)


def fields(lines):
    for line in lines:
        m = re.match(r"^(?:(\w+)\s+)?([\[\]*\w.]+)(?:\s+`(.*)`)?$", line)
        if not m:
            raise SystemExit(f"cannot read {line!r}")
        yield m[1], m[2], m[3] or ""


def shape(group, kind):
    """The shape of a Go type, queueing the structs that it names."""
    for prefix, code in (("[]", "L"), ("*", "P"), ("map[", "M")):
        if kind.startswith(prefix):
            inner = kind.split("]", 1)[1] if code == "M" else kind[len(prefix):]
            found = struct(group, inner)
            return f"{code}:{found}" if found else "p"
    if found := struct(group, kind):
        return f"S:{found}"
    package, _, name = kind.rpartition(".")
    package = {"api": "core"}.get(package, package or group)
    while package in FILES and name in FILES[package][1]:
        name = FILES[package][1][name]
        if "." in name or name.startswith(("[", "map[", "*")):
            return shape(package, name)
    if name == "string" or (package, name) == ("types", "UID"):
        return "s"
    if name == "bool":
        return "b"
    if re.fullmatch(r"u?int\d*", name):
        return "n"
    return {"resource.Quantity": "q", "intstr.IntOrString": "n"}.get(kind, "p")


def struct(group, kind):
    package, _, name = kind.rpartition(".")
    package = {"api": "core"}.get(package, package or group)
    if package in FILES and name in FILES[package][0]:
        queue.append((package, name))
        return name
    return None


while queue:
    group, name = queue.pop(0)
    if name in done:
        continue
    done[name] = out = []
    json = {}
    for field, kind, tag in fields(OUTSIDE[group].get(name, [])):
        if m := re.search(r'json:"([^,"]*)', tag):
            json[field or kind.rpartition(".")[2]] = m[1]
    for field, kind, _ in fields(FILES[group][0][name]):
        bare = kind.rpartition(".")[2]
        if field is None:
            out.append({"ObjectMeta": "O", "TypeMeta": "T"}.get(bare) or f"E:{struct(group, kind)}")
            continue
        out.append(f"{field}={json.get(field, '')}:{shape(group, kind)}")

for name in sorted(done):
    print(name, *done[name])
