//! A whole cluster from outside: how long it is from a pod's creation until it runs, and until all pods of a Deployment are bound and run.
//! Times are what a client sees: from the request to the event of a watch.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connection::{Connection, Endpoint, JSON};
use super::load::Tally;
use super::measure::{Measure, Report};

const NAMESPACE: &str = "bench-cluster";
const PODS: &str = "/api/v1/namespaces/bench-cluster/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/bench-cluster/deployments";
/// Nothing here takes longer, or the cluster is not fit for it.
const PATIENCE: Duration = Duration::from_secs(300);

/// How much work a run is.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Pods that are created one after the other.
    pub pods: u32,
    /// Pods of the Deployment.
    pub replicas: u32,
}

/// Does the work on the cluster behind `endpoint`, with pods of `image`, and leaves nothing there.
pub async fn run(endpoint: &Endpoint, image: &str, sizes: Sizes) -> anyhow::Result<Report> {
    let mut connection = endpoint.connect().await?;
    prepare(&mut connection).await?;
    let measured = tokio::time::timeout(PATIENCE, measure(&mut connection, image, sizes)).await;
    let (status, body) = connection.exchange(Method::DELETE, &format!("/api/v1/namespaces/{NAMESPACE}"), Bytes::new()).await?;
    ensure!(status.is_success(), "cleaning up: {status}: {}", String::from_utf8_lossy(&body));
    let measures = measured.with_context(|| format!("took longer than {PATIENCE:?}"))??;
    Ok(Report { server: "cluster".to_owned(), measures })
}

/// A namespace of its own, with the account that its controllers make.
async fn prepare(connection: &mut Connection) -> anyhow::Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    connection.create("/api/v1/namespaces", Bytes::from(namespace.to_string())).await?;
    let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
    let begun = Instant::now();
    while connection.exchange(Method::GET, &account, Bytes::new()).await?.0 != StatusCode::OK {
        ensure!(begun.elapsed() < PATIENCE, "the namespace gets no service account: no controllers run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn measure(connection: &mut Connection, image: &str, sizes: Sizes) -> anyhow::Result<Vec<Measure>> {
    let mut measures = Vec::new();
    let mut each = Vec::new();
    for number in 0..sizes.pods {
        let name = format!("one-{number}");
        let watch = Watch::begin(connection, "app=one").await?;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "one"}}, "spec": spec(image)});
        let seen = watch.until_running(async || connection.create(PODS, Bytes::from(pod.to_string())).await.map(drop), 1).await?;
        each.push(seen.running);
        remove(connection, &format!("{PODS}/{name}")).await?;
    }
    if !each.is_empty() {
        let tally = Tally::of(each, Duration::ZERO);
        let work = format!("a pod, created to Running, median of {}", sizes.pods);
        measures.push(Measure::milliseconds("pod_running", work, tally.quantile_ms(0.5)).with("p90_ms", tally.quantile_ms(0.9)));
    }
    if sizes.replicas > 0 {
        let watch = Watch::begin(connection, "app=many").await?;
        let labels = json!({"app": "many"});
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"}, "spec": {
            "replicas": sizes.replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec(image)}}});
        let create = async || connection.create(DEPLOYMENTS, Bytes::from(deployment.to_string())).await.map(drop);
        let seen = watch.until_running(create, sizes.replicas as usize).await?;
        let milliseconds = |key, what: &str, time: Duration| {
            Measure::milliseconds(key, format!("Deployment of {}, all {what}", sizes.replicas), time.as_secs_f64() * 1000.0)
        };
        measures.push(milliseconds("deployment_bound", "bound", seen.bound));
        measures.push(milliseconds("deployment_running", "Running", seen.running));
        remove(connection, &format!("{DEPLOYMENTS}/many")).await?;
    }
    Ok(measures)
}

fn spec(image: &str) -> Value {
    json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": image, "imagePullPolicy": "IfNotPresent"}]})
}

async fn remove(connection: &mut Connection, path: &str) -> anyhow::Result<()> {
    let (status, body) = connection.exchange(Method::DELETE, &format!("{path}?propagationPolicy=Background"), Bytes::new()).await?;
    ensure!(status.is_success(), "DELETE {path}: {status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}

/// When all pods were bound, and when all ran, from the request that made them.
struct Seen {
    bound: Duration,
    running: Duration,
}

/// A watch of the pods that a selector is for, from now on.
struct Watch(Incoming);

impl Watch {
    async fn begin(connection: &mut Connection, selector: &str) -> anyhow::Result<Watch> {
        let list: Value = serde_json::from_slice(&connection.get(&format!("{PODS}?limit=1")).await?)?;
        let revision = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).context("the list has no resourceVersion")?;
        let path = format!("{PODS}?watch=true&labelSelector={}&resourceVersion={revision}", selector.replace('=', "%3D"));
        let response = connection.send(Method::GET, &path, JSON, Bytes::new()).await?;
        ensure!(response.status().is_success(), "watch {path}: {}", response.status());
        Ok(Watch(response.into_body()))
    }

    /// Performs what makes `count` pods and waits until they run.
    async fn until_running(mut self, make: impl AsyncFnOnce() -> anyhow::Result<()>, count: usize) -> anyhow::Result<Seen> {
        let start = Instant::now();
        make().await?;
        let (mut bound, mut running) = (HashMap::new(), HashMap::new());
        let mut buffer = BytesMut::new();
        while running.len() < count {
            let frame = self.0.frame().await.context("the watch has ended")??;
            let Some(data) = frame.data_ref() else { continue };
            let now = start.elapsed();
            buffer.extend_from_slice(data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let event: Event = serde_json::from_slice(&buffer.split_to(end + 1)).context("an event of the watch")?;
                ensure!(event.kind != "ERROR", "the watch failed");
                let Pod { metadata, spec, status } = event.object;
                if spec.node_name.is_some() {
                    bound.entry(metadata.name.clone()).or_insert(now);
                }
                if status.phase == "Running" {
                    running.entry(metadata.name).or_insert(now);
                }
            }
        }
        let last = |times: HashMap<String, Duration>| times.into_values().max().unwrap_or_default();
        Ok(Seen { bound: last(bound), running: last(running) })
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    object: Pod,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pod {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
}
