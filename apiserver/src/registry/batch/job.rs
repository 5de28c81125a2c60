//! Jobs: pods that run to completion, so many times.
//!
//! The engine has named the object and given it its uid before a job is prepared: both go into the labels of its pods.

use std::borrow::Cow;

use apimachinery::field::ErrorList;
use apimachinery::selector::label::format_label_selector;
use apimachinery::time::human_duration;
use apimachinery::validation::{is_valid_label_value, name_is_dns_subdomain};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{job_spec, job_status, job_update};
use crate::registry::apps::template;
use crate::registry::printer::{self, text, wide};
use crate::registry::read::{at, bool_at, int_at, list_at, optional_int_at, str_at};
use crate::registry::strategy::{bump_generation_if_changed, drop_field, generation, keep_all_but_status, keep_status, set_generation};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, Propagation, SUBRESOURCE_VERBS, Scope, Strategy, Subresource,
    UpdateStrategy, cells,
};

pub static RESOURCE: Definition = Definition {
    group: "batch",
    version: "v1",
    plural: "jobs",
    singular: "job",
    kind: "Job",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &["all"],
    schema: "io.k8s.api.batch.v1.Job",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: "batch",
        version: "v1",
        kind: "Job",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["spec"] },
    }],
    selectable: &[("status.successful", |object| Cow::Owned(int_at(object, "/status/succeeded").to_string()))],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Status", Description::Text("Status of the job.")),
    text("Completions", Description::Field("io.k8s.api.batch.v1.JobStatus", "succeeded")),
    text("Duration", Description::Text("Time required to complete the job.")),
    printer::AGE,
    cells::CONTAINERS,
    cells::IMAGES,
    wide("Selector", Description::Field("io.k8s.api.batch.v1.JobSpec", "selector")),
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (names, images) = cells::containers_and_images(object, template::AT_SPEC);
    vec![
        printer::name(object),
        status(object).into(),
        completions(object).into(),
        duration(object, now).into(),
        printer::object_age(object, now),
        names,
        images,
        format_label_selector(object.pointer("/spec/selector")).into(),
    ]
}

fn status(object: &Value) -> &'static str {
    let conditions = list_at(object, "/status/conditions");
    let is = |kind: &str| conditions.iter().any(|c| str_at(c, "/type") == kind && str_at(c, "/status") == "True");
    let deleted = !at(object, "/metadata/deletionTimestamp").is_null();
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if deleted => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(object: &Value) -> String {
    let succeeded = int_at(object, "/status/succeeded");
    match (optional_int_at(object, "/spec/completions"), int_at(object, "/spec/parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

/// From the start to the end, or until now.
fn duration(object: &Value, now: Timestamp) -> String {
    let time = |field: &str| printer::parse_time(at(object, field));
    let Some(start) = time("/status/startTime") else { return String::new() };
    let end = time("/status/completionTime").unwrap_or(now);
    human_duration(i64::try_from(end.duration_since(start).as_nanos()).unwrap_or(i64::MAX))
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        if !bool_at(new, "/spec/manualSelector") {
            // Labels that were defaulted from the template are one map with it upstream, and so get the generated ones too.
            let shared = at(new, "/metadata/labels") == at(new, "/spec/template/metadata/labels");
            generate_selector(new);
            take_labels_of_pods(new, shared);
        }
        drop_field(new, "status");
        set_generation(new, 1);
        job_spec::drop_disabled(new.pointer_mut("/spec"), None);
        template::drop_disabled(new, None, template::AT_SPEC);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        job_update::validate_create(new)
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        let mut warnings = template::name_warnings(new);
        warnings.extend(job_spec::warnings(new, None, "/spec"));
        warnings
    }

    /// For compatibility with how jobs were deleted before dependents were collected.
    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        job_spec::drop_disabled(new.pointer_mut("/spec"), Some(at(old, "/spec")));
        template::drop_disabled(new, Some(old), template::AT_SPEC);
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        job_update::validate_update(new, old)
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        if generation(new) == generation(old) { Vec::new() } else { job_spec::warnings(new, Some(old), "/spec") }
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        job_status::validate_update(new, old)
    }
}

/// The labels by which a job's pods are told: name and uid, each in the old spelling and in the prefixed one.
pub const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
pub const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

/// Labels the template with the job's name and uid, and selects by the uid. What the user set there stays, and is
/// refused later if it differs.
fn generate_selector(object: &mut Value) {
    let name = str_at(object, "/metadata/name").to_owned();
    let uid = str_at(object, "/metadata/uid").to_owned();
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let labels = child(spec, "template").and_then(|t| child(t, "metadata")).and_then(|m| child(m, "labels"));
    if let Some(labels) = labels {
        for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
            for key in keys {
                labels.entry(key).or_insert_with(|| value.as_str().into());
            }
        }
        labels.sort_keys();
    }
    if let Some(labels) = child(spec, "selector").and_then(|s| child(s, "matchLabels")) {
        labels.entry(UID_LABELS[1]).or_insert_with(|| uid.into());
        labels.sort_keys();
    }
}

/// Upstream defaults a job when it reads it back, so one without labels shows those generated for its pods. Labels that
/// cannot be are left where they are, to be refused there only.
fn take_labels_of_pods(object: &mut Value, shared: bool) {
    let Some(labels) = at(object, "/spec/template/metadata/labels").as_object().cloned() else { return };
    let valid = labels.values().all(|value| is_valid_label_value(value.as_str().unwrap_or("")).is_empty());
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if valid && (shared || metadata.get("labels").and_then(Value::as_object).is_none_or(Map::is_empty)) {
        metadata.insert("labels".to_owned(), Value::Object(labels));
    }
}

/// A nested object, made if there is none, before its siblings as metadata stands.
fn child<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    if map.get(field).is_none_or(Value::is_null) {
        map.shift_remove(field);
        map.shift_insert(0, field.to_owned(), Value::Object(Map::new()));
    }
    map.get_mut(field).and_then(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_is_generated_from_the_uid() {
        let mut object = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {}}}});
        generate_selector(&mut object);
        assert_eq!(
            object["spec"]["template"]["metadata"]["labels"],
            json!({"batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "j", "controller-uid": "u", "job-name": "j"})
        );
        assert_eq!(object["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
    }

    #[test]
    fn a_job_is_what_its_conditions_say() {
        let job = |kind: &str, value: &str| status(&json!({"status": {"conditions": [{"type": kind, "status": value}]}}));
        assert_eq!((job("Complete", "True"), job("Complete", "False"), job("Suspended", "True")), ("Complete", "Running", "Suspended"));
    }

    #[test]
    fn a_duration_ends_with_the_job() {
        let now: Timestamp = "2024-01-01T01:00:00Z".parse().expect("a time");
        let start = "2024-01-01T00:00:00Z";
        assert_eq!(duration(&json!({}), now), "");
        assert_eq!(duration(&json!({"status": {"startTime": start}}), now), "60m");
        assert_eq!(duration(&json!({"status": {"startTime": start, "completionTime": "2024-01-01T00:00:05Z"}}), now), "5s");
    }
}
