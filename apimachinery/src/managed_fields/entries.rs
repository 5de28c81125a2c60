//! `metadata.managedFields`: who owns which fields since when.
//!
//! Owns the entries' order, their identity and the cap on their number.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{json::FieldsError, set::FieldSet};
use crate::field::quote;

/// How many managers of plain updates an object remembers; older ones are merged.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that stands for the merged ones.
const ANCIENT_CHANGES: &str = "ancient-changes";
/// The manager that stands for a client without a name.
const UNKNOWN: &str = "unknown";

/// The way in which a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Who owns: the parts of an entry that make it another owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    pub manager: String,
    pub operation: Operation,
    /// Empty for an applier, who stays the same through a change of version.
    pub api_version: String,
    /// Empty for the main resource.
    pub subresource: String,
}

impl ManagerId {
    pub(super) fn new(manager: &str, operation: Operation, api_version: &str, subresource: &str) -> ManagerId {
        ManagerId {
            manager: if manager.is_empty() { UNKNOWN } else { manager }.to_owned(),
            operation,
            api_version: if operation == Operation::Apply { "" } else { api_version }.to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// As conflict messages name the manager: `"kubectl" with subresource "status" using apps/v1`.
    pub(super) fn text(&self) -> String {
        let mut out = quote(&self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {}", quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }
}

/// What an owner owns, in terms of an API version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub set: FieldSet,
    pub api_version: String,
    pub applied: bool,
}

/// A time as it was written, and in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Time {
    text: String,
    seconds: i64,
}

impl Time {
    pub(super) fn at(now: Timestamp) -> Time {
        Time { text: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), seconds: now.as_second() }
    }

    fn parse(text: &str) -> Time {
        // An unreadable time sorts as the zero time; it is written back as it came.
        Time { text: text.to_owned(), seconds: text.parse::<Timestamp>().map_or(0, |time| time.as_second()) }
    }
}

/// The owners of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managed {
    pub(super) fields: BTreeMap<ManagerId, Owned>,
    /// Kept apart: an owner that lets everything go and comes back keeps its time.
    pub(super) times: BTreeMap<ManagerId, Time>,
}

/// Why `managedFields` could not be read. Only admission and apply show it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    #[error("apiVersion must not be empty")]
    ApiVersion,
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    #[error("invalid fieldsType {fields_type} in managed fields entry {index}")]
    FieldsType {
        /// Quoted.
        fields_type: String,
        index: usize,
    },
    #[error("error decoding versioned set from managed fields entry {1}: error decoding set: {0}")]
    Fields(#[source] FieldsError, usize),
}

impl Managed {
    /// From an object's metadata; an object without entries has no owners.
    pub fn of(object: &Value) -> Result<Managed, DecodeError> {
        let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        Managed::decode(entries.map_or(&[], Vec::as_slice))
    }

    /// From the list of entries.
    pub fn decode(entries: &[Value]) -> Result<Managed, DecodeError> {
        let mut managed = Managed::default();
        for (i, entry) in entries.iter().enumerate() {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err(DecodeError::Operation),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err(DecodeError::ApiVersion);
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(DecodeError::NoFieldsType(i)),
                other => return Err(DecodeError::FieldsType { fields_type: quote(other), index: i }),
            }
            let set = FieldSet::from_fields_v1(entry.get("fieldsV1").unwrap_or(&Value::Null)).map_err(|e| DecodeError::Fields(e, i))?;
            let id = ManagerId {
                manager: text("manager").to_owned(),
                operation,
                api_version: if operation == Operation::Apply { String::new() } else { api_version.to_owned() },
                subresource: text("subresource").to_owned(),
            };
            if let Some(time) = entry.get("time").and_then(Value::as_str) {
                managed.times.insert(id.clone(), Time::parse(time));
            }
            let owned = Owned { set, api_version: api_version.to_owned(), applied: operation == Operation::Apply };
            managed.fields.insert(id, owned);
        }
        Ok(managed)
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    fn seconds(&self, id: &ManagerId) -> i64 {
        self.times.get(id).map_or(0, |time| time.seconds)
    }

