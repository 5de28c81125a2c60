//! Object metadata as the API server itself sets it: names, uids, times; never what a kind's strategy decides.

use std::collections::HashSet;

use apimachinery::status::Status;
use apimachinery::time;
use jiff::Timestamp;
use rand::RngExt;
use serde_json::{Map, Value};

/// Characters that generated names end with: no vowels and no look-alikes.
const SUFFIX_CHARACTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Bytes of `generateName` that are used.
const MAX_GENERATED_PREFIX: usize = 63 - SUFFIX_LENGTH;

/// A string field of `metadata`; empty if absent.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// `metadata`, made if the object has none. The object must be a JSON object, as every decoded body is.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let map = object.as_object_mut().expect("made an object above");
    let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut().expect("made an object above")
}

pub fn set_text(object: &mut Value, field: &str, value: &str) {
    metadata_mut(object).insert(field.to_owned(), Value::String(value.to_owned()));
}

/// Drops what only the server sets; a creator's values for these are ignored.
pub fn wipe_system_fields(object: &mut Value) {
    let metadata = metadata_mut(object);
    for field in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.shift_remove(field);
    }
}

/// The namespace of the object must be the request's; an absent one becomes it.
///
/// `expected` is empty for cluster-scoped kinds.
pub fn ensure_namespace(object: &mut Value, expected: &str) -> Result<(), Status> {
    let found = text(object, "namespace");
    if expected.is_empty() {
        // Upstream forgives a namespace here, and forgets it.
        metadata_mut(object).shift_remove("namespace");
    } else if found.is_empty() {
        set_text(object, "namespace", expected);
    } else if found != expected {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request".to_owned(),
        ));
    }
    Ok(())
}

/// Gives a new object its uid and creation time.
pub fn fill_system_fields(object: &mut Value, now: Timestamp) {
    let metadata = metadata_mut(object);
    metadata.insert("uid".to_owned(), Value::String(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".to_owned(), Value::String(time::format_time(now)));
}

/// Whether a name must be generated.
pub fn wants_generated_name(object: &Value) -> bool {
    text(object, "name").is_empty() && !text(object, "generateName").is_empty()
}

/// `generateName`, cut to fit, and five random characters.
pub fn generate_name(base: &str) -> String {
    let mut cut = base.len().min(MAX_GENERATED_PREFIX);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut rng = rand::rng();
    let suffix: String = (0..SUFFIX_LENGTH).map(|_| SUFFIX_CHARACTERS[rng.random_range(0..SUFFIX_CHARACTERS.len())] as char).collect();
    format!("{}{suffix}", &base[..cut])
}

/// Takes from the stored object what an update cannot change: an absent uid, the creation time, and the time and grace of a
/// deletion that has begun. `selfLink` is nobody's any more.
pub fn keep_system_fields(new: &mut Value, old: &Value) {
    let Some(before) = old.get("metadata").and_then(Value::as_object) else { return };
    let metadata = metadata_mut(new);
    metadata.shift_remove("selfLink");
    let no_uid = metadata.get("uid").and_then(Value::as_str).is_none_or(str::is_empty);
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if field == "uid" && !no_uid {
            continue;
        }
        if let Some(kept) = before.get(field).filter(|v| !v.is_null()) {
            metadata.insert(field.to_owned(), kept.clone());
        }
    }
}

/// Drops repeated owner references and says so.
pub fn dedup_owner_references(object: &mut Value, when: &str, warnings: &mut Vec<String>) {
    let Some(Value::Array(owners)) = object.get_mut("metadata").and_then(|m| m.get_mut("ownerReferences")) else { return };
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    let mut seen: HashSet<String> = HashSet::with_capacity(owners.len());
    let mut repeated: Vec<String> = Vec::new();
    for owner in owners.drain(..) {
        // Owners have been read by their type, so that equal ones have equal texts.
        if !seen.insert(owner.to_string()) {
            let uid = owner.get("uid").and_then(Value::as_str).unwrap_or("").to_owned();
            if !repeated.contains(&uid) {
                repeated.push(uid);
            }
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    if !repeated.is_empty() {
        warnings.push(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate_name(&"é".repeat(40));
        assert!(name.len() <= 63 && name.starts_with('é'));
        assert_eq!(generate_name("a-").len(), 7);
    }

    #[test]
    fn a_missing_namespace_becomes_the_requests() {
        let mut object = serde_json::json!({"metadata": {"name": "a"}});
        assert!(ensure_namespace(&mut object, "ns").is_ok());
        assert_eq!(text(&object, "namespace"), "ns");
        assert!(ensure_namespace(&mut object, "other").is_err());
    }
}
