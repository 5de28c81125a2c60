//! Answers of upstream's field manager to random writes, recorded as one JSON object a line: `live`, `op` (`update` of `new`,
//! `apply` of `config`), `manager`, `force`, and the `result` or `error`. Times are all one and are no part of the comparison
//! but for their presence; order is compared elsewhere, since the recorded entries were sorted before their times were.

use serde_json::{Value, json};

use super::{
    made_types::{list, map, object},
    *,
};
use crate::schema::{ListKind, Type, TypeId, builtin};

const RECORDED: &str = include_str!("recorded.jsonl");

/// The custom kind of the recording: every kind of list and map, a part that keeps unknown fields and a free-form one.
fn custom_types() -> Types {
    let (s, of) = (|| Type::String, |id| Type::Struct(TypeId(id)));
    let keyed = ListKind::Map(vec!["k".into(), "p".into()]);
    let metadata = vec![
        ("name", s()),
        ("uid", s()),
        ("resourceVersion", s()),
        ("labels", map(s(), false)),
        ("managedFields", list(Type::Json, ListKind::Atomic)),
    ];
    let spec = vec![
        ("n", Type::Int64),
        ("ios", Type::IntOrString),
        ("items", list(of(3), keyed)),
        ("set", list(Type::Int64, ListKind::Set)),
        ("al", list(s(), ListKind::Atomic)),
        ("am", map(s(), true)),
        ("gm", map(of(4), false)),
        ("pu", of(5)),
        ("free", of(7)),
    ];
    let mut item = object(vec![("k", s()), ("p", s()), ("v", Type::Int64)], false);
    item.fields[1].default = Some(json!("T"));
    Types::new(vec![
        object(vec![("apiVersion", s()), ("kind", s()), ("metadata", of(1)), ("spec", of(2))], false),
        object(metadata, false),
        object(spec, false),
        item,
        object(vec![("a", s()), ("b", s())], false),
        object(vec![("known", of(6))], true),
        object(vec![("x", s())], false),
        object(vec![], false),
    ])
}

/// Entries sorted by owner, so that only their content is compared.
fn sorted(mut object: Value) -> Value {
    if let Some(Value::Array(entries)) = object.pointer_mut("/metadata/managedFields") {
        entries.sort_by_key(|e| format!("{} {} {}", e["operation"], e["manager"], e["apiVersion"]));
    }
    object
}

fn replay(case: &Value, custom: &Types) -> Result<Value, String> {
    let text = |field: &str| case[field].as_str().unwrap_or_default();
    let (types, root) = match text("mode") {
        "custom" => (custom, Root::Custom(TypeId(0))),
        "deduced" => (custom, Root::Deduced),
        _ => (builtin(), Root::Builtin(builtin().by_kind(text("group"), text("version"), text("kind")).unwrap())),
    };
    let api_version = format!("{}/{}", text("group"), text("version"));
    let api_version = api_version.trim_start_matches('/');
    let filter = Filter::All;
    let scope = Scope { types, root, api_version, kind: text("kind"), subresource: "", filter: &filter, converter: &OneVersion };
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let live = (!case["live"].is_null()).then_some(&case["live"]);
    if text("op") == "update" {
        let mut new = case["new"].clone();
        on_update(&scope, live, &mut new, text("manager"), now, false);
        return Ok(new);
    }
    apply(&scope, live, &case["config"], text("manager"), now, case["force"] == true).map_err(|e| e.to_string())
}

#[test]
fn recorded_writes_have_the_recorded_outcome() {
    let custom = custom_types();
    for (i, line) in RECORDED.lines().enumerate() {
        let case: Value = serde_json::from_str(line).unwrap();
        let expected = match &case["error"] {
            Value::String(message) => Err(message.clone()),
            _ => Ok(sorted(case["result"].clone())),
        };
        assert_eq!(replay(&case, &custom).map(sorted), expected, "line {}", i + 1);
    }
}
