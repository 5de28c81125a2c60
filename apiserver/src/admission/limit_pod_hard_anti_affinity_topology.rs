//! LimitPodHardAntiAffinityTopology: a pod keeps others away from its node, and from nothing larger.

use apimachinery::status::Status;
use serde_json::Value;

use super::{Attributes, Lookup, Plugin};
use crate::registry::read::{list_at, str_at};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// The plugin.
pub struct LimitPodHardAntiAffinityTopology;

impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        _lookup: &dyn Lookup,
        new: Option<&Value>,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(pod) = new.filter(|_| attributes.operation.writes() && attributes.is_main("", "pods")) else { return Ok(()) };
        let terms = list_at(pod, "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution");
        let Some(key) = terms.iter().map(|term| str_at(term, "/topologyKey")).find(|key| *key != HOSTNAME) else { return Ok(()) };
        let why = format!("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is allowed");
        Err(Status::forbidden("", "pods", str_at(pod, "/metadata/name"), &why))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Operation;
    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn only_the_host_is_kept_to_oneself() {
        let write = Write::new(Operation::Create, "", "v1", "pods");
        let check = |key: &str| {
            let terms = json!([{ "topologyKey": key }]);
            let affinity = json!({ "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": terms } });
            let pod = json!({ "metadata": { "name": "p" }, "spec": { "affinity": affinity } });
            write.validate(&LimitPodHardAntiAffinityTopology, &Objects::default(), Some(&pod), None)
        };
        assert!(check(HOSTNAME).is_ok());
        assert_eq!(
            check("zone").unwrap_err(),
            "pods \"p\" is forbidden: affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed"
        );
    }
}
