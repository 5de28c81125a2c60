//! NodeName: a pod that names a node goes nowhere else.

use crate::event::{Actions, Interest, Resource};
use crate::framework::{Cycle, NodeView, Plugin, Point, PreFilter, Preparing, Rejection, Verdict};

pub struct NodeName;

pub const REASON: &str = "node(s) didn't match the requested node name";

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn interests(&self) -> &'static [Interest] {
        const { &[Interest::any(Resource::Node, Actions::ADD)] }
    }

    fn pre_filter(&self, cycle: &mut Preparing<'_>) -> PreFilter {
        match cycle.pod.node_name() {
            "" => PreFilter::Skip,
            name => PreFilter::Only(vec![name.to_owned()]),
        }
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> Verdict {
        let wanted = cycle.pod.node_name();
        if wanted.is_empty() || wanted == node.name() { Ok(()) } else { Err(Rejection::unresolvable(REASON).into()) }
    }
}