    /// The list of entries in their order: operation, time, manager, version, subresource. `None` without owners.
    pub fn encode(&self) -> Option<Value> {
        if self.fields.is_empty() {
            return None;
        }
        let mut order: Vec<(&ManagerId, &Owned)> = self.fields.iter().collect();
        order.sort_by(|(p, p_owned), (q, q_owned)| {
            let key = |id: &ManagerId, owned: &Owned| (if owned.applied { Operation::Apply } else { id.operation }, self.seconds(id));
            key(p, p_owned)
                .cmp(&key(q, q_owned))
                .then_with(|| p.manager.cmp(&q.manager))
                .then_with(|| p_owned.api_version.cmp(&q_owned.api_version))
                .then_with(|| p.subresource.cmp(&q.subresource))
        });
        Some(Value::Array(order.into_iter().map(|(id, owned)| self.encode_entry(id, owned)).collect()))
    }

    fn encode_entry(&self, id: &ManagerId, owned: &Owned) -> Value {
        let mut entry = Map::with_capacity(7);
        if !id.manager.is_empty() {
            entry.insert("manager".to_owned(), id.manager.as_str().into());
        }
        let operation = if owned.applied { Operation::Apply } else { id.operation };
        entry.insert("operation".to_owned(), operation.as_str().into());
        entry.insert("apiVersion".to_owned(), owned.api_version.as_str().into());
        if let Some(time) = self.times.get(id) {
            entry.insert("time".to_owned(), time.text.as_str().into());
        }
        entry.insert("fieldsType".to_owned(), "FieldsV1".into());
        entry.insert("fieldsV1".to_owned(), owned.set.to_fields_v1());
        if !id.subresource.is_empty() {
            entry.insert("subresource".to_owned(), id.subresource.as_str().into());
        }
        Value::Object(entry)
    }

    /// Writes the entries into an object's metadata; without owners the field is absent.
    pub(super) fn store(&self, object: &mut Value) {
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        match self.encode() {
            Some(entries) => metadata.insert("managedFields".to_owned(), entries),
            None => metadata.shift_remove("managedFields"),
        };
    }

    /// Merges the oldest updaters of a version into one until no more than the limit are left.
    pub(super) fn cap_updaters(&mut self) {
        let mut updaters: Vec<ManagerId> = self.fields.iter().filter(|(_, owned)| !owned.applied).map(|(id, _)| id.clone()).collect();
        let mut left = updaters.len();
        if left <= MAX_UPDATE_MANAGERS {
            return;
        }
        updaters.sort_by(|a, b| self.seconds(a).cmp(&self.seconds(b)).then_with(|| a.cmp(b)));
        let mut first_of_version: BTreeMap<String, ManagerId> = BTreeMap::new();
        for id in updaters {
            if left <= MAX_UPDATE_MANAGERS {
                break;
            }
            let Some(owned) = self.fields.get(&id).cloned() else { continue };
            let Some(first) = first_of_version.get(&owned.api_version) else {
                first_of_version.insert(owned.api_version, id);
                continue;
            };
            let bucket = ManagerId::new(ANCIENT_CHANGES, Operation::Update, &owned.api_version, "");
            let older = match self.fields.remove(&bucket) {
                Some(older) => Some(older),
                None => self.fields.remove(first),
            };
            let mut set = older.map_or_else(FieldSet::new, |older| older.set);
            set.absorb(owned.set);
            self.fields.remove(&id);
            self.fields.insert(bucket.clone(), Owned { set, api_version: owned.api_version, applied: owned.applied });
            left -= 1;
            // The merged entry is as old as the youngest in it.
            match self.times.get(&id).cloned() {
                Some(time) => self.times.insert(bucket, time),
                None => self.times.remove(&bucket),
            };
        }
    }
}

/// A request's `managedFields` that ask for all ownership to be forgotten: `[]` or `[{}]`.
pub fn asks_for_reset(object: &Value) -> bool {
    match object.pointer("/metadata/managedFields").and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}
