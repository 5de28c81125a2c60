//! Node labels that make neighbours: for each label in use, the domain (the label's value) of every node.

use std::collections::HashMap;

/// A node without the label is in no domain.
pub const NO_DOMAIN: u32 = u32::MAX;

/// A label in use, by its place in [`Topologies`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopologyId(pub u32);

/// One label.
#[derive(Debug)]
pub struct Topology {
    pub key: String,
    domains: HashMap<String, u32>,
    names: Vec<String>,
    nodes: Vec<u32>,
    free: Vec<u32>,
    of_node: Vec<u32>,
}

impl Topology {
    /// The domain of a node.
    pub fn domain(&self, node: u32) -> u32 {
        self.of_node.get(node as usize).copied().unwrap_or(NO_DOMAIN)
    }

    /// One more than the highest domain.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub fn set(&mut self, node: u32, value: Option<&str>) {
        let place = node as usize;
        if self.of_node.len() <= place {
            self.of_node.resize(place + 1, NO_DOMAIN);
        }
        let old = self.of_node[place];
        let new = match value {
            None => NO_DOMAIN,
            Some(value) => self.intern(value),
        };
        if old == new {
            return;
        }
        if new != NO_DOMAIN {
            self.nodes[new as usize] += 1;
        }
        self.of_node[place] = new;
        if old != NO_DOMAIN {
            self.nodes[old as usize] -= 1;
            if self.nodes[old as usize] == 0 {
                self.domains.remove(&self.names[old as usize]);
                self.free.push(old);
            }
        }
    }

    fn intern(&mut self, value: &str) -> u32 {
        if let Some(domain) = self.domains.get(value) {
            return *domain;
        }
        let domain = match self.free.pop() {
            Some(domain) => {
                self.names[domain as usize] = value.to_owned();
                domain
            }
            None => {
                self.names.push(value.to_owned());
                self.nodes.push(0);
                u32::try_from(self.names.len() - 1).unwrap_or(NO_DOMAIN)
            }
        };
        self.domains.insert(value.to_owned(), domain);
        domain
    }
}

/// All labels in use.
#[derive(Debug, Default)]
pub struct Topologies {
    ids: HashMap<String, TopologyId>,
    all: Vec<Topology>,
}

impl Topologies {
    pub fn get(&self, id: TopologyId) -> &Topology {
        &self.all[id.0 as usize]
    }

    pub fn find(&self, key: &str) -> Option<TopologyId> {
        self.ids.get(key).copied()
    }

    /// The label's place; `nodes` says every node's value when the label is new.
    pub fn ensure<'a>(&mut self, key: &str, nodes: impl Iterator<Item = (u32, Option<&'a str>)>) -> TopologyId {
        if let Some(id) = self.find(key) {
            return id;
        }
        let id = TopologyId(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
        let (domains, names, sizes, free, of_node) = Default::default();
        let mut topology = Topology { key: key.to_owned(), domains, names, nodes: sizes, free, of_node };
        nodes.for_each(|(node, value)| topology.set(node, value));
        self.ids.insert(key.to_owned(), id);
        self.all.push(topology);
        id
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Topology> {
        self.all.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_lives_as_long_as_it_has_nodes() {
        let mut topologies = Topologies::default();
        let id = topologies.ensure("zone", [(0, Some("a")), (1, Some("b")), (2, None)].into_iter());
        assert_eq!([0, 1, 2, 3].map(|node| topologies.get(id).domain(node)), [0, 1, NO_DOMAIN, NO_DOMAIN]);
        let zone = topologies.iter_mut().next().unwrap();
        zone.set(0, Some("b"));
        zone.set(2, Some("c"));
        assert_eq!([0, 1, 2].map(|node| zone.domain(node)), [1, 1, 0]);
        assert_eq!(zone.len(), 2);
    }
}
