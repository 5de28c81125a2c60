//! What must hold: of every change as it is made, and of a cluster at rest.
//!
//! Controllers act on what they have seen, which is a little old. So limits that users change are held against the widest that was
//! set within [`lately::WINDOW`]; what never may happen, old sight or not, has no such mercy.

mod daemon_set;
mod deployment;
mod devices;
mod disruption;
mod job;
pub mod lately;
mod ownership;
mod pods;
mod quota;
mod replica_set;
mod scheduling;
mod service;
mod stateful_set;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::api::core::{Assumed, Listener};
use crate::api::state::{Change, State};

/// Something that must hold.
pub trait Invariant: Send {
    /// Of a change, after it was made.
    fn changed(&mut self, _state: &State, _change: &Change) -> Result<(), String> {
        Ok(())
    }

    /// Nothing holds of what the scheduler has only begun to do, but some take it into account.
    fn assumed(&mut self, _state: &State, _pod: &Assumed<'_>) {}

    /// Of a cluster at rest.
    fn at_rest(&self, _state: &State) -> Result<(), String> {
        Ok(())
    }
}

/// All of them, and the first that did not hold.
pub struct Invariants {
    all: Vec<Box<dyn Invariant>>,
    broken: Option<String>,
}

impl Default for Invariants {
    fn default() -> Invariants {
        let all: Vec<Box<dyn Invariant>> = vec![
            Box::<deployment::Surge>::default(),
            Box::<deployment::Unavailability>::default(),
            Box::new(deployment::Rest),
            Box::<replica_set::Pods>::default(),
            Box::<stateful_set::Order>::default(),
            Box::<stateful_set::Updates>::default(),
            Box::<daemon_set::OneANode>::default(),
            Box::<job::Counting>::default(),
            Box::<job::Parallelism>::default(),
            Box::<job::Indexes>::default(),
            Box::<disruption::Budgets>::default(),
            Box::new(scheduling::Placement),
            Box::<scheduling::Fit>::default(),
            Box::<scheduling::Preemption>::default(),
            Box::new(devices::Devices),
            Box::new(ownership::Owners),
            Box::<ownership::Orphans>::default(),
            Box::new(quota::Used),
            Box::new(pods::Rest),
            Box::new(service::Endpoints),
        ];
        Invariants { all, broken: None }
    }
}

impl Invariants {
    pub fn broken(&self) -> Option<String> {
        self.broken.clone()
    }

    pub fn at_rest(&self, state: &State) -> Result<(), String> {
        self.all.iter().try_for_each(|invariant| invariant.at_rest(state))
    }
}

impl Listener for Arc<Mutex<Invariants>> {
    fn changed(&mut self, state: &State, change: &Change) {
        let invariants = &mut *self.lock();
        for invariant in &mut invariants.all {
            if let Err(what) = invariant.changed(state, change) {
                invariants.broken.get_or_insert(what);
            }
        }
    }

    fn assumed(&mut self, state: &State, pod: &Assumed<'_>) {
        self.lock().all.iter_mut().for_each(|invariant| invariant.assumed(state, pod));
    }
}

/// Whether a controller made the change, and not a user or a kubelet.
fn is_controllers(change: &Change) -> bool {
    change.by.name.starts_with("kube-controller-manager")
}
