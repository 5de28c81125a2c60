//! What the types of storage.k8s.io are filled in with beyond their `+default` markers.

use super::{csi_driver, storage_class};
use crate::registry::defaulting::Hook;

/// By schema type.
pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.api.storage.v1.CSIDriver", csi_driver::default_driver),
    ("io.k8s.api.storage.v1.StorageClass", storage_class::default_class),
];
