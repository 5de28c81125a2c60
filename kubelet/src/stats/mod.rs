//! What this node, its pods and their containers use: the data of `/stats/summary`, `/metrics/resource` and `/metrics/cadvisor`, and of
//! eviction.
//!
//! Numbers come from control groups, `/proc` and the disks; what the runtime alone knows (images, writable layers) is asked of it.

pub mod api;
mod cadvisor;
mod collect;
mod disk;
pub(crate) mod exposition;
mod network;
mod resource_metrics;
mod usage;

pub use api::Summary;
pub use collect::{Config, Provider};
