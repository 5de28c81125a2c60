//! Answers below `/apis/metrics.k8s.io/v1beta1`: what nodes and pods use, one by one or as lists. Nothing can be written or watched.

use std::sync::Arc;

use apimachinery::quantity::Quantity;
use apimachinery::status::Status;
use apimachinery::time::format_time;
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::gather::Snapshot;
use super::sample::Usage;
use super::{GROUP, ResourceMetrics, VERSION};
use crate::api::Api;
use crate::endpoints::negotiate::{self, Encoding, Offer, Transform};
use crate::endpoints::options::{ListOptions, Query};
use crate::endpoints::present::include_object;
use crate::endpoints::select::Filter;
use crate::endpoints::{Answer, respond};
use crate::filters::Authorized;
use crate::registry::read::str_at;
use crate::registry::table::{self, IncludeObject, Shown};
use crate::registry::{Column, Description, Printer, printer};
use crate::storage::Object;
use crate::system::watched::cache;

const OFFER: Offer =
    Offer { encodings: &[Encoding::Json, Encoding::Yaml], transforms: true, tables: true, stream: false, whole_as_protobuf: false };

/// Whether a request is for this file.
pub fn is_for(request: &Authorized) -> bool {
    request.info.is_resource && request.info.prefix == "apis" && request.info.group == GROUP && request.info.version == VERSION
}

/// Answers with what is used.
pub async fn serve(api: &Arc<Api>, metrics: &ResourceMetrics, request: &Authorized) -> Answer {
    let info = &request.info;
    let namespaced = match info.resource.as_str() {
        "nodes" if info.namespace.is_empty() => false,
        "pods" => true,
        _ => return Err(Status::generic(404, "", "", "", "", "")),
    };
    let name = info.parts.get(1).map(String::as_str);
    if info.parts.len() > 2 || (namespaced && name.is_some() && info.namespace.is_empty()) {
        return Err(Status::generic(404, "", "", "", "", ""));
    }
    if request.method != Method::GET || info.verb == "watch" {
        return Err(Status::generic(405, "", "", "", "", ""));
    }
    let query = Query::parse(&request.raw_query);
    let form = negotiate::output(&request.headers, query.get("pretty"), OFFER)?;
    let kind = if namespaced { "PodMetrics" } else { "NodeMetrics" };
    let answer = match name {
        Some(name) => {
            let object = cache(api, "", &info.resource).and_then(|objects| objects.get(&info.namespace, name));
            let snapshot = metrics.snapshot(api).await;
            let shown = if info.namespace.is_empty() { name.to_owned() } else { format!("{}/{name}", info.namespace) };
            let found = object.and_then(|object| show(&object, namespaced, &snapshot));
            typed(found.ok_or_else(|| Status::not_found(GROUP, &info.resource, &shown))?, kind)
        }
        None => {
            let options = ListOptions::parse(&query, false)?;
            let catalog = api.catalog.load_full();
            let resource = catalog.find("", "v1", &info.resource).ok_or_else(|| Status::generic(404, "", "", "", "", ""))?;
            let filter = Filter::parse(resource, &info.namespace, &options.label_selector, &options.field_selector)?;
            let snapshot = metrics.snapshot(api).await;
            let objects = cache(api, "", &info.resource).map(|objects| objects.snapshot());
            let chosen = objects.iter().flat_map(|objects| objects.range(&info.namespace, None)).filter(|object| filter.matches(object));
            let items: Vec<Value> = chosen.filter_map(|object| show(object, namespaced, &snapshot)).collect();
            typed(json!({ "metadata": {}, "items": items }), &format!("{kind}List"))
        }
    };
    let answer = match &form.transform {
        Transform::Table(version) => {
            let include = include_object(&form, query.get("includeObject").unwrap_or(""))?;
            tabled(&answer, kind, version, include, request.now)
        }
        Transform::None => answer,
        Transform::Metadata(_) | Transform::MetadataList(_) => {
            return Err(Status::not_acceptable(&["application/json", "application/yaml"]));
        }
    };
    respond::value(StatusCode::OK, &answer, &form)
}

/// Puts kind and version before an object's own fields.
fn typed(object: Value, kind: &str) -> Value {
    let mut out = Map::new();
    out.insert("kind".to_owned(), kind.into());
    out.insert("apiVersion".to_owned(), format!("{GROUP}/{VERSION}").into());
    if let Value::Object(fields) = object {
        out.extend(fields);
    }
    Value::Object(out)
}

