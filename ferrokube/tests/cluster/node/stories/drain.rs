//! A node is drained: pods leave it one after another, as their budget allows, and the next one not before what replaces the last is ready.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{EvictParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use super::{APART, tolerations};
use crate::node::asking::{name, until};
use crate::node::place::{Place, container, is_ready, node_of, phase, say, uid, with};

const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Prefers the node that is drained, and is ready when it is told so.
fn deployment() -> Value {
    let on_node = json!({ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [APART] }] });
    json!({
        "metadata": { "name": "guarded" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "guarded" } },
            "template": {
                "metadata": { "labels": { "app": "guarded" } },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": tolerations(),
                    "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 100, "preference": on_node }] } },
                    "containers": [with(container("exec sleep 1000"), json!({
                        "readinessProbe": { "exec": { "command": ["test", "-e", "/tmp/go"] }, "periodSeconds": 1, "timeoutSeconds": 20 },
                    }))],
                },
            },
        },
    })
}

async fn pods(place: &Place) -> Vec<Pod> {
    let mut pods: Vec<Pod> = place.list("app=guarded").await;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    pods
}

async fn on(place: &Place, node: &str) -> Vec<Pod> {
    pods(place).await.into_iter().filter(|pod| node_of(pod) == node).collect()
}

async fn tell_to_be_ready(place: &Place, pod: &str) {
    until("the pod is told to be ready", async || place.says(pod, "touch /tmp/go && echo done").await == "done").await;
}

/// What the API server says to an eviction that is not meant.
async fn asked(place: &Place, pod: &str) -> Result<(), kube::Error> {
    let only_asked = EvictParams { post_options: PostParams { dry_run: true, ..PostParams::default() }, ..EvictParams::default() };
    place.api::<Pod>().evict(pod, &only_asked).await.map(|_| ())
}

/// Drains the node as `kubectl drain` does, or by kubectl itself where the machine has one, and gives back what was said.
async fn drain(place: &Place, kubeconfig: PathBuf) -> String {
    let child = Command::new("kubectl")
        .args(["drain", APART, "--pod-selector", "app=guarded", "--timeout", "100s", "--kubeconfig"])
        .arg(kubeconfig)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    if let Ok(child) = child {
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("it is waited for").expect("kubectl ends");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
        return said;
    }
    say("==> SKIPPED kubectl drain: no kubectl; the same by the API");
    cordon(place, true).await;
    let mut said = String::new();
    for pod in on(place, APART).await {
        until("the pod may be evicted", async || match place.api::<Pod>().evict(name(&pod), &EvictParams::default()).await {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if status.code == 429 => {
                said.push_str(&status.message);
                false
            }
            Err(other) => panic!("{other}"),
        })
        .await;
    }
    said
}

async fn cordon(place: &Place, unschedulable: bool) {
    let nodes: Api<Node> = Api::all(place.client.clone());
    let patch = json!({ "spec": { "unschedulable": unschedulable } });
    nodes.patch(APART, &PatchParams::default(), &Patch::Merge(patch)).await.expect("the node is changed");
}

/// A client that says at once when it is refused. The usual one asks again for a while.
async fn impatient(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a usable kubeconfig");
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

pub(super) async fn story(place: Place, kubeconfig: PathBuf) {
    let place = Place { client: impatient(&kubeconfig).await, ..place };
    let budget =
        json!({ "metadata": { "name": "guarded" }, "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { "app": "guarded" } } } });
    place.create::<PodDisruptionBudget>(budget).await;
    place.create::<Deployment>(deployment()).await;
    until("both pods are on the node", async || on(&place, APART).await.len() == 2).await;
    let before = on(&place, APART).await;
    for pod in &before {
        tell_to_be_ready(&place, name(pod)).await;
    }
    place
        .until_is("guarded", "one may go", |budget: &PodDisruptionBudget| {
            budget.status.as_ref().is_some_and(|status| (status.disruptions_allowed, status.current_healthy) == (Some(1), Some(2)))
        })
        .await;

    let is_drained = Cell::new(false);
    let draining = async {
        let said = drain(&place, kubeconfig).await;
        is_drained.set(true);
        said
    };
    let (said, ()) = tokio::join!(draining, one_at_a_time(&place, &is_drained));
    assert!(said.contains(REFUSAL), "{said}");
    until("nobody is left there", async || on(&place, APART).await.is_empty() && pods(&place).await.len() == 2).await;
    cordon(&place, false).await;
}

/// What is to be seen meanwhile: the second pod stays until what replaces the first is ready.
async fn one_at_a_time(place: &Place, is_drained: &Cell<bool>) {
    until("one has gone and is replaced elsewhere", async || on(place, APART).await.len() == 1 && pods(place).await.len() == 2).await;
    let last = on(place, APART).await.pop().expect("one is left");
    let node: Node = Api::all(place.client.clone()).get(APART).await.expect("the node");
    assert_eq!(node.spec.and_then(|spec| spec.unschedulable), Some(true));
    // What replaces it runs, and is not ready.
    until("the replacement runs", async || pods(place).await.iter().filter(|pod| phase(pod) == "Running").count() == 2).await;
    match asked(place, name(&last)).await {
        Err(kube::Error::Api(status)) => assert_eq!((status.code, status.message.as_str()), (429, REFUSAL)),
        other => panic!("the last one may not go: {other:?}"),
    }
    let budget: PodDisruptionBudget = place.get("guarded").await;
    let counts = budget.status.map(|status| (status.disruptions_allowed, status.current_healthy, status.desired_healthy));
    assert_eq!(counts, Some((Some(0), Some(1), Some(1))));
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(!is_drained.get());
    let still: Pod = place.get(name(&last)).await;
    assert!(is_ready(&still) && uid(&still) == uid(&last), "it stays");

    let mut replacement = pods(place).await;
    replacement.retain(|pod| node_of(pod) != APART);
    tell_to_be_ready(place, name(&replacement[0])).await;
}
