//! The core group: every kind of `v1`.

pub mod binding;
pub mod component_status;
pub mod config_map;
pub mod defaults;
pub mod endpoints;
pub mod event;
pub mod limit_range;
pub mod namespace;
pub mod node;
pub mod node_selector;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
pub mod pod_template;
pub mod replication_controller;
pub mod resource;
pub mod resource_quota;
pub mod secret;
pub mod service;
pub mod service_account;

use super::Definition;

/// In the order in which discovery lists them (alphabetical).
pub static RESOURCES: &[&Definition] = &[
    &binding::RESOURCE,
    &component_status::RESOURCE,
    &config_map::RESOURCE,
    &endpoints::RESOURCE,
    &event::RESOURCE,
    &limit_range::RESOURCE,
    &namespace::RESOURCE,
    &node::RESOURCE,
    &persistent_volume_claim::RESOURCE,
    &persistent_volume::RESOURCE,
    &pod::RESOURCE,
    &pod_template::RESOURCE,
    &replication_controller::RESOURCE,
    &resource_quota::RESOURCE,
    &secret::RESOURCE,
    &service_account::RESOURCE,
    &service::RESOURCE,
];

#[cfg(test)]
pub(crate) mod tests {
    use apimachinery::field::Error;
    use jiff::Timestamp;

    use crate::registry::Cx;

    /// The context of a request to a main resource at the beginning of time.
    pub(crate) fn cx() -> Cx<'static> {
        Cx { now: Timestamp::UNIX_EPOCH, subresource: "", namespace: "ns", user: "tester", uid: "", groups: &[], extra: &[] }
    }

    /// Each error as it is printed.
    pub(crate) fn messages(errors: &[Error]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }
}
