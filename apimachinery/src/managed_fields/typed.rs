//! Types as field ownership sees them: every type is a scalar, a list or a map, and owned whole or by parts.
//!
//! The one place that reads [`crate::schema`] for ownership. Walks ([`super::compare`], [`super::merge`], …) see only [`Atom`]s.

use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::path::PathElement;
use crate::schema::{Field, ListKind, ListType, StructType, Type, TypeId, Types};

/// What kind of object a request is about.
#[derive(Clone, Copy, Debug)]
pub enum Root {
    /// A built-in kind: an object that does not exist yet is the kind's zero value.
    Builtin(TypeId),
    /// A custom kind with a schema: an object that does not exist yet has no fields.
    Custom(TypeId),
    /// A custom kind without a schema: maps are owned by key, lists whole.
    Deduced,
}

/// The type of a value at some place of an object.
#[derive(Clone, Copy, Debug)]
pub(super) enum TypeRef<'a> {
    Schema {
        ty: &'a Type,
        /// A parent keeps unknown fields, which its descendants inherit.
        preserve: bool,
        /// The field overrides whether its type is owned whole.
        atomic: Option<bool>,
    },
    Struct {
        id: TypeId,
        preserve: bool,
    },
    /// Unknown: maps are owned by key, lists whole.
    Deduced,
    /// Unknown, and owned whole.
    Whole,
}

/// What scalar a type admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    String,
    Numeric,
    Boolean,
    Any,
}

/// How a list's items are told apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Items<'a> {
    Atomic,
    Set,
    Keyed(&'a [Box<str>]),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ListAtom<'a> {
    pub(super) element: TypeRef<'a>,
    pub(super) items: Items<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct MapAtom<'a> {
    fields: Option<&'a StructType>,
    /// The type of keys that are no field.
    element: Option<TypeRef<'a>>,
    preserve: bool,
    pub(super) atomic: bool,
    /// A map of unknown content only.
    pub(super) deduced: bool,
}

impl<'a> MapAtom<'a> {
    /// The type of a key's value; `None` for a key that the schema does not have.
    pub(super) fn value_type(&self, key: &str) -> Option<TypeRef<'a>> {
        match self.named(key) {
            Some(field) => Some(TypeRef::Schema { ty: &field.ty, preserve: self.preserve, atomic: field.atomic }),
            None => self.element,
        }
    }

    /// The named field, if the key is one.
    pub(super) fn named(&self, key: &str) -> Option<&'a Field> {
        self.fields?.field(key)
    }
}

/// The forms that a type admits: exactly one for declared types, all three for unknown ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Atom<'a> {
    pub(super) scalar: Option<Scalar>,
    pub(super) list: Option<ListAtom<'a>>,
    pub(super) map: Option<MapAtom<'a>>,
}

/// The form in which a value is handled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form<'a> {
    Map(MapAtom<'a>),
    Scalar(Scalar),
    List(ListAtom<'a>),
}

impl<'a> Atom<'a> {
    fn scalar(scalar: Scalar) -> Atom<'a> {
        Atom { scalar: Some(scalar), list: None, map: None }
    }

    fn unknown(element: TypeRef<'a>, whole: bool) -> Atom<'a> {
        let map = MapAtom { fields: None, element: Some(element), preserve: true, atomic: whole, deduced: !whole };
        Atom { scalar: Some(Scalar::Any), list: Some(ListAtom { element: TypeRef::Whole, items: Items::Atomic }), map: Some(map) }
    }

    /// The atom without the forms that the value rules out; null and absence rule out nothing.
    pub(super) fn narrowed(self, value: Option<&Value>) -> Atom<'a> {
        match value {
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) if self.scalar.is_some() => Atom { list: None, map: None, ..self },
            Some(Value::Array(_)) if self.list.is_some() => Atom { scalar: None, map: None, ..self },
            Some(Value::Object(_)) if self.map.is_some() => Atom { scalar: None, list: None, ..self },
            _ => self,
        }
    }

    /// A map before a scalar before a list.
    pub(super) fn form(&self) -> Form<'a> {
        match (self.map, self.scalar, self.list) {
            (Some(map), _, _) => Form::Map(map),
            (_, Some(scalar), _) => Form::Scalar(scalar),
            (_, _, Some(list)) => Form::List(list),
            // Every constructor sets a form, and narrowing keeps one.
            (None, None, None) => Form::Scalar(Scalar::Any),
        }
    }

    /// Whether two narrowings of one atom came out alike.
    pub(super) fn same_forms(&self, other: &Atom<'_>) -> bool {
        self.scalar.is_some() == other.scalar.is_some()
            && self.list.is_some() == other.list.is_some()
            && self.map.is_some() == other.map.is_some()
    }
}

/// The types that a walk resolves against.
#[derive(Clone, Copy)]
pub(super) struct Schema<'a> {
    types: &'a Types,
}

impl<'a> Schema<'a> {
    pub(super) fn new(types: &'a Types) -> Schema<'a> {
        Schema { types }
    }

    pub(super) fn root(self, root: Root) -> TypeRef<'a> {
        match root {
            Root::Builtin(id) | Root::Custom(id) => TypeRef::Struct { id, preserve: false },
            Root::Deduced => TypeRef::Deduced,
        }
    }

