//! core/v1 Event: also the form in which the events of events.k8s.io are stored.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation::{is_qualified_name, validate_path_segment_name};
use jiff::Timestamp;
use serde_json::Value;

use crate::registry::printer::{self, NAME};
use crate::registry::read::{at, int_at, str_at};
use crate::registry::{ALL_VERBS, Column, Cx, Definition, Description, Printer, Scope, Strategy, UpdateStrategy};

const TYPE: &str = "io.k8s.api.core.v1.Event";
const MAX_NAME: usize = 128;
const MAX_NOTE: usize = 1024;

pub static RESOURCE: Definition = Definition {
    group: "",
    version: "v1",
    plural: "events",
    singular: "event",
    kind: "Event",
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    short_names: &["ev"],
    categories: &[],
    schema: TYPE,
    // Names of these events have never been checked beyond what a path can hold.
    name: validate_path_segment_name,
    strategy: &EventStrategy,
    subresources: &[],
    selectable: &[
        ("involvedObject.apiVersion", |event| str_at(event, "/involvedObject/apiVersion").into()),
        ("involvedObject.fieldPath", |event| str_at(event, "/involvedObject/fieldPath").into()),
        ("involvedObject.kind", |event| str_at(event, "/involvedObject/kind").into()),
        ("involvedObject.name", |event| str_at(event, "/involvedObject/name").into()),
        ("involvedObject.namespace", |event| str_at(event, "/involvedObject/namespace").into()),
        ("involvedObject.resourceVersion", |event| str_at(event, "/involvedObject/resourceVersion").into()),
        ("involvedObject.uid", |event| str_at(event, "/involvedObject/uid").into()),
        ("reason", |event| str_at(event, "/reason").into()),
        ("reportingComponent", |event| str_at(event, "/reportingComponent").into()),
        ("source", |event| source(event).into()),
        ("type", |event| str_at(event, "/type").into()),
    ],
    printer: PRINTER,
    reset_fields: &[],
};

/// Who reports the event.
fn source(event: &Value) -> &str {
    match str_at(event, "/source/component") {
        "" => str_at(event, "/reportingComponent"),
        component => component,
    }
}

/// The table of events of either group.
pub const PRINTER: Printer = Printer {
    columns: &[
        printer::text("Last Seen", Description::Field(TYPE, "lastTimestamp")),
        printer::text("Type", Description::Field(TYPE, "type")),
        printer::text("Reason", Description::Field(TYPE, "reason")),
        printer::text("Object", Description::Field(TYPE, "involvedObject")),
        printer::wide("Subobject", Description::Field("io.k8s.api.core.v1.ObjectReference", "fieldPath")),
        printer::wide("Source", Description::Field(TYPE, "source")),
        printer::text("Message", Description::Field(TYPE, "message")),
        printer::wide("First Seen", Description::Field(TYPE, "firstTimestamp")),
        printer::wide("Count", Description::Field(TYPE, "count")),
        Column { priority: 1, ..NAME },
    ],
    cells,
};

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let or = |time: &Value, other: Value| if time.is_null() { other } else { printer::age(time, now) };
    let first = or(at(event, "/firstTimestamp"), printer::age(at(event, "/eventTime"), now));
    let (last, count) = match event.get("series") {
        Some(series) if !series.is_null() => (printer::age(at(series, "/lastObservedTime"), now), int_at(series, "/count")),
        _ => (
            or(at(event, "/lastTimestamp"), first.clone()),
            match int_at(event, "/count") {
                0 => 1,
                count => count,
            },
        ),
    };
    let kind = str_at(event, "/involvedObject/kind").to_lowercase();
    let object = match str_at(event, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let instance = match str_at(event, "/source/host") {
        "" => str_at(event, "/reportingInstance"),
        host => host,
    };
    let reporter = if instance.is_empty() { source(event).to_owned() } else { format!("{}, {instance}", source(event)) };
    vec![
        last,
        str_at(event, "/type").into(),
        str_at(event, "/reason").into(),
        object.into(),
        str_at(event, "/involvedObject/fieldPath").into(),
        reporter.into(),
        str_at(event, "/message").trim().into(),
        first,
        count.into(),
        printer::name(event),
    ]
}

