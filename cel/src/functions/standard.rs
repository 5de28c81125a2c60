//! Operators and the few functions of the language itself.

use std::cmp::Ordering;

use super::time::Time;
use super::{Row, Run, count};
use crate::value::{EvalError, Evaluated, List, Value};

pub(super) const ROWS: &[Row] = &[
    ("_?_:_", "conditional", "(bool, A, A) -> A", unreachable),
    ("_&&_", "logical_and", "(bool, bool) -> bool", unreachable),
    ("_||_", "logical_or", "(bool, bool) -> bool", unreachable),
    ("!_", "logical_not", "(bool) -> bool", not),
    ("@not_strictly_false", "not_strictly_false", "(bool) -> bool", unreachable),
    ("_==_", "equals", "(A, A) -> bool", unreachable),
    ("_!=_", "not_equals", "(A, A) -> bool", unreachable),
    ("_+_", "add_bytes", "(bytes, bytes) -> bytes", plus),
    ("_+_", "add_double", "(double, double) -> double", plus),
    ("_+_", "add_duration_duration", "(duration, duration) -> duration", plus),
    ("_+_", "add_duration_timestamp", "(duration, timestamp) -> timestamp", plus),
    ("_+_", "add_timestamp_duration", "(timestamp, duration) -> timestamp", plus),
    ("_+_", "add_int64", "(int, int) -> int", plus),
    ("_+_", "add_list", "(list(A), list(A)) -> list(A)", plus),
    ("_+_", "add_string", "(string, string) -> string", plus),
    ("_+_", "add_uint64", "(uint, uint) -> uint", plus),
    ("_/_", "divide_double", "(double, double) -> double", divide),
    ("_/_", "divide_int64", "(int, int) -> int", divide),
    ("_/_", "divide_uint64", "(uint, uint) -> uint", divide),
    ("_%_", "modulo_int64", "(int, int) -> int", modulo),
    ("_%_", "modulo_uint64", "(uint, uint) -> uint", modulo),
    ("_*_", "multiply_double", "(double, double) -> double", times),
    ("_*_", "multiply_int64", "(int, int) -> int", times),
    ("_*_", "multiply_uint64", "(uint, uint) -> uint", times),
    ("-_", "negate_double", "(double) -> double", negate),
    ("-_", "negate_int64", "(int) -> int", negate),
    ("_-_", "subtract_double", "(double, double) -> double", minus),
    ("_-_", "subtract_duration_duration", "(duration, duration) -> duration", minus),
    ("_-_", "subtract_int64", "(int, int) -> int", minus),
    ("_-_", "subtract_timestamp_duration", "(timestamp, duration) -> timestamp", minus),
    ("_-_", "subtract_timestamp_timestamp", "(timestamp, timestamp) -> duration", minus),
    ("_-_", "subtract_uint64", "(uint, uint) -> uint", minus),
    ("_[_]", "index_list", "(list(A), int) -> A", unreachable),
    ("_[_]", "index_map", "(map(A, B), A) -> B", unreachable),
    ("_[_]", "optional_list_index_int", "(optional(list(V)), int) -> optional(V)", unreachable),
    ("_[_]", "optional_map_index_value", "(optional(map(K, V)), K) -> optional(V)", unreachable),
    ("@in", "in_list", "(A, list(A)) -> bool", is_in),
    ("@in", "in_map", "(A, map(A, B)) -> bool", is_in),
    ("size", "size_bytes", "(bytes) -> int", size),
    ("size", "bytes_size", "bytes.() -> int", size),
    ("size", "size_list", "(list(A)) -> int", size),
    ("size", "list_size", "list(A).() -> int", size),
    ("size", "size_map", "(map(A, B)) -> int", size),
    ("size", "map_size", "map(A, B).() -> int", size),
    ("size", "size_string", "(string) -> int", size),
    ("size", "string_size", "string.() -> int", size),
    ("contains", "contains_string", "string.(string) -> bool", contains),
    ("endsWith", "ends_with_string", "string.(string) -> bool", ends_with),
    ("startsWith", "starts_with_string", "string.(string) -> bool", starts_with),
];

/// Comparisons for all types that have an order, and across the types of numbers.
pub(super) fn comparisons() -> Vec<(String, String, String, Run)> {
    const TYPES: [(&str, &str); 8] = [
        ("bool", "bool"),
        ("int", "int64"),
        ("uint", "uint64"),
        ("double", "double"),
        ("string", "string"),
        ("bytes", "bytes"),
        ("timestamp", "timestamp"),
        ("duration", "duration"),
    ];
    let operators: [(&str, &str, Run); 4] = [
        ("_<_", "less", less),
        ("_<=_", "less_equals", less_equals),
        ("_>_", "greater", greater),
        ("_>=_", "greater_equals", greater_equals),
    ];
    let mut rows = Vec::new();
    for (operator, name, run) in operators {
        for (left, left_id) in TYPES {
            for (right, right_id) in TYPES {
                let are_numbers = [left, right].iter().all(|t| ["int", "uint", "double"].contains(t));
                if left == right {
                    rows.push((operator.to_owned(), format!("{name}_{left_id}"), format!("({left}, {right}) -> bool"), run));
                } else if are_numbers {
                    rows.push((operator.to_owned(), format!("{name}_{left_id}_{right_id}"), format!("({left}, {right}) -> bool"), run));
                }
            }
        }
    }
    rows
}

