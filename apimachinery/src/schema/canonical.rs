//! Canonical form: what a round trip through the reference's types would give.
//!
//! Fields stand in declaration order, maps are sorted, zero values of `omitempty` fields are dropped, fields that are always
//! written are there (`status: {}`), empty lists and maps of stored kinds are absent. Clients diff on this, so it has one home.

use serde_json::{Map, Value};

use super::{Field, StructType, Type, TypeId, Types};

/// Whether empty lists and maps survive: they do in JSON, they do not where the stored form is protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empties {
    Keep,
    Drop,
}

/// Rewrites `value`, which must have passed [`super::decode`], in canonical form.
pub fn canonicalize(types: &Types, id: TypeId, value: &mut Value, empties: Empties) {
    let ty = types.get(id);
    if let Value::Object(map) = value {
        structure(types, ty, map, empties);
    }
}

/// Whether an empty list or map stands where [`Empties::Drop`] leaves none.
pub fn holds_empties(types: &Types, id: TypeId, value: &Value) -> bool {
    fn held(types: &Types, ty: &Type, value: &Value) -> bool {
        match (ty, value) {
            (Type::Struct(id), Value::Object(_)) => holds_empties(types, *id, value),
            (Type::List(list), Value::Array(items)) => {
                items.is_empty() || (holds_structs(&list.item) && items.iter().any(|item| held(types, &list.item, item)))
            }
            (Type::Map(map_type), Value::Object(map)) => {
                map.is_empty() || (holds_structs(&map_type.value) && map.values().any(|item| held(types, &map_type.value, item)))
            }
            _ => false,
        }
    }
    let (Value::Object(map), ty) = (value, types.get(id)) else { return false };
    let nested = map.iter().filter(|(_, value)| value.is_object() || value.is_array());
    nested.into_iter().any(|(key, value)| ty.field(key).is_some_and(|field| held(types, &field.ty, value)))
}

fn structure(types: &Types, ty: &StructType, map: &mut Map<String, Value>, empties: Empties) {
    // Most fields of large types are absent: those that are there are looked up, and not the others among them.
    let mut there: Vec<(usize, String, Value)> = Vec::with_capacity(map.len());
    let mut rest: Vec<(String, Value)> = Vec::new();
    for (key, value) in std::mem::take(map) {
        match ty.by_json.get(key.as_str()) {
            Some(place) => there.push((usize::from(*place), key, value)),
            None => rest.push((key, value)),
        }
    }
    there.sort_by_key(|(place, _, _)| *place);
    let mut out = Map::with_capacity(there.len());
    let mut there = there.into_iter().peekable();
    for (place, field) in ty.fields.iter().enumerate() {
        match there.next_if(|(next, _, _)| *next == place) {
            Some((_, key, value)) => out.extend(present(types, field, value, empties).map(|value| (key, value))),
            None => out.extend(absent(types, field, empties).map(|value| (field.json.to_string(), value))),
        }
    }
    if ty.preserve_unknown && !rest.is_empty() {
        rest.sort_by(|a, b| a.0.cmp(&b.0));
        out.extend(rest);
    }
    *map = out;
}

/// The canonical value of a field that is there, or `None` if it is not written.
fn present(types: &Types, field: &Field, mut value: Value, empties: Empties) -> Option<Value> {
    if value.is_null() && !matches!(field.ty, Type::Json | Type::RawExtension) {
        return absent(types, field, empties);
    }
    inner(types, &field.ty, &mut value, empties);
    if field.omit_empty && is_empty_for_omit(field, &value, empties) {
        return None;
    }
    if field.omit_zero && !field.pointer && is_zero(types, &field.ty, &value) {
        return None;
    }
    if empties == Empties::Drop && is_empty_collection(&field.ty, &value) && !field.omit_empty {
        return Some(Value::Null);
    }
    Some(value)
}

