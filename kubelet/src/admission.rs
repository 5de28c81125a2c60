//! Whether a pod that was bound to this node may run on it.
//!
//! Pure. Names of reasons and messages are upstream's.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::quantity::{Format, Quantity as Amount};
use apimachinery::selector::label::{Operator, Requirement};
use client::Object;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use crate::container_config::pod_resources;
use crate::pod;
use crate::preemption;

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

/// What it takes to let a pod in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admitted {
    /// The pods that have to go first.
    pub victims: Vec<Arc<Pod>>,
    /// The resource that they make room of; empty if none has to go.
    pub signal: String,
}

fn rejection(reason: &str, message: impl Into<String>) -> Rejection {
    Rejection { reason: reason.to_owned(), message: message.into() }
}

fn predicate(name: &str) -> Rejection {
    rejection(name, format!("Predicate {name} failed: {}", predicate_words(name)))
}

fn predicate_words(name: &str) -> &'static str {
    match name {
        "NodeAffinity" => "node(s) didn't match Pod's node affinity/selector",
        "NodeName" => "node(s) didn't match the requested node name",
        "NodePorts" => "node(s) didn't have free ports for the requested pod ports",
        _ => "node(s) had untolerated taint",
    }
}

/// Looks at everything that the pod needs of the node. `others`: the pods that are on it already. The pods that have to go first: others
/// make room for a critical one if room is all that it lacks.
pub fn admit(pod: &Pod, node: Option<&Node>, others: &[Arc<Pod>]) -> Result<Admitted, Rejection> {
    let spec = pod::spec(pod);
    let Some(node) = node else {
        // A static pod starts whether or not anybody knows the node.
        return Ok(Admitted::default());
    };
    if pod.label("kubernetes.io/os").is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(rejection("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(rejection("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    let policy = spec.security_context.as_ref().and_then(|context| context.supplemental_groups_policy.as_deref());
    let features = node.status.as_ref().and_then(|status| status.features.as_ref());
    let strict_works = features.and_then(|features| features.supplemental_groups_policy) == Some(true);
    if policy == Some("Strict") && !strict_works {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return Err(rejection("SupplementalGroupsPolicyNotSupported", message));
    }
    let shortages = shortages(pod, node, others);
    if let Some(first) = shortages.first().filter(|_| !pod::is_critical(pod)) {
        return Err(first.rejection());
    }
    fits_otherwise(pod, node, others)?;
    let victims = preemption::victims(pod, others, &shortages).map_err(|problem| {
        let message = format!("Unexpected error while attempting to recover from admission failure: {problem}");
        rejection("UnexpectedAdmissionError", message)
    })?;
    Ok(Admitted { victims, signal: shortages.first().map(|short| short.name.clone()).unwrap_or_default() })
}

/// Whether nothing but room can be in the way.
fn fits_otherwise(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Result<(), Rejection> {
    let spec = pod::spec(pod);
    if !matches_node(pod, node) {
        return Err(predicate("NodeAffinity"));
    }
    if spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node.name()) {
        return Err(predicate("NodeName"));
    }
    if others.iter().any(|other| ports_collide(pod, other)) {
        return Err(predicate("NodePorts"));
    }
    taints(pod, node)
}

/// A resource that the node has not enough of; processors in thousandths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub name: String,
    pub requested: i64,
    pub used: i64,
    pub capacity: i64,
}

impl Shortage {
    fn rejection(&self) -> Rejection {
        let Shortage { name, requested, used, capacity } = self;
        let message = format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
        rejection(&format!("OutOf{name}"), message)
    }

    /// How much is missing.
    pub fn missing(&self) -> i64 {
        self.requested - (self.capacity - self.used)
    }
}

/// Whether the node has what the pod requests beside what others do.
pub fn resources(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Result<(), Rejection> {
    shortages(pod, node, others).first().map_or(Ok(()), |shortage| Err(shortage.rejection()))
}

/// What the node lacks for the pod beside what others request.
fn shortages(pod: &Pod, node: &Node, others: &[Arc<Pod>]) -> Vec<Shortage> {
    let status = node.status.as_ref();
    let Some(allocatable) = status.and_then(|status| status.allocatable.as_ref()) else { return Vec::new() };
    let mut shortages = Vec::new();
    let mut insufficient = |name: &str, requested: i64, used: i64, capacity: i64| {
        shortages.push(Shortage { name: name.to_owned(), requested, used, capacity });
    };
    let room = allocatable.get("pods").map_or(0, |quantity| pod_resources::parse(quantity).value());
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if count + 1 > room {
        insufficient("pods", 1, count, room);
    }
    let mut used: BTreeMap<String, Amount> = BTreeMap::new();
    for (name, quantity) in others.iter().flat_map(|other| pod_resources::requests(other, true)) {
        let sum = used.get(&name).map_or_else(|| quantity.clone(), |known| known.plus(&quantity));
        used.insert(name, sum);
    }
    for (name, requested) in pod_resources::requests(pod, true) {
        if requested.is_zero() {
            continue;
        }
        // Extended resources that the node does not have are nobody's business here.
        let Some(has) = allocatable.get(&name) else { continue };
        let zero = Amount::new(0, Format::DecimalSi);
        let (has, used) = (pod_resources::parse(has), used.get(&name).unwrap_or(&zero));
        if has.minus(used).minus(&requested).sign() < 0 {
            let number = |amount: &Amount| if name == "cpu" { amount.milli_value() } else { amount.value() };
            insufficient(&name, number(&requested), number(used), number(&has));
        }
    }
    shortages
}

/// Whether the pod's node selector and required node affinity hold.
pub fn matches_node(pod: &Pod, node: &Node) -> bool {
    let spec = pod::spec(pod);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value.as_str()));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (expressions, fields) = (term.match_expressions.as_deref().unwrap_or(&[]), term.match_fields.as_deref().unwrap_or(&[]));
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let names = BTreeMap::from([("metadata.name".to_owned(), node.name().to_owned())]);
    expressions.iter().all(|one| requirement_holds(one, &labels)) && fields.iter().all(|one| requirement_holds(one, &names))
}

