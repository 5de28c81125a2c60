//! Pruning and defaulting by a schema.
//!
//! Depth of recursion is that of the object, which the decoder bounds.

use serde_json::{Map, Value};

use super::schema::{Additional, Schema};

/// Fields that every object has, of which no schema decides.
const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes the fields of a whole object that the schema does not have, and returns their paths, sorted.
pub fn prune(schema: &Schema, object: &mut Value) -> Vec<String> {
    let mut walk = Walk { unknown: Vec::new() };
    walk.value(Some(schema), true, object, "");
    walk.unknown.sort();
    walk.unknown
}

struct Walk {
    unknown: Vec<String>,
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl Walk {
    fn value(&mut self, schema: Option<&Schema>, embedded: bool, value: &mut Value, path: &str) {
        if let Some(schema) = schema.filter(|s| s.preserve_unknown) {
            return self.preserved(schema, embedded, value, path);
        }
        match value {
            Value::Object(map) => self.object(schema, embedded, map, path),
            Value::Array(items) => {
                let schema = schema.and_then(|s| s.items.as_deref());
                for (i, item) in items.iter_mut().enumerate() {
                    self.value(schema, schema.is_some_and(|s| s.embedded), item, &format!("{path}[{i}]"));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, schema: Option<&Schema>, embedded: bool, map: &mut Map<String, Value>, path: &str) {
        let mut dropped = Vec::new();
        for (key, value) in map.iter_mut() {
            if embedded && META_FIELDS.contains(&key.as_str()) {
                continue;
            }
            let member = schema.and_then(|s| s.member(key));
            let is_known = member.is_some() || schema.is_some_and(|s| !matches!(s.additional, Additional::None));
            if is_known {
                self.value(member, member.is_some_and(|s| s.embedded), value, &join(path, key));
            } else {
                if !path.is_empty() || !META_FIELDS.contains(&key.as_str()) {
                    self.unknown.push(join(path, key));
                }
                dropped.push(key.clone());
            }
        }
        map.retain(|key, _| !dropped.contains(key));
    }

    /// Inside of what keeps its unknown fields, those that are known are pruned all the same.
    fn preserved(&mut self, schema: &Schema, embedded: bool, value: &mut Value, path: &str) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    if embedded && META_FIELDS.contains(&key.as_str()) {
                        continue;
                    }
                    let member = schema.member(key);
                    if member.is_some() || !matches!(schema.additional, Additional::None) {
                        self.value(member, member.is_some_and(|s| s.embedded), value, &join(path, key));
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = schema.items.as_deref() else { return };
                for (i, item) in items.iter_mut().enumerate() {
                    self.preserved(schema, schema.embedded, item, &format!("{path}[{i}]"));
                }
            }
            _ => {}
        }
    }
}

fn is_refused_null(value: &Value, schema: &Schema) -> bool {
    value.is_null() && !schema.nullable
}

/// Removes nulls of fields that cannot be null and have no default to replace them.
pub fn drop_nulls(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !schema.member(key).is_some_and(|s| is_refused_null(value, s) && s.default.is_none()));
            for (key, value) in map.iter_mut() {
                if let Some(member) = schema.member(key) {
                    drop_nulls(member, value);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else { return };
            items.iter_mut().for_each(|item| drop_nulls(schema, item));
        }
        _ => {}
    }
}

/// Sets the defaults of what is absent, or null where that is not allowed.
pub fn default(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                if map.get(name).is_none_or(|value| is_refused_null(value, property)) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (key, value) in map.iter_mut() {
                if let Some(member) = schema.member(key) {
                    fill(member, value);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else { return };
            items.iter_mut().for_each(|item| fill(schema, item));
        }
        _ => {}
    }
}

fn fill(schema: &Schema, value: &mut Value) {
    if is_refused_null(value, schema)
        && let Some(default) = &schema.default
    {
        *value = default.clone();
    }
    default(schema, value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema::read(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string", "default": "x"}, "n": {"type": "string", "nullable": true, "default": "y"}, "p": {"type": "string"},
            "nested": {"type": "object", "default": {}, "properties": {"d": {"type": "integer", "default": 1}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"k": {"type": "string"}}}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "string"}}}},
        }}}}))
    }

    #[test]
    fn unknown_fields_are_removed_and_named() {
        let mut object = json!({"apiVersion": "v", "metadata": {"x": 1}, "top": 1,
            "spec": {"p": "q", "z": 1, "free": {"any": [1], "known": {"k": "v", "u": 1}}, "list": [{"id": "a", "v": 1}]}});
        assert_eq!(prune(&schema(), &mut object), ["spec.free.known.u", "spec.list[0].v", "spec.z", "top"]);
        let expected = json!({"apiVersion": "v", "metadata": {"x": 1},
            "spec": {"p": "q", "free": {"any": [1], "known": {"k": "v"}}, "list": [{"id": "a"}]}});
        assert_eq!(object, expected);
    }

    #[test]
    fn nulls_become_defaults_or_go() {
        let mut object = json!({"spec": {"a": null, "n": null, "p": null}});
        drop_nulls(&schema(), &mut object);
        default(&schema(), &mut object);
        assert_eq!(object, json!({"spec": {"a": "x", "n": null, "nested": {"d": 1}}}));
    }
}
