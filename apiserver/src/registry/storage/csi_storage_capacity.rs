//! storage.k8s.io/v1 CSIStorageCapacity.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, LabelSelectorOptions, name_is_dns_subdomain, validate_label_selector};
use apimachinery::view::view;
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use serde_json::Value;

use crate::registry::core::node_selector::deprecated_label;
use crate::registry::core::persistent_volume_claim::is_refused_today;
use crate::registry::core::resource::{quantity, validate_not_negative};
use crate::registry::printer;
use crate::registry::{ALL_VERBS, Cx, Definition, Scope, Strategy, UpdateStrategy};

const TYPE: &str = "io.k8s.api.storage.v1.CSIStorageCapacity";

pub static RESOURCE: Definition = Definition {
    group: "storage.k8s.io",
    version: "v1",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    kind: "CSIStorageCapacity",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: TYPE,
    name: name_is_dns_subdomain,
    strategy: &CapacityStrategy,
    subresources: &[],
    selectable: &[],
    printer: printer::DEFAULT,
    reset_fields: &[],
};

struct CapacityStrategy;

impl UpdateStrategy for CapacityStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let before: CSIStorageCapacity = view(old);
        let mut errors = validate(&view(new), before.node_topology.as_ref().is_some_and(is_refused_today));
        for field in ["nodeTopology", "storageClassName"] {
            if new.get(field) != old.get(field) {
                let shown = new.get(field).cloned().unwrap_or_default();
                errors.push(Error::invalid(&Path::new(field), shown, FIELD_IMMUTABLE));
            }
        }
        errors
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings(&view(new))
    }
}

impl Strategy for CapacityStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(new), false)
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(&view(new))
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn validate(capacity: &CSIStorageCapacity, allow_invalid_values: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(topology) = &capacity.node_topology {
        let options =
            LabelSelectorOptions { allow_invalid_label_value_in_selector: allow_invalid_values, ..LabelSelectorOptions::default() };
        errors.extend(validate_label_selector(topology, options, &Path::new("nodeTopology")));
    }
    let (class, path) = (capacity.storage_class_name.as_str(), Path::new("storageClassName"));
    errors.extend(name_is_dns_subdomain(class, false).into_iter().map(|message| Error::invalid(&path, class, message)));
    if let Some(amount) = &capacity.capacity {
        errors.extend(validate_not_negative(&quantity(&amount.0), &Path::new("capacity")));
    }
    errors
}

fn warnings(capacity: &CSIStorageCapacity) -> Vec<String> {
    let Some(topology) = &capacity.node_topology else { return Vec::new() };
    let path = Path::new("nodeTopology");
    let expressions = path.child("matchExpressions");
    let mut warnings = Vec::new();
    for (i, expression) in topology.match_expressions.iter().flatten().enumerate() {
        if let Some(message) = deprecated_label(&expression.key) {
            warnings.push(format!("{}: {} is {message}", expressions.index(i).child("key"), expression.key));
        }
    }
    for label in topology.match_labels.iter().flatten().map(|(label, _)| label) {
        if let Some(message) = deprecated_label(label) {
            warnings.push(format!("{}: {message}", path.child("matchLabels").child(label)));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::{cx, messages};

    #[test]
    fn a_capacity_is_of_a_class_and_not_negative() {
        let bad = json!({"metadata": {}, "storageClassName": "A", "capacity": "-1"});
        let text = messages(&CapacityStrategy.validate(&cx(), &bad));
        assert_eq!(text.len(), 2, "{text:?}");
        assert!(text[0].starts_with("storageClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain"));
        assert_eq!(text[1], "capacity: Invalid value: \"-1\": must be greater than or equal to 0");
    }

    #[test]
    fn where_it_is_never_changes() {
        let capacity = |zone: &str| json!({"metadata": {}, "storageClassName": "a", "nodeTopology": {"matchLabels": {"zone": zone}}});
        assert_eq!(
            messages(&CapacityStrategy.validate_update(&cx(), &capacity("a"), &capacity("b"))),
            ["nodeTopology: Invalid value: {\"matchLabels\":{\"zone\":\"a\"}}: field is immutable"]
        );
    }
}
