//! One copy of each label key and value: ten thousand pods share a handful of them.
//!
//! Owns the table of live strings. It never keeps a string that nothing else holds for long: the table is swept
//! whenever it has doubled.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// The table is not swept before it has this many strings.
const SWEEP_FLOOR: usize = 4096;

/// A table of shared strings.
#[derive(Debug)]
pub struct Interner {
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    strings: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Default for Interner {
    fn default() -> Interner {
        Interner { table: Mutex::new(Table { strings: HashSet::new(), sweep_at: SWEEP_FLOOR }) }
    }
}

impl Interner {
    /// The shared copy of a string.
    pub fn intern(&self, text: &str) -> Arc<str> {
        let mut table = self.table.lock();
        if let Some(known) = table.strings.get(text) {
            return known.clone();
        }
        if table.strings.len() >= table.sweep_at {
            table.strings.retain(|s| Arc::strong_count(s) > 1);
            table.sweep_at = (table.strings.len() * 2).max(SWEEP_FLOOR);
        }
        let new: Arc<str> = Arc::from(text);
        table.strings.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_one_and_dead_ones_are_swept() {
        let interner = Interner::default();
        let kept = interner.intern("app");
        assert!(Arc::ptr_eq(&kept, &interner.intern("app")));
        for i in 0..SWEEP_FLOOR * 3 {
            interner.intern(&i.to_string());
        }
        assert!(interner.table.lock().strings.len() <= SWEEP_FLOOR);
        assert!(Arc::ptr_eq(&kept, &interner.intern("app")));
    }
}
