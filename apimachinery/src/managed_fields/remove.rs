//! Takes fields and list items out of an object.

use serde_json::{Map, Value};

use super::{
    path::PathElement,
    set::FieldSet,
    typed::{Form, Items, Schema, TypeRef},
};

/// `value` without the members of `fields`. A map or list that loses all it had becomes null; what is owned whole is
/// taken whole.
pub(super) fn remove<'a>(schema: Schema<'a>, ty: TypeRef<'a>, value: &Value, fields: &FieldSet) -> Value {
    match (schema.resolve(ty).narrowed(Some(value)).form(), value) {
        (Form::Scalar(_), value) => value.clone(),
        (Form::List(list), Value::Array(items)) if !matches!(list.items, Items::Atomic) => {
            let mut kept = Vec::with_capacity(items.len());
            for item in items {
                let Ok(element) = schema.item_element(&list, item) else {
                    kept.push(item.clone());
                    continue;
                };
                if fields.has_member(&element) {
                    continue;
                }
                kept.push(match fields.below(&element) {
                    Some(below) => remove(schema, list.element, item, below),
                    None => item.clone(),
                });
            }
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        (Form::Map(map), Value::Object(values)) if !map.atomic => {
            let mut kept = Map::with_capacity(values.len());
            for (key, value) in values {
                let element = PathElement::field(key);
                if fields.has_member(&element) {
                    continue;
                }
                let value = match (fields.below(&element), map.value_type(key)) {
                    (Some(below), Some(ty)) => remove(schema, ty, value, below),
                    (Some(_), None) => Value::Null,
                    (None, _) => value.clone(),
                };
                kept.insert(key.clone(), value);
            }
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        _ => Value::Null,
    }
}
