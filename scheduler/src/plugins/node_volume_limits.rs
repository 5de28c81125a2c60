//! NodeVolumeLimits: a node takes no more volumes of a CSI driver than the driver can attach there.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::storage::v1::CSINode;

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, NodeView, Plugin, Point, PreFilter, Preparing, Rejection, Verdict};
use crate::plugins::volume_binding::is_claimed;
use crate::snapshot::pod::PodInfo;
use crate::volumes::{BY_NODE, Volumes, claim_class, claim_of, is_for_pod, volume_name};
use crate::world::World;

pub struct NodeVolumeLimits;

pub const REASON: &str = "node(s) exceed max volume count";

/// The volumes of the pod of this cycle: driver and handle.
#[derive(Clone, Debug, Default)]
pub struct Wanted(BTreeSet<(String, String)>);

/// Driver and handle of the pod's volumes that are attached by a CSI driver. Claims that are missing are VolumeBinding's business.
fn attached_by(volumes: &Volumes, pod: &PodInfo) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for volume in pod.spec().volumes.iter().flatten() {
        let Some((name, with_pod)) = claim_of(&pod.pod, volume) else { continue };
        let Some(claim) = volumes.claim(pod.namespace(), &name) else { continue };
        if with_pod && is_for_pod(&pod.pod, claim).is_err() {
            continue;
        }
        match volumes.volume(volume_name(claim)) {
            Some(object) => {
                if let Some(csi) = object.spec.as_ref().and_then(|s| s.csi.as_ref()) {
                    all.insert((csi.driver.clone(), csi.volume_handle.clone()));
                }
            }
            // Not made yet: it will be one more of the class's driver.
            None => {
                if let Some(class) = volumes.class(claim_class(claim)) {
                    all.insert((class.provisioner.clone(), format!("\0{}/{name}", pod.namespace())));
                }
            }
        }
    }
    all
}

fn limits(node: &CSINode) -> BTreeMap<&str, i64> {
    let limit = |driver: &k8s_openapi::api::storage::v1::CSINodeDriver| driver.allocatable.as_ref().and_then(|a| a.count).map(i64::from);
    node.spec.drivers.iter().filter_map(|driver| Some((driver.name.as_str(), limit(driver)?))).collect()
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn interests(&self) -> &'static [Interest] {
        const {
            &[
                Interest::any(Resource::CsiNode, Actions::ADD),
                Interest::hinted(Resource::CsiNode, Actions::UPDATE, limit_grew),
                Interest::hinted(Resource::AssignedPod, Actions::DELETE, frees),
                Interest::hinted(Resource::PersistentVolumeClaim, Actions::ADD, is_claimed),
                Interest::hinted(Resource::VolumeAttachment, Actions::DELETE, mounts_claims),
            ]
        }
    }

    fn pre_filter(&self, cycle: &mut Preparing<'_>) -> PreFilter {
        let any = cycle.pod.spec().volumes.iter().flatten().any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some());
        if !any {
            return PreFilter::Skip;
        }
        let volumes = attached_by(&cycle.world.volumes, cycle.pod);
        if volumes.is_empty() {
            return PreFilter::Skip;
        }
        cycle.state.limits = Some(Wanted(volumes));
        PreFilter::Ask
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        let Some(Wanted(wanted)) = &cycle.state.limits else { return Ok(()) };
        let volumes = &cycle.world.volumes;
        let csi_node = volumes.csi_node(node.name());
        for (driver, _) in wanted {
            let object = volumes.csi_drivers.get(&client::ObjectKey::new("", driver));
            let needed = object.is_some_and(|d| d.spec.prevent_pod_scheduling_if_missing == Some(true));
            if needed && !csi_node.is_some_and(|n| n.spec.drivers.iter().any(|d| d.name == *driver)) {
                return Err(Rejection::saying(true, format!("{driver} CSI driver is not installed on the node")).into());
            }
        }
        let limits = csi_node.map(|n| limits(n)).unwrap_or_default();
        if limits.is_empty() {
            return Ok(());
        }
        let mut there = BTreeSet::new();
        for pod in &node.info.pods {
            there.extend(attached_by(volumes, pod));
        }
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for (driver, _) in &there {
            *counts.entry(driver).or_default() += 1;
        }
        // Volumes that are attached still, though their pods have left.
        for attachment in volumes.attachments.by_index(BY_NODE, node.name()) {
            let name = attachment.spec.source.persistent_volume_name.as_deref();
            let csi = name.and_then(|name| volumes.volume(name)).and_then(|v| v.spec.as_ref()?.csi.as_ref());
            if let Some(csi) = csi
                && !there.contains(&(attachment.spec.attacher.clone(), csi.volume_handle.clone()))
            {
                *counts.entry(&attachment.spec.attacher).or_default() += 1;
            }
        }
        let mut more: BTreeMap<&str, i64> = BTreeMap::new();
        for (driver, _) in wanted.iter().filter(|volume| !there.contains(*volume)) {
            *more.entry(driver).or_default() += 1;
        }
        let exceeds = |(driver, more): (&&str, &i64)| {
            limits.get(*driver).is_some_and(|limit| counts.get(*driver).copied().unwrap_or(0) + more > *limit)
        };
        if more.iter().any(exceeds) { Err(Rejection::resolvable(REASON).into()) } else { Ok(()) }
    }
}

