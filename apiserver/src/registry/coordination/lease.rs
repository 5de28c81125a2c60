//! Leases: who holds what, and until when. Nodes renew theirs every few seconds, so nothing here is costly.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::name_is_dns_subdomain;
use jiff::Timestamp;
use serde_json::Value;

use crate::registry::printer::{self, text};
use crate::registry::read::{at, optional_int_at, str_at};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: "coordination.k8s.io",
    version: "v1",
    plural: "leases",
    singular: "lease",
    kind: "Lease",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.coordination.v1.Lease",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

const COLUMNS: &[Column] =
    &[printer::NAME, text("Holder", Description::Field("io.k8s.api.coordination.v1.LeaseSpec", "holderIdentity")), printer::AGE];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printer::name(object), str_at(object, "/spec/holderIdentity").into(), printer::object_age(object, now)]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_coordinated(new, &Value::Null);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate_spec(new)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        drop_coordinated(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate_spec(new)
    }
}

/// The feature gate CoordinatedLeaderElection is beta and off: its fields stay only where they are in use.
fn drop_coordinated(new: &mut Value, old: &Value) {
    for field in ["strategy", "preferredHolder"] {
        if at(old, "/spec").get(field).is_none_or(Value::is_null)
            && let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut)
        {
            spec.shift_remove(field);
        }
    }
}

fn validate_spec(object: &Value) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    if let Some(seconds) = optional_int_at(object, "/spec/leaseDurationSeconds")
        && seconds <= 0
    {
        errors.push(Error::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
    }
    if let Some(transitions) = optional_int_at(object, "/spec/leaseTransitions")
        && transitions < 0
    {
        errors.push(Error::invalid(&path.child("leaseTransitions"), transitions, "must be greater than or equal to 0"));
    }
    let strategy = at(object, "/spec/strategy").as_str();
    if let Some(strategy) = strategy {
        errors.extend(validate_coordinated_strategy(strategy, &path.child("strategy")));
    }
    if !str_at(object, "/spec/preferredHolder").is_empty() && strategy.unwrap_or("").is_empty() {
        errors.push(Error::forbidden(&path.child("preferredHolder"), "may only be specified if `strategy` is defined"));
    }
    errors
}

/// A strategy of ours has no domain, anyone else's has one. Upstream's path names the field twice.
fn validate_coordinated_strategy(strategy: &str, path: &Path<'_>) -> ErrorList {
    let path = path.child("strategy");
    if strategy.contains('/') {
        let problems = apimachinery::validation::is_qualified_name(strategy);
        return problems.into_iter().map(|message| Error::invalid(&path, strategy, message)).collect();
    }
    match strategy {
        "OldestEmulationVersion" => Vec::new(),
        other => vec![Error::not_supported(&path, other, &["OldestEmulationVersion"])],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_positive_and_transitions_are_counted() {
        let check = |spec: Value| validate_spec(&json!({"spec": spec})).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(check(json!({"leaseDurationSeconds": 1, "leaseTransitions": 0})).is_empty());
        assert_eq!(
            check(json!({"leaseDurationSeconds": 0, "leaseTransitions": -1})),
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
        assert_eq!(
            check(json!({"preferredHolder": "a"})),
            ["spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"]
        );
        assert_eq!(
            check(json!({"strategy": "x"})),
            ["spec.strategy.strategy: Unsupported value: \"x\": supported values: \"OldestEmulationVersion\""]
        );
    }

    #[test]
    fn fields_of_a_gate_that_is_off_stay_only_where_they_were() {
        let mut new = json!({"spec": {"strategy": "x", "preferredHolder": "y"}});
        drop_coordinated(&mut new, &json!({"spec": {"strategy": "z"}}));
        assert_eq!(new, json!({"spec": {"strategy": "x"}}));
    }
}
