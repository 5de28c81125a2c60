//! Type definitions as OpenAPI writes them: a [`StructType`] of the schema table in the form of version 2 or 3.
//!
//! The two forms differ in where definitions live, in how a reference carries siblings, in unions of types, and in
//! defaults, which only version 3 has.

use apimachinery::schema::{self, Field, ListKind, StructType, Type, Types};
use serde_json::{Map, Value, json};

/// The version of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    V2,
    V3,
}

impl Flavour {
    const fn prefix(self) -> &'static str {
        match self {
            Flavour::V2 => "#/definitions/",
            Flavour::V3 => "#/components/schemas/",
        }
    }

    /// `{"$ref": …}` to a definition.
    pub fn reference(self, definition: &str) -> Value {
        json!({"$ref": format!("{}{definition}", self.prefix())})
    }

    /// The definition that a `$ref` names.
    pub fn referent(self, reference: &str) -> Option<&str> {
        reference.strip_prefix(self.prefix())
    }
}

/// The definition name of `metav1.Patch`, which stands for the body of any patch.
pub const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const DURATION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Duration";
const FIELDS_V1: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";
const SCHEMA_OR_BOOL: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool";
const SCHEMA_OR_ARRAY: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray";
const SCHEMA_OR_STRINGS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray";

