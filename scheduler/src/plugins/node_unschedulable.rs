//! NodeUnschedulable: cordoned nodes take only pods that bear it.

use k8s_openapi::api::core::v1::Taint;

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, NodeView, Plugin, Point, Rejection, Verdict};
use crate::snapshot::pod::PodInfo;
use crate::taints::{NO_SCHEDULE, tolerates};
use crate::world::World;

pub struct NodeUnschedulable;

pub const REASON: &str = "node(s) were unschedulable";

fn bears(pod: &PodInfo) -> bool {
    let taint = Taint { key: "node.kubernetes.io/unschedulable".to_owned(), effect: NO_SCHEDULE.to_owned(), value: None, time_added: None };
    tolerates(pod.template.tolerations(), &taint)
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn interests(&self) -> &'static [Interest] {
        const {
            &[
                Interest::hinted(Resource::Node, Actions::ADD.or(Actions::NODE_TAINT), uncordoned),
                Interest::hinted(Resource::TargetPod, Actions::POD_TOLERATION, tolerated),
            ]
        }
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        if node.info.unschedulable && !bears(cycle.pod) { Err(Rejection::unresolvable(REASON).into()) } else { Ok(()) }
    }
}

fn uncordoned(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Node { old, new: Some(new) } = subject else { return true };
    let cordoned = |node: &k8s_openapi::api::core::v1::Node| node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
    !cordoned(new) && old.as_ref().is_none_or(|old| cordoned(old))
}

fn tolerated(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    match subject {
        Subject::Pod { new: Some(new), .. } => bears(new),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::Bench;

    #[test]
    fn cordoned_nodes_take_only_pods_that_bear_it() {
        let mut bench = Bench::new(&[("a", json!({}))]);
        bench.node(json!({"metadata": {"name": "b"}, "spec": {"unschedulable": true}}));
        assert_eq!(bench.verdicts(&NodeUnschedulable, json!({})), ["", "never: node(s) were unschedulable"]);
        let bears =
            json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]}});
        assert_eq!(bench.verdicts(&NodeUnschedulable, bears), ["", ""]);
    }
}
