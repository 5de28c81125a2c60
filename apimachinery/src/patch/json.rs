//! JSON patch (RFC 6902), with the liberties of the library that kube-apiserver uses.
//!
//! The liberties are why the `json-patch` crate does not fit: negative indexes count from the end, `replace` may add a
//! field, `copy` of an absent field copies null, absent and null fields are the same to `test`.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value};

use super::Answer;
use crate::go_print::json_kind;

/// What a null operation says.
static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// More operations than this are refused.
pub const MAX_OPERATIONS: usize = 10_000;

/// How many bytes of JSON the copies of one patch may add up to.
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// How deep a patch may nest what it builds. Bodies nest less; moves and copies could otherwise pile them up without end.
pub const MAX_DEPTH: usize = 256;

/// A refused JSON patch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("error decoding patch: json: cannot unmarshal {found} into Go {into}")]
    StrictDecode { found: &'static str, into: String },
    #[error("json: cannot unmarshal {found} into Go value of type {into}")]
    Decode { found: &'static str, into: &'static str },
    #[error("Request entity is too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    #[error("Unexpected kind: {0}")]
    UnexpectedKind(String),
    #[error("{op} operation failed to decode {field}: missing value")]
    MissingField { op: &'static str, field: &'static str },
    #[error("{op} operation does not apply: doc is missing path: {}: missing value", shown(op, path))]
    MissingPath { op: &'static str, path: String },
    #[error("error in {op} for path: '{path}': {source}")]
    Step {
        op: &'static str,
        path: String,
        #[source]
        source: StepError,
    },
    #[error("replace operation value must be object or array")]
    NotADocument,
    #[error("testing value {0} failed: test failed")]
    TestFailed(String),
    #[error("Unable to complete the copy, the accumulated size increase of copy is {0}, exceeding the limit {MAX_COPIED_BYTES}")]
    TooManyCopiedBytes(usize),
    #[error("exceeded max depth")]
    TooDeep,
}

/// Some operations quote the path that they do not find.
fn shown(op: &str, path: &str) -> String {
    if matches!(op, "add" | "remove") { format!("\"{path}\"") } else { path.to_owned() }
}

/// Why the last step of a path cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("Unable to remove nonexistent key: {0}: missing value")]
    NoSuchKey(String),
    #[error("Unable to access invalid index: {0}: invalid index referenced")]
    InvalidIndex(i64),
    #[error("value was not a proper array index: '{0}'")]
    NotAnIndex(String),
}

impl Error {
    /// The answer that this error gets.
    pub fn answer(&self) -> Answer {
        match self {
            Error::StrictDecode { .. } | Error::Decode { .. } => Answer::BadRequest,
            Error::TooManyOperations(_) => Answer::TooLarge,
            _ => Answer::Rejected,
        }
    }
}

/// A decoded JSON patch.
#[derive(Debug)]
pub struct Patch<'a> {
    operations: Vec<Option<&'a Map<String, Value>>>,
}

impl<'a> Patch<'a> {
    /// Reads a patch. With `strict` (field validation Warn or Strict) the members of operations are type-checked and unknown
    /// ones returned, as `json patch unknown field "[0].x"`; duplicate members are the parser's to find.
    pub fn decode(patch: &'a Value, strict: bool) -> Result<(Patch<'a>, Vec<String>), Error> {
        let mut unknown = Vec::new();
        if strict {
            check_operations(patch, &mut unknown)?;
        }
        let list = match patch {
            Value::Null => &[],
            Value::Array(list) => list.as_slice(),
            other => return Err(Error::Decode { found: json_kind(other), into: "jsonpatch.Patch" }),
        };
        let mut operations = Vec::with_capacity(list.len());
        for operation in list {
            operations.push(match operation {
                Value::Null => None,
                Value::Object(members) => Some(members),
                other => return Err(Error::Decode { found: json_kind(other), into: "jsonpatch.Operation" }),
            });
        }
        if operations.len() > MAX_OPERATIONS {
            return Err(Error::TooManyOperations(operations.len()));
        }
        Ok((Patch { operations }, unknown))
    }

    /// Applies all operations or none. Objects that a path leads through come out with sorted keys, as upstream's do (but where a
    /// later operation moved them), which
    /// its error messages show.
    pub fn apply(&self, document: &Value) -> Result<Value, Error> {
        let mut document = document.clone();
        let (mut copied_bytes, mut opened) = (0, Opened::default());
        for operation in self.operations.iter().map(|operation| operation.unwrap_or(&NOTHING)) {
            apply_operation(&mut document, operation, &mut copied_bytes)?;
            for field in ["path", "from"] {
                opened.add(operation.get(field).and_then(Value::as_str).unwrap_or_default());
            }
        }
        opened.sort(&mut document);
        Ok(document)
    }
}

