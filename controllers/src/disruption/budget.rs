//! How many pods a budget lets go: what it wants healthy, what is, and what is about to leave. Pure.

use std::collections::BTreeMap;

use client::Object;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::int_or_percent::{self, Round};
use crate::pod_state;

/// A pod whose eviction was granted counts as gone for this long; then it is thought that nobody deletes it.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

/// Whether the number of pods must be learned from their controllers, since the budget states a share of it.
pub fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// How many pods are expected, and how many must be healthy. `count` is the number of pods, or of those that their controllers want.
pub fn expected(spec: &PodDisruptionBudgetSpec, count: i32) -> Result<(i32, i32), int_or_percent::Error> {
    Ok(match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => (count, (count - int_or_percent::scaled(max, count, Round::Up)?).max(0)),
        (None, Some(min)) => (count, int_or_percent::scaled(min, count, Round::Up)?),
        (None, None) => (0, 0),
    })
}

fn timeout(since: &Time) -> Timestamp {
    since.0.saturating_add(DELETION_TIMEOUT).unwrap_or(Timestamp::MAX)
}

/// The pods of `status.disruptedPods` that are still to be deleted, those that should have been and were not, and when that is next looked at.
pub struct Disrupted {
    pub pods: BTreeMap<String, Time>,
    pub kept_on: Vec<String>,
    pub recheck_at: Option<Timestamp>,
}

pub fn disrupted<'a>(pods: impl IntoIterator<Item = &'a Pod>, status: &PodDisruptionBudgetStatus, now: Timestamp) -> Disrupted {
    let mut found = Disrupted { pods: BTreeMap::new(), kept_on: Vec::new(), recheck_at: None };
    for pod in pods.into_iter().filter(|pod| !pod.is_terminating()) {
        let Some(since) = status.disrupted_pods.as_ref().and_then(|pods| pods.get(pod.name())) else { continue };
        let until = timeout(since);
        if until < now {
            found.kept_on.push(pod.name().to_owned());
        } else {
            found.pods.insert(pod.name().to_owned(), since.clone());
            found.recheck_at = Some(found.recheck_at.map_or(until, |at| at.min(until)));
        }
    }
    found
}

