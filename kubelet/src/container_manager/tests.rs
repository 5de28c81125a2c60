//! CPUs, memory and NUMA nodes together, on a machine that a tree of files describes, across restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use apimachinery::quantity::Quantity as Amount;
use client::Shutdown;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::json;

use super::ContainerManager;
use crate::config::Config;
use crate::configuration::KubeletConfiguration;
use crate::container_config::labels;
use crate::cpus::machine::Cpus;
use crate::cri::fake::Fake;
use crate::cri::{ContainerExtension, Runtime, v1};
use crate::grpc::Socket;
use crate::pod;
use crate::pod_resources::messages::{AllocatableResources, Empty, ListPodResources};

/// Two sockets, each a node with two cores of two threads and 8 GiB.
fn write_machine(sys: &Path) {
    let put = |path: String, text: String| {
        let path = sys.join("devices/system").join(path);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
        std::fs::write(path, text).expect("it can be written");
    };
    for cpu in 0..8 {
        let core = cpu % 4;
        put(format!("cpu/cpu{cpu}/topology/thread_siblings_list"), format!("{core},{}\n", core + 4));
        put(format!("cpu/cpu{cpu}/topology/physical_package_id"), format!("{}\n", core / 2));
    }
    for (node, list) in ["0-1,4-5", "2-3,6-7"].iter().enumerate() {
        put(format!("node/node{node}/cpulist"), (*list).to_owned());
        put(format!("node/node{node}/distance"), "10 21\n".to_owned());
        put(format!("node/node{node}/meminfo"), format!("Node {node} MemTotal:       8388608 kB\n"));
    }
}

struct Kubelet {
    manager: Arc<ContainerManager>,
    active: Arc<Mutex<BTreeSet<String>>>,
}

async fn start(root: &Path, settings: &str, active: &[&str]) -> Result<Kubelet, String> {
    let sys = root.join("sys");
    write_machine(&sys);
    let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    let configuration = KubeletConfiguration::parse(&format!("{head}{settings}")).expect("it is well formed");
    let config = Config { root_dir: root.to_owned(), configuration, ..Config::new("node") };
    let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        let answer = http::Response::builder().status(404).body(axum::body::Body::empty());
        Ok::<_, std::convert::Infallible>(answer.expect("it is well formed"))
    });
    let manager = Arc::new(ContainerManager::new(&config, kube::Client::new(nobody, "n"), &Shutdown::new()));
    let amount = |text: &str| Amount::parse(text).expect("it is a quantity");
    let reserved = BTreeMap::from([("cpu".to_owned(), amount("500m")), ("memory".to_owned(), amount("1Gi"))]);
    manager.start(&config, Cpus::discover(&sys, 0), &reserved, BTreeSet::new()).await?;
    let active: Arc<Mutex<BTreeSet<String>>> = Arc::new(Mutex::new(active.iter().map(|uid| (*uid).to_owned()).collect()));
    let told = active.clone();
    manager.set_active_pods(Arc::new(move || Some(told.lock().clone())));
    Ok(Kubelet { manager, active })
}

impl Kubelet {
    async fn admit(&self, pod: &Pod) -> Result<(), String> {
        let admitted = self.manager.admit(pod).await.map_err(|rejection| format!("{}: {}", rejection.reason, rejection.message));
        if admitted.is_ok() {
            self.active.lock().insert(pod.metadata.uid.clone().expect("it has one"));
        }
        admitted
    }

    /// What a container is held to: CPUs and nodes.
    async fn held(&self, pod: &Pod, index: usize) -> (String, String) {
        let granted = self.manager.grant(pod, &pod::containers(pod)[index]).await.expect("it is let in");
        (granted.cpus, granted.memory_nodes)
    }
}

fn guaranteed(uid: &str, containers: &[(&str, &str)]) -> Pod {
    let one = |(index, (cpu, memory)): (usize, &(&str, &str))| {
        let all = json!({"cpu": cpu, "memory": memory});
        json!({"name": format!("c{index}"), "resources": {"requests": all, "limits": all}})
    };
    let containers: Vec<serde_json::Value> = containers.iter().enumerate().map(one).collect();
    serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "n", "uid": uid}, "spec": {"containers": containers}}))
        .expect("it is a pod")
}

const ALIGNED: &str = "cpuManagerPolicy: static\nmemoryManagerPolicy: Static\ntopologyManagerPolicy: single-numa-node\n\
                       reservedMemory: [{numaNode: 0, limits: {memory: 1Gi}}]\n";

