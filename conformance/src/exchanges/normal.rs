//! An answer in a form in which two correct servers agree: what each server chooses for itself is replaced by what it stands for.
//!
//! Uids, revisions, addresses and ports become ordinals in the order of their appearance within a scenario, so that it can still be seen
//! that two are the same: whether a write wrote is whether the revision changed.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

use super::corpus::{Answer, Step};
use super::session::parsed;
use crate::bench::connection::Received;

/// The letters of generated names.
const GENERATED: &str = "[bcdfghjklmnpqrstvwxz2456789]{5}";

struct Patterns {
    uid: Regex,
    time: Regex,
    cluster_ip: Regex,
    revision: Regex,
    token_volume: Regex,
    token: Regex,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let regex = |text: &str| Regex::new(text).expect("the patterns are constants");
    Patterns {
        uid: regex("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
        time: regex(r"20[23]\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"),
        cluster_ip: regex(r"\b10\.96\.\d{1,3}\.\d{1,3}\b"),
        // In objects that a message quotes.
        revision: regex(r#"(resourceVersion\\?":\\?")\d+"#),
        token_volume: regex(&format!("kube-api-access-{GENERATED}")),
        // A signed one that a server has just made.
        token: regex(r"\beyJ[\w-]+\.[\w-]{100,}\.[\w-]{40,}"),
    }
});

/// What has been seen in a scenario so far.
pub(super) struct Normal {
    namespace: String,
    seen: HashMap<(&'static str, String), usize>,
    /// Of names that servers were asked to complete.
    generated: Vec<(String, Regex)>,
    /// What steps wanted to be kept, and its name.
    kept: Vec<(String, String)>,
}

impl Normal {
    pub(super) fn new(namespace: &str) -> Normal {
        Normal { namespace: namespace.to_owned(), seen: HashMap::new(), generated: Vec::new(), kept: Vec::new() }
    }

    /// From now on the text is told by its name.
    pub(super) fn keep(&mut self, name: &str, text: &str) {
        self.kept.push((text.to_owned(), format!("<{name}>")));
    }

    pub(super) fn answer(&mut self, step: &Step, received: &Received) -> Answer {
        if let Some(base) = step.body.as_ref().and_then(|body| body.pointer("/metadata/generateName")).and_then(Value::as_str) {
            let pattern = format!(r"\b{}{GENERATED}\b", regex::escape(base));
            if let Ok(pattern) = Regex::new(&pattern) {
                self.generated.push((base.to_owned(), pattern));
            }
        }
        let warnings = received.warnings();
        Answer {
            status: received.status,
            content_type: received.header("content-type"),
            warnings: warnings.iter().map(|warning| self.text(warning)).collect(),
            body: self.value("", parsed(&received.body)),
        }
    }

    fn ordinal(&mut self, what: &'static str, value: &str) -> String {
        let next = self.seen.keys().filter(|(kind, _)| *kind == what).count() + 1;
        let number = *self.seen.entry((what, value.to_owned())).or_insert(next);
        format!("<{what}-{number}>")
    }

    fn value(&mut self, key: &str, value: Value) -> Value {
        match value {
            Value::String(text) if key == "resourceVersion" => Value::String(self.revision(&text)),
            Value::Number(port)
                if ["nodePort", "healthCheckNodePort"].contains(&key) && (30000..32768).contains(&port.as_i64().unwrap_or(0)) =>
            {
                Value::String(self.ordinal("port", &port.to_string()))
            }
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => {
                let mut items: Vec<Value> = items.into_iter().map(|item| self.value("", item)).collect();
                if key == "managedFields" {
                    // Their order depends on whether a second went by between two writes.
                    items.sort_by_key(owner);
                }
                if ["resourceRules", "nonResourceRules"].contains(&key) {
                    // Upstream tells rules in the order of a hash map of bindings.
                    items.sort_by_key(Value::to_string);
                }
                if key == "causes" && items.iter().all(|cause| cause["reason"] == "FieldManagerConflict") {
                    // Upstream tells the owners in any order.
                    items.sort_by_key(Value::to_string);
                }
                Value::Array(items)
            }
            Value::Object(members) => {
                let mut out = Map::new();
                for (key, member) in members {
                    let member = self.value(&key, member);
                    out.insert(self.text(&key), member);
                }
                out.sort_keys();
                Value::Object(out)
            }
            other => other,
        }
    }

    fn revision(&mut self, text: &str) -> String {
        let chosen = !text.is_empty() && text != "0" && text.bytes().all(|b| b.is_ascii_digit());
        if chosen { self.ordinal("revision", text) } else { text.to_owned() }
    }

