//! NodeDeclaredFeatureValidator: a bound pod is not changed in a way that its node has not declared to support.

use apimachinery::field::quote;
use apimachinery::status::Status;
use serde_json::Value;

use super::{Attributes, Lookup, Operation, Plugin};
use crate::registry::core::resource::quantity;
use crate::registry::read::{at, int_at, list_at, str_at};

/// The plugin.
pub struct NodeDeclaredFeatureValidator;

/// Says whether the change from the old (first) to the new pod needs a feature.
type Needs = fn(&Value, &Value) -> bool;

/// The features that changes of pods can need, by name. Those that matter to scheduling alone are not here.
const FEATURES: [(&str, Needs); 3] = [
    ("InPlacePodLevelResourcesVerticalScaling", |old, new| at(old, "/spec/resources") != at(new, "/spec/resources")),
    ("InPlacePodVerticalScalingInitContainers", resizes_init_containers),
    ("InPlacePodVerticalScalingMemoryBackedVolumes", resizes_memory_volumes),
];

fn resizes_init_containers(old: &Value, new: &Value) -> bool {
    let resources = |c: &Value| at(c, "/resources").clone();
    let pairs = list_at(old, "/spec/initContainers").iter().zip(list_at(new, "/spec/initContainers"));
    pairs.filter(|(old, _)| str_at(old, "/restartPolicy") != "Always").any(|(old, new)| resources(old) != resources(new))
}

fn resizes_memory_volumes(old: &Value, new: &Value) -> bool {
    let (before, after) = (list_at(old, "/spec/volumes"), list_at(new, "/spec/volumes"));
    let limit = |volume: &Value| at(volume, "/emptyDir/sizeLimit").as_str().map(quantity);
    let resized = |(old, new): (&Value, &Value)| {
        let same_volume = str_at(old, "/name") == str_at(new, "/name") && str_at(new, "/emptyDir/medium") == "Memory";
        same_volume && matches!((limit(old), limit(new)), (Some(old), Some(new)) if old != new)
    };
    before.len() == after.len() && before.iter().zip(after).any(resized)
}

impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn validate(
        &self,
        attributes: &Attributes<'_>,
        lookup: &dyn Lookup,
        new: Option<&Value>,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let applies =
            attributes.operation == Operation::Update && attributes.is("", "pods") && matches!(attributes.subresource, "" | "resize");
        let (Some(pod), Some(before), true) = (new, old, applies) else { return Ok(()) };
        let name = str_at(pod, "/spec/nodeName");
        if name.is_empty() || int_at(pod, "/metadata/generation") == int_at(before, "/metadata/generation") {
            return Ok(());
        }
        let needed: Vec<&str> = FEATURES.iter().filter(|(_, needs)| needs(before, pod)).map(|(feature, _)| *feature).collect();
        if needed.is_empty() {
            return Ok(());
        }
        let Some(node) = lookup.get("", "nodes", "", name) else {
            return Err(attributes.forbidden(new, &format!("node {} not found", quote(name))));
        };
        let declared = list_at(&node, "/status/declaredFeatures");
        let missing: Vec<&str> = needed.into_iter().filter(|feature| !declared.iter().any(|d| d == feature)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!("pod update requires features {} which are not available on node {}", missing.join(", "), quote(name));
        Err(attributes.forbidden(new, &why))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, Write};
    use super::*;

    #[test]
    fn a_change_needs_a_node_that_declares_what_it_takes() {
        let check = |declared: Value, subresource: &'static str| {
            let objects =
                Objects::of(vec![("", "nodes", json!({ "metadata": { "name": "n" }, "status": { "declaredFeatures": declared } }))]);
            let pod = |generation: i64, size: &str| {
                let volume = json!({ "name": "v", "emptyDir": { "medium": "Memory", "sizeLimit": size } });
                let init = json!({ "name": "i", "resources": { "requests": { "cpu": size } } });
                json!({ "metadata": { "generation": generation }, "spec": { "nodeName": "n", "volumes": [volume], "initContainers": [init] } })
            };
            let write = Write::new(Operation::Update, "", "v1", "pods").to(subresource);
            write.validate(&NodeDeclaredFeatureValidator, &objects, Some(&pod(2, "2")), Some(&pod(1, "1")))
        };
        assert_eq!(check(json!([FEATURES[1].0, FEATURES[2].0]), "resize"), Ok(vec![]));
        assert_eq!(check(json!([]), "status"), Ok(vec![]));
        assert_eq!(
            check(json!(["InPlacePodVerticalScalingInitContainers"]), "resize").unwrap_err(),
            "pods \"x\" is forbidden: pod update requires features InPlacePodVerticalScalingMemoryBackedVolumes which are not available on node \"n\""
        );
    }
}
