//! What users do to nodes: they cordon and taint them, and take that back.

use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::USER;
use crate::api::core::{Core, Part};
use crate::api::kinds;
use crate::api::state::Key;
use crate::object;

pub const TAINT: &str = "simulation/taint";

fn all(core: &Core) -> Vec<Key> {
    core.state.list(kinds::NODE, "").map(|node| Key::new(kinds::NODE, "", object::name(node))).collect()
}

fn taints(node: &mut Value, change: impl FnOnce(&mut Vec<Value>)) {
    let mut taints = object::list(node, "/spec/taints").to_vec();
    taints.retain(|taint| object::text(taint, "/key") != TAINT);
    change(&mut taints);
    node["spec"]["taints"] = Value::Array(taints);
}

pub fn disturb(rng: &mut SmallRng, core: &mut Core) {
    let Some(key) = all(core).choose(rng).cloned() else { return };
    core.change(USER, &key, Part::Main, |node| match rng.random_range(0..5) {
        0 => node["spec"]["unschedulable"] = true.into(),
        1 => taints(node, |taints| taints.push(json!({"key": TAINT, "value": "v", "effect": "NoSchedule"}))),
        2 => taints(node, |taints| taints.push(json!({"key": TAINT, "value": "v", "effect": "NoExecute"}))),
        3 => taints(node, |_| {}),
        _ => node["spec"]["unschedulable"] = false.into(),
    });
}

pub fn put_right(core: &mut Core) {
    for key in all(core) {
        core.change(USER, &key, Part::Main, |node| {
            node["spec"]["unschedulable"] = false.into();
            taints(node, |_| {});
        });
    }
}
