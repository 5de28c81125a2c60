//! The rules of a job's spec, alone or in the template of a CronJob.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_domain_prefixed_path, validate_nonnegative_field};
use k8s_openapi::api::batch::v1::JobSpec;
use serde_json::Value;

use super::job_policies;
use crate::registry::read::{at, int_at};
use crate::registry::{apps::template, internal_form};

const MAX_PARALLELISM_FOR_INDEXED: i32 = 100_000;
const MAX_FAILED_INDEXES_FOR_INDEXED: i32 = 100_000;
const COMPLETIONS_SOFT_LIMIT: i32 = 100_000;
const PARALLELISM_LIMIT_FOR_HIGH_COMPLETIONS: i32 = 10_000;
const MAX_FAILED_INDEXES_FOR_HIGH_COMPLETIONS: i32 = 10_000;
const MAX_MANAGED_BY_BYTES: usize = 63;

/// The feature gate WorkloadWithJob is alpha and off: its field stays only where it is in use.
pub fn drop_disabled(new: Option<&mut Value>, old: Option<&Value>) {
    let in_use = old.is_some_and(|spec| !at(spec, "/scheduling").is_null());
    if !in_use && let Some(spec) = new.and_then(Value::as_object_mut) {
        spec.shift_remove("scheduling");
    }
}

/// What the job spec at `pointer` warns about.
pub fn warnings(new: &Value, old: Option<&Value>, pointer: &str) -> Vec<String> {
    let spec = at(new, pointer);
    let mut warnings = Vec::new();
    let many = int_at(spec, "/completions") > i64::from(COMPLETIONS_SOFT_LIMIT);
    let wide = int_at(spec, "/parallelism") > i64::from(PARALLELISM_LIMIT_FOR_HIGH_COMPLETIONS);
    if at(spec, "/completionMode") == "Indexed" && many && wide {
        warnings.push(format!(
            "{}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail",
            pointer.trim_start_matches('/').replace('/', ".")
        ));
    }
    warnings.extend(template::warnings(new, old, &format!("{pointer}/template")));
    warnings
}

/// All rules but those of the selector, which templates do not have.
pub fn validate(spec: &JobSpec, raw: &Value, old_raw: Option<&Value>, path: &Path<'_>) -> ErrorList {
    let mut errors = validate_numbers(spec, path);
    if let Some(manager) = spec.managed_by.as_deref() {
        let manager_path = path.child("managedBy");
        errors.extend(is_domain_prefixed_path(&manager_path, manager));
        if manager.len() > MAX_MANAGED_BY_BYTES {
            errors.push(Error::too_long(&manager_path, MAX_MANAGED_BY_BYTES));
        }
    }
    errors.extend(validate_completion_mode(spec, path));
    if let Some(policy) = &spec.pod_failure_policy {
        errors.extend(job_policies::validate_pod_failure_policy(policy, spec, &path.child("podFailurePolicy")));
    }
    if let Some(policy) = &spec.success_policy {
        let policy_path = path.child("successPolicy");
        if spec.completion_mode.as_deref() == Some("Indexed") {
            errors.extend(job_policies::validate_success_policy(policy, spec.completions.unwrap_or(0), &policy_path));
        } else {
            let shown = internal_form::render("SuccessPolicy", at(raw, "/successPolicy"));
            errors.push(Error::invalid(&policy_path, shown, "requires indexed completion mode"));
        }
    }
    errors.extend(validate_pod_replacement_policy(spec, &path.child("podReplacementPolicy")));
    errors.extend(template::validate(old_raw, &spec.template, &path.child("template")));
    errors.extend(validate_restart_policy(spec, &path.child("template.spec.restartPolicy")));
    errors
}

