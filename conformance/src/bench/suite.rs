//! What is measured, in order. The same for every server, so that rows can stand beside each other.

use std::time::Duration;

use anyhow::Context;

use super::connection::{Endpoint, JSON, PROTOBUF};
use super::load::{Load, Until};
use super::measure::{Better, Measure, Report, Unit};
use super::process::memory;
use super::{appearance, definitions, fixture, list, watch, writes};

/// One server's run never takes longer.
const RUN_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a server is left alone before its idle memory is read.
const IDLE: Duration = Duration::from_secs(3);

/// How much work a run is.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub pods: u64,
    pub read: Duration,
    pub lists: usize,
    pub clients: usize,
    pub fan_outs: [FanOutSize; 2],
    /// Definitions of custom resources.
    pub definitions: u64,
}

/// One fan-out: so many watchers, so many creates.
#[derive(Clone, Copy)]
pub struct FanOutSize {
    pub key: &'static str,
    pub arrived_key: &'static str,
    pub watchers: usize,
    pub creates: u64,
}

impl FanOutSize {
    const fn new(key: &'static str, arrived_key: &'static str, watchers: usize, creates: u64) -> Self {
        Self { key, arrived_key, watchers, creates }
    }
}

impl Sizes {
    /// What the published numbers are of.
    pub const FULL: Self = Self {
        pods: 5000,
        read: Duration::from_secs(10),
        lists: 9,
        clients: 16,
        fan_outs: [
            FanOutSize::new("watch_many", "watch_many_arrived", 200, 2000),
            FanOutSize::new("watch_more", "watch_more_arrived", 1000, 500),
        ],
        definitions: 2000,
    };
    /// Enough to see that everything works; the numbers mean nothing.
    pub const QUICK: Self = Self {
        pods: 100,
        read: Duration::from_millis(500),
        lists: 2,
        clients: 4,
        fan_outs: [
            FanOutSize::new("watch_many", "watch_many_arrived", 20, 50),
            FanOutSize::new("watch_more", "watch_more_arrived", 100, 20),
        ],
        definitions: 20,
    };
}

/// A server under measurement.
pub struct Subject<'a> {
    pub name: &'a str,
    pub endpoint: &'a Endpoint,
    /// Name and id of each process whose memory counts; may be empty.
    pub processes: Vec<(String, u32)>,
    /// From start to ready, if this run started it.
    pub cold_start: Option<Duration>,
}

