//! What comprehensions with two variables make maps with.

use std::sync::Arc;

use super::Row;
use crate::value::{Entries, EvalError, Evaluated, Map, Value};

pub(super) const ROWS: &[Row] = &[
    ("cel.@mapInsert", "@mapInsert_map_key_value", "(map(K, V), K, V) -> map(K, V)", insert),
    ("cel.@mapInsert", "@mapInsert_map_map", "(map(K, V), map(K, V)) -> map(K, V)", merge),
];

/// The entries of a map that may be added to; not copied if nobody else has them.
pub(crate) fn entries<'a>(map: Value<'a>) -> Result<Entries<'a>, EvalError> {
    match map {
        Value::Map(Map::Owned(entries)) => Ok(Arc::try_unwrap(entries).unwrap_or_else(|shared| (*shared).clone())),
        Value::Map(map) => {
            let mut entries = Entries::default();
            for key in map.keys() {
                if let Some(value) = map.find(&key)? {
                    entries.insert(key, value);
                }
            }
            Ok(entries)
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

pub(crate) fn add<'a>(entries: &mut Entries<'a>, key: Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
    let shown = key.to_string();
    if entries.insert(key, value) { Ok(()) } else { Err(EvalError::new(format!("insert failed: key {shown} already exists"))) }
}

fn insert<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let mut entries = entries(args[0].clone())?;
    add(&mut entries, args[1].clone(), args[2].clone())?;
    Ok(Value::Map(Map::Owned(Arc::new(entries))))
}

fn merge<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let mut entries = entries(args[0].clone())?;
    merge_into(&mut entries, &args[1])?;
    Ok(Value::Map(Map::Owned(Arc::new(entries))))
}

pub(crate) fn merge_into<'a>(entries: &mut Entries<'a>, more: &Value<'a>) -> Result<(), EvalError> {
    let Value::Map(more) = more else { return Err(EvalError::no_such_overload()) };
    for key in more.keys() {
        if let Some(value) = more.find(&key)? {
            add(entries, key, value)?;
        }
    }
    Ok(())
}
