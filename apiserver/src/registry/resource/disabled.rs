//! Fields of features that are off in v1.37: they are dropped, unless the stored object has them.

use serde_json::Value;

use crate::registry::read::at;
use crate::registry::strategy::drop_field;

/// Attributes that are computed, of requests under `spec` (a claim's, or a template's claim's).
pub fn drop_derived_attributes(new: &mut Value, old: Option<&Value>, spec: &str) {
    drop_unless_used(new, old, &|object, drop| {
        for request in items_mut(object, &format!("{spec}/devices/requests")) {
            drop_under(request, "/exactly", "derivedAttributes", drop);
            for alternative in items_mut(request, "/firstAvailable") {
                drop_in(alternative, "derivedAttributes", drop);
            }
        }
    });
}

/// What nodes may skip, of a claim's allocation.
pub fn drop_skipped_operations(new: &mut Value, old: &Value) {
    drop_unless_used(new, Some(old), &|object, drop| {
        for result in items_mut(object, "/status/allocation/devices/results") {
            drop_in(result, "skipNodeOperations", drop);
        }
    });
}

/// The features of slices, each on its own.
pub fn drop_from_slice(new: &mut Value, old: Option<&Value>) {
    drop_unless_used(new, old, &|object, drop| {
        for device in items_mut(object, "/spec/devices") {
            for consumption in items_mut(device, "/consumesCounters") {
                drop_in(consumption, "compatibilityGroups", drop);
            }
        }
    });
    drop_unless_used(new, old, &|object, drop| {
        items_mut(object, "/spec/devices").for_each(|device| drop_in(device, "nodeAllocatableResources", drop));
    });
    drop_unless_used(new, old, &|object, drop| {
        for device in items_mut(object, "/spec/devices") {
            let attributes = device.get_mut("attributes").and_then(Value::as_object_mut).into_iter().flatten();
            for (_, attribute) in attributes {
                ["bools", "ints", "strings", "versions"].iter().for_each(|field| drop_in(attribute, field, drop));
            }
        }
    });
    drop_unless_used(new, old, &|object, drop| drop_under(object, "/spec", "partitionTypeAttribute", drop));
    drop_unless_used(new, old, &|object, drop| drop_under(object, "/spec", "skipNodeOperations", drop));
}

/// Drops a field, or finds out whether it is there.
enum Drop {
    Field,
    Look { found: bool },
}

type Walk<'a> = &'a dyn Fn(&mut Value, &mut Drop);

fn drop_unless_used(new: &mut Value, old: Option<&Value>, walk: Walk<'_>) {
    let used = old.is_some_and(|old| {
        let mut look = Drop::Look { found: false };
        walk(&mut old.clone(), &mut look);
        matches!(look, Drop::Look { found: true })
    });
    if !used {
        walk(new, &mut Drop::Field);
    }
}

fn drop_in(object: &mut Value, field: &str, drop: &mut Drop) {
    match drop {
        Drop::Field => drop_field(object, field),
        Drop::Look { found } => *found |= object.get(field).is_some_and(|value| !value.is_null()),
    }
}

fn drop_under(object: &mut Value, pointer: &str, field: &str, drop: &mut Drop) {
    if !at(object, pointer).is_null()
        && let Some(inner) = object.pointer_mut(pointer)
    {
        drop_in(inner, field, drop);
    }
}

fn items_mut<'a>(object: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    object.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_disabled_field_is_dropped_unless_it_is_in_use() {
        let slice = || json!({"spec": {"skipNodeOperations": ["*"], "devices": [{"attributes": {"a": {"ints": [1]}, "b": {"int": 1}}}]}});
        let mut new = slice();
        drop_from_slice(&mut new, None);
        assert_eq!(new, json!({"spec": {"devices": [{"attributes": {"a": {}, "b": {"int": 1}}}]}}));
        let mut new = slice();
        drop_from_slice(&mut new, Some(&json!({"spec": {"skipNodeOperations": ["*"]}})));
        assert_eq!(new["spec"]["skipNodeOperations"], json!(["*"]));
        let mut claim = json!({"spec": {"devices": {"requests": [{"exactly": {"derivedAttributes": [{}]}}]}}});
        drop_derived_attributes(&mut claim, None, "/spec");
        assert_eq!(claim["spec"]["devices"]["requests"][0]["exactly"], json!({}));
    }
}
