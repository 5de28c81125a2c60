//! What to do about a StatefulSet's pods: one after the other in order, or all at once if `podManagementPolicy` is Parallel. Pure.

use std::sync::Arc;

use client::Object;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use super::identity;
use crate::int_or_percent::{self, Round, scaled};
use crate::pod_state;

/// A version of the set's template.
#[derive(Clone, Debug)]
pub struct Version {
    pub name: String,
    pub template: PodTemplateSpec,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The pod has ended: it makes room for a new one.
    DeleteEnded(Arc<Pod>),
    Create(Arc<Pod>),
    /// The pod waits, perhaps for claims that are not there.
    CreateClaims(Arc<Pod>),
    /// Identity, storage or the owners of claims are not as they should be.
    Repair(Arc<Pod>),
    /// The claims of a pod that is to go.
    RepairClaims(Arc<Pod>),
    /// The pod's ordinal is not wanted any more.
    Condemn(Arc<Pod>),
    /// The pod is of an older version.
    Update(Arc<Pod>),
}

/// What the plan is made from.
pub struct Observed<'a> {
    pub set: &'a StatefulSet,
    pub pods: &'a [Arc<Pod>],
    pub current: &'a Version,
    pub update: &'a Version,
    pub now: Timestamp,
    /// Whether the owners of the pod's claims are as the policy wants.
    pub claims_match: &'a (dyn Fn(&Pod) -> bool + Sync),
}

/// A pod that should be there.
enum Replica {
    Present(Arc<Pod>),
    Missing(Arc<Pod>),
}

pub fn is_parallel(set: &StatefulSet) -> bool {
    set.spec.pod_management_policy.as_deref() == Some("Parallel")
}

fn partition(set: &StatefulSet) -> Option<i32> {
    let strategy = set.spec.update_strategy.as_ref()?.rolling_update.as_ref()?;
    Some(strategy.partition.unwrap_or(0))
}

/// How many pods may be unavailable while a set is updated.
pub fn max_unavailable(set: &StatefulSet) -> Result<i32, int_or_percent::Error> {
    let strategy = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let value = strategy.and_then(|strategy| strategy.max_unavailable.clone()).unwrap_or(IntOrString::Int(1));
    Ok(scaled(&value, identity::replicas(set), Round::Down)?.max(1))
}

