//! apiextensions.k8s.io/v1: kinds that users define.
//!
//! The rules here are about definitions; what a definition means for its objects is not decided here. The values of defaults are
//! checked only for unknown fields.

pub mod approval;
pub mod conversion_rules;
pub mod custom_resource_definition;
pub mod default_rules;
pub mod defaults;
pub mod expression_rules;
pub mod field_path;
pub mod format;
pub mod internal;
#[cfg(test)]
mod invalid_tests;
pub mod list_type_rules;
pub mod pattern;
pub mod schema_rules;
pub mod spec_rules;
pub mod structural;
pub mod tolerance;
pub mod traverse;

use crate::registry::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&custom_resource_definition::RESOURCE];
