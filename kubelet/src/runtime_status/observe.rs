//! Reads a pod's sandboxes and containers from the runtime.

use std::cmp::Reverse;
use std::collections::HashMap;

use futures::future::try_join_all;
use k8s_openapi::jiff::Timestamp;

use super::{Container, PodStatus, State, termination_message};
use crate::container_config::labels;
use crate::cri::{Code, Error, Runtime, v1};

/// Everything that the runtime has of the pod with this uid. What goes away while it is read is left out.
pub async fn observe(runtime: &dyn Runtime, uid: &str) -> Result<PodStatus, Error> {
    let label = || HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
    let sandbox_filter = v1::PodSandboxFilter { label_selector: label(), ..Default::default() };
    let container_filter = v1::ContainerFilter { label_selector: label(), ..Default::default() };
    let (mut sandboxes, containers) =
        futures::try_join!(runtime.list_pod_sandboxes(Some(sandbox_filter)), runtime.list_containers(Some(container_filter)))?;
    sandboxes.sort_by_key(|sandbox| (Reverse(sandbox.created_at), sandbox.id.clone()));
    let sandbox_states = try_join_all(sandboxes.iter().map(|sandbox| present(runtime.pod_sandbox_status(sandbox.id.clone(), false))));
    let container_states = try_join_all(containers.iter().map(|container| async {
        let status = present(runtime.container_status(container.id.clone(), false)).await?;
        match status.and_then(|response| response.status) {
            Some(status) => Ok(Some(container_of(&container.pod_sandbox_id, status).await)),
            None => Ok(None),
        }
    }));
    let (sandbox_states, container_states) = futures::try_join!(sandbox_states, container_states)?;
    let sandboxes: Vec<v1::PodSandboxStatus> = sandbox_states.into_iter().flatten().filter_map(|response| response.status).collect();
    let mut containers: Vec<Container> = container_states.into_iter().flatten().collect();
    containers.sort_by_key(|container| (Reverse(container.created_at), container.id.clone()));
    let metadata = sandboxes.first().and_then(|sandbox| sandbox.metadata.clone()).unwrap_or_default();
    let ips = sandboxes.first().map(addresses).unwrap_or_default();
    Ok(PodStatus { uid: uid.to_owned(), name: metadata.name, namespace: metadata.namespace, ips, sandboxes, containers })
}

async fn present<T>(call: impl Future<Output = Result<T, Error>>) -> Result<Option<T>, Error> {
    match call.await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The addresses of a sandbox that is ready and has a network of its own.
pub fn addresses(sandbox: &v1::PodSandboxStatus) -> Vec<String> {
    if sandbox.state() != v1::PodSandboxState::SandboxReady {
        return Vec::new();
    }
    let Some(network) = &sandbox.network else { return Vec::new() };
    let additional = network.additional_ips.iter().map(|ip| ip.ip.clone());
    std::iter::once(network.ip.clone()).chain(additional).filter(|ip| ip.parse::<std::net::IpAddr>().is_ok()).collect()
}

fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default())
}

async fn container_of(sandbox_id: &str, status: v1::ContainerStatus) -> Container {
    let state = match status.state() {
        v1::ContainerState::ContainerCreated => State::Created,
        v1::ContainerState::ContainerRunning => State::Running,
        v1::ContainerState::ContainerExited => State::Exited,
        v1::ContainerState::ContainerUnknown => State::Unknown,
    };
    let exited = state == State::Exited;
    let message = if exited { termination_message::with_own_words(&status).await } else { String::new() };
    let annotation = |key: &str| status.annotations.get(key).map(String::as_str);
    let image_id = if status.image_id.is_empty() { status.image_ref.clone() } else { status.image_id.clone() };
    Container {
        name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default(),
        sandbox_id: sandbox_id.to_owned(),
        state,
        created_at: time(status.created_at).unwrap_or_default(),
        // One that could not be started began, to upstream, when Unix did.
        started_at: if state == State::Created { None } else { Some(time(status.started_at).unwrap_or_default()) },
        finished_at: if exited { time(status.finished_at) } else { None },
        exit_code: if exited { status.exit_code } else { 0 },
        reason: if exited { status.reason.clone() } else { String::new() },
        message,
        image: status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
        image_ref: status.image_ref.clone(),
        image_id,
        hash: annotation(labels::CONTAINER_HASH).and_then(|hash| u64::from_str_radix(hash, 16).ok()),
        restart_count: annotation(labels::RESTART_COUNT).and_then(|count| count.parse().ok()).unwrap_or(0),
        log_path: status.log_path,
        user: status.user,
        resources: status.resources,
        mounts: status.mounts,
        annotations: status.annotations,
        id: status.id,
    }
}
