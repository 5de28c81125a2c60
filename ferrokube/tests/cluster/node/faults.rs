//! What goes wrong on a node, in one cluster one after another: bad pods show upstream's states, reasons and events; good ones go on
//! running whatever of the node or of the cluster is killed, and everything converges again.

use std::cell::Cell;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerState, ContainerStatus, Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use super::asking::{Cluster, get, name, object, restarts, until};
use super::host::{Host, Inventory};
use super::image;

const IMAGE: &str = "registry.test/test/web:1";
/// How long the API server is away: longer than a node may be silent before it counts as lost.
const ABSENCE: Duration = Duration::from_secs(60);
/// A disk for a cluster that is soon full.
const SMALL_DISK: &str = "800m";

/// A pod with one container `c`, with these fields beside its image.
fn pod(name: &str, container: Value, rest: Value) -> Pod {
    let mut of_container = json!({ "name": "c", "image": IMAGE });
    let mut spec = json!({ "terminationGracePeriodSeconds": 0, "restartPolicy": "Never" });
    for (into, from) in [(&mut of_container, container), (&mut spec, rest)] {
        for (key, value) in from.as_object().into_iter().flatten() {
            into[key] = value.clone();
        }
    }
    spec["containers"] = json!([of_container]);
    object(json!({ "metadata": { "name": name, "labels": { "app": name } }, "spec": spec }))
}

fn bad_pods() -> [Pod; 5] {
    let always = || json!({ "restartPolicy": "Always" });
    [
        pod("no-image", json!({ "image": "registry.invalid/none:1" }), always()),
        pod("no-command", json!({ "command": ["/no/such/command"] }), always()),
        pod(
            "no-life",
            json!({
                "command": ["sleep", "1000"],
                "livenessProbe": { "exec": { "command": ["sh", "-c", "echo too bad; false"] }, "periodSeconds": 1, "failureThreshold": 1 },
            }),
            always(),
        ),
        // Not at once: the runtime hears of what the kernel does to a container a moment after it has started it.
        pod(
            "no-memory",
            json!({ "command": ["sh", "-c", "sleep 1; exec tail /dev/zero"], "resources": { "limits": { "memory": "24Mi" } } }),
            json!({}),
        ),
        pod(
            "no-space",
            json!({
                "command": ["sh", "-c", "dd if=/dev/zero of=/small/file bs=1M count=8 && sleep 1000"],
                "volumeMounts": [{ "name": "small", "mountPath": "/small" }],
            }),
            json!({ "volumes": [{ "name": "small", "emptyDir": { "sizeLimit": "1Mi" } }] }),
        ),
    ]
}

fn status(pod: &Pod) -> Option<ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first().cloned()
}

fn waiting(state: Option<&ContainerState>) -> &str {
    state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref()).unwrap_or("")
}

/// Reason and exit code of a container that has ended.
fn ended(state: Option<&ContainerState>) -> Option<(String, i32)> {
    let ended = state?.terminated.as_ref()?;
    Some((ended.reason.clone().unwrap_or_default(), ended.exit_code))
}

struct Faults<'a> {
    cluster: &'a Cluster,
    events: Api<Event>,
}

