//! What the kubelet counts of itself, by upstream's names: counters, gauges and histograms.
//!
//! Knows no part of the kubelet: each says what its series are ([`Family`]) and counts them here.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::stats::exposition::Page;

/// The series that are kept at most; what would be one more is not counted.
const MAX_SERIES: usize = 20_000;
/// Prometheus' usual bounds, in seconds.
pub const DEFAULT_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// Series of one name.
#[derive(Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

#[derive(Clone, Debug)]
enum Value {
    Number(f64),
    /// Counts by bucket (each without those below), the sum.
    Distribution(Vec<u64>, f64),
}

struct Series {
    family: &'static Family,
    values: BTreeMap<Vec<String>, Value>,
}

/// All series. Clones are the same.
#[derive(Clone, Default)]
pub struct Metrics {
    series: Arc<Mutex<BTreeMap<&'static str, Series>>>,
}

impl Metrics {
    fn change(&self, family: &'static Family, labels: &[&str], change: impl FnOnce(&mut Value)) {
        let mut all = self.series.lock();
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let is_known = all.get(family.name).is_some_and(|series| series.values.contains_key(&labels));
        if !is_known && all.values().map(|series| series.values.len()).sum::<usize>() >= MAX_SERIES {
            return;
        }
        let series = all.entry(family.name).or_insert_with(|| Series { family, values: BTreeMap::new() });
        let value = series.values.entry(labels).or_insert_with(|| match family.kind {
            Kind::Counter | Kind::Gauge => Value::Number(0.0),
            Kind::Histogram(bounds) => Value::Distribution(vec![0; bounds.len() + 1], 0.0),
        });
        change(value);
    }

    /// Adds to a counter; with zero, the series is there from now on.
    pub fn add(&self, family: &'static Family, labels: &[&str], more: u32) {
        self.change(family, labels, |value| {
            if let Value::Number(number) = value {
                *number += f64::from(more);
            }
        });
    }

    pub fn count(&self, family: &'static Family, labels: &[&str]) {
        self.add(family, labels, 1);
    }

    /// Shows a family without labels before anything has happened.
    pub fn begin(&self, family: &'static Family) {
        self.change(family, &[], |_| {});
    }

    /// Sets a gauge.
    pub fn set(&self, family: &'static Family, labels: &[&str], to: f64) {
        self.change(family, labels, |value| *value = Value::Number(to));
    }

    /// Takes series of a family away that are not there any more.
    pub fn keep(&self, family: &'static Family, keep: impl Fn(&[String]) -> bool) {
        if let Some(series) = self.series.lock().get_mut(family.name) {
            series.values.retain(|labels, _| keep(labels));
        }
    }

    /// Puts a value into a histogram.
    pub fn observe(&self, family: &'static Family, labels: &[&str], observed: f64) {
        let Kind::Histogram(bounds) = family.kind else { return };
        self.change(family, labels, |value| {
            if let Value::Distribution(counts, sum) = value {
                let bucket = bounds.iter().position(|bound| observed <= *bound).unwrap_or(bounds.len());
                counts[bucket] += 1;
                *sum += observed;
            }
        });
    }

    /// The value of a counter or gauge.
    #[cfg(test)]
    pub fn number(&self, family: &'static Family, labels: &[&str]) -> Option<f64> {
        let all = self.series.lock();
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        match all.get(family.name)?.values.get(&labels)? {
            Value::Number(number) => Some(*number),
            Value::Distribution(..) => None,
        }
    }

    /// All series as scrapers read them.
    pub fn render(&self) -> String {
        let mut page = Page::default();
        for series in self.series.lock().values() {
            render(&mut page, series);
        }
        page.into_text()
    }
}

/// A count as a sample; beyond 2^53 it is near enough.
fn sample(count: u64) -> f64 {
    count as f64
}

fn render(page: &mut Page, series: &Series) {
    let Family { name, kind, help, labels: names } = series.family;
    let help = format!("[ALPHA] {help}");
    let labelled = |values: &'_ [String]| -> Vec<(String, String)> {
        names.iter().map(|name| (*name).to_owned()).zip(values.iter().cloned()).collect()
    };
    let Kind::Histogram(bounds) = kind else {
        let mut family = page.family(name, if *kind == Kind::Counter { "counter" } else { "gauge" }, &help);
        for (labels, value) in &series.values {
            let Value::Number(number) = value else { continue };
            family.sample(&borrowed(&labelled(labels)), *number, None);
        }
        return;
    };
    let mut family = page.family(name, "histogram", &help);
    for (labels, value) in &series.values {
        let Value::Distribution(counts, sum) = value else { continue };
        let mut below = 0;
        let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts) {
            below += count;
            let mut with_bound = labelled(labels);
            with_bound.push(("le".to_owned(), bound));
            family.suffixed("_bucket", &borrowed(&with_bound), sample(below));
        }
        family.suffixed("_sum", &borrowed(&labelled(labels)), *sum);
        family.suffixed("_count", &borrowed(&labelled(labels)), sample(below));
    }
}

fn borrowed(labels: &[(String, String)]) -> Vec<(&str, &str)> {
    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    static TRIES: Family = Family { name: "tries_total", kind: Kind::Counter, help: "Tries.", labels: &["who"] };
    static TIME: Family = Family { name: "time_seconds", kind: Kind::Histogram(&[0.5, 1.0]), help: "Time.", labels: &[] };

    #[test]
    fn series_are_rendered_with_their_buckets() {
        let metrics = Metrics::default();
        metrics.count(&TRIES, &["a"]);
        metrics.count(&TRIES, &["a"]);
        metrics.add(&TRIES, &["b"], 0);
        metrics.observe(&TIME, &[], 0.5);
        metrics.observe(&TIME, &[], 3.0);
        assert_eq!(
            metrics.render(),
            "# HELP time_seconds [ALPHA] Time.\n# TYPE time_seconds histogram\n\
             time_seconds_bucket{le=\"0.5\"} 1\ntime_seconds_bucket{le=\"1\"} 1\ntime_seconds_bucket{le=\"+Inf\"} 2\n\
             time_seconds_sum 3.5\ntime_seconds_count 2\n\
             # HELP tries_total [ALPHA] Tries.\n# TYPE tries_total counter\ntries_total{who=\"a\"} 2\ntries_total{who=\"b\"} 0\n"
        );
        metrics.keep(&TRIES, |labels| labels == ["b"]);
        assert_eq!((metrics.number(&TRIES, &["a"]), metrics.number(&TRIES, &["b"])), (None, Some(0.0)));
    }
}
