//! Documents of version 2 of several servers as one: what one says of some paths is taken out of it, and put into another.
//!
//! A definition that both have stays if it says the same; one that says something else gets another name, and what refers to it follows.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

const GVK: &str = "x-kubernetes-group-version-kind";
const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";

/// The part of a document that is about paths below a prefix: the paths, and what they refer to.
pub fn below(document: &Value, prefix: &str) -> Value {
    let object = |field: &str| document.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
    let mut paths = object("paths");
    paths.retain(|path, _| path.starts_with(prefix));
    let (mut definitions, mut parameters) = (object("definitions"), object("parameters"));
    let mut wanted = BTreeSet::new();
    let mut todo: Vec<&Value> = paths.values().collect();
    while let Some(value) = todo.pop() {
        references(value, &mut |reference| {
            let found = match (reference.strip_prefix(DEFINITIONS), reference.strip_prefix(PARAMETERS)) {
                (Some(name), _) => definitions.get(name),
                (_, Some(name)) => parameters.get(name),
                _ => None,
            };
            if wanted.insert(reference.to_owned()) {
                todo.extend(found);
            }
        });
    }
    definitions.retain(|name, _| wanted.contains(&format!("{DEFINITIONS}{name}")));
    parameters.retain(|name, _| wanted.contains(&format!("{PARAMETERS}{name}")));
    let mut out = Map::new();
    for (field, part) in [("paths", paths), ("definitions", definitions), ("parameters", parameters)] {
        out.insert(field.to_owned(), part.into());
    }
    Value::Object(out)
}

/// Puts what another document says into this one. A path that this one has stays as it is.
pub fn into(document: &mut Value, other: &Value) {
    let part = |field: &str| other.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
    let (mut definitions, mut parameters, mut paths) = (part("definitions"), part("parameters"), part("paths"));
    let renamed = new_names(document, &definitions, &parameters);
    for part in [&mut definitions, &mut parameters, &mut paths] {
        part.values_mut().for_each(|value| rename(value, &renamed));
    }
    for (field, prefix, theirs) in [("definitions", DEFINITIONS, definitions), ("parameters", PARAMETERS, parameters), ("paths", "", paths)]
    {
        let Some(ours) = document.as_object_mut().map(|d| d.entry(field).or_insert_with(|| Value::Object(Map::new()))) else { continue };
        let Some(ours) = ours.as_object_mut() else { continue };
        for (name, value) in theirs {
            let new_name = renamed.get(&format!("{prefix}{name}")).and_then(|to| to.strip_prefix(prefix)).unwrap_or(&name).to_owned();
            match ours.get_mut(&new_name) {
                Some(there) if field == "definitions" => join_kinds(there, &value),
                Some(_) => {}
                None => {
                    ours.insert(new_name, value);
                }
            }
        }
        ours.sort_keys();
    }
}

/// References to what cannot stand under its own name, and what they become.
///
/// Whether two definitions say the same depends on what the names in them become, so this is repeated until nothing changes.
fn new_names(document: &Value, definitions: &Map<String, Value>, parameters: &Map<String, Value>) -> BTreeMap<String, String> {
    /// Definitions refer to each other about so deep at most; names that are still not settled then are good enough.
    const ROUNDS: usize = 8;
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut next = BTreeMap::new();
        for (field, prefix, theirs) in [("definitions", DEFINITIONS, definitions), ("parameters", PARAMETERS, parameters)] {
            let ours = document.get(field).and_then(Value::as_object);
            for (name, value) in theirs {
                let mut value = value.clone();
                rename(&mut value, &renamed);
                let free = free_name(name, &value, ours, theirs);
                if free != *name {
                    next.insert(format!("{prefix}{name}"), format!("{prefix}{free}"));
                }
            }
        }
        if next == renamed {
            break;
        }
        renamed = next;
    }
    renamed
}

/// The name under which a definition can stand beside ours: its own if ours says the same or there is none.
fn free_name(name: &str, value: &Value, ours: Option<&Map<String, Value>>, theirs: &Map<String, Value>) -> String {
    let fits = |there: Option<&Value>| there.is_none_or(|there| is_same(there, value));
    if fits(ours.and_then(|ours| ours.get(name))) {
        return name.to_owned();
    }
    let names = (2..).map(|n| format!("{name}_v{n}"));
    names.into_iter().find(|n| fits(ours.and_then(|ours| ours.get(n))) && !theirs.contains_key(n)).unwrap_or_else(|| name.to_owned())
}

