//! What a type is: the one description that decoding, defaulting, canonical form, protobuf, patches,
//! field ownership and OpenAPI all read.
//!
//! Built-in types come from the data file of the Kubernetes minor version ([`builtin`]); custom types
//! are built from a CustomResourceDefinition's schema. Nothing here knows a particular kind.

pub mod canonical;
pub mod decode;
pub mod defaults;
mod descriptions;
pub mod embedded;
mod table;

use std::collections::HashMap;

use serde_json::Value;

pub use descriptions::{description, meanings};
pub use table::builtin;

/// A struct type's place in its [`Types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(pub u32);

/// A closed set of types: every [`TypeId`] in it refers into it.
#[derive(Debug, Default)]
pub struct Types {
    structs: Vec<StructType>,
    by_name: HashMap<Box<str>, TypeId>,
    /// `group/version/Kind`.
    by_kind: HashMap<String, TypeId>,
}

impl Types {
    /// Takes types that refer to each other by their position.
    pub fn new(structs: Vec<StructType>) -> Types {
        let by_name = structs.iter().enumerate().map(|(i, s)| (s.name.clone(), TypeId(i as u32))).collect();
        let mut by_kind = HashMap::new();
        for (i, s) in structs.iter().enumerate() {
            for (group, version, kind) in &s.kinds {
                by_kind.insert(format!("{group}/{version}/{kind}"), TypeId(i as u32));
            }
        }
        Types { structs, by_name, by_kind }
    }

    /// By definition name, such as `io.k8s.api.core.v1.Pod`.
    pub fn lookup(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// The top-level type of a kind. Kinds that exist in every group-version (`DeleteOptions`, `WatchEvent`, the other
    /// options) have none: find those by definition name.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        self.by_kind.get(&format!("{group}/{version}/{kind}")).copied()
    }

    pub fn get(&self, id: TypeId) -> &StructType {
        &self.structs[id.0 as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &StructType)> {
        self.structs.iter().enumerate().map(|(i, s)| (TypeId(i as u32), s))
    }
}

/// Fields by name. Every pass over an object asks it for every field, so its hash is a quick one; whoever writes definitions chooses
/// the names in it, and those alone can collide.
pub type FieldIndex = HashMap<Box<str>, u16, foldhash::fast::RandomState>;

/// An object type with named fields.
#[derive(Clone, Debug, Default)]
pub struct StructType {
    /// The OpenAPI definition name, such as `io.k8s.api.core.v1.PodSpec`.
    pub name: Box<str>,
    /// The Go type's name as decoding errors print it, such as `PodSpec`.
    pub go_name: Box<str>,
    /// In declaration order; embedded (JSON-inlined) structs are flattened in place.
    pub fields: Vec<Field>,
    /// Position in `fields` by JSON name.
    pub by_json: FieldIndex,
    /// `x-kubernetes-map-type: atomic`: the whole struct is owned and replaced as one.
    pub atomic: bool,
    /// Unknown fields are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// The group, version and kind(s) that this type is the top level of.
    pub kinds: Vec<(Box<str>, Box<str>, Box<str>)>,
    /// Union membership: (discriminator field or "", member fields), from `x-kubernetes-unions`.
    pub unions: Vec<(Box<str>, Vec<Box<str>>)>,
    /// The nested protobuf messages whose fields JSON shows inline.
    pub proto_embeds: Vec<ProtoEmbed>,
}

/// An embedded Go struct which JSON inlines but protobuf nests: `Volume` embeds `VolumeSource` as message field 2.
#[derive(Debug, Clone)]
pub struct ProtoEmbed {
    /// The field number of the nested message.
    pub number: u32,
    /// The Go type embedded.
    pub name: Box<str>,
    /// The embed that this one is nested in (`NamedRuleWithOperations` embeds `RuleWithOperations`, which embeds `Rule`);
    /// `None` for the message itself.
    pub parent: Option<u16>,
}

impl StructType {
    pub fn field(&self, json: &str) -> Option<&Field> {
        self.by_json.get(json).map(|i| &self.fields[*i as usize])
    }
}

/// A field of a struct type.
#[derive(Clone, Debug)]
pub struct Field {
    pub json: Box<str>,
    pub ty: Type,
    /// The Go type as decoding errors print it: `string`, `int32`, `v1.PodSpec`, `[]v1.Container`, `map[string]string`.
    pub go_type: Box<str>,
    /// The Go struct field is a pointer (or of a nilable type that behaves like one): an explicit zero value is kept.
    pub pointer: bool,
    /// `omitempty`: a zero scalar, empty string, list or map is not written. Structs that are not pointers are always written.
    pub omit_empty: bool,
    /// `omitzero`: a zero struct is not written.
    pub omit_zero: bool,
    /// In OpenAPI's `required`.
    pub required: bool,
    /// OpenAPI gives a description (a reference with a description is written as `allOf`).
    pub described: bool,
    /// `+default=`: the value set when the field is absent.
    pub default: Option<Value>,
    /// Protobuf field number; 0 where protobuf does not carry it (`kind`, `apiVersion`).
    pub proto: u32,
    /// Which of the struct's `proto_embeds` the number belongs to; `None` for the message itself.
    pub proto_embed: Option<u16>,
    /// `patchStrategy` tag: merge, replace, retainKeys (several possible).
    pub patch_strategy: PatchStrategy,
    /// `patchMergeKey` tag; empty if none.
    pub patch_merge_key: Box<str>,
    /// Overrides [`StructType::atomic`] for this field's value (`x-kubernetes-map-type` on a reference); on
    /// [`Type::Bytes`] it is `x-kubernetes-list-type: atomic`, which OpenAPI publishes without effect.
    pub atomic: Option<bool>,
    /// `+enum` values of the field's type, or of its items' type, sorted; empty if open.
    pub enum_values: Vec<Box<str>>,
}

/// The `patchStrategy` of a strategic merge patch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
}

