//! A plugin of a few lines, over real sockets: it registers itself, gives devices, fails, comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::Shutdown;
use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use prost::Message;
use serde_json::json;
use tokio::sync::watch;
use tonic::Status;

use super::messages::{
    AllocateRequest, AllocateResponse, CdiDevice, ContainerAllocateResponse, ContainerPreferredAllocationResponse, Device, DeviceSpec,
    Empty, HEALTHY, ListAndWatchResponse, Mount, NumaNode, Options, PreStartContainerRequest, PreferredAllocationRequest,
    PreferredAllocationResponse, RegisterRequest, Topology, VERSION,
};
use crate::config::Config;
use crate::container_manager::ContainerManager;
use crate::cpus::machine::Cpus;
use crate::devices::Instance;
use crate::grpc::server::{self, Answer, Service};
use crate::grpc::{Socket, told};
use crate::pod_resources::messages::{AllocatableResources, Empty as Nothing, GetPodResources, GetPodResourcesRequest, ListPodResources};

const R: &str = "example.com/r";

/// What the plugin was asked.
type Log = Arc<Mutex<Vec<String>>>;

struct Plugin {
    options: Options,
    devices: watch::Receiver<Vec<Device>>,
    log: Log,
}

impl Service for Plugin {
    fn call(self: Arc<Self>, path: String, request: Bytes) -> BoxFuture<'static, Answer> {
        Box::pin(async move {
            let say = |line: String| self.log.lock().push(line);
            match path.strip_prefix("/v1beta1.DevicePlugin/").unwrap_or("") {
                "GetDevicePluginOptions" => server::one(&self.options),
                "ListAndWatch" => {
                    let lists = futures::stream::unfold((self.devices.clone(), true), |(mut devices, first)| async move {
                        if !first {
                            devices.changed().await.ok()?;
                        }
                        let list = ListAndWatchResponse { devices: devices.borrow_and_update().clone() };
                        Some((Ok(list.encode_to_vec()), (devices, false)))
                    });
                    Ok(lists.boxed())
                }
                "GetPreferredAllocation" => {
                    let request: PreferredAllocationRequest = server::read(request)?;
                    let wanted = &request.container_requests[0];
                    say(format!("prefer {} of {}", wanted.allocation_size, wanted.available_device_ids.join(",")));
                    let last = wanted.available_device_ids.iter().rev().take(1).cloned().collect();
                    let response = ContainerPreferredAllocationResponse { device_ids: last };
                    server::one(&PreferredAllocationResponse { container_responses: vec![response] })
                }
                "Allocate" => {
                    let request: AllocateRequest = server::read(request)?;
                    let ids = request.container_requests[0].devices_ids.clone();
                    say(format!("allocate {}", ids.join(",")));
                    if ids.iter().any(|id| id == "bad") {
                        return Err(Status::unknown("this one is bad"));
                    }
                    let response = ContainerAllocateResponse {
                        envs: [("IDS".to_owned(), ids.join(","))].into(),
                        mounts: vec![Mount { container_path: "/lib/r".to_owned(), host_path: "/opt/r".to_owned(), read_only: true }],
                        devices: ids
                            .iter()
                            .map(|id| DeviceSpec {
                                container_path: format!("/dev/r{id}"),
                                host_path: format!("/dev/host{id}"),
                                permissions: "rw".to_owned(),
                            })
                            .collect(),
                        annotations: [("r".to_owned(), "yes".to_owned())].into(),
                        cdi_devices: ids.iter().map(|id| CdiDevice { name: format!("example.com/r={id}") }).collect(),
                    };
                    server::one(&AllocateResponse { container_responses: vec![response] })
                }
                "PreStartContainer" => {
                    let request: PreStartContainerRequest = server::read(request)?;
                    say(format!("start {}", request.devices_ids.join(",")));
                    server::one(&Empty {})
                }
                _ => server::unknown(&path),
            }
        })
    }
}

