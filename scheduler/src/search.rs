//! One pod, many nodes: which nodes will do, and which of these is best.
//!
//! Specified by upstream's `schedule_one.go` (v1.37). The search goes round the nodes from where the last one ended and stops when enough
//! have been found. It runs on one core: with verdicts remembered (see [`crate::memo`]) a search costs less than waking a second one.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;

use crate::diagnosis::Diagnosis;
use crate::framework::{
    ASKED, Cycle, NodeView, Overlay, PluginId, PluginSet, Point, PreFilter, Preparing, Refusal, Rejection, State, Verdict,
};
use crate::memo::{Memo, Memos};
use crate::plugins::ALL;
use crate::preemption::{self, Candidate, Outcome};
use crate::profile::Profile;
use crate::snapshot::NodeIndex;
use crate::snapshot::node::NodeInfo;
use crate::snapshot::pod::PodInfo;
use crate::world::World;

/// So many nodes are always looked for.
const MIN_FEASIBLE: usize = 100;
/// So many percent of nodes are looked for at least, however many there are.
const MIN_PERCENTAGE: usize = 5;

/// Why no node was chosen.
#[derive(Debug)]
pub enum Failure {
    NoNodes,
    Unfit(Diagnosis),
    /// The node that was chosen was refused afterwards; others were not asked.
    Refused(Diagnosis),
    Error(String),
}

/// Numbers by chance, always the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number below `sides`.
    pub fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let sides = sides.max(1) as u64;
        ((z ^ (z >> 31)) % sides) as usize
    }
}

/// How long the parts of a search took; nothing for those that it did without.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    pub pre_filter: Option<Duration>,
    pub filter: Option<Duration>,
    pub pre_score: Option<Duration>,
    pub score: Option<Duration>,
}

/// What one search leaves for the next.
pub struct Search {
    start: usize,
    memos: Memos,
    pub dice: Dice,
    /// Of the last search.
    pub timings: Timings,
    /// Whether all verdicts of the last search were such as hold for all pods that are alike.
    whole: bool,
    /// Percentage of nodes to look for, for profiles that do not say; 0 for what suits the number of nodes.
    percentage: usize,
    /// How often plugins were asked at each of [`ASKED`], by profile, since that was taken last.
    asked: HashMap<(usize, PluginId, usize), u64>,
}

/// How many feasible nodes are enough.
fn enough(nodes: usize, percentage: usize) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes;
    }
    let percentage = if percentage == 0 { 50usize.saturating_sub(nodes / 125).max(MIN_PERCENTAGE) } else { percentage };
    (nodes * percentage / 100).max(MIN_FEASIBLE)
}

/// Asks all filters about a node, as it is seen.
pub fn check(cycle: &Cycle<'_>, node: &NodeView<'_>) -> Result<(), (PluginId, Refusal)> {
    check_some(cycle, node, 0..cycle.profile.filter.len())
}

fn check_some(cycle: &Cycle<'_>, node: &NodeView<'_>, which: Range<usize>) -> Result<(), (PluginId, Refusal)> {
    for id in cycle.profile.filter[which].iter().copied().filter(|id| !cycle.state.skip_filter.contains(*id)) {
        let status = |verdict: &Verdict| verdict.as_ref().map_or_else(Refusal::status, |()| "Success");
        match cycle.state.tally.ask(id, Point::Filter, || ALL[id].filter(cycle, node), status) {
            Ok(()) => {}
            Err(Refusal::Rejected(rejection)) => return Err((id, Refusal::Rejected(rejection))),
            Err(Refusal::Failed(error)) => {
                return Err((id, Refusal::Failed(format!("running {:?} filter plugin: {error}", ALL[id].name()))));
            }
        }
    }
    Ok(())
}

/// Notes in all plugins' counts that a pod is on the node too, or no more.
pub fn adjust(cycle: &Cycle<'_>, overlay: &mut Overlay, other: &PodInfo, node: NodeIndex, sign: i64) {
    for id in cycle.profile.pre_filter.iter().copied().filter(|id| !cycle.state.skip_filter.contains(*id)) {
        ALL[id].adjust(cycle, overlay, other, node, sign);
    }
}

