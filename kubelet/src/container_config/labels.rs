//! Labels and annotations by which sandboxes and containers are recognized after a restart of the kubelet.
//!
//! Upstream: pkg/kubelet/kuberuntime/labels.go; the same keys and the same hash, so that either kubelet takes over the other's containers.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub const PRE_STOP_HANDLER: &str = "io.kubernetes.container.preStopHandler";
pub const PORTS: &str = "io.kubernetes.container.ports";
pub const DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";
pub const TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";

fn identity(pod: &Pod) -> HashMap<String, String> {
    let metadata = &pod.metadata;
    let of = |field: &Option<String>| field.clone().unwrap_or_default();
    [(POD_NAME, of(&metadata.name)), (POD_NAMESPACE, of(&metadata.namespace)), (POD_UID, of(&metadata.uid))]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
}

/// A sandbox has its pod's labels and says whose it is.
pub fn of_sandbox(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> =
        pod.metadata.labels.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    labels.extend(identity(pod));
    labels
}

pub fn of_container(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let mut labels = identity(pod);
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

/// What is remembered of a container's spec for when the pod is not known any more.
pub fn annotations(pod: &Pod, container: &Container, restart_count: u32) -> HashMap<String, String> {
    let of = |field: &Option<String>| field.clone().unwrap_or_default();
    let mut annotations: HashMap<String, String> = [
        (CONTAINER_HASH, format!("{:x}", hash(container))),
        (RESTART_COUNT, restart_count.to_string()),
        (TERMINATION_MESSAGE_PATH, of(&container.termination_message_path)),
        (TERMINATION_MESSAGE_POLICY, of(&container.termination_message_policy)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let mut put = |key: &str, value: Option<String>| value.map(|value| annotations.insert(key.to_owned(), value));
    put(DELETION_GRACE_PERIOD, pod.metadata.deletion_grace_period_seconds.map(|seconds| seconds.to_string()));
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    put(TERMINATION_GRACE_PERIOD, grace.map(|seconds| seconds.to_string()));
    // Both serialize for certain: they are structs of texts and numbers.
    let pre_stop = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    put(PRE_STOP_HANDLER, pre_stop.and_then(|handler| serde_json::to_string(handler).ok()));
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    put(PORTS, ports.and_then(|ports| serde_json::to_string(ports).ok()));
    annotations
}

/// What tells whether a running container is still the one that its spec describes.
pub fn hash(container: &Container) -> u64 {
    let image = container.image.as_deref().unwrap_or("");
    let text = serde_json::json!({"image": image, "name": container.name}).to_string();
    // Upstream hashes the JSON as its debug printer shows a slice of bytes.
    let shown: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
    u64::from(fnv32a(format!("([]uint8)[{}]", shown.join(" ")).as_bytes()))
}

fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hash_is_upstreams() {
        let container = Container { name: "test_container".to_owned(), image: Some("foo/image:v1".to_owned()), ..Default::default() };
        assert_eq!(hash(&container), 0x8e45_cbd0);
    }

    #[test]
    fn annotations_remember_what_stopping_and_reporting_need() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"l": "1"}},
            "spec": {"terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": "i",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}, "ports": [{"containerPort": 80}]}]}}))
        .expect("it is a pod");
        let container = &pod.spec.as_ref().expect("it has a spec").containers[0];
        let annotations = annotations(&pod, container, 3);
        assert_eq!(annotations[RESTART_COUNT], "3");
        assert_eq!(annotations[PRE_STOP_HANDLER], r#"{"sleep":{"seconds":1}}"#);
        assert_eq!(annotations[PORTS], r#"[{"containerPort":80}]"#);
        assert_eq!(annotations[TERMINATION_GRACE_PERIOD], "30");
        assert!(!annotations.contains_key(DELETION_GRACE_PERIOD));
        assert_eq!((of_sandbox(&pod)["l"].as_str(), of_container(&pod, container)[CONTAINER_NAME].as_str()), ("1", "c"));
    }
}
