//! Requests by what they were about and what they were answered: how many, how long they took, how big the answers were, what runs now.
//!
//! All that is told under one set of labels stands together and is found once a request ([`LabelSets`]); what a stranger makes up gets
//! no labels. A request that a filter has refused is counted by its code, and its time is not: upstream, whose filters come before what
//! counts, counts of those only the ones that were too many.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use apimachinery::metrics::{Buckets, Histogram, Series, head, pairs, sample};
use http::Method;
use parking_lot::Mutex;

use super::label_sets::{Keyed, LabelSets};
use crate::endpoints::options::Query;
use crate::filters::request_info::RequestInfo;

/// Label sets that are kept; what comes under more of them is counted for the resource `other`, so that memory stays bounded.
pub const MAX_SETS: usize = 2048;
/// So many more may be of the resource `other`: of each verb and whatever else is one of a few words.
const OTHER_SETS: usize = 1024;

const APPLY: &str = "application/apply-patch+yaml";
const DURATIONS: Buckets = Buckets::Listed(&[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
]);
const SLI_DURATIONS: Buckets =
    Buckets::Listed(&[0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0]);
const SIZES: Buckets = Buckets::Exponential(1000.0, 10.0, 7);

/// Codes that answers usually have, rising.
const CODES: [u16; 24] =
    [101, 200, 201, 202, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 405, 406, 409, 410, 415, 422, 429, 500, 503, 504];

/// The labels of requests, as they are told and in that order.
const LABELS: [&str; 8] = ["component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"];

/// What a request was about, in the words of the labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key<'a> {
    pub verb: &'static str,
    pub dry_run: &'static str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub scope: &'static str,
    pub component: &'static str,
}

/// By what most keys differ in; it is looked up with every request.
impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.resource.as_bytes());
        state.write(self.subresource.as_bytes());
        state.write(self.verb.as_bytes());
        state.write_usize(self.group.len() << 8 | self.scope.len());
    }
}

impl<'a> Key<'a> {
    /// `content_type` is that of the request's body.
    pub fn of(method: &Method, info: &'a RequestInfo, query: &str, content_type: &str) -> Key<'a> {
        let named = info.parts.len() > 1;
        let scope = match info.is_resource {
            true if named || *method == Method::POST => "resource",
            true if !info.namespace.is_empty() => "namespace",
            true => "cluster",
            false => "",
        };
        let key = Key {
            verb: verb(method, info, scope, content_type),
            dry_run: dry_run(query),
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            scope,
            component: "apiserver",
        };
        if info.is_resource {
            return key;
        }
        let (subresource, component) = page(&info.path);
        Key { subresource, component, ..key }
    }

    /// The same without what the request names.
    pub fn unnamed(self) -> Key<'static> {
        let Key { verb, dry_run, scope, component, .. } = self;
        Key { verb, dry_run, group: "", version: "", resource: "", subresource: "", scope, component }
    }

    /// [`Key::unnamed`], with what the request names.
    pub fn named<'n>(self, info: &'n RequestInfo) -> Key<'n> {
        let subresource = if info.is_resource { &info.subresource } else { page(&info.path).0 };
        Key { group: &info.group, version: &info.version, resource: &info.resource, subresource, ..self }
    }

    fn other(self) -> Key<'static> {
        Key { resource: "other", ..self.unnamed() }
    }

    fn values(&self) -> [&str; 8] {
        [self.component, self.dry_run, self.group, self.resource, self.scope, self.subresource, self.verb, self.version]
    }
}

/// Pages that are told apart, by the name that they are told under, and the component. All others are one.
fn page(path: &str) -> (&'static str, &'static str) {
    match path {
        "/healthz" => ("/healthz", ""),
        "/livez" => ("/livez", ""),
        "/readyz" => ("/readyz", ""),
        "/api" => ("/api", "apiserver"),
        "/apis" => ("/apis", "apiserver"),
        "/openapi/v3" => ("openapi/v3", ""),
        path if path.starts_with("/openapi/v3/") => ("openapi/v3/", ""),
        _ => ("", "apiserver"),
    }
}

fn verb(method: &Method, info: &RequestInfo, scope: &str, content_type: &str) -> &'static str {
    if info.is_resource && matches!(info.subresource.as_str(), "log" | "exec" | "portforward" | "attach" | "proxy") {
        return "CONNECT";
    }
    match method.as_str() {
        "GET" if info.verb == "watch" => "WATCH",
        "GET" | "HEAD" if matches!(scope, "cluster" | "namespace") => "LIST",
        "GET" | "HEAD" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" if content_type == APPLY => "APPLY",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

fn dry_run(query: &str) -> &'static str {
    if !query.contains("dryRun") {
        return "";
    }
    let query = Query::parse(query);
    let asked: Vec<&str> = query.all("dryRun").collect();
    match asked.as_slice() {
        [] => "",
        words if words.iter().all(|word| *word == "All") => "All",
        _ => "invalid",
    }
}

