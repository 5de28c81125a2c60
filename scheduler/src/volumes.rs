//! Claims and volumes: which volume a claim gets on which node, and what has been promised but is not yet seen to be so.
//!
//! Specified by upstream's `plugins/volumebinding` and component-helpers `storage/volume` (v1.37). In-tree volumes are taken as they
//! are: their translation to CSI changes nothing for drivers of this decade.

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::quantity::Quantity;
use apimachinery::selector::label::Selector;
use client::ObjectKey;
use client::store::Store;
use k8s_openapi::api::core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};

use crate::node_selector::Terms;
use crate::snapshot::pod::Uid;

pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner of classes whose volumes somebody makes by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The index of attachments.
pub const BY_NODE: &str = "node";

/// All that is known of storage.
pub struct Volumes {
    pub volumes: Store<PersistentVolume>,
    pub claims: Store<PersistentVolumeClaim>,
    pub classes: Store<StorageClass>,
    pub csi_nodes: Store<CSINode>,
    pub csi_drivers: Store<CSIDriver>,
    pub capacities: Store<CSIStorageCapacity>,
    pub attachments: Store<VolumeAttachment>,
    /// What will be so once requests underway are answered, by name, with the pod for which.
    promised_volumes: HashMap<String, (Arc<PersistentVolume>, Uid)>,
    promised_claims: HashMap<ObjectKey, (Arc<PersistentVolumeClaim>, Uid)>,
}

impl Default for Volumes {
    fn default() -> Volumes {
        let mut attachments = Store::default();
        attachments.add_index(BY_NODE, |attachment: &VolumeAttachment| vec![attachment.spec.node_name.clone()]);
        Volumes {
            volumes: Store::default(),
            claims: Store::default(),
            classes: Store::default(),
            csi_nodes: Store::default(),
            csi_drivers: Store::default(),
            capacities: Store::default(),
            attachments,
            promised_volumes: HashMap::new(),
            promised_claims: HashMap::new(),
        }
    }
}

/// What a node would mean for the claims of a pod.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Volumes that are there, and the claims that get them.
    pub matches: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// Claims whose volumes are to be made for the node, and how much room there is, where it is told.
    pub provisions: Vec<(Arc<PersistentVolumeClaim>, Option<Arc<CSIStorageCapacity>>)>,
}

/// The requests that make a plan so: these objects replace what is there.
#[derive(Clone, Debug, Default)]
pub struct Work {
    pub volumes: Vec<PersistentVolume>,
    pub claims: Vec<PersistentVolumeClaim>,
    /// Claims that must be bound in the end, also those of `claims`.
    pub awaited: Vec<ObjectKey>,
}

pub fn key<K: client::Object>(object: &K) -> ObjectKey {
    object.key()
}

/// The class that a claim asks for; empty for none.
pub fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    let annotated = claim.metadata.annotations.as_ref().and_then(|a| a.get(BETA_CLASS));
    annotated.or(claim.spec.as_ref().and_then(|s| s.storage_class_name.as_ref())).map_or("", String::as_str)
}

fn volume_class(volume: &PersistentVolume) -> &str {
    let annotated = volume.metadata.annotations.as_ref().and_then(|a| a.get(BETA_CLASS));
    annotated.or(volume.spec.as_ref().and_then(|s| s.storage_class_name.as_ref())).map_or("", String::as_str)
}

pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or("")
}

fn annotation<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Option<&'a str> {
    claim.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether both sides of the binding are complete.
pub fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && annotation(claim, BIND_COMPLETED).is_some()
}

/// The storage that a claim asks for, in bytes.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<i64> {
    let quantity = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?;
    Some(Quantity::parse(&quantity.0).map_or(0, |q| q.value()))
}

pub fn capacity(volume: &PersistentVolume) -> i64 {
    let quantity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage"));
    quantity.map_or(0, |q| Quantity::parse(&q.0).map_or(0, |q| q.value()))
}

