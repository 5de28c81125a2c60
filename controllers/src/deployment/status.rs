//! A Deployment's status: counts over its ReplicaSets and the conditions Available, Progressing and ReplicaFailure. Pure.

use std::time::Duration;

use client::Object;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::revision::Sets;
use super::scaling::{available, total};
use super::wanted::Wanted;

pub const AVAILABLE: &str = "Available";
pub const PROGRESSING: &str = "Progressing";
pub const REPLICA_FAILURE: &str = "ReplicaFailure";

pub const FAILED_CREATE: &str = "ReplicaSetCreateError";
pub const CREATED: &str = "NewReplicaSetCreated";
pub const FOUND: &str = "FoundNewReplicaSet";
const UPDATED: &str = "ReplicaSetUpdated";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_.as_deref() == Some(kind))
}

pub fn new_condition(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Sets a condition unless it says the same already. The time of its last turn stays if its status does.
pub fn set_condition(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    let kind = new.type_.clone().unwrap_or_default();
    if let Some(old) = condition(status, &kind) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove_condition(status, &kind);
    status.conditions.get_or_insert_default().push(new);
}

pub fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_.as_deref() != Some(kind));
    }
    status.conditions = status.conditions.take().filter(|conditions| !conditions.is_empty());
}

fn has_reason(condition: Option<&DeploymentCondition>, reason: &str) -> bool {
    condition.is_some_and(|condition| condition.reason.as_deref() == Some(reason))
}

/// Notes that the Deployment was paused or resumed, so that the pause does not count as a lack of progress.
pub fn note_pause(wanted: &Wanted<'_>, status: &mut DeploymentStatus, now: Timestamp) -> bool {
    let progress = condition(status, PROGRESSING);
    if wanted.progress_deadline_seconds.is_none() || has_reason(progress, TIMED_OUT) {
        return false;
    }
    let (reason, message) = match (wanted.paused, has_reason(progress, PAUSED)) {
        (true, false) => (PAUSED, "Deployment is paused"),
        (false, true) => (RESUMED, "Deployment is resumed"),
        _ => return false,
    };
    set_condition(status, new_condition(PROGRESSING, "Unknown", reason, message.to_owned(), now));
    true
}

/// The counts, and whether enough pods are available.
pub fn counted(deployment: &Deployment, wanted: &Wanted<'_>, sets: &Sets, now: Timestamp) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let pods = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let all_available: i32 = sets.all().map(available).sum();
    let present = |count: i32| (count != 0).then_some(count);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: present(sets.all().map(pods).sum()),
        updated_replicas: present(sets.new.iter().map(pods).sum()),
        ready_replicas: present(sets.all().map(ready).sum()),
        available_replicas: present(all_available),
        unavailable_replicas: present((total(sets.all()) - all_available).max(0)),
        terminating_replicas: terminating(sets),
        collision_count: old.collision_count,
        conditions: old.conditions.filter(|conditions| !conditions.is_empty()),
    };
    let (value, reason, message) = if all_available >= wanted.min_available() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, new_condition(AVAILABLE, value, reason, message.to_owned(), now));
    status
}

/// Nothing while a set that was observed does not tell.
fn terminating(sets: &Sets) -> Option<i32> {
    sets.all().try_fold(0, |sum, set| match &set.status {
        Some(status) if status.terminating_replicas.is_some() => Some(sum + status.terminating_replicas?),
        Some(status) if status.observed_generation.unwrap_or(0) != 0 => None,
        _ => Some(sum),
    })
}