/// The pods nominated to a node that come before this one.
fn nominated<'a>(cycle: &Cycle<'a>, name: &str) -> Vec<&'a Arc<PodInfo>> {
    let pod = cycle.pod;
    if cycle.world.nominator.is_empty() {
        return Vec::new();
    }
    cycle.world.nominator.on(name).iter().filter(|other| other.priority() >= pod.priority() && other.uid != pod.uid).collect()
}

/// Asks all filters about a node as it is seen and, if pods are nominated to it, first as if these were there already: the pod
/// must fit both with them (they will come) and without (they may not).
pub fn check_with_nominated(cycle: &Cycle<'_>, node: &NodeView<'_>) -> Result<(), (PluginId, Refusal)> {
    let coming = nominated(cycle, node.name());
    if !coming.is_empty() {
        let mut info = NodeInfo::clone(node.info);
        let mut overlay = node.overlay.cloned().unwrap_or_default();
        for other in coming {
            info.add_pod(other.clone());
            adjust(cycle, &mut overlay, other, node.index, 1);
        }
        check(cycle, &NodeView { index: node.index, info: &info, overlay: Some(&overlay) })?;
    }
    check(cycle, node)
}

impl Search {
    pub fn new(percentage: i32, seed: u64) -> Search {
        Search {
            start: 0,
            memos: Memos::default(),
            dice: Dice::new(seed),
            timings: Timings::default(),
            whole: false,
            percentage: usize::try_from(percentage).unwrap_or(0),
            asked: HashMap::new(),
        }
    }

    /// Notes how often plugins were asked for a pod.
    pub fn tally(&mut self, profile_id: usize, state: &State) {
        for (plugin, place, count) in state.tally.asked() {
            *self.asked.entry((profile_id, plugin, place)).or_insert(0) += u64::from(count);
        }
    }

    /// How often plugins were asked since this was called last, by profile.
    pub fn take_asked(&mut self) -> impl Iterator<Item = (usize, PluginId, Point, u64)> {
        std::mem::take(&mut self.asked).into_iter().map(|((profile, plugin, place), count)| (profile, plugin, ASKED[place], count))
    }

    /// Begins a search: asks what plugins say of the pod before nodes are looked at. The only nodes that can be, if they name some;
    /// with [`Failure::Unfit`] the diagnosis says why there are none.
    pub fn prepare(
        &mut self,
        world: &mut World,
        profile: &Profile,
        pod: &PodInfo,
        state: &mut State,
        diagnosis: &mut Diagnosis,
    ) -> Result<Option<Vec<String>>, Failure> {
        world.snapshot.begin_cycle();
        self.whole = false;
        self.timings = Timings::default();
        if world.snapshot.order().is_empty() {
            return Err(Failure::NoNodes);
        }
        let began = Instant::now();
        let only = self.pre_filter(world, profile, pod, state, diagnosis).map_err(|error| match error {
            Some(error) => Failure::Error(error),
            None => Failure::Unfit(std::mem::take(diagnosis)),
        })?;
        self.timings.pre_filter = Some(began.elapsed());
        Ok(only)
    }

