//! A map that keeps what was used last: a bound on what a recorder remembers.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// At most `capacity` values; the one that was untouched longest makes room.
pub struct Recent<K, V> {
    capacity: usize,
    values: HashMap<K, (u64, V)>,
    /// Keys by when they were touched.
    order: BTreeMap<u64, K>,
    touches: u64,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    pub fn new(capacity: usize) -> Recent<K, V> {
        Recent { capacity, values: HashMap::new(), order: BTreeMap::new(), touches: 0 }
    }

    /// The value of a key, which is touched by that.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (touched, value) = self.values.get_mut(key)?;
        if let Some(key) = self.order.remove(touched) {
            self.touches += 1;
            *touched = self.touches;
            self.order.insert(self.touches, key);
        }
        Some(value)
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.touches += 1;
        if let Some((old, _)) = self.values.insert(key.clone(), (self.touches, value)) {
            self.order.remove(&old);
        }
        self.order.insert(self.touches, key);
        while self.values.len() > self.capacity {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.values.remove(&oldest);
        }
    }

    /// Takes out what `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) {
        let order = &mut self.order;
        self.values.retain(|_, (touched, value)| {
            let kept = keep(value);
            if !kept {
                order.remove(touched);
            }
            kept
        });
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.values.values().map(|(_, value)| value)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_untouched_longest_makes_room() {
        let mut recent = Recent::new(2);
        recent.insert("a", 1);
        recent.insert("b", 2);
        assert_eq!(recent.get_mut(&"a"), Some(&mut 1));
        recent.insert("c", 3);
        assert_eq!((recent.get_mut(&"a").copied(), recent.get_mut(&"b").copied(), recent.get_mut(&"c").copied()), (Some(1), None, Some(3)));
        recent.retain(|value| *value > 1);
        assert_eq!((recent.len(), recent.order.len()), (1, 1));
    }
}
