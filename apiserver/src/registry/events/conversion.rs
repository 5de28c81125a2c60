//! Events between their two groups: events.k8s.io/v1 as clients speak it, core/v1 as it is stored.
//!
//! The groups differ in the names of a few fields and in what they print when a field is empty; nothing is lost either way.

use serde_json::{Map, Value};

/// How a field that is absent is printed.
#[derive(Clone, Copy)]
enum Empty {
    /// Not at all.
    Omitted,
    /// As the zero value of its type.
    Null,
    Text,
    Struct,
}

use Empty::{Null, Omitted, Struct, Text};

/// A field: its name in core/v1, its name in events.k8s.io/v1, and how each prints it when empty.
struct Field {
    core: &'static str,
    events: &'static str,
    empty_core: Empty,
    empty_events: Empty,
}

const fn field(core: &'static str, events: &'static str, empty_core: Empty, empty_events: Empty) -> Field {
    Field { core, events, empty_core, empty_events }
}

/// In the order of core/v1.
const FIELDS: [Field; 15] = [
    field("involvedObject", "regarding", Struct, Struct),
    field("reason", "reason", Omitted, Omitted),
    field("message", "note", Omitted, Omitted),
    field("source", "deprecatedSource", Struct, Struct),
    field("firstTimestamp", "deprecatedFirstTimestamp", Null, Null),
    field("lastTimestamp", "deprecatedLastTimestamp", Null, Null),
    field("count", "deprecatedCount", Omitted, Omitted),
    field("type", "type", Omitted, Omitted),
    field("eventTime", "eventTime", Null, Null),
    field("series", "series", Omitted, Omitted),
    field("action", "action", Omitted, Omitted),
    field("related", "related", Omitted, Omitted),
    field("reportingComponent", "reportingController", Text, Omitted),
    field("reportingInstance", "reportingInstance", Text, Omitted),
    field("metadata", "metadata", Omitted, Omitted),
];

/// The order of events.k8s.io/v1.
const EVENTS_ORDER: [&str; 15] = [
    "metadata",
    "eventTime",
    "series",
    "reportingController",
    "reportingInstance",
    "action",
    "reason",
    "regarding",
    "related",
    "note",
    "type",
    "deprecatedSource",
    "deprecatedFirstTimestamp",
    "deprecatedLastTimestamp",
    "deprecatedCount",
];

/// An events.k8s.io/v1 Event as core/v1 stores it.
pub fn to_core(event: Value) -> Value {
    let mut out = header("v1");
    put(&mut out, "metadata", event.get("metadata"), Omitted);
    for field in FIELDS.iter().filter(|field| field.core != "metadata") {
        put(&mut out, field.core, event.get(field.events), field.empty_core);
    }
    if let Some(series) = out.get_mut("series").and_then(Value::as_object_mut) {
        if series.get("count").and_then(Value::as_i64) == Some(0) {
            series.shift_remove("count");
        }
        series.entry("lastObservedTime").or_insert(Value::Null);
    }
    Value::Object(out)
}

/// A core/v1 Event as events.k8s.io/v1 shows it.
pub fn from_core(event: Value) -> Value {
    let mut out = header("events.k8s.io/v1");
    for name in EVENTS_ORDER {
        if let Some(field) = FIELDS.iter().find(|field| field.events == name) {
            put(&mut out, name, event.get(field.core), field.empty_events);
        }
    }
    if let Some(series) = out.get_mut("series").and_then(Value::as_object_mut) {
        series.entry("count").or_insert(0.into());
        series.entry("lastObservedTime").or_insert(Value::Null);
    }
    Value::Object(out)
}

fn header(version: &str) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("kind".to_owned(), "Event".into());
    out.insert("apiVersion".to_owned(), version.into());
    out
}

fn put(out: &mut Map<String, Value>, name: &str, value: Option<&Value>, empty: Empty) {
    let given = value.filter(|value| !value.is_null() && *value != "").cloned();
    let value = given.or(match empty {
        Omitted => None,
        Null => Some(Value::Null),
        Text => Some("".into()),
        Struct => Some(Value::Object(Map::new())),
    });
    if let Some(value) = value {
        out.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_survives_both_ways() {
        let event = json!({
            "kind": "Event", "apiVersion": "events.k8s.io/v1", "metadata": {"name": "e"}, "eventTime": "2017-08-09T15:04:05.000000Z",
            "series": {"count": 2, "lastObservedTime": null}, "reportingController": "k8s.io/c", "reportingInstance": "i", "action": "a", "reason": "r",
            "regarding": {"namespace": "n"}, "related": {"name": "x"}, "note": "text", "type": "Normal", "deprecatedSource": {"host": "h"},
            "deprecatedFirstTimestamp": "2017-08-09T15:04:05Z", "deprecatedLastTimestamp": null, "deprecatedCount": 3,
        });
        let core = to_core(event.clone());
        assert_eq!(core["message"], "text");
        assert_eq!(core["involvedObject"], json!({"namespace": "n"}));
        assert_eq!(core["reportingComponent"], "k8s.io/c");
        assert_eq!(from_core(core).to_string(), event.to_string());
    }

    #[test]
    fn empty_fields_print_as_each_group_does() {
        let core = to_core(json!({"metadata": {}}));
        assert_eq!(
            core.to_string(),
            json!({"kind": "Event", "apiVersion": "v1", "metadata": {}, "involvedObject": {}, "source": {}, "firstTimestamp": null,
                "lastTimestamp": null, "eventTime": null, "reportingComponent": "", "reportingInstance": ""})
            .to_string()
        );
        assert_eq!(
            from_core(core).to_string(),
            json!({"kind": "Event", "apiVersion": "events.k8s.io/v1", "metadata": {}, "eventTime": null, "regarding": {}, "deprecatedSource": {},
                "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": null})
            .to_string()
        );
    }
}
