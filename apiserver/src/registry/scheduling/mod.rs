//! scheduling.k8s.io/v1: which pods come first.

pub mod defaults;
pub mod priority_class;
use crate::registry::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&priority_class::RESOURCE];
