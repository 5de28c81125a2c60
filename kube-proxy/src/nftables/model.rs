//! What was written to the table, as far as it must be known to write what differs. Pure.
//!
//! An element may be wanted by several ports: by all of a Service (its cluster IP), or by two Services by somebody's mistake.
//! The first one that wants it has it; when that is gone, the next one's takes its place.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use super::items::{Endpoint, Items, items};
use super::name;
use crate::frontend::PortName;
use crate::ruleset::{Difference, ServicePort};
use crate::settings::Settings;
use netfilter::batch::{Batch, Element, Value};
use netfilter::key::Key;
use netfilter::rule::Rule;

type Place = (&'static str, Key);

/// Some ports and their items.
type Owned = Vec<(PortName, Items)>;

/// See the file's header.
#[derive(Default)]
pub struct Model {
    elements: HashMap<Place, Vec<(PortName, Option<Value>)>>,
}

fn endpoint(key: &Key, address: SocketAddr) -> Element {
    Element { key: key.clone(), value: Some(Value::Endpoint(address)) }
}

/// The endpoints of some ports, by their maps and keys.
fn endpoints(of: &[(PortName, Items)]) -> BTreeMap<(u8, &Key), SocketAddr> {
    let all = of.iter().flat_map(|(_, items)| &items.endpoints);
    all.map(|(map, key, address): &Endpoint| ((*map, key), *address)).collect()
}

/// Elements to add and to delete, by their set or map.
#[derive(Default)]
struct Turnover {
    added: BTreeMap<&'static str, Vec<Element>>,
    deleted: BTreeMap<&'static str, Vec<Element>>,
}

impl Model {
    /// Forgets everything: the table is empty.
    pub fn clear(&mut self) {
        self.elements.clear();
    }

    /// Who has the element, and what it says.
    fn current(&self, place: &Place) -> Option<Option<Value>> {
        self.elements.get(place).and_then(|wanted| wanted.first()).map(|(_, value)| value.clone())
    }

    fn want(&mut self, owner: &PortName, place: Place, value: Option<Value>) {
        let wanted = self.elements.entry(place).or_default();
        if !wanted.iter().any(|(other, _)| other == owner) {
            wanted.push((owner.clone(), value));
        }
    }

    fn unwant(&mut self, owner: &PortName, place: &Place) {
        if let Some(wanted) = self.elements.get_mut(place) {
            wanted.retain(|(other, _)| other != owner);
            if wanted.is_empty() {
                self.elements.remove(place);
            }
        }
    }

    /// Takes in that some Services' items have become others, and says which elements come and go by that.
    fn turn_over(&mut self, changes: &[(Owned, Owned)]) -> Turnover {
        let all = changes.iter().flat_map(|(old, new)| old.iter().chain(new));
        let places: HashSet<Place> = all.flat_map(|(_, items)| items.elements.iter().map(|(set, key, _)| (*set, key.clone()))).collect();
        let before: HashMap<&Place, Option<Option<Value>>> = places.iter().map(|place| (place, self.current(place))).collect();
        for (old, new) in changes {
            for (owner, items) in old {
                items.elements.iter().for_each(|(set, key, _)| self.unwant(owner, &(set, key.clone())));
            }
            for (owner, items) in new {
                items.elements.iter().for_each(|(set, key, value)| self.want(owner, (set, key.clone()), value.clone()));
            }
        }
        let mut turnover = Turnover::default();
        for (place, before) in before {
            let after = self.current(place);
            if before == after {
                continue;
            }
            let element = |value| Element { key: place.1.clone(), value };
            if let Some(value) = before {
                turnover.deleted.entry(place.0).or_default().push(element(value));
            }
            if let Some(value) = after {
                turnover.added.entry(place.0).or_default().push(element(value));
            }
        }
        turnover
    }

    /// Writes all ports into a table that has nothing but its frame.
    pub fn write_all<'a>(&mut self, ports: impl Iterator<Item = &'a ServicePort>, settings: &Settings, batch: &mut Batch) {
        self.clear();
        let all: Vec<(PortName, Items)> = ports.map(|port| (port.frontend.name.clone(), items(port, settings))).collect();
        for (_, items) in &all {
            items.chains.iter().for_each(|(name, _)| batch.add_chain(name, None));
            items.recent.iter().for_each(|(name, seconds)| batch.add_recent_set(name, *seconds));
        }
        let mut endpoints: BTreeMap<u8, Vec<Element>> = BTreeMap::new();
        for (map, key, address) in all.iter().flat_map(|(_, items)| &items.endpoints) {
            endpoints.entry(*map).or_default().push(endpoint(key, *address));
        }
        endpoints.keys().for_each(|map| batch.add_endpoint_map(&name::endpoints(*map)));
        for (_, items) in &all {
            items.chains.iter().for_each(|(name, rules)| rules.iter().for_each(|rule| batch.add_rule(name, rule)));
        }
        // After the rules, which would be held against each of them.
        endpoints.iter().for_each(|(map, elements)| batch.add_elements(&name::endpoints(*map), elements));
        let turnover = self.turn_over(&[(Vec::new(), all)]);
        turnover.added.iter().for_each(|(set, elements)| batch.add_elements(set, elements));
    }

    /// Writes what differs. The chains that nothing leads to any more are emptied and given back: some kernels notice only
    /// later that they may go. `stale` are those that were given back before and have not gone yet.
    pub fn write_changes(&mut self, differences: &[Difference], stale: &HashSet<String>, settings: &Settings, batch: &mut Batch) -> Stale {
        let of = |ports: &[ServicePort]| -> Vec<(PortName, Items)> {
            ports.iter().map(|port| (port.frontend.name.clone(), items(port, settings))).collect()
        };
        let changes: Vec<_> = differences.iter().map(|difference| (of(&difference.old), of(&difference.new))).collect();
        let turnover = self.turn_over(&changes);
        let (mut gone_endpoints, mut new_endpoints) = (BTreeMap::<u8, Vec<Element>>::new(), BTreeMap::<u8, Vec<Element>>::new());
        for (old, new) in &changes {
            let (old, new) = (endpoints(old), endpoints(new));
            for ((map, key), address) in old.iter().filter(|(place, address)| new.get(*place) != Some(address)) {
                gone_endpoints.entry(*map).or_default().push(endpoint(key, *address));
            }
            for ((map, key), address) in new.iter().filter(|(place, address)| old.get(*place) != Some(address)) {
                new_endpoints.entry(*map).or_default().push(endpoint(key, *address));
            }
        }
        let (mut old_chains, mut new_chains) = (BTreeMap::<&String, &Vec<Rule>>::new(), BTreeMap::new());
        let (mut old_sets, mut new_sets) = (BTreeMap::<&String, u32>::new(), BTreeMap::new());
        for (old, new) in &changes {
            old_chains.extend(old.iter().flat_map(|(_, items)| items.chains.iter().map(|(name, rules)| (name, rules))));
            new_chains.extend(new.iter().flat_map(|(_, items)| items.chains.iter().map(|(name, rules)| (name, rules))));
            old_sets.extend(old.iter().flat_map(|(_, items)| items.recent.iter().map(|(name, seconds)| (name, *seconds))));
            new_sets.extend(new.iter().flat_map(|(_, items)| items.recent.iter().map(|(name, seconds)| (name, *seconds))));
        }
        // A set with another time is another set, and whoever reads it must be written anew.
        let is_other = |name: &&String| new_sets.get(name).is_some_and(|seconds| old_sets.get(name).is_some_and(|old| old != seconds));
        let sets_differ = old_sets.keys().any(is_other);
        let is_new = |name: &&String| !old_chains.contains_key(name);
        let written: Vec<(&String, &Vec<Rule>)> = new_chains
            .iter()
            .filter(|(name, rules)| sets_differ || old_chains.get(*name) != Some(*rules))
            .map(|(name, rules)| (*name, *rules))
            .collect();
        let gone: Vec<&String> = old_chains.keys().filter(|name| !new_chains.contains_key(*name)).copied().collect();

        for (name, _) in written.iter().filter(|(name, _)| is_new(name) && !stale.contains(*name)) {
            batch.add_chain(name, None);
        }
        turnover.deleted.iter().for_each(|(set, elements)| batch.delete_elements(set, elements));
        gone_endpoints.iter().for_each(|(map, elements)| batch.delete_elements(&name::endpoints(*map), elements));
        new_endpoints.keys().for_each(|map| batch.add_endpoint_map(&name::endpoints(*map)));
        for name in written.iter().map(|(name, _)| *name).filter(|name| !is_new(name)).chain(gone.iter().copied()) {
            batch.flush_chain(name);
        }
        for name in old_sets.keys().filter(|name| is_other(name) || !new_sets.contains_key(*name)) {
            batch.delete_set(name);
        }
        for (name, seconds) in new_sets.iter().filter(|(name, _)| is_other(name) || !old_sets.contains_key(*name)) {
            batch.add_recent_set(name, *seconds);
        }
        for (name, rules) in &written {
            rules.iter().for_each(|rule| batch.add_rule(name, rule));
        }
        turnover.added.iter().for_each(|(set, elements)| batch.add_elements(set, elements));
        new_endpoints.iter().for_each(|(map, elements)| batch.add_elements(&name::endpoints(*map), elements));
        Stale {
            gone: gone.into_iter().cloned().collect(),
            back: written.iter().map(|(name, _)| *name).filter(|name| stale.contains(*name)).cloned().collect(),
        }
    }
}

/// Chains that nothing leads to any more, and those of them that have come back.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stale {
    pub gone: Vec<String>,
    pub back: Vec<String>,
}
