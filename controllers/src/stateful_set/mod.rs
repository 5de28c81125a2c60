//! StatefulSets: pods with names, volumes and an order that outlive them.
//!
//! [`plan`], [`identity`], [`retention`] and [`status`] decide; [`pods`] writes pods and claims. Never touches pods whose name is not
//! one that the set gives.

mod identity;
mod plan;
mod pods;
mod retention;
mod status;

use std::sync::Arc;

use apimachinery::selector::label::Selector;
use client::clock;
use client::controller::Outcome;
use client::{Change, Informer, Object, ObjectKey, Queue, answer, controller};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::adoption::{self, Claimer};
use crate::controller_history::{self, History};
use crate::manager::Context;
use crate::own_writes::{OwnWrites, UNSEEN_RETRY};
use crate::owners::{self, Owners};
use crate::{failure, int_or_percent, metrics, pod_state};
use plan::{Observed, Version};
use pods::Pods;

/// The label that upstream gives the revisions of StatefulSets.
const REVISION_HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// Old revisions that are kept if the set does not say.
const DEFAULT_HISTORY: i32 = 10;

/// How often a conflict is tried again on what is there now.
const STATUS_TRIES: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("claiming pods: {0}")]
    Claim(#[from] adoption::Error),
    #[error(transparent)]
    History(#[from] controller_history::Error),
    #[error("reading the strategy: {0}")]
    Strategy(#[from] int_or_percent::Error),
    #[error(transparent)]
    Pods(#[from] pods::Error),
    #[error("updating the status: {}", failure::message(.0))]
    Status(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let shell = Arc::new(Shell::new(&context));
    shell.clone().follow();
    tokio::join!(shell.sets.synced(), shell.pods.synced(), shell.history.synced(), shell.control.synced());
    let (queue, workers) = (shell.queue.clone(), context.config.concurrent_statefulset_syncs);
    controller::run(context.name, queue, workers, context.shutdown, |key| shell.reconcile(key)).await;
}

struct Shell {
    client: Client,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    history: History,
    control: Pods,
    queue: Queue<ObjectKey>,
    own_writes: OwnWrites,
}

fn selector(set: &StatefulSet) -> Option<Selector> {
    Selector::from_label_selector(Some(&set.spec.selector)).ok()
}

/// The revisions of a set: the present, the one to come, all there are, and how many names were taken.
struct Revisions {
    current: Version,
    update: Version,
    known: Vec<Arc<ControllerRevision>>,
    collisions: i32,
}

/// The labels under which a set is told of.
fn labels(set: &StatefulSet) -> [&str; 3] {
    [set.namespace(), set.name(), set.spec.pod_management_policy.as_deref().unwrap_or("OrderedReady")]
}

fn count(set: &StatefulSet, status: &StatefulSetStatus) {
    let labels = labels(set);
    let unavailable = identity::replicas(set) - status.available_replicas.unwrap_or(0);
    metrics::STATEFUL_SET_UNAVAILABLE.with(&labels).set(f64::from(unavailable.max(0)));
    if let Ok(max) = plan::max_unavailable(set) {
        metrics::STATEFUL_SET_MAX_UNAVAILABLE.with(&labels).set(f64::from(max));
    }
}

impl Shell {
    fn new(context: &Context) -> Shell {
        let pods = context.informers.of::<Pod>();
        pods.index_controllers();
        owners::index_orphans(&pods);
        Shell {
            client: context.client.clone(),
            sets: context.informers.of(),
            pods,
            history: History::new(context.client.clone(), context.informers.of()),
            control: Pods::new(context.client.clone(), context.recorder.clone(), context.informers.of()),
            queue: Queue::named("statefulset"),
            own_writes: OwnWrites::default(),
        }
    }

    fn follow(self: Arc<Self>) {
        let shell = self.clone();
        self.sets.on_change(move |change| {
            let key = change.object().key();
            if matches!(change, Change::Deleted(_)) {
                shell.own_writes.forget(&key);
                let labels = labels(change.object());
                metrics::STATEFUL_SET_MAX_UNAVAILABLE.forget(&labels);
                metrics::STATEFUL_SET_UNAVAILABLE.forget(&labels);
            }
            shell.queue.add(key);
        });
        let (shell, owners) = (self.clone(), Owners::new(self.sets.clone(), selector));
        self.pods.on_change(move |change| {
            if matches!(change, Change::Deleted(_)) {
                shell.control.own_writes.forget(&change.object().key());
            }
            owners.notes(change).into_iter().for_each(|note| shell.queue.add(note.owner().clone()));
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(set) = self.sets.get_key(&key) else { return Ok(Outcome::Done) };
        let Some(selector) = selector(&set) else {
            tracing::warn!(%key, "the selector cannot be used");
            return Ok(Outcome::Done);
        };
        let mut revisions = self.revisions(&set, &selector).await?;
        let claimer = Claimer { client: &self.client, owner: &*set, finalizer: None };
        let pods = owners::owned_or_orphaned(&self.pods, &*set);
        let pods = claimer.claim(pods, |pod| identity::is_member(&set, pod) && selector.matches(&pod.metadata.labels)).await?;
        if !self.own_writes.are_seen_in(&*set) || pods.iter().any(|pod| !self.control.own_writes.are_seen_in(&**pod)) {
            metrics::STATEFUL_SET_STALE_SYNCS.with(&["apps", "statefulsets"]).inc();
            return Ok(Outcome::After(UNSEEN_RETRY));
        }
        let now = clock::now();
        let claims_match = |pod: &Pod| self.control.claims_match(&set, pod);
        let (current, update) = (&revisions.current, &revisions.update);
        let observed = Observed { set: &set, pods: &pods, current, update, now, claims_match: &claims_match };
        let (updating, failure) = self.control.execute(&set, observed.plan()?, plan::is_parallel(&set)).await;
        let status = status::status(&set, &pods, (&current.name, &update.name), revisions.collisions, updating, now);
        count(&set, &status);
        let waiting = status.ready_replicas != status.available_replicas;
        let written = self.write_status(&set, status).await.map_err(Error::Status);
        self.truncate_history(&set, &pods, &mut revisions).await?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        written?;
        let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
        let next = pod_state::next_availability(pods.iter().map(|pod| &**pod), min_ready, now);
        Ok(next.filter(|_| waiting).map_or(Outcome::Done, Outcome::After))
    }

    /// Finds the set's revisions, and writes the present template down as the newest of them if it is not.
    async fn revisions(&self, set: &StatefulSet, selector: &Selector) -> Result<Revisions, Error> {
        let matches = |revision: &ControllerRevision| selector.matches(&revision.metadata.labels);
        let mut known = self.history.of(set, matches).await?;
        let mut collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let template = &set.spec.template;
        let newest = known.last().map_or(0, |revision| controller_history::number(revision));
        let same = known.iter().rposition(|revision| controller_history::keeps(revision, template));
        let update = match same.map(|i| (i, &known[i])) {
            Some((i, revision)) if i + 1 == known.len() => revision.clone(),
            Some((_, revision)) => {
                let mut again = (**revision).clone();
                again.revision = Some(newest + 1);
                Arc::new(self.history.replace(&again).await?)
            }
            None => loop {
                let revision = controller_history::new_revision(set, template, REVISION_HASH_LABEL, newest + 1, collisions)?;
                match self.history.create(&revision, template).await {
                    Err(controller_history::Error::Collision(_)) => collisions += 1,
                    other => break Arc::new(other?),
                }
            },
        };
        known.retain(|revision| revision.name() != update.name());
        known.push(update.clone());
        let wanted = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
        let current = known.iter().find(|revision| Some(revision.name()) == wanted).unwrap_or(&update);
        Ok(Revisions { current: version(current)?, update: version(&update)?, known, collisions })
    }

    /// Deletes the oldest revisions that nobody uses.
    async fn truncate_history(&self, set: &StatefulSet, pods: &[Arc<Pod>], revisions: &mut Revisions) -> Result<(), Error> {
        let is_live = |name: &str| {
            name == revisions.current.name || name == revisions.update.name || pods.iter().any(|pod| identity::revision(pod) == name)
        };
        let idle: Vec<_> = revisions.known.iter().filter(|revision| !is_live(revision.name())).cloned().collect();
        let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY)).unwrap_or(usize::MAX);
        for revision in idle.iter().take(idle.len().saturating_sub(limit)) {
            self.history.delete(revision).await?;
        }
        Ok(())
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> kube::Result<()> {
        if !status::differs(set.status.as_ref(), &status) {
            return Ok(());
        }
        let api = Api::<StatefulSet>::namespaced(self.client.clone(), set.namespace());
        let mut changed = set.clone();
        for tries in 1.. {
            changed.status = Some(status.clone());
            match api.replace_status(set.name(), &PostParams::default(), &changed).await {
                Err(error) if answer::is_conflict(&error) && tries < STATUS_TRIES => {}
                other => {
                    if let Some(written) = answer::or_absent(other)? {
                        self.own_writes.note(&written);
                    }
                    return Ok(());
                }
            }
            match api.get_opt(set.name()).await?.filter(|fresh| fresh.uid() == set.uid()) {
                Some(fresh) => changed = fresh,
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

fn version(revision: &ControllerRevision) -> Result<Version, controller_history::Error> {
    Ok(Version { name: revision.name().to_owned(), template: controller_history::template_of(revision)? })
}
