//! VolumeRestrictions: disks that bear one pod on a node, and claims that bear one pod at all.

use k8s_openapi::api::core::v1::{PodSpec, Volume};

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, NodeView, Plugin, Point, PreFilter, Preparing, Rejection, Verdict};
use crate::plugins::volume_binding::is_claimed;
use crate::snapshot::pod::PodInfo;
use crate::world::World;

pub struct VolumeRestrictions;

pub const DISK_CONFLICT: &str = "node(s) had no available disk";
pub const CLAIM_CONFLICT: &str =
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";

/// What the pod of this cycle wants for itself.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Claims that only one pod may use, as `namespace/name`.
    pub exclusive: Vec<String>,
    /// How many of these are in use.
    pub in_use: i64,
}

fn is_restricted(volume: &Volume) -> bool {
    volume.gce_persistent_disk.is_some() || volume.aws_elastic_block_store.is_some() || volume.rbd.is_some() || volume.iscsi.is_some()
}

/// Whether both cannot be mounted on one node.
fn conflict(a: &Volume, b: &Volume) -> bool {
    let both_read = |a: Option<bool>, b: Option<bool>| a == Some(true) && b == Some(true);
    if let (Some(a), Some(b)) = (&a.gce_persistent_disk, &b.gce_persistent_disk) {
        return a.pd_name == b.pd_name && !both_read(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.aws_elastic_block_store, &b.aws_elastic_block_store) {
        return a.volume_id == b.volume_id;
    }
    if let (Some(a), Some(b)) = (&a.iscsi, &b.iscsi) {
        return a.iqn == b.iqn && !both_read(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&a.rbd, &b.rbd) {
        let pool = |pool: &Option<String>| pool.clone().unwrap_or_else(|| "rbd".to_owned());
        let common = a.monitors.iter().any(|m| b.monitors.contains(m));
        return common && pool(&a.pool) == pool(&b.pool) && a.image == b.image && !both_read(a.read_only, b.read_only);
    }
    false
}

fn conflicts(spec: &PodSpec, other: &PodSpec) -> bool {
    let wanted = spec.volumes.iter().flatten().filter(|v| is_restricted(v));
    wanted.into_iter().any(|volume| other.volumes.iter().flatten().any(|existing| conflict(volume, existing)))
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn interests(&self) -> &'static [Interest] {
        const {
            &[
                Interest::hinted(Resource::AssignedPod, Actions::DELETE, frees),
                Interest::any(Resource::Node, Actions::ADD),
                Interest::hinted(Resource::PersistentVolumeClaim, Actions::ADD, is_claimed),
            ]
        }
    }

    fn pre_filter(&self, cycle: &mut Preparing<'_>) -> PreFilter {
        let restricted = cycle.pod.spec().volumes.iter().flatten().any(is_restricted);
        let mut wanted = Wanted::default();
        for key in &cycle.pod.claims {
            let (namespace, name) = key.split_once('/').unwrap_or(("", key));
            let Some(claim) = cycle.world.volumes.claim(namespace, name) else {
                return PreFilter::Refuse(Rejection::saying(false, format!("persistentvolumeclaim {name:?} not found")).into());
            };
            let modes = claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten());
            if modes.into_iter().any(|mode| mode == "ReadWriteOncePod") && !wanted.exclusive.contains(key) {
                wanted.exclusive.push(key.clone());
            }
        }
        if !wanted.exclusive.is_empty() {
            let used = |key: &&String| cycle.world.snapshot.places().iter().any(|node| node.claims.contains_key(*key));
            wanted.in_use = wanted.exclusive.iter().filter(used).count() as i64;
        }
        if !restricted && wanted.in_use == 0 {
            return PreFilter::Skip;
        }
        cycle.state.restrictions = Some(wanted);
        PreFilter::Ask
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        let spec = cycle.pod.spec();
        if spec.volumes.iter().flatten().any(is_restricted) && node.info.pods.iter().any(|other| conflicts(spec, other.spec())) {
            return Err(Rejection::resolvable(DISK_CONFLICT).into());
        }
        let Some(wanted) = &cycle.state.restrictions else { return Ok(()) };
        // Of the claims in use, those that the pods taken off this node had are free.
        let here = |info: &crate::snapshot::node::NodeInfo| {
            wanted.exclusive.iter().map(|key| i64::from(info.claims.get(key).copied().unwrap_or(0))).sum::<i64>()
        };
        let freed = here(cycle.world.snapshot.node(node.index)) - here(node.info);
        if wanted.in_use - freed > 0 { Err(Rejection::resolvable(CLAIM_CONFLICT).into()) } else { Ok(()) }
    }
}

fn frees(_world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Pod { old: Some(gone), .. } = subject else { return true };
    gone.namespace() == pod.namespace()
        && (conflicts(pod.spec(), gone.spec()) || gone.claims.iter().any(|claim| pod.claims.contains(claim)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Bench, of};

    #[test]
    fn a_disk_is_had_by_one_pod_unless_all_only_read() {
        let disk = |name: &str, read: bool| json!({"name": "v", "gcePersistentDisk": {"pdName": name, "readOnly": read}});
        let rbd = |monitor: &str, image: &str| json!({"name": "v", "rbd": {"monitors": [monitor], "image": image}});
        let pod = |name: &str, volume: Value| json!({"metadata": {"name": name}, "spec": {"volumes": [volume]}});
        let mut bench = Bench::new(&[("a", json!({})), ("b", json!({}))]);
        bench.place("a", pod("1", disk("one", false)));
        bench.place("a", pod("2", disk("two", true)));
        bench.place("b", pod("3", rbd("m", "i")));
        let table = [
            (disk("one", true), [DISK_CONFLICT, ""]),
            (disk("two", true), ["", ""]),
            (disk("two", false), [DISK_CONFLICT, ""]),
            (rbd("m", "i"), ["", DISK_CONFLICT]),
            (rbd("m", "j"), ["", ""]),
            (rbd("n", "i"), ["", ""]),
        ];
        for (volume, expected) in table {
            assert_eq!(bench.verdicts(&VolumeRestrictions, pod("p", volume.clone())), expected, "{volume}");
        }
        assert_eq!(bench.verdicts(&VolumeRestrictions, json!({})), ["skip"]);
    }

    #[test]
    fn a_claim_for_one_pod_is_not_shared_on_any_node() {
        let mut bench = Bench::new(&[("a", json!({})), ("b", json!({}))]);
        let claim = |name: &str, mode: &str| of(json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"accessModes": [mode]}}));
        bench.world.volumes.claims.insert(claim("mine", "ReadWriteOncePod"));
        bench.world.volumes.claims.insert(claim("ours", "ReadWriteOnce"));
        let pod = |name: &str, claim: &str| json!({"metadata": {"name": name}, "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}});
        assert_eq!(bench.verdicts(&VolumeRestrictions, pod("p", "mine")), ["skip"]);
        bench.place("a", pod("1", "mine"));
        bench.place("a", pod("2", "ours"));
        assert_eq!(bench.verdicts(&VolumeRestrictions, pod("p", "mine")), [CLAIM_CONFLICT, CLAIM_CONFLICT]);
        assert_eq!(bench.verdicts(&VolumeRestrictions, pod("p", "ours")), ["skip"]);
        assert_eq!(bench.verdicts(&VolumeRestrictions, pod("p", "none")), ["never: persistentvolumeclaim \"none\" not found"]);
    }
}