    /// The only nodes that can be, if plugins name some. Nothing in `Err` means that the diagnosis says it.
    fn pre_filter(
        &mut self,
        world: &mut World,
        profile: &Profile,
        pod: &PodInfo,
        state: &mut State,
        diagnosis: &mut Diagnosis,
    ) -> Result<Option<Vec<String>>, Option<String>> {
        let mut only: Option<Vec<String>> = None;
        let mut naming = PluginSet::EMPTY;
        for id in profile.pre_filter.iter().copied() {
            let began = state.tally.begin(id, Point::PreFilter);
            let answer = ALL[id].pre_filter(&mut Preparing { world, profile, pod, state });
            let status = match &answer {
                PreFilter::Skip => "Skip",
                PreFilter::Refuse(refusal) => refusal.status(),
                PreFilter::Ask | PreFilter::Only(_) => "Success",
            };
            state.tally.end(id, Point::PreFilter, began, status);
            match answer {
                PreFilter::Ask => {}
                PreFilter::Skip => state.skip_filter.insert(id),
                PreFilter::Refuse(Refusal::Failed(error)) => {
                    return Err(Some(format!("running PreFilter plugin {:?}: {error}", ALL[id].name())));
                }
                PreFilter::Refuse(Refusal::Rejected(rejection)) => {
                    diagnosis.pre_filter_message = rejection.reasons.join();
                    diagnosis.absent = Some(rejection);
                    diagnosis.plugins.insert(id);
                    return Err(None);
                }
                PreFilter::Only(names) => {
                    naming.insert(id);
                    only = Some(match only {
                        None => names,
                        Some(before) => before.into_iter().filter(|name| names.contains(name)).collect(),
                    });
                    if only.as_ref().is_some_and(Vec::is_empty) {
                        let names = naming.names();
                        let message = match names.as_slice() {
                            [one] => format!("node(s) didn't satisfy plugin {one}"),
                            _ => format!("node(s) didn't satisfy plugin(s) [{}] simultaneously", names.join(" ")),
                        };
                        diagnosis.pre_filter_message.clone_from(&message);
                        diagnosis.absent = Some(Rejection::saying(false, message));
                        diagnosis.plugins = diagnosis.plugins.union(naming);
                        return Err(None);
                    }
                }
            }
        }
        if only.is_some() {
            let message = format!("node(s) didn't satisfy plugin(s) [{}]", naming.names().join(" "));
            diagnosis.absent = Some(Rejection::saying(false, message));
            diagnosis.plugins = diagnosis.plugins.union(naming);
        }
        Ok(only)
    }

    /// The node that the pod is nominated to, if it will do. What goes wrong here does not keep the pod from other nodes.
    pub fn nominated_node(&mut self, world: &World, profile: &Profile, pod: &PodInfo, state: &State) -> Vec<NodeIndex> {
        let name = pod.nominated_node();
        let Some(index) = world.snapshot.find(name).filter(|_| !name.is_empty()) else { return Vec::new() };
        let cycle = Cycle { world, profile, pod, state };
        match check_with_nominated(&cycle, &NodeView::of(world, index)) {
            Ok(()) => vec![index],
            Err((_, Refusal::Rejected(_))) => Vec::new(),
            Err((_, Refusal::Failed(error))) => {
                tracing::error!(pod = %pod.uid, node = name, %error, "the nominated node could not be looked at");
                Vec::new()
            }
        }
    }

    /// The nodes that will do, as many as are enough; `all` if one is not enough even if no plugin scores. `profile_id` tells
    /// profiles apart.
    pub fn filter(
        &mut self,
        cycle: Cycle<'_>,
        profile_id: usize,
        only: Option<&[String]>,
        all: bool,
        diagnosis: &mut Diagnosis,
    ) -> Result<Vec<NodeIndex>, (PluginId, String)> {
        let began = Instant::now();
        let found = self.pass_filters(cycle, profile_id, only, all, diagnosis);
        self.timings.filter = Some(began.elapsed());
        found
    }

