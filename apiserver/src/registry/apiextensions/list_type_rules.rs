//! How lists and maps are merged: `x-kubernetes-list-type`, `x-kubernetes-list-map-keys`, `x-kubernetes-map-type`.

use apimachinery::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::internal::{present, shown_items};
use crate::registry::read::{bool_at, list_at, str_at};

const LIST_TYPE: &str = "x-kubernetes-list-type";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const MAP_KEYS: &str = "x-kubernetes-list-map-keys";
const LIST_TYPES: [&str; 3] = ["atomic", "set", "map"];
const MAP_TYPES: [&str; 2] = ["atomic", "granular"];

/// The types and keys of one schema; `atomic_sets` wants the items of sets to be one value each.
pub fn validate(schema: &Value, atomic_sets: bool, path: &Path<'_>) -> ErrorList {
    let (list_type, map_type) = (text(schema, LIST_TYPE), text(schema, MAP_TYPE));
    let mut errors = ErrorList::new();
    if map_type.is_some() {
        errors.extend(require_type(schema, "object", MAP_TYPE, path));
    }
    if let Some(kind) = map_type.filter(|kind| !MAP_TYPES.contains(kind)) {
        errors.push(Error::not_supported(&path.child(MAP_TYPE), kind, &MAP_TYPES));
    }
    if list_type.is_some() && str_at(schema, "/type") != "array" {
        errors.extend(require_type(schema, "array", LIST_TYPE, path));
    } else if atomic_sets && let Some(field) = item_that_is_not_atomic(schema) {
        // Upstream shows the items' list type in either case.
        let shown = list_items(schema).and_then(|items| present(items, LIST_TYPE)).cloned().unwrap_or(Value::Null);
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        errors.push(Error::invalid(&path.child("items").child(field), shown, detail));
    }
    if let Some(kind) = list_type.filter(|kind| !LIST_TYPES.contains(kind)) {
        errors.push(Error::not_supported(&path.child(LIST_TYPE), kind, &LIST_TYPES));
    }
    if !list_at(schema, "/x-kubernetes-list-map-keys").is_empty() && list_type != Some("map") {
        let (path, detail) = (path.child(LIST_TYPE), "must be map if x-kubernetes-list-map-keys is non-empty");
        errors.push(list_type.map_or_else(|| Error::required(&path, detail), |kind| Error::invalid(&path, kind, detail)));
    }
    if list_type == Some("map") {
        errors.extend(validate_map(schema, path));
    }
    errors
}

fn text<'a>(schema: &'a Value, field: &str) -> Option<&'a str> {
    schema.get(field).and_then(Value::as_str)
}

/// The one schema of all items.
fn list_items(schema: &Value) -> Option<&Value> {
    present(schema, "items").filter(|items| items.is_object())
}

fn require_type(schema: &Value, wanted: &str, because: &str, path: &Path<'_>) -> Option<Error> {
    let (kind, path) = (str_at(schema, "/type"), path.child("type"));
    let detail = format!("must be {wanted} if {because} is specified");
    match kind {
        "" => Some(Error::required(&path, detail)),
        kind if kind == wanted => None,
        kind => Some(Error::invalid(&path, kind, detail)),
    }
}

/// The field that makes the items of a set be more than one value, if they are.
pub fn item_that_is_not_atomic(schema: &Value) -> Option<&'static str> {
    if text(schema, LIST_TYPE) != Some("set") {
        return None;
    }
    let items = list_items(schema)?;
    match str_at(items, "/type") {
        "array" if text(items, LIST_TYPE).is_some_and(|kind| kind != "atomic") => Some(LIST_TYPE),
        "object" if text(items, MAP_TYPE) != Some("atomic") => Some(MAP_TYPE),
        _ => None,
    }
}

