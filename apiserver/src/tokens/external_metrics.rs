//! What `/metrics` tells of the program that signs service account tokens, under upstream's names. Nothing where there is none.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::metrics::{self, series};

/// Label sets that are kept of each metric: there are seventeen codes of gRPC and three calls.
const MAX_SERIES: usize = 100;
/// Upper bounds of the histogram, in seconds.
const BOUNDS: [f64; 14] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The figures of this process.
pub static EXTERNAL: LazyLock<ExternalMetrics> = LazyLock::new(ExternalMetrics::default);

#[derive(Default)]
pub struct ExternalMetrics(Mutex<Figures>);

#[derive(Default)]
struct Figures {
    /// Seconds since 1970.
    data_of: Option<f64>,
    fetched_at: Option<f64>,
    /// By code.
    fetches: BTreeMap<String, u64>,
    signatures: BTreeMap<String, u64>,
    /// By code and method.
    calls: BTreeMap<[String; 2], Calls>,
}

#[derive(Default)]
struct Calls {
    within: [u64; BOUNDS.len()],
    count: u64,
    seconds: f64,
}

impl ExternalMetrics {
    /// The program was called; `failed` is the gRPC code of the failure, if it was one.
    pub fn called(&self, method: &str, taken: Duration, failed: Option<&str>) {
        let mut figures = self.0.lock();
        let labels = [failed.unwrap_or("OK"), method].map(str::to_owned);
        let Some(calls) = series(&mut figures.calls, labels, MAX_SERIES) else { return };
        let seconds = taken.as_secs_f64();
        calls.count += 1;
        calls.seconds += seconds;
        for (bound, count) in BOUNDS.iter().zip(&mut calls.within) {
            *count += u64::from(seconds <= *bound);
        }
    }

    /// Keys were fetched, or not.
    pub fn fetched(&self, failed: Option<&str>) {
        let mut figures = self.0.lock();
        if failed.is_none() {
            figures.fetched_at = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64());
        }
        if let Some(count) = series(&mut figures.fetches, failed.unwrap_or("OK").to_owned(), MAX_SERIES) {
            *count += 1;
        }
    }

    /// The keys are those of this time.
    pub fn told_data_of(&self, seconds: f64) {
        self.0.lock().data_of = Some(seconds);
    }

    /// A token was signed, or not.
    pub fn signed(&self, failed: Option<&str>) {
        if let Some(count) = series(&mut self.0.lock().signatures, failed.unwrap_or("OK").to_owned(), MAX_SERIES) {
            *count += 1;
        }
    }

    pub fn render(&self, out: &mut String) {
        let figures = self.0.lock();
        let Figures { data_of, fetched_at, fetches, signatures, calls } = &*figures;
        for (value, name, help) in [
            (
                data_of,
                "fetch_keys_data_timestamp",
                "Unix Timestamp in seconds of the last successful FetchKeys data_timestamp value returned by the external signer",
            ),
            (fetched_at, "fetch_keys_success_timestamp", "Unix Timestamp in seconds of the last successful FetchKeys request"),
        ] {
            if let Some(value) = value {
                head(out, name, "gauge", help);
                line(out, name, "", value);
            }
        }
        for (counts, name, help) in [
            (fetches, "fetch_keys_request_total", "Total attempts at syncing supported JWKs"),
            (signatures, "sign_request_total", "Total attempts at signing JWT"),
        ] {
            if !counts.is_empty() {
                head(out, name, "counter", help);
            }
            for (code, count) in counts {
                line(out, name, &format!("{{code=\"{code}\"}}"), count);
            }
        }
        if !calls.is_empty() {
            head(out, "request_duration_seconds", "histogram", "Request duration and time for calls to external-jwt-signer");
        }
        for ([code, method], Calls { within, count, seconds }) in calls {
            let labels = format!("code=\"{code}\",method=\"{method}\"");
            for (bound, number) in BOUNDS.iter().zip(within) {
                line(out, "request_duration_seconds_bucket", &format!("{{{labels},le=\"{bound}\"}}"), number);
            }
            line(out, "request_duration_seconds_bucket", &format!("{{{labels},le=\"+Inf\"}}"), count);
            line(out, "request_duration_seconds_sum", &format!("{{{labels}}}"), seconds);
            line(out, "request_duration_seconds_count", &format!("{{{labels}}}"), count);
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    metrics::head(out, &format!("apiserver_externaljwt_{name}"), kind, &format!("[ALPHA] {help}"));
}

fn line(out: &mut String, name: &str, labels: &str, value: &dyn Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "apiserver_externaljwt_{name}{labels} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_keys_and_tokens_are_told() {
        let metrics = ExternalMetrics::default();
        let mut text = String::new();
        metrics.render(&mut text);
        assert_eq!(text, "", "without a signer there is nothing to tell");
        metrics.called("/v1.ExternalJWTSigner/Sign", Duration::from_millis(3), None);
        metrics.called("/v1.ExternalJWTSigner/Sign", Duration::from_secs(99), Some("Unavailable"));
        metrics.fetched(Some("unknown-non-grpc"));
        metrics.fetched(None);
        metrics.told_data_of(12.5);
        metrics.signed(None);
        metrics.render(&mut text);
        for line in [
            "fetch_keys_data_timestamp 12.5",
            r#"fetch_keys_request_total{code="OK"} 1"#,
            r#"fetch_keys_request_total{code="unknown-non-grpc"} 1"#,
            r#"sign_request_total{code="OK"} 1"#,
            r#"request_duration_seconds_bucket{code="OK",method="/v1.ExternalJWTSigner/Sign",le="0.001"} 0"#,
            r#"request_duration_seconds_bucket{code="OK",method="/v1.ExternalJWTSigner/Sign",le="0.005"} 1"#,
            r#"request_duration_seconds_count{code="Unavailable",method="/v1.ExternalJWTSigner/Sign"} 1"#,
        ] {
            assert!(text.contains(&format!("apiserver_externaljwt_{line}\n")), "{line}: {text}");
        }
        assert!(text.contains("apiserver_externaljwt_fetch_keys_success_timestamp "));
    }
}
