//! policy/v1: how many pods of a set may be disrupted at once.

pub mod pod_disruption_budget;

use crate::registry::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&pod_disruption_budget::RESOURCE];
