//! What an OpenAPI schema says to expressions: the types of an object's parts for the checker, how much there can be of them for
//! the estimate, and how data becomes values.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine;
use serde_json::Value as Json;

use crate::escape::{escape, is_reserved};
use crate::types::Type;
use crate::value::{EvalError, Evaluated, List, Map, Text, Value};

/// Bytes of the largest request, from which sizes follow that a schema does not bound.
const MAX_REQUEST_BYTES: i64 = 3 * 1024 * 1024;
/// Characters of `metadata.name`.
const MAX_NAME: i64 = 253;

/// A schema prepared for expressions.
#[derive(Debug)]
pub struct Schema {
    kind: Kind,
    nullable: bool,
    /// What the checker knows of it; none if expressions cannot name it.
    declared: Option<Declared>,
}

#[derive(Debug, Clone)]
struct Declared {
    ty: Type,
    /// Characters, bytes, elements or entries that there can be.
    max: u64,
    /// Bytes of the shortest JSON for it.
    min_json: i64,
}

#[derive(Debug)]
enum Kind {
    /// An object with properties.
    Object(BTreeMap<String, Schema>),
    Map(Box<Schema>),
    /// An object of which nothing is said.
    Bare,
    Array(Option<Box<Schema>>, ListType),
    Text(Option<Format>),
    Number,
    Integer,
    Boolean,
    IntOrString,
    /// Kept as it is.
    Preserved,
    /// Not a schema that has values.
    Unsuited(String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    Bytes,
    Duration,
    Date,
    DateTime,
}

#[derive(Debug)]
enum ListType {
    Atomic,
    Set,
    Map(Vec<String>),
    Unsuited(String),
}

/// Fields of declared object types by the name of the type.
pub type ObjectTypes = HashMap<Arc<str>, BTreeMap<String, Type>>;

impl Schema {
    /// Reads a JSONSchemaProps; object types get names from `type_name` on. The root of a resource has its type and name
    /// whatever its schema says, and so do embedded resources.
    pub fn of(schema: &Json, is_resource_root: bool, type_name: &str) -> Schema {
        let is_resource = is_resource_root || flag(schema, "x-kubernetes-embedded-resource");
        let nullable = flag(schema, "nullable");
        if flag(schema, "x-kubernetes-int-or-string") {
            let max = max_length(schema).map_or(MAX_REQUEST_BYTES - 2, |length| length * 4);
            let declared = Some(Declared { ty: Type::Dyn, max: max as u64, min_json: 1 });
            return Schema { kind: Kind::IntOrString, nullable, declared };
        }
        let (kind, declared) = match schema["type"].as_str().unwrap_or("") {
            "object" => object(schema, is_resource, type_name),
            "array" => array(schema, type_name),
            "string" => text(schema),
            "boolean" => (Kind::Boolean, Some(Declared { ty: Type::Bool, max: 0, min_json: 4 })),
            "number" => (Kind::Number, Some(Declared { ty: Type::Double, max: 0, min_json: 1 })),
            "integer" => (Kind::Integer, Some(Declared { ty: Type::Int, max: 0, min_json: 1 })),
            _ if flag(schema, "x-kubernetes-preserve-unknown-fields") => (Kind::Preserved, None),
            other => (Kind::Unsuited(other.to_owned()), None),
        };
        Schema { kind, nullable, declared }
    }

    /// The type of its values; none if expressions cannot name them.
    pub fn ty(&self) -> Option<&Type> {
        self.declared.as_ref().map(|declared| &declared.ty)
    }

    /// How often data of this schema may stand in one request at most.
    pub fn max_cardinality(&self) -> u64 {
        let min = self.declared.as_ref().map_or(0, |declared| declared.min_json);
        (MAX_REQUEST_BYTES / (min + 1)) as u64
    }

