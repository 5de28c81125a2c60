//! Structural schemas: every field has one type, said in one place, outside of `allOf`, `anyOf`, `oneOf` and `not`.

use apimachinery::field::{Error, ErrorList, Path};
use serde_json::{Map, Value, json};

use super::internal::present;
use super::pattern;
use super::traverse::{MAX_DEPTH, sorted_entries};
use crate::registry::read::{bool_at, str_at};

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

/// Why a schema cannot even be read as a structural one.
pub fn problem(schema: &Value) -> Option<String> {
    problem_to(schema, MAX_DEPTH)
}

fn problem_to(schema: &Value, depth: usize) -> Option<String> {
    let Some(depth) = depth.checked_sub(1) else { return Some("OpenAPIV3Schema is nested too deeply".to_owned()) };
    let filled = |field: &str| present(schema, field).is_some_and(|value| value.as_object().is_none_or(|map| !map.is_empty()));
    let text = |field: &str| schema.get(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    let unsupported = [
        ("id", text("id")),
        ("schema", text("$schema")),
        ("$ref", text("$ref")),
        ("patternProperties", filled("patternProperties")),
        ("dependencies", filled("dependencies")),
        ("additionalItems", present(schema, "additionalItems").is_some()),
        ("definitions", filled("definitions")),
    ];
    if let Some((field, _)) = unsupported.iter().find(|(_, is_set)| *is_set) {
        return Some(format!("OpenAPIV3Schema '{field}' is not supported"));
    }
    let junctors = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|field| list(schema, field));
    if let Some(problem) = present(schema, "not").into_iter().chain(junctors).find_map(|inner| problem_to(inner, depth)) {
        return Some(problem);
    }
    if present(schema, PRESERVE) == Some(&Value::Bool(false)) {
        return Some(format!("internal error: '{PRESERVE}' must be true or undefined"));
    }
    if !list(schema, "items").is_empty() {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
    }
    let items = present(schema, "items").filter(|items| items.is_object());
    let properties = sorted_entries(schema, "properties").into_iter().map(|(_, property)| property);
    let additional = present(schema, "additionalProperties").filter(|any| any.is_object());
    items.into_iter().chain(properties).chain(additional).find_map(|inner| problem_to(inner, depth))
}

fn list<'a>(schema: &'a Value, field: &str) -> &'a [Value] {
    schema.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// All errors of a schema that can be read, sorted by their text.
