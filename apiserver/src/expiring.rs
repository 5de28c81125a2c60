//! Values that are good for a while: a bounded map whose entries end.
//!
//! Full, it forgets what has ended, and if that is not enough, everything: it is for what can be found out again.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub struct Expiring<K, V> {
    limit: usize,
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Expiring<K, V> {
    pub fn new(limit: usize) -> Expiring<K, V> {
        Expiring { limit, entries: Mutex::default() }
    }

    /// The value, if it is still good.
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.lock().get(key).filter(|(until, _)| Instant::now() < *until).map(|(_, value)| value.clone())
    }

    /// Keeps a value for so long; not at all for no time.
    pub fn keep(&self, key: K, value: V, ttl: Duration) {
        if ttl.is_zero() {
            return;
        }
        let now = Instant::now();
        let Some(until) = now.checked_add(ttl) else { return };
        let mut entries = self.entries.lock();
        if entries.len() >= self.limit {
            entries.retain(|_, (until, _)| now < *until);
        }
        if entries.len() >= self.limit {
            entries.clear();
        }
        entries.insert(key, (until, value));
    }

    pub fn clear(&self) {
        self.entries.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_and_do_not_pile_up() {
        let kept = Expiring::new(10);
        kept.keep("a".to_owned(), 1, Duration::from_millis(20));
        kept.keep("never".to_owned(), 1, Duration::ZERO);
        assert_eq!((kept.get("a"), kept.get("never")), (Some(1), None));
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(kept.get("a"), None);
        for at in 0..100 {
            kept.keep(at.to_string(), at, Duration::from_secs(60));
            assert!(kept.entries.lock().len() <= 10);
        }
        assert_eq!(kept.get("99"), Some(99));
        kept.clear();
        assert_eq!(kept.get("99"), None);
    }
}