/// What is counted under one set of labels.
pub struct LabelSet {
    labels: [Box<str>; 8],
    key: Key<'static>,
    codes: [AtomicU64; CODES.len()],
    other_codes: Mutex<BTreeMap<u16, u64>>,
    durations: Histogram,
    /// What is not told by whether it was tried only.
    undivided: Undivided,
    /// The same labels of requests that are not only tried, if these are not they.
    plain: Option<Arc<LabelSet>>,
}

struct Undivided {
    sli_durations: Histogram,
    sizes: Histogram,
    begun: AtomicU64,
    ended: AtomicU64,
    aborted: AtomicU64,
    terminated: Mutex<BTreeMap<u16, u64>>,
}

impl Keyed for LabelSet {
    type Key<'a> = Key<'a>;

    fn key(&self) -> Key<'_> {
        let [_, _, group, resource, _, subresource, _, version] = &self.labels;
        Key { group, version, resource, subresource, ..self.key }
    }

    fn has(&self, key: &Key<'_>) -> bool {
        self.key() == *key
    }
}

impl LabelSet {
    fn new(key: &Key<'_>, plain: Option<Arc<LabelSet>>) -> LabelSet {
        LabelSet {
            labels: key.values().map(Box::from),
            key: key.unnamed(),
            codes: Default::default(),
            other_codes: Mutex::default(),
            durations: Histogram::of(DURATIONS),
            undivided: Undivided {
                sli_durations: Histogram::of(SLI_DURATIONS),
                sizes: Histogram::of(SIZES),
                begun: AtomicU64::new(0),
                ended: AtomicU64::new(0),
                aborted: AtomicU64::new(0),
                terminated: Mutex::default(),
            },
            plain,
        }
    }

    fn undivided(&self) -> &Undivided {
        self.plain.as_ref().map_or(&self.undivided, |plain| &plain.undivided)
    }

    pub fn answered(&self, code: u16) {
        match CODES.binary_search(&code) {
            Ok(at) => {
                self.codes[at].fetch_add(1, Ordering::Relaxed);
            }
            // There are a thousand codes at most.
            Err(_) => *self.other_codes.lock().entry(code).or_default() += 1,
        }
    }

    /// In seconds; `others` is what others took of them: webhooks, and the wait for a seat.
    pub fn took(&self, seconds: f64, others: f64) {
        self.durations.observe(seconds);
        if self.plain.is_none() {
            self.undivided.sli_durations.observe((seconds - others).max(0.0));
        }
    }

    /// An answer to something read had so many bytes.
    pub fn read(&self, bytes: u64) {
        self.undivided().sizes.observe(bytes as f64);
    }

    pub fn begun(&self) {
        self.undivided().begun.fetch_add(1, Ordering::Relaxed);
    }

    pub fn ended(&self) {
        self.undivided().ended.fetch_add(1, Ordering::Relaxed);
    }

    pub fn aborted(&self) {
        self.undivided().aborted.fetch_add(1, Ordering::Relaxed);
    }

    /// The server has ended it, for its own sake.
    pub fn terminated(&self, code: u16) {
        *self.undivided().terminated.lock().entry(code).or_default() += 1;
    }

    fn by_code(&self) -> impl Iterator<Item = (u16, u64)> {
        let usual = CODES.iter().zip(&self.codes).map(|(code, count)| (*code, count.load(Ordering::Relaxed)));
        usual.filter(|(_, count)| *count > 0).chain(self.other_codes.lock().clone())
    }

    /// The labels without those that are left out.
    fn text(&self, left_out: &[&str]) -> String {
        let told = LABELS.iter().zip(&self.labels).filter(|(label, _)| !left_out.contains(label));
        let (labels, values): (Vec<&str>, Vec<&str>) = told.map(|(label, value)| (*label, &**value)).unzip();
        pairs(&labels, &values)
    }
}

/// All requests.
#[derive(Default)]
pub struct Requests {
    sets: LabelSets<LabelSet>,
}

impl Requests {
    /// Under which labels a request is counted, if anything was counted there before.
    pub fn known(&self, key: &Key<'_>) -> Option<Arc<LabelSet>> {
        self.sets.get(key)
    }

