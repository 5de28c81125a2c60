//! Strategic merge patch: a merge patch that knows how lists merge, with directives.
//!
//! Directives: `$patch` (replace, delete), `$retainKeys`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`. Merge
//! strategies and keys come from the schema. Custom kinds have none, so the endpoint refuses this patch type for them (415).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Answer,
    order::{interleave, key_of, sort_by},
};
use crate::{
    go_print,
    schema::{Field, StructType, Type, TypeId, Types},
};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList";
const ORDER_PREFIX: &str = "$setElementOrder";

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

fn no_merge_key(map: &Value, key: &str) -> Error {
    Error::Other(format!("map: {} does not contain declared merge key: {key}", go_print::plain(map)))
}

fn bad_type(expected: &str, found: &Value) -> Error {
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
            _ => Place::Other("struct"),
        }
    }

    fn field(self, place: Place<'a>, key: &str) -> Result<&'a Field, Error> {
        let ty = match place {
            Place::Struct(ty) => ty,
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
                Place::Struct(_) => "struct",
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
        for item in patch {
            let wanted = item.get(key).cloned().ok_or_else(|| no_merge_key(item, key))?;
            let found = original.iter_mut().find(|other| other.get(key) == Some(&wanted));
            match (found, &mut *item) {
                (Some(Value::Object(found)), Value::Object(item)) => *found = self.map(std::mem::take(found), item, below)?,
                _ => original.push(item.clone()),
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

/// `$patch` in a map: the patch instead of the map, or nothing.
fn follow_directive(directive: &Value, patch: &mut Map<String, Value>) -> Result<Map<String, Value>, Error> {
    match directive.as_str() {
        Some("replace") => {
            patch.shift_remove(DIRECTIVE);
            Ok(patch.clone())
        }
        Some("delete") => Ok(Map::new()),
        _ => Err(unknown_directive(directive, &Value::Object(patch.clone()))),
    }
}

fn unknown_directive(directive: &Value, map: &Value) -> Error {
    let shown = match directive {
        Value::String(s) => s.clone(),
        other => match go_print::type_name(other) {
            Some(name) => format!("%!s({name}={})", go_print::plain(other)),
            None => "%!s(<nil>)".to_owned(),
        },
    };
    Error::Other(format!("unknown patch type: {shown} in map: {}", go_print::plain(map)))
}

/// `$retainKeys`: members that it does not name go; the patch may set no others.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(directive) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(kept) = directive else { return Err(Error::RetainKeys) };
    let is_kept = |key: &str| kept.iter().any(|name| name.as_str() == Some(key));
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_PREFIX) || key.starts_with(ORDER_PREFIX);
        if !value.is_null() && !directive && !is_kept(key) {
            return Err(Error::RetainKeys);
        }
    }
    original.retain(|key, _| is_kept(key));
    Ok(())
}

/// `$patch` in the items of a merging list: the list and the patch that are left to merge.
fn follow_item_directives(mut original: Vec<Value>, patch: &[Value], key: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut left = Vec::with_capacity(patch.len());
    let mut replaces = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE) else {
            left.push(item.clone());
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let gone = item.get(key).ok_or_else(|| no_merge_key(item, key))?;
                original.retain(|other| other.get(key) != Some(gone));
            }
            Some("replace") => replaces = true,
            Some("merge") => return Err(Error::Other("merging lists cannot yet be specified in the patch".to_owned())),
            _ => return Err(unknown_directive(directive, item)),
        }
    }
    Ok(if replaces { (left, Vec::new()) } else { (original, left) })
}

/// The live order as upstream sees it after it edited the list in place: an item that was deleted makes room for one that is
/// added, which so gets a place among the live ones.
fn order_after_edits(mut live: Vec<Value>, patch: &[Value], key: &str) -> Vec<Value> {
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    let mut used = live.len();
    for item in patch.iter().filter(|item| directive(item).as_deref() == Some("delete")) {
        while let Some(at) = live[..used].iter().position(|other| other.get(key) == item.get(key)) {
            // The last item stays behind in the place that is no longer used.
            let last = live[used - 1].clone();
            live[at..used].rotate_left(1);
            live[used - 1] = last;
            used -= 1;
        }
    }
    if patch.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        return live;
    }
    for item in patch.iter().filter(|item| directive(item).is_none()) {
        if used < live.len() && !live[..used].iter().any(|other| other.get(key) == item.get(key)) {
            live[used] = item.clone();
            used += 1;
        }
    }
    live
}

