//! VolumeBinding: a pod goes where its claims are bound or can be, and claims that wait for it get their volumes there.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, NodeView, Plugin, Point, PreFilter, Preparing, Reasons, Refusal, Rejection, Verdict};
use crate::plugins::node_resources_fit::{broken_line, scaled_shape};
use crate::snapshot::NodeIndex;
use crate::snapshot::pod::PodInfo;
use crate::volumes::{Plan, Work, capacity, claim_class, claim_of, is_for_pod, is_fully_bound, limit, requested, volume_name};
use crate::world::World;

pub struct VolumeBinding;

/// The claims of the pod of this cycle.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    bound: Vec<Arc<PersistentVolumeClaim>>,
    waiting: Vec<Arc<PersistentVolumeClaim>>,
    /// What is to be requested before the pod can be bound, once its node is chosen.
    pub work: Option<Work>,
}

impl VolumeBinding {
    fn claims(world: &World, pod: &PodInfo) -> Result<Option<Claims>, Refusal> {
        let unresolvable = |text: String| Refusal::Rejected(Rejection::saying(false, text));
        let mut found = Vec::new();
        for volume in pod.spec().volumes.iter().flatten() {
            let Some((name, with_pod)) = claim_of(&pod.pod, volume) else { continue };
            let Some(claim) = world.volumes.claim(pod.namespace(), &name) else {
                return Err(unresolvable(if with_pod {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                }));
            };
            if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
                let volume = volume_name(claim);
                return Err(unresolvable(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}")));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(unresolvable(format!("persistentvolumeclaim {name:?} is being deleted")));
            }
            if with_pod {
                is_for_pod(&pod.pod, claim).map_err(unresolvable)?;
            }
            found.push(claim.clone());
        }
        if found.is_empty() {
            return Ok(None);
        }
        let mut claims = Claims::default();
        for claim in found {
            if is_fully_bound(&claim) {
                claims.bound.push(claim);
            } else if world.volumes.waits_for_consumer(&claim).map_err(Refusal::Failed)? && volume_name(&claim).is_empty() {
                claims.waiting.push(claim);
            } else {
                return Err(Rejection::unresolvable("pod has unbound immediate PersistentVolumeClaims").into());
            }
        }
        Ok(Some(claims))
    }

