//! The items of a merged list: which are alike, and in which order they come out.
//!
//! What the patch asks for goes first, then where the items stood.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::strategic::{DIRECTIVE, Error, ORDER_PREFIX, bad_type, no_merge_key};
use crate::go_print;

/// What tells a list's items apart: a member's value, or the scalar itself without a merge key.
fn key_of<'a>(item: &'a Value, merge_key: &str) -> Option<&'a Value> {
    match item {
        Value::Object(map) => map.get(merge_key),
        Value::Null => None,
        scalar => Some(scalar),
    }
}

/// Where the first item of each key stands in a list. Lists have thousands of items where somebody means harm.
struct Places<'a> {
    by_key: HashMap<Option<String>, usize>,
    merge_key: &'a str,
}

impl<'a> Places<'a> {
    fn of(list: &[Value], merge_key: &'a str) -> Places<'a> {
        let mut by_key = HashMap::with_capacity(list.len());
        for (at, item) in list.iter().enumerate() {
            by_key.entry(key_of(item, merge_key).map(Value::to_string)).or_insert(at);
        }
        Places { by_key, merge_key }
    }

    fn find(&self, item: &Value) -> Option<usize> {
        self.by_key.get(&key_of(item, self.merge_key).map(Value::to_string)).copied()
    }
}

/// Sorts `items` as `order` has them. Items that are not there come out in reverse before those next to them, which is how
/// upstream's comparison, true for everything unknown, works out.
fn sort_by(items: Vec<Value>, order: &[Value], merge_key: &str) -> Vec<Value> {
    let places = Places::of(order, merge_key);
    let mut placed: Vec<(Option<usize>, Value)> = items.into_iter().map(|item| (places.find(&item), item)).collect();
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
fn interleave(left: Vec<Value>, right: Vec<Value>, order: &[Value], merge_key: &str) -> Vec<Value> {
    let mut out = Vec::with_capacity(left.len() + right.len());
    let places = Places::of(order, merge_key);
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let left_first = match (left.peek(), right.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => places.find(l).zip(places.find(r)).is_some_and(|(l, r)| l < r),
        };
        out.extend(if left_first { left.next() } else { right.next() });
    }
}

/// The live order as upstream sees it after it edited the list in place: an item that was deleted makes room for one that is
/// added, which so gets a place among the live ones.
pub(super) fn order_after_edits(mut live: Vec<Value>, patch: &[Value], key: &str) -> Vec<Value> {
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    let mut used = live.len();
    for item in patch.iter().filter(|item| directive(item).as_deref() == Some("delete")) {
        while let Some(at) = live[..used].iter().position(|other| other.get(key) == item.get(key)) {
            // The last item stays behind in the place that is no longer used.
            let last = live[used - 1].clone();
            live[at..used].rotate_left(1);
            live[used - 1] = last;
            used -= 1;
        }
    }
    if patch.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        return live;
    }
    for item in patch.iter().filter(|item| directive(item).is_none()) {
        if used < live.len() && !live[..used].iter().any(|other| other.get(key) == item.get(key)) {
            live[used] = item.clone();
            used += 1;
        }
    }
    live
}

/// All items must be of one type, and no lists.
pub(super) fn items_are_maps(lists: &[&[Value]]) -> Result<bool, Error> {
    let mut first = None;
    for item in lists.iter().copied().flatten() {
        let name = go_print::type_name(item).unwrap_or("<nil>");
        match first {
            None if item.is_null() => return Err(Error::NullItem),
            None if item.is_array() => return Err(Error::ListOfLists),
            None => first = Some(name),
            Some(known) if known == name => {}
            Some(_) => {
                let all: Vec<String> = lists.iter().map(|list| go_print::plain(&Value::Array(list.to_vec()))).collect();
                return Err(Error::Other(format!("list element types are not identical: [{}]", all.join(" "))));
            }
        }
    }
    match first {
        Some(name) => Ok(name.starts_with("map")),
        None => Err(Error::Other("no elements in any of the given slices".to_owned())),
    }
}

/// The scalars without repetitions; a repetition's place is taken by the last item, as upstream does it.
pub(super) fn deduplicated(mut items: Vec<Value>) -> Vec<Value> {
    let mut i = 0;
    while i < items.len() {
        let mut j = i + 1;
        while j < items.len() {
            if items[i] == items[j] {
                items.swap_remove(j);
            } else {
                j += 1;
            }
        }
        i += 1;
    }
    items
}

/// The items that `by` has, and the others.
pub(super) fn partition(items: Vec<Value>, by: &[Value], merge_key: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    if merge_key.is_empty() {
        return Ok(items.into_iter().partition(|item| by.contains(item)));
    }
    let mut asked: BTreeSet<String> = BTreeSet::new();
    for (i, item) in by.iter().enumerate() {
        let Value::Object(map) = item else { return Err(Error::Other(format!("value for key {i} is not a map"))) };
        asked.extend(map.get(merge_key).map(Value::to_string));
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for item in items {
        if !item.is_object() {
            return Err(bad_type("map[string]interface {}", &item));
        }
        let key = item.get(merge_key).ok_or_else(|| no_merge_key(&item, merge_key))?;
        if asked.contains(&key.to_string()) { with.push(item) } else { without.push(item) }
    }
    Ok((with, without))
}

/// The merged list in its order: the patch's items as the patch has them, the others as they stood.
pub(super) fn arrange(
    asked: Vec<Value>,
    others: Vec<Value>,
    patch_order: &[Value],
    live_order: &[Value],
    merge_key: &str,
    maps: bool,
) -> Result<Vec<Value>, Error> {
    if maps {
        for list in [asked.as_slice(), patch_order, others.as_slice(), live_order] {
            for item in list {
                match item {
                    Value::Object(map) if map.contains_key(merge_key) => {}
                    Value::Object(_) => return Err(no_merge_key(item, merge_key)),
                    other => return Err(bad_type("map[string]interface {}", other)),
                }
            }
        }
    }
    let asked = sort_by(asked, patch_order, merge_key);
    let others = sort_by(others, live_order, merge_key);
    Ok(interleave(others, asked, live_order, merge_key))
}

/// The items of a patch must stand in the order that its `$setElementOrder` gives, which must name them all.
pub(super) fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<(), Error> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = Vec::with_capacity(patch.len());
    for item in patch {
        if !merge_key.is_empty() && !item.is_object() {
            return Err(bad_type("map[string]interface {}", item));
        }
        if merge_key.is_empty() || item.get(DIRECTIVE).and_then(Value::as_str) != Some("delete") {
            wanted.push(item);
        }
    }
    let mut at = 0;
    for place in order {
        // Other directives need no place, unless the order has ended before them.
        while wanted.get(at).is_some_and(|item| item.get(DIRECTIVE).is_some()) {
            at += 1;
        }
        let Some(item) = wanted.get(at) else { break };
        if !merge_key.is_empty() {
            for map in [item, place] {
                if !map.is_object() {
                    return Err(bad_type("map[string]interface {}", map));
                }
                if map.get(merge_key).is_none() {
                    return Err(no_merge_key(map, merge_key));
                }
            }
        }
        if key_of(item, merge_key) == key_of(place, merge_key) {
            at += 1;
        }
    }
    if at < wanted.len() {
        let list = |items: &[Value]| go_print::plain(&Value::Array(items.to_vec()));
        return Err(Error::Other(format!(
            "The order in patch list:\n{}\n doesn't match {ORDER_PREFIX} list:\n{}\n",
            list(patch),
            list(order)
        )));
    }
    Ok(())
}
