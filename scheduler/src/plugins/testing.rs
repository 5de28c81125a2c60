//! What the tables of plugins ask: some nodes, some pods on them, and what one plugin says of a pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::framework::{Cycle, NodeView, Plugin, PreFilter, Preparing, Refusal, State};
use crate::profile::Profile;
use crate::snapshot::pod::{PodInfo, Templates};
use crate::world::World;

/// A cluster of the tests.
pub struct Bench {
    pub world: World,
    pub profile: Profile,
    templates: Templates,
}

pub fn of<K: DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

impl Bench {
    /// Nodes by name and labels; each has room for a lot.
    pub fn new(nodes: &[(&str, Value)]) -> Bench {
        let mut bench = Bench { world: World::default(), profile: Profile::standard(), templates: Templates::default() };
        for (name, labels) in nodes {
            bench.node(json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": {"cpu": "100", "memory": "100Gi", "pods": "100"}}}));
        }
        bench
    }

    pub fn node(&mut self, node: Value) {
        let node: Arc<Node> = of(node);
        self.world.snapshot.set_node(&node);
        self.world.snapshot.begin_cycle();
    }

    /// A pod; name, namespace `d` and containers are filled in if it does not say.
    pub fn pod(&mut self, mut pod: Value) -> PodInfo {
        for (key, value) in [("name", json!("pod")), ("namespace", json!("d"))] {
            let known = pod["metadata"][key].take();
            pod["metadata"][key] = if known.is_null() { value } else { known };
        }
        if pod["metadata"]["uid"].is_null() {
            pod["metadata"]["uid"] = pod["metadata"]["name"].clone();
        }
        if pod["spec"]["containers"].is_null() {
            pod["spec"]["containers"] = json!([]);
        }
        let pod: Arc<Pod> = of(pod);
        self.templates.info(&pod, None)
    }

    pub fn place(&mut self, node: &str, pod: Value) {
        let pod = self.pod(pod);
        self.world.snapshot.add_pod(Arc::new(pod), node);
    }

    /// What the plugin says of each node, by name: an empty text if the node will do. If it refuses the pod as such, that alone.
    pub fn verdicts(&mut self, plugin: &dyn Plugin, pod: Value) -> Vec<String> {
        let pod = self.pod(pod);
        let mut state = State::default();
        let mut nodes: Vec<u32> = self.world.snapshot.order().to_vec();
        nodes.sort_by_key(|index| self.world.snapshot.node(*index).name.clone());
        let said = |refusal: Refusal| match refusal {
            Refusal::Failed(error) => format!("error: {error}"),
            Refusal::Rejected(r) => format!("{}{}", if r.resolvable { "" } else { "never: " }, r.reasons.join()),
        };
        let answer = plugin.pre_filter(&mut Preparing { world: &mut self.world, profile: &self.profile, pod: &pod, state: &mut state });
        match answer {
            PreFilter::Refuse(refusal) => return vec![said(refusal)],
            PreFilter::Skip => return vec!["skip".to_owned()],
            PreFilter::Only(names) => return vec![format!("only {}", names.join(" "))],
            PreFilter::Ask => {}
        }
        let cycle = Cycle { world: &self.world, profile: &self.profile, pod: &pod, state: &state };
        let ask = |index: u32| plugin.filter(&cycle, &NodeView::of(&self.world, index)).err().map_or(String::new(), said);
        nodes.into_iter().map(ask).collect()
    }

    /// The normalized scores of all nodes, by name; nothing if the plugin has none to give.
    pub fn scores(&mut self, plugin: &dyn Plugin, pod: Value) -> Option<Vec<i64>> {
        let pod = self.pod(pod);
        let mut state = State::default();
        let mut nodes: Vec<u32> = self.world.snapshot.order().to_vec();
        nodes.sort_by_key(|index| self.world.snapshot.node(*index).name.clone());
        let mut preparing = Preparing { world: &mut self.world, profile: &self.profile, pod: &pod, state: &mut state };
        if !plugin.pre_score(&mut preparing, &nodes) {
            return None;
        }
        let cycle = Cycle { world: &self.world, profile: &self.profile, pod: &pod, state: &state };
        let mut scores: Vec<i64> = nodes.iter().map(|index| plugin.score(&cycle, &NodeView::of(&self.world, *index))).collect();
        plugin.normalize(&cycle, &nodes, &mut scores);
        Some(scores)
    }
}
