//! Revisions: which ReplicaSet is a Deployment's present, which are its past, and how the annotations tell of it. Pure.

use std::collections::BTreeMap;

use client::Object;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::wanted::Wanted;
use crate::template;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The longest list of former revisions, in characters.
const HISTORY_LIMIT: usize = 2000;

/// The ReplicaSets of a Deployment.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    /// The one whose template is the Deployment's.
    pub new: Option<ReplicaSet>,
    /// All others, oldest first.
    pub old: Vec<ReplicaSet>,
}

impl Sets {
    /// Of several that match the template the oldest is the new one.
    pub fn sort(mut sets: Vec<ReplicaSet>, wanted: &PodTemplateSpec) -> Sets {
        sets.sort_by(by_age);
        let is_new = |set: &ReplicaSet| set.spec.template.as_ref().is_some_and(|t| template::is_same(t, wanted));
        let new = sets.iter().position(is_new).map(|i| sets.remove(i));
        Sets { new, old: sets }
    }

    pub fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }
}

/// Oldest first; names decide between those made in the same second.
pub fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> std::cmp::Ordering {
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    created(a).cmp(&created(b)).then_with(|| a.name().cmp(b.name()))
}

/// The revision that a ReplicaSet is; zero if none is noted, nothing if the note cannot be read.
pub fn revision_of(set: &ReplicaSet) -> Option<i64> {
    set.annotation(REVISION).map_or(Some(0), |text| text.parse().ok())
}

/// The highest revision among these.
pub fn highest<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i64 {
    sets.into_iter().filter_map(revision_of).max().unwrap_or(0).max(0)
}

/// The revision before the highest; zero if there is none.
pub fn previous<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i64 {
    let mut revisions: Vec<i64> = sets.into_iter().filter_map(revision_of).collect();
    revisions.sort_unstable();
    revisions.iter().rev().nth(1).copied().unwrap_or(0)
}

/// Brings the new ReplicaSet's annotations up to date: those of the Deployment, and the revision if it has to rise.
/// Says whether something changed.
pub fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) -> bool {
    let before = set.metadata.annotations.clone();
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !is_own(key) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    raise_revision(annotations, revision);
    if annotations.is_empty() {
        set.metadata.annotations = None;
    }
    set.metadata.annotations.as_ref().filter(|a| !a.is_empty()) != before.as_ref().filter(|a| !a.is_empty())
}

/// Annotations that say something of the object that has them.
pub fn is_own(key: &str) -> bool {
    matches!(key, LAST_APPLIED | REVISION | HISTORY | DESIRED_REPLICAS | MAX_REPLICAS | ROLLBACK_TO)
}

fn raise_revision(annotations: &mut BTreeMap<String, String>, revision: i64) {
    let old = annotations.get(REVISION).cloned();
    let old_number = match old.as_deref() {
        None | Some("") => 0,
        // What cannot be read is somebody's own idea of a revision: it stays.
        Some(text) => match text.parse::<i64>() {
            Ok(number) => number,
            Err(_) => return,
        },
    };
    if old_number >= revision {
        return;
    }
    annotations.insert(REVISION.to_owned(), revision.to_string());
    if let Some(old) = old {
        let history = annotations.get(HISTORY).map_or("", String::as_str);
        if let Some(history) = longer_history(history, &old) {
            annotations.insert(HISTORY.to_owned(), history);
        }
    }
}

/// Adds a revision to the list, leaving out the first ones if it gets too long; nothing if it does not fit at all.
fn longer_history(history: &str, revision: &str) -> Option<String> {
    if history.is_empty() {
        return Some(revision.to_owned());
    }
    let mut rest = history;
    while rest.len() + revision.len() + 1 > HISTORY_LIMIT {
        rest = rest.split_once(',').map_or("", |(_, rest)| rest);
        if rest.is_empty() {
            return (revision.len() <= HISTORY_LIMIT).then(|| revision.to_owned());
        }
    }
    Some(format!("{rest},{revision}"))
}

