//! Which CPUs a container gets of those that are free: whole nodes, sockets and cores before parts of them, or evenly of several nodes.
//!
//! Pure. Upstream: pkg/kubelet/cm/cpumanager/cpu_assignment.go.

use std::collections::BTreeMap;

use super::machine::{Cpus, Place};
use super::set::CpuSet;

/// How CPUs are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Evenly of as few nodes as will do.
    pub across_nodes: bool,
    /// One thread of each core before the second of any.
    pub across_cores: bool,
    /// Of several nodes, those of one socket.
    pub one_socket: bool,
    /// Those that share a cache.
    pub by_uncore: bool,
    /// CPUs that are given together.
    pub group: usize,
}

/// Takes `count` of the CPUs in `available`.
pub fn take(machine: &Cpus, available: &CpuSet, count: usize, rules: Rules) -> Result<CpuSet, String> {
    if rules.across_nodes {
        return take_distributed(machine, available, count, rules);
    }
    take_packed(machine, available, count, rules.across_cores, rules.by_uncore)
}

struct Taking<'a> {
    machine: &'a Cpus,
    /// What is left.
    free: Cpus,
    needed: usize,
    result: CpuSet,
    across_cores: bool,
}

impl<'a> Taking<'a> {
    fn new(machine: &'a Cpus, available: &CpuSet, count: usize, across_cores: bool) -> Result<Taking<'a>, String> {
        let free = machine.only(available);
        if count > free.all().len() {
            return Err(format!("not enough cpus available to satisfy request: requested={count}, available={}", available.len()));
        }
        Ok(Taking { machine, free, needed: count, result: CpuSet::default(), across_cores })
    }

    fn is_done(&self) -> bool {
        self.needed == 0
    }

    fn take(&mut self, cpus: &CpuSet) {
        self.result = self.result.or(cpus);
        self.free = self.free.only(&self.free.all().without(&self.result));
        self.needed = self.needed.saturating_sub(cpus.len());
    }

    /// Whether a socket has several nodes, so that nodes are the smaller of the two.
    fn sockets_are_larger(&self) -> bool {
        self.machine.sockets().len() < self.machine.numa_nodes().len()
    }

    /// Those with the fewest free CPUs first.
    fn sorted(&self, of: fn(&Place) -> usize, within: impl Fn(&Place) -> bool) -> Vec<usize> {
        let mut ids: Vec<usize> = self.free.distinct(of, within).into_iter().collect();
        let sizes = self.free_by(of);
        ids.sort_by_key(|id| (sizes.get(id).copied().unwrap_or(0), *id));
        ids
    }

    /// How many CPUs are free, by what they belong to.
    fn free_by(&self, of: fn(&Place) -> usize) -> BTreeMap<usize, usize> {
        let mut counts = BTreeMap::new();
        for place in self.free.all().iter().filter_map(|cpu| self.free.place(cpu)) {
            *counts.entry(of(&place)).or_default() += 1;
        }
        counts
    }

    fn nodes(&self) -> Vec<usize> {
        if !self.sockets_are_larger() {
            return self.sorted(|place| place.node, |_| true);
        }
        self.sockets().into_iter().flat_map(|socket| self.sorted(|place| place.node, move |place| place.socket == socket)).collect()
    }

    fn sockets(&self) -> Vec<usize> {
        if self.sockets_are_larger() {
            return self.sorted(|place| place.socket, |_| true);
        }
        self.nodes().into_iter().flat_map(|node| self.sorted(|place| place.socket, move |place| place.node == node)).collect()
    }

    fn cores(&self) -> Vec<usize> {
        if self.sockets_are_larger() {
            self.nodes().into_iter().flat_map(|node| self.sorted(|place| place.core, move |place| place.node == node)).collect()
        } else {
            self.sockets().into_iter().flat_map(|socket| self.sorted(|place| place.core, move |place| place.socket == socket)).collect()
        }
    }

    fn uncores(&self) -> Vec<usize> {
        self.nodes().into_iter().flat_map(|node| self.sorted(|place| place.uncore, move |place| place.node == node)).collect()
    }

    /// Single CPUs in the order in which they are taken.
    fn cpus(&self) -> Vec<usize> {
        if self.across_cores {
            return self.sockets().into_iter().flat_map(|socket| self.free.in_socket(socket).iter().collect::<Vec<_>>()).collect();
        }
        self.cores().into_iter().flat_map(|core| self.free.in_core(core).iter().collect::<Vec<_>>()).collect()
    }

    /// Takes what is wholly free and not too much.
    fn take_whole(&mut self, ids: Vec<usize>, all_of: impl Fn(&Cpus, usize) -> CpuSet, size: impl Fn(&Cpus, usize) -> usize) {
        let whole: Vec<usize> = ids.into_iter().filter(|id| all_of(&self.free, *id).len() == size(self.machine, *id)).collect();
        for id in whole {
            let cpus = all_of(self.machine, id);
            if self.needed >= cpus.len() {
                self.take(&cpus);
            }
        }
    }

    fn take_nodes(&mut self) {
        self.take_whole(self.nodes(), |cpus, node| cpus.in_nodes([node]), |machine, node| machine.in_nodes([node]).len());
    }

    fn take_sockets(&mut self) {
        self.take_whole(self.sockets(), Cpus::in_socket, |machine, _| machine.per_socket());
    }

    fn take_cores(&mut self) {
        self.take_whole(self.cores(), Cpus::in_core, |machine, _| machine.per_core());
    }

    fn take_uncores(&mut self) {
        for uncore in self.uncores() {
            if self.needed >= self.machine.per_uncore() {
                self.take_whole(self.uncores(), Cpus::in_uncore, |machine, uncore| machine.in_uncore(uncore).len());
            }
            if self.is_done() {
                return;
            }
            self.take_part_of_uncore(uncore);
            if self.is_done() {
                return;
            }
        }
    }

    /// Takes the rest from one cache, if that has it.
    fn take_part_of_uncore(&mut self, uncore: usize) {
        let per_core = self.machine.per_core();
        let cores = self.free.distinct(|place| place.core, |place| place.uncore == uncore);
        let cores: Vec<usize> = cores.into_iter().take(self.needed.div_ceil(per_core.max(1))).collect();
        let mut cpus: Vec<usize> =
            self.free.all().iter().filter(|cpu| self.free.place(*cpu).is_some_and(|place| cores.contains(&place.core))).collect();
        if !self.needed.is_multiple_of(2) && per_core > 1 && cpus.len() > self.needed {
            cpus.pop();
        }
        if cpus.len() == self.needed {
            self.take(&cpus.into_iter().collect());
        }
    }
}

fn take_packed(machine: &Cpus, available: &CpuSet, count: usize, across_cores: bool, by_uncore: bool) -> Result<CpuSet, String> {
    if count == 0 {
        return Ok(CpuSet::default());
    }
    let mut taking = Taking::new(machine, available, count, across_cores)?;
    if taking.sockets_are_larger() {
        taking.take_sockets();
        taking.take_nodes();
    } else {
        taking.take_nodes();
        taking.take_sockets();
    }
    if by_uncore && !taking.is_done() {
        taking.take_uncores();
    }
    if !across_cores && !taking.is_done() {
        taking.take_cores();
    }
    while !taking.is_done() {
        let next = taking.cpus().first().copied().ok_or("failed to allocate cpus")?;
        taking.take(&std::iter::once(next).collect());
    }
    Ok(taking.result)
}

/// All choices of `size` of these, in order.
fn combinations(ids: &[usize], size: usize) -> Vec<Vec<usize>> {
    if size == 0 {
        return vec![Vec::new()];
    }
    let mut found = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        for mut rest in combinations(&ids[index + 1..], size - 1) {
            rest.insert(0, *id);
            found.push(rest);
        }
    }
    found
}