fn validate_numbers(spec: &JobSpec, path: &Path<'_>) -> ErrorList {
    let numbers = [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.map(i64::from)),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ];
    let mut errors = Vec::new();
    for (field, number) in numbers {
        if let Some(number) = number {
            errors.extend(validate_nonnegative_field(number, &path.child(field)));
        }
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.push(Error::required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    errors
}

fn validate_completion_mode(spec: &JobSpec, path: &Path<'_>) -> ErrorList {
    let mode = spec.completion_mode.as_deref();
    let mut errors = Vec::new();
    if let Some(mode) = mode
        && !["NonIndexed", "Indexed"].contains(&mode)
    {
        errors.push(Error::not_supported(&path.child("completionMode"), mode, &["NonIndexed", "Indexed"]));
    }
    if mode == Some("Indexed") {
        errors.extend(validate_indexed(spec, path));
    }
    if matches!(mode, None | Some("NonIndexed")) {
        for (field, number) in [("backoffLimitPerIndex", spec.backoff_limit_per_index), ("maxFailedIndexes", spec.max_failed_indexes)] {
            if let Some(number) = number {
                errors.push(Error::invalid(&path.child(field), number, "requires indexed completion mode"));
            }
        }
    }
    errors
}

fn validate_indexed(spec: &JobSpec, path: &Path<'_>) -> ErrorList {
    let (parallelism_path, max_failed_path) = (path.child("parallelism"), path.child("maxFailedIndexes"));
    let parallelism = spec.parallelism.unwrap_or(0);
    let max_failed = spec.max_failed_indexes;
    let mut errors = Vec::new();
    if spec.completions.is_none() {
        errors.push(Error::required(&path.child("completions"), "when completion mode is Indexed"));
    }
    if parallelism > MAX_PARALLELISM_FOR_INDEXED {
        let detail = format!("must be less than or equal to {MAX_PARALLELISM_FOR_INDEXED} when completion mode is Indexed");
        errors.push(Error::invalid(&parallelism_path, parallelism, detail));
    }
    if let (Some(completions), Some(max)) = (spec.completions, max_failed)
        && max > completions
    {
        errors.push(Error::invalid(&max_failed_path, max, "must be less than or equal to completions"));
    }
    if let Some(max) = max_failed.filter(|max| *max > MAX_FAILED_INDEXES_FOR_INDEXED) {
        let detail = format!("must be less than or equal to {MAX_FAILED_INDEXES_FOR_INDEXED}");
        errors.push(Error::invalid(&max_failed_path, max, detail));
    }
    if spec.completions.unwrap_or(0) <= COMPLETIONS_SOFT_LIMIT || spec.backoff_limit_per_index.is_none() {
        return errors;
    }
    let with_limit = |limit: i32| {
        format!(
            "must be less than or equal to {limit} when completions are above {COMPLETIONS_SOFT_LIMIT} and used with backoff limit per index"
        )
    };
    if max_failed.is_none() {
        let detail = format!("must be specified when completions is above {COMPLETIONS_SOFT_LIMIT}");
        errors.push(Error::required(&max_failed_path, detail));
    }
    if parallelism > PARALLELISM_LIMIT_FOR_HIGH_COMPLETIONS {
        errors.push(Error::invalid(&parallelism_path, parallelism, with_limit(PARALLELISM_LIMIT_FOR_HIGH_COMPLETIONS)));
    }
    if let Some(max) = max_failed.filter(|max| *max > MAX_FAILED_INDEXES_FOR_HIGH_COMPLETIONS) {
        errors.push(Error::invalid(&max_failed_path, max, with_limit(MAX_FAILED_INDEXES_FOR_HIGH_COMPLETIONS)));
    }
    errors
}

fn validate_pod_replacement_policy(spec: &JobSpec, path: &Path<'_>) -> ErrorList {
    let supported: &[&str] = if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    match spec.pod_replacement_policy.as_deref() {
        Some(policy) if !supported.contains(&policy) => vec![Error::not_supported(path, policy, supported)],
        _ => Vec::new(),
    }
}

/// Pods of jobs end; with a failure policy, the job alone decides about the next try.
fn validate_restart_policy(spec: &JobSpec, path: &Path<'_>) -> ErrorList {
    let policy = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("");
    match policy {
        "" | "Always" => vec![Error::required(path, "valid values: \"OnFailure\", \"Never\"")],
        "Never" => Vec::new(),
        "OnFailure" if spec.pod_failure_policy.is_none() => Vec::new(),
        "OnFailure" => vec![Error::invalid(path, policy, "only \"Never\" is supported when podFailurePolicy is specified")],
        other => vec![Error::not_supported(path, other, &["OnFailure", "Never"])],
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::json;

    use super::*;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn limits_per_index_need_indexes() {
        let check = |spec: Value| texts(validate_completion_mode(&view(&spec), &Path::new("spec")));
        assert_eq!(
            check(json!({"completionMode": "NonIndexed", "backoffLimitPerIndex": 1})),
            ["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"]
        );
        assert_eq!(check(json!({"completionMode": "Indexed"})), ["spec.completions: Required value: when completion mode is Indexed"]);
        assert_eq!(
            check(json!({"completionMode": "Indexed", "completions": 200_000, "parallelism": 20_000, "backoffLimitPerIndex": 1})),
            [
                "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
                "spec.parallelism: Invalid value: 20000: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index"
            ]
        );
    }

    #[test]
    fn pods_of_jobs_end() {
        let check = |policy: &str, failure: Value| {
            let spec = json!({"template": {"spec": {"containers": [], "restartPolicy": policy}}, "podFailurePolicy": failure});
            texts(validate_restart_policy(&view(&spec), &Path::new("r")))
        };
        assert!(check("OnFailure", Value::Null).is_empty());
        assert_eq!(check("Always", Value::Null), ["r: Required value: valid values: \"OnFailure\", \"Never\""]);
        assert_eq!(
            check("OnFailure", json!({"rules": []})),
            ["r: Invalid value: \"OnFailure\": only \"Never\" is supported when podFailurePolicy is specified"]
        );
    }

    #[test]
    fn a_field_of_a_gate_that_is_off_is_dropped() {
        let mut spec = json!({"scheduling": {}, "suspend": false});
        drop_disabled(Some(&mut spec), None);
        assert_eq!(spec, json!({"suspend": false}));
    }
}
