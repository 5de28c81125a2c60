//! Values while an expression is evaluated. What comes from JSON is looked at where it lies: nothing is copied before an
//! expression asks for it, and then only that part.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::quantity::Quantity;
use serde_json::Value as Json;

use crate::authorizer::AuthorizerValue;
use crate::functions::{cidr::Cidr, format::Format, semver::Version, time::Time, url::Url};
use crate::schema::Schema;

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalError {
    pub message: String,
    /// Whether the budget was spent; nothing after it can be evaluated either.
    pub over_budget: bool,
}

impl EvalError {
    pub fn new(message: impl Into<String>) -> EvalError {
        EvalError { message: message.into(), over_budget: false }
    }

    /// The end of an evaluation that costs more than it may.
    pub fn over_budget() -> EvalError {
        EvalError { message: "operation cancelled: actual cost limit exceeded".to_owned(), over_budget: true }
    }

    pub(crate) fn no_such_overload() -> EvalError {
        EvalError::new("no such overload")
    }

    pub(crate) fn no_such_key(key: &dyn fmt::Display) -> EvalError {
        EvalError::new(format!("no such key: {key}"))
    }
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EvalError {}

pub(crate) type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// A text that is borrowed from the data or shared.
#[derive(Clone)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

/// A value of the language. `'a` is how long the data lives that it looks at.
#[derive(Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(Time),
    /// Nanoseconds.
    Duration(i64),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Arc<Value<'a>>>),
    /// The name of a type.
    Type(Arc<str>),
    Object(Arc<Object<'a>>),
    Quantity(Arc<Quantity>),
    Ip(IpAddr),
    Cidr(Cidr),
    Url(Arc<Url>),
    Format(&'static Format),
    Semver(Arc<Version>),
    Authorizer(Arc<AuthorizerValue<'a>>),
    /// Data of a field that has no declared type: it can only be compared.
    Unknown(&'a Json),
}

/// An object that an expression made.
pub struct Object<'a> {
    pub type_name: Arc<str>,
    pub fields: Vec<(Arc<str>, Value<'a>)>,
}

/// A list, in the data or made.
#[derive(Clone)]
pub enum List<'a> {
    Json(&'a [Json], Option<&'a Schema>),
    Owned(Arc<Vec<Value<'a>>>),
}

/// A map, in the data, made, or filled when asked.
#[derive(Clone)]
pub enum Map<'a> {
    Json(&'a serde_json::Map<String, Json>, Option<&'a Schema>),
    Owned(Arc<Entries<'a>>),
    Lazy(Arc<dyn Lazy<'a> + 'a>),
}

/// A map whose values are found out when they are asked for.
pub trait Lazy<'a>: Send + Sync {
    /// Its keys.
    fn names(&self) -> Vec<String>;

    /// The value of a key, if there is such a key.
    fn get(&self, name: &str) -> Option<Evaluated<'a>>;

    /// Whether the key is in the map: a map may have values for keys that are not.
    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// Entries of a map that an expression made, in the order of their making.
#[derive(Clone, Default)]
pub struct Entries<'a> {
    entries: Vec<(Value<'a>, Value<'a>)>,
    index: HashMap<Key, usize>,
}

/// A key as it is found: numbers that are equal are one key, whatever their type.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(String),
}

impl Key {
    fn of(value: &Value<'_>) -> Option<Key> {
        match value {
            Value::Bool(value) => Some(Key::Bool(*value)),
            Value::Int(value) => Some(Key::Int(*value)),
            Value::Uint(value) => Some(i64::try_from(*value).map_or(Key::Uint(*value), Key::Int)),
            Value::Double(value) if value.fract() == 0.0 && value.abs() < 9e15 => Some(Key::Int(*value as i64)),
            Value::String(text) => Some(Key::String(text.to_string())),
            _ => None,
        }
    }
}

impl<'a> Entries<'a> {
    /// False if the key is no key, or is there already.
    pub fn insert(&mut self, key: Value<'a>, value: Value<'a>) -> bool {
        let Some(found) = Key::of(&key) else { return false };
        if self.index.contains_key(&found) {
            return false;
        }
        self.index.insert(found, self.entries.len());
        self.entries.push((key, value));
        true
    }

    /// Sets the value of a key, whether it is there or not.
    pub(crate) fn put(&mut self, key: Value<'a>, value: Value<'a>) -> bool {
        match Key::of(&key).map(|found| self.index.get(&found).copied()) {
            None => false,
            Some(Some(at)) => {
                self.entries[at] = (key, value);
                true
            }
            Some(None) => self.insert(key, value),
        }
    }

    pub fn get(&self, key: &Value<'_>) -> Option<&Value<'a>> {
        let at = *self.index.get(&Key::of(key)?)?;
        Some(&self.entries[at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Value<'a>, Value<'a>)> {
        self.entries.iter()
    }
}

fn weigh_json<'v>(values: impl Iterator<Item = &'v Json>, left: &mut u64) {
    for value in values {
        if *left == 0 {
            return;
        }
        *left -= 1;
        match value {
            Json::Array(items) => weigh_json(items.iter(), left),
            Json::Object(members) => weigh_json(members.values(), left),
            _ => {}
        }
    }
}

impl<'a> Value<'a> {
    /// JSON as it is, without a schema: whole numbers are integers.
    pub fn json(value: &'a Json) -> Value<'a> {
        match value {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Value::Int(value),
                None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::String(Text::Borrowed(text)),
            Json::Array(items) => Value::List(List::Json(items, None)),
            Json::Object(members) => Value::Map(Map::Json(members, None)),
        }
    }

    pub fn string(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Text::Shared(text.into()))
    }

    /// A semantic version.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn semver(text: &str) -> Result<Value<'a>, String> {
        Version::parse(text).map(|version| Value::Semver(Arc::new(version)))
    }

    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Owned(Arc::new(items)))
    }

    pub(crate) fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as JSON, for mutations. The error names what JSON does not have.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        Ok(match self {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::from(*value),
            Value::Int(value) => Json::from(*value),
            Value::Uint(value) => Json::from(*value),
            Value::Double(value) => Json::from(*value),
            Value::String(text) => Json::from(&**text),
            Value::Bytes(bytes) => {
                use base64::Engine;
                Json::from(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Value::Timestamp(_) | Value::Duration(_) | Value::Type(_) | Value::Quantity(_) | Value::Ip(_) | Value::Cidr(_) => {
                Json::from(self.to_string())
            }
            Value::List(List::Json(items, _)) => Json::Array(items.to_vec()),
            Value::List(list) => Json::Array(list.iter().map(|item| item?.to_json()).collect::<Result<_, _>>()?),
            Value::Map(Map::Json(members, _)) => Json::Object((*members).clone()),
            Value::Map(map) => {
                let mut members = serde_json::Map::new();
                for key in map.keys() {
                    let name =
                        key.as_str().ok_or_else(|| EvalError::new(format!("map key {key} is of type {}, not string", key.type_name())))?;
                    let value = map.find(&key)?.unwrap_or(Value::Null).to_json()?;
                    members.insert(name.to_owned(), value);
                }
                Json::Object(members)
            }
            Value::Object(object) => {
                let members: Result<_, EvalError> =
                    object.fields.iter().map(|(name, value)| Ok((name.to_string(), value.to_json()?))).collect();
                Json::Object(members?)
            }
            Value::Optional(Some(value)) => value.to_json()?,
            Value::Unknown(data) => (*data).clone(),
            other => return Err(EvalError::new(format!("type conversion error from '{}' to JSON", other.type_name()))),
        })
    }

    /// The name of its type, as `type(x)` and messages have it.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(_) => "map",
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Object(object) => &object.type_name,
            Value::Quantity(_) => "kubernetes.Quantity",
            Value::Ip(_) => "net.IP",
            Value::Cidr(_) => "net.CIDR",
            Value::Url(_) => "kubernetes.URL",
            Value::Format(_) => "kubernetes.NamedFormat",
            Value::Semver(_) => "kubernetes.Semver",
            Value::Authorizer(value) => value.type_name(),
            Value::Unknown(_) => "unknown",
        }
    }

