//! core/v1 ReplicationController.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorKind, ErrorList, Path};
use apimachinery::validation::{is_dns1123_label, long_name, validate_nonnegative_field};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController, ReplicationControllerSpec};
use serde_json::Value;

use super::pod::semantic::same;
use super::pod::strategy::drop_disabled_template_fields;
use super::pod::validation::{Options, validate_pod_template_spec};
use super::pod::warnings::warnings_for_pod_template;
use crate::registry::cells::{CONTAINERS, IMAGES, containers_and_images};
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::{at, int_at, str_at};
use crate::registry::strategy::{drop_field, generation, keep_field, keep_status, set_generation};
use crate::registry::{
    ALL_VERBS, Behaviour, Cx, Definition, Description, Printer, Propagation, SUBRESOURCE_VERBS, Scope, Strategy, Subresource,
    UpdateStrategy,
};

const SPEC: &str = "io.k8s.api.core.v1.ReplicationControllerSpec";
const STATUS: &str = "io.k8s.api.core.v1.ReplicationControllerStatus";
/// Marks fields that an object had in another version of its kind and could not keep.
const NON_CONVERTIBLE: &str = "non-convertible.kubernetes.io";

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    kind: "ReplicationController",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["rc"],
    categories: &["all"],
    schema: "io.k8s.api.core.v1.ReplicationController",
    // A declared rule looks at the name, and none at a prefix.
    name: |_, _| Vec::new(),
    strategy: &ControllerStrategy,
    subresources: &[
        Subresource {
            name: "scale",
            group: "autoscaling",
            version: "v1",
            kind: "Scale",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Scale,
        },
        Subresource {
            name: "status",
            group: "",
            version: "v1",
            kind: "ReplicationController",
            verbs: SUBRESOURCE_VERBS,
            behaviour: Behaviour::Object { strategy: &StatusStrategy, reset_fields: &["spec"] },
        },
    ],
    selectable: &[("status.replicas", |object| int_at(object, "/status/replicas").to_string().into())],
    printer: Printer {
        columns: &[
            NAME,
            printer::integer("Desired", Description::Field(SPEC, "replicas")),
            printer::integer("Current", Description::Field(STATUS, "replicas")),
            printer::integer("Ready", Description::Field(STATUS, "readyReplicas")),
            AGE,
            CONTAINERS,
            IMAGES,
            printer::wide("Selector", Description::Field(SPEC, "selector")),
        ],
        cells: |object, now| {
            let (containers, images) = containers_and_images(object, "/spec/template");
            vec![
                printer::name(object),
                int_at(object, "/spec/replicas").into(),
                int_at(object, "/status/replicas").into(),
                int_at(object, "/status/readyReplicas").into(),
                printer::object_age(object, now),
                containers,
                images,
                printer::labels_text(at(object, "/spec/selector")),
            ]
        },
    },
    reset_fields: &["status"],
};

struct ControllerStrategy;
struct StatusStrategy;

fn drop_disabled(new: &mut Value, old: Option<&Value>) {
    if let Some(template) = new.pointer_mut("/spec/template") {
        drop_disabled_template_fields(template, old.map(|old| at(old, "/spec/template")));
    }
}

impl UpdateStrategy for ControllerStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        drop_disabled(new, Some(old));
        let changed = !same(at(new, "/spec"), at(old, "/spec"));
        set_generation(new, generation(old) + i64::from(changed));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let (new, old): (ReplicationController, ReplicationController) = (view(new), view(old));
        let mut errors = validate(&new, old.spec.as_ref());
        errors.extend(validate_non_convertible(&new, &old));
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        if generation(new) == generation(old) {
            return Vec::new();
        }
        // Upstream hands the two over the wrong way round, so that it warns of what was.
        let spec = Path::new("spec");
        warnings_for_pod_template(&spec.child("template"), at(old, "/spec/template"), Some(at(new, "/spec/template")))
    }
}

impl Strategy for ControllerStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
        drop_disabled(new, None);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(new), None)
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        let problems = is_dns1123_label(str_at(new, "/metadata/name"));
        let mut all = Vec::new();
        if !problems.is_empty() {
            all.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; \
                 a DNS label is recommended: [{}]",
                problems.join(" ")
            ));
        }
        let spec = Path::new("spec");
        all.extend(warnings_for_pod_template(&spec.child("template"), at(new, "/spec/template"), None));
        all
    }

    /// The first of the workload kinds, from before dependents were collected.
    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }
}

impl UpdateStrategy for StatusStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_field(new, old, "spec");
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate_status(at(new, "/status"), &Path::new("status"))
    }
}