impl Faults<'_> {
    async fn status(&self, pod: &str) -> Option<ContainerStatus> {
        status(&self.cluster.pods.get(pod).await.expect("the pod"))
    }

    /// Waits for an event about a pod with this reason and these words in its message.
    async fn told(&self, pod: &str, reason: &str, words: &str) {
        until(&format!("{pod} has an event {reason} that says {words:?}"), async || {
            let only = ListParams::default().fields(&format!("involvedObject.name={pod},reason={reason}"));
            let events = self.events.list(&only).await.expect("events").items;
            events.iter().any(|event| event.message.as_deref().unwrap_or_default().contains(words))
        })
        .await;
    }

    async fn bad_pods_say_why(&self) {
        for pod in bad_pods() {
            self.cluster.pods.create(&PostParams::default(), &pod).await.expect("a pod");
        }
        until("the image is not pulled", async || {
            self.status("no-image").await.is_some_and(|status| waiting(status.state.as_ref()) == "ImagePullBackOff")
        })
        .await;
        self.told("no-image", "Failed", "Failed to pull image \"registry.invalid/none:1\": ").await;
        self.told("no-image", "Failed", "Error: ErrImagePull").await;
        self.told("no-image", "BackOff", "Back-off pulling image \"registry.invalid/none:1\"").await;

        until("the command is not there", async || {
            let Some(status) = self.status("no-command").await else { return false };
            ended(status.last_state.as_ref()).or(ended(status.state.as_ref())) == Some(("StartError".to_owned(), 128))
        })
        .await;
        until("it is tried more and more seldom", async || {
            self.status("no-command").await.is_some_and(|status| waiting(status.state.as_ref()) == "CrashLoopBackOff")
        })
        .await;
        self.told("no-command", "Failed", "no such file or directory").await;
        self.told("no-command", "BackOff", "Back-off restarting failed container c in pod no-command").await;

        until("the container is restarted", async || {
            self.status("no-life").await.is_some_and(|status| status.restart_count > 0 && ended(status.last_state.as_ref()).is_some())
        })
        .await;
        self.told("no-life", "Unhealthy", "Liveness probe failed: too bad").await;
        self.told("no-life", "Killing", "Container c failed liveness probe, will be restarted").await;

        until("the memory was too little", async || {
            let status = self.status("no-memory").await;
            ended(status.as_ref().and_then(|status| status.state.as_ref())) == Some(("OOMKilled".to_owned(), 137))
        })
        .await;

        until("the pod is evicted", async || {
            let pod = self.cluster.pods.get("no-space").await.expect("the pod");
            let status = pod.status.unwrap_or_default();
            let why = (status.phase.as_deref(), status.reason.as_deref(), status.message.as_deref());
            why == (Some("Failed"), Some("Evicted"), Some("Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\". "))
        })
        .await;
        self.told("no-space", "Evicted", "Usage of EmptyDir volume").await;
        for pod in bad_pods() {
            self.cluster.pods.delete(name(&pod), &DeleteParams::default()).await.expect("the pod goes");
        }
    }
}

/// What must not change, whatever is killed: the containers, and that nobody restarted them.
async fn running(cluster: &Cluster) -> Vec<(String, Option<String>, i32)> {
    let mut pods = cluster.running().await;
    pods.sort_by(|a, b| name(a).cmp(name(b)));
    let container = |pod: &Pod| status(pod).and_then(|status| status.container_id);
    pods.iter().map(|pod| (name(pod).to_owned(), container(pod), restarts(pod))).collect()
}

async fn beat(cluster: &Cluster) -> String {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease = leases.get("node-1").await.expect("a lease");
    lease.spec.and_then(|spec| spec.renew_time).map(|time| time.0.to_string()).unwrap_or_default()
}

/// A cluster of one node that serves the deployment, and the address of its service. Files are made in `directory`.
async fn serving(directory: &Path, data_dir: &Path) -> (Host, Cluster, IpAddr) {
    image::put(&image::archive(directory, IMAGE, "one"), data_dir);
    let host = Host::start(data_dir, 1);
    let cluster = Cluster::of(&host, 1).await;
    cluster.apply(IMAGE).await;
    let spec = cluster.services.get("web").await.expect("the service").spec.expect("its spec");
    let address = spec.cluster_ip.as_deref().unwrap_or_default().parse().expect("a cluster IP");
    (host, cluster, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd"]
async fn node_faults_are_shown_and_overcome_and_leave_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("cluster");
    let before = Inventory::take();
    let (mut host, cluster, address) = serving(directory.path(), &data_dir).await;
    let untouched = running(&cluster).await;
    assert_eq!(untouched.len(), 3);

    let events: Api<Event> = Api::default_namespaced(cluster.client.clone());
    Faults { cluster: &cluster, events }.bad_pods_say_why().await;

    // The runtime, which the node starts again; its containers are not its children.
    // For a moment what it starts has its name; it is the oldest.
    let runtime = host.processes("node-1", "runtime", "containerd").into_iter().min().expect("a runtime");
    host.kill_process(runtime);
    until(
        "there is another runtime",
        async || matches!(host.processes("node-1", "runtime", "containerd")[..], [other] if other != runtime),
    )
    .await;
    assert_eq!(get(address, 80).await.as_deref(), Some("one"));
    let pod = &untouched[0].0;
    until("commands run in containers again", async || {
        // An exec fails as long as the runtime does not listen.
        cluster.try_exec(pod, &["echo", "here"]).await.as_deref() == Some("here\n")
    })
    .await;
    until("nobody has noticed", async || running(&cluster).await == untouched).await;

    // The node's process: kubelet and proxy.
    let [agent] = host.processes("node-1", "agent", "ferrokube")[..] else { panic!("one agent") };
    let last = beat(&cluster).await;
    host.kill_process(agent);
    assert_eq!(get(address, 80).await.as_deref(), Some("one"));
    until("the node is heard of again", async || beat(&cluster).await > last).await;
    until("nobody has noticed", async || running(&cluster).await == untouched).await;

    // The cluster's process, and with it API server, controllers and scheduler.
    let last = beat(&cluster).await;
    host.kill();
    let mut answers = Vec::new();
    for _ in 0..ABSENCE.as_secs() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        answers.push(get(address, 80).await);
    }
    assert!(answers.iter().all(|answer| answer.as_deref() == Some("one")), "pods serve without anybody to watch them: {answers:?}");
    host.start_again();
    let cluster = Cluster::of(&host, 1).await;
    until("the node is heard of again", async || beat(&cluster).await > last).await;
    until("nobody has noticed", async || running(&cluster).await == untouched).await;
    cluster.pods.delete(&untouched[0].0, &DeleteParams::default()).await.expect("the pod goes");
    until("the pod is replaced", async || {
        let now = running(&cluster).await;
        now.len() == 3 && !now.contains(&untouched[0])
    })
    .await;

    // Cluster DNS is part of the cluster's process.
    let (pod, ..) = running(&cluster).await.remove(0);
    until("names are known again", async || {
        let told = cluster.try_exec(&pod, &["nslookup", "web.default.svc.cluster.local"]).await;
        told.is_some_and(|told| told.contains(&address.to_string()))
    })
    .await;

    cluster.delete_all().await;
    host.down();
    before.assert_restored(&host);
}

