//! How far a pod's initialization has come, and its next step.
//!
//! Init containers run one after another; those with the restart policy `Always` go on running, and the next may begin as soon as
//! they have started. The furthest one tells how far it has come, so they are looked at from the last to the first.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Action, Changes, Circumstances, KillReason, any_regular_active, fault_of, kill_unknown, resize, restart};
use crate::pod;
use crate::runtime_status::{self, PodStatus, State};

/// Adds to `changes` what initialization asks for; whether the main containers may run.
pub(super) fn plan(pod: &Pod, status: &PodStatus, circumstances: Circumstances<'_>, changes: &mut Changes) -> bool {
    let containers = pod::init_containers(pod);
    if containers.is_empty() {
        return true;
    }
    let mut initialized = any_regular_active(pod, status);
    // Whether a later container shows that this one is through.
    let mut passed = initialized;
    for (index, container) in containers.iter().enumerate().rev() {
        let sidecar = pod::is_sidecar(container);
        let Some(known) = status.active_container(&container.name) else {
            if passed && sidecar {
                changes.init.push(index);
            }
            continue;
        };
        if passed && !sidecar {
            continue;
        }
        let last = index + 1 == containers.len();
        match known.state {
            State::Created => changes.init.push(index),
            State::Running if sidecar => {
                let place = Place { index, last, passed };
                initialized |= running_sidecar(container, known, circumstances, place, changes);
            }
            State::Running => {}
            State::Exited if sidecar => changes.init.push(index),
            State::Exited if known.exit_code == 0 => {
                if last {
                    initialized = true;
                } else {
                    changes.init.push(index + 1);
                }
            }
            State::Exited if !restart::after_exit(container, pod::spec(pod), known.exit_code) => {
                changes.stop_pod = true;
                changes.init.clear();
                return false;
            }
            State::Exited => changes.init.push(index),
            State::Unknown => {
                let policy = container.restart_policy.as_deref().or(pod::spec(pod).restart_policy.as_deref());
                if policy == Some("Never") {
                    changes.stop_pod = true;
                    changes.init.clear();
                    return false;
                }
                changes.kill.push(kill_unknown("Init container", known));
                changes.init.push(index);
            }
        }
        passed = true;
    }
    if !passed {
        changes.init.push(0);
    }
    changes.init.reverse();
    initialized
}

struct Place {
    index: usize,
    last: bool,
    passed: bool,
}

/// Whether this one makes the pod initialized.
fn running_sidecar(
    container: &Container,
    known: &runtime_status::Container,
    circumstances: Circumstances<'_>,
    place: Place,
    changes: &mut Changes,
) -> bool {
    if container.startup_probe.is_some() {
        match circumstances.verdicts.and_then(|verdicts| verdicts.startup(&known.id)) {
            Some(true) => {}
            Some(false) => {
                let message = format!("Init container {} failed startup probe", container.name);
                changes.kill.push(kill(known, message, KillReason::StartupProbe));
                changes.init.push(place.index);
                return false;
            }
            None => return false,
        }
    }
    if !place.last && !place.passed {
        changes.init.push(place.index + 1);
    }
    if let Some((message, reason)) = fault_of(container, known, circumstances.verdicts, "Init container") {
        changes.kill.push(kill(known, message, reason));
        changes.init.push(place.index);
    } else if resize(container, known, circumstances.actuated, changes) {
        changes.init.push(place.index);
    }
    place.last
}

fn kill(known: &runtime_status::Container, message: String, reason: KillReason) -> Action {
    Action::Kill { id: known.id.clone(), name: known.name.clone(), message, reason }
}

/// Init containers of earlier tries: all that have ended, but for the newest of each name.
pub(super) fn stale<'a>(pod: &'a Pod, status: &'a PodStatus) -> impl Iterator<Item = String> + 'a {
    let mut seen = HashSet::new();
    all(pod, status)
        .filter(|known| matches!(known.state, State::Exited | State::Unknown))
        .filter(move |known| !seen.insert(known.name.as_str()))
        .map(|known| known.id.clone())
}

/// All init containers that the runtime has.
pub(super) fn all_known<'a>(pod: &'a Pod, status: &'a PodStatus) -> impl Iterator<Item = String> + 'a {
    all(pod, status).map(|known| known.id.clone())
}

fn all<'a>(pod: &'a Pod, status: &'a PodStatus) -> impl Iterator<Item = &'a runtime_status::Container> {
    status.containers.iter().filter(|known| pod::init_containers(pod).iter().any(|container| container.name == known.name))
}
