//! The set of fields that an object mentions.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    path::PathElement,
    set::FieldSet,
    typed::{Form, Items, ListAtom, MapAtom, Schema, TypeRef},
};

/// What was found at a place: whether the place itself is owned, and what is below it.
#[derive(Default)]
struct Found {
    member: bool,
    below: FieldSet,
}

impl Found {
    fn leaf() -> Found {
        Found { member: true, below: FieldSet::new() }
    }
}

/// Every leaf, list item and map key of `value`.
pub(super) fn to_field_set(schema: Schema<'_>, ty: TypeRef<'_>, value: &Value) -> FieldSet {
    visit(schema, ty, value).below
}

fn visit<'a>(schema: Schema<'a>, ty: TypeRef<'a>, value: &Value) -> Found {
    match schema.resolve(ty).narrowed(Some(value)).form() {
        Form::Scalar(_) => Found::leaf(),
        Form::List(ListAtom { items: Items::Atomic, .. }) | Form::Map(MapAtom { atomic: true, .. }) => Found::leaf(),
        Form::List(list) => match value {
            Value::Array(items) => Found { member: false, below: visit_items(schema, &list, items) },
            _ => Found::default(),
        },
        Form::Map(map) => match value {
            Value::Object(fields) => Found { member: false, below: visit_fields(schema, &map, fields) },
            _ => Found::default(),
        },
    }
}

fn visit_items<'a>(schema: Schema<'a>, list: &ListAtom<'a>, items: &[Value]) -> FieldSet {
    // An item whose key cannot be told was refused by validation already.
    let elements: Vec<Option<PathElement>> = items.iter().map(|item| schema.item_element(list, item).ok()).collect();
    let mut counts: BTreeMap<&PathElement, usize> = BTreeMap::new();
    for element in elements.iter().flatten() {
        *counts.entry(element).or_default() += 1;
    }
    let mut set = FieldSet::new();
    for (element, item) in elements.iter().zip(items) {
        let Some(element) = element else { continue };
        set.add(element.clone());
        // Items that share a key are owned together, without their fields.
        if counts.get(element) == Some(&1) {
            set.add_below(element.clone(), visit(schema, list.element, item).below);
        }
    }
    set
}

fn visit_fields<'a>(schema: Schema<'a>, map: &MapAtom<'a>, fields: &serde_json::Map<String, Value>) -> FieldSet {
    let mut set = FieldSet::new();
    for (key, value) in fields {
        let found = match map.value_type(key) {
            Some(ty) => visit(schema, ty, value),
            None => Found::default(),
        };
        let empty = match value {
            Value::Null => true,
            Value::Object(inner) => inner.is_empty(),
            _ => false,
        };
        if found.member || empty || map.named(key).is_none() {
            set.add(PathElement::field(key));
        }
        set.add_below(PathElement::field(key), found.below);
    }
    set
}
