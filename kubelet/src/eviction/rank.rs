//! Who goes first: pods that use more than they asked for, then the less important, then those that exceed their request most.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use client::Object;
use k8s_openapi::api::core::v1::Pod;

use super::threshold::Signal;
use crate::container_config::pod_resources::{self, requests};
use crate::stats::api::{ContainerStats, FsStats, PodStats};

/// What counts against a pod on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub rootfs: bool,
    pub logs_and_volumes: bool,
}

impl Counted {
    /// With a file system of their own for images, what containers write lies there, and logs and volumes on the node's.
    pub fn on(signal: Signal, has_image_fs: bool) -> Counted {
        let images = matches!(signal, Signal::ImageFsAvailable | Signal::ImageFsInodesFree);
        Counted { rootfs: !has_image_fs || images, logs_and_volumes: !has_image_fs || !images }
    }
}

/// The statistics of pods by uid.
pub type StatsByPod<'a> = HashMap<&'a str, &'a PodStats>;

/// Sorts pods, the first to go first. Pods of which nothing is known come before all others.
pub fn sort(pods: &mut [Arc<Pod>], stats: &StatsByPod<'_>, signal: Signal, has_image_fs: bool) {
    pods.sort_by(|a, b| compare(a, b, stats, signal, has_image_fs));
}

fn compare(a: &Pod, b: &Pod, stats: &StatsByPod<'_>, signal: Signal, has_image_fs: bool) -> Ordering {
    let by_priority = || priority(a).cmp(&priority(b));
    let (Some(of_a), Some(of_b)) = (stats.get(a.uid()), stats.get(b.uid())) else {
        let known = |pod: &Pod| stats.contains_key(pod.uid());
        return known(a).cmp(&known(b)).then_with(by_priority);
    };
    if signal == Signal::PidAvailable {
        let processes = |stats: &PodStats| Reverse(stats.processes.as_ref().map_or(0, |processes| processes.process_count));
        return by_priority().then_with(|| processes(of_a).cmp(&processes(of_b)));
    }
    let beyond = |pod: &Pod, stats: &PodStats| used(stats, pod, signal, has_image_fs).saturating_sub(request(pod, signal.resource()));
    let (beyond_a, beyond_b) = (beyond(a, of_a), beyond(b, of_b));
    Reverse(beyond_a > 0).cmp(&Reverse(beyond_b > 0)).then_with(by_priority).then_with(|| beyond_b.cmp(&beyond_a))
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

/// What the pod asks for, in bytes.
fn request(pod: &Pod, resource: &str) -> i64 {
    requests(pod, true).get(resource).map_or(0, |amount| amount.value())
}

fn used(stats: &PodStats, pod: &Pod, signal: Signal, has_image_fs: bool) -> i64 {
    if signal.resource() == "memory" {
        let bytes = stats.memory.as_ref().map_or(0, |memory| memory.working_set_bytes);
        return i64::try_from(bytes).unwrap_or(i64::MAX);
    }
    let counted = Counted::on(signal, has_image_fs);
    let of = |fs: &FsStats| if signal.resource() == "inodes" { fs.inodes_used } else { fs.used_bytes };
    let of_container = |container: &ContainerStats| {
        let rootfs = container.rootfs.as_ref().filter(|_| counted.rootfs).map_or(0, of);
        let logs = container.logs.as_ref().filter(|_| counted.logs_and_volumes).map_or(0, of);
        rootfs + logs
    };
    let mut sum: u64 = stats.containers.iter().map(of_container).sum();
    if counted.logs_and_volumes {
        let local = local_volumes(pod);
        sum += stats.volumes.iter().filter(|volume| local.contains(&volume.name.as_str())).map(|volume| of(&volume.fs)).sum::<u64>();
    }
    i64::try_from(sum).unwrap_or(i64::MAX)
}

/// Volumes on the node's disk.
fn local_volumes(pod: &Pod) -> Vec<&str> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let on_disk = volumes.filter(|volume| {
        volume.host_path.is_some()
            || volume.config_map.is_some()
            || volume.empty_dir.as_ref().is_some_and(|source| source.medium.as_deref() != Some("Memory"))
    });
    on_disk.map(|volume| volume.name.as_str()).collect()
}

/// The request of one container, as it is written.
pub fn container_request(pod: &Pod, container: &str, resource: &str) -> Option<apimachinery::quantity::Quantity> {
    let spec = pod.spec.as_ref()?;
    let found = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|known| known.name == container)?;
    Some(pod_resources::request(found, resource))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::eviction::message::tests::pod_stats;

    fn pod(uid: &str, priority: i32, request: &str) -> Arc<Pod> {
        let resources = json!({"requests": {"memory": request}});
        let object = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"priority": priority, "containers": [{"name": "c", "resources": resources}]}});
        Arc::new(serde_json::from_value(object).expect("it is a pod"))
    }

    #[test]
    fn memory_is_reclaimed_from_those_that_exceed_their_requests() {
        let mut pods = vec![
            pod("within", 0, "1000"),
            pod("important", 10, "100"),
            pod("little", 0, "100"),
            pod("much", 0, "100"),
            pod("unknown", 100, "100"),
        ];
        let all = [pod_stats("within", 900), pod_stats("important", 900), pod_stats("little", 200), pod_stats("much", 300)];
        let stats = all.iter().map(|stats| (stats.pod_ref.uid.as_str(), stats)).collect();
        sort(&mut pods, &stats, Signal::MemoryAvailable, false);
        let order: Vec<&str> = pods.iter().map(|pod| pod.uid()).collect();
        assert_eq!(order, ["unknown", "much", "little", "important", "within"]);
    }

    #[test]
    fn what_counts_depends_on_where_images_are() {
        let all = Counted { rootfs: true, logs_and_volumes: true };
        assert_eq!(Counted::on(Signal::NodeFsAvailable, false), all);
        assert_eq!(Counted::on(Signal::NodeFsAvailable, true), Counted { rootfs: false, ..all });
        assert_eq!(Counted::on(Signal::ImageFsInodesFree, true), Counted { logs_and_volumes: false, ..all });
    }
}