fn check_operations(patch: &Value, unknown: &mut Vec<String>) -> Result<(), Error> {
    let mismatch = |found: &Value, into: String| Error::StrictDecode { found: json_kind(found), into };
    let list = match patch {
        Value::Null => return Ok(()),
        Value::Array(list) => list,
        other => return Err(mismatch(other, "value of type []handlers.jsonPatchOp".to_owned())),
    };
    for (i, operation) in list.iter().enumerate() {
        let members = match operation {
            Value::Null => continue,
            Value::Object(members) => members,
            other => return Err(mismatch(other, "value of type handlers.jsonPatchOp".to_owned())),
        };
        for (name, value) in members {
            match (name.as_str(), value) {
                ("value", _) | ("op" | "path" | "from", Value::String(_) | Value::Null) => {}
                ("op" | "path" | "from", other) => {
                    return Err(mismatch(other, format!("struct field jsonPatchOp.{name} of type string")));
                }
                _ => unknown.push(format!("json patch unknown field \"[{i}].{name}\"")),
            }
        }
    }
    Ok(())
}

/// The containers that paths led through, by their steps.
#[derive(Default)]
struct Opened(BTreeMap<String, Opened>);

impl Opened {
    fn add(&mut self, path: &str) {
        let steps = path.split_once('/').and_then(|(_, steps)| steps.rsplit_once('/')).map_or("", |(steps, _)| steps);
        let mut node = self;
        for step in steps.split('/').filter(|_| !steps.is_empty()) {
            node = node.0.entry(unescape(step)).or_default();
        }
    }

    fn sort(&self, container: &mut Value) {
        if let Value::Object(map) = container {
            map.sort_keys();
        }
        for (key, below) in &self.0 {
            let inner = match container {
                Value::Object(map) => map.get_mut(key),
                Value::Array(items) => index_below(items.len(), key).ok().and_then(|at| items.get_mut(at)),
                _ => None,
            };
            if let Some(inner) = inner {
                below.sort(inner);
            }
        }
    }
}

fn apply_operation(document: &mut Value, operation: &Map<String, Value>, copied_bytes: &mut usize) -> Result<(), Error> {
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match operation.get("op").and_then(Value::as_str).unwrap_or("unknown") {
        "add" => {
            let path = member(operation, "add", "path")?;
            add(document, "add", path, value())
        }
        "remove" => {
            let path = member(operation, "remove", "path")?;
            remove(document, "remove", path).map(drop)
        }
        "replace" => replace(document, member(operation, "replace", "path")?, value()),
        "move" => {
            let from = member(operation, "move", "from")?;
            let taken = remove(document, "move", from)?;
            add(document, "move", member(operation, "move", "path")?, taken)
        }
        "copy" => copy(document, operation, copied_bytes),
        "test" => test(document, member(operation, "test", "path")?, &value()),
        other => Err(Error::UnexpectedKind(other.to_owned())),
    }
}

fn copy(document: &mut Value, operation: &Map<String, Value>, copied_bytes: &mut usize) -> Result<(), Error> {
    let from = member(operation, "copy", "from")?;
    let (container, key) = find(document, "copy", from)?;
    let found = get(container, &key).map_err(|source| step("copy", from, source))?;
    let copied = found.cloned().unwrap_or(Value::Null);
    let path = member(operation, "copy", "path")?;
    find(document, "copy", path)?;
    // Nothing that is absent or null counts.
    if !copied.is_null() {
        *copied_bytes = copied_bytes.saturating_add(copied.to_string().len());
    }
    if *copied_bytes > MAX_COPIED_BYTES {
        return Err(Error::TooManyCopiedBytes(*copied_bytes));
    }
    add(document, "copy", path, copied)
}

fn member<'a>(operation: &'a Map<String, Value>, op: &'static str, field: &'static str) -> Result<&'a str, Error> {
    operation.get(field).and_then(Value::as_str).ok_or(Error::MissingField { op, field })
}

fn step(op: &'static str, path: &str, source: StepError) -> Error {
    Error::Step { op, path: path.to_owned(), source }
}

