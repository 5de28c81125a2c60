//! How hints become one, and whether that is good enough.

use std::collections::BTreeMap;

use apimachinery::go_bool;

use super::{Hint, Hints, Mask};

/// Sets of more nodes than these are too many to try.
pub const MAX_NODES: usize = 8;

const PREFER_CLOSEST: &str = "prefer-closest-numa-nodes";
const MAX_ALLOWABLE: &str = "max-allowable-numa-nodes";

/// `topologyManagerPolicy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    None,
    BestEffort,
    Restricted,
    SingleNumaNode,
}

/// `topologyManagerScope`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Container,
    Pod,
}

impl Policy {
    pub fn named(name: &str) -> Option<Policy> {
        match name {
            "none" => Some(Policy::None),
            "best-effort" => Some(Policy::BestEffort),
            "restricted" => Some(Policy::Restricted),
            "single-numa-node" => Some(Policy::SingleNumaNode),
            _ => None,
        }
    }

    /// Whether what is given lies in one node or is not given.
    pub fn guarantees_alignment(self) -> bool {
        self == Policy::SingleNumaNode
    }
}

impl Scope {
    pub fn named(name: &str) -> Option<Scope> {
        match name {
            "container" => Some(Scope::Container),
            "pod" => Some(Scope::Pod),
            _ => None,
        }
    }
}

/// `topologyManagerPolicyOptions`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub prefer_closest: bool,
    pub max_nodes: usize,
}

impl Options {
    pub fn read(options: &BTreeMap<String, String>) -> Result<Options, String> {
        let mut read = Options { prefer_closest: false, max_nodes: MAX_NODES };
        for (name, value) in options {
            match name.as_str() {
                PREFER_CLOSEST => {
                    read.prefer_closest = go_bool::parse(value).map_err(|error| format!("bad value for option {name:?}: {error}"))?;
                }
                MAX_ALLOWABLE => {
                    let number = go_int(value).map_err(|error| format!("unable to convert policy option to integer {name:?}: {error}"))?;
                    let number = usize::try_from(number).ok().filter(|number| *number >= MAX_NODES);
                    read.max_nodes = number.ok_or_else(|| format!("the minimum value of {name:?} should not be less than {MAX_NODES}"))?;
                }
                _ => return Err(format!("unknown Topology Manager Policy option: {name:?}")),
            }
        }
        Ok(read)
    }
}

fn go_int(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("strconv.Atoi: parsing {text:?}: invalid syntax"));
    }
    text.parse().map_err(|_| format!("strconv.Atoi: parsing {text:?}: value out of range"))
}

/// Merges hints on a machine with these nodes.
#[derive(Clone, Debug)]
pub struct Merger {
    pub policy: Policy,
    pub options: Options,
    /// By number, with the distances to all nodes, in their order.
    pub nodes: BTreeMap<usize, Vec<u64>>,
}

impl Merger {
    /// Refuses what upstream does not start with.
    pub fn new(policy: Policy, options: Options, nodes: BTreeMap<usize, Vec<u64>>) -> Result<Merger, String> {
        if policy != Policy::None {
            if options.prefer_closest && nodes.values().any(Vec::is_empty) {
                return Err("cannot discover NUMA topology: error getting NUMA distances from cadvisor".to_owned());
            }
            if nodes.len() > options.max_nodes {
                return Err(format!("unsupported on machines with more than {} NUMA Nodes", options.max_nodes));
            }
        }
        Ok(Merger { policy, options, nodes })
    }

    fn all(&self) -> Mask {
        Mask::of(self.nodes.keys().copied())
    }

    /// The best way, and whether the pod may have it. One entry a provider.
    pub fn merge(&self, providers: &[Hints]) -> (Hint, bool) {
        if self.policy == Policy::None {
            return (Hint { affinity: None, preferred: false }, true);
        }
        let mut lists = lists(providers);
        if self.policy == Policy::SingleNumaNode {
            for list in &mut lists {
                list.retain(|hint| hint.preferred && hint.affinity.is_none_or(|mask| mask.count() == 1));
            }
        }
        let mut best = self.best(&lists);
        if self.policy == Policy::SingleNumaNode && best.affinity == Some(self.all()) {
            best.affinity = None;
        }
        (best, self.policy == Policy::BestEffort || best.preferred)
    }

