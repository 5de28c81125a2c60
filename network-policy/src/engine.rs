//! Keeps the [`ruleset`](crate::ruleset) of one node as policies, pods and namespaces change, and says what each change makes
//! different. Pure.
//!
//! The ruleset is a function of the state: an address is in a set if the pod that has it says so, and a local address has the
//! chain that the policies of its pod say. A change looks again at the addresses that it concerns and at no others, so that what a
//! pod's change costs does not grow with the number of pods. Only what local pods are held against is worked out at all.

use std::collections::btree_map::{BTreeMap, Entry as Slot};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use client::ObjectKey;

use crate::pod::{Labels, Pod};
use crate::policy::Policy;
use crate::ruleset::{Allow, Direction, Entry, Set, allows, chain_name};

/// Something is as it says now; nothing: it is gone.
#[derive(Clone, Debug)]
pub enum Change {
    Policy(ObjectKey, Option<Policy>),
    Pod(ObjectKey, Option<Pod>),
    Namespace(String, Option<Labels>),
}

/// A set that some chain looks into.
#[derive(Debug)]
pub struct Members {
    pub set: Set,
    /// Chains that look into it.
    users: usize,
    /// What is in it, by address; empty for sets of constants.
    entries: HashMap<IpAddr, Vec<Entry>>,
}

impl Members {
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().flatten()
    }
}

/// What some pods' connections are held against.
#[derive(Debug)]
pub struct Chain {
    pub direction: Direction,
    pub allows: Vec<Allow>,
    /// Addresses that it is for.
    users: usize,
}

/// See the file's header.
#[derive(Debug, Default)]
pub struct Engine {
    policies: BTreeMap<ObjectKey, Policy>,
    namespaces: HashMap<String, Labels>,
    pods: BTreeMap<ObjectKey, Pod>,
    /// Who says to have an address.
    claims: HashMap<IpAddr, Vec<ObjectKey>>,
    sets: HashMap<String, Members>,
    chains: HashMap<String, Chain>,
    isolated: BTreeMap<(Direction, IpAddr), String>,
}

/// What is to be written. Names are those of [`Engine::set`] and [`Engine::chain`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// With everything that is in them.
    pub new_sets: Vec<String>,
    pub gone_sets: Vec<String>,
    pub new_chains: Vec<String>,
    pub gone_chains: Vec<String>,
    /// Elements of sets that were there before and stay.
    pub added: BTreeMap<String, Vec<Entry>>,
    pub removed: BTreeMap<String, Vec<Entry>>,
    /// The chain that an address had, and the one that it has.
    pub isolation: Vec<Isolation>,
    /// Addresses that may reach themselves, whatever policies say.
    pub new_isolated: Vec<IpAddr>,
    pub no_longer_isolated: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolation {
    pub direction: Direction,
    pub address: IpAddr,
    pub old: Option<String>,
    pub new: Option<String>,
}

impl Difference {
    pub fn is_empty(&self) -> bool {
        *self == Difference::default()
    }
}

/// How things were before a change, as far as it has touched them.
#[derive(Default)]
struct Before {
    new_sets: BTreeSet<String>,
    new_chains: BTreeSet<String>,
    entries: BTreeMap<(String, IpAddr), Vec<Entry>>,
    isolated: BTreeMap<(Direction, IpAddr), Option<String>>,
}

/// What has to be looked at again.
#[derive(Default)]
struct Concerned {
    /// Addresses that have, or had, somebody else behind them.
    addresses: BTreeSet<IpAddr>,
    /// Whose policies have changed.
    policies_of: BTreeSet<String>,
    /// Whose labels have changed.
    labels_of: BTreeSet<String>,
}

/// What a map has of one namespace.
fn of_namespace<'a, T>(map: &'a BTreeMap<ObjectKey, T>, namespace: &'a str) -> impl Iterator<Item = (&'a ObjectKey, &'a T)> + 'a {
    map.range(ObjectKey::new(namespace, "")..).take_while(move |(key, _)| key.namespace == namespace)
}

impl Engine {
    /// Whether there is a policy at all.
    pub fn has_policies(&self) -> bool {
        !self.policies.is_empty()
    }

