//! The group storage.k8s.io.

pub mod csi_driver;
pub mod csi_node;
pub mod csi_storage_capacity;
pub mod defaults;
pub mod parameters;
pub mod storage_class;
pub mod volume_attachment;
pub mod volume_attributes_class;

use super::Definition;

/// In the order in which discovery lists them (alphabetical).
pub static RESOURCES: &[&Definition] = &[
    &csi_driver::RESOURCE,
    &csi_node::RESOURCE,
    &csi_storage_capacity::RESOURCE,
    &storage_class::RESOURCE,
    &volume_attachment::RESOURCE,
    &volume_attributes_class::RESOURCE,
];
