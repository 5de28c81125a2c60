//! Whether runtime and network are ready, as the runtime told last.

use std::collections::BTreeMap;
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
    /// What the runtime's handlers can do, by name; empty if it does not tell.
    handlers: BTreeMap<String, v1::RuntimeHandlerFeatures>,
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

    /// Takes what the runtime says of its handlers.
    pub fn heard_of_handlers(&self, handlers: &[v1::RuntimeHandler]) {
        let features = handlers.iter().map(|handler| (handler.name.clone(), handler.features.unwrap_or_default()));
        self.state.write().handlers = features.collect();
    }

    /// What a handler can do. The error is upstream's, for a runtime that tells of others only.
    pub fn handler(&self, name: &str) -> Result<v1::RuntimeHandlerFeatures, String> {
        let state = self.state.read();
        match state.handlers.get(name) {
            Some(features) => Ok(*features),
            None if state.handlers.is_empty() => Ok(v1::RuntimeHandlerFeatures::default()),
            None => Err(format!("the handler {name:?} is not known")),
        }
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
