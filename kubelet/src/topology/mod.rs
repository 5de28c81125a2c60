//! Which NUMA nodes the CPUs, memory and devices of a container come from: hints of those who give them, merged by a policy.
//!
//! Pure. Upstream: pkg/kubelet/cm/topologymanager.

pub mod hint;
pub mod mask;
pub mod policy;

pub use hint::{Hint, Hints};
pub use mask::Mask;
pub use policy::{Merger, Policy, Scope};
