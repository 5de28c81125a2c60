//! Times of ownership do not by themselves make an object new.

use serde_json::{Map, Value};

use super::path::same;

const ENTRIES: &str = "/metadata/managedFields";

fn entries(object: &Value) -> &[Value] {
    object.pointer(ENTRIES).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// If `new` differs from `old` in the times of its `managedFields` only, gives it the old times, so that the write is
/// recognised as no write. To be called after the strategy's preparation, with the same `resourceVersion` in both.
pub fn keep_timestamps(old: &Value, new: &mut Value) {
    let (old_entries, new_entries) = (entries(old), entries(new));
    if old_entries.len() != new_entries.len() || new_entries.is_empty() {
        return;
    }
    let only_times = old_entries.iter().zip(new_entries).all(|(a, b)| same_but_time(a, b));
    if !only_times || !same_but_entries(old, new) {
        return;
    }
    let Some(new_entries) = new.pointer_mut(ENTRIES).and_then(Value::as_array_mut) else { return };
    for (old, new) in old_entries.iter().zip(new_entries) {
        match (old.get("time"), new.get_mut("time")) {
            (Some(time), Some(there)) => there.clone_from(time),
            _ => new.clone_from(old),
        }
    }
}

fn same_but_time(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let count = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key("time"));
    count(a) == count(b) && a.iter().all(|(key, value)| key == "time" || b.get(key).is_some_and(|other| same(value, other)))
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