fn limit_grew(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::CsiNode { old: Some(old), new: Some(new) } = subject else { return true };
    let before = limits(old);
    limits(new).iter().any(|(driver, limit)| *limit > before.get(driver).copied().unwrap_or(0))
}

fn frees(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Pod { old: Some(gone), .. } = subject else { return true };
    let placed = !gone.node_name().is_empty() || !gone.nominated_node().is_empty();
    placed && gone.spec().volumes.iter().flatten().any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some())
}

fn mounts_claims(_world: &World, pod: &PodInfo, _subject: &Subject) -> bool {
    !pod.claims.is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Bench, of};

    fn storage() -> Bench {
        let mut bench = Bench::new(&[("a", json!({})), ("b", json!({}))]);
        for name in ["1", "2", "3"] {
            bench.world.volumes.claims.insert(of(json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"volumeName": name}})));
            let csi = json!({"driver": "csi.x", "volumeHandle": name});
            bench.world.volumes.volumes.insert(of(json!({"metadata": {"name": name}, "spec": {"csi": csi}})));
        }
        let driver = json!({"name": "csi.x", "nodeID": "a", "allocatable": {"count": 2}});
        bench.world.volumes.csi_nodes.insert(of(json!({"metadata": {"name": "a"}, "spec": {"drivers": [driver]}})));
        bench
    }

    fn pod(name: &str, claims: &[&str]) -> Value {
        let volumes: Vec<Value> = claims.iter().map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}})).collect();
        json!({"metadata": {"name": name}, "spec": {"volumes": volumes}})
    }

    #[test]
    fn a_driver_attaches_no_more_than_it_can() {
        let mut bench = storage();
        bench.place("a", pod("x", &["1"]));
        assert_eq!(bench.verdicts(&NodeVolumeLimits, pod("p", &["1", "2"])), ["", ""], "what is there already is not attached again");
        assert_eq!(bench.verdicts(&NodeVolumeLimits, pod("p", &["2", "3"])), [REASON, ""]);
        let attached =
            json!({"metadata": {"name": "left"}, "spec": {"attacher": "csi.x", "nodeName": "a", "source": {"persistentVolumeName": "3"}}});
        bench.world.volumes.attachments.insert(of(attached));
        assert_eq!(bench.verdicts(&NodeVolumeLimits, pod("p", &["2"])), [REASON, ""], "what is attached still counts");
        assert_eq!(bench.verdicts(&NodeVolumeLimits, pod("p", &[])), ["skip"]);
    }

    #[test]
    fn a_driver_may_insist_on_being_there() {
        let mut bench = storage();
        bench.world.volumes.csi_drivers.insert(of(json!({"metadata": {"name": "csi.x"}, "spec": {"preventPodSchedulingIfMissing": true}})));
        assert_eq!(bench.verdicts(&NodeVolumeLimits, pod("p", &["1"])), ["", "csi.x CSI driver is not installed on the node"]);
    }
}