    /// Adds the object types of this schema and of all within.
    pub fn object_types(&self, types: &mut ObjectTypes) {
        match &self.kind {
            Kind::Object(properties) => {
                let mut fields = BTreeMap::new();
                for (name, schema) in properties {
                    let (Some(escaped), Some(ty)) = (escape(name), schema.ty()) else { continue };
                    // After a dot a word of the language can stand as it is.
                    if is_reserved(name) {
                        fields.insert(name.clone(), ty.clone());
                    }
                    fields.insert(escaped, ty.clone());
                }
                if let Some(Type::Object(name)) = self.ty() {
                    types.insert(name.clone(), fields);
                }
                properties.values().for_each(|schema| schema.object_types(types));
            }
            Kind::Bare => {
                if let Some(Type::Object(name)) = self.ty() {
                    types.insert(name.clone(), BTreeMap::new());
                }
            }
            Kind::Map(inner) => inner.object_types(types),
            Kind::Array(Some(inner), _) => inner.object_types(types),
            _ => {}
        }
    }

    /// How much there can be of what stands at a path: names of fields, `@items`, `@values` and `@keys`.
    pub(crate) fn max_at(&self, path: &[String]) -> Option<u64> {
        let Some((step, rest)) = path.split_first() else { return self.declared.as_ref().map(|declared| declared.max) };
        self.declared.as_ref()?;
        match (&self.kind, step.as_str()) {
            (Kind::Array(Some(inner), _) | Kind::Map(inner), "@items" | "@values") => inner.max_at(rest),
            (Kind::Map(_), "@keys") => rest.is_empty().then_some(0),
            (Kind::Object(properties), step) => {
                let name = crate::escape::unescape(step)?;
                properties.get(&name).filter(|_| escape(&name).as_deref() == Some(step))?.max_at(rest)
            }
            _ => None,
        }
    }

