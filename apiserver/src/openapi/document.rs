//! Whole documents: the paths, every definition that they reach, and the frame around both.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use serde_json::{Map, Value, json};

use super::operation::Operation;
use super::paths::{paths, roots};
use super::schema::Flavour;

/// Where definitions come from: built-in types, or a custom resource's schema and those.
pub type Definitions<'a> = &'a dyn Fn(&str, Flavour) -> Option<Value>;

fn security_scheme() -> Value {
    json!({"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}})
}

/// What a document says of itself.
pub struct Frame<'a> {
    pub title: &'a str,
    pub version: &'a str,
    /// Says how one proves who one is.
    pub secured: bool,
}

impl<'a> Frame<'a> {
    /// Of the server's own resources.
    pub fn of_server(version: &'a str) -> Frame<'a> {
        Frame { title: "Kubernetes", version, secured: true }
    }
}

/// Of the custom resources of a group and version.
pub const OF_CUSTOM_RESOURCES: Frame<'static> = Frame { title: "Kubernetes CRD Swagger", version: "v0.1.0", secured: false };

/// A version 3 document about some operations.
pub fn v3(operations: &[Operation], definitions: Definitions<'_>, frame: &Frame<'_>) -> Value {
    let schemas = reachable(roots(operations), definitions, Flavour::V3);
    let mut components = Map::new();
    if !schemas.is_empty() {
        components.insert("schemas".into(), schemas.into());
    }
    if frame.secured {
        components.insert("securitySchemes".into(), security_scheme());
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": frame.title, "version": frame.version},
        "paths": paths(operations, Flavour::V3),
        "components": components,
    })
}

/// The version 2 document, which is about everything, in the making. It is written part by part: as a tree it would take many times the
/// room.
#[derive(Default)]
pub struct V2 {
    /// Texts by path, and by name.
    paths: BTreeMap<String, String>,
    parameters: BTreeMap<String, String>,
    definitions: BTreeMap<String, String>,
    /// Definitions that have been referred to and are not there.
    wanted: BTreeSet<String>,
}

impl V2 {
    /// Adds operations, and the definitions that they reach of those that are their own.
    pub fn add(&mut self, operations: &[Operation], own: &dyn Fn(&str) -> Option<Value>) {
        let mut paths = paths(operations, Flavour::V2);
        let parameters = share_parameters(&mut paths);
        self.paths.extend(paths.into_iter().map(|(path, item)| (path, item.to_string())));
        self.parameters.extend(parameters.into_iter().map(|(name, parameter)| (name, parameter.to_string())));
        let mut missing = BTreeSet::new();
        let found = found(roots(operations), &|name, _| own(name), Flavour::V2, &mut missing);
        self.definitions.extend(found.into_iter().map(|(name, definition)| (name, definition.to_string())));
        self.wanted.append(&mut missing);
    }

    /// The text, with the definitions that all operations share.
    pub fn finish(mut self, shared: &dyn Fn(&str) -> Option<Value>, version: &str) -> String {
        let wanted = self.wanted.into_iter().filter(|name| !self.definitions.contains_key(name)).collect();
        let found = found(wanted, &|name, _| shared(name), Flavour::V2, &mut BTreeSet::new());
        self.definitions.extend(found.into_iter().map(|(name, definition)| (name, definition.to_string())));
        let info = json!({"title": "Kubernetes", "version": version});
        let mut out = format!("{{\"swagger\":\"2.0\",\"info\":{info}");
        for (field, texts) in [("paths", &self.paths), ("definitions", &self.definitions), ("parameters", &self.parameters)] {
            out.push_str(&format!(",\"{field}\":{{"));
            for (i, (name, text)) in texts.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { "," });
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                out.push_str(text);
            }
            out.push('}');
        }
        out.push_str(&format!(",\"securityDefinitions\":{},\"security\":[{{\"BearerToken\":[]}}]}}", security_scheme()));
        out
    }
}

/// The definitions of `names` and of all that they refer to, sorted by name.
fn reachable(names: BTreeSet<String>, definitions: Definitions<'_>, flavour: Flavour) -> Map<String, Value> {
    found(names, definitions, flavour, &mut BTreeSet::new()).into_iter().collect()
}

/// The definitions of `names` and of all that they refer to. Those that there are not are `missing`.
fn found(
    names: BTreeSet<String>,
    definitions: Definitions<'_>,
    flavour: Flavour,
    missing: &mut BTreeSet<String>,
) -> BTreeMap<String, Value> {
    let mut found: BTreeMap<String, Value> = BTreeMap::new();
    let mut wanted: Vec<String> = names.into_iter().collect();
    while let Some(name) = wanted.pop() {
        if found.contains_key(&name) || missing.contains(&name) {
            continue;
        }
        match definitions(&name, flavour) {
            Some(schema) => {
                references(&schema, flavour, &mut wanted);
                found.insert(name, schema);
            }
            None => {
                missing.insert(name);
            }
        }
    }
    found
}

/// Collects the definitions that a schema refers to. Schemas nest only as deep as types are written.
fn references(schema: &Value, flavour: Flavour, out: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    // A property may itself be named `$ref`; then its value is no string.
                    Value::String(target) if key == "$ref" => out.extend(flavour.referent(target).map(str::to_owned)),
                    other => references(other, flavour, out),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, flavour, out)),
        _ => {}
    }
}

/// Moves parameters that are the same everywhere to the document's `parameters` and leaves references.
///
/// `name`, `dryRun` and `fieldValidation` stay (kubectl before 1.27 looks for the latter two in operations), and so do
/// bodies of a kind of their own.
fn share_parameters(paths: &mut Map<String, Value>) -> Map<String, Value> {
    let mut shared = BTreeMap::new();
    let lists = paths.values_mut().filter_map(Value::as_object_mut).flat_map(|item| {
        item.iter_mut().filter_map(|(key, value)| match key.as_str() {
            "parameters" => value.as_array_mut(),
            _ => value.get_mut("parameters").and_then(Value::as_array_mut),
        })
    });
    for parameter in lists.flatten() {
        let name = parameter["name"].as_str().unwrap_or_default();
        let body_of_its_own = parameter["in"] == "body"
            && !parameter["schema"]["$ref"].as_str().is_some_and(|r| r.starts_with("#/definitions/io.k8s.apimachinery"));
        if matches!(name, "name" | "dryRun" | "fieldValidation") || body_of_its_own {
            continue;
        }
        let name = format!("{name}-{}", short_hash(&parameter.to_string()));
        let reference = json!({"$ref": format!("#/parameters/{name}")});
        shared.insert(name, std::mem::replace(parameter, reference));
    }
    shared.into_iter().collect()
}

/// Eight characters of the 64-bit FNV-1 hash of a text.
fn short_hash(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    base64::engine::general_purpose::URL_SAFE.encode(&hash.to_be_bytes()[..6])
}
