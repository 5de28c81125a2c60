//! What OpenAPI v3 says of kinds, with all references replaced by what they refer to.

use std::collections::{BTreeMap, BTreeSet};

use kube::Client;
use serde_json::{Map, Value, json};

use super::check::Kind;

const PREFIX: &str = "#/components/schemas/";

/// The schemas of these kinds, but for those that have none.
pub async fn read(client: &Client, kinds: impl Iterator<Item = &Kind>) -> Result<BTreeMap<Kind, Value>, kube::Error> {
    let mut by_version: BTreeMap<String, Vec<&Kind>> = BTreeMap::new();
    for kind in kinds {
        by_version.entry(document(kind)).or_default().push(kind);
    }
    let mut found = BTreeMap::new();
    for (path, kinds) in by_version {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        let document = match client.request::<Value>(request).await {
            Ok(document) => document,
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            Err(error) => return Err(error),
        };
        let Some(schemas) = document.pointer("/components/schemas").and_then(Value::as_object) else { continue };
        for kind in kinds {
            found.extend(schema_of(schemas, kind).map(|schema| (kind.clone(), schema)));
        }
    }
    Ok(found)
}

/// Where the document of a kind's group and version is.
fn document(kind: &Kind) -> String {
    match &*kind.group {
        "" => format!("/openapi/v3/api/{}", kind.version),
        group => format!("/openapi/v3/apis/{group}/{}", kind.version),
    }
}

fn schema_of(schemas: &Map<String, Value>, kind: &Kind) -> Option<Value> {
    let is_it = |named: &Value| {
        let text = |field: &str| named[field].as_str().unwrap_or("");
        (text("group"), text("version"), text("kind")) == (&kind.group, &kind.version, &kind.kind)
    };
    let named = |schema: &Value| schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|names| names.iter().any(is_it));
    let (name, schema) = schemas.iter().find(|(_, schema)| named(schema))?;
    resolve(schemas, schema, &mut BTreeSet::from([name.as_str()]))
}

/// The schema with its references replaced; none if one leads nowhere. A type within itself is an object of which nothing is known.
fn resolve<'s>(schemas: &'s Map<String, Value>, schema: &'s Value, around: &mut BTreeSet<&'s str>) -> Option<Value> {
    if let Some(name) = reference(schema) {
        if !around.insert(name) {
            return Some(json!({ "type": "object" }));
        }
        let resolved = inner(schemas, schemas.get(name)?, around);
        around.remove(name);
        return resolved;
    }
    inner(schemas, schema, around)
}

fn inner<'s>(schemas: &'s Map<String, Value>, schema: &'s Value, around: &mut BTreeSet<&'s str>) -> Option<Value> {
    let Some(members) = schema.as_object() else { return Some(schema.clone()) };
    let mut resolved = Map::new();
    for (name, member) in members {
        let member = match (name.as_str(), member) {
            ("properties", Value::Object(properties)) => {
                let mut all = Map::new();
                for (name, property) in properties {
                    all.insert(name.clone(), resolve(schemas, property, around)?);
                }
                Value::Object(all)
            }
            ("additionalProperties" | "items", Value::Object(_)) => resolve(schemas, member, around)?,
            // Nobody reads these, and there are many.
            ("description", _) => continue,
            _ => member.clone(),
        };
        resolved.insert(name.clone(), member);
    }
    // Built-in kinds say it by a format, custom ones by a word of its own.
    if resolved.get("format").is_some_and(|format| format == "int-or-string") {
        resolved.insert("x-kubernetes-int-or-string".to_owned(), true.into());
    }
    Some(Value::Object(resolved))
}

/// The name that a schema refers to, also where `allOf` wraps the reference for the sake of a description.
fn reference(schema: &Value) -> Option<&str> {
    let own = schema.get("$ref").and_then(Value::as_str);
    let wrapped = || schema.get("allOf")?.as_array()?.iter().find_map(reference);
    own.map(|text| text.trim_start_matches(PREFIX)).or_else(wrapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_circles_end() {
        let schemas = json!({
            "g.A": {
                "type": "object",
                "description": "long",
                "properties": {
                    "one": {"allOf": [{"$ref": "#/components/schemas/g.B"}], "description": "a b", "default": {}},
                    "many": {"type": "array", "items": {"$ref": "#/components/schemas/g.B"}},
                    "either": {"$ref": "#/components/schemas/g.D"},
                    "named": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/g.C"}},
                },
                "x-kubernetes-group-version-kind": [{"group": "g", "version": "v1", "kind": "A"}],
            },
            "g.B": {"type": "object", "properties": {"own": {"$ref": "#/components/schemas/g.B"}, "text": {"type": "string"}}},
            "g.C": {"type": "integer"},
            "g.D": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
        });
        let kind = |name: &str| Kind { group: "g".to_owned(), version: "v1".to_owned(), kind: name.to_owned() };
        let schemas = schemas.as_object().unwrap();
        let b = json!({"type": "object", "properties": {"own": {"type": "object"}, "text": {"type": "string"}}});
        let found = schema_of(schemas, &kind("A")).unwrap();
        assert_eq!(found["properties"]["one"], b);
        assert_eq!(found["properties"]["many"], json!({"type": "array", "items": b}));
        assert_eq!(found["properties"]["named"], json!({"type": "object", "additionalProperties": {"type": "integer"}}));
        assert_eq!(found["properties"]["either"]["x-kubernetes-int-or-string"], true);
        assert_eq!(found.get("description"), None);
        assert_eq!(schema_of(schemas, &kind("B")), None);
    }
}