    pub(crate) fn items(&self) -> Option<&Schema> {
        match &self.kind {
            Kind::Array(inner, _) => inner.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        matches!(&self.kind, Kind::Array(_, ListType::Set))
    }

    /// The properties that tell the elements of a list apart, if it has such.
    pub(crate) fn map_keys(&self) -> Option<&[String]> {
        match &self.kind {
            Kind::Array(_, ListType::Map(keys)) => Some(keys),
            _ => None,
        }
    }

    pub(crate) fn has_properties(&self) -> bool {
        matches!(&self.kind, Kind::Object(_))
    }

    /// The schema of one member.
    pub(crate) fn property(&self, name: &str) -> Option<&Schema> {
        match &self.kind {
            Kind::Object(properties) => properties.get(name),
            Kind::Map(inner) => Some(inner),
            _ => None,
        }
    }

    /// Data as a value of this schema. Errors are upstream's words for data that does not fit.
    pub fn value<'a>(&'a self, data: &'a Json) -> Evaluated<'a> {
        if data.is_null() {
            return if self.nullable {
                Ok(Value::Null)
            } else {
                Err(EvalError::new("invalid data, got null for schema with nullable=false"))
            };
        }
        let unfit = |wanted: &str| {
            let found = apimachinery::go_print::type_name(data).unwrap_or("<nil>");
            Err(EvalError::new(format!("invalid data, expected {wanted}, got {found}")))
        };
        match (&self.kind, data) {
            (Kind::IntOrString, Json::String(_)) => Ok(Value::json(data)),
            (Kind::IntOrString, Json::Number(number)) if number.is_i64() => Ok(Value::json(data)),
            (Kind::IntOrString, _) => Err(EvalError::new("invalid data, expected XIntOrString value to be either a string or integer")),
            (Kind::Object(_) | Kind::Map(_) | Kind::Bare, Json::Object(members)) => Ok(Value::Map(Map::Json(members, Some(self)))),
            (Kind::Object(_) | Kind::Map(_) | Kind::Bare, _) => {
                Err(EvalError::new("invalid data, expected a map for the provided schema with type=object"))
            }
            (Kind::Array(_, ListType::Unsuited(found)), Json::Array(_)) => {
                Err(EvalError::new(format!("invalid x-kubernetes-list-type, expected 'map', 'set' or 'atomic' but got {found}")))
            }
            (Kind::Array(Some(_), _), Json::Array(items)) => Ok(Value::List(List::Json(items, Some(self)))),
            (Kind::Array(None, _), Json::Array(_)) => Err(EvalError::new("invalid array type, expected Items with a non-empty Schema")),
            (Kind::Array(..), _) => Err(EvalError::new("invalid data, expected an array for the provided schema with type=array")),
            (Kind::Text(format), Json::String(text)) => formatted(*format, text),
            (Kind::Text(_), _) => unfit("string"),
            (Kind::Number, Json::Number(number)) => Ok(Value::Double(number.as_f64().unwrap_or(f64::NAN))),
            (Kind::Number, _) => unfit("float"),
            (Kind::Integer, Json::Number(number)) if number.is_i64() => Ok(Value::json(data)),
            (Kind::Integer, _) => unfit("int"),
            (Kind::Boolean, Json::Bool(value)) => Ok(Value::Bool(*value)),
            (Kind::Boolean, _) => unfit("bool"),
            (Kind::Preserved, _) => Ok(Value::Unknown(data)),
            (Kind::Unsuited(found), _) => Err(EvalError::new(format!(
                "invalid type, expected object, array, number, integer, boolean or string, or no type with \
                 x-kubernetes-int-or-string or x-kubernetes-preserve-unknown-fields is true, got {found}"
            ))),
        }
    }
}

fn formatted<'a>(format: Option<Format>, text: &'a str) -> Evaluated<'a> {
    match format {
        None => Ok(Value::String(Text::Borrowed(text))),
        Some(Format::Bytes) => match apimachinery::base64::GO_STANDARD.decode(text) {
            Ok(bytes) => Ok(Value::Bytes(bytes.into())),
            Err(_) => Err(EvalError::new(format!("Invalid byte formatted string {text}: illegal base64 data at input byte 0"))),
        },
        Some(Format::Duration) => crate::functions::time::parse_schema_duration(text)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new(format!("Invalid duration {text}: unable to parse {text:?} as duration"))),
        Some(Format::Date) => crate::functions::time::parse_date(text)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date formatted string {text}: cannot parse"))),
        Some(Format::DateTime) => crate::functions::time::parse_date_time(text)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date-time formatted string {text}: cannot parse"))),
    }
}

