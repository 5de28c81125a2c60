//! What happens in a cluster that may make a pod schedulable, in upstream's words (v1.37), and which part of a change it was.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};

use crate::snapshot::pod::PodInfo;

/// Kinds of things that change. Pods are three: those on nodes, those that wait, and the very pod that a hint is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    AssignedPod,
    UnscheduledPod,
    TargetPod,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    CsiNode,
    CsiDriver,
    VolumeAttachment,
    CsiStorageCapacity,
    StorageClass,
    ResourceClaim,
    DeviceClass,
    ResourceSlice,
    Any,
}

/// A set of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Actions(u32);

impl Actions {
    pub const ADD: Actions = Actions(1);
    pub const DELETE: Actions = Actions(1 << 1);
    pub const NODE_ALLOCATABLE: Actions = Actions(1 << 2);
    pub const NODE_LABEL: Actions = Actions(1 << 3);
    pub const NODE_TAINT: Actions = Actions(1 << 4);
    pub const NODE_CONDITION: Actions = Actions(1 << 5);
    pub const NODE_ANNOTATION: Actions = Actions(1 << 6);
    pub const NODE_DECLARED_FEATURE: Actions = Actions(1 << 7);
    pub const NODE_PREEMPTION_POLICY: Actions = Actions(1 << 8);
    pub const POD_LABEL: Actions = Actions(1 << 9);
    pub const POD_SCALE_DOWN: Actions = Actions(1 << 10);
    pub const POD_SCALE_UP: Actions = Actions(1 << 11);
    pub const POD_TOLERATION: Actions = Actions(1 << 12);
    pub const POD_GATES_ELIMINATED: Actions = Actions(1 << 13);
    pub const POD_GENERATED_CLAIM: Actions = Actions(1 << 14);
    pub const ALL: Actions = Actions((1 << 15) - 1);
    /// Any update at all.
    pub const UPDATE: Actions = Actions(Actions::ALL.0 & !0b11);

    pub const fn or(self, other: Actions) -> Actions {
        Actions(self.0 | other.0)
    }

    /// Whether an interest in `self` covers what has happened.
    pub const fn covers(self, happened: Actions) -> bool {
        self.0 & happened.0 != 0 && happened.0 <= self.0
    }

    fn name(self) -> &'static str {
        match self {
            Actions::ADD => "Add",
            Actions::DELETE => "Delete",
            Actions::NODE_ALLOCATABLE => "UpdateNodeAllocatable",
            Actions::NODE_LABEL => "UpdateNodeLabel",
            Actions::NODE_TAINT => "UpdateNodeTaint",
            Actions::NODE_CONDITION => "UpdateNodeCondition",
            Actions::NODE_ANNOTATION => "UpdateNodeAnnotation",
            Actions::NODE_DECLARED_FEATURE => "UpdateNodeDeclaredFeature",
            Actions::NODE_PREEMPTION_POLICY => "UpdateNodePreemptionPolicy",
            Actions::POD_LABEL => "UpdatePodLabel",
            Actions::POD_SCALE_DOWN => "UpdatePodScaleDown",
            Actions::POD_SCALE_UP => "UpdatePodScaleUp",
            Actions::POD_TOLERATION => "UpdatePodToleration",
            Actions::POD_GATES_ELIMINATED => "UpdatePodSchedulingGatesEliminated",
            Actions::POD_GENERATED_CLAIM => "UpdatePodGeneratedResourceClaim",
            Actions::ALL => "All",
            Actions::UPDATE => "Update",
            _ => "",
        }
    }
}

/// What has changed, as hints look at it.
#[derive(Clone, Debug)]
pub enum Subject {
    Nothing,
    Pod { old: Option<Arc<PodInfo>>, new: Option<Arc<PodInfo>> },
    Node { old: Option<Arc<Node>>, new: Option<Arc<Node>> },
    PersistentVolume { old: Option<Arc<PersistentVolume>>, new: Option<Arc<PersistentVolume>> },
    PersistentVolumeClaim { old: Option<Arc<PersistentVolumeClaim>>, new: Option<Arc<PersistentVolumeClaim>> },
    StorageClass { old: Option<Arc<StorageClass>>, new: Option<Arc<StorageClass>> },
    CsiNode { old: Option<Arc<CSINode>>, new: Option<Arc<CSINode>> },
    CsiDriver { old: Option<Arc<CSIDriver>>, new: Option<Arc<CSIDriver>> },
    CsiStorageCapacity { old: Option<Arc<CSIStorageCapacity>>, new: Option<Arc<CSIStorageCapacity>> },
    VolumeAttachment { old: Option<Arc<VolumeAttachment>>, new: Option<Arc<VolumeAttachment>> },
    ResourceClaim { old: Option<Arc<ResourceClaim>>, new: Option<Arc<ResourceClaim>> },
    DeviceClass { old: Option<Arc<DeviceClass>>, new: Option<Arc<DeviceClass>> },
}

