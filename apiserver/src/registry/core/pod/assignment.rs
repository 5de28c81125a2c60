//! What a Binding does to its pod.

use serde_json::{Map, Value};

use super::gates::drop_init_container_annotations;
use super::strategy::set_condition;
use crate::registry::core::pod::strategy::timestamp;
use crate::registry::read::{at, list_at, str_at};

/// Puts the pod on the binding's node. The error is the text of the Conflict that answers a pod that cannot be assigned.
pub fn assign(pod: &mut Value, binding: &Value, now: jiff::Timestamp) -> Result<(), String> {
    let name = str_at(pod, "/metadata/name");
    if !at(pod, "/metadata/deletionTimestamp").is_null() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = str_at(pod, "/spec/nodeName");
    if !node.is_empty() {
        return Err(format!("pod {name} is already assigned to node {}", apimachinery::field::quote(node)));
    }
    if !list_at(pod, "/spec/schedulingGates").is_empty() {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("nodeName".to_owned(), str_at(binding, "/target/name").into());
    }
    if let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) {
        status.shift_remove("nominatedNodeName");
    }
    merge(pod, binding, "annotations", |_| true);
    drop_init_container_annotations(pod);
    merge(pod, binding, "labels", TOPOLOGY);
    set_condition(pod, "PodScheduled", "True", None, &timestamp(now));
    Ok(())
}
