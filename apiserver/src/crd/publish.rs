//! What the OpenAPI documents say of custom resources.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::openapi::Published;
use crate::openapi::resource::{Resource, Subresource};
use crate::openapi::schema::Flavour;
use crate::registry::read::{at, bool_at, list_at, str_at};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const CONVENTIONS: &str = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
/// Keywords of JSON schema that hold schemas by name.
const MAPS: [&str; 1] = ["properties"];
/// Those that hold a list of schemas.
const LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Those that hold one.
const ONES: [&str; 3] = ["items", "additionalProperties", "not"];

/// What a definition, given as its text, publishes of one of its versions. The digest tells definitions apart.
pub fn version(definition: &Bytes, version: &str, digest: [u8; 64]) -> Published {
    let (text, version) = (definition.clone(), version.to_owned());
    Published::new(digest, move || {
        let definition: Value = serde_json::from_slice(&text).expect("storage holds JSON");
        let declared = list_at(&definition, "/spec/versions").iter().find(|v| str_at(v, "/name") == version).cloned().unwrap_or_default();
        let resource = resource(&definition, &declared, str_at(&definition, "/spec/group"), &version);
        let (schema, list_schema) = (resource.schema.clone(), resource.list_schema.clone());
        let own = move |name: &str, flavour| match name {
            name if name == schema => Some(object(&definition, &declared, flavour)),
            name if name == list_schema => Some(list(&definition, &declared, &schema, flavour)),
            _ => None,
        };
        (resource, Box::new(own))
    })
}

/// The name of a definition: the group's labels from the last to the first, then version and kind.
fn name(group: &str, version: &str, kind: &str) -> String {
    let labels: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", labels.join("."))
}

fn resource(definition: &Value, declared: &Value, group: &str, version: &str) -> Resource {
    let names = at(definition, "/status/acceptedNames");
    let (kind, list_kind) = (str_at(names, "/kind"), str_at(names, "/listKind"));
    let schema = name(group, version, kind);
    let set = |verbs: &[&str]| verbs.iter().map(|v| (*v).to_owned()).collect::<BTreeSet<String>>();
    let mut subresources = Vec::new();
    for (sub, sub_group, sub_version, sub_kind, sub_schema) in
        [("status", group, version, kind, schema.as_str()), ("scale", "autoscaling", "v1", "Scale", SCALE)]
    {
        if declared.pointer(&format!("/subresources/{sub}")).is_some_and(|s| !s.is_null()) {
            subresources.push(Subresource {
                name: sub.to_owned(),
                group: sub_group.to_owned(),
                version: sub_version.to_owned(),
                kind: sub_kind.to_owned(),
                verbs: set(&["get", "patch", "update"]),
                schema: sub_schema.to_owned(),
                options: Vec::new(),
            });
        }
    }
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: str_at(names, "/plural").to_owned(),
        kind: kind.to_owned(),
        namespaced: str_at(definition, "/spec/scope") == "Namespaced",
        verbs: set(crate::registry::ALL_VERBS),
        list_schema: name(group, version, list_kind),
        schema,
        subresources,
        returns_deleted_object: false,
        custom: true,
    }
}

/// A reference to a built-in type, with a description.
fn described(flavour: Flavour, definition: &str, description: &str) -> Value {
    match flavour {
        Flavour::V2 => {
            let mut value = flavour.reference(definition);
            value["description"] = description.into();
            value
        }
        Flavour::V3 => json!({"allOf": [flavour.reference(definition)], "description": description}),
    }
}

fn type_meta(properties: &mut Map<String, Value>) {
    let list_meta = |field| apimachinery::schema::description(&format!("{META}.Status"), Some(field)).unwrap_or("");
    for field in ["apiVersion", "kind"] {
        properties.insert(field.to_owned(), json!({"type": "string", "description": list_meta(field)}));
    }
}

fn extensions(out: &mut Value, definition: &Value, declared: &Value, kind: &str) {
    let (group, version) = (str_at(definition, "/spec/group"), str_at(declared, "/name"));
    out["x-kubernetes-group-version-kind"] = json!([{"group": group, "kind": kind, "version": version}]);
    let fields = list_at(declared, "/selectableFields").iter().map(|f| str_at(f, "/jsonPath"));
    let fields: Vec<Value> = fields.map(|path| json!({"fieldPath": path.strip_prefix('.').unwrap_or(path)})).collect();
    if !fields.is_empty() {
        out["x-kubernetes-selectable-fields"] = Value::Array(fields);
    }
}

fn object(definition: &Value, declared: &Value, flavour: Flavour) -> Value {
    let schema = at(declared, "/schema/openAPIV3Schema");
    let keeps_unknown = bool_at(schema, "/x-kubernetes-preserve-unknown-fields") && flavour == Flavour::V2;
    // Any property, even `kind`, would make kubectl refuse all others.
    let mut out = if keeps_unknown || !schema.is_object() { json!({"type": "object"}) } else { published(schema, flavour) };
    if !keeps_unknown
        && schema.is_object()
        && let Some(map) = out.as_object_mut()
    {
        let properties = map.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            type_meta(properties);
            properties.insert("metadata".to_owned(), metadata(flavour));
        }
    }
    extensions(&mut out, definition, declared, str_at(definition, "/status/acceptedNames/kind"));
    out.sort_all_objects();
    out
}

fn metadata(flavour: Flavour) -> Value {
    let description = format!("Standard object's metadata. More info: {CONVENTIONS}#metadata");
    described(flavour, &format!("{META}.ObjectMeta"), &description)
}

