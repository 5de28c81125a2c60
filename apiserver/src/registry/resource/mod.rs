//! resource.k8s.io/v1: devices, who offers them and who claims them.
//!
//! Whether a namespace allows administrative access is for those who know namespaces: see [`admin_access`].

pub mod admin_access;
pub mod allocation_rules;
pub mod capacity_rules;
pub mod claim_declared;
pub mod claim_rules;
pub mod config_rules;
pub mod defaults;
pub mod device_class;
pub mod device_expression;
pub mod device_rules;
pub mod device_taint_rule;
pub mod disabled;
pub mod names;
pub mod resource_claim;
pub mod resource_claim_template;
pub mod resource_slice;
pub mod slice_rules;
pub mod status_rules;
pub mod taint_rules;

use apimachinery::view::view;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::registry::Definition;
use crate::registry::read::at;

/// The group.
pub const GROUP: &str = "resource.k8s.io";

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[
    &device_class::RESOURCE,
    &device_taint_rule::RESOURCE,
    &resource_claim::RESOURCE,
    &resource_claim_template::RESOURCE,
    &resource_slice::RESOURCE,
];

/// What stands at a pointer, as a typed object; the type's default where nothing does.
fn view_at<T: DeserializeOwned + Default>(object: &Value, pointer: &str) -> T {
    match at(object, pointer) {
        Value::Null => T::default(),
        value => view(value),
    }
}
