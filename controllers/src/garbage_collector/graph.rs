//! The graph of who owns whom, as watches tell it. Pure: it is told what was seen and says what has to be looked at.
//!
//! A node stands for an object by its uid. It is *virtual* while the object is only known from references to it: it may not exist,
//! and different dependents may say different things of it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";
/// Owners known not to exist; the oldest are forgotten first.
const ABSENT_MAX: usize = 500;

/// Where an object is, in the order in which upstream tries what different dependents say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    pub kind: String,
    pub api_version: String,
    /// Empty for kinds without.
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Identity {
    /// The owner as a dependent in `namespace` refers to it.
    pub fn of_owner(owner: &OwnerReference, namespace: &str) -> Identity {
        Identity {
            kind: owner.kind.clone(),
            api_version: owner.api_version.clone(),
            namespace: namespace.to_owned(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        }
    }

    /// Whether a reference says of the object what it is, namespaces aside.
    fn is_meant_by(&self, owner: &OwnerReference) -> bool {
        owner.uid == self.uid && owner.name == self.name && owner.kind == self.kind && owner.api_version == self.api_version
    }
}

/// The finalizers by which a deletion waits for this collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Deletion {
    orphan: bool,
    foreground: bool,
}

/// An object as a watch shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub identity: Identity,
    pub owners: Vec<OwnerReference>,
    pub resource_version: String,
    pub is_terminating: bool,
    pub orphan_finalizer: bool,
    pub foreground_finalizer: bool,
}

impl Seen {
    pub fn new(api_version: &str, kind: &str, metadata: ObjectMeta) -> Seen {
        let has = |finalizer: &str| metadata.finalizers.iter().flatten().any(|f| f == finalizer);
        Seen {
            orphan_finalizer: has(ORPHAN),
            foreground_finalizer: has(FOREGROUND),
            is_terminating: metadata.deletion_timestamp.is_some(),
            identity: Identity {
                kind: kind.to_owned(),
                api_version: api_version.to_owned(),
                namespace: metadata.namespace.unwrap_or_default(),
                name: metadata.name.unwrap_or_default(),
                uid: metadata.uid.unwrap_or_default(),
            },
            owners: metadata.owner_references.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
        }
    }

    fn deletion(&self) -> Deletion {
        if self.is_terminating {
            Deletion { orphan: self.orphan_finalizer, foreground: self.foreground_finalizer }
        } else {
            Deletion::default()
        }
    }
}

/// An object and the owner that it names, which lies where it cannot own it.
#[derive(Clone, Debug, PartialEq)]
pub struct Misplaced {
    pub dependent: Identity,
    pub owner: Identity,
}

/// What has to be done after a change of the graph.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// See whether the object is to be deleted.
    Examine(String),
    /// The same, but not at once: what is said of the object was wrong before.
    ExamineLater(String),
    /// Release the dependents of the object, then the object.
    Orphan(String),
    /// The object refers to an owner in another namespace.
    InvalidNamespace(Box<Misplaced>),
}

/// What is known of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub identity: Identity,
    pub owners: Vec<OwnerReference>,
    pub resource_version: String,
    pub orphan_finalizer: bool,
    pub foreground_finalizer: bool,
    pub being_deleted: bool,
    /// It waits for its dependents to be deleted; it never stops waiting otherwise.
    pub deleting_dependents: bool,
    pub is_virtual: bool,
    deletion: Deletion,
    /// By uid, in an order that does not depend on chance.
    dependents: BTreeSet<String>,
}

impl Node {
    pub fn has_dependents(&self) -> bool {
        !self.dependents.is_empty()
    }

    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }

    /// Whether the node has a reference that means this owner, and whether it has one to its uid that means something else.
    fn refers_to(&self, owner: &Identity) -> (bool, bool) {
        if !owner.namespace.is_empty() && owner.namespace != self.identity.namespace {
            return (false, true);
        }
        let references = self.owners.iter().filter(|reference| reference.uid == owner.uid);
        references.fold((false, false), |(yes, no), reference| {
            let meant = owner.is_meant_by(reference);
            (yes || meant, no || !meant)
        })
    }
}

