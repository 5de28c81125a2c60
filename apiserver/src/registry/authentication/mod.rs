//! authentication.k8s.io/v1: who someone is. Its kinds are questions, which are answered and never stored.

pub mod defaults;
pub mod self_subject_review;
pub mod token_request;
pub mod token_review;

use crate::registry::Definition;

/// The group.
pub const GROUP: &str = "authentication.k8s.io";

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&self_subject_review::RESOURCE, &token_review::RESOURCE];
