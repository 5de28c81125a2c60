//! RuntimeClasses: which handler of a node's runtime runs a pod, what it costs and where it runs.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{name_is_dns_label, name_is_dns_subdomain, short_name, validate_labels};
use apimachinery::view::view;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::api::node::v1::{RuntimeClass, Scheduling};
use serde_json::{Value, json};

use crate::registry::core::pod;
use crate::registry::printer::{self, text};
use crate::registry::read::{at, str_at};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: "node.k8s.io",
    version: "v1",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    kind: "RuntimeClass",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.node.v1.RuntimeClass",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

/// Upstream looks the handler's description up in ObjectMeta, where there is none.
const COLUMNS: &[Column] = &[printer::NAME, text("Handler", Description::Text("")), printer::AGE];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printer::name(object), str_at(object, "/handler").into(), printer::object_age(object, now)]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new, None)
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(new)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(new, Some(old))
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings(new)
    }
}

fn validate(new: &Value, old: Option<&Value>) -> ErrorList {
    let class: RuntimeClass = view(new);
    let path = Path::new("handler");
    let (mut errors, mut declared) = (Vec::new(), Vec::new());
    match old {
        // A handler that did not change is left to the rule that the declared one otherwise replaces.
        Some(old) if at(old, "/handler") == at(new, "/handler") => {
            let problems = name_is_dns_label(&class.handler, false);
            errors.extend(problems.into_iter().map(|message| Error::invalid(&path, class.handler.as_str(), message)));
        }
        Some(_) => {
            // The declared rule stops at the change; what the written rule finds besides has no declared counterpart.
            if !class.handler.is_empty() {
                let problems = name_is_dns_label(&class.handler, false);
                errors.extend(problems.into_iter().map(|message| Error::invalid(&path, class.handler.as_str(), message)));
            }
            declared.push(Error::invalid(&path, Value::Null, "field is immutable"));
            if class.handler.is_empty() {
                declared.push(Error::required(&path, ""));
            }
        }
        None if class.handler.is_empty() => declared.push(Error::required(&path, "")),
        None => declared.extend(short_name(&path, &class.handler)),
    }
    if let Some(overhead) = class.overhead {
        let resources = ResourceRequirements { limits: overhead.pod_fixed, ..ResourceRequirements::default() };
        errors.extend(pod::validation::validate_overhead(&resources, &Path::new("overhead")));
    }
    if let Some(scheduling) = &class.scheduling {
        errors.extend(validate_scheduling(scheduling, &Path::new("scheduling")));
    }
    errors.extend(declared);
    errors
}

fn validate_scheduling(scheduling: &Scheduling, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    if let Some(labels) = &scheduling.node_selector {
        errors.extend(validate_labels(labels, &path.child("nodeSelector")));
    }
    let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
    let tolerations_path = path.child("tolerations");
    errors.extend(pod::validation::validate_tolerations(tolerations, &tolerations_path));
    errors.extend(unique_tolerations(tolerations, &tolerations_path));
    errors
}

/// Two tolerations differ in more than how long they last.
fn unique_tolerations(tolerations: &[Toleration], path: &Path<'_>) -> ErrorList {
    let key = |t: &Toleration| (t.key.clone(), t.operator.clone(), t.value.clone(), t.effect.clone());
    let mut seen = Vec::with_capacity(tolerations.len());
    let mut errors = Vec::new();
    for (i, toleration) in tolerations.iter().enumerate() {
        if seen.contains(&key(toleration)) {
            let text = |s: &Option<String>| s.clone().unwrap_or_default();
            let value = json!({"Key": text(&toleration.key), "Operator": text(&toleration.operator), "Value": text(&toleration.value),
                "Effect": text(&toleration.effect), "TolerationSeconds": toleration.toleration_seconds});
            errors.push(Error::duplicate(&path.index(i), value));
        } else {
            seen.push(key(toleration));
        }
    }
    errors
}

/// Node labels that have newer names.
const DEPRECATED_NODE_LABELS: [(&str, &str); 8] = [
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
];

fn warnings(object: &Value) -> Vec<String> {
    let selector = at(object, "/scheduling/nodeSelector").as_object();
    let deprecated = DEPRECATED_NODE_LABELS.iter().filter(|(label, _)| selector.is_some_and(|s| s.contains_key(*label)));
    deprecated.map(|(_, message)| format!("scheduling.nodeSelector: {message}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(new: Value, old: Option<Value>) -> Vec<String> {
        validate(&new, old.as_ref()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_handler_is_a_label_and_never_changes() {
        assert!(check(json!({"handler": "runc"}), None).is_empty());
        assert_eq!(check(json!({}), None), ["handler: Required value"]);
        assert_eq!(check(json!({"handler": "a"}), Some(json!({"handler": "b"}))), ["handler: Invalid value: null: field is immutable"]);
        assert_eq!(check(json!({"handler": "A"}), None).len(), 1);
    }

    #[test]
    fn tolerations_are_unique_but_for_their_duration() {
        let tolerations: Vec<Toleration> =
            view(&json!([{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute", "tolerationSeconds": 3}]));
        let errors = unique_tolerations(&tolerations, &Path::new("t"));
        assert_eq!(
            errors[0].to_string(),
            r#"t[1]: Duplicate value: {"Key":"a","Operator":"","Value":"","Effect":"NoExecute","TolerationSeconds":3}"#
        );
    }

    #[test]
    fn deprecated_node_labels_are_warned_about() {
        let object = json!({"scheduling": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}}});
        assert_eq!(warnings(&object), ["scheduling.nodeSelector: deprecated since v1.14; use \"kubernetes.io/os\" instead"]);
    }
}
