//! Fan-out: many watchers of one collection, objects created as fast as they go, and every event counted at every watcher.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use super::connection::{Endpoint, JSON};
use super::fixture;
use super::load::{Load, Tally, Until};

/// Watches on one connection; servers allow 100 or more.
const WATCHES_PER_CONNECTION: usize = 50;
/// With no event for so long after the last create, what has not arrived will not.
const STALL: Duration = Duration::from_secs(5);
/// The longest wait for events after the last create.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(40);
/// How every event of a create begins on the wire.
const ADDED: &[u8] = b"{\"type\":\"ADDED\"";

/// What came of a fan-out.
pub struct FanOut {
    pub expected: u64,
    pub arrived: u64,
    /// Events of any other type, such as errors.
    pub others: u64,
    /// Watches that ended before they had seen every create.
    pub ended_early: u64,
    /// From the first create to the last event.
    pub elapsed: Duration,
    /// Mean length of an event.
    pub event_bytes: u64,
    pub creates: Tally,
}

impl FanOut {
    pub fn per_second(&self) -> f64 {
        self.arrived as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// What all watchers of a fan-out have seen so far.
#[derive(Default)]
struct Seen {
    added: AtomicU64,
    others: AtomicU64,
    bytes: AtomicU64,
    finished: AtomicU64,
    ended_early: AtomicU64,
    /// Nanoseconds from `start` to the latest event.
    latest_ns: AtomicU64,
}

/// Opens `watchers` watches of the config maps in `namespace`, creates `creates` of them and waits until all events are there or
/// nothing moves any more.
pub async fn fan_out(endpoint: &Endpoint, namespace: &str, watchers: usize, creates: u64) -> anyhow::Result<FanOut> {
    let mut connection = endpoint.connect().await?;
    fixture::namespace(&mut connection, namespace).await?;
    let path = fixture::config_maps_path(namespace);
    let list: serde_json::Value = serde_json::from_slice(&connection.get(&path).await?)?;
    let revision = list.pointer("/metadata/resourceVersion").and_then(|v| v.as_str()).context("the list has no resourceVersion")?;
    let streams = open(endpoint, &format!("{path}?watch=true&resourceVersion={revision}"), watchers).await?;

    let seen = Arc::new(Seen::default());
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for stream in streams {
        tasks.spawn(follow(stream, creates, seen.clone(), start));
    }
    let load = Load { connections: 8, streams: 4, until: Until::Count(creates) };
    let created = load.run(endpoint, move |mut connection, number| {
        let path = path.clone();
        async move { connection.create(&path, fixture::config_map(number)).await.map(|_| ()) }
    });
    let created = created.await?;
    settle(&seen, watchers as u64).await;
    tasks.shutdown().await;

    let arrived = seen.added.load(Ordering::Relaxed);
    let others = seen.others.load(Ordering::Relaxed);
    Ok(FanOut {
        expected: watchers as u64 * creates,
        arrived,
        others,
        ended_early: seen.ended_early.load(Ordering::Relaxed),
        elapsed: Duration::from_nanos(seen.latest_ns.load(Ordering::Relaxed)),
        event_bytes: seen.bytes.load(Ordering::Relaxed) / (arrived + others).max(1),
        creates: created,
    })
}

/// Opens every watch and waits for its head, so that none misses a create.
async fn open(endpoint: &Endpoint, path: &str, watchers: usize) -> anyhow::Result<Vec<Incoming>> {
    let mut streams = Vec::with_capacity(watchers);
    while streams.len() < watchers {
        let mut connection = endpoint.connect().await?;
        for _ in 0..WATCHES_PER_CONNECTION.min(watchers - streams.len()) {
            let response = connection.send(Method::GET, path, JSON, Bytes::new()).await?;
            ensure!(response.status().is_success(), "watch {path}: {}", response.status());
            streams.push(response.into_body());
        }
    }
    Ok(streams)
}

/// Reads one watch until it has seen `creates` events or ends.
async fn follow(mut stream: Incoming, creates: u64, seen: Arc<Seen>, start: Instant) {
    let mut frames = Frames::default();
    while frames.added < creates {
        let Some(Ok(frame)) = stream.frame().await else {
            seen.ended_early.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let Some(data) = frame.data_ref() else { continue };
        let (added, others) = (frames.added, frames.others);
        frames.read(data);
        seen.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        seen.added.fetch_add(frames.added - added, Ordering::Relaxed);
        seen.others.fetch_add(frames.others - others, Ordering::Relaxed);
        seen.latest_ns.fetch_max(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
    seen.finished.fetch_add(1, Ordering::Relaxed);
}

async fn settle(seen: &Seen, watchers: u64) {
    let begun = Instant::now();
    let (mut count, mut moved) = (0, Instant::now());
    while begun.elapsed() < ARRIVAL_TIMEOUT && moved.elapsed() < STALL {
        if seen.finished.load(Ordering::Relaxed) + seen.ended_early.load(Ordering::Relaxed) == watchers {
            return;
        }
        let now = seen.added.load(Ordering::Relaxed);
        if now != count {
            (count, moved) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Counts the events in a stream of lines that arrives in arbitrary pieces. JSON escapes line ends, so a line end is an event's end.
#[derive(Default)]
struct Frames {
    added: u64,
    others: u64,
    /// The beginning of the current line, no longer than `ADDED`.
    head: Vec<u8>,
}

impl Frames {
    fn read(&mut self, data: &[u8]) {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let line = piece.strip_suffix(b"\n");
            let text = line.unwrap_or(piece);
            let room = ADDED.len() - self.head.len();
            self.head.extend_from_slice(&text[..room.min(text.len())]);
            if line.is_some() {
                if self.head == ADDED {
                    self.added += 1;
                } else {
                    self.others += 1;
                }
                self.head.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_however_the_stream_is_cut() {
        let text = b"{\"type\":\"ADDED\",\"object\":{}}\n{\"type\":\"ERROR\",\"object\":{}}\n{\"type\":\"ADDED\",\"object\":{\"a\":1}}\n{\"type\":\"ADD";
        for size in 1..=text.len() {
            let mut frames = Frames::default();
            text.chunks(size).for_each(|chunk| frames.read(chunk));
            assert_eq!((frames.added, frames.others), (2, 1), "pieces of {size}");
        }
    }
}
