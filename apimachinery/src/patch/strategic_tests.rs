use serde_json::json;

use super::*;
use crate::schema::builtin;

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"spec": spec}}})
}

fn run(document: &Value, patch: Value) -> Result<Value, Error> {
    let id = builtin().by_kind("apps", "v1", "Deployment").unwrap();
    apply(builtin(), id, document, &mut patch.clone())
}

fn pod_spec(document: Value, patch: Value) -> Result<Value, Error> {
    Ok(run(&deployment(document), json!({"spec": {"template": {"spec": patch}}}))?["spec"]["template"]["spec"].clone())
}

fn live() -> Value {
    json!({
        "containers": [{
            "name": "c", "image": "i", "args": ["a", "b"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
        }],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "tolerations": [{"key": "t", "operator": "Exists"}],
    })
}

#[test]
fn lists_merge_by_their_key_and_atomic_lists_are_replaced() {
    let patched = pod_spec(
        live(),
        json!({
            "containers": [
                {"name": "side", "image": "s"},
                {"name": "c", "args": ["z"], "env": [{"name": "C", "value": "3"}, {"name": "A", "value": "9"}, {"name": "B", "$patch": "delete"}]},
            ],
            "tolerations": [{"key": "u", "operator": "Exists"}],
            "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}],
        }),
    );
    let expected = json!({
        "containers": [
            {"name": "side", "image": "s"},
            {
                "name": "c", "image": "i", "args": ["z"],
                "env": [{"name": "C", "value": "3"}, {"name": "A", "value": "9"}],
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
            },
        ],
        "volumes": [{"name": "v", "hostPath": {"path": "/x"}}],
        "tolerations": [{"key": "u", "operator": "Exists"}],
    });
    assert_eq!(patched, Ok(expected));
}

#[test]
fn directives_replace_delete_and_order() {
    let two = || json!({"containers": [{"name": "a"}, {"name": "b"}]});
    for (patch, expected) in [
        (json!({"containers": [{"$patch": "replace"}, {"name": "only"}]}), json!({"containers": [{"name": "only"}]})),
        (json!({"$patch": "replace", "x": 1}), json!({"x": 1})),
        (json!({"$patch": "delete"}), json!({})),
        (json!({"containers": null}), json!({})),
        (json!({"containers": [{"name": "none", "$patch": "delete"}]}), two()),
        (json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}), json!({"containers": [{"name": "b"}, {"name": "a"}]})),
        (
            json!({"$setElementOrder/containers": [{"name": "n"}, {"name": "a"}], "containers": [{"name": "n", "image": "i"}]}),
            json!({"containers": [{"name": "n", "image": "i"}, {"name": "a"}, {"name": "b"}]}),
        ),
        (
            json!({"new": {"x": null, "y": [{"$patch": "delete"}, {"z": 1}]}}),
            json!({"containers": two()["containers"], "new": {"y": [{"z": 1}]}}),
        ),
    ] {
        assert_eq!(pod_spec(two(), patch.clone()), Ok(expected), "{patch}");
    }
}

#[test]
fn primitive_lists_merge_delete_and_order() {
    let with = |list: Value| json!({"metadata": {"finalizers": list}});
    for (document, patch, expected) in [
        (with(json!(["a"])), with(json!(["b", "a"])), with(json!(["b", "a"]))),
        (with(json!(["a", "b"])), json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}), with(json!(["b"]))),
        (
            with(json!(["b"])),
            json!({"metadata": {"$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}}),
            with(json!(["c", "b"])),
        ),
    ] {
        assert_eq!(run(&document, patch), Ok(expected));
    }
}

#[test]
fn refusals_are_worded_as_upstream_words_them() {
    for (patch, answer, message) in [
        (json!({"containers": [{"image": "nokey"}]}), Answer::Internal, "map: map[image:nokey] does not contain declared merge key: name"),
        (
            json!({"containers": [{"name": "c", "$patch": "nope"}]}),
            Answer::Internal,
            "unknown patch type: nope in map: map[$patch:nope name:c]",
        ),
        (
            json!({"$setElementOrder/containers": [{"name": "zzz"}], "containers": [{"name": "two", "image": "3"}]}),
            Answer::Internal,
            "The order in patch list:\n[map[image:3 name:two]]\n doesn't match $setElementOrder list:\n[map[name:zzz]]\n",
        ),
        (json!({"$retainKeys": ["a"], "b": 1}), Answer::BadRequest, "invalid patch format of retainKeys"),
        (json!({"$deleteFromPrimitiveList": ["a"]}), Answer::BadRequest, "invalid patch format of primitive list"),
        (json!({"containers": ["x"]}), Answer::Internal, ""),
    ] {
        let error = pod_spec(live(), patch).unwrap_err();
        assert_eq!(error.answer(), answer);
        assert!(error.to_string().starts_with(message), "{error}");
    }
    assert_eq!(
        run(&json!({}), json!([])).unwrap_err().to_string(),
        "json: cannot unmarshal array into Go value of type map[string]interface {}"
    );
}

/// Answers of upstream to random patches of Deployments, one JSON object a line: `doc`, `patch`, and `result` or `error`.
#[test]
fn recorded_patches_have_the_recorded_outcome() {
    for (i, line) in include_str!("recorded.jsonl").lines().enumerate() {
        let case: Value = serde_json::from_str(line).unwrap();
        let expected = match &case["error"] {
            Value::String(message) => Err(message.clone()),
            _ => Ok(case["result"].clone()),
        };
        assert_eq!(run(&case["doc"], case["patch"].clone()).map_err(|e| e.to_string()), expected, "line {}", i + 1);
    }
}
