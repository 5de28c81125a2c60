//! core/v1 Binding: a pod's assignment to a node, created and never stored.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::name_is_dns_subdomain;
use serde_json::Value;

use crate::registry::printer;
use crate::registry::read::str_at;
use crate::registry::{CREATE_ONLY, Cx, Definition, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "bindings",
    singular: "binding",
    kind: "Binding",
    scope: Scope::Namespaced,
    verbs: CREATE_ONLY,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.core.v1.Binding",
    name: name_is_dns_subdomain,
    strategy: &BindingStrategy,
    subresources: &[],
    selectable: &[],
    printer: printer::DEFAULT,
    reset_fields: &[],
};

struct BindingStrategy;

impl UpdateStrategy for BindingStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate_binding(new)
    }
}

impl Strategy for BindingStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate_binding(new)
    }
}

/// A binding names a node.
pub fn validate_binding(binding: &Value) -> ErrorList {
    let target = Path::new("target");
    let mut errors = ErrorList::new();
    let kind = str_at(binding, "/target/kind");
    if !matches!(kind, "" | "Node") {
        errors.push(Error::not_supported(&target.child("kind"), kind, &["Node", "<empty>"]));
    }
    let (name, path) = (str_at(binding, "/target/name"), target.child("name"));
    if name.is_empty() {
        errors.push(Error::required(&path, ""));
    } else if matches!(kind, "" | "Node") {
        errors.extend(name_is_dns_subdomain(name, false).into_iter().map(|message| Error::invalid(&path, name, message)));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::messages;

    #[test]
    fn a_binding_names_a_node() {
        assert!(validate_binding(&json!({"target": {"kind": "Node", "name": "a"}})).is_empty());
        assert_eq!(
            messages(&validate_binding(&json!({"target": {"kind": "Pod"}}))),
            ["target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"", "target.name: Required value"]
        );
    }
}