    fn text(&mut self, text: &str) -> String {
        let patterns = &*PATTERNS;
        let mut text = text.to_owned();
        for (kept, name) in &self.kept {
            text = text.replace(kept, name);
        }
        text = text.replace(&self.namespace, "<ns>");
        // First of all, as a part of one may look like a generated name.
        text = patterns.uid.replace_all(&text, |found: &Captures<'_>| self.ordinal("uid", &found[0])).into_owned();
        for (base, pattern) in &self.generated {
            text = pattern.replace_all(&text, format!("{base}<generated>")).into_owned();
        }
        text = patterns.token.replace_all(&text, "<signed token>").into_owned();
        text = patterns.token_volume.replace_all(&text, "kube-api-access-<generated>").into_owned();
        text = patterns
            .time
            .replace_all(&text, |found: &Captures<'_>| if found.get(1).is_some() { "<now.fraction>" } else { "<now>" })
            .into_owned();
        text = without_owners(&text);
        text = patterns.revision.replace_all(&text, "${1}<revision>").into_owned();
        patterns.cluster_ip.replace_all(&text, |found: &Captures<'_>| self.ordinal("ip", &found[0])).into_owned()
    }
}

/// Objects that a message quotes tell their owners in an order that depends on time.
fn without_owners(text: &str) -> String {
    const START: &str = "managedFields\\\":[";
    let Some(at) = text.find(START).map(|at| at + START.len()) else { return text.to_owned() };
    let mut depth = 1;
    let end = text[at..].char_indices().find(|(_, c)| {
        depth += match c {
            '[' => 1,
            ']' => -1,
            _ => 0,
        };
        depth == 0
    });
    match end {
        Some((end, _)) => format!("{}<owners>{}", &text[..at], without_owners(&text[at + end..])),
        None => text.to_owned(),
    }
}

fn owner(entry: &Value) -> Vec<String> {
    ["operation", "manager", "apiVersion", "subresource"].iter().map(|field| entry[field].as_str().unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_server_chooses_is_told_by_its_order() {
        let mut normal = Normal::new("x1");
        let metadata = |uid: &str, revision: &str| json!({"namespace": "x1", "uid": uid, "resourceVersion": revision, "creationTimestamp": "2026-01-02T03:04:05Z"});
        let (a, b) = ("00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b");
        let told =
            |uid: &str, revision: &str| json!({"creationTimestamp": "<now>", "namespace": "<ns>", "resourceVersion": revision, "uid": uid});
        assert_eq!(normal.value("", metadata(a, "7")), told("<uid-1>", "<revision-1>"));
        assert_eq!(normal.value("", metadata(b, "7")), told("<uid-2>", "<revision-1>"));
        assert_eq!(normal.value("", metadata(a, "8")), told("<uid-1>", "<revision-2>"));
        assert_eq!(normal.value("", metadata(a, "0"))["resourceVersion"], "0");
    }

    #[test]
    fn owners_are_told_in_an_order_without_time() {
        let mut normal = Normal::new("x1");
        let entry = |manager: &str, time: &str| json!({"manager": manager, "operation": "Update", "time": time});
        let entries = json!([entry("b", "2026-01-02T03:04:05Z"), entry("a", "2026-01-02T03:04:06Z")]);
        assert_eq!(normal.value("managedFields", entries), json!([entry("a", "<now>"), entry("b", "<now>")]));
    }

    #[test]
    fn owners_in_a_quoted_object_are_left_out() {
        let text = r#"Invalid value: "{\"managedFields\":[{\"a\":[1]},{}],\"x\":[1]}": bad"#;
        assert_eq!(Normal::new("x1").text(text), r#"Invalid value: "{\"managedFields\":[<owners>],\"x\":[1]}": bad"#);
    }

    #[test]
    fn addresses_ports_and_generated_names_are_replaced_and_nothing_else() {
        let mut normal = Normal::new("x1");
        let service = json!({"clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4"], "ports": [{"nodePort": 30123, "port": 30123}]});
        let told = json!({"clusterIP": "<ip-1>", "clusterIPs": ["<ip-1>"], "ports": [{"nodePort": "<port-1>", "port": 30123}]});
        assert_eq!(normal.value("", service), told);
        assert_eq!(
            normal.text("mounts kube-api-access-b2c4d at 1999-01-01T00:00:00Z"),
            "mounts kube-api-access-<generated> at 1999-01-01T00:00:00Z"
        );
    }
}