fn list(definition: &Value, declared: &Value, item: &str, flavour: Flavour) -> Value {
    let names = at(definition, "/status/acceptedNames");
    let (kind, list_kind, plural) = (str_at(names, "/kind"), str_at(names, "/listKind"), str_at(names, "/plural"));
    let mut properties = Map::new();
    type_meta(&mut properties);
    let items = json!({
        "type": "array",
        "items": flavour.reference(item),
        "description": format!("List of {plural}. More info: {CONVENTIONS}"),
    });
    properties.insert("items".to_owned(), items);
    let description = format!("Standard list metadata. More info: {CONVENTIONS}#types-kinds");
    properties.insert("metadata".to_owned(), described(flavour, &format!("{META}.ListMeta"), &description));
    let mut out = json!({"type": "object", "description": format!("{list_kind} is a list of {kind}"), "required": ["items"], "properties": properties});
    extensions(&mut out, definition, declared, list_kind);
    out.sort_all_objects();
    out
}

/// A schema as it is published. Version 2 of OpenAPI has neither nullable values nor alternatives, and says nothing below
/// of what keeps unknown fields; its validators would refuse what the server takes.
fn published(schema: &Value, flavour: Flavour) -> Value {
    let Some(map) = schema.as_object() else { return schema.clone() };
    let mut out = Map::new();
    let v2 = flavour == Flavour::V2;
    let [nullable, keeps_unknown] = ["/nullable", "/x-kubernetes-preserve-unknown-fields"].map(|flag| bool_at(schema, flag));
    let stop = v2 && (keeps_unknown || nullable);
    for (key, value) in map {
        let key_text = key.as_str();
        if v2 && (LISTS.contains(&key_text) || matches!(key_text, "not" | "nullable" | "default")) {
            continue;
        }
        if stop && matches!(key_text, "properties" | "items") {
            continue;
        }
        let value = match value {
            Value::Object(named) if MAPS.contains(&key_text) => {
                Value::Object(named.iter().map(|(name, schema)| (name.clone(), published(schema, flavour))).collect())
            }
            Value::Array(all) if LISTS.contains(&key_text) => Value::Array(all.iter().map(|schema| published(schema, flavour)).collect()),
            Value::Object(_) if ONES.contains(&key_text) => published(value, flavour),
            other => other.clone(),
        };
        out.insert(key.clone(), value);
    }
    if v2 {
        of_version_2(schema, nullable, keeps_unknown, &mut out);
    } else if bool_at(schema, "/x-kubernetes-int-or-string") {
        unfold(&mut out);
    }
    if bool_at(schema, "/x-kubernetes-embedded-resource") && !(v2 && keeps_unknown) {
        embed(flavour, &mut out);
    }
    Value::Object(out)
}

/// What validators of version 2 cannot cope with goes.
fn of_version_2(schema: &Value, nullable: bool, keeps_unknown: bool, out: &mut Map<String, Value>) {
    let kind = str_at(schema, "/type");
    let untyped = nullable || keeps_unknown && kind == "object" || kind == "array" && !out.contains_key("items");
    if untyped {
        out.shift_remove("type");
    }
    let is_nullable = |schema: Option<&Value>| schema.is_some_and(|schema| bool_at(schema, "/nullable"));
    if is_nullable(schema.get("additionalProperties")) {
        out.shift_remove("required");
    }
    // What is not published any more is as good as not nullable.
    let properties = schema.get("properties").filter(|_| out.contains_key("properties"));
    if let Some(required) = out.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !is_nullable(properties.and_then(|p| p.get(name.as_str()?))));
        if required.is_empty() {
            out.shift_remove("required");
        }
    }
}

/// Says in plain OpenAPI what is an integer or a string, unless the schema says so itself.
fn unfold(out: &mut Map<String, Value>) {
    let both = || json!([{"type": "integer"}, {"type": "string"}]);
    let says_both = |any: Option<&Value>| {
        let kinds: Vec<&str> = any.and_then(Value::as_array).into_iter().flatten().map(|s| str_at(s, "/type")).collect();
        kinds == ["integer", "string"]
    };
    let first = out.get("allOf").and_then(|all| all.get(0));
    if says_both(out.get("anyOf")) || says_both(first.and_then(|first| first.get("anyOf"))) {
        return;
    }
    if !out.contains_key("anyOf") {
        out.insert("anyOf".to_owned(), both());
        return;
    }
    let all = out.entry("allOf").or_insert_with(|| json!([]));
    if let Some(all) = all.as_array_mut() {
        all.insert(0, json!({ "anyOf": both() }));
    }
}

/// An object within an object has its own kind and metadata.
fn embed(flavour: Flavour, out: &mut Map<String, Value>) {
    if let Some(properties) = out.entry("properties").or_insert_with(|| json!({})).as_object_mut() {
        for (field, description) in [
            (
                "apiVersion",
                format!("apiVersion defines the versioned schema of this representation of an object. More info: {CONVENTIONS}#resources"),
            ),
            (
                "kind",
                format!("kind is a string value representing the type of this object. In CamelCase. More info: {CONVENTIONS}#types-kinds"),
            ),
        ] {
            properties.insert(field.to_owned(), json!({"type": "string", "description": description}));
        }
        properties.insert("metadata".to_owned(), metadata(flavour));
    }
    if let Some(required) = out.entry("required").or_insert_with(|| json!([])).as_array_mut() {
        for field in ["kind", "apiVersion"] {
            if !required.iter().any(|name| name == field) {
                required.push(field.into());
            }
        }
    }
}
