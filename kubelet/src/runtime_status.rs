//! What the runtime says of a pod: its sandboxes and containers, and what the kubelet wrote on them when it made them.
//!
//! Read anew whenever a pod is synced, so that a kubelet that starts finds running pods as they are. Decides nothing.

mod observe;
mod termination_message;

use std::collections::HashMap;

use jiff::Timestamp;

use crate::cri::v1;

pub use observe::observe;

/// Labels and annotations that containers and sandboxes carry, as upstream writes them.
pub mod mark {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
    pub const PORTS: &str = "io.kubernetes.container.ports";
    pub const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

impl State {
    /// The word that messages use.
    pub fn word(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Exited => "exited",
            State::Unknown => "unknown",
        }
    }
}

/// One container as the runtime has it; there may be several of one name, from before restarts.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub sandbox_id: String,
    pub state: State,
    pub created_at: Timestamp,
    /// None before it was started.
    pub started_at: Option<Timestamp>,
    /// None before it has exited.
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    /// The image's name, as the runtime resolved it.
    pub image: String,
    /// What `status.containerStatuses[].imageID` tells.
    pub image_ref: String,
    /// The image by its id in the runtime.
    pub image_id: String,
    /// None on containers that no kubelet made.
    pub hash: Option<u64>,
    pub restart_count: u32,
    pub log_path: String,
    pub user: Option<v1::ContainerUser>,
    pub resources: Option<v1::ContainerResources>,
    pub mounts: Vec<v1::Mount>,
    pub annotations: HashMap<String, String>,
}

/// A pod as the runtime has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodStatus {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    /// Addresses of the newest sandbox while it is ready.
    pub ips: Vec<String>,
    /// The newest first.
    pub sandboxes: Vec<v1::PodSandboxStatus>,
    /// The newest first.
    pub containers: Vec<Container>,
}

impl PodStatus {
    /// The newest container of a name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    fn active_sandbox(&self) -> Option<&str> {
        self.sandboxes.first().filter(|sandbox| sandbox.state() == v1::PodSandboxState::SandboxReady).map(|sandbox| sandbox.id.as_str())
    }

    /// The containers that live in the sandbox that is in use.
    pub fn active(&self) -> impl Iterator<Item = &Container> {
        let sandbox = self.active_sandbox();
        self.containers.iter().filter(move |container| Some(container.sandbox_id.as_str()) == sandbox)
    }

    /// The newest container of a name in the sandbox that is in use.
    pub fn active_container(&self, name: &str) -> Option<&Container> {
        self.active().find(|container| container.name == name)
    }

    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|container| container.state == State::Running)
    }

    /// Whether nothing of the pod can still be running.
    pub fn is_stopped(&self) -> bool {
        self.running().next().is_none() && self.sandboxes.iter().all(|s| s.state() != v1::PodSandboxState::SandboxReady)
    }
}
