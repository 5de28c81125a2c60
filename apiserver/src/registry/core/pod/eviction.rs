//! Evictions: what a request must be, and what a disruption budget says to it.
//!
//! Decides only; finding the budgets, writing them and deleting the pod is the endpoint's.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::time::format_time;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::conditions::{self, Condition};
use crate::registry::read::{at, bool_at, int_at, list_at, str_at};

/// More pods than this are never disrupted at once; upstream's bound.
const MAX_DISRUPTED_PODS: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Why a body is refused.
#[derive(Debug, PartialEq)]
pub enum Refused {
    BadRequest(&'static str),
    Invalid(ErrorList),
}

/// Checks an Eviction that was posted to the pod `name`.
pub fn check(eviction: &Value, name: &str) -> Result<(), Refused> {
    if str_at(eviction, "/metadata/name") != name {
        return Err(Refused::BadRequest("name in URL does not match name in Eviction object"));
    }
    if bool_at(eviction, "/deleteOptions/ignoreStoreReadErrorWithClusterBreakingPotential") {
        let path = Path::new("deleteOptions");
        let path = path.child("ignoreStoreReadErrorWithClusterBreakingPotential");
        let detail = "can not be set for pod eviction, try after removing the option";
        return Err(Refused::Invalid(vec![Error::invalid(&path, true, detail)]));
    }
    Ok(())
}

/// The options of the pod's deletion: those of the body, with the request's `dryRun` where the body has none.
pub fn delete_options(eviction: &Value, dry_run: &[String]) -> Result<Value, String> {
    let mut options = at(eviction, "/deleteOptions").as_object().cloned().unwrap_or_default();
    let own: Vec<&str> = options.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if own.is_empty() {
        if !dry_run.is_empty() {
            options.insert("dryRun".to_owned(), dry_run.into());
        }
    } else if !dry_run.is_empty() && own != dry_run {
        return Err(format!("Non-matching dry-run options in request and content: [{}] and [{}]", dry_run.join(" "), own.join(" ")));
    }
    Ok(Value::Object(options))
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Mark the pod and delete it. If `unchanged`, only if it still is as it was read.
    Delete { unchanged: bool },
    /// Write this budget's status, then mark the pod and delete it.
    DeleteAfter { budget: Box<Value> },
    /// 429 with a `DisruptionBudget` cause, and whether to retry after 10 seconds.
    TooManyRequests { retry_after_seconds: i32, cause: String },
    /// 403 on the budget, with a `DisruptionBudget` cause.
    Forbidden { budget: String, reason: &'static str, cause: String },
    /// 500 as a plain failure.
    Failure(&'static str),
}

impl Verdict {
    /// The message of a TooManyRequests.
    pub const fn too_many_requests_message() -> &'static str {
        REFUSED
    }
}

/// Decides on a pod, given the budgets of its namespace that select it.
pub fn decide(pod: &Value, budgets: &[&Value], now: Timestamp) -> Verdict {
    let deleted = !at(pod, "/metadata/deletionTimestamp").is_null();
    match str_at(pod, "/status/phase") {
        "Succeeded" | "Failed" => return Verdict::Delete { unchanged: false },
        _ if deleted => return Verdict::Delete { unchanged: false },
        "Pending" => return Verdict::Delete { unchanged: true },
        _ => {}
    }
    let budget = match budgets {
        [] => return Verdict::Delete { unchanged: false },
        [budget] => *budget,
        _ => return Verdict::Failure("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."),
    };
    let ready = |c: &Value| str_at(c, "/type") == "Ready" && str_at(c, "/status") == "True";
    if !list_at(pod, "/status/conditions").iter().any(ready) {
        let desired = int_at(budget, "/status/desiredHealthy");
        let always = str_at(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow";
        if always || (int_at(budget, "/status/currentHealthy") >= desired && desired > 0) {
            return Verdict::Delete { unchanged: true };
        }
    }
    spend(budget, str_at(pod, "/metadata/name"), now)
}

/// Takes one disruption from the budget.
fn spend(budget: &Value, pod: &str, now: Timestamp) -> Verdict {
    let name = str_at(budget, "/metadata/name");
    if int_at(budget, "/status/observedGeneration") < int_at(budget, "/metadata/generation") {
        return still_processed(name);
    }
    let allowed = int_at(budget, "/status/disruptionsAllowed");
    let forbidden = |reason, why: &str| Verdict::Forbidden {
        budget: name.to_owned(),
        reason,
        cause: format!("The disruption budget {name} does not allow evicting pods currently: {why}"),
    };
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative", "pdb disruptions allowed is negative");
    }
    if at(budget, "/status/disruptedPods").as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED_PODS) {
        return forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            "too many pending evictions not confirmed by PDB controller",
        );
    }
    if allowed == 0 {
        return Verdict::TooManyRequests { retry_after_seconds: 0, cause: exhausted(budget, name) };
    }
    let mut budget = budget.clone();
    if let Some(status) = budget.get_mut("status").and_then(Value::as_object_mut) {
        status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
        if allowed == 1 {
            disallow(status, now);
        }
        let disrupted = status.entry("disruptedPods").or_insert_with(|| Value::Object(Map::new()));
        if let Some(disrupted) = disrupted.as_object_mut() {
            disrupted.insert(pod.to_owned(), format_time(now).into());
        }
    }
    Verdict::DeleteAfter { budget: Box::new(budget) }
}

