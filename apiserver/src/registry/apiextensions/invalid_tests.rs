//! Definitions that upstream refuses (and a few that it surprisingly takes), and what it says of each.
//!
//! `invalid_definitions.yaml` has the definitions, `invalid_definitions.jsonl` the messages, one a line in the same order: recorded from
//! upstream's own strategy for CustomResourceDefinitions (k8s.io/apiextensions-apiserver v0.37.2).

use std::fmt::Write as _;

use apimachinery::field::Path;
use apimachinery::patch::merge;
use apimachinery::schema::defaults::Hooks;
use apimachinery::status::Status;
use apimachinery::validation::{FinalizerRule, MetaRules, validate_object_meta};
use apimachinery::{schema, yaml};
use serde_json::{Value, json};

use crate::catalog::{Catalog, Resource};
use crate::endpoints::{meta, write};
use crate::registry::{self, Cx};

const DEFINITIONS: &str = include_str!("invalid_definitions.yaml");
const MESSAGES: &str = include_str!("invalid_definitions.jsonl");

/// A valid definition, which each case changes.
fn base() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": "things.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } } }],
        },
    })
}

fn definition(case: &Value) -> Value {
    let change = case.get("definition").cloned().unwrap_or_else(|| json!({}));
    let mut definition = merge::apply(&base(), &change, false).expect("the change can be merged");
    if let Some(schema) = case.get("schema") {
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema.clone();
    }
    definition
}

/// What a creation answers.
fn refusal(resource: &Resource, mut definition: Value) -> String {
    if let Err(why) = resource.read(&mut definition) {
        return format!("cannot be read: {why}");
    }
    write::complete(resource, &mut definition);
    let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: "", namespace: "", user: "", uid: "", groups: &[], extra: &[] };
    resource.strategy.prepare_for_create(&cx, &mut definition);
    let rules = MetaRules { namespaced: false, name: resource.check_name, finalizers: FinalizerRule::Qualified };
    let mut errors = validate_object_meta(&definition["metadata"], &rules, &Path::new("metadata"));
    errors.extend(resource.strategy.validate(&cx, &definition));
    if errors.is_empty() {
        return String::new();
    }
    Status::invalid(resource.group(), &resource.gvk.kind, meta::text(&definition, "name"), &errors).message
}

#[test]
fn definitions_are_refused_in_upstreams_words() {
    let types = schema::builtin();
    let hooks = Hooks::new(types, &registry::default_hooks()).expect("hooks of known types");
    let catalog = Catalog::builtin(types, &registry::definitions(), &registry::versioned(), hooks).expect("a catalog");
    let resource = catalog.find("apiextensions.k8s.io", "v1", "customresourcedefinitions").expect("definitions are served");
    let cases = yaml::parse(DEFINITIONS.as_bytes()).expect("the cases are YAML").value;
    let cases = cases.as_array().expect("a list of cases");
    let messages: Vec<Value> = MESSAGES.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert!(cases.len() >= 100 && cases.len() == messages.len(), "{} cases, {} messages", cases.len(), messages.len());
    let mut differences = String::new();
    let mut wrong = 0;
    for (case, recorded) in cases.iter().zip(&messages) {
        assert_eq!(case["name"], recorded["name"], "the messages are in the order of the cases");
        let (ours, theirs) = (refusal(resource, definition(case)), recorded["message"].as_str().unwrap_or_default());
        if ours != theirs {
            wrong += 1;
            // Writing to a String cannot fail.
            let _ = writeln!(differences, "{}\n  expected: {theirs}\n  found:    {ours}", case["name"]);
        }
    }
    assert!(differences.is_empty(), "{wrong} of {} differ:\n{differences}", cases.len());
}
