//! admissionregistration.k8s.io/v1: webhooks and policies that take part in admission.
//!
//! Expressions are checked here for being there and for their length; whether they compile is the expression engine's to say.

pub mod binding;
pub mod client_config;
pub mod defaults;
pub mod match_condition;
pub mod match_resources;
pub mod mutating_admission_policy;
pub mod mutating_admission_policy_binding;
pub mod mutating_webhook_configuration;
pub mod policy;
pub mod reserved_name;
pub mod rule;
pub mod url;
pub mod validating_admission_policy;
pub mod validating_admission_policy_binding;
pub mod validating_webhook_configuration;
pub mod webhook;

use crate::registry::Definition;

/// The group.
pub const GROUP: &str = "admissionregistration.k8s.io";

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[
    &mutating_admission_policy::RESOURCE,
    &mutating_admission_policy_binding::RESOURCE,
    &mutating_webhook_configuration::RESOURCE,
    &validating_admission_policy::RESOURCE,
    &validating_admission_policy_binding::RESOURCE,
    &validating_webhook_configuration::RESOURCE,
];
