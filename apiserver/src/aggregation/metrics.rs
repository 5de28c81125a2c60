//! Which APIServices are unavailable, and how often they became so, under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;

use parking_lot::Mutex;

use crate::metrics::{head, series};

/// Names and reasons that are counted; there are few reasons, but names come from users.
const MAX_SERIES: usize = 4096;

#[derive(Default)]
pub struct Availability {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    available: BTreeMap<String, bool>,
    /// By name and reason.
    became_unavailable: BTreeMap<(String, String), u64>,
}

impl Availability {
    /// Notes what a check has found, and whether it was so before.
    pub fn note(&self, name: &str, was_available: bool, is_available: bool, reason: &str) {
        let mut state = self.state.lock();
        state.available.insert(name.to_owned(), is_available);
        if was_available
            && !is_available
            && let Some(count) = series(&mut state.became_unavailable, (name.to_owned(), reason.to_owned()), MAX_SERIES)
        {
            *count += 1;
        }
    }

    /// Says nothing more of an APIService that is gone.
    pub fn forget(&self, name: &str) {
        self.state.lock().available.remove(name);
    }

    /// Adds the exposition text.
    pub fn render(&self, out: &mut String) {
        let state = self.state.lock();
        if !state.available.is_empty() {
            let help = "[ALPHA] Gauge of APIServices which are marked as unavailable broken down by APIService name.";
            head(out, "aggregator_unavailable_apiservice", "gauge", help);
        }
        // Writing to a String cannot fail.
        for (name, available) in &state.available {
            let _ = writeln!(out, "aggregator_unavailable_apiservice{{name=\"{name}\"}} {}", u8::from(!available));
        }
        if !state.became_unavailable.is_empty() {
            let help = "[ALPHA] Counter of APIServices which are marked as unavailable broken down by APIService name and reason.";
            head(out, "aggregator_unavailable_apiservice_total", "counter", help);
        }
        for ((name, reason), count) in &state.became_unavailable {
            let _ = writeln!(out, "aggregator_unavailable_apiservice_total{{name=\"{name}\",reason=\"{reason}\"}} {count}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fall_is_counted() {
        let availability = Availability::default();
        availability.note("v1.a", false, false, "ServiceNotFound");
        availability.note("v1.a", false, true, "Passed");
        availability.note("v1.a", true, false, "FailedDiscoveryCheck");
        availability.note("v1.a", false, false, "FailedDiscoveryCheck");
        availability.note("v1.b", true, true, "Local");
        availability.forget("v1.b");
        let mut text = String::new();
        availability.render(&mut text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "aggregator_unavailable_apiservice{name=\"v1.a\"} 1",
            "aggregator_unavailable_apiservice_total{name=\"v1.a\",reason=\"FailedDiscoveryCheck\"} 1",
        ];
        assert_eq!(lines, expected);
    }
}
