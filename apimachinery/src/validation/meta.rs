//! `metadata`: the rules that hold for every object, at creation and at update.
//!
//! Works on values that the schema pass has accepted; a field of another shape counts as absent.

use serde_json::{Map, Value, json};

use crate::field::{Error, ErrorList, Path};

use super::labels::{annotation_errors, label};
use super::options::validate_managed_fields;
use super::{FIELD_IMMUTABLE, is_qualified_name, name_is_dns_label, validate_nonnegative_field};

/// Which finalizers a kind allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalizerRule {
    /// Qualified names: custom resources, CustomResourceDefinitions, APIServices, admission configurations.
    Qualified,
    /// Names with a prefix, and the few standard ones without: all other built-in kinds.
    Standard,
}

/// How a kind's metadata is checked.
#[derive(Clone, Copy)]
pub struct MetaRules {
    pub namespaced: bool,
    /// Messages for a `metadata.name`, or for a prefix of one.
    pub name: fn(name: &str, prefix: bool) -> Vec<String>,
    pub finalizers: FinalizerRule,
}

/// The finalizers that need no prefix.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// All field errors of the metadata of an object to be created, whose name has been generated if it was to be.
pub fn validate_object_meta(metadata: &Value, rules: &MetaRules, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let generate_name = text(metadata, "generateName");
    if !generate_name.is_empty() {
        let place = path.child("generateName");
        errors.extend((rules.name)(generate_name, true).into_iter().map(|m| Error::invalid(&place, generate_name, m)));
    }
    let name = text(metadata, "name");
    let place = path.child("name");
    if name.is_empty() {
        errors.push(Error::required(&place, "name or generateName is required"));
    } else {
        errors.extend((rules.name)(name, false).into_iter().map(|m| Error::invalid(&place, name, m)));
    }
    namespace(metadata, rules.namespaced, path, &mut errors);
    errors.extend(validate_nonnegative_field(integer(metadata, "generation"), &path.child("generation")));
    labels_annotations_owners(metadata, path, &mut errors);
    finalizers(metadata, path, &mut errors);
    errors.extend(validate_managed_fields(metadata.get("managedFields"), &path.child("managedFields")));
    standard_finalizers(metadata, rules.finalizers, path, &mut errors);
    errors
}

/// All field errors of the metadata of an object that replaces `old`.
pub fn validate_object_meta_update(new: &Value, old: &Value, rule: FinalizerRule, path: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    if !absent(old, "deletionTimestamp") {
        no_new_finalizers(new, old, path, &mut errors);
    }
    if text(new, "resourceVersion").is_empty() {
        errors.push(Error::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    let generation = integer(new, "generation");
    let place = path.child("generation");
    errors.extend(validate_nonnegative_field(generation, &place));
    if generation < integer(old, "generation") {
        errors.push(Error::invalid(&place, generation, "must not be decremented"));
    }
    for field in ["name", "namespace", "uid"] {
        if text(new, field) != text(old, field) {
            errors.push(Error::invalid(&path.child(field), text(new, field), FIELD_IMMUTABLE));
        }
    }
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (now, before) = (new.get(field).unwrap_or(&Value::Null), old.get(field).unwrap_or(&Value::Null));
        if now != before {
            errors.push(Error::invalid(&path.child(field), now.clone(), FIELD_IMMUTABLE));
        }
    }
    labels_annotations_owners(new, path, &mut errors);
    errors.extend(validate_managed_fields(new.get("managedFields"), &path.child("managedFields")));
    standard_finalizers(new, rule, path, &mut errors);
    errors
}

/// One finalizer's name.
pub fn validate_finalizer_name(name: &str, path: &Path<'_>) -> ErrorList {
    is_qualified_name(name).into_iter().map(|m| Error::invalid(path, name, m)).collect()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn integer(object: &Value, field: &str) -> i64 {
    object.get(field).and_then(Value::as_i64).unwrap_or_default()
}

fn absent(object: &Value, field: &str) -> bool {
    object.get(field).is_none_or(Value::is_null)
}

fn items<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn strings<'a>(object: &'a Value, field: &str) -> Vec<&'a str> {
    items(object, field).iter().map(|v| v.as_str().unwrap_or_default()).collect()
}

