//! What the API server counts, under upstream's names: the one registry, and the page that tells all of it.
//!
//! A file a family. What belongs to a part of the server and nothing else counts (flow control, encryption, the audit log, aggregation)
//! is kept there and written by it. Counting costs a request some relaxed additions to numbers that were found once, and reading takes
//! no lock that a request waits for.

pub mod access;
pub mod admission;
pub mod health;
pub mod in_flight;
pub mod label_sets;
pub mod objects;
pub mod process;
pub mod requests;
pub mod tally;
pub mod watches;

use std::collections::BTreeMap;

use apimachinery::metrics::{Family, Gauge, Told, gauges};
use parking_lot::RwLock;

pub use apimachinery::metrics::head;

use access::Access;
use health::Health;
use in_flight::InFlight;
use requests::Requests;
use watches::Watches;

/// All metrics of one server.
pub struct Metrics {
    pub requests: Requests,
    pub in_flight: InFlight,
    pub access: Access,
    pub watches: Watches,
    pub health: Health,
    deprecated: Family<Gauge>,
    /// What other components of this process tell.
    others: RwLock<Vec<Others>>,
}

type Others = Box<dyn Fn(&mut String) + Send + Sync>;

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            requests: Requests::default(),
            in_flight: InFlight::default(),
            access: Access::default(),
            watches: Watches::default(),
            health: Health::default(),
            deprecated: gauges(
                "apiserver_requested_deprecated_apis",
                "[STABLE] 1 for each deprecated API that somebody has asked for, by the release that has it no more.",
                &["group", "removed_release", "resource", "subresource", "version"],
            ),
            others: RwLock::default(),
        }
    }
}

impl Metrics {
    /// Somebody uses what is deprecated. None of it is to be removed in a release that is known.
    pub fn deprecated(&self, group: &str, version: &str, resource: &str, subresource: &str) {
        self.deprecated.with(&[group, "", resource, subresource, version]).set(1.0);
    }

    /// From now on, what `render` writes is told as well: there are components in this process beside the server.
    pub fn tell_also(&self, render: impl Fn(&mut String) + Send + Sync + 'static) {
        self.others.write().push(Box::new(render));
    }

    /// Writes what other components of this process tell.
    pub fn render_others(&self, out: &mut String) {
        self.others.read().iter().for_each(|render| render(out));
    }

    /// Writes what was counted here (Prometheus text format 0.0.4).
    pub fn render(&self, out: &mut String) {
        self.requests.render(out);
        self.in_flight.render(out);
        self.access.render(out);
        self.watches.render(out);
        self.deprecated.write(out);
    }
}

/// What is kept under some labels, unless so many others are kept already.
pub fn series<K: Ord, V: Default>(kept: &mut BTreeMap<K, V>, labels: K, max: usize) -> Option<&mut V> {
    (kept.len() < max || kept.contains_key(&labels)).then(|| kept.entry(labels).or_default())
}
