//! The rules of custom objects: their schema's, and those that all custom kinds share.

use std::collections::HashSet;
use std::sync::Arc;

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation;
use serde_json::Value;

use super::form::Form;
use super::scale::{Paths, nested_int, nested_text};
use super::schema::{ListType, Schema};
use super::validate::validate;
use crate::registry::read::{list_at, str_at};
use crate::registry::strategy::{drop_field, generation, keep_status, set_generation};
use crate::registry::{Cx, Strategy, UpdateStrategy};

/// One version of a custom kind.
pub struct Custom {
    pub form: Arc<Form>,
    /// Status has an endpoint of its own.
    pub has_status: bool,
}

impl Custom {
    fn check(&self, new: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = validate(self.form.schema(), new, old, None);
        if let Some(paths) = &self.form.scale {
            errors.extend(replicas(new, &paths.spec_replicas));
            errors.extend(scale_status(new, paths));
        }
        errors.extend(embedded(self.form.schema(), new, "", true));
        if old.is_none_or(|old| lists(self.form.schema(), old, "").is_empty()) {
            errors.extend(lists(self.form.schema(), new, ""));
        }
        self.form.check_rules(new, old, &mut errors);
        errors
    }
}

impl UpdateStrategy for Custom {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if self.has_status {
            keep_status(new, old);
        }
        // Both in this version's form: the stored one may have other fields.
        let (mut a, mut b) = (new.clone(), old.clone());
        for object in [&mut a, &mut b] {
            self.form.fit(object);
            for field in ["metadata", "kind", "apiVersion"] {
                drop_field(object, field);
            }
        }
        if a != b {
            set_generation(new, generation(old).saturating_add(1));
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        self.check(new, Some(old))
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        let mut warnings = self.form.rule_warnings(new, old);
        warnings.extend(finalizer_warnings(new, Some(old)));
        warnings
    }
}

impl Strategy for Custom {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        if self.has_status {
            drop_field(new, "status");
        }
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        self.check(new, None)
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        finalizer_warnings(new, None)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// The endpoint of the status.
pub struct Status {
    pub form: Arc<Form>,
}

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        let status = new.get("status").cloned();
        let owners = new.pointer("/metadata/managedFields").cloned();
        *new = old.clone();
        if let Some(object) = new.as_object_mut() {
            match status {
                Some(status) => object.insert("status".to_owned(), status),
                None => object.shift_remove("status"),
            };
        }
        if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
            match owners {
                Some(owners) => metadata.insert("managedFields".to_owned(), owners),
                None => metadata.shift_remove("managedFields"),
            };
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if let (Some(schema), Some(status)) = (self.form.schema().member("status"), new.get("status")) {
            errors.extend(validate(schema, status, old.get("status"), Some("status")));
        }
        if let Some(paths) = &self.form.scale {
            errors.extend(scale_status(new, paths));
        }
        if lists(self.form.schema(), old, "").is_empty() {
            errors.extend(lists(self.form.schema(), new, ""));
        }
        self.form.check_rules(new, Some(old), &mut errors);
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        self.form.rule_warnings(new, old)
    }
}

/// A number of replicas.
fn replicas(object: &Value, path: &str) -> ErrorList {
    let refuse = |value: i64, why: String| vec![Error::invalid(&Path::new(path), value, why)];
    match nested_int(object, path) {
        Err(why) => refuse(0, why),
        Ok(Some(n)) if n < 0 => refuse(n, "should be a non-negative integer".to_owned()),
        Ok(Some(n)) if n > i64::from(i32::MAX) => refuse(n, format!("should be less than or equal to {}", i32::MAX)),
        Ok(_) => ErrorList::new(),
    }
}

fn scale_status(object: &Value, paths: &Paths) -> ErrorList {
    let mut errors = replicas(object, &paths.status_replicas);
    if let Some(path) = &paths.label_selector
        && let Err(why) = nested_text(object, path)
    {
        errors.push(Error::invalid(&Path::new(path), "", why));
    }
    errors
}

