//! What a DeviceTaintRule's status says of the eviction that it causes. Pure.

use k8s_openapi::api::resource::v1::DeviceTaintRule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::tolerations::NO_EXECUTE;

const EVICTION_IN_PROGRESS: &str = "EvictionInProgress";
/// The effect of a rule that only says what it would do.
pub const NO_EFFECT: &str = "None";

/// What there is to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that are yet to be evicted, or would be, and in how many namespaces.
    pub pods: usize,
    pub namespaces: usize,
    /// Devices that the rule selects: those that drivers tell of, and those that claims have. Only told of a rule without effect.
    pub published: usize,
    pub allocated: usize,
    /// Pods that were evicted since the controller started.
    pub evicted: u64,
}

/// The condition as it is.
pub fn existing(rule: &DeviceTaintRule) -> Option<&Condition> {
    let conditions = rule.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == EVICTION_IN_PROGRESS)
}

/// The condition to write; nothing if it says so already.
pub fn condition(rule: &DeviceTaintRule, counts: Counts, now: Timestamp) -> Option<Condition> {
    let Counts { pods, namespaces, published, allocated, evicted } = counts;
    let (status, reason, mut message) = match rule.spec.taint.effect.as_str() {
        NO_EXECUTE if pods > 0 => {
            let need = if pods == 1 { "pod needs" } else { "pods need" };
            let message = format!("{pods} {need} to be evicted in {}.", counted(namespaces, "namespace", "different namespaces"));
            ("True", "PodsPendingEviction", message)
        }
        NO_EXECUTE => ("False", if evicted > 0 { "Completed" } else { "NotStarted" }, String::new()),
        NO_EFFECT => {
            let message = format!(
                "{} selected. {} selected. {} would be evicted in {} if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.",
                counted(published, "published device", "published devices"),
                counted(allocated, "allocated device", "allocated devices"),
                counted(pods, "pod", "pods"),
                counted(namespaces, "namespace", "different namespaces"),
            );
            ("False", "NoEffect", message)
        }
        _ => ("False", "OtherEffect", "Eviction only happens for the NoExecute effect.".to_owned()),
    };
    if evicted > 0 {
        let space = if message.is_empty() { "" } else { " " };
        let pods = if evicted == 1 { "pod" } else { "pods" };
        message.push_str(&format!("{space}{evicted} {pods} evicted since starting the controller."));
    }
    let old = existing(rule);
    let new = Condition {
        type_: EVICTION_IN_PROGRESS.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: rule.metadata.generation,
        last_transition_time: old.map_or(Time(now), |old| old.last_transition_time.clone()),
    };
    // Any change counts as a transition: by its time it is known when the next change may be told.
    (old != Some(&new)).then_some(Condition { last_transition_time: Time(now), ..new })
}

fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::evictions::tests::rule;
    use super::*;
    use crate::pod_state::tests::at;

    #[test]
    fn the_condition_says_how_far_eviction_is() {
        let counts = |pods, namespaces, evicted| Counts { pods, namespaces, evicted, published: 1, allocated: 3 };
        let cases = [
            ("NoExecute", counts(0, 0, 0), "False", "NotStarted", ""),
            ("NoExecute", counts(1, 1, 0), "True", "PodsPendingEviction", "1 pod needs to be evicted in 1 namespace."),
            (
                "NoExecute",
                counts(3, 2, 1),
                "True",
                "PodsPendingEviction",
                "3 pods need to be evicted in 2 different namespaces. 1 pod evicted since starting the controller.",
            ),
            ("NoExecute", counts(0, 0, 2), "False", "Completed", "2 pods evicted since starting the controller."),
            ("NoSchedule", counts(0, 0, 0), "False", "OtherEffect", "Eviction only happens for the NoExecute effect."),
            (
                "None",
                counts(2, 1, 0),
                "False",
                "NoEffect",
                "1 published device selected. 3 allocated devices selected. 2 pods would be evicted in 1 namespace if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.",
            ),
        ];
        for (effect, counts, status, reason, message) in cases {
            let rule = rule("r", json!({}), effect, "2026-01-01T00:00:00Z");
            let condition = condition(&rule, counts, at(5)).unwrap();
            assert_eq!((condition.status.as_str(), condition.reason.as_str(), condition.message.as_str()), (status, reason, message));
            assert_eq!((condition.observed_generation, condition.last_transition_time.0), (Some(1), at(5)));
        }
    }

    #[test]
    fn what_is_said_already_is_not_said_again() {
        let mut rule = (*rule("r", json!({}), "NoExecute", "2026-01-01T00:00:00Z")).clone();
        let pending = Counts { pods: 1, namespaces: 1, ..Counts::default() };
        let said = condition(&rule, pending, at(5)).unwrap();
        rule.status.get_or_insert_default().conditions = Some(vec![said]);
        assert_eq!(condition(&rule, pending, at(9)), None);
        let next = condition(&rule, Counts { pods: 2, ..pending }, at(9)).unwrap();
        assert_eq!((next.status.as_str(), next.last_transition_time.0), ("True", at(9)));
    }
}
