//! NodeAffinity: nodes by their labels, required and preferred, by the pod and by the profile.

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, NodeView, Plugin, Point, PreFilter, Preparing, Rejection, Verdict, normalize_by_highest};
use crate::node_selector::{Required, named_nodes};
use crate::snapshot::NodeIndex;
use crate::snapshot::pod::PodInfo;
use crate::world::World;

pub struct NodeAffinity;

pub const REASON: &str = "node(s) didn't match Pod's node affinity/selector";
const ENFORCED: &str = "node(s) didn't match scheduler-enforced node affinity";
const CONFLICT: &str = "pod affinity terms conflict";

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn interests(&self) -> &'static [Interest] {
        const { &[Interest::hinted(Resource::Node, Actions::ADD.or(Actions::NODE_LABEL), matches_now)] }
    }

    fn is_local(&self) -> bool {
        true
    }

    fn pre_filter(&self, cycle: &mut Preparing<'_>) -> PreFilter {
        if cycle.pod.template.required.is_empty() && cycle.profile.added_required.is_none() {
            return PreFilter::Skip;
        }
        match named_nodes(cycle.pod.spec()) {
            None => PreFilter::Ask,
            Some(names) if names.is_empty() => PreFilter::Refuse(Rejection::unresolvable(CONFLICT).into()),
            Some(names) => PreFilter::Only(names),
        }
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        let Some(object) = &node.info.node else { return Err(Rejection::unresolvable(REASON).into()) };
        if cycle.profile.added_required.as_ref().is_some_and(|added| !added.matches(object)) {
            return Err(Rejection::unresolvable(ENFORCED).into());
        }
        if cycle.pod.allows(object) { Ok(()) } else { Err(Rejection::unresolvable(REASON).into()) }
    }

    fn pre_score(&self, cycle: &mut Preparing<'_>, _nodes: &[NodeIndex]) -> bool {
        !cycle.pod.template.preferred.is_empty() || !cycle.profile.added_preferred.is_empty()
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> i64 {
        let Some(object) = &node.info.node else { return 0 };
        let terms = cycle.profile.added_preferred.iter().chain(&cycle.pod.template.preferred);
        terms.filter(|(term, _)| term.matches(object)).map(|(_, weight)| weight).sum()
    }

    fn normalize(&self, _cycle: &Cycle<'_>, _nodes: &[NodeIndex], scores: &mut [i64]) {
        normalize_by_highest(scores, false);
    }
}

fn matches_now(_world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Node { old, new: Some(new) } = subject else { return true };
    let required: &Required = &pod.template.required;
    required.matches(new) && old.as_ref().is_none_or(|old| !required.matches(old))
}