    fn plan(cycle: &Cycle<'_>, claims: &Claims, node: &NodeView<'_>) -> Result<Plan, Refusal> {
        let Some(object) = &node.info.node else { return Ok(Plan::default()) };
        match cycle.world.volumes.plan(&claims.bound, &claims.waiting, object) {
            Err(error) => Err(Refusal::Failed(error)),
            Ok(Err(reasons)) => {
                let reasons = Reasons::Many(reasons.into_iter().map(Into::into).collect());
                Err(Rejection { resolvable: false, reasons }.into())
            }
            Ok(Ok(plan)) => Ok(plan),
        }
    }
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score, Point::Reserve, Point::PreBind]
    }

    fn interests(&self) -> &'static [Interest] {
        const CHANGE: Actions = Actions::ADD.or(Actions::UPDATE);
        const {
            &[
                Interest::hinted(Resource::StorageClass, CHANGE, class_changed),
                Interest::hinted(Resource::PersistentVolumeClaim, CHANGE, is_claimed),
                Interest::any(Resource::PersistentVolume, CHANGE),
                Interest::any(Resource::Node, Actions::ADD.or(Actions::NODE_LABEL)),
                Interest::hinted(Resource::CsiNode, CHANGE, csi_node_changed),
                Interest::hinted(Resource::CsiDriver, Actions::UPDATE, driver_changed),
                Interest::hinted(Resource::CsiStorageCapacity, CHANGE, capacity_grew),
            ]
        }
    }

    fn pre_filter(&self, cycle: &mut Preparing<'_>) -> PreFilter {
        match VolumeBinding::claims(cycle.world, cycle.pod) {
            Err(refusal) => PreFilter::Refuse(refusal),
            Ok(None) => PreFilter::Skip,
            Ok(claims) => {
                cycle.state.volumes = claims;
                PreFilter::Ask
            }
        }
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        match &cycle.state.volumes {
            None => Ok(()),
            Some(claims) => VolumeBinding::plan(cycle, claims, node).map(|_| ()),
        }
    }

    fn pre_score(&self, cycle: &mut Preparing<'_>, _nodes: &[NodeIndex]) -> bool {
        cycle.state.volumes.as_ref().is_some_and(|claims| !claims.waiting.is_empty())
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> i64 {
        let Some(claims) = &cycle.state.volumes else { return 0 };
        let Ok(plan) = VolumeBinding::plan(cycle, claims, node) else { return 0 };
        // By class: what is asked for, and what there is.
        let mut classes: std::collections::BTreeMap<String, (i64, i64)> = std::collections::BTreeMap::new();
        for (volume, claim) in &plan.matches {
            let class = volume.spec.as_ref().and_then(|s| s.storage_class_name.clone()).unwrap_or_default();
            let entry = classes.entry(class).or_default();
            entry.0 += requested(claim).unwrap_or(0);
            entry.1 += capacity(volume);
        }
        if plan.matches.is_empty() {
            for (claim, room) in plan.provisions.iter().filter_map(|(claim, room)| Some((claim, room.as_ref()?))) {
                let entry = classes.entry(claim_class(claim).to_owned()).or_default();
                entry.0 += requested(claim).unwrap_or(0);
                entry.1 = limit_of_pool(room);
            }
        }
        if classes.is_empty() {
            return 0;
        }
        let shape = scaled_shape(&cycle.profile.args.volume_binding.shape);
        let score = |(asked, there): &(i64, i64)| {
            let utilization = if *there == 0 || asked > there { 100 } else { asked * 100 / there };
            broken_line(&shape, utilization)
        };
        let sum: i64 = classes.values().map(score).sum();
        (sum as f64 / classes.len() as f64).round() as i64
    }

    fn reserve(&self, cycle: &mut Preparing<'_>, node: NodeIndex) -> Verdict {
        let Some(claims) = cycle.state.volumes.as_ref().filter(|claims| !claims.waiting.is_empty()).cloned() else { return Ok(()) };
        let world = &*cycle.world;
        let view = NodeView::of(world, node);
        let plan = {
            let reading = Cycle { world, profile: cycle.profile, pod: cycle.pod, state: cycle.state };
            VolumeBinding::plan(&reading, &claims, &view)?
        };
        let name = view.name().to_owned();
        let work = cycle.world.volumes.promise(&plan, &cycle.pod.uid, &name);
        if let Some(claims) = &mut cycle.state.volumes {
            claims.work = Some(work);
        }
        Ok(())
    }

    fn unreserve(&self, world: &mut World, pod: &PodInfo) {
        world.volumes.take_back(&pod.uid);
    }
}

/// Room in all, unlike the largest volume that fits.
fn limit_of_pool(room: &k8s_openapi::api::storage::v1::CSIStorageCapacity) -> i64 {
    room.capacity.as_ref().map_or(0, |q| apimachinery::quantity::Quantity::parse(&q.0).map_or(0, |q| q.value()))
}

fn class_changed(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    match subject {
        Subject::StorageClass { old: Some(old), new: Some(new) } => old.allowed_topologies != new.allowed_topologies,
        _ => true,
    }
}

/// Whether the claim that has changed is one of the pod's.
pub fn is_claimed(_world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::PersistentVolumeClaim { new: Some(claim), .. } = subject else { return true };
    let name = claim.metadata.name.as_deref().unwrap_or("");
    claim.metadata.namespace.as_deref().unwrap_or("") == pod.namespace()
        && pod.spec().volumes.iter().flatten().filter_map(|v| claim_of(&pod.pod, v)).any(|(wanted, _)| wanted == name)
}

fn csi_node_changed(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";
    let Subject::CsiNode { old: Some(old), new: Some(new) } = subject else { return true };
    let migrated =
        |node: &k8s_openapi::api::storage::v1::CSINode| node.metadata.annotations.as_ref().and_then(|a| a.get(MIGRATED).cloned());
    migrated(old) != migrated(new)
}

