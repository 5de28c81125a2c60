//! A set of NUMA nodes.

/// NUMA nodes by number; those beyond 63 cannot be in it, as upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mask(u64);

impl Mask {
    pub fn of(nodes: impl IntoIterator<Item = usize>) -> Mask {
        Mask(nodes.into_iter().filter(|node| *node < 64).fold(0, |mask, node| mask | 1 << node))
    }

    pub fn has(self, node: usize) -> bool {
        node < 64 && self.0 >> node & 1 == 1
    }

    pub fn has_any(self, nodes: &[usize]) -> bool {
        nodes.iter().any(|node| self.has(*node))
    }

    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    pub fn nodes(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |node| self.has(*node))
    }

    pub fn and(self, other: Mask) -> Mask {
        Mask(self.0 & other.0)
    }

    /// Fewer nodes, or as many with lower numbers.
    pub fn is_narrower_than(self, other: Mask) -> bool {
        if self.count() == other.count() { self.0 < other.0 } else { self.count() < other.count() }
    }

    /// All sets of some of these nodes that are not empty, the smallest first.
    pub fn subsets(nodes: &[usize]) -> Vec<Mask> {
        fn choose(nodes: &[usize], chosen: Mask, left: usize, found: &mut Vec<Mask>) {
            if left == 0 {
                found.push(chosen);
                return;
            }
            for (index, node) in nodes.iter().enumerate() {
                choose(&nodes[index + 1..], Mask(chosen.0 | Mask::of([*node]).0), left - 1, found);
            }
        }
        let mut found = Vec::new();
        for size in 1..=nodes.len() {
            choose(nodes, Mask::default(), size, &mut found);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_come_by_size_and_the_narrower_of_two_has_fewer_or_lower_nodes() {
        let of = |nodes: &[usize]| Mask::of(nodes.iter().copied());
        assert_eq!(Mask::subsets(&[0, 1, 3]), [of(&[0]), of(&[1]), of(&[3]), of(&[0, 1]), of(&[0, 3]), of(&[1, 3]), of(&[0, 1, 3])]);
        assert!(of(&[3]).is_narrower_than(of(&[0, 1])) && of(&[0]).is_narrower_than(of(&[1])) && !of(&[1]).is_narrower_than(of(&[1])));
        assert_eq!(of(&[1, 2, 70]).and(of(&[2, 3])).nodes().collect::<Vec<_>>(), [2]);
    }
}
