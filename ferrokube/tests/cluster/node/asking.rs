//! What tests ask of a cluster with nodes, and how long they wait for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use kube::api::{AttachParams, ListParams};
use kube::{Api, Client};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::host::Host;

/// Everything here takes seconds; a loaded machine takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// GET / over a new connection; nothing if there is no good answer.
pub(super) async fn get(address: IpAddr, port: u16) -> Option<String> {
    let talk = async {
        let mut stream = TcpStream::connect((address, port)).await.ok()?;
        exchange(&mut stream).await
    };
    tokio::time::timeout(Duration::from_secs(3), talk).await.ok().flatten()
}

pub(super) async fn exchange(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> Option<String> {
    stream.write_all(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.trim().to_owned())
}

pub(super) fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object")
}

pub(super) struct Cluster {
    pub(super) deployments: Api<Deployment>,
    pub(super) pods: Api<Pod>,
    pub(super) services: Api<Service>,
    pub(super) config_maps: Api<ConfigMap>,
    pub(super) nodes: Api<Node>,
    pub(super) client: Client,
}

impl Cluster {
    pub(super) async fn of(host: &Host, nodes: usize) -> Cluster {
        let client = host.client().await;
        let cluster = Cluster {
            deployments: Api::default_namespaced(client.clone()),
            pods: Api::default_namespaced(client.clone()),
            services: Api::default_namespaced(client.clone()),
            config_maps: Api::default_namespaced(client.clone()),
            nodes: Api::all(client.clone()),
            client,
        };
        until("every node is ready", async || cluster.ready_nodes().await.len() == nodes).await;
        cluster
    }

    pub(super) async fn ready_nodes(&self) -> BTreeSet<String> {
        let list = self.nodes.list(&ListParams::default()).await.expect("nodes");
        let is_ready = |node: &Node| {
            let conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        list.iter().filter(|node| is_ready(node)).filter_map(|node| node.metadata.name.clone()).collect()
    }

    /// What a command prints; nothing if it cannot be run.
    pub(super) async fn try_exec(&self, pod: &str, command: &[&str]) -> Option<String> {
        let parameters = AttachParams::default().stdin(false).stdout(true).stderr(true);
        let mut process = self.pods.exec(pod, command.iter().copied(), &parameters).await.ok()?;
        let mut text = String::new();
        process.stdout()?.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    pub(super) async fn exec(&self, pod: &str, command: &[&str], input: &[u8]) -> (String, bool) {
        let parameters = AttachParams::default().stdin(!input.is_empty()).stdout(true).stderr(true);
        let mut process = self.pods.exec(pod, command.iter().copied(), &parameters).await.expect("a command");
        if let Some(mut stdin) = process.stdin() {
            stdin.write_all(input).await.expect("input is taken");
            stdin.shutdown().await.expect("input ends");
        }
        let outcome = process.take_status().expect("an outcome");
        let mut text = String::new();
        process.stdout().expect("output").read_to_string(&mut text).await.expect("output is text");
        let status = outcome.await.expect("an outcome");
        process.join().await.expect("the connection ends in good order");
        (text, status.status.as_deref() == Some("Success"))
    }
}

pub(super) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(super) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
    statuses.iter().map(|status| status.restart_count).sum()
}
