//! PodDisruptionBudgets over the pods of one app each.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::{Topic, app, number_or_percent};
use crate::api::kinds;

pub const TOPIC: Topic = Topic { kind: kinds::POD_DISRUPTION_BUDGET, most: 4, weight: 3, make, change, put_right };

fn bounds(rng: &mut SmallRng, spec: &mut Value) {
    let (bound, other) = if rng.random::<bool>() { ("minAvailable", "maxUnavailable") } else { ("maxUnavailable", "minAvailable") };
    spec[bound] = number_or_percent(rng, 3);
    if let Some(spec) = spec.as_object_mut() {
        spec.shift_remove(other);
    }
}

fn make(rng: &mut SmallRng, _: &str) -> Value {
    let over = ["deployments", "replicasets", "statefulsets"][rng.random_range(0..3)];
    let mut spec = json!({"selector": {"matchLabels": app(&format!("{over}-{}", rng.random_range(0..6)))}});
    bounds(rng, &mut spec);
    json!({"spec": spec})
}

fn change(rng: &mut SmallRng, budget: &mut Value) {
    bounds(rng, &mut budget["spec"]);
}

fn put_right(_: &mut Value) {}
