//! Chance, as components need it: for waits that are not to coincide, for choices between equals, for names.
//!
//! It comes from the system, unless whoever runs a whole cluster on one thread has given that thread a seed: then all that happens
//! there by chance happens again with the same seed.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

thread_local! {
    static SEEDED: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
}

/// A number from 0 up to but not including 1.
pub fn fraction() -> f64 {
    SEEDED.with_borrow_mut(|seeded| seeded.as_mut().map_or_else(rand::random, |rng| rng.random()))
}

/// Any number.
pub fn number() -> u64 {
    SEEDED.with_borrow_mut(|seeded| seeded.as_mut().map_or_else(rand::random, |rng| rng.random()))
}

/// A name that nobody else has.
pub fn unique_name() -> String {
    let drawn = SEEDED.with_borrow_mut(|seeded| seeded.as_mut().map(|rng| rng.random::<u128>()));
    drawn.map_or_else(Uuid::new_v4, |bits| uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()).to_string()
}

/// While it lives, chance on the thread that made it follows from a seed.
pub struct Seeded {
    before: Option<SmallRng>,
    /// It belongs to its thread.
    of_thread: PhantomData<Rc<()>>,
}

/// Makes chance on this thread follow from a seed.
pub fn seeded(seed: u64) -> Seeded {
    Seeded { before: SEEDED.replace(Some(SmallRng::seed_from_u64(seed))), of_thread: PhantomData }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        SEEDED.set(self.before.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_chance() {
        let draw = |seed| {
            let _seeded = seeded(seed);
            (fraction(), number(), unique_name())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!((number(), unique_name()), (number(), unique_name()));
    }
}