/// Owners that do not exist, as the API server said.
#[derive(Default)]
struct Absent {
    known: HashSet<Identity>,
    order: VecDeque<Identity>,
}

impl Absent {
    fn insert(&mut self, identity: Identity) {
        if self.known.insert(identity.clone()) {
            self.order.push_back(identity);
        }
        while self.order.len() > ABSENT_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    absent: Absent,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The dependents of an object that are in the graph.
    pub fn dependents<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Node> {
        node.dependents.iter().filter_map(|uid| self.nodes.get(uid))
    }

    /// The dependents that keep the object from being deleted in the foreground.
    pub fn blocking_dependents<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Node> {
        self.dependents(node).filter(|dependent| dependent.blocks(&node.identity.uid))
    }

    pub fn is_absent(&self, identity: &Identity) -> bool {
        self.absent.known.contains(identity)
    }

    pub fn note_absent(&mut self, identity: Identity) {
        self.absent.insert(identity);
    }

    /// The objects of a kind that a watch has shown and that are not among `listed`.
    pub fn unlisted(&self, api_version: &str, kind: &str, listed: &HashSet<String>) -> Vec<Identity> {
        let of_kind = |node: &&Node| !node.is_virtual && node.identity.kind == kind && node.identity.api_version == api_version;
        let nodes = self.nodes.values().filter(of_kind);
        let gone = nodes.filter(|node| !listed.contains(&node.identity.uid)).map(|node| node.identity.clone());
        let mut gone: Vec<Identity> = gone.collect();
        gone.sort_unstable();
        gone
    }

    /// A watch shows an object, new or changed.
    pub fn observe(&mut self, seen: Seen) -> Vec<Effect> {
        let mut effects = Vec::new();
        let uid = seen.identity.uid.clone();
        self.replace_virtual(&seen, &mut effects);
        let before = match self.nodes.get_mut(&uid) {
            None => {
                let node = Node {
                    identity: seen.identity.clone(),
                    owners: seen.owners.clone(),
                    deleting_dependents: seen.deletion().foreground,
                    ..Node::default()
                };
                self.nodes.insert(uid.clone(), node);
                self.add_to_owners(&seen.identity, &seen.owners, &mut effects);
                Deletion::default()
            }
            Some(node) => {
                let before = node.deletion;
                if node.owners != seen.owners {
                    let old = std::mem::replace(&mut node.owners, seen.owners.clone());
                    self.change_owners(&seen.identity, &old, &seen.owners, &mut effects);
                }
                before
            }
        };
        let now = seen.deletion();
        let Some(node) = self.nodes.get_mut(&uid) else { return effects };
        node.being_deleted |= seen.is_terminating;
        node.deletion = now;
        node.resource_version = seen.resource_version;
        node.orphan_finalizer = seen.orphan_finalizer;
        node.foreground_finalizer = seen.foreground_finalizer;
        if now.orphan && !before.orphan {
            effects.push(Effect::Orphan(uid));
        } else if now.foreground && !before.foreground {
            node.deleting_dependents = true;
            effects.extend(node.dependents.iter().cloned().map(Effect::Examine));
            effects.push(Effect::Examine(uid));
        }
        effects
    }

    /// The object behind a virtual node is seen. Dependents that said something else of it must be examined.
    fn replace_virtual(&mut self, seen: &Seen, effects: &mut Vec<Effect>) {
        let uid = &seen.identity.uid;
        let Some(node) = self.nodes.get(uid).filter(|node| node.is_virtual) else { return };
        if node.identity != seen.identity {
            for dependent in self.dependents(node).filter(|dependent| dependent.refers_to(&seen.identity).1) {
                if !seen.identity.namespace.is_empty() && dependent.identity.namespace != seen.identity.namespace {
                    effects.extend(invalid_namespace(dependent, uid));
                }
                effects.push(Effect::Examine(dependent.identity.uid.clone()));
            }
        }
        if let Some(node) = self.nodes.get_mut(uid) {
            node.identity = seen.identity.clone();
            node.is_virtual = false;
        }
    }

    fn change_owners(&mut self, identity: &Identity, old: &[OwnerReference], new: &[OwnerReference], effects: &mut Vec<Effect>) {
        let find = |list: &[OwnerReference], uid: &str| list.iter().find(|reference| reference.uid == uid).cloned();
        for reference in old.iter().filter(|reference| reference.block_owner_deletion == Some(true)) {
            let still = find(new, &reference.uid).is_some_and(|now| now.block_owner_deletion == Some(true));
            if !still && self.nodes.contains_key(&reference.uid) {
                effects.push(Effect::Examine(reference.uid.clone()));
            }
        }
        let added: Vec<OwnerReference> = new.iter().filter(|reference| find(old, &reference.uid).is_none()).cloned().collect();
        self.add_to_owners(identity, &added, effects);
        for reference in old.iter().filter(|reference| find(new, &reference.uid).is_none()) {
            self.remove_dependent(&reference.uid, &identity.uid);
        }
    }

    fn remove_dependent(&mut self, owner: &str, dependent: &str) {
        if let Some(node) = self.nodes.get_mut(owner) {
            node.dependents.remove(dependent);
        }
    }

    /// Makes the object a dependent of its owners. Owners not yet known become virtual nodes, and are examined.
    fn add_to_owners(&mut self, dependent: &Identity, owners: &[OwnerReference], effects: &mut Vec<Effect>) {
        let mut suspicious = false;
        for reference in owners {
            let Some(owner) = self.nodes.get_mut(&reference.uid) else {
                let node = Node {
                    identity: Identity::of_owner(reference, &dependent.namespace),
                    dependents: BTreeSet::from([dependent.uid.clone()]),
                    is_virtual: true,
                    ..Node::default()
                };
                self.nodes.insert(reference.uid.clone(), node);
                effects.push(Effect::Examine(reference.uid.clone()));
                continue;
            };
            owner.dependents.insert(dependent.uid.clone());
            if suspicious {
                continue;
            }
            let elsewhere = owner.identity.namespace != dependent.namespace;
            if elsewhere && !owner.identity.namespace.is_empty() {
                if !owner.is_virtual {
                    let owner = Identity::of_owner(reference, &dependent.namespace);
                    effects.push(Effect::InvalidNamespace(Box::new(Misplaced { dependent: dependent.clone(), owner })));
                }
                suspicious = true;
            } else {
                // A virtual node without a namespace may be a namespaced object that somebody without one refers to.
                suspicious = !owner.identity.is_meant_by(reference) || (elsewhere && owner.is_virtual);
            }
        }
        if suspicious {
            effects.push(Effect::Examine(dependent.uid.clone()));
        }
    }

    /// A watch shows that the object is gone.
    pub fn remove(&mut self, identity: &Identity) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.remove_node(identity, &mut effects);
        effects
    }