/// A small disk of its own for a folder, until it is dropped.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    fn at(folder: &Path) -> SmallDisk<'_> {
        std::fs::create_dir_all(folder).expect("a folder");
        let size = format!("size={SMALL_DISK}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "small"]).arg(folder).status().expect("mount is there");
        assert!(mount.success(), "no disk");
        SmallDisk(folder)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // A test that failed says so itself.
        let _ = Command::new("umount").arg(self.0).status();
    }
}

async fn has_disk_pressure(cluster: &Cluster) -> bool {
    let node = cluster.nodes.get("node-1").await.expect("the node");
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    conditions.iter().any(|condition| {
        (&*condition.type_, &*condition.status, condition.reason.as_deref()) == ("DiskPressure", "True", Some("KubeletHasDiskPressure"))
    }) && taints.iter().any(|taint| (&*taint.key, &*taint.effect) == ("node.kubernetes.io/disk-pressure", "NoSchedule"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and containerd"]
async fn a_pod_that_fills_the_disk_goes_and_everything_else_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("cluster");
    let _disk = SmallDisk::at(&data_dir);
    let before = Inventory::take();
    let (mut host, cluster, address) = serving(directory.path(), &data_dir).await;
    let untouched = running(&cluster).await;

    let hog = pod(
        "hog",
        json!({
            "command": ["sh", "-c", "dd if=/dev/zero of=/data/file bs=1M; exec sleep 1000"],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        }),
        json!({ "volumes": [{ "name": "data", "emptyDir": {} }] }),
    );
    cluster.pods.create(&PostParams::default(), &hog).await.expect("a pod");
    // The cluster's own store lies on that disk. It does not let it come to the last byte, and serves what it has.
    let note = |n: usize| object::<ConfigMap>(json!({ "metadata": { "name": format!("note-{n}") } }));
    let written = Cell::new(0);
    until("the store has no room", async || match cluster.config_maps.create(&PostParams::default(), &note(written.get())).await {
        Ok(_) => {
            written.set(written.get() + 1);
            false
        }
        Err(kube::Error::Api(refused)) => {
            assert_eq!((refused.code, &*refused.message), (500, "etcdserver: mvcc: database space exceeded"));
            true
        }
        Err(other) => panic!("{other}"),
    })
    .await;
    assert_eq!(get(address, 80).await.as_deref(), Some("one"));
    assert!(cluster.pods.get_opt("hog").await.expect("an answer").is_some());

    until("the pod is evicted", async || {
        let status = cluster.pods.get("hog").await.expect("the pod").status.unwrap_or_default();
        let message = status.message.unwrap_or_default();
        (status.phase.as_deref(), status.reason.as_deref()) == (Some("Failed"), Some("Evicted"))
            && message.starts_with("The node was low on resource: ephemeral-storage. ")
    })
    .await;
    until("the node says so", async || has_disk_pressure(&cluster).await).await;
    until("nobody else has noticed", async || running(&cluster).await == untouched).await;
    cluster.config_maps.create(&PostParams::default(), &note(written.get())).await.expect("there is room again");
    for n in 0..=written.get() {
        cluster.config_maps.get(&format!("note-{n}")).await.expect("what was acknowledged is there");
    }
    cluster.pods.delete("hog", &DeleteParams::default()).await.expect("the pod goes");

    cluster.delete_all().await;
    host.down();
    before.assert_restored(&host);
}