/// The container that holds the last step of `path`, and that step. The text before the first slash counts for nothing.
fn find<'a>(document: &'a mut Value, op: &'static str, path: &str) -> Result<(&'a mut Value, String), Error> {
    let missing = || Error::MissingPath { op, path: path.to_owned() };
    let (_, steps) = path.split_once('/').ok_or_else(missing)?;
    let mut steps: Vec<String> = steps.split('/').map(unescape).collect();
    let last = steps.pop().ok_or_else(missing)?;
    let mut container = document;
    for key in steps {
        container = match container {
            Value::Object(map) => map.get_mut(&key).ok_or_else(missing)?,
            Value::Array(items) => {
                let at = existing_index(items.len(), &key).map_err(|_| missing())?;
                items.get_mut(at).ok_or_else(missing)?
            }
            _ => return Err(missing()),
        };
    }
    if container.is_object() || container.is_array() { Ok((container, last)) } else { Err(missing()) }
}

fn unescape(step: &str) -> String {
    let mut out = String::with_capacity(step.len());
    let mut rest = step;
    while let Some(at) = rest.find('~') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (text, length) = match rest.as_bytes().get(1) {
            Some(b'1') => ("/", 2),
            Some(b'0') => ("~", 2),
            _ => ("~", 1),
        };
        out.push_str(text);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// Refuses to put `value` at `path` if the document would nest too deep.
fn check_depth(path: &str, value: &Value) -> Result<(), Error> {
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    let steps = path.bytes().filter(|b| *b == b'/').count();
    if steps + depth(value) > MAX_DEPTH { Err(Error::TooDeep) } else { Ok(()) }
}

fn parse_index(key: &str) -> Result<i64, StepError> {
    key.parse().map_err(|_| StepError::NotAnIndex(key.to_owned()))
}

/// A place below `length`; negative ones count from the end.
fn index_below(length: usize, key: &str) -> Result<usize, StepError> {
    let index = parse_index(key)?;
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let place = if index < 0 { index.checked_add(length).unwrap_or(-1) } else { index };
    if place < 0 || place >= length {
        return Err(StepError::InvalidIndex(index));
    }
    usize::try_from(place).map_err(|_| StepError::InvalidIndex(index))
}

fn existing_index(length: usize, key: &str) -> Result<usize, StepError> {
    index_below(length, key)
}

/// What stands at `key`; an absent field is no error.
fn get<'a>(container: &'a Value, key: &str) -> Result<Option<&'a Value>, StepError> {
    match container {
        Value::Array(items) => Ok(items.get(existing_index(items.len(), key)?)),
        other => Ok(other.get(key)),
    }
}

fn add(document: &mut Value, op: &'static str, path: &str, value: Value) -> Result<(), Error> {
    check_depth(path, &value)?;
    let (container, key) = find(document, op, path)?;
    match container {
        Value::Array(items) if key == "-" => items.push(value),
        // An item can also be added after the last one.
        Value::Array(items) => {
            let at = index_below(items.len() + 1, &key).map_err(|source| step(op, path, source))?;
            items.insert(at, value);
        }
        Value::Object(map) => {
            map.insert(key, value);
        }
        _ => return Err(Error::MissingPath { op, path: path.to_owned() }),
    }
    Ok(())
}

fn remove(document: &mut Value, op: &'static str, path: &str) -> Result<Value, Error> {
    let (container, key) = find(document, op, path)?;
    match container {
        Value::Array(items) => {
            let at = existing_index(items.len(), &key).map_err(|source| step(op, path, source))?;
            Ok(items.remove(at))
        }
        Value::Object(map) => map.swap_remove(&key).ok_or_else(|| step(op, path, StepError::NoSuchKey(key))),
        _ => Err(Error::MissingPath { op, path: path.to_owned() }),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), Error> {
    check_depth(path, &value)?;
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err(Error::NotADocument);
        }
        *document = value;
        return Ok(());
    }
    let (container, key) = find(document, "replace", path)?;
    match container {
        Value::Array(items) => {
            let at = existing_index(items.len(), &key).map_err(|source| step("replace", path, source))?;
            items[at] = value;
        }
        Value::Object(map) => {
            map.insert(key, value);
        }
        _ => return Err(Error::MissingPath { op: "replace", path: path.to_owned() }),
    }
    Ok(())
}

fn test(document: &mut Value, path: &str, expected: &Value) -> Result<(), Error> {
    let failed = || Error::TestFailed(path.to_owned());
    if path.is_empty() {
        return if document == expected { Ok(()) } else { Err(failed()) };
    }
    let (container, key) = find(document, "test", path)?;
    let found = get(container, &key).map_err(|source| step("test", path, source))?;
    if found.unwrap_or(&Value::Null) == expected { Ok(()) } else { Err(failed()) }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
