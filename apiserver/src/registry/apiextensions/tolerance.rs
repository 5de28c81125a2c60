//! Which rules an update must keep: what a stored definition already breaks, its next version may break as well.

use std::collections::BTreeSet;

use serde_json::Value;

use super::conversion_rules::{is_ca_bundle, knows_a_review_version};
use super::internal::{Spec, present};
use super::{default_rules, list_type_rules, structural, traverse};
use crate::registry::read::{at, list_at, str_at};

/// The types that schemas know.
pub const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// How many fields of a version selectors may name.
pub const MAX_SELECTABLE_FIELDS: usize = 8;

/// The rules that hold for one write.
pub struct Rules {
    pub known_review_version: bool,
    /// The scope and the kind stay.
    pub immutable_names: bool,
    pub schema_required: bool,
    pub valid_types: bool,
    pub structural: bool,
    pub pruned_defaults: bool,
    pub atomic_sets: bool,
    pub map_key_presence: bool,
    pub valid_ca_bundle: bool,
    /// Versions that may name more fields than that; "" for what all versions have in common.
    pub many_selectable_fields: BTreeSet<String>,
    /// Expressions that are in force, which may use what new ones may not use yet.
    pub in_force: Expressions,
    /// Versions whose schemas stay as they are: what a single expression may cost is no matter any more.
    pub unchanged: BTreeSet<String>,
}

/// Expressions of schemas, by their texts.
#[derive(Default)]
pub struct Expressions {
    pub rules: BTreeSet<String>,
    pub messages: BTreeSet<String>,
}

impl Expressions {
    fn of(spec: &Spec<'_>) -> Expressions {
        let mut found = Expressions::default();
        for schema in spec.schemas() {
            traverse::any(schema, &mut |schema| {
                for rule in list_at(schema, "/x-kubernetes-validations") {
                    found.rules.insert(str_at(rule, "/rule").to_owned());
                    found.messages.extend(Some(str_at(rule, "/messageExpression").to_owned()).filter(|text| !text.is_empty()));
                }
                false
            });
        }
        found
    }
}

impl Rules {
    /// A new definition.
    pub fn for_create() -> Rules {
        Rules {
            known_review_version: true,
            immutable_names: false,
            schema_required: true,
            valid_types: true,
            structural: true,
            pruned_defaults: true,
            atomic_sets: true,
            map_key_presence: true,
            valid_ca_bundle: false,
            many_selectable_fields: BTreeSet::new(),
            in_force: Expressions::default(),
            unchanged: BTreeSet::new(),
        }
    }

    /// A definition that replaces `old`.
    pub fn for_update(new: &Value, old: &Value) -> Rules {
        let spec = Spec::of(old);
        let schemas: Vec<&Value> = spec.schemas().collect();
        let any = |wanted: &mut dyn FnMut(&Value) -> bool| schemas.iter().any(|schema| traverse::any(schema, wanted));
        let review_versions = list_at(old, "/spec/conversion/webhook/conversionReviewVersions");
        let established = is_established(old);
        Rules {
            known_review_version: review_versions.is_empty() || knows_a_review_version(review_versions),
            immutable_names: established,
            schema_required: spec.common.schema().is_some() || spec.versions.iter().all(|version| version.own.schema().is_some()),
            valid_types: !any(&mut |schema| {
                let kind = str_at(schema, "/type");
                !kind.is_empty() && !TYPES.contains(&kind)
            }),
            structural: schemas.iter().all(|schema| is_structural(schema)),
            pruned_defaults: !schemas.iter().any(|schema| is_structural(schema) && default_rules::any_unpruned(schema)),
            atomic_sets: !any(&mut |schema| list_type_rules::item_that_is_not_atomic(schema).is_some()),
            map_key_presence: !any(&mut |schema| !list_type_rules::validate_presence(schema, &apimachinery::field::Path::ROOT).is_empty()),
            valid_ca_bundle: established && had_valid_ca_bundle(old),
            many_selectable_fields: many_selectable_fields(new, old),
            in_force: Expressions::of(&spec),
            unchanged: unchanged(new, old),
        }
    }
}

