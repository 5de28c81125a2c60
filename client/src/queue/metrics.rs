//! What is told of work queues: upstream's `workqueue_*`, by the queue's name.
//!
//! Depth and work under way are looked up when somebody asks, so that working costs nothing for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::metrics::{self, Buckets, Counter, Family, Histogram, Told, counters, histograms};

/// Ten bounds, from ten nanoseconds to ten seconds.
const TIMES: Buckets = Buckets::Exponential(10e-9, 10.0, 10);

static ADDS: Family<Counter> = counters("workqueue_adds_total", "[BETA] Total number of adds handled by workqueue", &["name"]);
static RETRIES: Family<Counter> = counters("workqueue_retries_total", "[BETA] Total number of retries handled by workqueue", &["name"]);
static QUEUED: Family<Histogram> = histograms(
    "workqueue_queue_duration_seconds",
    "[BETA] How long in seconds an item stays in workqueue before being requested.",
    &["name"],
    TIMES,
);
static WORKED: Family<Histogram> =
    histograms("workqueue_work_duration_seconds", "[BETA] How long in seconds processing an item from workqueue takes.", &["name"], TIMES);

/// What the queues of this process tell.
pub static METRICS: &[&dyn Told] = &[
    &Looked("workqueue_depth", "[BETA] Current depth of workqueue", |queue, _| queue.depth() as f64),
    &ADDS,
    &QUEUED,
    &WORKED,
    &Looked(
        "workqueue_unfinished_work_seconds",
        "[BETA] How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
        |queue, now| queue.since().iter().map(|since| now.saturating_duration_since(*since).as_secs_f64()).sum(),
    ),
    &Looked(
        "workqueue_longest_running_processor_seconds",
        "[BETA] How many seconds has the longest running processor for workqueue been running.",
        |queue, now| queue.since().iter().map(|since| now.saturating_duration_since(*since).as_secs_f64()).fold(0.0, f64::max),
    ),
    &RETRIES,
];

/// What a queue with a name counts.
pub struct Counts {
    pub adds: Arc<Counter>,
    pub retries: Arc<Counter>,
    pub queued: Arc<Histogram>,
    pub worked: Arc<Histogram>,
}

/// What can be asked of a queue of any keys.
pub trait UnderWay: Send {
    /// How many keys are ready.
    fn depth(&self) -> usize;

    /// Since when keys are worked on.
    fn since(&self) -> Vec<Instant>;
}

type Known = Vec<(&'static str, Weak<dyn UnderWay + Sync>)>;

/// The queues that there are. Those that have gone are taken out when another comes.
static QUEUES: Mutex<Known> = Mutex::new(Vec::new());

impl Counts {
    pub fn new<Q: UnderWay + Sync + 'static>(name: &'static str, queue: &Arc<Q>) -> Counts {
        let mut queues = QUEUES.lock();
        queues.retain(|(_, queue)| queue.strong_count() > 0);
        let queue: Weak<Q> = Arc::downgrade(queue);
        queues.push((name, queue));
        let name = &[name];
        Counts { adds: ADDS.with(name), retries: RETRIES.with(name), queued: QUEUED.with(name), worked: WORKED.with(name) }
    }
}

/// A gauge of all queues of a name together.
struct Looked(&'static str, &'static str, fn(&dyn UnderWay, Instant) -> f64);

impl Told for Looked {
    fn write(&self, out: &mut String) {
        let Looked(name, help, look) = self;
        let queues: Vec<_> = QUEUES.lock().iter().filter_map(|(name, queue)| Some((*name, queue.upgrade()?))).collect();
        let mut numbers = BTreeMap::<&str, f64>::new();
        let now = Instant::now();
        for (name, queue) in queues {
            *numbers.entry(name).or_default() += look(&*queue, now);
        }
        if numbers.is_empty() {
            return;
        }
        metrics::head(out, name, "gauge", help);
        for (queue, number) in numbers {
            metrics::sample(out, name, &metrics::pairs(&["name"], &[queue]), number);
        }
    }
}
