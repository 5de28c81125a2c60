//! Reading objects that are JSON: what is not there reads as empty, as zero, as false.

use serde_json::Value;

/// The text at a JSON pointer.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The number at a JSON pointer.
pub fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The number at a JSON pointer, or what it is without.
pub fn number_or(object: &Value, pointer: &str, otherwise: i64) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(otherwise)
}

pub fn is_true(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at a JSON pointer.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// The uid of the owner that manages the object.
pub fn controller(object: &Value) -> Option<&str> {
    let owner = list(object, "/metadata/ownerReferences").iter().find(|owner| is_true(owner, "/controller"))?;
    Some(text(owner, "/uid"))
}

/// Whether a pod has ended.
pub fn is_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Whether a pod neither has ended nor is to.
pub fn is_active(pod: &Value) -> bool {
    !is_ended(pod) && !is_terminating(pod)
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = list(pod, "/status/conditions");
    conditions.iter().any(|condition| text(condition, "/type") == "Ready" && text(condition, "/status") == "True")
}

/// Whether labels are all of `selector`'s `matchLabels`. Nothing else selects here.
pub fn matches(selector: Option<&Value>, object: &Value) -> bool {
    let Some(wanted) = selector.and_then(|selector| selector.get("matchLabels")).and_then(Value::as_object) else { return false };
    let labels = object.pointer("/metadata/labels");
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// A number, or a share of `whole` in percent, rounded as said.
pub fn share(value: Option<&Value>, whole: i64, round_up: bool) -> i64 {
    match value {
        Some(Value::Number(number)) => number.as_i64().unwrap_or(0),
        Some(Value::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            if round_up { (whole * percent + 99) / 100 } else { whole * percent / 100 }
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shares_are_rounded_as_said() {
        let percent = json!("25%");
        assert_eq!((share(Some(&percent), 5, true), share(Some(&percent), 5, false), share(Some(&json!(3)), 5, true)), (2, 1, 3));
    }

    #[test]
    fn a_selector_selects_what_has_all_its_labels() {
        let selector = json!({"matchLabels": {"a": "1"}});
        assert!(matches(Some(&selector), &json!({"metadata": {"labels": {"a": "1", "b": "2"}}})));
        assert!(!matches(Some(&selector), &json!({"metadata": {"labels": {"b": "2"}}})));
    }
}
