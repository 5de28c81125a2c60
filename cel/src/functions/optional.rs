//! Values that may be missing.

use super::Row;
use crate::value::{EvalError, Evaluated, Value};

pub(super) const ROWS: &[Row] = &[
    ("optional.of", "optional_of", "(V) -> optional(V)", of),
    ("optional.ofNonZeroValue", "optional_ofNonZeroValue", "(V) -> optional(V)", of_non_zero),
    ("optional.none", "optional_none", "() -> optional(V)", none),
    ("value", "optional_value", "optional(V).() -> V", value),
    ("hasValue", "optional_hasValue", "optional(V).() -> bool", has_value),
    ("or", "optional_or_optional", "optional(V).(optional(V)) -> optional(V)", lazy),
    ("orValue", "optional_orValue_value", "optional(V).(V) -> V", lazy),
    ("_?._", "select_optional_field", "(dyn, string) -> optional(V)", lazy),
    ("_[?_]", "list_optindex_optional_int", "(list(V), int) -> optional(V)", lazy),
    ("_[?_]", "optional_list_optindex_optional_int", "(optional(list(V)), int) -> optional(V)", lazy),
    ("_[?_]", "map_optindex_optional_value", "(map(K, V), K) -> optional(V)", lazy),
    ("_[?_]", "optional_map_optindex_optional_value", "(optional(map(K, V)), K) -> optional(V)", lazy),
    ("last", "list_last", "list(V).() -> optional(V)", last),
    ("first", "list_first", "list(V).() -> optional(V)", first),
    ("optional.unwrap", "optional_unwrap", "(list(optional(V))) -> list(V)", unwrap),
    ("unwrapOpt", "optional_unwrapOpt", "list(optional(V)).() -> list(V)", unwrap),
];

/// What the evaluator does itself.
fn lazy<'a>(_: &[Value<'a>]) -> Evaluated<'a> {
    Err(EvalError::no_such_overload())
}

fn of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::some(args[0].clone()))
}

fn of_non_zero<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let is_zero = match &args[0] {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::Duration(value) => *value == 0,
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => args[0].size() == 0,
        Value::Optional(value) => value.is_none(),
        Value::Object(object) => object.fields.is_empty(),
        _ => false,
    };
    Ok(if is_zero { Value::Optional(None) } else { Value::some(args[0].clone()) })
}

fn none<'a>(_: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Optional(None))
}

fn value<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match &args[0] {
        Value::Optional(Some(value)) => Ok((**value).clone()),
        _ => Err(EvalError::new("optional.none() dereference")),
    }
}

fn has_value<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(matches!(&args[0], Value::Optional(Some(_)))))
}

fn at_end<'a>(args: &[Value<'a>], from_back: bool) -> Evaluated<'a> {
    let Value::List(list) = &args[0] else { return Err(EvalError::no_such_overload()) };
    let index = if from_back { list.len().wrapping_sub(1) } else { 0 };
    list.get(index).map_or(Ok(Value::Optional(None)), |value| value.map(Value::some))
}

fn last<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    at_end(args, true)
}

fn first<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    at_end(args, false)
}

fn unwrap<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let Value::List(list) = &args[0] else { return Err(EvalError::no_such_overload()) };
    let mut present = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(Some(value)) => present.push((*value).clone()),
            Value::Optional(None) => {}
            other => return Err(EvalError::new(format!("value {other} is not optional"))),
        }
    }
    Ok(Value::list(present))
}
