//! The disruption controller: tells in each PodDisruptionBudget's status how many of its pods may be evicted.
//!
//! It evicts nobody; the API server grants evictions by what is written here. Pods that were said to be disrupted and stay are told
//! that they are not.

mod budget;
mod scale;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::selector::label::{Selector, StructuredError};
use client::clock;
use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::failure;
use crate::int_or_percent;
use crate::label_selector_text;
use crate::manager::Context;
use crate::pod_state;
use scale::Scales;

/// A pod that is said to be disrupted and is not deleted for this long is not.
const STALE_AFTER: SignedDuration = SignedDuration::from_secs(120);
const DISRUPTION_TARGET: &str = "DisruptionTarget";
const UNMANAGED: &str = "were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Selector(#[from] StructuredError),
    #[error(transparent)]
    Scale(#[from] scale::Error),
    #[error(transparent)]
    Share(#[from] int_or_percent::Error),
    #[error("{}", failure::message(.0))]
    Request(#[from] kube::Error),
}

struct Controller {
    client: Client,
    recorder: Recorder,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    scales: Scales,
}

pub async fn run(context: Context) {
    let informers = &context.informers;
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        budgets: informers.of(),
        pods: informers.of(),
        scales: Scales {
            client: context.client.clone(),
            replication_controllers: informers.of(),
            replica_sets: informers.of(),
            deployments: informers.of(),
            stateful_sets: informers.of(),
        },
    };
    let (queue, stale) = (Queue::named("disruption"), Queue::named("stale_pod_disruption"));
    controller.watch(&queue, &stale);
    controller.budgets.synced().await;
    controller.pods.synced().await;
    controller.scales.synced().await;
    let workers = context.config.concurrent_disruption_syncs;
    let budgets = client::controller::run(context.name, queue, workers, context.shutdown.clone(), |key: ObjectKey| controller.sync(key));
    let pods = client::controller::run(context.name, stale, 1, context.shutdown.clone(), |key: ObjectKey| controller.clear_stale(key));
    tokio::join!(budgets, pods);
}

fn selector(budget: &PodDisruptionBudget) -> Result<Selector, StructuredError> {
    Selector::from_label_selector(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    selector(budget).is_ok_and(|selector| selector.matches(&labels))
}

/// How long until the pod is no longer to be believed that it is disrupted; nothing if it does not say so, or rightly.
fn stale_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let said = pod_state::condition(pod, DISRUPTION_TARGET).filter(|condition| condition.status == "True")?;
    if pod.is_terminating() || pod_state::is_terminal(pod) || said.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    let since = said.last_transition_time.as_ref().map_or(now, |time| time.0);
    Some(Duration::try_from(STALE_AFTER - now.duration_since(since)).unwrap_or_default())
}

impl Controller {
    fn watch(&self, queue: &Queue<ObjectKey>, stale: &Queue<ObjectKey>) {
        let sink = queue.clone();
        self.budgets.on_change(move |change| sink.add(change.object().key()));
        let (sink, stale, budgets, recorder) = (queue.clone(), stale.clone(), self.budgets.clone(), self.recorder.clone());
        self.pods.on_change(move |change| {
            let pod = change.object();
            let all = budgets.list_namespace(pod.namespace());
            let mut matching = all.iter().filter(|budget| selects(budget, pod));
            if let Some(first) = matching.next() {
                sink.add(first.key());
                if matching.next().is_some() {
                    let (namespace, name) = (pod.namespace(), pod.name());
                    let message =
                        format!("Pod {namespace:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {:?} arbitrarily.", first.name());
                    recorder.warning(&pod.reference(), "MultiplePodDisruptionBudgets", message);
                }
            }
            if let Some(old) = change.old().filter(|old| old.metadata.labels != pod.metadata.labels) {
                all.iter().filter(|budget| selects(budget, old)).for_each(|budget| sink.add(budget.key()));
            }
            if let Some(delay) = stale_in(pod, clock::now())
                && !matches!(change, Change::Deleted(_))
            {
                stale.add_after(pod.key(), delay);
            }
        });
    }

    async fn sync(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(budget) = self.budgets.get_key(&key) else { return Ok(Outcome::Done) };
        match self.try_sync(&budget).await {
            Err(Error::Request(error)) if answer::is_conflict(&error) => Err(error.into()),
            Err(error) => {
                tracing::warn!(budget = %key, %error, "the budget cannot be computed");
                let status = budget::failed(&budget, &error.to_string(), clock::now());
                self.write(&budget, status).await?;
                Ok(Outcome::Done)
            }
            done => done,
        }
    }

    async fn try_sync(&self, budget: &PodDisruptionBudget) -> Result<Outcome, Error> {
        let about = budget.reference();
        let selector = selector(budget).inspect_err(|error| {
            self.recorder.warning(&about, "NoPods", format!("Failed to get pods: {error}"));
        })?;
        let mut pods = self.pods.list_namespace(budget.namespace());
        pods.retain(|pod| selector.matches(&pod.metadata.labels.clone().unwrap_or_default()));
        if pods.is_empty() {
            self.recorder.normal(&about, "NoPods", "No matching pods found");
        }
        let expected = self.expected(budget, &pods).await.inspect_err(|error| {
            let message = format!("Failed to calculate the number of expected pods: {error}");
            self.recorder.warning(&about, "CalculateExpectedPodCountFailed", message);
        })?;
        let now = clock::now();
        let disrupted = budget::disrupted(pods.iter().map(AsRef::as_ref), &budget.status.clone().unwrap_or_default(), now);
        for pod in pods.iter().filter(|pod| disrupted.kept_on.iter().any(|name| name == pod.name())) {
            // Upstream names the namespace twice.
            let message = format!("Pod was expected by PDB {0}/{0} to be deleted but it wasn't", budget.namespace());
            self.recorder.warning(&pod.reference(), "NotDeleted", message);
        }
        let healthy = budget::healthy(pods.iter().map(AsRef::as_ref), &disrupted.pods, now);
        if let Some(status) = budget::status(budget, expected, healthy, disrupted.pods, now) {
            self.write(budget, status).await?;
        }
        let wait = disrupted.recheck_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        Ok(wait.map_or(Outcome::Done, Outcome::After))
    }

    async fn expected(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<(i32, i32), Error> {
        let spec = budget.spec.clone().unwrap_or_default();
        if !budget::needs_scale(&spec) {
            return Ok(budget::expected(&spec, i32::try_from(pods.len()).unwrap_or(i32::MAX))?);
        }
        let total = self.scales.total(pods).await?;
        if !total.unmanaged.is_empty() {
            let selector = label_selector_text::print(spec.selector.as_ref());
            let message = format!("Pods selected by this PodDisruptionBudget (selector: {selector}) {UNMANAGED}");
            self.recorder.warning(&budget.reference(), "UnmanagedPods", message);
        }
        Ok(budget::expected(&spec, total.replicas)?)
    }

    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        status: k8s_openapi::api::policy::v1::PodDisruptionBudgetStatus,
    ) -> Result<(), kube::Error> {
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), budget.namespace());
        let new = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        answer::or_absent(api.replace_status(budget.name(), &PostParams::default(), &new).await).map(|_| ())
    }

    async fn clear_stale(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(pod) = self.pods.get_key(&key) else { return Ok(Outcome::Done) };
        let now = clock::now();
        match stale_in(&pod, now) {
            None => return Ok(Outcome::Done),
            Some(delay) if !delay.is_zero() => return Ok(Outcome::After(delay)),
            Some(_) => {}
        }
        let mut pod = pod.as_ref().clone();
        let generation = pod.metadata.generation;
        let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
        for condition in conditions.iter_mut().filter(|condition| condition.type_ == DISRUPTION_TARGET) {
            condition.status = "False".to_owned();
            condition.reason = None;
            condition.message = None;
            condition.observed_generation = generation;
            condition.last_transition_time = Some(Time(now));
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        answer::or_absent(api.replace_status(&key.name, &PostParams::default(), &pod).await)?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_says_it_is_disrupted_is_believed_for_two_minutes() {
        let pod = |reason: &str, status: &str, phase: &str| -> Pod {
            let time = Timestamp::UNIX_EPOCH.to_string();
            let condition = json!({"type": DISRUPTION_TARGET, "status": status, "reason": reason, "lastTransitionTime": time});
            serde_json::from_value(json!({"status": {"phase": phase, "conditions": [condition]}})).unwrap()
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(stale_in(&pod("x", "True", "Running"), at(20)), Some(Duration::from_secs(100)));
        assert_eq!(stale_in(&pod("x", "True", "Running"), at(500)), Some(Duration::ZERO));
        assert_eq!(stale_in(&pod("x", "False", "Running"), at(500)), None);
        assert_eq!(stale_in(&pod("x", "True", "Failed"), at(500)), None);
        assert_eq!(stale_in(&pod("TerminationByKubelet", "True", "Running"), at(500)), None);
    }
}
