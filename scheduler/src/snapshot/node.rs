//! What the scheduler knows of a node: what it offers, what is taken of it, and who is there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::pod::{HostPort, PodInfo, normalized_image};
use crate::resources::{Resources, pod_limit};
use crate::taints::PREFER_NO_SCHEDULE;

/// The numbers that every search looks at, apart from the rest so that many nodes are read fast.
#[derive(Clone, Debug, Default)]
pub struct Load {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub pod_limit: i64,
    pub taken_milli_cpu: i64,
    pub taken_memory: i64,
    pub taken_ephemeral_storage: i64,
    pub pods: i64,
    /// What scoring takes to be taken, with its defaults for pods that ask for nothing.
    pub scored_milli_cpu: i64,
    pub scored_memory: i64,
}

impl Load {
    fn add(&mut self, pod: &PodInfo, sign: i64) {
        let requests = &pod.requests.requests;
        self.taken_milli_cpu += sign * requests.milli_cpu;
        self.taken_memory += sign * requests.memory;
        self.taken_ephemeral_storage += sign * requests.ephemeral_storage;
        self.scored_milli_cpu += sign * pod.requests.non_zero_cpu;
        self.scored_memory += sign * pod.requests.non_zero_memory;
        self.pods += sign;
    }
}

/// Host ports that are taken, each with the number of pods that take it.
#[derive(Clone, Debug, Default)]
pub struct HostPorts(Vec<(HostPort, u32)>);

impl HostPorts {
    fn add(&mut self, port: &HostPort) {
        match self.0.iter_mut().find(|(taken, _)| taken == port) {
            Some((_, pods)) => *pods += 1,
            None => self.0.push((port.clone(), 1)),
        }
    }

    fn remove(&mut self, port: &HostPort) {
        if let Some(place) = self.0.iter().position(|(taken, _)| taken == port) {
            self.0[place].1 -= 1;
            if self.0[place].1 == 0 {
                self.0.swap_remove(place);
            }
        }
    }

    /// Whether the port cannot be had: somebody has it on the same address, or either is for all addresses.
    pub fn conflicts(&self, port: &HostPort) -> bool {
        const ANY: &str = "0.0.0.0";
        let overlaps = |taken: &HostPort| taken.ip == port.ip || taken.ip == ANY || port.ip == ANY;
        self.0.iter().any(|(taken, _)| taken.port == port.port && taken.protocol == port.protocol && overlaps(taken))
    }

    pub fn of(ports: &[HostPort]) -> HostPorts {
        let mut all = HostPorts::default();
        ports.iter().for_each(|port| all.add(port));
        all
    }
}

/// A node and its pods.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub name: Arc<str>,
    /// Nothing while pods are known that name a node which is not.
    pub node: Option<Arc<Node>>,
    pub load: Load,
    pub scalars: Resources,
    pub taken_scalars: Resources,
    pub pods: Vec<Arc<PodInfo>>,
    pub ports: HostPorts,
    /// Sizes in bytes by every name that the node knows the image by.
    pub images: Arc<HashMap<String, i64>>,
    /// How many pods mount each claim.
    pub claims: HashMap<String, u32>,
    pub unschedulable: bool,
    /// Whether any taint keeps pods away, and whether any only makes the node less liked.
    pub forbidding_taints: bool,
    pub discouraging_taints: bool,
}

impl NodeInfo {
    pub fn new(name: &str) -> NodeInfo {
        NodeInfo {
            name: Arc::from(name),
            node: None,
            load: Load::default(),
            scalars: Resources::default(),
            taken_scalars: Resources::default(),
            pods: Vec::new(),
            ports: HostPorts::default(),
            images: Arc::default(),
            claims: HashMap::new(),
            unschedulable: false,
            forbidding_taints: false,
            discouraging_taints: false,
        }
    }

    pub fn set_node(&mut self, node: Option<Arc<Node>>) {
        let spec = node.as_ref().and_then(|node| node.spec.as_ref());
        let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        self.unschedulable = spec.and_then(|spec| spec.unschedulable) == Some(true);
        self.forbidding_taints = taints.iter().any(crate::taints::forbids);
        self.discouraging_taints = taints.iter().any(|taint| taint.effect == PREFER_NO_SCHEDULE);
        let status = node.as_ref().and_then(|node| node.status.as_ref());
        let none = BTreeMap::new();
        let allocatable = status.and_then(|s| s.allocatable.as_ref()).unwrap_or(&none);
        let offers = Resources::of(allocatable);
        self.load.milli_cpu = offers.milli_cpu;
        self.load.memory = offers.memory;
        self.load.ephemeral_storage = offers.ephemeral_storage;
        self.load.pod_limit = pod_limit(allocatable);
        self.scalars = Resources { scalars: offers.scalars, ..Resources::default() };
        let images = status.iter().flat_map(|s| s.images.iter().flatten());
        let mut sizes = HashMap::new();
        for image in images {
            for name in image.names.iter().flatten() {
                sizes.insert(normalized_image(name), image.size_bytes.unwrap_or(0));
            }
        }
        if *self.images != sizes {
            self.images = Arc::new(sizes);
        }
        self.node = node;
    }

    pub fn taints(&self) -> &[Taint] {
        self.node.as_ref().and_then(|n| n.spec.as_ref()?.taints.as_deref()).unwrap_or_default()
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.load.add(&pod, 1);
        if !pod.requests.requests.scalars.is_empty() {
            self.taken_scalars.add(&scalars_of(&pod), 1);
        }
        pod.template.ports.iter().for_each(|port| self.ports.add(port));
        for claim in &pod.claims {
            *self.claims.entry(claim.clone()).or_insert(0) += 1;
        }
        self.pods.push(pod);
    }

    /// Takes a pod out, if it is there.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let place = self.pods.iter().position(|pod| *pod.uid == *uid)?;
        Some(self.remove_at(place))
    }

    /// Takes out the pod at a place, which the last one takes then.
    pub fn remove_at(&mut self, place: usize) -> Arc<PodInfo> {
        let pod = self.pods.swap_remove(place);
        self.load.add(&pod, -1);
        if !pod.requests.requests.scalars.is_empty() {
            self.taken_scalars.add(&scalars_of(&pod), -1);
        }
        pod.template.ports.iter().for_each(|port| self.ports.remove(port));
        for claim in &pod.claims {
            if let Some(pods) = self.claims.get_mut(claim) {
                *pods -= 1;
                if *pods == 0 {
                    self.claims.remove(claim);
                }
            }
        }
        pod
    }
}

fn scalars_of(pod: &PodInfo) -> Resources {
    Resources { scalars: pod.requests.requests.scalars.clone(), ..Resources::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_on_all_addresses_conflicts_with_each() {
        let port = |ip: &str, protocol: &str, port| HostPort { ip: ip.into(), protocol: protocol.into(), port };
        let taken = HostPorts::of(&[port("127.0.0.1", "TCP", 80), port("0.0.0.0", "UDP", 53)]);
        for (wanted, expected) in [
            (port("127.0.0.1", "TCP", 80), true),
            (port("127.0.0.2", "TCP", 80), false),
            (port("0.0.0.0", "TCP", 80), true),
            (port("127.0.0.1", "UDP", 80), false),
            (port("127.0.0.1", "UDP", 53), true),
            (port("127.0.0.1", "TCP", 53), false),
        ] {
            assert_eq!(taken.conflicts(&wanted), expected, "{wanted:?}");
        }
    }
}
