//! What the scheduler counts and times, under upstream's names (v1.37).
//!
//! A series is a family's name and the values of its labels; families and their labels stand in one table. Whoever serves HTTP
//! asks for [`Metrics::render`].

use std::collections::HashMap;
use std::fmt::Write;

use client::metrics::{Number, escaped};
use parking_lot::Mutex;

/// Series that are kept; more are not counted, so that memory stays bounded.
const MAX_SERIES: usize = 2048;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    Histogram(Buckets),
}

/// Bounds of buckets: the first, and the factor to the next.
#[derive(Clone, Copy, PartialEq)]
struct Buckets {
    first: f64,
    factor: f64,
    count: usize,
}

const fn exponential(first: f64, factor: f64, count: usize) -> Kind {
    Kind::Histogram(Buckets { first, factor, count })
}

/// How far upstream promises to keep a family as it is; it stands before its description.
#[derive(Clone, Copy)]
enum Stability {
    Alpha,
    Beta,
    Stable,
}
use Stability::{Alpha, Beta, Stable};

/// A family of series.
struct Family {
    name: &'static str,
    stability: Stability,
    help: &'static str,
    labels: &'static [&'static str],
    kind: Kind,
}

macro_rules! families {
    ($($id:ident: $name:literal, $stability:expr, $kind:expr, [$($label:literal),*], $help:literal;)*) => {
        /// The families, by what they count.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Id { $($id),* }

        static FAMILIES: &[Family] =
            &[$(Family { name: $name, stability: $stability, help: $help, labels: &[$($label),*], kind: $kind }),*];
    };
}

families! {
    ScheduleAttempts: "scheduler_schedule_attempts_total", Stable, Kind::Counter, ["result", "profile"],
        "Attempts to schedule pods, by result.";
    AttemptDuration: "scheduler_scheduling_attempt_duration_seconds", Stable, exponential(0.001, 2.0, 15), ["result", "profile"],
        "Time of an attempt: algorithm and binding.";
    AlgorithmDuration: "scheduler_scheduling_algorithm_duration_seconds", Beta, exponential(0.001, 2.0, 15), [],
        "Time that finding a node took.";
    PreemptionVictims: "scheduler_preemption_victims", Stable, exponential(1.0, 2.0, 7), [],
        "Pods chosen to be removed, by preemption.";
    PreemptionAttempts: "scheduler_preemption_attempts_total", Stable, Kind::Counter, [],
        "Attempts to make room by removing pods.";
    PendingPods: "scheduler_pending_pods", Stable, Kind::Gauge, ["queue"],
        "Pods that wait, by queue.";
    QueuedEntities: "scheduler_queued_entities", Alpha, Kind::Gauge, ["queue", "type"],
        "Pods, and groups of pods, that wait, by queue.";
    InFlightEvents: "scheduler_inflight_events", Alpha, Kind::Gauge, ["event"],
        "Pods that are being scheduled or bound. Other events are never underway: each is dealt with at once.";
    PodSchedulingSli: "scheduler_pod_scheduling_sli_duration_seconds", Beta, exponential(0.01, 2.0, 20), ["attempts"],
        "Time from a pod's first attempt until it is bound.";
    PodSchedulingAttempts: "scheduler_pod_scheduling_attempts", Stable, exponential(1.0, 2.0, 5), [],
        "Attempts it took to bind a pod.";
    ScheduledAfterFlush: "scheduler_pod_scheduled_after_flush_total", Alpha, Kind::Counter, [],
        "Pods scheduled that were tried again only because they had waited too long.";
    ExtensionPointDuration: "scheduler_framework_extension_point_duration_seconds", Stable, exponential(0.0001, 2.0, 12), ["extension_point", "status", "profile"],
        "Time of all plugins of an extension point.";
    PluginDuration: "scheduler_plugin_execution_duration_seconds", Beta, exponential(0.00001, 1.5, 20), ["plugin", "extension_point", "status"],
        "Time of one plugin at an extension point, in a tenth of the attempts.";
    PluginEvaluations: "scheduler_plugin_evaluation_total", Beta, Kind::Counter, ["plugin", "extension_point", "profile"],
        "How often plugins were asked. Answers that were known from a pod that is alike are not asked for again.";
    HintDuration: "scheduler_queueing_hint_execution_duration_seconds", Alpha, exponential(0.00001, 1.5, 20), ["plugin", "event", "hint"],
        "Time that it took to tell whether an event may help a pod that waits.";
    IncomingPods: "scheduler_queue_incoming_pods_total", Stable, Kind::Counter, ["queue", "event"],
        "Pods put into queues, by the event that did it.";
    IncomingEntities: "scheduler_queue_incoming_entities_total", Alpha, Kind::Counter, ["queue", "event", "type"],
        "Pods, and groups of pods, put into queues, by the event that did it.";
    Goroutines: "scheduler_goroutines", Beta, Kind::Gauge, ["operation"],
        "Work underway, by operation.";
    CacheSize: "scheduler_cache_size", Alpha, Kind::Gauge, ["type"],
        "Nodes, pods and assumed pods that are known.";
    UnschedulablePods: "scheduler_unschedulable_pods", Beta, Kind::Gauge, ["plugin", "profile"],
        "Pods that wait because a plugin refused them.";
    EventHandling: "scheduler_event_handling_duration_seconds", Alpha, exponential(0.0001, 2.0, 12), ["event"],
        "Time that taking in a change took.";
    PreemptionGoroutines: "scheduler_preemption_goroutines_execution_total", Alpha, Kind::Counter, ["result"],
        "Removals carried out, by result.";
    PreemptionDuration: "scheduler_preemption_goroutines_duration_seconds", Alpha, exponential(0.01, 2.0, 20), ["result"],
        "Time that removals took.";
    VolumeErrors: "scheduler_volume_scheduling_stage_error_total", Alpha, Kind::Counter, ["operation"],
        "Failures to find, reserve or bind volumes.";
    ClaimCreates: "dynamic_resource_allocation_resourceclaim_creates_total", Alpha, Kind::Counter, ["status", "admin_access", "owner_api_group", "owner_api_kind"],
        "Claims made for extended resources.";
    DeviceWaits: "scheduler_dra_bindingconditions_allocations_total", Alpha, Kind::Counter, ["profile", "driver", "status"],
        "Attempts with devices that had to get ready before the pod was bound.";
    DeviceWait: "scheduler_dra_bindingconditions_wait_duration_seconds", Alpha, exponential(0.1, 2.0, 14), ["profile", "driver", "status"],
        "Time that devices took to get ready.";
}

