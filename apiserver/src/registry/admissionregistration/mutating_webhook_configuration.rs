//! MutatingWebhookConfigurations: webhooks that may change what is admitted.

use apimachinery::field::ErrorList;
use apimachinery::validation::name_is_dns_subdomain;
use serde_json::Value;

use super::{reserved_name, webhook};
use crate::registry::strategy::{bump_generation_if_changed, set_generation};
use crate::registry::{ALL_VERBS, Cx, Definition, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "mutatingwebhookconfigurations",
    singular: "mutatingwebhookconfiguration",
    kind: "MutatingWebhookConfiguration",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &["api-extensions"],
    schema: "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: webhook::COLUMNS, cells: webhook::row },
    reset_fields: &[],
};

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut errors = webhook::validate_webhooks(new, None);
        errors.extend(reserved_name::validate(new));
        errors
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        webhook::warnings(new)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        bump_generation_if_changed(new, old, &["webhooks"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        webhook::validate_webhooks(new, Some(old))
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        let mut warnings = reserved_name::warnings(new);
        warnings.extend(webhook::warnings(new));
        warnings
    }
}
