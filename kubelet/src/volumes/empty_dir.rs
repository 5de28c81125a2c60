//! Directories that live as long as their pod: on disk, in memory or in huge pages. Blocking.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use apimachinery::quantity::Quantity;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};

use super::mount_table;
use super::ownership::Ownership;
use crate::container_config::pod_resources::{has_pod_level, limit, limits, parse, pod_level_limit};

const MODE: u32 = 0o777;

/// What a directory is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    Disk,
    /// At most so many bytes of memory.
    Memory(Option<i64>),
    /// The page size as the kernel takes it: `2M`.
    HugePages(String),
}

/// Makes the directory and mounts what it is on, unless that is done.
pub fn set_up(dir: &Path, medium: &Medium, mode: Option<i32>, ownership: Option<Ownership>) -> io::Result<()> {
    let exists = dir.exists();
    if exists && (*medium == Medium::Disk || mount_table::is_mount_point(dir)?) {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    let mode = mode.and_then(|mode| u32::try_from(mode).ok()).map(|mode| mode & 0o7777);
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode.unwrap_or(MODE)))?;
    match medium {
        Medium::Disk => {}
        Medium::Memory(size) => mount_table::tmpfs(dir, *size, mount_table::has_swap())?,
        Medium::HugePages(size) => mount_table::hugetlbfs(dir, size)?,
    }
    if let (Some(mode), true) = (mode, *medium != Medium::Disk) {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))?;
    }
    if let Some(ownership) = ownership {
        ownership.always().apply(dir, false)?;
    }
    Ok(())
}

/// What an emptyDir is on. A file system in memory is never larger than what its pod may use, or the node can give.
pub fn medium(pod: &Pod, source: &EmptyDirVolumeSource, allocatable_memory: i64) -> Result<Medium, String> {
    match source.medium.as_deref().unwrap_or("") {
        "" => Ok(Medium::Disk),
        "Memory" => Ok(Medium::Memory(memory_size(pod, source, allocatable_memory))),
        "HugePages" => huge_page_size(pod, None).map(Medium::HugePages),
        other => match other.strip_prefix("HugePages-") {
            Some(size) => huge_page_size(pod, Some(size)).map(Medium::HugePages),
            None => Err(format!("unknown storage medium {other:?}")),
        },
    }
}

fn memory_size(pod: &Pod, source: &EmptyDirVolumeSource, allocatable: i64) -> Option<i64> {
    let spec = pod.spec.as_ref();
    let containers = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let all_limited = containers.into_iter().all(|container| !limit(container, "memory").is_zero());
    let limited = all_limited || (has_pod_level(pod) && !pod_level_limit(pod, "memory").is_zero());
    let of_pod = limits(pod, true).get("memory").map(Quantity::value).filter(|bytes| limited && *bytes > 0);
    let own = source.size_limit.as_ref().map(|limit| parse(limit).value()).filter(|bytes| *bytes > 0);
    [Some(allocatable).filter(|bytes| *bytes > 0), of_pod, own].into_iter().flatten().min()
}

fn huge_page_size(pod: &Pod, wanted: Option<&str>) -> Result<String, String> {
    let wanted_bytes = wanted.map(|size| Quantity::parse(size).map(|size| size.value()).map_err(|error| error.to_string())).transpose()?;
    let spec = pod.spec.as_ref();
    let of_containers = spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let lists = of_containers
        .filter_map(|container| container.resources.as_ref()?.requests.as_ref())
        .chain(spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()));
    let mut sizes: Vec<i64> = lists
        .flat_map(|list| list.keys())
        .filter_map(|name| Quantity::parse(name.strip_prefix("hugepages-")?).ok())
        .map(|size| size.value())
        .filter(|size| wanted_bytes.is_none_or(|wanted| wanted == *size))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    match sizes.as_slice() {
        [] => Err(format!("medium {}: hugePages storage requested, but there is no resource request for huge pages.", name(wanted))),
        [bytes] => Ok(kernel_size(*bytes)),
        _ => Err(format!("medium: {} can't be used if container requests multiple huge page sizes", name(wanted))),
    }
}

fn name(size: Option<&str>) -> String {
    size.map_or("HugePages".to_owned(), |size| format!("HugePages-{size}"))
}

fn kernel_size(bytes: i64) -> String {
    [("G", 30), ("M", 20), ("K", 10)]
        .into_iter()
        .find(|(_, shift)| bytes >> shift > 0)
        .map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(spec: Value, source: Value) -> Result<Medium, String> {
        let pod = serde_json::from_value(json!({ "spec": spec })).expect("it is a pod");
        let source = serde_json::from_value(source).expect("it is an emptyDir");
        medium(&pod, &source, 1000)
    }

    #[test]
    fn memory_is_the_least_of_what_limits_it() {
        let unlimited = json!({"containers": [{"name": "a"}]});
        let limited = json!({"containers": [{"name": "a", "resources": {"limits": {"memory": "500"}}}]});
        assert_eq!(run(unlimited.clone(), json!({})), Ok(Medium::Disk));
        assert_eq!(run(unlimited.clone(), json!({"medium": "Memory"})), Ok(Medium::Memory(Some(1000))));
        assert_eq!(run(limited.clone(), json!({"medium": "Memory"})), Ok(Medium::Memory(Some(500))));
        assert_eq!(run(limited, json!({"medium": "Memory", "sizeLimit": "100"})), Ok(Medium::Memory(Some(100))));
        assert_eq!(run(unlimited.clone(), json!({"medium": "Tape"})), Err("unknown storage medium \"Tape\"".to_owned()));
        let huge = json!({"containers": [{"name": "a", "resources": {"requests": {"hugepages-2Mi": "4Mi"}}}]});
        assert_eq!(run(huge.clone(), json!({"medium": "HugePages"})), Ok(Medium::HugePages("2M".to_owned())));
        assert!(run(huge, json!({"medium": "HugePages-1Gi"})).is_err());
    }
}
