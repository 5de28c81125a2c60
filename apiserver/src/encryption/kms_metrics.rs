//! What `/metrics` tells of KMS plugins, under upstream's names.
//!
//! Figures are the process's: they go on when a changed configuration makes plugins anew. Ids of keys are told as their digests.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::metrics::{self, series};

/// Label sets that are kept of each metric; further ones are not counted. Upstream keeps a hundred.
const MAX_SERIES: usize = 100;
/// Upper bounds of the histogram: from 0.1 ms to 52 s.
const BUCKETS: usize = 20;
const FIRST_BUCKET_SECONDS: f64 = 0.0001;

/// The figures of this process.
pub static KMS: LazyLock<KmsMetrics> = LazyLock::new(KmsMetrics::default);

#[derive(Default)]
pub struct KmsMetrics(Mutex<Figures>);

#[derive(Default)]
struct Figures {
    /// By plugin, method and code.
    calls: BTreeMap<[String; 3], Calls>,
    /// By direction, plugin and digest of the key's id: how often it was used, and when last.
    keys: BTreeMap<[String; 3], (u64, f64)>,
    /// By plugin and digest: when a plugin last told of it.
    told: BTreeMap<[String; 2], f64>,
    /// By plugin and what is wrong.
    invalid: BTreeMap<[String; 2], u64>,
    /// By plugin.
    seeds: BTreeMap<String, usize>,
}

#[derive(Default)]
struct Calls {
    within: [u64; BUCKETS],
    count: u64,
    seconds: f64,
}

fn now_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn bound(bucket: usize) -> f64 {
    FIRST_BUCKET_SECONDS * f64::from(1u32 << bucket)
}

impl KmsMetrics {
    /// A plugin was called; `failed` is the gRPC code of the failure, if it was one.
    pub fn called(&self, plugin: &str, method: &str, taken: Duration, failed: Option<&str>) {
        let code = failed.unwrap_or("OK");
        let mut figures = self.0.lock();
        let Some(calls) = series(&mut figures.calls, [plugin, method, code].map(str::to_owned), MAX_SERIES) else { return };
        let seconds = taken.as_secs_f64();
        calls.count += 1;
        calls.seconds += seconds;
        for (bucket, count) in calls.within.iter_mut().enumerate() {
            *count += u64::from(seconds <= bound(bucket));
        }
    }

    /// A key was used: `direction` is `from_storage` or `to_storage`.
    pub fn used(&self, direction: &str, plugin: &str, digest: String) {
        let mut figures = self.0.lock();
        if let Some((count, last)) = series(&mut figures.keys, [direction.to_owned(), plugin.to_owned(), digest], MAX_SERIES) {
            *count += 1;
            *last = now_seconds();
        }
    }

    /// A plugin has told which key it uses.
    pub fn told(&self, plugin: &str, digest: String) {
        if let Some(last) = series(&mut self.0.lock().told, [plugin.to_owned(), digest], MAX_SERIES) {
            *last = now_seconds();
        }
    }

    /// A plugin has told a key's id that is none: `empty` or `too_long`.
    pub fn invalid(&self, plugin: &str, what: &str) {
        if let Some(count) = series(&mut self.0.lock().invalid, [plugin.to_owned(), what.to_owned()], MAX_SERIES) {
            *count += 1;
        }
    }

    /// So many seeds of a plugin are remembered.
    pub fn seeds(&self, plugin: &str, number: usize) {
        if let Some(known) = series(&mut self.0.lock().seeds, plugin.to_owned(), MAX_SERIES) {
            *known = number;
        }
    }