/// A plugin that runs until it is dropped.
struct Running {
    devices: watch::Sender<Vec<Device>>,
    log: Log,
    shutdown: Shutdown,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn device(id: &str, health: &str, node: Option<i64>) -> Device {
    let topology = node.map(|id| Topology { nodes: vec![NumaNode { id }] });
    Device { id: id.to_owned(), health: health.to_owned(), topology }
}

fn healthy(ids: &[&str]) -> Vec<Device> {
    ids.iter().map(|id| device(id, HEALTHY, None)).collect()
}

fn plugin(path: &Path, options: Options, devices: Vec<Device>) -> Running {
    let (sender, receiver) = watch::channel(devices);
    let (log, shutdown) = (Log::default(), Shutdown::new());
    let service = Arc::new(Plugin { options, devices: receiver, log: log.clone() });
    tokio::spawn(server::serve(server::listen(path).expect("it can be bound"), service, shutdown.clone()));
    Running { devices: sender, log, shutdown }
}

async fn register(root: &Path, endpoint: &str, resource: &str, version: &str) -> Result<(), String> {
    let request =
        RegisterRequest { version: version.to_owned(), endpoint: endpoint.to_owned(), resource_name: resource.to_owned(), options: None };
    let kubelet = Socket::at(&root.join("device-plugins/kubelet.sock"));
    kubelet.call("/v1beta1.Registration/Register", request, None).await.map(|_: Empty| ()).map_err(|status| told(&status))
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time: {what}");
}

fn pod(uid: &str, counts: &[i64]) -> Pod {
    let containers: Vec<_> = counts
        .iter()
        .enumerate()
        .map(|(index, count)| json!({"name": format!("c{index}"), "resources": {"limits": {R: count.to_string()}}}))
        .collect();
    serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "n", "uid": uid}, "spec": {"containers": containers}}))
        .expect("it is a pod")
}

/// A kubelet's manager with the pods that are active on it.
struct Kubelet {
    manager: Arc<ContainerManager>,
    active: Arc<Mutex<BTreeSet<String>>>,
    shutdown: Shutdown,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn kubelet(root: &Path) -> Kubelet {
    let shutdown = Shutdown::new();
    let config = Config { root_dir: root.to_owned(), ..Config::new("node") };
    let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Ok::<_, std::convert::Infallible>(http::Response::builder().status(404).body(axum::body::Body::empty()).expect("it is well formed"))
    });
    let manager = Arc::new(ContainerManager::new(&config, kube::Client::new(nobody, "n"), &shutdown));
    let started = manager.start(&config, Cpus::default(), &BTreeMap::new(), BTreeSet::new()).await;
    started.expect("nothing is configured");
    let active: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let told = active.clone();
    manager.set_active_pods(Arc::new(move || Some(told.lock().clone())));
    Kubelet { manager, active, shutdown }
}

impl Kubelet {
    async fn admit(&self, pod: &Pod) -> Result<(), String> {
        let uid = pod.metadata.uid.clone().expect("it has one");
        let admitted = self.manager.admit(pod).await.map_err(|rejection| format!("{}: {}", rejection.reason, rejection.message));
        if admitted.is_ok() {
            self.active.lock().insert(uid);
        }
        admitted
    }

    async fn has(&self, amounts: (usize, usize)) {
        eventually(&format!("{amounts:?}"), async || self.manager.devices.amounts().await.by_resource.get(R) == Some(&amounts)).await;
    }
}

fn sockets(root: &Path) -> PathBuf {
    root.join("device-plugins/r.sock")
}

