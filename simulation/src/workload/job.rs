//! Jobs: with and without indexes, whose pods fail now and then, suspended and resumed, with policies for failures and successes.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::{Topic, template};
use crate::api::kinds;
use crate::nodes::{FATAL_EXIT_CODE, LAST_EXIT_CODE};

pub const TOPIC: Topic = Topic { kind: kinds::JOB, most: 4, weight: 4, make, change, put_right };

/// The spec of a Job.
pub fn spec(rng: &mut SmallRng) -> Value {
    let mut template = template(rng, &json!({}));
    template["spec"]["restartPolicy"] = "Never".into();
    template["metadata"]["annotations"] = json!({(crate::nodes::FAILS_PERCENT): rng.random_range(0..40).to_string()});
    let mut spec = json!({
        "parallelism": rng.random_range(1..5), "completions": rng.random_range(1..7), "template": template,
        "backoffLimit": rng.random_range(0..8),
        "completionMode": if rng.random::<bool>() { "Indexed" } else { "NonIndexed" },
        "podReplacementPolicy": if rng.random::<bool>() { "Failed" } else { "TerminatingOrFailed" },
    });
    if spec["completionMode"] == "Indexed" && rng.random::<f64>() < 0.4 {
        limit_each_index(rng, &mut spec);
    }
    if spec["completionMode"] == "Indexed" && rng.random::<f64>() < 0.3 {
        let completions = spec["completions"].as_i64().unwrap_or(1);
        let rule = match rng.random_range(0..3) {
            0 => json!({"succeededIndexes": format!("0-{}", completions - 1), "succeededCount": rng.random_range(1..=completions)}),
            1 => json!({"succeededIndexes": "0"}),
            _ => json!({"succeededCount": rng.random_range(1..=completions)}),
        };
        spec["successPolicy"] = json!({"rules": [rule]});
    }
    if rng.random::<f64>() < 0.4 {
        spec["podReplacementPolicy"] = "Failed".into();
        spec["podFailurePolicy"] = json!({"rules": failure_rules(rng, !spec["backoffLimitPerIndex"].is_null())});
    }
    if rng.random::<f64>() < 0.2 {
        spec["suspend"] = true.into();
    }
    if rng.random::<f64>() < 0.2 {
        spec["ttlSecondsAfterFinished"] = rng.random_range(0..60).into();
    }
    spec
}

/// Each index may fail so often, and so many of them for good.
fn limit_each_index(rng: &mut SmallRng, spec: &mut Value) {
    spec["backoffLimitPerIndex"] = rng.random_range(0..3).into();
    spec["backoffLimit"] = i32::MAX.into();
    if rng.random::<bool>() {
        spec["maxFailedIndexes"] = rng.random_range(0..3).into();
    }
}

fn failure_rules(rng: &mut SmallRng, with_indexes: bool) -> Vec<Value> {
    let on_code = |action: &str, code: i32| json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}});
    let mut rules = Vec::new();
    if rng.random::<bool>() {
        rules.push(json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}));
    }
    if rng.random::<bool>() {
        rules.push(on_code("FailJob", FATAL_EXIT_CODE));
    }
    if with_indexes && rng.random::<bool>() {
        rules.push(on_code("FailIndex", LAST_EXIT_CODE));
    }
    if rules.is_empty() {
        rules.push(on_code("Count", FATAL_EXIT_CODE));
    }
    rules
}

fn make(rng: &mut SmallRng, _: &str) -> Value {
    json!({"spec": spec(rng)})
}

fn change(rng: &mut SmallRng, job: &mut Value) {
    let spec = &mut job["spec"];
    match rng.random_range(0..2) {
        0 => spec["parallelism"] = rng.random_range(0..5).into(),
        _ => spec["suspend"] = rng.random::<bool>().into(),
    }
}

fn put_right(job: &mut Value) {
    let spec = &mut job["spec"];
    spec["suspend"] = false.into();
    if spec["parallelism"] == 0 {
        spec["parallelism"] = 1.into();
    }
}
