//! One request that is being counted, from when it comes until its answer is written or its stream has ended.
//!
//! What is known of it is noted when it goes, however it goes: also if it panics, and if its client does not wait for the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Metrics;
use super::in_flight::Kind;
use super::requests::{Key, LabelSet};

/// An answer that the server gives to protect itself, or because others fail it: kept with the answer, for the filter that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminated {
    /// Who has ended the request, as the label has it.
    pub component: &'static str,
}

impl Terminated {
    pub const BY_US: Terminated = Terminated { component: "apiserver" };
    /// In the name of a server that could not be asked.
    pub const BY_AGGREGATOR: Terminated = Terminated { component: "aggregator" };
}

/// A request that is being counted.
pub struct Tally {
    metrics: Arc<Metrics>,
    set: Option<Arc<LabelSet>>,
    started: Instant,
    /// What others took of its time: webhooks, and the wait for a seat.
    pub others: Duration,
    /// Whether an endpoint was asked, so that its time says something.
    pub is_served: bool,
    /// Whether the size of the answer is told.
    pub is_read: bool,
    /// Whether it runs until its client or its own time end it, if it is not refused.
    pub is_long: bool,
    pub bytes: u64,
    pub is_aborted: bool,
    code: Option<u16>,
    in_flight: Option<Kind>,
    runs: bool,
}

impl Tally {
    /// `set`: what it is counted under, if that is known yet.
    pub fn new(metrics: Arc<Metrics>, set: Option<Arc<LabelSet>>, started: Instant) -> Tally {
        Tally {
            metrics,
            set,
            started,
            others: Duration::ZERO,
            is_served: false,
            is_read: false,
            is_long: false,
            bytes: 0,
            is_aborted: false,
            code: None,
            in_flight: None,
            runs: false,
        }
    }

    /// It is being served from then on.
    pub fn enter(&mut self, kind: Kind, at: Instant) {
        self.metrics.in_flight.enter(kind, at);
        self.in_flight = Some(kind);
    }

    /// It takes up nothing any more.
    pub fn leave(&mut self) {
        if let Some(kind) = self.in_flight.take() {
            self.metrics.in_flight.leave(kind);
        }
    }

    /// What it is counted under, if that was not known before.
    pub fn label(&mut self, set: impl FnOnce(&Metrics) -> Option<Arc<LabelSet>>) {
        if self.set.is_none() {
            self.set = set(&self.metrics);
        }
    }

    pub fn answered(&mut self, code: u16) {
        self.code = Some(code);
    }

    /// It is one of those that run until their clients or their time end them.
    pub fn run(&mut self) {
        if let Some(set) = &self.set {
            set.begun();
            self.runs = true;
        }
    }

    /// The server has ended it.
    pub fn terminated(&self, by: Terminated, code: u16) {
        let Some(set) = &self.set else { return };
        match by.component {
            "apiserver" => set.terminated(code),
            component => {
                let key = Key { component, ..super::label_sets::Keyed::key(&**set) };
                if let Some(set) = self.metrics.requests.labelled(&key) {
                    set.terminated(code);
                }
            }
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.leave();
        let Some(set) = &self.set else { return };
        if self.runs {
            set.ended();
        }
        // Whoever went before there was an answer was given none.
        let Some(code) = self.code.or(std::thread::panicking().then_some(500)) else { return };
        set.answered(code);
        if self.is_aborted {
            set.aborted();
        }
        if self.is_served {
            set.took(self.started.elapsed().as_secs_f64(), self.others.as_secs_f64());
            if self.is_read {
                set.read(self.bytes);
            }
        }
    }
}

/// What a request is being served with, reachable from wherever it is served: for those that webhooks may be asked about, and for those
/// that run on when they are answered.
#[derive(Default)]
pub struct Serving {
    webhooks_nanos: AtomicU64,
    /// Goes with the last one who holds this.
    pub tally: Mutex<Option<Tally>>,
}

impl Serving {
    pub fn webhooks(&self) -> Duration {
        Duration::from_nanos(self.webhooks_nanos.load(Ordering::Relaxed))
    }
}

tokio::task_local! {
    static SERVING: Arc<Serving>;
}

pub async fn scope<F: Future>(serving: Arc<Serving>, future: F) -> F::Output {
    SERVING.scope(serving, future).await
}

/// The request that this task serves. Whoever keeps it keeps a stream from having ended.
pub fn current() -> Option<Arc<Serving>> {
    SERVING.try_with(Arc::clone).ok()
}

/// Webhooks have taken so much of the time of the request that this task serves.
pub fn webhooks_took(time: Duration) {
    // There is none where nobody has asked, such as at the start.
    let _ = SERVING.try_with(|serving| {
        serving.webhooks_nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(metrics: &Metrics) -> String {
        let mut text = String::new();
        metrics.requests.render(&mut text);
        metrics.in_flight.render(&mut text);
        text
    }

    fn tally(metrics: &Arc<Metrics>) -> Tally {
        let key = Key { verb: "WATCH", resource: "pods", scope: "cluster", component: "apiserver", ..Key::default() };
        Tally::new(metrics.clone(), metrics.requests.labelled(&key), Instant::now())
    }

    #[test]
    fn a_request_without_an_answer_counts_only_if_it_panicked() {
        let metrics = Arc::<Metrics>::default();
        let mut gone = tally(&metrics);
        gone.enter(Kind::ReadOnly, Instant::now());
        drop(gone);
        assert!(!told(&metrics).contains("request_total"), "{}", told(&metrics));
        let panicking = tally(&metrics);
        let _ = std::thread::spawn(move || {
            let _panicking = panicking;
            panic!("on purpose");
        })
        .join();
        assert!(told(&metrics).contains("{code=\"500\",component=\"apiserver\","), "{}", told(&metrics));
    }

    #[tokio::test]
    async fn a_stream_runs_until_the_last_one_lets_go_of_it() {
        let metrics = Arc::<Metrics>::default();
        let serving = Arc::<Serving>::default();
        let kept = scope(serving.clone(), async { current() }).await;
        let mut running = tally(&metrics);
        running.is_served = true;
        running.answered(101);
        running.run();
        *serving.tally.lock() = Some(running);
        drop(serving);
        let runs = |text: &str, n: u8| {
            text.lines().any(|line| line.starts_with("apiserver_longrunning_requests{") && line.ends_with(&format!("}} {n}")))
        };
        assert!(runs(&told(&metrics), 1) && !told(&metrics).contains("request_total"), "{}", told(&metrics));
        drop(kept);
        assert!(runs(&told(&metrics), 0) && told(&metrics).contains("{code=\"101\","), "{}", told(&metrics));
        assert!(told(&metrics).contains("apiserver_request_duration_seconds_count"));
    }

    #[test]
    fn who_ends_a_request_is_told() {
        let metrics = Arc::<Metrics>::default();
        tally(&metrics).terminated(Terminated::BY_AGGREGATOR, 503);
        tally(&metrics).terminated(Terminated::BY_US, 429);
        let text = told(&metrics);
        assert!(
            text.contains("{code=\"503\",component=\"aggregator\",") && text.contains("{code=\"429\",component=\"apiserver\","),
            "{text}"
        );
    }
}
