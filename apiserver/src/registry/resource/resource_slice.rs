//! ResourceSlices: the devices of a pool, as their driver publishes them.

use apimachinery::field::ErrorList;
use apimachinery::validation::name_is_dns_subdomain;
use jiff::Timestamp;
use serde_json::Value;

use super::disabled::drop_from_slice;
use super::slice_rules::validate_slice;
use crate::registry::printer::{self, text};
use crate::registry::read::str_at;
use crate::registry::strategy::{bump_generation_if_changed, set_generation};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

const SPEC: &str = "io.k8s.api.resource.v1.ResourceSliceSpec";

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "resourceslices",
    singular: "resourceslice",
    kind: "ResourceSlice",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.resource.v1.ResourceSlice",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[
        ("spec.nodeName", |slice| str_at(slice, "/spec/nodeName").into()),
        ("spec.driver", |slice| str_at(slice, "/spec/driver").into()),
        ("spec.pool.name", |slice| str_at(slice, "/spec/pool/name").into()),
    ],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Node", Description::Field(SPEC, "nodeName")),
    text("Driver", Description::Field(SPEC, "driver")),
    text("Pool", Description::Field("io.k8s.api.resource.v1.ResourcePool", "name")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let field = |pointer: &str| Value::from(str_at(object, pointer));
    vec![printer::name(object), field("/spec/nodeName"), field("/spec/driver"), field("/spec/pool/name"), printer::object_age(object, now)]
}

fn warnings(slice: &Value) -> Vec<String> {
    let driver = str_at(slice, "/spec/driver");
    if driver == driver.to_lowercase() {
        return Vec::new();
    }
    let quoted = apimachinery::field::quote(driver);
    vec![format!("spec.driver: driver names should be lowercase; {quoted} contains uppercase characters")]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
        drop_from_slice(new, None);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate_slice(new, None)
    }

    fn warnings_on_create(&self, _cx: &Cx<'_>, new: &Value) -> Vec<String> {
        warnings(new)
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        bump_generation_if_changed(new, old, &["spec"]);
        drop_from_slice(new, Some(old));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate_slice(new, Some(old))
    }

    fn warnings_on_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> Vec<String> {
        warnings(new)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn capital_letters_are_warned_of() {
        assert_eq!(warnings(&json!({"spec": {"driver": "d.io"}})), [""; 0]);
        assert_eq!(
            warnings(&json!({"spec": {"driver": "D.io"}})),
            [r#"spec.driver: driver names should be lowercase; "D.io" contains uppercase characters"#]
        );
    }
}
