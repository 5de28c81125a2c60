//! coordination.k8s.io/v1: who holds what, and until when.

pub mod lease;

use crate::registry::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&lease::RESOURCE];
