//! What watches are told.

use std::sync::Arc;

use apimachinery::metrics::{Buckets, Counter, Family, Histogram, Told, counters, histograms, render};

/// Events of all watches.
pub struct Watches {
    events: Family<Counter>,
    sizes: Family<Histogram>,
}

impl Default for Watches {
    fn default() -> Watches {
        const LABELS: &[&str] = &["group", "resource", "version"];
        Watches {
            events: counters("apiserver_watch_events_total", "[BETA] Events that watches were told.", LABELS),
            sizes: histograms(
                "apiserver_watch_events_sizes",
                "[BETA] Bytes of the events of watches.",
                LABELS,
                Buckets::Exponential(1024.0, 2.0, 8),
            ),
        }
    }
}

/// What the watches of one resource count: asked for once a watch.
#[derive(Clone)]
pub struct Events {
    count: Arc<Counter>,
    sizes: Arc<Histogram>,
}

impl Events {
    pub fn told(&self, bytes: usize) {
        self.count.inc();
        self.sizes.observe(bytes as f64);
    }
}

impl Watches {
    pub fn of(&self, group: &str, version: &str, resource: &str) -> Events {
        let labels = [group, resource, version];
        Events { count: self.events.with(&labels), sizes: self.sizes.with(&labels) }
    }

    pub fn render(&self, out: &mut String) {
        let told: [&dyn Told; 2] = [&self.events, &self.sizes];
        render(out, &told);
    }
}
