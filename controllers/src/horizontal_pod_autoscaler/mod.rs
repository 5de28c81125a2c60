//! The autoscaler: brings the number of a workload's replicas to what metrics ask for, within bounds and at a limited rate.
//!
//! It changes nothing but the workload's scale. Metrics are what others serve; without them it leaves the workload as it is.

mod behavior;
mod counts;
mod measure;
mod metrics;
mod replicas;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::selector::label::{Selector, StructuredError};
use client::clock;
use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec, MetricStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::discovery::{self, Resource};
use crate::failure;
use crate::manager::Context;
use crate::metrics as told;
use behavior::{Bounds, History};
use measure::{Failure, Scene};
use replicas::{Rules, Startup};
use status::{ABLE, ACTIVE, LIMITED, ZERO};

/// How often the scale is written because somebody else writes it at the same time.
const CONFLICTS_MAX: u32 = 5;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Metrics(#[from] metrics::Error),
    #[error(transparent)]
    Replicas(#[from] replicas::Error),
    #[error(transparent)]
    Selector(#[from] StructuredError),
    #[error("{doing}: {source}")]
    While { doing: String, source: Box<Error> },
    #[error("{0}")]
    Target(String),
    #[error("{}", failure::message(.0))]
    Request(#[from] kube::Error),
}

impl Error {
    /// The error, and before it what failed because of it.
    fn during(self, doing: impl Into<String>) -> Error {
        Error::While { doing: doing.into(), source: Box::new(self) }
    }
}

/// What is remembered of an autoscaler; one entry each.
#[derive(Default)]
struct Memory {
    history: History,
    selector: Option<Selector>,
}

struct Controller {
    client: Client,
    recorder: Recorder,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    memory: Mutex<HashMap<ObjectKey, Memory>>,
    period: Duration,
    stabilization: Duration,
    tolerance: f64,
    startup: Startup,
}

pub async fn run(context: Context) {
    let config = &context.config;
    let signed = |duration: Duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    let controller = Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        autoscalers: context.informers.of(),
        pods: context.informers.of(),
        memory: Mutex::default(),
        period: config.horizontal_pod_autoscaler_sync_period,
        stabilization: config.horizontal_pod_autoscaler_downscale_stabilization,
        tolerance: config.horizontal_pod_autoscaler_tolerance,
        startup: Startup {
            cpu_initialization: signed(config.horizontal_pod_autoscaler_cpu_initialization_period),
            initial_readiness_delay: signed(config.horizontal_pod_autoscaler_initial_readiness_delay),
        },
    };
    let queue = Queue::named("horizontalpodautoscaler");
    let sink = queue.clone();
    controller.autoscalers.on_change(move |change| match change {
        // Our own writes of the status are no reason to look again.
        Change::Updated { old, new } if old.metadata.generation == new.metadata.generation => {}
        change => sink.add(change.object().key()),
    });
    let known = controller.autoscalers.clone();
    let _told = told::AUTOSCALERS.by(move || vec![(Vec::new(), known.list().len() as f64)]);
    controller.autoscalers.synced().await;
    controller.pods.synced().await;
    let workers = config.concurrent_horizontal_pod_autoscaler_syncs;
    client::controller::run(context.name, queue, workers, context.shutdown.clone(), |key: ObjectKey| controller.sync(key)).await;
}

/// The workload that is scaled.
struct Target {
    api: Api<DynamicObject>,
    name: String,
    scale: Scale,
}

fn is_of_kind(metric: &MetricSpec, kinds: &[&str]) -> bool {
    kinds.contains(&metric.type_.as_str())
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(known) = self.autoscalers.get_key(&key) else {
            self.memory.lock().remove(&key);
            told::AUTOSCALER_DESIRED.forget(&[&key.namespace, &key.name]);
            return Ok(Outcome::Done);
        };
        let mut autoscaler = known.as_ref().clone();
        let started = Instant::now();
        let reconciled = self.reconcile(&key, &mut autoscaler).await;
        counts::reconciled(&reconciled, started.elapsed());
        if let Err(error) = reconciled {
            tracing::debug!(autoscaler = %key, %error, "the workload is left as it is");
        }
        if autoscaler.status != known.status {
            let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), &key.namespace);
            if let Err(error) = answer::or_absent(api.replace_status(&key.name, &PostParams::default(), &autoscaler).await) {
                self.recorder.warning(&known.reference(), "FailedUpdateStatus", failure::message(&error));
            }
        }
        Ok(Outcome::After(self.period))
    }

    /// Says from how many replicas to how many it came.
    async fn reconcile(&self, key: &ObjectKey, autoscaler: &mut HorizontalPodAutoscaler) -> Result<(i32, i32), Error> {
        let spec = autoscaler.spec.clone();
        let served = discovery::discover(&self.client).await?.every;
        let now = clock::now();
        let mut target = match self.target(key, &spec, &served).await {
            Ok(target) => target,
            Err(error) => {
                self.recorder.warning(&autoscaler.reference(), "FailedGetScale", error.to_string());
                let message = format!("the HPA controller was unable to get the target's current scale: {error}");
                status::set(autoscaler.status.get_or_insert_default(), ABLE, false, "FailedGetScale", &message, now);
                return Err(error);
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        status::set(autoscaler.status.get_or_insert_default(), ABLE, true, "SucceededGetScale", message, now);
        let current = target.scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        self.memory.lock().entry(key.clone()).or_default().history.start(current, now);
        let min = spec.min_replicas.unwrap_or(1);
        let from_outside = spec.metrics.iter().flatten().any(|metric| is_of_kind(metric, &["Object", "External"]));
        let at_zero = autoscaler.status.as_ref().is_some_and(|status| status::is_set(status, ZERO));
        let (desired, reason, metrics) = if current == 0 && !(at_zero && (min != 0 || from_outside)) {
            let message = "scaling is disabled since the replica count of the target is zero";
            status::set(autoscaler.status.get_or_insert_default(), ACTIVE, false, "ScalingDisabled", message, now);
            (current, String::new(), None)
        } else if current > spec.max_replicas {
            (spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".to_owned(), None)
        } else if current < min && current != 0 {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned(), None)
        } else {
            self.by_metrics(key, autoscaler, &spec, &served, &target.scale, current, min).await?
        };
        if desired != current {
            self.rescale(autoscaler, &mut target, current, desired, &reason, metrics.clone()).await?;
            let zero = current > 0 && desired == 0 && min == 0 && from_outside;
            let (why, message) = if zero {
                ("ScaledToZero", "the HPA controller scaled the workload to zero")
            } else {
                ("NotScaledToZero", "the HPA controller did not scale the workload to zero")
            };
            let now = clock::now();
            let status = autoscaler.status.get_or_insert_default();
            status::set(status, ZERO, zero, why, message, now);
            status.last_scale_time = Some(Time(now));
            if spec.behavior.is_some() {
                self.memory.lock().entry(key.clone()).or_default().history.scaled(current, desired, now);
            }
        }
        status::measured(autoscaler, current, Some(desired), metrics);
        told::AUTOSCALER_DESIRED.with(&[&key.namespace, &key.name]).set(f64::from(desired));
        Ok((current, desired))
    }

    async fn target(&self, key: &ObjectKey, spec: &HorizontalPodAutoscalerSpec, served: &[Resource]) -> Result<Target, Error> {
        let wanted = &spec.scale_target_ref;
        let group = wanted.api_version.as_deref().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
        let fits = |resource: &&Resource| resource.group == group && resource.kind == wanted.kind;
        let candidates: Vec<&Resource> = served.iter().filter(fits).collect();
        if candidates.is_empty() {
            let shown = if group.is_empty() { wanted.kind.clone() } else { format!("{}.{group}", wanted.kind) };
            return Err(Error::Target(format!("no matches for kind {shown:?} in group {group:?}")));
        }
        let mut first = None;
        for resource in candidates {
            let described = ApiResource {
                api_version: resource.api_version(),
                group: resource.group.clone(),
                version: resource.version.clone(),
                kind: resource.kind.clone(),
                plural: resource.plural.clone(),
            };
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &described);
            match api.get_scale(&wanted.name).await {
                Ok(scale) => return Ok(Target { api, name: wanted.name.clone(), scale }),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.map_or_else(|| Error::Target("unrecognized resource".to_owned()), Error::Request))
    }

    /// What metrics ask for, brought to what may be done; why; and the statuses of the metrics.
    #[expect(clippy::too_many_arguments, reason = "all of it is one sync's")]
    async fn by_metrics(
        &self,
        key: &ObjectKey,
        autoscaler: &mut HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        served: &[Resource],
        scale: &Scale,
        current: i32,
        min: i32,
    ) -> Result<(i32, String, Option<Vec<MetricStatus>>), Error> {
        let (asked, name, statuses) = match self.measure(key, autoscaler, spec, served, scale, current).await {
            Ok(measured) => measured,
            Err((error, statuses)) => {
                status::measured(autoscaler, current, None, Some(statuses));
                self.recorder.warning(&autoscaler.reference(), "FailedComputeMetricsReplicas", error.to_string());
                return Err(error);
            }
        };
        let mut reason = match asked.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{name} above target"),
            std::cmp::Ordering::Less => "All metrics below target".to_owned(),
            std::cmp::Ordering::Equal => String::new(),
        };
        let now = clock::now();
        let normalized = {
            let mut memory = self.memory.lock();
            let history = &mut memory.entry(key.clone()).or_default().history;
            let bounds = Bounds { min, max: spec.max_replicas, current };
            behavior::normalize(spec.behavior.as_ref(), bounds, asked, self.stabilization, history, now)
        };
        let status = autoscaler.status.get_or_insert_default();
        status::set(status, ABLE, true, normalized.able.0, normalized.able.1, now);
        status::set(status, LIMITED, normalized.limited, normalized.limit.0, normalized.limit.1, now);
        let mut desired = normalized.replicas;
        if current == 0 && desired < min {
            desired = min;
            if reason.is_empty() {
                reason = "Current number of replicas below Spec.MinReplicas".to_owned();
            }
        }
        Ok((desired, reason, Some(statuses)))
    }

    /// The most that any metric asks for. One that fails stands in the way of fewer replicas, not of more.
    async fn measure(
        &self,
        key: &ObjectKey,
        autoscaler: &mut HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        served: &[Resource],
        scale: &Scale,
        current: i32,
    ) -> Result<(i32, String, Vec<MetricStatus>), (Error, Vec<MetricStatus>)> {
        let selector = self.selector(key, autoscaler, scale).map_err(|error| (error, Vec::new()))?;
        let mut pods = self.pods.list_namespace(&key.namespace);
        pods.retain(|pod| selector.matches(&pod.metadata.labels.clone().unwrap_or_default()));
        let metrics = spec.metrics.as_deref().unwrap_or_default();
        let scene = Scene {
            client: &self.client,
            served,
            namespace: &key.namespace,
            selector: selector.to_string(),
            pods: &pods,
            current,
            present: scale.status.as_ref().map_or(0, |status| status.replicas),
            rules: Rules {
                tolerances: behavior::tolerances(spec.behavior.as_ref(), self.tolerance),
                startup: self.startup,
                now: clock::now(),
            },
        };
        let (mut statuses, mut most, mut failures) = (Vec::new(), None::<(i32, String)>, Vec::new());
        for metric in metrics {
            let started = Instant::now();
            let measured = scene.measure(metric).await;
            counts::measured(metric, current, measured.as_ref().map(|measured| measured.proposal.replicas).ok(), started.elapsed());
            match measured {
                Ok(measured) => {
                    statuses.push(measured.status);
                    if most.as_ref().is_none_or(|(replicas, _)| measured.proposal.replicas > *replicas) {
                        most = Some((measured.proposal.replicas, measured.name));
                    }
                }
                Err(failure) => {
                    statuses.push(MetricStatus::default());
                    self.recorder.warning(&autoscaler.reference(), failure.reason, failure.error.to_string());
                    failures.push(failure);
                }
            }
        }
        let now = clock::now();
        let all = metrics.len();
        let failed = failures.len();
        let refused = most.as_ref().is_none_or(|(replicas, _)| *replicas < current);
        let first = failures.into_iter().next();
        match (most, first) {
            (Some((replicas, name)), first) if first.is_none() || !refused => {
                let message = format!("the HPA was able to successfully calculate a replica count from {name}");
                status::set(autoscaler.status.get_or_insert_default(), ACTIVE, true, "ValidMetricFound", &message, now);
                Ok((replicas, name, statuses))
            }
            (_, Some(Failure { reason, doing, error })) => {
                let message = format!("the HPA was unable to compute the replica count: {error}");
                status::set(autoscaler.status.get_or_insert_default(), ACTIVE, false, reason, &message, now);
                let error = if doing.is_empty() { error } else { error.during(doing) };
                Err((error.during(format!("invalid metrics ({failed} invalid out of {all}), first error is")), statuses))
            }
            (_, None) => Ok((current, String::new(), statuses)),
        }
    }

    /// The workload's selector, which no other autoscaler's pods may fit.
    fn selector(&self, key: &ObjectKey, autoscaler: &mut HorizontalPodAutoscaler, scale: &Scale) -> Result<Selector, Error> {
        let now = clock::now();
        let mut refuse = |event: &str, reason: &str, message: String, condition: String| {
            self.recorder.warning(&autoscaler.reference(), event, message.clone());
            status::set(autoscaler.status.get_or_insert_default(), ACTIVE, false, reason, &condition, now);
            Error::Target(message)
        };
        let text = scale.status.as_ref().and_then(|status| status.selector.as_deref()).unwrap_or("");
        if text.is_empty() {
            let condition = "the HPA target's scale is missing a selector".to_owned();
            return Err(refuse("SelectorRequired", "InvalidSelector", "selector is required".to_owned(), condition));
        }
        let selector = Selector::parse(text).map_err(|error| {
            let message = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            refuse("InvalidSelector", "InvalidSelector", message.clone(), message)
        })?;
        let pods = self.pods.list_namespace(&key.namespace);
        let mut memory = self.memory.lock();
        memory.entry(key.clone()).or_default().selector = Some(selector.clone());
        let ours: Vec<&Arc<Pod>> = pods.iter().filter(|pod| selector.matches(&pod.metadata.labels.clone().unwrap_or_default())).collect();
        let rival = memory.iter().find(|(other, memory)| {
            let theirs =
                |pod: &&Arc<Pod>| memory.selector.as_ref().is_some_and(|s| s.matches(&pod.metadata.labels.clone().unwrap_or_default()));
            *other != key && other.namespace == key.namespace && ours.iter().any(theirs)
        });
        if let Some((rival, _)) = rival {
            let pair = format!("[{{{} {}}} {{{} {}}}]", key.name, key.namespace, rival.name, rival.namespace);
            let message = format!("pods by selector {text} are controlled by more than one HPA (e.g. {pair})");
            return Err(refuse("AmbiguousSelector", "AmbiguousSelector", message.clone(), message));
        }
        Ok(selector)
    }

    async fn rescale(
        &self,
        autoscaler: &mut HorizontalPodAutoscaler,
        target: &mut Target,
        current: i32,
        desired: i32,
        reason: &str,
        metrics: Option<Vec<MetricStatus>>,
    ) -> Result<(), Error> {
        let mut conflicts = 0;
        let result = loop {
            target.scale.spec.get_or_insert_default().replicas = Some(desired);
            match target.api.replace_scale(&target.name, &PostParams::default(), &target.scale).await {
                Err(error) if answer::is_conflict(&error) && conflicts < CONFLICTS_MAX => conflicts += 1,
                other => break other,
            }
            target.scale = target.api.get_scale(&target.name).await?;
        };
        let now = clock::now();
        match result {
            Ok(_) => {
                let message = format!("the HPA controller was able to update the target scale to {desired}");
                status::set(autoscaler.status.get_or_insert_default(), ABLE, true, "SucceededRescale", &message, now);
                let message = format!("New size: {desired}; reason: {reason}");
                self.recorder.normal(&autoscaler.reference(), "SuccessfulRescale", message);
                Ok(())
            }
            Err(error) => {
                let why = failure::message(&error);
                let message = format!("New size: {desired}; reason: {reason}; error: {why}");
                self.recorder.warning(&autoscaler.reference(), "FailedRescale", message);
                let message = format!("the HPA controller was unable to update the target scale: {why}");
                status::set(autoscaler.status.get_or_insert_default(), ABLE, false, "FailedUpdateScale", &message, now);
                status::measured(autoscaler, current, None, metrics);
                Err(error.into())
            }
        }
    }
}
