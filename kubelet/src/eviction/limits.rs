//! Pods that use more of the node's disk than they themselves said they would.

use apimachinery::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::Pod;

use crate::container_config::pod_resources::{limit, limits, parse};
use crate::stats::api::{FsStats, PodStats};

/// Whether any of the pod's limits on local storage can be exceeded, so that it is worth to look.
pub fn has_any(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| volume.empty_dir.as_ref()?.size_limit.as_ref()).next().is_some()
        || limits(pod, true).contains_key("ephemeral-storage")
}

fn bytes(used: u64) -> Quantity {
    Quantity::new(i64::try_from(used).unwrap_or(i64::MAX), Format::BinarySi)
}

/// Which limit the pod exceeds, as metrics call it, and what the pod is told; if it does.
pub fn exceeded(pod: &Pod, stats: &PodStats, has_image_fs: bool) -> Option<(&'static str, String)> {
    let of_volume = empty_dir(pod, stats).map(|message| ("emptydirfs.limit", message));
    let of_pod = || whole_pod(pod, stats).map(|message| ("ephemeralpodfs.limit", message));
    let of_container = || container(pod, stats, has_image_fs).map(|message| ("ephemeralcontainerfs.limit", message));
    of_volume.or_else(of_pod).or_else(of_container)
}

fn empty_dir(pod: &Pod, stats: &PodStats) -> Option<String> {
    pod.spec.as_ref()?.volumes.iter().flatten().find_map(|volume| {
        let limit = parse(volume.empty_dir.as_ref()?.size_limit.as_ref()?);
        let used = stats.volumes.iter().find(|used| used.name == volume.name)?;
        let over = limit.sign() > 0 && bytes(used.fs.used_bytes) > limit;
        over.then(|| format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.to_string()))
    })
}

fn whole_pod(pod: &Pod, stats: &PodStats) -> Option<String> {
    let limits = limits(pod, true);
    let limit = limits.get("ephemeral-storage")?;
    let used = bytes(stats.ephemeral_storage.as_ref().map_or(0, |fs| fs.used_bytes));
    (used > *limit).then(|| format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "))
}

fn container(pod: &Pod, stats: &PodStats, has_image_fs: bool) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|init| init.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars).find_map(|container| {
        let limit = limit(container, "ephemeral-storage");
        let used = stats.containers.iter().find(|used| used.name == container.name)?;
        let of = |fs: &Option<FsStats>| fs.as_ref().map_or(0, |fs| fs.used_bytes);
        let sum = of(&used.logs) + if has_image_fs { 0 } else { of(&used.rootfs) };
        let over = !limit.is_zero() && bytes(sum) > limit;
        over.then(|| format!("Container {} exceeded its local ephemeral storage limit {:?}. ", container.name, limit.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::eviction::message::tests::pod_stats;
    use crate::stats::api::VolumeStats;

    fn fs(used_bytes: u64) -> FsStats {
        FsStats {
            time: Timestamp::UNIX_EPOCH,
            available_bytes: 0,
            capacity_bytes: 0,
            used_bytes,
            inodes_free: 0,
            inodes: 0,
            inodes_used: 0,
        }
    }

    #[test]
    fn whoever_exceeds_a_limit_of_its_own_goes() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
            "containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "10Mi"}}}]}}))
        .expect("it is a pod");
        assert!(has_any(&pod));
        let mut stats = pod_stats("u", 0);
        assert_eq!(exceeded(&pod, &stats, false), None);
        stats.containers[0].logs = Some(fs(6 << 20));
        stats.containers[0].rootfs = Some(fs(6 << 20));
        assert_eq!(exceeded(&pod, &stats, true), None);
        let container = "Container c exceeded its local ephemeral storage limit \"10Mi\". ";
        assert_eq!(exceeded(&pod, &stats, false), Some(("ephemeralcontainerfs.limit", container.to_owned())));
        stats.ephemeral_storage = Some(fs(11 << 20));
        let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ";
        assert_eq!(exceeded(&pod, &stats, false), Some(("ephemeralpodfs.limit", whole.to_owned())));
        stats.volumes.push(VolumeStats { fs: fs(2 << 20), name: "v".to_owned(), claim: None });
        let volume = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
        assert_eq!(exceeded(&pod, &stats, false), Some(("emptydirfs.limit", volume.to_owned())));
    }
}
