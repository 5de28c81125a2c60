//! A StatefulSet's status: counts over its pods and the two revisions. Pure.

use std::sync::Arc;

use client::Object;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::identity;
use crate::pod_state;

/// The status of what was observed. `updating` pods have just been deleted for an update.
pub fn status(
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    (current, update): (&str, &str),
    collisions: i32,
    updating: usize,
    now: Timestamp,
) -> StatefulSetStatus {
    let count = |test: &dyn Fn(&Pod) -> bool| i32::try_from(pods.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX);
    let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
    let is_ready = |pod: &Pod| pod_state::phase(pod) == "Running" && pod_state::is_ready(pod);
    let of_revision = |name: &str| count(&|pod| !pod.is_terminating() && identity::revision(pod) == name);
    let replicas = count(&|_| true);
    let ready = count(&is_ready);
    let updated = of_revision(update);
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas,
        ready_replicas: Some(ready),
        available_replicas: Some(count(&|pod| is_ready(pod) && pod_state::is_available(pod, min_ready, now))),
        current_replicas: Some(of_revision(current) - i32::try_from(updating).unwrap_or(0)),
        updated_replicas: Some(updated),
        current_revision: Some(current.to_owned()),
        update_revision: Some(update.to_owned()),
        collision_count: Some(collisions),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    let wanted = identity::replicas(set);
    if [updated, ready, replicas].iter().all(|count| *count == wanted) {
        // The update is complete: what was new is the present.
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status
}

/// Whether the server does not know it yet. Absent counts are zero.
pub fn differs(old: Option<&StatefulSetStatus>, new: &StatefulSetStatus) -> bool {
    let Some(old) = old else { return true };
    let counts = |status: &StatefulSetStatus| {
        let count = |count: Option<i32>| count.unwrap_or(0);
        [
            status.replicas,
            count(status.ready_replicas),
            count(status.available_replicas),
            count(status.current_replicas),
            count(status.updated_replicas),
        ]
    };
    new.observed_generation > old.observed_generation
        || counts(old) != counts(new)
        || old.current_revision != new.current_revision
        || old.update_revision != new.update_revision
        || old.collision_count.unwrap_or(0) != new.collision_count.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodTemplateSpec;

    use super::super::identity::tests::set;
    use super::*;
    use crate::pod_state::tests::{at, pod};

    fn member(set: &StatefulSet, ordinal: i32, revision: &str, ready_since: Option<i64>) -> Arc<Pod> {
        let mut member = identity::new_pod(set, &PodTemplateSpec::default(), revision, ordinal);
        member.status = pod("x", ready_since).status;
        Arc::new(member)
    }

    #[test]
    fn pods_are_counted_by_state_and_revision() {
        let mut set = set(3);
        set.spec.min_ready_seconds = Some(10);
        let pods = [member(&set, 0, "old", Some(0)), member(&set, 1, "old", Some(95)), member(&set, 2, "new", None)];
        let status = status(&set, &pods, ("old", "new"), 0, 1, at(100));
        assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (3, Some(2), Some(1)));
        assert_eq!((status.current_replicas, status.updated_replicas), (Some(1), Some(1)));
        assert_eq!(status.current_revision.as_deref(), Some("old"));
        assert!(differs(None, &status) && !differs(Some(&status), &status));
    }

    #[test]
    fn a_complete_update_turns_the_page() {
        let set = set(2);
        let pods = [member(&set, 0, "new", Some(0)), member(&set, 1, "new", Some(0))];
        let status = status(&set, &pods, ("old", "new"), 0, 0, at(100));
        assert_eq!((status.current_revision.as_deref(), status.current_replicas), (Some("new"), Some(2)));
    }
}
