//! How many creates of 3 KB objects a second the embedded store makes durable, through the whole of storage.
//!
//! `cargo run --release -p apiserver --example store_rate [writers] [objects] [watchers] [directory]`

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use apiserver::storage::embedded::Embedded;
use apiserver::storage::{Config, Cursor, FieldOrder, Freshness, ResourceSpec, Scope, Storage};
use rand::distr::Alphanumeric;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let writers: usize = arguments.next().map_or(Ok(32), |a| a.parse())?;
    let objects: usize = arguments.next().map_or(Ok(20_000), |a| a.parse())?;
    let watchers: usize = arguments.next().map_or(Ok(1), |a| a.parse())?;
    let directory = arguments.next().map_or_else(|| std::env::temp_dir().join(format!("store-rate-{}", std::process::id())), PathBuf::from);
    let storage = Arc::new(Storage::open(Arc::new(Embedded::open(&directory)?), Config::default()).await?);
    let pods = storage.register(ResourceSpec::json("pods", true, FieldOrder::Declared)).await?;
    let cursors: Vec<_> = (0..watchers).map(|_| pods.list_and_watch(Scope::All).1).collect();
    let start = Instant::now();
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let (storage, pods) = (storage.clone(), pods.clone());
        tasks.push(tokio::spawn(async move {
            for n in (writer..objects).step_by(writers) {
                let labels = json!({"app": format!("app-{}", n % 100)});
                let pod = json!({
                    "kind": "Pod", "apiVersion": "v1",
                    "metadata": {"name": format!("pod-{n}"), "namespace": format!("ns-{}", n % 10), "uid": n.to_string(), "labels": labels},
                    "spec": {"data": incompressible(n as u64, 2_900)},
                });
                storage.create(&pods, &pod, None).await?;
            }
            Ok::<_, Failure>(())
        }));
    }
    let watch = |mut cursor: Cursor| async move {
        let mut seen = 0;
        while seen < objects {
            seen += cursor.next().await?.len();
        }
        Ok::<_, Failure>(())
    };
    let watching: Vec<_> = cursors.into_iter().map(|cursor| tokio::spawn(watch(cursor))).collect();
    for task in tasks {
        task.await??;
    }
    let took = start.elapsed();
    for task in watching {
        task.await??;
    }
    let events = (watchers * objects) as f64 / start.elapsed().as_secs_f64();
    let listed = Instant::now();
    let snapshot = storage.list(&pods, Freshness::Latest).await?;
    let bytes: usize = snapshot.range("", None).map(|o| o.json().len()).sum();
    let rate = objects as f64 / took.as_secs_f64();
    writeln!(
        std::io::stdout(),
        "{writers} writers, {objects} objects: {rate:.0} creates/s, {watchers} watchers: {events:.0} events/s; one list of {} objects, {bytes} bytes: {:?}",
        snapshot.len(),
        listed.elapsed()
    )?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

/// Text that the engine's compression cannot flatter the figure with.
fn incompressible(seed: u64, length: usize) -> String {
    let mut random = SmallRng::seed_from_u64(seed);
    (0..length).map(|_| char::from(random.sample(Alphanumeric))).collect()
}