/// The type of a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    String,
    Bool,
    Int32,
    Int64,
    /// `uint8`, `uint16`, `uint32`, `uint64`; rare in the API.
    Uint(u8),
    Float,
    /// `[]byte`: base64 in JSON.
    Bytes,
    Quantity,
    IntOrString,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Go duration string such as `1m30s`.
    Duration,
    /// `metadata.managedFields[].fieldsV1`.
    FieldsV1,
    /// An embedded object of any kind (`runtime.RawExtension`).
    RawExtension,
    /// Any JSON value (`apiextensions.k8s.io` `JSON`); protobuf carries its text in `raw = 1`.
    Json,
    /// `JSONSchemaPropsOrBool`, `…OrArray`, `…OrStringArray`: protobuf wraps the alternatives; the table's struct carries the names.
    SchemaOr(SchemaOr),
    Struct(TypeId),
    List(Box<ListType>),
    Map(Box<MapType>),
}

/// The unions of CustomResourceDefinition's JSON schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaOr {
    /// `{allows: bool = 1, schema: JSONSchemaProps = 2}`
    Bool,
    /// `{schema: JSONSchemaProps = 1, jSONSchemas: repeated = 2}`
    Array,
    /// `{schema: JSONSchemaProps = 1, property: repeated string = 2}`
    StringArray,
}

/// How a list's items are owned and merged (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    Set,
    /// The items' key fields, in their declared order.
    Map(Vec<Box<str>>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListType {
    pub item: Type,
    pub kind: ListKind,
    /// `kind` is published as `x-kubernetes-list-type`; lists that say nothing are atomic too.
    pub declared: bool,
    /// Items are pointers in Go (a `null` item stays `null`).
    pub item_pointer: bool,
    /// A named Go slice type that protobuf wraps in a message `{repeated items = 1}`.
    pub wrapped_in_proto: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MapType {
    /// Keys are always strings.
    pub value: Type,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic: bool,
    /// The map type is published as `x-kubernetes-map-type`; maps that say nothing are granular too.
    pub declared: bool,
}

/// The Go type of a list's items or a map's values, given [`Field::go_type`] of the list or map, as decoding errors
/// print it (without the pointer).
pub fn element_go_type(go_type: &str) -> &str {
    let element = match go_type.strip_prefix("[]") {
        Some(rest) => rest,
        None => match go_type.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
            Some((_, value)) => value,
            None => match go_type {
                "v1.ResourceList" => "resource.Quantity",
                "v1.ValidationRules" => "v1.ValidationRule",
                "v1.JSONSchemaDefinitions" => "v1.JSONSchemaProps",
                "v1.JSONSchemaDependencies" => "v1.JSONSchemaPropsOrStringArray",
                // The other named slices are `v1.Verbs` and the `v1.ExtraValue`s.
                _ => "string",
            },
        },
    };
    element.strip_prefix('*').unwrap_or(element)
}