/// The status at the end of a step of a rollout: the counts, and how the rollout comes along.
pub fn of_rollout(deployment: &Deployment, wanted: &Wanted<'_>, sets: &Sets, now: Timestamp) -> DeploymentStatus {
    let mut status = counted(deployment, wanted, sets, now);
    let old = deployment.status.clone().unwrap_or_default();
    if wanted.progress_deadline_seconds.is_none() {
        remove_condition(&mut status, PROGRESSING);
    }
    let progress = condition(&old, PROGRESSING);
    let was_complete = status.replicas == status.updated_replicas && has_reason(progress, COMPLETE);
    if let Some(deadline) = wanted.progress_deadline_seconds.filter(|_| !was_complete) {
        let about = |what: &str| match &sets.new {
            Some(set) => format!("ReplicaSet \"{}\" {what}", set.name()),
            None => format!("Deployment \"{}\" {what}", deployment.name()),
        };
        let set = |value, reason, message| new_condition(PROGRESSING, value, reason, message, now);
        if is_complete(deployment, wanted, &status) {
            set_condition(&mut status, set("True", COMPLETE, about("has successfully progressed.")));
        } else if is_progressing(&old, &status) {
            let mut moving = set("True", UPDATED, about("is progressing."));
            if let Some(progress) = progress.filter(|progress| progress.status.as_deref() == Some("True")) {
                moving.last_transition_time = progress.last_transition_time.clone();
            }
            // Set anew even if it says the same: the time of its last update is what the deadline is counted from.
            remove_condition(&mut status, PROGRESSING);
            set_condition(&mut status, moving);
        } else if is_late(&status, deadline, now) {
            set_condition(&mut status, set("False", TIMED_OUT, about("has timed out progressing.")));
        }
    }
    match failure(sets) {
        Some(failure) => set_condition(&mut status, failure),
        None => remove_condition(&mut status, REPLICA_FAILURE),
    }
    status
}

