//! What a plugin is: the points at which it takes part in a cycle, and what it may answer there.
//!
//! A plugin holds no state. What it works out for one pod is in [`State`]; all else it reads from the [`World`].

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Instant;

use crate::devices::allocated::Allocated;
use crate::event::Interest;
use crate::plugins::{
    dynamic_resources, image_locality, inter_pod_affinity, node_volume_limits, pod_topology_spread, volume_binding, volume_restrictions,
};
use crate::profile::Profile;
use crate::snapshot::NodeIndex;
use crate::snapshot::node::NodeInfo;
use crate::snapshot::pod::PodInfo;
use crate::world::World;

/// The highest score of a node by one plugin, after normalizing.
pub const MAX_SCORE: i64 = 100;

/// A plugin by its place in [`crate::plugins::ALL`].
pub type PluginId = usize;

/// A set of plugins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PluginSet(u32);

impl PluginSet {
    pub const EMPTY: PluginSet = PluginSet(0);

    pub fn of(id: PluginId) -> PluginSet {
        PluginSet(1 << id)
    }

    pub fn insert(&mut self, id: PluginId) {
        self.0 |= 1 << id;
    }

    pub fn contains(self, id: PluginId) -> bool {
        self.0 & (1 << id) != 0
    }

    pub fn meets(self, other: PluginSet) -> bool {
        self.0 & other.0 != 0
    }

    pub fn union(self, other: PluginSet) -> PluginSet {
        PluginSet(self.0 | other.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = PluginId> {
        (0..32).filter(move |id| self.contains(*id))
    }

    pub fn names(self) -> Vec<&'static str> {
        let mut names: Vec<&str> = self.iter().filter_map(|id| crate::plugins::ALL.get(id)).map(|plugin| plugin.name()).collect();
        names.sort_unstable();
        names
    }
}

/// Where plugins take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    PreEnqueue,
    QueueSort,
    PreFilter,
    Filter,
    PostFilter,
    PreScore,
    Score,
    Reserve,
    Permit,
    PreBind,
    Bind,
    PostBind,
}

impl Point {
    /// What metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Point::PreEnqueue => "PreEnqueue",
            Point::QueueSort => "QueueSort",
            Point::PreFilter => "PreFilter",
            Point::Filter => "Filter",
            Point::PostFilter => "PostFilter",
            Point::PreScore => "PreScore",
            Point::Score => "Score",
            Point::Reserve => "Reserve",
            Point::Permit => "Permit",
            Point::PreBind => "PreBind",
            Point::Bind => "Bind",
            Point::PostBind => "PostBind",
        }
    }
}

/// Why a node will not do, in words that are the same for many nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reasons {
    One(&'static str),
    Many(Vec<Cow<'static, str>>),
}

impl Reasons {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let (one, many) = match self {
            Reasons::One(one) => (Some(*one), [].as_slice()),
            Reasons::Many(many) => (None, many.as_slice()),
        };
        one.into_iter().chain(many.iter().map(Cow::as_ref))
    }

    pub fn join(&self) -> String {
        self.iter().collect::<Vec<_>>().join(", ")
    }
}

/// A refusal. If it is not `resolvable`, taking pods off the node would not help (`UnschedulableAndUnresolvable`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub resolvable: bool,
    pub reasons: Reasons,
}

impl Rejection {
    pub fn resolvable(reason: &'static str) -> Rejection {
        Rejection { resolvable: true, reasons: Reasons::One(reason) }
    }

    pub fn unresolvable(reason: &'static str) -> Rejection {
        Rejection { resolvable: false, reasons: Reasons::One(reason) }
    }

    pub fn saying(resolvable: bool, reason: String) -> Rejection {
        Rejection { resolvable, reasons: Reasons::Many(vec![Cow::Owned(reason)]) }
    }
}

/// Anything but "yes".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Rejected(Rejection),
    /// The question could not be answered; the pod is tried again.
    Failed(String),
}

