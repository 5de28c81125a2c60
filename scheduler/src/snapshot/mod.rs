//! What the scheduler knows of nodes and of the pods on them, kept up to date change by change; a scheduling cycle reads it in place.
//!
//! There is no second copy: cycles and changes take turns on one thread, so what a cycle reads does not move under it.

pub mod counters;
pub mod node;
pub mod pod;
pub mod terms;
pub mod topology;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use counters::{CounterId, Counters, HeldId, Request};
use node::NodeInfo;
use pod::{PodInfo, Uid};
use terms::{Namespaces, REGION, ZONE};

/// A node's place. Places are used again after a node is gone.
pub type NodeIndex = u32;

/// Where a pod is: the node, and the place among its pods.
#[derive(Clone, Copy)]
struct Spot {
    node: NodeIndex,
    place: usize,
}

/// Nodes, pods on nodes, and counts of them.
#[derive(Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    /// Changes whenever anything of the node or its pods does that a verdict may depend on.
    generations: Vec<u64>,
    /// How many pods are nominated to a node and not there yet.
    nominated: Vec<usize>,
    by_name: HashMap<Arc<str>, NodeIndex>,
    free: Vec<NodeIndex>,
    /// The nodes to search, zones taking turns, so that a search that ends early has seen all zones.
    order: Vec<NodeIndex>,
    /// Nodes have come or gone, or changed zones, since the order was made.
    order_is_stale: bool,
    placed: HashMap<Uid, Spot>,
    counters: Counters,
    /// Nodes that have an image, by its name.
    image_nodes: HashMap<String, u32>,
    /// Changes with `image_nodes` and with the number of nodes.
    pub images_epoch: u64,
    /// How many nodes have taints that only make them less liked.
    pub discouraging_nodes: usize,
    namespaces: Namespaces,
    generation: u64,
}

impl Snapshot {
    /// The nodes in the order of the search, as of the beginning of the cycle.
    pub fn order(&self) -> &[NodeIndex] {
        &self.order
    }

    /// Every place, also of nodes that are not known yet.
    pub fn places(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, index: NodeIndex) -> &NodeInfo {
        &self.nodes[index as usize]
    }

    /// How many pods are nominated to a node and not there yet.
    pub fn nominated(&self, index: NodeIndex) -> usize {
        self.nominated[index as usize]
    }

    pub fn generation(&self, index: NodeIndex) -> u64 {
        self.generations[index as usize]
    }

