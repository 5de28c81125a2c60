//! ResourceClaimTemplates: what claims are made from, for pods that want one each.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, name_is_dns_subdomain};
use k8s_openapi::api::resource::v1::DeviceClaim;
use serde_json::{Map, Value};

use super::claim_declared::declared_claim;
use super::claim_rules::{validate_claim, validate_template_metadata};
use super::disabled::drop_derived_attributes;
use super::view_at;
use crate::registry::declared::changed;
use crate::registry::go_struct::{self, Form, Shape};
use crate::registry::printer;
use crate::registry::read::at;
use crate::registry::{ALL_VERBS, Cx, Definition, Printer, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    kind: "ResourceClaimTemplate",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.resource.v1.ResourceClaimTemplate",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer {
        columns: &[printer::NAME, printer::AGE],
        cells: |object, now| vec![printer::name(object), printer::object_age(object, now)],
    },
    reset_fields: &[],
};

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_derived_attributes(new, None, "/spec/spec");
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let mut errors = validate(new);
        errors.extend(declared(new));
        errors
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        drop_derived_attributes(new, Some(old), "/spec/spec");
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = validate(new);
        if changed(at(new, "/spec"), Some(at(old, "/spec"))) {
            errors.push(Error::invalid(&Path::new("spec"), shown(at(new, "/spec")), FIELD_IMMUTABLE));
            errors.extend(declared(new));
        }
        errors
    }
}

fn claim_of(template: &Value) -> DeviceClaim {
    view_at(template, "/spec/spec/devices")
}

fn validate(template: &Value) -> ErrorList {
    let mut errors = validate_template_metadata(at(template, "/spec/metadata"), &Path::new("spec.metadata"));
    errors.extend(validate_claim(&claim_of(template), &Path::new("spec.spec.devices")));
    errors
}

fn declared(template: &Value) -> ErrorList {
    declared_claim(&claim_of(template), &Path::new("spec.spec.devices"))
}

/// A specification as messages show it: the metadata is embedded, and its fields keep their JSON names.
fn shown(spec: &Value) -> Value {
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        scalar => *scalar != 0,
    };
    let metadata = at(spec, "/metadata").as_object().into_iter().flatten();
    let metadata = metadata.filter(|(_, value)| is_set(value)).map(|(field, value)| (field.clone(), value.clone()));
    let claim = go_struct::show(at(spec, "/spec"), &CLAIM);
    metadata.chain([("Spec".to_owned(), claim)]).collect::<Map<_, _>>().into()
}

static CLAIM: Shape = Shape(&[("Devices", "devices", Form::Struct(&DEVICES))]);
static DEVICES: Shape = Shape(&[
    ("Requests", "requests", Form::List(&REQUEST)),
    ("Constraints", "constraints", Form::List(&CONSTRAINT)),
    ("Config", "config", Form::List(&CONFIG)),
]);
static REQUEST: Shape = Shape(&[
    ("Name", "name", Form::Text),
    ("Exactly", "exactly", Form::Pointer(&EXACT)),
    ("FirstAvailable", "firstAvailable", Form::List(&ALTERNATIVE)),
]);
static EXACT: Shape = Shape(&[
    ("DeviceClassName", "deviceClassName", Form::Text),
    ("Selectors", "selectors", Form::List(&SELECTOR)),
    ("AllocationMode", "allocationMode", Form::Text),
    ("Count", "count", Form::Number),
    ("AdminAccess", "adminAccess", Form::Plain),
    ("Tolerations", "tolerations", Form::List(&TOLERATION)),
    ("Capacity", "capacity", Form::Pointer(&CAPACITY)),
    ("DerivedAttributes", "derivedAttributes", Form::Plain),
]);
static ALTERNATIVE: Shape = Shape(&[
    ("Name", "name", Form::Text),
    ("DeviceClassName", "deviceClassName", Form::Text),
    ("Selectors", "selectors", Form::List(&SELECTOR)),
    ("AllocationMode", "allocationMode", Form::Text),
    ("Count", "count", Form::Number),
    ("Tolerations", "tolerations", Form::List(&TOLERATION)),
    ("Capacity", "capacity", Form::Pointer(&CAPACITY)),
    ("DerivedAttributes", "derivedAttributes", Form::Plain),
]);
static SELECTOR: Shape = Shape(&[("CEL", "cel", Form::Pointer(&EXPRESSION))]);
static EXPRESSION: Shape = Shape(&[("Expression", "expression", Form::Text)]);
static TOLERATION: Shape = Shape(&[
    ("Key", "key", Form::Text),
    ("Operator", "operator", Form::Text),
    ("Value", "value", Form::Text),
    ("Effect", "effect", Form::Text),
    ("TolerationSeconds", "tolerationSeconds", Form::Plain),
]);
static CAPACITY: Shape = Shape(&[("Requests", "requests", Form::Plain)]);
static CONSTRAINT: Shape = Shape(&[
    ("Requests", "requests", Form::Plain),
    ("MatchAttribute", "matchAttribute", Form::Plain),
    ("DistinctAttribute", "distinctAttribute", Form::Plain),
]);
static CONFIG: Shape = Shape(&[("Requests", "requests", Form::Plain), ("Opaque", "opaque", Form::Pointer(&OPAQUE))]);
static OPAQUE: Shape = Shape(&[("Driver", "driver", Form::Text), ("Parameters", "parameters", Form::Plain)]);

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_is_a_claim_with_labels() {
        let template = |metadata: Value| {
            json!({"spec": {"metadata": metadata, "spec": {"devices": {"requests": [
            {"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "All"}}]}}}})
        };
        assert!(validate(&template(json!({"labels": {"a": "b"}}))).is_empty());
        assert!(validate(&json!({"spec": {"spec": {}}})).is_empty());
        assert_eq!(validate(&template(json!({"name": "a"})))[0].to_string(), "spec.metadata.name: Forbidden: cannot be set");
    }

    #[test]
    fn a_spec_stays() {
        let cx = Cx { now: Timestamp::UNIX_EPOCH, subresource: "", namespace: "", user: "", uid: "", groups: &[], extra: &[] };
        let old = json!({"spec": {"spec": {"devices": {"constraints": []}}}});
        let new = json!({"spec": {"metadata": {"labels": {"a": "b"}}, "spec": {"devices": {}}}});
        let errors = Main.validate_update(&cx, &new, &old);
        assert_eq!(
            errors[0].to_string(),
            r#"spec: Invalid value: {"labels":{"a":"b"},"Spec":{"Devices":{"Requests":null,"Constraints":null,"Config":null}}}: field is immutable"#
        );
    }
}
