//! Times of ownership do not by themselves make an object new.

use serde_json::Value;

use super::path::same;

/// If `new` differs from `old` in the times of its `managedFields` only, gives it the old times, so that the write is
/// recognised as no write. To be called after the strategy's preparation, with the same `resourceVersion` in both.
pub fn keep_timestamps(old: &Value, new: &mut Value) {
    let entries = |object: &Value| object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    let (old_entries, new_entries) = (entries(old), entries(new));
    if old_entries.len() != new_entries.len() || new_entries.is_empty() {
        return;
    }
    let only_times = old_entries.iter().zip(&new_entries).all(|(a, b)| same(&timeless(a), &timeless(b)));
    if only_times
        && same_but_entries(old, new)
        && let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.insert("managedFields".to_owned(), Value::Array(old_entries));
    }
}

fn timeless(entry: &Value) -> Value {
    let mut entry = entry.clone();
    if let Some(map) = entry.as_object_mut() {
        map.shift_remove("time");
    }
    entry
}

/// Equality of everything but `metadata.managedFields`.
fn same_but_entries(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return false };
    a.len() == b.len()
        && a.iter().all(|(key, value)| match (key.as_str(), value, b.get(key)) {
            (_, _, None) => false,
            ("metadata", Value::Object(x), Some(Value::Object(y))) => {
                x.len() == y.len() && x.iter().all(|(k, v)| k == "managedFields" || y.get(k).is_some_and(|other| same(v, other)))
            }
            (_, value, Some(other)) => same(value, other),
        })
}