/// Whether two definitions say the same, but for the kinds that they stand for and for what people read: two versions of one type often
/// differ in a word only, and would stand side by side for it.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let counts = |(key, value): &(&String, &Value)| *key != GVK && !(*key == "description" && value.is_string());
            let others = |m: &Map<String, Value>| m.iter().filter(counts).count();
            others(a) == others(b) && a.iter().filter(counts).all(|(key, value)| b.get(key).is_some_and(|other| is_same(value, other)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (a, b) => a == b,
    }
}

/// Adds the kinds that a definition stands for elsewhere, in order.
fn join_kinds(there: &mut Value, other: &Value) {
    let Some(more) = other.get(GVK).and_then(Value::as_array) else { return };
    let Some(kinds) = there.as_object_mut().map(|m| m.entry(GVK).or_insert_with(|| Value::Array(Vec::new()))) else { return };
    let Some(kinds) = kinds.as_array_mut() else { return };
    let before = kinds.len();
    for kind in more {
        if !kinds.contains(kind) {
            kinds.push(kind.clone());
        }
    }
    if kinds.len() > before {
        let text = |kind: &Value, field: &str| kind.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
        kinds.sort_by_key(|kind| (text(kind, "group"), text(kind, "version"), text(kind, "kind")));
    }
}

fn references<'v>(value: &'v Value, found: &mut dyn FnMut(&'v str)) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| match value {
            Value::String(reference) if key == "$ref" => found(reference),
            value => references(value, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, renamed: &BTreeMap<String, String>) {
    if renamed.is_empty() {
        return;
    }
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| match value {
            Value::String(reference) if key == "$ref" => {
                if let Some(to) = renamed.get(reference) {
                    reference.clone_from(to);
                }
            }
            value => rename(value, renamed),
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, renamed)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_part_has_what_its_paths_reach() {
        let document = json!({
            "swagger": "2.0",
            "paths": {
                "/apis/a/v1/": {"get": {"schema": {"$ref": "#/definitions/List"}, "parameters": [{"$ref": "#/parameters/p"}]}},
                "/apis/b/v1/": {"get": {"schema": {"$ref": "#/definitions/Other"}}},
            },
            "definitions": {"List": {"items": {"$ref": "#/definitions/Item"}}, "Item": {"type": "object"}, "Other": {}},
            "parameters": {"p": {"name": "p"}, "q": {"name": "q"}},
        });
        let part = below(&document, "/apis/a/v1/");
        let names = |field: &str| part[field].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(
            (names("paths").as_str(), names("definitions").as_str(), names("parameters").as_str()),
            ("/apis/a/v1/", "List Item", "p")
        );
    }

    #[test]
    fn what_says_something_else_gets_another_name() {
        let kind = |group: &str| json!([{"group": group, "kind": "DeleteOptions", "version": "v1"}]);
        let mut ours = json!({
            "paths": {"/apis/z/v1/": {"ours": true}},
            "definitions": {"Meta": {"type": "object"}, "Time": {"type": "string"}, "Options": {"type": "object", GVK: kind("")}},
        });
        let other = json!({
            "paths": {"/apis/a/v1/": {"schema": {"$ref": "#/definitions/Meta"}}, "/apis/z/v1/": {"ours": false}},
            "definitions": {
                "Meta": {"type": "string"},
                "Time": {"type": "string", "description": "A time."},
                "Options": {"type": "object", GVK: kind("a")},
                "New": {"properties": {"m": {"$ref": "#/definitions/Meta"}}},
            },
        });
        into(&mut ours, &other);
        let expected = json!({
            "paths": {"/apis/a/v1/": {"schema": {"$ref": "#/definitions/Meta_v2"}}, "/apis/z/v1/": {"ours": true}},
            "definitions": {
                "Meta": {"type": "object"},
                "Meta_v2": {"type": "string"},
                "New": {"properties": {"m": {"$ref": "#/definitions/Meta_v2"}}},
                "Options": {"type": "object", GVK: [kind("")[0], kind("a")[0]]},
                "Time": {"type": "string"},
            },
            "parameters": {},
        });
        assert_eq!(ours, expected);
        let once = ours.clone();
        into(&mut ours, &other);
        assert_eq!(ours, once, "what is there already is not added again");
    }
}
