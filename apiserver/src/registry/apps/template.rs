//! What the workload kinds share about the pods they stamp out: the selector and the template that must agree, and
//! the counts that a status keeps about replicas.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::selector::label::Selector;
use apimachinery::validation::{LabelSelectorOptions, is_dns1123_label, validate_label_selector, validate_nonnegative_field};
use apimachinery::view::view;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use crate::registry::core::pod;
use crate::registry::read::{at, int_at, optional_int_at, str_at};

/// Where the template of most kinds stands, as a JSON pointer.
pub const AT_SPEC: &str = "/spec/template";

/// Drops from the template at `pointer` what disabled feature gates guard, unless the old object uses it.
pub fn drop_disabled(new: &mut Value, old: Option<&Value>, pointer: &str) {
    let old_template = old.map(|o| at(o, pointer));
    if let Some(template) = new.pointer_mut(pointer) {
        pod::strategy::drop_disabled_template_fields(template, old_template);
    }
}

/// What the template at `pointer` warns about.
pub fn warnings(new: &Value, old: Option<&Value>, pointer: &str) -> Vec<String> {
    let dotted = pointer.trim_start_matches('/').replace('/', ".");
    pod::warnings::warnings_for_pod_template(&Path::new(&dotted), at(new, pointer), old.map(|o| at(o, pointer)))
}

/// The name becomes part of pods' host names, which are DNS labels.
pub fn name_warnings(object: &Value) -> Vec<String> {
    let problems = is_dns1123_label(str_at(object, "/metadata/name"));
    if problems.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
        problems.join(" ")
    )]
}

/// Neither labels nor expressions.
pub fn selects_by_nothing(selector: &LabelSelector) -> bool {
    let (labels, expressions) = (selector.match_labels.as_ref(), selector.match_expressions.as_deref());
    labels.is_none_or(BTreeMap::is_empty) && expressions.unwrap_or_default().is_empty()
}

/// A selector that must be there, be well-formed and select by something. `kind` is the word of the message.
pub fn validate_required_selector(raw_spec: &Value, selector: &LabelSelector, kind: &str, spec: &Path<'_>) -> ErrorList {
    let path = spec.child("selector");
    let raw = at(raw_spec, "/selector");
    if raw.is_null() {
        return vec![Error::required(&path, "")];
    }
    let mut errors = validate_label_selector(selector, LabelSelectorOptions::default(), &path);
    if selects_by_nothing(selector) {
        errors.push(Error::invalid(&path, raw.clone(), format!("empty selector is invalid for {kind}")));
    }
    errors
}

/// The template of a Deployment or ReplicaSet: matched by the selector, valid, and for pods that run forever.
pub fn validate_for_replica_set(
    raw_spec: &Value,
    old_raw_spec: Option<&Value>,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    spec: &Path<'_>,
) -> ErrorList {
    let raw_selector = at(raw_spec, "/selector");
    let present = (!raw_selector.is_null()).then_some(selector);
    let Ok(parsed) = Selector::from_label_selector(present) else {
        return vec![Error::invalid(&spec.child("selector"), raw_selector.clone(), "invalid label selector")];
    };
    let path = spec.child("template");
    let mut errors = validate_selected(&parsed, raw_spec, template, &path);
    errors.extend(validate(old_raw_spec, template, &path));
    errors.extend(runs_forever(template, "ReplicaSet", &path));
    errors
}

/// The labels of the template must be such that the selector finds its pods.
pub fn validate_selected(selector: &Selector, raw_spec: &Value, template: &PodTemplateSpec, path: &Path<'_>) -> ErrorList {
    let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    if selector.is_empty() || selector.matches(&labels) {
        return Vec::new();
    }
    let shown = at(raw_spec, "/template/metadata/labels").clone();
    vec![Error::invalid(&path.child("metadata.labels"), shown, "`selector` does not match template `labels`")]
}

/// The template itself.
pub fn validate(old_raw_spec: Option<&Value>, template: &PodTemplateSpec, path: &Path<'_>) -> ErrorList {
    let old: Option<PodTemplateSpec> = old_raw_spec.map(|o| view(at(o, "/template")));
    let options = pod::validation::Options::for_template(old.as_ref());
    pod::validation::validate_pod_template_spec(template, path, &options)
}

/// Pods that are replaced when they end restart always and have no deadline.
pub fn runs_forever(template: &PodTemplateSpec, kind: &str, path: &Path<'_>) -> ErrorList {
    let spec = template.spec.as_ref();
    let mut errors = Vec::new();
    let policy = spec.and_then(|s| s.restart_policy.as_deref()).unwrap_or("");
    if policy != "Always" {
        errors.push(Error::not_supported(&path.child("spec.restartPolicy"), policy, &["Always"]));
    }
    if spec.is_some_and(|s| s.active_deadline_seconds.is_some()) {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(Error::forbidden(&path.child("spec.activeDeadlineSeconds"), detail));
    }
    errors
}

/// None of the counts of a status is negative; absent ones are 0.
pub fn nonnegative_counts(status: &Value, fields: &[&str], path: &Path<'_>) -> ErrorList {
    fields.iter().flat_map(|field| validate_nonnegative_field(count(status, field), &path.child(field))).collect()
}

/// None of the counts exceeds `replicas`.
pub fn counts_within_replicas(status: &Value, fields: &[&str], path: &Path<'_>) -> ErrorList {
    let replicas = count(status, "replicas");
    let over = fields.iter().filter(|field| count(status, field) > replicas);
    over.map(|field| Error::invalid(&path.child(field), count(status, field), "cannot be greater than status.replicas")).collect()
}

/// What is available is ready.
pub fn available_within_ready(status: &Value, detail: &str, path: &Path<'_>) -> ErrorList {
    let available = count(status, "availableReplicas");
    if available <= count(status, "readyReplicas") {
        return Vec::new();
    }
    vec![Error::invalid(&path.child("availableReplicas"), available, detail)]
}

/// `status.collisionCount` never falls, and never disappears.
pub fn collision_count_not_decremented(new: &Value, old: &Value) -> ErrorList {
    let (after, before) = (optional_int_at(new, "/status/collisionCount"), optional_int_at(old, "/status/collisionCount"));
    let Some(before) = before else { return Vec::new() };
    if after.is_some_and(|count| count >= before) {
        return Vec::new();
    }
    vec![Error::invalid(&Path::new("status.collisionCount"), after.unwrap_or(0), "cannot be decremented")]
}

fn count(status: &Value, field: &str) -> i64 {
    int_at(status, &format!("/{field}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_collision_count_never_falls() {
        let object = |count: Value| json!({"status": {"collisionCount": count}});
        let check = |new, old| collision_count_not_decremented(&object(new), &object(old)).iter().map(Error::body).collect::<Vec<_>>();
        assert!(check(json!(2), json!(1)).is_empty());
        assert!(check(json!(2), Value::Null).is_empty());
        assert_eq!(check(json!(1), json!(2)), ["Invalid value: 1: cannot be decremented"]);
        assert_eq!(check(Value::Null, json!(2)), ["Invalid value: 0: cannot be decremented"]);
    }

    #[test]
    fn a_template_must_be_found_by_its_selector() {
        let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "c"}}}});
        let selector: LabelSelector = view(&spec["selector"]);
        let template: PodTemplateSpec = view(&spec["template"]);
        let parsed = Selector::from_label_selector(Some(&selector)).expect("usable");
        let errors = validate_selected(&parsed, &spec, &template, &Path::new("spec").child("template"));
        assert_eq!(
            errors[0].to_string(),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
        );
    }
}
