use serde_json::json;

use super::*;

fn run(document: Value, patch: Value) -> Result<Value, Error> {
    Patch::decode(&patch, true)?.0.apply(&document)
}

#[test]
fn operations_do_what_the_reference_does() {
    let document = || json!({"data": {"x": "1", "y": "2", "n": null}, "list": [1, 2, 3]});
    let data = |d: Value| json!({"data": d, "list": [1, 2, 3]});
    let list = |l: Value| json!({"data": {"n": null, "x": "1", "y": "2"}, "list": l});
    for (operation, expected) in [
        (json!({"op": "add", "path": "/data/z", "value": "3"}), data(json!({"n": null, "x": "1", "y": "2", "z": "3"}))),
        (json!({"op": "add", "path": "/data/z"}), data(json!({"n": null, "x": "1", "y": "2", "z": null}))),
        (json!({"op": "replace", "path": "/data/new", "value": "1"}), data(json!({"n": null, "new": "1", "x": "1", "y": "2"}))),
        (json!({"op": "move", "from": "/data/x", "path": "/data/m"}), data(json!({"m": "1", "n": null, "y": "2"}))),
        (json!({"op": "copy", "from": "/data/none", "path": "/data/c"}), data(json!({"c": null, "n": null, "x": "1", "y": "2"}))),
        (json!({"op": "add", "path": "/data/a~1b~0", "value": "v"}), data(json!({"a/b~": "v", "n": null, "x": "1", "y": "2"}))),
        (json!({"op": "add", "path": "/list/-", "value": 4}), list(json!([1, 2, 3, 4]))),
        (json!({"op": "add", "path": "/list/3", "value": 4}), list(json!([1, 2, 3, 4]))),
        (json!({"op": "add", "path": "/list/-1", "value": 4}), list(json!([1, 2, 3, 4]))),
        (json!({"op": "remove", "path": "/list/-1"}), list(json!([1, 2]))),
        (json!({"op": "replace", "path": "/list/0", "value": 9}), list(json!([9, 2, 3]))),
        (json!({"op": "test", "path": "/data/absent", "value": null}), list(json!([1, 2, 3]))),
        (json!({"op": "replace", "path": "", "value": {"k": 1}}), json!({"k": 1})),
    ] {
        assert_eq!(run(document(), json!([operation])).as_ref(), Ok(&expected), "{operation}");
    }
}

#[test]
fn only_objects_on_the_way_come_out_sorted() {
    let document = json!({"z": {"b": 1, "a": 2}, "y": {"b": 1, "a": 2}, "x": {"q": {"b": 1, "a": 2}}});
    let patch = json!([{"op": "add", "path": "/z/c", "value": {"n": 1, "m": 2}}, {"op": "test", "path": "/x/q/b", "value": 1}]);
    let text = r#"{"x":{"q":{"a":2,"b":1}},"y":{"b":1,"a":2},"z":{"a":2,"b":1,"c":{"n":1,"m":2}}}"#;
    assert_eq!(run(document, patch).unwrap().to_string(), text);
}

#[test]
fn refusals_name_their_answer() {
    for (operation, message) in [
        (
            json!({"op": "remove", "path": "/data/none"}),
            "error in remove for path: '/data/none': Unable to remove nonexistent key: none: missing value",
        ),
        (json!({"op": "test", "path": "/data/x", "value": 1.0}), "testing value /data/x failed: test failed"),
        (
            json!({"op": "add", "path": "/no/such", "value": 1}),
            "add operation does not apply: doc is missing path: \"/no/such\": missing value",
        ),
        (
            json!({"op": "replace", "path": "/no/such", "value": 1}),
            "replace operation does not apply: doc is missing path: /no/such: missing value",
        ),
        (json!({"op": "add", "path": "x", "value": 1}), "add operation does not apply: doc is missing path: \"x\": missing value"),
        (
            json!({"op": "add", "path": "/list/5", "value": 1}),
            "error in add for path: '/list/5': Unable to access invalid index: 5: invalid index referenced",
        ),
        (
            json!({"op": "remove", "path": "/list/-4"}),
            "error in remove for path: '/list/-4': Unable to access invalid index: -4: invalid index referenced",
        ),
        (json!({"op": "nope", "path": "/x"}), "Unexpected kind: nope"),
        (json!({"op": "add", "value": 1}), "add operation failed to decode path: missing value"),
    ] {
        let error = run(json!({"data": {"x": 1}, "list": [1, 2, 3]}), json!([operation])).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.answer()), (message, Answer::Rejected));
    }
    let error = |patch: Value, strict| Patch::decode(&patch, strict).unwrap_err();
    assert_eq!(
        error(json!({"op": "add"}), true).to_string(),
        "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
    );
    assert_eq!(error(json!({}), false).to_string(), "json: cannot unmarshal object into Go value of type jsonpatch.Patch");
    let big = json!({"x": "y".repeat(MAX_COPIED_BYTES / 2)});
    let copies = json!([{"op": "copy", "from": "/x", "path": "/a"}, {"op": "copy", "from": "/x", "path": "/b"}]);
    let limit = "Unable to complete the copy, the accumulated size increase of copy is 3145732, exceeding the limit 3145728";
    assert_eq!(run(big, copies).unwrap_err().to_string(), limit);
    let nest = json!([
        {"op": "add", "path": "/t", "value": {}}, {"op": "move", "from": "/a", "path": "/t/a"}, {"op": "move", "from": "/t", "path": "/a"}
    ]);
    let nests: Vec<Value> = nest.as_array().unwrap().iter().cycle().take(3 * MAX_DEPTH).cloned().collect();
    assert_eq!(run(json!({"a": {}}), Value::Array(nests)), Err(Error::TooDeep));
    let many = Value::Array(vec![json!({"op": "test", "path": ""}); MAX_OPERATIONS + 1]);
    assert_eq!(error(many, true).answer(), Answer::TooLarge);
    let patch = json!([{"op": "test", "path": "", "x": 1}]);
    assert_eq!(Patch::decode(&patch, true).unwrap().1, ["json patch unknown field \"[0].x\""]);
}
