//! How a strategically merged object is read back into its type.
//!
//! Upstream does not decode JSON here but converts the tree, with other messages and looser numbers: a whole float is an
//! integer, and integers wrap to the width of their field. Values with a text form of their own (quantities, times)
//! are left to [`crate::schema`]'s decoding, as are unknown fields.

use serde_json::{Map, Value};

use crate::{
    go_print,
    schema::{Field, Type, TypeId, Types, decode, element_go_type},
};

/// Why a merged object does not fit its type: the detail of `patch: Invalid value: …` (422, Invalid, the value being the
/// patch as [`super::strategic::apply`] leaves it, by [`go_print::plain`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("cannot restore {into} from {from}")]
    Collection { into: &'static str, from: &'static str },
    #[error("cannot restore struct from: {0}")]
    Struct(&'static str),
    #[error("cannot convert {from} to {into}")]
    Convert { from: &'static str, into: String },
    #[error("unrecognized type: {0}")]
    Unrecognized(String),
    /// A type that reads itself has said so.
    #[error("{0}")]
    Own(String),
}

/// Checks `value` against type `id` and brings its numbers into the field's form.
pub fn restore(types: &Types, id: TypeId, value: &mut Value) -> Result<(), Error> {
    match value {
        Value::Object(map) => structure(types, id, map),
        other => Err(Error::Struct(kind_of(other))),
    }
}

fn structure(types: &Types, id: TypeId, map: &mut Map<String, Value>) -> Result<(), Error> {
    for Field { json, ty, go_type, .. } in &types.get(id).fields {
        if let Some(value) = map.get_mut(&**json) {
            place(types, ty, go_type, value)?;
        }
    }
    Ok(())
}

fn place(types: &Types, ty: &Type, go_type: &str, value: &mut Value) -> Result<(), Error> {
    if value.is_null() {
        return Ok(());
    }
    match (ty, &mut *value) {
        (Type::Struct(id), Value::Object(map)) => structure(types, *id, map),
        (Type::Struct(_), other) => Err(Error::Struct(kind_of(other))),
        (Type::List(list), Value::Array(items)) => {
            let item_type = element_go_type(go_type);
            items.iter_mut().try_for_each(|item| place(types, &list.item, item_type, item))
        }
        (Type::List(_), other) => Err(Error::Collection { into: "slice", from: kind_of(other) }),
        (Type::Map(map_type), Value::Object(map)) => {
            let item_type = element_go_type(go_type);
            map.values_mut().try_for_each(|item| place(types, &map_type.value, item_type, item))
        }
        (Type::Map(_), other) => Err(Error::Collection { into: "map", from: kind_of(other) }),
        (Type::Bytes, Value::String(_)) => Ok(()),
        (Type::Bytes, other) => Err(Error::Collection { into: "slice", from: kind_of(other) }),
        (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) | (Type::Float, Value::Number(_)) => Ok(()),
        (Type::String, Value::Number(n)) if n.is_i64() => Err(Error::Convert { from: "int64", into: go_type.to_owned() }),
        (Type::Int32 | Type::Int64 | Type::Uint(_), Value::Number(n)) => {
            let whole = match (n.as_i64(), n.as_f64()) {
                (Some(whole), _) => whole,
                // The cast saturates where Go leaves the result open.
                (None, Some(float)) if float.trunc() == float => float as i64,
                _ => return Err(Error::Convert { from: "float64", into: go_type.to_owned() }),
            };
            *value = wrapped(ty, whole);
            Ok(())
        }
        (Type::IntOrString, other) => decode::int_or_string(other).map_err(|e| Error::Own(e.to_string())),
        (Type::String | Type::Bool | Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float, _) => Err(Error::Unrecognized(go_kind(ty))),
        _ => Ok(()),
    }
}

/// An integer in the width of its field.
fn wrapped(ty: &Type, whole: i64) -> Value {
    match ty {
        Type::Int32 => Value::from(whole as i32),
        Type::Uint(8) => Value::from(whole as u8),
        Type::Uint(16) => Value::from(whole as u16),
        Type::Uint(32) => Value::from(whole as u32),
        Type::Uint(_) => Value::from(whole as u64),
        _ => Value::from(whole),
    }
}

/// The Go kind of a decoded value.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
        scalar => go_print::type_name(scalar).unwrap_or("invalid"),
    }
}

fn go_kind(ty: &Type) -> String {
    match ty {
        Type::Bool => "bool".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Uint(bits) => format!("uint{bits}"),
        Type::Float => "float64".to_owned(),
        _ => "string".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::builtin;

    fn run(spec: Value) -> Result<Value, String> {
        let id = builtin().by_kind("apps", "v1", "Deployment").unwrap();
        let mut object = json!({"spec": spec});
        restore(builtin(), id, &mut object).map_err(|e| e.to_string())?;
        Ok(object["spec"].clone())
    }

    #[test]
    fn mismatches_are_worded_as_the_converter_words_them() {
        for (spec, message) in [
            (json!({"template": {"spec": {"containers": {"name": "r"}}}}), "cannot restore slice from map"),
            (json!({"template": "x"}), "cannot restore struct from: string"),
            (json!({"selector": {"matchLabels": ["x"]}}), "cannot restore map from slice"),
            (json!({"selector": {"matchLabels": {"x": 1}}}), "cannot convert int64 to string"),
            (json!({"replicas": "x"}), "unrecognized type: int32"),
            (json!({"replicas": 1.5}), "cannot convert float64 to int32"),
            (json!({"paused": 1}), "unrecognized type: bool"),
            (json!({"strategy": {"rollingUpdate": {"maxSurge": {}}}}), "json: cannot unmarshal object into Go value of type int32"),
            (json!({"strategy": {"type": 5}}), "cannot convert int64 to v1.DeploymentStrategyType"),
        ] {
            assert_eq!(run(spec.clone()), Err(message.to_owned()), "{spec}");
        }
    }

    #[test]
    fn numbers_take_their_fields_form() {
        assert_eq!(run(json!({"replicas": 2.0, "minReadySeconds": 4_294_967_297_i64})), Ok(json!({"replicas": 2, "minReadySeconds": 1})));
    }
}