    /// The API server says that there is no such object, whatever refers to it.
    pub fn verified_absent(&mut self, identity: &Identity) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(node) = self.nodes.get(&identity.uid) else { return effects };
        let mismatch = self.dependents(node).any(|dependent| dependent.refers_to(identity).1);
        let keep = if node.is_virtual { mismatch } else { node.identity != *identity };
        if !keep {
            self.remove_node(identity, &mut effects);
            return effects;
        }
        let matching: Vec<String> =
            self.dependents(node).filter(|dependent| dependent.refers_to(identity).0).map(|d| d.identity.uid.clone()).collect();
        let other = if node.is_virtual && node.identity == *identity { self.alternative(node, identity) } else { None };
        if !matching.is_empty() {
            self.absent.insert(identity.clone());
            effects.extend(matching.into_iter().map(Effect::Examine));
        }
        if let Some(other) = other
            && let Some(node) = self.nodes.get_mut(&identity.uid)
        {
            node.identity = other;
            effects.push(Effect::ExamineLater(identity.uid.clone()));
        }
        effects
    }

    /// What else dependents say of an owner that is not what one of them said: the next in order, or the first.
    fn alternative(&self, node: &Node, absent: &Identity) -> Option<Identity> {
        let mut others: Vec<Identity> = Vec::new();
        for dependent in self.dependents(node).filter(|dependent| dependent.refers_to(absent).1) {
            for reference in dependent.owners.iter().filter(|reference| reference.uid == absent.uid) {
                let mut other = Identity::of_owner(reference, &dependent.identity.namespace);
                let same_kind = other.api_version == absent.api_version && other.kind == absent.kind;
                if absent.namespace.is_empty() && same_kind {
                    other.namespace.clear();
                }
                if other != *absent {
                    others.push(other);
                }
            }
        }
        others.sort();
        others.iter().find(|other| *other > absent).or_else(|| others.first()).cloned()
    }

    fn remove_node(&mut self, identity: &Identity, effects: &mut Vec<Effect>) {
        let Some(node) = self.nodes.remove(&identity.uid) else { return };
        for reference in &node.owners {
            self.remove_dependent(&reference.uid, &identity.uid);
        }
        if node.has_dependents() {
            self.absent.insert(identity.clone());
        }
        effects.extend(node.dependents.into_iter().map(Effect::Examine));
        for reference in &node.owners {
            if self.nodes.get(&reference.uid).is_some_and(|owner| owner.deleting_dependents) {
                effects.push(Effect::Examine(reference.uid.clone()));
            }
        }
    }
}

