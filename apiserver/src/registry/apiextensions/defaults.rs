//! Defaults of apiextensions.k8s.io/v1 that stand in no marker.

use serde_json::{Map, Value, json};

use crate::registry::defaulting::{Hook, existing, is_empty, nested, set_if_empty, set_if_unset};
use crate::registry::read::{bool_at, list_at, str_at};

pub static DEFAULTS: &[Hook] = &[
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition", definition),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.ServiceReference", |service| set_if_unset(service, "port", 443)),
];

fn definition(object: &mut Map<String, Value>) {
    if let Some(spec) = nested(object, "spec") {
        names(spec);
        set_if_unset(spec, "conversion", json!({"strategy": "None"}));
    }
    let stored = object.get("spec").and_then(storage_version).map(str::to_owned);
    if let Some(stored) = stored
        && let Some(status) = nested(object, "status")
        && is_empty(status, "storedVersions")
    {
        status.insert("storedVersions".to_owned(), json!([stored]));
    }
}

/// The singular and the list's kind follow from the kind.
fn names(spec: &mut Map<String, Value>) {
    let Some(names) = existing(spec, "names") else { return };
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or("").to_owned();
    if !kind.is_empty() {
        set_if_empty(names, "singular", kind.to_lowercase());
        set_if_empty(names, "listKind", format!("{kind}List"));
    }
}

/// The name of the first version that is marked as stored.
pub fn storage_version(spec: &Value) -> Option<&str> {
    list_at(spec, "/versions").iter().find(|version| bool_at(version, "/storage")).map(|version| str_at(version, "/name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_the_stored_version_follow_from_the_spec() {
        let mut object = json!({"spec": {"names": {"kind": "Thing"}, "versions": [{"name": "v1"}, {"name": "v2", "storage": true}]}});
        definition(object.as_object_mut().unwrap());
        assert_eq!(object["spec"]["names"], json!({"kind": "Thing", "singular": "thing", "listKind": "ThingList"}));
        assert_eq!(object["spec"]["conversion"], json!({"strategy": "None"}));
        assert_eq!(object["status"], json!({"storedVersions": ["v2"]}));
    }
}
