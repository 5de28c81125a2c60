//! Objects as events carry them: compact JSON, read from what a client is answered.

use std::io::Read;

use apimachinery::{json, protobuf, yaml};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Map, Value};

/// Bytes of an answer that was compressed on its way.
const MAX_INFLATED_BYTES: u64 = 512 * 1024 * 1024;

/// A body that is an object, or a list of some.
pub enum Shown {
    Json(Bytes),
    Other(Value),
}

impl Shown {
    /// `None` if the body is no object of the API.
    pub fn read(headers: &HeaderMap, body: &Bytes) -> Option<Shown> {
        let header = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok()).unwrap_or("");
        let inflated = match header(CONTENT_ENCODING) {
            "" => body.clone(),
            "gzip" => {
                let mut out = Vec::new();
                GzDecoder::new(&**body).take(MAX_INFLATED_BYTES).read_to_end(&mut out).ok()?;
                out.into()
            }
            _ => return None,
        };
        match header(CONTENT_TYPE).split(';').next().unwrap_or("").trim() {
            "application/json" => Some(Shown::Json(inflated)),
            "application/yaml" => Some(Shown::Other(yaml::parse(&inflated).ok()?.value)),
            "application/vnd.kubernetes.protobuf" => Some(Shown::Other(protobuf::builtin().decode_object(&inflated).ok()?)),
            _ => None,
        }
    }

    /// The Status that it is, with what may be told of it and the code of the answer; `None` for other kinds.
    pub fn status(&self, code: u16) -> Option<Value> {
        let value = match self {
            Shown::Json(text) if text.trim_ascii_start().starts_with(b"{\"kind\":\"Status\"") || text.starts_with(b"{\n") => {
                &serde_json::from_slice::<Value>(text).ok()?
            }
            Shown::Json(_) => return None,
            Shown::Other(value) => value,
        };
        if value.get("kind").and_then(Value::as_str) != Some("Status") {
            return None;
        }
        let mut map = Map::new();
        map.insert("metadata".to_owned(), Value::Object(Map::new()));
        for member in ["status", "message", "reason", "details"] {
            if let Some(told) = value.get(member) {
                map.insert(member.to_owned(), told.clone());
            }
        }
        map.insert("code".to_owned(), code.into());
        Some(map.into())
    }

    /// As one line of JSON.
    pub fn text(self, omit_managed_fields: bool) -> Option<Bytes> {
        match self {
            Shown::Json(text) => {
                let text = text.slice_ref(text.trim_ascii());
                if omit_managed_fields || text.contains(&b'\n') {
                    return Some(compact(serde_json::from_slice(&text).ok()?, omit_managed_fields));
                }
                Some(text)
            }
            Shown::Other(value) => Some(compact(value, omit_managed_fields)),
        }
    }
}

/// A value as one line of JSON.
pub fn compact(mut value: Value, omit_managed_fields: bool) -> Bytes {
    if omit_managed_fields {
        forget_managed_fields(&mut value);
    }
    json::to_vec(&value).into()
}

/// Of an object, of the items of a list and of the objects in a table.
fn forget_managed_fields(value: &mut Value) {
    let forget = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("managedFields");
        }
    };
    forget(value);
    value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(forget);
    let rows = value.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten();
    rows.filter_map(|row| row.get_mut("object")).for_each(forget);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn shown(content_type: &'static str, body: &str) -> Option<Shown> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        Shown::read(&headers, &Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn answers_are_told_as_one_line_of_json() {
        let text = |content_type, body, omit| {
            let bytes = shown(content_type, body).and_then(|shown| shown.text(omit));
            bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        assert_eq!(text("application/json", "{\"a\":1}\n", false).unwrap(), r#"{"a":1}"#);
        assert_eq!(text("application/json;as=Table;g=meta.k8s.io;v=v1", "{\n  \"a\": 1\n}\n", false).unwrap(), r#"{"a":1}"#);
        assert_eq!(text("application/yaml", "a: 1\n", false).unwrap(), r#"{"a":1}"#);
        let list = r#"{"items":[{"metadata":{"name":"x","managedFields":[]}}]}"#;
        assert_eq!(text("application/json", list, true).unwrap(), r#"{"items":[{"metadata":{"name":"x"}}]}"#);
        assert_eq!(text("text/plain", "ok", false), None);
    }

    #[test]
    fn a_status_is_told_with_every_level() {
        let body = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":"NotFound","code":404}"#;
        let status = shown("application/json", body).unwrap().status(404);
        assert_eq!(status, Some(json!({ "metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404 })));
        assert_eq!(shown("application/json", r#"{"kind":"Pod"}"#).unwrap().status(200), None);
    }
}
