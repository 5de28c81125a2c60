//! What kube-proxy counts, under upstream's names, and the text in which it is told.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::Mode;
use netfilter::family::Family;

/// A number that goes up.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }
}

/// A number that was something else before. Kept as the bits of an `f64`.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// The current time, in seconds.
    pub fn set_now(&self) {
        self.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// How long things took, in seconds.
pub struct Histogram {
    /// Upper bounds, rising.
    bounds: Vec<f64>,
    counts: Vec<AtomicU64>,
    total: AtomicU64,
    sum_ns: AtomicU64,
}

impl Histogram {
    fn new(bounds: Vec<f64>) -> Histogram {
        let counts = bounds.iter().map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, total: AtomicU64::new(0), sum_ns: AtomicU64::new(0) }
    }

    /// From a millisecond to sixteen seconds, each twice the one before.
    fn doubling() -> Histogram {
        Histogram::new((0..15).map(|power| 0.001 * f64::from(1u32 << power)).collect())
    }

    /// Upstream's bounds for what takes up to five minutes.
    fn programming() -> Histogram {
        let bounds = [0.25, 0.5].into_iter();
        let seconds =
            (1..60).map(f64::from).chain((0..12).map(|n| 60.0 + 5.0 * f64::from(n))).chain((0..7).map(|n| 120.0 + 30.0 * f64::from(n)));
        Histogram::new(bounds.chain(seconds).collect())
    }

    pub fn observe(&self, duration: Duration) {
        let place = self.bounds.partition_point(|bound| *bound < duration.as_secs_f64());
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.total.fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What is counted for each family.
pub struct OfFamily {
    pub sync: Histogram,
    pub full_sync: Histogram,
    pub partial_sync: Histogram,
    pub network_programming: Histogram,
    pub conntrack_sync: Histogram,
    pub conntrack_deleted: Counter,
    pub last_sync: Gauge,
    pub last_queued: Gauge,
    pub restore_failures: Counter,
    pub partial_restore_failures: Counter,
    pub nftables_failures: Counter,
    pub nftables_cleanup_failures: Counter,
    pub filter_rules: Gauge,
    pub nat_rules: Gauge,
    pub filter_rules_last: Gauge,
    pub nat_rules_last: Gauge,
    pub no_local_internal: Gauge,
    pub no_local_external: Gauge,
}

impl OfFamily {
    fn new() -> OfFamily {
        OfFamily {
            sync: Histogram::doubling(),
            full_sync: Histogram::doubling(),
            partial_sync: Histogram::doubling(),
            network_programming: Histogram::programming(),
            conntrack_sync: Histogram::doubling(),
            conntrack_deleted: Counter::default(),
            last_sync: Gauge::default(),
            last_queued: Gauge::default(),
            restore_failures: Counter::default(),
            partial_restore_failures: Counter::default(),
            nftables_failures: Counter::default(),
            nftables_cleanup_failures: Counter::default(),
            filter_rules: Gauge::default(),
            nat_rules: Gauge::default(),
            filter_rules_last: Gauge::default(),
            nat_rules_last: Gauge::default(),
            no_local_internal: Gauge::default(),
            no_local_external: Gauge::default(),
        }
    }
}

/// A label beside the family's, and the gauge that it belongs to.
type Labelled = (&'static str, fn(&OfFamily) -> &Gauge);

/// All metrics of this process.
pub struct Metrics {
    families: [OfFamily; 2],
    pub endpoint_changes_pending: Gauge,
    pub endpoint_changes: Gauge,
    pub service_changes_pending: Gauge,
    pub service_changes: Gauge,
    healthz: [Counter; 2],
    livez: [Counter; 2],
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            families: [OfFamily::new(), OfFamily::new()],
            endpoint_changes_pending: Gauge::default(),
            endpoint_changes: Gauge::default(),
            service_changes_pending: Gauge::default(),
            service_changes: Gauge::default(),
            healthz: Default::default(),
            livez: Default::default(),
        }
    }
}

impl Metrics {
    pub fn of(&self, family: Family) -> &OfFamily {
        &self.families[usize::from(family == Family::V6)]
    }

    pub fn healthz(&self, healthy: bool) {
        self.healthz[usize::from(!healthy)].add(1);
    }

    pub fn livez(&self, healthy: bool) {
        self.livez[usize::from(!healthy)].add(1);
    }

    /// The exposition text, with the metrics that a mode has.
    pub fn render(&self, mode: Mode) -> String {
        let mut text = Text::default();
        let p = |name: &str| format!("kubeproxy_{name}");
        text.histograms(&p("sync_proxy_rules_duration_seconds"), "SyncProxyRules latency in seconds", self, |m| &m.sync);
        if mode != Mode::Ipvs {
            text.histograms(
                &p("sync_full_proxy_rules_duration_seconds"),
                "SyncProxyRules latency in seconds for full resyncs",
                self,
                |m| &m.full_sync,
            );
            text.histograms(
                &p("sync_partial_proxy_rules_duration_seconds"),
                "SyncProxyRules latency in seconds for partial resyncs",
                self,
                |m| &m.partial_sync,
            );
        }
        text.histograms(&p("network_programming_duration_seconds"), "In Cluster Network Programming Latency in seconds", self, |m| {
            &m.network_programming
        });
        text.histograms(&p("conntrack_reconciler_sync_duration_seconds"), "ReconcileConntrackFlowsLatency latency in seconds", self, |m| {
            &m.conntrack_sync
        });
        text.gauges(
            &p("sync_proxy_rules_last_timestamp_seconds"),
            "The last time proxy rules were successfully synced",
            self,
            &[("", |m| &m.last_sync)],
        );
        text.gauges(
            &p("sync_proxy_rules_last_queued_timestamp_seconds"),
            "The last time a sync of proxy rules was queued",
            self,
            &[("", |m| &m.last_queued)],
        );
        let no_local: [Labelled; 2] =
            [("traffic_policy=\"external\"", |m| &m.no_local_external), ("traffic_policy=\"internal\"", |m| &m.no_local_internal)];
        text.gauges(
            &p("sync_proxy_rules_no_local_endpoints_total"),
            "Number of services with a Local traffic policy and no endpoints",
            self,
            &no_local,
        );
        text.counters(
            &p("conntrack_reconciler_deleted_entries_total"),
            "Cumulative conntrack flows deleted by conntrack reconciler",
            self,
            |m| &m.conntrack_deleted,
        );
        if mode == Mode::Iptables {
            text.counters(
                &p("sync_proxy_rules_iptables_partial_restore_failures_total"),
                "Cumulative proxy iptables partial restore failures",
                self,
                |m| &m.partial_restore_failures,
            );
            let total: [Labelled; 2] = [("table=\"filter\"", |m| &m.filter_rules), ("table=\"nat\"", |m| &m.nat_rules)];
            text.gauges(&p("sync_proxy_rules_iptables_total"), "Total number of iptables rules owned by kube-proxy", self, &total);
            let last: [Labelled; 2] = [("table=\"filter\"", |m| &m.filter_rules_last), ("table=\"nat\"", |m| &m.nat_rules_last)];
            text.gauges(&p("sync_proxy_rules_iptables_last"), "Number of iptables rules written by kube-proxy in last sync", self, &last);
        }
        if mode != Mode::Nftables {
            text.counters(
                &p("sync_proxy_rules_iptables_restore_failures_total"),
                "Cumulative proxy iptables restore failures",
                self,
                |m| &m.restore_failures,
            );
        } else {
            text.counters(&p("sync_proxy_rules_nftables_sync_failures_total"), "Cumulative proxy nftables sync failures", self, |m| {
                &m.nftables_failures
            });
            text.counters(
                &p("sync_proxy_rules_nftables_cleanup_failures_total"),
                "Cumulative proxy nftables cleanup failures",
                self,
                |m| &m.nftables_cleanup_failures,
            );
        }
        text.single(
            &p("sync_proxy_rules_endpoint_changes_pending"),
            "Pending proxy rules Endpoint changes",
            "gauge",
            &self.endpoint_changes_pending,
        );
        text.single(
            &p("sync_proxy_rules_endpoint_changes_total"),
            "Cumulative proxy rules Endpoint changes",
            "counter",
            &self.endpoint_changes,
        );
        text.single(
            &p("sync_proxy_rules_service_changes_pending"),
            "Pending proxy rules Service changes",
            "gauge",
            &self.service_changes_pending,
        );
        text.single(
            &p("sync_proxy_rules_service_changes_total"),
            "Cumulative proxy rules Service changes",
            "counter",
            &self.service_changes,
        );
        text.codes(&p("proxy_healthz_total"), "Cumulative proxy healthz HTTP status", &self.healthz);
        text.codes(&p("proxy_livez_total"), "Cumulative proxy livez HTTP status", &self.livez);
        text.0
    }
}

/// Text format 0.0.4. Writing to a String cannot fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} [ALPHA] {help}\n# TYPE {name} {kind}");
    }

    fn histograms(&mut self, name: &str, help: &str, metrics: &Metrics, of: fn(&OfFamily) -> &Histogram) {
        self.head(name, help, "histogram");
        for family in Family::ALL {
            let histogram = of(metrics.of(family));
            let total = histogram.total.load(Ordering::Relaxed);
            if total == 0 {
                continue;
            }
            let mut so_far = 0;
            for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
                so_far += count.load(Ordering::Relaxed);
                let _ = writeln!(self.0, "{name}_bucket{{ip_family=\"{family}\",le=\"{bound}\"}} {so_far}");
            }
            let sum = Duration::from_nanos(histogram.sum_ns.load(Ordering::Relaxed)).as_secs_f64();
            let _ = writeln!(self.0, "{name}_bucket{{ip_family=\"{family}\",le=\"+Inf\"}} {total}");
            let _ = writeln!(self.0, "{name}_sum{{ip_family=\"{family}\"}} {sum}\n{name}_count{{ip_family=\"{family}\"}} {total}");
        }
    }

    fn gauges(&mut self, name: &str, help: &str, metrics: &Metrics, of: &[Labelled]) {
        self.head(name, help, "gauge");
        for family in Family::ALL {
            for (label, of) in of {
                let comma = if label.is_empty() { "" } else { "," };
                let _ = writeln!(self.0, "{name}{{ip_family=\"{family}\"{comma}{label}}} {}", of(metrics.of(family)).get());
            }
        }
    }

    fn counters(&mut self, name: &str, help: &str, metrics: &Metrics, of: fn(&OfFamily) -> &Counter) {
        self.head(name, help, "counter");
        for family in Family::ALL {
            let _ = writeln!(self.0, "{name}{{ip_family=\"{family}\"}} {}", of(metrics.of(family)).0.load(Ordering::Relaxed));
        }
    }

    fn single(&mut self, name: &str, help: &str, kind: &str, gauge: &Gauge) {
        self.head(name, help, kind);
        let _ = writeln!(self.0, "{name} {}", gauge.get());
    }

    fn codes(&mut self, name: &str, help: &str, counters: &[Counter; 2]) {
        self.head(name, help, "counter");
        for (code, counter) in ["200", "503"].iter().zip(counters) {
            let _ = writeln!(self.0, "{name}{{code=\"{code}\"}} {}", counter.0.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_below_their_bounds() {
        let metrics = Metrics::default();
        metrics.of(Family::V4).sync.observe(Duration::from_millis(3));
        metrics.of(Family::V4).sync.observe(Duration::from_secs(100));
        let text = metrics.render(Mode::Iptables);
        assert!(text.contains("kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.002\"} 0"), "{text}");
        assert!(text.contains("kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.004\"} 1"));
        assert!(text.contains("kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"+Inf\"} 2"));
        assert!(text.contains("kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv4\",table=\"nat\"} 0"));
        assert!(!text.contains("nftables"));
    }
}