fn invalid_namespace(dependent: &Node, owner: &str) -> Option<Effect> {
    let reference = dependent.owners.iter().find(|reference| reference.uid == owner)?;
    let owner = Identity::of_owner(reference, &dependent.identity.namespace);
    Some(Effect::InvalidNamespace(Box::new(Misplaced { dependent: dependent.identity.clone(), owner })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(namespace: &str, uid: &str) -> Identity {
        Identity {
            kind: "K".to_owned(),
            api_version: "v1".to_owned(),
            namespace: namespace.to_owned(),
            name: uid.to_owned(),
            uid: uid.to_owned(),
        }
    }

    fn seen(namespace: &str, uid: &str, owners: &[&str]) -> Seen {
        let owners = owners.iter().map(|owner| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "K".to_owned(),
            name: (*owner).to_owned(),
            uid: (*owner).to_owned(),
            ..OwnerReference::default()
        });
        Seen { identity: identity(namespace, uid), owners: owners.collect(), ..Seen::default() }
    }

    fn examine(uid: &str) -> Effect {
        Effect::Examine(uid.to_owned())
    }

    #[test]
    fn dependents_of_a_deleted_owner_are_examined_and_the_owner_is_known_to_be_absent() {
        let mut graph = Graph::default();
        assert_eq!(graph.observe(seen("n", "o", &[])), []);
        assert_eq!(graph.observe(seen("n", "d", &["o"])), []);
        assert_eq!(graph.remove(&identity("n", "o")), [examine("d")]);
        assert!(graph.is_absent(&identity("n", "o")));
    }

    #[test]
    fn an_owner_that_is_not_yet_known_is_looked_for() {
        let mut graph = Graph::default();
        assert_eq!(graph.observe(seen("n", "d", &["o"])), [examine("o")]);
        assert!(graph.get("o").unwrap().is_virtual);
        assert_eq!(graph.verified_absent(&identity("n", "o")), [examine("d")]);
        assert!(graph.get("o").is_none());
    }

    #[test]
    fn an_owner_that_is_seen_later_is_no_longer_virtual() {
        let mut graph = Graph::default();
        graph.observe(seen("n", "d", &["o"]));
        assert_eq!(graph.observe(seen("n", "o", &[])), []);
        assert!(!graph.get("o").unwrap().is_virtual);
        assert_eq!(graph.verified_absent(&identity("other", "o")), []);
        assert!(graph.get("o").is_some());
    }

    #[test]
    fn a_foreground_deletion_examines_the_dependents_and_then_the_owner() {
        let mut graph = Graph::default();
        graph.observe(seen("n", "o", &[]));
        graph.observe(seen("n", "d", &["o"]));
        let deleted = Seen { is_terminating: true, foreground_finalizer: true, ..seen("n", "o", &[]) };
        assert_eq!(graph.observe(deleted.clone()), [examine("d"), examine("o")]);
        assert_eq!(graph.observe(deleted), []);
        assert_eq!(graph.remove(&identity("n", "d")), [examine("o")]);
    }

    #[test]
    fn an_orphaning_deletion_is_told_once() {
        let mut graph = Graph::default();
        let deleted = Seen { is_terminating: true, orphan_finalizer: true, ..seen("n", "o", &[]) };
        assert_eq!(graph.observe(deleted.clone()), [Effect::Orphan("o".to_owned())]);
        assert_eq!(graph.observe(deleted), []);
    }

    #[test]
    fn a_dependent_that_no_longer_blocks_lets_its_owner_be_examined() {
        let mut graph = Graph::default();
        let mut blocking = seen("n", "d", &["o"]);
        blocking.owners[0].block_owner_deletion = Some(true);
        graph.observe(seen("n", "o", &[]));
        graph.observe(blocking);
        assert_eq!(graph.blocking_dependents(graph.get("o").unwrap()).count(), 1);
        assert_eq!(graph.observe(seen("n", "d", &["o"])), [examine("o")]);
        assert_eq!(graph.blocking_dependents(graph.get("o").unwrap()).count(), 0);
        assert_eq!(graph.observe(seen("n", "d", &[])), []);
        assert!(!graph.get("o").unwrap().has_dependents());
    }

    #[test]
    fn an_owner_in_another_namespace_is_told_of_whoever_comes_first() {
        let told = Effect::InvalidNamespace(Box::new(Misplaced { dependent: identity("b", "d"), owner: identity("b", "o") }));
        let mut graph = Graph::default();
        graph.observe(seen("a", "o", &[]));
        assert_eq!(graph.observe(seen("b", "d", &["o"])), [told.clone(), examine("d")]);
        let mut graph = Graph::default();
        graph.observe(seen("b", "d", &["o"]));
        assert_eq!(graph.observe(seen("a", "o", &[])), [told, examine("d")]);
    }

    #[test]
    fn what_other_dependents_say_of_an_absent_owner_is_tried_next() {
        let mut graph = Graph::default();
        graph.observe(seen("a", "good", &["o"]));
        graph.observe(seen("b", "bad", &["o"]));
        let effects = graph.verified_absent(&identity("a", "o"));
        assert_eq!(effects, [examine("good"), Effect::ExamineLater("o".to_owned())]);
        assert_eq!(graph.get("o").unwrap().identity, identity("b", "o"));
        assert!(graph.is_absent(&identity("a", "o")));
    }

    #[test]
    fn what_a_new_list_does_not_have_is_found() {
        let mut graph = Graph::default();
        graph.observe(seen("n", "a", &["virtual"]));
        graph.observe(seen("n", "b", &[]));
        assert_eq!(graph.unlisted("v1", "K", &HashSet::from(["a".to_owned()])), [identity("n", "b")]);
        assert_eq!(graph.unlisted("v2", "K", &HashSet::new()), []);
    }

    #[test]
    fn absent_owners_are_forgotten_in_time() {
        let mut graph = Graph::default();
        (0..=ABSENT_MAX).for_each(|i| graph.note_absent(identity("n", &i.to_string())));
        assert!(!graph.is_absent(&identity("n", "0")) && graph.is_absent(&identity("n", "1")));
    }
}
