//! Whole requests against the built-in schema: what a sequence of writes leaves in `managedFields`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::schema::builtin;

const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-02T00:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn scope<'a>(api_version: &'a str, kind: &'a str, filter: &'a Filter) -> Scope<'a> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let id = builtin().by_kind(group, version, kind).unwrap();
    Scope { types: builtin(), root: Root::Builtin(id), api_version, kind, subresource: "", filter, converter: &OneVersion }
}

fn config_map(data: Value) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "n"}, "data": data})
}

/// `manager operation fieldsV1` of each entry.
fn owners(object: &Value) -> Vec<String> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    entries.iter().map(|e| format!("{} {} {}", text(e, "manager"), text(e, "operation"), e["fieldsV1"])).collect()
}

/// A ConfigMap that the server would store after `apply`.
fn applied(live: Option<&Value>, data: Value, manager: &str, force: bool) -> Result<Value, ApplyError> {
    let scope = scope("v1", "ConfigMap", &Filter::All);
    let mut object = apply(&scope, live, &config_map(data), manager, at(EARLY), force)?;
    object["metadata"]["uid"] = "u".into();
    if object["data"].is_null() {
        object.as_object_mut().unwrap().shift_remove("data");
    }
    Ok(object)
}

#[test]
fn appliers_own_share_and_let_go_of_fields() {
    let one = applied(None, json!({"a": "1", "b": "1"}), "one", false).unwrap();
    assert_eq!(owners(&one), [r#"one Apply {"f:data":{"f:a":{},"f:b":{}}}"#]);
    let less = applied(Some(&one), json!({"a": "2"}), "one", false).unwrap();
    assert_eq!(less["data"], json!({"a": "2"}));
    let shared = applied(Some(&less), json!({"a": "2", "c": "1"}), "two", false).unwrap();
    assert_eq!(owners(&shared), [r#"one Apply {"f:data":{"f:a":{}}}"#, r#"two Apply {"f:data":{"f:a":{},"f:c":{}}}"#]);
    let conflict = applied(Some(&shared), json!({"a": "4", "c": "4"}), "three", false).unwrap_err();
    assert_eq!(
        conflict.to_string(),
        "Apply failed with 3 conflicts: conflicts with \"one\":\n- .data.a\nconflicts with \"two\":\n- .data.a\n- .data.c"
    );
    let forced = applied(Some(&shared), json!({"a": "3", "c": "1"}), "two", true).unwrap();
    assert_eq!(owners(&forced), [r#"two Apply {"f:data":{"f:a":{},"f:c":{}}}"#]);
    // Owning an empty map changes nothing in the object, so the new entry has no time.
    let dropped = applied(Some(&forced), json!({}), "one", false).unwrap();
    assert_eq!(owners(&dropped), [r#"one Apply {"f:data":{}}"#, r#"two Apply {"f:data":{"f:a":{},"f:c":{}}}"#]);
    assert_eq!(dropped["metadata"]["managedFields"][0].get("time"), None);
    let gone = applied(Some(&dropped), json!({"c": "1"}), "two", false).unwrap();
    assert_eq!(gone["data"], json!({"c": "1"}));
}

#[test]
fn an_update_takes_ownership_and_a_conflict_names_it() {
    let filter = Filter::All;
    let scope = scope("v1", "ConfigMap", &filter);
    let live = applied(None, json!({"a": "1", "b": "1"}), "one", false).unwrap();
    let mut new = live.clone();
    new["data"] = json!({"a": "x"});
    on_update(&scope, Some(&live), &mut new, "tool", at(LATE), false);
    assert_eq!(owners(&new), [r#"tool Update {"f:data":{"f:a":{}}}"#]);
    let conflict = applied(Some(&new), json!({"a": "y"}), "one", false).unwrap_err();
    assert_eq!(conflict.to_string(), "Apply failed with 1 conflict: conflict with \"tool\" using v1: .data.a");
    let ApplyError::Conflict(conflicts) = conflict else { panic!("not a conflict") };
    let cause = Cause { reason: "FieldManagerConflict", message: "conflict with \"tool\" using v1".into(), field: ".data.a".into() };
    assert_eq!(conflicts.causes(), [cause]);
}

#[test]
fn a_write_that_changes_nothing_keeps_every_time() {
    let filter = Filter::All;
    let scope = scope("v1", "ConfigMap", &filter);
    let mut live = config_map(json!({"a": "1"}));
    live["metadata"]["uid"] = "u".into();
    let mut created = live.clone();
    on_update(&scope, None, &mut created, "tool", at(EARLY), false);
    assert_eq!(owners(&created), [r#"tool Update {"f:data":{".":{},"f:a":{}}}"#]);
    let mut again = created.clone();
    again["metadata"].as_object_mut().unwrap().shift_remove("managedFields");
    on_update(&scope, Some(&created), &mut again, "other", at(LATE), false);
    assert_eq!(again, created);
    let same = apply(&scope, Some(&created), &config_map(json!({"a": "1"})), "one", at(LATE), false).unwrap();
    assert_eq!(owners(&same).len(), 2);
}

#[test]
fn a_created_deployment_is_owned_as_the_reference_says() {
    let filter = Filter::except(&["status"]);
    let scope = scope("apps/v1", "Deployment", &filter);
    let mut new = json!({
        "kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "d"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {}}],
                "securityContext": {}, "imagePullSecrets": [{"name": "s"}],
            }},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
        },
        "status": {},
    });
    on_update(&scope, None, &mut new, "difftool", at(EARLY), false);
    let expected = json!({"f:spec": {
        "f:replicas": {}, "f:selector": {},
        "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
        "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
            "f:containers": {"k:{\"name\":\"c\"}": {
                ".": {}, "f:image": {}, "f:name": {},
                "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                "f:resources": {},
            }},
            "f:imagePullSecrets": {".": {}, "k:{\"name\":\"s\"}": {}},
            "f:securityContext": {},
        }},
    }});
    assert_eq!(new["metadata"]["managedFields"][0]["fieldsV1"].to_string(), expected.to_string());
    assert_eq!(new["metadata"]["managedFields"][0]["time"], EARLY);
}

#[test]
fn the_request_may_set_or_reset_entries_but_not_through_a_subresource() {
    let filter = Filter::All;
    let main = scope("v1", "ConfigMap", &filter);
    let live = applied(None, json!({"a": "1"}), "one", false).unwrap();
    for (entries, reset, expected) in
        [(json!([{}]), false, 0), (Value::Null, true, 0), (json!([{"manager": "x", "operation": "Nope"}]), false, 1)]
    {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = entries;
        on_update(&main, Some(&live), &mut new, "tool", at(LATE), reset);
        assert_eq!(owners(&new).len(), expected);
    }
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    on_update(&Scope { subresource: "status", ..main }, Some(&live), &mut new, "tool", at(LATE), false);
    assert_eq!(owners(&new), owners(&live));
}

#[test]
fn configurations_that_do_not_fit_are_refused_in_upstreams_words() {
    let scope = scope("v1", "ConfigMap", &Filter::All);
    let refuse = |config: Value| apply(&scope, None, &config, "x", at(EARLY), false).unwrap_err();
    let with = |field: &str, value: Value| {
        let mut config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad"}});
        config[field] = value;
        config
    };
    let prefix = "failed to create typed patch object (/bad; /v1, Kind=ConfigMap): ";
    for (config, message) in [
        (with("data", json!({"a": 5})), ".data.a: expected string, got &value.valueUnstructured{Value:5}"),
        (with("data", json!("str")), ".data: expected map, got &{str}"),
        (with("nosuch", json!(1)), ".nosuch: field not declared in schema"),
    ] {
        assert_eq!(refuse(config), ApplyError::Internal(format!("{prefix}{message}")));
    }
    assert_eq!(refuse(json!({"kind": "ConfigMap"})).to_string(), "invalid object type: /, Kind=ConfigMap");
    assert_eq!(refuse(with("apiVersion", json!("apps/v1"))).to_string(), "invalid object type: apps/v1, Kind=ConfigMap");
    assert_eq!(refuse(with("metadata", json!({"managedFields": [{"manager": "x"}]}))).to_string(), "metadata.managedFields must be nil");
}

#[test]
fn untracked_objects_stay_untracked_until_the_first_apply() {
    let filter = Filter::All;
    let scope = scope("v1", "ConfigMap", &filter);
    let mut live = config_map(json!({"a": "1"}));
    live["metadata"]["uid"] = "u".into();
    let mut new = live.clone();
    new["data"]["a"] = "2".into();
    on_update(&scope, Some(&live), &mut new, "tool", at(EARLY), false);
    assert!(owners(&new).is_empty());
    let object = apply(&scope, Some(&live), &config_map(json!({"b": "1"})), "one", at(EARLY), false).unwrap();
    assert_eq!(owners(&object), [r#"one Apply {"f:data":{"f:b":{}}}"#, r#"before-first-apply Update {"f:data":{".":{},"f:a":{}}}"#]);
}

#[test]
fn the_eleventh_updater_merges_the_oldest_two() {
    let filter = Filter::All;
    let scope = scope("v1", "ConfigMap", &filter);
    let mut object = config_map(json!({}));
    object["metadata"]["uid"] = "u".into();
    let mut live: Option<Value> = None;
    for i in 0..12 {
        object["data"][format!("k{i:02}")] = "v".into();
        let time = at(EARLY) + jiff::SignedDuration::from_secs(i);
        on_update(&scope, live.as_ref(), &mut object, &format!("m{i:02}"), time, false);
        live = Some(object.clone());
    }
    let owners = owners(&object);
    assert_eq!(owners.len(), 10);
    assert_eq!(owners[0], r#"ancient-changes Update {"f:data":{".":{},"f:k00":{},"f:k01":{},"f:k02":{}}}"#);
    assert_eq!(object["metadata"]["managedFields"][0]["time"], "2026-01-01T00:00:02Z");
}

#[test]
fn kubectl_takes_over_what_client_side_apply_set() {
    let filter = Filter::All;
    let scope = scope("v1", "ConfigMap", &filter);
    let mut live = config_map(json!({"a": "1", "b": "1"}));
    live["metadata"]["uid"] = "u".into();
    let last = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"n"},"data":{"a":"1","b":"old"}}"#;
    live["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    let mut created = live.clone();
    on_update(&scope, None, &mut created, "kubectl-client-side-apply", at(EARLY), false);
    let taken = apply(&scope, Some(&created), &config_map(json!({"a": "2"})), "kubectl", at(LATE), false).unwrap();
    assert_eq!(taken["data"]["a"], "2");
    assert_eq!(
        taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"],
        "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"2\"},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\",\"namespace\":\"n\"}}\n"
    );
    let refused = apply(&scope, Some(&created), &config_map(json!({"a": "2", "b": "2"})), "kubectl", at(LATE), false).unwrap_err();
    assert_eq!(refused.to_string(), "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.b");
}

#[test]
fn lists_merge_by_key_and_keep_the_order_of_both() {
    let filter = Filter::All;
    let scope = scope("v1", "Pod", &filter);
    let pod = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}})
    };
    for (live, config, expected) in [
        (&["a", "b", "c"][..], &["c", "a"][..], &["b", "c", "a"][..]),
        (&["a", "b"], &["x", "b"], &["a", "x", "b"]),
        (&["a", "b", "c", "d"], &["b", "d", "new"], &["a", "b", "c", "d", "new"]),
        (&["c", "b", "a"], &["a", "b", "c"], &["a", "b", "c"]),
    ] {
        let merged = apply(&scope, Some(&pod(live)), &pod(config), "m", at(EARLY), true).unwrap();
        let names: Vec<&str> = merged["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{config:?} onto {live:?}");
    }
}

#[test]
fn times_alone_are_no_change() {
    let entry = |time: &str| json!({"manager": "m", "operation": "Apply", "apiVersion": "v1", "time": time, "fieldsV1": {}});
    let object = |time: &str, x: i32| json!({"metadata": {"name": "a", "managedFields": [entry(time)]}, "x": x});
    let mut new = object(LATE, 1);
    keep_timestamps(&object(EARLY, 1), &mut new);
    assert_eq!(new, object(EARLY, 1));
    let mut new = object(LATE, 2);
    keep_timestamps(&object(EARLY, 1), &mut new);
    assert_eq!(new, object(LATE, 2));
}

#[test]
fn replicas_change_hands_through_the_scale() {
    let paths: ReplicasPaths<'_> = &[("apps/v1", Some("spec.replicas"))];
    let entry = |manager: &str, version: &str, fields: Value| json!({"manager": manager, "operation": "Update", "apiVersion": version, "time": EARLY, "fieldsType": "FieldsV1", "fieldsV1": fields});
    let replicas = json!({"f:spec": {"f:replicas": {}}});
    let parent = [entry("a", "apps/v1", json!({"f:spec": {"f:paused": {}, "f:replicas": {}}}))];
    let scale = to_scale(&parent, paths).unwrap().unwrap();
    assert_eq!(scale, json!([entry("a", "autoscaling/v1", replicas.clone())]));
    let after = from_scale(&parent, &[entry("b", "autoscaling/v1", replicas.clone())], paths, "apps/v1").unwrap().unwrap();
    let mut taken = entry("b", "apps/v1", replicas);
    taken.as_object_mut().unwrap().remove("time");
    assert_eq!(after, json!([taken, entry("a", "apps/v1", json!({"f:spec": {"f:paused": {}}}))]));
}

/// Autoscalers at both of their versions; only what they have in common is carried over.
struct Autoscalers;

impl Converter for Autoscalers {
    fn convert<'a>(&'a self, object: &Value, api_version: &str) -> Result<Option<Converted<'a>>, String> {
        let Some(version) = api_version.strip_prefix("autoscaling/").filter(|v| ["v1", "v2"].contains(v)) else { return Ok(None) };
        let id = builtin().by_kind("autoscaling", version, "HorizontalPodAutoscaler").unwrap();
        let mut object = object.clone();
        object["apiVersion"] = api_version.into();
        Ok(Some(Converted { object, types: builtin(), root: Root::Builtin(id) }))
    }
}

#[test]
fn owners_speak_in_terms_of_the_version_that_they_wrote() {
    let filter = Filter::All;
    let at_version = |version| Scope { converter: &Autoscalers, ..scope(version, "HorizontalPodAutoscaler", &filter) };
    let autoscaler = |version: &str, min: i32, max: i32| {
        json!({"apiVersion": version, "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h", "uid": "u"},
            "spec": {"minReplicas": min, "maxReplicas": max, "scaleTargetRef": {"kind": "K", "name": "n"}}})
    };
    let mut live = autoscaler("autoscaling/v1", 1, 2);
    on_update(&at_version("autoscaling/v1"), None, &mut live, "a", at(EARLY), false);
    live["apiVersion"] = "autoscaling/v2".into();
    let mut new = autoscaler("autoscaling/v2", 1, 3);
    on_update(&at_version("autoscaling/v2"), Some(&live), &mut new, "b", at(LATE), false);
    assert_eq!(
        owners(&new),
        [r#"a Update {"f:spec":{"f:minReplicas":{},"f:scaleTargetRef":{}}}"#, r#"b Update {"f:spec":{"f:maxReplicas":{}}}"#]
    );
    let mut config = autoscaler("autoscaling/v2", 5, 3);
    config["metadata"].as_object_mut().unwrap().shift_remove("uid");
    let refused = apply(&at_version("autoscaling/v2"), Some(&new), &config, "c", at(LATE), false).unwrap_err();
    assert_eq!(refused.to_string(), "Apply failed with 1 conflict: conflict with \"a\" using autoscaling/v1: .spec.minReplicas");
    // A version that is not served any more takes its owners with it.
    new["metadata"]["managedFields"][0]["apiVersion"] = "autoscaling/v2beta1".into();
    let mut newer = autoscaler("autoscaling/v2", 1, 4);
    newer["metadata"]["managedFields"] = new["metadata"]["managedFields"].clone();
    on_update(&at_version("autoscaling/v2"), Some(&new), &mut newer, "b", at(LATE), false);
    assert_eq!(owners(&newer), [r#"b Update {"f:spec":{"f:maxReplicas":{}}}"#]);
}
