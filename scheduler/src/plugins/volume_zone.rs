//! VolumeZone: a pod goes where the zone and region labels of its volumes allow.

use k8s_openapi::api::core::v1::PersistentVolume;

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, NodeView, Plugin, Point, PreFilter, Preparing, Refusal, Rejection, Verdict};
use crate::plugins::volume_binding::is_claimed;
use crate::snapshot::pod::PodInfo;
use crate::volumes::{claim_class, volume_name};
use crate::world::World;

pub struct VolumeZone;

pub const REASON: &str = "node(s) had no available volume zone";

/// Labels of volumes that tie them to nodes, each with the label that it is called now.
const LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// A label, its name now, and the values that will do.
type Tie = (&'static str, &'static str, Vec<String>);

fn ties(volume: &PersistentVolume) -> Vec<Tie> {
    let labels = volume.metadata.labels.as_ref();
    let tie = |(old, now): (&'static str, &'static str)| {
        let values: Vec<String> = labels?.get(old)?.split("__").map(str::to_owned).collect();
        (!values.iter().any(String::is_empty)).then_some((old, now, values))
    };
    LABELS.into_iter().filter_map(tie).collect()
}

fn ties_of_pod(world: &World, pod: &PodInfo) -> Result<Vec<Tie>, Refusal> {
    let refuse = |text: String| Refusal::Rejected(Rejection::saying(false, text));
    let mut all = Vec::new();
    for name in pod.spec().volumes.iter().flatten().filter_map(|v| v.persistent_volume_claim.as_ref()).map(|c| &c.claim_name) {
        if name.is_empty() {
            return Err(refuse("PersistentVolumeClaim had no name".to_owned()));
        }
        let claim =
            world.volumes.claim(pod.namespace(), name).ok_or_else(|| refuse(format!("persistentvolumeclaim {name:?} not found")))?;
        let volume = volume_name(claim);
        if volume.is_empty() {
            let class = claim_class(claim);
            if class.is_empty() {
                return Err(refuse("PersistentVolumeClaim had no pv name and storageClass name".to_owned()));
            }
            let object = world.volumes.class(class).ok_or_else(|| refuse(format!("storageclass.storage.k8s.io {class:?} not found")))?;
            match object.volume_binding_mode.as_deref() {
                None => return Err(refuse(format!("VolumeBindingMode not set for StorageClass {class:?}"))),
                Some("WaitForFirstConsumer") => continue,
                Some(_) => return Err(refuse("PersistentVolume had no name".to_owned())),
            }
        }
        let object = world.volumes.volume(volume).ok_or_else(|| refuse(format!("persistentvolume {volume:?} not found")))?;
        all.extend(ties(object));
    }
    Ok(all)
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn interests(&self) -> &'static [Interest] {
        const CHANGE: Actions = Actions::ADD.or(Actions::UPDATE);
        const {
            &[
                Interest::hinted(Resource::StorageClass, Actions::ADD, waits_for_consumer),
                Interest::any(Resource::Node, Actions::ADD.or(Actions::NODE_LABEL)),
                Interest::hinted(Resource::PersistentVolumeClaim, CHANGE, is_claimed),
                Interest::hinted(Resource::PersistentVolume, CHANGE, ties_changed),
            ]
        }
    }

    fn pre_filter(&self, cycle: &mut Preparing<'_>) -> PreFilter {
        if cycle.pod.claims.is_empty() {
            return PreFilter::Skip;
        }
        match ties_of_pod(cycle.world, cycle.pod) {
            Err(refusal) => PreFilter::Refuse(refusal),
            Ok(ties) if ties.is_empty() => PreFilter::Skip,
            Ok(_) => PreFilter::Ask,
        }
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        if LABELS.iter().all(|(label, _)| node.info.label(label).is_none()) {
            return Ok(());
        }
        let fits = |(old, now, values): &Tie| {
            node.info.label(old).or_else(|| node.info.label(now)).is_some_and(|value| values.iter().any(|v| v == value))
        };
        if ties_of_pod(cycle.world, cycle.pod)?.iter().all(fits) { Ok(()) } else { Err(Rejection::unresolvable(REASON).into()) }
    }
}

fn waits_for_consumer(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::StorageClass { new: Some(class), .. } = subject else { return true };
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

fn ties_changed(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::PersistentVolume { old: Some(old), new: Some(new) } = subject else { return true };
    ties(old) != ties(new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Bench, of};

    #[test]
    fn a_pod_goes_where_its_volume_is() {
        let zone = "topology.kubernetes.io/zone";
        let mut bench = Bench::new(&[("a", json!({zone: "a"})), ("b", json!({zone: "b"})), ("none", json!({}))]);
        let claim = |name: &str, volume: &str| of(json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"volumeName": volume}}));
        bench.world.volumes.claims.insert(claim("one", "one"));
        bench.world.volumes.claims.insert(claim("both", "both"));
        bench.world.volumes.claims.insert(claim("lost", "lost"));
        for (name, zones) in [("one", "a"), ("both", "a__b")] {
            bench.world.volumes.volumes.insert(of(json!({"metadata": {"name": name, "labels": {zone: zones}}})));
        }
        let pod = |claim: &str| json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}});
        let never = format!("never: {REASON}");
        assert_eq!(bench.verdicts(&VolumeZone, pod("one")), ["", &never, ""]);
        assert_eq!(bench.verdicts(&VolumeZone, pod("both")), ["", "", ""]);
        assert_eq!(bench.verdicts(&VolumeZone, pod("lost")), ["never: persistentvolume \"lost\" not found"]);
        assert_eq!(bench.verdicts(&VolumeZone, pod("none")), ["never: persistentvolumeclaim \"none\" not found"]);
        assert_eq!(bench.verdicts(&VolumeZone, json!({})), ["skip"]);
    }
}
