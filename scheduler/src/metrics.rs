//! What the scheduler counts and times, under upstream's names (v1.37).
//!
//! A series is a family's name and the values of its labels; families and their labels stand in one table. Whoever serves HTTP
//! asks for [`Metrics::render`].

use std::collections::BTreeMap;
use std::fmt::Write;

use parking_lot::Mutex;

/// Series that a family keeps; more are not counted, so that memory stays bounded.
const MAX_SERIES: usize = 2048;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    Histogram(Buckets),
}

/// Bounds of buckets: the first, and either a factor or a step to the next.
#[derive(Clone, Copy, PartialEq)]
struct Buckets {
    first: f64,
    factor: f64,
    step: f64,
    count: usize,
}

const fn exponential(first: f64, factor: f64, count: usize) -> Kind {
    Kind::Histogram(Buckets { first, factor, step: 0.0, count })
}

const fn linear(first: f64, step: f64, count: usize) -> Kind {
    Kind::Histogram(Buckets { first, factor: 1.0, step, count })
}

/// A family of series.
pub struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    kind: Kind,
}

macro_rules! families {
    ($($id:ident: $name:literal, $kind:expr, [$($label:literal),*], $help:literal;)*) => {
        /// The families, by what they count.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Id { $($id),* }

        static FAMILIES: &[Family] = &[$(Family { name: $name, help: $help, labels: &[$($label),*], kind: $kind }),*];
    };
}

families! {
    ScheduleAttempts: "scheduler_schedule_attempts_total", Kind::Counter, ["result", "profile"],
        "Attempts to schedule pods, by result.";
    AttemptDuration: "scheduler_scheduling_attempt_duration_seconds", exponential(0.001, 2.0, 15), ["result", "profile"],
        "Time of an attempt: algorithm and binding.";
    AlgorithmDuration: "scheduler_scheduling_algorithm_duration_seconds", exponential(0.001, 2.0, 15), [],
        "Time that finding a node took.";
    PreemptionVictims: "scheduler_preemption_victims", exponential(1.0, 2.0, 7), [],
        "Pods chosen to be removed, by preemption.";
    PreemptionAttempts: "scheduler_preemption_attempts_total", Kind::Counter, [],
        "Attempts to make room by removing pods.";
    PendingPods: "scheduler_pending_pods", Kind::Gauge, ["queue"],
        "Pods that wait, by queue.";
    PodSchedulingSli: "scheduler_pod_scheduling_sli_duration_seconds", exponential(0.01, 2.0, 20), ["attempts"],
        "Time from a pod's first attempt until it is bound.";
    PodSchedulingAttempts: "scheduler_pod_scheduling_attempts", exponential(1.0, 2.0, 5), [],
        "Attempts it took to bind a pod.";
    ExtensionPointDuration: "scheduler_framework_extension_point_duration_seconds", exponential(0.0001, 2.0, 12), ["extension_point", "status", "profile"],
        "Time of all plugins of an extension point.";
    IncomingPods: "scheduler_queue_incoming_pods_total", Kind::Counter, ["queue", "event"],
        "Pods put into queues, by the event that did it.";
    CacheSize: "scheduler_cache_size", Kind::Gauge, ["type"],
        "Nodes, pods and assumed pods that are known.";
    UnschedulablePods: "scheduler_unschedulable_pods", Kind::Gauge, ["plugin", "profile"],
        "Pods that wait because a plugin refused them.";
    EventHandling: "scheduler_event_handling_duration_seconds", exponential(0.0001, 2.0, 12), ["event"],
        "Time that taking in a change took.";
    Goroutines: "scheduler_goroutines", Kind::Gauge, ["operation"],
        "Work underway, by operation.";
    PreemptionGoroutines: "scheduler_preemption_goroutines_execution_total", Kind::Counter, ["result"],
        "Removals carried out, by result.";
    ScheduledAfterFlush: "scheduler_pod_scheduled_after_flush_total", Kind::Counter, [],
        "Pods scheduled that were tried again only because they had waited too long.";
    PermitWait: "scheduler_permit_wait_duration_seconds", linear(0.001, 0.001, 15), ["result"],
        "Time that pods waited for permission.";
}

#[derive(Clone, Debug, Default)]
struct Series {
    /// The number, or the sum of a histogram.
    value: f64,
    count: u64,
    buckets: Vec<u64>,
}

