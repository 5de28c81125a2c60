//! Where metrics come from: the resource, custom and external metrics APIs, which somebody else serves through the API server.

use apimachinery::quantity::Quantity;
use apimachinery::time::parse_duration;
use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

use super::replicas::{Sample, Samples};
use crate::discovery::Resource;
use crate::failure;

/// What a value stands for if nobody says over how long it was measured.
const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unable to fetch metrics from {api} metrics API: {}", said(.source, .resource))]
    Fetch { api: &'static str, resource: String, source: kube::Error },
    #[error("no metrics returned from {0} metrics API")]
    Nothing(&'static str),
    #[error("unable to fetch metrics from custom metrics API: no custom metrics API ({0}) registered")]
    NotServed(&'static str),
}

/// What the server says; in upstream's words also if nobody serves the API, when it says nothing that can be read.
fn said(error: &kube::Error, resource: &str) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 && status.reason != "NotFound" => {
            format!("the server could not find the requested resource (get {resource})")
        }
        other => failure::message(other),
    }
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Value>,
}

/// Text as it stands in a query.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn get(client: &Client, api: &'static str, resource: &str, path: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, Error> {
    let query: Vec<String> =
        query.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| format!("{key}={}", encode(value))).collect();
    let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
    let failed = |source: kube::Error| Error::Fetch { api, resource: resource.to_owned(), source };
    let request = http::Request::get(uri).body(Vec::new()).map_err(|error| failed(kube::Error::HttpError(error)))?;
    let list: List = client.request(request).await.map_err(failed)?;
    if list.items.is_empty() { Err(Error::Nothing(api)) } else { Ok(list.items) }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn milli(value: Option<&Value>) -> Option<i64> {
    let text = value?.as_str().map_or_else(|| value.map(Value::to_string), |text| Some(text.to_owned()))?;
    Quantity::parse(&text).ok().map(|quantity| quantity.milli_value())
}

fn timestamp(value: &Value) -> Timestamp {
    text(value, "/timestamp").parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

fn window(value: &Value) -> SignedDuration {
    let written = parse_duration(text(value, "/window")).ok().map(SignedDuration::from_nanos);
    let seconds = value.pointer("/windowSeconds").and_then(Value::as_i64).map(SignedDuration::from_secs);
    written.or(seconds).unwrap_or(DEFAULT_WINDOW)
}

/// What each pod uses, or one of its containers. Pods of which something is not known are left out.
pub async fn resource(client: &Client, namespace: &str, selector: &str, resource: &str, container: &str) -> Result<Samples, Error> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
    let items = get(client, "resource", "pods.metrics.k8s.io", &path, &[("labelSelector", selector)]).await?;
    Ok(items.iter().filter_map(|item| pod_sample(item, resource, container)).collect())
}

fn pod_sample(item: &Value, resource: &str, container: &str) -> Option<(String, Sample)> {
    let containers = item.pointer("/containers").and_then(Value::as_array)?;
    let chosen: Vec<&Value> = containers.iter().filter(|c| container.is_empty() || text(c, "/name") == container).collect();
    if chosen.is_empty() {
        return None;
    }
    let values: Option<Vec<i64>> = chosen.iter().map(|c| milli(c.pointer("/usage")?.get(resource))).collect();
    let sample = Sample { value: values?.iter().sum(), timestamp: timestamp(item), window: window(item) };
    Some((text(item, "/metadata/name").to_owned(), sample))
}

fn custom_version(served: &[Resource], group: &'static str) -> Result<String, Error> {
    let version = served.iter().find(|resource| resource.group == group).map(|resource| resource.version.clone());
    version.ok_or(Error::NotServed(group))
}

const CUSTOM: &str = "custom.metrics.k8s.io";

/// A metric of each pod.
pub async fn pods(
    client: &Client,
    served: &[Resource],
    namespace: &str,
    selector: &str,
    metric: &str,
    metric_selector: &str,
) -> Result<Samples, Error> {
    let version = custom_version(served, CUSTOM)?;
    let path = format!("/apis/{CUSTOM}/{version}/namespaces/{namespace}/pods/*/{metric}");
    let items = get(
        client,
        "custom",
        "pods.custom.metrics.k8s.io",
        &path,
        &[("labelSelector", selector), ("metricLabelSelector", metric_selector)],
    )
    .await?;
    let sample = |item: &Value| {
        let sample = Sample { value: milli(item.get("value"))?, timestamp: timestamp(item), window: window(item) };
        Some((text(item, "/describedObject/name").to_owned(), sample))
    };
    Ok(items.iter().filter_map(sample).collect())
}

/// A metric of one object, in thousandths.
pub async fn object(
    client: &Client,
    served: &[Resource],
    namespace: &str,
    about: &CrossVersionObjectReference,
    metric: &str,
    metric_selector: &str,
) -> Result<i64, Error> {
    let version = custom_version(served, CUSTOM)?;
    let api_version = about.api_version.as_deref().unwrap_or("v1");
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let path = if about.kind == "Namespace" && group.is_empty() {
        format!("/apis/{CUSTOM}/{version}/namespaces/{namespace}/metrics/{metric}")
    } else {
        let resource = served.iter().find(|resource| resource.kind == about.kind && resource.group == group);
        let resource = resource.map_or_else(|| about.kind.to_lowercase(), Resource::group_resource);
        format!("/apis/{CUSTOM}/{version}/namespaces/{namespace}/{resource}/{}/{metric}", about.name)
    };
    let items = get(client, "custom", &format!("{}.{CUSTOM}", about.kind), &path, &[("metricLabelSelector", metric_selector)]).await?;
    items.first().and_then(|item| milli(item.get("value"))).ok_or(Error::Nothing("custom"))
}

/// A metric of something outside the cluster, in thousandths: the sum of all its values.
pub async fn external(client: &Client, namespace: &str, metric: &str, metric_selector: &str) -> Result<i64, Error> {
    let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{metric}");
    let items = get(client, "external", &format!("{metric}.external.metrics.k8s.io"), &path, &[("labelSelector", metric_selector)]).await?;
    Ok(items.iter().filter_map(|item| milli(item.get("value"))).fold(0, i64::saturating_add))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_use_is_the_sum_of_its_containers() {
        let item = json!({
            "metadata": {"name": "p"}, "timestamp": "1970-01-01T00:00:10Z", "window": "15s",
            "containers": [{"name": "a", "usage": {"cpu": "100m", "memory": "1Ki"}}, {"name": "b", "usage": {"cpu": "50m"}}],
        });
        let sample = |value| Sample { value, timestamp: Timestamp::from_second(10).unwrap(), window: SignedDuration::from_secs(15) };
        assert_eq!(pod_sample(&item, "cpu", ""), Some(("p".to_owned(), sample(150))));
        assert_eq!(pod_sample(&item, "cpu", "b"), Some(("p".to_owned(), sample(50))));
        assert_eq!(pod_sample(&item, "memory", ""), None);
        assert_eq!(pod_sample(&item, "cpu", "other"), None);
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(encode("a in (b,c),d=e"), "a%20in%20%28b%2Cc%29%2Cd%3De");
    }
}
