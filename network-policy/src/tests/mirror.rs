//! A table as the kernel would have it after all that was written, and what it lets through. As the kernel does, it refuses what
//! cannot be: an element twice, a deletion of what is not there, a set that somebody still looks into.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::model::Packet;
use crate::engine::{Difference, Engine};
use crate::ruleset::{Allow, Direction, Entry, Set};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mirror {
    sets: BTreeMap<String, (Set, BTreeSet<Entry>)>,
    chains: BTreeMap<String, (Direction, Vec<Allow>)>,
    isolated: BTreeMap<(Direction, IpAddr), String>,
    selves: BTreeSet<IpAddr>,
}

impl Mirror {
    pub fn apply(&mut self, engine: &Engine, difference: &Difference) {
        for name in &difference.new_sets {
            let members = engine.set(name).expect("a new set is there");
            assert_eq!(*name, members.set.name());
            let set = (members.set.clone(), members.entries().copied().collect());
            assert!(self.sets.insert(name.clone(), set).is_none(), "{name} is not new");
        }
        for name in &difference.new_chains {
            let chain = engine.chain(name).expect("a new chain is there");
            let sets = chain.allows.iter().flat_map(Allow::sets);
            sets.for_each(|set| assert!(self.sets.contains_key(&set.name()), "{name} looks into what is not there"));
            let chain = (chain.direction, chain.allows.clone());
            assert!(self.chains.insert(name.clone(), chain).is_none(), "{name} is not new");
        }
        for (name, entries) in &difference.removed {
            let (_, present) = self.sets.get_mut(name).expect("a set that loses something is there");
            entries.iter().for_each(|entry| assert!(present.remove(entry), "{entry:?} was not in {name}"));
        }
        for (name, entries) in &difference.added {
            let (_, present) = self.sets.get_mut(name).expect("a set that gets something is there");
            entries.iter().for_each(|entry| assert!(present.insert(*entry), "{entry:?} was in {name}"));
        }
        difference.no_longer_isolated.iter().for_each(|address| assert!(self.selves.remove(address), "{address} was not isolated"));
        difference.new_isolated.iter().for_each(|address| assert!(self.selves.insert(*address), "{address} was isolated"));
        for one in &difference.isolation {
            let place = (one.direction, one.address);
            assert_eq!(self.isolated.remove(&place), one.old);
            if let Some(new) = &one.new {
                assert!(self.chains.contains_key(new), "nothing leads to a chain that is not there");
                self.isolated.insert(place, new.clone());
            }
        }
        for name in &difference.gone_chains {
            assert!(self.chains.remove(name).is_some(), "{name} was not there");
            assert!(!self.isolated.values().any(|chain| chain == name), "something leads to {name}");
        }
        for name in &difference.gone_sets {
            assert!(self.sets.remove(name).is_some(), "{name} was not there");
            let mut used = self.chains.values().flat_map(|(_, allows)| allows).flat_map(Allow::sets);
            assert!(!used.any(|set| set.name() == *name), "somebody looks into {name}");
        }
        assert_eq!(self.isolated.keys().map(|(_, address)| *address).collect::<BTreeSet<_>>(), self.selves);
    }

    /// Whether a packet that opens a connection comes through.
    pub fn lets_through(&self, packet: &Packet) -> bool {
        if packet.from == packet.to && self.selves.contains(&packet.from) {
            return true;
        }
        let passes = |direction, address| match self.isolated.get(&(direction, address)) {
            Some(chain) => self.returns(chain, packet),
            None => true,
        };
        passes(Direction::Egress, packet.from) && passes(Direction::Ingress, packet.to)
    }

    fn returns(&self, chain: &str, packet: &Packet) -> bool {
        let (direction, allows) = &self.chains[chain];
        allows.iter().any(|allow| allow.sets().iter().all(|set| self.finds(&set.name(), *direction, packet)))
    }

    fn finds(&self, set: &str, direction: Direction, packet: &Packet) -> bool {
        let number = match packet.protocol {
            "TCP" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            _ => 1,
        };
        // What stands where other protocols have their port.
        let port = packet.port.unwrap_or(80);
        let other = if direction == Direction::Ingress { packet.from } else { packet.to };
        let (set, entries) = &self.sets[set];
        match set {
            Set::Pods(_) => entries.contains(&Entry { address: other, port: None }),
            Set::Named { .. } => entries.contains(&Entry { address: packet.to, port: Some((number, port)) }),
            Set::Ranges(ranges) => ranges.iter().any(|range| range.contains(other)),
            Set::Ports(ranges) => ranges.iter().any(|range| range.protocol == number && (range.first..=range.last).contains(&port)),
        }
    }
}
