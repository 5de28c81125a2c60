//! Operations grouped into path items, in the form of either version.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::operation::{Body, Content, Operation};
use super::resource::{Parameter, Place};
use super::schema::Flavour;

/// The order of methods in a path item.
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// The `paths` object, sorted by path.
pub fn paths(operations: &[Operation], flavour: Flavour) -> Map<String, Value> {
    let mut by_path: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for op in operations {
        by_path.entry(&op.path).or_default().push(op);
    }
    by_path.into_iter().map(|(path, ops)| (path.to_owned(), item(&ops, flavour))).collect()
}

/// The definitions that operations name.
pub fn roots(operations: &[Operation]) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for op in operations {
        out.extend(op.body.iter().map(|b| b.schema.clone()));
        out.extend(op.responses.iter().filter_map(|(_, _, content)| match content {
            Content::Object(schema) => Some(schema.clone()),
            Content::Nothing | Content::Text => None,
        }));
    }
    out
}

/// A path's operations; the parameters that all of them have move to the path.
fn item(ops: &[&Operation], flavour: Flavour) -> Value {
    let mut count: BTreeMap<(&str, Place), usize> = BTreeMap::new();
    for p in ops.iter().flat_map(|op| &op.parameters) {
        *count.entry((&p.name, p.place)).or_default() += 1;
    }
    let common = |p: &Parameter| count.get(&(p.name.as_str(), p.place)) == Some(&ops.len());
    let mut out = Map::new();
    for method in METHODS {
        if let Some(op) = ops.iter().find(|op| op.method == method) {
            let own: Vec<&Parameter> = op.parameters.iter().filter(|p| !common(p)).collect();
            out.insert(method.into(), operation(op, own, flavour));
        }
    }
    let shared: Vec<&Parameter> = ops.iter().flat_map(|op| &op.parameters).filter(|p| common(p)).collect();
    if !shared.is_empty() {
        out.insert("parameters".into(), parameters(shared, None, flavour).into());
    }
    out.into()
}

/// Parameters sorted and written once each; version 2 has the body among them.
fn parameters(mut all: Vec<&Parameter>, body: Option<&Body>, flavour: Flavour) -> Vec<Value> {
    all.sort_by(|a, b| (&a.name, a.place).cmp(&(&b.name, b.place)));
    all.dedup_by(|a, b| a.name == b.name && a.place == b.place);
    let mut out: Vec<(&str, Value)> = all.into_iter().map(|p| (p.name.as_str(), parameter(p, flavour))).collect();
    if let (Some(body), Flavour::V2) = (body, flavour) {
        let mut value = json!({"name": "body", "in": "body"});
        if body.required {
            value["required"] = true.into();
        }
        value["schema"] = flavour.reference(&body.schema);
        let at = out.partition_point(|(name, _)| *name < "body");
        out.insert(at, ("body", value));
    }
    out.into_iter().map(|(_, value)| value).collect()
}

fn parameter(p: &Parameter, flavour: Flavour) -> Value {
    let mut out = Map::new();
    let (name, place) = (("name".to_owned(), Value::from(p.name.as_str())), ("in".to_owned(), Value::from(p.place.word())));
    let description = p.description.as_deref().map(|d| ("description".to_owned(), Value::from(d)));
    let required = (p.place == Place::Path).then(|| ("required".to_owned(), Value::from(true)));
    match flavour {
        Flavour::V3 => {
            out.extend([name, place].into_iter().chain(description).chain(required));
            out.insert("schema".into(), json!({"type": p.kind, "uniqueItems": true}));
        }
        Flavour::V2 => {
            out.insert("uniqueItems".into(), true.into());
            out.insert("type".into(), p.kind.into());
            out.extend(description.into_iter().chain([name, place]).chain(required));
        }
    }
    out.into()
}

fn operation(op: &Operation, own: Vec<&Parameter>, flavour: Flavour) -> Value {
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    let strings = |all: &[&'static str]| all.iter().copied().map(Value::from).collect::<Value>();
    let mut responses: Map<String, Value> =
        op.responses.iter().map(|(code, text, content)| (code.to_string(), response(op, text, content, flavour))).collect();
    // Every operation may be refused before it is reached.
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    let parameters = parameters(own, op.body.as_ref(), flavour);
    let description = (!op.description.is_empty()).then(|| Value::from(op.description.as_str()));
    match flavour {
        Flavour::V3 => {
            set("tags", json!([op.tag]));
            description.map(|d| set("description", d));
            set("operationId", op.id.as_str().into());
            if !parameters.is_empty() {
                set("parameters", parameters.into());
            }
            if let Some(body) = &op.body {
                set("requestBody", request_body(op, body));
            }
            set("responses", responses.into());
        }
        Flavour::V2 => {
            description.map(|d| set("description", d));
            if !op.consumes.is_empty() {
                set("consumes", strings(&op.consumes));
            }
            set("produces", strings(&op.produces));
            set("schemes", json!(["https"]));
            set("tags", json!([op.tag]));
            set("operationId", op.id.as_str().into());
            if !parameters.is_empty() {
                set("parameters", parameters.into());
            }
            set("responses", responses.into());
        }
    }
    if !op.action.is_empty() {
        set("x-kubernetes-action", op.action.into());
    }
    if let Some((group, version, kind)) = &op.kind {
        set("x-kubernetes-group-version-kind", json!({"group": group, "version": version, "kind": kind}));
    }
    out.into()
}

/// The same schema for each of the media types, sorted.
fn content(types: &[&'static str], schema: &Value) -> Value {
    let types: BTreeSet<_> = types.iter().collect();
    Value::Object(types.into_iter().map(|t| (t.to_string(), json!({"schema": schema}))).collect())
}

fn request_body(op: &Operation, body: &Body) -> Value {
    let mut out = json!({"content": content(&op.consumes, &Flavour::V3.reference(&body.schema))});
    if body.required {
        out["required"] = true.into();
    }
    out
}

fn response(op: &Operation, text: &str, carried: &Content, flavour: Flavour) -> Value {
    let mut out = json!({"description": text});
    let schema = match carried {
        Content::Nothing => return out,
        Content::Text => json!({"type": "string"}),
        Content::Object(definition) => flavour.reference(definition),
    };
    match flavour {
        Flavour::V3 => out["content"] = content(&op.produces, &schema),
        Flavour::V2 => out["schema"] = schema,
    }
    out
}
