//! What is to be done so that a pod runs as it says: a plan, made of what is wanted and what is there.
//!
//! Pure. Whether a restart has to wait is not decided here (see `backoff`), and neither is when a pod ends (see `pod_worker`).

mod init_containers;
pub mod restart;
pub mod sandbox;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::container_config::labels;
use crate::pod;
use crate::probes::Verdicts;
use crate::resize::{self, Actuated, Step};
use crate::runtime_status::{self, PodStatus, State};

/// Why a container is killed, where that decides how long it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    StartupProbe,
    LivenessProbe,
    Other,
}

/// One step. Steps are taken in order; the first that fails ends the plan, but for [`Action::Start`] and
/// [`Action::StartEphemeral`], and for [`Action::StartInit`] of containers that go on running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Stop all containers and sandboxes.
    StopPod,
    Kill {
        id: String,
        name: String,
        message: String,
        reason: KillReason,
    },
    /// Kill without delay if it runs, then remove, keeping its logs.
    Reset {
        id: String,
        name: String,
        kill: bool,
    },
    /// Remove an init container of an earlier try.
    Remove {
        id: String,
    },
    /// `changed`: there was one that does not fit.
    CreateSandbox {
        attempt: u32,
        changed: bool,
    },
    /// By their place in the spec.
    StartEphemeral(usize),
    StartInit(usize),
    Start(usize),
    /// Give a running container what was allocated to it, by its name.
    Resize {
        id: String,
        name: String,
    },
}

/// What a plan needs to know beside pod and status.
#[derive(Clone, Copy, Default)]
pub struct Circumstances<'a> {
    pub verdicts: Option<&'a Verdicts>,
    /// The pod has the condition `AllContainersRestarting`.
    pub restart_all: bool,
    /// What running containers have; of those that are not listed nothing is known.
    pub actuated: Option<&'a Actuated>,
}

#[derive(Default)]
struct Changes {
    stop_pod: bool,
    kill: Vec<Action>,
    init: Vec<usize>,
    start: Vec<usize>,
    ephemeral: Vec<usize>,
    resize: Vec<Action>,
}

/// The plan.
pub fn plan(pod: &Pod, status: &PodStatus, circumstances: Circumstances<'_>) -> Vec<Action> {
    if circumstances.restart_all {
        return reset_all(pod, status);
    }
    let sandbox = sandbox::check(pod, status);
    if let Some(fault) = &sandbox.fault {
        return recreate(pod, status, &sandbox, fault);
    }
    let mut changes = Changes::default();
    // Ephemeral containers are never started twice.
    let ephemeral = pod::ephemeral_containers(pod).iter().enumerate();
    changes.ephemeral = ephemeral.filter(|(_, c)| status.container(&c.name).is_none()).map(|(i, _)| i).collect();
    let initialized = init_containers::plan(pod, status, circumstances, &mut changes);
    if !changes.stop_pod && initialized {
        regular_containers(pod, status, circumstances, &mut changes);
    }
    changes.into_actions(pod, status)
}

impl Changes {
    fn into_actions(self, pod: &Pod, status: &PodStatus) -> Vec<Action> {
        let mut actions = if self.stop_pod { vec![Action::StopPod] } else { self.kill };
        actions.extend(init_containers::stale(pod, status).map(|id| Action::Remove { id }));
        actions.extend(self.resize);
        actions.extend(self.ephemeral.into_iter().map(Action::StartEphemeral));
        actions.extend(self.init.into_iter().map(Action::StartInit));
        actions.extend(self.start.into_iter().map(Action::Start));
        actions
    }
}

/// The sandbox is missing or does not fit: everything begins anew, or nothing does if the pod has run its course.
fn recreate(pod: &Pod, status: &PodStatus, sandbox: &sandbox::Check, _fault: &str) -> Vec<Action> {
    let mut actions = vec![];
    if !status.sandboxes.is_empty() || !status.containers.is_empty() {
        actions.push(Action::StopPod);
    }
    let never = pod::spec(pod).restart_policy.as_deref() == Some("Never");
    if never && sandbox.attempt != 0 && !status.containers.is_empty() {
        return actions;
    }
    let runs_again = |container: &Container| {
        let policy = container.restart_policy.as_deref().or(pod::spec(pod).restart_policy.as_deref());
        policy != Some("OnFailure") || !has_succeeded(status, &container.name)
    };
    let start: Vec<usize> = pod::containers(pod).iter().enumerate().filter(|(_, c)| runs_again(c)).map(|(i, _)| i).collect();
    if start.is_empty() && any_regular_created(pod, status) {
        return actions;
    }
    actions.extend(init_containers::all_known(pod, status).map(|id| Action::Remove { id }));
    actions.push(Action::CreateSandbox { attempt: sandbox.attempt, changed: !sandbox.id.is_empty() });
    if pod::init_containers(pod).is_empty() {
        actions.extend(start.into_iter().map(Action::Start));
    } else {
        actions.push(Action::StartInit(0));
    }
    actions
}