/// What an absent field looks like: nothing, or the zero that is always written.
fn absent(types: &Types, field: &Field, empties: Empties) -> Option<Value> {
    match &field.ty {
        Type::Struct(id) if !field.pointer => {
            if field.omit_zero {
                return None;
            }
            let mut map = Map::new();
            structure(types, types.get(*id), &mut map, empties);
            Some(Value::Object(map))
        }
        // A quantity is a struct in Go, and `omitempty` never omits structs.
        Type::Quantity if !field.pointer && !field.omit_zero => Some(Value::String("0".to_owned())),
        _ if field.omit_zero || (field.omit_empty && (field.pointer || !is_struct_in_go(&field.ty))) => None,
        _ if field.pointer => Some(Value::Null),
        Type::String => Some(Value::String(String::new())),
        Type::Bool => Some(Value::Bool(false)),
        Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float | Type::IntOrString => Some(Value::from(0)),
        Type::Duration => Some(Value::String("0s".to_owned())),
        _ => Some(Value::Null),
    }
}

/// Scalars of JSON that are structs in Go, which `omitempty` never drops.
fn is_struct_in_go(ty: &Type) -> bool {
    matches!(ty, Type::Time | Type::MicroTime | Type::Quantity | Type::IntOrString | Type::Duration | Type::RawExtension)
}

fn inner(types: &Types, ty: &Type, value: &mut Value, empties: Empties) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(map)) => structure(types, types.get(*id), map, empties),
        (Type::List(list), Value::Array(items)) if holds_structs(&list.item) => {
            for item in items {
                inner(types, &list.item, item, empties);
            }
        }
        (Type::Map(map_type), Value::Object(map)) => {
            if !map.keys().is_sorted() {
                map.sort_keys();
            }
            if holds_structs(&map_type.value) {
                for (_, item) in map.iter_mut() {
                    inner(types, &map_type.value, item, empties);
                }
            }
        }
        (Type::SchemaOr(_), Value::Object(map)) => {
            if let Some(id) = types.lookup("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps") {
                structure(types, types.get(id), map, empties);
            }
        }
        (Type::SchemaOr(_), Value::Array(items)) => {
            for item in items {
                inner(types, ty, item, empties);
            }
        }
        _ => {}
    }
}

fn holds_structs(ty: &Type) -> bool {
    matches!(ty, Type::Struct(_) | Type::List(_) | Type::Map(_) | Type::SchemaOr(_))
}

fn is_empty_collection(ty: &Type, value: &Value) -> bool {
    match (ty, value) {
        (Type::List(_), Value::Array(items)) => items.is_empty(),
        (Type::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

/// Go's `omitempty`: zero scalars, empty strings, lists and maps; never a struct, never what a pointer points to.
fn is_empty_for_omit(field: &Field, value: &Value, empties: Empties) -> bool {
    match (&field.ty, value) {
        (Type::List(_) | Type::Map(_), _) if field.pointer && empties == Empties::Keep => false,
        (Type::List(_), Value::Array(items)) => items.is_empty(),
        (Type::Map(_), Value::Object(map)) => map.is_empty(),
        (Type::Bytes, Value::String(s)) => s.is_empty(),
        _ if field.pointer => false,
        (Type::String, Value::String(s)) => s.is_empty(),
        (Type::Bool, Value::Bool(b)) => !b,
        (Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float, Value::Number(n)) => n.as_f64() == Some(0.0),
        _ => false,
    }
}

/// Whether a struct has only zero fields (Go's `omitzero`, and `IsZero` of times).
fn is_zero(types: &Types, ty: &Type, value: &Value) -> bool {
    match (ty, value) {
        (_, Value::Null) => true,
        (Type::Struct(id), Value::Object(map)) => {
            let ty = types.get(*id);
            map.iter().all(|(key, value)| ty.field(key).is_some_and(|f| !f.pointer && is_zero(types, &f.ty, value)))
        }
        (Type::List(_), Value::Array(items)) => items.is_empty(),
        (Type::Map(_), Value::Object(map)) => map.is_empty(),
        (Type::String | Type::Bytes, Value::String(s)) => s.is_empty(),
        (Type::Bool, Value::Bool(b)) => !b,
        (Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float, Value::Number(n)) => n.as_f64() == Some(0.0),
        _ => false,
    }
}