/// How unevenly CPUs are left, to a thousandth.
fn deviation(left: &BTreeMap<usize, usize>) -> f64 {
    let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
    let count = left.len() as f64;
    let mean = rounded(left.values().map(|free| *free as f64).sum::<f64>() / count);
    rounded((left.values().map(|free| (*free as f64 - mean).powi(2)).sum::<f64>() / count).sqrt())
}

/// Nodes to take evenly from, and those of them that give what is over.
struct Balanced {
    nodes: Vec<usize>,
    remainder: Vec<usize>,
    balance: f64,
    one_socket: bool,
}

fn take_distributed(machine: &Cpus, available: &CpuSet, count: usize, rules: Rules) -> Result<CpuSet, String> {
    let group = rules.group.max(1);
    let packed = || take_packed(machine, available, count, rules.across_cores, false);
    if !count.is_multiple_of(group) {
        return packed();
    }
    if count == 0 {
        return Ok(CpuSet::default());
    }
    let mut taking = Taking::new(machine, available, count, rules.across_cores)?;
    let nodes = taking.nodes();
    let groups = |cpus: usize| cpus.div_ceil(group);
    let per_node = groups(machine.all().len()).div_ceil(machine.numa_nodes().len().max(1)).max(1);
    let (fewest, most) = (groups(count).div_ceil(per_node), groups(count).min(nodes.len()));
    for size in fewest..=most {
        let Some(best) = most_balanced(&taking, &nodes, size, count, rules) else { continue };
        let free = |taking: &Taking<'_>, node: usize| taking.free.in_nodes([node]).len();
        let each = best
            .nodes
            .iter()
            .map(|node| free(&taking, *node) / group * group)
            .chain([count / best.nodes.len() / group * group])
            .min()
            .unwrap_or(0);
        for node in &best.nodes {
            let cpus = take_packed(machine, &taking.free.in_nodes([*node]), each, rules.across_cores, false)?;
            taking.take(&cpus);
        }
        while !taking.is_done() {
            let before = taking.needed;
            for node in &best.remainder {
                if !taking.is_done() && free(&taking, *node) >= group {
                    let cpus = take_packed(machine, &taking.free.in_nodes([*node]), group, rules.across_cores, false)?;
                    taking.take(&cpus);
                }
            }
            if taking.needed == before {
                return Err(format!("accounting error, not enough CPUs allocated, remaining: {before}"));
            }
        }
        return Ok(taking.result);
    }
    packed()
}

