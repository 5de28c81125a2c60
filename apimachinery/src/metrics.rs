//! What components count and time: families of series under upstream's names, and the text in which they are told.
//!
//! A family is a static; a process has one of each, as upstream's registry has. What happens often costs a few atomic additions: a
//! series whose labels are known beforehand is asked for once and kept. Nothing here decides anything, so that a simulation that runs
//! several components in one process does the same with and without.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

/// Series that a family keeps; what comes under further labels is counted and not told, so that memory stays bounded.
pub const MAX_SERIES: usize = 2048;

/// One series: what is counted under one set of labels.
pub trait Series: Send + Sync + Sized + 'static {
    const KIND: &'static str;

    fn new(buckets: Buckets) -> Self;

    /// Writes the series' samples; `labels` are those of the series as the text has them, without braces.
    fn write(&self, out: &mut String, name: &str, labels: &str);
}

/// A number that only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that was something else before; the bits of an `f64`.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    pub fn add(&self, by: f64) {
        add(&self.0, by);
    }

    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// How values are distributed; times are in seconds.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, rising, the last without end, each with the number of values that are above the bound before and not above this one.
    /// How many there were at all is their sum and counted nowhere else, so that whoever reads meanwhile finds no contradiction.
    counts: Box<[(f64, AtomicU64)]>,
    sum: AtomicU64,
}

impl Histogram {
    pub fn of(buckets: Buckets) -> Histogram {
        let bounds = buckets.bounds().into_iter().chain([f64::INFINITY]);
        Histogram { counts: bounds.map(|bound| (bound, AtomicU64::new(0))).collect(), sum: AtomicU64::new(0) }
    }

    pub fn observe(&self, value: f64) {
        // What is no number is above all bounds.
        let place = self.counts.partition_point(|(bound, _)| *bound < value).min(self.counts.len() - 1);
        self.counts[place].1.fetch_add(1, Ordering::Relaxed);
        add(&self.sum, value);
    }

    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }

    pub fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Ordering::Relaxed))
    }
}

fn add(bits: &AtomicU64, by: f64) {
    // It never refuses, so it never fails.
    let _ = bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some((f64::from_bits(old) + by).to_bits()));
}

/// The upper bounds of a histogram's buckets, but for the last, which has none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Buckets {
    /// Of a family that is no histogram.
    None,
    /// The first, the factor from one to the next, and how many.
    Exponential(f64, f64, usize),
    Listed(&'static [f64]),
}

impl Buckets {
    pub fn bounds(self) -> Vec<f64> {
        match self {
            Buckets::None => Vec::new(),
            Buckets::Exponential(first, factor, count) => {
                std::iter::successors(Some(first), |bound| Some(bound * factor)).take(count).collect()
            }
            Buckets::Listed(bounds) => bounds.to_vec(),
        }
    }
}

impl Series for Counter {
    const KIND: &'static str = "counter";

    fn new(_: Buckets) -> Counter {
        Counter::default()
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        sample(out, name, labels, self.get() as f64);
    }
}

impl Series for Gauge {
    const KIND: &'static str = "gauge";

    fn new(_: Buckets) -> Gauge {
        Gauge::default()
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        sample(out, name, labels, self.get());
    }
}

impl Series for Histogram {
    const KIND: &'static str = "histogram";

    fn new(buckets: Buckets) -> Histogram {
        Histogram::of(buckets)
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let counts = self.counts.iter().map(|(bound, count)| (*bound, count.load(Ordering::Relaxed)));
        distribution(out, name, labels, counts, self.sum());
    }
}

/// A histogram's lines. `counts` are the upper bounds, the last without end, each with the number of values since the bound before.
pub fn distribution(out: &mut String, name: &str, labels: &str, counts: impl Iterator<Item = (f64, u64)>, sum: f64) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut total = 0;
    // Writing to a String cannot fail, here and below.
    for (bound, count) in counts {
        total += count;
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {}", Number(bound), Number(total as f64));
    }
    let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = writeln!(out, "{name}_sum{braced} {}\n{name}_count{braced} {}", Number(sum), Number(total as f64));
}

/// A sample's line.
pub fn sample(out: &mut String, name: &str, labels: &str, value: f64) {
    let _ = match labels {
        "" => writeln!(out, "{name} {}", Number(value)),
        labels => writeln!(out, "{name}{{{labels}}} {}", Number(value)),
    };
}

