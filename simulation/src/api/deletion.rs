//! How objects go: at once, after their grace, when their finalizers are off, with or without their dependents.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::core::Deletion;
use super::kinds::{self, KindId};
use crate::object;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// What a pod has that does not say.
const GRACE_SECONDS: i64 = 30;

fn finalizers(object: &Value) -> Vec<&str> {
    object::list(object, "/metadata/finalizers").iter().filter_map(Value::as_str).collect()
}

/// Whether a deletion that has begun is at its end.
pub fn is_over(kind: KindId, object: &Value) -> bool {
    let namespace_holds = kind == kinds::NAMESPACE && !object::list(object, "/spec/finalizers").is_empty();
    object::is_terminating(object)
        && object::number(object, "/metadata/deletionGracePeriodSeconds") == 0
        && finalizers(object).is_empty()
        && !namespace_holds
}

/// How long a pod may take to end.
fn grace(kind: KindId, object: &Value, asked: Option<i64>) -> i64 {
    if kind != kinds::POD || object::is_ended(object) || object::text(object, "/spec/nodeName").is_empty() {
        return 0;
    }
    asked.unwrap_or_else(|| object::number_or(object, "/spec/terminationGracePeriodSeconds", GRACE_SECONDS))
}

/// Marks an object as being deleted. A deletion that has begun can only be made shorter.
pub fn begin(kind: KindId, object: &mut Value, how: &Deletion, now: Timestamp) {
    let mut kept: Vec<String> = finalizers(object).into_iter().map(str::to_owned).collect();
    let default = if kind == kinds::JOB { Some("Orphan") } else { None };
    let has_orphan = kept.iter().any(|finalizer| finalizer == ORPHAN);
    let has_foreground = kept.iter().any(|finalizer| finalizer == FOREGROUND);
    let policy = how.propagation.as_deref().or(if has_orphan {
        Some("Orphan")
    } else if has_foreground {
        Some("Foreground")
    } else {
        default
    });
    kept.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    match policy {
        Some("Orphan") => kept.push(ORPHAN.to_owned()),
        Some("Foreground") => kept.push(FOREGROUND.to_owned()),
        _ => {}
    }
    let was_terminating = object::is_terminating(object);
    let mut grace = grace(kind, object, how.grace_seconds);
    if was_terminating {
        grace = grace.min(object::number(object, "/metadata/deletionGracePeriodSeconds"));
    }
    let metadata = &mut object["metadata"];
    metadata["finalizers"] = json!(kept);
    if !was_terminating || json!(grace) != metadata["deletionGracePeriodSeconds"] {
        let at = now + SignedDuration::from_secs(grace);
        metadata["deletionTimestamp"] = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        metadata["deletionGracePeriodSeconds"] = grace.into();
    }
    if !was_terminating {
        let generation = metadata["generation"].as_i64();
        if let Some(generation) = generation {
            metadata["generation"] = (generation + 1).into();
        }
        if kind == kinds::NAMESPACE {
            object["status"]["phase"] = "Terminating".into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(kind: KindId, mut object: Value, how: &Deletion) -> (bool, Value) {
        begin(kind, &mut object, how, Timestamp::UNIX_EPOCH);
        (is_over(kind, &object), object)
    }

    #[test]
    fn a_pod_on_a_node_has_its_grace_and_any_other_goes_at_once() {
        let bound = json!({"metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}});
        let (over, object) = deleted(kinds::POD, bound.clone(), &Deletion::default());
        assert!(!over);
        assert_eq!(object["metadata"]["deletionTimestamp"], "1970-01-01T00:00:05Z");
        assert!(deleted(kinds::POD, object, &Deletion { grace_seconds: Some(0), ..Deletion::default() }).0);
        assert!(deleted(kinds::POD, json!({"metadata": {}, "spec": {}}), &Deletion::default()).0);
    }

    #[test]
    fn dependents_are_waited_for_or_freed_if_so_asked() {
        let how = |policy: &str| Deletion { propagation: Some(policy.to_owned()), ..Deletion::default() };
        let (over, object) = deleted(kinds::DEPLOYMENT, json!({"metadata": {"generation": 1}}), &how("Foreground"));
        assert!(!over);
        assert_eq!((&object["metadata"]["finalizers"], &object["metadata"]["generation"]), (&json!([FOREGROUND]), &json!(2)));
        assert!(deleted(kinds::DEPLOYMENT, json!({"metadata": {}}), &how("Background")).0);
        assert_eq!(deleted(kinds::JOB, json!({"metadata": {}}), &Deletion::default()).1["metadata"]["finalizers"], json!([ORPHAN]));
    }
}
