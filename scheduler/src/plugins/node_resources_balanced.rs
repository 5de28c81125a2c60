//! NodeResourcesBalancedAllocation: nodes are liked whose resources the pod would leave evenly used.

use crate::framework::{Cycle, MAX_SCORE, NodeView, Plugin, Point, Preparing};
use crate::plugins::node_resources_fit::{asked, look_at_devices, offered};
use crate::snapshot::NodeIndex;

pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreScore, Point::Score]
    }

    /// A pod that asks for nothing changes no balance.
    fn pre_score(&self, cycle: &mut Preparing<'_>, _nodes: &[NodeIndex]) -> bool {
        let resources = &cycle.profile.args.balanced.resources;
        look_at_devices(cycle, resources);
        resources.iter().any(|spec| asked(&cycle.pod.template.spec_requests, spec, true) != 0)
    }

    fn scores_locally(&self) -> bool {
        true
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> i64 {
        let asks = &cycle.pod.template.spec_requests;
        let specs = &cycle.profile.args.balanced.resources;
        let fractions = |with_pod: bool| {
            specs.iter().filter_map(move |spec| {
                let (there, taken) = offered(cycle, node.info, spec, true)?;
                let taken = taken + if with_pod { asked(asks, spec, true) } else { 0 };
                Some((taken as f64 / there as f64).min(1.0))
            })
        };
        let (with, without) = (balance(fractions(true)), balance(fractions(false)));
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
    }
}

/// 100 if all fractions are the same, less the more they differ.
fn balance(fractions: impl Iterator<Item = f64> + Clone) -> i64 {
    let (count, sum) = fractions.clone().fold((0usize, 0.0), |(count, sum), fraction| (count + 1, sum + fraction));
    let deviation = match count {
        0 | 1 => 0.0,
        2 => {
            let mut both = fractions;
            let (a, b) = (both.next().unwrap_or(0.0), both.next().unwrap_or(0.0));
            ((a - b) / 2.0).abs()
        }
        _ => {
            let mean = sum / count as f64;
            (fractions.map(|f| (f - mean) * (f - mean)).sum::<f64>() / count as f64).sqrt()
        }
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_use_is_liked() {
        for (fractions, expected) in [(vec![0.5, 0.5], 100), (vec![1.0, 0.0], 50), (vec![0.3], 100), (vec![0.0, 0.0, 0.9], 57)] {
            assert_eq!(balance(fractions.iter().copied()), expected, "{fractions:?}");
        }
    }
}
