//! What every component needs to talk to the API server: informers with indexes, work queues, expectations, events and leases.
//!
//! Knows objects and requests, never what a component decides. `kube` carries the requests; how a [`kube::Client`] reaches its
//! server (in this process or over TLS) is the business of whoever made it.

pub mod answer;
pub mod chance;
pub mod clock;
pub mod controller;
pub mod events;
pub mod expectations;
#[cfg(test)]
mod fake_api;
pub mod informer;
pub mod lease;
pub mod object;
pub mod queue;
pub mod requests;
pub mod store;
pub mod watching;

pub use apimachinery::metrics;
pub use informer::{Change, Informer, Informers};
pub use object::{Object, ObjectKey, Reference};
pub use queue::Queue;
/// Turns on once, when the process is to stop; every loop here ends soon after.
pub use tokio_util::sync::CancellationToken as Shutdown;
