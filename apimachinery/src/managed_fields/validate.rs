//! Checks that an object has the shape of its type, as far as merging needs it.
//!
//! Not API validation: no ranges, no required fields. The messages are those of a failed apply.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    path::PathElement,
    typed::{Form, Items, ListAtom, MapAtom, Scalar, Schema, TypeRef},
};
use crate::go_print;

/// Places that do not fit the schema, in the order in which they were found. Prints as upstream prints it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", render(.0))]
pub struct ShapeErrors(Vec<(String, String)>);

fn render(errors: &[(String, String)]) -> String {
    let one = |(path, message): &(String, String)| if path.is_empty() { message.clone() } else { format!("{path}: {message}") };
    match errors {
        [only] => one(only),
        all => {
            let lines: Vec<String> = all.iter().map(|e| format!("  {}", one(e))).collect();
            format!("errors:\n{}", lines.join("\n"))
        }
    }
}

/// Checks `value` against `ty`; `allow_duplicates` admits equal items in sets and associative lists.
pub(super) fn validate(schema: Schema<'_>, ty: TypeRef<'_>, value: &Value, allow_duplicates: bool) -> Result<(), ShapeErrors> {
    let mut walk = Walk { schema, allow_duplicates, errors: Vec::new() };
    walk.value(ty, value, &Place::Root);
    if walk.errors.is_empty() { Ok(()) } else { Err(ShapeErrors(walk.errors)) }
}

/// Where the walk is. The way there is put together only for who asks, and that is an error.
#[derive(Clone, Copy)]
enum Place<'p> {
    Root,
    Field(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, &'p PathElement),
}

impl Place<'_> {
    fn path(&self) -> Vec<PathElement> {
        let (above, step) = match self {
            Place::Root => return Vec::new(),
            Place::Field(above, name) => (above, PathElement::field(name)),
            Place::Item(above, element) => (above, (*element).clone()),
        };
        let mut path = above.path();
        path.push(step);
        path
    }
}

struct Walk<'a> {
    schema: Schema<'a>,
    allow_duplicates: bool,
    errors: Vec<(String, String)>,
}

impl<'a> Walk<'a> {
    fn error(&mut self, place: &Place<'_>, message: String) {
        self.errors.push((super::path::text(&place.path()), message));
    }

    fn value(&mut self, ty: TypeRef<'a>, value: &Value, place: &Place<'_>) {
        if value.is_null() {
            return;
        }
        match self.schema.resolve(ty).narrowed(Some(value)).form() {
            Form::Scalar(scalar) => {
                if let Some(message) = scalar_mismatch(scalar, value) {
                    self.error(place, message);
                }
            }
            Form::List(list) => match value {
                Value::Array(items) => self.list(&list, items, place),
                other => self.error(place, format!("expected list, got &{{{}}}", go_print::plain(other))),
            },
            Form::Map(map) => match value {
                Value::Object(fields) => self.map(&map, fields, place),
                other => self.error(place, format!("expected map, got &{{{}}}", go_print::plain(other))),
            },
        }
    }

    fn list(&mut self, list: &ListAtom<'a>, items: &[Value], place: &Place<'_>) {
        let mut seen = BTreeSet::new();
        for (i, item) in items.iter().enumerate() {
            let element = if matches!(list.items, Items::Atomic) {
                PathElement::Index(i64::try_from(i).unwrap_or(i64::MAX))
            } else {
                match self.schema.item_element(list, item) {
                    Ok(element) => element,
                    Err(message) => return self.error(place, format!("element {i}: {message}")),
                }
            };
            if !matches!(list.items, Items::Atomic) && !self.allow_duplicates && !seen.insert(element.clone()) {
                self.error(place, format!("duplicate entries for key {}", element.text()));
            }
            self.value(list.element, item, &Place::Item(place, &element));
        }
    }

    fn map(&mut self, map: &MapAtom<'a>, fields: &serde_json::Map<String, Value>, place: &Place<'_>) {
        for (key, value) in fields {
            let place = Place::Field(place, key);
            match map.value_type(key) {
                Some(ty) => self.value(ty, value, &place),
                // Upstream stops at the first undeclared field of a map.
                None => return self.error(&place, "field not declared in schema".to_owned()),
            }
        }
    }
}

/// Why a value is not such a scalar. Null is every scalar.
pub(super) fn scalar_mismatch(scalar: Scalar, value: &Value) -> Option<String> {
    match (scalar, value) {
        (_, Value::Null)
        | (Scalar::Numeric, Value::Number(_))
        | (Scalar::String, Value::String(_))
        | (Scalar::Boolean, Value::Bool(_))
        | (Scalar::Any, Value::Number(_) | Value::String(_) | Value::Bool(_)) => None,
        (Scalar::Numeric, other) => {
            let found = go_print::type_name(other).unwrap_or("<nil>");
            Some(format!("expected numeric (int or float), got {found}"))
        }
        (Scalar::String, other) => Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_print::syntax(other))),
        (Scalar::Boolean, other) => Some(format!("expected boolean, got &{{{}}}", go_print::plain(other))),
        (Scalar::Any, other) => Some(format!("expected any scalar, got &{{{}}}", go_print::plain(other))),
    }
}