/// One thing that has happened.
#[derive(Clone, Debug)]
pub struct Event {
    pub resource: Resource,
    pub actions: Actions,
    pub subject: Subject,
}

impl Event {
    pub fn new(resource: Resource, actions: Actions, subject: Subject) -> Event {
        Event { resource, actions, subject }
    }

    /// Pods that have waited too long are tried again, whatever has happened.
    pub fn timeout() -> Event {
        Event { resource: Resource::Any, actions: Actions::ALL, subject: Subject::Nothing }
    }

    pub fn is_wildcard(&self) -> bool {
        self.resource == Resource::Any && self.actions == Actions::ALL
    }

    /// The label that metrics have for it.
    pub fn label(&self) -> &'static str {
        label(self.resource, self.actions)
    }
}

impl Resource {
    const ALL: [Resource; 14] = [
        Resource::AssignedPod,
        Resource::UnscheduledPod,
        Resource::TargetPod,
        Resource::Node,
        Resource::PersistentVolume,
        Resource::PersistentVolumeClaim,
        Resource::CsiNode,
        Resource::CsiDriver,
        Resource::VolumeAttachment,
        Resource::CsiStorageCapacity,
        Resource::StorageClass,
        Resource::ResourceClaim,
        Resource::DeviceClass,
        Resource::ResourceSlice,
    ];

    fn name(self) -> &'static str {
        match self {
            Resource::AssignedPod => "AssignedPod",
            Resource::UnscheduledPod => "UnscheduledPod",
            Resource::TargetPod => "TargetPod",
            Resource::Node => "Node",
            Resource::PersistentVolume => "PersistentVolume",
            Resource::PersistentVolumeClaim => "PersistentVolumeClaim",
            Resource::CsiNode => "storage.k8s.io/CSINode",
            Resource::CsiDriver => "storage.k8s.io/CSIDriver",
            Resource::VolumeAttachment => "storage.k8s.io/VolumeAttachment",
            Resource::CsiStorageCapacity => "storage.k8s.io/CSIStorageCapacity",
            Resource::StorageClass => "storage.k8s.io/StorageClass",
            Resource::ResourceClaim => "resource.k8s.io/ResourceClaim",
            Resource::DeviceClass => "resource.k8s.io/DeviceClass",
            Resource::ResourceSlice => "resource.k8s.io/ResourceSlice",
            Resource::Any => "",
        }
    }
}

/// What metrics call an event.
pub fn label(resource: Resource, actions: Actions) -> &'static str {
    static LABELS: LazyLock<HashMap<(Resource, Actions), String>> = LazyLock::new(|| {
        let single = (0..15).map(|bit| Actions(1 << bit)).chain([Actions::UPDATE, Actions::ALL]);
        let pairs = single.flat_map(|actions| Resource::ALL.map(|resource| (resource, actions)));
        pairs.map(|(resource, actions)| ((resource, actions), format!("{}{}", resource.name(), actions.name()))).collect()
    });
    if resource == Resource::Any {
        return "UnschedulableTimeout";
    }
    LABELS.get(&(resource, actions)).map_or("", String::as_str)
}

/// What a plugin wants to be woken by.
#[derive(Clone, Copy)]
pub struct Interest {
    pub resource: Resource,
    pub actions: Actions,
    /// Whether the event may help the pod; without a hint every event may.
    pub hint: Option<Hint>,
}

/// Whether a pod that a plugin has refused may fit after this event.
pub type Hint = fn(&crate::world::World, &PodInfo, &Subject) -> bool;

impl Interest {
    pub const fn any(resource: Resource, actions: Actions) -> Interest {
        Interest { resource, actions, hint: None }
    }

    pub const fn hinted(resource: Resource, actions: Actions, hint: Hint) -> Interest {
        Interest { resource, actions, hint: Some(hint) }
    }

    pub fn covers(&self, event: &Event) -> bool {
        self.resource == event.resource && self.actions.covers(event.actions)
    }
}