/// Everything is as wanted, and the status knows it.
pub fn is_complete(deployment: &Deployment, wanted: &Wanted<'_>, status: &DeploymentStatus) -> bool {
    let all = |count: Option<i32>| count.unwrap_or(0) == wanted.replicas;
    all(status.updated_replicas)
        && all(status.replicas)
        && all(status.available_replicas)
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || outdated(new) < outdated(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

fn is_late(status: &DeploymentStatus, deadline: i32, now: Timestamp) -> bool {
    let Some(progress) = condition(status, PROGRESSING) else { return false };
    match progress.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => remaining(progress, deadline, now).is_some_and(|left| left.is_negative()),
    }
}

fn remaining(progress: &DeploymentCondition, deadline: i32, now: Timestamp) -> Option<SignedDuration> {
    let since = progress.last_update_time.as_ref()?.0;
    Some(since.duration_since(now) + SignedDuration::from_secs(i64::from(deadline)))
}

/// When to look whether the deadline has passed; nothing if there is none to wait for.
pub fn next_check(deployment: &Deployment, wanted: &Wanted<'_>, now: Timestamp) -> Option<Duration> {
    let status = deployment.status.as_ref()?;
    let progress = condition(status, PROGRESSING)?;
    let deadline = wanted.progress_deadline_seconds?;
    if is_complete(deployment, wanted, status) || has_reason(Some(progress), TIMED_OUT) {
        return None;
    }
    // A little later than the deadline, which has whole seconds.
    Some(remaining(progress, deadline, now)?.max(SignedDuration::ZERO).unsigned_abs() + Duration::from_secs(1))
}

fn failure(sets: &Sets) -> Option<DeploymentCondition> {
    let failures = sets.new.iter().chain(&sets.old).flat_map(|set| set.status.iter().flat_map(|status| status.conditions.iter().flatten()));
    let first = failures.into_iter().find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE))?;
    Some(DeploymentCondition {
        type_: first.type_.clone(),
        status: first.status.clone(),
        reason: first.reason.clone(),
        message: first.message.clone(),
        last_transition_time: first.last_transition_time.clone(),
        last_update_time: first.last_transition_time.clone(),
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    use super::super::wanted::tests::deployment;
    use super::*;
    use crate::pod_state::tests::at;

    fn set(name: &str, size: i32, pods: i32, available: i32) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        set.metadata.name = Some(name.to_owned());
        set.spec.replicas = Some(size);
        set.status = Some(ReplicaSetStatus {
            replicas: pods,
            ready_replicas: Some(available),
            available_replicas: Some(available),
            observed_generation: Some(1),
            terminating_replicas: Some(1),
            ..ReplicaSetStatus::default()
        });
        set
    }

    fn rollout(deployment: &Deployment, sets: &Sets, now: i64) -> DeploymentStatus {
        of_rollout(deployment, &Wanted::of(deployment).unwrap(), sets, at(now))
    }

    fn progress(status: &DeploymentStatus) -> (String, String, String) {
        let condition = condition(status, PROGRESSING).expect("it tells of its progress");
        (condition.status.clone().unwrap(), condition.reason.clone().unwrap(), condition.message.clone().unwrap())
    }

    #[test]
    fn a_rollout_progresses_completes_or_times_out() {
        let mut deployment = deployment(3, IntOrString::Int(1), IntOrString::Int(0));
        deployment.spec.progress_deadline_seconds = Some(60);
        let sets = |pods, available| Sets { new: Some(set("new", 3, pods, available)), old: vec![] };

        deployment.status = Some(rollout(&deployment, &sets(2, 0), 0));
        assert_eq!(progress(deployment.status.as_ref().unwrap()).1, UPDATED);
        let available = condition(deployment.status.as_ref().unwrap(), AVAILABLE).unwrap();
        assert_eq!((available.status.as_deref(), available.reason.as_deref()), (Some("False"), Some("MinimumReplicasUnavailable")));

        let wanted = Wanted::of(&deployment).unwrap();
        assert_eq!(next_check(&deployment, &wanted, at(20)), Some(Duration::from_secs(41)));
        let unchanged = rollout(&deployment, &sets(2, 0), 59);
        assert_eq!(Some(&unchanged), deployment.status.as_ref());

        let late = rollout(&deployment, &sets(2, 0), 61);
        let want = ("False", TIMED_OUT, "ReplicaSet \"new\" has timed out progressing.");
        assert_eq!(progress(&late), (want.0.to_owned(), want.1.to_owned(), want.2.to_owned()));

        deployment.status = Some(late);
        deployment.status = Some(rollout(&deployment, &sets(3, 3), 70));
        let want = ("True", COMPLETE, "ReplicaSet \"new\" has successfully progressed.");
        assert_eq!(progress(deployment.status.as_ref().unwrap()), (want.0.to_owned(), want.1.to_owned(), want.2.to_owned()));
        let wanted = Wanted::of(&deployment).unwrap();
        assert_eq!(next_check(&deployment, &wanted, at(70)), None);
    }

    #[test]
    fn counts_add_up_over_the_sets() {
        let deployment = deployment(4, IntOrString::Int(1), IntOrString::Int(1));
        let sets = Sets { new: Some(set("new", 2, 2, 1)), old: vec![set("old", 3, 3, 3)] };
        let status = rollout(&deployment, &sets, 0);
        assert_eq!((status.replicas, status.updated_replicas, status.ready_replicas), (Some(5), Some(2), Some(4)));
        assert_eq!((status.available_replicas, status.unavailable_replicas, status.terminating_replicas), (Some(4), Some(1), Some(2)));
        assert_eq!(condition(&status, AVAILABLE).and_then(|c| c.status.as_deref()), Some("True"));
    }

    #[test]
    fn a_failure_of_a_set_is_the_deployments() {
        let deployment = deployment(4, IntOrString::Int(1), IntOrString::Int(1));
        let mut failing = set("new", 2, 2, 1);
        let condition = ReplicaSetCondition {
            type_: Some(REPLICA_FAILURE.to_owned()),
            status: Some("True".to_owned()),
            reason: Some("FailedCreate".to_owned()),
            ..ReplicaSetCondition::default()
        };
        failing.status.as_mut().unwrap().conditions = Some(vec![condition]);
        let status = rollout(&deployment, &Sets { new: Some(failing), old: vec![] }, 0);
        assert_eq!(super::condition(&status, REPLICA_FAILURE).and_then(|c| c.reason.as_deref()), Some("FailedCreate"));
    }

    #[test]
    fn a_pause_is_noted_and_so_is_its_end() {
        let mut deployment = deployment(1, IntOrString::Int(1), IntOrString::Int(0));
        let spec = &mut deployment.spec;
        (spec.progress_deadline_seconds, spec.paused) = (Some(600), Some(true));
        let mut status = DeploymentStatus::default();
        assert!(note_pause(&Wanted::of(&deployment).unwrap(), &mut status, at(0)));
        assert!(!note_pause(&Wanted::of(&deployment).unwrap(), &mut status, at(1)));
        deployment.spec.paused = None;
        assert!(note_pause(&Wanted::of(&deployment).unwrap(), &mut status, at(2)));
        assert_eq!(progress(&status), ("Unknown".to_owned(), RESUMED.to_owned(), "Deployment is resumed".to_owned()));
    }
}
