//! rbac.authorization.k8s.io/v1: who may do what.

pub mod cluster_role;
pub mod cluster_role_binding;
pub mod defaults;
pub mod role;
pub mod role_binding;
pub mod role_ref;
pub mod rule;
pub mod subject;

use crate::registry::Definition;

/// The group, as role references and subjects name it.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] =
    &[&cluster_role_binding::RESOURCE, &cluster_role::RESOURCE, &role_binding::RESOURCE, &role::RESOURCE];
