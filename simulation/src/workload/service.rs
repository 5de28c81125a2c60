//! Services in front of the pods of one app each.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::{Topic, app};
use crate::api::kinds;

pub const TOPIC: Topic = Topic { kind: kinds::SERVICE, most: 3, weight: 2, make, change, put_right };

fn selector(rng: &mut SmallRng) -> Value {
    let over = ["deployments", "replicasets", "statefulsets"][rng.random_range(0..3)];
    app(&format!("{over}-{}", rng.random_range(0..6)))
}

fn make(rng: &mut SmallRng, _: &str) -> Value {
    json!({"spec": {
        "selector": selector(rng), "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv4"], "type": "ClusterIP",
        "ipFamilyPolicy": "SingleStack", "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
    }})
}

fn change(rng: &mut SmallRng, service: &mut Value) {
    service["spec"]["selector"] = selector(rng);
}

fn put_right(_: &mut Value) {}
