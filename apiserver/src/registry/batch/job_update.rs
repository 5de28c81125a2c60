//! The rules of a whole job, at its creation and at a change: the selector, and what may change when.

use std::collections::BTreeMap;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::selector::label::Selector;
use apimachinery::validation::{
    FIELD_IMMUTABLE, LabelSelectorOptions, is_dns1123_label, label_selector_has_invalid_label_value, validate_label_selector,
};
use apimachinery::view::view;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, Value};

use super::job::{NAME_LABELS, UID_LABELS};
use super::{job_spec, job_status};
use crate::registry::internal_form;
use crate::registry::read::{at, bool_at, int_at, list_at, str_at};

/// All field errors of a new job.
pub fn validate_create(new: &Value) -> ErrorList {
    let spec = spec_of(new);
    let mut errors = validate_generated_selector(new, &spec);
    errors.extend(validate_spec(&spec, new, None));
    errors.extend(validate_name_allows_completions(new, &spec));
    errors
}

/// All field errors of a changed job.
pub fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let spec = spec_of(new);
    let path = Path::new("spec");
    let mut errors = validate_spec(&spec, new, Some(old));
    errors.extend(validate_completions(&spec, new, old, &path));
    errors.extend(unchanged(new, old, "selector", None, &path));
    errors.extend(validate_template_change(new, old, &path));
    errors.extend(unchanged(new, old, "completionMode", None, &path));
    errors.extend(unchanged(new, old, "podFailurePolicy", Some("PodFailurePolicy"), &path));
    errors.extend(unchanged(new, old, "backoffLimitPerIndex", None, &path));
    errors.extend(unchanged(new, old, "managedBy", None, &path));
    errors.extend(unchanged(new, old, "successPolicy", Some("SuccessPolicy"), &path));
    errors.extend(validate_name_allows_completions(new, &spec));
    errors
}

fn spec_of(object: &Value) -> JobSpec {
    let job: Job = view(object);
    job.spec.unwrap_or_default()
}

fn validate_spec(spec: &JobSpec, new: &Value, old: Option<&Value>) -> ErrorList {
    let path = Path::new("spec");
    let old_raw = old.map(|o| at(o, "/spec"));
    let mut errors = job_spec::validate(spec, at(new, "/spec"), old_raw, &path);
    let selector_path = path.child("selector");
    match &spec.selector {
        None => errors.push(Error::required(&selector_path, "")),
        Some(selector) => {
            let before: Option<LabelSelector> = old_raw.and_then(|raw| view(at(raw, "/selector")));
            let tolerate = before.as_ref().is_some_and(label_selector_has_invalid_label_value);
            let options = LabelSelectorOptions { allow_invalid_label_value_in_selector: tolerate, ..LabelSelectorOptions::default() };
            errors.extend(validate_label_selector(selector, options, &selector_path));
        }
    }
    if let Ok(selector) = Selector::from_label_selector(spec.selector.as_ref()) {
        let labels = labels_of(spec);
        if !selector.matches(&labels) {
            let shown = at(new, "/spec/template/metadata/labels").clone();
            errors.push(Error::invalid(&path.child("template.metadata.labels"), shown, "`selector` does not match template `labels`"));
        }
    }
    errors
}

fn labels_of(spec: &JobSpec) -> BTreeMap<String, String> {
    spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default()
}