fn is_structural(schema: &Value) -> bool {
    structural::problem(schema).is_none() && structural::validate(schema, &apimachinery::field::Path::ROOT).is_empty()
}

/// Whether a definition is served.
pub fn is_established(definition: &Value) -> bool {
    let conditions = list_at(definition, "/status/conditions");
    let established = conditions.iter().find(|condition| str_at(condition, "/type") == "Established");
    established.is_some_and(|condition| str_at(condition, "/status") == "True")
}

fn had_valid_ca_bundle(old: &Value) -> bool {
    match str_at(old, "/spec/conversion/webhook/clientConfig/caBundle") {
        "" => true,
        bundle => is_ca_bundle(bundle).is_ok(),
    }
}

fn many_selectable_fields(new: &Value, old: &Value) -> BTreeSet<String> {
    let (new, old) = (Spec::of(new), Spec::of(old));
    let kept = |new: &[Value], old: &[Value]| old.len() > MAX_SELECTABLE_FIELDS && new == old;
    let mut found = BTreeSet::new();
    if kept(new.common.selectable_fields, old.common.selectable_fields) {
        found.insert(String::new());
    }
    for version in &new.versions {
        let before = old.versions.iter().find(|v| v.name == version.name);
        if before.is_some_and(|before| kept(version.own.selectable_fields, before.own.selectable_fields)) {
            found.insert(version.name.to_owned());
        }
    }
    found
}

/// The versions whose schemas are what they were.
fn unchanged(new: &Value, old: &Value) -> BTreeSet<String> {
    let versions = list_at(new, "/spec/versions").iter();
    let same = versions.filter(|version| {
        let before = list_at(old, "/spec/versions").iter().find(|v| at(v, "/name") == at(version, "/name"));
        before.is_some_and(|before| at(before, "/schema") == at(version, "/schema"))
    });
    same.map(|version| str_at(version, "/name").to_owned()).collect()
}

/// Whether a schema uses what only structural schemas may use.
pub fn needs_structure(schema: &Value) -> bool {
    traverse::any(schema, &mut |schema| {
        let is_set = |field: &str| match schema.get(field) {
            None | Some(Value::Null) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Bool(set)) => *set || field == "x-kubernetes-preserve-unknown-fields",
            Some(_) => true,
        };
        let extensions = ["embedded-resource", "preserve-unknown-fields", "int-or-string", "list-map-keys", "list-type", "validations"];
        extensions.iter().any(|extension| is_set(&format!("x-kubernetes-{extension}"))) || present(schema, "default").is_some()
    })
}

/// Whether a schema has a default anywhere.
pub fn has_defaults(schema: &Value) -> bool {
    traverse::any(schema, &mut |schema| !at(schema, "/default").is_null())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_old_definition_breaks_it_may_go_on_to_break() {
        let definition = |schema: Value| json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
        let good = definition(json!({"type": "object"}));
        let rules = Rules::for_update(&good, &good);
        assert!(rules.structural && rules.valid_types && rules.schema_required && !rules.immutable_names);
        let bad = definition(
            json!({"properties": {"a": {"type": "text"}, "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}}}),
        );
        assert!(rules.unchanged.contains("v1") && rules.in_force.rules.is_empty());
        let ruled = definition(json!({"type": "object", "properties": {"a": {"type": "string",
            "x-kubernetes-validations": [{"rule": "self != ''", "messageExpression": "self"}, {"rule": "true"}]}}}));
        let rules = Rules::for_update(&good, &ruled);
        assert!(rules.unchanged.is_empty());
        assert_eq!((rules.in_force.rules.len(), rules.in_force.messages.len()), (2, 1));
        let rules = Rules::for_update(&good, &bad);
        assert!(!rules.structural && !rules.valid_types && !rules.atomic_sets && rules.map_key_presence);
    }
}
