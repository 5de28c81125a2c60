//! Values that change, and what they were a little while ago: what a controller may still believe.

use std::time::Duration;

use tokio::time::Instant;

/// How old the sight of a controller can be: requests and watches together are never slower.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Pods that are ready for so long are known to be.
pub const KNOWN_AFTER: Duration = Duration::from_secs(30);

/// A value, and what it was within the window.
#[derive(Clone, Debug)]
pub struct Lately<T> {
    current: T,
    /// With the time until which each held.
    past: Vec<(Instant, T)>,
}

impl<T: Clone + PartialEq> Lately<T> {
    pub fn new(current: T) -> Lately<T> {
        Lately { current, past: Vec::new() }
    }

    pub fn set(&mut self, now: Instant, value: T) {
        if value != self.current {
            self.past.retain(|(until, _)| *until + WINDOW >= now);
            self.past.push((now, std::mem::replace(&mut self.current, value)));
        }
    }

    /// All that it was within the window, now included.
    pub fn all(&self, now: Instant) -> impl Iterator<Item = &T> {
        let recent = self.past.iter().filter(move |(until, _)| *until + WINDOW >= now);
        recent.map(|(_, value)| value).chain(std::iter::once(&self.current))
    }
}

/// Things that have happened within the window.
#[derive(Clone, Debug, Default)]
pub struct Events(Vec<Instant>);

impl Events {
    pub fn add(&mut self, now: Instant) {
        self.0.retain(|at| *at + WINDOW >= now);
        self.0.push(now);
    }

    pub fn count(&self, now: Instant) -> usize {
        self.0.iter().filter(|at| **at + WINDOW >= now).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_is_remembered_for_a_while() {
        let mut value = Lately::new(5);
        value.set(Instant::now(), 3);
        tokio::time::advance(WINDOW).await;
        assert_eq!(value.all(Instant::now()).max(), Some(&5));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(value.all(Instant::now()).max(), Some(&3));
    }
}
