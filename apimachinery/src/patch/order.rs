//! The order of a merged list: what the patch asks for first, then where the items stood.

use serde_json::Value;

/// What tells a list's items apart: a member's value, or the scalar itself without a merge key.
pub(super) fn key_of<'a>(item: &'a Value, merge_key: &str) -> Option<&'a Value> {
    match item {
        Value::Object(map) => map.get(merge_key),
        Value::Null => None,
        scalar => Some(scalar),
    }
}

fn position(list: &[Value], item: &Value, merge_key: &str) -> Option<usize> {
    let key = key_of(item, merge_key);
    list.iter().position(|other| key_of(other, merge_key) == key)
}

/// Sorts `items` as `order` has them. Items that are not there come out in reverse before those next to them, which is how
/// upstream's comparison, true for everything unknown, works out.
pub(super) fn sort_by(items: Vec<Value>, order: &[Value], merge_key: &str) -> Vec<Value> {
    let mut placed: Vec<(Option<usize>, Value)> = items.into_iter().map(|item| (position(order, &item, merge_key), item)).collect();
    if placed.iter().all(|(place, _)| place.is_some()) {
        placed.sort_by_key(|(place, _)| *place);
    } else {
        let before = |a: Option<usize>, b: Option<usize>| a.zip(b).is_none_or(|(a, b)| a < b);
        for i in 1..placed.len() {
            let mut j = i;
            while j > 0 && before(placed[j].0, placed[j - 1].0) {
                placed.swap(j, j - 1);
                j -= 1;
            }
        }
    }
    placed.into_iter().map(|(_, item)| item).collect()
}

/// Interleaves two sorted lists: an item of `left` goes first only if it stood before the next of `right` in `order`.
pub(super) fn interleave(left: Vec<Value>, right: Vec<Value>, order: &[Value], merge_key: &str) -> Vec<Value> {
    let mut out = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let left_first = match (left.peek(), right.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => position(order, l, merge_key).zip(position(order, r, merge_key)).is_some_and(|(l, r)| l < r),
        };
        out.extend(if left_first { left.next() } else { right.next() });
    }
}
