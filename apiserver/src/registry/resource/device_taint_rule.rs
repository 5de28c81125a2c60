//! DeviceTaintRules: a taint on all devices that a selector finds.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::time::format_time;
use apimachinery::validation::{name_is_dns_subdomain, validate_conditions};
use jiff::Timestamp;
use k8s_openapi::api::resource::v1::DeviceTaintRuleSpec;
use serde_json::Value;

use super::names::{validate_driver, validate_label, validate_pool};
use super::taint_rules::{declared_taint, validate_taint};
use super::view_at;
use crate::registry::printer::{self, text};
use crate::registry::read::{at, list_at, str_at};
use crate::registry::strategy::{
    bump_generation_if_changed, drop_field, keep_all_but_status, keep_metadata, keep_status, set_field, set_generation,
};
use crate::registry::{
    ALL_VERBS, Behaviour, Column, Cx, Definition, Description, Printer, SUBRESOURCE_VERBS, Scope, Strategy, Subresource, UpdateStrategy,
};

const MAX_CONDITIONS: usize = 8;
const TAINT: &str = "io.k8s.api.resource.v1.DeviceTaint";

pub static RESOURCE: Definition = Definition {
    group: super::GROUP,
    version: "v1",
    plural: "devicetaintrules",
    singular: "devicetaintrule",
    kind: "DeviceTaintRule",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &[],
    categories: &[],
    schema: "io.k8s.api.resource.v1.DeviceTaintRule",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[Subresource {
        name: "status",
        group: super::GROUP,
        version: "v1",
        kind: "DeviceTaintRule",
        verbs: SUBRESOURCE_VERBS,
        behaviour: Behaviour::Object { strategy: &Status, reset_fields: &["metadata", "spec"] },
    }],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &["status"],
};

const COLUMNS: &[Column] = &[
    printer::NAME,
    text("Key", Description::Field(TAINT, "key")),
    text("Value", Description::Field(TAINT, "value")),
    text("Effect", Description::Field(TAINT, "effect")),
    text("TimeAdded", Description::Field(TAINT, "timeAdded")),
    printer::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let added = match at(object, "/spec/taint/timeAdded") {
        Value::Null => "".into(),
        added => printer::age(added, now),
    };
    let field = |pointer: &str| Value::from(str_at(object, pointer));
    vec![
        printer::name(object),
        field("/spec/taint/key"),
        field("/spec/taint/value"),
        field("/spec/taint/effect"),
        added,
        printer::object_age(object, now),
    ]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        drop_field(new, "status");
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new, None)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_status(new, old);
        // The time is that of the effect, unless the client says otherwise.
        let same = |pointer: &str| at(new, pointer) == at(old, pointer);
        if !same("/spec/taint/effect")
            && same("/spec/taint/timeAdded")
            && let Some(taint) = new.pointer_mut("/spec/taint")
        {
            set_field(taint, "timeAdded", format_time(cx.now));
        }
        bump_generation_if_changed(new, old, &["spec"]);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        validate(new, Some(old))
    }
}

struct Status;

impl UpdateStrategy for Status {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
        keep_metadata(new, old);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        let (conditions, path) = (list_at(new, "/status/conditions"), Path::new("status.conditions"));
        let mut errors = validate_conditions(conditions, &path);
        if conditions.len() > MAX_CONDITIONS {
            errors.push(Error::too_many(&path, conditions.len(), MAX_CONDITIONS));
        }
        errors
    }
}

fn validate(rule: &Value, old: Option<&Value>) -> ErrorList {
    let spec: DeviceTaintRuleSpec = view_at(rule, "/spec");
    let (path, taint_path) = (Path::new("spec.deviceSelector"), Path::new("spec.taint"));
    let mut errors = ErrorList::new();
    if let Some(selector) = &spec.device_selector {
        errors.extend(selector.driver.iter().flat_map(|driver| validate_driver(driver, &path.child("driver"))));
        errors.extend(selector.pool.iter().flat_map(|pool| validate_pool(pool, &path.child("pool"))));
        errors.extend(selector.device.iter().flat_map(|device| validate_label(device, &path.child("device"))));
    }
    errors.extend(validate_taint(&spec.taint, &taint_path));
    if old.is_none_or(|old| str_at(old, "/spec/taint/effect") != spec.taint.effect) {
        errors.extend(declared_taint(&spec.taint, &taint_path));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_has_a_taint_and_may_select() {
        let check = |spec: Value, old: Option<&Value>| -> Vec<String> {
            validate(&json!({"spec": spec}), old).iter().map(ToString::to_string).collect()
        };
        assert_eq!(check(json!({"taint": {"key": "a", "effect": "NoSchedule"}}), None), [""; 0]);
        let errors = check(json!({"deviceSelector": {"driver": "", "pool": "a//b"}, "taint": {"key": "a"}}), None);
        assert_eq!(errors[0], "spec.deviceSelector.driver: Required value");
        assert!(errors[1].starts_with(r#"spec.deviceSelector.pool: Invalid value: "": "#));
        assert_eq!(errors[2..], ["spec.taint.effect: Required value"]);
        let stored = json!({"spec": {"taint": {"key": "a", "effect": "Old"}}});
        assert_eq!(check(stored["spec"].clone(), Some(&stored)), [""; 0]);
    }

    #[test]
    fn a_new_effect_has_a_new_time() {
        let rule =
            |effect: &str, added: &str| json!({"metadata": {"generation": 1}, "spec": {"taint": {"effect": effect, "timeAdded": added}}});
        let cx = Cx { now: Timestamp::UNIX_EPOCH, subresource: "", namespace: "", user: "", uid: "", groups: &[], extra: &[] };
        let old = rule("None", "2026-01-01T00:00:00Z");
        let mut new = rule("NoExecute", "2026-01-01T00:00:00Z");
        Main.prepare_for_update(&cx, &mut new, &old);
        assert_eq!(new["spec"]["taint"]["timeAdded"], "1970-01-01T00:00:00Z");
        assert_eq!(new["metadata"]["generation"], 2);
        let mut chosen = rule("NoExecute", "2026-02-02T00:00:00Z");
        Main.prepare_for_update(&cx, &mut chosen, &old);
        assert_eq!(chosen["spec"]["taint"]["timeAdded"], "2026-02-02T00:00:00Z");
    }
}
