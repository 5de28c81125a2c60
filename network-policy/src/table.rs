//! A [`Difference`] as the kernel is told of it, in one transaction a family: a table of our own with a chain where packets are
//! passed on, a map from isolated addresses to their chains for each direction, and the sets that these look into.
//!
//! A packet of a connection that is known passes at once. Another one costs one look-up for its source and one for its
//! destination, and what the policies of an isolated pod say, each thing once, however many policies there are beside.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netfilter::batch::{Batch, Element, Hook, Value, table_exists};
use netfilter::expression::Verdict;
use netfilter::family::Family;
use netfilter::key::{Key, Type};
use netfilter::netlink::Socket;
use netfilter::rule::Rule;

use crate::engine::{Chain, Difference, Engine, Members};
use crate::ruleset::{Allow, Direction, Entry, Peers, Ports, Set};

const TABLE: &str = "ferrokube-network-policy";
const FORWARD_CHAIN: &str = "forward";
/// Addresses that may reach themselves, as pairs.
const SELVES: &str = "selves";

/// Where packets are passed on, after kube-proxy has refused what it refuses there.
const FORWARD: Hook = Hook { kind: "filter", number: 2, priority: 10 };

/// Kernels before 6.2 notice only after a moment that nothing leads to a chain any more.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// The table of one family.
pub struct Table {
    family: Family,
    /// Chains that are empty and may go, and since when.
    stale: HashMap<String, Instant>,
}

fn key(address: IpAddr) -> Key {
    Key::default().address(address)
}

fn element(entry: &Entry) -> Element {
    let key = match entry.port {
        Some((protocol, number)) => key(entry.address).protocol(protocol).port(number),
        None => key(entry.address),
    };
    Element { key, value: None }
}

fn pair(address: IpAddr) -> Element {
    Element { key: key(address).address(address), value: None }
}

fn jump(address: IpAddr, chain: &str) -> Element {
    Element { key: key(address), value: Some(Value::Verdict(Verdict::Jump(chain.to_owned()))) }
}

/// One family's part of what is to be written.
struct Writer<'a> {
    family: Family,
    engine: &'a Engine,
    batch: Batch,
}

impl Writer<'_> {
    fn is_ours(&self, address: &IpAddr) -> bool {
        Family::of(*address) == self.family
    }

    fn elements(&self, entries: &[Entry]) -> Vec<Element> {
        entries.iter().filter(|entry| self.is_ours(&entry.address)).map(element).collect()
    }

    fn frame(&mut self) {
        let family = self.family;
        let batch = &mut self.batch;
        // Deleting what is not there would fail.
        batch.add_table("who may connect to whom");
        batch.delete_table();
        batch.add_table("who may connect to whom");
        batch.add_chain(FORWARD_CHAIN, Some(FORWARD));
        batch.add_set(SELVES, Type::address(family).then(Type::address(family)));
        for direction in Direction::ALL {
            batch.add_verdict_map(direction.name(), Type::address(family));
        }
        batch.add_rule(FORWARD_CHAIN, &Rule::new().of_known_connection().verdict(Verdict::Accept));
        batch.add_rule(FORWARD_CHAIN, &Rule::new().pair_in(family, SELVES).verdict(Verdict::Accept));
        batch.add_rule(FORWARD_CHAIN, &Rule::new().address_map(family, true, Direction::Egress.name()));
        batch.add_rule(FORWARD_CHAIN, &Rule::new().address_map(family, false, Direction::Ingress.name()));
    }

    fn add_set(&mut self, name: &str, members: &Members) {
        match &members.set {
            Set::Pods(_) => self.batch.add_set(name, Type::address(self.family)),
            Set::Named { .. } => self.batch.add_set(name, Type::destination(self.family)),
            Set::Ranges(ranges) => {
                self.batch.add_address_range_set(name);
                let ours: Vec<(IpAddr, IpAddr)> =
                    ranges.iter().filter(|range| range.family() == self.family).map(|range| (range.first, range.last)).collect();
                self.batch.add_address_ranges(name, &ours);
            }
            Set::Ports(ranges) => {
                self.batch.add_port_range_set(name);
                let ranges: Vec<(u8, u16, u16)> = ranges.iter().map(|range| (range.protocol, range.first, range.last)).collect();
                self.batch.add_port_ranges(name, &ranges);
            }
        }
    }

    /// What is let through returns to whoever has led here; the rest is dropped.
    fn add_rules(&mut self, name: &str, chain: &Chain) {
        for allow in &chain.allows {
            self.batch.add_rule(name, &rule(self.family, chain.direction, allow));
        }
        self.batch.add_rule(name, &Rule::new().verdict(Verdict::Drop));
    }

    /// Gives the chains that are empty now.
    fn write(&mut self, difference: &Difference) {
        for name in &difference.new_sets {
            if let Some(members) = self.engine.set(name) {
                self.add_set(name, members);
            }
        }
        difference.new_chains.iter().for_each(|name| self.batch.add_chain(name, None));
        for name in &difference.new_chains {
            if let Some(chain) = self.engine.chain(name) {
                self.add_rules(name, chain);
            }
        }
        // After the rules, which would be held against each of them.
        for name in &difference.new_sets {
            if let Some(members) = self.engine.set(name).filter(|members| members.set.follows_pods()) {
                let entries: Vec<Entry> = members.entries().copied().collect();
                let elements = self.elements(&entries);
                self.batch.add_elements(name, &elements);
            }
        }
        for (name, entries) in &difference.removed {
            let elements = self.elements(entries);
            self.batch.delete_elements(name, &elements);
        }
        for (name, entries) in &difference.added {
            let elements = self.elements(entries);
            self.batch.add_elements(name, &elements);
        }
        self.isolate(difference);
        difference.gone_chains.iter().for_each(|name| self.batch.flush_chain(name));
        difference.gone_sets.iter().for_each(|name| self.batch.delete_set(name));
    }

    fn isolate(&mut self, difference: &Difference) {
        let pairs = |addresses: &[IpAddr]| addresses.iter().filter(|a| self.is_ours(a)).map(|a| pair(*a)).collect::<Vec<_>>();
        let (gone, new) = (pairs(&difference.no_longer_isolated), pairs(&difference.new_isolated));
        self.batch.delete_elements(SELVES, &gone);
        self.batch.add_elements(SELVES, &new);
        for direction in Direction::ALL {
            let ours: Vec<_> = difference.isolation.iter().filter(|one| one.direction == direction && self.is_ours(&one.address)).collect();
            let old: Vec<Element> = ours.iter().filter_map(|one| Some(jump(one.address, one.old.as_deref()?))).collect();
            let new: Vec<Element> = ours.iter().filter_map(|one| Some(jump(one.address, one.new.as_deref()?))).collect();
            self.batch.delete_elements(direction.name(), &old);
            self.batch.add_elements(direction.name(), &new);
        }
    }
}

