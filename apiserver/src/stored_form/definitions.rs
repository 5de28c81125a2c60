//! Definitions of custom resources in `apiextensions.k8s.io/v1beta1`, which upstream still stores: it is smaller where all
//! versions have one schema, since that is written once.
//!
//! Owns the two directions of that conversion, on trees. The version is not served.

use serde_json::{Map, Value};

/// The version that is written.
pub const VERSION: &str = "v1beta1";

/// What stands at the top if it is the same in all versions: the name at the top, and the name in a version.
const SHARED: [(&str, &str); 4] = [
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];
/// The fields of the older spec, in the order in which they are written.
const ORDER: [&str; 11] = [
    "group",
    "version",
    "names",
    "scope",
    "validation",
    "subresources",
    "versions",
    "additionalPrinterColumns",
    "selectableFields",
    "conversion",
    "preserveUnknownFields",
];

/// A `v1` definition as `v1beta1` has it.
pub fn to_v1beta1(mut definition: Value) -> Value {
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else { return definition };
    if let Some(versions) = spec.get_mut("versions").and_then(Value::as_array_mut)
        && !versions.is_empty()
    {
        let name = versions[0].get("name").cloned();
        let mut moved = Map::new();
        for (top, inner) in SHARED {
            let first = versions[0].get(inner).cloned();
            if versions.iter().any(|v| v.get(inner) != first.as_ref()) {
                continue;
            }
            if let Some(first) = first {
                moved.insert(top.to_owned(), first);
            }
            versions.iter_mut().filter_map(Value::as_object_mut).for_each(|v| {
                v.shift_remove(inner);
            });
        }
        spec.extend(moved);
        if let Some(name) = name {
            spec.insert("version".to_owned(), name);
        }
    }
    each_column_list(spec, |column| rename(column, "jsonPath", "JSONPath"));
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut)
        && let Some(Value::Object(mut webhook)) = conversion.shift_remove("webhook")
    {
        let parts = [("clientConfig", "webhookClientConfig"), ("conversionReviewVersions", "conversionReviewVersions")];
        for (from, to) in parts {
            if let Some(part) = webhook.shift_remove(from) {
                conversion.insert(to.to_owned(), part);
            }
        }
    }
    // The older version takes an absence for `true`.
    spec.entry("preserveUnknownFields").or_insert(Value::Bool(false));
    let mut old = std::mem::take(spec);
    spec.extend(ORDER.iter().filter_map(|name| old.shift_remove_entry(*name)));
    spec.extend(old);
    definition
}

/// A `v1beta1` definition as `v1` has it.
pub fn from_v1beta1(mut definition: Value) -> Value {
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else { return definition };
    let version = spec.shift_remove("version").filter(|v| v.as_str().is_some_and(|v| !v.is_empty()));
    let unversioned = spec.get("versions").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if let (Some(name), true) = (version, unversioned) {
        spec.insert("versions".to_owned(), serde_json::json!([{ "name": name, "served": true, "storage": true }]));
    }
    for (top, inner) in SHARED {
        let Some(shared) = spec.shift_remove(top).filter(|s| !s.is_null()) else { continue };
        let versions = spec.get_mut("versions").and_then(Value::as_array_mut);
        versions.into_iter().flatten().filter_map(Value::as_object_mut).for_each(|v| {
            v.insert(inner.to_owned(), shared.clone());
        });
    }
    each_column_list(spec, |column| rename(column, "JSONPath", "jsonPath"));
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) {
        let mut webhook = Map::new();
        let parts = [("webhookClientConfig", "clientConfig"), ("conversionReviewVersions", "conversionReviewVersions")];
        for (from, to) in parts {
            if let Some(part) = conversion.shift_remove(from) {
                webhook.insert(to.to_owned(), part);
            }
        }
        if !webhook.is_empty() {
            conversion.insert("webhook".to_owned(), Value::Object(webhook));
        }
    }
    match spec.get("preserveUnknownFields") {
        None | Some(Value::Null) => {
            spec.insert("preserveUnknownFields".to_owned(), Value::Bool(true));
        }
        Some(_) => {}
    }
    definition
}

/// Visits the printer columns at the top and those of each version.
fn each_column_list(spec: &mut Map<String, Value>, visit: impl Fn(&mut Map<String, Value>)) {
    let visit_all = |map: &mut Map<String, Value>| {
        let columns = map.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
        columns.into_iter().flatten().filter_map(Value::as_object_mut).for_each(&visit);
    };
    visit_all(spec);
    let versions = spec.get_mut("versions").and_then(Value::as_array_mut);
    versions.into_iter().flatten().filter_map(Value::as_object_mut).for_each(visit_all);
}

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.shift_remove(from) {
        map.insert(to.to_owned(), value);
    }
}
