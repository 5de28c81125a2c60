//! The scale of a custom object, by the paths that its definition names.

use apimachinery::status::Status;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::registry::printer;
use crate::registry::read::{int_at, str_at};
use crate::registry::{Column, Description, Printer};

/// How `as=Table` shows the Scale of a custom object.
pub const PRINTER: Printer = Printer { columns: COLUMNS, cells: row };

const COLUMNS: &[Column] = &[
    printer::NAME,
    printer::integer("Desired", Description::Text("Number of desired replicas")),
    printer::integer("Available", Description::Text("Number of actual replicas")),
    Column { kind: "date", ..printer::AGE },
];

fn row(scale: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        printer::name(scale),
        int_at(scale, "/spec/replicas").into(),
        int_at(scale, "/status/replicas").into(),
        printer::object_age(scale, now),
    ]
}

/// Where a custom object has what a Scale shows.
#[derive(Clone, Debug)]
pub struct Paths {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub label_selector: Option<String>,
}

/// The names of a simple path such as `.spec.replicas`.
fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('.').unwrap_or(path).split('.')
}

/// What stands at a simple path; why there can be nothing, in the words of Go's accessor.
pub fn nested<'v>(object: &'v Value, path: &str) -> Result<Option<&'v Value>, String> {
    let mut value = object;
    let mut seen = String::new();
    for step in steps(path) {
        let map = match value {
            Value::Object(map) => map,
            Value::Null => return Ok(None),
            other => {
                return Err(format!(
                    "{seen} accessor error: {} is of the type {}, expected map[string]interface{{}}",
                    plain(other),
                    go_type(other)
                ));
            }
        };
        seen.push('.');
        seen.push_str(step);
        match map.get(step) {
            Some(found) => value = found,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

fn plain(value: &Value) -> String {
    apimachinery::go_print::plain(value)
}

fn go_type(value: &Value) -> &'static str {
    apimachinery::go_print::type_name(value).unwrap_or("<nil>")
}

/// An integer at a path.
pub fn nested_int(object: &Value, path: &str) -> Result<Option<i64>, String> {
    match nested(object, path)? {
        None => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or_else(|| wrong_type(path, value, "int64")),
    }
}

/// A text at a path.
pub fn nested_text<'v>(object: &'v Value, path: &str) -> Result<Option<&'v str>, String> {
    match nested(object, path)? {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| wrong_type(path, value, "string")),
    }
}

fn wrong_type(path: &str, value: &Value, expected: &str) -> String {
    let path = path.strip_prefix('.').unwrap_or(path);
    format!(".{path} accessor error: {} is of the type {}, expected {expected}", plain(value), go_type(value))
}

impl Paths {
    /// Reads the `scale` of a version's subresources.
    pub fn read(scale: &Value) -> Paths {
        let selector = str_at(scale, "/labelSelectorPath");
        Paths {
            spec_replicas: str_at(scale, "/specReplicasPath").to_owned(),
            status_replicas: str_at(scale, "/statusReplicasPath").to_owned(),
            label_selector: (!selector.is_empty()).then(|| selector.to_owned()),
        }
    }

    /// The path of the replicas as field ownership writes it: `spec.replicas`.
    pub fn owned(&self) -> &str {
        self.spec_replicas.strip_prefix('.').unwrap_or(&self.spec_replicas)
    }

    /// The Scale of an object. One without replicas has none to show, unless they are about to be written.
    pub fn of(&self, object: &Value, must_have: bool) -> Result<Value, Status> {
        let internal = |why: String| Status::internal_error(&why);
        let replicas = nested_int(object, &self.spec_replicas).map_err(internal)?;
        if replicas.is_none() && must_have {
            return Err(internal(format!("the spec replicas field {} does not exist", apimachinery::field::quote(&self.spec_replicas))));
        }
        let mut metadata = Map::new();
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = object.get("metadata").and_then(|m| m.get(field)) {
                metadata.insert(field.to_owned(), value.clone());
            }
        }
        let mut spec = Map::new();
        if let Some(replicas) = replicas.filter(|n| *n != 0) {
            spec.insert("replicas".to_owned(), replicas.into());
        }
        let mut status = Map::new();
        status.insert("replicas".to_owned(), nested_int(object, &self.status_replicas).map_err(internal)?.unwrap_or(0).into());
        if let Some(path) = &self.label_selector
            && let Some(selector) = nested_text(object, path).map_err(internal)?.filter(|s| !s.is_empty())
        {
            status.insert("selector".to_owned(), selector.into());
        }
        Ok(json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}))
    }

    /// Puts the replicas of a Scale, and the revision that it was read at, into the object.
    pub fn apply(&self, scale: &Value, object: &mut Value) {
        let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        set(object, &self.spec_replicas, replicas.into());
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), str_at(scale, "/metadata/resourceVersion").into());
        }
        object.sort_all_objects();
    }
}

/// Sets a value at a simple path; objects on the way are made. What is no object there stays, and validation complains of it.
fn set(object: &mut Value, path: &str, value: Value) {
    let names: Vec<&str> = steps(path).collect();
    let Some((last, parents)) = names.split_last() else { return };
    let mut at = object;
    for name in parents {
        let Value::Object(map) = at else { return };
        at = map.entry(*name).or_insert_with(|| Value::Object(Map::new()));
    }
    if let Value::Object(map) = at {
        map.insert((*last).to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_read_and_written_by_its_paths() {
        let paths =
            Paths { spec_replicas: ".spec.n".into(), status_replicas: ".status.n".into(), label_selector: Some(".status.s".into()) };
        let mut object = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"n": 2}, "status": {"n": 1, "s": "a=b"}});
        let scale = paths.of(&object, true).unwrap();
        assert_eq!((&scale["spec"], &scale["status"]), (&json!({"replicas": 2}), &json!({"replicas": 1, "selector": "a=b"})));
        paths.apply(&json!({"spec": {"replicas": 5}, "metadata": {"resourceVersion": "1"}}), &mut object);
        assert_eq!(object["spec"]["n"], 5);
        let missing = paths.of(&json!({"metadata": {}}), true).unwrap_err();
        assert_eq!(missing.message, "Internal error occurred: the spec replicas field \".spec.n\" does not exist");
    }

    #[test]
    fn what_is_of_another_type_is_said_so() {
        let object = json!({"status": {"replicas": "x"}});
        assert_eq!(
            nested_int(&object, ".status.replicas").unwrap_err(),
            ".status.replicas accessor error: x is of the type string, expected int64"
        );
    }
}
