//! Making room: for a pod that fits nowhere, the node on which the removal of pods of lower priority does the least harm.
//!
//! Specified by upstream's `framework/preemption` and `plugins/defaultpreemption` (v1.37). Decides only; the removal is carried out by
//! [`crate::binding`].

use std::cmp::Ordering;
use std::sync::Arc;

use apimachinery::selector::label::Selector;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;

use crate::diagnosis::Diagnosis;
use crate::framework::{Cycle, NodeView, Overlay, Refusal, Rejection};
use crate::memo::Memo;
use crate::plugins::by_name;
use crate::search::{Dice, adjust, check_with_nominated};
use crate::snapshot::NodeIndex;
use crate::snapshot::node::NodeInfo;
use crate::snapshot::pod::PodInfo;

/// A node, and the pods that would have to go.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: NodeIndex,
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them a disruption budget would protect.
    pub violations: usize,
    /// The most important victim's priority, and the sum of all.
    highest: i64,
    sum: i64,
    /// When the first of the most important ones started; nothing if none has.
    earliest: Option<Timestamp>,
}

impl Candidate {
    /// `victims` are in order of importance, the most important first.
    pub fn new(node: NodeIndex, victims: Vec<Arc<PodInfo>>, violations: usize) -> Candidate {
        let priorities = || victims.iter().map(|pod| i64::from(pod.priority()));
        let top = priorities().max().unwrap_or(i64::MIN);
        let important = victims.iter().filter(|pod| i64::from(pod.priority()) == top);
        Candidate {
            node,
            violations,
            highest: priorities().next().unwrap_or(i64::MIN),
            sum: priorities().map(|priority| priority + i64::from(i32::MAX) + 1).sum(),
            earliest: important.filter_map(|pod| pod.started).min(),
            victims,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    Found(Arc<Candidate>),
    /// No node would do; the pod's nomination, if it has one, is void.
    Nothing(String),
    /// The pod may not, or not now; its nomination stays.
    NotEligible(String),
    Failed(String),
}

impl Outcome {
    /// What metrics call it.
    pub fn status(&self) -> &'static str {
        match self {
            Outcome::Found(_) => "Success",
            Outcome::Nothing(_) | Outcome::NotEligible(_) => "Unschedulable",
            Outcome::Failed(_) => "Error",
        }
    }
}

/// A budget, and the pods that it is about.
struct Budget {
    namespace: String,
    selector: Selector,
    allowed: i64,
    disrupted: Vec<String>,
}

impl Budget {
    fn new(budget: &PodDisruptionBudget) -> Option<Budget> {
        let selector = Selector::from_label_selector(budget.spec.as_ref().and_then(|s| s.selector.as_ref())).ok()?;
        let status = budget.status.as_ref();
        Some(Budget {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector,
            allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0).into(),
            disrupted: status.iter().flat_map(|s| s.disrupted_pods.iter().flatten()).map(|(name, _)| name.clone()).collect(),
        })
    }

    fn protects(&self, pod: &PodInfo) -> bool {
        self.namespace == pod.namespace()
            && !self.selector.is_empty()
            && self.selector.matches(&pod.template.labels())
            && !self.disrupted.iter().any(|name| name == pod.name())
    }
}

/// Whether the pod is on its way out because of a preemption.
fn is_leaving(pod: &PodInfo) -> bool {
    let conditions = pod.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let target = conditions.into_iter().flatten().find(|c| c.type_ == "DisruptionTarget");
    pod.terminating && target.is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"))
}

