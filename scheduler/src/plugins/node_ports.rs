//! NodePorts: a host port is had by one pod of a node.

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, NodeView, Plugin, Point, PreFilter, Preparing, Rejection, Verdict};
use crate::snapshot::node::HostPorts;
use crate::snapshot::pod::PodInfo;
use crate::world::World;

pub struct NodePorts;

pub const REASON: &str = "node(s) didn't have free ports for the requested pod ports";

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn interests(&self) -> &'static [Interest] {
        const { &[Interest::hinted(Resource::AssignedPod, Actions::DELETE, frees), Interest::any(Resource::Node, Actions::ADD)] }
    }

    fn is_local(&self) -> bool {
        true
    }

    fn pre_filter(&self, cycle: &mut Preparing<'_>) -> PreFilter {
        if cycle.pod.template.ports.is_empty() { PreFilter::Skip } else { PreFilter::Ask }
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        let taken = |port| node.info.ports.conflicts(port);
        if cycle.pod.template.ports.iter().any(taken) { Err(Rejection::resolvable(REASON).into()) } else { Ok(()) }
    }
}

fn frees(_world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Pod { old: Some(gone), .. } = subject else { return true };
    if gone.node_name().is_empty() && gone.nominated_node().is_empty() {
        return false;
    }
    let freed = HostPorts::of(&gone.template.ports);
    pod.template.ports.iter().any(|port| freed.conflicts(port))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::plugins::testing::Bench;

    #[test]
    fn a_host_port_is_had_once() {
        let pod = |name: &str, port: i32, protocol: &str| {
            let port = json!({"containerPort": 1, "hostPort": port, "protocol": protocol});
            json!({"metadata": {"name": name}, "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [port]}]}})
        };
        let mut bench = Bench::new(&[("a", json!({})), ("b", json!({}))]);
        bench.place("a", pod("1", 80, "TCP"));
        assert_eq!(bench.verdicts(&NodePorts, pod("p", 80, "TCP")), [REASON, ""]);
        assert_eq!(bench.verdicts(&NodePorts, pod("p", 80, "UDP")), ["", ""]);
        assert_eq!(bench.verdicts(&NodePorts, json!({})), ["skip"]);
        let (waiting, same, other) = (bench.pod(pod("p", 80, "TCP")), bench.pod(pod("1", 80, "TCP")), bench.pod(pod("2", 81, "TCP")));
        assert!(frees(&bench.world, &waiting, &Subject::Pod { old: Some(Arc::new(same)), new: None }));
        assert!(!frees(&bench.world, &waiting, &Subject::Pod { old: Some(Arc::new(other)), new: None }));
    }
}
