//! What controllers read out of a Pod: is it active, ready, available, and when will it be.
//!
//! Pure: the time is an argument, nothing is changed.

use std::time::Duration;

use client::Object;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The phase; `Pending` before anybody has set one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// The node that the pod is assigned to; empty before it is.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("")
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the pod is ready; nothing if it is not, or if nobody noted it.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// All containers have stopped and will not start again.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !pod.is_terminating()
}

/// Being deleted, with containers that may still run.
pub fn is_winding_down(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.is_terminating()
}

/// Ready for at least so many seconds.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    if min_ready_seconds == 0 {
        return is_ready(pod);
    }
    ready_since(pod).is_some_and(|since| until(since, min_ready_seconds, now) <= SignedDuration::ZERO)
}

/// How long until the first of these pods that are ready has been so for long enough; nothing if time changes nothing.
pub fn next_availability<'a>(pods: impl IntoIterator<Item = &'a Pod>, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if min_ready_seconds <= 0 {
        return None;
    }
    let waits = pods.into_iter().filter_map(|pod| Some(until(ready_since(pod)?, min_ready_seconds, now)));
    waits.filter(|wait| wait.is_positive()).min().map(SignedDuration::unsigned_abs)
}

fn until(since: Timestamp, seconds: i32, now: Timestamp) -> SignedDuration {
    since.duration_since(now) + SignedDuration::from_secs(i64::from(seconds))
}

#[cfg(test)]
pub mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    /// A time in a test's own epoch.
    pub fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("in range")
    }

    /// A running pod named `d/NAME` with its name for a uid, ready since then if at all.
    pub fn pod(name: &str, ready_since: Option<i64>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("d".to_owned());
        pod.metadata.uid = Some(name.to_owned());
        pod.metadata.creation_timestamp = Some(Time(at(0)));
        let status = pod.status.get_or_insert_default();
        status.phase = Some("Running".to_owned());
        if let Some(since) = ready_since {
            status.conditions = Some(vec![PodCondition {
                type_: "Ready".to_owned(),
                status: "True".to_owned(),
                last_transition_time: Some(Time(at(since))),
                ..PodCondition::default()
            }]);
        }
        pod
    }

    #[test]
    fn a_pod_is_available_once_it_has_been_ready_for_long_enough() {
        let pod = pod("a", Some(10));
        for (min_ready, now, available) in [(0, 10, true), (5, 14, false), (5, 15, true), (5, 16, true)] {
            assert_eq!(is_available(&pod, min_ready, at(now)), available, "{min_ready} at {now}");
        }
        assert!(!is_available(&super::tests::pod("b", None), 0, at(100)));
    }

    #[test]
    fn the_next_check_is_for_the_pod_that_needs_the_shortest_time() {
        let pods = [pod("a", Some(10)), pod("b", Some(3)), pod("c", None), pod("d", Some(-50))];
        assert_eq!(next_availability(&pods, 10, at(12)), Some(Duration::from_secs(1)));
        assert_eq!(next_availability(&pods, 0, at(12)), None);
        assert_eq!(next_availability(&pods, 10, at(100)), None);
    }
}
