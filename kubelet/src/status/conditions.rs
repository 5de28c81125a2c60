//! The pod's conditions: those of the kubelet made anew, those of others as they are.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus as ApiStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::Inputs;
use crate::pod;
use crate::sync_pod::{restart, sandbox};

/// Whether a condition is the kubelet's own to set.
pub fn is_kubelets(condition: &str) -> bool {
    matches!(
        condition,
        "PodScheduled"
            | "Ready"
            | "Initialized"
            | "ContainersReady"
            | "PodResizeInProgress"
            | "PodResizePending"
            | "PodReadyToStartContainers"
            | "AllContainersRestarting"
    )
}

struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Verdict {
        Verdict { holds: true, reason: "", message: String::new() }
    }

    fn no(reason: &'static str, message: String) -> Verdict {
        Verdict { holds: false, reason, message }
    }

    fn condition(self, name: &str, generation: Option<i64>) -> PodCondition {
        let non_empty = |text: String| (!text.is_empty()).then_some(text);
        PodCondition {
            type_: name.to_owned(),
            status: if self.holds { "True" } else { "False" }.to_owned(),
            reason: non_empty(self.reason.to_owned()),
            message: non_empty(self.message),
            observed_generation: generation,
            ..PodCondition::default()
        }
    }
}

/// All conditions of the pod. `status` has everything else already.
pub(super) fn all(pod: &Pod, inputs: Inputs<'_>, status: &ApiStatus, restarting: bool) -> Vec<PodCondition> {
    let generation = pod.metadata.generation;
    let own = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut conditions: Vec<PodCondition> = own.filter(|condition| !is_kubelets(&condition.type_)).cloned().collect();
    conditions.extend(inputs.resize.iter().cloned());
    // Disruption is told by several: what this kubelet told stays.
    if let Some(told) = inputs.told.conditions.iter().flatten().find(|condition| condition.type_ == "DisruptionTarget") {
        conditions.retain(|condition| condition.type_ != "DisruptionTarget");
        conditions.push(told.clone());
    }
    if let Some(message) = inputs.failure.and_then(|failure| failure.disrupted.clone()) {
        conditions.retain(|condition| condition.type_ != "DisruptionTarget");
        let disrupted = Verdict { holds: true, reason: "TerminationByKubelet", message };
        conditions.push(disrupted.condition("DisruptionTarget", generation));
    }
    let phase = status.phase.as_deref().unwrap_or("");
    let statuses: Vec<&ContainerStatus> = status.init_container_statuses.iter().chain(&status.container_statuses).flatten().collect();
    let sandbox = match sandbox::check(pod, inputs.observed).fault {
        None => Verdict::yes(),
        Some(fault) => Verdict::no("PodSandboxNotReady", fault.to_owned()),
    };
    conditions.push(sandbox.condition("PodReadyToStartContainers", generation));
    conditions.push(initialized(pod, inputs.told, &statuses, phase).condition("Initialized", generation));
    let containers = containers_ready(pod, &statuses, phase);
    let ready = if containers.holds {
        gates(pod, &conditions)
    } else {
        Verdict { holds: false, reason: containers.reason, message: containers.message.clone() }
    };
    conditions.push(ready.condition("Ready", generation));
    conditions.push(containers.condition("ContainersReady", generation));
    conditions.push(Verdict::yes().condition("PodScheduled", generation));
    if restart::all_could_restart(pod) {
        conditions.push(all_restarting(pod, inputs, phase, restarting).condition("AllContainersRestarting", None));
    }
    conditions
}

/// Names as Go prints a slice of them.
fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn containers_ready(pod: &Pod, statuses: &[&ContainerStatus], phase: &str) -> Verdict {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = pod::init_containers(pod).iter().filter(|container| pod::is_sidecar(container));
    for container in sidecars.chain(pod::containers(pod)) {
        match statuses.iter().find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict::no("PodCompleted", String::new());
    }
    if phase == "Failed" {
        return Verdict::no("PodFailed", String::new());
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", list(&unknown)));
    }
    if !unready.is_empty() {
        messages.push(format!("containers with unready status: {}", list(&unready)));
    }
    if messages.is_empty() { Verdict::yes() } else { Verdict::no("ContainersNotReady", messages.join(", ")) }
}

fn gates(pod: &Pod, conditions: &[PodCondition]) -> Verdict {
    let mut messages = Vec::new();
    for gate in pod::spec(pod).readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match conditions.iter().find(|condition| condition.type_ == *name) {
            None => messages.push(format!("corresponding condition of pod readiness gate {name:?} does not exist.")),
            Some(condition) if condition.status != "True" => {
                messages.push(format!("the status of pod readiness gate {name:?} is not \"True\", but {}", condition.status));
            }
            Some(_) => {}
        }
    }
    if messages.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", messages.join(", ")) }
}

fn initialized(pod: &Pod, told: &ApiStatus, statuses: &[&ContainerStatus], phase: &str) -> Verdict {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in pod::init_containers(pod) {
        let Some(status) = statuses.iter().find(|status| status.name == container.name) else {
            unknown.push(container.name.as_str());
            continue;
        };
        let done = if pod::is_sidecar(container) { status.started == Some(true) } else { status.ready };
        if !done {
            incomplete.push(container.name.as_str());
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict { reason: "PodCompleted", ..Verdict::yes() };
    }
    let has_started =
        |status: &&ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some());
    let main = |status: &&&ContainerStatus| pod::containers(pod).iter().any(|container| container.name == status.name);
    if statuses.iter().filter(main).any(has_started) {
        return Verdict::yes();
    }
    let mut messages = Vec::new();
    if !unknown.is_empty() {
        messages.push(format!("containers with unknown status: {}", list(&unknown)));
    }
    if !incomplete.is_empty() {
        messages.push(format!("containers with incomplete status: {}", list(&incomplete)));
    }
    // A pod whose containers are all restarted has been initialized once, and stays so.
    let was = told.conditions.iter().flatten().any(|condition| condition.type_ == "Initialized" && condition.status == "True");
    if messages.is_empty() || was { Verdict::yes() } else { Verdict::no("ContainersNotInitialized", messages.join(", ")) }
}

fn all_restarting(pod: &Pod, inputs: Inputs<'_>, phase: &str, restarting: bool) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", String::new()),
        "Failed" => return Verdict::no("PodFailed", String::new()),
        _ => {}
    }
    let all = || pod::init_containers(pod).iter().chain(pod::containers(pod));
    let cleaned_up = !all().any(|container| inputs.observed.container(&container.name).is_some());
    if !restarting || cleaned_up {
        return Verdict::no("", String::new());
    }
    let message = "container exited with restart policy rule".to_owned();
    Verdict { holds: true, reason: "RestartAllContainersStarted", message }
}

/// Gives each condition the time at which its status last changed: that of before if it has not, else now.
pub fn with_transition_times(mut status: ApiStatus, before: &ApiStatus, now: Timestamp) -> ApiStatus {
    for condition in status.conditions.iter_mut().flatten() {
        let old = before.conditions.iter().flatten().find(|old| old.type_ == condition.type_);
        condition.last_transition_time = match old {
            Some(old) if old.status == condition.status && old.last_transition_time.is_some() => old.last_transition_time.clone(),
            _ if condition.last_transition_time.is_some() => condition.last_transition_time.clone(),
            _ => Some(Time(now)),
        };
    }
    status
}
