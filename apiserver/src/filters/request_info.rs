//! What a request is about, read from its method, path and query alone.
//!
//! Everything that follows (authorization, flow control, audit, dispatch) speaks of a [`RequestInfo`], never of paths.

use apimachinery::selector::field::{Selector, Term};
use apimachinery::selector::label::{Requirement, Selector as LabelSelector};
use http::Method;

/// A request in the API's terms (authorization.k8s.io ResourceAttributes / NonResourceAttributes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names an API resource.
    pub is_resource: bool,
    /// As it was sent for resources, without escapes for other paths.
    pub path: String,
    /// The API verb for resources (`get`, `list`, `watch`, …), the lower-case method otherwise.
    pub verb: String,
    /// `api` or `apis`; empty for other paths.
    pub prefix: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// Path segments from the resource on.
    pub parts: Vec<String>,
    /// What a list, a watch or a deletion of many is limited to, if that can be read.
    pub field_selector: Vec<Term>,
    /// The same for labels.
    pub label_selector: Vec<Requirement>,
}

/// Subresources of `namespaces`; any other segment after a namespace's name is a resource in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// `query` is the raw query string; only `watch` and an exact `metadata.name` field selector matter here.
    pub fn parse(method: &Method, path: &str, query: &str) -> RequestInfo {
        let mut info = RequestInfo { path: path.to_owned(), verb: method.as_str().to_ascii_lowercase(), ..RequestInfo::default() };
        // Empty segments count: a namespace without a name is none.
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let other = |info: RequestInfo| RequestInfo { path: percent_decode(path), ..info };
        if segments.len() < 3 {
            return other(info);
        }
        let mut rest = match segments[0] {
            "api" => {
                info.prefix = "api".to_owned();
                &segments[1..]
            }
            "apis" => {
                if segments.len() < 4 {
                    return other(info);
                }
                info.prefix = "apis".to_owned();
                info.group = segments[1].to_owned();
                &segments[2..]
            }
            _ => return other(info),
        };
        info.is_resource = true;
        info.version = rest[0].to_owned();
        rest = &rest[1..];

        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        // The deprecated path forms /watch/… and /proxy/….
        if matches!(rest.first(), Some(&("watch" | "proxy"))) {
            if rest.len() < 2 {
                return info;
            }
            info.verb = rest[0].to_owned();
            rest = &rest[1..];
        }
        if rest.first() == Some(&"namespaces")
            && let Some(namespace) = rest.get(1)
        {
            info.namespace = percent_decode(namespace);
            if rest.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&rest[2]) {
                rest = &rest[2..];
            }
        }
        info.parts = rest.iter().map(|s| percent_decode(s)).collect();
        info.resource = info.parts.first().cloned().unwrap_or_default();
        info.name = info.parts.get(1).cloned().unwrap_or_default();
        if info.parts.len() >= 3 {
            info.subresource = info.parts[2].clone();
        }
        if info.name.is_empty() && info.verb == "get" {
            info.collection_read(query);
        }
        if info.name.is_empty() && info.verb == "delete" {
            info.verb = "deletecollection".to_owned();
        }
        if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
            let pairs = form_pairs(query);
            let text = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
            let fields = text("fieldSelector").and_then(|text| Selector::parse(text).ok());
            info.field_selector = fields.map(|selector| selector.terms().to_vec()).unwrap_or_default();
            let labels = text("labelSelector").and_then(|text| LabelSelector::parse(text).ok());
            info.label_selector = labels.map(|selector| selector.requirements().to_vec()).unwrap_or_default();
        }
        info
    }

    /// A GET without a name lists or watches; an exact field selector on the name is a request for that name.
    fn collection_read(&mut self, query: &str) {
        let mut watch = false;
        for (key, value) in form_pairs(query) {
            match key.as_str() {
                "watch" => watch = !matches!(value.as_str(), "false" | "0"),
                "fieldSelector" => {
                    let exact = value.split(',').find_map(|term| term.strip_prefix("metadata.name="));
                    if let Some(name) = exact.map(|n| n.trim_start_matches('=')).filter(|n| !n.is_empty()) {
                        self.name = name.to_owned();
                    }
                }
                _ => {}
            }
        }
        self.verb = if watch { "watch" } else { "list" }.to_owned();
    }
}

/// Decoded `key=value` pairs of a query string, in order; as upstream has it, one with a broken escape counts for nothing.
pub fn form_pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty() && has_whole_escapes(pair))
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(&key.replace('+', " ")), percent_decode(&value.replace('+', " ")))
        })
        .collect()
}

/// Whether every `%` has its two digits.
pub fn has_whole_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|after| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}

/// Decodes `%xx`; what is not a valid escape stays as it is, invalid UTF-8 is replaced.
pub fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escape = (bytes[i] == b'%').then(|| bytes.get(i + 1..i + 3)).flatten().filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        match escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brief(method: Method, target: &str) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let i = RequestInfo::parse(&method, path, query);
        if !i.is_resource {
            return format!("{} {}", i.verb, i.path);
        }
        format!("{} {}/{} ns={} {} {} {}", i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource)
    }

    #[test]
    fn paths_are_read_as_the_api_server_reads_them() {
        for (method, target, expect) in [
            (Method::GET, "/version", "get /version"),
            (Method::GET, "/ver%73ion%20a", "get /version a"),
            (Method::GET, "/api/v1/namespaces//pods", "list /v1 ns= pods  "),
            (Method::GET, "/api/v1/pods//", "list /v1 ns= pods  "),
            (Method::GET, "/api/v1", "get /api/v1"),
            (Method::GET, "/apis/apps/v1", "get /apis/apps/v1"),
            (Method::GET, "/api/v1/namespaces", "list /v1 ns= namespaces  "),
            (Method::GET, "/api/v1/namespaces/a", "get /v1 ns=a namespaces a "),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update /v1 ns=a namespaces a finalize"),
            (Method::GET, "/api/v1/namespaces/a/pods?watch=1", "watch /v1 ns=a pods  "),
            (Method::GET, "/api/v1/pods?watch=false", "list /v1 ns= pods  "),
            (Method::DELETE, "/apis/apps/v1/namespaces/a/deployments", "deletecollection apps/v1 ns=a deployments  "),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/p", "watch /v1 ns=a pods p "),
            (Method::GET, "/api/v1/namespaces/a/pods/p/log", "get /v1 ns=a pods p log"),
            (Method::GET, "/api/v1/pods?fieldSelector=metadata.name%3Dx", "list /v1 ns= pods x "),
            (Method::POST, "/apis/rbac.authorization.k8s.io/v1/clusterroles", "create rbac.authorization.k8s.io/v1 ns= clusterroles  "),
        ] {
            assert_eq!(brief(method, target), expect, "{target}");
        }
    }

    #[test]
    fn escapes_are_decoded_and_broken_ones_kept() {
        assert_eq!(percent_decode("a%3Db%2"), "a=b%2");
        assert_eq!(percent_decode("%+1"), "%+1");
        assert_eq!(form_pairs("a=%zz&b=%2&c%=1&d=%41"), [("d".into(), "A".into())]);
        assert_eq!(form_pairs("a=1&b=x+y&c"), [("a".into(), "1".into()), ("b".into(), "x y".into()), ("c".into(), String::new())]);
    }
}