    /// The place of a node that is known.
    pub fn find(&self, name: &str) -> Option<NodeIndex> {
        self.by_name.get(name).copied().filter(|index| self.node(*index).node.is_some())
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Where a pod is placed.
    pub fn placed(&self, uid: &str) -> Option<NodeIndex> {
        self.placed.get(uid).map(|spot| spot.node)
    }

    /// How many pods are placed.
    pub fn pods(&self) -> usize {
        self.placed.len()
    }

    /// How many nodes have the image.
    pub fn image_nodes(&self, image: &str) -> u32 {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// See [`Counters::begin_cycle`].
    pub fn begin_cycle(&mut self) {
        if self.order_is_stale {
            self.reorder();
        }
        self.counters.begin_cycle(&self.nodes);
    }

    /// See [`Counters::ensure`].
    pub fn ensure_counters(&mut self, requests: &[Request]) -> Vec<CounterId> {
        self.counters.ensure(requests, &self.nodes, &self.namespaces)
    }

    /// See [`Counters::held_for`].
    pub fn held_for(&mut self, pod: &PodInfo) -> Arc<[HeldId]> {
        self.counters.held_for(&pod.template, &self.namespaces)
    }

    fn touch(&mut self, index: NodeIndex) {
        self.generation += 1;
        self.generations[index as usize] = self.generation;
    }

    fn place(&mut self, name: &str) -> NodeIndex {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let info = NodeInfo::new(name);
        let key = info.name.clone();
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index as usize] = info;
                index
            }
            None => {
                self.nodes.push(info);
                self.generations.push(0);
                self.nominated.push(0);
                u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 nodes")
            }
        };
        self.by_name.insert(key, index);
        self.touch(index);
        index
    }

    /// Takes in what a node is now.
    pub fn set_node(&mut self, node: &Arc<Node>) {
        let name = node.metadata.name.as_deref().unwrap_or("");
        let index = self.place(name);
        let before = self.nodes[index as usize].node.clone();
        let taints = |node: &Node| node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let recount = before.as_ref().is_none_or(|before| before.metadata.labels != node.metadata.labels || taints(before) != taints(node));
        let reorder = before.as_ref().is_none_or(|before| zone(before) != zone(node));
        self.change_node(index, Some(node.clone()), recount);
        self.order_is_stale |= reorder;
    }

    /// The node is gone; its pods may still be known for a while.
    pub fn remove_node(&mut self, name: &str) {
        let Some(index) = self.find(name) else { return };
        self.change_node(index, None, true);
        self.drop_if_empty(index);
        self.order_is_stale = true;
    }

    fn change_node(&mut self, index: NodeIndex, node: Option<Arc<Node>>, recount: bool) {
        let place = index as usize;
        if recount {
            for pod in self.nodes[place].pods.clone() {
                self.counters.remove_pod(index, &pod, &self.namespaces);
            }
            self.counters.unset_node(index);
        }
        let images = self.nodes[place].images.clone();
        self.discouraging_nodes -= usize::from(self.nodes[place].discouraging_taints);
        self.nodes[place].set_node(node);
        self.discouraging_nodes += usize::from(self.nodes[place].discouraging_taints);
        self.change_images(&images, &self.nodes[place].images.clone());
        if recount {
            self.counters.set_node(index, &self.nodes[place]);
            for pod in self.nodes[place].pods.clone() {
                self.counters.add_pod(index, &pod, &self.nodes, &self.namespaces);
            }
        }
        self.touch(index);
    }

    fn change_images(&mut self, before: &Arc<HashMap<String, i64>>, now: &Arc<HashMap<String, i64>>) {
        if Arc::ptr_eq(before, now) {
            return;
        }
        self.images_epoch += 1;
        for name in before.keys() {
            if let Some(nodes) = self.image_nodes.get_mut(name) {
                *nodes -= 1;
                if *nodes == 0 {
                    self.image_nodes.remove(name);
                }
            }
        }
        for name in now.keys() {
            *self.image_nodes.entry(name.clone()).or_insert(0) += 1;
        }
    }

    fn drop_if_empty(&mut self, index: NodeIndex) {
        let info = &self.nodes[index as usize];
        if info.node.is_none() && info.pods.is_empty() {
            self.by_name.remove(&info.name);
            self.nodes[index as usize] = NodeInfo::new("");
            self.nominated[index as usize] = 0;
            self.free.push(index);
            self.touch(index);
        }
    }

    fn reorder(&mut self) {
        let mut zones: BTreeMap<String, Vec<NodeIndex>> = BTreeMap::new();
        let mut names: Vec<(&Arc<str>, NodeIndex)> = self.by_name.iter().map(|(name, index)| (name, *index)).collect();
        names.sort_unstable();
        for (_, index) in names {
            if let Some(node) = &self.nodes[index as usize].node {
                zones.entry(zone(node)).or_default().push(index);
            }
        }
        let longest = zones.values().map(Vec::len).max().unwrap_or(0);
        self.order = (0..longest).flat_map(|turn| zones.values().filter_map(move |nodes| nodes.get(turn).copied())).collect();
        self.order_is_stale = false;
        self.images_epoch += 1;
    }

    /// Puts a pod on a node; it is on none yet.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        let index = self.place(node);
        let place = self.nodes[index as usize].pods.len();
        self.placed.insert(pod.uid.clone(), Spot { node: index, place });
        self.counters.add_pod(index, &pod, &self.nodes, &self.namespaces);
        self.nodes[index as usize].add_pod(pod);
        self.touch(index);
    }

    /// Takes a pod off its node.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let Spot { node: index, place } = self.placed.remove(uid)?;
        let info = &mut self.nodes[index as usize];
        let pod = info.remove_at(place);
        // The last one has taken its place.
        if let Some(moved) = info.pods.get(place)
            && let Some(spot) = self.placed.get_mut(&moved.uid)
        {
            spot.place = place;
        }
        self.counters.remove_pod(index, &pod, &self.namespaces);
        self.touch(index);
        self.drop_if_empty(index);
        Some(pod)
    }

    /// So many pods are nominated to the node now, or others than before.
    pub fn set_nominated(&mut self, node: &str, pods: usize) {
        if let Some(index) = self.by_name.get(node).copied() {
            self.nominated[index as usize] = pods;
            self.touch(index);
        }
    }

    /// Takes in what a placed pod is now.
    pub fn update_pod(&mut self, pod: Arc<PodInfo>) {
        let Some(Spot { node: index, place }) = self.placed.get(&pod.uid).copied() else { return };
        let info = &mut self.nodes[index as usize];
        let known = &mut info.pods[place];
        if known.weighs_like(&pod) {
            *known = pod;
            return;
        }
        let node = info.name.clone();
        self.remove_pod(&pod.uid);
        self.add_pod(pod, &node);
    }

    /// The pod as it is known on its node.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        let Spot { node, place } = self.placed.get(uid)?;
        self.node(*node).pods.get(*place)
    }

    /// The labels of a namespace, or nothing when it is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        let before = self.namespaces.get(name);
        if before == labels.as_ref() {
            return;
        }
        // Pods were counted by the old labels, so the counters go while these still hold.
        self.counters.namespaces_changed();
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
    }
}

/// Region and zone, by which the order of the search takes turns.
fn zone(node: &Node) -> String {
    let labels = node.metadata.labels.as_ref();
    let get = |key: &str, old: &str| labels.and_then(|l| l.get(key).or_else(|| l.get(old))).map_or("", String::as_str);
    let region = get(REGION, "failure-domain.beta.kubernetes.io/region");
    let zone = get(ZONE, "failure-domain.beta.kubernetes.io/zone");
    format!("{region}:\0:{zone}")
}
