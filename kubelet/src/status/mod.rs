//! What the API server is told of a pod: made from what the pod wants, what the runtime has, and what was told before.
//!
//! Pure; [`crate::status_manager`] sends it.

mod conditions;
mod container_statuses;
pub mod patch;
mod phase;
mod resources;

use std::collections::HashMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus as ApiStatus};

use crate::container_config::qos;
use crate::pod;
use crate::probes::Verdicts;
use crate::resize::Actuated;
use crate::runtime_status::PodStatus;
use crate::sync_pod::{any_regular_active, restart};

pub use conditions::with_transition_times;

/// Why a container that should run is waiting: a reason and a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

/// Why a pod was ended from here: what its status says then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    /// What the condition DisruptionTarget says, for a pod that is not itself to blame.
    pub disrupted: Option<String>,
    /// Whether a pod that has succeeded meanwhile stays so.
    pub unless_succeeded: bool,
}

/// What a status is made of, beside the pod.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub observed: &'a PodStatus,
    /// What was told last; the pod's own status if nothing was.
    pub told: &'a ApiStatus,
    /// The runtime's name, which container ids begin with.
    pub runtime: &'a str,
    pub host_ips: &'a [IpAddr],
    /// By the container's name.
    pub waiting: &'a HashMap<String, Waiting>,
    pub verdicts: &'a Verdicts,
    /// Whether all containers have ended for good.
    pub terminal: bool,
    /// Evicted, or past its deadline: what is to be said then.
    pub failure: Option<&'a Failure>,
    /// Whether the pod's runtime can mount read-only recursively.
    pub recursive_read_only: bool,
    /// What containers were made with or changed to, by name.
    pub actuated: &'a Actuated,
    /// Conditions that tell of a resize.
    pub resize: &'a [PodCondition],
}

/// The status.
pub fn generate(pod: &Pod, inputs: Inputs<'_>) -> ApiStatus {
    let own = pod.status.as_ref();
    let restarting = restart::all_should_restart(pod, inputs.observed, inputs.told);
    let mut status =
        ApiStatus { qos_class: Some(qos::class(pod).to_string()), observed_generation: pod.metadata.generation, ..ApiStatus::default() };
    container_statuses::fill(pod, inputs, restarting, &mut status);
    let initialized = any_regular_active(pod, inputs.observed);
    let all: Vec<ContainerStatus> = status.container_statuses.iter().chain(&status.init_container_statuses).flatten().cloned().collect();
    let mut phase = phase::of(pod, &all, inputs.terminal, initialized).to_owned();
    // A phase that is final stays, whatever the runtime still shows.
    if !pod::is_terminal_phase(&phase) {
        let before = [inputs.told.phase.as_deref(), own.and_then(|s| s.phase.as_deref())];
        if let Some(last) = before.into_iter().flatten().find(|phase| pod::is_terminal_phase(phase)) {
            phase = last.to_owned();
        }
    }
    if inputs.told.phase.as_deref() == Some(phase.as_str()) {
        let non_empty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        status.reason = non_empty(&inputs.told.reason).or_else(|| own.and_then(|s| non_empty(&s.reason)));
        status.message = non_empty(&inputs.told.message).or_else(|| own.and_then(|s| non_empty(&s.message)));
    }
    if let Some(failure) = inputs.failure {
        if !failure.unless_succeeded || phase != "Succeeded" {
            phase = "Failed".to_owned();
        }
        status.reason = Some(failure.reason.clone());
        status.message = Some(failure.message.clone());
    }
    if let Some(last) = own.and_then(|s| s.phase.as_deref()).filter(|phase| pod::is_terminal_phase(phase)) {
        phase = last.to_owned();
    }
    status.phase = Some(phase);
    container_statuses::apply_verdicts(pod, inputs, &mut status);
    status.conditions = Some(conditions::all(pod, inputs, &status, restarting));
    addresses(pod, inputs, &mut status);
    status.resources = resources::of_pod(pod);
    status.allocated_resources = resources::requests_of_pod(pod);
    status
}

fn addresses(pod: &Pod, inputs: Inputs<'_>, status: &mut ApiStatus) {
    let host: Vec<String> = inputs.host_ips.iter().map(IpAddr::to_string).collect();
    let mut ips = sorted(&inputs.observed.ips, inputs.host_ips.first());
    if !host.is_empty() {
        status.host_ip = host.first().cloned();
        status.host_ips = Some(host.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
        if pod::is_host_network(pod) && ips.is_empty() {
            ips.clone_from(&host);
        }
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
}

/// At most one address of each family, that of the node's first.
fn sorted(ips: &[String], primary: Option<&IpAddr>) -> Vec<String> {
    let parsed: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let six_first = primary.is_some_and(IpAddr::is_ipv6);
    let first_of = |six: bool| parsed.iter().find(|ip| ip.is_ipv6() == six);
    [first_of(six_first), first_of(!six_first)].into_iter().flatten().map(IpAddr::to_string).collect()
}

/// What is told of a pod that is not let onto the node.
pub fn rejected(pod: &Pod, reason: &str, message: &str, host_ips: &[IpAddr]) -> ApiStatus {
    let host: Vec<String> = host_ips.iter().map(IpAddr::to_string).collect();
    let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    conditions.retain(|condition| !conditions::is_kubelets(&condition.type_) || condition.type_ == "PodScheduled");
    ApiStatus {
        qos_class: Some(qos::class(pod).to_string()),
        observed_generation: pod.metadata.generation,
        phase: Some("Failed".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(format!("Pod was rejected: {message}")),
        conditions: (!conditions.is_empty()).then_some(conditions),
        host_ip: host.first().cloned(),
        host_ips: (!host.is_empty()).then(|| host.into_iter().map(|ip| HostIP { ip }).collect()),
        ..ApiStatus::default()
    }
}

#[cfg(test)]
mod tests;
