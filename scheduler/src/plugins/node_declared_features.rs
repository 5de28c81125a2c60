//! NodeDeclaredFeatures: pods that need something that not every kubelet can do go to nodes that say they can.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, NodeView, Plugin, Point, PreFilter, Preparing, Rejection, Verdict};
use crate::snapshot::pod::PodInfo;
use crate::world::World;

pub struct NodeDeclaredFeatures;

pub const REASON: &str = "node(s) didn't match Pod's required features";

/// What a pod needs of its node, in the names that nodes declare.
pub fn required_features(spec: &PodSpec) -> Vec<&'static str> {
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let restarts_all = |c: &Container| c.restart_policy_rules.iter().flatten().any(|rule| rule.action == "RestartAllContainers");
    let bind_options =
        |c: &Container| c.volume_mounts.iter().flatten().any(|m| m.bind_mount_options.as_ref().is_some_and(|o| !o.is_empty()));
    let needs = [
        (containers().any(restarts_all), "RestartAllContainersOnContainerExits"),
        (spec.host_network == Some(true) && spec.host_users == Some(false), "UserNamespacesHostNetworkSupport"),
        (containers().any(bind_options), "VolumeBindMountOptions"),
    ];
    needs.into_iter().filter(|(needed, _)| *needed).map(|(_, feature)| feature).collect()
}

impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatures"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn interests(&self) -> &'static [Interest] {
        const {
            &[
                Interest::hinted(Resource::Node, Actions::ADD.or(Actions::NODE_DECLARED_FEATURE), declared),
                Interest::hinted(Resource::TargetPod, Actions::UPDATE, needs_other),
            ]
        }
    }

    fn pre_filter(&self, cycle: &mut Preparing<'_>) -> PreFilter {
        if cycle.pod.template.features.is_empty() { PreFilter::Skip } else { PreFilter::Ask }
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        let status = node.info.node.as_ref().and_then(|n| n.status.as_ref());
        let declared = status.and_then(|s| s.declared_features.as_deref()).unwrap_or_default();
        let lacks = |feature: &&str| !declared.iter().any(|d| d == feature);
        if cycle.pod.template.features.iter().any(lacks) { Err(Rejection::unresolvable(REASON).into()) } else { Ok(()) }
    }
}

fn declared(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Node { old: Some(old), new: Some(new) } = subject else { return true };
    let features = |node: &k8s_openapi::api::core::v1::Node| node.status.as_ref().and_then(|s| s.declared_features.clone());
    features(old) != features(new)
}

fn needs_other(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Pod { old: Some(old), new: Some(new) } = subject else { return true };
    old.template.features != new.template.features
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::Bench;

    #[test]
    fn pods_that_need_a_feature_go_where_it_is_declared() {
        let mut bench = Bench::new(&[("a", json!({}))]);
        bench.node(json!({"metadata": {"name": "b"}, "status": {"declaredFeatures": ["RestartAllContainersOnContainerExits"]}}));
        let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}});
        let pod = json!({"spec": {"containers": [{"name": "c", "restartPolicyRules": [rule]}]}});
        assert_eq!(bench.verdicts(&NodeDeclaredFeatures, pod), [format!("never: {REASON}").as_str(), ""]);
        assert_eq!(bench.verdicts(&NodeDeclaredFeatures, json!({})), ["skip"]);
        let users = json!({"spec": {"hostNetwork": true, "hostUsers": false}});
        assert_eq!(bench.verdicts(&NodeDeclaredFeatures, users).iter().filter(|verdict| verdict.is_empty()).count(), 0);
    }
}
