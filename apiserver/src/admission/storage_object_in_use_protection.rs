//! StorageObjectInUseProtection: volumes, claims and attribute classes are not deleted under those who use them.

use apimachinery::status::Status;
use serde_json::Value;

use super::pod_references::append;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::list_at;

/// The finalizer of each protected resource.
const FINALIZERS: [(&str, &str, &str); 3] = [
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

/// The plugin.
pub struct StorageObjectInUseProtection;

impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        let protection = FINALIZERS.iter().find(|(group, plural, _)| attributes.is_main(group, plural));
        if let Some((_, _, finalizer)) = protection
            && !list_at(new, "/metadata/finalizers").iter().any(|f| f == finalizer)
        {
            append(new, &["metadata", "finalizers"], vec![(*finalizer).into()]);
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
    fn each_gets_its_finalizer_once() {
        for (group, plural, finalizer) in FINALIZERS {
            let write = Write::new(Operation::Create, group, "v1", plural);
            let mut object = json!({ "metadata": { "finalizers": ["mine"] } });
            for _ in 0..2 {
                write.admit(&StorageObjectInUseProtection, &Objects::default(), &mut object).unwrap();
                assert_eq!(object["metadata"]["finalizers"], json!(["mine", finalizer]));
            }
        }
    }
}