    fn best(&self, lists: &[Vec<Hint>]) -> Hint {
        let widest_need = lists.iter().filter_map(|list| narrowest(list)).map(Mask::count).max().unwrap_or(0);
        let mut best: Option<(Mask, bool)> = None;
        self.permute(lists, Permutation { merged: self.all(), first: None, preferred: true }, &mut |merged, preferred| {
            best = Some(match best {
                _ if merged.count() == 0 => return,
                None => (merged, preferred),
                Some(current) => self.better(current, (merged, preferred), widest_need),
            });
        });
        let (affinity, preferred) = best.unwrap_or((self.all(), false));
        Hint { affinity: Some(affinity), preferred }
    }

    /// Every choice of one hint from each list.
    fn permute(&self, lists: &[Vec<Hint>], so_far: Permutation, found: &mut impl FnMut(Mask, bool)) {
        let Some((list, rest)) = lists.split_first() else {
            found(so_far.merged, so_far.preferred);
            return;
        };
        for hint in list {
            self.permute(rest, so_far.with(hint), found);
        }
    }

    fn better(&self, current: (Mask, bool), candidate: (Mask, bool), widest_need: usize) -> (Mask, bool) {
        match (current.1, candidate.1) {
            (false, true) => return candidate,
            (true, false) => return current,
            (true, true) => return self.fitter(current, candidate),
            (false, false) => {}
        }
        // As many nodes as the neediest provider has to have, or else as near to that from below as can be.
        let (has, would) = (current.0.count(), candidate.0.count());
        if has > widest_need {
            return self.fitter(current, candidate);
        }
        if has == widest_need {
            return if would == widest_need { self.fitter(current, candidate) } else { current };
        }
        if would > widest_need {
            return current;
        }
        if would == widest_need || would > has {
            return candidate;
        }
        if would < has { current } else { self.fitter(current, candidate) }
    }

    fn fitter(&self, current: (Mask, bool), candidate: (Mask, bool)) -> (Mask, bool) {
        let (a, b) = (current.0, candidate.0);
        if a == b {
            return current;
        }
        let closest = self.options.prefer_closest && self.policy != Policy::SingleNumaNode && a.count() == b.count();
        let keeps = if closest {
            let (near, nearer) = (self.average_distance(a), self.average_distance(b));
            if near == nearer { a < b } else { near < nearer }
        } else {
            a.is_narrower_than(b)
        };
        if keeps { current } else { candidate }
    }

    /// The average of the distances between all of these nodes.
    fn average_distance(&self, mask: Mask) -> f64 {
        let distances =
            mask.nodes().flat_map(|from| mask.nodes().filter_map(move |to| self.nodes.get(&from).and_then(|distances| distances.get(to))));
        let (sum, count) = distances.fold((0.0, 0.0), |(sum, count), distance| (sum + *distance as f64, count + 1.0));
        if count == 0.0 { 0.0 } else { sum / count }
    }
}

#[derive(Clone, Copy)]
struct Permutation {
    merged: Mask,
    first: Option<Mask>,
    preferred: bool,
}

impl Permutation {
    fn with(self, hint: &Hint) -> Permutation {
        let Some(mask) = hint.affinity else { return Permutation { preferred: self.preferred && hint.preferred, ..self } };
        let first = self.first.unwrap_or(mask);
        let preferred = self.preferred && hint.preferred && mask == first;
        Permutation { merged: self.merged.and(mask), first: Some(first), preferred }
    }
}

/// One list a resource; who does not care has one hint that says so.
fn lists(providers: &[Hints]) -> Vec<Vec<Hint>> {
    let single = |preferred| vec![Hint { affinity: None, preferred }];
    let mut lists = Vec::new();
    for hints in providers {
        if hints.is_empty() {
            lists.push(single(true));
        }
        lists.extend(hints.values().map(|list| match list {
            None => single(true),
            Some(list) if list.is_empty() => single(false),
            Some(list) => list.clone(),
        }));
    }
    lists
}

