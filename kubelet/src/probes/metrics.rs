//! `/metrics/probes`: how often each probe succeeded and failed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Kind;

/// A probe, as its series is labelled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    pub container: String,
    pub namespace: String,
    pub pod: String,
    pub pod_uid: String,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Result {
    Failed,
    Successful,
    Unknown,
}

/// Counts by probe and result. Bounded by the probes of the pods on this node. Clones are the same.
#[derive(Clone, Default)]
pub struct Results {
    counts: Arc<Mutex<BTreeMap<(Series, Result), u64>>>,
}

impl Results {
    pub fn count(&self, series: &Series, result: Result) {
        *self.counts.lock().entry((series.clone(), result)).or_default() += 1;
    }

    pub fn forget(&self, series: &Series) {
        self.counts.lock().retain(|(known, _), _| known != series);
    }

    /// The page.
    pub fn render(&self) -> String {
        let mut page = String::from(
            "# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.\n\
             # TYPE prober_probe_total counter\n",
        );
        for ((series, result), count) in &*self.counts.lock() {
            let result = match result {
                Result::Failed => "failed",
                Result::Successful => "successful",
                Result::Unknown => "unknown",
            };
            let Series { container, namespace, pod, pod_uid, kind } = series;
            let kind = kind.title();
            // Writing to a string does not fail.
            let _ = writeln!(
                page,
                "prober_probe_total{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\",pod_uid=\"{pod_uid}\",probe_type=\"{kind}\",result=\"{result}\"}} {count}",
            );
        }
        page
    }
}
