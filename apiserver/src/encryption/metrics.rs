//! What `/metrics` tells of encryption, under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::metrics::{head, series};
use crate::storage::encrypted::Kind;

/// Label sets that are kept; further ones are not counted.
const MAX_SERIES: usize = 1024;

#[derive(Default)]
pub struct Metrics {
    /// By resource, direction, prefix and outcome.
    transformations: Mutex<BTreeMap<[String; 4], u64>>,
    /// By outcome: how often, and when last, in seconds of Unix time.
    reloads: Mutex<BTreeMap<&'static str, (u64, u64)>>,
}

impl Metrics {
    pub fn transformed(&self, kind: &Kind, direction: &str, prefix: &[u8], error: Option<&String>) {
        let resource = if kind.group.is_empty() { kind.resource.to_string() } else { format!("{}.{}", kind.resource, kind.group) };
        let prefix = if prefix.is_empty() { "identity".into() } else { String::from_utf8_lossy(prefix) };
        let status = if error.is_none() { "OK" } else { "Unknown" };
        let labels = [resource, direction.to_owned(), prefix.into_owned(), status.to_owned()];
        if let Some(count) = series(&mut self.transformations.lock(), labels, MAX_SERIES) {
            *count += 1;
        }
    }

    pub fn reloaded(&self, well: bool) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut reloads = self.reloads.lock();
        let entry = reloads.entry(if well { "success" } else { "failure" }).or_default();
        *entry = (entry.0 + 1, now);
    }

    pub fn render(&self, out: &mut String) {
        let transformations = self.transformations.lock();
        if !transformations.is_empty() {
            head(
                out,
                "apiserver_storage_transformation_operations_total",
                "counter",
                "[ALPHA] Total number of transformations. Successful transformation will have a status 'OK' and a varied status string when the transformation fails. The status, resource, and transformation_type fields can be used for alerting purposes.",
            );
        }
        for ([resource, direction, prefix, status], count) in transformations.iter() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "apiserver_storage_transformation_operations_total{{resource=\"{resource}\",status=\"{status}\",transformation_type=\"{direction}\",transformer_prefix=\"{prefix}\"}} {count}"
            );
        }
        let reloads = self.reloads.lock();
        if reloads.is_empty() {
            return;
        }
        head(
            out,
            "apiserver_encryption_config_controller_automatic_reloads_total",
            "counter",
            "[ALPHA] Total number of reload successes and failures of encryption configuration split by apiserver identity.",
        );
        for (status, (count, _)) in reloads.iter() {
            let _ = writeln!(out, "apiserver_encryption_config_controller_automatic_reloads_total{{status=\"{status}\"}} {count}");
        }
        head(
            out,
            "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds",
            "gauge",
            "[ALPHA] Timestamp of the last successful or failed reload of encryption configuration split by apiserver identity.",
        );
        for (status, (_, at)) in reloads.iter() {
            let _ =
                writeln!(out, "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds{{status=\"{status}\"}} {at}");
        }
    }
}
