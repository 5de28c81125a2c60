//! All that decisions are made from: the nodes and their pods, the objects that plugins look up, and what is underway.

use std::collections::HashMap;
use std::sync::Arc;

use client::store::Store;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::queue::nominator::Nominator;
use crate::snapshot::Snapshot;
use crate::snapshot::pod::Uid;
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
#[derive(Clone, Debug, Default)]
pub struct Preempting {
    /// The last of them, once its removal has begun: as soon as that is seen to have an effect, the pod may be tried again.
    pub last_victim: Option<Uid>,
}

/// What plugins read.
#[derive(Default)]
pub struct World {
    pub snapshot: Snapshot,
    pub objects: Objects,
    pub volumes: Volumes,
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

    pub fn budgets(&self) -> impl Iterator<Item = &Arc<PodDisruptionBudget>> {
        self.objects.disruption_budgets.iter()
    }
}