    /// Under which labels a request is counted. Nobody else may have made up the words.
    pub fn labelled(&self, key: &Key<'_>) -> Option<Arc<LabelSet>> {
        self.known(key).or_else(|| self.added(key, MAX_SETS)).or_else(|| self.added(&key.other(), MAX_SETS + OTHER_SETS))
    }

    fn added(&self, key: &Key<'_>, limit: usize) -> Option<Arc<LabelSet>> {
        let plain = match key.dry_run {
            "" => None,
            _ => Some(self.sets.get_or_add(&Key { dry_run: "", ..*key }, limit, || LabelSet::new(&Key { dry_run: "", ..*key }, None))?),
        };
        self.sets.get_or_add(key, limit, || LabelSet::new(key, plain))
    }

    pub fn render(&self, out: &mut String) {
        let mut sets = self.sets.all();
        sets.sort_by(|a, b| a.labels.cmp(&b.labels));
        let all = |out: &mut String, name: &str, kind: &str, help: &str, write: &dyn Fn(&mut String, &str, &LabelSet)| {
            let mut samples = String::new();
            sets.iter().for_each(|set| write(&mut samples, name, set));
            if !samples.is_empty() {
                head(out, name, kind, help);
                out.push_str(&samples);
            }
        };
        all(
            out,
            "apiserver_request_total",
            "counter",
            "[STABLE] Requests that were answered, by verb, dry run, group, version, resource, scope, component and code.",
            &|out, name, set| {
                let labels = set.text(&[]);
                set.by_code().for_each(|(code, count)| sample(out, name, &format!("code=\"{code}\",{labels}"), count as f64));
            },
        );
        let times = |out: &mut String, name: &str, help: &str, left_out: &[&str], of: &dyn Fn(&LabelSet) -> Option<&Histogram>| {
            all(out, name, "histogram", help, &|out, name, set| {
                if let Some(times) = of(set).filter(|times| times.count() > 0) {
                    times.write(out, name, &set.text(left_out));
                }
            });
        };
        times(
            out,
            "apiserver_request_duration_seconds",
            "[STABLE] How long requests took, in seconds, by verb, dry run, group, version, resource, subresource, scope and component.",
            &[],
            &|set| Some(&set.durations),
        );
        times(
            out,
            "apiserver_request_sli_duration_seconds",
            "[ALPHA] How long requests took, in seconds, without what webhooks took of it and the wait for a seat.",
            &["dry_run"],
            &|set| Some(&set.undivided.sli_durations),
        );
        times(
            out,
            "apiserver_response_sizes",
            "[STABLE] Bytes of answers to what reads, by group, version, verb, resource, subresource, scope and component.",
            &["dry_run"],
            &|set| Some(&set.undivided.sizes),
        );
        all(
            out,
            "apiserver_longrunning_requests",
            "gauge",
            "[STABLE] Watches, streams and the like that run now, by verb, group, version, resource, scope and component.",
            &|out, name, set| {
                let ended = set.undivided.ended.load(Ordering::Acquire);
                let begun = set.undivided.begun.load(Ordering::Acquire);
                if begun > 0 {
                    sample(out, name, &set.text(&["dry_run"]), begun.saturating_sub(ended) as f64);
                }
            },
        );
        all(
            out,
            "apiserver_request_terminations_total",
            "counter",
            "[ALPHA] Requests that the server has ended to protect itself.",
            &|out, name, set| {
                let labels = set.text(&["dry_run"]);
                let terminated = set.undivided.terminated.lock().clone();
                terminated.iter().for_each(|(code, count)| sample(out, name, &format!("code=\"{code}\",{labels}"), *count as f64));
            },
        );
        all(
            out,
            "apiserver_request_aborts_total",
            "counter",
            "[ALPHA] Answers that were broken off, mostly because their time was over.",
            &|out, name, set| {
                let aborted = set.undivided.aborted.load(Ordering::Relaxed);
                if aborted > 0 {
                    sample(out, name, &set.text(&["dry_run", "component"]), aborted as f64);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(method: Method, target: &str, content_type: &str) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let info = RequestInfo::parse(&method, path, query);
        Key::of(&method, &info, query, content_type).values().join("|")
    }

    #[test]
    fn verbs_and_scopes_are_those_of_the_reference() {
        for (method, target, expect) in [
            (Method::GET, "/api/v1/pods", "apiserver|||pods|cluster||LIST|v1"),
            (Method::GET, "/api/v1/namespaces/a/pods", "apiserver|||pods|namespace||LIST|v1"),
            (Method::GET, "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx", "apiserver|||pods|namespace||LIST|v1"),
            (Method::GET, "/api/v1/namespaces/a/pods?watch=true", "apiserver|||pods|namespace||WATCH|v1"),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/p", "apiserver|||pods|resource||WATCH|v1"),
            (Method::GET, "/api/v1/namespaces/a", "apiserver|||namespaces|resource||GET|v1"),
            (Method::GET, "/api/v1/namespaces/a/pods/p/log?follow=true", "apiserver|||pods|resource|log|CONNECT|v1"),
            (Method::POST, "/api/v1/namespaces/a/pods/p/exec", "apiserver|||pods|resource|exec|CONNECT|v1"),
            (Method::POST, "/apis/apps/v1/namespaces/a/deployments?dryRun=All", "apiserver|All|apps|deployments|resource||POST|v1"),
            (Method::PUT, "/api/v1/nodes/n/status?dryRun=Most", "apiserver|invalid||nodes|resource|status|PUT|v1"),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "apiserver|||pods|namespace||DELETE|v1"),
            (Method::HEAD, "/api/v1/namespaces/a/pods/p", "apiserver|||pods|resource||GET|v1"),
            (Method::OPTIONS, "/api/v1/nodes", "apiserver|||nodes|cluster||other|v1"),
            (Method::GET, "/livez", "|||||/livez|GET|"),
            (Method::GET, "/openapi/v3/api/v1", "|||||openapi/v3/|GET|"),
            (Method::GET, "/whatever/it/is", "apiserver||||||GET|"),
        ] {
            assert_eq!(shown(method, target, ""), expect, "{target}");
        }
        assert!(shown(Method::PATCH, "/api/v1/nodes/n", APPLY).ends_with("|APPLY|v1"));
        assert!(shown(Method::PATCH, "/api/v1/nodes/n", "application/json-patch+json").ends_with("|PATCH|v1"));
    }

    fn key<'a>(resource: &'a str, dry_run: &'static str) -> Key<'a> {
        Key { verb: "GET", dry_run, group: "g", version: "v1", resource, subresource: "", scope: "resource", component: "apiserver" }
    }

    #[test]
    fn what_is_only_tried_is_told_apart_only_where_there_is_a_label_for_it() {
        let requests = Requests::default();
        let (tried, done) = (requests.labelled(&key("a", "All")).unwrap(), requests.labelled(&key("a", "")).unwrap());
        for (set, times) in [(&tried, 1), (&done, 2)] {
            for _ in 0..times {
                set.answered(200);
                set.answered(418);
                set.took(0.3, 0.25);
                set.read(500_000);
                set.terminated(504);
                set.begun();
            }
        }
        tried.ended();
        let mut text = String::new();
        requests.render(&mut text);
        let labels = |dry_run: &str| {
            format!(r#"component="apiserver",{dry_run}group="g",resource="a",scope="resource",subresource="",verb="GET",version="v1""#)
        };
        let [all, none, plain] = [r#"dry_run="All","#, r#"dry_run="","#, ""].map(labels);
        for line in [
            format!("apiserver_request_total{{code=\"200\",{all}}} 1"),
            format!("apiserver_request_total{{code=\"418\",{none}}} 2"),
            format!("apiserver_request_duration_seconds_bucket{{{all},le=\"0.4\"}} 1"),
            format!("apiserver_request_duration_seconds_count{{{none}}} 2"),
            format!("apiserver_request_sli_duration_seconds_bucket{{{plain},le=\"0.05\"}} 2"),
            format!("apiserver_request_sli_duration_seconds_count{{{plain}}} 2"),
            format!("apiserver_response_sizes_bucket{{{plain},le=\"100000\"}} 0"),
            format!("apiserver_response_sizes_bucket{{{plain},le=\"1e+06\"}} 3"),
            format!("apiserver_longrunning_requests{{{plain}}} 2"),
            format!("apiserver_request_terminations_total{{code=\"504\",{plain}}} 3"),
        ] {
            assert_eq!(text.lines().filter(|told| **told == *line).count(), 1, "{line}\n{text}");
        }
        assert!(!text.contains("aborts"), "nothing was broken off:\n{text}");
    }

    #[test]
    fn memory_is_bounded_and_no_request_is_lost() {
        let requests = Requests::default();
        for n in 0..MAX_SETS + 10 {
            requests.labelled(&key(&n.to_string(), "")).unwrap().answered(200);
        }
        let mut text = String::new();
        requests.render(&mut text);
        assert_eq!(text.lines().count(), 2 + MAX_SETS + 1);
        let other = r#"apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="other","#;
        assert!(text.lines().any(|line| line.starts_with(other) && line.ends_with(" 10")), "{text}");
    }
}
