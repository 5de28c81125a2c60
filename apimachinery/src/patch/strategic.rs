//! Strategic merge patch: a merge patch that knows how lists merge, with directives.
//!
//! Directives: `$patch` (replace, delete), `$retainKeys`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`. Merge
//! strategies and keys come from the schema. Custom kinds have none, so the endpoint refuses this patch type for them (415).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{
    Answer,
    directives::{drop_nulls, follow_directive, follow_item_directives, retain_keys, without_directives},
    order::{arrange, check_order, deduplicated, items_are_maps, order_after_edits, partition},
};
use crate::{
    go_print,
    schema::{Field, StructType, Type, TypeId, Types},
};

pub(super) const DIRECTIVE: &str = "$patch";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
pub(super) const DELETE_PREFIX: &str = "$deleteFromPrimitiveList";
pub(super) const ORDER_PREFIX: &str = "$setElementOrder";

/// A refused strategic merge patch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("json: cannot unmarshal {0} into Go value of type map[string]interface {{}}")]
    NotAMap(&'static str),
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    ElementOrder,
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// A null in a merging list; upstream panics, which its handler answers with 500.
    #[error("This request caused apiserver to panic. Look in the logs for details.")]
    NullItem,
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// The answer that this error gets.
    pub fn answer(&self) -> Answer {
        match self {
            Error::NotAMap(_) | Error::PrimitiveList | Error::RetainKeys | Error::ElementOrder => Answer::BadRequest,
            Error::ListOfLists => Answer::Rejected,
            Error::NullItem | Error::Other(_) => Answer::Internal,
        }
    }
}

pub(super) fn no_merge_key(map: &Value, key: &str) -> Error {
    Error::Other(format!("map: {} does not contain declared merge key: {key}", go_print::plain(map)))
}

pub(super) fn bad_type(expected: &str, found: &Value) -> Error {
    let found = go_print::type_name(found).unwrap_or("%!s(<nil>)");
    Error::Other(format!("expected a {expected}, but received a {found}"))
}

/// `document` of type `id` after `patch`.
///
/// Directives are taken out of `patch` as they are followed: what is left is what upstream prints (by
/// [`go_print::plain`]) as the refused value if the result does not decode.
pub fn apply(types: &Types, id: TypeId, document: &Value, patch: &mut Value) -> Result<Value, Error> {
    let changes = match patch {
        Value::Object(changes) => changes,
        Value::Null => return Ok(document.clone()),
        Value::Array(_) => return Err(Error::NotAMap("array")),
        Value::String(_) => return Err(Error::NotAMap("string")),
        Value::Number(_) => return Err(Error::NotAMap("number")),
        Value::Bool(_) => return Err(Error::NotAMap("bool")),
    };
    let original = document.as_object().cloned().unwrap_or_default();
    let merged = Merge { types }.map(original, changes, Place::Struct(types.get(id)))?;
    Ok(Value::Object(merged))
}

/// What is known about the place that a patch has come to.
#[derive(Clone, Copy)]
enum Place<'a> {
    Struct(&'a StructType),
    /// A struct of this name that reads and writes itself, and so has no fields to patch.
    Opaque(&'static str),
    /// No struct, but of this Go kind.
    Other(&'static str),
}

/// How a field merges.
struct Strategy<'a> {
    below: Place<'a>,
    merge: bool,
    replace: bool,
    merge_key: &'a str,
}

#[derive(Clone, Copy)]
struct Merge<'a> {
    types: &'a Types,
}

