//! How many replicas each ReplicaSet of a Deployment gets: step by step during a rollout, and in proportion when the Deployment
//! is scaled in the middle of one. Pure.

use client::Object;
use k8s_openapi::api::apps::v1::ReplicaSet;

use super::revision::{Sets, by_age, noted_max, noted_replicas};
use super::wanted::Wanted;
use crate::replica_set::Replicated;

/// A ReplicaSet, by name, and its new size. Steps are taken one after the other; one set may occur twice.
pub type Step = (String, i32);

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Replicas that the sets are told to have.
pub fn total<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i32 {
    sets.into_iter().map(Replicated::desired).fold(0, i32::saturating_add)
}

/// The size of the new set in the next step of a rollout: as many as there is room for.
pub fn new_set_size(wanted: &Wanted<'_>, total: i32, size: i32) -> i32 {
    if !wanted.rolling || size > wanted.replicas {
        return wanted.replicas;
    }
    let room = (wanted.max_total() - total).max(0);
    size + room.min(wanted.replicas - size)
}

/// The steps by which old sets shrink: first pods that are of no use anyway, then as many as may be missing.
pub fn shrink_old(wanted: &Wanted<'_>, sets: &Sets) -> Vec<Step> {
    let Some(new) = &sets.new else { return Vec::new() };
    let mut old: Vec<(&ReplicaSet, i32)> = sets.old.iter().map(|set| (set, set.desired())).filter(|(_, size)| *size > 0).collect();
    old.sort_by(|(a, _), (b, _)| by_age(a, b));
    // New pods that are not available yet do not make up for old ones.
    let not_yet = new.desired() - available(new);
    let mut surplus = total(sets.all()) - wanted.min_available() - not_yet;
    let mut steps = Vec::new();
    if old.is_empty() || surplus <= 0 {
        return steps;
    }
    for (set, size) in &mut old {
        let unhealthy = (*size - available(set)).min(surplus);
        if unhealthy > 0 {
            *size -= unhealthy;
            surplus -= unhealthy;
            steps.push((set.name().to_owned(), *size));
        }
    }
    let all_available = sets.all().map(available).sum::<i32>();
    let mut spare = all_available - wanted.min_available();
    for (set, size) in &mut old {
        let fewer = (*size).min(spare);
        if fewer > 0 {
            *size -= fewer;
            spare -= fewer;
            steps.push((set.name().to_owned(), *size));
        }
    }
    steps
}

/// Whether the Deployment was scaled since its sets were.
pub fn is_scaled(wanted: &Wanted<'_>, sets: &Sets) -> bool {
    sets.all().filter(|set| set.desired() > 0).filter_map(noted_replicas).any(|noted| noted != wanted.replicas)
}

/// What happens when a Deployment is scaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaling {
    pub steps: Vec<Step>,
    /// Sets whose size stays get new annotations all the same.
    pub always: bool,
}