impl Observed<'_> {
    fn min_ready(&self) -> i32 {
        self.set.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_ready(&self, pod: &Pod) -> bool {
        pod_state::phase(pod) == "Running" && pod_state::is_ready(pod)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pod_state::is_available(pod, self.min_ready(), self.now)
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        !self.is_available(pod) || pod.is_terminating()
    }

    fn is_outdated(&self, pod: &Pod) -> bool {
        identity::revision(pod) != self.update.name
    }

    /// The pod of an ordinal, of the version that the partition gives it.
    fn new_pod(&self, ordinal: i32) -> Pod {
        let strategy = self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        let kept = match partition(self.set) {
            Some(partition) => partition,
            None if strategy == Some("RollingUpdate") => self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0),
            None => 0,
        };
        let version = if ordinal - identity::start(self.set) < kept { self.current } else { self.update };
        identity::new_pod(self.set, &version.template, &version.name, ordinal)
    }

    fn replicas(&self) -> Vec<Replica> {
        let start = identity::start(self.set);
        let of = |ordinal| self.pods.iter().find(|pod| identity::ordinal(pod) == Some(ordinal));
        (start..start.saturating_add(identity::replicas(self.set)))
            .map(|ordinal| {
                of(ordinal).map_or_else(|| Replica::Missing(Arc::new(self.new_pod(ordinal))), |pod| Replica::Present(pod.clone()))
            })
            .collect()
    }

    /// The pods beyond the wanted ordinals, highest first.
    fn condemned(&self) -> Vec<Arc<Pod>> {
        let beyond = |pod: &&Arc<Pod>| identity::ordinal(pod).is_some_and(|ordinal| !identity::is_in_range(self.set, ordinal));
        let mut condemned: Vec<Arc<Pod>> = self.pods.iter().filter(beyond).cloned().collect();
        condemned.sort_by_key(|pod| std::cmp::Reverse(identity::ordinal(pod)));
        condemned
    }

    /// The actions, in the order in which they are to be taken; a failure ends them.
    pub fn plan(&self) -> Result<Vec<Action>, int_or_percent::Error> {
        let mut actions = Vec::new();
        if self.set.is_terminating() {
            return Ok(actions);
        }
        let ordered = !is_parallel(self.set);
        let (replicas, condemned) = (self.replicas(), self.condemned());
        for replica in &replicas {
            if self.keep(replica, ordered, &mut actions) && ordered {
                return Ok(actions);
            }
        }
        actions.extend(condemned.iter().filter(|pod| !(self.claims_match)(pod)).cloned().map(Action::RepairClaims));
        let first_unavailable = self.first_unavailable(&replicas, &condemned);
        for pod in &condemned {
            if pod.is_terminating() {
                if ordered {
                    return Ok(actions);
                }
                continue;
            }
            let healthy = self.is_ready(pod) && self.is_available(pod);
            if ordered && !healthy && first_unavailable != Some(pod.name()) {
                return Ok(actions);
            }
            actions.push(Action::Condemn(pod.clone()));
            if ordered {
                return Ok(actions);
            }
        }
        let strategy = self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        if strategy != Some("OnDelete") {
            self.roll(&replicas, &mut actions)?;
        }
        Ok(actions)
    }

    /// Keeps one replica in being; says whether those after it have to wait.
    fn keep(&self, replica: &Replica, ordered: bool, actions: &mut Vec<Action>) -> bool {
        let pod = match replica {
            Replica::Missing(pod) => {
                actions.push(Action::Create(pod.clone()));
                return ordered;
            }
            Replica::Present(pod) => pod,
        };
        if pod_state::is_terminal(pod) {
            if !pod.is_terminating() {
                actions.push(Action::DeleteEnded(pod.clone()));
            }
            return true;
        }
        if pod_state::phase(pod) == "Pending" {
            actions.push(Action::CreateClaims(pod.clone()));
        }
        if ordered && (pod.is_terminating() || !self.is_ready(pod) || !self.is_available(pod)) {
            return true;
        }
        let matches = identity::identity_matches(self.set, pod) && identity::storage_matches(self.set, pod) && (self.claims_match)(pod);
        if !matches {
            actions.push(Action::Repair(pod.clone()));
        }
        false
    }

    fn first_unavailable<'a>(&self, replicas: &'a [Replica], condemned: &'a [Arc<Pod>]) -> Option<&'a str> {
        let wanted = replicas.iter().find_map(|replica| match replica {
            Replica::Missing(pod) => Some(pod.name()),
            Replica::Present(pod) => self.is_unavailable(pod).then(|| pod.name()),
        });
        wanted.or_else(|| condemned.iter().rev().find(|pod| self.is_unavailable(pod)).map(|pod| pod.name()))
    }

    /// Replaces pods of older versions, highest ordinal first, as far as so many may be unavailable.
    fn roll(&self, replicas: &[Replica], actions: &mut Vec<Action>) -> Result<(), int_or_percent::Error> {
        let max_unavailable = max_unavailable(self.set)?;
        let parallel = is_parallel(self.set);
        let (mut unavailable, mut broken) = (0, 0);
        for replica in replicas {
            match replica {
                // Made in this very step, and of the version that it should have.
                Replica::Missing(pod) => {
                    unavailable += 1;
                    broken += i32::from(parallel && self.is_outdated(pod));
                }
                Replica::Present(pod) if self.is_unavailable(pod) => {
                    unavailable += 1;
                    broken += i32::from(parallel && self.is_outdated(pod) && !pod.is_terminating());
                }
                Replica::Present(_) => {}
            }
        }
        if unavailable >= max_unavailable && broken == 0 {
            return Ok(());
        }
        let kept = usize::try_from(partition(self.set).unwrap_or(0)).unwrap_or(0);
        let candidates = replicas.iter().skip(kept).rev().filter_map(|replica| match replica {
            Replica::Present(pod) if self.is_outdated(pod) && !pod.is_terminating() => Some(pod),
            _ => None,
        });
        let mut budget = usize::try_from(max_unavailable - unavailable).unwrap_or(0);
        if !parallel {
            actions.extend(candidates.take(budget).cloned().map(Action::Update));
            return Ok(());
        }
        // Pods that are of no use cost nothing, so all of them go.
        let (useless, healthy): (Vec<_>, Vec<_>) = candidates.partition(|pod| !self.is_available(pod));
        actions.extend(useless.into_iter().cloned().map(Action::Update));
        budget = budget.min(healthy.len());
        actions.extend(healthy.into_iter().take(budget).cloned().map(Action::Update));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSetUpdateStrategy};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::super::identity::tests::set;
    use super::*;
    use crate::pod_state::tests::{at, pod};

    fn version(name: &str) -> Version {
        Version { name: name.to_owned(), template: PodTemplateSpec::default() }
    }

    /// One letter a pod, from ordinal 0: `r`eady, `n`ot ready, `p`ending, `f`ailed, `t`erminating, `-` for none; capitals are of the
    /// older version.
    fn pods(set: &StatefulSet, letters: &str) -> Vec<Arc<Pod>> {
        let mut pods = Vec::new();
        for (ordinal, letter) in (0..).zip(letters.chars()) {
            let kind = letter.to_ascii_lowercase();
            if kind == '-' {
                continue;
            }
            let revision = if letter.is_ascii_uppercase() { "old" } else { "new" };
            let mut one = identity::new_pod(set, &PodTemplateSpec::default(), revision, ordinal);
            let state = pod("x", (kind == 'r').then_some(0));
            one.status = state.status;
            let phase = match kind {
                'p' => "Pending",
                'f' => "Failed",
                _ => "Running",
            };
            one.status.get_or_insert_default().phase = Some(phase.to_owned());
            one.metadata.deletion_timestamp = (kind == 't').then(|| Time(at(0)));
            pods.push(Arc::new(one));
        }
        pods
    }

    fn words(set: &StatefulSet, letters: &str) -> Vec<String> {
        let pods = pods(set, letters);
        let (current, update) = (version("old"), version("new"));
        let observed = Observed { set, pods: &pods, current: &current, update: &update, now: at(100), claims_match: &|_| true };
        let word = |action: &Action| match action {
            Action::DeleteEnded(pod) => format!("end {}", pod.name()),
            Action::Create(pod) => format!("create {} {}", pod.name(), identity::revision(pod)),
            Action::CreateClaims(pod) => format!("claims {}", pod.name()),
            Action::Repair(pod) => format!("repair {}", pod.name()),
            Action::RepairClaims(pod) => format!("repair claims {}", pod.name()),
            Action::Condemn(pod) => format!("condemn {}", pod.name()),
            Action::Update(pod) => format!("update {}", pod.name()),
        };
        observed.plan().unwrap().iter().map(word).collect()
    }

    fn rolling(replicas: i32, partition: i32, max_unavailable: Option<i32>, parallel: bool) -> StatefulSet {
        let mut set = set(replicas);
        set.spec.update_strategy = Some(StatefulSetUpdateStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateStatefulSetStrategy {
                partition: Some(partition),
                max_unavailable: max_unavailable.map(IntOrString::Int),
            }),
        });
        set.spec.pod_management_policy = parallel.then(|| "Parallel".to_owned());
        set
    }

    #[test]
    fn in_order_each_pod_waits_for_those_before_it() {
        let set = rolling(3, 0, None, false);
        for (pods, want) in [
            ("", vec!["create web-0 new"]),
            ("n", vec![]),
            ("p", vec!["claims web-0"]),
            ("r", vec!["create web-1 new"]),
            ("rfr", vec!["end web-1"]),
            ("rtr", vec![]),
            ("r-r", vec!["create web-1 new"]),
            ("rrr", vec![]),
            ("rrrrr", vec!["condemn web-4"]),
            ("rrrrt", vec![]),
            ("rrrnr", vec!["condemn web-4"]),
            ("rrrnn", vec![]),
            ("rrrn", vec!["condemn web-3"]),
            ("nrrrr", vec![]),
        ] {
            assert_eq!(words(&set, pods), want, "{pods:?}");
        }
    }

    #[test]
    fn in_parallel_all_is_done_at_once() {
        let set = rolling(3, 0, None, true);
        assert_eq!(words(&set, ""), ["create web-0 new", "create web-1 new", "create web-2 new"]);
        assert_eq!(words(&set, "n-nnn"), ["create web-1 new", "condemn web-4", "condemn web-3"]);
    }

    #[test]
    fn updates_go_from_the_highest_ordinal_down_to_the_partition() {
        for (partition, pods, want) in [
            (0, "RRR", vec!["update web-2"]),
            (0, "RRr", vec!["update web-1"]),
            (0, "RRn", vec![]),
            (0, "RRN", vec![]),
            (2, "RRr", vec![]),
            (1, "RRr", vec!["update web-1"]),
            (2, "R", vec!["create web-1 old"]),
            (3, "RRR", vec![]),
        ] {
            assert_eq!(words(&rolling(3, partition, None, false), pods), want, "{partition} {pods:?}");
        }
    }

    #[test]
    fn several_may_be_unavailable_at_once() {
        assert_eq!(words(&rolling(4, 0, Some(2), false), "RRRR"), ["update web-3", "update web-2"]);
        assert_eq!(words(&rolling(4, 0, Some(2), true), "RRRt"), ["update web-2"]);
        assert_eq!(words(&rolling(4, 0, Some(2), true), "NRRR"), ["update web-0", "update web-3"]);
        assert_eq!(words(&rolling(4, 0, Some(1), true), "NNRR"), ["update web-1", "update web-0"]);
    }

    #[test]
    fn on_delete_nothing_is_updated() {
        let mut set = rolling(2, 0, None, false);
        set.spec.update_strategy = Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None });
        assert_eq!(words(&set, "RR"), [""; 0]);
        assert_eq!(words(&set, "R"), ["create web-1 new"]);
    }

    #[test]
    fn what_does_not_match_is_repaired() {
        let mut set = rolling(2, 0, None, false);
        let pods = pods(&set, "rr");
        set.spec.volume_claim_templates.as_mut().unwrap()[0].metadata.name = Some("other".to_owned());
        let (current, update) = (version("old"), version("new"));
        let observed = Observed { set: &set, pods: &pods, current: &current, update: &update, now: at(100), claims_match: &|_| true };
        assert_eq!(observed.plan().unwrap(), [Action::Repair(pods[0].clone()), Action::Repair(pods[1].clone())]);
    }
}