/// A selector that was not set by hand is as the server generates it, and so are the labels that it finds.
fn validate_generated_selector(new: &Value, spec: &JobSpec) -> ErrorList {
    let Some(selector) = spec.selector.as_ref().filter(|_| spec.manual_selector != Some(true)) else { return Vec::new() };
    let (name, uid) = (str_at(new, "/metadata/name"), str_at(new, "/metadata/uid"));
    let mut errors = Vec::new();
    if uid.is_empty() {
        errors.push(Error::required(&Path::new("metadata.uid"), ""));
    }
    let labels = labels_of(spec);
    let labels_path = Path::new("spec.template.metadata.labels");
    let mut expected = BTreeMap::new();
    for (keys, value) in [(UID_LABELS[0], uid), (NAME_LABELS[0], name), (UID_LABELS[1], uid), (NAME_LABELS[1], name)] {
        let detail = format!("must be '{value}'");
        match labels.get(keys) {
            None => errors.push(Error::required(&labels_path.key(keys), detail)),
            Some(found) if found != value => {
                errors.push(Error::invalid(&labels_path.key(keys), at(new, "/spec/template/metadata/labels").clone(), detail));
            }
            Some(_) => {}
        }
        expected.insert(keys.to_owned(), value.to_owned());
    }
    if Selector::from_label_selector(Some(selector)).is_ok_and(|parsed| !parsed.matches(&expected)) {
        errors.push(Error::invalid(&Path::new("spec.selector"), at(new, "/spec/selector").clone(), "`selector` not auto-generated"));
    }
    errors
}

/// Pods of indexed jobs are named after their index, which must fit into a host name.
fn validate_name_allows_completions(new: &Value, spec: &JobSpec) -> ErrorList {
    let completions = spec.completions.unwrap_or(0);
    if spec.completion_mode.as_deref() != Some("Indexed") || completions <= 0 {
        return Vec::new();
    }
    let name = str_at(new, "/metadata/name");
    let host = format!("{name}-{}", completions - 1);
    if is_dns1123_label(&host).is_empty() {
        return Vec::new();
    }
    vec![Error::invalid(&Path::new("metadata.name"), name, format!("will not able to create pod with invalid DNS label: {host}"))]
}

/// Completions change only of indexed jobs, and together with the parallelism.
fn validate_completions(spec: &JobSpec, new: &Value, old: &Value, path: &Path<'_>) -> ErrorList {
    if spec.completion_mode.as_deref() != Some("Indexed") {
        return unchanged(new, old, "completions", None, path).into_iter().collect();
    }
    let same = at(new, "/spec/completions") == at(old, "/spec/completions");
    match spec.completions {
        Some(completions) if !same && Some(completions) != spec.parallelism => {
            vec![Error::invalid(&path.child("completions"), completions, "can only be modified in tandem with spec.parallelism")]
        }
        _ => Vec::new(),
    }
}

/// A field that never changes, shown in the internal form of `type_name` if it is a struct.
fn unchanged(new: &Value, old: &Value, field: &str, type_name: Option<&str>, path: &Path<'_>) -> Option<Error> {
    let pointer = format!("/spec/{field}");
    let (new, old) = (at(new, &pointer), at(old, &pointer));
    if new == old {
        return None;
    }
    let shown = type_name.map_or_else(|| new.clone(), |name| internal_form::render(name, new));
    Some(Error::invalid(&path.child(field), shown, FIELD_IMMUTABLE))
}

/// A job that is suspended and has no pods.
fn template_is_mutable(old: &Value) -> bool {
    let not_started = at(old, "/status/startTime").is_null();
    let suspended = job_status::is_true(list_at(old, "/status/conditions"), "Suspended");
    bool_at(old, "/spec/suspend") && (not_started || suspended) && int_at(old, "/status/active") == 0
}

/// The template never changes, but while no pod was made of it: then what says where pods run and what they need may.
fn validate_template_change(new: &Value, old: &Value, path: &Path<'_>) -> ErrorList {
    let mutable = template_is_mutable(old);
    let template = at(new, "/spec/template");
    let mut before = at(old, "/spec/template").clone();
    if mutable {
        take_scheduling_directives(template, &mut before);
    }
    if bool_at(old, "/spec/suspend") && mutable {
        let (after, mut before) = (at(template, "/spec"), at(&before, "/spec").clone());
        take_resources(after, &mut before, "containers");
        take_resources(after, &mut before, "initContainers");
        if *after == before {
            return Vec::new();
        }
        return vec![Error::invalid(&path.child("template.spec"), internal_form::render("PodSpec", after), FIELD_IMMUTABLE)];
    }
    if *template == before {
        return Vec::new();
    }
    vec![Error::invalid(&path.child("template"), internal_form::render("PodTemplateSpec", template), FIELD_IMMUTABLE)]
}