/// The steps by which the sets follow a change of the Deployment's replicas. `pods` is how many pods its status tells.
pub fn follow_scale(wanted: &Wanted<'_>, sets: &Sets, pods: i32) -> Scaling {
    let mut active: Vec<&ReplicaSet> = sets.all().filter(|set| set.desired() > 0).collect();
    active.sort_by(|a, b| by_age(a, b));
    let only = match active.as_slice() {
        [] => sets.new.as_ref().or_else(|| sets.old.iter().max_by(|a, b| by_age(a, b))),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(only) = only {
        // A set that was adopted or sized by hand may have the size already and note another: as long as it does, all that the Deployment
        // wants is taken for a change of its size, and no rollout begins. Upstream's v1.37 waits so for ever.
        return Scaling { steps: vec![(only.name().to_owned(), wanted.replicas)], always: only.desired() > 0 };
    }
    if sets.new.as_ref().is_some_and(|new| is_saturated(wanted, new)) {
        let new = sets.new.as_ref().map_or("", |new| new.name());
        let steps = active.iter().filter(|set| set.name() != new).map(|set| (set.name().to_owned(), 0)).collect();
        return Scaling { steps, always: false };
    }
    // Who recreates scales nothing in the middle, but the sets must note the new size all the same.
    let as_they_are = |active: Vec<&ReplicaSet>| active.iter().map(|set| (set.name().to_owned(), set.desired())).collect();
    let steps = if wanted.rolling { in_proportion(wanted, active, pods) } else { as_they_are(active) };
    Scaling { steps, always: true }
}

/// The new set is all that is wanted.
fn is_saturated(wanted: &Wanted<'_>, new: &ReplicaSet) -> bool {
    new.desired() == wanted.replicas && noted_replicas(new) == Some(wanted.replicas) && available(new) == wanted.replicas
}

/// Spreads the change over the sets by their sizes, so that a rollout goes on with the risk that it had.
fn in_proportion(wanted: &Wanted<'_>, mut active: Vec<&ReplicaSet>, pods: i32) -> Vec<Step> {
    let allowed = if wanted.replicas > 0 { wanted.max_total() } else { 0 };
    let change = allowed - total(active.iter().copied());
    // The largest set takes what rounding leaves: of equals the newest when growing, the oldest when shrinking.
    active.sort_by(|a, b| {
        let by_age = if change > 0 { by_age(b, a) } else { by_age(a, b) };
        b.desired().cmp(&a.desired()).then(by_age)
    });
    let mut left = change;
    let mut steps: Vec<Step> = Vec::with_capacity(active.len());
    for set in active {
        let share = fraction(wanted, set, pods);
        let share = if change > 0 { share.min(left) } else { share.max(left) };
        let share = if left == 0 { 0 } else { share };
        left -= share;
        steps.push((set.name().to_owned(), set.desired() + share));
    }
    if let Some((_, size)) = steps.first_mut() {
        *size = (*size + left).max(0);
    }
    steps
}

/// By how many replicas a set would change if it grew as the Deployment did.
fn fraction(wanted: &Wanted<'_>, set: &ReplicaSet, pods: i32) -> i32 {
    if wanted.replicas == 0 {
        return -set.desired();
    }
    let before = noted_max(set).filter(|max| *max != 0).unwrap_or(pods);
    if before == 0 {
        return 0;
    }
    let size = i64::from(set.desired()) * i64::from(wanted.max_total());
    // Halves away from zero, as upstream rounds.
    let rounded = (2 * size + i64::from(before)).div_euclid(2 * i64::from(before));
    i32::try_from(rounded).unwrap_or(i32::MAX) - set.desired()
}

/// Old sets that may go: those beyond the limit, of the lowest revisions, that have no pods and know it.
pub fn expendable(limit: i32, old: &[ReplicaSet]) -> Vec<&ReplicaSet> {
    let mut alive: Vec<&ReplicaSet> = old.iter().filter(|set| !set.is_terminating()).collect();
    let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.sort_by(|a, b| match (super::revision::revision_of(a), super::revision::revision_of(b)) {
        (Some(x), Some(y)) if x != y => x.cmp(&y),
        _ => by_age(a, b),
    });
    alive.truncate(surplus);
    alive.retain(|set| {
        let (pods, observed) = set.status.as_ref().map_or((0, 0), |s| (s.replicas, s.observed_generation.unwrap_or(0)));
        pods == 0 && set.desired() == 0 && set.metadata.generation.unwrap_or(0) <= observed
    });
    alive
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    use super::super::revision::{REVISION, annotate_replicas};
    use super::super::wanted::tests::deployment;
    use super::*;
    use crate::pod_state::tests::at;

    fn set(name: &str, size: i32, available: i32) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        set.metadata.name = Some(name.to_owned());
        set.spec.replicas = Some(size);
        set.status.get_or_insert_default().available_replicas = Some(available);
        set.status.get_or_insert_default().replicas = size;
        set
    }

    fn created(second: i64, mut set: ReplicaSet) -> ReplicaSet {
        set.metadata.creation_timestamp = Some(Time(at(second)));
        set
    }

    fn sets(new: Option<ReplicaSet>, old: Vec<ReplicaSet>) -> Sets {
        Sets { new, old }
    }

    fn steps(steps: &[(&str, i32)]) -> Vec<Step> {
        steps.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
    }

    fn with_wanted<T>(replicas: i32, surge: i32, unavailable: i32, test: impl FnOnce(&Wanted<'_>) -> T) -> T {
        let deployment = deployment(replicas, IntOrString::Int(surge), IntOrString::Int(unavailable));
        test(&Wanted::of(&deployment).unwrap())
    }

    #[test]
    fn the_new_set_takes_the_room_there_is() {
        for (replicas, surge, total, size, want) in
            [(10, 3, 10, 0, 3), (10, 0, 10, 0, 0), (10, 2, 8, 4, 8), (10, 0, 5, 5, 10), (3, 0, 5, 5, 3), (10, 3, 20, 4, 4)]
        {
            assert_eq!(with_wanted(replicas, surge, 1, |w| new_set_size(w, total, size)), want, "{replicas} {surge} {total} {size}");
        }
    }

    #[test]
    fn old_sets_shrink_as_far_as_availability_allows() {
        let cases = [
            // (replicas, unavailable, (new size, available), [(old size, available)], steps)
            (10, 0, (0, 0), vec![(10, 10)], vec![]),
            (10, 2, (0, 0), vec![(10, 10)], vec![("old0", 8)]),
            (10, 2, (0, 0), vec![(10, 8)], vec![("old0", 8)]),
            (10, 2, (3, 3), vec![(8, 8)], vec![("old0", 5)]),
            (10, 2, (3, 0), vec![(8, 8)], vec![]),
            (10, 0, (3, 1), vec![(10, 8)], vec![("old0", 9)]),
            (10, 0, (5, 5), vec![(3, 0), (5, 5)], vec![("old0", 0)]),
            (10, 2, (5, 5), vec![(3, 3), (5, 5)], vec![("old0", 0), ("old1", 3)]),
        ];
        for (replicas, unavailable, (size, ready), old, want) in cases {
            let old = old.iter().enumerate().map(|(i, (size, ready))| set(&format!("old{i}"), *size, *ready)).collect();
            let all = sets(Some(set("new", size, ready)), old);
            assert_eq!(with_wanted(replicas, 1, unavailable, |w| shrink_old(w, &all)), steps(&want), "{all:?}");
        }
    }

    #[test]
    fn a_single_active_set_follows_the_deployment() {
        let follow = |all: &Sets| with_wanted(7, 0, 1, |w| follow_scale(w, all, 5));
        let want = |name, always| Scaling { steps: steps(&[(name, 7)]), always };
        assert_eq!(follow(&sets(Some(set("new", 0, 0)), vec![set("old", 5, 5)])), want("old", true));
        assert_eq!(follow(&sets(Some(set("new", 5, 5)), vec![set("old", 0, 0)])), want("new", true));
        assert_eq!(follow(&sets(None, vec![created(1, set("a", 0, 0)), created(2, set("b", 0, 0))])), want("b", false));
        assert_eq!(follow(&sets(None, vec![])).steps, []);
    }

    #[test]
    fn sets_that_have_their_size_already_note_it() {
        let noting = |name: &str, size, replicas| {
            let mut set = set(name, size, size);
            with_wanted(replicas, 0, 1, |w| annotate_replicas(&mut set, w));
            set
        };
        // One that had four pods, was set to seven by hand, and was then adopted.
        let adopted = sets(None, vec![noting("old", 7, 4)]);
        with_wanted(7, 0, 1, |w| {
            assert!(is_scaled(w, &adopted));
            assert_eq!(follow_scale(w, &adopted, 7), Scaling { steps: steps(&[("old", 7)]), always: true });
            assert!(!is_scaled(w, &sets(None, vec![noting("old", 7, 7)])));
        });
        // Recreated from now on, and of another size.
        let mut deployment = deployment(7, IntOrString::Int(0), IntOrString::Int(1));
        deployment.spec.strategy.get_or_insert_default().type_ = Some("Recreate".to_owned());
        let both = sets(Some(noting("new", 2, 4)), vec![noting("old", 2, 4)]);
        let scaling = follow_scale(&Wanted::of(&deployment).unwrap(), &both, 4);
        assert_eq!((scaling.steps, scaling.always), (steps(&[("new", 2), ("old", 2)]), true));
    }

    #[test]
    fn a_saturated_new_set_takes_all() {
        with_wanted(5, 0, 1, |w| {
            let mut new = set("new", 5, 5);
            annotate_replicas(&mut new, w);
            let all = sets(Some(new), vec![set("a", 2, 2), set("b", 0, 0)]);
            assert_eq!(follow_scale(w, &all, 7), Scaling { steps: steps(&[("a", 0)]), always: false });
        });
    }

    #[test]
    fn several_active_sets_are_scaled_in_proportion() {
        let cases = [
            // (replicas before, after, sizes (new, old, older), sizes wanted)
            (10, 12, vec![5, 5], vec![6, 6]),
            (10, 20, vec![3, 7], vec![6, 14]),
            (10, 5, vec![5, 5], vec![3, 2]),
            (10, 0, vec![3, 7], vec![0, 0]),
            (5, 50, vec![2, 2, 1], vec![20, 20, 10]),
        ];
        for (before, after, sizes, want) in cases {
            let mut all = Sets::default();
            for (i, size) in sizes.iter().enumerate() {
                // The first is the newest.
                let mut one = created(100 - i64::try_from(i).unwrap(), set(&format!("s{i}"), *size, *size));
                with_wanted(before, 0, 1, |w| annotate_replicas(&mut one, w));
                if i == 0 { all.new = Some(one) } else { all.old.push(one) }
            }
            let scaling = with_wanted(after, 0, 1, |w| {
                assert!(is_scaled(w, &all));
                follow_scale(w, &all, before)
            });
            let mut got = scaling.steps;
            got.sort();
            let got: Vec<i32> = got.into_iter().map(|(_, size)| size).collect();
            assert_eq!((got, scaling.always), (want, true), "{before} -> {after} {sizes:?}");
        }
    }

    #[test]
    fn only_empty_sets_beyond_the_limit_are_expendable() {
        let with_revision = |revision: &str, mut set: ReplicaSet| {
            set.metadata.annotations = Some([(REVISION.to_owned(), revision.to_owned())].into());
            set
        };
        let old = [
            with_revision("3", set("c", 0, 0)),
            with_revision("1", set("a", 0, 0)),
            with_revision("2", set("busy", 1, 1)),
            with_revision("10", set("d", 0, 0)),
        ];
        let names = |limit| expendable(limit, &old).iter().map(|set| set.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(4), [""; 0]);
        assert_eq!(names(2), ["a"]);
        assert_eq!(names(0), ["a", "c", "d"]);
    }
}
