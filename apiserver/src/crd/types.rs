//! A schema as types, which is how field ownership reads it.

use std::collections::HashMap;

use apimachinery::schema::{Field, ListKind, ListType as List, MapType, PatchStrategy, StructType, Type, TypeId, Types, builtin};

use super::schema::{Additional, ListType, Schema};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The root among the types of a custom kind.
pub const ROOT: TypeId = TypeId(0);

/// The types of a custom kind.
pub fn types(schema: &Schema) -> Types {
    let mut builder = Builder::default();
    let root = builder.reserve();
    let metadata = builtin().lookup(OBJECT_META).map(|id| builder.copy(id));
    builder.fill(root, schema, true, metadata);
    Types::new(builder.structs)
}

#[derive(Default)]
struct Builder {
    structs: Vec<StructType>,
    copied: HashMap<TypeId, TypeId>,
}

impl Builder {
    fn reserve(&mut self) -> TypeId {
        self.structs.push(StructType::default());
        TypeId(u32::try_from(self.structs.len() - 1).unwrap_or(u32::MAX))
    }

    fn put(&mut self, id: TypeId, ty: StructType) {
        self.structs[id.0 as usize] = ty;
    }

    /// A built-in type and what it refers to.
    fn copy(&mut self, id: TypeId) -> TypeId {
        if let Some(known) = self.copied.get(&id) {
            return *known;
        }
        let new = self.reserve();
        self.copied.insert(id, new);
        let mut ty = builtin().get(id).clone();
        ty.kinds.clear();
        for field in &mut ty.fields {
            field.ty = self.copy_type(&field.ty);
        }
        self.put(new, ty);
        new
    }

    fn copy_type(&mut self, ty: &Type) -> Type {
        match ty {
            Type::Struct(id) => Type::Struct(self.copy(*id)),
            Type::List(list) => Type::List(Box::new(List { item: self.copy_type(&list.item), ..(**list).clone() })),
            Type::Map(map) => Type::Map(Box::new(MapType { value: self.copy_type(&map.value), ..(**map).clone() })),
            other => other.clone(),
        }
    }

    fn structure(&mut self, schema: &Schema, embedded: bool, metadata: Option<TypeId>) -> TypeId {
        let id = self.reserve();
        self.fill(id, schema, embedded, metadata);
        id
    }

    fn fill(&mut self, id: TypeId, schema: &Schema, embedded: bool, metadata: Option<TypeId>) {
        let mut fields = Vec::new();
        if embedded {
            fields.push(field("apiVersion", Type::String, None));
            fields.push(field("kind", Type::String, None));
            fields.extend(metadata.map(|id| field("metadata", Type::Struct(id), None)));
        }
        for (name, property) in &schema.properties {
            if embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            let ty = self.value(property, metadata);
            fields.push(field(name, ty, property.default.clone()));
        }
        let by_json = fields.iter().enumerate().filter_map(|(i, f)| Some((f.json.clone(), u16::try_from(i).ok()?))).collect();
        let preserve_unknown = schema.preserve_unknown;
        self.put(id, StructType { fields, by_json, atomic: schema.atomic_map, preserve_unknown, ..StructType::default() });
    }

    fn value(&mut self, schema: &Schema, metadata: Option<TypeId>) -> Type {
        if schema.int_or_string {
            return Type::IntOrString;
        }
        match schema.types.first().map_or("", String::as_str) {
            "string" => Type::String,
            "integer" => Type::Int64,
            "number" => Type::Float,
            "boolean" => Type::Bool,
            "array" => {
                let item = schema.items.as_deref().map_or(Type::Json, |items| self.value(items, metadata));
                let kind = match &schema.list_type {
                    ListType::Atomic => ListKind::Atomic,
                    ListType::Set => ListKind::Set,
                    ListType::Map(keys) => ListKind::Map(keys.iter().map(|k| k.as_str().into()).collect()),
                };
                Type::List(Box::new(List { item, kind, declared: true, item_pointer: true, wrapped_in_proto: false }))
            }
            "object" => match &schema.additional {
                Additional::Schema(values) if schema.properties.is_empty() => {
                    let value = self.value(values, metadata);
                    Type::Map(Box::new(MapType { value, atomic: schema.atomic_map, declared: true }))
                }
                _ => Type::Struct(self.structure(schema, schema.embedded, metadata)),
            },
            _ => Type::Json,
        }
    }
}

fn field(name: &str, ty: Type, default: Option<serde_json::Value>) -> Field {
    Field {
        json: name.into(),
        ty,
        go_type: "".into(),
        pointer: true,
        omit_empty: true,
        omit_zero: false,
        required: false,
        described: false,
        default,
        proto: 0,
        proto_embed: None,
        patch_strategy: PatchStrategy::default(),
        patch_merge_key: "".into(),
        atomic: None,
        enum_values: Vec::new(),
    }
}