#[tokio::test]
async fn cpus_and_memory_come_from_one_node_or_not_at_all() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let root = root.path();
    let kubelet = start(root, ALIGNED, &[]).await.expect("it fits");
    let shared = guaranteed("s", &[("500m", "1Gi")]);
    let (first, second) = (guaranteed("a", &[("2", "7500Mi")]), guaranteed("b", &[("2", "1Gi")]));
    assert!(kubelet.manager.concerns(&first));
    // Only the second node has so much memory.
    kubelet.admit(&first).await.expect("there is a node for it");
    assert_eq!(kubelet.held(&first, 0).await, ("2,6".to_owned(), "1".to_owned()));
    kubelet.admit(&second).await.expect("there is a node for it");
    assert_eq!(kubelet.held(&second, 0).await, ("1,5".to_owned(), "0".to_owned()));
    assert_eq!(
        kubelet.admit(&guaranteed("c", &[("3", "1Gi")])).await,
        Err("TopologyAffinityError: Resources cannot be allocated with Topology locality".to_owned())
    );
    kubelet.admit(&shared).await.expect("it shares CPUs");
    assert_eq!(kubelet.held(&shared, 0).await, ("0,3-4,7".to_owned(), "0".to_owned()));
    let granted = kubelet.manager.grant(&first, &pod::containers(&first)[0]).await.expect("it is let in");
    assert!(granted.no_cpu_quota && kubelet.manager.has_exclusive_cpus(&first) && !kubelet.manager.has_exclusive_cpus(&shared));
    let page = kubelet.manager.metrics.render();
    for line in [
        "kubelet_cpu_manager_exclusive_cpu_allocation_count 4",
        "kubelet_cpu_manager_shared_pool_size_millicores 3000",
        "kubelet_cpu_manager_allocation_per_numa{numa_node=\"1\"} 2",
        "kubelet_cpu_manager_pinning_requests_total 2",
        "kubelet_memory_manager_pinning_requests_total 3",
        "kubelet_container_aligned_compute_resources_failure_count{scope=\"container\",boundary=\"numa_node\"} 1",
        "kubelet_topology_manager_admission_errors_total 1",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }

    // Agents are told.
    let shutdown = Shutdown::new();
    let pods = vec![Arc::new(first.clone())];
    let (place, manager, ended) = (root.to_owned(), kubelet.manager.clone(), shutdown.clone());
    let serving = tokio::spawn(async move { crate::pod_resources::serve(&place, manager, Arc::new(move || pods.clone()), ended).await });
    let socket = Socket::at(&root.join("pod-resources/kubelet.sock"));
    while !root.join("pod-resources/kubelet.sock").exists() {
        tokio::task::yield_now().await;
    }
    let list: ListPodResources = socket.call("/v1.PodResourcesLister/List", Empty {}, None).await.expect("it answers");
    let told = &list.pod_resources[0].containers[0];
    assert_eq!((told.cpu_ids.as_slice(), told.memory[0].size), ([2, 6].as_slice(), 7500 << 20));
    let all: AllocatableResources =
        socket.call("/v1.PodResourcesLister/GetAllocatableResources", Empty {}, None).await.expect("it answers");
    assert_eq!(all.cpu_ids, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(all.memory.iter().map(|memory| memory.size).collect::<Vec<_>>(), [7 << 30, 8 << 30]);
    shutdown.cancel();
    serving.await.expect("it does not panic").expect("it ends well");

    // The next kubelet knows all of it, and takes back what is over.
    drop(kubelet);
    let kubelet = start(root, ALIGNED, &["a", "b", "s"]).await.expect("it fits");
    assert_eq!(kubelet.held(&first, 0).await, ("2,6".to_owned(), "1".to_owned()));
    kubelet.admit(&first).await.expect("it has it");
    kubelet.active.lock().remove("a");
    kubelet.admit(&guaranteed("d", &[("4", "6Gi")])).await.expect("a whole node is free again");
    // Another policy does not take it up.
    let refused = start(root, "", &[]).await.err().expect("it is another policy's");
    assert!(
        refused.starts_with("start cpu manager error: could not restore state from checkpoint: configured policy \"none\" differs"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_pod_as_a_whole_comes_from_one_node_if_so_configured() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let settings = format!("{ALIGNED}topologyManagerScope: pod\ncpuManagerPolicyOptions: {{full-pcpus-only: \"true\"}}\n");
    let kubelet = start(root.path(), &settings, &[]).await.expect("it fits");
    let pair = guaranteed("a", &[("2", "1Gi"), ("2", "1Gi")]);
    kubelet.admit(&pair).await.expect("there is a node for both");
    assert_eq!((kubelet.held(&pair, 0).await.0, kubelet.held(&pair, 1).await.0), ("2,6".to_owned(), "3,7".to_owned()));
    let refused = kubelet.admit(&guaranteed("b", &[("1", "1Gi")])).await.expect_err("half a core is not to be had");
    assert_eq!(refused, "SMTAlignmentError: SMT Alignment Error: requested 1 cpus not multiple cpus per core = 2");
}

#[tokio::test]
async fn containers_that_run_are_held_to_what_is_left() {
    let root = tempfile::tempdir().expect("there is a directory for temporary files");
    let kubelet = start(root.path(), "cpuManagerPolicy: static\n", &["s"]).await.expect("it fits");
    let runtime = Fake::default();
    let sandbox = runtime.run_pod_sandbox(v1::PodSandboxConfig::default(), String::new()).await.expect("it runs");
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "c0".to_owned(), attempt: 0 }),
        labels: [(labels::POD_UID.to_owned(), "s".to_owned())].into(),
        ..Default::default()
    };
    let id = runtime
        .create_container(sandbox, config, v1::PodSandboxConfig::default(), ContainerExtension::default())
        .await
        .expect("it can be made");
    runtime.start_container(id.clone()).await.expect("it starts");
    let held = async || {
        let status = runtime.container_status(id.clone(), false).await.expect("it is there").status.expect("it is told");
        status.resources.and_then(|resources| resources.linux).map(|linux| linux.cpuset_cpus).unwrap_or_default()
    };
    kubelet.manager.hold(&runtime).await;
    assert_eq!(held().await, "0-7");
    kubelet.admit(&guaranteed("a", &[("4", "1Gi")])).await.expect("there are enough");
    kubelet.manager.hold(&runtime).await;
    assert_eq!(held().await, "0-1,4-5");
    kubelet.active.lock().remove("a");
    kubelet.manager.release().await;
    kubelet.manager.hold(&runtime).await;
    assert_eq!(held().await, "0-7");
}
