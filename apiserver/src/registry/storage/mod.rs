//! The group storage.k8s.io.

use super::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[];