    pub(super) fn resolve(self, ty: TypeRef<'a>) -> Atom<'a> {
        let (ty, preserve, atomic) = match ty {
            TypeRef::Schema { ty, preserve, atomic } => (ty, preserve, atomic),
            TypeRef::Struct { id, preserve } => return self.struct_atom(id, preserve),
            TypeRef::Deduced => return Atom::unknown(TypeRef::Deduced, false),
            TypeRef::Whole => return Atom::unknown(TypeRef::Whole, true),
        };
        match ty {
            Type::String | Type::Bytes | Type::Duration => Atom::scalar(Scalar::String),
            Type::Bool => Atom::scalar(Scalar::Boolean),
            Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float => Atom::scalar(Scalar::Numeric),
            Type::Quantity | Type::Time | Type::MicroTime => Atom::scalar(Scalar::Any),
            // Its schema is one of two, and so of no type: upstream takes it for anything, and its decoder says what it is not.
            Type::IntOrString => Atom::unknown(TypeRef::Deduced, false),
            Type::RawExtension => Atom::unknown(TypeRef::Whole, true),
            Type::Json | Type::SchemaOr(_) => Atom::unknown(TypeRef::Deduced, false),
            Type::FieldsV1 => Atom { scalar: None, list: None, ..Atom::unknown(TypeRef::Deduced, false) },
            Type::Struct(id) => {
                let atom = self.struct_atom(*id, preserve);
                Atom { map: atom.map.map(|map| MapAtom { atomic: atomic.unwrap_or(map.atomic), ..map }), ..atom }
            }
            Type::List(list) => {
                let element = TypeRef::Schema { ty: &list.item, preserve, atomic: None };
                Atom { scalar: None, list: Some(ListAtom { element, items: items(list) }), map: None }
            }
            Type::Map(map) => {
                let element = Some(TypeRef::Schema { ty: &map.value, preserve, atomic: None });
                let map = MapAtom { fields: None, element, preserve, atomic: atomic.unwrap_or(map.atomic), deduced: false };
                Atom { scalar: None, list: None, map: Some(map) }
            }
        }
    }

    fn struct_atom(self, id: TypeId, preserve: bool) -> Atom<'a> {
        let ty = self.types.get(id);
        let preserve = preserve || ty.preserve_unknown;
        // An object type without properties is free-form.
        let element = (preserve || ty.fields.is_empty()).then_some(TypeRef::Deduced);
        let map = MapAtom { fields: Some(ty), element, preserve, atomic: ty.atomic, deduced: ty.fields.is_empty() };
        Atom { scalar: None, list: None, map: Some(map) }
    }

    /// The step to an item of an associative list.
    pub(super) fn item_element(self, list: &ListAtom<'a>, item: &Value) -> Result<PathElement, String> {
        match list.items {
            Items::Atomic => Err("invalid indexing of non-associative list".to_owned()),
            Items::Keyed(keys) => self.keyed_element(keys, list.element, item),
            Items::Set => match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(PathElement::Value(scalar.clone())),
            },
        }
    }

    fn keyed_element(self, keys: &[Box<str>], element: TypeRef<'a>, item: &Value) -> Result<PathElement, String> {
        let map = match item {
            Value::Object(map) => map,
            Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        };
        let mut fields: Vec<(SmolStr, Value)> = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(value) = map.get(&**key) {
                fields.push((SmolStr::new(key), value.clone()));
                continue;
            }
            let Some(item_map) = self.resolve(element).map else {
                return Err(format!("couldn't find default value for {key}: associative list may not have non-map types"));
            };
            // A key without a value and without a default is left out: then its absence tells items apart.
            if let Some(default) = item_map.named(key).and_then(key_default) {
                fields.push((SmolStr::new(key), default));
            }
        }
        if fields.is_empty() && !keys.is_empty() {
            let names: Vec<String> = keys.iter().map(|key| crate::field::quote(key)).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                names.join(" ")
            ));
        }
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(PathElement::Key(fields.into()))
    }

    /// What a created object is compared with: the fields that its kind always has.
    pub(super) fn zero_object(self, root: Root) -> Value {
        match root {
            Root::Builtin(id) => self.zero_struct(id),
            Root::Custom(_) | Root::Deduced => Value::Object(Map::new()),
        }
    }

    fn zero_struct(self, id: TypeId) -> Value {
        let fields = &self.types.get(id).fields;
        Value::Object(fields.iter().filter_map(|field| Some((field.json.to_string(), self.zero_field(field)?))).collect())
    }

    /// The value of an unset field, if it is written at all.
    fn zero_field(self, field: &Field) -> Option<Value> {
        if field.pointer {
            return (!field.omit_empty && !field.omit_zero).then_some(Value::Null);
        }
        if field.omit_zero {
            return None;
        }
        // Only these are structs in Go, which `omitempty` never omits.
        match field.ty {
            Type::Struct(id) => return Some(self.zero_struct(id)),
            Type::Time | Type::MicroTime | Type::RawExtension | Type::FieldsV1 | Type::Json | Type::SchemaOr(_) => {
                return Some(Value::Null);
            }
            Type::Quantity => return Some(Value::from("0")),
            Type::IntOrString => return Some(Value::from(0)),
            Type::Duration => return Some(Value::from("0s")),
            _ => {}
        }
        if field.omit_empty { None } else { Some(scalar_zero(&field.ty).unwrap_or(Value::Null)) }
    }
}

/// The value that an absent list key stands for: its declared default, or the zero of a field that is always present.
fn key_default(field: &Field) -> Option<Value> {
    match &field.default {
        Some(default) => Some(default.clone()),
        None if field.pointer || field.omit_empty || field.omit_zero => None,
        None => scalar_zero(&field.ty),
    }
}

fn scalar_zero(ty: &Type) -> Option<Value> {
    match ty {
        Type::String => Some(Value::from("")),
        Type::Bool => Some(Value::from(false)),
        Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float => Some(Value::from(0)),
        _ => None,
    }
}

fn items(list: &ListType) -> Items<'_> {
    match &list.kind {
        ListKind::Atomic => Items::Atomic,
        ListKind::Set => Items::Set,
        ListKind::Map(keys) => Items::Keyed(keys),
    }
}
