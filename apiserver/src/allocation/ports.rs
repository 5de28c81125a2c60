//! The node ports that are in use.
//!
//! What services have is read from the watch cache and kept in step with its log, so there is nothing to release: a port is free
//! when no service has it. Ports of writes under way are held until the write has entered the cache or failed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::registry::core::service::allocation::releases;
use crate::storage::{Cursor, Event, Object, Resource, Scope};

/// The ports that services are given (`--service-node-port-range`).
pub const FIRST: u16 = 30_000;
pub const LAST: u16 = 32_767;
/// Ports of the lower band, which is left to those who ask for a certain port: a 32nd of the range, within 16 and 128.
const LOWER: usize = 86;
const SIZE: usize = (LAST - FIRST) as usize + 1;
const _: () = assert!(SIZE / 32 == LOWER);

/// Why a port was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("range is full")]
    Full,
    #[error("provided port is already allocated")]
    Allocated,
    #[error("provided port is not in the valid range. The range of valid ports is {FIRST}-{LAST}")]
    NotInRange,
}

/// The ports in use.
#[derive(Default)]
pub struct Ports {
    /// How many services have each port.
    used: HashMap<u16, u32>,
    held: HashSet<u16>,
    cursor: Option<Cursor>,
}

/// A port number, if it is one.
fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok()
}

fn in_range(port: u16) -> bool {
    (FIRST..=LAST).contains(&port)
}

impl Ports {
    /// Takes in what has happened to services since the last time.
    pub fn refresh(&mut self, services: &Arc<Resource>) {
        if let Some(mut cursor) = self.cursor.take() {
            loop {
                match cursor.try_next() {
                    Ok(events) if events.is_empty() => {
                        self.cursor = Some(cursor);
                        return;
                    }
                    Ok(events) => events.iter().for_each(|event| self.apply(event)),
                    // The log no longer reaches back to what was seen last.
                    Err(_) => break,
                }
            }
        }
        let (snapshot, cursor) = services.list_and_watch(Scope::All);
        self.used.clear();
        snapshot.range("", None).for_each(|service| self.count(service));
        self.cursor = Some(cursor);
    }

    fn apply(&mut self, event: &Event) {
        if let Some(previous) = &event.previous {
            self.discount(previous);
        }
        if event.kind != crate::storage::EventKind::Deleted {
            self.count(&event.object);
        }
    }

    fn count(&mut self, service: &Object) {
        for port in ports_of(service) {
            *self.used.entry(port).or_default() += 1;
        }
    }

    fn discount(&mut self, service: &Object) {
        for port in ports_of(service) {
            if let Some(count) = self.used.get_mut(&port) {
                *count -= 1;
                if *count == 0 {
                    self.used.remove(&port);
                }
            }
        }
    }

    fn is_free(&self, port: u16) -> bool {
        !self.used.contains_key(&port) && !self.held.contains(&port)
    }

    fn hold(&mut self, number: i64) -> Result<u16, Refused> {
        let port = port(number).filter(|port| in_range(*port)).ok_or(Refused::NotInRange)?;
        if !self.is_free(port) {
            return Err(Refused::Allocated);
        }
        self.held.insert(port);
        Ok(port)
    }

    /// `random(n)` gives a number below `n`.
    fn hold_any(&mut self, mut random: impl FnMut(usize) -> usize) -> Result<u16, Refused> {
        let (upper, from_upper, from_lower) = (SIZE - LOWER, random(SIZE - LOWER), random(LOWER));
        let high = (0..upper).map(|i| LOWER + (from_upper + i) % upper);
        let low = (0..LOWER).map(|i| (from_lower + i) % LOWER);
        let free = high.chain(low).filter_map(|offset| Some(FIRST + u16::try_from(offset).ok()?)).find(|port| self.is_free(*port));
        let port = free.ok_or(Refused::Full)?;
        self.held.insert(port);
        Ok(port)
    }
}

fn ports_of(service: &Object) -> HashSet<u16> {
    releases(&service.value(), &[]).released_ports.into_iter().filter_map(port).collect()
}

/// The ports of one write under way; they are let go of with it.
pub struct Held {
    pool: Arc<Mutex<Ports>>,
    ports: Vec<u16>,
    dry_run: bool,
    /// Of a dry run, which shows ports and holds none.
    shown: Vec<i64>,
}

impl Held {
    pub fn new(pool: &Arc<Mutex<Ports>>, dry_run: bool) -> Held {
        Held { pool: pool.clone(), ports: Vec::new(), dry_run, shown: Vec::new() }
    }

    /// Takes the port that was asked for, or any.
    pub fn take(&mut self, wanted: Option<i64>, random: impl FnMut(usize) -> usize) -> Result<i64, Refused> {
        if self.dry_run {
            return self.show(wanted);
        }
        let mut pool = self.pool.lock();
        let port = match wanted {
            Some(number) => pool.hold(number)?,
            None => pool.hold_any(random)?,
        };
        self.ports.push(port);
        Ok(port.into())
    }

    /// What upstream shows in a dry run: for any port one beyond the range or beyond what was asked for.
    fn show(&mut self, wanted: Option<i64>) -> Result<i64, Refused> {
        let number = match wanted {
            Some(number) => {
                let taken = port(number).is_some_and(|port| in_range(port) && !self.pool.lock().is_free(port));
                if taken || self.shown.contains(&number) {
                    return Err(Refused::Allocated);
                }
                number
            }
            None => self.shown.iter().max().map_or(i64::from(LAST) + 1, |last| *last) + 1,
        };
        self.shown.push(number);
        Ok(number)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut pool = self.pool.lock();
        for port in &self.ports {
            pool.held.remove(port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_held_for_as_long_as_the_write_lasts() {
        let pool = Arc::new(Mutex::new(Ports::default()));
        let mut held = Held::new(&pool, false);
        assert_eq!(held.take(Some(30_080), |_| 0), Ok(30_080));
        assert_eq!(held.take(Some(30_080), |_| 0), Err(Refused::Allocated));
        assert_eq!(held.take(Some(80), |_| 0), Err(Refused::NotInRange));
        assert_eq!(
            held.take(Some(-1), |_| 0).unwrap_err().to_string(),
            "provided port is not in the valid range. The range of valid ports is 30000-32767"
        );
        drop(held);
        assert_eq!(Held::new(&pool, false).take(Some(30_080), |_| 0), Ok(30_080));
    }

    #[test]
    fn any_port_comes_from_the_upper_band_until_that_is_used_up() {
        let pool = Arc::new(Mutex::new(Ports::default()));
        let mut held = Held::new(&pool, false);
        assert_eq!(held.take(None, |_| 0), Ok(30_086));
        assert_eq!(held.take(None, |n| n - 1), Ok(32_767));
        pool.lock().held.extend(30_087..32_766);
        assert_eq!(held.take(None, |_| 0), Ok(32_766));
        assert_eq!(held.take(None, |_| 0), Ok(30_000));
        pool.lock().held.extend(FIRST..=LAST);
        assert_eq!(held.take(None, |_| 0), Err(Refused::Full));
    }

    #[test]
    fn a_dry_run_holds_nothing() {
        let pool = Arc::new(Mutex::new(Ports::default()));
        let mut held = Held::new(&pool, true);
        assert_eq!((held.take(None, |_| 0), held.take(None, |_| 0)), (Ok(32_769), Ok(32_770)));
        assert_eq!((held.take(Some(30_001), |_| 0), held.take(Some(30_001), |_| 0)), (Ok(30_001), Err(Refused::Allocated)));
        assert!(pool.lock().held.is_empty());
    }
}
