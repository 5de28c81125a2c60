//! A deployment's whole life on one node, and on three of which one dies.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::asking::{Cluster, exchange, get, name, object, restarts, until};
use super::host::{Host, Inventory};
use super::{image, registry::Registry};

fn deployment(image: &str, replicas: i32) -> Deployment {
    object(json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": {
                    "terminationGracePeriodSeconds": 3,
                    "tolerations": [
                        { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2 },
                        { "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2 },
                    ],
                    "containers": [{
                        "name": "web",
                        "image": image,
                        "command": ["sh", "-c", "trap 'exit 0' TERM; trap 'exit 1' USR1; httpd -p 8080 -h /www; echo started; while :; do sleep 0.1; done"],
                        "env": [{ "name": "COLOUR", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "colour" } } }],
                        "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
                        "lifecycle": { "preStop": { "sleep": { "seconds": 2 } } },
                        "volumeMounts": [{ "name": "settings", "mountPath": "/settings" }],
                    }],
                    "volumes": [{ "name": "settings", "configMap": { "name": "settings" } }],
                },
            },
        },
    }))
}

impl Cluster {
    pub(super) async fn apply(&self, image: &str) {
        let post = PostParams::default();
        let settings = object(json!({ "metadata": { "name": "settings" }, "data": { "colour": "green" } }));
        self.config_maps.create(&post, &settings).await.expect("a config map");
        self.deployments.create(&post, &deployment(image, 3)).await.expect("a deployment");
        let service = json!({
            "metadata": { "name": "web" },
            "spec": { "type": "NodePort", "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        });
        self.services.create(&post, &object(service)).await.expect("a service");
        self.rolled_out(3).await;
    }

    /// Waits until the controller has seen the deployment as it is now, and so many pods of its newest form are all there are.
    pub(super) async fn rolled_out(&self, replicas: i32) {
        until("the deployment is rolled out", async || {
            let deployment = self.deployments.get("web").await.expect("the deployment");
            let status = deployment.status.unwrap_or_default();
            status.observed_generation == deployment.metadata.generation
                && status.updated_replicas.unwrap_or(0) == replicas
                && status.replicas.unwrap_or(0) == replicas
                && status.available_replicas.unwrap_or(0) == replicas
        })
        .await;
    }

    /// The pods that are ready and not on their way out.
    pub(super) async fn running(&self) -> Vec<Pod> {
        let list = self.pods.list(&ListParams::default().labels("app=web")).await.expect("pods");
        let is_ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            pod.metadata.deletion_timestamp.is_none() && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        list.items.into_iter().filter(is_ready).collect()
    }

    async fn set_image(&self, image: &str) {
        let patch = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "web", "image": image }] } } } });
        self.deployments.patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.expect("the image is changed");
    }

    pub(super) async fn scale(&self, replicas: i32) {
        let patch = json!({ "spec": { "replicas": replicas } });
        self.deployments.patch_scale("web", &PatchParams::default(), &Patch::Merge(patch)).await.expect("the deployment is scaled");
        self.rolled_out(replicas).await;
    }

    pub(super) async fn delete_all(&self) {
        let delete = DeleteParams::background();
        self.deployments.delete("web", &delete).await.expect("the deployment goes");
        self.services.delete("web", &delete).await.expect("the service goes");
        self.config_maps.delete("settings", &delete).await.expect("the config map goes");
        let replica_sets: Api<ReplicaSet> = Api::default_namespaced(self.client.clone());
        until("pods and replica sets are gone", async || {
            let pods = self.pods.list(&ListParams::default()).await.expect("pods");
            let sets = replica_sets.list(&ListParams::default()).await.expect("replica sets");
            pods.items.is_empty() && sets.items.is_empty()
        })
        .await;
    }
}

