//! A structural schema, read once from a definition and ready for use.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, OnceLock, Weak};

use parking_lot::Mutex;
use regex::Regex;
use serde_json::Value;

/// `additionalProperties`.
#[derive(Debug, Default)]
pub enum Additional {
    #[default]
    None,
    /// `true` or `false`.
    Any(bool),
    Schema(Box<Schema>),
}

/// How a list's items are told apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// One node of a schema.
#[derive(Debug, Default)]
pub struct Schema {
    /// None for any, two for `x-kubernetes-int-or-string`.
    pub types: Vec<String>,
    pub format: String,
    pub nullable: bool,
    pub default: Option<Value>,
    pub properties: BTreeMap<String, Schema>,
    pub additional: Additional,
    pub items: Option<Box<Schema>>,
    pub preserve_unknown: bool,
    pub embedded: bool,
    pub int_or_string: bool,
    pub list_type: ListType,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic_map: bool,
    pub rules: Rules,
}

/// What values must satisfy beyond their types.
#[derive(Debug, Default)]
pub struct Rules {
    pub required: Vec<String>,
    pub allowed: Vec<Value>,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub pattern: Option<Pattern>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

/// A regular expression and its text.
#[derive(Debug)]
pub struct Pattern {
    pub text: String,
    /// Compiled when something is first matched: it takes a thousand times the room of its text. `None` where the text is none that can
    /// be compiled: nothing matches then.
    regex: OnceLock<Option<Arc<Regex>>>,
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        Pattern { text: text.to_owned(), regex: OnceLock::new() }
    }

    pub fn matches(&self, text: &str) -> bool {
        self.regex.get_or_init(|| compiled(&self.text)).as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

/// Expressions in use, by text: schemas repeat a few of them many times.
static COMPILED: LazyLock<Mutex<HashMap<String, Weak<Regex>>>> = LazyLock::new(Mutex::default);

fn compiled(text: &str) -> Option<Arc<Regex>> {
    let mut known = COMPILED.lock();
    if let Some(regex) = known.get(text).and_then(Weak::upgrade) {
        return Some(regex);
    }
    let regex = Arc::new(Regex::new(text).ok()?);
    if known.len() == known.capacity() {
        known.retain(|_, regex| regex.strong_count() > 0);
    }
    known.insert(text.to_owned(), Arc::downgrade(&regex));
    Some(regex)
}

impl Schema {
    /// Reads a schema that the definition's own validation has accepted.
    pub fn read(value: &Value) -> Schema {
        let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        let int_or_string = flag("x-kubernetes-int-or-string");
        let types = if int_or_string {
            vec!["integer".to_owned(), "string".to_owned()]
        } else {
            Some(text("type")).filter(|t| !t.is_empty()).into_iter().collect()
        };
        let properties = value.get("properties").and_then(Value::as_object);
        let additional = match value.get("additionalProperties") {
            None | Some(Value::Null) => Additional::None,
            Some(Value::Bool(any)) => Additional::Any(*any),
            Some(schema) => Additional::Schema(Box::new(Schema::read(schema))),
        };
        let list_type = match text("x-kubernetes-list-type").as_str() {
            "set" => ListType::Set,
            "map" => ListType::Map(texts(value, "x-kubernetes-list-map-keys")),
            _ => ListType::Atomic,
        };
        Schema {
            types,
            format: text("format"),
            nullable: flag("nullable"),
            default: value.get("default").filter(|d| !d.is_null()).cloned(),
            properties: properties.into_iter().flatten().map(|(name, schema)| (name.clone(), Schema::read(schema))).collect(),
            additional,
            items: value.get("items").filter(|i| i.is_object()).map(|items| Box::new(Schema::read(items))),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string,
            list_type,
            atomic_map: text("x-kubernetes-map-type") == "atomic",
            rules: Rules::read(value),
        }
    }

    /// The schema of a member: its property's, or that of all other members.
    pub fn member(&self, name: &str) -> Option<&Schema> {
        match (self.properties.get(name), &self.additional) {
            (Some(property), _) => Some(property),
            (None, Additional::Schema(schema)) => Some(schema),
            _ => None,
        }
    }
}

impl Rules {
    fn read(value: &Value) -> Rules {
        let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
        let number = |name: &str| value.get(name).and_then(Value::as_f64);
        let count = |name: &str| value.get(name).and_then(Value::as_u64);
        let schemas = |name: &str| value.get(name).and_then(Value::as_array).into_iter().flatten().map(Schema::read).collect();
        let pattern = value.get("pattern").and_then(Value::as_str).filter(|p| !p.is_empty());
        Rules {
            required: texts(value, "required"),
            allowed: value.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            pattern: pattern.map(Pattern::new),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: value.get("not").filter(|n| n.is_object()).map(|not| Box::new(Schema::read(not))),
        }
    }
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let items = value.get(name).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