fn validate(new: &ReplicationController, old: Option<&ReplicationControllerSpec>) -> ErrorList {
    let empty = ReplicationControllerSpec::default();
    let spec = new.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    let mut errors = ErrorList::new();
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty());
    if selector.is_none() {
        errors.push(Error::required(&path.child("selector"), ""));
    }
    let options = Options::for_template(old.and_then(|old| old.template.as_ref()));
    errors.extend(validate_template(spec.template.as_ref(), selector, &path.child("template"), &options));
    // The declarative rules come last, and that of the name is one of them.
    let name = new.metadata.name.as_deref().unwrap_or_default();
    if old.is_none() && !name.is_empty() {
        let metadata = Path::new("metadata");
        errors.extend(long_name(&metadata.child("name"), name));
    }
    let replicas = path.child("replicas");
    match spec.replicas {
        None => errors.push(Error::required(&replicas, "")),
        Some(count) if old.and_then(|old| old.replicas) != Some(count) => {
            errors.extend(validate_nonnegative_field(count.into(), &replicas));
        }
        Some(_) => {}
    }
    let seconds = spec.min_ready_seconds.unwrap_or(0);
    if old.is_none_or(|old| old.min_ready_seconds.unwrap_or(0) != seconds) {
        errors.extend(validate_nonnegative_field(seconds.into(), &path.child("minReadySeconds")));
    }
    errors
}

/// The pods are found by the selector and run forever.
fn validate_template(
    template: Option<&PodTemplateSpec>,
    selector: Option<&BTreeMap<String, String>>,
    path: &Path<'_>,
    options: &Options,
) -> ErrorList {
    let Some(template) = template else { return vec![Error::required(path, "")] };
    let mut errors = ErrorList::new();
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let matches = |selector: &BTreeMap<String, String>| {
        selector.iter().all(|(key, value)| labels.as_ref().and_then(|labels| labels.get(key)) == Some(value))
    };
    if selector.is_some_and(|selector| !matches(selector)) {
        let shown = serde_json::to_value(&labels).unwrap_or_default();
        errors.push(Error::invalid(&path.child("metadata").child("labels"), shown, "`selector` does not match template `labels`"));
    }
    errors.extend(validate_pod_template_spec(template, path, options));
    let spec = template.spec.as_ref();
    let policy = spec.and_then(|spec| spec.restart_policy.as_deref()).unwrap_or_default();
    if policy != "Always" {
        errors.push(Error::not_supported(&path.child("spec").child("restartPolicy"), policy, &["Always"]));
    }
    if spec.is_some_and(|spec| spec.active_deadline_seconds.is_some()) {
        let detail = "activeDeadlineSeconds in ReplicationController is not Supported";
        errors.push(Error::forbidden(&path.child("spec").child("activeDeadlineSeconds"), detail));
    }
    errors
}

fn validate_non_convertible(new: &ReplicationController, old: &ReplicationController) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in old.metadata.annotations.iter().flatten().filter(|(key, _)| key.starts_with(NON_CONVERTIBLE)) {
        let [_, field] = key.split('/').collect::<Vec<_>>()[..] else { continue };
        if !field.contains("selector") {
            errors.push(Error {
                kind: ErrorKind::NotFound,
                field: field.to_owned(),
                value: Some(value.as_str().into()),
                detail: "unknown non-convertible field".to_owned(),
            });
            continue;
        }
        let of = |rc: &ReplicationController| rc.spec.as_ref().and_then(|spec| spec.selector.clone()).filter(|s| !s.is_empty());
        if of(new) != of(old) {
            let shown = serde_json::to_value(of(new)).unwrap_or_default();
            let path = Path::new("spec");
            errors.push(Error::invalid(&path.child("selector"), shown, "cannot update non-convertible selector"));
        }
    }
    errors
}

fn validate_status(status: &Value, path: &Path<'_>) -> ErrorList {
    let count = |field: &str| status.get(field).and_then(Value::as_i64).unwrap_or(0);
    let fields = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    let mut errors: ErrorList = fields.iter().flat_map(|field| validate_nonnegative_field(count(field), &path.child(field))).collect();
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        if count(field) > count("replicas") {
            errors.push(Error::invalid(&path.child(field), count(field), "cannot be greater than status.replicas"));
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let available = count("availableReplicas");
        errors.push(Error::invalid(&path.child("availableReplicas"), available, "cannot be greater than readyReplicas"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::{cx, messages};

    fn controller(selector: Value) -> Value {
        let pod_spec = json!({
            "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}],
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
        });
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod_spec});
        json!({"metadata": {"name": "rc"}, "spec": {"replicas": 1, "selector": selector, "template": template}})
    }

    #[test]
    fn the_selector_finds_the_templates_pods() {
        let check = |selector: Value| messages(&ControllerStrategy.validate(&cx(), &controller(selector)));
        assert!(check(json!({"a": "b"})).is_empty());
        assert_eq!(check(json!({})), ["spec.selector: Required value"]);
        assert_eq!(
            check(json!({"a": "c"})),
            ["spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"]
        );
    }

    #[test]
    fn the_name_is_checked_last() {
        let object = json!({"metadata": {"name": "Bad_Name!"}, "spec": {"replicas": 1}});
        let errors = ControllerStrategy.validate(&cx(), &object);
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["spec.selector", "spec.template", "metadata.name"]);
    }

    #[test]
    fn counts_are_consistent() {
        let status = json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 3});
        assert_eq!(
            messages(&validate_status(&status, &Path::new("status"))),
            [
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas",
            ]
        );
    }
}
