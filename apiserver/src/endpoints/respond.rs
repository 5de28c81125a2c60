//! The one writer of responses: objects, lists, Status, texts, each in the form that the client asked for.

use apimachinery::status::Status;
use apimachinery::{json, protobuf, yaml};
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
/// Bytes in a chunk of a body that is made while it is sent.
pub const CHUNK_BYTES: usize = 128 * 1024;

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

/// The answer to a path with a `%` that begins no escape: Go's server refuses it before anything else has seen it.
pub fn broken_path() -> Response<Body> {
    text(StatusCode::BAD_REQUEST, "400 Bad Request")
}

/// A Status in `form`'s encoding; transformations do not apply to it.
pub fn status(status: &Status, form: &Form) -> Response<Body> {
    let code =
        if status.is_success() { StatusCode::OK } else { StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR) };
    let mut response = match value_bytes(&status.to_value(), form) {
        Ok(body) => bytes(code, form.encoding.media_type(), body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    if let Some(details) = status.details.as_ref().filter(|d| d.retry_after_seconds > 0) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(details.retry_after_seconds));
    }
    response
}

/// An object of a built-in type that is given as a value (with `kind` and `apiVersion` in it).
pub fn value(code: StatusCode, value: &Value, form: &Form) -> Result<Response<Body>, Status> {
    Ok(bytes(code, form.encoding.media_type(), value_bytes(value, form)?))
}

fn value_bytes(value: &Value, form: &Form) -> Result<Bytes, Status> {
    Ok(match form.encoding {
        Encoding::Json => json_text(value, form.pretty),
        Encoding::Yaml => yaml::to_string(value).into(),
        Encoding::Protobuf => protobuf::builtin().encode_object(value).map_err(|e| Status::unknown(e.to_string()))?.into(),
    })
}

/// JSON with the newline that ends a JSON body of the API, but for one that is made for people.
pub fn json_text(value: &Value, pretty: bool) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    if pretty {
        json::write_pretty(&mut out, value);
    } else {
        json::write(&mut out, value);
        out.push(b'\n');
    }
    out.into()
}

/// Compresses a response that is one whole body, if it is large and the client accepts gzip.
pub fn compress(response: Response<Body>, request_headers: &HeaderMap, body: &Bytes) -> Response<Body> {
    kept(response, request_headers, || gzip(body))
}

/// A body compressed, if it is large.
pub fn gzip(body: &[u8]) -> Option<Bytes> {
    if is_large(body.len()) { pack(body) } else { None }
}

/// Whether a body is large enough to be sent compressed.
pub fn is_large(length: usize) -> bool {
    length >= GZIP_THRESHOLD_BYTES
}

/// A body compressed, however small it is.
pub fn pack(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::new(GZIP_LEVEL));
    let compressed = encoder.write_all(body).and_then(|()| encoder.finish()).ok()?;
    Some(compressed.into())
}

/// Sends a body compressed that is kept so, if there is such a one and the client accepts it.
pub fn kept(response: Response<Body>, request_headers: &HeaderMap, compressed: impl FnOnce() -> Option<Bytes>) -> Response<Body> {
    let Some(compressed) = accepts_gzip(request_headers).then(compressed).flatten() else { return response };
    let (mut head, _) = response.into_parts();
    compressed_head(&mut head.headers);
    Response::from_parts(head, Body::from(compressed))
}

/// A body of chunks, each made when the client takes it: compressed as it goes out, if the client accepts gzip. Lists of more than one chunk
/// are always large.
pub fn chunks(
    mut response: Response<Body>,
    request_headers: &HeaderMap,
    chunks: impl Iterator<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    if !accepts_gzip(request_headers) {
        let stream = futures::stream::iter(chunks.map(Ok::<_, std::convert::Infallible>));
        *response.body_mut() = Body::from_stream(stream);
        return response;
    }
    compressed_head(response.headers_mut());
    let encoder = GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL));
    let stream = futures::stream::unfold((Some(encoder), chunks), |(encoder, mut rest)| async move {
        let mut encoder = encoder?;
        match rest.next() {
            Some(chunk) => {
                let written = encoder.write_all(&chunk).map(|()| Bytes::from(std::mem::take(encoder.get_mut())));
                Some((written, (Some(encoder), rest)))
            }
            None => Some((encoder.finish().map(Bytes::from), (None, rest))),
        }
    });
    *response.body_mut() = Body::from_stream(stream);
    response
}

fn compressed_head(headers: &mut HeaderMap) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// Whether `gzip` stands in Accept-Encoding just so; weights are not read, as upstream does not read them.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    header(headers, &ACCEPT_ENCODING).split(',').any(|e| e.trim() == "gzip")
}
