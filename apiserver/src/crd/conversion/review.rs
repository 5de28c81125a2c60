//! What a conversion webhook is asked, and what its answer is worth.
//!
//! Pure. A webhook may change everything of an object but what it is: of its metadata only labels and annotations are taken, the
//! rest stays the original's. Messages are upstream's (v1.37).

use std::collections::BTreeMap;

use apimachinery::field::{Path, quote};
use apimachinery::go_print::{plain, type_name};
use apimachinery::validation::{validate_annotations, validate_labels};
use serde_json::{Map, Value, json};

use crate::registry::read::{at, str_at};

/// The versions of ConversionReview that are spoken.
const VERSIONS: [&str; 2] = ["v1beta1", "v1"];
const GROUP: &str = "apiextensions.k8s.io";
const KIND: &str = "ConversionReview";

/// The version of ConversionReview to ask in: the first of the webhook's that is spoken.
pub fn version(offered: &[String]) -> Result<&'static str, String> {
    let spoken = |version: &String| VERSIONS.into_iter().find(|known| known == version);
    offered.iter().find_map(spoken).ok_or_else(|| "no supported conversion review versions".to_owned())
}

/// The question: these objects, as `api_version`.
pub fn request(version: &str, uid: &str, api_version: &str, objects: &[Value]) -> Value {
    json!({
        "kind": KIND,
        "apiVersion": format!("{GROUP}/{version}"),
        "request": { "uid": uid, "desiredAPIVersion": api_version, "objects": objects },
    })
}

/// Group, version and kind of an object as messages show them.
pub fn shown(object: &Value) -> String {
    gvk(str_at(object, "/apiVersion"), str_at(object, "/kind"))
}

fn gvk(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={kind}")
}

/// The objects that were asked for, in their order; an error says why the answer is none.
pub fn read(answer: &mut Value, version: &str, uid: &str, api_version: &str, originals: &[Value]) -> Result<Vec<Value>, String> {
    let about = originals.first().map(shown).unwrap_or_default();
    let converted = converted_objects(answer, version, uid).map_err(|why| format!("conversion webhook for {about} failed: {why}"))?;
    if converted.len() != originals.len() {
        return Err(format!("conversion webhook for {about} returned {} objects, expected {}", converted.len(), originals.len()));
    }
    let checked = converted.into_iter().zip(originals).enumerate();
    checked.map(|(index, (converted, original))| one(converted, original, index, api_version)).collect()
}

