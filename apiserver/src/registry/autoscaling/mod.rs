//! autoscaling: how many replicas a workload has, set by hand (scale) or by metrics (horizontal pod autoscalers).
//!
//! Autoscalers are stored as autoscaling/v2; [`conversion`] makes autoscaling/v1 of them and back.

pub mod conversion;
pub mod defaults;
pub mod horizontal_pod_autoscaler;
mod metric_cells;
mod metric_conversion;
pub mod scale;
mod validation;

use crate::registry::Definition;

/// In the order in which discovery lists them, the preferred version first.
pub static RESOURCES: &[&Definition] = &[&horizontal_pod_autoscaler::RESOURCE, &horizontal_pod_autoscaler::RESOURCE_V1];

/// What an autoscaler aims at when it is told nothing: a share of the requested CPU, in percent.
const DEFAULT_CPU_UTILIZATION: i64 = 80;
