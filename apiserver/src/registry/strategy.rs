//! Pieces that many strategies share: which part of an object an endpoint may set, and its generation.

use std::collections::HashSet;

use apimachinery::field::ErrorList;
use serde_json::{Map, Value};

/// Takes `status` from the old object: what the main endpoint of a kind with a status subresource does on update.
pub fn keep_status(new: &mut Value, old: &Value) {
    keep_field(new, old, "status");
}

/// Takes `field` from the old object, or drops it where the old object has none.
pub fn keep_field(new: &mut Value, old: &Value, field: &str) {
    let Some(object) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(kept) => {
            object.insert(field.to_owned(), kept.clone());
        }
        None => {
            object.shift_remove(field);
        }
    }
}

/// Takes everything except `status` (and the metadata that the engine owns: resourceVersion, managedFields) from the
/// old object: what a status endpoint does. Labels and annotations and the rest of metadata come from `new`, as upstream
/// lets status endpoints change metadata; strategies that forbid it say so themselves.
pub fn keep_all_but_status(new: &mut Value, old: &Value) {
    let (Some(object), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
    let mut kept = Map::with_capacity(before.len());
    for (key, value) in before {
        if key != "status" && key != "metadata" {
            kept.insert(key.clone(), value.clone());
        }
    }
    for field in ["metadata", "status"] {
        if let Some(value) = object.shift_remove(field) {
            kept.insert(field.to_owned(), value);
        }
    }
    *object = kept;
}

/// Removes a top-level field.
pub fn drop_field(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove(field);
    }
}

/// Sets `metadata.generation`.
pub fn set_generation(object: &mut Value, generation: i64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("generation".to_owned(), generation.into());
    }
}

/// The object's `metadata.generation`; 0 where it has none.
pub fn generation(object: &Value) -> i64 {
    object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0)
}

/// Keeps the old generation, plus one if any of the top-level `fields` differs.
pub fn bump_generation_if_changed(new: &mut Value, old: &Value, fields: &[&str]) {
    let changed = fields.iter().any(|f| new.get(f).filter(|v| !is_empty(v)) != old.get(f).filter(|v| !is_empty(v)));
    set_generation(new, generation(old) + i64::from(changed));
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// Puts a top-level field, replacing what stands there.
pub fn set_field(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(field.to_owned(), value.into());
    }
}

/// The metadata that a status endpoint takes from the old object where its kind forbids changing metadata there.
const STATUS_METADATA: [&str; 6] = ["deletionTimestamp", "generation", "labels", "annotations", "finalizers", "ownerReferences"];

/// Takes the metadata that users set from the old object: what status endpoints of newer kinds do.
pub fn keep_metadata(new: &mut Value, old: &Value) {
    let (Some(metadata), Some(before)) = (new.get_mut("metadata"), old.get("metadata")) else { return };
    for field in STATUS_METADATA {
        keep_field(metadata, before, field);
    }
}

/// Takes all metadata but the owners of fields from the old object: what status endpoints of the first kinds that did so do.
pub fn keep_all_metadata(new: &mut Value, old: &Value) {
    let Some(mut kept) = old.get("metadata").cloned() else { return };
    if let Some(owners) = new.pointer("/metadata/managedFields") {
        set_field(&mut kept, "managedFields", owners.clone());
    } else {
        drop_field(&mut kept, "managedFields");
    }
    set_field(new, "metadata", kept);
}

/// The errors without those that say again what one before them said: the reference tells nothing twice.
pub fn without_repeats(mut errors: ErrorList) -> ErrorList {
    let mut told = HashSet::new();
    errors.retain(|error| told.insert(error.to_string()));
    errors
}
