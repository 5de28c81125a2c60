//! Deployments: replaces the pods of one template by those of the next, through one ReplicaSet per version.
//!
//! [`wanted`], [`revision`], [`scaling`] and [`status`] decide; [`rollout`] writes what they say. Never touches pods, and no
//! ReplicaSet that another owner manages.

mod revision;
mod rollback;
mod rollout;
mod scaling;
mod status;
mod wanted;

use std::sync::Arc;

use apimachinery::selector::label::Selector;
use client::clock;
use client::controller::Outcome;
use client::events::Recorder;
use client::expectations::Expectations;
use client::{Change, Informer, Object, ObjectKey, Queue, controller};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Api, Client};

use crate::adoption::{self, Claimer};
use crate::manager::Context;
use crate::own_writes::{OwnWrites, UNSEEN_RETRY};
use crate::owners::{self, Owners};
use crate::replica_set::Replicated;
use crate::{failure, int_or_percent};
use rollout::Rollout;
use wanted::Wanted;

/// Why a Deployment could not be brought further.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("claiming replica sets: {0}")]
    Claim(#[from] adoption::Error),
    #[error("reading the strategy: {0}")]
    Strategy(#[from] int_or_percent::Error),
    #[error("naming the replica set: {0}")]
    Hash(#[from] serde_json::Error),
    #[error("writing replica set {name}: {}", failure::message(source))]
    Set { name: String, source: kube::Error },
    #[error("the replica set {0} is there, but not known here yet")]
    Unknown(String),
    #[error("another template has the name {0}")]
    Collision(String),
    #[error("writing the deployment: {}", failure::message(.0))]
    Write(#[source] kube::Error),
}

impl Error {
    fn is_namespace_terminating(&self) -> bool {
        matches!(self, Error::Set { source, .. } if client::answer::is_namespace_terminating(source))
    }
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let shell = Arc::new(Shell::new(&context));
    shell.clone().follow();
    tokio::join!(shell.deployments.synced(), shell.sets.synced(), shell.pods.synced());
    let (queue, workers) = (shell.queue.clone(), context.config.concurrent_deployment_syncs);
    controller::run(context.name, queue, workers, context.shutdown, |key| shell.reconcile(key)).await;
}

struct Shell {
    client: Client,
    recorder: Recorder,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    queue: Queue<ObjectKey>,
    own_writes: OwnWrites,
    own_set_writes: OwnWrites,
    /// ReplicaSets that were created: one that is not seen is not counted, and the next would be too large.
    creations: Expectations,
}

fn selector(deployment: &Deployment) -> Option<Selector> {
    Selector::from_label_selector(Some(&deployment.spec.selector)).ok()
}

impl Shell {
    fn new(context: &Context) -> Shell {
        let (sets, pods) = (context.informers.of::<ReplicaSet>(), context.informers.of::<Pod>());
        sets.index_controllers();
        owners::index_orphans(&sets);
        pods.index_controllers();
        Shell {
            client: context.client.clone(),
            recorder: context.recorder.clone(),
            deployments: context.informers.of(),
            sets,
            pods,
            queue: Queue::named("deployment"),
            own_writes: OwnWrites::default(),
            own_set_writes: OwnWrites::default(),
            creations: Expectations::default(),
        }
    }

    fn follow(self: Arc<Self>) {
        let shell = self.clone();
        self.deployments.on_change(move |change| {
            let key = change.object().key();
            let replaced = change.old().is_some_and(|old| old.uid() != change.object().uid());
            if replaced || matches!(change, Change::Deleted(_)) {
                shell.own_writes.forget(&key);
                shell.creations.forget(&key);
            }
            shell.queue.add(key);
        });
        let (shell, owners) = (self.clone(), Owners::new(self.deployments.clone(), selector));
        self.sets.on_change(move |change| {
            if matches!(change, Change::Deleted(_)) {
                shell.own_set_writes.forget(&change.object().key());
            }
            for note in owners.notes(change) {
                note.tell(&shell.creations, change.object().uid());
                shell.queue.add(note.owner().clone());
            }
        });
        let shell = self.clone();
        self.pods.on_change(move |change| {
            // Who recreates waits for the last old pod to go; all else about pods is told by ReplicaSets.
            if let Change::Deleted(pod) = change
                && let Some(deployment) = shell.deployment_of(pod)
                && !is_rolling(&deployment)
            {
                shell.queue.add(deployment.key());
            }
        });
    }

    fn deployment_of(&self, pod: &Pod) -> Option<Arc<Deployment>> {
        let owner = pod.controller().filter(|owner| owner.kind == "ReplicaSet")?;
        let set = self.sets.get(pod.namespace(), &owner.name).filter(|set| set.uid() == owner.uid)?;
        let owner = set.controller().filter(|owner| owner.kind == "Deployment")?;
        self.deployments.get(pod.namespace(), &owner.name).filter(|deployment| deployment.uid() == owner.uid)
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(deployment) = self.deployments.get_key(&key) else { return Ok(Outcome::Done) };
        match self.bring_further(&deployment).await {
            Err(error) if error.is_namespace_terminating() => Ok(Outcome::Done),
            other => other,
        }
    }

    async fn bring_further(&self, deployment: &Deployment) -> Result<Outcome, Error> {
        let wanted = Wanted::of(deployment)?;
        let Some(selector) = selector(deployment) else { return Ok(Outcome::Done) };
        if deployment.spec.selector == LabelSelector::default() {
            return self.refuse_to_select_all(deployment).await;
        }
        // Asked before the sets are looked at: what comes while requests are made is not among these.
        let settled = self.creations.satisfied(&deployment.key());
        let claimer = Claimer { client: &self.client, owner: deployment, finalizer: None };
        let sets = owners::owned_or_orphaned(&self.sets, deployment);
        let sets = claimer.claim(sets, |set| selector.matches(&set.metadata.labels)).await?;
        if !settled || !self.own_writes.are_seen_in(deployment) || sets.iter().any(|set| !self.own_set_writes.are_seen_in(&**set)) {
            return Ok(Outcome::After(UNSEEN_RETRY));
        }
        Rollout::new(self, deployment, wanted, sets, clock::now()).advance().await
    }

    async fn refuse_to_select_all(&self, deployment: &Deployment) -> Result<Outcome, Error> {
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        self.recorder.warning(&deployment.reference(), "SelectingAll", message);
        let generation = deployment.metadata.generation;
        if deployment.status.as_ref().and_then(|status| status.observed_generation) < generation {
            let mut changed = deployment.clone();
            changed.status.get_or_insert_default().observed_generation = generation;
            self.api(deployment).replace_status(deployment.name(), &Default::default(), &changed).await.map_err(Error::Write)?;
        }
        Ok(Outcome::Done)
    }

    fn api(&self, deployment: &Deployment) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), deployment.namespace())
    }

    /// Whether pods of these sets may still run.
    fn has_running_pods<'a>(&self, mut sets: impl Iterator<Item = &'a ReplicaSet>) -> bool {
        sets.any(|set| {
            set.status().replicas > 0 || self.pods.controlled_by(set.uid()).iter().any(|pod| !crate::pod_state::is_terminal(pod))
        })
    }
}

fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    strategy != Some("Recreate")
}
