//! The group events.k8s.io: another view of core/v1 events, which are what is stored.

pub mod conversion;
pub mod event;

use super::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&event::RESOURCE];