fn object(schema: &Json, is_resource: bool, type_name: &str) -> (Kind, Option<Declared>) {
    let additional = schema.get("additionalProperties").filter(|inner| inner.is_object());
    if let (Some(inner), false) = (additional, is_resource) {
        let inner = Schema::of(inner, false, &format!("{type_name}.@elem"));
        let declared = inner.declared.as_ref().map(|of| {
            let max = bound(schema, "maxProperties").unwrap_or((MAX_REQUEST_BYTES - 2) / (of.min_json + 6));
            Declared { ty: Type::map(Type::String, of.ty.clone()), max: max as u64, min_json: 2 }
        });
        return (Kind::Map(Box::new(inner)), declared);
    }
    let mut properties: BTreeMap<String, Schema> = BTreeMap::new();
    let listed = schema["properties"].as_object();
    for (name, property) in listed.into_iter().flatten() {
        let inner_name = format!("{type_name}.{}", escape(name).unwrap_or_default());
        properties.insert(name.clone(), Schema::of(property, false, &inner_name));
    }
    if is_resource {
        with_type_and_name(&mut properties, schema, type_name);
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let mut min_json = 2;
    for (name, property) in &properties {
        let has_default = schema["properties"][name].get("default").is_some_and(|default| !default.is_null());
        if let Some(declared) = &property.declared
            && required.contains(&name.as_str())
            && !has_default
        {
            min_json += name.len() as i64 + declared.min_json + 4;
        }
    }
    let declared = Some(Declared { ty: Type::object(type_name), max: 0, min_json });
    (if listed.is_some() || is_resource { Kind::Object(properties) } else { Kind::Bare }, declared)
}

/// What every resource has, unless its schema already says so.
fn with_type_and_name(properties: &mut BTreeMap<String, Schema>, schema: &Json, type_name: &str) {
    let listed = &schema["properties"];
    let metadata = &listed["metadata"]["properties"];
    let is_text = |schema: &Json| schema["type"] == "string";
    if is_text(&listed["kind"])
        && is_text(&listed["apiVersion"])
        && listed["metadata"]["type"] == "object"
        && is_text(&metadata["name"])
        && is_text(&metadata["generateName"])
    {
        return;
    }
    let text = serde_json::json!({ "type": "string" });
    properties.insert("kind".to_owned(), Schema::of(&text, false, ""));
    properties.insert("apiVersion".to_owned(), Schema::of(&text, false, ""));
    let capped = |name: &str, max: i64| {
        let max = bound(&metadata[name], "maxLength").map_or(max, |own| own.min(max));
        serde_json::json!({ "type": "string", "maxLength": max })
    };
    let fields = serde_json::json!({ "name": capped("name", MAX_NAME), "generateName": capped("generateName", MAX_NAME - 1) });
    let metadata = serde_json::json!({ "type": "object", "properties": fields });
    properties.insert("metadata".to_owned(), Schema::of(&metadata, false, &format!("{type_name}.metadata")));
}

fn array(schema: &Json, type_name: &str) -> (Kind, Option<Declared>) {
    let list_type = match schema["x-kubernetes-list-type"].as_str() {
        None | Some("atomic") => ListType::Atomic,
        Some("set") => ListType::Set,
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            ListType::Map(keys.filter_map(Json::as_str).map(str::to_owned).collect())
        }
        Some(other) => ListType::Unsuited(other.to_owned()),
    };
    let Some(items) = schema.get("items").filter(|items| items.is_object()) else { return (Kind::Array(None, list_type), None) };
    let inner = Schema::of(items, false, &format!("{type_name}.@idx"));
    let declared = inner.declared.as_ref().map(|of| {
        let max = bound(schema, "maxItems").unwrap_or((MAX_REQUEST_BYTES - 2) / (of.min_json + 1));
        Declared { ty: Type::list(of.ty.clone()), max: max as u64, min_json: 2 }
    });
    (Kind::Array(Some(Box::new(inner)), list_type), declared)
}

fn text(schema: &Json) -> (Kind, Option<Declared>) {
    let (format, ty, max, min_json) = match schema["format"].as_str() {
        Some("byte") => (Some(Format::Bytes), Type::Bytes, max_length(schema).unwrap_or(MAX_REQUEST_BYTES - 2), 2),
        Some("duration") => (Some(Format::Duration), Type::Duration, 32, 3),
        Some("date") => (Some(Format::Date), Type::Timestamp, 12, 12),
        Some("date-time") => (Some(Format::DateTime), Type::Timestamp, 32, 21),
        _ => {
            let longest = schema["enum"].as_array().filter(|values| !values.is_empty());
            let longest = longest.map(|values| values.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0) as i64);
            // A character may take four bytes.
            let max = max_length(schema).map(|length| length * 4).or(longest).unwrap_or(MAX_REQUEST_BYTES - 2);
            (None, Type::String, max, 2)
        }
    };
    (Kind::Text(format), Some(Declared { ty, max: max as u64, min_json }))
}

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name).and_then(Json::as_bool).unwrap_or(false)
}

fn bound(schema: &Json, name: &str) -> Option<i64> {
    schema.get(name).and_then(Json::as_i64).map(|bound| bound.max(0))
}

fn max_length(schema: &Json) -> Option<i64> {
    bound(schema, "maxLength")
}
