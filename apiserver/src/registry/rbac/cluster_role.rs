//! ClusterRoles: what may be done anywhere, and to what is in no namespace. A role may be put together from others by label.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::selector::label::Selector;
use apimachinery::validation::{LabelSelectorOptions, validate_label_selector, validate_path_segment_name};
use apimachinery::view::view;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::Value;

use super::rule::validate_rules;
use crate::registry::printer;
use crate::registry::{ALL_VERBS, Cx, Definition, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "clusterroles",
    singular: "clusterrole",
    kind: "ClusterRole",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.rbac.v1.ClusterRole",
    name: validate_path_segment_name,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: printer::DEFAULT,
    reset_fields: &[],
};

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new, None)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(new, Some(old))
    }
}

fn validate(new: &Value, old: Option<&Value>) -> ErrorList {
    let mut findings = validate_rules(new, old, false);
    // An object that already selects by an impossible value keeps that right.
    let tolerant = old.is_some_and(|old| selects_by_an_invalid_value(&view(old)));
    findings.written.extend(validate_aggregation(&view(new), tolerant));
    findings.into_errors()
}

fn validate_aggregation(role: &ClusterRole, tolerant: bool) -> ErrorList {
    let Some(rule) = &role.aggregation_rule else { return ErrorList::new() };
    let selectors = rule.cluster_role_selectors.as_deref().unwrap_or_default();
    let path = Path::new("aggregationRule.clusterRoleSelectors");
    let mut errors = ErrorList::new();
    if selectors.is_empty() {
        errors.push(Error::required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil"));
    }
    let options = LabelSelectorOptions { allow_invalid_label_value_in_selector: tolerant, ..LabelSelectorOptions::default() };
    for (i, selector) in selectors.iter().enumerate() {
        let path = path.index(i);
        errors.extend(validate_label_selector(selector, options, &path));
        if Selector::from_label_selector(Some(selector)).is_err() {
            errors.push(Error::invalid(&path, Value::Null, "invalid label selector."));
        }
    }
    errors
}

fn selects_by_an_invalid_value(role: &ClusterRole) -> bool {
    let selectors = role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    let mut strict = selectors.map(|selector| validate_label_selector(selector, LabelSelectorOptions::default(), &Path::ROOT));
    strict.any(|errors| !errors.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_aggregation_selects_something() {
        let check = |object: Value| validate(&object, None).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(check(json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}})).is_empty());
        assert_eq!(
            check(json!({"aggregationRule": {}})),
            [
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"
            ]
        );
        let bad = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "x"}]}]}});
        assert_eq!(check(bad).last().unwrap(), "aggregationRule.clusterRoleSelectors[0]: Invalid value: null: invalid label selector.");
    }
}
