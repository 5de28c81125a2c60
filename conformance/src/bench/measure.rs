//! What a run found: one measure per kind of work, and a report of them per server. Numbers only; `table` draws them.

use serde::Serialize;

/// What a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    PerSecond,
    Seconds,
    Milliseconds,
    Microseconds,
    Megabytes,
    Kilobytes,
    Bytes,
    Percent,
    Count,
}

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Higher,
    Lower,
    /// The value is information, such as a size; it has no ratio.
    Neither,
}

/// One row of one server.
#[derive(Clone, Debug, Serialize)]
pub struct Measure {
    /// Equal for the same work on different servers, whatever the sizes.
    pub key: &'static str,
    pub work: String,
    pub value: f64,
    pub unit: Unit,
    pub better: Better,
    /// What else is worth keeping: quantiles, parts, counts.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub detail: serde_json::Map<String, serde_json::Value>,
}

impl Measure {
    pub fn new(key: &'static str, work: impl Into<String>, value: f64, unit: Unit, better: Better) -> Self {
        Self { key, work: work.into(), value, unit, better, detail: serde_json::Map::new() }
    }

    pub fn per_second(key: &'static str, work: impl Into<String>, value: f64) -> Self {
        Self::new(key, work, value, Unit::PerSecond, Better::Higher)
    }

    pub fn milliseconds(key: &'static str, work: impl Into<String>, value: f64) -> Self {
        Self::new(key, work, value, Unit::Milliseconds, Better::Lower)
    }

    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }

    /// How many times better this is than `other`; below 1 it is worse. None where neither value is better or a value is zero.
    pub fn times_better(&self, other: &Self) -> Option<f64> {
        let (better, worse) = match self.better {
            Better::Higher => (self.value, other.value),
            Better::Lower => (other.value, self.value),
            Better::Neither => return None,
        };
        (better > 0.0 && worse > 0.0).then(|| better / worse)
    }
}

/// Everything measured of one server.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub server: String,
    pub measures: Vec<Measure>,
}

impl Report {
    pub fn find(&self, key: &str) -> Option<&Measure> {
        self.measures.iter().find(|m| m.key == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_say_how_many_times_better_the_first_is() {
        let rate = |v| Measure::per_second("r", "r", v);
        let time = |v| Measure::milliseconds("t", "t", v);
        assert_eq!(rate(300.0).times_better(&rate(100.0)), Some(3.0));
        assert_eq!(time(50.0).times_better(&time(100.0)), Some(2.0));
        assert_eq!(time(50.0).times_better(&time(0.0)), None);
        let size = Measure::new("s", "s", 1.0, Unit::Bytes, Better::Neither);
        assert_eq!(size.times_better(&size), None);
    }
}