/// A family's place and the values of its labels.
type Key = (usize, Vec<Box<str>>);

/// All metrics of one scheduler.
#[derive(Default)]
pub struct Metrics {
    series: Mutex<BTreeMap<Key, Series>>,
}

impl Metrics {
    fn with(&self, id: Id, labels: &[&str], change: impl FnOnce(&mut Series)) {
        let mut all = self.series.lock();
        let key = (id as usize, labels.iter().map(|label| Box::from(*label)).collect());
        if all.len() >= MAX_SERIES && !all.contains_key(&key) {
            return;
        }
        change(all.entry(key).or_default());
    }

    pub fn add(&self, id: Id, labels: &[&str], by: f64) {
        self.with(id, labels, |series| series.value += by);
    }

    pub fn set(&self, id: Id, labels: &[&str], to: f64) {
        self.with(id, labels, |series| series.value = to);
    }

    /// Counts one value of a histogram; seconds where it is a time.
    pub fn observe(&self, id: Id, labels: &[&str], value: f64) {
        let Kind::Histogram(buckets) = FAMILIES[id as usize].kind else { return };
        self.with(id, labels, |series| {
            series.buckets.resize(buckets.count, 0);
            series.value += value;
            series.count += 1;
            for (counted, bound) in series.buckets.iter_mut().zip(bounds(buckets)) {
                if value <= bound {
                    *counted += 1;
                }
            }
        });
    }

    /// The value of a counter or gauge, or how often a histogram was told.
    pub fn get(&self, id: Id, labels: &[&str]) -> f64 {
        let key = (id as usize, labels.iter().map(|label| Box::from(*label)).collect());
        let histogram = matches!(FAMILIES[id as usize].kind, Kind::Histogram(_));
        self.series.lock().get(&key).map_or(0.0, |series| if histogram { series.count as f64 } else { series.value })
    }

    /// The exposition text (Prometheus text format 0.0.4).
    pub fn render(&self) -> String {
        let mut text = String::new();
        let all = self.series.lock();
        for (place, family) in FAMILIES.iter().enumerate() {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", family.name, family.help, family.name);
            for ((_, values), series) in all.range((place, Vec::new())..(place + 1, Vec::new())) {
                series.write(&mut text, family, values);
            }
        }
        text
    }
}

fn bounds(buckets: Buckets) -> impl Iterator<Item = f64> {
    (0..buckets.count).scan(buckets.first, move |bound, _| {
        let now = *bound;
        *bound = *bound * buckets.factor + buckets.step;
        Some(now)
    })
}

impl Series {
    fn write(&self, text: &mut String, family: &Family, values: &[Box<str>]) {
        let pairs: Vec<String> = family.labels.iter().zip(values).map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let braced = |extra: Option<String>| {
            let all: Vec<String> = pairs.iter().cloned().chain(extra).collect();
            if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
        };
        let Kind::Histogram(buckets) = family.kind else {
            let _ = writeln!(text, "{}{} {}", family.name, braced(None), self.value);
            return;
        };
        for (count, bound) in self.buckets.iter().zip(bounds(buckets)) {
            let _ = writeln!(text, "{}_bucket{} {count}", family.name, braced(Some(format!("le=\"{bound}\""))));
        }
        let _ = writeln!(text, "{}_bucket{} {}", family.name, braced(Some("le=\"+Inf\"".to_owned())), self.count);
        let _ = writeln!(text, "{}_sum{} {}\n{}_count{} {}", family.name, braced(None), self.value, family.name, braced(None), self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_told_in_the_text_format() {
        let metrics = Metrics::default();
        metrics.add(Id::ScheduleAttempts, &["scheduled", "default-scheduler"], 2.0);
        metrics.observe(Id::PodSchedulingAttempts, &[], 3.0);
        let text = metrics.render();
        for line in [
            "# TYPE scheduler_schedule_attempts_total counter",
            "scheduler_schedule_attempts_total{result=\"scheduled\",profile=\"default-scheduler\"} 2",
            "scheduler_pod_scheduling_attempts_bucket{le=\"2\"} 0",
            "scheduler_pod_scheduling_attempts_bucket{le=\"4\"} 1",
            "scheduler_pod_scheduling_attempts_sum 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
    }
}