fn validate_map(schema: &Value, path: &Path<'_>) -> ErrorList {
    let keys = list_at(schema, "/x-kubernetes-list-map-keys");
    let (keys_path, items_path) = (path.child(MAP_KEYS), path.child("items"));
    let mut errors = ErrorList::new();
    if keys.is_empty() {
        errors.push(Error::required(&keys_path, "must not be empty if x-kubernetes-list-type is map"));
    }
    // One that is there and null has been something that is no schema.
    let Some(items) = schema.get("items") else {
        errors.push(Error::required(&items_path, "must have a schema if x-kubernetes-list-type is map"));
        return errors;
    };
    if !items.is_object() {
        let detail = "must only have a single schema if x-kubernetes-list-type is map";
        let shown = if items.is_null() { serde_json::json!({"Schema": null, "JSONSchemas": null}) } else { shown_items(items) };
        errors.push(Error::invalid(&items_path, shown, detail));
        return errors;
    }
    let kind = str_at(items, "/type");
    if kind != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(Error::invalid(&items_path.child("type"), kind, detail));
        return errors;
    }
    let shown = || Value::Array(keys.to_vec());
    let properties_path = items_path.child("properties");
    for (i, key) in keys.iter().enumerate() {
        let name = str_at(key, "");
        match present(items, "properties").and_then(|properties| present(properties, name)) {
            None => errors.push(Error::invalid(&keys_path, shown(), "entries must all be names of item properties")),
            Some(property) if matches!(str_at(property, "/type"), "array" | "object") => {
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.push(Error::invalid(&properties_path.key(name).child("type"), kind, detail));
            }
            Some(_) => {}
        }
        if keys[..i].contains(key) {
            errors.push(Error::invalid(&keys_path, shown(), "must not contain duplicate entries"));
        }
    }
    errors
}

/// Items of sets and maps are never null, and the keys of maps are always there.
pub fn validate_presence(schema: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (Some(list_type), Some(items)) = (text(schema, LIST_TYPE).filter(|kind| matches!(*kind, "set" | "map")), list_items(schema)) else {
        return errors;
    };
    let items_path = path.child("items");
    if bool_at(items, "/nullable") {
        errors.push(Error::forbidden(
            &items_path.child("nullable"),
            format!("cannot be nullable when x-kubernetes-list-type is {list_type}"),
        ));
    }
    if list_type != "map" {
        return errors;
    }
    let properties_path = items_path.child("properties");
    for key in list_at(schema, "/x-kubernetes-list-map-keys") {
        let name = str_at(key, "");
        let Some(property) = present(items, "properties").and_then(|properties| present(properties, name)) else { continue };
        let path = properties_path.key(name);
        if !list_at(items, "/required").contains(key) && present(property, "default").is_none() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(Error::required(&path.child("default"), detail));
        }
        if bool_at(property, "/nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(Error::forbidden(&path.child("nullable"), detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: Value) -> Vec<String> {
        let path = Path::new("s");
        let errors = validate(&schema, true, &path).into_iter().chain(validate_presence(&schema, &path));
        errors.map(|error| error.to_string()).collect()
    }

    #[test]
    fn maps_have_keys_that_are_there() {
        let list =
            |items: Value| json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": items});
        assert!(check(list(json!({"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}))).is_empty());
        assert_eq!(
            check(list(json!({"type": "object", "properties": {"k": {"type": "string", "nullable": true}}}))),
            [
                "s.items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                "s.items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            ]
        );
        assert_eq!(
            check(list(json!({"type": "object"}))),
            [r#"s.x-kubernetes-list-map-keys: Invalid value: ["k"]: entries must all be names of item properties"#]
        );
        assert_eq!(
            check(json!({"type": "array", "x-kubernetes-list-map-keys": ["k"]})),
            ["s.x-kubernetes-list-type: Required value: must be map if x-kubernetes-list-map-keys is non-empty"]
        );
    }

    #[test]
    fn items_of_sets_are_one_value_each() {
        assert_eq!(
            check(json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}})),
            ["s.items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set"]
        );
        assert_eq!(
            check(json!({"type": "string", "x-kubernetes-list-type": "x"})),
            [
                r#"s.type: Invalid value: "string": must be array if x-kubernetes-list-type is specified"#,
                r#"s.x-kubernetes-list-type: Unsupported value: "x": supported values: "atomic", "set", "map""#,
            ]
        );
    }
}
