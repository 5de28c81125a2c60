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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Bench, of};

    fn expression(key: &str, values: &[&str]) -> Value {
        json!({"matchExpressions": [{"key": key, "operator": "In", "values": values}]})
    }

    fn disks() -> Bench {
        Bench::new(&[("a", json!({"disk": "ssd", "zone": "z"})), ("b", json!({"disk": "hdd", "zone": "z"})), ("c", json!({}))])
    }

    fn requires(term: Value) -> Value {
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}})
    }

    #[test]
    fn nodes_are_chosen_by_their_labels() {
        let mut bench = disks();
        let never = format!("never: {REASON}");
        assert_eq!(bench.verdicts(&NodeAffinity, json!({})), ["skip"]);
        assert_eq!(bench.verdicts(&NodeAffinity, json!({"spec": {"nodeSelector": {"disk": "ssd"}}})), ["", &never, &never]);
        assert_eq!(bench.verdicts(&NodeAffinity, requires(expression("disk", &["ssd", "hdd"]))), ["", "", &never]);
        let named = |names: &[&str]| {
            let fields: Vec<Value> = names.iter().map(|n| json!({"key": "metadata.name", "operator": "In", "values": [n]})).collect();
            requires(json!({"matchFields": fields}))
        };
        assert_eq!(bench.verdicts(&NodeAffinity, named(&["b"])), ["only b"]);
        assert_eq!(bench.verdicts(&NodeAffinity, named(&["b", "a"])), [format!("never: {CONFLICT}")]);
    }

    #[test]
    fn preferences_add_up() {
        let mut bench = disks();
        let terms =
            json!([{"weight": 10, "preference": expression("disk", &["ssd"])}, {"weight": 30, "preference": expression("zone", &["z"])}]);
        let pod = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}}});
        assert_eq!(bench.scores(&NodeAffinity, pod), Some(vec![100, 75, 0]));
        assert_eq!(bench.scores(&NodeAffinity, json!({})), None);
    }

    #[test]
    fn a_node_helps_that_has_become_right() {
        let mut bench = disks();
        let pod = bench.pod(requires(expression("disk", &["ssd"])));
        let node = |disk: &str| of(json!({"metadata": {"name": "n", "labels": {"disk": disk}}}));
        let change = |old: &str, new: &str| Subject::Node { old: Some(node(old)), new: Some(node(new)) };
        assert!(matches_now(&bench.world, &pod, &change("hdd", "ssd")));
        assert!(!matches_now(&bench.world, &pod, &change("ssd", "ssd")));
        assert!(!matches_now(&bench.world, &pod, &change("ssd", "hdd")));
        assert!(matches_now(&bench.world, &pod, &Subject::Node { old: None, new: Some(node("ssd")) }));
    }
}
