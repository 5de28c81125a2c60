//! authorization.k8s.io/v1: who may do what. Its kinds are questions, which are answered and never stored.

pub mod local_subject_access_review;
pub mod rules;
pub mod self_subject_access_review;
pub mod self_subject_rules_review;
pub mod subject_access_review;

use crate::registry::Definition;

/// The group.
pub const GROUP: &str = "authorization.k8s.io";

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[
    &local_subject_access_review::RESOURCE,
    &self_subject_access_review::RESOURCE,
    &self_subject_rules_review::RESOURCE,
    &subject_access_review::RESOURCE,
];