pub fn validate(schema: &Value, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    invariants(schema, Level::Root, path, &mut errors);
    complete_junctors(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

/// What holds for each schema outside of junctors.
fn invariants(schema: &Value, level: Level, path: &Path<'_>, errors: &mut ErrorList) {
    let kind = str_at(schema, "/type");
    let items = present(schema, "items");
    if kind == "array" && items.is_none() {
        errors.push(Error::required(&path.child("items"), "must be specified"));
    }
    if let Some(items) = items {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, property) in sorted_entries(schema, "properties") {
        invariants(property, Level::Field, &properties.key(name), errors);
    }
    let additional_path = path.child("additionalProperties");
    let additional = present(schema, "additionalProperties");
    if additional.is_some() && level == Level::Root {
        errors.push(Error::forbidden(&additional_path, "must not be used at the root"));
    }
    if let Some(inner) = additional.filter(|any| any.is_object()) {
        invariants(inner, Level::Field, &additional_path, errors);
    }
    extensions(schema, path, errors);
    junctors(schema, path, errors);
    types(schema, kind, level, path, errors);
    metadata(schema, level, path, errors);
}

fn extensions(schema: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    if !bool_at(schema, "/x-kubernetes-int-or-string") {
        return;
    }
    for field in [PRESERVE, EMBEDDED] {
        if present(schema, field) == Some(&Value::Bool(true)) {
            errors.push(Error::invalid(&path.child(field), true, format!("must be false if {INT_OR_STRING} is true")));
        }
    }
}

/// Whether the list is exactly that of the types of a number or a string, which those who accept both may write down.
fn is_int_or_string(list: &[Value]) -> bool {
    list == [json!({"type": "integer"}), json!({"type": "string"})]
}

fn junctors(schema: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let skip_any_of = is_int_or_string(list(schema, "anyOf"));
    let skip_in_first = list(schema, "allOf").first().is_some_and(|first| is_int_or_string(list(first, "anyOf")));
    value_validation(schema, skip_any_of, skip_in_first, path, errors);
}

fn value_validation(schema: &Value, skip_any_of: bool, skip_in_first: bool, path: &Path<'_>, errors: &mut ErrorList) {
    for field in ["anyOf", "allOf", "oneOf"] {
        if field == "anyOf" && skip_any_of {
            continue;
        }
        let path = path.child(field);
        for (i, inner) in list(schema, field).iter().enumerate() {
            nested(inner, field == "allOf" && skip_in_first && i == 0, &path.index(i), errors);
        }
    }
    if let Some(not) = present(schema, "not") {
        nested(not, false, &path.child("not"), errors);
    }
    let pattern = str_at(schema, "/pattern");
    if !pattern.is_empty()
        && let Some(problem) = pattern::problem(pattern)
    {
        let detail = format!("must be a valid regular expression, but isn't: {problem}");
        errors.push(Error::invalid(&path.child("pattern"), pattern, detail));
    }
}

/// What a schema inside a junctor may not say.
const FORBIDDEN: [(&str, &str); 12] = [
    ("type", "must be empty to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    (PRESERVE, "must be false to be structural"),
    (EMBEDDED, "must be false to be structural"),
    (INT_OR_STRING, "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

fn nested(schema: &Value, skip_any_of: bool, path: &Path<'_>, errors: &mut ErrorList) {
    value_validation(schema, skip_any_of, false, path, errors);
    if let Some(items) = present(schema, "items") {
        nested(items, false, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, property) in sorted_entries(schema, "properties") {
        nested(property, false, &properties.key(name), errors);
    }
    if !matches!(schema.get("additionalProperties"), None | Some(Value::Null | Value::Bool(false))) {
        errors.push(Error::forbidden(&path.child("additionalProperties"), "must be undefined to be structural"));
    }
    for (field, detail) in FORBIDDEN {
        let is_set = match schema.get(field) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty() || !matches!(field, "type" | "title" | "description"),
            Some(Value::Array(items)) => !items.is_empty() || field == "default",
            Some(_) => true,
        };
        if is_set {
            errors.push(Error::forbidden(&path.child(field), detail));
        }
    }
    if sorted_entries(schema, "properties").iter().any(|(name, _)| *name == "metadata") {
        errors.push(Error::forbidden(&properties.key("metadata"), "must not be specified in a nested context"));
    }
}

fn types(schema: &Value, kind: &str, level: Level, path: &Path<'_>, errors: &mut ErrorList) {
    let embedded = bool_at(schema, "/x-kubernetes-embedded-resource");
    let preserve = bool_at(schema, "/x-kubernetes-preserve-unknown-fields");
    let type_path = path.child("type");
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if kind.is_empty() { Error::required(&type_path, detail) } else { Error::invalid(&type_path, kind, detail) });
    } else if kind.is_empty() && !bool_at(schema, "/x-kubernetes-int-or-string") && !preserve {
        let place = match level {
            Level::Root => "at the root",
            Level::Item => "for specified array items",
            Level::Field => "for specified object fields",
        };
        errors.push(Error::required(&type_path, format!("must not be empty {place}")));
    }
    if embedded && present(schema, "additionalProperties").is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(Error::forbidden(&path.child("additionalProperties"), detail));
    }
    if level == Level::Root && !matches!(kind, "" | "object") {
        errors.push(Error::invalid(&type_path, kind, "must be object at the root"));
    }
    if embedded && !preserve && sorted_entries(schema, "properties").is_empty() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(Error::required(&path.child("properties"), detail));
    }
}

/// What every object has is not a schema's to change, but for the names.
fn metadata(schema: &Value, level: Level, path: &Path<'_>, errors: &mut ErrorList) {
    let is_object = level == Level::Root || bool_at(schema, "/x-kubernetes-embedded-resource");
    let Some(properties) = present(schema, "properties").and_then(Value::as_object) else { return };
    let path = path.child("properties");
    for field in ["kind", "apiVersion"] {
        if let Some(property) = properties.get(field).filter(|_| is_object) {
            let kind = str_at(property, "/type");
            if kind != "string" {
                errors.push(Error::invalid(&path.key(field).child("type"), kind, "must be string"));
            }
        }
    }
    let Some(metadata) = properties.get("metadata") else { return };
    let path = path.key("metadata");
    let kind = str_at(metadata, "/type");
    if is_object && kind != "object" {
        errors.push(Error::invalid(&path.child("type"), kind, "must be object"));
    }
    if level == Level::Root && restricts_more_than_names(metadata) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(Error::forbidden(&path, detail));
    }
}