/// Does all the work and gives what it took. `progress` hears of each step as it begins.
pub async fn run(subject: &Subject<'_>, sizes: Sizes, progress: impl Fn(&str)) -> anyhow::Result<Report> {
    let mut measures = Vec::new();
    if let Some(time) = subject.cold_start {
        measures.push(Measure::milliseconds("cold_start", "cold start to /readyz", time.as_secs_f64() * 1000.0));
    }
    let work = async {
        if !subject.processes.is_empty() {
            tokio::time::sleep(IDLE).await;
            memory_rows(subject, "idle", &mut measures)?;
        }
        progress("POST");
        posts(subject.endpoint, sizes, &mut measures).await.context("POST pods")?;
        progress("GET");
        gets(subject.endpoint, sizes, &mut measures).await.context("GET a pod")?;
        progress("LIST");
        lists(subject.endpoint, sizes, &mut measures).await.context("LIST pods")?;
        for size in sizes.fan_outs {
            progress(&format!("WATCH x {}", size.watchers));
            fan_out(subject.endpoint, size, &mut measures).await.context("WATCH")?;
        }
        if !subject.processes.is_empty() {
            memory_rows(subject, "loaded", &mut measures)?;
            // A server without processes is the bare one, which serves no definitions and applies nothing.
            progress("apply and policies");
            applies_and_policies(subject, sizes, &mut measures).await.context("apply and policies")?;
            progress("a definition");
            one_definition(subject, &mut measures).await.context("a definition")?;
            progress(&format!("{} definitions", sizes.definitions));
            many_definitions(subject, sizes, &mut measures).await.context("definitions")?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(RUN_TIMEOUT, work)
        .await
        .with_context(|| format!("took longer than {RUN_TIMEOUT:?}"))?
        .with_context(|| subject.name.to_owned())?;
    Ok(Report { server: subject.name.to_owned(), measures })
}

/// Takes away what `run` left in a server that goes on living.
pub async fn clean(endpoint: &Endpoint, sizes: Sizes) -> anyhow::Result<()> {
    let mut connection = endpoint.connect().await?;
    fixture::remove(&mut connection, fixture::PODS).await?;
    for size in sizes.fan_outs {
        fixture::remove(&mut connection, &namespace(size)).await?;
    }
    definitions::remove(endpoint, sizes.definitions).await
}

fn namespace(size: FanOutSize) -> String {
    format!("bench-watch-{}", size.watchers)
}

fn memory_rows(subject: &Subject<'_>, when: &str, measures: &mut Vec<Measure>) -> anyhow::Result<()> {
    let (mut now, mut peak) = (0.0, 0.0);
    let (mut parts, mut peaks) = (serde_json::Map::new(), serde_json::Map::new());
    for (name, id) in &subject.processes {
        let memory = memory(*id)?;
        let (now_mb, peak_mb) = (memory.now_bytes as f64 / 1e6, memory.peak_bytes as f64 / 1e6);
        now += now_mb;
        peak += peak_mb;
        parts.insert(name.clone(), now_mb.into());
        peaks.insert(name.clone(), peak_mb.into());
    }
    let megabytes = |key, work, value| Measure::new(key, work, value, Unit::Megabytes, Better::Lower);
    if when == "idle" {
        measures.push(megabytes("memory_idle", "memory, idle", now).with("processes", parts));
    } else {
        measures.push(megabytes("memory_loaded", "memory after the load", now).with("processes", parts));
        measures.push(megabytes("memory_peak", "memory, peak", peak).with("processes", peaks));
    }
    Ok(())
}

async fn posts(endpoint: &Endpoint, sizes: Sizes, measures: &mut Vec<Measure>) -> anyhow::Result<()> {
    let mut connection = endpoint.connect().await?;
    fixture::namespace(&mut connection, fixture::PODS).await?;
    let load = Load { connections: 8, streams: 4, until: Until::Count(sizes.pods) };
    let tally =
        load.run(endpoint, |mut connection, number| async move {
            connection.create(&fixture::pods_path(), fixture::pod(number)).await.map(|_| ())
        })
        .await?;
    let work = format!("POST {} pods, 8 x 4", sizes.pods);
    measures.push(
        Measure::per_second("post", work, tally.per_second())
            .with("p50_ms", tally.quantile_ms(0.5))
            .with("p99_ms", tally.quantile_ms(0.99)),
    );
    Ok(())
}

async fn gets(endpoint: &Endpoint, sizes: Sizes, measures: &mut Vec<Measure>) -> anyhow::Result<()> {
    let number = sizes.pods / 2;
    let bytes = endpoint.connect().await?.get_length(&fixture::pod_path(number), JSON).await?;
    let load = Load { connections: 8, streams: 8, until: Until::Elapsed(sizes.read) };
    let tally = load
        .run(endpoint, move |mut connection, _| async move { connection.get_length(&fixture::pod_path(number), JSON).await.map(|_| ()) })
        .await?;
    measures.push(
        Measure::per_second("get", "GET a pod, 8 x 8", tally.per_second())
            .with("p50_ms", tally.quantile_ms(0.5))
            .with("p99_ms", tally.quantile_ms(0.99))
            .with("requests", tally.done),
    );
    measures.push(Measure::new("get_bytes", "  bytes of the pod", bytes as f64, Unit::Bytes, Better::Neither));
    Ok(())
}

async fn lists(endpoint: &Endpoint, sizes: Sizes, measures: &mut Vec<Measure>) -> anyhow::Result<()> {
    let pods = sizes.pods;
    let json = list::in_sequence(endpoint, JSON, sizes.lists).await?;
    let bytes = |key, value: u64| Measure::new(key, "  bytes of the list", value as f64, Unit::Bytes, Better::Neither);
    measures.push(Measure::milliseconds("list_json", format!("LIST {pods} pods, JSON"), json.median_ms).with("first_ms", json.first_ms));
    measures.push(bytes("list_json_bytes", json.bytes));
    let protobuf = list::in_sequence(endpoint, PROTOBUF, sizes.lists).await?;
    let work = format!("LIST {pods} pods, protobuf");
    measures.push(Measure::milliseconds("list_protobuf_first", format!("{work}, first"), protobuf.first_ms));
    measures.push(Measure::milliseconds("list_protobuf", work, protobuf.median_ms).with("first_ms", protobuf.first_ms));
    measures.push(bytes("list_protobuf_bytes", protobuf.bytes));
    let tally = list::side_by_side(endpoint, sizes.clients, sizes.read).await?;
    let work = format!("{} concurrent such LISTs, JSON", sizes.clients);
    measures.push(
        Measure::per_second("lists", work, tally.per_second())
            .with("p50_ms", tally.quantile_ms(0.5))
            .with("p99_ms", tally.quantile_ms(0.99)),
    );
    Ok(())
}

async fn fan_out(endpoint: &Endpoint, size: FanOutSize, measures: &mut Vec<Measure>) -> anyhow::Result<()> {
    let found = watch::fan_out(endpoint, &namespace(size), size.watchers, size.creates).await?;
    let work = format!("{} watchers x {} creates, events", size.watchers, size.creates);
    measures.push(
        Measure::per_second(size.key, work, found.per_second())
            .with("elapsed_ms", found.elapsed.as_secs_f64() * 1000.0)
            .with("event_bytes", found.event_bytes)
            .with("creates_per_second", found.creates.per_second()),
    );
    let share = found.arrived as f64 * 100.0 / found.expected.max(1) as f64;
    measures.push(
        Measure::new(size.arrived_key, format!("  of {} events arrived", found.expected), share, Unit::Percent, Better::Neither)
            .with("arrived", found.arrived)
            .with("expected", found.expected)
            .with("other_events", found.others)
            .with("watches_ended_early", found.ended_early),
    );
    Ok(())
}

/// A definition that comes and goes.
async fn one_definition(subject: &Subject<'_>, measures: &mut Vec<Measure>) -> anyhow::Result<()> {
    for seen in appearance::run(subject.endpoint).await? {
        let work = format!("a definition shows {}", seen.place);
        measures.push(Measure::milliseconds(seen.key, work, seen.shown_ms).with("gone_ms", seen.gone_ms));
    }
    Ok(())
}

async fn applies_and_policies(subject: &Subject<'_>, sizes: Sizes, measures: &mut Vec<Measure>) -> anyhow::Result<()> {
    let processes: Vec<u32> = subject.processes.iter().map(|(_, id)| *id).collect();
    let found = writes::run(subject.endpoint, &processes, sizes.pods).await?;
    let rate = |key, work: &str, done: &writes::Work| {
        Measure::per_second(key, work, done.tally.per_second())
            .with("p50_ms", done.tally.quantile_ms(0.5))
            .with("p99_ms", done.tally.quantile_ms(0.99))
    };
    let processor = |key, work: &str, time: f64| Measure::new(key, work, time, Unit::Microseconds, Better::Lower);
    let each = |work: &writes::Work| work.each.as_secs_f64() * 1e6;
    measures.push(rate("apply_again", "apply of 300 lines again, 8 x 4", &found.apply_again));
    measures.push(processor("apply_again_processor", "  processor time of each", each(&found.apply_again)));
    measures.push(processor("apply_get_processor", "  and of a GET of it", each(&found.get)));
    measures.push(processor("post_processor", "POST a pod, processor time", each(&found.create)));
    let added = each(&found.create_with_policies) - each(&found.create);
    measures.push(processor("policies_processor", "  what 100 policies add", added));
    Ok(())
}

async fn many_definitions(subject: &Subject<'_>, sizes: Sizes, measures: &mut Vec<Measure>) -> anyhow::Result<()> {
    let weigh = || -> anyhow::Result<u64> {
        let memories = subject.processes.iter().map(|(_, id)| memory(*id).map(|memory| memory.now_bytes));
        memories.sum()
    };
    let before = weigh()?;
    let found = definitions::run(subject.endpoint, sizes.definitions, sizes.read).await?;
    tokio::time::sleep(IDLE).await;
    let each = weigh()?.saturating_sub(before) as f64 / 1e3 / found.count.max(1) as f64;
    let work = format!("{} definitions of 30 KB, made and served", found.count);
    measures.push(
        Measure::per_second("definitions", work, found.per_second())
            .with("p50_ms", found.creates.quantile_ms(0.5))
            .with("p99_ms", found.creates.quantile_ms(0.99)),
    );
    measures.push(Measure::new("definition_memory", "  memory of each", each, Unit::Kilobytes, Better::Lower));
    measures.push(
        Measure::milliseconds("definitions_beside", "  GET of something else meanwhile, p99", found.beside.quantile_ms(0.99))
            .with("p99_alone_ms", found.alone.quantile_ms(0.99))
            .with("p50_ms", found.beside.quantile_ms(0.5)),
    );
    measures.push(Measure::milliseconds("definitions_discovery", "  aggregated discovery", found.discovery_ms));
    measures.push(
        Measure::milliseconds("definitions_openapi", "  OpenAPI v3 of a group", found.openapi_document_ms)
            .with("index_ms", found.openapi_index_ms),
    );
    Ok(())
}