/// Asks a service again and again until told to stop.
struct Visitor {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU32>,
    bad: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Visitor {
    fn start(address: IpAddr, port: u16) -> Visitor {
        let (stop, good, bad) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let (stopped, fine, failed) = (stop.clone(), good.clone(), bad.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let count = if get(address, port).await.is_some() { &fine } else { &failed };
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Visitor { stop, good, bad, task }
    }

    /// How many answers were good, and how many were not.
    async fn end(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the visitor ends");
        (self.good.load(Ordering::Relaxed), self.bad.load(Ordering::Relaxed))
    }
}

/// What is served, and what it says.
const IMAGES: [(&str, &str); 2] = [("registry.test/test/web:1", "one"), ("registry.test/test/web:2", "two")];

/// Puts both images into a registry that the cluster pulls from.
fn registry_of(directory: &Path, host: &Host, data_dir: &Path) -> Registry {
    let registry = Registry::start(directory, host.gateway(), data_dir);
    for (image, page) in IMAGES {
        let (_, name) = image.split_once('/').expect("a registry's name");
        registry.push(&image::archive(directory, name, page), name);
    }
    registry
}

/// Everything that the applied deployment can go through, down to no pod at all.
async fn the_whole_job(host: &Host, cluster: &Cluster) {
    // By the service's address, by the node's port, and by name from within a pod.
    let spec = cluster.services.get("web").await.expect("the service").spec.expect("its spec");
    let address: IpAddr = spec.cluster_ip.as_deref().unwrap_or_default().parse().expect("a cluster IP");
    let node_port = spec.ports.iter().flatten().find_map(|port| port.node_port).expect("a node port");
    assert_eq!(get(address, 80).await.as_deref(), Some("one"));
    assert_eq!(get(host.node(1).into(), u16::try_from(node_port).expect("a port")).await.as_deref(), Some("one"));
    let pods = cluster.running().await;
    let pod = name(&pods[0]).to_owned();
    // In two steps: a static busybox asks for names itself in nslookup alone, elsewhere it crashes in the C library's resolver.
    let fetch =
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $(nslookup web.default.svc.cluster.local | sed -n 's/^Address: //p') 80 | tail -n 1";
    assert_eq!(cluster.exec(&pod, &["sh", "-c", fetch], b"").await, ("one".to_owned(), true));

    // Logs, configuration, a command's failure, a file copied in, a forwarded port.
    assert_eq!(cluster.pods.logs(&pod, &LogParams::default()).await.expect("logs"), "started\n");
    assert_eq!(cluster.exec(&pod, &["sh", "-c", "cat /settings/colour; echo; echo $COLOUR"], b"").await.0, "green\ngreen\n");
    assert!(!cluster.exec(&pod, &["false"], b"").await.1);
    // By a shell that stays: the runtime ends a command's input as soon as one of its outputs is closed, as that of a mere `cat > file` is.
    assert!(cluster.exec(&pod, &["sh", "-c", "cat > /tmp/copied; true"], b"copied").await.1);
    assert_eq!(cluster.exec(&pod, &["cat", "/tmp/copied"], b"").await.0, "copied");
    let mut forwarder = cluster.pods.portforward(&pod, &[8080]).await.expect("a forwarded port");
    let mut stream = forwarder.take_stream(8080).expect("its stream");
    assert_eq!(exchange(&mut stream).await.as_deref(), Some("one"));
    drop(stream);
    drop(forwarder);

    // A container that is killed comes back, a pod that is deleted is replaced.
    cluster.exec(&pod, &["kill", "-USR1", "1"], b"").await;
    until("the container is back", async || {
        let now = cluster.pods.get(&pod).await.expect("the pod");
        restarts(&now) == 1 && cluster.running().await.len() == 3
    })
    .await;
    cluster.pods.delete(&pod, &DeleteParams::default()).await.expect("the pod goes");
    until("the pod is replaced", async || {
        let running = cluster.running().await;
        running.len() == 3 && running.iter().all(|p| name(p) != pod)
    })
    .await;

    // A new image without a failed request, and back.
    let visitor = Visitor::start(address, 80);
    cluster.set_image(IMAGES[1].0).await;
    cluster.rolled_out(3).await;
    assert_eq!(get(address, 80).await.as_deref(), Some("two"));
    cluster.set_image(IMAGES[0].0).await;
    cluster.rolled_out(3).await;
    assert_eq!(get(address, 80).await.as_deref(), Some("one"));
    let (good, bad) = visitor.end().await;
    assert!(good > 100, "{good} answers are too few to say anything");
    assert_eq!(bad, 0, "requests failed during the rollout, {good} did not");

    cluster.scale(0).await;
    until("nothing answers", async || get(address, 80).await.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd"]
async fn node_a_deployment_lives_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("cluster");
    let before = Inventory::take();
    let mut host = Host::start(&data_dir, 1);
    let registry = registry_of(directory.path(), &host, &data_dir);
    let cluster = Cluster::of(&host, 1).await;
    cluster.apply(IMAGES[0].0).await;
    the_whole_job(&host, &cluster).await;
    cluster.delete_all().await;
    drop(registry);
    host.down();
    before.assert_restored(&host);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd"]
async fn node_a_deployment_lives_on_three_nodes_and_pods_of_a_dead_one_run_elsewhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("cluster");
    let before = Inventory::take();
    let mut host = Host::start(&data_dir, 3);
    let registry = registry_of(directory.path(), &host, &data_dir);
    let cluster = Cluster::of(&host, 3).await;
    cluster.apply(IMAGES[0].0).await;
    the_whole_job(&host, &cluster).await;
    cluster.scale(3).await;
    let node_of = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let nodes: BTreeSet<String> = cluster.running().await.iter().map(node_of).collect();
    assert_eq!(nodes.len(), 3, "the pods are spread over {nodes:?}");
    let spec = cluster.services.get("web").await.expect("the service").spec.expect("its spec");
    let address: IpAddr = spec.cluster_ip.as_deref().unwrap_or_default().parse().expect("a cluster IP");
    let answers = futures::stream::iter(0..30).then(|_| get(address, 80)).collect::<Vec<_>>().await;
    assert!(answers.iter().all(Option::is_some), "pods on all nodes answer: {answers:?}");

    // The node's whole cgroup is frozen: it says nothing any more, as a node without power.
    let frozen = host.freeze("node-3");
    until("the node is given up", async || !cluster.ready_nodes().await.contains("node-3")).await;
    until("its pods run elsewhere", async || {
        let running = cluster.running().await;
        running.len() == 3 && running.iter().all(|pod| node_of(pod) != "node-3")
    })
    .await;
    frozen.thaw();
    until("the node is back", async || cluster.ready_nodes().await.len() == 3).await;
    cluster.delete_all().await;
    drop(registry);
    host.down();
    before.assert_restored(&host);
}
