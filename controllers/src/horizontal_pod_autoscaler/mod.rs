//! The autoscaler: brings the number of a workload's replicas to what metrics ask for, within bounds and at a limited rate.
//!
//! It changes nothing but the workload's scale. Metrics are what others serve; without them it leaves the workload as it is.

mod behavior;
mod metrics;
mod replicas;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::quantity::{Format, Quantity};
use apimachinery::selector::label::{Selector, StructuredError};
use client::controller::Outcome;
use client::events::Recorder;
use client::{Change, Informer, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricIdentifier,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::discovery::{self, Resource};
use crate::failure;
use crate::label_selector_text::print;
use crate::manager::Context;
use behavior::{Bounds, History};
use replicas::{Proposal, Rules, Samples, Startup, Tolerances};
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
    #[error("{0}")]
    Target(String),
    #[error("{}", failure::message(.0))]
    Request(#[from] kube::Error),
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
    let queue = Queue::default();
    let sink = queue.clone();
    controller.autoscalers.on_change(move |change| match change {
        // Our own writes of the status are no reason to look again.
        Change::Updated { old, new } if old.metadata.generation == new.metadata.generation => {}
        change => sink.add(change.object().key()),
    });
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

/// What one metric asks for, how it is called, and what the status says of it.
struct Measured {
    proposal: Proposal,
    name: String,
    status: MetricStatus,
}

fn quantity(milli: i64, format: Format) -> Text {
    Text(Quantity::from_milli(milli, format).canonical())
}

fn milli(text: Option<&Text>) -> Option<i64> {
    Quantity::parse(&text?.0).ok().map(|quantity| quantity.milli_value())
}

fn metric_selector(selector: Option<&LabelSelector>) -> Result<String, StructuredError> {
    match selector {
        None => Ok(String::new()),
        Some(selector) => Selector::from_label_selector(Some(selector)).map(|selector| selector.to_string()),
    }
}

fn is_of_kind(metric: &MetricSpec, kinds: &[&str]) -> bool {
    kinds.contains(&metric.type_.as_str())
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(known) = self.autoscalers.get_key(&key) else {
            self.memory.lock().remove(&key);
            return Ok(Outcome::Done);
        };
        let mut autoscaler = known.as_ref().clone();
        if let Err(error) = self.reconcile(&key, &mut autoscaler).await {
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

    async fn reconcile(&self, key: &ObjectKey, autoscaler: &mut HorizontalPodAutoscaler) -> Result<(), Error> {
        let spec = autoscaler.spec.clone();
        let served = discovery::discover(&self.client).await?.every;
        let now = Timestamp::now();
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
            let now = Timestamp::now();
            let status = autoscaler.status.get_or_insert_default();
            status::set(status, ZERO, zero, why, message, now);
            status.last_scale_time = Some(Time(now));
            if spec.behavior.is_some() {
                self.memory.lock().entry(key.clone()).or_default().history.scaled(current, desired, now);
            }
        }
        status::measured(autoscaler, current, Some(desired), metrics);
        Ok(())
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
        let now = Timestamp::now();
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
        let (mut statuses, mut most, mut failures) = (Vec::new(), None::<(i32, String)>, Vec::new());
        for metric in metrics {
            let of_status = scale.status.as_ref().map_or(0, |status| status.replicas);
            match self.metric(autoscaler, spec, served, metric, (current, of_status), &selector, &pods).await {
                Ok(measured) => {
                    statuses.push(measured.status);
                    if most.as_ref().is_none_or(|(replicas, _)| measured.proposal.replicas > *replicas) {
                        most = Some((measured.proposal.replicas, measured.name));
                    }
                }
                Err((reason, error)) => {
                    statuses.push(MetricStatus::default());
                    self.recorder.warning(&autoscaler.reference(), reason, error.to_string());
                    failures.push((reason, error));
                }
            }
        }
        let now = Timestamp::now();
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
            (_, Some((reason, error))) => {
                let message = format!("the HPA was unable to compute the replica count: {error}");
                status::set(autoscaler.status.get_or_insert_default(), ACTIVE, false, reason, &message, now);
                let message = format!("invalid metrics ({failed} invalid out of {all}), first error is: {error}");
                Err((Error::Target(message), statuses))
            }
            (_, None) => Ok((current, String::new(), statuses)),
        }
    }

    /// The workload's selector, which no other autoscaler's pods may fit.
    fn selector(&self, key: &ObjectKey, autoscaler: &mut HorizontalPodAutoscaler, scale: &Scale) -> Result<Selector, Error> {
        let now = Timestamp::now();
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

    /// What one metric asks for; else the reason of the condition that tells of the failure.
    #[expect(clippy::too_many_arguments, reason = "all of it is one sync's")]
    async fn metric(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        served: &[Resource],
        metric: &MetricSpec,
        (current, of_status): (i32, i32),
        selector: &Selector,
        pods: &[Arc<Pod>],
    ) -> Result<Measured, (&'static str, Error)> {
        let namespace = autoscaler.namespace();
        let tolerances = behavior::tolerances(spec.behavior.as_ref(), self.tolerance);
        let rules = Rules { tolerances, startup: self.startup, now: Timestamp::now() };
        let selected = selector.to_string();
        let kind = metric.type_.clone();
        if let Some(source) = &metric.resource {
            let failed = |error| ("FailedGetResourceMetric", error);
            let of = (source.name.as_str(), "");
            let (proposal, name, value) =
                self.resource(namespace, &selected, current, of, &source.target, pods, &rules).await.map_err(failed)?;
            let resource = Some(ResourceMetricStatus { name: source.name.clone(), current: value });
            return Ok(Measured { proposal, name, status: MetricStatus { type_: kind, resource, ..MetricStatus::default() } });
        }
        if let Some(source) = &metric.container_resource {
            let failed = |error| ("FailedGetContainerResourceMetric", error);
            let of = (source.name.as_str(), source.container.as_str());
            let (proposal, name, value) =
                self.resource(namespace, &selected, current, of, &source.target, pods, &rules).await.map_err(failed)?;
            let (name_of, container) = (source.name.clone(), source.container.clone());
            let container_resource = Some(ContainerResourceMetricStatus { name: name_of, container, current: value });
            return Ok(Measured { proposal, name, status: MetricStatus { type_: kind, container_resource, ..MetricStatus::default() } });
        }
        if let Some(source) = &metric.pods {
            let failed = |error: Error| ("FailedGetPodsMetric", error);
            let of_metric = metric_selector(source.metric.selector.as_ref()).map_err(|error| failed(error.into()))?;
            let found = metrics::pods(&self.client, served, namespace, &selected, &source.metric.name, &of_metric).await;
            let samples = found.map_err(|error| failed(error.into()))?;
            let target = milli(source.target.average_value.as_ref()).unwrap_or(0);
            let proposal = replicas::by_average(current, target, false, pods, samples, &rules);
            let proposal = proposal.map_err(|error| failed(error.into()))?;
            let value =
                MetricValueStatus { average_value: Some(quantity(proposal.usage, Format::DecimalSi)), ..MetricValueStatus::default() };
            let pods = Some(PodsMetricStatus { metric: source.metric.clone(), current: value });
            let name = format!("pods metric {}", source.metric.name);
            return Ok(Measured { proposal, name, status: MetricStatus { type_: kind, pods, ..MetricStatus::default() } });
        }
        if let Some(source) = &metric.object {
            let failed = |error: Error| ("FailedGetObjectMetric", error);
            let of_metric = metric_selector(source.metric.selector.as_ref()).map_err(|error| failed(error.into()))?;
            let about = &source.described_object;
            let found = metrics::object(&self.client, served, namespace, about, &source.metric.name, &of_metric).await;
            let usage = found.map_err(|error| failed(error.into()))?;
            let (proposal, value) = whole(&source.target, usage, (current, of_status), pods, tolerances, "object").map_err(failed)?;
            let name = if source.target.average_value.is_some() {
                external_name(&source.metric)
            } else {
                format!("{} metric {}", about.kind, source.metric.name)
            };
            let (metric, described_object) = (source.metric.clone(), about.clone());
            let object = Some(ObjectMetricStatus { metric, described_object, current: value });
            return Ok(Measured { proposal, name, status: MetricStatus { type_: kind, object, ..MetricStatus::default() } });
        }
        if let Some(source) = &metric.external {
            let failed = |error: Error| ("FailedGetExternalMetric", error);
            let of_metric = metric_selector(source.metric.selector.as_ref()).map_err(|error| failed(error.into()))?;
            let found = metrics::external(&self.client, namespace, &source.metric.name, &of_metric).await;
            let usage = found.map_err(|error| failed(error.into()))?;
            let (proposal, value) = whole(&source.target, usage, (current, of_status), pods, tolerances, "external").map_err(failed)?;
            let external = Some(ExternalMetricStatus { metric: source.metric.clone(), current: value });
            let name = external_name(&source.metric);
            return Ok(Measured { proposal, name, status: MetricStatus { type_: kind, external, ..MetricStatus::default() } });
        }
        Err(("InvalidMetricSourceType", Error::Target(format!("unknown metric source type {kind:?}"))))
    }

    #[expect(clippy::too_many_arguments, reason = "all of it is one sync's")]
    async fn resource(
        &self,
        namespace: &str,
        selector: &str,
        current: i32,
        (resource, container): (&str, &str),
        target: &MetricTarget,
        pods: &[Arc<Pod>],
        rules: &Rules,
    ) -> Result<(Proposal, String, MetricValueStatus), Error> {
        let format = if resource == "memory" { Format::BinarySi } else { Format::DecimalSi };
        let samples: Samples = metrics::resource(&self.client, namespace, selector, resource, container).await.map_err(|error| {
            let word = if target.average_value.is_some() { "usage" } else { "utilization" };
            Error::Target(format!("failed to get {resource} {word}: unable to get metrics for resource {resource}: {error}"))
        })?;
        let (proposal, name) = if let Some(target) = milli(target.average_value.as_ref()) {
            let proposal = replicas::by_average(current, target, resource == "cpu", pods, samples, rules)?;
            (proposal, format!("{resource} resource"))
        } else if let Some(percent) = target.average_utilization {
            let proposal = replicas::by_utilization(current, percent, resource, container, pods, samples, rules)?;
            let of = if container.is_empty() { "" } else { "container " };
            (proposal, format!("{resource} {of}resource utilization (percentage of request)"))
        } else {
            let message =
                "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
            return Err(Error::Target(message.to_owned()));
        };
        let value = MetricValueStatus {
            average_utilization: proposal.utilization,
            average_value: Some(quantity(proposal.usage, format)),
            value: None,
        };
        Ok((proposal, name, value))
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
        let now = Timestamp::now();
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

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, print(metric.selector.as_ref()))
}

/// For a value that belongs to no pod: shared among the pods, or compared as it is.
fn whole(
    target: &MetricTarget,
    usage: i64,
    (current, of_status): (i32, i32),
    pods: &[Arc<Pod>],
    tolerances: Tolerances,
    source: &str,
) -> Result<(Proposal, MetricValueStatus), Error> {
    if let Some(each) = milli(target.average_value.as_ref()) {
        let proposal = replicas::by_value_per_pod(of_status, usage, each, tolerances);
        let average_value = Some(quantity(proposal.usage, Format::DecimalSi));
        return Ok((proposal, MetricValueStatus { average_value, ..MetricValueStatus::default() }));
    }
    let Some(all) = milli(target.value.as_ref()) else {
        return Err(Error::Target(format!("invalid {source} metric source: neither a value target nor an average value target was set")));
    };
    let proposal = replicas::by_value(current, usage, all, pods, tolerances)?;
    let value = Some(quantity(proposal.usage, Format::DecimalSi));
    Ok((proposal, MetricValueStatus { value, ..MetricValueStatus::default() }))
}