/// Of all sets of so many nodes that have enough, the one that leaves CPUs the most evenly.
fn most_balanced(taking: &Taking<'_>, nodes: &[usize], size: usize, count: usize, rules: Rules) -> Option<Balanced> {
    let group = rules.group.max(1);
    let free: BTreeMap<usize, usize> = nodes.iter().map(|node| (*node, taking.free.in_nodes([*node]).len())).collect();
    let mut best: Option<Balanced> = None;
    for combo in combinations(nodes, size) {
        if best.as_ref().is_some_and(|best| best.balance == 0.0 && (!rules.one_socket || best.one_socket)) {
            break;
        }
        if combo.iter().map(|node| free[node] / group * group).sum::<usize>() < count {
            continue;
        }
        let mut each = count / combo.len() / group * group;
        if rules.one_socket {
            each = combo.iter().map(|node| free[node] / group * group).min().unwrap_or(0).min(each);
        }
        if combo.iter().any(|node| free[node] < each) {
            continue;
        }
        let mut left = free.clone();
        combo.iter().for_each(|node| *left.entry(*node).or_default() -= each);
        let over = count - each * combo.len();
        let Some((balance, remainder)) = best_remainder(&combo, &left, over, group) else { continue };
        let one_socket = rules.one_socket && taking.machine.sockets_of_nodes(&combo).len() <= 1;
        let is_better = match &best {
            None => balance < f64::MAX,
            Some(best) if rules.one_socket && one_socket != best.one_socket => one_socket,
            Some(best) => balance < best.balance,
        };
        if is_better {
            best = Some(Balanced { nodes: combo, remainder, balance, one_socket });
        }
    }
    best
}

