//! DefaultStorageClass: a claim that names no class gets the default one.

use std::sync::Arc;

use apimachinery::status::Status;
use serde_json::Value;

use super::pod_references::object_mut;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::{at, str_at};

const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const BETA_IS_DEFAULT: &str = "storageclass.beta.kubernetes.io/is-default-class";
/// Where claims named their class before they had a field for it.
pub const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The plugin.
pub struct DefaultStorageClass;

/// An annotation's value.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    at(object, "/metadata/annotations").get(key).and_then(Value::as_str)
}

/// The newest of several objects; of equally old ones the first by name. The list is in order of names.
pub fn newest(objects: Vec<Arc<Value>>) -> Option<Arc<Value>> {
    // Times are written alike, so that later ones compare greater; a maximum would take the last of equals.
    objects.into_iter().rev().max_by(|a, b| str_at(a, "/metadata/creationTimestamp").cmp(str_at(b, "/metadata/creationTimestamp")))
}

/// The class that a claim names; "" if none.
pub fn class_of(claim: &Value) -> &str {
    annotation(claim, BETA_CLASS).unwrap_or_else(|| str_at(claim, "/spec/storageClassName"))
}

impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if attributes.operation != Operation::Create || !attributes.is_main("", "persistentvolumeclaims") {
            return Ok(());
        }
        // The empty class is a wish too: for a volume without one.
        if annotation(new, BETA_CLASS).is_some() || !at(new, "/spec/storageClassName").is_null() {
            return Ok(());
        }
        let mut classes = lookup.list("storage.k8s.io", "storageclasses", "");
        classes.retain(|class| [IS_DEFAULT, BETA_IS_DEFAULT].iter().any(|key| annotation(class, key) == Some("true")));
        if let (Some(class), Some(spec)) = (newest(classes), object_mut(new, &["spec"])) {
            spec.insert("storageClassName".to_owned(), str_at(&class, "/metadata/name").into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn a_claim_without_a_class_gets_the_newest_default() {
        let class = |name: &str, time: &str, annotation: &str| {
            let meta = json!({ "name": name, "creationTimestamp": time, "annotations": { annotation: "true" } });
            ("storage.k8s.io", "storageclasses", json!({ "metadata": meta }))
        };
        let objects = Objects::of(vec![
            class("a", "2026-01-01T00:00:00Z", IS_DEFAULT),
            class("b", "2026-01-02T00:00:00Z", BETA_IS_DEFAULT),
            class("c", "2026-01-02T00:00:00Z", IS_DEFAULT),
            class("d", "2026-01-03T00:00:00Z", "other"),
        ]);
        let write = Write::new(Operation::Create, "", "v1", "persistentvolumeclaims");
        let cases =
            [(json!({}), json!({ "storageClassName": "b" })), (json!({ "storageClassName": "" }), json!({ "storageClassName": "" }))];
        for (spec, expected) in cases {
            let mut claim = json!({ "spec": spec });
            write.admit(&DefaultStorageClass, &objects, &mut claim).unwrap();
            assert_eq!(claim["spec"], expected);
        }
    }
}