/// Lets through one thing: the other end is in a set, and the port is.
fn rule(family: Family, direction: Direction, allow: &Allow) -> Rule {
    let sets = allow.sets();
    let mut rule = Rule::new();
    for set in &sets {
        rule = match set {
            Set::Pods(_) | Set::Ranges(_) if direction == Direction::Ingress => rule.source_in(family, &set.name()),
            Set::Pods(_) | Set::Ranges(_) => rule.destination_in(family, &set.name()),
            Set::Named { .. } => rule.destination_port_in(family, &set.name()),
            Set::Ports(_) => rule.port_in(&set.name()),
        };
    }
    debug_assert!(!sets.is_empty() || (allow.peers == Peers::Any && allow.ports == Ports::Any), "what is restricted has a set");
    rule.verdict(Verdict::Return)
}

async fn transact(batch: Batch) -> io::Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let messages = batch.finish();
    tokio::task::spawn_blocking(move || Socket::open()?.transact(messages)).await.map_err(io::Error::other)?
}

/// Whether this network namespace has our table. Blocks for a moment.
pub fn is_there(family: Family) -> io::Result<bool> {
    table_exists(family, TABLE)
}

impl Table {
    pub fn new(family: Family) -> Table {
        Table { family, stale: HashMap::new() }
    }

    pub fn family(&self) -> Family {
        self.family
    }

    fn writer<'a>(&self, engine: &'a Engine) -> Writer<'a> {
        Writer { family: self.family, engine, batch: Batch::new(self.family, TABLE) }
    }

    /// Puts a new table in the place of the old one, at once.
    pub async fn write_everything(&mut self, engine: &Engine) -> io::Result<()> {
        let mut writer = self.writer(engine);
        writer.frame();
        writer.write(&engine.everything());
        self.stale.clear();
        transact(writer.batch).await
    }

    /// Writes what has changed, all or nothing. After a failure everything is due.
    pub async fn write_changes(&mut self, engine: &Engine, difference: &Difference) -> io::Result<()> {
        let mut writer = self.writer(engine);
        writer.write(difference);
        transact(writer.batch).await?;
        difference.new_chains.iter().for_each(|name| {
            self.stale.remove(name);
        });
        let now = Instant::now();
        self.stale.extend(difference.gone_chains.iter().map(|name| (name.clone(), now)));
        Ok(())
    }

    /// Deletes the chains that nothing has led to for a moment.
    pub async fn drop_stale_chains(&mut self) -> io::Result<()> {
        let is_due = |since: &Instant| since.elapsed() >= STALE_AFTER;
        let names: Vec<String> = self.stale.iter().filter(|(_, since)| is_due(since)).map(|(name, _)| name.clone()).collect();
        let mut batch = Batch::new(self.family, TABLE);
        names.iter().for_each(|name| batch.delete_chain(name));
        transact(batch).await?;
        names.iter().for_each(|name| {
            self.stale.remove(name);
        });
        Ok(())
    }

    /// Whether the table is there.
    pub async fn is_intact(&self) -> io::Result<bool> {
        let family = self.family;
        tokio::task::spawn_blocking(move || is_there(family)).await.map_err(io::Error::other)?
    }

    /// Takes the table away if it is there.
    pub async fn clean_up(&mut self) -> io::Result<()> {
        self.stale.clear();
        if !self.is_intact().await? {
            return Ok(());
        }
        let mut batch = Batch::new(self.family, TABLE);
        batch.add_table("");
        batch.delete_table();
        transact(batch).await
    }
}
