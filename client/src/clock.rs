//! The time of day, as components ask for it.
//!
//! It is the machine's, unless whoever runs a whole cluster on one thread has given that thread another clock: then whatever runs
//! there has that one. Durations are tokio's business and are not measured by it.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

use k8s_openapi::jiff::Timestamp;

type Clock = Rc<dyn Fn() -> Timestamp>;

thread_local! {
    static STAND_IN: RefCell<Option<Clock>> = const { RefCell::new(None) };
}

/// What time it is.
pub fn now() -> Timestamp {
    // The clock is taken out first, so that it may ask for anything itself.
    let clock = STAND_IN.with_borrow(Clone::clone);
    clock.map_or_else(Timestamp::now, |clock| clock())
}

/// While it lives, the thread that made it has another clock.
pub struct StandIn {
    before: Option<Clock>,
    /// It belongs to its thread.
    of_thread: PhantomData<Clock>,
}

/// Gives this thread another clock.
pub fn stand_in(clock: impl Fn() -> Timestamp + 'static) -> StandIn {
    StandIn { before: STAND_IN.replace(Some(Rc::new(clock))), of_thread: PhantomData }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        STAND_IN.set(self.before.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_own_clock_while_it_wants_one() {
        let then = Timestamp::from_second(7).unwrap();
        let standing_in = stand_in(move || then);
        assert_eq!(now(), then);
        assert_ne!(std::thread::spawn(now).join().unwrap(), then);
        drop(standing_in);
        assert_ne!(now(), then);
    }
}