#[tokio::test]
async fn a_plugin_gives_devices_and_the_pods_end_gives_them_back() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let root = root.path();
    let kubelet = kubelet(root).await;
    assert!(kubelet.manager.devices.amounts().await.reset);
    let options = Options { pre_start_required: true, get_preferred_allocation_available: true };
    let plugin = plugin(&sockets(root), options, healthy(&["1", "2", "3"]));
    assert_eq!(
        register(root, "r.sock", R, "v0").await,
        Err(
            "rpc error: code = Unknown desc = requested API version \"v0\" is not supported by kubelet. Supported version is [\"v1beta1\"]"
                .to_owned()
        )
    );
    assert!(!kubelet.manager.concerns(&pod("p", &[1])));
    register(root, "r.sock", R, VERSION).await.expect("it is as it shall be");
    kubelet.has((3, 3)).await;

    let first = pod("p", &[1, 1]);
    assert!(kubelet.manager.concerns(&first));
    kubelet.admit(&first).await.expect("there are devices");
    assert_eq!(std::mem::take(&mut *plugin.log.lock()), ["prefer 1 of 1,2,3", "allocate 3", "prefer 1 of 1,2", "allocate 2"]);
    assert_eq!(
        kubelet.admit(&pod("q", &[2])).await,
        Err("UnexpectedAdmissionError: Allocate failed due to requested number of devices unavailable for example.com/r. Requested: 2, Available: 1, which is unexpected".to_owned())
    );
    let container = &first.spec.as_ref().expect("it has a spec").containers[0];
    let granted = kubelet.manager.grant(&first, container).await.expect("it has its device");
    assert_eq!(plugin.log.lock().last().map(String::as_str), Some("start 3"));
    assert_eq!(granted.envs, [("IDS".to_owned(), "3".to_owned())]);
    assert_eq!((granted.devices[0].host_path.as_str(), granted.devices[0].container_path.as_str()), ("/dev/host3", "/dev/r3"));
    assert_eq!((granted.mounts[0].host_path.as_str(), granted.cdi_devices[0].as_str()), ("/opt/r", "example.com/r=3"));
    assert_eq!(granted.annotations, [("r".to_owned(), "yes".to_owned())]);

    // The node has what it has given away, even if nobody tells.
    let node =
        serde_json::from_value(json!({"metadata": {"name": "node"}, "status": {"allocatable": {"pods": "10"}}})).expect("it is a node");
    let allocatable = kubelet.manager.node_for("p", &node).into_owned().status.and_then(|status| status.allocatable).expect("it is there");
    assert_eq!(allocatable[R].0, "2");

    kubelet.active.lock().remove("p");
    kubelet.admit(&pod("q", &[3])).await.expect("the devices are free again");
    let page = kubelet.manager.metrics.render();
    for line in [
        "kubelet_device_plugin_registration_total{resource_name=\"example.com/r\"} 1",
        "kubelet_device_plugin_alloc_duration_seconds_count{resource_name=\"example.com/r\"} 3",
        "kubelet_topology_manager_admission_errors_total 1",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn what_a_plugin_tells_of_health_is_told_of_pods() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let root = root.path();
    let kubelet = kubelet(root).await;
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = told.clone();
    kubelet.manager.on_change(Arc::new(move |uid| heard.lock().push(uid.to_owned())));
    let plugin = plugin(&sockets(root), Options::default(), healthy(&["1", "2", "bad"]));
    register(root, "r.sock", R, VERSION).await.expect("it is as it shall be");
    kubelet.has((3, 3)).await;
    let first = pod("p", &[1]);
    kubelet.admit(&first).await.expect("there are devices");
    assert_eq!(
        kubelet.admit(&pod("q", &[2])).await,
        Err("UnexpectedAdmissionError: Allocate failed due to rpc error: code = Unknown desc = this one is bad, which is unexpected"
            .to_owned())
    );

    let status = || {
        let mut status: PodStatus = serde_json::from_value(json!({"containerStatuses": [
            {"name": "c0", "image": "", "imageID": "", "ready": true, "restartCount": 0}]}))
        .expect("it is a status");
        kubelet.manager.add_to_status(&first, &mut status);
        serde_json::to_value(&status.container_statuses.expect("it is there")[0].allocated_resources_status).expect("it is well formed")
    };
    assert_eq!(status(), json!([{"name": R, "resources": [{"resourceID": "1", "health": "Healthy"}]}]));
    plugin.devices.send_replace(vec![device("1", "Unhealthy", None), device("2", HEALTHY, None)]);
    kubelet.has((2, 1)).await;
    eventually("the pod is told", async || *told.lock() == ["p"]).await;
    assert_eq!(status(), json!([{"name": R, "resources": [{"resourceID": "1", "health": "Unhealthy"}]}]));
    // A container that starts again does so with what it has; the pod would not be let in again.
    assert!(
        kubelet
            .manager
            .admit(&first)
            .await
            .expect_err("its device is broken")
            .message
            .contains("previously allocated devices are no longer healthy")
    );
    let container = &first.spec.as_ref().expect("it has a spec").containers[0];
    assert_eq!(kubelet.manager.grant(&first, container).await.expect("it has its device").envs, [("IDS".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn plugins_and_kubelets_come_back() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let root = root.path();
    let first = pod("p", &[2]);
    {
        let kubelet = kubelet(root).await;
        let running = plugin(&sockets(root), Options::default(), healthy(&["1", "2", "3"]));
        register(root, "r.sock", R, VERSION).await.expect("it is as it shall be");
        kubelet.has((3, 3)).await;
        kubelet.admit(&first).await.expect("there are devices");
        drop(running);
        // Its devices are there for a while, but cannot be used.
        kubelet.has((3, 0)).await;
        assert!(
            kubelet.manager.admit(&pod("q", &[1])).await.expect_err("the plugin is away").message.contains("no healthy devices present")
        );
        let running = plugin(&sockets(root), Options::default(), healthy(&["1", "2", "3", "4"]));
        register(root, "r.sock", R, VERSION).await.expect("it is back");
        kubelet.has((4, 4)).await;
        // A second one takes over before the first one ends.
        let second = plugin(&root.join("device-plugins/second.sock"), Options::default(), healthy(&["1", "2", "3", "4", "5"]));
        register(root, "second.sock", R, VERSION).await.expect("there may be two");
        kubelet.has((5, 5)).await;
        drop(running);
        tokio::time::sleep(Duration::from_millis(50)).await;
        kubelet.has((5, 5)).await;
        drop(second);
        kubelet.has((5, 0)).await;
    }
    std::fs::write(root.join("device-plugins/other"), "").expect("it can be written");
    let kubelet = kubelet(root).await;
    let mut names: Vec<String> = std::fs::read_dir(root.join("device-plugins"))
        .expect("it is there")
        .map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["kubelet.sock", "kubelet_internal_checkpoint", "other"]);
    assert!(!kubelet.manager.devices.amounts().await.reset);
    kubelet.has((0, 0)).await;
    // What runs has what it needs, though the plugin is not back yet.
    let container = &first.spec.as_ref().expect("it has a spec").containers[0];
    assert_eq!(kubelet.manager.grant(&first, container).await.expect("it is remembered").envs, [("IDS".to_owned(), "1,2".to_owned())]);
    kubelet.active.lock().insert("p".to_owned());
    let _running = plugin(&sockets(root), Options::default(), healthy(&["1", "2", "3"]));
    register(root, "r.sock", R, VERSION).await.expect("it is back");
    kubelet.has((3, 3)).await;
    kubelet.admit(&first).await.expect("it has its devices");
    assert!(kubelet.admit(&pod("q", &[2])).await.is_err());
    kubelet.admit(&pod("r", &[1])).await.expect("one is left");
}

#[tokio::test]
async fn agents_ask_who_has_what() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let root = root.path();
    let kubelet = kubelet(root).await;
    let devices = vec![device("1", HEALTHY, Some(0)), device("2", HEALTHY, None), device("3", "Unhealthy", None)];
    let _running = plugin(&sockets(root), Options::default(), devices);
    register(root, "r.sock", R, VERSION).await.expect("it is as it shall be");
    kubelet.has((3, 2)).await;
    let first = Arc::new(pod("p", &[1]));
    kubelet.admit(&first).await.expect("there are devices");
    let pods = vec![first.clone()];
    let (place, manager, ended) = (root.to_owned(), kubelet.manager.clone(), kubelet.shutdown.clone());
    tokio::spawn(async move {
        let served = crate::pod_resources::serve(&place, manager, Arc::new(move || pods.clone()), ended).await;
        served.expect("it can listen");
    });
    let path = root.join("pod-resources/kubelet.sock");
    eventually("it listens", async || path.exists()).await;
    let socket = Socket::at(&path);
    let list: ListPodResources = socket.call("/v1.PodResourcesLister/List", Nothing {}, None).await.expect("it answers");
    let told = &list.pod_resources[0];
    assert_eq!((told.name.as_str(), told.namespace.as_str(), told.containers[0].name.as_str()), ("p", "n", "c0"));
    let device = &told.containers[0].devices[0];
    assert_eq!((device.resource_name.as_str(), device.device_ids.as_slice()), (R, ["1".to_owned()].as_slice()));
    assert_eq!(device.topology.as_ref().expect("it has one").nodes[0].id, 0);
    let all: AllocatableResources =
        socket.call("/v1.PodResourcesLister/GetAllocatableResources", Nothing {}, None).await.expect("it answers");
    assert_eq!(all.devices.iter().map(|device| device.device_ids[0].as_str()).collect::<Vec<_>>(), ["1", "2"]);
    let request = |name: &str| GetPodResourcesRequest { pod_name: name.to_owned(), pod_namespace: "n".to_owned() };
    let one: GetPodResources = socket.call("/v1.PodResourcesLister/Get", request("p"), None).await.expect("it answers");
    assert_eq!(one.pod_resources.as_ref(), Some(told));
    let missing = socket.call::<_, GetPodResources>("/v1.PodResourcesLister/Get", request("x"), None).await.expect_err("there is none");
    assert_eq!(told_of(&missing), "rpc error: code = Unknown desc = pod x in namespace n not found");
    assert!(kubelet.manager.metrics.render().contains("kubelet_pod_resources_endpoint_errors_get{server_api_version=\"v1\"} 1"));
    let instance = Instance { resource: R.to_owned(), id: "1".to_owned(), numa_node: Some(0) };
    assert_eq!(kubelet.manager.devices.of_container("p", "c0"), [instance]);
}

fn told_of(status: &Status) -> String {
    told(status)
}
