//! DaemonSets: one pod on every node that fits.
//!
//! [`eligibility`], [`placement`] and [`rollout`] decide; this file watches and writes. Never binds pods: an affinity to the node
//! makes the scheduler do it.

mod backoff;
mod eligibility;
mod history;
mod placement;
mod pod;
mod rollout;

use std::sync::Arc;

use apimachinery::selector::label::Selector;
use client::clock;
use client::controller::Outcome;
use client::events::Recorder;
use client::expectations::Expectations;
use client::{Change, Informer, Object, ObjectKey, Queue, answer, controller};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::adoption::{self, Claimer};
use crate::controller_history::{self, History};
use crate::manager::Context;
use crate::owners::{self, Note, Owners};
use crate::pod_control::{self, FIRST_BATCH, PodControl, slow_start};
use crate::{failure, int_or_percent, node_state, pod_state, pods_by_node};
use backoff::FailedPods;
use eligibility::Requirements;
use placement::{Notice, Observed, Plan};

/// Pods created, and deleted, at most before the changes are awaited.
const BURST: usize = 250;

/// Old revisions that are kept if the set does not say.
const DEFAULT_HISTORY: i32 = 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("claiming pods: {0}")]
    Claim(#[from] adoption::Error),
    #[error("failed to construct revisions of DaemonSet: {0}")]
    History(#[from] controller_history::Error),
    #[error("reading the strategy: {0}")]
    Strategy(#[from] int_or_percent::Error),
    #[error(transparent)]
    Pods(#[from] pod_control::Error),
    #[error("labelling pod {name}: {}", failure::message(source))]
    Label { name: String, source: kube::Error },
    #[error("updating the status: {}", failure::message(.0))]
    Status(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let shell = Arc::new(Shell::new(&context));
    shell.clone().follow();
    tokio::join!(shell.sets.synced(), shell.pods.synced(), shell.nodes.synced(), shell.history.synced());
    let workers = context.config.concurrent_daemonset_syncs;
    let sets = controller::run(context.name, shell.queue.clone(), workers, context.shutdown.clone(), |key| shell.reconcile(key));
    let nodes = controller::run(context.name, shell.changed_nodes.clone(), workers, context.shutdown.clone(), |name| {
        shell.wake_sets_of(&name);
        std::future::ready(Ok::<_, std::convert::Infallible>(Outcome::Done))
    });
    tokio::join!(sets, nodes);
}

struct Shell {
    client: Client,
    recorder: Recorder,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    history: History,
    queue: Queue<ObjectKey>,
    /// Nodes that have come or changed: whom it concerns takes a look at every set.
    changed_nodes: Queue<String>,
    expectations: Expectations,
    pod_control: PodControl,
    failed: FailedPods,
}

fn selector(set: &DaemonSet) -> Option<Selector> {
    Selector::from_label_selector(Some(&set.spec.selector)).ok()
}

fn requirements(set: &DaemonSet) -> Requirements {
    Requirements::of(&pod::template(set, "").spec.unwrap_or_default())
}

impl Shell {
    fn new(context: &Context) -> Shell {
        let pods = context.informers.of::<Pod>();
        pods.index_controllers();
        owners::index_orphans(&pods);
        pods_by_node::index(&pods);
        Shell {
            client: context.client.clone(),
            recorder: context.recorder.clone(),
            sets: context.informers.of(),
            pods,
            nodes: context.informers.of(),
            history: History::new(context.client.clone(), context.informers.of()),
            queue: Queue::named("daemonset"),
            changed_nodes: Queue::named("daemonset-node-updates"),
            expectations: Expectations::default(),
            pod_control: PodControl::new(context.client.clone(), context.recorder.clone()),
            failed: FailedPods::default(),
        }
    }

    fn follow(self: Arc<Self>) {
        let shell = self.clone();
        self.sets.on_change(move |change| {
            let key = change.object().key();
            let replaced = change.old().is_some_and(|old| old.uid() != change.object().uid());
            if replaced || matches!(change, Change::Deleted(_)) {
                shell.expectations.forget(&key);
            }
            shell.queue.add(key);
        });
        let (shell, owners) = (self.clone(), Owners::new(self.sets.clone(), selector));
        self.pods.on_change(move |change| {
            for note in owners.notes(change) {
                note.tell(&shell.expectations, change.object().uid());
                shell.queue.add(note.owner().clone());
            }
        });
        let (queue, owners) = (self.queue.clone(), Owners::new(self.sets.clone(), selector));
        self.history.on_change(move |change| {
            for note in owners.notes(change) {
                if !matches!(note, Note::Created(_)) {
                    queue.add(note.owner().clone());
                }
            }
        });
        let changed = self.changed_nodes.clone();
        self.nodes.on_change(move |change| match change {
            Change::Updated { old, new }
                if old.metadata.labels == new.metadata.labels && node_state::taints(old) == node_state::taints(new) => {}
            Change::Added(node) | Change::Updated { new: node, .. } => changed.add(node.name().to_owned()),
            // What is left on it is the pod garbage collector's business.
            Change::Deleted(_) => {}
        });
    }

    /// Wakes the sets for which a change of the node makes a difference.
    fn wake_sets_of(&self, name: &str) {
        let Some(node) = self.nodes.get("", name) else { return };
        let pods = pods_by_node::of(&self.pods, name);
        for set in self.sets.list() {
            let verdict = requirements(&set).judge(&node);
            let is_there = pods.iter().any(|pod| pod.is_controlled_by(set.uid()));
            let misscheduled = set.status.as_ref().is_some_and(|status| status.number_misscheduled > 0);
            let concerned = if is_there { misscheduled || !verdict.may_stay() } else { verdict.should_run() };
            if concerned {
                self.queue.add(set.key());
            }
        }
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(set) = self.sets.get_key(&key) else {
            self.expectations.forget(&key);
            return Ok(Outcome::Done);
        };
        let Some(selector) = selector(&set) else { return Ok(Outcome::Done) };
        if set.spec.selector == LabelSelector::default() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&set.reference(), "SelectingAll", message);
            return Ok(Outcome::Done);
        }
        if set.is_terminating() {
            return Ok(Outcome::Done);
        }
        let claimer = Claimer { client: &self.client, owner: &*set, finalizer: None };
        // Asked before the pods are looked at: what comes while requests are made is not among these.
        let acted = self.expectations.satisfied(&key);
        let pods = owners::owned_or_orphaned(&self.pods, &*set);
        let pods = claimer.claim(pods, |pod| selector.matches(&pod.metadata.labels)).await?;
        let versions = self.versions(&set, &selector, &pods).await?;
        let (nodes, by_node, requirements) = (self.nodes.list(), placement::by_node(&pods), requirements(&set));
        let hash = versions.hash();
        let now = clock::now();
        let observed = Observed { set: &set, nodes: &nodes, pods: &by_node, requirements: &requirements, hash, now };
        let mut retry = None;
        let worked = if acted { self.work(&observed, &key, &mut retry).await } else { Ok(()) };
        if acted && worked.is_ok() {
            self.clean_up_history(&set, &versions, &pods).await?;
        }
        let status = observed.status(acted);
        let waiting = status.number_ready != status.number_available.unwrap_or(0);
        let written = self.write_status(&set, status).await.map_err(Error::Status);
        worked?;
        written?;
        let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
        let next = pod_state::next_availability(pods.iter().map(|pod| &**pod), min_ready, now).filter(|_| waiting);
        let next = next.into_iter().chain(retry).min();
        Ok(next.map_or(Outcome::Done, Outcome::After))
    }

    async fn work(&self, observed: &Observed<'_>, key: &ObjectKey, retry: &mut Option<std::time::Duration>) -> Result<(), Error> {
        let set = observed.set;
        let generation = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        let plan = observed.plan(|node| self.failed.delay((set.uid().to_owned(), generation, node.to_owned())));
        *retry = plan.retry;
        for notice in &plan.notices {
            match notice {
                Notice::Failed(message) => self.recorder.warning(&set.reference(), "FailedDaemonPod", message),
                Notice::Succeeded(message) => self.recorder.normal(&set.reference(), "SucceededDaemonPod", message),
            }
        }
        self.carry_out(observed, key, plan).await?;
        let strategy = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        if strategy != Some("OnDelete") && self.expectations.satisfied(key) {
            self.carry_out(observed, key, observed.roll()?).await?;
        }
        Ok(())
    }

    async fn carry_out(&self, observed: &Observed<'_>, key: &ObjectKey, mut plan: Plan) -> Result<(), Error> {
        plan.create.truncate(BURST);
        plan.delete.truncate(BURST);
        self.expectations.expect(key, plan.create.len(), plan.delete.iter().map(|pod| pod.uid().to_owned()));
        let set = observed.set;
        let template = pod::template(set, observed.hash);
        let (created, failure) = slow_start(plan.create.len(), FIRST_BATCH, |i| {
            let pod = pod::for_node(set, &template, &plan.create[i]);
            async move {
                match self.pod_control.create(set, &pod).await {
                    Ok(created) => {
                        self.expectations.created(key, created.uid());
                        Ok(())
                    }
                    Err(error) if error.is_namespace_terminating() => Ok(()),
                    Err(error) => Err(error),
                }
            }
        })
        .await;
        for _ in created..plan.create.len() {
            self.expectations.not_created(key);
        }
        let deletions = plan.delete.iter().map(|pod| async {
            let result = self.pod_control.delete(set, pod.name()).await;
            if !matches!(result, Ok(true)) {
                // No informer will tell of it.
                self.expectations.deletion_observed(key, pod.uid());
            }
            result
        });
        let deleted = futures::future::join_all(deletions).await.into_iter().find_map(Result::err);
        failure.or(deleted).map_or(Ok(()), |error| Err(error.into()))
    }

    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> kube::Result<()> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api = Api::<DaemonSet>::namespaced(self.client.clone(), set.namespace());
        let mut changed = set.clone();
        changed.status = Some(status.clone());
        match api.replace_status(set.name(), &PostParams::default(), &changed).await {
            Err(error) if answer::is_conflict(&error) => {}
            other => return answer::or_absent(other).map(|_| ()),
        }
        let Some(mut fresh) = api.get_opt(set.name()).await?.filter(|fresh| fresh.uid() == set.uid()) else { return Ok(()) };
        // Only the numbers are ours: others may have written conditions or counted a collision meanwhile.
        let theirs = fresh.status.take().unwrap_or_default();
        let (collision_count, conditions) = (theirs.collision_count, theirs.conditions);
        fresh.status = Some(DaemonSetStatus { collision_count, conditions, ..status });
        answer::or_absent(api.replace_status(set.name(), &PostParams::default(), &fresh).await).map(|_| ())
    }
}
