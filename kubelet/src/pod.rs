//! What is asked of pods everywhere: who they are, where they came from, which containers they have.
//!
//! Pure functions of a pod; nothing here knows a runtime.

use client::Object;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

use crate::container_config::as_container;

/// Where a pod came from: `file`, `api`.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// On a mirror pod: the hash of the static pod that it mirrors.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// On a static pod: the hash of what its file says.
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// When the kubelet first saw the pod.
pub const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";

/// The priority from which pods are critical to their node.
pub const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// The pod as messages name it: `name_namespace(uid)`.
pub fn describe(pod: &Pod) -> String {
    format!("{}_{}({})", pod.name(), pod.namespace(), pod.uid())
}

/// Whether the pod came from a file rather than from the API server.
pub fn is_static(pod: &Pod) -> bool {
    pod.annotation(SOURCE_ANNOTATION).is_some_and(|source| source != "api")
}

/// Whether the pod is the API server's picture of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.annotation(MIRROR_ANNOTATION).is_some()
}

pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || spec(pod).priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL_PRIORITY)
}

pub fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

pub fn is_terminal_phase(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

pub fn containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or(&[])
}

pub fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod).ephemeral_containers.as_deref().unwrap_or(&[])
}

/// An init container that goes on running beside the containers that follow it.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The container of this name, whatever its kind.
pub fn find_container(pod: &Pod, name: &str) -> Option<Container> {
    let ordinary = init_containers(pod).iter().chain(containers(pod)).find(|container| container.name == name).cloned();
    ordinary.or_else(|| ephemeral_containers(pod).iter().find(|container| container.name == name).map(as_container))
}

/// The part of the pod that events about a container are about.
pub fn field_path(pod: &Pod, name: &str) -> String {
    if init_containers(pod).iter().any(|container| container.name == name) {
        format!("spec.initContainers{{{name}}}")
    } else if ephemeral_containers(pod).iter().any(|container| container.name == name) {
        format!("spec.ephemeralContainers{{{name}}}")
    } else {
        format!("spec.containers{{{name}}}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b", "uid": "c"}, "spec": {"containers": containers}}))
            .expect("it is a pod")
    }

    #[test]
    fn a_pod_is_named_as_upstream_names_it() {
        assert_eq!(describe(&pod(json!([]))), "a_b(c)");
        assert_eq!(field_path(&pod(json!([{"name": "x"}])), "x"), "spec.containers{x}");
    }
}