fn restricts_more_than_names(metadata: &Value) -> bool {
    let names = |properties: &Map<String, Value>| properties.keys().all(|name| name == "name" || name == "generateName");
    metadata.as_object().into_iter().flatten().any(|(field, value)| match (field.as_str(), value) {
        ("type" | "default", _) | (_, Value::Null | Value::Bool(false)) => false,
        ("properties", Value::Object(properties)) => !names(properties),
        (_, Value::String(text)) => !text.is_empty(),
        (_, Value::Array(items)) => !items.is_empty(),
        _ => true,
    })
}

/// What junctors speak of must be specified outside of them. `structure` is the schema outside, if there is one.
fn complete_junctors(schema: &Value, structure: Option<&Value>, at: &Path<'_>, said_at: &Path<'_>, errors: &mut ErrorList) {
    if let Some(not) = present(schema, "not") {
        complete(not, structure, at, &said_at.child("not"), errors);
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        let path = said_at.child(field);
        for (i, inner) in list(schema, field).iter().enumerate() {
            complete(inner, structure, at, &path.index(i), errors);
        }
    }
}

fn complete(schema: &Value, structure: Option<&Value>, at: &Path<'_>, said_at: &Path<'_>, errors: &mut ErrorList) {
    let Some(structure) = structure else {
        errors.push(Error::required(at, format!("because it is defined in {said_at}")));
        return;
    };
    complete_junctors(schema, Some(structure), at, said_at, errors);
    if let Some(items) = present(schema, "items") {
        complete(items, present(structure, "items"), &at.child("items"), &said_at.child("items"), errors);
    }
    let known = present(structure, "properties");
    let (at_properties, said_properties) = (at.child("properties"), said_at.child("properties"));
    for (name, property) in sorted_entries(schema, "properties") {
        let outside = known.and_then(|properties| present(properties, name));
        complete(property, outside, &at_properties.key(name), &said_properties.key(name), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: Value) -> Vec<String> {
        assert_eq!(problem(&schema), None);
        validate(&schema, &Path::new("s")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_field_has_a_type() {
        assert!(check(json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}})).is_empty());
        assert_eq!(
            check(json!({"properties": {"a": {"type": "array"}, "b": {"type": "array", "items": {}}}})),
            [
                "s.properties[a].items: Required value: must be specified",
                "s.properties[b].items.type: Required value: must not be empty for specified array items",
                "s.type: Required value: must not be empty at the root",
            ]
        );
    }

    #[test]
    fn junctors_restrict_and_never_define() {
        assert_eq!(
            check(json!({"type": "object", "anyOf": [{"type": "object", "properties": {"a": {"default": 1}}}]})),
            [
                "s.anyOf[0].properties[a].default: Forbidden: must be undefined to be structural",
                "s.anyOf[0].type: Forbidden: must be empty to be structural",
                "s.properties[a]: Required value: because it is defined in s.anyOf[0].properties[a]",
            ]
        );
        let both = json!([{"type": "integer"}, {"type": "string"}]);
        assert!(check(json!({"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": true, "anyOf": both}}})).is_empty());
    }

    #[test]
    fn metadata_is_everyones() {
        let with = |metadata: Value| check(json!({"type": "object", "properties": {"metadata": metadata}}));
        assert!(with(json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}})).is_empty());
        assert_eq!(
            with(json!({"type": "object", "properties": {"labels": {"type": "object"}}})),
            [
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
            ]
        );
    }

    #[test]
    fn patterns_are_regular_expressions() {
        let errors = check(json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}));
        assert_eq!(
            errors,
            [
                "s.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`"
            ]
        );
    }

    #[test]
    fn what_structures_never_have_is_named() {
        assert_eq!(problem(&json!({"properties": {"a": {"$ref": "x"}}})).as_deref(), Some("OpenAPIV3Schema '$ref' is not supported"));
        assert_eq!(problem(&json!({"items": [{}]})).as_deref(), Some("OpenAPIV3Schema 'items' must be a schema, but is an array"));
    }
}