/// What a node or a pod uses; `None` if that is not known.
fn show(object: &Object, is_pod: bool, snapshot: &Snapshot) -> Option<Value> {
    if !is_pod {
        let used = snapshot.get(object.name())?.node?;
        let mut shown = head(object, &used);
        shown["usage"] = usage(&used);
        return Some(shown);
    }
    let key = (object.namespace().to_owned(), object.name().to_owned());
    let containers = snapshot.values().find_map(|node| node.pods.get(&key))?;
    // The pod's numbers are as old as the oldest of them.
    let oldest = containers.values().min_by_key(|used| used.at_ms)?;
    let mut shown = head(object, oldest);
    shown["containers"] = containers.iter().map(|(name, used)| json!({ "name": name, "usage": usage(used) })).collect();
    Some(shown)
}

fn head(object: &Object, used: &Usage) -> Value {
    let at = format_time(Timestamp::from_millisecond(used.at_ms).unwrap_or(Timestamp::UNIX_EPOCH));
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), object.name().into());
    if !object.namespace().is_empty() {
        metadata.insert("namespace".to_owned(), object.namespace().into());
    }
    metadata.insert("creationTimestamp".to_owned(), at.clone().into());
    if let Some(labels) = object.value().pointer("/metadata/labels").filter(|labels| labels.is_object()) {
        metadata.insert("labels".to_owned(), labels.clone());
    }
    json!({ "metadata": metadata, "timestamp": at, "window": window(used.window_ms) })
}

/// As Go writes a duration.
fn window(milliseconds: i64) -> String {
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

fn usage(used: &Usage) -> Value {
    let canonical = |text: String| Quantity::parse(&text).map_or(text, |quantity| quantity.canonical());
    let memory = match used.memory_bytes % 1024 {
        0 => format!("{}Ki", used.memory_bytes / 1024),
        _ => used.memory_bytes.to_string(),
    };
    json!({ "cpu": canonical(format!("{}n", used.cpu_nano_cores)), "memory": canonical(memory) })
}

/// What people see of it.
const PRINTER: Printer = Printer {
    columns: &[
        printer::NAME,
        quantity("cpu", "CPU that is used, in cores"),
        quantity("memory", "Memory that is used and cannot be given back at once, in bytes"),
        Column {
            name: "Window",
            kind: "string",
            format: "duration",
            priority: 0,
            description: Description::Text("Over how long CPU was measured"),
        },
    ],
    cells: |object, _| {
        let total = |resource: &str| {
            let one = |usage: &Value| Quantity::parse(usage.get(resource)?.as_str()?).ok();
            let containers = object.get("containers").and_then(Value::as_array).into_iter().flatten().filter_map(|c| c.get("usage"));
            let all = object.get("usage").into_iter().chain(containers).filter_map(one);
            let sum = all.reduce(|sum, one| sum.plus(&one));
            Value::from(sum.map(|sum| sum.canonical()).unwrap_or_default())
        };
        vec![printer::name(object), total("cpu"), total("memory"), str_at(object, "/window").into()]
    },
};

const fn quantity(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "quantity", priority: 0, description: Description::Text(description) }
}

fn tabled(answer: &Value, kind: &str, version: &str, include: IncludeObject, now: Timestamp) -> Value {
    let items: Vec<Value> = match answer.get("items").and_then(Value::as_array) {
        Some(items) => items.iter().map(|item| typed(item.clone(), kind)).collect(),
        None => vec![answer.clone()],
    };
    let rows = items.iter().map(|item| Shown { printed: item, object: item });
    table::build(&PRINTER, version, rows, &json!({}), include, true, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_quantities() {
        let used = |cpu_nano_cores, memory_bytes| usage(&Usage { at_ms: 0, window_ms: 1000, cpu_nano_cores, memory_bytes });
        assert_eq!(used(1_234_567, 3 * 1024 * 1024), json!({"cpu": "1234567n", "memory": "3Mi"}));
        assert_eq!(used(250_000_000, 1000), json!({"cpu": "250m", "memory": "1k"}));
        assert_eq!(used(0, 0), json!({"cpu": "0", "memory": "0"}));
    }

    #[test]
    fn windows_are_written_as_go_writes_them() {
        for (milliseconds, expect) in [(1500, "1.5s"), (15_000, "15s"), (61_020, "1m1.02s"), (60_000, "1m0s")] {
            assert_eq!(window(milliseconds), expect);
        }
    }

    #[test]
    fn a_table_adds_up_what_containers_use() {
        let pod = json!({"metadata": {"name": "p"}, "window": "10s", "containers": [
            {"name": "a", "usage": {"cpu": "100m", "memory": "1Mi"}}, {"name": "b", "usage": {"cpu": "5m", "memory": "2Mi"}}]});
        let table =
            tabled(&typed(json!({"items": [pod]}), "PodMetricsList"), "PodMetrics", "v1", IncludeObject::None, Timestamp::UNIX_EPOCH);
        assert_eq!(table["rows"][0]["cells"], json!(["p", "105m", "3Mi", "10s"]));
    }
}
