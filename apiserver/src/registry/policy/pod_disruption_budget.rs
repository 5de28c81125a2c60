//! PodDisruptionBudgets: how many pods of a set may be voluntarily disrupted at once.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{
    LabelSelectorOptions, validate_conditions, validate_label_selector, validate_nonnegative_field, validate_path_segment_name,
};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use serde_json::{Value, json};

use crate::registry::apps::int_or_percent::{is_not_more_than_100_percent, shown, validate_positive_int_or_percent};
use crate::registry::printer::{self, integer, text};
use crate::registry::read::{at, int_at, list_at};
use crate::registry::strategy::{bump_generation_if_changed, drop_field, keep_all_but_status, keep_status, set_generation};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

pub static RESOURCE: Definition = Definition {
    group: "policy",
    version: "v1",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    kind: "PodDisruptionBudget",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["pdb"],
    categories: &[],
    schema: "io.k8s.api.policy.v1.PodDisruptionBudget",
    name: validate_path_segment_name,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: "policy",
        version: "v1",
        kind: "PodDisruptionBudget",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Min Available", Description::Text("The minimum number of pods that must be available.")),
    text("Max Unavailable", Description::Text("The maximum number of pods that may be unavailable.")),
    integer("Allowed Disruptions", Description::Text("Calculated number of pods that may be disrupted at this time.")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let bound = |pointer: &str| match at(object, pointer) {
        Value::String(share) => share.clone(),
        Value::Number(count) => count.to_string(),
        _ => "N/A".to_owned(),
    };
    vec![
        printer::name(object),
        bound("/spec/minAvailable").into(),
        bound("/spec/maxUnavailable").into(),
        int_at(object, "/status/disruptionsAllowed").into(),
        printer::object_age(object, now),
    ]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
        strip_reserved_expressions(new);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate_spec(new, LabelSelectorOptions::default())
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        bump_generation_if_changed(new, old, &["spec"]);
        if at(new, "/spec/selector") != at(old, "/spec/selector") {
            strip_reserved_expressions(new);
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let before: PodDisruptionBudget = view(old);
        let selector = before.spec.and_then(|s| s.selector);
        let tolerate = selector.is_some_and(|s| !validate_label_selector(&s, LabelSelectorOptions::default(), &Path::ROOT).is_empty());
        validate_spec(new, LabelSelectorOptions { allow_invalid_label_value_in_selector: tolerate, ..LabelSelectorOptions::default() })
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        let path = Path::new("status");
        let mut errors = validate_conditions(list_at(new, "/status/conditions"), &path.child("conditions"));
        for count in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            errors.extend(validate_nonnegative_field(int_at(new, &format!("/status/{count}")), &path.child(count)));
        }
        errors
    }
}

/// The label by which v1beta1 told "selects nothing" from "selects everything".
const RESERVED: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

/// An expression on the reserved label stands alone (as "selects nothing") or is dropped.
fn strip_reserved_expressions(object: &mut Value) {
    let Some(selector) = object.pointer_mut("/spec/selector").and_then(Value::as_object_mut) else { return };
    if Value::Object(selector.clone()) == json!({"matchExpressions": [{"key": RESERVED, "operator": "Exists"}]}) {
        return;
    }
    let Some(expressions) = selector.get_mut("matchExpressions").and_then(Value::as_array_mut) else { return };
    expressions.retain(|expression| at(expression, "/key") != RESERVED);
    if expressions.is_empty() {
        selector.shift_remove("matchExpressions");
    }
}

fn validate_spec(object: &Value, options: LabelSelectorOptions) -> ErrorList {
    let budget: PodDisruptionBudget = view(object);
    let spec: PodDisruptionBudgetSpec = budget.spec.unwrap_or_default();
    let path = Path::new("spec");
    let mut errors = Vec::new();
    if let (Some(min), Some(max)) = (&spec.min_available, &spec.max_unavailable) {
        let value = json!({"MinAvailable": shown(min), "Selector": at(object, "/spec/selector"), "MaxUnavailable": shown(max),
            "UnhealthyPodEvictionPolicy": spec.unhealthy_pod_eviction_policy});
        errors.push(Error::invalid(&path, value, "minAvailable and maxUnavailable cannot be both set"));
    }
    for (field, bound) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        if let Some(bound) = bound {
            let bound_path = path.child(field);
            errors.extend(validate_positive_int_or_percent(bound, &bound_path));
            errors.extend(is_not_more_than_100_percent(bound, &bound_path));
        }
    }
    if let Some(selector) = &spec.selector {
        errors.extend(validate_label_selector(selector, options, &path.child("selector")));
    }
    if let Some(policy) = spec.unhealthy_pod_eviction_policy.as_deref()
        && !["AlwaysAllow", "IfHealthyBudget"].contains(&policy)
    {
        errors.push(Error::not_supported(&path.child("unhealthyPodEvictionPolicy"), policy, &["AlwaysAllow", "IfHealthyBudget"]));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_has_one_bound() {
        let check = |spec: Value| {
            let errors = validate_spec(&json!({"spec": spec}), LabelSelectorOptions::default());
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(check(json!({"minAvailable": 1})).is_empty());
        assert_eq!(
            check(json!({"minAvailable": 1, "maxUnavailable": "5%"})),
            [
                r#"spec: Invalid value: {"MinAvailable":1,"Selector":null,"MaxUnavailable":"5%","UnhealthyPodEvictionPolicy":null}: minAvailable and maxUnavailable cannot be both set"#
            ]
        );
        assert_eq!(
            check(json!({"maxUnavailable": "200%", "unhealthyPodEvictionPolicy": "x"})),
            [
                "spec.maxUnavailable: Invalid value: \"200%\": must not be greater than 100%",
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"x\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\""
            ]
        );
    }

    #[test]
    fn the_reserved_label_stands_alone_or_goes() {
        let reserved = json!({"key": RESERVED, "operator": "Exists"});
        let stripped = |expressions: Value| {
            let mut object = json!({"spec": {"selector": {"matchExpressions": expressions}}});
            strip_reserved_expressions(&mut object);
            object.pointer("/spec/selector").cloned().unwrap_or_default()
        };
        assert_eq!(stripped(json!([reserved])), json!({"matchExpressions": [reserved]}));
        let other = json!({"key": "a", "operator": "Exists"});
        assert_eq!(stripped(json!([reserved, other])), json!({"matchExpressions": [other]}));
        assert_eq!(stripped(json!([{"key": RESERVED, "operator": "DoesNotExist"}])), json!({}));
    }
}
