//! The values of defaults: they are valid, and have no fields that the schema would prune.

use apimachinery::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::internal::present;
use super::traverse::{MAX_DEPTH, sorted_entries};
use crate::crd::rules::Rules;
use crate::crd::schema::Schema;
use crate::crd::{self, strategy};
use crate::expressions::BUDGET;
use crate::registry::read::bool_at;

const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// All defaults of a structural schema; `pruned` says that they may have no unknown fields.
pub fn validate(schema: &Value, pruned: bool, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut budget = BUDGET;
    each(schema, true, false, path, &mut |default, path| {
        if budget < 0 {
            return;
        }
        let path = path.child("default");
        if pruned && default.has_unknown_fields() {
            errors.push(Error::invalid(&path, crd::validate::sorted(default.value), "must not have unknown fields"));
        }
        errors.extend(default.errors(&path, &mut budget));
    });
    errors
}

/// Whether a schema has a default that would be pruned.
pub fn any_unpruned(schema: &Value) -> bool {
    let mut found = false;
    each(schema, true, false, &Path::ROOT, &mut |default, _| found |= default.has_unknown_fields());
    found
}

struct Default<'s> {
    value: &'s Value,
    schema: &'s Value,
    /// The schema is of a whole object.
    embedded: bool,
    /// It is inside of what is every object's, where other rules hold than those of the schema.
    inside_meta: bool,
}

impl Default<'_> {
    fn has_unknown_fields(&self) -> bool {
        !self.inside_meta && has_unknown(self.value, Some(self.schema), self.embedded)
    }

    /// `budget` is what rules in CEL may still cost.
    fn errors(&self, path: &Path<'_>, budget: &mut i64) -> ErrorList {
        let base = path.to_string();
        let mut schema = Schema::read(self.schema);
        schema.embedded |= self.embedded;
        if !self.inside_meta {
            let errors = strategy::embedded(&schema, self.value, &base, false);
            if !errors.is_empty() {
                return errors;
            }
        }
        let errors = crd::validate::validate(&schema, self.value, None, Some(&base));
        match Rules::read_part(self.schema, self.embedded) {
            Some(rules) if errors.is_empty() => rules.run_on_default(self.value, &base, budget),
            _ => errors,
        }
    }
}

/// Calls with every default and the path of its schema.
fn each<'s>(schema: &'s Value, is_root: bool, inside_meta: bool, path: &Path<'_>, visit: &mut dyn FnMut(&Default<'s>, &Path<'_>)) {
    let embedded = is_root || bool_at(schema, "/x-kubernetes-embedded-resource");
    let inside_meta = inside_meta && !embedded;
    if let Some(value) = present(schema, "default") {
        visit(&Default { value, schema, embedded, inside_meta }, path);
    }
    if let Some(items) = present(schema, "items") {
        each(items, false, inside_meta, &path.child("items"), visit);
    }
    let properties = path.child("properties");
    for (name, property) in sorted_entries(schema, "properties") {
        let inside_meta = inside_meta || embedded && META_FIELDS.contains(&name);
        each(property, false, inside_meta, &properties.key(name), visit);
    }
}

/// Whether a value has a field that its schema does not know. Without a schema nothing is known.
fn has_unknown(value: &Value, schema: Option<&Value>, is_object: bool) -> bool {
    has_unknown_to(value, schema, is_object, MAX_DEPTH)
}

fn has_unknown_to(value: &Value, schema: Option<&Value>, is_object: bool, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return true };
    let preserve = schema.is_some_and(|schema| bool_at(schema, "/x-kubernetes-preserve-unknown-fields"));
    match value {
        Value::Object(fields) => fields.iter().any(|(name, field)| {
            let Some(schema) = schema else { return true };
            if is_object && META_FIELDS.contains(&name.as_str()) {
                return false;
            }
            if let Some(property) = present(schema, "properties").and_then(|properties| present(properties, name)) {
                return has_unknown_to(field, Some(property), is_embedded(property), depth);
            }
            match present(schema, "additionalProperties") {
                Some(any) if any.is_object() => has_unknown_to(field, Some(any), is_embedded(any), depth),
                Some(_) => has_unknown_to(field, None, false, depth),
                None => !preserve,
            }
        }),
        Value::Array(items) => {
            let schema = schema.and_then(|schema| present(schema, "items"));
            // What is preserved is preserved in items that no schema describes.
            (schema.is_some() || !preserve) && items.iter().any(|item| has_unknown_to(item, schema, schema.is_some_and(is_embedded), depth))
        }
        _ => false,
    }
}

fn is_embedded(schema: &Value) -> bool {
    bool_at(schema, "/x-kubernetes-embedded-resource")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_have_known_fields_only() {
        let check = |property: Value| -> Vec<String> {
            let schema = json!({"type": "object", "properties": {"a": property}});
            validate(&schema, true, &Path::new("s")).iter().map(ToString::to_string).collect()
        };
        let object = |default: Value| json!({"type": "object", "properties": {"x": {"type": "string"}}, "default": default});
        assert!(check(object(json!({"x": "1"}))).is_empty());
        assert_eq!(check(object(json!({"y": 1}))), [r#"s.properties[a].default: Invalid value: {"y":1}: must not have unknown fields"#]);
        assert!(check(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "default": {"y": [{"z": 1}]}})).is_empty());
        assert!(check(json!({"type": "object", "additionalProperties": {"type": "string"}, "default": {"y": "1"}})).is_empty());
    }

    #[test]
    fn defaults_keep_the_rules_of_their_schemas() {
        let check = |rules: Value| -> Vec<String> {
            let property = json!({"type": "integer", "default": 3, "x-kubernetes-validations": rules});
            let schema = json!({"type": "object", "properties": {"o": {"type": "object", "default": {}, "properties": {"a": property}}}});
            validate(&schema, true, &Path::new("s")).iter().map(ToString::to_string).collect()
        };
        assert!(check(json!([{"rule": "self < 5"}, {"rule": "self >= oldSelf"}])).is_empty());
        assert_eq!(
            check(json!([{"rule": "self > 5"}])),
            ["s.properties[o].properties[a].default: Invalid value: 3: failed rule: self > 5"]
        );
        assert_eq!(check(json!([{"rule": "oldSelf.hasValue()", "optionalOldSelf": true}])).len(), 1, "as a value that was not there");
        assert_eq!(check(json!([{"rule": "self > oldSelf"}])).len(), 1, "as one that stays");
    }

    #[test]
    fn defaults_are_valid() {
        let check = |pruned: bool, schema: Value| -> Vec<String> {
            validate(&schema, pruned, &Path::new("s")).iter().map(ToString::to_string).collect()
        };
        let of = |property: Value| json!({"type": "object", "properties": {"a": property}});
        let small = of(json!({"type": "integer", "minimum": 3, "default": 1}));
        assert_eq!(check(true, small), ["s.properties[a].default: Invalid value: 1:  in body should be greater than or equal to 3"]);
        let whole = json!({"type": "object", "properties": {"x": {"type": "string"}}, "default": {"y": 1}});
        assert_eq!(check(true, of(whole.clone())).len(), 1);
        assert!(check(false, of(whole)).is_empty(), "what was tolerated before stays so");
        let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true,
            "default": {"kind": "K"}});
        assert_eq!(check(true, of(embedded)), ["s.properties[a].default.apiVersion: Required value"]);
    }
}
