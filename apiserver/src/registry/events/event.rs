//! events.k8s.io/v1 Event.
//!
//! Strategy, selectable fields and printer see the stored form, core/v1; see [`super::conversion`].

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{FIELD_IMMUTABLE, name_is_dns_subdomain};
use serde_json::{Map, Value, json};

use crate::registry::core::event::{self as core_event, PRINTER};
use crate::registry::read::{at, int_at, str_at};
use crate::registry::{ALL_VERBS, Cx, Definition, Scope, Strategy, UpdateStrategy};

pub static RESOURCE: Definition = Definition {
    group: "events.k8s.io",
    version: "v1",
    plural: "events",
    singular: "event",
    kind: "Event",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["ev"],
    categories: &[],
    schema: "io.k8s.api.events.v1.Event",
    name: name_is_dns_subdomain,
    strategy: &EventStrategy,
    subresources: &[],
    selectable: &[
        ("reason", |event| str_at(event, "/reason").into()),
        ("regarding.apiVersion", |event| str_at(event, "/involvedObject/apiVersion").into()),
        ("regarding.fieldPath", |event| str_at(event, "/involvedObject/fieldPath").into()),
        ("regarding.kind", |event| str_at(event, "/involvedObject/kind").into()),
        ("regarding.name", |event| str_at(event, "/involvedObject/name").into()),
        ("regarding.namespace", |event| str_at(event, "/involvedObject/namespace").into()),
        ("regarding.resourceVersion", |event| str_at(event, "/involvedObject/resourceVersion").into()),
        ("regarding.uid", |event| str_at(event, "/involvedObject/uid").into()),
        ("reportingController", |event| str_at(event, "/reportingComponent").into()),
        ("type", |event| str_at(event, "/type").into()),
    ],
    printer: PRINTER,
    reset_fields: &[],
};

struct EventStrategy;

impl UpdateStrategy for EventStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errors = core_event::validate(new, "reportingController");
        if new.get("series") != old.get("series") {
            errors.extend(validate_series(new));
        }
        errors.extend(validate_unchanged(new, old));
        errors
    }
}

impl Strategy for EventStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, cx: &Cx<'_>, new: &Value) -> ErrorList {
        self.validate_whole(cx, new, ErrorList::new())
    }

    fn validate_whole(&self, _cx: &Cx<'_>, new: &Value, metadata: ErrorList) -> ErrorList {
        let mut errors = core_event::validate(new, "reportingController");
        errors.extend(metadata);
        errors.extend(validate_series(new));
        if at(new, "/eventTime").is_null() {
            errors.push(Error::required(&Path::new("eventTime"), ""));
        }
        let kind = str_at(new, "/type");
        if !matches!(kind, "Normal" | "Warning") {
            errors.push(Error::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
        }
        let mut must_be_unset = |field: &'static str, is_set: bool| {
            if is_set {
                errors.push(Error::invalid(&Path::new(field), "", "needs to be unset"));
            }
        };
        must_be_unset("firstTimestamp", !at(new, "/firstTimestamp").is_null());
        must_be_unset("lastTimestamp", !at(new, "/lastTimestamp").is_null());
        must_be_unset("count", int_at(new, "/count") != 0);
        must_be_unset("source", !str_at(new, "/source/component").is_empty() || !str_at(new, "/source/host").is_empty());
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

/// A series is of at least two, the last of which was seen at some time.
fn validate_series(event: &Value) -> ErrorList {
    let Some(series) = event.get("series").filter(|series| !series.is_null()) else { return ErrorList::new() };
    let mut errors = ErrorList::new();
    if int_at(series, "/count") < 2 {
        errors.push(Error::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if at(series, "/lastObservedTime").is_null() {
        errors.push(Error::required(&Path::new("series.lastObservedTime"), ""));
    }
    errors
}

/// Only the series of an event changes. Fields are named and shown as in upstream's internal type.
fn validate_unchanged(new: &Value, old: &Value) -> ErrorList {
    let number = |event: &Value, field: &str| json!(event.get(field).and_then(Value::as_i64).unwrap_or(0));
    let text = |event: &Value, field: &str| json!(event.get(field).and_then(Value::as_str).unwrap_or(""));
    let time = |event: &Value, field: &str| event.get(field).cloned().unwrap_or_default();
    let source = |event: &Value, field: &str| {
        let source = event.get(field).unwrap_or(&Value::Null);
        json!({"Component": str_at(source, "/component"), "Host": str_at(source, "/host")})
    };
    let related = |event: &Value, field: &str| event.get(field).filter(|value| !value.is_null()).map(reference).unwrap_or_default();
    type Show<'a> = &'a dyn Fn(&Value, &str) -> Value;
    let fields: [(&str, &str, Show<'_>); 13] = [
        ("involvedObject", "involvedObject", &|event, field| reference(event.get(field).unwrap_or(&Value::Null))),
        ("reason", "reason", &text),
        ("message", "message", &text),
        ("source", "source", &source),
        ("firstTimestamp", "firstTimestamp", &time),
        ("lastTimestamp", "lastTimestamp", &time),
        ("count", "count", &number),
        ("type", "type", &text),
        ("eventTime", "eventTime", &time),
        ("action", "action", &text),
        ("related", "related", &related),
        ("reportingComponent", "reportingController", &text),
        ("reportingInstance", "reportingInstance", &text),
    ];
    let mut errors = ErrorList::new();
    for (field, name, show) in fields {
        let (after, before) = (show(new, field), show(old, field));
        if after != before {
            errors.push(Error::invalid(&Path::new(name), after, FIELD_IMMUTABLE));
        }
    }
    errors
}

/// An object reference with Go's field names, nothing left out.
fn reference(value: &Value) -> Value {
    let names = [
        ("Kind", "kind"),
        ("Namespace", "namespace"),
        ("Name", "name"),
        ("UID", "uid"),
        ("APIVersion", "apiVersion"),
        ("ResourceVersion", "resourceVersion"),
        ("FieldPath", "fieldPath"),
    ];
    let print = |(go, field): (&str, &str)| (go.to_owned(), value.get(field).cloned().unwrap_or_else(|| "".into()));
    Value::Object(names.into_iter().map(print).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::core::tests::{cx, messages};

    #[test]
    fn a_new_event_is_of_the_new_kind() {
        let event = json!({"metadata": {"namespace": "ns"}, "involvedObject": {}, "count": 1, "source": {"host": "h"}});
        assert_eq!(
            messages(&EventStrategy.validate(&cx(), &event)),
            [
                "involvedObject.namespace: Invalid value: \"\": does not match event.namespace",
                "eventTime: Required value",
                "type: Invalid value: \"\": has invalid value: ",
                "count: Invalid value: \"\": needs to be unset",
                "source: Invalid value: \"\": needs to be unset",
            ]
        );
    }

    #[test]
    fn only_the_series_changes() {
        let old = json!({"metadata": {"namespace": "default"}, "involvedObject": {"kind": "Pod"}, "reason": "a"});
        let mut new = old.clone();
        new["involvedObject"] = json!({"kind": "Node"});
        new["reason"] = "b".into();
        new["series"] = json!({"count": 1});
        assert_eq!(
            messages(&EventStrategy.validate_update(&cx(), &new, &old)),
            [
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
                "involvedObject: Invalid value: {\"Kind\":\"Node\",\"Namespace\":\"\",\"Name\":\"\",\"UID\":\"\",\"APIVersion\":\"\",\"ResourceVersion\":\"\",\"FieldPath\":\"\"}: field is immutable",
                "reason: Invalid value: \"b\": field is immutable",
            ]
        );
    }
}
