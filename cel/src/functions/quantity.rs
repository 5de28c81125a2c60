//! Kubernetes quantities.

use std::cmp::Ordering;
use std::sync::Arc;

use apimachinery::quantity::{Format, Quantity};

use super::Row;
use crate::value::{EvalError, Evaluated, Value};

pub(super) const ROWS: &[Row] = &[
    ("quantity", "string_to_quantity", "(string) -> kubernetes.Quantity", to_quantity),
    ("isQuantity", "is_quantity_string", "(string) -> bool", is_quantity),
    ("sign", "quantity_sign", "(kubernetes.Quantity) -> int", sign),
    ("isGreaterThan", "quantity_is_greater_than", "kubernetes.Quantity.(kubernetes.Quantity) -> bool", is_greater),
    ("isLessThan", "quantity_is_less_than", "kubernetes.Quantity.(kubernetes.Quantity) -> bool", is_less),
    ("compareTo", "quantity_compare_to", "kubernetes.Quantity.(kubernetes.Quantity) -> int", compare_to),
    ("asApproximateFloat", "quantity_get_float", "kubernetes.Quantity.() -> double", as_float),
    ("asInteger", "quantity_get_int", "kubernetes.Quantity.() -> int", as_integer),
    ("isInteger", "quantity_is_integer", "kubernetes.Quantity.() -> bool", is_integer),
    ("add", "quantity_add", "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity", add),
    ("add", "quantity_add_int", "kubernetes.Quantity.(int) -> kubernetes.Quantity", add),
    ("sub", "quantity_sub", "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity", sub),
    ("sub", "quantity_sub_int", "kubernetes.Quantity.(int) -> kubernetes.Quantity", sub),
];

fn quantity(value: &Value<'_>) -> Result<Arc<Quantity>, EvalError> {
    match value {
        Value::Quantity(quantity) => Ok(quantity.clone()),
        Value::Int(value) => Ok(Arc::new(Quantity::new(*value, Format::DecimalExponent))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_quantity<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let text = args[0].as_str().ok_or_else(EvalError::no_such_overload)?;
    Quantity::parse(text).map(|quantity| Value::Quantity(Arc::new(quantity))).map_err(|error| EvalError::new(error.to_string()))
}

fn is_quantity<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(args[0].as_str().is_some_and(|text| Quantity::parse(text).is_ok())))
}

fn sign<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    quantity(&args[0]).map(|quantity| Value::Int(quantity.sign().into()))
}

fn compare(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    Ok(quantity(&args[0])?.cmp(&quantity(&args[1])?))
}

fn is_greater<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    compare(args).map(|ordering| Value::Bool(ordering.is_gt()))
}

fn is_less<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    compare(args).map(|ordering| Value::Bool(ordering.is_lt()))
}

fn compare_to<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    compare(args).map(|ordering| Value::Int(ordering as i64))
}

fn as_float<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    quantity(&args[0]).map(|quantity| Value::Double(quantity.as_f64()))
}

fn as_integer<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let whole = quantity(&args[0])?.as_i64();
    whole.map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
}

fn is_integer<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    quantity(&args[0]).map(|quantity| Value::Bool(quantity.as_i64().is_some()))
}

fn add<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Quantity(Arc::new(quantity(&args[0])?.plus(&*quantity(&args[1])?))))
}

fn sub<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Quantity(Arc::new(quantity(&args[0])?.minus(&*quantity(&args[1])?))))
}
