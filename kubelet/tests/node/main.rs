//! A kubelet from outside: a small API server, and a runtime that is simulated or (as root) a containerd of its own.

mod api;
mod containerd;
mod plugins;
mod serving;
mod simulated;

use std::path::Path;
use std::time::{Duration, Instant};

use client::Shutdown;
use kubelet::cri::SharedRuntime;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use api::Server;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// A kubelet that is running.
pub struct Running {
    shutdown: Shutdown,
    task: JoinHandle<Result<(), kubelet::Error>>,
}

impl Running {
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("it does not panic").expect("it ends well");
    }
}

/// A configuration below a directory, without a server of its own.
pub fn config(directory: &Path) -> kubelet::Config {
    let mut config = kubelet::Config::new("n1");
    config.root_dir = directory.join("kubelet");
    config.container_logs_dir = directory.join("containers");
    config.configuration.pod_logs_dir = directory.join("pods").display().to_string();
    config.configuration.enable_server = false;
    config.configuration.cluster_dns = vec!["10.96.0.10".to_owned()];
    config.configuration.cluster_domain = "cluster.local".to_owned();
    // However full the disk of the machine is, pods are not evicted.
    config.configuration.eviction_hard = [("memory.available".to_owned(), "1Mi".to_owned())].into();
    config.configuration.image_gc_high_threshold_percent = 100;
    config
}

pub fn start(server: &Server, mut config: kubelet::Config, runtime: Option<SharedRuntime>) -> Running {
    config.runtime = runtime;
    let shutdown = Shutdown::new();
    let task = tokio::spawn(kubelet::run(server.client(), config, shutdown.clone()));
    Running { shutdown, task }
}

/// Waits until something holds; fails with what is there instead.
pub async fn until<T>(what: &str, mut check: impl FnMut() -> Result<T, Value>) -> T {
    let began = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(state) if began.elapsed() > PATIENCE => panic!("{what} did not come: {state:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Creates a pod that is bound to the node.
pub async fn create(server: &Server, name: &str, spec: Value) {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec,
        "status": {"phase": "Pending"}});
    pod["spec"]["nodeName"] = json!("n1");
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(server.client(), "default");
    let pod = serde_json::from_value(pod).expect("it is a pod");
    pods.create(&Default::default(), &pod).await.expect("it can be created");
}

pub async fn delete(server: &Server, name: &str) {
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(server.client(), "default");
    pods.delete(name, &Default::default()).await.expect("it can be deleted");
}

/// The pod, once its status has what is asked for.
pub async fn pod_with(server: &Server, name: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
    until(what, || {
        let pod = server.get("pods", "default", name).unwrap_or(Value::Null);
        if check(&pod["status"]) { Ok(pod) } else { Err(json!({"pod": pod, "events": events(server)})) }
    })
    .await
}

/// Reasons and messages of all events.
pub fn events(server: &Server) -> Vec<String> {
    let word = |event: &Value, field: &str| event[field].as_str().unwrap_or("").to_owned();
    server.list("events").iter().map(|event| format!("{}: {}", word(event, "reason"), word(event, "message"))).collect()
}

pub fn condition<'a>(status: &'a Value, name: &str) -> &'a str {
    let all = status["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|condition| condition["type"] == name).and_then(|condition| condition["status"].as_str()).unwrap_or("")
}
