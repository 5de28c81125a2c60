//! core/v1 ComponentStatus: read only, and long deprecated.

use apimachinery::field::ErrorList;
use apimachinery::validation::name_is_dns_subdomain;
use serde_json::Value;

use crate::registry::printer::{self, NAME};
use crate::registry::read::{list_at, str_at};
use crate::registry::{Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "componentstatuses",
    singular: "componentstatus",
    kind: "ComponentStatus",
    scope: Scope::Cluster,
    verbs: &["get", "list"],
    short_names: &["cs"],
    categories: &[],
    schema: "io.k8s.api.core.v1.ComponentStatus",
    name: name_is_dns_subdomain,
    strategy: &ReadOnly,
    subresources: &[],
    selectable: &[],
    printer: Printer {
        columns: &[
            NAME,
            printer::text("Status", Description::Text("Status of the component conditions")),
            printer::text("Message", Description::Text("Message of the component conditions")),
            printer::text("Error", Description::Text("Error of the component conditions")),
        ],
        cells: |object, _| {
            let health = list_at(object, "/conditions").iter().find(|condition| condition["type"] == "Healthy");
            let (status, message, error) = match health {
                None => ("Unknown", "", ""),
                Some(condition) => {
                    let status = if condition["status"] == "True" { "Healthy" } else { "Unhealthy" };
                    (status, str_at(condition, "/message"), str_at(condition, "/error"))
                }
            };
            vec![printer::name(object), status.into(), message.into(), error.into()]
        },
    },
    reset_fields: &[],
};

/// Nothing is ever written: the verbs do not allow it.
struct ReadOnly;

impl UpdateStrategy for ReadOnly {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, _new: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }
}

impl Strategy for ReadOnly {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, _new: &Value) -> ErrorList {
        ErrorList::new()
    }
}
