//! ClusterTrustBundleAttest: only who may attest for a signer writes its trust bundles.

use apimachinery::field::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::signers::{GROUP, may};
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::str_at;

/// The plugin.
pub struct ClusterTrustBundleAttest;

/// Whether nothing differs but what garbage collection and ownership write.
fn only_housekeeping(new: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                metadata.shift_remove(field);
            }
        }
        object
    };
    rest(new) == rest(old)
}

impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let applies = attributes.operation.writes() && attributes.is(GROUP, "clustertrustbundles");
        let Some(bundle) = new.filter(|_| applies) else { return Ok(()) };
        let signer = str_at(bundle, "/spec/signerName");
        let unchanged = attributes.operation == Operation::Update && old.is_some_and(|old| only_housekeeping(bundle, old));
        if signer.is_empty() || unchanged || may(attributes, lookup, "attest", signer) {
            return Ok(());
        }
        Err(attributes.forbidden(new, &format!("user not permitted to attest for signerName {}", quote(signer))))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn housekeeping_is_not_a_change_of_the_bundle() {
        let bundle =
            |owner: &str, pem: &str| json!({ "metadata": { "name": "a", "ownerReferences": [owner] }, "spec": { "trustBundle": pem } });
        assert!(only_housekeeping(&bundle("a", "x"), &bundle("b", "x")));
        assert!(!only_housekeeping(&bundle("a", "x"), &bundle("a", "y")));
    }
}
