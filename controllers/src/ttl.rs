//! The TTL controller: tells kubelets how long they may keep Secrets and ConfigMaps, longer in a larger cluster.

use client::controller::Outcome;
use client::{Change, Object, ObjectKey, Queue, answer};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::manager::Context;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
const WORKERS: usize = 5;

/// A size of cluster: from how many nodes and up to how many it holds, and its TTL in seconds. They overlap, so that a cluster at
/// a border does not go back and forth.
struct Boundary {
    min: usize,
    max: usize,
    seconds: u32,
}

const BOUNDARIES: [Boundary; 5] = [
    Boundary { min: 0, max: 100, seconds: 0 },
    Boundary { min: 90, max: 500, seconds: 15 },
    Boundary { min: 450, max: 1000, seconds: 30 },
    Boundary { min: 900, max: 2000, seconds: 60 },
    Boundary { min: 1800, max: usize::MAX, seconds: 300 },
];

/// The boundary for a cluster of so many nodes that was in `current`.
fn step(mut current: usize, nodes: usize) -> usize {
    while nodes > BOUNDARIES[current].max && current + 1 < BOUNDARIES.len() {
        current += 1;
    }
    while nodes < BOUNDARIES[current].min && current > 0 {
        current -= 1;
    }
    current
}

pub async fn run(context: Context) {
    let nodes = context.informers.of::<Node>();
    let queue = Queue::named("ttlcontroller");
    let sink = queue.clone();
    let size = std::sync::Arc::new(Mutex::new((0usize, 0usize)));
    let counted = size.clone();
    nodes.on_change(move |change| {
        let mut size = counted.lock();
        match change {
            Change::Added(_) => size.1 += 1,
            Change::Deleted(_) => size.1 = size.1.saturating_sub(1),
            Change::Updated { .. } => {}
        }
        size.0 = step(size.0, size.1);
        if !matches!(change, Change::Deleted(_)) {
            sink.add(change.object().key());
        }
    });
    nodes.synced().await;
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| {
        let seconds = BOUNDARIES[size.lock().0].seconds.to_string();
        let missing = nodes.get_key(&key).is_some_and(|node| node.annotation(ANNOTATION) != Some(&seconds));
        let api: Api<Node> = Api::all(context.client.clone());
        async move {
            if missing {
                let patch = Patch::Strategic(json!({"metadata": {"annotations": {ANNOTATION: seconds}}}));
                answer::or_absent(api.patch(&key.name, &PatchParams::default(), &patch).await)?;
            }
            Ok::<_, kube::Error>(Outcome::Done)
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_grows_and_shrinks_through_overlapping_sizes() {
        let walk = |sizes: &[usize]| sizes.iter().fold(0, |current, nodes| step(current, *nodes));
        assert_eq!(walk(&[100]), 0);
        assert_eq!(walk(&[101]), 1);
        assert_eq!(walk(&[101, 95]), 1);
        assert_eq!(walk(&[101, 89]), 0);
        assert_eq!(walk(&[5000]), 4);
        assert_eq!(walk(&[5000, 10]), 0);
    }
}