#[derive(Clone, Debug, Default)]
struct Series {
    /// The number, or the sum of a histogram.
    value: f64,
    count: u64,
    /// How many values fall into each bucket and not into the one before.
    buckets: Vec<u64>,
}

/// Stands between the values of labels in the key of a series.
const BETWEEN: char = '\u{1f}';

/// The series of each family by the values of their labels.
#[derive(Default)]
struct All {
    families: Vec<HashMap<Box<str>, Series>>,
    count: usize,
    /// Where keys are put together.
    key: String,
}

impl All {
    fn key(&mut self, labels: &[&str]) {
        self.key.clear();
        for (place, label) in labels.iter().enumerate() {
            if place > 0 {
                self.key.push(BETWEEN);
            }
            self.key.push_str(label);
        }
    }

    fn with(&mut self, id: Id, labels: &[&str], change: impl FnOnce(&mut Series)) {
        self.key(labels);
        if self.families.is_empty() {
            self.families.resize_with(FAMILIES.len(), HashMap::new);
        }
        let family = &mut self.families[id as usize];
        if let Some(series) = family.get_mut(&*self.key) {
            change(series);
        } else if self.count < MAX_SERIES {
            self.count += 1;
            change(family.entry(Box::from(&*self.key)).or_default());
        }
    }
}

/// All metrics of one scheduler.
#[derive(Default)]
pub struct Metrics {
    all: Mutex<All>,
}

impl Metrics {
    pub fn add(&self, id: Id, labels: &[&str], by: f64) {
        self.all.lock().with(id, labels, |series| series.value += by);
    }

    pub fn set(&self, id: Id, labels: &[&str], to: f64) {
        self.all.lock().with(id, labels, |series| series.value = to);
    }

    /// Counts one value of a histogram; seconds where it is a time.
    pub fn observe(&self, id: Id, labels: &[&str], value: f64) {
        self.observe_all(id, labels, &[value]);
    }

    /// As [`Metrics::observe`], for several values.
    pub fn observe_all(&self, id: Id, labels: &[&str], values: &[f64]) {
        let Kind::Histogram(buckets) = FAMILIES[id as usize].kind else { return };
        self.all.lock().with(id, labels, |series| {
            series.buckets.resize(buckets.count, 0);
            for value in values {
                series.value += value;
                series.count += 1;
                let bucket = bounds(buckets).zip(series.buckets.iter_mut()).find(|(bound, _)| value <= bound);
                if let Some((_, counted)) = bucket {
                    *counted += 1;
                }
            }
        });
    }

    /// The value of a counter or gauge, or how often a histogram was told.
    pub fn get(&self, id: Id, labels: &[&str]) -> f64 {
        let histogram = matches!(FAMILIES[id as usize].kind, Kind::Histogram(_));
        let mut all = self.all.lock();
        all.key(labels);
        let series = all.families.get(id as usize).and_then(|family| family.get(&*all.key));
        series.map_or(0.0, |series| if histogram { series.count as f64 } else { series.value })
    }