/// Why the pod may not have others removed.
fn not_eligible(cycle: &Cycle<'_>, diagnosis: &Diagnosis) -> Option<&'static str> {
    let pod = cycle.pod;
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let snapshot = &cycle.world.snapshot;
    let index = snapshot.find(pod.nominated_node()).filter(|_| !pod.nominated_node().is_empty())?;
    // Where no removal helps it may look elsewhere at once.
    if diagnosis.of(index).is_some_and(|rejection| !rejection.resolvable) {
        return None;
    }
    let waits = snapshot.node(index).pods.iter().any(|other| other.priority() < pod.priority() && is_leaving(other));
    waits.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Orders pods by how much they are worth keeping, the most first. A pod that has not started is as if it started now.
fn by_importance(a: &PodInfo, b: &PodInfo, now: Timestamp) -> Ordering {
    b.priority().cmp(&a.priority()).then_with(|| a.started.unwrap_or(now).cmp(&b.started.unwrap_or(now)))
}

/// Looks for the nodes where room can be made, and whom that takes; [`Outcome`] if there are none. `now` is the time of day.
/// With a `memo`, what is found out about nodes holds for all pods that are alike.
pub fn candidates(
    cycle: &Cycle<'_>,
    diagnosis: &Diagnosis,
    memo: Option<&mut Memo>,
    dice: &mut Dice,
    now: Timestamp,
) -> Result<Vec<Arc<Candidate>>, Outcome> {
    if let Some(why) = not_eligible(cycle, diagnosis) {
        return Err(Outcome::NotEligible(why.to_owned()));
    }
    let nodes: Vec<NodeIndex> = diagnosis.resolvable().collect();
    let all = cycle.world.snapshot.order().len();
    let budgets: Vec<Budget> = cycle.world.budgets().filter_map(|budget| Budget::new(budget)).collect();
    let args = &cycle.profile.args.preemption;
    let share = nodes.len() * usize::try_from(args.min_candidate_nodes_percentage).unwrap_or(0) / 100;
    let wanted = share.max(usize::try_from(args.min_candidate_nodes_absolute).unwrap_or(0)).min(nodes.len());
    let offset = dice.below(nodes.len());
    let plugin = by_name("DefaultPreemption").unwrap_or(0);
    let mut fresh = Memo::default();
    let memo = memo.unwrap_or(&mut fresh);
    memo.set_budgets(cycle.world.budgets_epoch);
    // Kinds of refusals, by their places in the memo.
    let mut kinds: Vec<Option<u32>> = Vec::new();
    let mut refusals = Diagnosis::default();
    refusals.absent = Some(Rejection::unresolvable("Preemption is not helpful for scheduling"));
    let (mut harmless, mut harmful): (Vec<Arc<Candidate>>, Vec<Arc<Candidate>>) = (Vec::new(), Vec::new());
    let mut errors = Vec::new();
    for step in 0..nodes.len() {
        let index = nodes[(offset + step) % nodes.len()];
        let generation = cycle.world.snapshot.generation(index);
        if memo.victims(index, generation).is_none() {
            let found = match victims_on(cycle, index, &budgets, now) {
                Ok(candidate) => Ok(Arc::new(candidate)),
                Err(Refusal::Rejected(rejection)) => Err(memo.place(plugin, rejection)),
                Err(Refusal::Failed(error)) => {
                    errors.push(error);
                    continue;
                }
            };
            memo.set_victims(index, generation, found);
        }
        match memo.victims(index, generation) {
            Some(Ok(candidate)) => {
                let candidate = candidate.clone();
                if candidate.violations == 0 {
                    harmless.push(candidate)
                } else {
                    harmful.push(candidate)
                }
                if !harmless.is_empty() && harmless.len() + harmful.len() >= wanted {
                    break;
                }
            }
            Some(Err(place)) => {
                let place = *place as usize;
                if kinds.len() <= place {
                    kinds.resize(place + 1, None);
                }
                let kind = *kinds[place].get_or_insert_with(|| refusals.kind(plugin, &memo.refusals[place].1));
                refusals.refuse(index, kind);
            }
            None => {}
        }
    }
    harmless.append(&mut harmful);
    match (harmless.is_empty(), errors.is_empty()) {
        (false, _) => Ok(harmless),
        (true, false) => Err(Outcome::Failed(errors.join(", "))),
        (true, true) => Err(Outcome::Nothing(refusals.message(all))),
    }
}

/// The node where room is made with the least harm.
pub fn choose(candidates: Vec<Arc<Candidate>>, now: Timestamp) -> Outcome {
    best(candidates, now).map_or_else(|| Outcome::NotEligible("no candidate node for preemption".to_owned()), Outcome::Found)
}

/// The fewest pods that would have to leave a node.
fn victims_on(cycle: &Cycle<'_>, index: NodeIndex, budgets: &[Budget], now: Timestamp) -> Result<Candidate, Refusal> {
    let base = cycle.world.snapshot.node(index);
    let lower = |pod: &&Arc<PodInfo>| pod.priority() < cycle.pod.priority();
    let mut possible: Vec<Arc<PodInfo>> = base.pods.iter().filter(lower).cloned().collect();
    if possible.is_empty() {
        return Err(Rejection::unresolvable("No preemption victims found for incoming pod").into());
    }
    let mut look = Look { cycle, index, info: base.clone(), overlay: Overlay::default() };
    possible.iter().for_each(|pod| look.take(pod));
    look.check()?;
    possible.sort_by(|a, b| by_importance(a, b, now));
    let (protected, others) = split_by_budgets(possible, budgets);
    let mut victims = Vec::new();
    let mut violations = 0;
    let both = !protected.is_empty() && !others.is_empty();
    // Each is given back in turn, the protected first; those with whom the pod does not fit have to go.
    for (pod, is_protected) in protected.into_iter().map(|pod| (pod, true)).chain(others.into_iter().map(|pod| (pod, false))) {
        look.give_back(&pod);
        match look.check() {
            Ok(()) => {}
            Err(Refusal::Failed(error)) => return Err(Refusal::Failed(error)),
            Err(Refusal::Rejected(_)) => {
                look.take(&pod);
                violations += usize::from(is_protected);
                victims.push(pod);
            }
        }
    }
    if victims.is_empty() {
        return Err(Refusal::Failed(format!("expected at least one victim pod on node {:?}", base.name)));
    }
    if both {
        victims.sort_by(|a, b| by_importance(a, b, now));
    }
    Ok(Candidate::new(index, victims, violations))
}

/// Those whose removal a budget forbids, and the rest.
fn split_by_budgets(pods: Vec<Arc<PodInfo>>, budgets: &[Budget]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut allowed: Vec<i64> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.into_iter().partition(|pod| {
        if pod.template.labels().is_none_or(|labels| labels.is_empty()) {
            return false;
        }
        for (left, budget) in allowed.iter_mut().zip(budgets).filter(|(_, budget)| budget.protects(pod)) {
            let _ = budget;
            *left -= 1;
            if *left < 0 {
                return true;
            }
        }
        false
    })
}

/// A node as it would be.
struct Look<'a> {
    cycle: &'a Cycle<'a>,
    index: NodeIndex,
    info: NodeInfo,
    overlay: Overlay,
}

impl Look<'_> {
    fn take(&mut self, pod: &Arc<PodInfo>) {
        self.info.remove_pod(&pod.uid);
        adjust(self.cycle, &mut self.overlay, pod, self.index, -1);
    }

    fn give_back(&mut self, pod: &Arc<PodInfo>) {
        self.info.add_pod(pod.clone());
        adjust(self.cycle, &mut self.overlay, pod, self.index, 1);
    }

    fn check(&self) -> Result<(), Refusal> {
        let view = NodeView { index: self.index, info: &self.info, overlay: Some(&self.overlay) };
        check_with_nominated(self.cycle, &view).map_err(|(_, refusal)| refusal)
    }
}