struct EventStrategy;

impl UpdateStrategy for EventStrategy {
    fn prepare_for_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        validate(new, "reportingComponent")
    }
}

impl Strategy for EventStrategy {
    fn prepare_for_create(&self, _cx: &Cx<'_>, _new: &mut Value) {}

    fn validate(&self, _cx: &Cx<'_>, new: &Value) -> ErrorList {
        validate(new, "reportingComponent")
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

/// The rules that hold for the events of both groups; `reporter` is what the request's group calls the reporting controller.
pub fn validate(event: &Value, reporter: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let (namespace, involved) = (str_at(event, "/metadata/namespace"), str_at(event, "/involvedObject/namespace"));
    let timed = !at(event, "/eventTime").is_null();
    let fits = match (involved, timed) {
        ("", false) => matches!(namespace, "" | "default"),
        ("", true) => matches!(namespace, "default" | "kube-system"),
        (involved, false) => namespace == involved,
        (_, true) => true,
    };
    if !fits {
        let object = Path::new("involvedObject");
        errors.push(Error::invalid(&object.child("namespace"), involved, "does not match event.namespace"));
    }
    if timed {
        errors.extend(validate_timed(event, reporter));
    }
    errors
}

/// What an event with a time of its own must tell.
fn validate_timed(event: &Value, reporter: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let controller = str_at(event, "/reportingComponent");
    let path = Path::new(reporter);
    if controller.is_empty() {
        errors.push(Error::required(&path, ""));
    }
    errors.extend(is_qualified_name(controller).into_iter().map(|message| Error::invalid(&path, controller, message)));
    for (field, required, max) in
        [("reportingInstance", true, MAX_NAME), ("action", true, MAX_NAME), ("reason", true, MAX_NAME), ("message", false, MAX_NOTE)]
    {
        let value = event.get(field).and_then(Value::as_str).unwrap_or("");
        let path = Path::new(field);
        if required && value.is_empty() {
            errors.push(Error::required(&path, ""));
        }
        if value.len() > max {
            errors.push(Error::invalid(&path, "", format!("can have at most {max} characters")));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::core::tests::{cx, messages};

    #[test]
    fn an_event_is_where_its_object_is() {
        let event = |namespace: &str, involved: &str, time: Value| {
            json!({"metadata": {"namespace": namespace}, "involvedObject": {"namespace": involved}, "eventTime": time,
                "reportingComponent": "a", "reportingInstance": "b", "action": "c", "reason": "d"})
        };
        let time = json!("2020-01-01T00:00:00.000000Z");
        for (namespace, involved, time, errors) in [
            ("a", "a", Value::Null, 0),
            ("a", "b", Value::Null, 1),
            ("default", "", Value::Null, 0),
            ("kube-system", "", Value::Null, 1),
            ("kube-system", "", time.clone(), 0),
            ("a", "b", time, 0),
        ] {
            assert_eq!(EventStrategy.validate(&cx(), &event(namespace, involved, time)).len(), errors, "{namespace} {involved}");
        }
    }

    #[test]
    fn an_event_with_a_time_tells_who_and_what() {
        let event = json!({"metadata": {"namespace": "default"}, "eventTime": "2020-01-01T00:00:00.000000Z", "message": "x".repeat(1025)});
        let text = messages(&EventStrategy.validate(&cx(), &event));
        assert_eq!(text[0], "reportingComponent: Required value");
        assert_eq!(
            text[text.len() - 4..],
            [
                "reportingInstance: Required value",
                "action: Required value",
                "reason: Required value",
                "message: Invalid value: \"\": can have at most 1024 characters",
            ]
        );
    }

    #[test]
    fn the_table_tells_when_what_and_who() {
        let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "type": "Warning", "reason": "R", "message": " m\n",
            "count": 3, "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:00:30Z", "source": {"component": "k", "host": "h"}});
        assert_eq!(
            cells(&event, Timestamp::from_second(60).unwrap()),
            [
                json!("30s"),
                json!("Warning"),
                json!("R"),
                json!("pod/p"),
                json!(""),
                json!("k, h"),
                json!("m"),
                json!("60s"),
                json!(3),
                json!("e")
            ]
        );
    }
}