    fn pass_filters(
        &mut self,
        cycle: Cycle<'_>,
        profile_id: usize,
        only: Option<&[String]>,
        all: bool,
        diagnosis: &mut Diagnosis,
    ) -> Result<Vec<NodeIndex>, (PluginId, String)> {
        let Cycle { world, profile, pod, state } = cycle;
        let named: Option<Vec<NodeIndex>> = only.map(|names| names.iter().filter_map(|name| world.snapshot.find(name)).collect());
        let nodes = named.as_deref().unwrap_or(world.snapshot.order());
        let percentage = profile.percentage_of_nodes_to_score.and_then(|p| usize::try_from(p).ok()).unwrap_or(self.percentage);
        let wanted = if profile.score.is_empty() && !all { 1 } else { enough(nodes.len(), percentage) };
        let mut feasible = Vec::with_capacity(wanted);
        let memo = self.memos.of(pod.template.id, profile_id);
        let local = profile.filter.iter().take_while(|id| ALL[**id].is_local() || state.skip_filter.contains(**id)).count();
        let mut checked = PluginSet::EMPTY;
        profile.filter[..local].iter().filter(|id| !state.skip_filter.contains(**id)).for_each(|id| checked.insert(*id));
        memo.set_checked((checked, world.devices.extended.epoch));
        let own = world.nominator.node_of(&pod.uid).cloned();
        let whole = local == profile.filter.len();
        self.whole = whole && own.is_none();
        // Kinds of refusals in the diagnosis, by their places in the memo.
        let mut kinds: Vec<Option<u32>> = Vec::new();
        for step in 0..nodes.len() {
            if feasible.len() >= wanted {
                break;
            }
            let index = nodes[(self.start + step) % nodes.len()];
            let view = NodeView::of(world, index);
            // The pod's own nomination counts for others, not for itself, so that such verdicts are its own.
            let shared = world.snapshot.nominated(index) == 0 || (whole && own.as_deref() != Some(view.name()));
            if !shared {
                match check_with_nominated(&cycle, &view) {
                    Ok(()) => feasible.push(index),
                    Err((plugin, Refusal::Rejected(rejection))) => {
                        let kind = diagnosis.kind(plugin, &rejection);
                        diagnosis.refuse(index, kind);
                    }
                    Err((plugin, Refusal::Failed(error))) => return Err((plugin, error)),
                }
                continue;
            }
            match local_verdict(memo, &cycle, &view, local)? {
                Some(place) => {
                    let place = place as usize;
                    if kinds.len() <= place {
                        kinds.resize(place + 1, None);
                    }
                    let kind = *kinds[place].get_or_insert_with(|| {
                        let (plugin, rejection) = &memo.refusals[place];
                        diagnosis.kind(*plugin, rejection)
                    });
                    diagnosis.refuse(index, kind);
                }
                None => match check_some(&cycle, &view, local..profile.filter.len()) {
                    Ok(()) => feasible.push(index),
                    Err((plugin, Refusal::Rejected(rejection))) => {
                        let kind = diagnosis.kind(plugin, &rejection);
                        diagnosis.refuse(index, kind);
                    }
                    Err((plugin, Refusal::Failed(error))) => return Err((plugin, error)),
                },
            }
        }
        let all = world.snapshot.order().len();
        self.start = (self.start + feasible.len() + diagnosis.len()) % all.max(1);
        Ok(feasible)
    }

    /// Looks for the nodes where room can be made, for the pod of the last search; what there is to say if there are none.
    pub fn make_room(
        &mut self,
        cycle: &Cycle<'_>,
        profile_id: usize,
        diagnosis: &Diagnosis,
        now: Timestamp,
    ) -> Result<Vec<Arc<Candidate>>, Outcome> {
        let memo = self.whole.then(|| self.memos.of(cycle.pod.template.id, profile_id));
        preemption::candidates(cycle, diagnosis, memo, &mut self.dice, now)
    }

