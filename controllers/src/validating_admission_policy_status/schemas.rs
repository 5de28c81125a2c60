//! A kind's schema from the OpenAPI v3 document of its group version, with what it refers to in place of the references.

use serde_json::{Map, Value, json};

use super::type_check::GroupVersionKind;

const PREFIX: &str = "#/components/schemas/";
const KINDS: &str = "x-kubernetes-group-version-kind";

/// Where the document of a group version is served.
pub fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/openapi/v3/api/{version}") } else { format!("/openapi/v3/apis/{group}/{version}") }
}

/// The schema of a kind; none if the document does not have it, or lacks a part of it.
pub fn resolve(document: &Value, kind: &GroupVersionKind) -> Option<Value> {
    let schemas = document.pointer("/components/schemas")?.as_object()?;
    let is_kind = |named: &Value| named["group"] == kind.group && named["version"] == kind.version && named["kind"] == kind.kind;
    let (name, schema) = schemas.iter().find(|(_, schema)| schema[KINDS].as_array().is_some_and(|kinds| kinds.iter().any(is_kind)))?;
    expand(schemas, &mut vec![name], schema)
}

/// `within` are the names of the schemas around this one.
fn expand<'d>(schemas: &'d Map<String, Value>, within: &mut Vec<&'d str>, schema: &'d Value) -> Option<Value> {
    let Some(name) = reference(schema) else { return parts(schemas, within, schema) };
    if within.contains(&name) {
        // Of what is within itself nothing more is said.
        return Some(json!({ "type": "object" }));
    }
    within.push(name);
    let expanded = schemas.get(name).and_then(|named| parts(schemas, within, named));
    within.pop();
    expanded
}

/// What a schema refers to. A description beside a reference is kept by wrapping the reference.
fn reference(schema: &Value) -> Option<&str> {
    match schema["$ref"].as_str() {
        Some(path) => Some(path.strip_prefix(PREFIX).unwrap_or(path)),
        None => schema["allOf"].as_array()?.iter().find_map(reference),
    }
}

/// What types follow from, and no descriptions, defaults or rules.
fn parts<'d>(schemas: &'d Map<String, Value>, within: &mut Vec<&'d str>, schema: &'d Value) -> Option<Value> {
    let mut kept = Map::new();
    for (key, value) in schema.as_object()? {
        let value = match key.as_str() {
            "properties" => {
                let properties = value.as_object()?.iter();
                let expanded = properties.map(|(name, property)| Some((name.clone(), expand(schemas, within, property)?)));
                Value::Object(expanded.collect::<Option<_>>()?)
            }
            "items" | "additionalProperties" if value.is_object() => expand(schemas, within, value)?,
            "type" | "format" | "x-kubernetes-int-or-string" | "x-kubernetes-embedded-resource" => value.clone(),
            _ => continue,
        };
        kept.insert(key.clone(), value);
    }
    // Built-in types say it by their format.
    if schema["format"] == "int-or-string" {
        kept.insert("x-kubernetes-int-or-string".to_owned(), Value::Bool(true));
    }
    Some(Value::Object(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> GroupVersionKind {
        GroupVersionKind { group: "g".to_owned(), version: "v1".to_owned(), kind: name.to_owned() }
    }

    fn document() -> Value {
        json!({"components": {"schemas": {
            "Tree": {
                KINDS: [{"group": "g", "version": "v2", "kind": "Tree"}, {"group": "g", "version": "v1", "kind": "Tree"}],
                "type": "object", "description": "left out",
                "properties": {
                    "left": {"$ref": "#/components/schemas/Tree"},
                    "port": {"allOf": [{"$ref": "#/components/schemas/Port"}], "default": {}},
                    "leaves": {"type": "array", "items": {"$ref": "#/components/schemas/Leaf"}},
                    "named": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/Leaf"}},
                },
            },
            "Broken": {KINDS: [{"group": "g", "version": "v1", "kind": "Broken"}], "properties": {"x": {"$ref": "#/components/schemas/None"}}},
            "Port": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
            "Leaf": {"type": "object", "properties": {"size": {"type": "integer", "format": "int32"}}},
        }}})
    }

    #[test]
    fn references_are_replaced_by_what_they_name() {
        let leaf = json!({"type": "object", "properties": {"size": {"type": "integer", "format": "int32"}}});
        let expected = json!({"type": "object", "properties": {
            "left": {"type": "object"},
            "port": {"format": "int-or-string", "x-kubernetes-int-or-string": true},
            "leaves": {"type": "array", "items": leaf},
            "named": {"type": "object", "additionalProperties": leaf},
        }});
        assert_eq!(resolve(&document(), &kind("Tree")), Some(expected));
    }

    #[test]
    fn a_kind_that_is_not_there_or_not_whole_has_no_schema() {
        for name in ["Leaf", "None", "Broken"] {
            assert_eq!(resolve(&document(), &kind(name)), None, "{name}");
        }
        assert_eq!(resolve(&Value::Null, &kind("Tree")), None);
    }

    #[test]
    fn the_core_group_has_a_root_of_its_own() {
        assert_eq!(document_path("", "v1"), "/openapi/v3/api/v1");
        assert_eq!(document_path("apps", "v1"), "/openapi/v3/apis/apps/v1");
    }
}
