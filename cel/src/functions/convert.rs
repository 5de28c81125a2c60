//! Conversions between types, and numbers as Go writes them.

use std::sync::Arc;

use apimachinery::go_bool;

use super::{Row, time};
use crate::value::{EvalError, Evaluated, Value};

pub(super) const ROWS: &[Row] = &[
    ("type", "type", "(A) -> type(A)", type_of),
    ("dyn", "to_dyn", "(A) -> dyn", identity),
    ("bool", "bool_to_bool", "(bool) -> bool", identity),
    ("bool", "string_to_bool", "(string) -> bool", to_bool),
    ("bytes", "bytes_to_bytes", "(bytes) -> bytes", identity),
    ("bytes", "string_to_bytes", "(string) -> bytes", to_bytes),
    ("double", "double_to_double", "(double) -> double", identity),
    ("double", "int64_to_double", "(int) -> double", to_double),
    ("double", "string_to_double", "(string) -> double", to_double),
    ("double", "uint64_to_double", "(uint) -> double", to_double),
    ("duration", "duration_to_duration", "(duration) -> duration", identity),
    ("duration", "string_to_duration", "(string) -> duration", to_duration),
    ("int", "int64_to_int64", "(int) -> int", identity),
    ("int", "double_to_int64", "(double) -> int", to_int),
    ("int", "duration_to_int64", "(duration) -> int", to_int),
    ("int", "string_to_int64", "(string) -> int", to_int),
    ("int", "timestamp_to_int64", "(timestamp) -> int", to_int),
    ("int", "uint64_to_int64", "(uint) -> int", to_int),
    ("string", "string_to_string", "(string) -> string", identity),
    ("string", "bool_to_string", "(bool) -> string", to_string),
    ("string", "bytes_to_string", "(bytes) -> string", to_string),
    ("string", "double_to_string", "(double) -> string", to_string),
    ("string", "duration_to_string", "(duration) -> string", to_string),
    ("string", "int64_to_string", "(int) -> string", to_string),
    ("string", "timestamp_to_string", "(timestamp) -> string", to_string),
    ("string", "uint64_to_string", "(uint) -> string", to_string),
    ("timestamp", "timestamp_to_timestamp", "(timestamp) -> timestamp", identity),
    ("timestamp", "int64_to_timestamp", "(int) -> timestamp", to_timestamp),
    ("timestamp", "string_to_timestamp", "(string) -> timestamp", to_timestamp),
    ("uint", "uint64_to_uint64", "(uint) -> uint", identity),
    ("uint", "double_to_uint64", "(double) -> uint", to_uint),
    ("uint", "int64_to_uint64", "(int) -> uint", to_uint),
    ("uint", "string_to_uint64", "(string) -> uint", to_uint),
];

fn failed(from: &Value<'_>, to: &str) -> EvalError {
    EvalError::new(format!("type conversion error from '{}' to '{to}'", from.type_name()))
}

fn integer_overflow() -> EvalError {
    EvalError::new("integer overflow")
}

fn unsigned_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

fn identity<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(args[0].clone())
}

fn type_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Type(Arc::from(args[0].type_name())))
}

fn to_bool<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let read = args[0].as_str().and_then(|text| go_bool::parse(text).ok());
    read.map(Value::Bool).ok_or_else(|| failed(&args[0], "bool"))
}

fn to_bytes<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    args[0].as_str().map(|text| Value::Bytes(text.as_bytes().into())).ok_or_else(|| failed(&args[0], "bytes"))
}

fn to_double<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let number = match &args[0] {
        Value::Int(value) => Some(*value as f64),
        Value::Uint(value) => Some(*value as f64),
        Value::String(text) => parse_double(text),
        _ => None,
    };
    number.map(Value::Double).ok_or_else(|| failed(&args[0], "double"))
}

/// A float as Go's `ParseFloat` takes it, without hexadecimal ones.
fn parse_double(text: &str) -> Option<f64> {
    let unsigned = text.trim_start_matches(['+', '-']);
    let is_named = ["inf", "infinity", "nan"].iter().any(|name| unsigned.eq_ignore_ascii_case(name));
    let value: f64 = text.parse().ok()?;
    (is_named || value.is_finite()).then_some(value)
}

fn to_int<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match &args[0] {
        Value::Double(value) => {
            // Upstream refuses the bounds themselves, which a double cannot tell from what is beyond.
            let fits = value.is_finite() && *value > i64::MIN as f64 && *value < i64::MAX as f64;
            if fits { Ok(Value::Int(*value as i64)) } else { Err(integer_overflow()) }
        }
        Value::Uint(value) => i64::try_from(*value).map(Value::Int).map_err(|_| integer_overflow()),
        Value::Duration(nanos) => Ok(Value::Int(*nanos)),
        Value::Timestamp(time) => Ok(Value::Int(time.nanos().div_euclid(1_000_000_000) as i64)),
        Value::String(text) => text.parse().map(Value::Int).map_err(|_| failed(&args[0], "int")),
        other => Err(failed(other, "int")),
    }
}

fn to_uint<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match &args[0] {
        Value::Double(value) => {
            let fits = *value >= 0.0 && *value < u64::MAX as f64;
            if fits { Ok(Value::Uint(*value as u64)) } else { Err(unsigned_overflow()) }
        }
        Value::Int(value) => u64::try_from(*value).map(Value::Uint).map_err(|_| unsigned_overflow()),
        Value::String(text) if !text.starts_with('+') => text.parse().map(Value::Uint).map_err(|_| failed(&args[0], "uint")),
        other => Err(failed(other, "uint")),
    }
}

fn to_string<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match &args[0] {
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::string(text)),
            Err(_) => Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Timestamp(_) | Value::Duration(_) => {
            Ok(Value::string(args[0].to_string()))
        }
        other => Err(failed(other, "string")),
    }
}

fn to_duration<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let nanos = args[0].as_str().and_then(|text| apimachinery::time::parse_duration(text).ok());
    nanos.map(Value::Duration).ok_or_else(|| failed(&args[0], "google.protobuf.Duration"))
}

fn to_timestamp<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match &args[0] {
        Value::Int(seconds) => time::Time::from_nanos(i128::from(*seconds) * 1_000_000_000)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new("timestamp overflow")),
        Value::String(text) => {
            time::parse_timestamp(text).map(Value::Timestamp).ok_or_else(|| failed(&args[0], "google.protobuf.Timestamp"))
        }
        other => Err(failed(other, "google.protobuf.Timestamp")),
    }
}

/// A double as `%g` writes it.
pub(crate) fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        assert_eq!(to_int(&[Value::Double(1e30)]).unwrap_err().message, "integer overflow");
        assert_eq!(to_uint(&[Value::Int(-1)]).unwrap_err().message, "unsigned integer overflow");
        assert_eq!(to_int(&[Value::string("x")]).unwrap_err().message, "type conversion error from 'string' to 'int'");
    }
}
