//! What the runtime says of a pod: its sandboxes and containers, and what the kubelet wrote on them when it made them.
//!
//! Read anew whenever a pod is synced, so that a kubelet that starts finds running pods as they are. Decides nothing.

mod observe;
mod termination_message;

use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;

use crate::cri::v1;

pub use observe::{addresses, observe};

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

impl Container {
    /// A container of which no more is known than that it was just started.
    pub fn named(id: &str, name: &str) -> Container {
        Container {
            id: id.to_owned(),
            name: name.to_owned(),
            sandbox_id: String::new(),
            state: State::Running,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_ref: String::new(),
            image_id: String::new(),
            hash: None,
            restart_count: 0,
            log_path: String::new(),
            user: None,
            resources: None,
            mounts: Vec::new(),
            annotations: HashMap::new(),
        }
    }
}
