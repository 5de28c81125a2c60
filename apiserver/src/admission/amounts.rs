//! Amounts of resources by name, and the arithmetic that limits and quotas do with them.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use serde_json::{Map, Value};

use crate::registry::core::resource::quantity;

/// Amounts by resource name, in order of names.
pub type Amounts = BTreeMap<String, Quantity>;

/// Reads a `requests`, a `hard`, a `podFixed`; nothing where there is none.
pub fn read(list: Option<&Value>) -> Amounts {
    let amounts = list.and_then(Value::as_object).into_iter().flatten();
    amounts.filter_map(|(name, amount)| Some((name.clone(), quantity(amount.as_str()?)))).collect()
}

/// As it stands in objects.
pub fn write(amounts: &Amounts) -> Value {
    Value::Object(amounts.iter().map(|(name, amount)| (name.clone(), amount.canonical().into())).collect::<Map<_, _>>())
}

pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match total.get_mut(name) {
            Some(sum) => *sum = sum.plus(amount),
            None => {
                total.insert(name.clone(), amount.clone());
            }
        }
    }
}

/// The greater of each.
pub fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if total.get(name).is_none_or(|most| amount > most) {
            total.insert(name.clone(), amount.clone());
        }
    }
}

/// `a - b`, but nothing below zero; names of either.
pub fn minus_to_zero(a: &Amounts, b: &Amounts) -> Amounts {
    let mut rest: Amounts = b.keys().map(|name| (name.clone(), Quantity::default())).collect();
    for (name, amount) in a {
        let left = b.get(name).map_or_else(|| amount.clone(), |less| amount.minus(less));
        rest.insert(name.clone(), if left.sign() > 0 { left } else { Quantity::default() });
    }
    rest
}

/// Only the amounts of names that pass.
pub fn only(amounts: &Amounts, keep: impl Fn(&str) -> bool) -> Amounts {
    amounts.iter().filter(|(name, _)| keep(name)).map(|(name, amount)| (name.clone(), amount.clone())).collect()
}

/// `cpu=1,memory=1Gi`.
pub fn print(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}
