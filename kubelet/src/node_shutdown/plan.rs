//! Who is stopped when, and how much time it has. Pure.
//!
//! Upstream: pkg/kubelet/nodeshutdown/nodeshutdown_manager.go.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::configuration::{KubeletConfiguration, ShutdownGracePeriod};
use crate::pod;
use crate::pod_worker::End;
use crate::status::Failure;

const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// The periods from the lowest priority to the highest; none if shutdowns are not waited for.
pub fn periods(configuration: &KubeletConfiguration) -> Vec<ShutdownGracePeriod> {
    let mut periods = configuration.shutdown_grace_period_by_pod_priority.clone();
    if periods.is_empty() {
        periods = two(configuration.shutdown_grace_period, configuration.shutdown_grace_period_critical_pods);
    }
    periods.sort_by_key(|period| period.priority);
    periods
}

/// One period for ordinary pods, and what is left of it for critical ones.
fn two(all: Duration, critical: Duration) -> Vec<ShutdownGracePeriod> {
    let Some(ordinary) = all.checked_sub(critical).filter(|_| !all.is_zero()) else { return Vec::new() };
    let period = |priority, time: Duration| ShutdownGracePeriod {
        priority,
        shutdown_grace_period_seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
    };
    vec![period(0, ordinary), period(pod::SYSTEM_CRITICAL_PRIORITY, critical)]
}

/// How long all periods take together.
pub fn total(periods: &[ShutdownGracePeriod]) -> Duration {
    periods.iter().map(|period| seconds(period.shutdown_grace_period_seconds)).sum()
}

pub fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

/// The pods of each period, in the order in which they are stopped. A pod is of the period with the highest priority that is not above
/// its own, and of the lowest if there is none.
pub fn groups(periods: &[ShutdownGracePeriod], pods: &[Arc<Pod>]) -> Vec<(ShutdownGracePeriod, Vec<Arc<Pod>>)> {
    let mut groups: Vec<_> = periods.iter().map(|period| (*period, Vec::new())).collect();
    for pod in pods {
        let priority = pod::spec(pod).priority.unwrap_or(0);
        let index = periods.iter().rposition(|period| period.priority <= priority).unwrap_or(0);
        if let Some((_, group)) = groups.get_mut(index) {
            group.push(pod.clone());
        }
    }
    groups
}

/// How a pod of this period is ended.
pub fn end(pod: &Pod, period: ShutdownGracePeriod) -> End {
    let most = period.shutdown_grace_period_seconds;
    let grace = pod::spec(pod).termination_grace_period_seconds.map_or(most, |own| own.min(most));
    let failure =
        Failure { reason: REASON.to_owned(), message: MESSAGE.to_owned(), disrupted: Some(MESSAGE.to_owned()), unless_succeeded: true };
    End { failure: Some(failure), grace_seconds: Some(grace) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn period(priority: i32, seconds: i64) -> ShutdownGracePeriod {
        ShutdownGracePeriod { priority, shutdown_grace_period_seconds: seconds }
    }

    fn pod(priority: Option<i32>, grace: i64) -> Arc<Pod> {
        let spec = json!({"containers": [], "priority": priority, "terminationGracePeriodSeconds": grace});
        Arc::new(serde_json::from_value(json!({"spec": spec})).expect("it is a pod"))
    }

    #[test]
    fn critical_pods_have_their_own_time_at_the_end() {
        let of = |all: u64, critical: u64| {
            periods(&KubeletConfiguration {
                shutdown_grace_period: Duration::from_secs(all),
                shutdown_grace_period_critical_pods: Duration::from_secs(critical),
                ..KubeletConfiguration::default()
            })
        };
        assert_eq!(of(30, 10), [period(0, 20), period(2_000_000_000, 10)]);
        assert_eq!(total(&of(30, 10)), Duration::from_secs(30));
        assert!(of(0, 0).is_empty() && of(5, 10).is_empty());
        let own = KubeletConfiguration {
            shutdown_grace_period: Duration::from_secs(9),
            shutdown_grace_period_by_pod_priority: vec![period(100, 1), period(-5, 2)],
            ..KubeletConfiguration::default()
        };
        assert_eq!(periods(&own), [period(-5, 2), period(100, 1)]);
    }

    #[test]
    fn a_pod_goes_with_the_highest_period_that_is_not_above_it() {
        let periods = [period(10, 1), period(20, 2), period(30, 3)];
        for (priority, expect) in [(None, 0), (Some(-9), 0), (Some(10), 0), (Some(19), 0), (Some(20), 1), (Some(30), 2), (Some(99), 2)] {
            let groups = groups(&periods, &[pod(priority, 5)]);
            let found = groups.iter().position(|(_, pods)| !pods.is_empty());
            assert_eq!(found, Some(expect), "{priority:?}");
        }
    }

    #[test]
    fn no_pod_has_longer_than_it_asks_for() {
        assert_eq!(end(&pod(None, 5), period(0, 20)).grace_seconds, Some(5));
        let end = end(&pod(None, 50), period(0, 20));
        assert_eq!(end.grace_seconds, Some(20));
        let failure = end.failure.expect("there is one");
        assert_eq!((failure.reason.as_str(), failure.message.as_str()), (REASON, MESSAGE));
    }
}
