//! ResourceQuotas that count pods.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::Topic;
use crate::api::kinds;

pub const TOPIC: Topic = Topic { kind: kinds::RESOURCE_QUOTA, most: 1, weight: 1, make, change, put_right };

fn make(rng: &mut SmallRng, _: &str) -> Value {
    json!({"spec": {"hard": {"pods": rng.random_range(5..30).to_string()}}})
}

fn change(rng: &mut SmallRng, quota: &mut Value) {
    quota["spec"]["hard"]["pods"] = rng.random_range(5..30).to_string().into();
}

fn put_right(quota: &mut Value) {
    quota["spec"]["hard"]["pods"] = "1000".into();
}
