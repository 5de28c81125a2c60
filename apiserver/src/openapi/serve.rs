//! `/openapi/v2` and `/openapi/v3`: documents with hashes, in JSON or protobuf.

use std::sync::LazyLock;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, ETAG, EXPIRES, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, VARY};
use http::{HeaderValue, Response, StatusCode};

use crate::api::Api;
use crate::endpoints::negotiate::header;
use crate::endpoints::options::Query;
use crate::endpoints::{Answer, nonresource, respond};
use crate::filters::Authorized;

const JSON: &str = "application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
/// What answers call the protobuf forms: a media type cannot hold the `@` that clients ask with.
const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V3_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";

/// When the documents of the built-in kinds came to be: with this process.
static SINCE: LazyLock<HeaderValue> = LazyLock::new(|| {
    let text = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
});

/// Answers a path below `/openapi`.
pub fn serve(api: &Api, request: &Authorized, rest: &[&str]) -> Answer {
    match rest {
        ["v2"] => {
            nonresource::read_only(request)?;
            let document = api.openapi.document_v2();
            Ok(document_response(request, &document, V2_PROTOBUF))
        }
        ["v3"] => {
            nonresource::read_only(request)?;
            let mut response = respond::bytes(StatusCode::OK, "text/plain; charset=utf-8", api.openapi.index());
            response.headers_mut().insert(LAST_MODIFIED, SINCE.clone());
            Ok(response)
        }
        ["v3", path @ ..] => {
            nonresource::read_only(request)?;
            match api.openapi.document_v3(&path.join("/")) {
                Some(document) => Ok(hashed(request, &document)),
                None => {
                    let mut response = Response::new(Body::empty());
                    *response.status_mut() = StatusCode::NOT_FOUND;
                    Ok(response)
                }
            }
        }
        _ => Ok(respond::page_not_found()),
    }
}

/// A v3 document: a request with the right hash may be cached for good, one with a wrong hash is sent to the right one.
fn hashed(request: &Authorized, document: &super::Document) -> Response<Body> {
    let query = Query::parse(&request.raw_query);
    match query.get("hash") {
        Some(hash) if hash != document.hash => {
            let mut response = respond::bytes(StatusCode::MOVED_PERMANENTLY, "text/html; charset=utf-8", Bytes::new());
            if let Ok(location) = HeaderValue::from_str(&format!("{}?hash={}", request.info.path, document.hash)) {
                response.headers_mut().insert(LOCATION, location);
            }
            response
        }
        Some(_) => {
            let mut response = document_response(request, document, V3_PROTOBUF);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            response.headers_mut().insert(EXPIRES, HeaderValue::from_static("Thu, 31 Dec 2099 23:59:59 GMT"));
            response
        }
        None => document_response(request, document, V3_PROTOBUF),
    }
}

fn document_response(request: &Authorized, document: &super::Document, protobuf: &'static str) -> Response<Body> {
    let etag = format!("\"{}\"", document.hash);
    let wants_protobuf = match accepted(header(&request.headers, &ACCEPT), protobuf) {
        Some(wants) => wants,
        None if protobuf == V2_PROTOBUF => return respond::bytes(StatusCode::NOT_ACCEPTABLE, "text/plain; charset=utf-8", Bytes::new()),
        None => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            return response;
        }
    };
    let unchanged = header(&request.headers, &IF_NONE_MATCH).split(',').any(|t| t.trim().trim_start_matches("W/") == etag);
    let mut response = if unchanged {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let (form, media_type) = match (wants_protobuf, protobuf == V2_PROTOBUF) {
            (false, _) => (document.json(), JSON),
            (true, false) => (document.protobuf(), V3_PROTOBUF_ANSWER),
            (true, true) => (document.protobuf(), V2_PROTOBUF_ANSWER),
        };
        let mut response = respond::bytes(StatusCode::OK, media_type, Bytes::new());
        match form.gzip().filter(|_| respond::accepts_gzip(&request.headers)) {
            Some(packed) => respond::kept(response, &request.headers, || Some(packed)),
            None => {
                let (length, body) = form.body();
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
                *response.body_mut() = body;
                response
            }
        }
    };
    if let Ok(value) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, value);
    }
    response.headers_mut().remove(VARY);
    let of_v2 = (protobuf == V2_PROTOBUF).then_some("Accept-Encoding");
    for header in of_v2.into_iter().chain(["Accept"]) {
        response.headers_mut().append(VARY, HeaderValue::from_static(header));
    }
    response.headers_mut().insert(LAST_MODIFIED, SINCE.clone());
    response
}

/// Whether protobuf is preferred; `None` if neither form is accepted.
fn accepted(accept: &str, protobuf: &str) -> Option<bool> {
    if accept.is_empty() {
        return Some(false);
    }
    accept.split(',').find_map(|clause| match clause.split(';').next().unwrap_or("").trim() {
        JSON | "*/*" | "application/*" => Some(false),
        media if media == protobuf => Some(true),
        _ => None,
    })
}
