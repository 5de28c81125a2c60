//! What the scheduler writes into a pod's status: the condition PodScheduled and the nominated node.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

pub const UNSCHEDULABLE: &str = "Unschedulable";
pub const SCHEDULER_ERROR: &str = "SchedulerError";

/// What is to be said of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saying {
    /// Type, status, reason and message of a condition.
    pub condition: Option<Condition>,
    /// The nominated node, if that is to be said; empty for none.
    pub nominated: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

/// The strategic merge patch of the status that says it; nothing if the pod says so already.
pub fn patch(pod: &Pod, saying: &Saying, now: Timestamp) -> Option<Value> {
    let status = pod.status.as_ref();
    let mut changes = Map::new();
    if let Some(wanted) = &saying.condition {
        let generation = pod.metadata.generation;
        let known: Option<&PodCondition> =
            status.and_then(|s| s.conditions.as_ref()).and_then(|all| all.iter().find(|c| c.type_ == wanted.kind));
        let same = known.is_some_and(|known| {
            known.status == wanted.status
                && known.reason.as_deref().unwrap_or("") == wanted.reason
                && known.message.as_deref().unwrap_or("") == wanted.message
                && known.observed_generation == generation
        });
        if !same {
            let since = known.filter(|known| known.status == wanted.status).and_then(|known| known.last_transition_time.clone());
            // The API has whole seconds.
            let since = since.unwrap_or_else(|| Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
            let mut condition = json!({"type": wanted.kind, "status": wanted.status, "reason": wanted.reason, "message": wanted.message,
                "lastProbeTime": null, "lastTransitionTime": since});
            if let (Some(generation), Some(condition)) = (generation, condition.as_object_mut()) {
                condition.insert("observedGeneration".to_owned(), generation.into());
            }
            changes.insert("conditions".to_owned(), Value::Array(vec![condition]));
        }
    }
    if let Some(node) = &saying.nominated
        && status.and_then(|s| s.nominated_node_name.as_deref()).unwrap_or("") != node
    {
        changes.insert("nominatedNodeName".to_owned(), if node.is_empty() { Value::Null } else { json!(node) });
    }
    if changes.is_empty() { None } else { Some(json!({"status": changes})) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn nothing_is_patched_that_is_so_already() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let condition = Condition { kind: "PodScheduled", status: "False", reason: UNSCHEDULABLE, message: "no".into() };
        let saying = Saying { condition: Some(condition), nominated: Some("n".into()) };
        let known = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let same = pod(json!({"metadata": {"generation": 1}, "status": {"conditions": [known], "nominatedNodeName": "n"}}));
        assert_eq!(patch(&same, &saying, now), None);
        let clear = Saying { condition: None, nominated: Some(String::new()) };
        assert_eq!(patch(&same, &clear, now), Some(json!({"status": {"nominatedNodeName": null}})));
    }

    #[test]
    fn a_condition_keeps_the_time_since_when_it_holds() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let condition = Condition { kind: "PodScheduled", status: "False", reason: UNSCHEDULABLE, message: "still no".into() };
        let saying = Saying { condition: Some(condition), nominated: None };
        let known = json!({"type": "PodScheduled", "status": "False", "message": "no", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let before = pod(json!({"status": {"conditions": [known]}}));
        assert_eq!(patch(&before, &saying, now).unwrap()["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(patch(&pod(json!({})), &saying, now).unwrap()["status"]["conditions"][0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
    }
}
