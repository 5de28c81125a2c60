//! What an autoscaler's status says: conditions, in upstream's words, and what was measured. Pure.

use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

pub const ABLE: &str = "AbleToScale";
pub const ACTIVE: &str = "ScalingActive";
pub const LIMITED: &str = "ScalingLimited";
pub const ZERO: &str = "ScaledToZero";

/// Says something of a condition. Its time changes with its status alone.
pub fn set(status: &mut HorizontalPodAutoscalerStatus, kind: &str, value: bool, reason: &str, message: &str, now: Timestamp) {
    let value = if value { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let index = conditions.iter().position(|condition| condition.type_ == kind).unwrap_or_else(|| {
        let type_ = kind.to_owned();
        conditions.push(HorizontalPodAutoscalerCondition { type_, ..HorizontalPodAutoscalerCondition::default() });
        conditions.len() - 1
    });
    let condition = &mut conditions[index];
    if condition.status != value {
        condition.last_transition_time = Some(Time(now));
    }
    condition.status = value.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.to_owned());
}

pub fn is_set(status: &HorizontalPodAutoscalerStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Notes the numbers of a sync.
pub fn measured(autoscaler: &mut HorizontalPodAutoscaler, current: i32, desired: Option<i32>, metrics: Option<Vec<MetricStatus>>) {
    let generation = autoscaler.metadata.generation;
    let status = autoscaler.status.get_or_insert_default();
    status.current_replicas = Some(current);
    status.desired_replicas = desired.unwrap_or(status.desired_replicas);
    status.current_metrics = metrics;
    status.observed_generation = generation;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conditions_time_changes_with_its_status() {
        let mut status = HorizontalPodAutoscalerStatus::default();
        let later = Timestamp::from_second(9).unwrap();
        set(&mut status, ABLE, true, "A", "a", Timestamp::UNIX_EPOCH);
        set(&mut status, ABLE, true, "B", "b", later);
        let condition = &status.conditions.as_ref().unwrap()[0];
        assert_eq!((condition.reason.as_deref(), condition.last_transition_time.clone()), (Some("B"), Some(Time(Timestamp::UNIX_EPOCH))));
        set(&mut status, ABLE, false, "B", "b", later);
        assert_eq!(status.conditions.as_ref().unwrap()[0].last_transition_time, Some(Time(later)));
        assert!(!is_set(&status, ABLE));
    }
}
