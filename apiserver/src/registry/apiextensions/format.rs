//! What creators of definitions are warned about: formats that nothing checks, and sets of what is no scalar.

use std::collections::BTreeSet;

use apimachinery::field::quote;
use serde_json::Value;

use super::internal::{Spec, present};
use super::traverse;
use crate::registry::read::{at, str_at};

/// Formats of strings, without their dashes.
const STRING_FORMATS: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// Warnings about a definition; about what the old one had already, nobody is warned again.
pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let seen_formats = old.map(unknown_formats).unwrap_or_default();
    let formats = unknown_formats(new).into_iter().filter(|format| !seen_formats.contains(format));
    let mut warnings: Vec<String> = formats.map(|format| format!("unrecognized format {}", quote(&format))).collect();
    let seen_sets = old.map(sets_of_no_scalars).unwrap_or_default();
    let sets = sets_of_no_scalars(new).into_iter().filter(|kind| !seen_sets.contains(kind));
    warnings.extend(sets.map(|kind| {
        let kind = quote(&kind);
        format!("x-kubernetes-list-type: set for items of type {kind} is not supported by server-side apply or CEL validation rules")
    }));
    warnings
}

fn unknown_formats(definition: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for schema in Spec::of(definition).schemas() {
        traverse::any(schema, &mut |schema| {
            let format = str_at(schema, "/format");
            if !format.is_empty() && !is_known(format, str_at(schema, "/type")) {
                found.push(format.to_owned());
            }
            false
        });
    }
    found
}

fn is_known(format: &str, kind: &str) -> bool {
    match kind {
        "" | "string" => STRING_FORMATS.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

fn sets_of_no_scalars(definition: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for schema in Spec::of(definition).schemas() {
        traverse::any(schema, &mut |schema| {
            let items = present(schema, "items").map_or("", |items| str_at(items, "/type"));
            if at(schema, "/x-kubernetes-list-type") == "set" && matches!(items, "object" | "array") {
                found.insert(items.to_owned());
            }
            false
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(properties: Value) -> Value {
        json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"properties": properties}}}]}})
    }

    #[test]
    fn only_what_is_new_is_warned_about() {
        let new = definition(json!({
            "a": {"type": "string", "format": "date-time"},
            "b": {"type": "string", "format": "nope"},
            "c": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}},
        }));
        assert_eq!(
            warnings(&new, None),
            [
                r#"unrecognized format "nope""#,
                r#"x-kubernetes-list-type: set for items of type "object" is not supported by server-side apply or CEL validation rules"#,
            ]
        );
        assert!(warnings(&new, Some(&new)).is_empty());
    }
}