    /// How much there is of it, as costs count: characters, bytes, elements, entries; 1 for all else.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Value::String(text) => text.chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            Value::Ip(IpAddr::V4(_)) => 4,
            Value::Ip(IpAddr::V6(_)) => 16,
            Value::Cidr(cidr) => u64::from(cidr.bits.div_ceil(8)),
            _ => 1,
        }
    }

    /// How many values there are in it, itself among them; those that are there twice count twice. Not counted beyond `most`.
    pub(crate) fn weight(&self, most: u64) -> u64 {
        let mut left = most;
        self.weigh(&mut left);
        most - left
    }

    fn weigh(&self, left: &mut u64) {
        *left = left.saturating_sub(1);
        let mut items = |items: &mut dyn Iterator<Item = &Value<'a>>| {
            items
                .take_while(|item| {
                    item.weigh(left);
                    *left > 0
                })
                .for_each(drop)
        };
        match self {
            Value::List(List::Owned(list)) => items(&mut list.iter()),
            Value::Map(Map::Owned(entries)) => items(&mut entries.iter().map(|(_, value)| value)),
            Value::Object(object) => items(&mut object.fields.iter().map(|(_, value)| value)),
            Value::Optional(Some(value)) => value.weigh(left),
            Value::List(List::Json(list, _)) => weigh_json(list.iter(), left),
            Value::Map(Map::Json(members, _)) => weigh_json(members.values(), left),
            _ => {}
        }
    }

    /// Whether two values are equal. Values that cannot be compared are an error only where one type refuses any other.
    pub fn equals(&self, other: &Value<'_>) -> Result<bool, EvalError> {
        match (self, other) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Null, _) | (_, Value::Null) => Ok(false),
            (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
                Ok(self.compare_numbers(other) == Some(Ordering::Equal))
            }
            (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
            (Value::String(a), Value::String(b)) => Ok(**a == **b),
            (Value::Bytes(a), Value::Bytes(b)) => Ok(a == b),
            (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a == b),
            (Value::Duration(a), Value::Duration(b)) => Ok(a == b),
            (Value::Type(a), Value::Type(b)) => Ok(a == b),
            (Value::List(a), Value::List(b)) => a.equals(b),
            (Value::List(List::Json(_, Some(_))), _) | (Value::Map(Map::Json(_, Some(_))), _) if !matches!(other, Value::Map(_)) => {
                Err(EvalError::no_such_overload())
            }
            (Value::Map(a), Value::Map(b)) => a.equals(b),
            (Value::Map(a), Value::Object(b)) => a.equals_object(b),
            (Value::Object(a), Value::Map(b)) => b.equals_object(a),
            (Value::Object(a), Value::Object(b)) => a.equals(b),
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (a, b) => Ok(a.is_none() == b.is_none()),
            },
            (Value::Quantity(a), Value::Quantity(b)) => Ok(a == b),
            (Value::Ip(a), Value::Ip(b)) => Ok(a == b),
            (Value::Cidr(a), Value::Cidr(b)) => Ok(a == b),
            (Value::Url(a), Value::Url(b)) => Ok(a.text == b.text),
            (Value::Format(a), Value::Format(b)) => Ok(a.name == b.name),
            (Value::Semver(a), Value::Semver(b)) => Ok(a.cmp_precedence(b) == Ordering::Equal),
            (Value::Unknown(a), Value::Unknown(b)) => Ok(a == b),
            (
                Value::Quantity(_)
                | Value::Ip(_)
                | Value::Cidr(_)
                | Value::Url(_)
                | Value::Format(_)
                | Value::Semver(_)
                | Value::Authorizer(_),
                _,
            ) => Err(EvalError::no_such_overload()),
            _ => Ok(false),
        }
    }

    fn compare_numbers(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Value::Int(a), Value::Uint(b)) => Some(u64::try_from(*a).map_or(Ordering::Less, |a| a.cmp(b))),
            (Value::Uint(a), Value::Int(b)) => Some(u64::try_from(*b).map_or(Ordering::Greater, |b| a.cmp(&b))),
            (Value::Int(a), Value::Double(b)) => compare_with_double(i128::from(*a), *b),
            (Value::Double(a), Value::Int(b)) => compare_with_double(i128::from(*b), *a).map(Ordering::reverse),
            (Value::Uint(a), Value::Double(b)) => compare_with_double(i128::from(*a), *b),
            (Value::Double(a), Value::Uint(b)) => compare_with_double(i128::from(*b), *a).map(Ordering::reverse),
            _ => None,
        }
    }

    /// The order of two values that have one.
    pub(crate) fn compare(&self, other: &Value<'_>) -> Result<Ordering, EvalError> {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Ok((**a).cmp(b)),
            (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
            (Value::Double(a), _) if a.is_nan() => Err(EvalError::new("NaN values cannot be ordered")),
            (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Double(b)) if b.is_nan() => {
                Err(EvalError::new("NaN values cannot be ordered"))
            }
            _ => self.compare_numbers(other).ok_or_else(EvalError::no_such_overload),
        }
    }
}

