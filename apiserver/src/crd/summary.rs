//! What controllers ask of a definition that has changed, read without its schemas.
//!
//! Definitions are large and each change of one is looked at by several controllers, most of which find that it does not concern
//! them: as trees they would cost more than all the rest of a change.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::storage::Object;

/// A definition without its schemas.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Summary {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    pub deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    pub group: String,
    pub names: Map<String, Value>,
    pub versions: Vec<Version>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Version {
    pub name: String,
    pub served: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    pub accepted_names: Option<Map<String, Value>>,
    pub conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
}

impl Summary {
    /// Reads a stored definition.
    pub fn read(definition: &Object) -> Summary {
        serde_json::from_slice(definition.json()).expect("definitions are validated before they are stored")
    }

    pub fn is_true(&self, condition: &str) -> bool {
        self.status.conditions.iter().flatten().any(|c| c.kind == condition && c.status == "True")
    }

    /// It has the names that it wants.
    pub fn has_its_names(&self) -> bool {
        self.status.accepted_names.as_ref() == Some(&self.spec.names)
    }

    pub fn is_being_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_says_what_the_definition_says() {
        let names = json!({"plural": "things", "kind": "Thing"});
        let mut definition = json!({
            "metadata": {"name": "things.a.b"},
            "spec": {"group": "a.b", "names": names, "versions": [{"name": "v1", "served": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]},
            "status": {"acceptedNames": {"plural": "", "kind": ""}, "conditions": null, "storedVersions": ["v1"]},
        });
        let summary = Summary::read(&Object::of_value(&definition, 1));
        assert_eq!(
            (summary.spec.group.as_str(), summary.spec.versions[0].name.as_str(), summary.spec.versions[0].served),
            ("a.b", "v1", true)
        );
        assert!(!summary.has_its_names() && !summary.is_true("Established") && !summary.is_being_deleted());
        definition["status"] = json!({"acceptedNames": names, "conditions": [{"type": "Established", "status": "True"}]});
        definition["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let summary = Summary::read(&Object::of_value(&definition, 2));
        assert!(summary.has_its_names() && summary.is_true("Established") && summary.is_being_deleted());
    }
}