/// Whether the volume can be reached from the node.
pub fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let required = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
    // Upstream asks about the labels alone, so that a term on the node's name never holds.
    required.is_none_or(|required| Terms::new(required).matches(node))
}

/// The claim of a pod's volume, by name, and whether it is made with the pod.
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some((claim.claim_name.clone(), false));
    }
    volume.ephemeral.as_ref()?;
    Some((format!("{}-{}", pod.metadata.name.as_deref().unwrap_or(""), volume.name), true))
}

/// Whether the claim was made for this very pod.
pub fn is_for_pod(pod: &Pod, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let owned =
        claim.metadata.owner_references.iter().flatten().any(|o| o.controller == Some(true) && Some(&o.uid) == pod.metadata.uid.as_ref());
    let name = |m: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| m.name.clone().unwrap_or_default();
    let namespace = claim.metadata.namespace.as_deref().unwrap_or("");
    if owned {
        Ok(())
    } else {
        Err(format!(
            "PVC {namespace}/{} was not created for pod {namespace}/{} (pod is not owner)",
            name(&claim.metadata),
            name(&pod.metadata)
        ))
    }
}

impl Volumes {
    /// A claim as it will be.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        let key = ObjectKey::new(namespace, name);
        self.promised_claims.get(&key).map(|(claim, _)| claim).or_else(|| self.claims.get(&key))
    }

    /// A volume as it will be.
    pub fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        self.promised_volumes.get(name).map(|(volume, _)| volume).or_else(|| self.volumes.get(&ObjectKey::new("", name)))
    }

    pub fn class(&self, name: &str) -> Option<&Arc<StorageClass>> {
        self.classes.get(&ObjectKey::new("", name))
    }

    pub fn csi_node(&self, name: &str) -> Option<&Arc<CSINode>> {
        self.csi_nodes.get(&ObjectKey::new("", name))
    }

    /// A claim has been seen to change: what was promised of it is so, or will not be.
    pub fn claim_seen(&mut self, key: &ObjectKey) {
        self.promised_claims.remove(key);
    }

    pub fn volume_seen(&mut self, name: &str) {
        self.promised_volumes.remove(name);
    }

    /// Whether the claim's volume is to be chosen with the pod's node.
    pub fn waits_for_consumer(&self, claim: &PersistentVolumeClaim) -> Result<bool, String> {
        let name = claim_class(claim);
        let Some(class) = self.class(name).filter(|_| !name.is_empty()) else { return Ok(false) };
        match class.volume_binding_mode.as_deref() {
            None => Err(format!("VolumeBindingMode not set for StorageClass {name:?}")),
            Some(mode) => Ok(mode == "WaitForFirstConsumer"),
        }
    }

    /// What the node would mean for claims that wait for it; upstream's reasons if it will not do.
    pub fn plan(
        &self,
        bound: &[Arc<PersistentVolumeClaim>],
        waiting: &[Arc<PersistentVolumeClaim>],
        node: &Node,
    ) -> Result<Result<Plan, Vec<&'static str>>, String> {
        let (mut reachable, mut existing) = (true, true);
        for claim in bound {
            match self.volume(volume_name(claim)) {
                None => {
                    existing = false;
                    break;
                }
                Some(volume) if !reaches(volume, node) => {
                    reachable = false;
                    break;
                }
                Some(_) => {}
            }
        }
        let (plan, satisfied, roomy) = self.plan_waiting(waiting, node)?;
        let checks = [
            (reachable, "node(s) didn't match PersistentVolume's node affinity"),
            (satisfied, "node(s) didn't find available persistent volumes to bind"),
            (roomy, "node(s) did not have enough free storage"),
            (existing, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
        ];
        let reasons: Vec<&'static str> = checks.into_iter().filter(|(fine, _)| !fine).map(|(_, reason)| reason).collect();
        Ok(if reasons.is_empty() { Ok(plan) } else { Err(reasons) })
    }

    fn plan_waiting(&self, waiting: &[Arc<PersistentVolumeClaim>], node: &Node) -> Result<(Plan, bool, bool), String> {
        let mut plan = Plan::default();
        let name = node.metadata.name.as_deref().unwrap_or("");
        let (mut to_match, mut to_provision) = (Vec::new(), Vec::new());
        for claim in waiting {
            match annotation(claim, SELECTED_NODE) {
                Some(selected) if selected != name => return Ok((plan, false, true)),
                Some(_) => to_provision.push(claim),
                None => to_match.push(claim),
            }
        }
        // The smallest first, so that it does not take what a larger one needs.
        to_match.sort_by_key(|claim| requested(claim).unwrap_or(0));
        for claim in to_match {
            match self.find_match(claim, node, &plan.matches)? {
                Some(volume) => plan.matches.push((volume, claim.clone())),
                None => to_provision.push(claim),
            }
        }
        for claim in to_provision {
            let class_name = claim_class(claim);
            let described =
                format!("{}/{}", claim.metadata.namespace.as_deref().unwrap_or(""), claim.metadata.name.as_deref().unwrap_or(""));
            if class_name.is_empty() {
                return Err(format!("no class for claim {described:?}"));
            }
            let class = self.class(class_name).ok_or_else(|| format!("failed to find storage class {class_name:?}"))?;
            if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER || !allows(class, node) {
                return Ok((plan, false, true));
            }
            match self.room(claim, class, node) {
                Room::Unknown => plan.provisions.push((claim.clone(), None)),
                Room::In(capacity) => plan.provisions.push((claim.clone(), Some(capacity))),
                Room::None => return Ok((plan, true, false)),
            }
        }
        Ok((plan, true, true))
    }

    fn find_match(
        &self,
        claim: &PersistentVolumeClaim,
        node: &Node,
        taken: &[(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)],
    ) -> Result<Option<Arc<PersistentVolume>>, String> {
        let spec = claim.spec.clone().unwrap_or_default();
        let wanted = requested(claim).unwrap_or(0);
        let class = claim_class(claim);
        let selector = match &spec.selector {
            None => None,
            Some(selector) => Some(Selector::from_label_selector(Some(selector)).map_err(|error| {
                let namespace = claim.metadata.namespace.as_deref().unwrap_or("");
                let name = claim.metadata.name.as_deref().unwrap_or("");
                format!("error creating internal label selector for claim: {namespace}/{name}: {error}")
            })?),
        };
        let mut best: Option<(i64, Arc<PersistentVolume>)> = None;
        for known in self.volumes.iter() {
            let Some(volume) = self.volume(known.metadata.name.as_deref().unwrap_or("")) else { continue };
            if volume_class(volume) != class || taken.iter().any(|(other, _)| other.metadata.name == volume.metadata.name) {
                continue;
            }
            let Some(offer) = &volume.spec else { continue };
            let size = capacity(volume);
            let ours = is_bound_to(volume, claim);
            let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
            if (offer.claim_ref.is_some() && !ours)
                || size < wanted
                || mode(&spec.volume_mode) != mode(&offer.volume_mode)
                || spec.volume_attributes_class_name.as_deref().unwrap_or("") != offer.volume_attributes_class_name.as_deref().unwrap_or("")
                || volume.metadata.deletion_timestamp.is_some()
            {
                continue;
            }
            if ours {
                return Ok(reaches(volume, node).then(|| volume.clone()));
            }
            let available = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available");
            let modes_offered = spec.access_modes.iter().flatten().all(|mode| offer.access_modes.iter().flatten().any(|m| m == mode));
            if available
                && modes_offered
                && selector.as_ref().is_none_or(|s| s.matches(&volume.metadata.labels))
                && reaches(volume, node)
                && best.as_ref().is_none_or(|(smallest, _)| size < *smallest)
            {
                best = Some((size, volume.clone()));
            }
        }
        Ok(best.map(|(_, volume)| volume))
    }

    fn room(&self, claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node) -> Room {
        let Some(wanted) = requested(claim) else { return Room::Unknown };
        let driver = self.csi_drivers.get(&ObjectKey::new("", &class.provisioner));
        if driver.is_none_or(|driver| driver.spec.storage_capacity != Some(true)) {
            return Room::Unknown;
        }
        let fits = |capacity: &&Arc<CSIStorageCapacity>| {
            Some(capacity.storage_class_name.as_str()) == class.metadata.name.as_deref()
                && limit(capacity).is_some_and(|limit| limit >= wanted)
                && capacity.node_topology.as_ref().is_some_and(|topology| {
                    Selector::from_label_selector(Some(topology)).is_ok_and(|selector| selector.matches(&node.metadata.labels))
                })
        };
        self.capacities.iter().find(fits).map_or(Room::None, |capacity| Room::In(capacity.clone()))
    }

    /// Promises what the plan says for a pod, and says what has to be requested to make it so. Empty if nothing has.
    pub fn promise(&mut self, plan: &Plan, pod: &Uid, node: &str) -> Work {
        let mut work = Work::default();
        for (volume, claim) in &plan.matches {
            let mut changed = PersistentVolume::clone(volume);
            let spec = changed.spec.get_or_insert_default();
            let ours = spec.claim_ref.as_ref().is_some_and(|r| r.uid == claim.metadata.uid) && is_bound_to(volume, claim);
            if !ours {
                spec.claim_ref = Some(ObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("PersistentVolumeClaim".to_owned()),
                    name: claim.metadata.name.clone(),
                    namespace: claim.metadata.namespace.clone(),
                    uid: claim.metadata.uid.clone(),
                    resource_version: claim.metadata.resource_version.clone(),
                    field_path: None,
                });
            }
            if !is_bound_to(volume, claim) {
                changed.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
            }
            let name = changed.metadata.name.clone().unwrap_or_default();
            self.promised_volumes.insert(name, (Arc::new(changed.clone()), pod.clone()));
            work.volumes.push(changed);
            work.awaited.push(key(&**claim));
        }
        for (claim, _) in &plan.provisions {
            let mut changed = PersistentVolumeClaim::clone(claim);
            changed.metadata.annotations.get_or_insert_default().insert(SELECTED_NODE.to_owned(), node.to_owned());
            self.promised_claims.insert(key(&**claim), (Arc::new(changed.clone()), pod.clone()));
            work.claims.push(changed);
            work.awaited.push(key(&**claim));
        }
        work
    }

    /// Takes back what was promised for a pod.
    pub fn take_back(&mut self, pod: &Uid) {
        self.promised_volumes.retain(|_, (_, owner)| owner != pod);
        self.promised_claims.retain(|_, (_, owner)| owner != pod);
    }
}

