//! The policies by which a job judges its pods: what a failure means, and when the job has succeeded.

use apimachinery::field::{Error, ErrorKind, ErrorList, Path};
use apimachinery::validation::{is_qualified_name, validate_nonnegative_field};
use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
    SuccessPolicy, SuccessPolicyRule,
};
use serde_json::{Value, json};

use super::indexes;

const MAX_POD_FAILURE_POLICY_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_POD_CONDITIONS: usize = 20;
const MAX_SUCCESS_POLICY_RULES: usize = 20;
const MAX_SUCCEEDED_INDEXES_BYTES: usize = 64 * 1024;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// An "Invalid value" that shows no value.
pub fn invalid_without_value(path: &Path<'_>, detail: impl Into<String>) -> Error {
    Error { kind: ErrorKind::Invalid, field: path.to_string(), value: None, detail: detail.into() }
}

/// A value out of a closed set: required, and one of `valid`.
fn one_of(value: &str, valid: &[&str], path: &Path<'_>) -> Option<Error> {
    if value.is_empty() {
        let quoted: Vec<String> = valid.iter().map(|v| format!("\"{v}\"")).collect();
        return Some(Error::required(path, format!("valid values: [{}]", quoted.join(" "))));
    }
    (!valid.contains(&value)).then(|| Error::not_supported(path, value, valid))
}

pub fn validate_pod_failure_policy(policy: &PodFailurePolicy, spec: &JobSpec, path: &Path<'_>) -> ErrorList {
    let rules = path.child("rules");
    let mut errors = Vec::new();
    if policy.rules.len() > MAX_POD_FAILURE_POLICY_RULES {
        errors.push(Error::too_many(&rules, policy.rules.len(), MAX_POD_FAILURE_POLICY_RULES));
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        errors.extend(validate_failure_rule(rule, spec, &rules.index(i)));
    }
    errors
}

fn validate_failure_rule(rule: &PodFailurePolicyRule, spec: &JobSpec, path: &Path<'_>) -> ErrorList {
    let action = path.child("action");
    let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    if rule.action == "FailIndex" {
        if spec.backoff_limit_per_index.is_none() {
            errors.push(Error::invalid(&action, rule.action.as_str(), "requires the backoffLimitPerIndex to be set"));
        }
    } else {
        errors.extend(one_of(&rule.action, &ACTIONS, &action));
    }
    if let Some(codes) = &rule.on_exit_codes {
        errors.extend(validate_exit_codes(codes, spec, &path.child("onExitCodes")));
    }
    if !conditions.is_empty() {
        errors.extend(validate_pod_conditions(conditions, &path.child("onPodConditions")));
    }
    match (&rule.on_exit_codes, conditions.is_empty()) {
        (Some(_), false) => {
            errors.push(invalid_without_value(path, "specifying both OnExitCodes and OnPodConditions is not supported"));
        }
        (None, true) => errors.push(invalid_without_value(path, "specifying one of OnExitCodes and OnPodConditions is required")),
        _ => {}
    }
    errors
}

fn validate_pod_conditions(patterns: &[PodFailurePolicyOnPodConditionsPattern], path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    if patterns.len() > MAX_POD_CONDITIONS {
        errors.push(Error::too_many(path, patterns.len(), MAX_POD_CONDITIONS));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let item = path.index(i);
        let problems = is_qualified_name(&pattern.type_);
        errors.extend(problems.into_iter().map(|message| Error::invalid(&item.child("type"), pattern.type_.as_str(), message)));
        errors.extend(one_of(pattern.status.as_deref().unwrap_or(""), &STATUSES, &item.child("status")));
    }
    errors
}

