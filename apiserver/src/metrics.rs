//! Counters that `/metrics` tells, under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::filters::request_info::RequestInfo;

/// Label sets of `apiserver_request_total` that are kept; more are counted under `other`, so that memory stays bounded.
const MAX_SERIES: usize = 4096;

/// Verbs that are told of by name.
const VERBS: [&str; 14] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "proxy",
    "connect",
    "post",
    "put",
    "head",
    "options",
];

/// All metrics of one server.
#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<RequestLabels, u64>>,
    /// Requests being served now, watches excluded.
    pub inflight: AtomicU64,
    /// Watches open now.
    pub watches: AtomicU64,
    /// What other components of this process tell.
    others: OnceLock<Others>,
}

type Others = Box<dyn Fn(&mut String) + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RequestLabels {
    group: String,
    version: String,
    resource: String,
    subresource: String,
    verb: String,
    code: u16,
}

impl Metrics {
    /// Counts an answered request; `is_served` tells whether the resource that it names exists.
    pub fn request(&self, info: &RequestInfo, is_served: bool, code: u16) {
        // What is not there is whatever the sender calls it: of no use, and without bound.
        let text = |text: &str| if is_served { text.to_owned() } else { String::new() };
        let verb = if VERBS.contains(&info.verb.as_str()) { info.verb.to_uppercase() } else { "other".to_owned() };
        let labels = RequestLabels {
            group: text(&info.group),
            version: text(&info.version),
            resource: text(&info.resource),
            subresource: text(&info.subresource),
            verb,
            code,
        };
        let mut requests = self.requests.lock();
        if requests.len() >= MAX_SERIES && !requests.contains_key(&labels) {
            let other = RequestLabels {
                group: String::new(),
                version: String::new(),
                resource: "other".into(),
                subresource: String::new(),
                verb: labels.verb,
                code,
            };
            *requests.entry(other).or_default() += 1;
            return;
        }
        *requests.entry(labels).or_default() += 1;
    }

    /// From now on, what `render` writes is told as well: there are components in this process beside the server. Who comes second
    /// is not asked.
    pub fn tell_also(&self, render: impl Fn(&mut String) + Send + Sync + 'static) {
        if self.others.set(Box::new(render)).is_err() {
            tracing::warn!("somebody tells metrics of this process already");
        }
    }

    /// Writes what other components of this process tell.
    pub fn render_others(&self, out: &mut String) {
        if let Some(render) = self.others.get() {
            render(out);
        }
    }

    /// The exposition text (Prometheus text format 0.0.4).
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(4096);
        head(
            &mut out,
            "apiserver_request_total",
            "counter",
            "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        for (l, count) in self.requests.lock().iter() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "apiserver_request_total{{code=\"{}\",component=\"apiserver\",dry_run=\"\",group=\"{}\",resource=\"{}\",scope=\"\",subresource=\"{}\",verb=\"{}\",version=\"{}\"}} {count}",
                l.code,
                escaped(&l.group),
                escaped(&l.resource),
                escaped(&l.subresource),
                l.verb,
                escaped(&l.version)
            );
        }
        head(
            &mut out,
            "apiserver_current_inflight_requests",
            "gauge",
            "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
        );
        let _ = writeln!(out, "apiserver_current_inflight_requests{{request_kind=\"all\"}} {}", self.inflight.load(Ordering::Relaxed));
        head(
            &mut out,
            "apiserver_longrunning_requests",
            "gauge",
            "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
        );
        let _ = writeln!(out, "apiserver_longrunning_requests{{verb=\"WATCH\"}} {}", self.watches.load(Ordering::Relaxed));
        out
    }
}

/// What stands before the samples of a metric; `help` begins with its stability.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// What is kept under some labels, unless so many others are kept already.
pub fn series<K: Ord, V: Default>(kept: &mut BTreeMap<K, V>, labels: K, max: usize) -> Option<&mut V> {
    (kept.len() < max || kept.contains_key(&labels)).then(|| kept.entry(labels).or_default())
}

/// A label's value, as the text format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn what_a_stranger_makes_up_is_not_told() {
        let metrics = Metrics::default();
        let odd = Method::from_bytes(b"FLY").unwrap();
        metrics.request(&RequestInfo::parse(&Method::GET, "/apis/x/v1/%22%7D%20999%0Aup%201/a", ""), false, 403);
        metrics.request(&RequestInfo::parse(&odd, "/x", ""), true, 403);
        metrics.request(&RequestInfo::parse(&Method::GET, "/api/v1/pods/p/a%22b", ""), true, 404);
        let text = metrics.render();
        assert!(!text.contains("999") && !text.contains("FLY") && text.contains(r#"subresource="a\"b""#), "{text}");
        assert!(text.contains(r#"resource="pods""#) && text.contains(r#"verb="other""#));
    }
}
