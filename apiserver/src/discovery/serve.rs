//! Discovery over HTTP: the documents of [`super::documents`] and [`super::aggregated`] in the form that a client asks for.

use apimachinery::protobuf;
use apimachinery::status::Status;
use axum::body::Body;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::{Index, documents};
use crate::api::Api;
use crate::endpoints::negotiate::{self, Encoding, Offer, header};
use crate::endpoints::options::Query;
use crate::endpoints::{Answer, nonresource, respond};
use crate::filters::Authorized;

const AGGREGATED_JSON: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_PROTOBUF: &str = "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Paths that `/` lists beside those of discovery.
const OTHER_PATHS: [&str; 15] = [
    "/.well-known/openid-configuration",
    "/healthz",
    "/healthz/etcd",
    "/healthz/log",
    "/healthz/ping",
    "/livez",
    "/metrics",
    "/metrics/slis",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/",
    "/openid/v1/jwks",
    "/readyz",
    "/readyz/shutdown",
    "/version",
];

/// Answers a path below `/api` or `/apis`, `/` itself, or says that there is no such page.
pub fn serve(api: &Api, request: &Authorized, segments: &[&str]) -> Answer {
    let index = api.discovery.load();
    let document = match segments {
        [] => Some(documents::paths(&index, &OTHER_PATHS)),
        ["api"] | ["apis"] => return root(&index, request, (segments[0] == "api").then(|| api.told.external_address(request.peer.local))),
        ["api", version] => Some(documents::resources(&index, "", version).ok_or_else(not_found)?),
        ["apis", group] => documents::group(&index, group),
        // Groups of custom resources alone are known by their versions.
        ["apis", group, version] if index.group(group).iter().all(|e| e.explicit_kinds) => documents::resources(&index, group, version),
        ["apis", group, version] => Some(documents::resources(&index, group, version).ok_or_else(not_found)?),
        ["api", ..] => return Err(not_found()),
        _ => None,
    };
    match document {
        Some(document) => {
            nonresource::read_only(request)?;
            plain(request, &document)
        }
        None => Ok(respond::page_not_found()),
    }
}

fn not_found() -> Status {
    Status::generic(404, "", "", "", "", "")
}

/// A document that is an object of meta.k8s.io, as JSON, YAML or protobuf.
fn plain(request: &Authorized, document: &Value) -> Answer {
    let query = Query::parse(&request.raw_query);
    let form = negotiate::output(&request.headers, query.get("pretty"), Offer::PLAIN)?;
    if form.encoding == Encoding::Protobuf && document.get("kind").is_some() {
        return Ok(respond::bytes(StatusCode::OK, form.encoding.media_type(), meta_protobuf(document)?));
    }
    respond::value(StatusCode::OK, document, &form)
}

/// The protobuf form of a kind that belongs to every group: its type is found by name.
fn meta_protobuf(document: &Value) -> Result<bytes::Bytes, Status> {
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or("");
    let types = apimachinery::schema::builtin();
    let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
    let id = types.lookup(&name).ok_or_else(|| Status::unknown(format!("no schema for {kind}")))?;
    let message = protobuf::builtin().encode(id, document).map_err(|e| Status::unknown(e.to_string()))?;
    Ok(protobuf::envelope::wrap("v1", kind, &message).into())
}

/// `/api` and `/apis`: aggregated for clients that ask for it, else the old documents.
///
/// `address`: where clients find this server, which the core group's document tells.
fn root(index: &Index, request: &Authorized, address: Option<String>) -> Answer {
    nonresource::read_only(request)?;
    match aggregated_form(header(&request.headers, &ACCEPT)) {
        Some(protobuf) => aggregated_response(index, request, address.is_some(), protobuf),
        None => {
            let document = address.map_or_else(|| documents::apis(index), |address| documents::api(&address));
            plain(request, &document)
        }
    }
}

/// Whether the first clause that can be served asks for aggregated discovery; `Some(true)` in protobuf.
fn aggregated_form(accept: &str) -> Option<bool> {
    for clause in accept.split(',') {
        let mut pieces = clause.split(';').map(str::trim);
        let media = pieces.next().unwrap_or("");
        let params: Vec<(&str, &str)> = pieces.filter_map(|p| p.split_once('=')).collect();
        let param = |name: &str| params.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
        let asks = (param("g"), param("v"), param("as"));
        match (media, asks) {
            ("application/json", (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList"))) => return Some(false),
            ("application/vnd.kubernetes.protobuf", (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList"))) => {
                return Some(true);
            }
            ("application/json" | "application/yaml" | "application/vnd.kubernetes.protobuf" | "*/*", (None, None, None)) => return None,
            _ => {}
        }
    }
    None
}

fn aggregated_response(index: &Index, request: &Authorized, core: bool, protobuf: bool) -> Answer {
    let document = index.aggregated(core);
    let etag = format!("\"{}\"", document.etag);
    let unchanged = header(&request.headers, &IF_NONE_MATCH).split(',').any(|t| t.trim() == etag);
    let mut response = if unchanged {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if protobuf {
        let body = protobuf::builtin().encode_object(&document.value()).map_err(|e| Status::unknown(e.to_string()))?;
        respond::bytes(StatusCode::OK, AGGREGATED_PROTOBUF, body.into())
    } else {
        respond::kept(respond::bytes(StatusCode::OK, AGGREGATED_JSON, document.json.clone()), &request.headers, || document.gzip())
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, value);
    }
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    Ok(response)
}
