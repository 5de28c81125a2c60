//! Jobs: with and without indexes, whose pods fail now and then, suspended and resumed.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::{Topic, template};
use crate::api::kinds;

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
    if rng.random::<f64>() < 0.2 {
        spec["suspend"] = true.into();
    }
    if rng.random::<f64>() < 0.2 {
        spec["ttlSecondsAfterFinished"] = rng.random_range(0..60).into();
    }
    spec
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