fn has_succeeded(status: &PodStatus, name: &str) -> bool {
    status.container(name).is_some_and(|c| c.state == State::Exited && c.exit_code == 0)
}

/// Whether the runtime has any container of the main part, which means that initialization was done once.
pub fn any_regular_created(pod: &Pod, status: &PodStatus) -> bool {
    let known = pod::containers(pod).iter().filter_map(|container| status.container(&container.name));
    known.into_iter().any(|container| container.state != State::Unknown)
}

/// Whether the sandbox in use has any container of the main part.
pub fn any_regular_active(pod: &Pod, status: &PodStatus) -> bool {
    status.active().any(|active| pod::containers(pod).iter().any(|container| container.name == active.name))
}

fn regular_containers(pod: &Pod, status: &PodStatus, circumstances: Circumstances<'_>, changes: &mut Changes) {
    let mut kept = 0;
    for (index, container) in pod::containers(pod).iter().enumerate() {
        let running = match status.container(&container.name) {
            Some(known) if known.state == State::Running => known,
            known => {
                if restart::should_start(container, pod, status) {
                    changes.start.push(index);
                    if let Some(unknown) = known.filter(|known| known.state == State::Unknown) {
                        changes.kill.push(kill_unknown("Container", unknown));
                    }
                }
                continue;
            }
        };
        // Rules look at exit codes, and this one has not exited: only the policy counts.
        let policy = container.restart_policy.as_deref().or(pod::spec(pod).restart_policy.as_deref());
        match fault_of(container, running, circumstances.verdicts, "Container") {
            None if resize(container, running, circumstances.actuated, changes) => changes.start.push(index),
            None => kept += 1,
            Some((message, reason)) => {
                let restart = reason == KillReason::Other || policy != Some("Never");
                let message = if restart { format!("{message}, will be restarted") } else { message };
                if restart {
                    changes.start.push(index);
                }
                changes.kill.push(Action::Kill { id: running.id.clone(), name: running.name.clone(), message, reason });
            }
        }
    }
    if kept == 0 && changes.start.is_empty() {
        changes.stop_pod = true;
        changes.init.clear();
    }
}

/// What is wrong with a running container, in upstream's words.
fn fault_of(
    container: &Container,
    running: &runtime_status::Container,
    verdicts: Option<&Verdicts>,
    kind: &str,
) -> Option<(String, KillReason)> {
    let name = &container.name;
    if running.hash.is_some_and(|hash| hash != labels::hash(container)) {
        return Some((format!("{kind} {name} definition changed"), KillReason::Other));
    }
    let verdicts = verdicts?;
    if verdicts.liveness(&running.id) == Some(false) {
        return Some((format!("{kind} {name} failed liveness probe"), KillReason::LivenessProbe));
    }
    if verdicts.startup(&running.id) == Some(false) {
        return Some((format!("{kind} {name} failed startup probe"), KillReason::StartupProbe));
    }
    None
}

/// Whether the container has to be started anew to have what was allocated to it.
fn resize(container: &Container, running: &runtime_status::Container, actuated: Option<&Actuated>, changes: &mut Changes) -> bool {
    let actuated = actuated.and_then(|actuated| actuated.get(&container.name));
    let (id, name) = (running.id.clone(), running.name.clone());
    match resize::step(container, actuated) {
        Step::Nothing => {}
        Step::Update if resize::shrinks(container, actuated) => changes.resize.insert(0, Action::Resize { id, name }),
        Step::Update => changes.resize.push(Action::Resize { id, name }),
        Step::Restart => {
            let message = format!("Container {name} resize requires restart");
            changes.kill.push(Action::Kill { id, name, message, reason: KillReason::Other });
            return true;
        }
    }
    false
}

fn kill_unknown(kind: &str, container: &runtime_status::Container) -> Action {
    Action::Kill {
        id: container.id.clone(),
        name: container.name.clone(),
        message: format!("{kind} is in {:?} state, try killing it before restart", container.state.word()),
        reason: KillReason::Other,
    }
}

/// All containers are removed, those that asked for it last.
fn reset_all(pod: &Pod, status: &PodStatus) -> Vec<Action> {
    let resets = |containers: &[Container]| {
        let (mut sources, mut targets) = (Vec::new(), Vec::new());
        for container in containers {
            for known in status.containers.iter().filter(|known| known.name == container.name) {
                let exited = known.state == State::Exited;
                let asked = exited && restart::asks_for_all(container, known.exit_code);
                let reset = Action::Reset { id: known.id.clone(), name: known.name.clone(), kill: !exited };
                if asked { sources.push(reset) } else { targets.push(reset) }
            }
        }
        (sources, targets)
    };
    let (init_sources, init_targets) = resets(pod::init_containers(pod));
    let (sources, targets) = resets(pod::containers(pod));
    [targets, init_targets, sources, init_sources].concat()
}

#[cfg(test)]
mod tests;