impl Refusal {
    /// What metrics call it.
    pub fn status(&self) -> &'static str {
        match self {
            Refusal::Rejected(Rejection { resolvable: true, .. }) => "Unschedulable",
            Refusal::Rejected(_) => "UnschedulableAndUnresolvable",
            Refusal::Failed(_) => "Error",
        }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Refusal {
        Refusal::Rejected(rejection)
    }
}

pub type Verdict = Result<(), Refusal>;

/// What a plugin says before nodes are looked at.
#[derive(Debug, PartialEq)]
pub enum PreFilter {
    /// Ask me about every node.
    Ask,
    /// Only these nodes can be.
    Only(Vec<String>),
    /// I have nothing to say about this pod.
    Skip,
    Refuse(Refusal),
}

/// A node as a filter or score sees it: as it is, or as it would be.
#[derive(Clone, Copy)]
pub struct NodeView<'a> {
    pub index: NodeIndex,
    pub info: &'a NodeInfo,
    /// What differs from the counts if the node is looked at as it would be.
    pub overlay: Option<&'a Overlay>,
}

impl<'a> NodeView<'a> {
    pub fn of(world: &'a World, index: NodeIndex) -> NodeView<'a> {
        NodeView { index, info: world.snapshot.node(index), overlay: None }
    }

    pub fn name(&self) -> &'a str {
        &self.info.name
    }
}

/// How counts differ on one node and its neighbours, for a look at it with some pods more or less. The places are those of the
/// counters in the plugins' states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    pub spread: Vec<i64>,
    pub affinity: i64,
    pub anti_affinity: Vec<i64>,
    pub held: Vec<i64>,
}

/// Seconds that answers took, by the plugin, the point and what the answer was.
pub type Times = HashMap<(PluginId, Point, &'static str), Vec<f64>>;

/// How often plugins were asked in a cycle, and how long that took in some of them.
#[derive(Default)]
pub struct Tally {
    asked: [[Cell<u32>; ASKED.len()]; MAX_PLUGINS],
    /// Whether answers are timed.
    pub is_timed: bool,
    times: RefCell<Times>,
}

/// The points at which it is counted how often plugins are asked.
pub const ASKED: [Point; 4] = [Point::PreFilter, Point::Filter, Point::PreScore, Point::Score];
/// What fits into a [`PluginSet`].
const MAX_PLUGINS: usize = 32;
/// Answers of one kind that are timed in a cycle: a filter answers for thousands of nodes.
const MAX_TIMED: usize = 64;

impl Tally {
    /// Has a plugin answer. `status` says of an answer what it was.
    pub fn ask<T>(&self, id: PluginId, point: Point, answer: impl FnOnce() -> T, status: impl FnOnce(&T) -> &'static str) -> T {
        let began = self.begin(id, point);
        let answer = answer();
        self.end(id, point, began, status(&answer));
        answer
    }

    /// Counts that a plugin is asked; when that was, if it is timed.
    pub fn begin(&self, id: PluginId, point: Point) -> Option<Instant> {
        if let Some(place) = ASKED.iter().position(|asked| *asked == point) {
            let count = &self.asked[id][place];
            count.set(count.get() + 1);
        }
        self.is_timed.then(Instant::now)
    }

    pub fn end(&self, id: PluginId, point: Point, began: Option<Instant>, status: &'static str) {
        let Some(began) = began else { return };
        let took = began.elapsed().as_secs_f64();
        let mut times = self.times.borrow_mut();
        let known = times.entry((id, point, status)).or_default();
        if known.len() < MAX_TIMED {
            known.push(took);
        }
    }

    /// How often each plugin was asked at each of [`ASKED`].
    pub fn asked(&self) -> impl Iterator<Item = (PluginId, usize, u32)> {
        let each = |(id, points): (PluginId, &[Cell<u32>; ASKED.len()])| {
            let counts = points.each_ref().map(Cell::get);
            (0..ASKED.len()).map(move |place| (id, place, counts[place])).filter(|(_, _, count)| *count > 0)
        };
        self.asked.iter().enumerate().flat_map(each)
    }

    /// How long plugins took, in seconds, by their answers.
    pub fn take_times(&self) -> Times {
        self.times.take()
    }
}

/// What plugins have worked out for the pod of this cycle.
#[derive(Default)]
pub struct State {
    pub tally: Tally,
    pub skip_filter: PluginSet,
    pub skip_score: PluginSet,
    pub hard_spread: Option<pod_topology_spread::Hard>,
    pub soft_spread: Option<pod_topology_spread::Soft>,
    pub affinity: Option<inter_pod_affinity::Hard>,
    pub liking: Option<inter_pod_affinity::Soft>,
    pub images: Option<image_locality::Known>,
    pub restrictions: Option<volume_restrictions::Wanted>,
    pub limits: Option<node_volume_limits::Wanted>,
    pub volumes: Option<volume_binding::Claims>,
    pub devices: Option<dynamic_resources::Claims>,
    /// Devices that claims have, if any of them count as a resource when nodes are scored.
    pub given: Option<Allocated>,
}

/// A cycle as filters and scores read it.
#[derive(Clone, Copy)]
pub struct Cycle<'a> {
    pub world: &'a World,
    pub profile: &'a Profile,
    pub pod: &'a PodInfo,
    pub state: &'a State,
}