/// Types whose kinds are those of every group-version that is served: the document of a group-version lists its own.
const IN_EVERY_GROUP: [(&str, &str); 2] = [
    ("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", "DeleteOptions"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent", "WatchEvent"),
];

/// The group-versions that the documents of custom resources list for those types, besides core/v1: all that clients of v1.37 have types
/// for, served or not.
const KNOWN_TO_CLIENTS: &[(&str, &[&str])] = &[
    ("admissionregistration.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("apps", &["v1", "v1beta1", "v1beta2"]),
    ("authentication.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("authorization.k8s.io", &["v1", "v1beta1"]),
    ("autoscaling", &["v1", "v2"]),
    ("batch", &["v1", "v1beta1"]),
    ("certificates.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("coordination.k8s.io", &["v1", "v1alpha2", "v1beta1"]),
    ("discovery.k8s.io", &["v1", "v1beta1"]),
    ("events.k8s.io", &["v1", "v1beta1"]),
    ("extensions", &["v1beta1"]),
    ("flowcontrol.apiserver.k8s.io", &["v1", "v1beta1", "v1beta2", "v1beta3"]),
    ("internal.apiserver.k8s.io", &["v1alpha1"]),
    ("lifecycle.k8s.io", &["v1alpha1"]),
    ("networking.k8s.io", &["v1", "v1beta1"]),
    ("node.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("policy", &["v1", "v1beta1"]),
    ("rbac.authorization.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("resource.k8s.io", &["v1", "v1alpha3", "v1beta1", "v1beta2"]),
    ("scheduling.k8s.io", &["v1", "v1alpha3", "v1beta1"]),
    ("storage.k8s.io", &["v1", "v1alpha1", "v1beta1"]),
    ("storagemigration.k8s.io", &["v1", "v1beta1"]),
];

/// See [`KNOWN_TO_CLIENTS`].
pub fn known_to_clients() -> Vec<(&'static str, &'static str)> {
    KNOWN_TO_CLIENTS.iter().flat_map(|(group, versions)| versions.iter().map(move |version| (*group, *version))).collect()
}

/// The group-versions that the document of version 2 lists for those types: what clients and the server itself have types for, whatever custom
/// resources there are.
const KNOWN_TO_SERVERS: [(&str, &str); 7] = [
    ("admission.k8s.io", "v1"),
    ("admission.k8s.io", "v1beta1"),
    ("apiextensions.k8s.io", "v1"),
    ("apiextensions.k8s.io", "v1beta1"),
    ("apiregistration.k8s.io", "v1"),
    ("apiregistration.k8s.io", "v1beta1"),
    ("imagepolicy.k8s.io", "v1alpha1"),
];

/// See [`KNOWN_TO_SERVERS`].
pub fn known_to_servers() -> Vec<(&'static str, &'static str)> {
    known_to_clients().into_iter().chain(KNOWN_TO_SERVERS).collect()
}

/// A definition by name; `None` if the built-in types have none. `groups` are the group-versions that the document is
/// about, besides core/v1.
pub fn definition(types: &Types, name: &str, flavour: Flavour, groups: &[(&str, &str)]) -> Option<Value> {
    let mut out = match types.lookup(name) {
        Some(id) => structure(types, types.get(id), flavour, groups),
        None => simple(name, flavour)?,
    };
    describe(&mut out, schema::description(name, None));
    Some(Value::Object(out))
}

/// Definitions that are no structs.
fn simple(name: &str, flavour: Flavour) -> Option<Map<String, Value>> {
    let value = match (name, flavour) {
        (TIME | MICRO_TIME, _) => json!({"type": "string", "format": "date-time"}),
        (DURATION, _) => json!({"type": "string"}),
        (QUANTITY, Flavour::V2) => json!({"type": "string"}),
        (QUANTITY, Flavour::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (INT_OR_STRING, Flavour::V2) => json!({"type": "string", "format": "int-or-string"}),
        (INT_OR_STRING, Flavour::V3) => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        (RAW_EXTENSION | FIELDS_V1 | PATCH, _) => json!({"type": "object"}),
        (JSON | SCHEMA_OR_BOOL | SCHEMA_OR_ARRAY | SCHEMA_OR_STRINGS, _) => json!({}),
        _ => return None,
    };
    match value {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

/// Puts a description first, where readers of the raw document expect it.
fn describe(schema: &mut Map<String, Value>, description: Option<&str>) {
    if let Some(text) = description {
        schema.shift_insert(0, "description".into(), text.into());
    }
}

fn structure(types: &Types, s: &StructType, flavour: Flavour, groups: &[(&str, &str)]) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("type".into(), "object".into());
    let required: Vec<Value> = s.fields.iter().filter(|f| f.required).map(|f| (*f.json).into()).collect();
    if !required.is_empty() {
        out.insert("required".into(), required.into());
    }
    if !s.fields.is_empty() {
        let mut properties: Vec<(String, Value)> = s.fields.iter().map(|f| (f.json.to_string(), property(types, s, f, flavour))).collect();
        properties.sort_by(|a, b| a.0.cmp(&b.0));
        out.insert("properties".into(), Value::Object(properties.into_iter().collect()));
    }
    let kinds = kinds(s, groups);
    if !kinds.is_empty() {
        out.insert("x-kubernetes-group-version-kind".into(), kinds.into());
    }
    if s.atomic {
        out.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if !s.unions.is_empty() {
        out.insert("x-kubernetes-unions".into(), s.unions.iter().map(|(d, members)| union(d, members)).collect());
    }
    out
}

fn kinds(s: &StructType, groups: &[(&str, &str)]) -> Vec<Value> {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "kind": kind, "version": version});
    match IN_EVERY_GROUP.iter().find(|(name, _)| *name == &*s.name) {
        Some((_, name)) => {
            let mut all: Vec<_> = groups.iter().copied().chain([("", "v1")]).collect();
            all.sort_unstable();
            all.dedup();
            all.into_iter().map(|(group, version)| kind(group, version, name)).collect()
        }
        None => s.kinds.iter().map(|(group, version, name)| kind(group, version, name)).collect(),
    }
}

fn union(discriminator: &str, members: &[Box<str>]) -> Value {
    let mut out = Map::new();
    if !discriminator.is_empty() {
        out.insert("discriminator".into(), discriminator.into());
    }
    // The value that selects a member is its Go name, which the generator of the table has checked to be this.
    let capitalized = |m: &str| m.chars().take(1).map(|c| c.to_ascii_uppercase()).chain(m.chars().skip(1)).collect::<String>();
    let members = members.iter().map(|m| (m.to_string(), capitalized(m).into())).collect();
    out.insert("fields-to-discriminateBy".into(), Value::Object(members));
    out.into()
}

fn property(types: &Types, s: &StructType, f: &Field, flavour: Flavour) -> Value {
    let default = if flavour == Flavour::V3 { default(f) } else { None };
    let mut out = value(types, f, &f.ty, flavour);
    let extensions = extensions(f);
    let bare = default.is_none() && extensions.is_empty() && !f.described;
    // In version 3 nothing may stand beside `$ref`.
    let wrapped = (flavour == Flavour::V3 && !bare).then(|| out.remove("$ref")).flatten();
    if let Some(default) = default {
        let at = ["type", "format"].iter().filter(|k| out.contains_key(**k)).count();
        out.shift_insert(at, "default".into(), default);
    }
    if let Some(reference) = wrapped {
        out.insert("allOf".into(), json!([{"$ref": reference}]));
    }
    out.extend(extensions);
    let meanings = schema::meanings(&s.name, &f.json).unwrap_or("");
    let text = schema::description(&s.name, Some(&f.json)).map(|text| format!("{text}{meanings}"));
    describe(&mut out, text.as_deref());
    Value::Object(out)
}

/// The declared default, or the zero value of what Go always writes.
fn default(f: &Field) -> Option<Value> {
    if f.default.is_some() {
        return f.default.clone();
    }
    match &f.ty {
        _ if f.pointer => None,
        Type::Struct(_) => Some(json!({})),
        _ if f.omit_empty => None,
        Type::String => Some("".into()),
        Type::Bool => Some(false.into()),
        Type::Int32 | Type::Int64 | Type::Uint(_) | Type::Float => Some(0.into()),
        _ => None,
    }
}

fn extensions(f: &Field) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    let mut add = |name: &str, value: Value| out.push((format!("x-kubernetes-{name}"), value));
    match &f.ty {
        Type::List(list) if list.declared => match &list.kind {
            ListKind::Atomic => add("list-type", "atomic".into()),
            ListKind::Set => add("list-type", "set".into()),
            ListKind::Map(keys) => {
                add("list-map-keys", keys.iter().map(|k| Value::from(&**k)).collect());
                add("list-type", "map".into());
            }
        },
        Type::Bytes if f.atomic == Some(true) => add("list-type", "atomic".into()),
        Type::Map(map) if map.declared => add("map-type", if map.atomic { "atomic" } else { "granular" }.into()),
        Type::Struct(_) => match f.atomic {
            Some(true) => add("map-type", "atomic".into()),
            Some(false) => add("map-type", "granular".into()),
            None => {}
        },
        _ => {}
    }
    if !f.patch_merge_key.is_empty() {
        add("patch-merge-key", (*f.patch_merge_key).into());
    }
    let strategy = f.patch_strategy;
    let words: Vec<&str> = [(strategy.merge, "merge"), (strategy.replace, "replace"), (strategy.retain_keys, "retainKeys")]
        .into_iter()
        .filter_map(|(on, word)| on.then_some(word))
        .collect();
    if !words.is_empty() {
        add("patch-strategy", words.join(",").into());
    }
    out
}

/// The schema of a value of the field's type or of its items.
fn value(types: &Types, f: &Field, ty: &Type, flavour: Flavour) -> Map<String, Value> {
    let plain = |kind: &str, format: &str| {
        let mut out = Map::new();
        out.insert("type".into(), kind.into());
        if !format.is_empty() {
            out.insert("format".into(), format.into());
        }
        out
    };
    let reference = |definition: &str| match flavour.reference(definition) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    match ty {
        Type::String => {
            let mut out = plain("string", "");
            if !f.enum_values.is_empty() {
                out.insert("enum".into(), f.enum_values.iter().map(|v| Value::from(&**v)).collect());
            }
            out
        }
        Type::Bool => plain("boolean", ""),
        Type::Int32 | Type::Uint(16) => plain("integer", "int32"),
        Type::Uint(8) => plain("integer", "byte"),
        Type::Int64 | Type::Uint(_) => plain("integer", "int64"),
        Type::Float => plain("number", "double"),
        Type::Bytes => plain("string", "byte"),
        Type::Quantity => reference(QUANTITY),
        Type::IntOrString => reference(INT_OR_STRING),
        Type::Time => reference(TIME),
        Type::MicroTime => reference(MICRO_TIME),
        Type::Duration => reference(DURATION),
        Type::FieldsV1 => reference(FIELDS_V1),
        Type::RawExtension => reference(RAW_EXTENSION),
        Type::Json => reference(JSON),
        Type::SchemaOr(schema::SchemaOr::Bool) => reference(SCHEMA_OR_BOOL),
        Type::SchemaOr(schema::SchemaOr::Array) => reference(SCHEMA_OR_ARRAY),
        Type::SchemaOr(schema::SchemaOr::StringArray) => reference(SCHEMA_OR_STRINGS),
        Type::Struct(id) => reference(&types.get(*id).name),
        Type::List(list) => {
            let mut out = plain("array", "");
            out.insert("items".into(), value(types, f, &list.item, flavour).into());
            out
        }
        Type::Map(map) => {
            let mut out = plain("object", "");
            out.insert("additionalProperties".into(), value(types, f, &map.value, flavour).into());
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::schema::builtin;

    fn properties(name: &str, flavour: Flavour) -> Value {
        definition(builtin(), name, flavour, &[]).expect("a definition")["properties"].clone()
    }

    fn undescribed(value: &Value) -> Value {
        let mut value = value.clone();
        value.as_object_mut().map(|m| m.shift_remove("description"));
        value
    }

    #[test]
    fn references_stand_alone_only_where_nothing_else_is_said() {
        let reference = |flavour: Flavour| flavour.reference("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        let v3 = properties("io.k8s.api.core.v1.Pod", Flavour::V3);
        assert_eq!(undescribed(&v3["metadata"]), json!({"default": {}, "allOf": [reference(Flavour::V3)]}));
        assert_eq!(undescribed(&properties("io.k8s.api.core.v1.Pod", Flavour::V2)["metadata"]), reference(Flavour::V2));
        const PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        assert_eq!(properties(PROPS, Flavour::V3)["not"], Flavour::V3.reference(PROPS));
    }

    #[test]
    fn lists_defaults_and_enums_are_published() {
        let container = properties("io.k8s.api.core.v1.Container", Flavour::V3);
        let ports = &container["ports"];
        assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
        assert_eq!((&ports["x-kubernetes-list-type"], &ports["x-kubernetes-patch-strategy"]), (&json!("map"), &json!("merge")));
        assert_eq!(container["name"]["default"], "");
        let protocol = properties("io.k8s.api.core.v1.ContainerPort", Flavour::V3)["protocol"].clone();
        assert_eq!(undescribed(&protocol), json!({"type": "string", "default": "TCP", "enum": ["SCTP", "TCP", "UDP"]}));
    }

    #[test]
    fn types_that_are_no_structs_differ_between_versions() {
        let quantity = |flavour| undescribed(&definition(builtin(), QUANTITY, flavour, &[]).expect("a definition"));
        assert_eq!(quantity(Flavour::V2), json!({"type": "string"}));
        assert_eq!(quantity(Flavour::V3), json!({"oneOf": [{"type": "string"}, {"type": "number"}]}));
        assert_eq!(definition(builtin(), "io.k8s.nosuch", Flavour::V3, &[]), None);
    }
}
