//! storagemigration.k8s.io/v1: objects are written again in the version that is stored now.

pub mod storage_version_migration;

use crate::registry::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&storage_version_migration::RESOURCE];
