//! PriorityClasses: names for how important pods are.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{name_is_dns_subdomain, validate_immutable_field};
use jiff::Timestamp;
use serde_json::Value;

use crate::registry::printer::{self, boolean, integer, text};
use crate::registry::read::{at, bool_at, int_at, str_at};
use crate::registry::strategy::{generation, set_generation};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

/// The highest value that a class of a user may have.
pub const HIGHEST_USER_DEFINABLE_PRIORITY: i64 = 1_000_000_000;

/// The classes that the system makes for itself: name and value. None is the default.
pub const SYSTEM_CLASSES: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

const SYSTEM_PREFIX: &str = "system-";

pub static RESOURCE: Definition = Definition {
    group: "scheduling.k8s.io",
    version: "v1",
    plural: "priorityclasses",
    singular: "priorityclass",
    kind: "PriorityClass",
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    short_names: &["pc"],
    categories: &[],
    schema: "io.k8s.api.scheduling.v1.PriorityClass",
    name: name_is_dns_subdomain,
    strategy: &Main,
    subresources: &[],
    selectable: &[],
    printer: Printer { columns: COLUMNS, cells: row },
    reset_fields: &[],
};

const SCHEMA: &str = "io.k8s.api.scheduling.v1.PriorityClass";

const COLUMNS: &[Column] = &[
    printer::NAME,
    integer("Value", Description::Field(SCHEMA, "value")),
    boolean("Global-Default", Description::Field(SCHEMA, "globalDefault")),
    printer::AGE,
    text("PreemptionPolicy", Description::Field(SCHEMA, "preemptionPolicy")),
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        printer::name(object),
        int_at(object, "/value").into(),
        bool_at(object, "/globalDefault").into(),
        printer::object_age(object, now),
        str_at(object, "/preemptionPolicy").into(),
    ]
}

struct Main;

impl Strategy for Main {
    fn prepare_for_create(&self, _cx: &Cx<'_>, new: &mut Value) {
        set_generation(new, 1);
    }

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        let (name, value) = (str_at(new, "/metadata/name"), int_at(new, "/value"));
        let mut errors = Vec::new();
        if name.starts_with(SYSTEM_PREFIX) {
            if let Err(problem) = is_known_system_class(name, value, bool_at(new, "/globalDefault")) {
                let detail =
                    format!("priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {problem}");
                errors.push(Error::forbidden(&Path::new("metadata.name"), detail));
            }
        } else if value > HIGHEST_USER_DEFINABLE_PRIORITY {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_DEFINABLE_PRIORITY}");
            errors.push(Error::forbidden(&Path::new("value"), detail));
        }
        errors.extend(validate_preemption_policy(at(new, "/preemptionPolicy").as_str()));
        errors
    }
}

impl UpdateStrategy for Main {
    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if generation(old) != 0 {
            set_generation(new, generation(old));
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = Vec::new();
        if int_at(new, "/value") != int_at(old, "/value") {
            errors.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        let policy = "/preemptionPolicy";
        errors.extend(validate_immutable_field(at(new, policy), at(old, policy), &Path::new("preemptionPolicy")));
        errors
    }
}

fn is_known_system_class(name: &str, value: i64, global_default: bool) -> Result<(), String> {
    let Some((_, known)) = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if value != *known {
        return Err(format!("value of {name} PriorityClass must be {known}"));
    }
    if global_default {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

fn validate_preemption_policy(policy: Option<&str>) -> ErrorList {
    let path = Path::new("preemptionPolicy");
    match policy {
        None | Some("PreemptLowerPriority" | "Never") => Vec::new(),
        Some("") => vec![Error::required(&path, "")],
        Some(other) => vec![Error::not_supported(&path, other, &["PreemptLowerPriority", "Never"])],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn system_classes_are_exactly_those_known() {
        let cx = Cx { now: Timestamp::UNIX_EPOCH, subresource: "", namespace: "", user: "u", uid: "", groups: &[], extra: &[] };
        let check = |name: &str, value: i64| {
            let object = json!({"metadata": {"name": name}, "value": value, "preemptionPolicy": "Never"});
            Main.validate(&cx, &object).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(check("system-node-critical", 2_000_001_000).is_empty());
        assert!(check("mine", 1_000_000_000).is_empty());
        assert_eq!(check("mine", 1_000_000_001), ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]);
        assert_eq!(
            check("system-x", 1),
            [
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class"
            ]
        );
        assert_eq!(
            check("system-cluster-critical", 1),
            [
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of system-cluster-critical PriorityClass must be 2000000000"
            ]
        );
    }
}
