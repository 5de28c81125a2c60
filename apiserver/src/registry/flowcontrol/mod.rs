//! flowcontrol.apiserver.k8s.io/v1: which requests wait for which.

pub mod condition;
pub mod defaults;
pub mod flow_rule;
pub mod flow_schema;
pub mod priority_level_configuration;

use crate::registry::Definition;

/// The group.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&flow_schema::RESOURCE, &priority_level_configuration::RESOURCE];
