//! What one metric of an autoscaler asks for: where its values come from, how they are judged, and what is said of it.

use std::sync::Arc;

use apimachinery::quantity::{Format, Quantity};
use apimachinery::selector::label::{Selector, StructuredError};
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    ObjectMetricSource, ObjectMetricStatus, PodsMetricSource, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;

use super::Error;
use super::metrics;
use super::replicas::{self, Proposal, Rules};
use crate::discovery::Resource;
use crate::label_selector_text::print;

/// Whose metrics are measured.
pub struct Scene<'a> {
    pub client: &'a Client,
    pub served: &'a [Resource],
    pub namespace: &'a str,
    /// The workload's selector, and the pods that it fits.
    pub selector: String,
    pub pods: &'a [Arc<Pod>],
    /// The replicas that the scale asks for and those that there are.
    pub current: i32,
    pub present: i32,
    pub rules: Rules,
}

/// What one metric asks for, how it is called, and what the status says of it.
pub struct Measured {
    pub proposal: Proposal,
    pub name: String,
    pub status: MetricStatus,
}

/// Why a metric says nothing: the reason of the condition that tells of it, what was being done, and the error.
pub struct Failure {
    pub reason: &'static str,
    pub doing: String,
    pub error: Error,
}

fn quantity(milli: i64, format: Format) -> Option<Text> {
    Some(Text(Quantity::from_milli(milli, format).canonical()))
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

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, print(metric.selector.as_ref()))
}