fn pairs<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let map = object.get(field).and_then(Value::as_object);
    map.into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()))
}

fn namespace(metadata: &Value, namespaced: bool, path: &Path<'_>, errors: &mut ErrorList) {
    let namespace = text(metadata, "namespace");
    let place = path.child("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(Error::required(&place, "")),
        (true, false) => errors.extend(name_is_dns_label(namespace, false).into_iter().map(|m| Error::invalid(&place, namespace, m))),
        (false, true) => {}
        (false, false) => errors.push(Error::forbidden(&place, "not allowed on this type")),
    }
}

fn labels_annotations_owners(metadata: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let place = path.child("labels");
    for (key, value) in pairs(metadata, "labels") {
        label(key, value, &place, errors);
    }
    errors.extend(annotation_errors(pairs(metadata, "annotations"), &path.child("annotations")));
    owner_references(items(metadata, "ownerReferences"), &path.child("ownerReferences"), errors);
}

fn owner_references(owners: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    let mut controller: Option<String> = None;
    for (i, owner) in owners.iter().enumerate() {
        owner_reference(owner, &path.index(i), errors);
        if owner.get("controller") != Some(&Value::Bool(true)) {
            continue;
        }
        let current = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
        match &controller {
            None => controller = Some(current),
            Some(first) => {
                let detail =
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {current}");
                errors.push(Error::invalid(path, owners.iter().map(shown_owner).collect::<Vec<_>>(), detail));
            }
        }
    }
}

fn owner_reference(owner: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let api_version = text(owner, "apiVersion");
    let place = path.child("apiVersion");
    let group_version = match api_version.split('/').collect::<Vec<_>>().as_slice() {
        [version] => Some(("", *version)),
        [group, version] => Some((*group, *version)),
        _ => None,
    };
    if api_version.is_empty() {
        errors.push(Error::required(&place, "must not be empty"));
    } else if group_version.is_none_or(|(_, version)| version.is_empty()) {
        errors.push(Error::invalid(&place, api_version, "must be <group>/<version> or <version>"));
    }
    for field in ["kind", "name", "uid"] {
        if text(owner, field).is_empty() {
            errors.push(Error::required(&path.child(field), "must not be empty"));
        }
    }
    if group_version == Some(("", "v1")) && text(owner, "kind") == "Event" {
        errors.push(Error::invalid(path, shown_owner(owner), "/v1, Kind=Event is disallowed from being an owner"));
    }
}

/// The owner reference as errors print it: the required fields even when empty.
fn shown_owner(owner: &Value) -> Value {
    let mut shown = Map::new();
    for field in ["apiVersion", "kind", "name", "uid"] {
        shown.insert(field.to_owned(), text(owner, field).into());
    }
    for field in ["controller", "blockOwnerDeletion"] {
        if let Some(value) = owner.get(field).filter(|v| !v.is_null()) {
            shown.insert(field.to_owned(), value.clone());
        }
    }
    Value::Object(shown)
}

fn finalizers(metadata: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let place = path.child("finalizers");
    let finalizers = strings(metadata, "finalizers");
    for name in &finalizers {
        errors.extend(validate_finalizer_name(name, &place));
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        errors.push(Error::invalid(&place, json!(finalizers), "finalizer orphan and foregroundDeletion cannot be both set"));
    }
}

fn standard_finalizers(metadata: &Value, rule: FinalizerRule, path: &Path<'_>, errors: &mut ErrorList) {
    if rule == FinalizerRule::Qualified {
        return;
    }
    let place = path.child("finalizers");
    for (i, name) in strings(metadata, "finalizers").into_iter().enumerate() {
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(Error::invalid(&place.index(i), name, detail));
        }
    }
}

