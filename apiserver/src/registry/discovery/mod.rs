//! discovery.k8s.io/v1: the endpoints behind a service, a slice at a time.

pub mod defaults;
pub mod endpoint_slice;
use crate::registry::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&endpoint_slice::RESOURCE];