/// Embedded objects say what they are.
pub fn embedded(schema: &Schema, value: &Value, at: &str, is_root: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    match value {
        Value::Object(map) => {
            if schema.embedded && !is_root {
                type_meta(value, at, &mut errors);
            }
            for (key, member) in map {
                if let Some(schema) = schema.member(key) {
                    let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                    errors.extend(embedded(schema, member, &at, false));
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else { return errors };
            for (i, item) in items.iter().enumerate() {
                errors.extend(embedded(schema, item, &format!("{at}[{i}]"), false));
            }
        }
        _ => {}
    }
    errors
}

fn type_meta(value: &Value, at: &str, errors: &mut ErrorList) {
    for field in ["apiVersion", "kind"] {
        let path = format!("{at}.{field}");
        let path = Path::new(&path);
        match value.get(field) {
            None => errors.push(Error::required(&path, "")),
            Some(Value::String(text)) if text.is_empty() => errors.push(Error::invalid(&path, "", "must not be empty")),
            Some(Value::String(text)) if field == "kind" => {
                let problems = validation::is_dns1035_label(&text.to_lowercase());
                if !problems.is_empty() {
                    let why = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
                    errors.push(Error::invalid(&path, text.as_str(), why));
                }
            }
            Some(Value::String(text)) if text.matches('/').count() > 1 => {
                errors.push(Error::invalid(&path, text.as_str(), format!("unexpected GroupVersion string: {text}")));
            }
            Some(Value::String(_)) => {}
            Some(other) => errors.push(Error::invalid(&path, other.clone(), "must be a string")),
        }
    }
}

/// Sets and associative lists have no item twice.
fn lists(schema: &Schema, value: &Value, at: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    match value {
        Value::Object(map) => {
            for (key, member) in map {
                if let Some(schema) = schema.member(key) {
                    let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                    errors.extend(lists(schema, member, &at));
                }
            }
        }
        Value::Array(items) => {
            let Some(item_schema) = schema.items.as_deref() else { return errors };
            let mut seen = HashSet::new();
            for (i, item) in items.iter().enumerate() {
                let place = format!("{at}[{i}]");
                let identity = match &schema.list_type {
                    ListType::Atomic => None,
                    ListType::Set => Some(item.clone()),
                    ListType::Map(keys) => Some(Value::Object(
                        keys.iter()
                            .filter_map(|k| Some((k.clone(), item.get(k).cloned().or_else(|| item_schema.member(k)?.default.clone())?)))
                            .collect(),
                    )),
                };
                if let Some(identity) = identity
                    && !seen.insert(identity.to_string())
                {
                    errors.push(Error::duplicate(&Path::new(&place), identity));
                }
                errors.extend(lists(item_schema, item, &place));
            }
        }
        _ => {}
    }
    errors
}

/// Finalizers that are new and have no domain.
fn finalizer_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    const FIELD: &str = "metadata.finalizers";
    const STANDARD: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];
    let known = old.map_or(&[][..], |old| list_at(old, "/metadata/finalizers"));
    let mut added: Vec<&str> =
        list_at(new, "/metadata/finalizers").iter().filter(|f| !known.contains(f)).filter_map(Value::as_str).collect();
    added.sort_unstable();
    added.dedup();
    let mut warnings = Vec::new();
    for finalizer in added {
        let quoted = apimachinery::field::quote(finalizer);
        warnings.extend(validation::is_qualified_name(finalizer).into_iter().map(|why| format!("{FIELD}: {quoted}: {why}")));
        if !finalizer.contains('/') && !STANDARD.contains(&finalizer) {
            let path = if finalizer.contains('.') { " including a path (/)" } else { "" };
            warnings.push(format!(
                "{FIELD}: {quoted}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
            ));
        }
    }
    warnings
}

/// The kind of an object must be the endpoint's.
pub fn wrong_kind(object: &Value, kind: &str) -> Option<Error> {
    let found = str_at(object, "/kind");
    (found != kind).then(|| Error::invalid(&Path::new("kind"), found, format!("must be {kind}")))
}
