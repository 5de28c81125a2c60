//! PodGroupProtection: pod groups are not deleted under the pods that refer to them.
//!
//! In force with the feature GenericWorkload alone, which is off and cannot be turned on: until it can be, groups are left as they are.

use apimachinery::status::Status;
use serde_json::Value;

use super::pod_references::append;
use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::read::list_at;

const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";
/// The feature GenericWorkload.
const IS_ENABLED: bool = false;

/// The plugin.
pub struct PodGroupProtection {
    enabled: bool,
}

impl Default for PodGroupProtection {
    fn default() -> PodGroupProtection {
        PodGroupProtection { enabled: IS_ENABLED }
    }
}

impl Plugin for PodGroupProtection {
    fn name(&self) -> &'static str {
        "PodGroupProtection"
    }

    fn admit(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let concerns = attributes.operation == Operation::Create && attributes.is_main("scheduling.k8s.io", "podgroups");
        if self.enabled && concerns && !list_at(new, "/metadata/finalizers").iter().any(|f| f == FINALIZER) {
            append(new, &["metadata", "finalizers"], vec![FINALIZER.into()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    fn finalizers(plugin: &PodGroupProtection, operation: Operation, plural: &str) -> Value {
        let write = Write::new(operation, "scheduling.k8s.io", "v1", "priorityclasses").named(plural);
        let mut group = json!({ "metadata": { "finalizers": ["mine"] } });
        for _ in 0..2 {
            write.admit(plugin, &Objects::default(), &mut group).unwrap();
        }
        group["metadata"]["finalizers"].take()
    }

    #[test]
    fn a_new_group_gets_its_finalizer_once_and_nothing_else_does() {
        let plugin = PodGroupProtection { enabled: true };
        assert_eq!(finalizers(&plugin, Operation::Create, "podgroups"), json!(["mine", FINALIZER]));
        assert_eq!(finalizers(&plugin, Operation::Update, "podgroups"), json!(["mine"]));
        assert_eq!(finalizers(&plugin, Operation::Create, "priorityclasses"), json!(["mine"]));
        assert_eq!(finalizers(&PodGroupProtection::default(), Operation::Create, "podgroups"), json!(["mine"]));
    }
}
