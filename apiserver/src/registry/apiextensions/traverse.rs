//! Walking a schema with all schemas inside it.

use serde_json::Value;

use super::internal::present;

/// Schemas may be nested so deep; what is deeper is refused.
pub const MAX_DEPTH: usize = 1000;

/// Whether the schema or one inside it, looked at from the outside in, is as `wanted`. Not looked into below [`MAX_DEPTH`].
pub fn any(schema: &Value, wanted: &mut dyn FnMut(&Value) -> bool) -> bool {
    any_to(schema, wanted, MAX_DEPTH)
}

fn any_to(schema: &Value, wanted: &mut dyn FnMut(&Value) -> bool, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    wanted(schema) || children(schema).into_iter().any(|child| any_to(child, wanted, depth))
}

/// The schemas directly inside a schema.
fn children(schema: &Value) -> Vec<&Value> {
    let one = |field: &str| present(schema, field).filter(|value| value.is_object());
    let list = |field: &str| present(schema, field).and_then(Value::as_array).into_iter().flatten();
    let map = |field: &str| {
        let entries = present(schema, field).and_then(Value::as_object).into_iter().flatten();
        entries.map(|(_, entry)| entry).filter(|entry| entry.is_object())
    };
    let mut found: Vec<&Value> = one("items").into_iter().chain(list("items")).collect();
    for field in ["allOf", "anyOf", "oneOf"] {
        found.extend(list(field));
    }
    found.extend(one("not"));
    found.extend(map("properties"));
    found.extend(one("additionalProperties"));
    found.extend(map("patternProperties"));
    found.extend(one("additionalItems"));
    found.extend(map("definitions"));
    found.extend(map("dependencies"));
    found
}

/// The entries of a map field by name, so that errors come in an order of their own.
pub fn sorted_entries<'a>(schema: &'a Value, field: &str) -> Vec<(&'a str, &'a Value)> {
    let entries = present(schema, field).and_then(Value::as_object).into_iter().flatten();
    let mut entries: Vec<(&str, &Value)> = entries.map(|(name, entry)| (name.as_str(), entry)).collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    entries
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_schema_inside_is_visited() {
        let schema = json!({"items": {"type": "a"}, "properties": {"p": {"not": {"type": "b"}}}, "additionalProperties": true,
            "anyOf": [{"type": "c"}], "dependencies": {"d": ["x"], "e": {"type": "d"}}});
        let mut types = Vec::new();
        any(&schema, &mut |s| {
            types.extend(s["type"].as_str().map(str::to_owned));
            false
        });
        assert_eq!(types, ["a", "c", "b", "d"]);
    }
}