    pub fn set(&self, name: &str) -> Option<&Members> {
        self.sets.get(name)
    }

    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.get(name)
    }

    /// The name of the chain that connections of this direction are held against, if the address is an isolated local pod's.
    pub fn isolation(&self, direction: Direction, address: IpAddr) -> Option<&str> {
        self.isolated.get(&(direction, address)).map(String::as_str)
    }

    /// How much there is: chains, sets, and elements of these.
    pub fn size(&self) -> (usize, usize, usize) {
        (self.chains.len(), self.sets.len(), self.sets.values().map(|members| members.entries().count()).sum())
    }

    /// What a table that is empty lacks.
    pub fn everything(&self) -> Difference {
        let isolation = |((direction, address), name): (&(Direction, IpAddr), &String)| Isolation {
            direction: *direction,
            address: *address,
            old: None,
            new: Some(name.clone()),
        };
        let addresses: BTreeSet<IpAddr> = self.isolated.keys().map(|(_, address)| *address).collect();
        Difference {
            new_sets: self.sets.keys().cloned().collect(),
            new_chains: self.chains.keys().cloned().collect(),
            isolation: self.isolated.iter().map(isolation).collect(),
            new_isolated: addresses.into_iter().collect(),
            ..Difference::default()
        }
    }

    /// Takes changes in, all at once.
    pub fn update(&mut self, changes: Vec<Change>) -> Difference {
        let mut concerned = Concerned::default();
        for change in changes {
            self.take(change, &mut concerned);
        }
        let mut before = Before::default();
        self.refresh_sets(&concerned, &mut before);
        let Concerned { mut addresses, policies_of, .. } = concerned;
        for namespace in &policies_of {
            let local = of_namespace(&self.pods, namespace).filter(|(_, pod)| pod.is_local);
            addresses.extend(local.flat_map(|(_, pod)| pod.addresses.iter().copied()));
        }
        for address in addresses {
            self.refresh_isolation(address, &mut before);
        }
        self.finish(before)
    }

    fn take(&mut self, change: Change, concerned: &mut Concerned) {
        match change {
            Change::Policy(key, policy) => {
                concerned.policies_of.insert(key.namespace.clone());
                match policy {
                    Some(policy) => self.policies.insert(key, policy),
                    None => self.policies.remove(&key),
                };
            }
            Change::Namespace(name, labels) => {
                match labels {
                    Some(labels) => self.namespaces.insert(name.clone(), labels),
                    None => self.namespaces.remove(&name),
                };
                concerned.labels_of.insert(name);
            }
            Change::Pod(key, pod) => {
                for address in self.pods.remove(&key).into_iter().flat_map(|old| old.addresses) {
                    concerned.addresses.insert(address);
                    if let Some(claims) = self.claims.get_mut(&address) {
                        claims.retain(|other| *other != key);
                        if claims.is_empty() {
                            self.claims.remove(&address);
                        }
                    }
                }
                if let Some(pod) = pod {
                    for address in &pod.addresses {
                        concerned.addresses.insert(*address);
                        let claims = self.claims.entry(*address).or_default();
                        if !claims.contains(&key) {
                            claims.push(key.clone());
                        }
                    }
                    self.pods.insert(key, pod);
                }
            }
        }
    }

    /// The pod that has an address: the youngest of those that say so, for the others have not told yet that they are gone.
    fn holder(&self, address: IpAddr) -> Option<&Pod> {
        let claims = self.claims.get(&address)?.iter();
        let pods = claims.filter_map(|key| Some((key, self.pods.get(key)?)));
        pods.max_by_key(|(key, pod)| (pod.created, *key)).map(|(_, pod)| pod)
    }

    /// What a set has of an address.
    fn entries_of(&self, set: &Set, address: IpAddr) -> Vec<Entry> {
        self.holder(address).map_or_else(Vec::new, |pod| set.entries(address, pod, self.namespaces.get(&pod.namespace)))
    }

    fn refresh_sets(&mut self, concerned: &Concerned, before: &mut Before) {
        let of_labels: BTreeSet<IpAddr> = concerned
            .labels_of
            .iter()
            .flat_map(|namespace| of_namespace(&self.pods, namespace))
            .flat_map(|(_, pod)| pod.addresses.iter().copied())
            .filter(|address| !concerned.addresses.contains(address))
            .collect();
        let mut found: Vec<(String, IpAddr, Vec<Entry>)> = Vec::new();
        for (name, members) in self.sets.iter().filter(|(_, members)| members.set.follows_pods()) {
            let of_labels = of_labels.iter().filter(|_| members.set.follows_namespaces());
            for address in concerned.addresses.iter().chain(of_labels) {
                let entries = self.entries_of(&members.set, *address);
                if members.entries.get(address).map_or(&[][..], Vec::as_slice) != entries {
                    found.push((name.clone(), *address, entries));
                }
            }
        }
        for (name, address, entries) in found {
            let Some(members) = self.sets.get_mut(&name) else { continue };
            let old = if entries.is_empty() { members.entries.remove(&address) } else { members.entries.insert(address, entries) };
            before.entries.entry((name, address)).or_insert(old.unwrap_or_default());
        }
    }

    /// What the policies of a local pod let through; nothing if none restricts the direction.
    fn allows_of(&self, pod: &Pod, direction: Direction) -> Option<Vec<Allow>> {
        let policies = of_namespace(&self.policies, &pod.namespace).map(|(_, policy)| policy);
        let restricting = policies.filter_map(|policy| {
            let rules = match direction {
                Direction::Ingress => policy.ingress.as_ref(),
                Direction::Egress => policy.egress.as_ref(),
            };
            rules.filter(|_| policy.pods.matches(&pod.labels))
        });
        let mut is_isolated = false;
        let rules = restricting.inspect(|_| is_isolated = true).flatten();
        let allows = allows(rules, direction, pod);
        is_isolated.then_some(allows)
    }

    fn refresh_isolation(&mut self, address: IpAddr, before: &mut Before) {
        for direction in Direction::ALL {
            let allows = self.holder(address).filter(|pod| pod.is_local).and_then(|pod| self.allows_of(pod, direction));
            let new = allows.map(|allows| (chain_name(direction, &allows), allows));
            let place = (direction, address);
            let old = self.isolated.get(&place);
            if old == new.as_ref().map(|(name, _)| name) {
                continue;
            }
            let old = old.cloned();
            before.isolated.entry(place).or_insert_with(|| old.clone());
            if let Some(old) = old {
                self.isolated.remove(&place);
                if let Some(chain) = self.chains.get_mut(&old) {
                    chain.users -= 1;
                }
            }
            if let Some((name, allows)) = new {
                self.use_chain(&name, direction, allows, before);
                self.isolated.insert(place, name);
            }
        }
    }

    fn use_chain(&mut self, name: &str, direction: Direction, allows: Vec<Allow>, before: &mut Before) {
        if let Some(chain) = self.chains.get_mut(name) {
            chain.users += 1;
            return;
        }
        for set in sets_of(&allows) {
            self.use_set(set, before);
        }
        before.new_chains.insert(name.to_owned());
        self.chains.insert(name.to_owned(), Chain { direction, allows, users: 1 });
    }

    fn use_set(&mut self, (name, set): (String, Set), before: &mut Before) {
        if let Some(members) = self.sets.get_mut(&name) {
            members.users += 1;
            return;
        }
        let mut entries = HashMap::new();
        if set.follows_pods() {
            for address in self.claims.keys() {
                let of_address = self.entries_of(&set, *address);
                if !of_address.is_empty() {
                    entries.insert(*address, of_address);
                }
            }
        }
        before.new_sets.insert(name.clone());
        self.sets.insert(name, Members { set, users: 1, entries });
    }

    /// Lets go of what is not used any more, and compares. What was given up and taken again meanwhile has stayed.
    fn finish(&mut self, before: Before) -> Difference {
        let mut difference = Difference::default();
        let idle: Vec<String> = self.chains.iter().filter(|(_, chain)| chain.users == 0).map(|(name, _)| name.clone()).collect();
        for name in idle {
            let Some(chain) = self.chains.remove(&name) else { continue };
            for (set, _) in sets_of(&chain.allows) {
                if let Some(members) = self.sets.get_mut(&set) {
                    members.users -= 1;
                }
            }
            if !before.new_chains.contains(&name) {
                difference.gone_chains.push(name);
            }
        }
        let idle: Vec<String> = self.sets.iter().filter(|(_, members)| members.users == 0).map(|(name, _)| name.clone()).collect();
        for name in idle {
            self.sets.remove(&name);
            if !before.new_sets.contains(&name) {
                difference.gone_sets.push(name);
            }
        }
        for ((name, address), old) in before.entries {
            let Some(members) = self.sets.get(&name) else { continue };
            let new = members.entries.get(&address).map_or(&[][..], Vec::as_slice);
            let only = |these: &[Entry], those: &[Entry]| these.iter().filter(|entry| !those.contains(entry)).copied().collect::<Vec<_>>();
            append(&mut difference.removed, &name, only(&old, new));
            append(&mut difference.added, &name, only(new, &old));
        }
        self.compare_isolation(&before.isolated, &mut difference);
        difference.new_chains = before.new_chains.into_iter().filter(|name| self.chains.contains_key(name)).collect();
        difference.new_sets = before.new_sets.into_iter().filter(|name| self.sets.contains_key(name)).collect();
        difference
    }

    fn compare_isolation(&self, before: &BTreeMap<(Direction, IpAddr), Option<String>>, difference: &mut Difference) {
        let now = |place: (Direction, IpAddr)| self.isolated.get(&place);
        for ((direction, address), old) in before {
            let new = now((*direction, *address));
            if old.as_ref() != new {
                let isolation = Isolation { direction: *direction, address: *address, old: old.clone(), new: new.cloned() };
                difference.isolation.push(isolation);
            }
        }
        let addresses: BTreeSet<IpAddr> = before.keys().map(|(_, address)| *address).collect();
        for address in addresses {
            let was = Direction::ALL.iter().any(|direction| match before.get(&(*direction, address)) {
                Some(old) => old.is_some(),
                None => now((*direction, address)).is_some(),
            });
            let is = Direction::ALL.iter().any(|direction| now((*direction, address)).is_some());
            match (was, is) {
                (false, true) => difference.new_isolated.push(address),
                (true, false) => difference.no_longer_isolated.push(address),
                _ => {}
            }
        }
    }
}

/// The sets that a chain looks into, each once.
fn sets_of(allows: &[Allow]) -> BTreeMap<String, Set> {
    let mut sets = BTreeMap::new();
    for set in allows.iter().flat_map(Allow::sets) {
        if let Slot::Vacant(slot) = sets.entry(set.name()) {
            slot.insert(set);
        }
    }
    sets
}

fn append(to: &mut BTreeMap<String, Vec<Entry>>, name: &str, entries: Vec<Entry>) {
    if !entries.is_empty() {
        to.entry(name.to_owned()).or_default().extend(entries);
    }
}
