//! apiregistration.k8s.io/v1: which server answers for which group and version.

pub mod api_service;
pub mod defaults;

use crate::registry::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&api_service::RESOURCE];
