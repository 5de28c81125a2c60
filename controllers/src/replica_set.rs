//! ReplicaSets: keeps so many pods of a template in being.
//!
//! [`Replicated`] is what ReplicaSets and ReplicationControllers have in common; both are run by [`run_for`]. Never touches pods
//! that another owner manages, and counts nothing while its own creations and deletions have not shown up yet.

use std::sync::Arc;

use apimachinery::selector::label::Selector;
use client::clock;
use client::controller::Outcome;
use client::expectations::Expectations;
use client::{Change, Informer, Object, ObjectKey, Queue, answer, controller};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::adoption::{self, Claimer};
use crate::manager::Context;
use crate::owners::{self, Owners};
use crate::pod_control::{self, FIRST_BATCH, PodControl, pod_from_template, slow_start};
use crate::{failure, metrics, pod_ranking, pod_state};

/// Pods created or deleted at most before the changes are awaited.
const BURST: usize = 500;

/// What keeps a number of pods.
pub trait Replicated: Object + kube::Resource<Scope = NamespaceResourceScope> {
    /// Whether the status tells how many pods are being deleted.
    const COUNTS_TERMINATING: bool;
    /// The name of the work queue in metrics.
    const QUEUE: &'static str;

    fn desired(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    /// Nothing if the selector cannot be used.
    fn selector(&self) -> Option<Selector>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn status(&self) -> ReplicaSetStatus;
    fn set_status(&mut self, status: ReplicaSetStatus);
}

impl Replicated for ReplicaSet {
    const COUNTS_TERMINATING: bool = true;
    const QUEUE: &'static str = "replicaset";