    /// The sums of all plugins' scores of nodes, each with its weight.
    pub fn scores(
        &mut self,
        world: &mut World,
        profile: &Profile,
        profile_id: usize,
        pod: &PodInfo,
        state: &mut State,
        nodes: &[NodeIndex],
    ) -> Vec<i64> {
        let began = Instant::now();
        for id in profile.pre_score.iter().copied() {
            let began = state.tally.begin(id, Point::PreScore);
            let scores = ALL[id].pre_score(&mut Preparing { world, profile, pod, state }, nodes);
            state.tally.end(id, Point::PreScore, began, if scores { "Success" } else { "Skip" });
            if !scores {
                state.skip_score.insert(id);
            }
        }
        self.timings.pre_score = Some(began.elapsed());
        let began = Instant::now();
        let memo = self.memos.of(pod.template.id, profile_id);
        let devices = if state.given.is_some() { world.devices.epoch } else { 0 };
        memo.set_scope((state.skip_score, world.snapshot.images_epoch, devices));
        let cycle = Cycle { world, profile, pod, state };
        let plugins: Vec<(PluginId, i64)> = profile.score.iter().copied().filter(|(id, _)| !state.skip_score.contains(*id)).collect();
        let (local, other): (Vec<_>, Vec<_>) = plugins.into_iter().partition(|(id, _)| ALL[*id].scores_locally());
        let mut totals: Vec<i64> = nodes.iter().map(|index| local_score(memo, &cycle, *index, &local)).collect();
        let mut scores = Vec::with_capacity(nodes.len());
        for (id, weight) in other {
            scores.clear();
            scores.extend(nodes.iter().map(|index| score(&cycle, id, &NodeView::of(world, *index))));
            ALL[id].normalize(&cycle, nodes, &mut scores);
            totals.iter_mut().zip(&scores).for_each(|(total, score)| *total += weight * score);
        }
        self.timings.score = Some(began.elapsed());
        totals
    }

    /// One of the nodes with the highest score.
    pub fn pick(&mut self, nodes: &[NodeIndex], totals: &[i64]) -> NodeIndex {
        let highest = totals.iter().copied().max().unwrap_or(0);
        let equals: Vec<NodeIndex> =
            nodes.iter().copied().zip(totals).filter(|(_, total)| **total == highest).map(|(node, _)| node).collect();
        equals[self.dice.below(equals.len())]
    }
}

/// The verdict of the filters that read the node and the template alone.
fn local_verdict(memo: &mut Memo, cycle: &Cycle<'_>, node: &NodeView<'_>, local: usize) -> Result<Option<u32>, (PluginId, String)> {
    let generation = cycle.world.snapshot.generation(node.index);
    if let Some(known) = memo.verdict(node.index, generation) {
        return Ok(known);
    }
    let verdict =
        if cycle.world.snapshot.nominated(node.index) > 0 { check_with_nominated(cycle, node) } else { check_some(cycle, node, 0..local) };
    match verdict {
        Ok(()) => {
            memo.pass(node.index, generation);
            Ok(None)
        }
        Err((id, Refusal::Rejected(rejection))) => Ok(Some(memo.refuse(node.index, generation, id, rejection))),
        Err((plugin, Refusal::Failed(error))) => Err((plugin, error)),
    }
}

fn local_score(memo: &mut Memo, cycle: &Cycle<'_>, index: NodeIndex, plugins: &[(PluginId, i64)]) -> i64 {
    let generation = cycle.world.snapshot.generation(index);
    if let Some(score) = memo.score(index, generation) {
        return score;
    }
    let view = NodeView::of(cycle.world, index);
    let sum = plugins.iter().map(|(id, weight)| weight * score(cycle, *id, &view)).sum();
    memo.set_score(index, generation, sum);
    sum
}

fn score(cycle: &Cycle<'_>, id: PluginId, node: &NodeView<'_>) -> i64 {
    cycle.state.tally.ask(id, Point::Score, || ALL[id].score(cycle, node), |_| "Success")
}

/// What is told of a refusal at the points after the search.
pub fn single(plugin: PluginId, node: NodeIndex, refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Failed(error) => Failure::Error(error),
        Refusal::Rejected(rejection) => {
            let mut diagnosis = Diagnosis::default();
            let kind = diagnosis.kind(plugin, &rejection);
            diagnosis.refuse(node, kind);
            Failure::Refused(diagnosis)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_nodes_the_smaller_the_share_that_is_looked_for() {
        for (nodes, percentage, expected) in
            [(50, 0, 50), (100, 0, 100), (1000, 0, 420), (5000, 0, 500), (10000, 0, 500), (1000, 70, 700), (1000, 1, 100)]
        {
            assert_eq!(enough(nodes, percentage), expected, "{nodes} {percentage}");
        }
    }
}
