//! Directories for volumes that containers mount inside of another volume, which must have a place to be mounted on. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, VolumeMount};

/// The directories to make in a volume. Of mounts within mounts only the outer one matters.
pub fn directories(pod: &Pod, volume: &str) -> BTreeSet<String> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.volume_mounts);
    let others = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| &container.volume_mounts);
    others.chain(ephemeral).flatten().flat_map(|mounts| of_container(mounts, volume)).collect()
}

fn of_container(mounts: &[VolumeMount], volume: &str) -> Vec<String> {
    let mut all: Vec<String> = mounts.iter().map(|mount| clean(&mount.mount_path)).collect();
    all.sort();
    let mut out = Vec::new();
    for own in mounts.iter().filter(|mount| mount.name == volume) {
        let prefix = format!("{}/", clean(&own.mount_path));
        let mut outer: Vec<&str> = Vec::new();
        for path in all.iter().filter_map(|path| path.strip_prefix(&prefix)) {
            if !outer.iter().any(|outer| path.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))) {
                outer.push(path);
            }
        }
        out.extend(outer.into_iter().filter(|path| !path.split('/').any(|part| part == "..")).map(str::to_owned));
    }
    out
}

fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_outermost_mounts_need_a_place() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "volumeMounts": [
            {"name": "v", "mountPath": "/dir"},
            {"name": "a", "mountPath": "/dir/nested/"},
            {"name": "b", "mountPath": "/dir/nested/double"},
            {"name": "c", "mountPath": "/dir/nested-vol"},
            {"name": "d", "mountPath": "/directory"}]}]}}))
        .expect("it is a pod");
        assert_eq!(directories(&pod, "v").into_iter().collect::<Vec<_>>(), ["nested", "nested-vol"]);
        assert_eq!(directories(&pod, "d"), BTreeSet::new());
    }
}
