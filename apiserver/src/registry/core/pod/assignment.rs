//! What a Binding does to its pod.

use apimachinery::field::quote;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::conditions::{self, Condition};
use super::gates::drop_init_container_annotations;
use crate::registry::read::{at, list_at, str_at};

/// Puts the pod on the binding's node. The error is the text of the Conflict that answers a pod that cannot be assigned.
pub fn assign(pod: &mut Value, binding: &Value, now: Timestamp) -> Result<(), String> {
    let name = str_at(pod, "/metadata/name");
    if !at(pod, "/metadata/deletionTimestamp").is_null() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = str_at(pod, "/spec/nodeName");
    if !node.is_empty() {
        return Err(format!("pod {name} is already assigned to node {}", quote(node)));
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
    take_metadata(pod, binding, "annotations");
    drop_init_container_annotations(pod);
    take_metadata(pod, binding, "labels");
    conditions::set(pod, &Condition { kind: "PodScheduled", status: "True", reason: "", message: "" }, now);
    Ok(())
}

/// Adds the binding's labels or annotations to the pod's.
fn take_metadata(pod: &mut Value, binding: &Value, field: &str) {
    let Some(more) = at(binding, "/metadata").get(field).and_then(Value::as_object).filter(|more| !more.is_empty()) else { return };
    let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let own = metadata.entry(field).or_insert_with(|| Value::Object(Map::new()));
    if let Some(own) = own.as_object_mut() {
        own.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_assigned_once() {
        let binding = json!({"metadata": {"labels": {"zone": "z"}}, "target": {"name": "n"}});
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {}, "status": {"nominatedNodeName": "m"}});
        assert_eq!(assign(&mut pod, &binding, Timestamp::UNIX_EPOCH), Ok(()));
        assert_eq!(
            pod,
            json!({
                "metadata": {"name": "p", "labels": {"zone": "z"}},
                "spec": {"nodeName": "n"},
                "status": {"conditions": [
                    {"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": "1970-01-01T00:00:00Z"},
                ]},
            })
        );
        let again = assign(&mut pod, &binding, Timestamp::UNIX_EPOCH);
        assert_eq!(again, Err("pod p is already assigned to node \"n\"".to_owned()));
    }

    #[test]
    fn a_gated_or_dying_pod_is_not_assigned() {
        let assign = |mut pod: Value| assign(&mut pod, &json!({"target": {"name": "n"}}), Timestamp::UNIX_EPOCH).unwrap_err();
        let gated = json!({"metadata": {"name": "p"}, "spec": {"schedulingGates": [{"name": "g"}]}});
        assert_eq!(assign(gated), "pod p has non-empty .spec.schedulingGates");
        let dying = json!({"metadata": {"name": "p", "deletionTimestamp": "2020-01-01T00:00:00Z"}, "spec": {}});
        assert_eq!(assign(dying), "pod p is being deleted, cannot be assigned to a host");
    }
}