fn narrowest(list: &[Hint]) -> Option<Mask> {
    list.iter().filter_map(|hint| hint.affinity).reduce(|best, mask| if mask.is_narrower_than(best) { mask } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Options = Options { prefer_closest: false, max_nodes: MAX_NODES };

    fn merger(policy: Policy, count: usize) -> Merger {
        Merger::new(policy, DEFAULTS, (0..count).map(|node| (node, vec![10; count])).collect()).expect("there are few nodes")
    }

    fn hint(nodes: &[usize], preferred: bool) -> Hint {
        Hint { affinity: (!nodes.is_empty()).then(|| Mask::of(nodes.iter().copied())), preferred }
    }

    fn hints(list: Option<Vec<Hint>>) -> Hints {
        Hints::from([("r".to_owned(), list)])
    }

    /// What providers say, and what each policy makes of it on two nodes.
    #[test]
    fn hints_are_merged_as_upstream_merges_them() {
        let both = || Some(vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)]);
        type Case = (&'static str, Vec<Hints>, (Hint, bool), (Hint, bool), (Hint, bool));
        let cases: Vec<Case> = vec![
            ("nobody cares", vec![Hints::new()], (hint(&[0, 1], true), true), (hint(&[0, 1], true), true), (hint(&[], true), true)),
            ("no preference", vec![hints(None)], (hint(&[0, 1], true), true), (hint(&[0, 1], true), true), (hint(&[], true), true)),
            ("no way", vec![hints(Some(vec![]))], (hint(&[0, 1], false), true), (hint(&[0, 1], false), false), (hint(&[], false), false)),
            (
                "one node for both",
                vec![hints(both()), hints(Some(vec![hint(&[1], true)]))],
                (hint(&[1], true), true),
                (hint(&[1], true), true),
                (hint(&[1], true), true),
            ),
            (
                "different nodes",
                vec![hints(Some(vec![hint(&[0], true)])), hints(Some(vec![hint(&[1], true)]))],
                (hint(&[0, 1], false), true),
                (hint(&[0, 1], false), false),
                (hint(&[], false), false),
            ),
            (
                "two nodes needed",
                vec![hints(both()), hints(Some(vec![hint(&[0, 1], true)]))],
                (hint(&[0, 1], false), true),
                (hint(&[0, 1], false), false),
                (hint(&[], false), false),
            ),
        ];
        for (name, providers, best_effort, restricted, single) in cases {
            for (policy, expect) in [(Policy::BestEffort, best_effort), (Policy::Restricted, restricted), (Policy::SingleNumaNode, single)]
            {
                let merged = merger(policy, 2).merge(&providers);
                assert_eq!(merged, expect, "{name} {policy:?}");
            }
        }
    }

    #[test]
    fn of_two_pairs_the_closer_one_is_taken_if_so_configured() {
        let distances =
            BTreeMap::from([(0, vec![10, 30, 12, 30]), (1, vec![30, 10, 30, 11]), (2, vec![12, 30, 10, 30]), (3, vec![30, 11, 30, 10])]);
        let pairs = || vec![hints(Some(vec![hint(&[0, 1], true), hint(&[0, 2], true), hint(&[1, 3], true)]))];
        let merged = |prefer_closest| {
            let options = Options { prefer_closest, ..DEFAULTS };
            Merger::new(Policy::BestEffort, options, distances.clone()).expect("there are distances").merge(&pairs()).0
        };
        assert_eq!(merged(false), hint(&[0, 1], true));
        assert_eq!(merged(true), hint(&[1, 3], true));
    }

    #[test]
    fn options_are_refused_in_upstreams_words() {
        let read = |name: &str, value: &str| Options::read(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert_eq!(read(PREFER_CLOSEST, "true"), Ok(Options { prefer_closest: true, ..DEFAULTS }));
        assert_eq!(read(MAX_ALLOWABLE, "12"), Ok(Options { max_nodes: 12, ..DEFAULTS }));
        for (name, value, message) in [
            (
                PREFER_CLOSEST,
                "yes",
                "bad value for option \"prefer-closest-numa-nodes\": strconv.ParseBool: parsing \"yes\": invalid syntax",
            ),
            (MAX_ALLOWABLE, "4", "the minimum value of \"max-allowable-numa-nodes\" should not be less than 8"),
            (
                MAX_ALLOWABLE,
                "x",
                "unable to convert policy option to integer \"max-allowable-numa-nodes\": strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            ("other", "x", "unknown Topology Manager Policy option: \"other\""),
        ] {
            assert_eq!(read(name, value), Err(message.to_owned()));
        }
        let many = (0..9).map(|node| (node, vec![10; 9])).collect();
        assert_eq!(
            Merger::new(Policy::Restricted, DEFAULTS, many).err().as_deref(),
            Some("unsupported on machines with more than 8 NUMA Nodes")
        );
    }
}
