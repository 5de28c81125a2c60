//! What pods ask of the nodes that they are put on.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::nodes::{HOSTNAME, ZONE, ZONES};
use crate::object;

/// Says of a pod that it asks for a place that there may not be.
const IS_PARTICULAR: &str = "simulation/particular";

fn topology(rng: &mut SmallRng) -> &'static str {
    if rng.random::<bool>() { HOSTNAME } else { ZONE }
}

fn zone(rng: &mut SmallRng) -> String {
    format!("zone-{}", rng.random_range(0..ZONES))
}

/// Adds some to a pod or a template; pods with the labels `others` are those that it wants to be with, or apart from if `apart`. Pods of a
/// controller's old template that are apart from those of its new one would keep a rollout from its end, as they do upstream.
pub fn add(rng: &mut SmallRng, pod: &mut Value, others: &Value, apart: bool) {
    let selector = json!({"matchLabels": others});
    let spec = &mut pod["spec"];
    match rng.random_range(0..8) {
        0 => spec["nodeSelector"] = json!({(ZONE): zone(rng)}),
        1 => {
            let operator = if rng.random::<bool>() { "In" } else { "NotIn" };
            let expression = json!({"key": ZONE, "operator": operator, "values": [zone(rng)]});
            let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]});
            spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
        }
        2..4 if apart => {
            let term = json!({"topologyKey": topology(rng), "labelSelector": selector});
            spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        }
        4 => {
            let term = json!({"topologyKey": topology(rng), "labelSelector": selector});
            spec["affinity"] = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        }
        5..7 => {
            spec["topologySpreadConstraints"] = json!([{
                "topologyKey": topology(rng), "maxSkew": rng.random_range(1..3), "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": selector,
            }]);
        }
        _ => {}
    }
    if rng.random::<f64>() < 0.3 {
        spec["tolerations"] = json!([{"key": super::nodes::TAINT, "operator": "Exists"}]);
    }
    spec["priority"] = rng.random_range(0..4).into();
    if rng.random::<f64>() < 0.2 {
        spec["preemptionPolicy"] = "Never".into();
    }
    pod["metadata"]["annotations"][IS_PARTICULAR] = "true".into();
}

/// Takes them away, but for what keeps a pod from no node.
pub fn remove(template: &mut Value) {
    if template["metadata"]["annotations"][IS_PARTICULAR].is_null() {
        return;
    }
    let spec = ["affinity", "nodeSelector", "topologySpreadConstraints"].map(|field| ("/spec", field));
    for (place, field) in spec.into_iter().chain([("/metadata/annotations", IS_PARTICULAR)]) {
        if let Some(map) = template.pointer_mut(place).and_then(Value::as_object_mut) {
            map.shift_remove(field);
        }
    }
}

/// Whether a controller's pod waits for a place that there may not be.
pub fn is_waiting(pod: &Value) -> bool {
    let is_bound = !object::text(pod, "/spec/nodeName").is_empty();
    object::controller(pod).is_some() && !is_bound && !pod["metadata"]["annotations"][IS_PARTICULAR].is_null()
}
