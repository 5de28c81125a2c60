//! A pod's conditions: setting one the way every endpoint does.

use apimachinery::time::format_time;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::registry::read::str_at;

/// A condition to be.
pub struct Condition<'a> {
    pub kind: &'a str,
    pub status: &'a str,
    /// Left out if empty, as is the message.
    pub reason: &'a str,
    pub message: &'a str,
}

/// Puts the condition in place of the one of its kind; its time moves only with its status.
pub fn set(pod: &mut Value, condition: &Condition<'_>, now: Timestamp) {
    let Some(pod) = pod.as_object_mut() else { return };
    let status = pod.entry("status").or_insert_with(|| Value::Object(Map::new()));
    let Some(status) = status.as_object_mut() else { return };
    let list = status.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    let Some(list) = list.as_array_mut() else { return };
    let existing = list.iter().position(|c| str_at(c, "/type") == condition.kind);
    let before = existing.and_then(|i| list.get(i));
    let unmoved = before.filter(|c| str_at(c, "/status") == condition.status).and_then(|c| c.get("lastTransitionTime")).cloned();
    let mut value = json!({
        "type": condition.kind,
        "status": condition.status,
        "lastProbeTime": null,
        "lastTransitionTime": unmoved.unwrap_or_else(|| format_time(now).into()),
    });
    for (field, text) in [("reason", condition.reason), ("message", condition.message)] {
        if !text.is_empty() {
            value[field] = text.into();
        }
    }
    match existing.and_then(|i| list.get_mut(i)) {
        Some(place) => *place = value,
        None => list.push(value),
    }
}
