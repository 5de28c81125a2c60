//! ReplicaSets of nobody's.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::{Topic, app, particular_template, put_template_right};
use crate::api::kinds;
use crate::object;

pub const TOPIC: Topic = Topic { kind: kinds::REPLICA_SET, most: 3, weight: 2, make, change, put_right };

fn make(rng: &mut SmallRng, name: &str) -> Value {
    let labels = app(name);
    let replicas = rng.random_range(0..6);
    json!({"spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": particular_template(rng, &labels)}})
}

fn change(rng: &mut SmallRng, set: &mut Value) {
    set["spec"]["replicas"] = rng.random_range(0..6).into();
}

fn put_right(set: &mut Value) {
    // One that a Deployment has left behind may be of a template that does not work.
    if object::controller(set).is_none() {
        put_template_right(&mut set["spec"]["template"]);
    }
}