/// A cycle while it is prepared.
pub struct Preparing<'a> {
    pub world: &'a mut World,
    pub profile: &'a Profile,
    pub pod: &'a PodInfo,
    pub state: &'a mut State,
}

/// One plugin. Only what its [`Plugin::points`] name is called.
pub trait Plugin: Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    fn points(&self) -> &'static [Point];

    /// What may make a pod that this plugin has refused schedulable.
    fn interests(&self) -> &'static [Interest] {
        &[]
    }

    /// Whether `filter` reads nothing but the pod's template and the node: then the answer holds for all pods that are alike,
    /// until the node changes.
    fn is_local(&self) -> bool {
        false
    }

    /// Whether the pod may be tried at all; why not.
    fn pre_enqueue(&self, _world: &World, _pod: &PodInfo) -> Result<(), String> {
        Ok(())
    }

    fn pre_filter(&self, _cycle: &mut Preparing<'_>) -> PreFilter {
        PreFilter::Ask
    }

    fn filter(&self, _cycle: &Cycle<'_>, _node: &NodeView<'_>) -> Verdict {
        Ok(())
    }

    /// Notes in `overlay` that `other` is on the node too (`sign` 1) or no more (-1).
    fn adjust(&self, _cycle: &Cycle<'_>, _overlay: &mut Overlay, _other: &PodInfo, _node: NodeIndex, _sign: i64) {}

    /// Whether there is anything to score; `nodes` are those that have passed all filters.
    fn pre_score(&self, _cycle: &mut Preparing<'_>, _nodes: &[NodeIndex]) -> bool {
        true
    }

    fn score(&self, _cycle: &Cycle<'_>, _node: &NodeView<'_>) -> i64 {
        0
    }

    /// Brings scores into 0..=100, if they are not by nature.
    fn normalize(&self, _cycle: &Cycle<'_>, _nodes: &[NodeIndex], _scores: &mut [i64]) {}

    /// Whether `score` depends on the template and the node alone (and on which nodes have which images) and needs no normalizing.
    fn scores_locally(&self) -> bool {
        false
    }

    /// Sets aside what the pod will need on its node.
    fn reserve(&self, _cycle: &mut Preparing<'_>, _node: NodeIndex) -> Verdict {
        Ok(())
    }

    /// Undoes `reserve`, also if it has failed or was never called.
    fn unreserve(&self, _world: &mut World, _pod: &PodInfo) {}
}

/// Scales scores so that the highest is 100; `reverse` makes it 0.
pub fn normalize_by_highest(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if highest == 0 { 0 } else { MAX_SCORE * *score / highest };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_scaled_by_the_highest() {
        for (scores, reverse, expected) in [
            ([1, 2, 4], false, [25, 50, 100]),
            ([1, 2, 4], true, [75, 50, 0]),
            ([0, 0, 0], false, [0, 0, 0]),
            ([0, 0, 0], true, [100, 100, 100]),
        ] {
            let mut got = scores;
            normalize_by_highest(&mut got, reverse);
            assert_eq!(got, expected, "{scores:?} {reverse}");
        }
    }
}
