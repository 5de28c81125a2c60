//! Types for tests, as a CustomResourceDefinition's schema would give them.

use crate::schema::{Field, ListKind, ListType, MapType, PatchStrategy, StructType, Type};

pub(super) fn field(json: &str, ty: Type) -> Field {
    Field {
        json: json.into(),
        default: None,
        ty,
        go_type: "".into(),
        pointer: true,
        omit_empty: true,
        omit_zero: false,
        required: false,
        proto: 0,
        proto_embed: None,
        patch_strategy: PatchStrategy::default(),
        patch_merge_key: "".into(),
        enum_values: Vec::new(),
        atomic: None,
        described: true,
    }
}

pub(super) fn object(fields: Vec<(&str, Type)>, preserve_unknown: bool) -> StructType {
    let fields: Vec<Field> = fields.into_iter().map(|(json, ty)| field(json, ty)).collect();
    let by_json = fields.iter().enumerate().map(|(i, f)| (f.json.clone(), i as u16)).collect();
    StructType { fields, by_json, preserve_unknown, ..StructType::default() }
}

pub(super) fn list(item: Type, kind: ListKind) -> Type {
    Type::List(Box::new(ListType { item, kind, item_pointer: false, wrapped_in_proto: false, declared: true }))
}

pub(super) fn map(value: Type, atomic: bool) -> Type {
    Type::Map(Box::new(MapType { value, atomic, declared: true }))
}
