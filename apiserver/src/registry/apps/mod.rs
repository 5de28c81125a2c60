//! apps/v1: the workloads that run forever.

pub mod controller_revision;
pub mod daemon_set;
pub mod defaults;
pub mod deployment;
pub mod int_or_percent;
pub mod replica_set;
pub mod stateful_set;
pub mod template;

use crate::registry::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] =
    &[&controller_revision::RESOURCE, &daemon_set::RESOURCE, &deployment::RESOURCE, &replica_set::RESOURCE, &stateful_set::RESOURCE];
