//! Pods of nobody's, which ask for particular places: with and apart from each other, spread, in one zone, before others.
//!
//! They are never put right: one for which there is no place waits, at rest too.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::{Topic, constraints, resource_claim, template};
use crate::api::kinds;

pub const TOPIC: Topic = Topic { kind: kinds::POD, most: 12, weight: 6, make, change, put_right };

/// What they are known to each other by. Nobody else has the label, so that nobody else is kept from a place by them.
const GROUPS: [&str; 3] = ["a", "b", "c"];

fn make(rng: &mut SmallRng, _: &str) -> Value {
    let group = |rng: &mut SmallRng| json!({"group": GROUPS[rng.random_range(0..GROUPS.len())]});
    let labels = group(rng);
    let mut pod = template(rng, &labels);
    let other = if rng.random::<bool>() { labels } else { group(rng) };
    constraints::add(rng, &mut pod, &other, true);
    if rng.random::<f64>() < 0.4 {
        resource_claim::use_one(rng, &mut pod);
    }
    pod
}

fn change(_: &mut SmallRng, _: &mut Value) {}

fn put_right(_: &mut Value) {}
