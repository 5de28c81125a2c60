//! storage.k8s.io/v1 VolumeAttributesClass.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::name_is_dns_subdomain;
use apimachinery::view::view;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use serde_json::Value;

use super::parameters;
use crate::registry::printer::{self, AGE, NAME};
use crate::registry::read::str_at;
use crate::registry::{ALL_VERBS, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

const TYPE: &str = "io.k8s.api.storage.v1.VolumeAttributesClass";

pub static RESOURCE: Definition = Definition {
    group: "storage.k8s.io",
    version: "v1",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    kind: "VolumeAttributesClass",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &["vac"],
    categories: &[],
    schema: TYPE,
    name: name_is_dns_subdomain,
    strategy: &ClassStrategy,
    subresources: &[],
    selectable: &[],
    printer: Printer {
        columns: &[NAME, printer::text("DriverName", Description::Field(TYPE, "driverName")), AGE],
        cells: |object, now| vec![printer::name(object), str_at(object, "/driverName").into(), printer::object_age(object, now)],
    },
    reset_fields: &[],
};

struct ClassStrategy;

impl UpdateStrategy for ClassStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["driverName", "parameters"] {
            if new.get(field) != old.get(field) {
                errors.push(Error::forbidden(&Path::new(field), format!("updates to {field} are forbidden.")));
            }
        }
        errors.extend(validate(&view(new)));
        errors
    }
}

impl Strategy for ClassStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(&view(new))
    }
}

fn validate(class: &VolumeAttributesClass) -> ErrorList {
    let path = Path::new("driverName");
    let mut errors = parameters::validate_provisioner(&class.driver_name, &path);
    if class.driver_name.is_empty() {
        errors.push(Error::required(&path, ""));
    }
    errors.extend(parameters::validate(class.parameters.as_ref(), false, &Path::new("parameters")));
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::{cx, messages};

    #[test]
    fn a_class_names_a_driver_and_parameters_for_good() {
        assert_eq!(
            messages(&ClassStrategy.validate(&cx(), &json!({"metadata": {}, "driverName": ""}))),
            ["driverName: Required value", "parameters: Required value: must contain at least one key/value pair"]
        );
        let class = |driver: &str| json!({"metadata": {}, "driverName": driver, "parameters": {"a": "b"}});
        assert_eq!(
            messages(&ClassStrategy.validate_update(&cx(), &class("x"), &class("y"))),
            ["driverName: Forbidden: updates to driverName are forbidden."]
        );
    }
}