    /// The exposition text (Prometheus text format 0.0.4). As with upstream, what has no labels is there from the beginning, and the rest as soon as
    /// there is something to count.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let all = self.all.lock();
        let nothing = HashMap::new();
        for (place, family) in FAMILIES.iter().enumerate() {
            let mut series: Vec<(&str, &Series)> =
                all.families.get(place).unwrap_or(&nothing).iter().map(|(key, series)| (&**key, series)).collect();
            series.sort_unstable_by_key(|(key, _)| *key);
            let zero = family.zero();
            if series.is_empty() && family.labels.is_empty() {
                series.push(("", &zero));
            }
            if series.is_empty() {
                continue;
            }
            let (kind, stability) = (family.kind_name(), family.stability_name());
            let _ = writeln!(text, "# HELP {} [{stability}] {}\n# TYPE {} {kind}", family.name, family.help, family.name);
            for (key, series) in series {
                series.write(&mut text, family, key);
            }
        }
        text
    }
}

impl Family {
    fn zero(&self) -> Series {
        let buckets = if let Kind::Histogram(buckets) = self.kind { vec![0; buckets.count] } else { Vec::new() };
        Series { buckets, ..Series::default() }
    }

    fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }

    fn stability_name(&self) -> &'static str {
        match self.stability {
            Alpha => "ALPHA",
            Beta => "BETA",
            Stable => "STABLE",
        }
    }
}

fn bounds(buckets: Buckets) -> impl Iterator<Item = f64> {
    (0..buckets.count).scan(buckets.first, move |bound, _| {
        let now = *bound;
        *bound *= buckets.factor;
        Some(now)
    })
}

impl Series {
    fn write(&self, text: &mut String, family: &Family, key: &str) {
        let pairs: Vec<String> =
            family.labels.iter().zip(key.split(BETWEEN)).map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let braced = |extra: Option<String>| {
            let all: Vec<String> = pairs.iter().cloned().chain(extra).collect();
            if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
        };
        let (name, value) = (family.name, Number(self.value));
        let Kind::Histogram(buckets) = family.kind else {
            let _ = writeln!(text, "{name}{} {value}", braced(None));
            return;
        };
        let mut sum = 0;
        for (count, bound) in self.buckets.iter().zip(bounds(buckets)) {
            sum += count;
            let _ = writeln!(text, "{name}_bucket{} {sum}", braced(Some(format!("le=\"{}\"", Number(bound)))));
        }
        let _ = writeln!(text, "{name}_bucket{} {}", braced(Some("le=\"+Inf\"".to_owned())), self.count);
        let _ = writeln!(text, "{name}_sum{} {value}\n{name}_count{} {}", braced(None), braced(None), self.count);
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
        metrics.observe(Id::PluginDuration, &["NodePorts", "Filter", "Success"], 0.000_012);
        let text = metrics.render();
        for line in [
            "# HELP scheduler_schedule_attempts_total [STABLE] Attempts to schedule pods, by result.",
            "# TYPE scheduler_schedule_attempts_total counter",
            "scheduler_schedule_attempts_total{result=\"scheduled\",profile=\"default-scheduler\"} 2",
            "scheduler_pod_scheduling_attempts_bucket{le=\"2\"} 0",
            "scheduler_pod_scheduling_attempts_bucket{le=\"4\"} 1",
            "scheduler_pod_scheduling_attempts_bucket{le=\"16\"} 1",
            "scheduler_pod_scheduling_attempts_bucket{le=\"+Inf\"} 1",
            "scheduler_pod_scheduling_attempts_sum 3",
            "scheduler_preemption_attempts_total 0",
            "scheduler_plugin_execution_duration_seconds_bucket{plugin=\"NodePorts\",extension_point=\"Filter\",status=\"Success\",le=\"1e-05\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
        assert!(!text.contains("scheduler_pending_pods"), "what has labels is not there before it is counted: {text}");
    }

    #[test]
    fn numbers_look_as_in_go() {
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.001, "0.001"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (0.000_022_5, "2.25e-05"),
            (1_000_000.0, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (999_999.0, "999999"),
            (16.384, "16.384"),
            (-2.5, "-2.5"),
        ] {
            assert_eq!(Number(value).to_string(), expected);
        }
    }

    /// What upstream's `metrics.go` and the packages that it registers define for the default gates (v1.37.2), but for those about batches of
    /// pods that are alike, about permission to bind and about hints before hints, for which there is nothing to count here.
    #[test]
    fn buckets_end_where_upstreams_do() {
        for (id, last) in [
            (Id::AttemptDuration, 16.384),
            (Id::PodSchedulingSli, 5242.88),
            (Id::ExtensionPointDuration, 0.2048),
            (Id::PreemptionVictims, 64.0),
            (Id::DeviceWait, 819.2),
        ] {
            let Kind::Histogram(buckets) = FAMILIES[id as usize].kind else { panic!("{id:?} has no buckets") };
            assert_eq!(bounds(buckets).last(), Some(last), "{id:?}");
        }
    }
}
