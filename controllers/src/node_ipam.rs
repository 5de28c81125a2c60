//! The node IPAM controller: gives every node a range of pod addresses out of the cluster's, one of each family.
//!
//! A range that a node has stays its own until the node is gone.

use std::collections::{BTreeSet, HashMap};

use client::controller::Outcome;
use client::events::Recorder;
use client::metrics::{Counter, Family};
use client::{Change, Informer, Object, ObjectKey, Queue, Reference, answer};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;

use crate::manager::{Config, Context};
use crate::metrics;
use crate::prefix::Prefix;

const MASK_IPV4: u8 = 24;
const MASK_IPV6: u8 = 64;
/// A cluster range is cut into at most 2 to this number of ranges.
const PARTS_BITS_MAX: u8 = 16;
const WORKERS: usize = 30;

/// One cluster range, cut into ranges for nodes.
#[derive(Debug)]
struct Pool {
    cluster: Prefix,
    bits: u8,
    taken: BTreeSet<u128>,
    next: u128,
}

impl Pool {
    fn new(cluster: Prefix, bits: u8) -> Option<Pool> {
        let more = bits.checked_sub(cluster.bits())?;
        let pool = (more <= PARTS_BITS_MAX).then(|| Pool { cluster, bits, taken: BTreeSet::new(), next: 0 })?;
        // How many there are is told from the start.
        pool.tell(&metrics::NODE_RANGES_GIVEN, 0);
        Some(pool)
    }

    /// All parts that a range touches.
    fn touched(&self, range: &Prefix) -> std::ops::Range<u128> {
        if range.holds(&self.cluster) {
            return 0..self.cluster.count(self.bits);
        }
        match self.cluster.index_of(range) {
            // A smaller range touches one part, a larger one several.
            Some(_) if range.bits() >= self.bits => {
                let holding =
                    (0..self.cluster.count(self.bits)).find(|i| self.cluster.part(self.bits, *i).is_some_and(|part| part.holds(range)));
                holding.map_or(0..0, |index| index..index + 1)
            }
            Some(index) => {
                let each = range.count(self.bits);
                index * each..(index + 1) * each
            }
            None => 0..0,
        }
    }

    fn take(&mut self, range: &Prefix) {
        let (touched, before) = (self.touched(range), self.taken.len());
        self.taken.extend(touched);
        self.tell(&metrics::NODE_RANGES_GIVEN, self.taken.len() - before);
    }

    fn release(&mut self, range: &Prefix) {
        let before = self.taken.len();
        for index in self.touched(range) {
            self.taken.remove(&index);
        }
        self.tell(&metrics::NODE_RANGES_FREED, before - self.taken.len());
    }

    /// Counts so many ranges that were given or freed, and tells how many of all are in use.
    fn tell(&self, counted: &Family<Counter>, number: usize) {
        let cluster = self.cluster.to_string();
        let max = self.cluster.count(self.bits) as f64;
        counted.with(&[&cluster]).add(number as u64);
        metrics::NODE_RANGES_MAX.with(&[&cluster]).set(max);
        metrics::NODE_RANGES_USED.with(&[&cluster]).set(self.taken.len() as f64 / max);
    }

    /// The next free range, going round, so that one that was given back rests for a while.
    fn allocate(&mut self) -> Option<Prefix> {
        let count = self.cluster.count(self.bits);
        let (tries, free) = (0..count).map(|step| (step, (self.next + step) % count)).find(|(_, index)| !self.taken.contains(index))?;
        self.taken.insert(free);
        self.tell(&metrics::NODE_RANGES_GIVEN, 1);
        metrics::NODE_RANGES_TRIES.with(&[&self.cluster.to_string()]).observe(tries as f64);
        self.next = (free + 1) % count;
        self.cluster.part(self.bits, free)
    }
}

/// The pools that the settings describe, or what is wrong with them.
fn pools(config: &Config) -> Result<Vec<Pool>, String> {
    let mut pools = Vec::new();
    let texts: Vec<&str> = config.cluster_cidr.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    for text in &texts {
        let cluster = Prefix::parse(text).ok_or_else(|| format!("invalid CIDR address: {text}"))?;
        let (specific, default) =
            if cluster.is_ipv6() { (config.node_cidr_mask_size_ipv6, MASK_IPV6) } else { (config.node_cidr_mask_size_ipv4, MASK_IPV4) };
        let general = if texts.len() == 1 { config.node_cidr_mask_size } else { 0 };
        let bits = [specific, general, default].into_iter().find(|bits| *bits > 0).unwrap_or(default);
        let mut pool = Pool::new(cluster, bits).ok_or_else(|| format!("CIDR {text} cannot be cut into ranges of {bits} bits"))?;
        for service in config.service_cluster_ip_range.split(',').filter_map(|text| Prefix::parse(text.trim())) {
            pool.take(&service);
        }
        pools.push(pool);
    }
    match pools.as_slice() {
        [] => Err("no cluster CIDR is given".to_owned()),
        [_] => Ok(pools),
        [a, b] if a.cluster.is_ipv6() != b.cluster.is_ipv6() => Ok(pools),
        _ => Err("expected one cluster CIDR, or one of each IP family".to_owned()),
    }
}

struct Controller {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    state: Mutex<State>,
}

/// What is given out; one entry a node.
struct State {
    pools: Vec<Pool>,
    given: HashMap<String, Vec<Prefix>>,
}

fn ranges(node: &Node) -> Vec<Prefix> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed: Vec<Prefix> = spec.pod_cidrs.iter().flatten().filter_map(|text| Prefix::parse(text)).collect();
    if listed.is_empty() { spec.pod_cidr.iter().filter_map(|text| Prefix::parse(text)).collect() } else { listed }
}

