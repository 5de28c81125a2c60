//! LISTs of all pods, one after the other and side by side.

use std::time::{Duration, Instant};

use super::connection::Endpoint;
use super::fixture;
use super::load::{Load, Tally, Until};

/// LISTs one after the other on one connection.
pub struct Sequence {
    /// The first LIST, which may find nothing prepared.
    pub first_ms: f64,
    /// The middle one of the others.
    pub median_ms: f64,
    /// Length of one answer.
    pub bytes: u64,
}

/// `times` LISTs after the first; `times` is at least 1.
pub async fn in_sequence(endpoint: &Endpoint, accept: &'static str, times: usize) -> anyhow::Result<Sequence> {
    let mut connection = endpoint.connect().await?;
    let path = fixture::pods_path();
    let mut bytes = 0;
    let mut all_ms = Vec::with_capacity(times + 1);
    for _ in 0..=times.max(1) {
        let begun = Instant::now();
        bytes = connection.get_length(&path, accept).await?;
        all_ms.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    let first_ms = all_ms.remove(0);
    all_ms.sort_unstable_by(f64::total_cmp);
    Ok(Sequence { first_ms, median_ms: all_ms[all_ms.len() / 2], bytes })
}

/// `lists` clients with a connection each, which list again as soon as they are answered.
pub async fn side_by_side(endpoint: &Endpoint, lists: usize, duration: Duration) -> anyhow::Result<Tally> {
    let load = Load { connections: lists, streams: 1, until: Until::Elapsed(duration) };
    load.run(endpoint, |mut connection, _| async move {
        connection.get_length(&fixture::pods_path(), super::connection::JSON).await?;
        Ok(())
    })
    .await
}