/// What the evaluator does itself, because it does not need all operands or takes errors for operands.
fn unreachable<'a>(_: &[Value<'a>]) -> Evaluated<'a> {
    Err(EvalError::no_such_overload())
}

fn not<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    args[0].as_bool().map(|value| Value::Bool(!value)).ok_or_else(EvalError::no_such_overload)
}

fn ordered<'a>(args: &[Value<'a>], holds: fn(Ordering) -> bool) -> Evaluated<'a> {
    args[0].compare(&args[1]).map(|ordering| Value::Bool(holds(ordering)))
}

fn less<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_lt)
}

fn less_equals<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_le)
}

fn greater<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_gt)
}

fn greater_equals<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    ordered(args, Ordering::is_ge)
}

fn integer_overflow() -> EvalError {
    EvalError::new("integer overflow")
}

fn unsigned_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

fn int<'a>(value: Option<i64>) -> Evaluated<'a> {
    value.map(Value::Int).ok_or_else(integer_overflow)
}

fn uint<'a>(value: Option<u64>) -> Evaluated<'a> {
    value.map(Value::Uint).ok_or_else(unsigned_overflow)
}

fn duration<'a>(value: Option<i64>) -> Evaluated<'a> {
    value.map(Value::Duration).ok_or_else(|| EvalError::new("integer overflow"))
}

fn shifted<'a>(time: Time, nanos: Option<i64>) -> Evaluated<'a> {
    let overflow = || EvalError::new("timestamp overflow");
    let sum = i128::from(nanos.ok_or_else(overflow)?) + time.nanos();
    Time::from_nanos(sum).map(Value::Timestamp).ok_or_else(overflow)
}

fn plus<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_add(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_add(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => Ok(Value::string([&**a, &**b].concat())),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&**a, &**b].concat().into())),
        (Value::List(a), Value::List(b)) => {
            // An empty list in front gives the other one, as it is.
            if a.is_empty() && matches!(b, List::Owned(_)) { Ok(Value::List(b.clone())) } else { a.plus(b).map(Value::List) }
        }
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_add(*b)),
        (Value::Timestamp(time), Value::Duration(nanos)) | (Value::Duration(nanos), Value::Timestamp(time)) => shifted(*time, Some(*nanos)),
        (Value::Null | Value::Bool(_) | Value::Map(_) | Value::Optional(_) | Value::Type(_), _) => Err(no_such(args, "_+_")),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn minus<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_sub(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_sub(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_sub(*b)),
        (Value::Timestamp(time), Value::Duration(nanos)) => shifted(*time, nanos.checked_neg()),
        (Value::Timestamp(a), Value::Timestamp(b)) => duration(i64::try_from(a.nanos() - b.nanos()).ok()),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_) | Value::Timestamp(_), _) => {
            Err(EvalError::no_such_overload())
        }
        _ => Err(no_such(args, "_-_")),
    }
}

fn times<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_mul(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_mul(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a * b)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), _) => Err(EvalError::no_such_overload()),
        _ => Err(no_such(args, "_*_")),
    }
}

fn divide<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match (&args[0], &args[1]) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => Err(EvalError::new("division by zero")),
        (Value::Int(a), Value::Int(b)) => int(a.checked_div(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_div(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a / b)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), _) => Err(EvalError::no_such_overload()),
        _ => Err(no_such(args, "_/_")),
    }
}

fn modulo<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match (&args[0], &args[1]) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => Err(EvalError::new("modulus by zero")),
        (Value::Int(a), Value::Int(b)) => int(a.checked_rem(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_rem(*b)),
        (Value::Int(_) | Value::Uint(_), _) => Err(EvalError::no_such_overload()),
        _ => Err(no_such(args, "_%_")),
    }
}

fn negate<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match &args[0] {
        Value::Int(a) => int(a.checked_neg()),
        Value::Double(a) => Ok(Value::Double(-a)),
        Value::Duration(a) => duration(a.checked_neg()),
        Value::Bool(_) => Err(EvalError::no_such_overload()),
        _ => Err(no_such(args, "-_")),
    }
}

fn no_such(_: &[Value<'_>], function: &str) -> EvalError {
    EvalError::new(format!("no such overload: {function}"))
}

fn is_in<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match &args[1] {
        Value::List(list) => list.contains(&args[0]).map(Value::Bool),
        Value::Map(map) => map.contains(&args[0]).map(Value::Bool),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn size<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match &args[0] {
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) | Value::Ip(_) | Value::Cidr(_) => {
            Ok(count(usize::try_from(args[0].size()).unwrap_or(usize::MAX)))
        }
        _ => Err(no_such(args, "size")),
    }
}

fn texts<'v>(args: &'v [Value<'_>]) -> Result<(&'v str, &'v str), EvalError> {
    args[0].as_str().zip(args[1].as_str()).ok_or_else(EvalError::no_such_overload)
}

fn contains<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    texts(args).map(|(text, part)| Value::Bool(text.contains(part)))
}

fn ends_with<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    texts(args).map(|(text, part)| Value::Bool(text.ends_with(part)))
}

fn starts_with<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    texts(args).map(|(text, part)| Value::Bool(text.starts_with(part)))
}