fn requirement_holds(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return false,
    };
    let values = requirement.values.clone().unwrap_or_default();
    Requirement::new(requirement.key.clone(), operator, values).is_ok_and(|requirement| requirement.matches(labels))
}

/// A port of the host: its address, protocol and number.
fn host_ports(pod: &Pod) -> impl Iterator<Item = (&str, &str, i32)> {
    let sidecars = pod::init_containers(pod).iter().filter(|container| pod::is_sidecar(container));
    let ports = sidecars.chain(pod::containers(pod)).flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let ip = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
        Some((ip, port.protocol.as_deref().unwrap_or("TCP"), number))
    })
}

fn ports_collide(pod: &Pod, other: &Pod) -> bool {
    const ANY: &str = "0.0.0.0";
    host_ports(pod).any(|(ip, protocol, number)| {
        host_ports(other).any(|(its_ip, its_protocol, its_number)| {
            number == its_number && protocol == its_protocol && (ip == its_ip || ip == ANY || its_ip == ANY)
        })
    })
}

/// Taints that would make the node unfit at once, for pods that are not static.
fn taints(pod: &Pod, node: &Node) -> Result<(), Rejection> {
    if pod::is_static(pod) {
        return Ok(());
    }
    let tolerations = || pod::spec(pod).tolerations.iter().flatten();
    for taint in node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).filter(|taint| taint.effect == "NoExecute") {
        let tolerated = tolerations().any(|toleration| {
            let effect = toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect);
            let key = toleration.key.as_deref().is_none_or(|key| key.is_empty() || key == taint.key);
            let value = match toleration.operator.as_deref().unwrap_or("Equal") {
                "Exists" => true,
                _ => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
            };
            effect && key && value
        });
        if !tolerated {
            return Err(predicate("TaintToleration"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"disk": "ssd", "n": "5"}},
            "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "2"}}}))
        .expect("it is a node")
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("it is a pod")
    }

    #[test]
    fn a_critical_pod_is_let_in_for_others_that_go_but_not_where_it_does_not_belong() {
        let big = || json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "600m"}}}], "priority": 0});
        let other = Arc::new(pod(big()));
        let mut critical = big();
        critical["priority"] = json!(2_000_000_000);
        assert_eq!(admit(&pod(critical.clone()), Some(&node()), &[]).map(|admitted| admitted.victims.len()), Ok(0));
        assert_eq!(
            admit(&pod(critical.clone()), Some(&node()), std::slice::from_ref(&other)).map(|admitted| admitted.victims.len()),
            Ok(1)
        );
        critical["nodeName"] = json!("m");
        assert_eq!(reason(critical.clone(), std::slice::from_ref(&other)).as_deref(), Some("NodeName"));
        critical["nodeName"] = json!("n");
        critical["containers"][0]["resources"]["requests"]["cpu"] = json!("2");
        let refused = admit(&pod(critical), Some(&node()), &[other]).expect_err("nobody has so much");
        assert_eq!(refused.reason, "UnexpectedAdmissionError");
        assert!(refused.message.ends_with("no set of running pods found to reclaim resources: [(res: cpu, q: 1000), ]"), "{refused:?}");
    }

    fn reason(spec: serde_json::Value, others: &[Arc<Pod>]) -> Option<String> {
        admit(&pod(spec), Some(&node()), others).err().map(|rejection| rejection.reason)
    }

    #[test]
    fn what_does_not_fit_is_rejected_by_the_first_thing_that_is_missing() {
        let big = json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "600m"}}}]});
        let port = json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        assert_eq!(reason(big.clone(), &[]), None);
        assert_eq!(reason(big.clone(), &[Arc::new(pod(big))]).as_deref(), Some("OutOfcpu"));
        assert_eq!(reason(port.clone(), &[Arc::new(pod(port))]).as_deref(), Some("NodePorts"));
        let small = || Arc::new(pod(json!({"containers": []})));
        assert_eq!(reason(json!({"containers": []}), &[small(), small()]).as_deref(), Some("OutOfpods"));
        assert_eq!(reason(json!({"containers": [], "os": {"name": "windows"}}), &[]).as_deref(), Some("PodOSNotSupported"));
        assert_eq!(reason(json!({"containers": [], "nodeName": "m"}), &[]).as_deref(), Some("NodeName"));
    }

    #[test]
    fn selectors_and_affinity_are_looked_at_again() {
        let affinity = |operator: &str, key: &str, value: &str| {
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator, "values": [value]}]}]}}}})
        };
        for (spec, fits) in [
            (json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), true),
            (json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), false),
            (affinity("In", "disk", "ssd"), true),
            (affinity("NotIn", "disk", "ssd"), false),
            (affinity("Gt", "n", "4"), true),
            (affinity("Lt", "n", "4"), false),
        ] {
            assert_eq!(reason(spec.clone(), &[]).is_none(), fits, "{spec}");
        }
    }
}
