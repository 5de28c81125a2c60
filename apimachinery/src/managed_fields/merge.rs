//! Lays an applied configuration over an object: its fields win, its items are matched by key, nothing is removed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{
    path::PathElement,
    typed::{Form, Items, ListAtom, MapAtom, Schema, TypeRef},
};

/// `live` with `config` laid over it. Both have the shape of `ty`; `config` has no duplicate items.
pub(super) fn merge(schema: Schema<'_>, ty: TypeRef<'_>, live: &Value, config: &Value) -> Value {
    Walk { schema }.place(ty, Some(live), Some(config)).unwrap_or(Value::Null)
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    schema: Schema<'a>,
}

impl<'a> Walk<'a> {
    fn place(self, ty: TypeRef<'a>, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
        let Some(wanted) = config else {
            // Nothing is said about this place, so it stays as it is.
            return live.cloned();
        };
        match self.schema.resolve(ty).narrowed(Some(wanted)).form() {
            Form::Scalar(_) => Some(wanted.clone()),
            Form::List(list) => {
                let (a, b) = (live.and_then(Value::as_array), wanted.as_array());
                if matches!(list.items, Items::Atomic) || (a.is_none_or(Vec::is_empty) && b.is_none_or(Vec::is_empty)) {
                    return Some(wanted.clone());
                }
                let out = self.items(&list, a.map_or(&[], Vec::as_slice), b.map_or(&[], Vec::as_slice));
                (!out.is_empty()).then_some(Value::Array(out))
            }
            Form::Map(map) => {
                let (a, b) = (live.and_then(Value::as_object), wanted.as_object());
                if map.atomic || (a.is_none_or(Map::is_empty) && b.is_none_or(Map::is_empty)) {
                    return Some(wanted.clone());
                }
                let out = self.fields(&map, a, b);
                (!out.is_empty()).then_some(Value::Object(out))
            }
        }
    }

    fn fields(self, map: &MapAtom<'a>, live: Option<&Map<String, Value>>, config: Option<&Map<String, Value>>) -> Map<String, Value> {
        let mut out = Map::new();
        for (key, value) in live.into_iter().flatten() {
            let wanted = config.and_then(|config| config.get(key));
            let merged = match map.value_type(key) {
                Some(ty) => self.place(ty, Some(value), wanted),
                None => Some(wanted.unwrap_or(value).clone()),
            };
            out.extend(merged.map(|merged| (key.clone(), merged)));
        }
        for (key, value) in config.into_iter().flatten() {
            if live.is_some_and(|live| live.contains_key(key)) {
                continue;
            }
            let merged = match map.value_type(key) {
                Some(ty) => self.place(ty, None, Some(value)),
                None => Some(value.clone()),
            };
            out.extend(merged.map(|merged| (key.clone(), merged)));
        }
        out
    }

    /// Items of both lists: shared items in the configuration's order, the others near their neighbours.
    fn items(self, list: &ListAtom<'a>, live: &[Value], config: &[Value]) -> Vec<Value> {
        let left = Indexed::new(self.schema, list, live);
        let right = Indexed::new(self.schema, list, config);
        let mut shared = right.order.iter().map(|(element, _)| element).filter(|element| left.by_element.contains_key(*element));
        let mut next_shared = shared.next();
        let mut merged: BTreeSet<&PathElement> = BTreeSet::new();
        let mut out = Vec::with_capacity(live.len().max(config.len()));
        let (mut l, mut r) = (0, 0);
        loop {
            match (left.order.get(l), right.order.get(r)) {
                (None, None) => return out,
                (Some((element, _)), Some((wanted, _))) if element == wanted => {
                    merged.insert(element);
                    out.extend(self.place(list.element, left.get(element), right.get(element)));
                    l += 1;
                    r += 1;
                    next_shared = shared.next();
                    continue;
                }
                (Some((element, _)), Some(_))
                    if right.by_element.contains_key(element) && next_shared.is_some_and(|next| next != element) =>
                {
                    // A shared item, but another one comes first.
                    l += 1;
                    continue;
                }
                (Some((element, item)), _) if !right.by_element.contains_key(element) => {
                    out.extend(self.place(list.element, Some(item), None));
                    l += 1;
                    continue;
                }
                (Some((element, _)), _) if merged.contains(element) => l += 1,
                _ => {}
            }
            if let Some((element, _)) = right.order.get(r) {
                merged.insert(element);
                out.extend(self.place(list.element, left.get(element), right.get(element)));
                r += 1;
                if next_shared == Some(element) {
                    next_shared = shared.next();
                }
            }
        }
    }
}

/// A list's items in order, and by key.
struct Indexed<'v> {
    order: Vec<(PathElement, &'v Value)>,
    by_element: BTreeMap<PathElement, &'v Value>,
}

impl<'v> Indexed<'v> {
    fn new(schema: Schema<'_>, list: &ListAtom<'_>, items: &'v [Value]) -> Indexed<'v> {
        let mut order = Vec::with_capacity(items.len());
        let mut by_element = BTreeMap::new();
        for item in items {
            let Ok(element) = schema.item_element(list, item) else { continue };
            // Items that share a key are not merged with: the configuration's item replaces them.
            by_element.entry(element.clone()).and_modify(|found| *found = &Value::Null).or_insert(item);
            order.push((element, item));
        }
        Indexed { order, by_element }
    }

    fn get(&self, element: &PathElement) -> Option<&'v Value> {
        self.by_element.get(element).copied()
    }
}