    fn desired(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn selector(&self) -> Option<Selector> {
        Selector::from_label_selector(Some(&self.spec.selector)).ok()
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }
}

/// What is to be done about the number of pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// Compares what is there with what is wanted. `related` are the pods of sibling sets, see [`pod_ranking`].
pub fn plan(desired: i32, mut active: Vec<Arc<Pod>>, related: &[Arc<Pod>], now: Timestamp) -> Plan {
    let desired = usize::try_from(desired).unwrap_or(0);
    if active.len() < desired {
        return Plan::Create((desired - active.len()).min(BURST));
    }
    let surplus = (active.len() - desired).min(BURST);
    if surplus == 0 {
        return Plan::Nothing;
    }
    if surplus < active.len() {
        pod_ranking::sort_for_deletion(&mut active, related, now);
        active.truncate(surplus);
    }
    Plan::Delete(active)
}

/// The status that fits what was observed. `failure` is why pods could not be created or deleted.
pub fn status<K: Replicated>(set: &K, active: &[Arc<Pod>], terminating: usize, failure: Option<&str>, now: Timestamp) -> ReplicaSetStatus {
    let labels = set.template().and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    let full = |pod: &Pod| labels.into_iter().flatten().all(|(key, value)| pod.label(key) == Some(value));
    let count = |test: &dyn Fn(&Pod) -> bool| number(active.iter().filter(|pod| test(pod)).count());
    let old = set.status();
    ReplicaSetStatus {
        replicas: number(active.len()),
        fully_labeled_replicas: present(count(&full)),
        ready_replicas: present(count(&pod_state::is_ready)),
        available_replicas: present(count(&|pod| pod_state::is_available(pod, set.min_ready_seconds(), now))),
        terminating_replicas: K::COUNTS_TERMINATING.then(|| number(terminating)),
        observed_generation: k8s_openapi::Metadata::metadata(set).generation,
        conditions: conditions(old.conditions, number(active.len()) - set.desired(), failure, now),
    }
}

fn conditions(
    old: Option<Vec<ReplicaSetCondition>>,
    surplus: i32,
    failure: Option<&str>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    const REPLICA_FAILURE: &str = "ReplicaFailure";
    let mut conditions = old.unwrap_or_default();
    match failure {
        None => conditions.retain(|condition| condition.type_.as_deref() != Some(REPLICA_FAILURE)),
        // The first failure stays until there is none.
        Some(_) if conditions.iter().any(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE)) => {}
        Some(message) => conditions.push(ReplicaSetCondition {
            type_: Some(REPLICA_FAILURE.to_owned()),
            status: Some("True".to_owned()),
            reason: match surplus.signum() {
                -1 => Some("FailedCreate".to_owned()),
                1 => Some("FailedDelete".to_owned()),
                _ => None,
            },
            message: Some(message.to_owned()),
            last_transition_time: Some(Time(now)),
        }),
    }
    (!conditions.is_empty()).then_some(conditions)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Counts that are zero are absent on the wire.
fn present(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// Why a set could not be brought to what is wanted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("claiming pods: {0}")]
    Claim(#[from] adoption::Error),
    #[error(transparent)]
    Pods(#[from] pod_control::Error),
    #[error("updating the status: {}", failure::message(.0))]
    Status(#[source] kube::Error),
}

/// Runs the ReplicaSet controller until shutdown.
pub async fn run(context: Context) {
    let workers = context.config.concurrent_replicaset_syncs;
    run_for::<ReplicaSet>(context, workers).await;
}

/// Runs the controller for one kind until shutdown.
pub async fn run_for<K: Replicated>(context: Context, workers: usize) {
    let shell = Arc::new(Shell::<K>::new(&context));
    shell.clone().follow();
    tokio::join!(shell.sets.synced(), shell.pods.synced());
    let queue = shell.queue.clone();
    controller::run(context.name, queue, workers, context.shutdown, |key| shell.reconcile(key)).await;
}

struct Shell<K> {
    client: Client,
    sets: Informer<K>,
    pods: Informer<Pod>,
    queue: Queue<ObjectKey>,
    expectations: Expectations,
    pod_control: PodControl,
}

impl<K: Replicated> Shell<K> {
    fn new(context: &Context) -> Shell<K> {
        let (sets, pods) = (context.informers.of::<K>(), context.informers.of::<Pod>());
        sets.index_controllers();
        pods.index_controllers();
        owners::index_orphans(&pods);
        Shell {
            client: context.client.clone(),
            sets,
            pods,
            queue: Queue::named(K::QUEUE),
            expectations: Expectations::default(),
            pod_control: PodControl::new(context.client.clone(), context.recorder.clone()),
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
        let (shell, owners) = (self.clone(), Owners::new(self.sets.clone(), K::selector));
        self.pods.on_change(move |change| {
            for note in owners.notes(change) {
                note.tell(&shell.expectations, change.object().uid());
                shell.queue.add(note.owner().clone());
            }
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(set) = self.sets.get_key(&key) else {
            self.expectations.forget(&key);
            return Ok(Outcome::Done);
        };
        let Some(selector) = set.selector() else {
            tracing::warn!(%key, "the selector cannot be used");
            return Ok(Outcome::Done);
        };
        let may_act = self.expectations.satisfied(&key) && !set.is_terminating();
        let (active, rest): (Vec<_>, Vec<_>) =
            owners::owned_or_orphaned(&self.pods, &*set).into_iter().partition(|pod| pod_state::is_active(pod));
        let claimer = Claimer { client: &self.client, owner: &*set, finalizer: None };
        let active = claimer.claim(active, |pod| selector.matches(&pod.metadata.labels)).await?;
        let is_ours = |pod: &Pod| pod.is_controlled_by(set.uid()) && selector.matches(&pod.metadata.labels);
        let terminating = rest.iter().filter(|pod| pod_state::is_winding_down(pod) && is_ours(pod)).count();
        let failure = if may_act { self.manage(&set, &key, &active).await.err() } else { None };
        let now = clock::now();
        let message = failure.as_ref().map(ToString::to_string);
        let status = status(&*set, &active, terminating, message.as_deref(), now);
        let waiting = status.ready_replicas != status.available_replicas;
        self.write_status(&set, status).await.map_err(Error::Status)?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        // Becoming available is a matter of time alone: no event tells of it.
        let next = pod_state::next_availability(active.iter().map(|pod| &**pod), set.min_ready_seconds(), now);
        Ok(next.filter(|_| waiting).map_or(Outcome::Done, Outcome::After))
    }

    async fn manage(&self, set: &K, key: &ObjectKey, active: &[Arc<Pod>]) -> Result<(), pod_control::Error> {
        let too_many = i32::try_from(active.len()).is_ok_and(|count| count > set.desired());
        let related = if too_many { self.related(set) } else { Vec::new() };
        match plan(set.desired(), active.to_vec(), &related, clock::now()) {
            Plan::Nothing => Ok(()),
            Plan::Create(count) => self.create(set, key, count).await,
            Plan::Delete(pods) => {
                if pods.len() < active.len() {
                    age_ratios(active, &pods, clock::now()).iter().for_each(|ratio| metrics::DELETION_AGE_RATIO.only().observe(*ratio));
                }
                self.delete(set, key, pods).await
            }
        }
    }

    async fn create(&self, set: &K, key: &ObjectKey, count: usize) -> Result<(), pod_control::Error> {
        let Some(template) = set.template() else { return Ok(()) };
        let pod = pod_from_template(template, set);
        self.expectations.expect(key, count, []);
        let (created, failure) = slow_start(count, FIRST_BATCH, |_| async {
            match self.pod_control.create(set, &pod).await {
                Ok(created) => {
                    self.expectations.created(key, created.uid());
                    Ok(())
                }
                Err(error) if error.is_namespace_terminating() => Ok(()),
                Err(error) => Err(error),
            }
        })
        .await;
        for _ in created..count {
            self.expectations.not_created(key);
        }
        failure.map_or(Ok(()), Err)
    }

    async fn delete(&self, set: &K, key: &ObjectKey, pods: Vec<Arc<Pod>>) -> Result<(), pod_control::Error> {
        self.expectations.expect(key, 0, pods.iter().map(|pod| pod.uid().to_owned()));
        let deletions = pods.iter().map(|pod| async {
            let result = self.pod_control.delete(set, pod.name()).await;
            if !matches!(result, Ok(true)) {
                // No informer will tell of it.
                self.expectations.deletion_observed(key, pod.uid());
            }
            result
        });
        futures::future::join_all(deletions).await.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    /// The pods of all sets that the same owner manages.
    fn related(&self, set: &K) -> Vec<Arc<Pod>> {
        let Some(owner) = set.controller() else { return Vec::new() };
        self.sets.controlled_by(&owner.uid).iter().flat_map(|sibling| self.pods.controlled_by(sibling.uid())).collect()
    }

    async fn write_status(&self, set: &K, status: ReplicaSetStatus) -> kube::Result<()> {
        if set.status() == status {
            return Ok(());
        }
        let api = Api::<K>::namespaced(self.client.clone(), set.namespace());
        let mut changed = set.clone();
        changed.set_status(status.clone());
        match api.replace_status(set.name(), &PostParams::default(), &changed).await {
            Err(error) if answer::is_conflict(&error) => {}
            other => return answer::or_absent(other).map(|_| ()),
        }
        // Once more on what is there now; the generation stays the one that was acted on.
        let Some(mut fresh) = api.get_opt(set.name()).await?.filter(|fresh| fresh.uid() == set.uid()) else { return Ok(()) };
        fresh.set_status(status);
        answer::or_absent(api.replace_status(set.name(), &PostParams::default(), &fresh).await).map(|_| ())
    }
}

/// How much older than the youngest ready pod each of the ready pods is that are chosen to go; whole numbers, as upstream has it.
fn age_ratios(active: &[Arc<Pod>], chosen: &[Arc<Pod>], now: Timestamp) -> Vec<f64> {
    let age = |pod: &Arc<Pod>| {
        let created = pod.metadata.creation_timestamp.as_ref().filter(|_| pod_state::is_ready(pod))?;
        Some(now.duration_since(created.0).as_millis())
    };
    let Some(youngest) = active.iter().filter_map(age).min().filter(|age| *age > 0) else { return Vec::new() };
    chosen.iter().filter_map(age).map(|age| (age / youngest) as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_state::tests::{at, pod};

    fn set(replicas: i32) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        set.metadata.generation = Some(3);
        let spec = &mut set.spec;
        spec.replicas = Some(replicas);
        spec.min_ready_seconds = Some(10);
        let labels = [("app".to_owned(), "web".to_owned())].into();
        spec.template.get_or_insert_default().metadata.get_or_insert_default().labels = Some(labels);
        set
    }

    fn pods() -> Vec<Arc<Pod>> {
        let mut labelled = pod("old", Some(0));
        labelled.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
        [labelled, pod("new", Some(95)), pod("starting", None)].map(Arc::new).to_vec()
    }

    #[test]
    fn the_plan_follows_the_difference() {
        assert_eq!(plan(3, pods(), &[], at(100)), Plan::Nothing);
        assert_eq!(plan(5, pods(), &[], at(100)), Plan::Create(2));
        assert_eq!(plan(5000, pods(), &[], at(100)), Plan::Create(BURST));
        let deleted = |desired| match plan(desired, pods(), &[], at(100)) {
            Plan::Delete(pods) => pods.iter().map(|pod| pod.name().to_owned()).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(deleted(2), ["starting"]);
        assert_eq!(deleted(1), ["starting", "new"]);
        assert_eq!(deleted(0), ["old", "new", "starting"]);
    }

    #[test]
    fn the_status_counts_pods() {
        let status = status(&set(3), &pods(), 1, None, at(100));
        let want = ReplicaSetStatus {
            replicas: 3,
            fully_labeled_replicas: Some(1),
            ready_replicas: Some(2),
            available_replicas: Some(1),
            terminating_replicas: Some(1),
            observed_generation: Some(3),
            conditions: None,
        };
        assert_eq!(status, want);
    }

    #[test]
    fn a_failure_stays_as_it_was_first_until_it_is_over() {
        let mut set = set(5);
        let failing = status(&set, &pods(), 0, Some("exceeded quota"), at(100));
        let condition = failing.conditions.clone().unwrap().remove(0);
        assert_eq!((condition.reason.as_deref(), condition.message.as_deref()), (Some("FailedCreate"), Some("exceeded quota")));
        set.set_status(failing.clone());
        assert_eq!(status(&set, &pods(), 0, Some("something else"), at(200)).conditions, failing.conditions);
        assert_eq!(status(&set, &pods(), 0, None, at(200)).conditions, None);
    }
}
