//! Label sets of requests, found by what a request is about without making a string.
//!
//! Who reads takes no lock: the table is replaced as a whole when a set is added, which ends soon, as there is a limit to the sets.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Something that is kept under a key.
pub trait Keyed: Send + Sync {
    type Key<'a>: Hash;

    fn key(&self) -> Self::Key<'_>;

    /// Whether this is its key.
    fn has(&self, key: &Self::Key<'_>) -> bool;
}

/// What is kept, by its keys.
pub struct LabelSets<T> {
    hasher: RandomState,
    table: ArcSwap<Table<T>>,
    adding: Mutex<()>,
}

/// Open addressing: what is not at its place is in one of the next, before the first that is free.
struct Table<T> {
    /// A power of two, more than half of them free.
    slots: Box<[Option<Arc<T>>]>,
    count: usize,
}

impl<T> Table<T> {
    fn of(capacity: usize) -> Table<T> {
        Table { slots: (0..capacity).map(|_| None).collect(), count: 0 }
    }

    fn places(&self, hash: u64) -> impl Iterator<Item = usize> + use<T> {
        let mask = self.slots.len() - 1;
        // The hash is as good in its low half as in its high one.
        (0..=mask).map(move |step| (hash as usize).wrapping_add(step) & mask)
    }

    fn put(&mut self, hash: u64, value: Arc<T>) {
        if let Some(free) = self.places(hash).find(|place| self.slots[*place].is_none()) {
            self.slots[free] = Some(value);
            self.count += 1;
        }
    }
}

impl<T: Keyed> Default for LabelSets<T> {
    fn default() -> LabelSets<T> {
        LabelSets { hasher: RandomState::default(), table: ArcSwap::from_pointee(Table::of(64)), adding: Mutex::new(()) }
    }
}

impl<T: Keyed> LabelSets<T> {
    pub fn get(&self, key: &T::Key<'_>) -> Option<Arc<T>> {
        let table = self.table.load();
        for place in table.places(self.hasher.hash_one(key)) {
            let kept = table.slots[place].as_ref()?;
            if kept.has(key) {
                return Some(kept.clone());
            }
        }
        None
    }

    /// What is kept under the key, or else what `make` gives for it, unless so many are kept already.
    pub fn get_or_add(&self, key: &T::Key<'_>, limit: usize, make: impl FnOnce() -> T) -> Option<Arc<T>> {
        let _alone = self.adding.lock();
        if let Some(known) = self.get(key) {
            return Some(known);
        }
        let before = self.table.load();
        if before.count >= limit {
            return None;
        }
        let mut after = Table::of((2 * (before.count + 1)).next_power_of_two().max(before.slots.len()));
        for kept in before.slots.iter().flatten() {
            after.put(self.hasher.hash_one(kept.key()), kept.clone());
        }
        let new = Arc::new(make());
        after.put(self.hasher.hash_one(key), new.clone());
        self.table.store(Arc::new(after));
        Some(new)
    }

    /// Everything that is kept, in no order.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.table.load().slots.iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(String);

    impl Keyed for Named {
        type Key<'a> = &'a str;

        fn key(&self) -> &str {
            &self.0
        }

        fn has(&self, key: &&str) -> bool {
            self.0 == *key
        }
    }

    #[test]
    fn what_is_added_is_found_and_there_is_a_limit() {
        let sets = LabelSets::<Named>::default();
        let add = |name: &str| sets.get_or_add(&name, 500, || Named(name.to_owned())).is_some();
        assert!(sets.get(&"0").is_none());
        for n in 0..500 {
            assert!(add(&n.to_string()));
        }
        assert!(!add("more") && add("7"), "one more is too many, one that is there is not");
        assert!((0..500).all(|n| sets.get(&n.to_string().as_str()).is_some_and(|kept| kept.0 == n.to_string())));
        assert!(sets.get(&"more").is_none());
        assert_eq!(sets.all().len(), 500);
    }

    #[test]
    fn those_who_add_at_once_get_the_same() {
        let sets = LabelSets::<Named>::default();
        let got: Vec<Vec<Arc<Named>>> = std::thread::scope(|scope| {
            let add = || (0..100).map(|n| sets.get_or_add(&n.to_string().as_str(), 100, || Named(n.to_string())).unwrap()).collect();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for others in &got[1..] {
            assert!(got[0].iter().zip(others).all(|(a, b)| Arc::ptr_eq(a, b)));
        }
    }
}
