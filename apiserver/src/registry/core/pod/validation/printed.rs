//! How whole structures are shown in errors: with the field names and nulls of upstream's internal types.
//!
//! Nothing that is stored or served is made from them.

use serde::Serialize;
use serde_json::{Value, json};

use crate::registry::internal_form;

/// A structure of the internal type `name`.
pub(super) fn structure(name: &str, value: &impl Serialize) -> Value {
    // A typed view always has a JSON form; null would be shown if it had none.
    internal_form::render(name, &serde_json::to_value(value).unwrap_or_default())
}

/// A list of structures of the internal type `name`.
pub(super) fn list(name: &str, values: &impl Serialize) -> Value {
    internal_form::render_list(name, &serde_json::to_value(values).unwrap_or_default())
}

/// `PodIP` and `HostIP` lists.
pub(super) fn ips<'a>(list: impl Iterator<Item = &'a str>) -> Value {
    let list: Vec<Value> = list.map(|ip| json!({"IP": ip})).collect();
    if list.is_empty() { Value::Null } else { Value::Array(list) }
}
