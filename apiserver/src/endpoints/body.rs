//! Request bodies: read within bounds, decoded from JSON, YAML or protobuf, checked against the kind that the endpoint takes.

use std::collections::HashMap;

use apimachinery::go_print::json_kind;
use apimachinery::schema::{self, decode, embedded};
use apimachinery::status::Status;
use apimachinery::{field, json, protobuf, yaml};
use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use serde_json::Value;

use super::negotiate::Encoding;
use super::options::FieldValidation;
use crate::catalog::{Gvk, Resource, TypesHandle};
use crate::crd;
use crate::crd::form::Form;
use crate::filters::RequestBody;

/// Bytes of a request body.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// Strict decoding reports at most this many problems as warnings and errors.
const MAX_STRICT_PROBLEMS: usize = 100;

/// Of a body that is too big, as much is read and forgotten as costs nobody anything, so that its sender is not still writing when the answer
/// comes: then the answer arrives for certain, and the connection stays. Whoever sends more is answered at once and hung up on.
const MAX_FORGOTTEN_BYTES: usize = 16 * 1024 * 1024;

/// Reads a body whole.
///
/// # Errors
/// 413 for more than [`MAX_BODY_BYTES`], 400 if the body does not arrive.
pub async fn read(body: RequestBody) -> Result<Bytes, Status> {
    within(body, MAX_BODY_BYTES, MAX_FORGOTTEN_BYTES).await
}

async fn within<B>(mut body: B, most: usize, most_forgotten: usize) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    let (mut collected, mut forgotten) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("unable to read the request body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if forgotten == 0 && collected.len() + data.len() <= most {
            collected.extend_from_slice(&data);
            continue;
        }
        forgotten += data.len();
        collected = BytesMut::new();
        if forgotten > most_forgotten {
            break;
        }
    }
    match forgotten {
        0 => Ok(collected.freeze()),
        _ => Err(Status::request_entity_too_large(&format!("limit is {most}"))),
    }
}

/// A decoded body: the object, and what a strict decoder would have refused.
pub struct Decoded {
    pub value: Value,
    pub problems: Vec<String>,
}

/// What an endpoint takes.
pub struct Expected<'a> {
    pub gvk: &'a Gvk,
    pub types: &'a TypesHandle,
    pub type_id: apimachinery::schema::TypeId,
}

/// Decodes a body of a resource's kind.
pub fn decode_as(resource: &Resource, body: &[u8], encoding: Encoding) -> Result<Decoded, Status> {
    match &resource.custom {
        Some(form) => decode_custom(&resource.gvk, form, body, encoding),
        None => {
            let expected = Expected { gvk: &resource.gvk, types: &resource.types, type_id: resource.type_id };
            let mut decoded = decode(body, encoding, &expected)?;
            if encoding == Encoding::Json {
                embedded::keep_all(&resource.embedded, &mut decoded.value, body);
            }
            Ok(decoded)
        }
    }
}

/// Decodes a body of a custom kind, which has to say what it is.
fn decode_custom(gvk: &Gvk, form: &Form, body: &[u8], encoding: Encoding) -> Result<Decoded, Status> {
    if body.is_empty() {
        return Err(Status::bad_request("no body was sent"));
    }
    let shown = String::from_utf8_lossy(body);
    let refuse =
        |why: String| Status::bad_request(format!("the object provided is unrecognized (must be of type {}): {why} ({shown})", gvk.kind));
    let (mut value, mut problems) = match encoding {
        Encoding::Json => {
            let (value, duplicates) = json::parse(body).map_err(|e| refuse(format!("couldn't get version/kind; json parse error: {e}")))?;
            (value, duplicates.iter().map(|path| format!("duplicate field {}", field::quote(path))).collect::<Vec<_>>())
        }
        Encoding::Yaml => {
            let parsed = yaml::parse(body).map_err(|e| refuse(e.to_string()))?;
            (parsed.value, parsed.strict_error.iter().map(ToString::to_string).collect())
        }
        Encoding::Protobuf => return Err(Status::unsupported_media_type(&["application/json", "application/yaml"])),
    };
    if value.get("kind").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(refuse(format!("Object 'Kind' is missing in '{shown}'")));
    }
    let unknown = form.read(&mut value).map_err(|e| Status::bad_request(cannot_be_handled(gvk, &e)))?;
    let api_version = value.get("apiVersion").and_then(Value::as_str).unwrap_or("");
    if api_version != gvk.api_version() {
        let expected = gvk.api_version();
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    if let Some(error) = crd::strategy::wrong_kind(&value, &gvk.kind) {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        return Err(Status::invalid(&gvk.group, text("/kind"), text("/metadata/name"), &vec![error]));
    }
    problems.extend(unknown.iter().map(|path| format!("unknown field {}", field::quote(path))));
    problems.truncate(MAX_STRICT_PROBLEMS);
    Ok(Decoded { value, problems })
}

