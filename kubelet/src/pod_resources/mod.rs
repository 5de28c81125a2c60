//! `<root dir>/pod-resources/kubelet.sock`: monitoring agents ask there which pods have which devices, CPUs and memory.
//!
//! Reads alone. Upstream: pkg/kubelet/apis/podresources.

pub mod messages;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use client::{Object, Shutdown};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tonic::Status;

use crate::container_manager::ContainerManager;
use crate::devices::Instance;
use crate::grpc::server::{self, Answer, Service};
use crate::memory::policy::Block;
use crate::metrics::{Family, Kind};
use crate::pod;
use messages::{
    AllocatableResources, ContainerDevices, ContainerMemory, ContainerResources, GetPodResources, GetPodResourcesRequest, ListPodResources,
    NumaNode, PodResources, Topology,
};

/// Requests a second, and at once, as upstream.
const REQUESTS_PER_SECOND: f64 = 100.0;
const BURST: f64 = 10.0;

macro_rules! counter {
    ($name:ident, $text:literal, $help:literal) => {
        static $name: Family = Family { name: $text, kind: Kind::Counter, help: $help, labels: &["server_api_version"] };
    };
}

counter!(
    REQUESTS,
    "kubelet_pod_resources_endpoint_requests_total",
    "Cumulative number of requests to the PodResource endpoint. Broken down by server api version."
);
counter!(
    LISTS,
    "kubelet_pod_resources_endpoint_requests_list",
    "Number of requests to the PodResource List endpoint. Broken down by server api version."
);
counter!(
    ALLOCATABLES,
    "kubelet_pod_resources_endpoint_requests_get_allocatable",
    "Number of requests to the PodResource GetAllocatableResources endpoint. Broken down by server api version."
);
counter!(
    GETS,
    "kubelet_pod_resources_endpoint_requests_get",
    "Number of requests to the PodResource Get endpoint. Broken down by server api version."
);
counter!(
    FAILED_GETS,
    "kubelet_pod_resources_endpoint_errors_get",
    "Number of requests to the PodResource Get endpoint which returned error. Broken down by server api version."
);

/// The pods that hold something of the node.
pub type ListPods = Arc<dyn Fn() -> Vec<Arc<Pod>> + Send + Sync>;

struct Endpoint {
    manager: Arc<ContainerManager>,
    pods: ListPods,
    bucket: Mutex<Bucket>,
}

/// Serves until shutdown.
pub async fn serve(root_dir: &Path, manager: Arc<ContainerManager>, pods: ListPods, shutdown: Shutdown) -> std::io::Result<()> {
    let directory = root_dir.join("pod-resources");
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&directory)?;
    let listener = server::listen(&directory.join("kubelet.sock"))?;
    let endpoint = Endpoint { manager, pods, bucket: Mutex::new(Bucket { tokens: BURST, at: Instant::now() }) };
    server::serve(listener, Arc::new(endpoint), shutdown).await;
    Ok(())
}

/// Tokens for requests, which come back with time.
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Whether a request may pass now.
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * REQUESTS_PER_SECOND;
        self.tokens = (self.tokens + gained).min(BURST);
        self.at = now;
        let passes = self.tokens >= 1.0;
        if passes {
            self.tokens -= 1.0;
        }
        passes
    }
}

impl Service for Endpoint {
    fn call(self: Arc<Self>, path: String, request: Bytes) -> BoxFuture<'static, Answer> {
        Box::pin(async move {
            if !self.bucket.lock().take(Instant::now()) {
                return Err(Status::resource_exhausted("rejected by rate limit"));
            }
            let method = path.strip_prefix("/v1.PodResourcesLister/").unwrap_or("");
            let metrics = &self.manager.metrics;
            let requested = match method {
                "List" => &LISTS,
                "GetAllocatableResources" => &ALLOCATABLES,
                "Get" => &GETS,
                _ => return server::unknown(&path),
            };
            metrics.count(&REQUESTS, &["v1"]);
            metrics.count(requested, &["v1"]);
            match method {
                "List" => server::one(&self.list().await),
                "GetAllocatableResources" => server::one(&self.allocatable()),
                _ => {
                    let GetPodResourcesRequest { pod_name, pod_namespace } = server::read(request)?;
                    let pods = (self.pods)();
                    let pod = pods.iter().find(|pod| pod.name() == pod_name && pod.namespace() == pod_namespace);
                    let Some(pod) = pod else {
                        metrics.count(&FAILED_GETS, &["v1"]);
                        return Err(Status::unknown(format!("pod {pod_name} in namespace {pod_namespace} not found")));
                    };
                    server::one(&GetPodResources { pod_resources: Some(self.of_pod(pod)) })
                }
            }
        })
    }
}

impl Endpoint {
    async fn list(&self) -> ListPodResources {
        self.manager.release().await;
        let mut pods = (self.pods)();
        pods.sort_by(|a, b| (a.namespace(), a.name()).cmp(&(b.namespace(), b.name())));
        ListPodResources { pod_resources: pods.iter().map(|pod| self.of_pod(pod)).collect() }
    }

    fn allocatable(&self) -> AllocatableResources {
        AllocatableResources {
            devices: devices(self.manager.devices.allocatable()),
            cpu_ids: self.manager.allocatable_cpus(),
            memory: memory(self.manager.allocatable_memory()),
        }
    }

    fn of_pod(&self, pod: &Pod) -> PodResources {
        let sidecars = pod::init_containers(pod).iter().filter(|container| pod::is_sidecar(container));
        let containers = sidecars.chain(pod::containers(pod)).map(|container| self.of_container(pod, container)).collect();
        PodResources { name: pod.name().to_owned(), namespace: pod.namespace().to_owned(), containers }
    }

    fn of_container(&self, pod: &Pod, container: &Container) -> ContainerResources {
        ContainerResources {
            name: container.name.clone(),
            devices: devices(self.manager.devices.of_container(pod.uid(), &container.name)),
            cpu_ids: self.manager.exclusive_cpus(pod.uid(), &container.name),
            memory: memory(self.manager.memory(pod.uid(), &container.name)),
            dynamic_resources: self.manager.claims.of_container(pod, container),
        }
    }
}

fn memory(blocks: Vec<Block>) -> Vec<ContainerMemory> {
    let node = |id: usize| NumaNode { id: i64::try_from(id).unwrap_or(i64::MAX) };
    let told = blocks.into_iter().map(|block| ContainerMemory {
        memory_type: block.kind,
        size: block.size,
        topology: Some(Topology { nodes: block.numa_affinity.into_iter().map(node).collect() }),
    });
    told.collect()
}

fn devices(instances: Vec<Instance>) -> Vec<ContainerDevices> {
    let told = instances.into_iter().map(|Instance { resource, id, numa_node }| ContainerDevices {
        resource_name: resource,
        device_ids: vec![id],
        topology: numa_node.map(|id| Topology { nodes: vec![NumaNode { id }] }),
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn requests_beyond_the_rate_wait_for_their_turn() {
        let start = Instant::now();
        let mut bucket = Bucket { tokens: BURST, at: start };
        let passed = (0..15).filter(|_| bucket.take(start)).count();
        assert_eq!(passed, 10);
        assert!(!bucket.take(start + Duration::from_millis(5)));
        assert!(bucket.take(start + Duration::from_millis(20)));
    }
}
