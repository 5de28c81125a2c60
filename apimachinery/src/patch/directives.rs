//! The directives of a strategic merge patch, at the places where they stand.

use serde_json::{Map, Value};

use super::strategic::{DELETE_PREFIX, DIRECTIVE, Error, ORDER_PREFIX, RETAIN_KEYS, no_merge_key};
use crate::go_print;

/// `$patch` in a map: the patch instead of the map, or nothing.
pub(super) fn follow_directive(directive: &Value, patch: &mut Map<String, Value>) -> Result<Map<String, Value>, Error> {
    match directive.as_str() {
        Some("replace") => {
            patch.shift_remove(DIRECTIVE);
            Ok(patch.clone())
        }
        Some("delete") => Ok(Map::new()),
        _ => Err(unknown_directive(directive, &Value::Object(patch.clone()))),
    }
}

fn unknown_directive(directive: &Value, map: &Value) -> Error {
    Error::Other(format!("unknown patch type: {} in map: {}", as_text(directive), go_print::plain(map)))
}

/// A value where Go's `%s` is to print text: lists and maps are those of what they hold, other values are told to be none.
fn as_text(value: &Value) -> String {
    match (value, go_print::type_name(value)) {
        (Value::String(text), _) => text.clone(),
        (Value::Array(items), _) => format!("[{}]", items.iter().map(as_text).collect::<Vec<_>>().join(" ")),
        (Value::Object(members), _) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            let members: Vec<String> = sorted.into_iter().map(|(name, member)| format!("{name}:{}", as_text(member))).collect();
            format!("map[{}]", members.join(" "))
        }
        (other, Some(name)) => format!("%!s({name}={})", go_print::plain(other)),
        (_, None) => "%!s(<nil>)".to_owned(),
    }
}

/// `$retainKeys`: members that it does not name go; the patch may set no others.
pub(super) fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(directive) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(kept) = directive else { return Err(Error::RetainKeys) };
    let is_kept = |key: &str| kept.iter().any(|name| name.as_str() == Some(key));
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_PREFIX) || key.starts_with(ORDER_PREFIX);
        if !value.is_null() && !directive && !is_kept(key) {
            return Err(Error::RetainKeys);
        }
    }
    original.retain(|key, _| is_kept(key));
    Ok(())
}

/// `$patch` in the items of a merging list: the list and the patch that are left to merge.
pub(super) fn follow_item_directives(mut original: Vec<Value>, patch: &[Value], key: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut left = Vec::with_capacity(patch.len());
    let mut replaces = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE) else {
            left.push(item.clone());
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let gone = item.get(key).ok_or_else(|| no_merge_key(item, key))?;
                original.retain(|other| other.get(key) != Some(gone));
            }
            Some("replace") => replaces = true,
            Some("merge") => return Err(Error::Other("merging lists cannot yet be specified in the patch".to_owned())),
            _ => return Err(unknown_directive(directive, item)),
        }
    }
    Ok(if replaces { (left, Vec::new()) } else { (original, left) })
}

/// Drops null members at any depth.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The value without maps that hold a `$patch`; `None` if it is one itself.
pub(super) fn without_directives(value: &mut Value) -> Option<Value> {
    match value {
        Value::Array(items) => Some(Value::Array(items.iter_mut().filter_map(|item| is_left(item).then(|| item.clone())).collect())),
        other => is_left(other).then(|| other.clone()),
    }
}

/// Takes maps that hold a `$patch` out of a value, at any depth; whether it is none itself. In place, as patches nest deeply.
fn is_left(value: &mut Value) -> bool {
    match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return false;
            }
            map.retain(|_, inner| is_left(inner));
        }
        Value::Array(items) => items.retain_mut(is_left),
        _ => {}
    }
    true
}
