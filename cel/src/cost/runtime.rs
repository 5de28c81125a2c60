//! What a call has cost, by its arguments and its result.

use super::{ATOMIC, CHECK_COST, LIST_COST, REGEX, TRAVERSAL, scaled};
use crate::value::Value;

/// Costs of a call. The result is none if it is an error.
pub(crate) fn call(function: &str, overload: &str, args: &[&Value<'_>], result: Option<&Value<'_>>) -> u64 {
    if let Some(cost) = by_overload(overload, args, result) {
        return cost;
    }
    if let Some(cost) = by_function(function, overload, args, result) {
        return cost;
    }
    let traversal = |index: usize| scaled(size(args, index), TRAVERSAL);
    match overload {
        "starts_with_string" | "ends_with_string" => traversal(1),
        "string_to_bytes" | "bytes_to_string" | "strings_quote" | "string_format" => traversal(0),
        "in_list" => size(args, 1),
        "equals" | "not_equals" => scaled(size(args, 0).min(size(args, 1)), TRAVERSAL),
        _ if is_ordering(overload) => scaled(size(args, 0).min(size(args, 1)), TRAVERSAL),
        "add_string" | "add_bytes" => scaled(size(args, 0) + size(args, 1), TRAVERSAL),
        "matches" | "matches_string" => regex(size(args, 0), size(args, 1)),
        "contains_string" => traversal(0).saturating_mul(traversal(1)),
        _ => 1,
    }
}

/// Comparisons of texts and bytes.
pub(super) fn is_ordering(overload: &str) -> bool {
    ["less_", "less_equals_", "greater_", "greater_equals_"]
        .iter()
        .any(|operator| overload.strip_prefix(operator).is_some_and(|ty| ty == "string" || ty == "bytes"))
}

fn size(args: &[&Value<'_>], index: usize) -> u64 {
    match args.get(index) {
        Some(Value::Optional(Some(inner))) => inner.size(),
        Some(value) => value.size(),
        None => 1,
    }
}

fn regex(text: u64, pattern: u64) -> u64 {
    // One is added so that an expensive pattern on an empty text is not free.
    scaled(text + 1, TRAVERSAL).saturating_mul(scaled(pattern, REGEX))
}

fn by_overload(overload: &str, args: &[&Value<'_>], result: Option<&Value<'_>>) -> Option<u64> {
    let allocated = |size: u64, factor: f64| {
        let factor = if factor < 0.0 { 1.0 } else { factor };
        ((size as f64 * factor) as u64).saturating_add(1 + LIST_COST)
    };
    match overload {
        "list_sets_contains_list" | "list_sets_intersects_list" => Some(1 + size(args, 0) * size(args, 1)),
        "list_sets_equivalent_list" => Some(1 + 2 * size(args, 0) * size(args, 1)),
        "list_slice" | "lists_range" | "list_reverse" => Some(allocated(result.map_or(1, Value::size), 1.0)),
        "list_flatten" | "list_flatten_int" => {
            let depth = match args.get(1) {
                Some(Value::Int(depth)) => *depth as f64,
                _ => 1.0,
            };
            Some(allocated(size(args, 0), depth))
        }
        "list_distinct" => Some(self_compare(args.first()?, allocated)),
        _ if overload.starts_with("list_") && overload.ends_with("_sort") => Some(self_compare(args.first()?, allocated)),
        _ if overload.ends_with("_sortByAssociatedKeys") => Some(self_compare(args.get(1)?, allocated)),
        _ => None,
    }
}

fn self_compare(list: &Value<'_>, allocated: impl Fn(u64, f64) -> u64) -> u64 {
    let Value::List(list) = list else { return 1 };
    let size = list.len() as u64;
    let is_text = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
    allocated(size.saturating_mul(size), if is_text { 2.0 + TRAVERSAL } else { 2.0 })
}

fn by_function(function: &str, overload: &str, args: &[&Value<'_>], result: Option<&Value<'_>>) -> Option<u64> {
    // Sizes here do not look into optional values.
    let size = |index: usize| args.get(index).map_or(1, |value| value.size());
    let traversal = |index: usize, factor: f64| scaled(size(index), factor * TRAVERSAL);
    match function {
        "check" => Some(CHECK_COST),
        "serviceAccount" | "path" | "group" | "resource" | "subresource" | "namespace" | "name" | "allowed" | "reason" | "error"
        | "errored" => Some(1),
        "fieldSelector" | "labelSelector" if args.len() >= 2 => Some(super::estimate::selector(size(1))),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => Some(args.first().map_or(0, |value| tree(value))),
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => Some(traversal(0, 1.0)),
        "replace" | "split" => Some(traversal(0, 2.0)),
        "join" => Some(scaled(result.map_or(1, Value::size), 2.0 * TRAVERSAL)),
        "find" | "findAll" if args.len() >= 2 => Some(regex(size(0), size(1))),
        "ip" if overload == "cidr_ip" => Some(1),
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => Some(traversal(0, 1.0)),
        "ip.isCanonical" => Some(traversal(0, 2.0)),
        "masked"
        | "prefixLength"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast" => Some(1),
        "containsIP" | "containsCIDR" if args.len() >= 2 => {
            let mut cost = scaled(2 * size(0), TRAVERSAL);
            if function == "containsCIDR" {
                cost += traversal(0, 1.0) + 1;
            }
            if overload == "cidr_contains_ip_string" || overload == "cidr_contains_cidr_string" {
                cost += traversal(1, 1.0);
            }
            Some(cost)
        }
        "validate" => match args {
            [Value::Format(format), text, ..] => Some(regex(text.size(), format.max_regex_size)),
            _ => None,
        },
        "format.named" | "sign" | "asInteger" | "isInteger" | "asApproximateFloat" | "isGreaterThan" | "isLessThan" | "compareTo"
        | "add" | "sub" | "major" | "minor" | "patch" | "getScheme" | "getHostname" | "getHost" | "getPort" | "getEscapedPath"
        | "getQuery" => Some(1),
        "_==_" => ATOMIC.contains(&args.first()?.type_name()).then_some(1),
        _ => None,
    }
}

/// Cost of going through a value and all within.
fn tree(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TRAVERSAL) as u64,
        Value::List(list) => list.iter().map(|item| item.map_or(1, |item| tree(&item))).sum(),
        Value::Map(map) => map.keys().iter().map(|key| tree(key) + map.find(key).ok().flatten().map_or(1, |value| tree(&value))).sum(),
        _ => 1,
    }
}
