//! Whether a pod's sandbox can go on being used.

use k8s_openapi::api::core::v1::Pod;

use crate::cri::v1;
use crate::pod;
use crate::runtime_status::PodStatus;

/// What is to be said of a pod's newest sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Why a new one is needed, in the words of the condition `PodReadyToStartContainers`.
    pub fault: Option<&'static str>,
    /// The number of the one in use, or of the one to be made.
    pub attempt: u32,
    /// The one there is; empty if there is none, or if it is of another kind.
    pub id: String,
}

pub fn check(pod: &Pod, status: &PodStatus) -> Check {
    let Some(newest) = status.sandboxes.first() else {
        return Check { fault: Some("no pod sandbox exists"), attempt: 0, id: String::new() };
    };
    let attempt = newest.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    let renew = |fault, id: &str| Check { fault: Some(fault), attempt: attempt + 1, id: id.to_owned() };
    let is_ready = |sandbox: &&v1::PodSandboxStatus| sandbox.state() == v1::PodSandboxState::SandboxReady;
    if status.sandboxes.iter().filter(is_ready).count() > 1 {
        return renew("multiple pod sandboxes are ready and need to be reconciled", &newest.id);
    }
    if !is_ready(&newest) {
        return renew("pod sandbox is not ready", &newest.id);
    }
    let options = newest.linux.as_ref().and_then(|linux| linux.namespaces.as_ref()?.options.as_ref());
    let network = options.map_or(v1::NamespaceMode::Pod, |options| options.network());
    let on_host = pod::is_host_network(pod);
    if (network == v1::NamespaceMode::Node) != on_host {
        return renew("network namespace mode changed and sandbox needs to be recreated", "");
    }
    if !on_host && newest.network.as_ref().is_some_and(|network| network.ip.is_empty()) {
        return renew("pod sandbox has no IP address", &newest.id);
    }
    Check { fault: None, attempt, id: newest.id.clone() }
}