fn converted_objects(answer: &mut Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let asked = format!("{GROUP}/{version}");
    let (said, kind) = (str_at(answer, "/apiVersion"), str_at(answer, "/kind"));
    let is_review = said.strip_prefix("apiextensions.k8s.io/").is_some_and(|v| VERSIONS.contains(&v)) && kind == KIND;
    if !is_review && !said.is_empty() && !kind.is_empty() {
        return Err(format!("no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"", quote(kind), quote(said)));
    }
    if is_review && said != asked {
        let other = said.rsplit_once('/').map_or("", |(_, version)| version);
        return Err(format!("converting ({other}.{KIND}) to ({version}.{KIND}): unknown conversion"));
    }
    // The older version never had these checked.
    if version == "v1" && !is_review {
        return Err(format!("expected webhook response of {}, got {}", gvk(&asked, KIND), gvk(said, kind)));
    }
    let Some(response) = answer.get_mut("response").filter(|r| r.is_object()) else { return Err("no response provided".to_owned()) };
    let given = str_at(response, "/uid");
    if version == "v1" && given != uid {
        return Err(format!("expected response.uid={}, got {}", quote(uid), quote(given)));
    }
    let status = str_at(response, "/result/status");
    if status != "Success" {
        let message = str_at(response, "/result/message");
        return Err(if message.is_empty() { format!("response.result.status was '{status}', not 'Success'") } else { message.to_owned() });
    }
    match response.get_mut("convertedObjects").map(Value::take) {
        Some(Value::Array(objects)) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

fn one(mut converted: Value, original: &Value, index: usize, api_version: &str) -> Result<Value, String> {
    let about = shown(original);
    let invalid = |what: &str, expected: &str, received: &str| {
        format!(
            "conversion webhook for {about} returned invalid object at index {index}: invalid {what} (expected {expected}, received {received})"
        )
    };
    if str_at(&converted, "/kind").is_empty() {
        return Err(format!("Object 'Kind' is missing in '{converted}'"));
    }
    let received = str_at(&converted, "/apiVersion");
    if received != api_version {
        return Err(invalid("groupVersion", api_version, received));
    }
    let (expected, received) = (str_at(original, "/kind"), str_at(&converted, "/kind"));
    if expected != received {
        return Err(invalid("kind", expected, received));
    }
    same_identity(original, &converted).map_err(|why| format!("conversion webhook for {about} returned invalid object: {why}"))?;
    restore_metadata(original, &mut converted).map_err(|why| format!("conversion webhook for {about} returned invalid metadata: {why}"))?;
    Ok(converted)
}

fn same_identity(original: &Value, converted: &Value) -> Result<(), String> {
    for (name, field) in [("name", "/metadata/name"), ("namespace", "/metadata/namespace"), ("UID", "/metadata/uid")] {
        let (expected, received) = (str_at(original, field), str_at(converted, field));
        if expected != received {
            return Err(format!("must have the same {name}: {expected} != {received}"));
        }
    }
    Ok(())
}

/// Gives the converted object the original's metadata, but for its labels and annotations, which it may have changed.
fn restore_metadata(original: &Value, converted: &mut Value) -> Result<(), String> {
    let Some(answered) = converted.get_mut("metadata").map(Value::take) else {
        return Err("missing metadata in converted object".to_owned());
    };
    let Value::Object(mut answered) = answered else {
        return Err(format!("invalid metadata of type {} in converted object", type_of(&answered)));
    };
    let mut kept = match original.get("metadata") {
        None => Map::new(),
        Some(Value::Object(metadata)) => metadata.clone(),
        Some(other) => return Err(format!("invalid metadata of type {} in input object", type_of(other))),
    };
    for field in ["labels", "annotations"] {
        match answered.shift_remove(field) {
            None | Some(Value::Null) => {
                kept.shift_remove(field);
            }
            Some(Value::Object(texts)) => {
                check_texts(field, at(original, "/metadata").get(field), &texts)?;
                kept.insert(field.to_owned(), Value::Object(texts));
            }
            Some(other) => return Err(format!("invalid metadata.{field} of type {} in converted object", type_of(&other))),
        }
    }
    converted["metadata"] = Value::Object(kept);
    Ok(())
}

/// What a webhook has changed must be valid; what it has left may be as it is.
fn check_texts(field: &str, before: Option<&Value>, after: &Map<String, Value>) -> Result<(), String> {
    let mut texts = BTreeMap::new();
    for (key, value) in after {
        let Some(text) = value.as_str() else {
            return Err(format!("metadata.{field}[{key}] must be a string, but is {} in converted object", type_of(value)));
        };
        texts.insert(key.clone(), text.to_owned());
    }
    if before.and_then(Value::as_object) == Some(after) {
        return Ok(());
    }
    let metadata = Path::new("metadata");
    let errors = match field {
        "labels" => validate_labels(&texts, &metadata.child("labels")),
        _ => validate_annotations(&texts, &metadata.child("annotation")),
    };
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match said.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn type_of(value: &Value) -> &'static str {
    type_name(value).unwrap_or("<nil>")
}

/// What upstream says of a version that a definition does not have.
pub fn invalid_version(from: bool, api_version: &str) -> String {
    let direction = if from { "from" } else { "to" };
    format!("request to convert CR {direction} an invalid group/version: {}", plain(&Value::from(api_version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str) -> Value {
        json!({"apiVersion": format!("g.x/{version}"), "kind": "K", "metadata": {"name": "a", "uid": "u", "labels": {"a": "1"}}, "n": 1})
    }

    fn answer(objects: &[Value]) -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {"uid": "1", "result": {"status": "Success"}, "convertedObjects": objects}})
    }

    fn check(mut answer: Value) -> Result<Vec<Value>, String> {
        read(&mut answer, "v1", "1", "g.x/v2", &[object("v1")])
    }

    #[test]
    fn the_first_version_that_is_spoken_is_asked_in() {
        let offered = |versions: &[&str]| version(&versions.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(offered(&["v2", "v1", "v1beta1"]), Ok("v1"));
        assert_eq!(offered(&["v1beta1", "v1"]), Ok("v1beta1"));
        assert_eq!(offered(&["v2"]), Err("no supported conversion review versions".to_owned()));
    }

    #[test]
    fn of_metadata_only_labels_and_annotations_may_change() {
        let mut converted = object("v2");
        converted["metadata"]["labels"] = json!({"b": "2"});
        converted["metadata"]["annotations"] = json!({"c": "3"});
        converted["metadata"]["finalizers"] = json!(["x/y"]);
        let read = check(answer(&[converted])).unwrap();
        assert_eq!(read[0]["metadata"], json!({"name": "a", "uid": "u", "labels": {"b": "2"}, "annotations": {"c": "3"}}));
        let mut bare = object("v2");
        bare["metadata"] = json!({"name": "a", "uid": "u"});
        assert_eq!(check(answer(&[bare])).unwrap()[0]["metadata"], json!({"name": "a", "uid": "u"}));
    }

    #[test]
    fn an_answer_that_is_none_is_explained_in_upstreams_words() {
        let with = |pointer: &str, value: Value| {
            let mut answer = answer(&[object("v2")]);
            *answer.pointer_mut(pointer).unwrap() = value;
            check(answer).unwrap_err()
        };
        let about = "conversion webhook for g.x/v1, Kind=K";
        let converted = |field: &str, value: Value| with(&format!("/response/convertedObjects/0/{field}"), value);
        for (found, expected) in [
            (with("/response/uid", json!("2")), r#"failed: expected response.uid="1", got "2""#),
            (with("/response/result", json!({"status": "Failure", "message": "no"})), "failed: no"),
            (with("/response/result", json!({"status": "Failure"})), "failed: response.result.status was 'Failure', not 'Success'"),
            (with("/response", Value::Null), "failed: no response provided"),
            (with("/response/convertedObjects", json!([])), "returned 0 objects, expected 1"),
            (
                with("/kind", json!("")),
                "failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got apiextensions.k8s.io/v1, Kind=",
            ),
            (
                with("/apiVersion", json!("apiextensions.k8s.io/v1beta1")),
                "failed: converting (v1beta1.ConversionReview) to (v1.ConversionReview): unknown conversion",
            ),
            (
                converted("apiVersion", json!("g.x/v3")),
                "returned invalid object at index 0: invalid groupVersion (expected g.x/v2, received g.x/v3)",
            ),
            (converted("kind", json!("L")), "returned invalid object at index 0: invalid kind (expected K, received L)"),
            (converted("metadata/name", json!("b")), "returned invalid object: must have the same name: a != b"),
            (converted("metadata/uid", json!("v")), "returned invalid object: must have the same UID: u != v"),
            (
                converted("metadata/labels", json!(["x"])),
                "returned invalid metadata: invalid metadata.labels of type []interface {} in converted object",
            ),
            (
                converted("metadata/labels", json!({"a": 1})),
                "returned invalid metadata: metadata.labels[a] must be a string, but is int64 in converted object",
            ),
        ] {
            assert_eq!(found, format!("{about} {expected}"));
        }
        let invalid = converted("metadata/labels", json!({"-": "x"}));
        assert!(invalid.starts_with(&format!("{about} returned invalid metadata: metadata.labels: Invalid value: \"-\"")), "{invalid}");
    }

    #[test]
    fn the_older_review_is_not_asked_who_it_is() {
        let mut answer = json!({"response": {"result": {"status": "Success"}, "convertedObjects": [object("v2")]}});
        assert_eq!(read(&mut answer, "v1beta1", "1", "g.x/v2", &[object("v1")]).unwrap()[0]["n"], 1);
    }
}
