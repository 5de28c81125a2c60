//! Defaults of batch/v1 that stand in no marker.

use serde_json::{Map, Value};

use crate::registry::defaulting::{Hook, is_unset, nested, set_if_empty, set_if_unset};

pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.api.batch.v1.Job", job),
    ("io.k8s.api.batch.v1.CronJob", cron_job),
    ("io.k8s.api.batch.v1.PodFailurePolicyOnPodConditionsPattern", on_pod_conditions_pattern),
];

fn job(object: &mut Map<String, Value>) {
    let Some(spec) = nested(object, "spec") else { return };
    if is_unset(spec, "completions") && is_unset(spec, "parallelism") {
        spec.insert("completions".to_owned(), 1.into());
    }
    set_if_unset(spec, "parallelism", 1);
    let limit = if is_unset(spec, "backoffLimitPerIndex") { 6 } else { i32::MAX };
    set_if_unset(spec, "backoffLimit", limit);
    set_if_unset(spec, "completionMode", "NonIndexed");
    set_if_unset(spec, "suspend", false);
    let replacement = if is_unset(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    set_if_unset(spec, "podReplacementPolicy", replacement);
    set_if_unset(spec, "manualSelector", false);

    // A job without labels takes those of its pods.
    let labels = spec.get("template").and_then(|t| t.get("metadata")).and_then(|m| m.get("labels")).and_then(Value::as_object).cloned();
    if let Some(labels) = labels.filter(|labels| !labels.is_empty())
        && let Some(metadata) = nested(object, "metadata")
        && metadata.get("labels").and_then(Value::as_object).is_none_or(Map::is_empty)
    {
        metadata.insert("labels".to_owned(), Value::Object(labels));
    }
}

fn cron_job(object: &mut Map<String, Value>) {
    let Some(spec) = nested(object, "spec") else { return };
    set_if_empty(spec, "concurrencyPolicy", "Allow");
    set_if_unset(spec, "suspend", false);
    set_if_unset(spec, "successfulJobsHistoryLimit", 3);
    set_if_unset(spec, "failedJobsHistoryLimit", 1);
}

fn on_pod_conditions_pattern(pattern: &mut Map<String, Value>) {
    set_if_empty(pattern, "status", "True");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn defaulted(spec: Value) -> Value {
        let Value::Object(mut map) = json!({"spec": spec}) else { panic!("an object") };
        job(&mut map);
        Value::Object(map)
    }

    #[test]
    fn a_job_runs_one_pod_once() {
        assert_eq!(
            defaulted(json!({}))["spec"],
            json!({"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
                "podReplacementPolicy": "TerminatingOrFailed", "manualSelector": false})
        );
        assert_eq!(defaulted(json!({"parallelism": 2}))["spec"].get("completions"), None);
    }

    #[test]
    fn policies_change_the_defaults() {
        let spec = defaulted(json!({"backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": []}}));
        assert_eq!(spec["spec"]["backoffLimit"], 2_147_483_647);
        assert_eq!(spec["spec"]["podReplacementPolicy"], "Failed");
    }

    #[test]
    fn a_job_without_labels_takes_those_of_its_pods() {
        let object = defaulted(json!({"template": {"metadata": {"labels": {"a": "b"}}}}));
        assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
    }
}
