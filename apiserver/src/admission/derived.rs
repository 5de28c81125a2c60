//! What plugins make of all objects of some resources (the expressions of policies, webhooks), kept until one of the objects changes.

use std::sync::Arc;

use parking_lot::RwLock;

use super::Lookup;
use crate::storage::Stamp;

/// What was made of the objects of `N` resources of a group, and of which state of them.
pub struct Derived<T, const N: usize>(RwLock<Option<Made<T, N>>>);

struct Made<T, const N: usize> {
    stamps: [Option<Stamp>; N],
    made: Arc<T>,
}

impl<T, const N: usize> Default for Derived<T, N> {
    fn default() -> Derived<T, N> {
        Derived(RwLock::default())
    }
}

impl<T, const N: usize> Derived<T, N> {
    /// What `make` gives of the objects as of now: it runs once for each state of them, and each time where states are not known.
    pub fn get(&self, lookup: &dyn Lookup, group: &str, plurals: [&str; N], make: impl FnOnce() -> T) -> Arc<T> {
        // Taken before the objects are looked at: what is newer than this says is made anew the next time.
        let stamps = plurals.map(|plural| lookup.stamp(group, plural));
        if let Some(kept) = &*self.0.read()
            && stamps.iter().all(Option::is_some)
            && kept.stamps == stamps
        {
            return kept.made.clone();
        }
        let made = Arc::new(make());
        *self.0.write() = Some(Made { stamps, made: made.clone() });
        made
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::testing::Objects;
    use super::*;
    use crate::storage::Revision;

    #[test]
    fn it_is_made_once_for_each_state() {
        let derived: Derived<u32, 2> = Derived::default();
        let made = Cell::new(0);
        let get = |stamps: [Option<Stamp>; 2]| {
            let objects = Objects {
                stamps: stamps.into_iter().zip(["a", "b"]).filter_map(|(s, name)| Some((name, s?))).collect(),
                ..Objects::default()
            };
            *derived.get(&objects, "g", ["a", "b"], || {
                made.set(made.get() + 1);
                made.get()
            })
        };
        let stamp = |resource, revision| Some(Stamp { resource, revision: Revision(revision) });
        assert_eq!((get([stamp(1, 1), stamp(2, 1)]), get([stamp(1, 1), stamp(2, 1)])), (1, 1));
        assert_eq!(get([stamp(1, 1), stamp(2, 2)]), 2, "one has changed");
        assert_eq!(get([stamp(3, 1), stamp(2, 2)]), 3, "one was replaced");
        assert_eq!((get([stamp(3, 1), None]), get([stamp(3, 1), None])), (4, 5), "one is not known");
    }
}
