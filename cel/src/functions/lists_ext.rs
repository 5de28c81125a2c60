//! CEL's own extension for lists: slices, flattening, sorting, ranges.

use std::cmp::Ordering;

use super::lists::{COMPARABLE, list};
use super::{Row, Run};
use crate::value::{EvalError, Evaluated, List, Value};

/// Elements of the longest range.
pub(crate) const MAX_RANGE: i64 = 1_000_000;

pub(super) const ROWS: &[Row] = &[
    ("slice", "list_slice", "list(T).(int, int) -> list(T)", slice),
    ("flatten", "list_flatten", "list(list(T)).() -> list(T)", flatten),
    ("flatten", "list_flatten_int", "list(dyn).(int) -> list(dyn)", flatten),
    ("lists.range", "lists_range", "(int) -> list(int)", range),
    ("reverse", "list_reverse", "list(T).() -> list(T)", reverse),
    ("distinct", "list_distinct", "list(T).() -> list(T)", distinct),
];

/// Sorting, for each type that has an order.
pub(super) fn typed() -> Vec<(String, String, String, Run)> {
    let mut rows: Vec<(String, String, String, Run)> = Vec::new();
    for t in COMPARABLE {
        // The overloads carry the full names of types.
        let name = crate::types::Type::parse(t).name().to_owned();
        rows.push(("sort".to_owned(), format!("list_{name}_sort"), format!("list({t}).() -> list({t})"), sort));
        let types = format!("list(T).(list({t})) -> list(T)");
        rows.push(("@sortByAssociatedKeys".to_owned(), format!("list_{name}_sortByAssociatedKeys"), types, sort_by_keys));
    }
    rows
}

fn slice<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (list, Value::Int(start), Value::Int(end)) = (list(&args[0])?, &args[1], &args[2]) else {
        return Err(EvalError::no_such_overload());
    };
    let failed = |why: String| Err(EvalError::new(format!("cannot slice({start}, {end}), {why}")));
    let (Ok(from), Ok(to)) = (usize::try_from(*start), usize::try_from(*end)) else {
        return failed("negative indexes not supported".to_owned());
    };
    if from > to {
        return failed("start index must be less than or equal to end index".to_owned());
    }
    if list.len() < to {
        return failed(format!("list is length {}", list.len()));
    }
    (from..to).filter_map(|index| list.get(index)).collect::<Result<_, _>>().map(Value::list)
}

fn flatten<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let depth = match args.get(1) {
        Some(Value::Int(depth)) => *depth,
        _ => 1,
    };
    let Value::List(list) = &args[0] else {
        return Err(EvalError::new(format!("no such overload: {}.flatten()", args[0].type_name())));
    };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut flat = Vec::new();
    flatten_into(list, depth, &mut flat)?;
    Ok(Value::list(flat))
}

fn flatten_into<'a>(list: &List<'a>, depth: i64, flat: &mut Vec<Value<'a>>) -> Result<(), EvalError> {
    for item in list.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, flat)?,
            other => flat.push(other),
        }
    }
    Ok(())
}

fn range<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let Value::Int(size) = args[0] else { return Err(EvalError::no_such_overload()) };
    if size < 0 {
        return Err(EvalError::new(format!("lists.range: size must be non-negative, got {size}")));
    }
    if size > MAX_RANGE {
        return Err(EvalError::new(format!("lists.range: size {size} exceeds maximum allowed ({MAX_RANGE})")));
    }
    Ok(Value::list((0..size).map(Value::Int).collect()))
}

fn reverse<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let list = list(&args[0])?;
    (0..list.len()).rev().filter_map(|index| list.get(index)).collect::<Result<_, _>>().map(Value::list)
}

fn distinct<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let mut unique: Vec<Value<'a>> = Vec::new();
    for item in list(&args[0])?.iter() {
        let item = item?;
        if !unique.iter().any(|there| item.equals(there) == Ok(true)) {
            unique.push(item);
        }
    }
    Ok(Value::list(unique))
}

fn sort<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    sort_by_keys(&[args[0].clone(), args[0].clone()])
}

fn sort_by_keys<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (list, keys) = (list(&args[0])?, list(&args[1])?);
    if list.len() != keys.len() {
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )));
    }
    let items: Vec<Value<'a>> = list.iter().collect::<Result<_, _>>()?;
    let keys: Vec<Value<'a>> = keys.iter().collect::<Result<_, _>>()?;
    let Some(first) = keys.first() else { return Ok(args[0].clone()) };
    if keys.len() > 1 && keys.iter().any(|key| key.type_name() != first.type_name()) {
        return Err(EvalError::new("list elements must have the same type"));
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| keys[*a].compare(&keys[*b]).unwrap_or(Ordering::Equal));
    Ok(Value::list(order.into_iter().map(|index| items[index].clone()).collect()))
}
