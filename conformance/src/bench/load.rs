//! A closed loop: so many connections, so many requests in flight on each, until a time or a count is reached.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::connection::{Connection, Endpoint};

/// When a load ends.
#[derive(Clone, Copy)]
pub enum Until {
    /// No request starts after this time.
    Elapsed(Duration),
    /// This many requests are sent.
    Count(u64),
}

/// How many requests are in flight: `connections` × `streams`.
#[derive(Clone, Copy)]
pub struct Load {
    pub connections: usize,
    pub streams: usize,
    pub until: Until,
}

/// What a load did.
pub struct Tally {
    pub done: u64,
    /// From the first request's start to the last answer's end.
    pub elapsed: Duration,
    /// Microseconds of every request, ascending.
    latencies_us: Vec<u32>,
}

impl Tally {
    /// What requests took that were sent by other means.
    pub fn of(latencies: Vec<Duration>, elapsed: Duration) -> Tally {
        let mut latencies_us: Vec<u32> = latencies.iter().map(|l| u32::try_from(l.as_micros()).unwrap_or(u32::MAX)).collect();
        latencies_us.sort_unstable();
        Tally { done: latencies_us.len() as u64, elapsed, latencies_us }
    }

    pub fn per_second(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Milliseconds that `share` of the requests stayed within; 0 if there were none.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.latencies_us.get(index.min(last)).map_or(0.0, |us| f64::from(*us) / 1000.0)
    }
}

impl Load {
    /// Opens the connections, then runs `work(connection, request number)` until the end. The first failure ends the load.
    pub async fn run<W, F>(self, endpoint: &Endpoint, work: W) -> anyhow::Result<Tally>
    where
        W: Fn(Connection, u64) -> F + Clone + Send + 'static,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut connections = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            connections.push(endpoint.connect().await?);
        }
        let next = Arc::new(AtomicU64::new(0));
        let mut workers = JoinSet::new();
        let start = Instant::now();
        for connection in connections {
            for _ in 0..self.streams {
                workers.spawn(worker(connection.clone(), work.clone(), next.clone(), start, self.until));
            }
        }
        let mut latencies_us = Vec::new();
        while let Some(finished) = workers.join_next().await {
            latencies_us.append(&mut finished??);
        }
        let elapsed = start.elapsed();
        latencies_us.sort_unstable();
        Ok(Tally { done: latencies_us.len() as u64, elapsed, latencies_us })
    }
}

async fn worker<W, F>(connection: Connection, work: W, next: Arc<AtomicU64>, start: Instant, until: Until) -> anyhow::Result<Vec<u32>>
where
    W: Fn(Connection, u64) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let mut latencies_us = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let is_over = match until {
            Until::Elapsed(limit) => start.elapsed() >= limit,
            Until::Count(limit) => number >= limit,
        };
        if is_over {
            return Ok(latencies_us);
        }
        let begun = Instant::now();
        work(connection.clone(), number).await?;
        latencies_us.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_taken_from_sorted_latencies() {
        let tally = Tally { done: 101, elapsed: Duration::from_secs(2), latencies_us: (0..=100).map(|ms| ms * 1000).collect() };
        assert_eq!((tally.quantile_ms(0.5), tally.quantile_ms(0.99), tally.quantile_ms(1.0)), (50.0, 99.0, 100.0));
        assert_eq!(tally.per_second(), 50.5);
        let empty = Tally { done: 0, elapsed: Duration::ZERO, latencies_us: Vec::new() };
        assert_eq!((empty.quantile_ms(0.5), empty.per_second()), (0.0, 0.0));
    }
}
