//! Whether runtime and network are ready, as the runtime told last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::cri::v1;

/// A runtime that has not answered for so long counts as gone.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct State {
    heard: Option<Instant>,
    runtime: Option<String>,
    network: Option<String>,
}

/// Clones are the same.
#[derive(Clone, Default)]
pub struct RuntimeState {
    state: Arc<RwLock<State>>,
}

/// A condition as messages show it.
fn words(condition: &v1::RuntimeCondition) -> String {
    format!("{}={} reason:{} message:{}", condition.r#type, condition.status, condition.reason, condition.message)
}

impl RuntimeState {
    /// Takes what the runtime says of itself.
    pub fn heard(&self, status: &v1::RuntimeStatus) {
        let condition = |name: &str| status.conditions.iter().find(|condition| condition.r#type == name);
        let problem = |name: &str, what: &str| match condition(name) {
            None => Some(format!("{what} not ready: condition {name} is missing")),
            Some(condition) if !condition.status => Some(format!("{what} not ready: {}", words(condition))),
            Some(_) => None,
        };
        let mut state = self.state.write();
        state.heard = Some(Instant::now());
        state.runtime = problem("RuntimeReady", "container runtime");
        state.network = problem("NetworkReady", "container runtime network");
    }

    /// Why pods cannot be run, if they cannot.
    pub fn runtime_problem(&self) -> Option<String> {
        let state = self.state.read();
        match state.heard {
            None => Some("container runtime status check may not have completed yet".to_owned()),
            Some(heard) if heard.elapsed() > SILENCE => Some("container runtime is down".to_owned()),
            Some(_) => state.runtime.clone(),
        }
    }

    /// Why pods with a network of their own cannot be run, if they cannot.
    pub fn network_problem(&self) -> Option<String> {
        self.state.read().network.clone()
    }
}
