//! The difference between what the API server has and what it is to be told, as a strategic merge patch.
//!
//! Pure. Conditions of others are left alone, and so are fields that are not the kubelet's.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus as ApiStatus};
use serde_json::{Map, Value, json};

use super::conditions::is_kubelets;
use crate::pod;

/// Fields that others set.
const OTHERS: [&str; 7] = [
    "resourceClaimStatuses",
    "extendedResourceClaimStatus",
    "nodeAllocatableResourceClaimStatuses",
    "nominatedNodeName",
    "resize",
    "volumeHealth",
    "startTime",
];
/// Lists that would be merged by their keys, and are to be replaced.
const MERGED_LISTS: [&str; 2] = ["podIPs", "hostIPs"];
/// Objects that would be merged, likewise.
const MERGED_OBJECTS: [&str; 2] = ["resources", "allocatedResources"];

/// What the server is to have in the end. `could_run`: containers may still be running, so that the pod is not over yet.
pub fn merge(known: &Pod, told: &ApiStatus, could_run: bool) -> ApiStatus {
    let empty = ApiStatus::default();
    let old = known.status.as_ref().unwrap_or(&empty);
    let mut merged = told.clone();
    let is_terminal = |status: &ApiStatus| status.phase.as_deref().is_some_and(pod::is_terminal_phase);
    let ending = !is_terminal(old) && is_terminal(told);
    let mut conditions: Vec<PodCondition> =
        old.conditions.iter().flatten().filter(|condition| !is_kubelets(&condition.type_)).cloned().collect();
    for condition in told.conditions.iter().flatten() {
        if is_kubelets(&condition.type_) {
            conditions.push(condition.clone());
        } else if condition.type_ == "DisruptionTarget" && ending && !could_run {
            conditions.retain(|other| other.type_ != condition.type_);
            conditions.push(condition.clone());
        }
    }
    if ending && could_run {
        merged.phase.clone_from(&old.phase);
        merged.reason.clone_from(&old.reason);
        merged.message.clone_from(&old.message);
    }
    if is_terminal(&merged) {
        let reason = if merged.phase.as_deref() == Some("Failed") { "PodFailed" } else { "PodCompleted" };
        for condition in &mut conditions {
            if matches!(condition.type_.as_str(), "Ready" | "ContainersReady") && condition.status == "True" {
                condition.status = "False".to_owned();
                condition.reason = Some(reason.to_owned());
                condition.message = None;
            }
        }
    }
    merged.conditions = (!conditions.is_empty()).then_some(conditions);
    merged
}

/// The patch; none if there is nothing to tell.
pub fn diff(known: &Pod, wanted: &ApiStatus) -> Result<Option<Value>, serde_json::Error> {
    let fields = |status: &ApiStatus| match serde_json::to_value(status)? {
        Value::Object(fields) => Ok::<_, serde_json::Error>(fields),
        _ => Ok(Map::new()),
    };
    let old = fields(known.status.as_ref().unwrap_or(&ApiStatus::default()))?;
    let mut new = fields(wanted)?;
    if old.contains_key("startTime") {
        new.remove("startTime");
    }
    let mut patch = Map::new();
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let (before, after) = (old.get(name), new.get(name));
        let others = OTHERS.contains(&name.as_str()) && after.is_none();
        if before == after || others {
            continue;
        }
        let value = match after {
            _ if name == "conditions" => match conditions(before, after) {
                Some(value) => value,
                None => continue,
            },
            None => Value::Null,
            Some(Value::Array(items)) if MERGED_LISTS.contains(&name.as_str()) => {
                let replace = std::iter::once(json!({"$patch": "replace"}));
                replace.chain(items.iter().cloned()).collect()
            }
            Some(Value::Object(fields)) if MERGED_OBJECTS.contains(&name.as_str()) => {
                let mut replaced = Map::from_iter([("$patch".to_owned(), json!("replace"))]);
                replaced.extend(fields.clone());
                Value::Object(replaced)
            }
            Some(value) => value.clone(),
        };
        patch.insert(name.clone(), value);
    }
    if patch.is_empty() {
        return Ok(None);
    }
    Ok(Some(json!({"metadata": {"uid": known.metadata.uid}, "status": patch})))
}

/// The conditions that have changed, with all their fields, and those that are no more.
fn conditions(before: Option<&Value>, after: Option<&Value>) -> Option<Value> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (before, after) = (list(before), list(after));
    let kind = |condition: &Value| condition["type"].as_str().unwrap_or("").to_owned();
    let mut changed = Vec::new();
    for condition in &after {
        let old = before.iter().find(|old| kind(old) == kind(condition));
        if old == Some(condition) {
            continue;
        }
        let mut condition = condition.clone();
        let gone = old.and_then(Value::as_object).into_iter().flat_map(Map::keys);
        for field in gone {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
        changed.push(condition);
    }
    for old in &before {
        if is_kubelets(&kind(old)) && !after.iter().any(|condition| kind(condition) == kind(old)) {
            changed.push(json!({"$patch": "delete", "type": kind(old)}));
        }
    }
    (!changed.is_empty()).then(|| Value::Array(changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "status": status})).expect("it is a pod")
    }

    fn status(value: Value) -> ApiStatus {
        serde_json::from_value(value).expect("it is a status")
    }

    #[test]
    fn only_what_changed_is_told() {
        let known = known(json!({"phase": "Pending", "reason": "x", "nominatedNodeName": "n", "podIPs": [{"ip": "1.1.1.1"}],
            "conditions": [{"type": "Ready", "status": "False", "reason": "y"}, {"type": "Other", "status": "True"},
                {"type": "PodResizePending", "status": "True"}]}));
        let told = status(json!({"phase": "Running", "podIPs": [{"ip": "2.2.2.2"}], "conditions": [{"type": "Ready", "status": "True"}]}));
        let patch = diff(&known, &merge(&known, &told, true)).expect("it has a JSON form");
        assert_eq!(
            patch,
            Some(json!({"metadata": {"uid": "u"}, "status": {
                "conditions": [{"type": "Ready", "status": "True", "reason": null}, {"$patch": "delete", "type": "PodResizePending"}],
                "phase": "Running", "podIPs": [{"$patch": "replace"}, {"ip": "2.2.2.2"}], "reason": null}}))
        );
        let same = merge(&known, known.status.as_ref().expect("it has one"), true);
        assert_eq!(diff(&known, &same).expect("it has a JSON form"), None);
    }

    #[test]
    fn a_pod_is_over_only_when_nothing_can_run() {
        let known = known(json!({"phase": "Running"}));
        let told = status(json!({"phase": "Failed", "reason": "Evicted", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(merge(&known, &told, true).phase.as_deref(), Some("Running"));
        let over = merge(&known, &told, false);
        assert_eq!((over.phase.as_deref(), over.reason.as_deref()), (Some("Failed"), Some("Evicted")));
        assert_eq!(over.conditions.expect("it has one")[0].reason.as_deref(), Some("PodFailed"));
    }
}
