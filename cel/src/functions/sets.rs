//! Lists compared as sets.

use super::Row;
use super::lists::list;
use crate::value::{EvalError, Evaluated, Value};

pub(super) const ROWS: &[Row] = &[
    ("sets.contains", "list_sets_contains_list", "(list(T), list(T)) -> bool", contains),
    ("sets.equivalent", "list_sets_equivalent_list", "(list(T), list(T)) -> bool", equivalent),
    ("sets.intersects", "list_sets_intersects_list", "(list(T), list(T)) -> bool", intersects),
];

fn has_all(all: &Value<'_>, wanted: &Value<'_>) -> Result<bool, EvalError> {
    let all = list(all)?;
    for item in list(wanted)?.iter() {
        if !all.contains(&item?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn contains<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    has_all(&args[0], &args[1]).map(Value::Bool)
}

fn equivalent<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(has_all(&args[0], &args[1])? && has_all(&args[1], &args[0])?))
}

fn intersects<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let other = list(&args[1])?;
    for item in list(&args[0])?.iter() {
        if other.contains(&item?) == Ok(true) {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}
