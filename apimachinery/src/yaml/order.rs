//! The order in which go-yaml v2 prints a map's keys.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// Entries in go-yaml's order of keys. The order is not transitive for every set of keys, which the standard library's
/// sort may answer with a panic; a merge sort just sorts.
pub(super) fn in_natural_order(entries: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut sorted: Vec<_> = entries.iter().collect();
    let mut width = 1;
    while width < sorted.len() {
        let mut merged = Vec::with_capacity(sorted.len());
        for pair in sorted.chunks(width * 2) {
            let (mut left, mut right) = pair.split_at(width.min(pair.len()));
            while let ([l, left_rest @ ..], [r, right_rest @ ..]) = (left, right) {
                if natural_order(r.0, l.0) == Ordering::Less {
                    merged.push(*r);
                    right = right_rest;
                } else {
                    merged.push(*l);
                    left = left_rest;
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        sorted = merged;
        width *= 2;
    }
    sorted
}

/// Digits compare as numbers, letters come after everything else.
fn natural_order(a: &str, b: &str) -> Ordering {
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let same = (0..=same).rev().find(|at| a.is_char_boundary(*at) && b.is_char_boundary(*at)).unwrap_or(0);
    let (rest_a, rest_b) = (&a[same..], &b[same..]);
    let (Some(x), Some(y)) = (rest_a.chars().next(), rest_b.chars().next()) else {
        return rest_a.len().cmp(&rest_b.len());
    };
    match (x.is_alphabetic(), y.is_alphabetic()) {
        (true, true) => return x.cmp(&y),
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    // A zero inside a number counts as a digit of it, not as a leading zero.
    let inside = (x == '0' || y == '0') && a[..same].chars().rev().take_while(char::is_ascii_digit).any(|c| c != '0');
    let number = |rest: &str| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit);
        digits.fold((i64::from(inside), 0), |(n, count): (i64, usize), b| (n.wrapping_mul(10).wrapping_add(i64::from(b - b'0')), count + 1))
    };
    number(rest_a).cmp(&number(rest_b)).then(x.cmp(&y))
}