/// The answer while the budget's controller has not seen its latest change.
pub fn still_processed(budget: &str) -> Verdict {
    let cause = format!("The disruption budget {budget} is still being processed by the server.");
    Verdict::TooManyRequests { retry_after_seconds: 10, cause }
}

fn exhausted(budget: &Value, name: &str) -> String {
    let conditions = list_at(budget, "/status/conditions");
    let refusal = conditions.iter().find(|c| str_at(c, "/type") == "DisruptionAllowed");
    let refusal = refusal.filter(|c| str_at(c, "/status") == "False" && !str_at(c, "/message").is_empty());
    let (current, desired) = (int_at(budget, "/status/currentHealthy"), int_at(budget, "/status/desiredHealthy"));
    match refusal {
        Some(c) if str_at(c, "/reason") == "SyncFailed" => {
            let message = str_at(c, "/message");
            format!("The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}")
        }
        _ if current <= desired => format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently"),
        Some(c) => {
            let (reason, message) = (str_at(c, "/reason"), str_at(c, "/message"));
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// The condition that says that the budget is spent.
fn disallow(status: &mut Map<String, Value>, now: Timestamp) {
    let generation = status.get("observedGeneration").and_then(Value::as_i64).unwrap_or(0);
    let list = status.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    let Some(list) = list.as_array_mut() else { return };
    let existing = list.iter().position(|c| str_at(c, "/type") == "DisruptionAllowed");
    let before = existing.and_then(|i| list.get(i));
    let unmoved = before.filter(|c| str_at(c, "/status") == "False").and_then(|c| c.get("lastTransitionTime")).cloned();
    let mut value = json!({
        "type": "DisruptionAllowed",
        "status": "False",
        "observedGeneration": generation,
        "lastTransitionTime": unmoved.unwrap_or_else(|| format_time(now).into()),
        "reason": "InsufficientPods",
        "message": "",
    });
    if generation == 0
        && let Some(map) = value.as_object_mut()
    {
        map.shift_remove("observedGeneration");
    }
    match existing.and_then(|i| list.get_mut(i)) {
        Some(place) => *place = value,
        None => list.push(value),
    }
}

/// Marks a pod that is about to be deleted for an eviction.
pub fn mark(pod: &mut Value, now: Timestamp) {
    let condition =
        Condition { kind: "DisruptionTarget", status: "True", reason: "EvictionByEvictionAPI", message: "Eviction API: evicting" };
    conditions::set(pod, &condition, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(ready: bool) -> Value {
        let status = if ready { "True" } else { "False" };
        json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}})
    }

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": {}, "status": status})
    }

    #[test]
    fn a_body_must_name_the_pod_of_the_url() {
        let eviction = json!({"metadata": {"name": "a"}});
        assert_eq!(check(&eviction, "a"), Ok(()));
        assert_eq!(check(&eviction, "b"), Err(Refused::BadRequest("name in URL does not match name in Eviction object")));
    }

    #[test]
    fn dry_run_comes_from_body_or_request() {
        let all = ["All".to_owned()];
        assert_eq!(delete_options(&json!({}), &all), Ok(json!({"dryRun": ["All"]})));
        assert_eq!(delete_options(&json!({"deleteOptions": {"gracePeriodSeconds": 3}}), &[]), Ok(json!({"gracePeriodSeconds": 3})));
        assert!(delete_options(&json!({"deleteOptions": {"dryRun": ["Some"]}}), &all).is_err());
    }

    #[test]
    fn pods_without_budget_and_pods_that_do_not_run_are_deleted() {
        let now = Timestamp::UNIX_EPOCH;
        let phase = |phase: &str| json!({"metadata": {"name": "p"}, "status": {"phase": phase}});
        assert_eq!(decide(&phase("Pending"), &[], now), Verdict::Delete { unchanged: true });
        assert_eq!(decide(&phase("Failed"), &[], now), Verdict::Delete { unchanged: false });
        assert_eq!(decide(&running(true), &[], now), Verdict::Delete { unchanged: false });
        let b = budget(json!({}));
        assert!(matches!(decide(&running(true), &[&b, &b], now), Verdict::Failure(_)));
    }

    #[test]
    fn a_budget_is_spent_and_then_refuses() {
        let now = Timestamp::UNIX_EPOCH;
        let b = budget(json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2}));
        let Verdict::DeleteAfter { budget: spent } = decide(&running(true), &[&b], now) else { panic!("not spent") };
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
        assert_eq!(spent["status"]["disruptedPods"], json!({"p": "1970-01-01T00:00:00Z"}));
        assert_eq!(spent["status"]["conditions"][0]["reason"], "InsufficientPods");
        let none = budget(json!({"observedGeneration": 1, "currentHealthy": 2, "desiredHealthy": 2}));
        assert_eq!(
            decide(&running(true), &[&none], now),
            Verdict::TooManyRequests {
                retry_after_seconds: 0,
                cause: "The disruption budget b needs 2 healthy pods and has 2 currently".to_owned()
            }
        );
        let unseen = budget(json!({"disruptionsAllowed": 1}));
        assert_eq!(decide(&running(true), &[&unseen], now), still_processed("b"));
    }

    #[test]
    fn an_unready_pod_is_deleted_while_enough_others_are_healthy() {
        let b = budget(json!({"observedGeneration": 1, "currentHealthy": 2, "desiredHealthy": 2}));
        assert_eq!(decide(&running(false), &[&b], Timestamp::UNIX_EPOCH), Verdict::Delete { unchanged: true });
    }
}