impl State {
    fn occupy(&mut self, node: &str, ranges: Vec<Prefix>) {
        for pool in &mut self.pools {
            ranges.iter().for_each(|range| pool.take(range));
        }
        self.given.insert(node.to_owned(), ranges);
    }

    fn release(&mut self, node: &str) {
        for range in self.given.remove(node).unwrap_or_default() {
            self.pools.iter_mut().for_each(|pool| pool.release(&range));
        }
    }

    /// The node's ranges, as they were given before or new ones.
    fn allocate(&mut self, node: &str) -> Option<Vec<Prefix>> {
        if let Some(given) = self.given.get(node) {
            return Some(given.clone());
        }
        let ranges: Vec<Prefix> = self.pools.iter_mut().filter_map(Pool::allocate).collect();
        if ranges.len() < self.pools.len() {
            for range in &ranges {
                self.pools.iter_mut().for_each(|pool| pool.release(range));
            }
            return None;
        }
        self.given.insert(node.to_owned(), ranges.clone());
        Some(ranges)
    }
}

pub async fn run(context: Context) {
    if !context.config.allocate_node_cidrs {
        return;
    }
    let pools = match pools(&context.config) {
        Ok(pools) => pools,
        Err(error) => {
            tracing::error!(controller = context.name, %error, "no ranges can be given to nodes");
            return;
        }
    };
    let controller = std::sync::Arc::new(Controller {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        nodes: context.informers.of(),
        state: Mutex::new(State { pools, given: HashMap::new() }),
    });
    controller.nodes.synced().await;
    metrics::RUNNING_CONTROLLERS.with(&["nodeipam", "kube-controller-manager"]).set(1.0);
    let queue = Queue::named("cidrallocator_node");
    // What nodes have must be known before any is given a range.
    for node in controller.nodes.list().iter().filter(|node| !ranges(node).is_empty()) {
        controller.state.lock().occupy(node.name(), ranges(node));
    }
    let (sink, shared) = (queue.clone(), controller.clone());
    controller.nodes.on_change(move |change| match change {
        Change::Deleted(node) => shared.state.lock().release(node.name()),
        change => {
            let node = change.object();
            let has = ranges(node);
            if has.is_empty() {
                sink.add(node.key());
            } else {
                shared.state.lock().occupy(node.name(), has);
            }
        }
    });
    client::controller::run(context.name, queue, WORKERS, context.shutdown, |key: ObjectKey| controller.sync(key)).await;
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> Result<Outcome, kube::Error> {
        let Some(node) = self.nodes.get_key(&key).filter(|node| ranges(node).is_empty()) else { return Ok(Outcome::Done) };
        let Some(given) = self.state.lock().allocate(&key.name) else {
            let about = Reference(ObjectReference { resource_version: None, ..node.reference().0 });
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.normal(&about, "CIDRNotAvailable", message);
            // A range is free again when a node goes; nobody tells of that.
            return Ok(Outcome::After(std::time::Duration::from_secs(5)));
        };
        let texts: Vec<String> = given.iter().map(Prefix::to_string).collect();
        let patch = Patch::Strategic(json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}}));
        let api: Api<Node> = Api::all(self.client.clone());
        if answer::or_absent(api.patch(&key.name, &PatchParams::default(), &patch).await)?.is_none() {
            self.state.lock().release(&key.name);
        }
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cluster: &str, services: &str) -> Config {
        Config { cluster_cidr: cluster.to_owned(), service_cluster_ip_range: services.to_owned(), ..Config::default() }
    }

    fn state(cluster: &str, services: &str) -> State {
        State { pools: pools(&config(cluster, services)).unwrap(), given: HashMap::new() }
    }

    fn given(state: &mut State, node: &str) -> Option<Vec<String>> {
        state.allocate(node).map(|ranges| ranges.iter().map(Prefix::to_string).collect())
    }

    #[test]
    fn each_node_has_a_range_of_its_own_and_keeps_it() {
        let mut state = state("10.244.0.0/22", "");
        assert_eq!(given(&mut state, "a"), Some(vec!["10.244.0.0/24".to_owned()]));
        assert_eq!(given(&mut state, "b"), Some(vec!["10.244.1.0/24".to_owned()]));
        assert_eq!(given(&mut state, "a"), Some(vec!["10.244.0.0/24".to_owned()]));
        state.release("a");
        assert_eq!(given(&mut state, "c"), Some(vec!["10.244.2.0/24".to_owned()]));
        assert_eq!(given(&mut state, "d"), Some(vec!["10.244.3.0/24".to_owned()]));
        assert_eq!(given(&mut state, "e"), Some(vec!["10.244.0.0/24".to_owned()]));
        assert_eq!(given(&mut state, "f"), None);
    }

    #[test]
    fn what_nodes_and_services_have_is_not_given_again() {
        let mut state = state("10.244.0.0/22", "10.244.1.0/25");
        state.occupy("old", vec![Prefix::parse("10.244.0.0/24").unwrap()]);
        assert_eq!(given(&mut state, "a"), Some(vec!["10.244.2.0/24".to_owned()]));
        state.occupy("large", vec![Prefix::parse("10.244.0.0/16").unwrap()]);
        assert_eq!(given(&mut state, "b"), None);
    }

    #[test]
    fn two_families_are_given_together() {
        let mut state = state("10.244.0.0/16, fd00:10::/56", "");
        assert_eq!(given(&mut state, "a"), Some(vec!["10.244.0.0/24".to_owned(), "fd00:10::/64".to_owned()]));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for cluster in ["", "x", "10.0.0.0/25", "10.0.0.0/4", "10.0.0.0/16,10.1.0.0/16"] {
            assert!(pools(&config(cluster, "")).is_err(), "{cluster}");
        }
    }
}
