//! The one writer of responses: objects, lists, Status, texts, each in the form that the client asked for.

use apimachinery::status::Status;
use apimachinery::{json, protobuf, schema, yaml};
use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Value;
use std::io::Write;

use super::negotiate::{Encoding, Form, header};

/// Bodies from this size on are compressed for clients that accept gzip, as upstream does.
const GZIP_THRESHOLD_BYTES: usize = 128 * 1024;
const GZIP_LEVEL: u32 = 1;

/// A response before compression and common headers.
pub fn bytes(code: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `text/plain` with nosniff, as the reference's plain handlers answer.
pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = bytes(code, "text/plain; charset=utf-8", text.into());
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// The answer to a path that nobody serves.
pub fn page_not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// A Status in `form`'s encoding; transformations do not apply to it.
pub fn status(status: &Status, form: &Form) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let value = status.to_value();
    let mut response = match value_bytes(&value, form, STATUS_TYPE, "v1", "Status") {
        Ok(body) => bytes(code, form.encoding.media_type(), body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    if let Some(seconds) = status.retry_after_seconds() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The definition name of Status.
pub const STATUS_TYPE: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// An object of a built-in type that is given as a value (with `kind` and `apiVersion` in it).
pub fn value(code: StatusCode, value: &Value, form: &Form, schema_type: &str) -> Result<Response<Body>, Status> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let body = value_bytes(value, form, schema_type, &text("apiVersion"), &text("kind"))?;
    Ok(bytes(code, form.encoding.media_type(), body))
}

fn value_bytes(value: &Value, form: &Form, schema_type: &str, api_version: &str, kind: &str) -> Result<Bytes, Status> {
    Ok(match form.encoding {
        Encoding::Json => json_text(value, form.pretty),
        Encoding::Yaml => yaml::to_string(value).into(),
        Encoding::Protobuf => {
            let types = schema::builtin();
            let id = types.lookup(schema_type).ok_or_else(|| Status::internal_error(format!("no schema for {schema_type}")))?;
            let message = protobuf::encode(types, id, value).map_err(|e| Status::internal_error(e.to_string()))?;
            protobuf::envelope(api_version, kind, &message).into()
        }
    })
}

/// JSON with the newline that ends every JSON body of the API.
pub fn json_text(value: &Value, pretty: bool) -> Bytes {
    let mut out = if pretty { json::to_vec_pretty(value) } else { json::to_vec(value) };
    out.push(b'\n');
    out.into()
}

/// Compresses a body that is whole and large, if the client accepts gzip.
pub fn compress(response: Response<Body>, request_headers: &HeaderMap, size: usize, body: &Bytes) -> Response<Body> {
    if size < GZIP_THRESHOLD_BYTES || !accepts_gzip(request_headers) {
        return response;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(size / 8), Compression::new(GZIP_LEVEL));
    let Some(compressed) = encoder.write_all(body).and_then(|()| encoder.finish()).ok() else { return response };
    let (mut head, _) = response.into_parts();
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(head, Body::from(compressed))
}

/// Whether `gzip` stands in Accept-Encoding just so; weights are not read, as upstream does not read them.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    header(headers, &ACCEPT_ENCODING).split(',').any(|e| e.trim() == "gzip")
}
