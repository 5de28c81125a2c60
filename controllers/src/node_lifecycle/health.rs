//! Whether a node's kubelet still reports: by its status, or by renewing its lease. Pure.
//!
//! Times of the cluster are only compared for change, never with the clock here, since clocks differ; and how long a kubelet has been
//! silent is not measured by the time of day, which jumps.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::node_state;

/// What was last seen of a node, and when it was seen here.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    pub ready: Option<NodeCondition>,
    pub renewed: Option<Timestamp>,
    pub probed_at: Instant,
}

/// How long a kubelet may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    /// Once it has reported.
    pub monitor: Duration,
    /// Before it does for the first time.
    pub startup: Duration,
}

fn renewed(lease: Option<&Lease>) -> Option<Timestamp> {
    lease?.spec.as_ref()?.renew_time.as_ref().map(|time| time.0)
}

/// When a node was created, if the time of day is `clock` now.
fn created(node: &Node, now: Instant, clock: Timestamp) -> Instant {
    let age = node.metadata.creation_timestamp.as_ref().map(|time| clock.duration_since(time.0));
    age.and_then(|age| now.checked_sub(Duration::try_from(age).ok()?)).unwrap_or(now)
}

/// Notes what is seen of a node now; `clock` is the time of day.
pub fn observe(saved: Option<&Health>, node: &Node, lease: Option<&Lease>, now: Instant, clock: Timestamp) -> Health {
    let ready = node_state::condition(node, "Ready").cloned();
    let heartbeat = |condition: &Option<NodeCondition>| condition.as_ref().and_then(|condition| condition.last_heartbeat_time.clone());
    let mut health = match (saved, &ready) {
        (None, None) => Health { ready, renewed: None, probed_at: created(node, now, clock) },
        (Some(saved), None) if saved.ready.is_none() => Health { ready, ..saved.clone() },
        (Some(saved), Some(_)) if saved.ready.is_some() && heartbeat(&saved.ready) == heartbeat(&ready) => {
            Health { ready, ..saved.clone() }
        }
        // A lease is compared with the last one seen, whatever else changed.
        (saved, _) => Health { ready, renewed: saved.and_then(|saved| saved.renewed), probed_at: now },
    };
    let renewed = renewed(lease);
    if renewed > health.renewed {
        health.renewed = renewed;
        health.probed_at = now;
    }
    health
}

/// Whether nothing was heard for too long.
pub fn is_silent(health: &Health, grace: Grace, now: Instant) -> bool {
    let grace = if health.ready.is_none() { grace.startup } else { grace.monitor };
    now.saturating_duration_since(health.probed_at) > grace
}

/// Whether the lease says something that [`observe`] has not seen.
pub fn is_news(health: &Health, lease: Option<&Lease>) -> bool {
    renewed(lease) > health.renewed
}

/// What a kubelet reports, but for the network, which others look after.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Marks as unknown what a silent kubelet should report. Nothing if it is marked already.
pub fn mark_unknown(node: &Node, now: Timestamp) -> Option<Node> {
    let mut marked = node.clone();
    let created = node.metadata.creation_timestamp.clone();
    let conditions = marked.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in REPORTED {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            None => conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: created.clone(),
                last_transition_time: Some(Time(now)),
            }),
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
            }
            Some(_) => {}
        }
    }
    (node_state::condition(&marked, "Ready") != node_state::condition(node, "Ready")).then_some(marked)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GRACE: Grace = Grace { monitor: Duration::from_secs(50), startup: Duration::from_secs(60) };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn node(heartbeat: Option<&str>) -> Node {
        let condition = |time| json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": time}]);
        let conditions = heartbeat.map_or(json!([]), condition);
        serde_json::from_value(json!({
            "metadata": {"name": "n", "creationTimestamp": "1970-01-01T00:00:00Z"}, "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn lease(second: i64) -> Lease {
        serde_json::from_value(json!({"spec": {"renewTime": at(second).to_string()}})).unwrap()
    }

    /// What is seen so many seconds after a start that all share, by a clock that shows as many.
    fn seen(start: Instant, saved: Option<&Health>, node: &Node, lease: Option<&Lease>, second: u64) -> Health {
        observe(saved, node, lease, start + Duration::from_secs(second), at(second as i64))
    }

    #[test]
    fn a_node_that_never_reported_has_time_to_start() {
        let start = Instant::now();
        let after = |second: u64| start + Duration::from_secs(second);
        let health = seen(start, None, &node(None), None, 40);
        assert_eq!(health.probed_at, start);
        assert!(!is_silent(&health, GRACE, after(60)) && is_silent(&health, GRACE, after(61)));
    }

    #[test]
    fn a_clock_that_jumps_says_nothing_of_kubelets() {
        let start = Instant::now();
        let first = observe(None, &node(Some("1970-01-01T00:00:01Z")), None, start, at(10));
        let moment = start + Duration::from_secs(5);
        let jumped = observe(Some(&first), &node(Some("1970-01-01T00:00:01Z")), None, moment, at(1000));
        assert!(!is_silent(&jumped, GRACE, moment));
    }

    #[test]
    fn a_changed_status_or_lease_is_a_sign_of_life() {
        let start = Instant::now();
        let after = |second: u64| start + Duration::from_secs(second);
        let first = seen(start, None, &node(Some("1970-01-01T00:00:01Z")), None, 10);
        assert_eq!(first.probed_at, after(10));
        let same = seen(start, Some(&first), &node(Some("1970-01-01T00:00:01Z")), None, 20);
        assert_eq!(same.probed_at, after(10));
        let status = seen(start, Some(&same), &node(Some("1970-01-01T00:00:02Z")), None, 30);
        assert_eq!(status.probed_at, after(30));
        let renewed = seen(start, Some(&status), &node(Some("1970-01-01T00:00:02Z")), Some(&lease(5)), 40);
        assert_eq!(renewed.probed_at, after(40));
        let silent = seen(start, Some(&renewed), &node(Some("1970-01-01T00:00:02Z")), Some(&lease(5)), 80);
        assert_eq!(silent.probed_at, after(40));
        assert!(is_silent(&silent, GRACE, after(91)) && is_news(&silent, Some(&lease(6))) && !is_news(&silent, Some(&lease(5))));
    }

    #[test]
    fn what_a_silent_kubelet_should_say_is_unknown() {
        let marked = mark_unknown(&node(Some("1970-01-01T00:00:01Z")), at(99)).unwrap();
        let told: Vec<String> = marked
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten())
            .map(|c| format!("{}={} {}", c.type_, c.status, c.reason.clone().unwrap_or_default()))
            .collect();
        assert_eq!(
            told,
            [
                "Ready=Unknown NodeStatusUnknown",
                "MemoryPressure=Unknown NodeStatusNeverUpdated",
                "DiskPressure=Unknown NodeStatusNeverUpdated",
                "PIDPressure=Unknown NodeStatusNeverUpdated",
            ]
        );
        assert_eq!(mark_unknown(&marked, at(100)), None);
    }
}