/// Pods that are ready and not about to go.
pub fn healthy<'a>(pods: impl IntoIterator<Item = &'a Pod>, disrupted: &BTreeMap<String, Time>, now: Timestamp) -> i32 {
    let going = |pod: &Pod| pod.is_terminating() || disrupted.get(pod.name()).is_some_and(|since| timeout(since) > now);
    let count = pods.into_iter().filter(|pod| !going(pod) && pod_state::is_ready(pod)).count();
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    allowed: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    let value = if allowed { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().find(|condition| condition.type_ == DISRUPTION_ALLOWED && condition.status == value);
    let since = known.map_or(Time(now), |condition| condition.last_transition_time.clone());
    let condition = Condition {
        type_: DISRUPTION_ALLOWED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
    };
    match conditions.iter_mut().find(|condition| condition.type_ == DISRUPTION_ALLOWED) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

/// The budget's status for these numbers; nothing if it says that already.
pub fn status(
    budget: &PodDisruptionBudget,
    (expected, desired): (i32, i32),
    healthy: i32,
    disrupted: BTreeMap<String, Time>,
    now: Timestamp,
) -> Option<PodDisruptionBudgetStatus> {
    let old = budget.status.clone().unwrap_or_default();
    // A budget without pods allows nothing, lest the first one goes before it is counted.
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let mut new = PodDisruptionBudgetStatus {
        conditions: old.conditions.clone(),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        observed_generation: budget.metadata.generation,
    };
    let known = old.conditions.iter().flatten().find(|condition| condition.type_ == DISRUPTION_ALLOWED);
    let current = known.is_some_and(|condition| {
        condition.observed_generation == budget.metadata.generation && condition.status == if allowed > 0 { "True" } else { "False" }
    });
    if !current {
        let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
        set_condition(&mut new, allowed > 0, reason, "", budget.metadata.generation, now);
    }
    let plain = |status: &PodDisruptionBudgetStatus| {
        let number = |number: Option<i32>| number.unwrap_or_default();
        (
            (number(status.current_healthy), number(status.desired_healthy)),
            (number(status.expected_pods), number(status.disruptions_allowed)),
            status.disrupted_pods.clone().unwrap_or_default(),
            status.observed_generation,
        )
    };
    (!current || plain(&old) != plain(&new)).then_some(new)
}

/// The status of a budget that cannot be computed: nothing may go.
pub fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    let generation = status.observed_generation;
    status.disruptions_allowed = Some(0);
    set_condition(&mut status, false, "SyncFailed", why, generation, now);
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn spec(min: Option<IntOrString>, max: Option<IntOrString>) -> PodDisruptionBudgetSpec {
        PodDisruptionBudgetSpec { min_available: min, max_unavailable: max, ..PodDisruptionBudgetSpec::default() }
    }

    fn percent(text: &str) -> Option<IntOrString> {
        Some(IntOrString::String(text.to_owned()))
    }

    fn pod(name: &str, ready: bool) -> Pod {
        let status = json!({"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
    }

    #[test]
    fn shares_are_rounded_up() {
        let int = |n| Some(IntOrString::Int(n));
        for (min, max, count, expected_counts) in [
            (int(3), None, 5, (5, 3)),
            (percent("50%"), None, 5, (5, 3)),
            (None, int(1), 5, (5, 4)),
            (None, percent("30%"), 5, (5, 3)),
            (None, int(9), 5, (5, 0)),
            (None, None, 5, (0, 0)),
        ] {
            assert_eq!(expected(&spec(min, max), count).unwrap(), expected_counts);
        }
    }

    #[test]
    fn a_pod_about_to_be_deleted_is_not_healthy_until_that_is_given_up() {
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        let status = PodDisruptionBudgetStatus {
            disrupted_pods: Some([("a".to_owned(), Time(at(0))), ("gone".to_owned(), Time(at(0)))].into()),
            ..PodDisruptionBudgetStatus::default()
        };
        let early = disrupted(&pods, &status, at(60));
        assert_eq!((early.pods.len(), early.recheck_at, early.kept_on.len()), (1, Some(at(120)), 0));
        assert_eq!(healthy(&pods, &early.pods, at(60)), 1);
        let late = disrupted(&pods, &status, at(121));
        assert_eq!((late.pods.len(), late.recheck_at, late.kept_on), (0, None, vec!["a".to_owned()]));
        assert_eq!(healthy(&pods, &late.pods, at(121)), 2);
    }

    #[test]
    fn what_is_said_already_is_not_written_again() {
        let mut budget = PodDisruptionBudget::default();
        budget.metadata.generation = Some(2);
        let first = status(&budget, (3, 2), 3, BTreeMap::new(), at(1)).unwrap();
        assert_eq!((first.disruptions_allowed, first.observed_generation), (Some(1), Some(2)));
        assert_eq!(first.conditions.as_ref().unwrap()[0].reason, "SufficientPods");
        budget.status = Some(first);
        assert_eq!(status(&budget, (3, 2), 3, BTreeMap::new(), at(2)), None);
        let less = status(&budget, (3, 2), 2, BTreeMap::new(), at(3)).unwrap();
        assert_eq!(less.conditions.as_ref().unwrap()[0].reason, "InsufficientPods");
        assert_eq!(less.conditions.as_ref().unwrap()[0].last_transition_time, Time(at(3)));
        assert_eq!(status(&budget, (0, 0), 0, BTreeMap::new(), at(3)).unwrap().disruptions_allowed, Some(0));
    }

    #[test]
    fn a_budget_that_cannot_be_computed_lets_nothing_go() {
        let status = failed(&PodDisruptionBudget::default(), "why", at(1));
        let condition = &status.conditions.unwrap()[0];
        assert_eq!((status.disruptions_allowed, condition.reason.as_str(), condition.message.as_str()), (Some(0), "SyncFailed", "why"));
    }
}