fn compare_with_double(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    if double.abs() > 1e30 {
        return Some(if double > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    let floor = double.floor() as i128;
    Some(whole.cmp(&floor).then(if double.fract() == 0.0 { Ordering::Equal } else { Ordering::Less }))
}

impl<'a> Object<'a> {
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.fields.iter().find(|(field, _)| &**field == name).map(|(_, value)| value)
    }

    fn equals(&self, other: &Object<'_>) -> Result<bool, EvalError> {
        if self.type_name != other.type_name || self.fields.len() != other.fields.len() {
            return Ok(false);
        }
        for (name, value) in &self.fields {
            match other.get(name) {
                Some(there) if value.equals(there)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Owned(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at an index that is within the list.
    pub fn get(&self, index: usize) -> Option<Evaluated<'a>> {
        match self {
            List::Json(items, schema) => items.get(index).map(|item| typed(item, schema.and_then(Schema::items))),
            List::Owned(items) => items.get(index).cloned().map(Ok),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Evaluated<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    fn equals(&self, other: &List<'_>) -> Result<bool, EvalError> {
        if self.len() != other.len() {
            return Ok(false);
        }
        if let List::Json(_, Some(schema)) = self {
            if schema.is_set() {
                return self.contains_all(other);
            }
            if let Some(keys) = schema.map_keys() {
                return equal_by_keys(self, other, keys);
            }
        }
        for (a, b) in self.iter().zip(other.iter()) {
            if !a?.equals(&b?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn contains_all(&self, other: &List<'_>) -> Result<bool, EvalError> {
        for item in other.iter() {
            if !self.contains(&item?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn contains(&self, wanted: &Value<'_>) -> Result<bool, EvalError> {
        let mut failure = None;
        for item in self.iter() {
            match item.and_then(|item| item.equals(wanted)) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(false), Err)
    }

    /// Both lists in one: sets and lists with keys are merged.
    pub(crate) fn plus(&self, other: &List<'a>) -> Result<List<'a>, EvalError> {
        let mut items: Vec<Value<'a>> = self.iter().collect::<Result<_, _>>()?;
        match self {
            List::Json(_, Some(schema)) if schema.is_set() => {
                for item in other.iter() {
                    let item = item?;
                    if !List::Owned(Arc::new(items.clone())).contains(&item)? {
                        items.push(item);
                    }
                }
            }
            List::Json(_, Some(schema)) if schema.map_keys().is_some() => {
                let keys = schema.map_keys().unwrap_or_default();
                for item in other.iter() {
                    let item = item?;
                    let key = key_of(&item, keys);
                    match items.iter().position(|there| same_key(&key_of(there, keys), &key)) {
                        Some(at) => items[at] = item,
                        None => items.push(item),
                    }
                }
            }
            _ => {
                for item in other.iter() {
                    items.push(item?);
                }
            }
        }
        Ok(List::Owned(Arc::new(items)))
    }
}

fn key_of<'a>(item: &Value<'a>, keys: &[String]) -> Vec<Option<Value<'a>>> {
    keys.iter()
        .map(|key| match item {
            Value::Map(map) => map.find(&Value::string(crate::escape::escape(key).unwrap_or_else(|| key.clone()))).ok().flatten(),
            _ => None,
        })
        .collect()
}

fn same_key(a: &[Option<Value<'_>>], b: &[Option<Value<'_>>]) -> bool {
    a.iter().zip(b).all(|(a, b)| match (a, b) {
        (Some(a), Some(b)) => a.equals(b) == Ok(true),
        (a, b) => a.is_none() == b.is_none(),
    })
}

fn equal_by_keys(list: &List<'_>, other: &List<'_>, keys: &[String]) -> Result<bool, EvalError> {
    for item in list.iter() {
        let item = item?;
        let key = key_of(&item, keys);
        let mut found = false;
        for there in other.iter() {
            let there = there?;
            if same_key(&key, &key_of(&there, keys)) {
                found = true;
                if !item.equals(&there)? {
                    return Ok(false);
                }
            }
        }
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}

/// JSON as its schema types it.
pub(crate) fn typed<'a>(value: &'a Json, schema: Option<&'a Schema>) -> Evaluated<'a> {
    match schema {
        Some(schema) => schema.value(value),
        None => Ok(Value::json(value)),
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Map::Json(members, _) => members.len(),
            Map::Owned(entries) => entries.entries.len(),
            Map::Lazy(lazy) => lazy.names().len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key, if the map has it.
    pub fn find(&self, key: &Value<'_>) -> Result<Option<Value<'a>>, EvalError> {
        match self {
            Map::Json(members, schema) => {
                let Value::String(name) = key else {
                    // A typed map has only texts for keys; a free one is asked for any and has none.
                    return if schema.is_some() { Err(EvalError::no_such_overload()) } else { Ok(None) };
                };
                let Some(schema) = schema else { return Ok(members.get(&**name).map(Value::json)) };
                let unescaped = if schema.has_properties() { crate::escape::unescape(name) } else { Some(name.to_string()) };
                let Some(name) = unescaped else { return Ok(None) };
                match members.get(&name) {
                    Some(Json::Null) if schema.has_properties() => Ok(None),
                    Some(value) => schema.property(&name).map(|schema| schema.value(value)).transpose(),
                    None => Ok(None),
                }
            }
            Map::Owned(entries) => Ok(entries.get(key).cloned()),
            Map::Lazy(lazy) => key.as_str().and_then(|name| lazy.get(name)).transpose(),
        }
    }

    /// Whether a key is in the map.
    pub(crate) fn contains(&self, key: &Value<'_>) -> Result<bool, EvalError> {
        match self {
            Map::Lazy(lazy) => Ok(key.as_str().is_some_and(|name| lazy.has(name))),
            _ => Ok(self.find(key)?.is_some()),
        }
    }

    /// Its keys. A typed object has those of its declared fields.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(members, None) => members.keys().map(|name| Value::String(Text::Borrowed(name))).collect(),
            Map::Json(members, Some(schema)) => members
                .keys()
                .filter(|name| schema.property(name).is_some())
                .map(|name| match crate::escape::escape(name) {
                    Some(escaped) if schema.has_properties() && escaped != **name => Value::string(escaped),
                    _ => Value::String(Text::Borrowed(name)),
                })
                .collect(),
            Map::Owned(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
            Map::Lazy(lazy) => lazy.names().into_iter().map(Value::string).collect(),
        }
    }

    fn equals(&self, other: &Map<'_>) -> Result<bool, EvalError> {
        if self.len() != other.len() {
            return Ok(false);
        }
        if let (Map::Json(a, Some(schema)), Map::Json(b, Some(_))) = (self, other) {
            // What no schema describes is compared as it is.
            let unknown = |(name, value): (&String, &Json)| schema.property(name).is_none() && b.get(name).is_some_and(|b| b != value);
            if a.iter().any(unknown) {
                return Ok(false);
            }
        }
        for key in self.keys() {
            let (a, b) = (self.find(&key)?, other.find(&key)?);
            match (a, b) {
                (Some(a), Some(b)) => {
                    if !a.equals(&b)? {
                        return Ok(false);
                    }
                }
                (a, b) if a.is_none() == b.is_none() => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn equals_object(&self, other: &Object<'_>) -> Result<bool, EvalError> {
        if self.len() != other.fields.len() {
            return Ok(false);
        }
        for (name, value) in &other.fields {
            match self.find(&Value::string(name.clone()))? {
                Some(there) if there.equals(value)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// As messages show a value.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Uint(value) => write!(f, "{value}"),
            Value::Double(value) => f.write_str(&crate::functions::convert::double_text(*value)),
            Value::String(text) => f.write_str(text),
            Value::Type(name) => f.write_str(name),
            Value::Timestamp(time) => write!(f, "{time}"),
            Value::Duration(nanos) => f.write_str(&crate::functions::time::duration_text(*nanos)),
            Value::List(list) => {
                f.write_str("[")?;
                for (index, item) in list.iter().enumerate() {
                    f.write_str(if index > 0 { ", " } else { "" })?;
                    match item {
                        Ok(item) => write!(f, "{item}")?,
                        Err(error) => write!(f, "{error}")?,
                    }
                }
                f.write_str("]")
            }
            Value::Quantity(quantity) => write!(f, "{quantity}"),
            Value::Ip(ip) => write!(f, "{ip}"),
            Value::Cidr(cidr) => write!(f, "{cidr}"),
            Value::Url(url) => f.write_str(&url.text),
            other => f.write_str(other.type_name()),
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({self})", self.type_name())
    }
}
