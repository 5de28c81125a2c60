//! Without fair queues: so many requests at once, and no waiting. `--enable-priority-and-fairness=false`.
//!
//! Who could be refused for others' sake are all but masters. What runs long is not counted.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::gate::Refusal;
use super::queue_set::Reason;
use crate::filters::authentication::User;

const MASTERS: &str = "system:masters";
const RETRY_AFTER_SECONDS: u64 = 1;

/// How many requests run at once. Nothing is counted where there is no limit.
pub struct InFlight {
    reading: Option<Arc<Semaphore>>,
    changing: Option<Arc<Semaphore>>,
}

impl InFlight {
    /// 0 is no limit.
    pub fn new(reading: u32, changing: u32) -> InFlight {
        let limit = |most: u32| (most > 0).then(|| Arc::new(Semaphore::new(most as usize)));
        InFlight { reading: limit(reading), changing: limit(changing) }
    }

    /// A place, which is given back when it is dropped; nothing if none is needed.
    pub fn enter(&self, user: &User, verb: &str) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        let places = if matches!(verb, "get" | "list" | "watch") { &self.reading } else { &self.changing };
        let Some(places) = places else { return Ok(None) };
        match places.clone().try_acquire_owned() {
            Ok(place) => Ok(Some(place)),
            Err(_) if user.groups.iter().any(|group| group == MASTERS) => Ok(None),
            Err(_) => Err(Refusal { reason: Reason::ConcurrencyLimit, retry_after_seconds: RETRY_AFTER_SECONDS }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_and_what_changes_have_places_of_their_own_and_masters_need_none() {
        let limits = InFlight::new(1, 1);
        let user = User::default();
        let master = User { groups: vec![MASTERS.to_owned()], ..User::default() };
        let reading = limits.enter(&user, "list").ok().flatten();
        assert!(reading.is_some());
        let refused = Refusal { reason: Reason::ConcurrencyLimit, retry_after_seconds: 1 };
        assert_eq!(limits.enter(&user, "get").err(), Some(refused));
        assert!(limits.enter(&master, "get").is_ok_and(|place| place.is_none()));
        assert!(limits.enter(&user, "create").is_ok_and(|place| place.is_some()));
        drop(reading);
        assert!(limits.enter(&user, "get").is_ok());
        let unlimited = InFlight::new(0, 1);
        assert!(unlimited.enter(&user, "get").is_ok_and(|place| place.is_none()));
    }
}
