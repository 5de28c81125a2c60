//! core/v1 ServiceAccount.

use apimachinery::field::ErrorList;
use apimachinery::validation::name_is_dns_subdomain;
use serde_json::{Map, Value};

use crate::registry::printer::{self, AGE, NAME};
use crate::registry::{ALL_VERBS, Behaviour, CREATE_ONLY, Cx, Definition, Printer, Scope, Strategy, Subresource, UpdateStrategy};

const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    kind: "ServiceAccount",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["sa"],
    categories: &[],
    schema: "io.k8s.api.core.v1.ServiceAccount",
    name: name_is_dns_subdomain,
    strategy: &ServiceAccountStrategy,
    subresources: &[Subresource {
        name: "token",
        group: "authentication.k8s.io",
        version: "v1",
        kind: "TokenRequest",
        verbs: CREATE_ONLY,
        behaviour: Behaviour::Endpoint,
    }],
    selectable: &[],
    printer: Printer { columns: &[NAME, AGE], cells: |object, now| vec![printer::name(object), printer::object_age(object, now)] },
    reset_fields: &[],
};

struct ServiceAccountStrategy;

impl UpdateStrategy for ServiceAccountStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, _old: &Value) {
        keep_secret_names(new);
    }

    fn validate_update(&self, _cx: &Cx<'_>, _new: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> Vec<String> {
        if enforces_mountable_secrets(old) { Vec::new() } else { warnings(new) }
    }
}

impl Strategy for ServiceAccountStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        keep_secret_names(new);
    }

    fn validate(&self, _cx: &Cx<'_>, _new: &Value) -> ErrorList {
        ErrorList::new()
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(new)
    }
}

/// A reference to a secret is its name alone.
fn keep_secret_names(account: &mut Value) {
    for secret in account.get_mut("secrets").and_then(Value::as_array_mut).into_iter().flatten() {
        let mut reference = Map::new();
        if let Some(name) = secret.get_mut("name").map(Value::take).filter(|name| name != "") {
            reference.insert("name".to_owned(), name);
        }
        *secret = Value::Object(reference);
    }
}

fn enforces_mountable_secrets(account: &Value) -> bool {
    account["metadata"]["annotations"].get(ENFORCE_MOUNTABLE).is_some()
}

fn warnings(account: &Value) -> Vec<String> {
    if !enforces_mountable_secrets(account) {
        return Vec::new();
    }
    vec![format!(
        "metadata.annotations[{ENFORCE_MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
    )]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::cx;

    #[test]
    fn references_to_secrets_keep_only_names() {
        let mut account = json!({"secrets": [{"kind": "Secret", "name": "a", "namespace": "n"}, {"kind": "x"}]});
        ServiceAccountStrategy.prepare_for_create(&cx(), &mut account);
        assert_eq!(account, json!({"secrets": [{"name": "a"}, {}]}));
    }

    #[test]
    fn the_deprecated_annotation_is_warned_about_once() {
        let with = json!({"metadata": {"annotations": {ENFORCE_MOUNTABLE: "true"}}});
        assert_eq!(ServiceAccountStrategy.warnings_on_create(&cx(), &with).len(), 1);
        assert!(ServiceAccountStrategy.warnings_on_update(&cx(), &with, &with).is_empty());
        assert_eq!(ServiceAccountStrategy.warnings_on_update(&cx(), &with, &json!({"metadata": {}})).len(), 1);
    }
}