enum Room {
    Unknown,
    In(Arc<CSIStorageCapacity>),
    None,
}

/// The largest volume that fits, as far as it is told.
pub fn limit(capacity: &CSIStorageCapacity) -> Option<i64> {
    let quantity = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref())?;
    Some(Quantity::parse(&quantity.0).map_or(0, |q| q.value()))
}

fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return false };
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
}

/// Whether the class makes volumes that the node can reach.
fn allows(class: &StorageClass, node: &Node) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let labels = node.metadata.labels.as_ref();
    let holds = |term: &k8s_openapi::api::core::v1::TopologySelectorTerm| {
        let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
        // An empty term selects nothing.
        !expressions.is_empty() && expressions.iter().all(|e| labels.and_then(|l| l.get(&e.key)).is_some_and(|v| e.values.contains(v)))
    };
    terms.is_empty() || terms.iter().any(holds)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn volume(name: &str, size: &str, zone: &str) -> Arc<PersistentVolume> {
        let affinity =
            json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}});
        of(json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {"storageClassName": "local",
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "nodeAffinity": affinity}}))
    }

    fn claim(name: &str, size: &str, class: &str) -> Arc<PersistentVolumeClaim> {
        of(json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"storageClassName": class,
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}}))
    }

    fn node(zone: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": zone}}})).unwrap()
    }

    fn storage() -> Volumes {
        let mut all = Volumes::default();
        all.volumes.insert(volume("small", "1Gi", "a"));
        all.volumes.insert(volume("large", "5Gi", "a"));
        all.volumes.insert(volume("far", "1Gi", "b"));
        for (name, provisioner) in [("local", NO_PROVISIONER), ("made", "csi.example.com")] {
            all.classes
                .insert(of(json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})));
        }
        all
    }

    #[test]
    fn a_claim_gets_the_smallest_volume_that_the_node_reaches() {
        let mut all = storage();
        let wanted = [claim("c", "1Gi", "local")];
        let plan = all.plan(&[], &wanted, &node("a")).unwrap().unwrap();
        assert_eq!(plan.matches[0].0.metadata.name.as_deref(), Some("small"));
        let work = all.promise(&plan, &Arc::from("pod"), "n");
        assert_eq!(work.volumes[0].spec.as_ref().unwrap().claim_ref.as_ref().unwrap().name.as_deref(), Some("c"));
        // What is promised is no longer to be had, until it is taken back.
        let next =
            |all: &Volumes| all.plan(&[], &[claim("e", "1Gi", "local")], &node("a")).unwrap().unwrap().matches[0].0.metadata.name.clone();
        assert_eq!(next(&all).as_deref(), Some("large"));
        all.take_back(&Arc::from("pod"));
        assert_eq!(next(&all).as_deref(), Some("small"));
        assert_eq!(all.plan(&[], &wanted, &node("c")).unwrap().unwrap_err(), ["node(s) didn't find available persistent volumes to bind"]);
    }

    #[test]
    fn a_volume_is_made_where_the_driver_has_room() {
        let mut all = storage();
        let wanted = [claim("c", "2Gi", "made")];
        assert_eq!(all.plan(&[], &wanted, &node("a")).unwrap().unwrap().provisions.len(), 1);
        all.csi_drivers.insert(of(json!({"metadata": {"name": "csi.example.com"}, "spec": {"storageCapacity": true}})));
        assert_eq!(all.plan(&[], &wanted, &node("a")).unwrap().unwrap_err(), ["node(s) did not have enough free storage"]);
        let room = |zone: &str, size: &str| {
            of::<CSIStorageCapacity>(json!({"metadata": {"name": zone, "namespace": "d"}, "storageClassName": "made", "capacity": size,
                "nodeTopology": {"matchLabels": {"zone": zone}}}))
        };
        all.capacities.insert(room("a", "1Gi"));
        all.capacities.insert(room("b", "2Gi"));
        assert!(all.plan(&[], &wanted, &node("a")).unwrap().is_err());
        let plan = all.plan(&[], &wanted, &node("b")).unwrap().unwrap();
        let work = all.promise(&plan, &Arc::from("pod"), "n");
        assert_eq!(annotation(&work.claims[0], SELECTED_NODE), Some("n"));
        assert_eq!(annotation(all.claim("d", "c").unwrap(), SELECTED_NODE), Some("n"));
    }

    #[test]
    fn a_bound_claim_ties_its_pod_to_where_the_volume_is() {
        let all = storage();
        let mut bound = PersistentVolumeClaim::clone(&claim("c", "1Gi", "local"));
        bound.spec.as_mut().unwrap().volume_name = Some("far".into());
        let bound = [Arc::new(bound)];
        assert!(all.plan(&bound, &[], &node("b")).unwrap().is_ok());
        assert_eq!(all.plan(&bound, &[], &node("a")).unwrap().unwrap_err(), ["node(s) didn't match PersistentVolume's node affinity"]);
    }
}