/// Decodes a body that must be (or default to) the expected kind. The result has `kind` and `apiVersion` set.
pub fn decode(body: &[u8], encoding: Encoding, expected: &Expected<'_>) -> Result<Decoded, Status> {
    if body.is_empty() {
        return Err(Status::bad_request("no body was sent"));
    }
    let mut repeated = Vec::new();
    let (mut value, mut problems) = match encoding {
        Encoding::Json => {
            let (value, duplicates) = json::parse(body)
                .map_err(|e| unrecognized(expected.gvk, body, &format!("couldn't get version/kind; json parse error: {e}")))?;
            repeated = duplicates;
            (value, Vec::new())
        }
        Encoding::Yaml => {
            let parsed = yaml::parse(body).map_err(|e| unrecognized(expected.gvk, body, &e.to_string()))?;
            (parsed.value, parsed.strict_error.iter().map(ToString::to_string).collect())
        }
        Encoding::Protobuf => return protobuf_body(body, expected),
    };
    if !value.is_object() {
        let reason = format!("couldn't get version/kind; json parse error: {}", no_object(&value));
        return Err(unrecognized(expected.gvk, body, &reason));
    }
    check_kind(&value, expected.gvk)?;
    let unknown = decode::decode(expected.types, expected.type_id, &mut value)
        .map_err(|e| Status::bad_request(cannot_be_handled(expected.gvk, &e.to_string())))?;
    problems.extend(in_order(body, &repeated, &unknown));
    problems.truncate(MAX_STRICT_PROBLEMS);
    set_type_meta(&mut value, expected.gvk);
    Ok(Decoded { value, problems })
}

/// What is said of a body that is no object and has no kind.
pub fn no_object(value: &Value) -> String {
    format!(
        "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
        json_kind(value)
    )
}

/// Fields that stand twice and fields that nobody knows, as they come in the text.
fn in_order(text: &[u8], repeated: &[String], unknown: &[String]) -> Vec<String> {
    let mixed = !repeated.is_empty() && !unknown.is_empty();
    let places = if mixed { json::places(text, repeated.iter().chain(unknown).map(String::as_str)) } else { HashMap::new() };
    let first = |path: &String| places.get(path).map_or(usize::MAX, |(first, _)| *first);
    let second = |path: &String| places.get(path).and_then(|(_, second)| *second).unwrap_or(usize::MAX);
    let repeated = repeated.iter().map(|path| (second(path), format!("duplicate field {}", field::quote(path))));
    let unknown = unknown.iter().map(|path| (first(path), format!("unknown field {}", field::quote(path))));
    let mut problems: Vec<(usize, String)> = repeated.chain(unknown).collect();
    problems.sort_by_key(|(place, _)| *place);
    problems.into_iter().map(|(_, problem)| problem).collect()
}

fn protobuf_body(body: &[u8], expected: &Expected<'_>) -> Result<Decoded, Status> {
    let unknown = protobuf::envelope::unwrap(body).map_err(|e| unrecognized(expected.gvk, body, &e.to_string()))?;
    let declared = serde_json::json!({ "apiVersion": unknown.api_version, "kind": unknown.kind });
    check_kind(&declared, expected.gvk)?;
    let mut value = protobuf::builtin()
        .decode_typed(expected.type_id, &unknown)
        .map_err(|e| Status::bad_request(cannot_be_handled(expected.gvk, &e.to_string())))?;
    set_type_meta(&mut value, expected.gvk);
    Ok(Decoded { value, problems: Vec::new() })
}

/// Puts `kind` and `apiVersion` of the endpoint into an object.
pub fn set_type_meta(value: &mut Value, gvk: &Gvk) {
    if let Some(map) = value.as_object_mut() {
        map.insert("kind".to_owned(), Value::String(gvk.kind.to_string()));
        map.insert("apiVersion".to_owned(), Value::String(gvk.api_version()));
    }
}

/// Kind and version may be left out; if they are there they must be the endpoint's.
fn check_kind(value: &Value, expected: &Gvk) -> Result<(), Status> {
    match wrong_kind(value, expected) {
        None => Ok(()),
        Some((kind, version, reason)) => Err(Status::bad_request(format!(
            "{kind} in version {} cannot be handled as a {}: {reason}",
            field::quote(&version),
            expected.kind
        ))),
    }
}

