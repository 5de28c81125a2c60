//! Which pods have to go when the node runs short of memory, disk or process ids, and why.
//!
//! Decisions are functions of a summary of what is used; the manager asks for one every ten seconds and carries them out through [`Node`].
//!
//! Upstream: pkg/kubelet/eviction.

mod ballast;
mod limits;
mod manager;
mod message;
mod observation;
mod pressure;
mod rank;
mod threshold;

pub use ballast::Ballast;
pub use manager::{Eviction, Manager, Node};
pub use pressure::Pressure;
pub use threshold::{Config, Threshold, effective_hard};

/// The reason of evicted pods, and of those that are not let in under pressure.
pub const REASON: &str = "Evicted";
