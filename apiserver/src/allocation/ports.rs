//! The node ports that are in use.
//!
//! What services have is read from the watch cache and kept in step with its log, so there is nothing to release: a port is free
//! when no service has it. Ports of writes under way are held until the write has entered the cache or failed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::registry::core::service::allocation::releases;
use crate::storage::{Cursor, Event, Object, Resource, Scope};

/// The ports that services are given (`--service-node-port-range`), both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl Default for PortRange {
    fn default() -> PortRange {
        PortRange { first: 30_000, last: 32_767 }
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl std::str::FromStr for PortRange {
    type Err = String;

    /// `first-last`, `first+more`, or one port.
    fn from_str(text: &str) -> Result<PortRange, String> {
        let text = text.trim();
        let number = |digits: &str| digits.parse::<u32>().map_err(|_| format!("{}: invalid syntax", apimachinery::field::quote(digits)));
        let (first, last) = match (text.split_once('-'), text.split_once('+')) {
            (Some(_), Some(_)) => return Err(format!("unable to parse port range: {text}")),
            (Some((first, last)), None) => (number(first)?, number(last)?),
            (None, Some((first, more))) => (number(first)?, number(first)?.saturating_add(number(more)?)),
            (None, None) => (number(text)?, number(text)?),
        };
        let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(last)) else {
            return Err(format!("the port range cannot be greater than 65535: {text}"));
        };
        if last < first {
            return Err(format!("end port cannot be less than start port: {text}"));
        }
        Ok(PortRange { first, last })
    }
}

impl PortRange {
    fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    fn size(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Ports of the lower band, which is left to those who ask for a certain port: a 32nd of the range, within 16 and 128; none of a small one.
    fn lower(self) -> usize {
        if self.size() <= 16 { 0 } else { (self.size() / 32).clamp(16, 128) }
    }
}

/// Why a port was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("range is full")]
    Full,
    #[error("provided port is already allocated")]
    Allocated,
    #[error("provided port is not in the valid range. The range of valid ports is {0}")]
    NotInRange(PortRange),
}

/// The ports in use.
#[derive(Default)]
pub struct Ports {
    range: PortRange,
    /// How many services have each port.
    used: HashMap<u16, u32>,
    held: HashSet<u16>,
    cursor: Option<Cursor>,
}

/// A port number, if it is one.
fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok()
}

impl Ports {
    pub fn new(range: PortRange) -> Ports {
        Ports { range, ..Ports::default() }
    }

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
        let port = port(number).filter(|port| self.range.contains(*port)).ok_or(Refused::NotInRange(self.range))?;
        if !self.is_free(port) {
            return Err(Refused::Allocated);
        }
        self.held.insert(port);
        Ok(port)
    }

    /// `random(n)` gives a number below `n`.
    fn hold_any(&mut self, mut random: impl FnMut(usize) -> usize) -> Result<u16, Refused> {
        let lower = self.range.lower();
        let upper = self.range.size() - lower;
        let (from_upper, from_lower) = (random(upper), if lower == 0 { 0 } else { random(lower) });
        let high = (0..upper).map(|i| lower + (from_upper + i) % upper);
        let low = (0..lower).map(|i| (from_lower + i) % lower);
        let first = self.range.first;
        let free = high.chain(low).filter_map(|offset| Some(first + u16::try_from(offset).ok()?)).find(|port| self.is_free(*port));
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
                let pool = self.pool.lock();
                let taken = port(number).is_some_and(|port| pool.range.contains(port) && !pool.is_free(port));
                if taken || self.shown.contains(&number) {
                    return Err(Refused::Allocated);
                }
                number
            }
            None => self.shown.iter().max().map_or_else(|| i64::from(self.pool.lock().range.last) + 1, |last| *last) + 1,
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
    fn a_range_is_two_ports_or_one_and_how_many_more() {
        let cases = [
            ("30000-32767", Ok("30000-32767")),
            (" 20000+99 ", Ok("20000-20099")),
            ("8080", Ok("8080-8080")),
            ("1-2+3", Err("unable to parse port range: 1-2+3")),
            ("1-65536", Err("the port range cannot be greater than 65535: 1-65536")),
            ("7-6", Err("end port cannot be less than start port: 7-6")),
            ("a-6", Err("\"a\": invalid syntax")),
        ];
        for (text, expected) in cases {
            let found = text.parse::<PortRange>().map(|range| range.to_string());
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn the_lower_band_of_a_range_grows_with_it_within_limits() {
        for (range, lower) in [("1-16", 0), ("1-17", 16), ("30000-32767", 86), ("1-65535", 128)] {
            assert_eq!(range.parse::<PortRange>().unwrap().lower(), lower, "{range}");
        }
        let mut small = Ports::new("5-6".parse().unwrap());
        assert_eq!((small.hold_any(|_| 0), small.hold_any(|_| 0)), (Ok(5), Ok(6)));
        assert_eq!((small.hold_any(|_| 0), small.hold(7)), (Err(Refused::Full), Err(Refused::NotInRange("5-6".parse().unwrap()))));
    }

    #[test]
    fn ports_are_held_for_as_long_as_the_write_lasts() {
        let pool = Arc::new(Mutex::new(Ports::default()));
        let mut held = Held::new(&pool, false);
        assert_eq!(held.take(Some(30_080), |_| 0), Ok(30_080));
        assert_eq!(held.take(Some(30_080), |_| 0), Err(Refused::Allocated));
        assert_eq!(held.take(Some(80), |_| 0), Err(Refused::NotInRange(PortRange::default())));
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
        pool.lock().held.extend(30_000..=32_767);
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