/// Which nodes give what is over, and how even that leaves all of them.
fn best_remainder(combo: &[usize], left: &BTreeMap<usize, usize>, over: usize, group: usize) -> Option<(f64, Vec<usize>)> {
    if over == 0 {
        return Some((deviation(left), Vec::new()));
    }
    let able: Vec<usize> = combo.iter().copied().filter(|node| left[node] >= group).collect();
    let mut best: Option<(f64, Vec<usize>)> = None;
    for subset in (1..=able.len()).rev().flat_map(|size| combinations(&able, size)) {
        let mut left = left.clone();
        let mut over = over;
        while over > 0 {
            let before = over;
            for node in &subset {
                if over > 0 && left[node] >= group {
                    *left.entry(*node).or_default() -= group;
                    over = over.saturating_sub(group);
                }
            }
            if over == before {
                break;
            }
        }
        let balance = deviation(&left);
        if over == 0 && best.as_ref().is_none_or(|(known, _)| balance < *known) {
            best = Some((balance, subset));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::machine::examples::machine;
    use super::*;

    const PACKED: Rules = Rules { across_nodes: false, across_cores: false, one_socket: false, by_uncore: false, group: 1 };

    fn taken(machine: &Cpus, available: &str, count: usize, rules: Rules) -> Result<String, String> {
        take(machine, &CpuSet::parse(available).expect("it is a set"), count, rules).map(|cpus| cpus.to_string())
    }

    #[test]
    fn whole_sockets_and_cores_go_before_single_threads() {
        // Two sockets of four cores of two threads: CPUs n and n+8 share a core.
        let two = machine(2, 1, 4, 2, false);
        let cases = [
            ("0-15", 1, "0"),
            ("0-15", 2, "0,8"),
            ("0-15", 8, "0-3,8-11"),
            ("0-15", 9, "0-4,8-11"),
            ("1-15", 2, "1,9"),
            // The single thread that is left of a core is used before a core is broken up.
            ("1-15", 1, "8"),
            ("1-15", 8, "4-7,12-15"),
        ];
        for (available, count, expect) in cases {
            assert_eq!(taken(&two, available, count, PACKED), Ok(expect.to_owned()), "{count} of {available}");
        }
        assert_eq!(taken(&two, "0-1", 3, PACKED), Err("not enough cpus available to satisfy request: requested=3, available=2".to_owned()));
        let spread = Rules { across_cores: true, ..PACKED };
        assert_eq!(taken(&two, "0-15", 3, spread), Ok("0-2".to_owned()));
    }

    #[test]
    fn sockets_with_several_nodes_are_taken_first() {
        // Two sockets of two nodes of two cores of two threads.
        let four = machine(2, 2, 2, 2, false);
        assert_eq!(taken(&four, "0-15", 8, PACKED), Ok("0-3,8-11".to_owned()));
        assert_eq!(taken(&four, "1-15", 4, PACKED), Ok("2-3,10-11".to_owned()));
    }

    #[test]
    fn cpus_of_one_cache_are_preferred() {
        // One socket of eight cores, of which each pair shares a cache.
        let caches = machine(1, 1, 8, 1, true);
        let rules = Rules { by_uncore: true, ..PACKED };
        assert_eq!(taken(&caches, "0-7", 2, rules), Ok("0-1".to_owned()));
        assert_eq!(taken(&caches, "1-7", 2, rules), Ok("2-3".to_owned()));
        assert_eq!(taken(&caches, "1-7", 1, rules), Ok("1".to_owned()));
        assert_eq!(taken(&caches, "1-7", 2, PACKED), Ok("1-2".to_owned()));
    }

    #[test]
    fn nodes_give_evenly_if_so_configured() {
        // Two sockets of two nodes of four cores.
        let four = machine(2, 2, 4, 1, false);
        let rules = Rules { across_nodes: true, ..PACKED };
        assert_eq!(taken(&four, "0-15", 4, rules), Ok("0-3".to_owned()));
        assert_eq!(taken(&four, "0-15", 6, rules), Ok("0-2,4-6".to_owned()));
        assert_eq!(taken(&four, "0-15", 7, rules), Ok("0-6".to_owned()));
        assert_eq!(taken(&four, "0-15", 10, rules), Ok("0-6,8-10".to_owned()));
        // Without the first two of the first node, the others are more even.
        assert_eq!(taken(&four, "2-15", 6, Rules { one_socket: true, ..rules }), Ok("8-10,12-14".to_owned()));
        // Whole cores only.
        let threads = machine(1, 2, 2, 2, false);
        assert_eq!(taken(&threads, "0-7", 6, Rules { group: 2, ..rules }), Ok("0-2,4-6".to_owned()));
        assert_eq!(taken(&threads, "0-7", 3, Rules { group: 2, ..rules }), Ok("0-1,4".to_owned()));
    }
}