    /// `server` is the digest of this server's identity.
    pub fn render(&self, out: &mut String, server: &str) {
        let figures = self.0.lock();
        let Figures { calls, keys, told, invalid, seeds } = &*figures;
        head(
            out,
            !seeds.is_empty(),
            "dek_source_cache_size",
            "gauge",
            "Number of records in data encryption key (DEK) source cache. On a restart, this value is an approximation of the number of decrypt RPC calls the server will make to the KMS plugin.",
        );
        for (plugin, number) in seeds {
            line(out, "dek_source_cache_size", &format!("provider_name=\"{plugin}\""), number);
        }
        head(
            out,
            !invalid.is_empty(),
            "invalid_key_id_from_status_total",
            "counter",
            "Number of times an invalid keyID is returned by the Status RPC call split by error.",
        );
        for ([plugin, what], count) in invalid {
            line(out, "invalid_key_id_from_status_total", &format!("error=\"{what}\",provider_name=\"{plugin}\""), count);
        }
        let of_key = |[direction, plugin, digest]: &[String; 3]| {
            format!(
                "apiserver_id_hash=\"{server}\",key_id_hash=\"{digest}\",provider_name=\"{plugin}\",transformation_type=\"{direction}\""
            )
        };
        head(out, !keys.is_empty(), "key_id_hash_last_timestamp_seconds", "gauge", "The last time in seconds when a keyID was used.");
        for (labels, (_, last)) in keys {
            line(out, "key_id_hash_last_timestamp_seconds", &of_key(labels), last);
        }
        head(
            out,
            !told.is_empty(),
            "key_id_hash_status_last_timestamp_seconds",
            "gauge",
            "The last time in seconds when a keyID was returned by the Status RPC call.",
        );
        for ([plugin, digest], last) in told {
            let labels = format!("apiserver_id_hash=\"{server}\",key_id_hash=\"{digest}\",provider_name=\"{plugin}\"");
            line(out, "key_id_hash_status_last_timestamp_seconds", &labels, last);
        }
        head(
            out,
            !keys.is_empty(),
            "key_id_hash_total",
            "counter",
            "Number of times a keyID is used split by transformation type, provider, and apiserver identity.",
        );
        for (labels, (count, _)) in keys {
            line(out, "key_id_hash_total", &of_key(labels), count);
        }
        head(
            out,
            !calls.is_empty(),
            "kms_operations_latency_seconds",
            "histogram",
            "KMS operation duration with gRPC error code status total.",
        );
        for ([plugin, method, code], Calls { within, count, seconds }) in calls {
            let labels = format!("grpc_status_code=\"{code}\",method_name=\"{method}\",provider_name=\"{plugin}\"");
            for (bucket, number) in within.iter().enumerate() {
                line(out, "kms_operations_latency_seconds_bucket", &format!("{labels},le=\"{}\"", bound(bucket)), number);
            }
            line(out, "kms_operations_latency_seconds_bucket", &format!("{labels},le=\"+Inf\""), count);
            line(out, "kms_operations_latency_seconds_sum", &labels, seconds);
            line(out, "kms_operations_latency_seconds_count", &labels, count);
        }
    }
}

fn head(out: &mut String, is_told: bool, name: &str, kind: &str, help: &str) {
    if is_told {
        metrics::head(out, &format!("apiserver_envelope_encryption_{name}"), kind, &format!("[ALPHA] {help}"));
    }
}

fn line(out: &mut String, name: &str, labels: &str, value: &dyn std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "apiserver_envelope_encryption_{name}{{{labels}}} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_how_they_ended_and_how_long_they_took() {
        let metrics = KmsMetrics::default();
        metrics.called("p", "/m", Duration::from_micros(150), None);
        metrics.called("p", "/m", Duration::from_secs(100), Some("Unavailable"));
        metrics.used("to_storage", "p", "sha256:a".to_owned());
        metrics.used("to_storage", "p", "sha256:a".to_owned());
        metrics.invalid("p", "empty");
        let mut text = String::new();
        metrics.render(&mut text, "sha256:s");
        for line in [
            r#"kms_operations_latency_seconds_bucket{grpc_status_code="OK",method_name="/m",provider_name="p",le="0.0001"} 0"#,
            r#"kms_operations_latency_seconds_bucket{grpc_status_code="OK",method_name="/m",provider_name="p",le="0.0002"} 1"#,
            r#"kms_operations_latency_seconds_count{grpc_status_code="Unavailable",method_name="/m",provider_name="p"} 1"#,
            r#"key_id_hash_total{apiserver_id_hash="sha256:s",key_id_hash="sha256:a",provider_name="p",transformation_type="to_storage"} 2"#,
            r#"invalid_key_id_from_status_total{error="empty",provider_name="p"} 1"#,
        ] {
            assert!(text.contains(&format!("apiserver_envelope_encryption_{line}\n")), "{line}: {text}");
        }
    }

    #[test]
    fn there_is_a_bound_on_what_is_told() {
        let metrics = KmsMetrics::default();
        for i in 0..1000 {
            metrics.used("to_storage", "p", format!("sha256:{i}"));
        }
        assert_eq!(metrics.0.lock().keys.len(), MAX_SERIES);
    }
}