/// The kind and version that an object says it has, and why it cannot be the expected one; `None` if it is.
pub fn wrong_kind(value: &Value, expected: &Gvk) -> Option<(String, String, String)> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("");
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let expected_version = expected.api_version();
    if (api_version.is_empty() || api_version == expected_version) && (kind.is_empty() || kind == &*expected.kind) {
        return None;
    }
    // What the body leaves out is the endpoint's.
    let api_version = if api_version.is_empty() { &expected_version } else { api_version };
    let kind = if kind.is_empty() { &*expected.kind } else { kind };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let known = schema::builtin().iter().any(|(_, ty)| ty.kinds.iter().any(|(g, v, k)| &**g == group && &**v == version && &**k == kind));
    let reason = if known {
        let package = |group: &str| match group.split('.').next() {
            None | Some("") => "core".to_owned(),
            Some(first) => first.to_owned(),
        };
        format!("converting ({version}.{kind}) to ({}.{}): unknown conversion", package(&expected.group), expected.kind)
    } else {
        format!(
            "no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
            field::quote(kind),
            field::quote(api_version)
        )
    };
    Some((kind.to_owned(), version.to_owned(), reason))
}

/// `Kind in version "v1" cannot be handled as a Kind: reason`.
pub fn cannot_be_handled(gvk: &Gvk, reason: &str) -> String {
    format!("{} in version {} cannot be handled as a {}: {reason}", gvk.kind, field::quote(&gvk.version), gvk.kind)
}

/// A body whose kind cannot even be found out; shows its first bytes.
fn unrecognized(gvk: &Gvk, body: &[u8], reason: &str) -> Status {
    const SHOWN: usize = 30;
    let start = &body[..body.len().min(SHOWN)];
    let shown: String = if start.starts_with(b"{") {
        String::from_utf8_lossy(start).into_owned()
    } else {
        start.iter().map(|b| format!("{b:02x}")).collect()
    };
    let rest = if body.len() > SHOWN { " ..." } else { "" };
    Status::bad_request(format!("the object provided is unrecognized (must be of type {}): {reason} ({shown}{rest})", gvk.kind))
}

/// Applies `fieldValidation` to the problems of a body: an error, warnings, or nothing.
pub fn validate_fields(gvk: &Gvk, problems: Vec<String>, validation: FieldValidation, warnings: &mut Vec<String>) -> Result<(), Status> {
    if problems.is_empty() {
        return Ok(());
    }
    match validation {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            warnings.extend(problems.iter().flat_map(|problem| warnings_of(problem)));
            Ok(())
        }
        FieldValidation::Strict => {
            Err(Status::bad_request(cannot_be_handled(gvk, &format!("strict decoding error: {}", problems.join(", ")))))
        }
    }
}

/// A problem as warnings tell it: those of YAML are a list, each line of which is a warning of its own.
pub fn warnings_of(problem: &str) -> Vec<String> {
    match problem.strip_prefix("yaml: unmarshal errors:\n") {
        Some(lines) => lines.lines().map(|line| line.trim().to_owned()).collect(),
        None => vec![problem.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{Stream, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn a_body_that_is_too_big_is_read_to_its_end_unless_that_is_far() {
        for (pieces, length, left) in [(2, Some(20), 0), (3, None, 0), (5, None, 0), (9, None, 2)] {
            let mut sent = stream::iter((0..pieces).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"0123456789")))));
            let read = within(StreamBody::new(&mut sent), 25, 40).await;
            assert_eq!(read.as_ref().ok().map(Bytes::len), length, "{pieces}");
            if let Err(status) = read {
                assert_eq!((status.code, status.message.as_str()), (413, "Request entity too large: limit is 25"));
            }
            assert_eq!(sent.size_hint().0, left, "{pieces}");
        }
    }

    #[test]
    fn strict_problems_come_as_they_stand_in_the_text() {
        let problems = |text: &str, repeated: &[&str], unknown: &[&str]| {
            let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
            in_order(text.as_bytes(), &owned(repeated), &owned(unknown)).join(", ")
        };
        let text = r#"{"spec":{"odd":1,"replicas":2,"replicas":3,"even":4}}"#;
        assert_eq!(
            problems(text, &["spec.replicas"], &["spec.odd", "spec.even"]),
            r#"unknown field "spec.odd", duplicate field "spec.replicas", unknown field "spec.even""#
        );
        assert_eq!(problems(text, &[], &["spec.odd"]), r#"unknown field "spec.odd""#);
    }
}