/// A number as Go writes it (`strconv`, format `g`), which is how the text has it.
pub struct Number(pub f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        if value.is_infinite() {
            return f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" });
        }
        let scientific = format!("{value:e}");
        let Some((digits, exponent)) = scientific.split_once('e').and_then(|(d, e)| Some((d, e.parse::<i32>().ok()?))) else {
            return f.write_str("NaN");
        };
        if !(-4..6).contains(&exponent) {
            let sign = if exponent < 0 { '-' } else { '+' };
            return write!(f, "{digits}e{sign}{:02}", exponent.unsigned_abs());
        }
        write!(f, "{value}")
    }
}

/// Labels' values as they are kept.
type Values = Box<[Box<str>]>;

/// The series of one name.
pub struct Family<S> {
    pub name: &'static str,
    /// Begins with the stability, such as `[ALPHA]`.
    pub help: &'static str,
    pub labels: &'static [&'static str],
    buckets: Buckets,
    /// Sorted by the values of the labels.
    series: RwLock<Vec<(Values, Arc<S>)>>,
    /// What comes when there is no room: one for all.
    untold: Mutex<Option<Arc<S>>>,
}

impl<S> Family<S> {
    const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str], buckets: Buckets) -> Family<S> {
        Family { name, help, labels, buckets, series: RwLock::new(Vec::new()), untold: Mutex::new(None) }
    }
}

/// A family of counters.
pub const fn counters(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family<Counter> {
    Family::new(name, help, labels, Buckets::None)
}

/// A family of gauges.
pub const fn gauges(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family<Gauge> {
    Family::new(name, help, labels, Buckets::None)
}

/// A family of histograms.
pub const fn histograms(name: &'static str, help: &'static str, labels: &'static [&'static str], buckets: Buckets) -> Family<Histogram> {
    Family::new(name, help, labels, buckets)
}

fn place<S>(series: &[(Values, Arc<S>)], values: &[&str]) -> Result<usize, usize> {
    series.binary_search_by(|(known, _)| known.iter().map(|value| &**value).cmp(values.iter().copied()))
}

impl<S: Series> Family<S> {
    /// The series with these values of the labels, in the order of the labels.
    pub fn with(&self, values: &[&str]) -> Arc<S> {
        {
            let series = self.series.read();
            if let Ok(at) = place(&series, values) {
                return series[at].1.clone();
            }
        }
        let mut series = self.series.write();
        match place(&series, values) {
            Ok(at) => series[at].1.clone(),
            Err(_) if series.len() >= MAX_SERIES => self.untold.lock().get_or_insert_with(|| Arc::new(S::new(self.buckets))).clone(),
            Err(at) => {
                let new = Arc::new(S::new(self.buckets));
                series.insert(at, (values.iter().map(|value| Box::from(*value)).collect(), new.clone()));
                new
            }
        }
    }

    /// The one series of a family without labels.
    pub fn only(&self) -> Arc<S> {
        self.with(&[])
    }

    /// Tells no more of what these values of the labels stood for.
    pub fn forget(&self, values: &[&str]) {
        let mut series = self.series.write();
        if let Ok(at) = place(&series, values) {
            series.remove(at);
        }
    }
}

/// Something that is told.
pub trait Told: Sync {
    /// Writes it, with what stands before the samples; nothing if there are none.
    fn write(&self, out: &mut String);
}

impl<S: Series> Told for Family<S> {
    fn write(&self, out: &mut String) {
        if self.labels.is_empty() {
            // It is there from the start, with nothing counted.
            self.only();
        }
        let series = self.series.read();
        if series.is_empty() {
            return;
        }
        head(out, self.name, S::KIND, self.help);
        for (values, series) in series.iter() {
            series.write(out, self.name, &pairs(self.labels, values));
        }
    }
}

/// What stands before the samples of a family; `help` begins with its stability.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value as the text has it, between its quotes.
pub fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Labels with their values, as the text has them.
pub fn pairs(labels: &[&str], values: &[impl AsRef<str>]) -> String {
    let mut text = String::new();
    for (label, value) in labels.iter().zip(values) {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{label}=\"{}\"", escaped(value.as_ref()));
    }
    text
}

type Look = Box<dyn Fn() -> Vec<(Vec<String>, f64)> + Send>;

/// A family of gauges that are looked up when somebody asks, by whoever knows them now.
pub struct LookedUp {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    look: Mutex<Option<(u64, Look)>>,
}

/// While it lives, its look is what a family tells.
pub struct Looking {
    family: &'static LookedUp,
    number: u64,
}

