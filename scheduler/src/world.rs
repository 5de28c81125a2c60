//! All that decisions are made from: the nodes and their pods, the objects that plugins look up, and what is underway.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use client::store::Store;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::devices::Devices;
use crate::queue::nominator::Nominator;
use crate::snapshot::Snapshot;
use crate::snapshot::pod::{PodInfo, Uid};
use crate::volumes::Volumes;

/// Objects that plugins look up by name or namespace.
#[derive(Default)]
pub struct Objects {
    pub services: Store<Service>,
    pub replication_controllers: Store<ReplicationController>,
    pub replica_sets: Store<ReplicaSet>,
    pub stateful_sets: Store<StatefulSet>,
    pub disruption_budgets: Store<PodDisruptionBudget>,
}

/// A pod for which others are being removed.
#[derive(Clone, Debug)]
pub struct Preempting {
    pub since: Instant,
    /// The last of them, once its removal has begun: as soon as that is seen to have an effect, the pod may be tried again.
    pub last_victim: Option<Uid>,
}

/// What plugins read.
#[derive(Default)]
pub struct World {
    pub snapshot: Snapshot,
    pub objects: Objects,
    pub volumes: Volumes,
    pub devices: Devices,
    pub nominator: Nominator,
    pub preempting: HashMap<Uid, Preempting>,
    /// Budgets change rarely; verdicts about victims are kept until they do.
    pub budgets_epoch: u64,
}

impl World {
    /// Whether the pod has to wait for the removal of others.
    pub fn is_preempting(&self, uid: &str) -> bool {
        let Some(preempting) = self.preempting.get(uid) else { return false };
        match &preempting.last_victim {
            None => true,
            Some(victim) => self.snapshot.pod(victim).is_some_and(|pod| !pod.terminating),
        }
    }

    /// Nominates a pod to a node; to none if the name is empty.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        let before = self.nominator.node_of(&pod.uid).cloned();
        self.nominator.set(pod, node);
        before.iter().for_each(|before| self.nominations_changed(before));
        self.nominations_changed(node);
    }

    /// A waiting pod has changed: its nomination may have.
    pub fn nominated_pod_changed(&mut self, old: &PodInfo, new: Arc<PodInfo>) {
        let before = self.nominator.node_of(&new.uid).cloned();
        let uid = new.uid.clone();
        self.nominator.update(old, new);
        let now = self.nominator.node_of(&uid).cloned();
        before.iter().chain(&now).for_each(|node| self.nominations_changed(node));
    }

    /// A pod is nominated no more.
    pub fn end_nomination(&mut self, uid: &str) {
        let Some(node) = self.nominator.node_of(uid).cloned() else { return };
        self.nominator.remove(uid);
        self.nominations_changed(&node);
    }

    /// The snapshot knows how many pods are nominated to a node, so that a search over many nodes need not ask for each.
    pub fn nominations_changed(&mut self, node: &str) {
        self.snapshot.set_nominated(node, self.nominator.on(node).len());
    }

    pub fn budgets(&self) -> impl Iterator<Item = &Arc<PodDisruptionBudget>> {
        self.objects.disruption_budgets.iter()
    }
}