/// Which parts of a pod have changed, as far as scheduling reads them.
pub fn pod_changes(old: &PodInfo, new: &PodInfo) -> Vec<Actions> {
    let mut changes = Vec::new();
    if old.pod.metadata.labels != new.pod.metadata.labels {
        changes.push(Actions::POD_LABEL);
    }
    let (was, is) = (&old.requests.requests, &new.requests.requests);
    if was != is {
        let shrinks = |a: &crate::resources::Resources, b: &crate::resources::Resources| {
            a.milli_cpu > b.milli_cpu
                || a.memory > b.memory
                || a.ephemeral_storage > b.ephemeral_storage
                || a.scalars.iter().any(|(name, amount)| *amount > b.scalar(name))
        };
        if shrinks(was, is) {
            changes.push(Actions::POD_SCALE_DOWN);
        }
        if shrinks(is, was) {
            changes.push(Actions::POD_SCALE_UP);
        }
    }
    let gates = |pod: &PodInfo| pod.spec().scheduling_gates.as_ref().map_or(0, Vec::len);
    if gates(old) > 0 && gates(new) == 0 {
        changes.push(Actions::POD_GATES_ELIMINATED);
    }
    if old.template.tolerations().len() != new.template.tolerations().len() {
        changes.push(Actions::POD_TOLERATION);
    }
    let claims = |pod: &PodInfo| pod.pod.status.as_ref().and_then(|s| s.resource_claim_statuses.clone());
    if claims(old) != claims(new) {
        changes.push(Actions::POD_GENERATED_CLAIM);
    }
    if changes.is_empty() {
        changes.push(Actions::UPDATE);
    }
    changes
}

/// Which parts of a node have changed, as far as scheduling reads them; none for heartbeats.
pub fn node_changes(old: &Node, new: &Node) -> Vec<Actions> {
    let spec = |node: &Node| node.spec.clone().unwrap_or_default();
    let status = |node: &Node| node.status.clone().unwrap_or_default();
    let (old_spec, new_spec, old_status, new_status) = (spec(old), spec(new), status(old), status(new));
    let conditions = |status: &k8s_openapi::api::core::v1::NodeStatus| -> std::collections::BTreeMap<String, String> {
        status.conditions.iter().flatten().map(|c| (c.type_.clone(), c.status.clone())).collect()
    };
    let checks = [
        (old_spec.unschedulable == Some(true) && new_spec.unschedulable != Some(true), Actions::NODE_TAINT),
        (old_status.allocatable != new_status.allocatable, Actions::NODE_ALLOCATABLE),
        (old.metadata.labels != new.metadata.labels, Actions::NODE_LABEL),
        (old_spec.taints != new_spec.taints, Actions::NODE_TAINT),
        (conditions(&old_status) != conditions(&new_status), Actions::NODE_CONDITION),
        (old.metadata.annotations != new.metadata.annotations, Actions::NODE_ANNOTATION),
        (old_spec.pod_preemption_policy != new_spec.pod_preemption_policy, Actions::NODE_PREEMPTION_POLICY),
        (old_status.declared_features != new_status.declared_features, Actions::NODE_DECLARED_FEATURE),
    ];
    checks.into_iter().filter(|(changed, _)| *changed).map(|(_, action)| action).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_interest_in_one_update_is_not_woken_by_another() {
        assert!(Actions::UPDATE.covers(Actions::NODE_LABEL));
        assert!(!Actions::NODE_LABEL.covers(Actions::NODE_TAINT));
        assert!(!Actions::NODE_LABEL.covers(Actions::UPDATE));
        assert!(Actions::ADD.or(Actions::NODE_TAINT).covers(Actions::ADD));
        assert_eq!(Event::new(Resource::Node, Actions::NODE_TAINT, Subject::Nothing).label(), "NodeUpdateNodeTaint");
    }

    #[test]
    fn heartbeats_change_nothing() {
        let node = |heartbeat: &str, ready: &str| -> Node {
            serde_json::from_value(json!({"status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat}]}}))
                .unwrap()
        };
        let before = node("2026-01-01T00:00:00Z", "True");
        assert_eq!(node_changes(&before, &node("2026-01-01T00:01:00Z", "True")), []);
        assert_eq!(node_changes(&before, &node("2026-01-01T00:01:00Z", "False")), [Actions::NODE_CONDITION]);
    }
}