impl Scene<'_> {
    pub async fn measure(&self, metric: &MetricSpec) -> Result<Measured, Failure> {
        let status = MetricStatus { type_: metric.type_.clone(), ..MetricStatus::default() };
        if let Some(source) = &metric.resource {
            let doing = format!("failed to get {} resource metric value", source.name);
            let failed = |error| Failure { reason: "FailedGetResourceMetric", doing, error };
            let (proposal, name, current) = self.resource(&source.name, "", &source.target).await.map_err(failed)?;
            let resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
            return Ok(Measured { proposal, name, status: MetricStatus { resource, ..status } });
        }
        if let Some(source) = &metric.container_resource {
            let doing = format!("failed to get {} container metric value", source.container);
            let failed = |error| Failure { reason: "FailedGetContainerResourceMetric", doing, error };
            let (proposal, name, current) = self.resource(&source.name, &source.container, &source.target).await.map_err(failed)?;
            let of = ContainerResourceMetricStatus { name: source.name.clone(), container: source.container.clone(), current };
            return Ok(Measured { proposal, name, status: MetricStatus { container_resource: Some(of), ..status } });
        }
        if let Some(source) = &metric.pods {
            let failed = |error| Failure { reason: "FailedGetPodsMetric", doing: "failed to get pods metric value".to_owned(), error };
            let proposal = self.pods(source).await.map_err(failed)?;
            let average_value = quantity(proposal.usage, Format::DecimalSi);
            let current = MetricValueStatus { average_value, ..MetricValueStatus::default() };
            let pods = Some(PodsMetricStatus { metric: source.metric.clone(), current });
            return Ok(Measured { proposal, name: format!("pods metric {}", source.metric.name), status: MetricStatus { pods, ..status } });
        }
        if let Some(source) = &metric.object {
            let failed = |error| Failure { reason: "FailedGetObjectMetric", doing: "failed to get object metric value".to_owned(), error };
            let whole = self.object_usage(source).await.and_then(|usage| self.whole(&source.target, usage, "object"));
            let (proposal, current) = whole.map_err(failed)?;
            let name = match &source.target.average_value {
                Some(_) => external_name(&source.metric),
                None => format!("{} metric {}", source.described_object.kind, source.metric.name),
            };
            let (metric, described_object) = (source.metric.clone(), source.described_object.clone());
            let object = Some(ObjectMetricStatus { metric, described_object, current });
            return Ok(Measured { proposal, name, status: MetricStatus { object, ..status } });
        }
        if let Some(source) = &metric.external {
            let doing = format!("failed to get {} external metric value", source.metric.name);
            let failed = |error| Failure { reason: "FailedGetExternalMetric", doing, error };
            let whole = self.external_usage(&source.metric).await.and_then(|usage| self.whole(&source.target, usage, "external"));
            let (proposal, current) = whole.map_err(failed)?;
            let external = Some(ExternalMetricStatus { metric: source.metric.clone(), current });
            return Ok(Measured { proposal, name: external_name(&source.metric), status: MetricStatus { external, ..status } });
        }
        let error = Error::Target(format!("unknown metric source type {:?}", metric.type_));
        Err(Failure { reason: "InvalidMetricSourceType", doing: String::new(), error })
    }

    /// For what pods use, or one container of each.
    async fn resource(
        &self,
        resource: &str,
        container: &str,
        target: &MetricTarget,
    ) -> Result<(Proposal, String, MetricValueStatus), Error> {
        let samples = async {
            let samples = metrics::resource(self.client, self.namespace, &self.selector, resource, container).await;
            samples.map_err(|error| Error::from(error).during(format!("unable to get metrics for resource {resource}")))
        };
        let (proposal, name) = if let Some(target) = milli(target.average_value.as_ref()) {
            let failed = |error: Error| error.during(format!("failed to get {resource} usage"));
            let samples = samples.await.map_err(failed)?;
            let proposal = replicas::by_average(self.current, target, resource == "cpu", self.pods, samples, &self.rules);
            (proposal.map_err(|error| failed(error.into()))?, format!("{resource} resource"))
        } else if let Some(percent) = target.average_utilization {
            let failed = |error: Error| error.during(format!("failed to get {resource} utilization"));
            let samples = samples.await.map_err(failed)?;
            let proposal = replicas::by_utilization(self.current, percent, resource, container, self.pods, samples, &self.rules);
            let of = if container.is_empty() { "" } else { "container " };
            let name = format!("{resource} {of}resource utilization (percentage of request)");
            (proposal.map_err(|error| failed(error.into()))?, name)
        } else {
            let message =
                "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
            return Err(Error::Target(message.to_owned()));
        };
        let format = if resource == "memory" { Format::BinarySi } else { Format::DecimalSi };
        let average_value = quantity(proposal.usage, format);
        Ok((proposal, name, MetricValueStatus { average_utilization: proposal.utilization, average_value, value: None }))
    }

    async fn pods(&self, source: &PodsMetricSource) -> Result<Proposal, Error> {
        let (name, of_metric) = (&source.metric.name, metric_selector(source.metric.selector.as_ref())?);
        let samples = metrics::pods(self.client, self.served, self.namespace, &self.selector, name, &of_metric).await;
        let samples = samples.map_err(|error| Error::from(error).during(format!("unable to get metric {name}")))?;
        let target = milli(source.target.average_value.as_ref()).unwrap_or(0);
        Ok(replicas::by_average(self.current, target, false, self.pods, samples, &self.rules)?)
    }

    async fn object_usage(&self, source: &ObjectMetricSource) -> Result<i64, Error> {
        let (name, about) = (&source.metric.name, &source.described_object);
        let of_metric = metric_selector(source.metric.selector.as_ref())?;
        let usage = metrics::object(self.client, self.served, self.namespace, about, name, &of_metric).await;
        usage.map_err(|error| {
            Error::from(error).during(format!("unable to get metric {name} on {} {}/{}", about.kind, self.namespace, about.name))
        })
    }

    async fn external_usage(&self, metric: &MetricIdentifier) -> Result<i64, Error> {
        let (name, of_metric) = (&metric.name, metric_selector(metric.selector.as_ref())?);
        let usage = metrics::external(self.client, self.namespace, name, &of_metric).await;
        usage.map_err(|error| {
            let selector = print(metric.selector.as_ref());
            Error::from(error).during(format!("unable to get external metric {}/{name}/{selector}", self.namespace))
        })
    }

    /// For a value that belongs to no pod: shared among the pods, or compared as it is.
    fn whole(&self, target: &MetricTarget, usage: i64, source: &str) -> Result<(Proposal, MetricValueStatus), Error> {
        if let Some(each) = milli(target.average_value.as_ref()) {
            let proposal = replicas::by_value_per_pod(self.present, usage, each, self.rules.tolerances);
            let average_value = quantity(proposal.usage, Format::DecimalSi);
            return Ok((proposal, MetricValueStatus { average_value, ..MetricValueStatus::default() }));
        }
        let Some(all) = milli(target.value.as_ref()) else {
            return Err(Error::Target(format!(
                "invalid {source} metric source: neither a value target nor an average value target was set"
            )));
        };
        let proposal = replicas::by_value(self.current, usage, all, self.pods, self.rules.tolerances)?;
        let value = quantity(proposal.usage, Format::DecimalSi);
        Ok((proposal, MetricValueStatus { value, ..MetricValueStatus::default() }))
    }
}
