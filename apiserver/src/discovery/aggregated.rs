//! Aggregated discovery (`apidiscovery.k8s.io/v2` APIGroupDiscoveryList): everything in one document.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{Entry, GroupVersion, Index, Kind, Resource};
use crate::endpoints::respond;

/// A document as it is sent.
#[derive(Debug)]
pub struct Document {
    pub json: Bytes,
    /// The SHA-512 of the text in upper-case hexadecimal; without its quotes.
    pub etag: String,
    gzip: OnceLock<Option<Bytes>>,
}

impl Document {
    /// Of `/api`, which is the core group alone, without a name, or of `/apis`, which is all other groups.
    pub fn new(index: &Index, core: bool) -> Document {
        let json = Bytes::from(text(index.groups().filter(|versions| versions[0].group.is_empty() == core)));
        Document { etag: etag(&json), json, gzip: OnceLock::new() }
    }

    /// The text compressed, if it is large enough for that.
    pub fn gzip(&self) -> Option<Bytes> {
        self.gzip.get_or_init(|| respond::gzip(&self.json)).clone()
    }

    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).expect("the document was written from values")
    }
}

pub(super) fn etag(document: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA512, document);
    digest.as_ref().iter().map(|b| format!("{b:02X}")).collect()
}

/// The text of the versions is kept with them: all of it changes with any of them.
fn text<'i>(groups: impl Iterator<Item = &'i [Arc<Entry>]>) -> String {
    let mut out = r#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":["#.to_owned();
    for (i, versions) in groups.enumerate() {
        let name = &versions[0].group;
        let metadata = if name.is_empty() { json!({}) } else { json!({ "name": name }) };
        out.push_str(if i == 0 { "" } else { "," });
        out.push_str(&format!("{{\"metadata\":{metadata},\"versions\":["));
        for (i, entry) in versions.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { "," });
            out.push_str(entry.aggregated.get_or_init(|| version(entry).to_string().into()));
        }
        out.push_str("]}");
    }
    // As all that is written as JSON ends.
    out.push_str("]}\n");
    out
}

fn version(entry: &GroupVersion) -> Value {
    let mut fields = Map::new();
    fields.insert("version".to_owned(), entry.version.as_str().into());
    if !entry.resources.is_empty() {
        fields.insert("resources".to_owned(), entry.resources.iter().map(|r| resource(entry, r)).collect());
    }
    fields.insert("freshness".to_owned(), if entry.stale { "Stale" } else { "Current" }.into());
    Value::Object(fields)
}

fn resource(entry: &GroupVersion, resource: &Resource) -> Value {
    let mut fields = Map::new();
    fields.insert("resource".to_owned(), resource.plural.as_str().into());
    fields.insert("responseKind".to_owned(), response_kind(entry, &resource.kind));
    fields.insert("scope".to_owned(), if resource.namespaced { "Namespaced" } else { "Cluster" }.into());
    fields.insert("singularResource".to_owned(), resource.singular.as_str().into());
    fields.insert("verbs".to_owned(), resource.verbs.clone().into());
    for (field, words) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !words.is_empty() {
            fields.insert(field.to_owned(), words.clone().into());
        }
    }
    if !resource.subresources.is_empty() {
        let subresource =
            |s: &super::Subresource| json!({"subresource": s.name, "responseKind": response_kind(entry, &s.kind), "verbs": s.verbs});
        fields.insert("subresources".to_owned(), resource.subresources.iter().map(subresource).collect());
    }
    Value::Object(fields)
}

fn response_kind(entry: &GroupVersion, kind: &Kind) -> Value {
    let (group, version) = match &kind.foreign {
        Some((group, version)) => (group.as_str(), version.as_str()),
        None if entry.explicit_kinds => (entry.group.as_str(), entry.version.as_str()),
        None => ("", ""),
    };
    json!({"group": group, "version": version, "kind": kind.kind})
}
