//! The values of defaults: they have no fields that the schema would prune.

use apimachinery::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::internal::present;
use super::traverse::{MAX_DEPTH, sorted_entries};
use crate::registry::read::bool_at;

const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// All defaults of a structural schema.
pub fn validate(schema: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    validate_to(schema, true, false, path, &mut errors);
    errors
}

/// Inside of what is every object's, other rules hold than those of the schema.
fn validate_to(schema: &Value, is_root: bool, inside_meta: bool, path: &Path<'_>, errors: &mut ErrorList) {
    let embedded = is_root || bool_at(schema, "/x-kubernetes-embedded-resource");
    let inside_meta = inside_meta && !embedded;
    if let Some(default) = present(schema, "default")
        && !inside_meta
        && has_unknown(default, Some(schema), embedded)
    {
        errors.push(Error::invalid(&path.child("default"), default.clone(), "must not have unknown fields"));
    }
    if let Some(items) = present(schema, "items") {
        validate_to(items, false, inside_meta, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, property) in sorted_entries(schema, "properties") {
        let inside_meta = inside_meta || embedded && META_FIELDS.contains(&name);
        validate_to(property, false, inside_meta, &properties.key(name), errors);
    }
}

/// Whether a schema has a default that would be pruned.
pub fn any_unpruned(schema: &Value) -> bool {
    !validate(schema, &Path::ROOT).is_empty()
}

/// Whether a value has a field that its schema does not know. Without a schema nothing is known.
fn has_unknown(value: &Value, schema: Option<&Value>, is_object: bool) -> bool {
    has_unknown_to(value, schema, is_object, MAX_DEPTH)
}

fn has_unknown_to(value: &Value, schema: Option<&Value>, is_object: bool, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return true };
    let preserve = schema.is_some_and(|schema| bool_at(schema, "/x-kubernetes-preserve-unknown-fields"));
    match value {
        Value::Object(fields) => fields.iter().any(|(name, field)| {
            let Some(schema) = schema else { return true };
            if is_object && META_FIELDS.contains(&name.as_str()) {
                return false;
            }
            if let Some(property) = present(schema, "properties").and_then(|properties| present(properties, name)) {
                return has_unknown_to(field, Some(property), is_embedded(property), depth);
            }
            match present(schema, "additionalProperties") {
                Some(any) if any.is_object() => has_unknown_to(field, Some(any), is_embedded(any), depth),
                Some(_) => has_unknown_to(field, None, false, depth),
                None => !preserve,
            }
        }),
        Value::Array(items) => {
            let schema = schema.and_then(|schema| present(schema, "items"));
            // What is preserved is preserved in items that no schema describes.
            (schema.is_some() || !preserve) && items.iter().any(|item| has_unknown_to(item, schema, schema.is_some_and(is_embedded), depth))
        }
        _ => false,
    }
}

fn is_embedded(schema: &Value) -> bool {
    bool_at(schema, "/x-kubernetes-embedded-resource")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_have_known_fields_only() {
        let check = |property: Value| -> Vec<String> {
            let schema = json!({"type": "object", "properties": {"a": property}});
            validate(&schema, &Path::new("s")).iter().map(ToString::to_string).collect()
        };
        let object = |default: Value| json!({"type": "object", "properties": {"x": {"type": "string"}}, "default": default});
        assert!(check(object(json!({"x": "1"}))).is_empty());
        assert_eq!(check(object(json!({"y": 1}))), [r#"s.properties[a].default: Invalid value: {"y":1}: must not have unknown fields"#]);
        assert!(check(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "default": {"y": [{"z": 1}]}})).is_empty());
        assert!(check(json!({"type": "object", "additionalProperties": {"type": "string"}, "default": {"y": "1"}})).is_empty());
    }
}
