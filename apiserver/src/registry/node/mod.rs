//! node.k8s.io/v1: the ways in which nodes run containers.

pub mod runtime_class;

use crate::registry::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&runtime_class::RESOURCE];
