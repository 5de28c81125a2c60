//! What is asked of pods everywhere: who they are, where they came from, which containers they have, their quality of service.
//!
//! Pure functions of a pod; nothing here knows a runtime.

use apimachinery::quantity::Quantity;
use client::Object;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

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

pub fn generation(pod: &Pod) -> i64 {
    pod.metadata.generation.unwrap_or(0)
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

/// An ephemeral container as an ordinary one; they have the same fields but for the target.
pub fn from_ephemeral(container: &EphemeralContainer) -> Container {
    let container = container.clone();
    Container {
        args: container.args,
        command: container.command,
        env: container.env,
        env_from: container.env_from,
        image: container.image,
        image_pull_policy: container.image_pull_policy,
        lifecycle: container.lifecycle,
        liveness_probe: container.liveness_probe,
        name: container.name,
        ports: container.ports,
        readiness_probe: container.readiness_probe,
        resize_policy: container.resize_policy,
        resources: container.resources,
        restart_policy: container.restart_policy,
        restart_policy_rules: container.restart_policy_rules,
        security_context: container.security_context,
        startup_probe: container.startup_probe,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        termination_message_path: container.termination_message_path,
        termination_message_policy: container.termination_message_policy,
        tty: container.tty,
        volume_devices: container.volume_devices,
        volume_mounts: container.volume_mounts,
        working_dir: container.working_dir,
    }
}

/// An init container that goes on running beside the containers that follow it.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The container of this name, whatever its kind.
pub fn find_container(pod: &Pod, name: &str) -> Option<Container> {
    let ordinary = init_containers(pod).iter().chain(containers(pod)).find(|container| container.name == name).cloned();
    ordinary.or_else(|| ephemeral_containers(pod).iter().find(|container| container.name == name).map(from_ephemeral))
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

/// The quality of service class: `Guaranteed`, `Burstable` or `BestEffort`. What the status says already stays.
pub fn qos_class(pod: &Pod) -> &'static str {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => "Guaranteed",
        Some("Burstable") => "Burstable",
        Some("BestEffort") => "BestEffort",
        _ => compute_qos_class(pod),
    }
}

type Resources = k8s_openapi::api::core::v1::ResourceRequirements;

fn amount(list: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>, name: &str) -> Option<Quantity> {
    let parsed = Quantity::parse(&list?.get(name)?.0).ok()?;
    (!parsed.is_zero()).then_some(parsed)
}

/// For each of CPU and memory: what is requested, and what is the limit.
fn requests_and_limits(resources: &Resources) -> [(Option<Quantity>, Option<Quantity>); 2] {
    ["cpu", "memory"].map(|name| (amount(resources.requests.as_ref(), name), amount(resources.limits.as_ref(), name)))
}

fn compute_qos_class(pod: &Pod) -> &'static str {
    let of_pod = spec(pod).resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let described: Vec<_> = match of_pod {
        Some(resources) => vec![requests_and_limits(resources)],
        None => {
            let all = init_containers(pod).iter().chain(containers(pod));
            all.map(|container| requests_and_limits(container.resources.as_ref().unwrap_or(&Resources::default()))).collect()
        }
    };
    if described.iter().flatten().all(|(request, limit)| request.is_none() && limit.is_none()) {
        return "BestEffort";
    }
    let all_limited = described.iter().flatten().all(|(_, limit)| limit.is_some());
    let same = described.iter().flatten().all(|(request, limit)| request.is_none() || request == limit);
    if all_limited && same { "Guaranteed" } else { "Burstable" }
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
    fn quality_of_service_follows_requests_and_limits() {
        for (resources, expected) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "0"}}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}), "Burstable"),
        ] {
            assert_eq!(qos_class(&pod(json!([{"name": "x", "resources": resources}]))), expected, "{resources}");
        }
    }

    #[test]
    fn a_pod_is_named_as_upstream_names_it() {
        assert_eq!(describe(&pod(json!([]))), "a_b(c)");
        assert_eq!(field_path(&pod(json!([{"name": "x"}])), "x"), "spec.containers{x}");
    }
}
