//! The pod's phase, from the states of its containers.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::pod;
use crate::sync_pod::restart;

/// The reason of containers that were removed because all are restarted.
pub const RESTARTING_ALL: &str = "RestartingAllContainers";

#[derive(Default)]
struct Count {
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    /// Of those stopped: with exit code zero, and without another start.
    succeeded: usize,
    done: usize,
    pending_init: usize,
    pending_sidecars: usize,
    failed_init: usize,
}

/// How a container that is not running ended, if it ever did.
fn ended(status: &ContainerStatus) -> Option<(i32, &str)> {
    let (state, last) = (status.state.as_ref(), status.last_state.as_ref());
    let terminated = match state {
        Some(state) if state.terminated.is_some() => state.terminated.as_ref(),
        Some(state) if state.waiting.is_some() => last.and_then(|last| last.terminated.as_ref()),
        _ => None,
    }?;
    Some((terminated.exit_code, terminated.reason.as_deref().unwrap_or("")))
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn is_waiting(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.waiting.is_some())
}

/// The phase. `terminal`: nothing will run again; `initialized`: main containers have been seen in this sandbox.
pub fn of(pod: &Pod, statuses: &[ContainerStatus], terminal: bool, initialized: bool) -> &'static str {
    let find = |container: &Container| statuses.iter().find(|status| status.name == container.name);
    let runs_again = |container: &Container, exit_code: i32, reason: &str| {
        restart::after_exit(container, pod::spec(pod), exit_code) || reason == RESTARTING_ALL
    };
    let mut count = Count::default();
    for container in pod::init_containers(pod) {
        let status = find(container);
        if pod::is_sidecar(container) {
            sidecar(status, &mut count);
            continue;
        }
        match status {
            Some(status) if !is_running(status) => match ended(status) {
                Some((0, _)) => {}
                Some((code, reason)) => count.failed_init += usize::from(!runs_again(container, code, reason)),
                None => count.pending_init += 1,
            },
            _ => count.pending_init += 1,
        }
    }
    for container in pod::containers(pod) {
        let Some(status) = find(container) else {
            count.unknown += 1;
            continue;
        };
        if is_running(status) {
            count.running += 1;
        } else if let Some((code, reason)) = ended(status) {
            count.stopped += 1;
            count.done += usize::from(!runs_again(container, code, reason));
            // One that waits for its next start has not succeeded.
            count.succeeded += usize::from(code == 0 && !is_waiting(status));
        } else if is_waiting(status) {
            count.waiting += 1;
        } else {
            count.unknown += 1;
        }
    }
    decide(pod, &count, terminal, initialized)
}

fn sidecar(status: Option<&ContainerStatus>, count: &mut Count) {
    let Some(status) = status else {
        count.unknown += 1;
        return;
    };
    if is_running(status) {
        count.pending_sidecars += usize::from(status.started != Some(true));
        count.running += 1;
    } else if ended(status).is_some() {
        // Ended sidecars are started again, or are of no account at the pod's end.
    } else {
        count.pending_sidecars += 1;
        if is_waiting(status) { count.waiting += 1 } else { count.unknown += 1 }
    }
}

fn decide(pod: &Pod, count: &Count, terminal: bool, initialized: bool) -> &'static str {
    if count.failed_init > 0 {
        return "Failed";
    }
    if count.pending_init > 0 || (count.pending_sidecars > 0 && !initialized) || count.waiting > 0 {
        return "Pending";
    }
    if count.running > 0 && count.unknown == 0 {
        return "Running";
    }
    if count.running > 0 || count.stopped == 0 || count.unknown > 0 {
        return "Pending";
    }
    let final_phase = if count.stopped == count.succeeded { "Succeeded" } else { "Failed" };
    if terminal && !pod::is_static(pod) {
        return final_phase;
    }
    if count.stopped != count.done { "Running" } else { final_phase }
}
