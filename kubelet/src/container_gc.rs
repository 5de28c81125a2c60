//! Removing what has ended: containers beyond the last of each name, sandboxes without containers, everything of pods that are gone.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use client::Shutdown;
use k8s_openapi::jiff::Timestamp;

use crate::container_config::labels;
use crate::core::Core;
use crate::cri::{self, or_gone, v1};

/// How often it is looked.
pub const PERIOD: Duration = Duration::from_secs(60);
/// Ended containers that are kept of each container of a pod.
const KEPT: usize = 1;
/// A sandbox without containers may just be about to get some.
const MIN_SANDBOX_AGE: Duration = Duration::from_secs(60);

/// Removes all sandboxes and containers of a pod.
pub async fn remove_pod(core: &Core, uid: &str) -> Result<(), cri::Error> {
    let label_selector = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
    let container_filter = v1::ContainerFilter { label_selector: label_selector.clone(), ..Default::default() };
    for container in core.runtime.list_containers(Some(container_filter)).await? {
        remove_container(core, &container).await?;
    }
    let sandbox_filter = v1::PodSandboxFilter { label_selector, ..Default::default() };
    for sandbox in core.runtime.list_pod_sandboxes(Some(sandbox_filter)).await? {
        or_gone(core.runtime.stop_pod_sandbox(sandbox.id.clone()).await)?;
        or_gone(core.runtime.remove_pod_sandbox(sandbox.id).await)?;
    }
    Ok(())
}

async fn remove_container(core: &Core, container: &v1::Container) -> Result<(), cri::Error> {
    let of = |key: &str| container.labels.get(key).map_or("", String::as_str);
    let directory = &core.config.container_logs_dir;
    let link =
        crate::container_logs::link(directory, of(labels::POD_NAME), of(labels::POD_NAMESPACE), of(labels::CONTAINER_NAME), &container.id);
    if let Err(error) = tokio::fs::remove_file(&link).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(link = %link.display(), %error, "cannot remove the link to a container's log");
    }
    or_gone(core.runtime.remove_container(container.id.clone()).await)
}

/// Which of these containers to remove: of each name the newest that have ended are kept.
fn surplus<'a>(containers: &'a [v1::Container]) -> Vec<&'a v1::Container> {
    let mut by_name: HashMap<(&str, &str), Vec<&'a v1::Container>> = HashMap::new();
    let ended = |container: &&v1::Container| container.state() != v1::ContainerState::ContainerRunning;
    for container in containers.iter().filter(ended) {
        let of = |key: &str| container.labels.get(key).map_or("", String::as_str);
        if !of(labels::POD_UID).is_empty() {
            by_name.entry((of(labels::POD_UID), of(labels::CONTAINER_NAME))).or_default().push(container);
        }
    }
    let mut surplus = Vec::new();
    for containers in by_name.values_mut() {
        containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        // One that was created and not started yet is not an ended one.
        surplus.extend(containers.iter().filter(|c| c.state() != v1::ContainerState::ContainerCreated).skip(KEPT));
    }
    surplus
}

/// Which of these sandboxes to remove: those that are not ready, have no containers, and are not their pod's newest.
fn idle<'a>(sandboxes: &'a [v1::PodSandbox], containers: &[v1::Container], now: Timestamp) -> Vec<&'a v1::PodSandbox> {
    let used: HashSet<&str> = containers.iter().map(|container| container.pod_sandbox_id.as_str()).collect();
    let uid = |sandbox: &v1::PodSandbox| sandbox.metadata.as_ref().map(|metadata| metadata.uid.clone()).unwrap_or_default();
    let mut newest: HashMap<String, i64> = HashMap::new();
    for sandbox in sandboxes {
        let at = newest.entry(uid(sandbox)).or_default();
        *at = (*at).max(sandbox.created_at);
    }
    let old = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX) - i64::try_from(MIN_SANDBOX_AGE.as_nanos()).unwrap_or(0);
    let is_idle = |sandbox: &&v1::PodSandbox| {
        sandbox.state() != v1::PodSandboxState::SandboxReady
            && !used.contains(sandbox.id.as_str())
            && sandbox.created_at < old
            && newest.get(&uid(sandbox)) != Some(&sandbox.created_at)
    };
    sandboxes.iter().filter(is_idle).collect()
}

/// Looks once.
pub async fn collect(core: &Core) -> Result<(), cri::Error> {
    let containers = core.runtime.list_containers(None).await?;
    for container in surplus(&containers) {
        remove_container(core, container).await?;
    }
    let sandboxes = core.runtime.list_pod_sandboxes(None).await?;
    for sandbox in idle(&sandboxes, &containers, Timestamp::now()) {
        or_gone(core.runtime.remove_pod_sandbox(sandbox.id.clone()).await)?;
    }
    Ok(())
}

/// Looks again and again until shutdown.
pub async fn run(core: &Core, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = collect(core).await {
            tracing::warn!(%error, "container garbage collection failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, uid: &str, created_at: i64, state: v1::ContainerState) -> v1::Container {
        v1::Container {
            id: id.to_owned(),
            created_at,
            state: state.into(),
            labels: HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned()), (labels::CONTAINER_NAME.to_owned(), "x".to_owned())]),
            pod_sandbox_id: uid.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn the_newest_that_has_ended_is_kept() {
        use v1::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
        let containers = [
            container("a1", "a", 1, ContainerExited),
            container("a2", "a", 2, ContainerExited),
            container("a3", "a", 3, ContainerRunning),
            container("b1", "b", 1, ContainerExited),
            container("b2", "b", 2, ContainerCreated),
        ];
        assert_eq!(surplus(&containers).iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["a1"]);
    }

    #[test]
    fn the_newest_sandbox_and_those_in_use_are_kept() {
        let sandbox = |id: &str, uid: &str, created_at| v1::PodSandbox {
            id: id.to_owned(),
            created_at,
            state: v1::PodSandboxState::SandboxNotready.into(),
            metadata: Some(v1::PodSandboxMetadata { uid: uid.to_owned(), ..Default::default() }),
            ..Default::default()
        };
        let sandboxes = [sandbox("a1", "a", 1), sandbox("a2", "a", 2), sandbox("b", "b", 1), sandbox("b2", "b", 3)];
        let used = [container("x", "b", 1, v1::ContainerState::ContainerExited)];
        let idle = idle(&sandboxes, &used, Timestamp::now());
        assert_eq!(idle.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["a1"]);
    }
}
