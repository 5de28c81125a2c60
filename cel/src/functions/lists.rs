//! Kubernetes' functions over lists: sums, extremes, order, places of elements.

use std::cmp::Ordering;

use super::{Row, Run, count};
use crate::value::{EvalError, Evaluated, List, Value};

pub(super) const ROWS: &[Row] = &[
    ("indexOf", "list_a_index_of_int", "list(A).(A) -> int", index_of),
    ("lastIndexOf", "list_a_last_index_of_int", "list(A).(A) -> int", last_index_of),
];

pub(super) const INCLUDES: Row = ("includes", "list_includes_dyn_dyn", "dyn.(dyn) -> bool", includes);

pub(super) const COMPARABLE: [&str; 8] = ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];

/// Overloads for each type that has an order or a sum.
pub(super) fn typed() -> Vec<(String, String, String, Run)> {
    let mut rows: Vec<(String, String, String, Run)> = Vec::new();
    for t in COMPARABLE {
        rows.push(("isSorted".to_owned(), format!("list_{t}_is_sorted_bool"), format!("list({t}).() -> bool"), is_sorted));
        rows.push(("max".to_owned(), format!("list_{t}_max_{t}"), format!("list({t}).() -> {t}"), max));
        rows.push(("min".to_owned(), format!("list_{t}_min_{t}"), format!("list({t}).() -> {t}"), min));
    }
    let sums: [(&str, Run); 4] = [("int", sum_int), ("uint", sum_uint), ("double", sum_double), ("duration", sum_duration)];
    for (t, run) in sums {
        rows.push(("sum".to_owned(), format!("list_{t}_sum_{t}"), format!("list({t}).() -> {t}"), run));
    }
    rows
}

pub(super) fn list<'v, 'a>(value: &'v Value<'a>) -> Result<&'v List<'a>, EvalError> {
    match value {
        Value::List(list) => Ok(list),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn is_sorted<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let mut previous: Option<Value<'a>> = None;
    for item in list(&args[0])?.iter() {
        let item = item?;
        if let Some(previous) = &previous
            && previous.compare(&item).is_ok_and(Ordering::is_gt)
        {
            return Ok(Value::Bool(false));
        }
        previous = Some(item);
    }
    Ok(Value::Bool(true))
}

fn extreme<'a>(args: &[Value<'a>], name: &str, replaced: Ordering) -> Evaluated<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in list(&args[0])?.iter() {
        let item = item?;
        let replaces = best.as_ref().is_none_or(|best| best.compare(&item) == Ok(replaced));
        if replaces {
            best = Some(item);
        }
    }
    best.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn max<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    extreme(args, "max", Ordering::Less)
}

fn min<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    extreme(args, "min", Ordering::Greater)
}

fn sum<'a>(args: &[Value<'a>], zero: Value<'a>) -> Evaluated<'a> {
    let add = super::find("_+_", &[]).ok_or_else(EvalError::no_such_overload)?;
    let mut total = zero;
    for item in list(&args[0])?.iter() {
        total = add.call(None, &[total, item?])?;
    }
    Ok(total)
}

fn sum_int<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    sum(args, Value::Int(0))
}

fn sum_uint<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    sum(args, Value::Uint(0))
}

fn sum_double<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    sum(args, Value::Double(0.0))
}

fn sum_duration<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    sum(args, Value::Duration(0))
}

fn place<'a>(found: Option<usize>) -> Evaluated<'a> {
    Ok(found.map_or(Value::Int(-1), count))
}

fn is_at(list: &List<'_>, index: usize, wanted: &Value<'_>) -> bool {
    matches!(list.get(index), Some(Ok(item)) if item.equals(wanted) == Ok(true))
}

fn index_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let list = list(&args[0])?;
    place((0..list.len()).find(|index| is_at(list, *index, &args[1])))
}

fn last_index_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let list = list(&args[0])?;
    place((0..list.len()).rev().find(|index| is_at(list, *index, &args[1])))
}

fn includes<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(match &args[0] {
        Value::List(list) => (0..list.len()).any(|index| is_at(list, index, &args[1])),
        other => other.equals(&args[1]) == Ok(true),
    }))
}