/// The candidate that does the least harm: by protected victims, by the most important victim, by the sum of priorities, by the number of
/// victims, and last by who has run the shortest.
fn best(candidates: Vec<Arc<Candidate>>, now: Timestamp) -> Option<Arc<Candidate>> {
    let harm = |candidate: &Arc<Candidate>| {
        let earliest = std::cmp::Reverse(candidate.earliest.unwrap_or(now));
        (candidate.violations, candidate.highest, candidate.sum, candidate.victims.len(), earliest)
    };
    candidates.into_iter().min_by_key(harm)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::framework::{PreFilter, Preparing, State};
    use crate::plugins::ALL;
    use crate::plugins::testing::{Bench, of};

    fn pod(name: &str, priority: i32, started: Option<i64>, cpu: i64, labels: Value) -> Value {
        let requests = json!({"cpu": cpu.to_string()});
        let mut pod = json!({"metadata": {"name": name, "labels": labels},
            "spec": {"priority": priority, "containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]}});
        if let Some(seconds) = started {
            pod["status"]["startTime"] = json!(Timestamp::from_second(seconds).unwrap().to_string());
        }
        pod
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    /// Nodes by their victims' priorities and start times, the most important first, and by how many of them a budget protects.
    #[test]
    fn the_node_that_loses_least_is_chosen() {
        let (neg, low, mid, high) = (-100, 0, 100, 1000);
        type Node<'a> = (&'a [(i32, i64)], usize);
        let table: [(&[Node<'_>], usize); 10] = [
            // Protected pods count before everything else.
            (&[(&[(low, 0)], 1), (&[(high, 0)], 0)], 1),
            (&[(&[(mid, 0), (mid, 0)], 0), (&[(mid, 0), (low, 0)], 0), (&[(low, 0), (low, 0)], 0)], 2),
            (&[(&[(mid, 0), (mid, 0)], 0), (&[(mid, 0), (low, 0)], 0), (&[(mid, 0), (mid, 0)], 0)], 1),
            (&[(&[(mid, 0), (mid, 0), (neg, 0), (neg, 0)], 0), (&[(mid, 0), (neg, 0)], 0), (&[(mid, 0), (low, 0), (neg, 0)], 0)], 1),
            // Priorities are summed from the lowest on, so that one more pod of negative priority is not better.
            (&[(&[(mid, 0), (neg, 0), (neg, 0)], 0), (&[(mid, 0), (neg, 0)], 0), (&[(mid, 0), (low, 0), (neg, 0)], 0)], 1),
            (
                &[
                    (&[(mid, 0), (low, 0), (low, 0)], 0),
                    (&[(high, 0)], 0),
                    (&[(mid, 0), (low, 0), (low, 0), (low, 0)], 0),
                    (&[(mid, 0), (mid, 0), (mid, 0), (neg, 0)], 0),
                ],
                0,
            ),
            // Who has run the shortest goes.
            (&[(&[(mid, 2), (mid, 2)], 0), (&[(mid, 3), (mid, 3)], 0), (&[(mid, 1), (mid, 1)], 0)], 1),
            (&[(&[(mid, 2), (mid, 4)], 0), (&[(mid, 1), (mid, 5)], 0), (&[(mid, 3), (mid, 6)], 0)], 2),
            // Of the most important ones alone.
            (&[(&[(mid, 2), (low, 4)], 0), (&[(mid, 6), (low, 1)], 0), (&[(mid, 5), (low, 3)], 0)], 1),
            // The first of equals.
            (&[(&[(mid, 0)], 0), (&[(mid, 0)], 0)], 0),
        ];
        for (nodes, expected) in table {
            let mut bench = Bench::new(&[]);
            let candidates = nodes.iter().enumerate().map(|(i, (victims, violations))| {
                let victim = |(j, (priority, started)): (usize, &(i32, i64))| {
                    Arc::new(bench.pod(pod(&format!("{i}-{j}"), *priority, Some(*started), 1, json!({}))))
                };
                let victims: Vec<Arc<PodInfo>> = victims.iter().enumerate().map(victim).collect();
                Arc::new(Candidate::new(u32::try_from(i).unwrap(), victims, *violations))
            });
            let chosen = best(candidates.collect(), NOW).map(|candidate| candidate.node as usize);
            assert_eq!(chosen, Some(expected), "{nodes:?}");
        }
    }

    /// Who would have to leave a node of ten cores for a pod of priority 1000, and how many of them budgets protect.
    fn victims(there: &[(&str, i32, Option<i64>, i64)], cpu: i64, budgets: &[Value]) -> Result<(Vec<String>, usize), String> {
        let mut bench = Bench::new(&[]);
        bench.node(json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "10", "pods": "100"}}}));
        for (name, priority, started, cpu) in there {
            bench.place("n", pod(name, *priority, *started, *cpu, json!({"app": "foo"})));
        }
        let info = bench.pod(pod("p", 1000, None, cpu, json!({})));
        let mut state = State::default();
        for id in bench.profile.pre_filter.clone() {
            let skips =
                ALL[id].pre_filter(&mut Preparing { world: &mut bench.world, profile: &bench.profile, pod: &info, state: &mut state });
            if skips == PreFilter::Skip {
                state.skip_filter.insert(id);
            }
        }
        let budgets: Vec<Budget> = budgets.iter().filter_map(|budget| Budget::new(&of::<PodDisruptionBudget>(budget.clone()))).collect();
        let cycle = Cycle { world: &bench.world, profile: &bench.profile, pod: &info, state: &state };
        let index = bench.world.snapshot.find("n").unwrap();
        match victims_on(&cycle, index, &budgets, NOW) {
            Ok(candidate) => Ok((candidate.victims.iter().map(|victim| victim.name().to_owned()).collect(), candidate.violations)),
            Err(Refusal::Rejected(rejection)) => Err(rejection.reasons.join()),
            Err(Refusal::Failed(error)) => Err(format!("error: {error}")),
        }
    }

    #[test]
    fn as_few_as_possible_have_to_go_and_the_least_important_first() {
        type Row<'a> = (&'a [(&'a str, i32, Option<i64>, i64)], i64, Result<&'a [&'a str], &'a str>);
        let table: [Row<'_>; 6] = [
            (&[("a", 0, None, 6)], 6, Ok(&["a"])),
            (&[("a", 1000, None, 6)], 6, Err("No preemption victims found for incoming pod")),
            (&[("a", 2000, None, 6), ("b", 0, None, 2)], 6, Err("Insufficient cpu")),
            // The small one of low priority stays, since it is not in the way.
            (&[("small", 0, None, 1), ("large", 100, None, 9)], 7, Ok(&["large"])),
            (&[("a", 100, None, 3), ("b", 0, None, 3), ("c", 0, None, 3)], 4, Ok(&["c"])),
            // Of equals those go that started last.
            (&[("a", 0, Some(5), 3), ("b", 0, Some(3), 3), ("c", 0, Some(4), 3)], 4, Ok(&["a"])),
        ];
        for (there, cpu, expected) in table {
            let got = victims(there, cpu, &[]).map(|(names, _)| names);
            let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).map_err(str::to_owned);
            assert_eq!(got, expected, "{there:?} {cpu}");
        }
    }

    #[test]
    fn protected_pods_are_spared_if_others_can_go() {
        let budget = |allowed: i64, disrupted: &[&str]| {
            let disrupted: serde_json::Map<String, Value> =
                disrupted.iter().map(|name| ((*name).to_owned(), json!("2026-01-01T00:00:00Z"))).collect();
            json!({"metadata": {"name": "b", "namespace": "d"}, "spec": {"selector": {"matchLabels": {"app": "foo"}}},
                "status": {"disruptionsAllowed": allowed, "disruptedPods": disrupted, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}})
        };
        let two: &[(&str, i32, Option<i64>, i64)] = &[("a", 100, None, 4), ("b", 100, None, 4)];
        let three: &[(&str, i32, Option<i64>, i64)] = &[("a", 100, None, 3), ("b", 100, None, 3), ("c", 100, None, 3)];
        for (there, allowed, disrupted, expected) in [
            (two, 2, &[][..], 0),
            (two, 1, &[], 1),
            (two, 0, &[], 2),
            // Somebody else's eviction has been counted already.
            (two, 1, &["other"], 1),
            (two, 1, &["b"], 0),
            (three, 1, &["c"], 1),
        ] {
            let (names, violations) = victims(there, 10, &[budget(allowed, disrupted)]).unwrap();
            assert_eq!((names.len(), violations), (there.len(), expected), "{there:?} {allowed} {disrupted:?}");
        }
        // One of two has to go: the one beyond the budget stays.
        assert_eq!(victims(two, 6, &[budget(1, &[])]), Ok((vec!["a".to_owned()], 0)));
        let elsewhere = json!({"metadata": {"name": "b", "namespace": "e"}, "spec": {"selector": {}}, "status": {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}});
        assert_eq!(victims(two, 10, &[elsewhere]).unwrap().1, 0);
    }
}