impl<'a> Merge<'a> {
    fn place(self, ty: &'a Type) -> Place<'a> {
        match ty {
            Type::Struct(id) => Place::Struct(self.types.get(*id)),
            Type::Map(_) => Place::Other("map"),
            Type::List(_) | Type::Bytes => Place::Other("slice"),
            Type::String => Place::Other("string"),
            Type::Bool => Place::Other("bool"),
            Type::Int32 => Place::Other("int32"),
            Type::Int64 | Type::Duration => Place::Other("int64"),
            Type::Uint(_) => Place::Other("uint64"),
            Type::Float => Place::Other("float64"),
            Type::RawExtension => Place::Opaque("RawExtension"),
            Type::Quantity => Place::Opaque("Quantity"),
            Type::Time => Place::Opaque("Time"),
            Type::MicroTime => Place::Opaque("MicroTime"),
            Type::IntOrString => Place::Opaque("IntOrString"),
            Type::FieldsV1 => Place::Opaque("FieldsV1"),
            _ => Place::Other("struct"),
        }
    }

    fn field(self, place: Place<'a>, key: &str) -> Result<&'a Field, Error> {
        let ty = match place {
            Place::Struct(ty) => ty,
            Place::Opaque(name) => {
                let key = crate::field::quote(key);
                return Err(Error::Other(format!("unable to find api field in struct {name} for the json field {key}")));
            }
            Place::Other("struct") => return Err(Error::Other(format!("unable to find api field in struct for the json field {key:?}"))),
            Place::Other(kind) => {
                return Err(Error::Other(format!("merging an object in json but data type is not struct, instead is: {kind}")));
            }
        };
        ty.field(key).or_else(|| ty.fields.iter().find(|field| field.json.eq_ignore_ascii_case(key))).ok_or_else(|| {
            let key = crate::field::quote(key);
            Error::Other(format!("unable to find api field in struct {} for the json field {key}", ty.go_name))
        })
    }

    fn of_map(self, place: Place<'a>, key: &str) -> Result<Strategy<'a>, Error> {
        let field = self.field(place, key)?;
        Ok(strategy(field, self.place(&field.ty)))
    }

    fn of_list(self, place: Place<'a>, key: &str) -> Result<Strategy<'a>, Error> {
        let field = self.field(place, key)?;
        let below = match &field.ty {
            Type::List(list) if matches!(list.item, Type::List(_) | Type::Bytes) => {
                return Err(Error::Other("unexpected slice of slice".to_owned()));
            }
            Type::List(list) => self.place(&list.item),
            ty if field.pointer => self.place(ty),
            _ => return Err(Error::Other("expected slice or array type, but got: struct".to_owned())),
        };
        Ok(strategy(field, below))
    }

    fn map(self, mut original: Map<String, Value>, patch: &mut Map<String, Value>, place: Place<'a>) -> Result<Map<String, Value>, Error> {
        if let Some(directive) = patch.get(DIRECTIVE).cloned() {
            return follow_directive(&directive, patch);
        }
        retain_keys(&mut original, patch)?;
        self.ordered_lists(&mut original, patch, place)?;
        let keys: Vec<String> = patch.keys().cloned().collect();
        for key in keys {
            let Some(change) = patch.get_mut(&key) else { continue };
            self.change(&mut original, &key, change, place)?;
        }
        Ok(original)
    }

    fn change(self, original: &mut Map<String, Value>, key: &str, change: &mut Value, place: Place<'a>) -> Result<(), Error> {
        let deletes = key.starts_with(DELETE_PREFIX);
        let key = if deletes { list_name(key, DELETE_PREFIX).ok_or(Error::PrimitiveList)? } else { key };
        if change.is_null() {
            original.shift_remove(key);
            return Ok(());
        }
        let found = match original.get_mut(key) {
            Some(found) if go_print::type_name(found) == go_print::type_name(change) => found,
            _ if deletes => return Ok(()),
            _ => {
                // New here, or of another type: the patch's value as it is.
                drop_nulls(change);
                set(original, key, without_directives(change));
                return Ok(());
            }
        };
        match (found, change) {
            (Value::Object(found), Value::Object(change)) => {
                let strategy = self.of_map(place, key)?;
                *found = if strategy.replace { change.clone() } else { self.map(std::mem::take(found), change, strategy.below)? };
            }
            (Value::Array(found), Value::Array(change)) => {
                let strategy = self.of_list(place, key)?;
                *found = self.list(std::mem::take(found), change, &strategy, deletes)?;
            }
            (_, change) => set(original, key, without_directives(change)),
        }
        Ok(())
    }

    /// Merges the lists that a `$setElementOrder` speaks of, and takes both out of the patch.
    fn ordered_lists(self, original: &mut Map<String, Value>, patch: &mut Map<String, Value>, place: Place<'a>) -> Result<(), Error> {
        let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(ORDER_PREFIX)).cloned().collect();
        for directive in directives {
            let order = match patch.shift_remove(&directive) {
                Some(Value::Array(order)) => order,
                Some(other) => return Err(bad_type("[]interface {}", &other)),
                None => continue,
            };
            let name = list_name(&directive, ORDER_PREFIX).ok_or(Error::ElementOrder)?;
            let live = list_at(original, name)?;
            let wanted = list_at(patch, name)?;
            let strategy = self.of_list(place, name)?;
            let key = strategy.merge_key;
            check_order(wanted.as_deref().unwrap_or(&[]), &order, key)?;
            let merged = match (&live, &wanted) {
                (None, None) => continue,
                (Some(live), None) => live.clone(),
                (None, Some(wanted)) => wanted.clone().iter_mut().filter_map(without_directives).collect(),
                (Some(live), Some(wanted)) => self.list(live.clone(), &mut wanted.clone(), &strategy, false)?,
            };
            let (asked, others) = partition(merged, &order, key)?;
            let (live, wanted) = (live.unwrap_or_default(), wanted.unwrap_or_default());
            let maps = items_are_maps(&[&live, &wanted])?;
            let live = if maps && strategy.merge { order_after_edits(live, &wanted, key) } else { live };
            let both = arrange(asked, others, &order, &live, key, maps)?;
            original.insert(name.to_owned(), Value::Array(both));
            patch.shift_remove(name);
        }
        Ok(())
    }

    fn list(self, original: Vec<Value>, patch: &mut [Value], strategy: &Strategy<'a>, deletes: bool) -> Result<Vec<Value>, Error> {
        if !strategy.merge && !deletes {
            return Ok(patch.to_vec());
        }
        if original.is_empty() && patch.is_empty() {
            return Ok(original);
        }
        let key = strategy.merge_key;
        let maps = items_are_maps(&[&original, patch])?;
        if !maps {
            if deletes {
                return Ok(original.into_iter().filter(|item| !patch.contains(item)).collect());
            }
            let merged = deduplicated(original.iter().chain(patch.iter()).cloned().collect());
            let (asked, others) = partition(merged, patch, key)?;
            return arrange(asked, others, patch, &original, key, maps);
        }
        if key.is_empty() {
            let kind = match strategy.below {
                Place::Struct(_) | Place::Opaque(_) => "struct",
                Place::Other(kind) => kind,
            };
            return Err(Error::Other(format!("cannot merge lists without merge key for {kind}")));
        }
        let (original, mut patch) = follow_item_directives(original, patch, key)?;
        let merged = self.items(original.clone(), &mut patch, key, strategy.below)?;
        let (asked, others) = partition(merged, &patch, key)?;
        arrange(asked, others, &patch, &original, key, maps)
    }

    /// Merges items of the same key and appends the others.
    fn items(self, mut original: Vec<Value>, patch: &mut [Value], key: &str, below: Place<'a>) -> Result<Vec<Value>, Error> {
        let mut places: HashMap<String, usize> = HashMap::with_capacity(original.len());
        for (at, item) in original.iter().enumerate() {
            if let Some(value) = item.get(key) {
                places.entry(value.to_string()).or_insert(at);
            }
        }
        for item in patch {
            let wanted = item.get(key).ok_or_else(|| no_merge_key(item, key))?.to_string();
            let found = places.get(&wanted).and_then(|at| original.get_mut(*at));
            match (found, &mut *item) {
                (Some(Value::Object(found)), Value::Object(item)) => *found = self.map(std::mem::take(found), item, below)?,
                _ => {
                    places.entry(wanted).or_insert(original.len());
                    original.push(item.clone());
                }
            }
        }
        Ok(original)
    }
}

fn strategy<'a>(field: &'a Field, below: Place<'a>) -> Strategy<'a> {
    let merge_key = &field.patch_merge_key;
    Strategy { below, merge: field.patch_strategy.merge, replace: field.patch_strategy.replace, merge_key }
}

fn set(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.shift_remove(key),
    };
}

/// `list` of `$directive/list`.
fn list_name<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)?.strip_prefix('/')
}

fn list_at(map: &Map<String, Value>, key: &str) -> Result<Option<Vec<Value>>, Error> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items.clone())),
        Some(other) => Err(bad_type("[]interface {}", other)),
    }
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