/// Copies from `new` what may change: node affinity, node selector, tolerations, gates, labels and annotations.
fn take_scheduling_directives(new: &Value, before: &mut Value) {
    for (holder, field) in [
        ("metadata", "labels"),
        ("metadata", "annotations"),
        ("spec", "nodeSelector"),
        ("spec", "tolerations"),
        ("spec", "schedulingGates"),
    ] {
        if (new.get(holder).is_some() || before.get(holder).is_some())
            && let Some(target) = object_in(before, holder)
        {
            take(at(new, &format!("/{holder}")), target, field);
        }
    }
    let after = at(new, "/spec/affinity");
    let Some(spec) = object_in(before, "spec") else { return };
    let had_affinity = spec.get("affinity").is_some_and(|a| !a.is_null());
    if after.is_null() && !had_affinity {
        return;
    }
    let affinity = spec.entry("affinity").or_insert_with(|| Value::Object(Map::new()));
    let Some(fields) = affinity.as_object_mut() else { return };
    take(after, fields, "nodeAffinity");
    if after.is_null() && fields.is_empty() {
        spec.shift_remove("affinity");
    }
}

fn object_in<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    let map = value.as_object_mut()?;
    map.entry(field).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

fn take(from: &Value, to: &mut Map<String, Value>, field: &str) {
    match from.get(field).filter(|v| !v.is_null()) {
        Some(value) => {
            to.insert(field.to_owned(), value.clone());
        }
        None => {
            to.shift_remove(field);
        }
    }
}

/// Copies the resources of containers that are in the same place under the same name.
fn take_resources(new: &Value, before: &mut Value, list: &str) {
    let after = at(new, &format!("/{list}")).as_array();
    let containers = before.get_mut(list).and_then(Value::as_array_mut);
    let (Some(after), Some(containers)) = (after, containers) else { return };
    if after.len() != containers.len() {
        return;
    }
    for (new, old) in after.iter().zip(containers) {
        if at(new, "/name") == at(old, "/name")
            && let Some(fields) = old.as_object_mut()
        {
            take(new, fields, "resources");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(template: Value, suspend: bool) -> Value {
        json!({"spec": {"suspend": suspend, "template": template}})
    }

    fn check(new: &Value, old: &Value) -> Vec<String> {
        validate_template_change(new, old, &Path::new("spec")).iter().map(|e| e.field.clone()).collect()
    }

    #[test]
    fn a_template_changes_only_before_pods_are_made_of_it() {
        let before = json!({"metadata": {}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let mut moved = before.clone();
        moved["spec"]["nodeSelector"] = json!({"zone": "a"});
        moved["spec"]["affinity"] = json!({"nodeAffinity": {}});
        moved["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}});
        let mut other = before.clone();
        other["spec"]["containers"][0]["image"] = json!("j");

        assert!(check(&job(moved.clone(), true), &job(before.clone(), true)).is_empty());
        assert_eq!(check(&job(moved, false), &job(before.clone(), false)), ["spec.template"]);
        assert_eq!(check(&job(other, true), &job(before, true)), ["spec.template.spec"]);
    }

    #[test]
    fn a_generated_selector_finds_the_generated_labels() {
        let labels =
            json!({"controller-uid": "u", "job-name": "j", "batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "x"});
        let object = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": labels}}}});
        let texts: Vec<String> = validate_generated_selector(&object, &spec_of(&object)).iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2);
        assert!(texts[0].starts_with("spec.template.metadata.labels[batch.kubernetes.io/job-name]: Invalid value: {"), "{}", texts[0]);
        assert_eq!(texts[1], "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` not auto-generated");
    }

    #[test]
    fn completions_change_together_with_parallelism() {
        let object = |completions: i32, parallelism: i32| json!({"spec": {"completionMode": "Indexed", "completions": completions, "parallelism": parallelism}});
        let check = |new: &Value, old: &Value| validate_completions(&spec_of(new), new, old, &Path::new("spec")).len();
        assert_eq!(check(&object(3, 3), &object(2, 2)), 0);
        assert_eq!(check(&object(3, 2), &object(2, 2)), 1);
    }
}