fn validate_exit_codes(codes: &PodFailurePolicyOnExitCodesRequirement, spec: &JobSpec, path: &Path<'_>) -> ErrorList {
    let mut errors: ErrorList = one_of(&codes.operator, &OPERATORS, &path.child("operator")).into_iter().collect();
    let pods = spec.template.spec.clone().unwrap_or_default();
    let mut containers = pods.containers.iter().chain(pods.init_containers.iter().flatten());
    if let Some(name) = codes.container_name.as_deref()
        && !containers.any(|c| c.name == name)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(Error::invalid(&path.child("containerName"), name, detail));
    }
    let values_path = path.child("values");
    if codes.values.is_empty() {
        errors.push(Error::invalid(&values_path, Value::Null, "at least one value is required"));
    } else if codes.values.len() > MAX_EXIT_CODES {
        errors.push(Error::too_many(&values_path, codes.values.len(), MAX_EXIT_CODES));
    }
    for (i, code) in codes.values.iter().enumerate() {
        if codes.operator == "In" && *code == 0 {
            errors.push(Error::invalid(&values_path.index(i), 0, "must not be 0 for the In operator"));
        }
        if codes.values[..i].contains(code) {
            errors.push(Error::duplicate(&values_path.index(i), *code));
        }
    }
    if !codes.values.is_sorted() {
        errors.push(Error::invalid(&values_path, json!(codes.values), "must be ordered"));
    }
    errors
}

/// `completions` is the job's.
pub fn validate_success_policy(policy: &SuccessPolicy, completions: i32, path: &Path<'_>) -> ErrorList {
    let rules = path.child("rules");
    let mut errors = Vec::new();
    if policy.rules.is_empty() {
        errors.push(Error::required(&rules, "at least one rules must be specified when the successPolicy is specified"));
    }
    if policy.rules.len() > MAX_SUCCESS_POLICY_RULES {
        errors.push(Error::too_many(&rules, policy.rules.len(), MAX_SUCCESS_POLICY_RULES));
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        errors.extend(validate_success_rule(rule, completions, &rules.index(i)));
    }
    errors
}

fn validate_success_rule(rule: &SuccessPolicyRule, completions: i32, path: &Path<'_>) -> ErrorList {
    let mut errors = Vec::new();
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        errors.push(Error::required(path, "at least one of succeededCount or succeededIndexes must be specified"));
    }
    let mut named = 0;
    if let Some(text) = rule.succeeded_indexes.as_deref() {
        let indexes_path = path.child("succeededIndexes");
        if text.len() > MAX_SUCCEEDED_INDEXES_BYTES {
            errors.push(Error::too_long(&indexes_path, MAX_SUCCEEDED_INDEXES_BYTES));
        }
        match indexes::count(text, completions) {
            Ok(count) => named = count,
            Err(problem) => errors.push(Error::invalid(&indexes_path, text, format!("error parsing succeededIndexes: {problem}"))),
        }
    }
    if let Some(count) = rule.succeeded_count {
        let count_path = path.child("succeededCount");
        errors.extend(validate_nonnegative_field(i64::from(count), &count_path));
        if count > completions {
            let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(Error::invalid(&count_path, count, detail));
        }
        if rule.succeeded_indexes.is_some() && count > named {
            let detail = format!("must be less than or equal to {named} (the number of indexes in the specified succeededIndexes field)");
            errors.push(Error::invalid(&count_path, count, detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use apimachinery::view::view;
    use serde_json::Value;

    use super::*;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_failure_rule_looks_at_one_thing() {
        let spec: JobSpec = view(&json!({"template": {"spec": {"containers": [{"name": "c"}]}}}));
        let check = |rule: Value| texts(validate_failure_rule(&view(&rule), &spec, &Path::new("r")));
        assert!(check(json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]})).is_empty());
        assert_eq!(
            check(json!({"action": ""})),
            [
                "r.action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
                "r: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"
            ]
        );
        assert_eq!(
            check(json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "containerName": "x", "values": [2, 0, 2]}})),
            [
                "r.action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                "r.onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template",
                "r.onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                "r.onExitCodes.values[2]: Duplicate value: 2",
                "r.onExitCodes.values: Invalid value: [2,0,2]: must be ordered"
            ]
        );
    }

    #[test]
    fn a_success_rule_counts_within_its_indexes() {
        let check = |rule: Value| texts(validate_success_rule(&view(&rule), 5, &Path::new("r")));
        assert!(check(json!({"succeededIndexes": "0-2", "succeededCount": 3})).is_empty());
        assert_eq!(check(json!({})), ["r: Required value: at least one of succeededCount or succeededIndexes must be specified"]);
        assert_eq!(
            check(json!({"succeededIndexes": "0-1", "succeededCount": 6})),
            [
                "r.succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of specified completions)",
                "r.succeededCount: Invalid value: 6: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)"
            ]
        );
    }
}
