//! Running containers and sandboxes of a pod, found in the runtime by the labels that the kubelet gives them.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;

use crate::cri::{self, Runtime, v1};

const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

fn labels(pod: &Pod) -> HashMap<String, String> {
    HashMap::from([(POD_UID.to_owned(), pod.metadata.uid.clone().unwrap_or_default())])
}

/// The id of the pod's running container of that name.
pub async fn running_container(runtime: &dyn Runtime, pod: &Pod, name: &str) -> Result<Option<String>, cri::Error> {
    let mut label_selector = labels(pod);
    label_selector.insert(CONTAINER_NAME.to_owned(), name.to_owned());
    let state = Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning as i32 });
    let filter = v1::ContainerFilter { state, label_selector, ..v1::ContainerFilter::default() };
    let mut found = runtime.list_containers(Some(filter)).await?;
    found.sort_by_key(|container| container.created_at);
    Ok(found.pop().map(|container| container.id))
}

/// The id of the pod's sandbox that is ready, the newest if there are several.
pub async fn ready_sandbox(runtime: &dyn Runtime, pod: &Pod) -> Result<Option<String>, cri::Error> {
    let state = Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady as i32 });
    let filter = v1::PodSandboxFilter { state, label_selector: labels(pod), ..v1::PodSandboxFilter::default() };
    let mut found = runtime.list_pod_sandboxes(Some(filter)).await?;
    found.sort_by_key(|sandbox| sandbox.created_at);
    Ok(found.pop().map(|sandbox| sandbox.id))
}

/// Whether the pod has a container of that name, of any sort.
pub fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ordinary = spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|container| container.name == name);
    ordinary || spec.ephemeral_containers.iter().flatten().any(|container| container.name == name)
}

/// Whether the container has a terminal, as its spec says.
pub fn has_tty(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ordinary = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ordinary = ordinary.filter(|container| container.name == name).any(|container| container.tty == Some(true));
    ordinary || spec.ephemeral_containers.iter().flatten().any(|container| container.name == name && container.tty == Some(true))
}

/// A pod's name as upstream writes it where there is but one word for it.
pub fn full_name(pod: &Pod) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    format!("{}_{}", text(&pod.metadata.name), text(&pod.metadata.namespace))
}