fn no_new_finalizers(new: &Value, old: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let old = strings(old, "finalizers");
    let mut extra: Vec<&str> = strings(new, "finalizers").into_iter().filter(|f| !old.contains(f)).collect();
    extra.sort_unstable();
    extra.dedup();
    if extra.is_empty() {
        return;
    }
    let quoted: Vec<String> = extra.iter().map(|f| crate::field::quote(f)).collect();
    let detail =
        format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}", quoted.join(", "));
    errors.push(Error::forbidden(&path.child("finalizers"), detail));
}

#[cfg(test)]
mod tests {
    use super::super::name_is_dns_subdomain;
    use super::*;

    const RULES: MetaRules = MetaRules { namespaced: true, name: name_is_dns_subdomain, finalizers: FinalizerRule::Standard };

    fn create(extra: Value) -> Vec<String> {
        let mut metadata = json!({"name": "m", "namespace": "ns"});
        for (key, value) in extra.as_object().expect("an object") {
            metadata[key] = value.clone();
        }
        validate_object_meta(&metadata, &RULES, &Path::new("metadata")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn creation_answers_as_the_reference_server_does() {
        assert_eq!(create(json!({})), Vec::<String>::new());
        let table = [
            (json!({"name": ""}), "metadata.name: Required value: name or generateName is required"),
            (
                json!({"annotations": {"a": "x".repeat(256 * 1024 + 1)}}),
                "metadata.annotations: Too long: may not be more than 262144 bytes",
            ),
            (
                json!({"finalizers": ["bad"]}),
                "metadata.finalizers[0]: Invalid value: \"bad\": name is neither a standard finalizer name nor is it fully qualified",
            ),
            (
                json!({"finalizers": ["orphan", "foregroundDeletion"]}),
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
            ),
            (
                json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
                "metadata.ownerReferences[0].uid: Required value: must not be empty",
            ),
            (
                json!({"ownerReferences": [{"apiVersion": "a/b/c", "kind": "Pod", "name": "p", "uid": "u"}]}),
                "metadata.ownerReferences[0].apiVersion: Invalid value: \"a/b/c\": must be <group>/<version> or <version>",
            ),
            (
                json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "p", "uid": "u"}]}),
                "metadata.ownerReferences[0]: Invalid value: {\"apiVersion\":\"v1\",\"kind\":\"Event\",\"name\":\"p\",\"uid\":\"u\"}: /v1, Kind=Event is disallowed from being an owner",
            ),
            (
                json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}, {"apiVersion": "v1", "kind": "Pod", "name": "q", "uid": "v", "controller": true}]}),
                "metadata.ownerReferences: Invalid value: [{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"name\":\"p\",\"uid\":\"u\",\"controller\":true},{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"name\":\"q\",\"uid\":\"v\",\"controller\":true}]: Only one reference can have Controller set to true. Found \"true\" in references for Pod/p and Pod/q",
            ),
            (json!({"generation": -1}), "metadata.generation: Invalid value: -1: must be greater than or equal to 0"),
        ];
        for (extra, expected) in table {
            assert_eq!(create(extra.clone()), [expected], "{extra}");
        }
        assert_eq!(create(json!({"ownerReferences": [{}]})).len(), 4);
        let prefix = create(json!({"generateName": "x."}));
        assert!(prefix.len() == 1 && prefix[0].starts_with("metadata.generateName: Invalid value: \"x.\": a lowercase RFC 1123 subdomain"));
    }

    #[test]
    fn an_update_may_not_change_identity_nor_add_finalizers_to_a_dying_object() {
        let old = json!({"name": "m", "uid": "u", "resourceVersion": "5", "generation": 3, "deletionTimestamp": "2024-01-01T00:00:00Z"});
        let mut new = old.clone();
        let check = |new: &Value| {
            let errors = validate_object_meta_update(new, &old, FinalizerRule::Standard, &Path::new("metadata"));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(check(&new).is_empty());
        new["finalizers"] = json!(["b/c", "a/b"]);
        new["generation"] = json!(2);
        new["uid"] = json!("v");
        new["resourceVersion"] = Value::Null;
        assert_eq!(
            check(&new),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a/b\", \"b/c\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 2: must not be decremented",
                "metadata.uid: Invalid value: \"v\": field is immutable",
            ]
        );
    }
}
