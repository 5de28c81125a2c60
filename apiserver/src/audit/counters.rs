//! What `/metrics` tells of auditing, under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::event::Level;
use crate::metrics;

#[derive(Default)]
pub struct Counters {
    events: AtomicU64,
    rejected: AtomicU64,
    levels: [AtomicU64; Level::ALL.len()],
    /// By plugin, of which there is a fixed set.
    errors: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    pub fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    pub fn level(&self, level: Level) {
        self.levels[level as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Events that were not told of as they should have been.
    pub fn failed(&self, plugin: &'static str, events: usize, why: &str) {
        *self.errors.lock().entry(plugin).or_default() += events as u64;
        tracing::error!(plugin, events, "audit events were lost: {why}");
    }

    pub fn render(&self, out: &mut String) {
        family(
            out,
            "error_total",
            "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
        );
        for (plugin, count) in self.errors.lock().iter() {
            sample(out, "error_total", &format!("{{plugin=\"{plugin}\"}}"), *count);
        }
        family(out, "event_total", "Counter of audit events generated and sent to the audit backend.");
        sample(out, "event_total", "", self.events.load(Ordering::Relaxed));
        family(out, "level_total", "Counter of policy levels for audit events (1 per request).");
        for level in Level::ALL {
            let count = self.levels[level as usize].load(Ordering::Relaxed);
            if count > 0 {
                sample(out, "level_total", &format!("{{level=\"{}\"}}", level.as_str()), count);
            }
        }
        family(out, "requests_rejected_total", "Counter of apiserver requests rejected due to an error in audit logging backend.");
        sample(out, "requests_rejected_total", "", self.rejected.load(Ordering::Relaxed));
    }
}

fn family(out: &mut String, name: &str, help: &str) {
    metrics::head(out, &format!("apiserver_audit_{name}"), "counter", &format!("[ALPHA] {help}"));
}

fn sample(out: &mut String, name: &str, labels: &str, count: u64) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "apiserver_audit_{name}{labels} {count}");
}
