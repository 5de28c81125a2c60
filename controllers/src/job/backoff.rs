//! How long a Job waits before it replaces failed pods: ten seconds, then twice as long for each failure since the last success, up to
//! ten minutes. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::pod_state;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// What is remembered of a Job's pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    failures_since_success: u32,
    last_failure: Option<Timestamp>,
}

impl Record {
    /// The record with pods that have finished since.
    pub fn after(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Record {
        let last_success = succeeded.iter().map(|pod| finished_at(pod)).max();
        let base = if last_success.is_some() { Record::default() } else { self };
        let counting: Vec<Timestamp> =
            failed.iter().map(|pod| finished_at(pod)).filter(|at| last_success.is_none_or(|success| *at > success)).collect();
        Record {
            failures_since_success: base.failures_since_success.saturating_add(u32::try_from(counting.len()).unwrap_or(u32::MAX)),
            last_failure: counting.into_iter().max().or(base.last_failure),
        }
    }

    /// How long to wait from now on; zero if no longer.
    pub fn remaining(self, now: Timestamp) -> Duration {
        self.last_failure.map_or(Duration::ZERO, |last| remaining(self.failures_since_success, last, now))
    }
}

/// How long to wait after so many failures, the last of which was then.
pub fn remaining(failures: u32, last: Timestamp, now: Timestamp) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let doubled = FIRST.checked_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).unwrap_or(LONGEST);
    let wait = SignedDuration::try_from(doubled.min(LONGEST)).unwrap_or(SignedDuration::ZERO);
    (wait - now.duration_since(last)).max(SignedDuration::ZERO).unsigned_abs()
}

/// When a pod finished, as well as it can be told.
pub fn finished_at(pod: &Pod) -> Timestamp {
    let unready = || {
        let ready = pod_state::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    };
    let deleted = || {
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        pod.metadata.deletion_timestamp.as_ref().and_then(|time| time.0.checked_sub(grace).ok())
    };
    let created = || pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    containers_finished_at(pod).or_else(unready).or_else(deleted).or_else(created).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// When the last container finished; nothing unless all have, and said when.
fn containers_finished_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let is_sidecar = |container: &&ContainerStatus| {
        let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        init.filter(|c| c.name == container.name).any(|c| c.restart_policy.as_deref() == Some("Always"))
    };
    let containers = status.container_statuses.iter().flatten();
    let sidecars = status.init_container_statuses.iter().flatten().filter(is_sidecar);
    let finished = containers.chain(sidecars).map(|container| Some(container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0));
    finished.collect::<Option<Vec<_>>>()?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::pod_state::tests::{at, pod};

    fn finished(second: i64) -> Arc<Pod> {
        let mut pod = pod("p", None);
        let terminated = ContainerStateTerminated { finished_at: Some(Time(at(second))), ..ContainerStateTerminated::default() };
        let state = ContainerState { terminated: Some(terminated), ..ContainerState::default() };
        let status = ContainerStatus { state: Some(state), ..ContainerStatus::default() };
        pod.status.get_or_insert_default().container_statuses = Some(vec![status]);
        Arc::new(pod)
    }

    #[test]
    fn failures_count_since_the_last_success() {
        let record = Record::default().after(&[], &[finished(10), finished(20)]);
        assert_eq!(record, Record { failures_since_success: 2, last_failure: Some(at(20)) });
        assert_eq!(record.after(&[], &[]), record);
        assert_eq!(record.after(&[], &[finished(30)]).failures_since_success, 3);
        assert_eq!(record.after(&[finished(30)], &[]), Record::default());
        let mixed = record.after(&[finished(30)], &[finished(25), finished(31)]);
        assert_eq!(mixed, Record { failures_since_success: 1, last_failure: Some(at(31)) });
    }

    #[test]
    fn the_wait_doubles_up_to_a_limit() {
        for (failures, want) in [(0, 0), (1, 10), (2, 20), (3, 40), (6, 320), (7, 600), (100, 600)] {
            assert_eq!(remaining(failures, at(0), at(0)), Duration::from_secs(want), "{failures}");
        }
        assert_eq!(remaining(2, at(0), at(15)), Duration::from_secs(5));
        assert_eq!(remaining(2, at(0), at(25)), Duration::ZERO);
        assert_eq!(Record::default().remaining(at(0)), Duration::ZERO);
    }

    #[test]
    fn the_end_is_told_by_what_knows_it_best() {
        assert_eq!(finished_at(&finished(7)), at(7));
        let mut deleted = pod("p", None);
        deleted.metadata.deletion_timestamp = Some(Time(at(50)));
        deleted.metadata.deletion_grace_period_seconds = Some(30);
        assert_eq!(finished_at(&deleted), at(20));
        assert_eq!(finished_at(&pod("p", None)), at(0));
    }
}
