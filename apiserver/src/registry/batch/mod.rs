//! batch/v1: work that ends.

pub mod cron_job;
pub mod defaults;
pub mod indexes;
pub mod job;
pub mod job_policies;
pub mod job_spec;
pub mod job_status;
pub mod job_update;

use crate::registry::Definition;

/// In the order in which discovery lists them.
pub static RESOURCES: &[&Definition] = &[&cron_job::RESOURCE, &job::RESOURCE];