/// Notes for how many replicas of the Deployment a ReplicaSet was last scaled. Says whether something changed.
pub fn annotate_replicas(set: &mut ReplicaSet, wanted: &Wanted<'_>) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, wanted.replicas), (MAX_REPLICAS, wanted.max_total())] {
        let old = annotations.insert(key.to_owned(), value.to_string());
        changed |= old != annotations.get(key).cloned();
    }
    changed
}

/// How many replicas the Deployment wanted when the ReplicaSet was last scaled.
pub fn noted_replicas(set: &ReplicaSet) -> Option<i32> {
    non_negative(set.annotation(DESIRED_REPLICAS)?)
}

/// How many pods the Deployment might have had then.
pub fn noted_max(set: &ReplicaSet) -> Option<i32> {
    non_negative(set.annotation(MAX_REPLICAS)?)
}

fn non_negative(text: &str) -> Option<i32> {
    text.parse().ok().filter(|number| *number >= 0 && !text.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::super::wanted::tests::deployment;
    use super::*;
    use crate::pod_state::tests::at;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    fn set(name: &str, created: i64, revision: &str) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        set.metadata.name = Some(name.to_owned());
        set.metadata.creation_timestamp = Some(Time(at(created)));
        set.metadata.annotations = Some([(REVISION.to_owned(), revision.to_owned())].into());
        set.spec.template = Some(PodTemplateSpec::default());
        set
    }

    #[test]
    fn the_oldest_match_is_the_new_set() {
        let mut other = set("other", 0, "1");
        other.spec.template.as_mut().unwrap().spec.get_or_insert_default().node_name = Some("x".to_owned());
        let sets = Sets::sort(vec![set("young", 3, "3"), set("match", 2, "2"), other], &PodTemplateSpec::default());
        assert_eq!(sets.new.as_ref().map(Object::name), Some("match"));
        assert_eq!(sets.old.iter().map(Object::name).collect::<Vec<_>>(), ["other", "young"]);
    }

    #[test]
    fn revisions_are_counted_and_unreadable_ones_skipped() {
        let sets = [set("a", 0, "3"), set("b", 0, "x"), set("c", 0, "7"), set("d", 0, "1")];
        assert_eq!((highest(&sets), previous(&sets)), (7, 3));
        assert_eq!((highest([]), previous(&sets[..1])), (0, 0));
    }

    #[test]
    fn annotations_are_copied_and_the_old_revision_is_remembered() {
        let mut deployment = deployment(1, IntOrString::Int(1), IntOrString::Int(0));
        deployment.metadata.annotations =
            Some([("note", "x"), (LAST_APPLIED, "{}"), (REVISION, "2")].map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        let mut set = set("a", 0, "2");
        assert!(annotate(&deployment, &mut set, 4));
        let want = [("note", "x"), (REVISION, "4"), (HISTORY, "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(set.metadata.annotations, Some(want.into()));
        assert!(!annotate(&deployment, &mut set, 4));
        assert!(annotate(&deployment, &mut set, 6));
        assert_eq!(set.annotation(HISTORY), Some("2,4"));
        assert!(!annotate(&deployment, &mut set, 5));
    }

    #[test]
    fn a_long_history_loses_its_beginning() {
        let history = "1234,".repeat(399) + "5678";
        let longer = longer_history(&history, "99").unwrap();
        assert!(longer.len() <= HISTORY_LIMIT && longer.ends_with(",5678,99"));
        assert_eq!(longer_history("1", &"9".repeat(3000)), None);
        assert_eq!(longer_history("", "1").as_deref(), Some("1"));
    }

    #[test]
    fn replicas_are_noted_once() {
        let deployment = deployment(10, IntOrString::Int(3), IntOrString::Int(0));
        let wanted = Wanted::of(&deployment).unwrap();
        let mut set = set("a", 0, "1");
        assert!(annotate_replicas(&mut set, &wanted));
        assert!(!annotate_replicas(&mut set, &wanted));
        assert_eq!((noted_replicas(&set), noted_max(&set)), (Some(10), Some(13)));
    }
}