static LOOKS: AtomicU64 = AtomicU64::new(0);

impl LookedUp {
    pub const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> LookedUp {
        LookedUp { name, help, labels, look: Mutex::new(None) }
    }

    /// From now on and until the answer is dropped, `look` says what there is: values of the labels, and a number. Whoever comes
    /// last is asked.
    pub fn by(&'static self, look: impl Fn() -> Vec<(Vec<String>, f64)> + Send + 'static) -> Looking {
        let number = LOOKS.fetch_add(1, Ordering::Relaxed);
        *self.look.lock() = Some((number, Box::new(look)));
        Looking { family: self, number }
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        let mut look = self.family.look.lock();
        if look.as_ref().is_some_and(|(number, _)| *number == self.number) {
            *look = None;
        }
    }
}

impl Told for LookedUp {
    fn write(&self, out: &mut String) {
        let Some(mut found) = self.look.lock().as_ref().map(|(_, look)| look()) else { return };
        if found.is_empty() {
            return;
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        head(out, self.name, Gauge::KIND, self.help);
        for (values, number) in found.iter().take(MAX_SERIES) {
            sample(out, self.name, &pairs(self.labels, values), *number);
        }
    }
}

/// The text of families (Prometheus text format 0.0.4), in their order.
pub fn render(out: &mut String, told: &[&dyn Told]) {
    told.iter().for_each(|told| told.write(out));
}

#[cfg(test)]
mod tests {
    use super::*;

    static COUNTED: Family<Counter> = counters("test_total", "[ALPHA] Of a\ntest.", &["a", "b"]);
    static TIMED: Family<Histogram> = histograms("test_seconds", "[BETA] Times.", &[], Buckets::Exponential(1e-8, 10.0, 10));
    static HELD: LookedUp = LookedUp::new("test_held", "[ALPHA] Held.", &["x"]);

    #[test]
    fn families_are_told_in_the_text_format() {
        COUNTED.with(&["z", "1"]).add(2_000_000);
        COUNTED.with(&["a\"\\", "2"]).inc();
        TIMED.only().observe(0.5);
        TIMED.only().observe_time(Duration::from_secs(100));
        let looking = HELD.by(|| vec![(vec!["q".to_owned()], 1.5)]);
        let mut text = String::new();
        render(&mut text, &[&COUNTED, &TIMED, &HELD]);
        let expected = "\
# HELP test_total [ALPHA] Of a\\ntest.
# TYPE test_total counter
test_total{a=\"a\\\"\\\\\",b=\"2\"} 1
test_total{a=\"z\",b=\"1\"} 2e+06
# HELP test_seconds [BETA] Times.
# TYPE test_seconds histogram
test_seconds_bucket{le=\"1e-08\"} 0
";
        assert!(text.starts_with(expected), "{text}");
        let rest = "\
test_seconds_bucket{le=\"0.1\"} 0
test_seconds_bucket{le=\"1\"} 1
test_seconds_bucket{le=\"10\"} 1
test_seconds_bucket{le=\"+Inf\"} 2
test_seconds_sum 100.5
test_seconds_count 2
# HELP test_held [ALPHA] Held.
# TYPE test_held gauge
test_held{x=\"q\"} 1.5
";
        assert!(text.ends_with(rest), "{text}");
        drop(looking);
        text.clear();
        COUNTED.forget(&["z", "1"]);
        render(&mut text, &[&COUNTED, &HELD]);
        assert!(!text.contains("\"z\"") && !text.contains("test_held"), "{text}");
    }

    #[test]
    fn what_has_no_room_is_not_told() {
        static MANY: Family<Gauge> = gauges("test_many", "[ALPHA] Many.", &["n"]);
        for n in 0..MAX_SERIES + 5 {
            MANY.with(&[&n.to_string()]).set(1.0);
        }
        let mut text = String::new();
        MANY.write(&mut text);
        assert_eq!(text.lines().count(), MAX_SERIES + 2);
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (1e-5, "1e-05"),
            (2.5e-7, "2.5e-07"),
            (0.0001, "0.0001"),
            (999999.0, "999999"),
            (1234567.0, "1.234567e+06"),
        ] {
            assert_eq!(Number(value).to_string(), expected);
        }
        assert_eq!((Number(f64::INFINITY).to_string(), Number(f64::NAN).to_string()), ("+Inf".to_owned(), "NaN".to_owned()));
    }
}
