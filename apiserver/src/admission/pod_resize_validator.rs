//! PodResizeValidator: a bound pod is not resized beyond what its node could ever give.

use apimachinery::field::quote;
use apimachinery::status::{Cause, Status};
use serde_json::Value;

use super::{Attributes, Lookup, Operation, Plugin, amounts, pod_amounts};
use crate::registry::read::{at, int_at, str_at};

/// The plugin.
pub struct PodResizeValidator;

/// Why the node cannot host the resized pod: the message, and the reason of the Status' cause.
fn refusal(pod: &Value, node: &Value) -> Option<(String, &'static str)> {
    let os = at(node, "/metadata/labels").get("kubernetes.io/os").and_then(Value::as_str);
    if let Some(os) = os.filter(|os| *os != "linux") {
        let name = str_at(node, "/metadata/name");
        let why = format!("pod resize is only supported on linux nodes, node {} is {}", quote(name), quote(os));
        return Some((why, "UnsupportedPlatform"));
    }
    let mut wanted = pod_amounts::requests(&without_status(pod));
    let mut allocatable = amounts::read(node.pointer("/status/allocatable"));
    let mut take = |name: &str| (wanted.remove(name).unwrap_or_default(), allocatable.remove(name).unwrap_or_default());
    let (cpu, memory) = (take("cpu"), take("memory"));
    let mut short = Vec::new();
    if cpu.0 > cpu.1 {
        short.push(format!("cpu, requested: {}, allocatable: {}", cpu.0.milli_value(), cpu.1.milli_value()));
    }
    if memory.0 > memory.1 {
        short.push(format!("memory, requested: {}, allocatable: {}", memory.0.value(), memory.1.value()));
    }
    let why = || format!("node didn't have enough allocatable resources: {}", short.join("; "));
    (!short.is_empty()).then(|| (why(), "NodeCapacity"))
}

/// The pod as its spec alone describes it.
fn without_status(pod: &Value) -> Value {
    serde_json::json!({ "spec": at(pod, "/spec") })
}

impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let applies = attributes.operation == Operation::Update && attributes.subresource == "resize" && attributes.is("", "pods");
        let (Some(pod), Some(before), true) = (new, old, applies) else { return Ok(()) };
        let name = str_at(pod, "/spec/nodeName");
        if name.is_empty() || int_at(pod, "/metadata/generation") == int_at(before, "/metadata/generation") {
            return Ok(());
        }
        let Some(node) = lookup.get("", "nodes", "", name) else {
            return Err(attributes.forbidden(new, &format!("node {} not found", quote(name))));
        };
        let Some((why, reason)) = refusal(pod, &node) else { return Ok(()) };
        let mut status = attributes.forbidden(new, &why);
        if let Some(details) = &mut status.details {
            details.causes.push(Cause { reason: reason.to_owned(), ..Cause::default() });
        }
        Err(status)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resize_must_fit_the_node() {
        let pod = |cpu: &str| json!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] } });
        let node = json!({ "metadata": { "name": "n" }, "status": { "allocatable": { "cpu": "2", "memory": "1Gi" } } });
        assert_eq!(refusal(&pod("2"), &node), None);
        let (why, reason) = refusal(&pod("3"), &node).unwrap();
        assert_eq!(why, "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000");
        assert_eq!(reason, "NodeCapacity");
        let windows = json!({ "metadata": { "name": "n", "labels": { "kubernetes.io/os": "windows" } } });
        assert_eq!(refusal(&pod("1"), &windows).unwrap().0, "pod resize is only supported on linux nodes, node \"n\" is \"windows\"");
    }
}
