//! ImageLocality: nodes are liked that have the pod's images, large ones more, and more if many nodes have them.

use crate::framework::{Cycle, MAX_SCORE, NodeView, Plugin, Point, Preparing};
use crate::snapshot::NodeIndex;

pub struct ImageLocality;

/// Sums of image sizes below and above which all are alike; the upper one for each image.
const LEAST: i64 = 23 * 1024 * 1024;
const MOST: i64 = 1000 * 1024 * 1024;

/// The pod's images that any node has, each with the share of nodes that have it.
#[derive(Clone, Debug, Default)]
pub struct Known(Vec<(usize, f64)>);

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreScore, Point::Score]
    }

    /// If no node has any of the images, all nodes are alike.
    fn pre_score(&self, cycle: &mut Preparing<'_>, _nodes: &[NodeIndex]) -> bool {
        let snapshot = &cycle.world.snapshot;
        let all = snapshot.order().len().max(1) as f64;
        let images = cycle.pod.template.images.iter().enumerate();
        let known: Vec<(usize, f64)> =
            images.map(|(i, image)| (i, f64::from(snapshot.image_nodes(image)) / all)).filter(|(_, share)| *share > 0.0).collect();
        let any = !known.is_empty();
        cycle.state.images = Some(Known(known));
        any
    }

    fn scores_locally(&self) -> bool {
        true
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView<'_>) -> i64 {
        let Some(Known(known)) = &cycle.state.images else { return 0 };
        let images = &cycle.pod.template.images;
        let scaled = |(i, share): &(usize, f64)| node.info.images.get(&images[*i]).map_or(0, |size| (*size as f64 * share) as i64);
        score(known.iter().map(scaled).sum(), images.len())
    }
}

fn score(sum: i64, images: usize) -> i64 {
    let most = MOST * images.max(1) as i64;
    MAX_SCORE * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_between_two_bounds() {
        for (sum, images, expected) in [(0, 1, 0), (LEAST, 1, 0), (MOST, 1, 100), (2 * MOST, 1, 100), (MOST, 2, 49)] {
            assert_eq!(score(sum, images), expected, "{sum} {images}");
        }
    }
}