/// Drops null members at any depth.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The value without maps that hold a `$patch`; `None` if it is one itself.
fn without_directives(value: &mut Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => {
            map.retain(|_, inner| match without_directives(inner) {
                Some(kept) => {
                    *inner = kept;
                    true
                }
                None => false,
            });
            Some(value.clone())
        }
        Value::Array(items) => Some(Value::Array(items.iter_mut().filter_map(without_directives).collect())),
        scalar => Some(scalar.clone()),
    }
}

/// All items must be of one type, and no lists.
fn items_are_maps(lists: &[&[Value]]) -> Result<bool, Error> {
    let mut first = None;
    for item in lists.iter().copied().flatten() {
        let name = go_print::type_name(item).ok_or(Error::NullItem)?;
        match first {
            None if item.is_array() => return Err(Error::ListOfLists),
            None => first = Some(name),
            Some(known) if known == name => {}
            Some(_) => {
                let all: Vec<String> = lists.iter().map(|list| go_print::plain(&Value::Array(list.to_vec()))).collect();
                return Err(Error::Other(format!("list element types are not identical: [{}]", all.join(" "))));
            }
        }
    }
    match first {
        Some(name) => Ok(name.starts_with("map")),
        None => Err(Error::Other("no elements in any of the given slices".to_owned())),
    }
}

/// The scalars without repetitions; a repetition's place is taken by the last item, as upstream does it.
fn deduplicated(mut items: Vec<Value>) -> Vec<Value> {
    let mut i = 0;
    while i < items.len() {
        let mut j = i + 1;
        while j < items.len() {
            if items[i] == items[j] {
                items.swap_remove(j);
            } else {
                j += 1;
            }
        }
        i += 1;
    }
    items
}

/// The items that `by` has, and the others.
fn partition(items: Vec<Value>, by: &[Value], merge_key: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    if merge_key.is_empty() {
        return Ok(items.into_iter().partition(|item| by.contains(item)));
    }
    let mut asked: BTreeMap<String, ()> = BTreeMap::new();
    for (i, item) in by.iter().enumerate() {
        let Value::Object(map) = item else { return Err(Error::Other(format!("value for key {i} is not a map"))) };
        asked.extend(map.get(merge_key).map(|key| (key.to_string(), ())));
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for item in items {
        if !item.is_object() {
            return Err(bad_type("map[string]interface {}", &item));
        }
        let key = item.get(merge_key).ok_or_else(|| no_merge_key(&item, merge_key))?;
        if asked.contains_key(&key.to_string()) { with.push(item) } else { without.push(item) }
    }
    Ok((with, without))
}

/// The merged list in its order: the patch's items as the patch has them, the others as they stood.
fn arrange(
    asked: Vec<Value>,
    others: Vec<Value>,
    patch_order: &[Value],
    live_order: &[Value],
    merge_key: &str,
    maps: bool,
) -> Result<Vec<Value>, Error> {
    if maps {
        for list in [asked.as_slice(), patch_order, others.as_slice(), live_order] {
            for item in list {
                match item {
                    Value::Object(map) if map.contains_key(merge_key) => {}
                    Value::Object(_) => return Err(no_merge_key(item, merge_key)),
                    other => return Err(bad_type("map[string]interface {}", other)),
                }
            }
        }
    }
    let asked = sort_by(asked, patch_order, merge_key);
    let others = sort_by(others, live_order, merge_key);
    Ok(interleave(others, asked, live_order, merge_key))
}

/// The items of a patch must stand in the order that its `$setElementOrder` gives, which must name them all.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<(), Error> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = Vec::with_capacity(patch.len());
    for item in patch {
        if !merge_key.is_empty() && !item.is_object() {
            return Err(bad_type("map[string]interface {}", item));
        }
        if merge_key.is_empty() || item.get(DIRECTIVE).and_then(Value::as_str) != Some("delete") {
            wanted.push(item);
        }
    }
    let mut at = 0;
    for place in order {
        // Other directives need no place, unless the order has ended before them.
        while wanted.get(at).is_some_and(|item| item.get(DIRECTIVE).is_some()) {
            at += 1;
        }
        let Some(item) = wanted.get(at) else { break };
        if !merge_key.is_empty() {
            for map in [item, place] {
                if !map.is_object() {
                    return Err(bad_type("map[string]interface {}", map));
                }
                if map.get(merge_key).is_none() {
                    return Err(no_merge_key(map, merge_key));
                }
            }
        }
        if key_of(item, merge_key) == key_of(place, merge_key) {
            at += 1;
        }
    }
    if at < wanted.len() {
        let list = |items: &[Value]| go_print::plain(&Value::Array(items.to_vec()));
        return Err(Error::Other(format!(
            "The order in patch list:\n{}\n doesn't match {ORDER_PREFIX} list:\n{}\n",
            list(patch),
            list(order)
        )));
    }
    Ok(())
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
