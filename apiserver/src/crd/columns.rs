//! The columns that a definition gives its Tables.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::json_path::JsonPath;
use crate::registry::printer;
use crate::registry::read::{int_at, str_at};
use crate::registry::table::Rows;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The columns of one version: the name, then those of the definition, or the age where it has none.
pub struct Columns {
    definitions: Vec<Value>,
    cells: Vec<(JsonPath, String)>,
}

impl Columns {
    /// Reads `additionalPrinterColumns`. As upstream, columns after one that cannot be parsed are left out.
    pub fn read(declared: &[Value]) -> Columns {
        let described = apimachinery::schema::description(OBJECT_META, Some("name")).unwrap_or("");
        let mut out = Columns {
            definitions: vec![json!({"name": "Name", "type": "string", "format": "name", "description": described, "priority": 0})],
            cells: Vec::new(),
        };
        let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": apimachinery::schema::description(OBJECT_META, Some("creationTimestamp")).unwrap_or("")});
        let declared = if declared.is_empty() { std::slice::from_ref(&age) } else { declared };
        for column in declared {
            let path = str_at(column, "/jsonPath");
            let Some(parsed) = JsonPath::parse(path) else { break };
            let description = match str_at(column, "/description") {
                "" => format!("Custom resource definition column (in JSONPath format): {path}"),
                given => given.to_owned(),
            };
            let kind = str_at(column, "/type");
            out.definitions.push(json!({
                "name": str_at(column, "/name"),
                "type": kind,
                "format": str_at(column, "/format"),
                "description": description,
                "priority": int_at(column, "/priority"),
            }));
            out.cells.push((parsed, kind.to_owned()));
        }
        out
    }
}

impl Rows for Columns {
    fn columns(&self) -> Vec<Value> {
        self.definitions.clone()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![printer::name(object)];
        cells.extend(self.cells.iter().map(|(path, kind)| path.first(object).map_or(Value::Null, |value| cell(kind, value, now))));
        cells
    }
}

/// A value as a column of its type shows it; null where it does not fit.
fn cell(kind: &str, value: &Value, now: Timestamp) -> Value {
    match (kind, value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", other) => Value::String(other.to_string()),
        ("integer", Value::Number(n)) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(_)) => match printer::parse_time(value) {
            Some(_) => printer::age(value, now),
            None => Value::String("<invalid>".to_owned()),
        },
        _ => Value::Null,
    }
}
