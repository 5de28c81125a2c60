//! ResourceClaims and templates of them: one device or two.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::Topic;
use crate::api::kinds;
use crate::nodes::DEVICE_CLASS;

pub const TOPIC: Topic =
    Topic { kind: kinds::RESOURCE_CLAIM, most: MOST, weight: 2, make: |rng, _| json!({"spec": spec(rng)}), change, put_right };
pub const TEMPLATES: Topic = Topic {
    kind: kinds::RESOURCE_CLAIM_TEMPLATE,
    most: MOST,
    weight: 2,
    make: |rng, _| json!({"spec": {"spec": spec(rng)}}),
    change,
    put_right,
};

const MOST: usize = 2;

fn spec(rng: &mut SmallRng) -> Value {
    let exactly = json!({"deviceClassName": DEVICE_CLASS, "allocationMode": "ExactCount", "count": rng.random_range(1..3)});
    json!({"devices": {"requests": [{"name": "r", "exactly": exactly}]}})
}

/// Makes a pod use one, which there may be or not.
pub fn use_one(rng: &mut SmallRng, pod: &mut Value) {
    let number = rng.random_range(0..MOST * 2);
    let claim = if rng.random::<bool>() {
        json!({"name": "devices", "resourceClaimName": format!("resourceclaims-{number}")})
    } else {
        json!({"name": "devices", "resourceClaimTemplateName": format!("resourceclaimtemplates-{number}")})
    };
    pod["spec"]["resourceClaims"] = json!([claim]);
    pod["spec"]["containers"][0]["resources"]["claims"] = json!([{"name": "devices"}]);
}

/// Their specs do not change.
fn change(_: &mut SmallRng, _: &mut Value) {}

fn put_right(_: &mut Value) {}