fn driver_changed(_world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::CsiDriver { old: Some(old), new: Some(new) } = subject else { return true };
    let used = pod.spec().volumes.iter().flatten().any(|v| v.csi.as_ref().is_some_and(|c| Some(&c.driver) == new.metadata.name.as_ref()));
    used && old.spec.storage_capacity == Some(true) && new.spec.storage_capacity != Some(true)
}

fn capacity_grew(_world: &World, _pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::CsiStorageCapacity { old: Some(old), new: Some(new) } = subject else { return true };
    limit(new).is_some_and(|now| limit(old).is_none_or(|before| now > before))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Bench, of};

    fn storage() -> Bench {
        let mut bench = Bench::new(&[("a", json!({"zone": "a"})), ("b", json!({"zone": "b"}))]);
        let class = |name: &str, mode: &str| of(json!({"metadata": {"name": name}, "provisioner": "p", "volumeBindingMode": mode}));
        bench.world.volumes.classes.insert(class("later", "WaitForFirstConsumer"));
        bench.world.volumes.classes.insert(class("now", "Immediate"));
        let term = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]});
        let affinity = json!({"required": {"nodeSelectorTerms": [term]}});
        bench.world.volumes.volumes.insert(of(json!({"metadata": {"name": "v"}, "spec": {"nodeAffinity": affinity}})));
        bench
    }

    fn claim(name: &str, class: &str, volume: &str) -> Arc<PersistentVolumeClaim> {
        let annotations = if volume.is_empty() { json!({}) } else { json!({"pv.kubernetes.io/bind-completed": "yes"}) };
        of(
            json!({"metadata": {"name": name, "namespace": "d", "annotations": annotations}, "spec": {"storageClassName": class, "volumeName": volume}}),
        )
    }

    fn pod(claim: &str) -> Value {
        json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
    }

    #[test]
    fn a_pod_waits_for_its_claims_and_goes_where_they_are() {
        let mut bench = storage();
        for object in [claim("bound", "now", "v"), claim("unbound", "now", ""), claim("later", "later", "")] {
            bench.world.volumes.claims.insert(object);
        }
        let mut lost = PersistentVolumeClaim::clone(&claim("lost", "now", "gone"));
        lost.status.get_or_insert_default().phase = Some("Lost".into());
        bench.world.volumes.claims.insert(Arc::new(lost));
        let table = [
            (pod("bound"), vec!["never: node(s) didn't match PersistentVolume's node affinity", ""]),
            (pod("unbound"), vec!["never: pod has unbound immediate PersistentVolumeClaims"]),
            (pod("later"), vec!["", ""]),
            (pod("lost"), vec!["never: persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"gone\""]),
            (pod("none"), vec!["never: persistentvolumeclaim \"none\" not found"]),
            (json!({}), vec!["skip"]),
        ];
        for (pod, expected) in table {
            assert_eq!(bench.verdicts(&VolumeBinding, pod.clone()), expected, "{pod}");
        }
    }

    #[test]
    fn a_claim_of_an_ephemeral_volume_has_to_be_the_pods_own() {
        let mut bench = storage();
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"volumes": [{"name": "v", "ephemeral": {}}]}});
        let waiting = "never: waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\"";
        assert_eq!(bench.verdicts(&VolumeBinding, pod.clone()), [waiting]);
        bench.world.volumes.claims.insert(claim("p-v", "later", ""));
        assert_eq!(bench.verdicts(&VolumeBinding, pod.clone()), ["never: PVC d/p-v was not created for pod d/p (pod is not owner)"]);
        let mut own = PersistentVolumeClaim::clone(&claim("p-v", "later", ""));
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
        own.metadata.owner_references = serde_json::from_value(owner).unwrap();
        bench.world.volumes.claims.insert(Arc::new(own));
        assert_eq!(bench.verdicts(&VolumeBinding, pod), ["", ""]);
    }
}
