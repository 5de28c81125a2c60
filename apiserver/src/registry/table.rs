//! `as=Table`: rows of cells for people, built from a kind's printer.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::printer::CREATED_AT;
use super::{Column, Description, Printer};

/// How a kind is shown: its column definitions, and the cells of one object in the same order.
pub trait Rows: Send + Sync {
    fn columns(&self) -> Vec<Value>;
    /// Ages are counted to `now`.
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value>;
    /// The rows of no objects.
    fn none(&self) -> Value {
        Value::Array(Vec::new())
    }
}

impl Rows for Printer {
    /// Kinds that nobody has written columns for have none at all.
    fn none(&self) -> Value {
        if self.columns.iter().any(|column| column.name == CREATED_AT) { Value::Null } else { Value::Array(Vec::new()) }
    }

    fn columns(&self) -> Vec<Value> {
        self.columns.iter().map(column).collect()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.cells)(object, now)
    }
}

/// What stands in a row's `object`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    /// Its metadata, as PartialObjectMetadata.
    Metadata,
    Object,
}

/// An object as the printer reads it (the stored version) and as the client asked for it.
pub struct Shown<'v> {
    pub printed: &'v Value,
    pub object: &'v Value,
}

/// A meta.k8s.io Table of objects.
///
/// `version` is that of meta.k8s.io. Without `with_columns` the definitions are null: all but the first event of a watch.
pub fn build<'v>(
    printer: &dyn Rows,
    version: &str,
    values: impl Iterator<Item = Shown<'v>>,
    list_meta: &Value,
    include: IncludeObject,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let columns = if with_columns { Value::Array(printer.columns()) } else { Value::Null };
    let rows: Vec<Value> = values.map(|shown| row(printer, version, &shown, include, now)).collect();
    serde_json::json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": list_meta,
        "columnDefinitions": columns,
        "rows": if rows.is_empty() { printer.none() } else { Value::Array(rows) },
    })
}

fn column(column: &Column) -> Value {
    let description = match &column.description {
        Description::Text(text) => text,
        Description::Field(schema, field) => apimachinery::schema::description(schema, Some(field)).unwrap_or(""),
    };
    serde_json::json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": description,
        "priority": column.priority,
    })
}

/// One row of a Table; see [`build`].
pub fn row(printer: &dyn Rows, version: &str, shown: &Shown<'_>, include: IncludeObject, now: Timestamp) -> Value {
    let value = shown.object;
    let mut row = Map::new();
    row.insert("cells".to_owned(), Value::Array(printer.cells(shown.printed, now)));
    if let Some(condition) = completed(value) {
        row.insert("conditions".to_owned(), Value::Array(vec![condition]));
    }
    let object = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Object => value.clone(),
        IncludeObject::Metadata => serde_json::json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": value.get("metadata").cloned().unwrap_or_default(),
        }),
    };
    row.insert("object".to_owned(), object);
    Value::Object(row)
}

/// Pods that have run to their end are marked, so that clients may hide them.
fn completed(value: &Value) -> Option<Value> {
    if value.get("kind").and_then(Value::as_str) != Some("Pod") {
        return None;
    }
    let (reason, message) = match value.pointer("/status/phase").and_then(Value::as_str)? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(serde_json::json!({ "type": "Completed", "status": "True", "reason": reason, "message": message }))
}
