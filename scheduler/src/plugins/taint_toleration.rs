//! TaintToleration: taints keep away the pods that do not bear them, or make the node less liked.

use crate::event::{Actions, Interest, Resource, Subject};
use crate::framework::{Cycle, NodeView, Plugin, Point, PreFilter, Preparing, Rejection, Verdict, normalize_by_highest};
use crate::snapshot::NodeIndex;
use crate::snapshot::pod::PodInfo;
use crate::taints::{PREFER_NO_SCHEDULE, all_tolerated, tolerates};
use crate::world::World;

pub struct TaintToleration;

pub const REASON: &str = "node(s) had untolerated taint(s)";

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn interests(&self) -> &'static [Interest] {
        const {
            &[
                Interest::hinted(Resource::Node, Actions::ADD.or(Actions::NODE_TAINT), untainted),
                Interest::hinted(Resource::TargetPod, Actions::POD_TOLERATION, is_the_pod),
            ]
        }
    }

    fn is_local(&self) -> bool {
        true
    }

    fn pre_filter(&self, _cycle: &mut Preparing<'_>) -> PreFilter {
        PreFilter::Ask
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        if !node.info.forbidding_taints || all_tolerated(cycle.pod.template.tolerations(), node.info.taints()) {
            Ok(())
        } else {
            Err(Rejection::unresolvable(REASON).into())
        }
    }

    /// Without such taints all nodes are equal.
    fn pre_score(&self, cycle: &mut Preparing<'_>, _nodes: &[NodeIndex]) -> bool {
        cycle.world.snapshot.discouraging_nodes > 0
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> i64 {
        if !node.info.discouraging_taints {
            return 0;
        }
        let tolerations: Vec<_> = cycle.pod.template.tolerations().iter().filter(|t| may_be_preference(t)).cloned().collect();
        let disliked = node.info.taints().iter().filter(|taint| taint.effect == PREFER_NO_SCHEDULE && !tolerates(&tolerations, taint));
        disliked.count() as i64
    }

    fn normalize(&self, _cycle: &Cycle<'_>, _nodes: &[NodeIndex], scores: &mut [i64]) {
        normalize_by_highest(scores, true);
    }
}

fn may_be_preference(toleration: &k8s_openapi::api::core::v1::Toleration) -> bool {
    toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == PREFER_NO_SCHEDULE)
}

fn untainted(_world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    let Subject::Node { old, new: Some(new) } = subject else { return true };
    let bears = |node: &k8s_openapi::api::core::v1::Node| {
        all_tolerated(pod.template.tolerations(), node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default())
    };
    bears(new) && !old.as_ref().is_some_and(|old| bears(old))
}

fn is_the_pod(_world: &World, pod: &PodInfo, subject: &Subject) -> bool {
    matches!(subject, Subject::Pod { new: Some(new), .. } if new.uid == pod.uid)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Bench, of};

    type NodeRef = std::sync::Arc<k8s_openapi::api::core::v1::Node>;

    #[test]
    fn taints_keep_away_or_are_counted() {
        let mut bench = Bench::new(&[("a", json!({}))]);
        let node = |name: &str, effects: &[&str]| {
            let taints: Vec<_> = effects.iter().map(|effect| json!({"key": "k", "value": "v", "effect": effect})).collect();
            json!({"metadata": {"name": name}, "spec": {"taints": taints}})
        };
        let never = format!("never: {REASON}");
        assert_eq!(bench.scores(&TaintToleration, json!({})), None, "nobody has such taints");
        bench.node(node("b", &["NoSchedule"]));
        bench.node(node("c", &["NoExecute"]));
        bench.node(node("e", &["PreferNoSchedule"]));
        assert_eq!(bench.verdicts(&TaintToleration, json!({})), ["", &never, &never, ""]);
        let tolerant = json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]}});
        assert_eq!(bench.verdicts(&TaintToleration, tolerant.clone()), ["", "", &never, ""]);
        assert_eq!(bench.scores(&TaintToleration, tolerant), Some(vec![100, 100, 100, 0]));
        let all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        assert_eq!(bench.scores(&TaintToleration, all), Some(vec![100; 4]));
    }

    #[test]
    fn a_node_helps_that_has_lost_its_taint() {
        let mut bench = Bench::new(&[]);
        let pod = bench.pod(json!({}));
        let (tainted, clean) = (of(json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})), of(json!({})));
        let change = |old: &NodeRef, new: &NodeRef| Subject::Node { old: Some(old.clone()), new: Some(new.clone()) };
        assert!(untainted(&bench.world, &pod, &change(&tainted, &clean)));
        assert!(!untainted(&bench.world, &pod, &change(&clean, &clean)));
        assert!(!untainted(&bench.world, &pod, &change(&clean, &tainted)));
    }
}
